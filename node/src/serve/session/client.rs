//! CLIENT: what a connection says of itself, and what may be asked of and done to others.

use std::sync::Arc;

use ringmaster_engine::{ReplyBuf, text_of};

use super::{Call, Outcome, ReplyMode, is_plain, parse, set_name, tracking};
use crate::serve::acl::Acl;
use crate::serve::blocked::Wish;
use crate::serve::registry::Client;

pub(super) fn client(call: &mut Call<'_>, reply: &mut ReplyBuf) -> Outcome {
    match call.subcommand().as_str() {
        "ID" if call.takes(2..=2, reply) => reply.integer(id_of(&call.session.client)),
        "INFO" if call.takes(2..=2, reply) => {
            let line = call.session.client.describe(call.shared().now_ms());
            reply.verbatim("txt", format!("{line}\n").as_bytes());
        }
        "LIST" => list(call, reply),
        "KILL" if call.takes(3..=usize::MAX, reply) => return kill(call, reply),
        "SETNAME" if call.takes(3..=3, reply) => {
            if set_name(call.session, call.arg(2), reply) {
                reply.ok();
            }
        }
        "GETNAME" if call.takes(2..=2, reply) => match call.session.client.names.lock().name.as_str() {
            "" => reply.null(),
            name => reply.bulk(name.as_bytes()),
        },
        "SETINFO" if call.takes(4..=4, reply) => set_info(call, reply),
        "REPLY" if call.takes(3..=3, reply) => reply_mode(call, reply),
        "NO-EVICT" | "NO-TOUCH" if call.takes(3..=3, reply) => match on_or_off(call.arg(2)) {
            // Connections are not evicted, and reads do not change what is evicted but for its order.
            Some(_) => reply.ok(),
            None => reply.error("ERR syntax error"),
        },
        "TRACKING" if call.takes(3..=usize::MAX, reply) => match on_or_off(call.arg(2)) {
            Some(on) => tracking::tracking(call, on, reply),
            None => reply.error("ERR syntax error"),
        },
        "TRACKINGINFO" if call.takes(2..=2, reply) => tracking::info(call, reply),
        "CACHING" if call.takes(3..=3, reply) => tracking::caching(call, reply),
        "GETREDIR" if call.takes(2..=2, reply) => reply.integer(tracking::redirection(call.session)),
        "PAUSE" if call.takes(3..=4, reply) => pause(call, reply),
        "UNPAUSE" if call.takes(2..=2, reply) => {
            call.shared().pause.end();
            call.shared().hub.wake();
            reply.ok();
        }
        "UNBLOCK" if call.takes(3..=4, reply) => unblock(call, reply),
        // Between members: see `serve/forward`.
        "FORWARDED" if call.takes(2..=2, reply) && !call.thread.config.cluster_mode => {
            call.session.is_forwarded = true;
            reply.ok();
        }
        "HELP" => write_help("CLIENT", HELP, reply),
        "ID" | "INFO" | "KILL" | "SETNAME" | "GETNAME" | "SETINFO" | "REPLY" | "NO-EVICT" | "NO-TOUCH" | "TRACKING"
        | "GETREDIR" | "UNBLOCK" | "TRACKINGINFO" | "CACHING" | "PAUSE" | "UNPAUSE" => {}
        _ => call.unknown_subcommand(reply),
    }
    Outcome::Replied
}

const HELP: &[&str] = &[
    "GETNAME",
    "GETREDIR",
    "ID",
    "INFO",
    "KILL <option> <value> [<option> <value> ...]",
    "LIST [TYPE (NORMAL|MASTER|REPLICA|PUBSUB)] [ID <client-id> ...] [<option> <value> ...]",
    "NO-EVICT (ON|OFF)",
    "NO-TOUCH (ON|OFF)",
    "REPLY (ON|OFF|SKIP)",
    "SETINFO <option> <value>",
    "SETNAME <name>",
    "PAUSE <timeout> [WRITE|ALL]",
    "TRACKING (ON|OFF) [REDIRECT <id>] [BCAST] [PREFIX <prefix> [...]] [OPTIN] [OPTOUT] [NOLOOP]",
    "TRACKINGINFO",
    "CACHING (YES|NO)",
    "UNBLOCK <client-id> [TIMEOUT|ERROR]",
    "UNPAUSE",
];

