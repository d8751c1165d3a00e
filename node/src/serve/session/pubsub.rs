//! SUBSCRIBE, PUBLISH and their kin, and what happens to subscribers when the member's role changes.
//!
//! Each name that is subscribed to gets a confirmation of its own, and none of them a reply besides.

use std::sync::Arc;

use ringmaster_engine::{Protocol, ReplyBuf};
use ringmaster_ring::Slot;

use super::{Call, Outcome, Session};
use crate::bus::{Message, Scope};
use crate::serve::dispatch;
use crate::serve::pubsub::{Kind, Subscriptions};
use crate::serve::thread::Thread;

impl Session {
    /// Whether only few commands are allowed, because replies could not be told from messages.
    pub(in crate::serve) fn is_confined(&self, protocol: Protocol) -> bool {
        protocol == Protocol::Resp2 && self.is_subscribed()
    }

    pub(in crate::serve) fn is_subscribed(&self) -> bool {
        self.subscriptions.as_ref().is_some_and(|subscriptions| !subscriptions.is_empty())
    }

    /// The member's role or its slots may be other ones: ends the subscriptions that can be heard no more here, with a push for each. Says
    /// whether the connection should end, so that its client looks for another member.
    pub(in crate::serve) fn review_subscriptions(&mut self, thread: &Thread, reply: &mut ReplyBuf) -> bool {
        let Some(subscriptions) = &mut self.subscriptions else { return false };
        let retired = thread.rings.newest().is_some_and(|topology| topology.is_retired());
        for kind in Kind::ALL {
            for name in subscriptions.names(kind) {
                let lost = kind == Kind::ShardChannel
                    && thread.config.cluster_mode
                    && !dispatch::is_mine(thread, Slot::of_key(&name));
                if retired || lost {
                    subscriptions.remove(kind, &name);
                    let (_, confirmation) = kind.confirmations();
                    confirm(confirmation, Some(&name), subscriptions.count(kind), reply);
                }
            }
        }
        retired && subscriptions.is_empty()
    }
}

/// `SUBSCRIBE name…`, `PSUBSCRIBE`, `SSUBSCRIBE`.
pub(super) fn subscribe(call: &mut Call<'_>, kind: Kind, reply: &mut ReplyBuf) -> Outcome {
    if kind == Kind::ShardChannel
        && let Some(refused) = elsewhere(call, reply)
    {
        return refused;
    }
    let session = &mut *call.session;
    // Before the role is looked at next: whoever is subscribed hears of its loss.
    session.client.listen_to_role();
    let pubsub = &call.thread.shared.pubsub;
    let client = &session.client;
    let subscriptions = session
        .subscriptions
        .get_or_insert_with(|| Box::new(Subscriptions::new(Arc::clone(client), Arc::clone(pubsub))));
    let (confirmation, _) = kind.confirmations();
    for name in call.args.iter().skip(1) {
        subscriptions.add(kind, name);
        confirm(confirmation, Some(name), subscriptions.count(kind), reply);
    }
    // Users may have changed since this was permitted, when it was not yet known as a subscriber.
    client.poke();
    Outcome::Replied
}

/// `UNSUBSCRIBE [name…]`, `PUNSUBSCRIBE`, `SUNSUBSCRIBE`: without names all of the kind.
pub(super) fn unsubscribe(call: &mut Call<'_>, kind: Kind, reply: &mut ReplyBuf) {
    let session = &mut *call.session;
    let (_, confirmation) = kind.confirmations();
    let Some(subscriptions) = &mut session.subscriptions else {
        let names: Vec<Option<&[u8]>> = match call.args {
            [_] => vec![None],
            [_, names @ ..] => names.iter().map(|name| Some(*name)).collect(),
            [] => Vec::new(),
        };
        return names.iter().for_each(|name| confirm(confirmation, *name, 0, reply));
    };
    let names: Vec<Box<[u8]>> = match call.args {
        [_, names @ ..] if !names.is_empty() => names.iter().map(|name| Box::from(*name)).collect(),
        _ => subscriptions.names(kind),
    };
    if names.is_empty() {
        return confirm(confirmation, None, subscriptions.count(kind), reply);
    }
    for name in names {
        subscriptions.remove(kind, &name);
        if !session.in_transaction {
            // What was sent before the end comes before its confirmation.
            session.client.mail.take(reply);
        }
        confirm(confirmation, Some(&name), subscriptions.count(kind), reply);
    }
}

