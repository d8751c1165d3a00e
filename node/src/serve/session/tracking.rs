//! CLIENT TRACKING, CACHING, TRACKINGINFO and GETREDIR; and noting what a connection reads.

use std::sync::Arc;

use ringmaster_engine::{CommandSpec, Flags, Keys, Protocol, ReplyBuf, text_of};

use super::{Call, Session, parse};
use crate::serve::Shared;
use crate::serve::forward::Requests;
use crate::serve::registry::Client;
use crate::serve::thread::Thread;
use crate::serve::tracking::Options;

/// A connection's part in tracking. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Tracked {
    shared: Arc<Shared>,
    client: u64,
    options: Options,
    /// What CLIENT CACHING said of the next command, or of the one that runs.
    next: Option<bool>,
    /// The requests that began it, as the client sent them.
    asked: Requests,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.shared.tracking.end(self.client);
        self.shared.observe();
    }
}

impl Tracked {
    /// The requests with which another member does the same. None if it cannot: the client that is told is connected to this one.
    pub(super) fn as_requests(&self) -> Option<Requests> {
        let mut requests = self.asked.clone();
        if let Some(next) = self.next {
            requests.add(&[b"CLIENT", b"CACHING", if next { b"YES" } else { b"NO" }]);
        }
        self.options.redirect.is_none().then_some(requests)
    }
}

/// `CLIENT TRACKING ON|OFF [REDIRECT id] [PREFIX prefix]… [BCAST] [OPTIN] [OPTOUT] [NOLOOP]`.
pub(super) fn tracking(call: &mut Call<'_>, on: bool, reply: &mut ReplyBuf) {
    let mut options = Options::default();
    let mut prefixes: Vec<Box<[u8]>> = Vec::new();
    let mut rest = call.args_from(3);
    while let [option, behind @ ..] = rest {
        rest = behind;
        match option.to_ascii_uppercase().as_slice() {
            b"BCAST" => options.broadcast = true,
            b"OPTIN" => options.opt_in = true,
            b"OPTOUT" => options.opt_out = true,
            b"NOLOOP" => options.no_loop = true,
            b"REDIRECT" => {
                let Some((id, behind)) = rest.split_first() else { return reply.error("ERR syntax error") };
                let Some(id) = parse::<u64>(id) else {
                    return reply.error("ERR value is not an integer or out of range");
                };
                if id != 0 && call.shared().registry.find(id).is_none() {
                    return reply.error("ERR The client ID you want redirect to does not exist");
                }
                (options.redirect, rest) = ((id != 0).then_some(id), behind);
            }
            b"PREFIX" => {
                let Some((prefix, behind)) = rest.split_first() else { return reply.error("ERR syntax error") };
                prefixes.push(Box::from(*prefix));
                rest = behind;
            }
            _ => return reply.error("ERR syntax error"),
        }
    }
    if !on {
        call.session.tracked = None;
        return reply.ok();
    }
    if !prefixes.is_empty() && !options.broadcast {
        return reply.error("ERR PREFIX option requires BCAST mode to be enabled");
    }
    if options.opt_in && options.opt_out {
        return reply.error("ERR You can't specify both OPTIN mode and OPTOUT mode");
    }
    if options.broadcast && (options.opt_in || options.opt_out) {
        return reply.error("ERR OPTIN and OPTOUT are not compatible with BCAST");
    }
    if let Some(tracked) = &call.session.tracked
        && tracked.options.broadcast != options.broadcast
    {
        return reply.error(
            "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a different mode.",
        );
    }
    for (at, prefix) in prefixes.iter().enumerate() {
        let others = prefixes.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, other)| other);
        if let Some(other) = others.into_iter().find(|other| other.starts_with(prefix)) {
            return reply.error(&format!(
                "ERR Prefix '{}' overlaps with another provided prefix '{}'. Prefixes for a single client must not overlap.",
                text_of(prefix),
                text_of(other),
            ));
        }
    }
    let shared = &call.thread.shared;
    let client = &call.session.client;
    client.listen_to_role();
    shared.tracking.begin(client, options, prefixes);
    shared.observe();
    let tracked = call.session.tracked.get_or_insert_with(|| {
        let asked = Requests::default();
        Box::new(Tracked { shared: Arc::clone(shared), client: client.id, options, next: None, asked })
    });
    tracked.options = options;
    if !call.thread.config.cluster_mode {
        tracked.asked.add(call.args);
    }
    reply.ok();
}

