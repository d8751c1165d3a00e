//! ROLE, WAIT and the replication section of INFO: all offsets are sequences of the shard's one log.

use std::fmt::Write as _;

use ringmaster_engine::ReplyBuf;
use ringmaster_ring::{Address, MemberId, Seq};

use super::{Call, Outcome, parse};
use crate::serve::Replication;
use crate::serve::thread::Thread;
use crate::serve::topology::Topology;

impl Call<'_> {
    /// Whether the ring names this process as its shard's primary.
    pub(super) fn is_master(&self) -> bool {
        let me = self.shared().holder;
        self.topology().is_some_and(|topology| topology.my_shard().is_some_and(|(_, shard)| shard.primary == me))
    }
}

/// `ROLE`.
pub(super) fn role(call: &Call<'_>, reply: &mut ReplyBuf) {
    let (topology, replication) = (call.topology(), call.shared().replication());
    let offset = i64::try_from(call.shared().engine.log().end().seq.0).unwrap_or(i64::MAX);
    if call.is_master() {
        let copies = copies(topology.as_deref(), &replication);
        reply.array(3);
        reply.bulk(b"master");
        reply.integer(offset);
        reply.array(copies.len());
        for copy in copies {
            reply.array(3);
            reply.bulk(copy.host.as_bytes());
            reply.bulk(copy.port.to_string().as_bytes());
            reply.bulk(copy.acknowledged.to_string().as_bytes());
        }
        return;
    }
    let primary = topology.as_deref().and_then(primary_address);
    reply.array(5);
    reply.bulk(b"slave");
    reply.bulk(primary.as_ref().map_or("", |address| &address.host).as_bytes());
    reply.integer(primary.as_ref().map_or(0, |address| address.client_port).into());
    reply.bulk(link_state(&replication).as_bytes());
    reply.integer(offset);
}

/// `WAIT copies timeout-ms`: 0 waits without an end.
pub(super) fn wait(call: &Call<'_>, reply: &mut ReplyBuf) -> Outcome {
    let (Some(copies), Some(timeout_ms)) = (parse::<usize>(call.arg(1)), parse::<i64>(call.arg(2))) else {
        reply.error("ERR value is not an integer or out of range");
        return Outcome::Replied;
    };
    let Ok(timeout_ms) = u64::try_from(timeout_ms) else {
        reply.error("ERR timeout is negative");
        return Outcome::Replied;
    };
    if !call.is_master() {
        reply.error(
            "ERR WAIT cannot be used with replica instances. Please also note that writes to replicas are just \
                     local and are not propagated.",
        );
        return Outcome::Replied;
    }
    let until = (timeout_ms > 0).then(|| call.now.plus(std::time::Duration::from_millis(timeout_ms)));
    Outcome::Awaiting { copies, until }
}

/// The replication section of INFO, without its heading.
pub(super) fn section(call: &Call<'_>, out: &mut String) {
    let (topology, replication) = (call.topology(), call.shared().replication());
    let end = call.shared().engine.log().end();
    if call.is_master() {
        let copies = copies(topology.as_deref(), &replication);
        let _ = write!(out, "role:master\r\nconnected_slaves:{}\r\n", copies.len());
        for (number, copy) in copies.iter().enumerate() {
            let state = if copy.in_sync { "online" } else { "wait_bgsave" };
            let _ = write!(
                out,
                "slave{number}:ip={},port={},state={state},offset={},lag=0\r\n",
                copy.host, copy.port, copy.acknowledged
            );
        }
    } else {
        let primary = topology.as_deref().and_then(primary_address);
        let syncing = replication.sync.is_some();
        let up = link_state(&replication) == "connected";
        let _ = write!(
            out,
            "role:slave\r\nmaster_host:{}\r\nmaster_port:{}\r\nmaster_link_status:{}\r\nmaster_last_io_seconds_ago:{}\r\n\
             master_sync_in_progress:{}\r\nslave_read_repl_offset:{}\r\nslave_repl_offset:{}\r\n",
            primary.as_ref().map_or("", |address| &address.host),
            primary.as_ref().map_or(0, |address| address.client_port),
            if up { "up" } else { "down" },
            if up { 0 } else { -1 },
            u8::from(syncing),
            end.seq,
            end.seq,
        );
        if let Some(sync) = replication.sync {
            let left = sync.bytes_total.saturating_sub(sync.bytes_done);
            let _ = write!(
                out,
                "master_sync_total_bytes:{}\r\nmaster_sync_read_bytes:{}\r\nmaster_sync_left_bytes:{left}\r\n",
                sync.bytes_total, sync.bytes_done
            );
        }
        out.push_str("slave_read_only:1\r\nconnected_slaves:0\r\n");
    }
    let name = topology.as_deref().and_then(|topology| topology.my_shard().map(|(shard, _)| topology.shard_id(shard)));
    let _ = write!(
        out,
        "master_failover_state:no-failover\r\nmaster_replid:{}\r\nmaster_repl_offset:{}\r\nshard_epoch:{}\r\n",
        name.unwrap_or_else(|| "0".repeat(40)),
        end.seq,
        end.epoch,
    );
}

/// How many copies hold everything up to `seq`.
pub(in crate::serve) fn copies_holding(thread: &Thread, seq: Seq) -> usize {
    thread.shared.replication().copies.iter().filter(|copy| copy.acknowledged.seq >= seq).count()
}

struct Copy {
    host: String,
    port: u16,
    acknowledged: Seq,
    in_sync: bool,
}

/// The copies that follow this primary, with their addresses where the ring knows them.
fn copies(topology: Option<&Topology>, replication: &Replication) -> Vec<Copy> {
    let address = |member: MemberId| address_of(topology?, member);
    let copies = replication.copies.iter().map(|status| {
        let Address { host, client_port, .. } = address(status.copy.member).unwrap_or(Address {
            host: String::new(),
            client_port: 0,
            peer_port: 0,
            http_port: 0,
        });
        Copy { host, port: client_port, acknowledged: status.acknowledged.seq, in_sync: status.in_sync }
    });
    copies.collect()
}

fn address_of(topology: &Topology, member: MemberId) -> Option<Address> {
    Some(topology.ring.members.get(&member)?.present.as_ref()?.address.clone())
}

fn primary_address(topology: &Topology) -> Option<Address> {
    address_of(topology, topology.my_shard()?.1.primary.member)
}

/// As ROLE says it.
fn link_state(replication: &Replication) -> &'static str {
    match (replication.sync.is_some(), replication.linked) {
        (true, _) => "sync",
        (false, true) => "connected",
        (false, false) => "connect",
    }
}