/// `PUBLISH channel message`: to all members of the ring. The reply counts the subscribers of this one, as Redis Cluster does.
pub(super) fn publish(call: &mut Call<'_>, reply: &mut ReplyBuf) {
    let (channel, payload) = (call.arg(1), call.arg(2));
    if call.session.in_transaction {
        // It goes out once the transaction is executed.
        reply.count(call.shared().pubsub.subscribers(Kind::Channel, channel));
        call.session.unpublished.push((channel.to_vec(), payload.to_vec()));
        return;
    }
    let reached = call.shared().publish(channel, payload);
    call.session.client.mail.take(reply);
    reply.count(reached);
}

/// `SPUBLISH channel message`: to the members of the shard that the channel's slot is in.
pub(super) fn publish_in_shard(call: &mut Call<'_>, reply: &mut ReplyBuf) -> Outcome {
    if let Some(refused) = elsewhere(call, reply) {
        return refused;
    }
    let (channel, payload) = (call.arg(1), call.arg(2));
    let reached = call.shared().pubsub.publish_in_shard(channel, payload);
    call.shared().send_out(|| Message { scope: Scope::Shard, channel: channel.to_vec(), payload: payload.to_vec() });
    if !call.session.in_transaction {
        call.session.client.mail.take(reply);
    }
    reply.count(reached);
    Outcome::Replied
}

/// `PUBSUB CHANNELS|NUMSUB|NUMPAT|SHARDCHANNELS|SHARDNUMSUB`: of this member.
pub(super) fn pubsub(call: &Call<'_>, reply: &mut ReplyBuf) {
    let pubsub = &call.shared().pubsub;
    let names = |kind: Kind, reply: &mut ReplyBuf| {
        let pattern = call.args.get(2).copied();
        let names = pubsub.names(kind, pattern);
        reply.array(names.len());
        names.iter().for_each(|name| reply.bulk(name));
    };
    let counts = |kind: Kind, reply: &mut ReplyBuf| {
        let asked = call.args_from(2);
        reply.array(asked.len().saturating_mul(2));
        for name in asked {
            reply.bulk(name);
            reply.count(pubsub.subscribers(kind, name));
        }
    };
    match call.subcommand().as_str() {
        "CHANNELS" if call.takes(2..=3, reply) => names(Kind::Channel, reply),
        "SHARDCHANNELS" if call.takes(2..=3, reply) => names(Kind::ShardChannel, reply),
        "NUMSUB" => counts(Kind::Channel, reply),
        "SHARDNUMSUB" => counts(Kind::ShardChannel, reply),
        "NUMPAT" if call.takes(2..=2, reply) => reply.count(pubsub.count(Kind::Pattern)),
        "HELP" => super::client::write_help(
            "PUBSUB",
            &[
                "CHANNELS [<pattern>]",
                "NUMPAT",
                "NUMSUB [<channel> ...]",
                "SHARDCHANNELS [<pattern>]",
                "SHARDNUMSUB [<channel> ...]",
            ],
            reply,
        ),
        "CHANNELS" | "SHARDCHANNELS" | "NUMPAT" => {}
        _ => call.unknown_subcommand(reply),
    }
}

/// What refuses or redirects a request about channels of shards: unlike other sessions' commands they have slots.
fn elsewhere(call: &Call<'_>, reply: &mut ReplyBuf) -> Option<Outcome> {
    // SPUBLISH has one channel, and then the message.
    let Ok(slot) = dispatch::slot_of(call.spec, call.args, call.thread.config.cluster_mode) else {
        reply.error(dispatch::CROSS_SLOT);
        return Some(Outcome::Replied);
    };
    let slot = slot.filter(|slot| !dispatch::is_mine(call.thread, *slot))?;
    Some(dispatch::redirect(call.thread, slot, reply))
}

fn confirm(confirmation: &str, name: Option<&[u8]>, count: usize, reply: &mut ReplyBuf) {
    reply.push(3);
    reply.bulk(confirmation.as_bytes());
    match name {
        Some(name) => reply.bulk(name),
        None => reply.null(),
    }
    reply.count(count);
}