/// `CLIENT CACHING YES|NO`.
pub(super) fn caching(call: &mut Call<'_>, reply: &mut ReplyBuf) {
    let yes = match call.arg(2).to_ascii_uppercase().as_slice() {
        b"YES" => true,
        b"NO" => false,
        _ => return reply.error("ERR syntax error"),
    };
    match &mut call.session.tracked {
        Some(tracked) if yes && !tracked.options.opt_in => {
            reply.error("ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.");
        }
        Some(tracked) if !yes && !tracked.options.opt_out => {
            reply.error("ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.");
        }
        Some(tracked) => {
            tracked.next = Some(yes);
            reply.ok();
        }
        None => reply.error(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
        ),
    }
}

/// `CLIENT GETREDIR`: -1 without tracking, 0 without a redirection.
pub(super) fn redirection(session: &Session) -> i64 {
    match &session.tracked {
        None => -1,
        Some(tracked) => tracked.options.redirect.map_or(0, |id| i64::try_from(id).unwrap_or(i64::MAX)),
    }
}

pub(super) fn info(call: &Call<'_>, reply: &mut ReplyBuf) {
    let tracked = call.session.tracked.as_deref();
    let mut flags = vec![if tracked.is_some() { "on" } else { "off" }];
    if let Some(Tracked { options, next, .. }) = tracked {
        let Options { redirect, broadcast, opt_in, opt_out, no_loop } = *options;
        let named = [("bcast", broadcast), ("optin", opt_in), ("optout", opt_out), ("noloop", no_loop)];
        flags.extend(named.into_iter().filter(|(_, holds)| *holds).map(|(name, _)| name));
        match next {
            Some(true) => flags.push("caching-yes"),
            Some(false) => flags.push("caching-no"),
            None => {}
        }
        if redirect.is_some_and(|id| call.shared().registry.find(id).is_none()) {
            flags.push("broken_redirect");
        }
    }
    reply.map(3);
    reply.bulk(b"flags");
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.bulk(flag.as_bytes()));
    reply.bulk(b"redirect");
    reply.integer(redirection(call.session));
    reply.bulk(b"prefixes");
    let prefixes = call.shared().tracking.prefixes(call.session.client.id);
    reply.array(prefixes.len());
    prefixes.iter().for_each(|prefix| reply.bulk(prefix));
}

impl Session {
    pub(in crate::serve) fn is_tracked(&self) -> bool {
        self.tracked.is_some()
    }

    /// Notes what a command is about to read, if this connection wants to hear of it.
    pub(in crate::serve) fn note_reads(&self, thread: &Thread, spec: &CommandSpec, args: &[&[u8]], protocol: Protocol) {
        let Some(Tracked { options, next, .. }) = self.tracked.as_deref() else { return };
        let wanted = !options.broadcast
            && (!options.opt_in || *next == Some(true))
            && (!options.opt_out || *next != Some(false));
        let can_hear = options.redirect.is_some() || protocol == Protocol::Resp3;
        if !wanted || !can_hear || spec.keys == Keys::None || !spec.flags.has(Flags::READONLY) {
            return;
        }
        let Ok(keys) = spec.keys_of(args) else { return };
        let registry = &thread.shared.registry;
        keys.for_each(|key| thread.shared.tracking.note(self.client.id, key, |id| registry.find(id)));
    }

    /// What CLIENT CACHING said holds for one command, or for one transaction.
    pub(in crate::serve) fn end_caching(&mut self) {
        if !self.is_queueing()
            && let Some(tracked) = &mut self.tracked
        {
            tracked.next = None;
        }
    }

    /// The member's role has changed: changes elsewhere are not heard of here.
    pub(in crate::serve) fn forget_tracked(&self, shared: &Shared) {
        if let Some(tracked) = &self.tracked {
            let find = |id| -> Option<Arc<Client>> { shared.registry.find(id) };
            shared.tracking.forget_all(tracked.client, find);
        }
    }
}