/// The reply of a container's HELP.
pub(super) fn write_help(container: &str, subcommands: &[&str], reply: &mut ReplyBuf) {
    reply.array(subcommands.len().saturating_add(2));
    reply.simple(&format!("{container} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    subcommands.iter().for_each(|subcommand| reply.simple(subcommand));
    reply.simple("HELP");
}

/// `CLIENT UNBLOCK id [TIMEOUT|ERROR]`.
fn unblock(call: &Call<'_>, reply: &mut ReplyBuf) {
    let wish = match call.arg(3).to_ascii_uppercase().as_slice() {
        b"" | b"TIMEOUT" => Wish::Timeout,
        b"ERROR" => Wish::Error,
        _ => return reply.error("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR"),
    };
    let Some(id) = parse::<u64>(call.arg(2)) else {
        return reply.error("ERR value is not an integer or out of range");
    };
    let unblocked = call.shared().registry.find(id).filter(|client| client.block.unblock(wish));
    if let Some(client) = &unblocked {
        client.poke();
    }
    reply.integer(i64::from(unblocked.is_some()));
}

fn id_of(client: &Client) -> i64 {
    i64::try_from(client.id).unwrap_or(i64::MAX)
}

fn on_or_off(arg: &[u8]) -> Option<bool> {
    match arg.to_ascii_uppercase().as_slice() {
        b"ON" => Some(true),
        b"OFF" => Some(false),
        _ => None,
    }
}

fn set_info(call: &mut Call<'_>, reply: &mut ReplyBuf) {
    let (attribute, value) = (call.arg(2).to_ascii_lowercase(), call.arg(3));
    if !is_plain(value) {
        let attribute = text_of(&attribute);
        return reply.error(&format!("ERR {attribute} cannot contain spaces, newlines or special characters."));
    }
    let text = String::from_utf8_lossy(value).into_owned();
    let names = &mut *call.session.client.names.lock();
    match attribute.as_slice() {
        b"lib-name" => names.lib_name = text,
        b"lib-ver" => names.lib_ver = text,
        other => {
            let option = text_of(other);
            return reply.error(&format!("ERR Unrecognized option '{option}'"));
        }
    }
    reply.ok();
}

/// `CLIENT REPLY`: the caller leaves out what the mode says is not wanted, this command's own reply included.
fn reply_mode(call: &mut Call<'_>, reply: &mut ReplyBuf) {
    let mode = match call.arg(2).to_ascii_uppercase().as_slice() {
        b"ON" => ReplyMode::On,
        b"OFF" => ReplyMode::Off,
        b"SKIP" if call.session.reply_mode == ReplyMode::Off => ReplyMode::Off,
        b"SKIP" => ReplyMode::SkipNext,
        _ => return reply.error("ERR syntax error"),
    };
    call.session.reply_mode = mode;
    if mode == ReplyMode::On {
        reply.ok();
    }
}

/// `CLIENT LIST [TYPE type] [ID id…] [option value]…`: those for which all hold.
fn list(call: &Call<'_>, reply: &mut ReplyBuf) {
    let now_ms = call.shared().now_ms();
    let (mut filters, mut ids, mut skip_me) = (Vec::new(), None, false);
    let mut options = call.args_from(2);
    while let [option, value, rest @ ..] = options {
        options = rest;
        if option.eq_ignore_ascii_case(b"id") {
            let given = ids.get_or_insert_with(Vec::new);
            let Some(id) = parse::<u64>(value) else { return reply.error("ERR Invalid client ID") };
            given.push(id);
            while let [id, rest @ ..] = options
                && let Some(id) = parse::<u64>(id)
            {
                given.push(id);
                options = rest;
            }
            continue;
        }
        match Filter::parse(option, value, call.shared().acl()) {
            Ok(Filter::SkipMe(skip)) => skip_me = skip,
            Ok(filter) => filters.push(filter),
            Err(error) => return reply.error(&error),
        }
    }
    if !options.is_empty() {
        return reply.error(if options.first().is_some_and(|option| parse::<u64>(option).is_none() && ids.is_some()) {
            "ERR Invalid client ID"
        } else {
            "ERR syntax error"
        });
    }
    let me = call.session.client.id;
    let mut text = String::new();
    for client in call.shared().registry.all() {
        let chosen = ids.as_ref().is_none_or(|ids| ids.contains(&client.id))
            && !(skip_me && client.id == me)
            && filters.iter().all(|filter| filter.holds(&client, now_ms));
        if chosen {
            text.push_str(&client.describe(now_ms));
            text.push('\n');
        }
    }
    reply.verbatim("txt", text.as_bytes());
}

/// `CLIENT PAUSE timeout-ms [WRITE|ALL]`.
fn pause(call: &Call<'_>, reply: &mut ReplyBuf) {
    let writes_only = match call.arg(3).to_ascii_uppercase().as_slice() {
        b"" | b"ALL" => false,
        b"WRITE" => true,
        _ => return reply.error("ERR CLIENT PAUSE mode must be WRITE or ALL"),
    };
    let Some(timeout_ms) = parse::<i64>(call.arg(2)) else {
        return reply.error("ERR timeout is not an integer or out of range");
    };
    let Ok(timeout_ms) = u64::try_from(timeout_ms) else { return reply.error("ERR timeout is negative") };
    let now_ms = call.shared().ms_of(call.now);
    call.shared().pause.begin(now_ms.saturating_add(timeout_ms), writes_only, now_ms);
    reply.ok();
}

/// `CLIENT KILL addr:port`, or with filters that must all hold.
fn kill(call: &Call<'_>, reply: &mut ReplyBuf) -> Outcome {
    let me = &call.session.client;
    if let [address] = call.args_from(2) {
        let all = call.shared().registry.all();
        let Some(found) = all.iter().find(|client| client.addr.to_string().as_bytes() == *address) else {
            reply.error("ERR No such client");
            return Outcome::Replied;
        };
        reply.ok();
        return end(found, me);
    }
    let mut filters = Vec::new();
    let mut skip_me = true;
    let mut options = call.args_from(2);
    while let [option, value, rest @ ..] = options {
        match Filter::parse(option, value, call.shared().acl()) {
            Ok(Filter::SkipMe(skip)) => skip_me = skip,
            Ok(filter) => filters.push(filter),
            Err(error) => {
                reply.error(&error);
                return Outcome::Replied;
            }
        }
        options = rest;
    }
    if !options.is_empty() {
        reply.error("ERR syntax error");
        return Outcome::Replied;
    }
    let now_ms = call.shared().now_ms();
    let doomed: Vec<_> = call
        .shared()
        .registry
        .all()
        .into_iter()
        .filter(|client| !(skip_me && client.id == me.id) && filters.iter().all(|filter| filter.holds(client, now_ms)))
        .collect();
    reply.count(doomed.len());
    doomed.iter().fold(Outcome::Replied, |outcome, client| match end(client, me) {
        Outcome::Replied => outcome,
        last => last,
    })
}

/// Closes a connection; the present one once it has its reply.
fn end(client: &Arc<Client>, me: &Arc<Client>) -> Outcome {
    if client.id == me.id {
        return Outcome::Last;
    }
    client.ask_to_close();
    Outcome::Replied
}

enum Type {
    Normal,
    Subscriber,
    Member,
}

enum Filter {
    Id(u64),
    Addr(String),
    Laddr(String),
    User(Vec<u8>),
    Name(String),
    Type(Type),
    MaxAge(u64),
    SkipMe(bool),
}

impl Filter {
    fn parse(option: &[u8], value: &[u8], acl: &Acl) -> Result<Self, String> {
        let text = || String::from_utf8_lossy(value).into_owned();
        Ok(match option.to_ascii_uppercase().as_slice() {
            b"ID" => Self::Id(parse(value).filter(|id| *id > 0).ok_or("ERR client-id should be greater than 0")?),
            b"ADDR" => Self::Addr(text()),
            b"LADDR" => Self::Laddr(text()),
            b"USER" if acl.user(value).is_some() => Self::User(value.to_vec()),
            b"USER" => return Err(format!("ERR No such user '{}'", text())),
            b"NAME" => Self::Name(text()),
            b"TYPE" => match value.to_ascii_lowercase().as_slice() {
                b"normal" => Self::Type(Type::Normal),
                b"pubsub" => Self::Type(Type::Subscriber),
                // Members speak to each other on another port.
                b"master" | b"primary" | b"replica" | b"slave" => Self::Type(Type::Member),
                _ => return Err(format!("ERR Unknown client type '{}'", text())),
            },
            b"MAXAGE" => Self::MaxAge(parse(value).ok_or("ERR maxage is not an integer or out of range")?),
            b"SKIPME" => match value.to_ascii_lowercase().as_slice() {
                b"yes" => Self::SkipMe(true),
                b"no" => Self::SkipMe(false),
                _ => return Err("ERR syntax error".into()),
            },
            _ => return Err("ERR syntax error".into()),
        })
    }

    fn holds(&self, client: &Client, now_ms: u64) -> bool {
        match self {
            Self::Id(id) => client.id == *id,
            Self::Addr(addr) => client.addr.to_string() == *addr,
            Self::Laddr(laddr) => client.laddr.to_string() == *laddr,
            Self::User(name) => client.names.lock().user == *name,
            Self::Name(name) => client.names.lock().name == *name,
            Self::Type(Type::Normal) => !client.is_subscriber(),
            Self::Type(Type::Subscriber) => client.is_subscriber(),
            Self::Type(Type::Member) => false,
            Self::MaxAge(seconds) => client.age_ms(now_ms) / 1_000 >= *seconds,
            Self::SkipMe(_) => true,
        }
    }
}
