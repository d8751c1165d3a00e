//! The ring's shards in the three forms in which clients ask for them: CLUSTER SLOTS, CLUSTER SHARDS and CLUSTER NODES.
//!
//! SLOTS names those that may be used: primaries, and copies in sync. SHARDS and NODES name the others too, and say so.

use std::fmt::Write as _;

use ringmaster_engine::ReplyBuf;
use ringmaster_ring::{Address, Member, MemberId, Position, Shard, SlotRange};

use crate::serve::topology::Topology;

/// `CLUSTER SLOTS`: for each run of slots its ends, then host, port, id and metadata of the primary and of each copy.
pub(super) fn slots(topology: &Topology, reply: &mut ReplyBuf) {
    let mut ranges: Vec<(SlotRange, Vec<(MemberId, &Address)>)> = Vec::new();
    for (&id, shard) in &topology.ring.shards {
        let mut members: Vec<_> = topology
            .listed_members(id)
            .filter(|(member, m)| is_primary(shard, *member) || topology.is_in_sync(*member, m))
            .filter_map(|(member, m)| m.present.as_ref().map(|present| (member, &present.address)))
            .collect();
        // The first one named is the primary: without its address the range cannot be told.
        members.sort_by_key(|(member, _)| !is_primary(shard, *member));
        if members.first().is_some_and(|(member, _)| is_primary(shard, *member)) {
            ranges.extend(shard.slots.iter().map(|range| (*range, members.clone())));
        }
    }
    ranges.sort_by_key(|(range, _)| range.first);
    reply.array(ranges.len());
    for (range, members) in ranges {
        reply.array(members.len().saturating_add(2));
        reply.integer(range.first.number().into());
        reply.integer(range.last.number().into());
        for (member, address) in members {
            reply.array(4);
            reply.bulk(address.host.as_bytes());
            reply.integer(address.client_port.into());
            reply.bulk(topology.node_id(member).as_bytes());
            reply.map(0);
        }
    }
}

/// `CLUSTER SHARDS`. Offsets are sequences; `mine` is this member's own, those of others it does not know exactly.
pub(super) fn shards(topology: &Topology, mine: Position, reply: &mut ReplyBuf) {
    reply.array(topology.ring.shards.len());
    for (&id, shard) in &topology.ring.shards {
        reply.map(2);
        reply.bulk(b"slots");
        reply.array(shard.slots.len().saturating_mul(2));
        for range in &shard.slots {
            reply.integer(range.first.number().into());
            reply.integer(range.last.number().into());
        }
        let members: Vec<_> = topology
            .listed_members(id)
            .filter_map(|(member, m)| m.present.as_ref().map(|present| (member, m, &present.address)))
            .collect();
        reply.bulk(b"nodes");
        reply.array(members.len());
        for (member, m, address) in members {
            let primary = is_primary(shard, member);
            let usable = primary || topology.is_in_sync(member, m);
            let offset = if member == topology.me { mine.seq.0 } else { 0 };
            reply.map(7);
            text(reply, "id", &topology.node_id(member));
            reply.bulk(b"port");
            reply.integer(address.client_port.into());
            text(reply, "ip", &address.host);
            text(reply, "endpoint", &address.host);
            text(reply, "role", if primary { "master" } else { "replica" });
            reply.bulk(b"replication-offset");
            reply.integer(i64::try_from(offset).unwrap_or(i64::MAX));
            text(reply, "health", if usable { "online" } else { "loading" });
        }
    }
}

/// `CLUSTER NODES`: a line a member.
pub(super) fn nodes(topology: &Topology) -> String {
    let ids = topology.ring.shards.keys().flat_map(|shard| topology.listed_members(*shard));
    let mut text = String::new();
    for (member, _) in ids {
        text.push_str(&node_line(topology, member));
        text.push('\n');
    }
    text
}

/// One line of CLUSTER NODES: id, address, flags, primary, pings, epoch, link, slots. Nothing for a member that is not listed.
pub(super) fn node_line(topology: &Topology, member: MemberId) -> String {
    let listed = topology.ring.members.get(&member);
    let Some((m, shard, address)) = listed.and_then(|m| located(topology, m)) else { return String::new() };
    let primary = is_primary(shard, member);
    let mut flags = if primary { "master" } else { "slave" }.to_owned();
    if member == topology.me {
        flags.insert_str(0, "myself,");
    }
    // A copy that is not in sync is known but not to be used.
    let link = if primary || topology.is_in_sync(member, m) { "connected" } else { "disconnected" };
    let Address { host, client_port, peer_port, http_port: _ } = address;
    let follows = if primary { "-".to_owned() } else { topology.node_id(shard.primary.member) };
    let mut line = format!(
        "{} {host}:{client_port}@{peer_port} {flags} {follows} 0 0 {} {link}",
        topology.node_id(member),
        // Unlike those of Redis, epochs of different shards are not comparable; clients do not compare them.
        shard.epoch,
    );
    if primary {
        for range in &shard.slots {
            // Writing to a string does not fail.
            let _ = if range.first == range.last {
                write!(line, " {}", range.first)
            } else {
                write!(line, " {}-{}", range.first, range.last)
            };
        }
    }
    line
}

fn located<'a>(topology: &'a Topology, member: &'a Member) -> Option<(&'a Member, &'a Shard, &'a Address)> {
    let shard = topology.ring.shards.get(&member.shard.filter(|_| member.is_active())?)?;
    Some((member, shard, &member.present.as_ref()?.address))
}

fn is_primary(shard: &Shard, member: MemberId) -> bool {
    shard.primary.member == member
}

fn text(reply: &mut ReplyBuf, name: &str, value: &str) {
    reply.bulk(name.as_bytes());
    reply.bulk(value.as_bytes());
}
