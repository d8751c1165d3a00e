//! CLUSTER: the ring as Redis Cluster clients read it.
//!
//! Every reply that names members gives the addresses of the ring, under which clients reach them. Retired members are never named.

use ringmaster_engine::{ReplyBuf, text_of};
use ringmaster_ring::{MemberId, Slot};

use super::{Call, client, parse, shards};
use crate::serve::topology::Topology;

pub(super) fn cluster(call: &Call<'_>, reply: &mut ReplyBuf) {
    match call.subcommand().as_str() {
        known if KNOWN.contains(&known) && known != "KEYSLOT" && !call.thread.config.cluster_mode => {
            reply.error(CLUSTER_MODE_OFF);
        }
        "KEYSLOT" if call.takes(3..=3, reply) => reply.integer(Slot::of_key(call.arg(2)).number().into()),
        "COUNTKEYSINSLOT" if call.takes(3..=3, reply) => match slot(call.arg(2)) {
            Some(slot) => {
                let keys = call.shared().engine.count_keys_in_slot(slot);
                reply.integer(i64::try_from(keys).unwrap_or(i64::MAX));
            }
            None => reply.error("ERR Invalid slot"),
        },
        "GETKEYSINSLOT" if call.takes(4..=4, reply) => keys_in_slot(call, reply),
        "SLOTS" if call.takes(2..=2, reply) => with_ring(call, reply, shards::slots),
        "SHARDS" if call.takes(2..=2, reply) => with_ring(call, reply, |topology, reply| {
            shards::shards(topology, call.shared().engine.log().end(), reply);
        }),
        "NODES" if call.takes(2..=2, reply) => with_ring(call, reply, |topology, reply| {
            reply.verbatim("txt", shards::nodes(topology).as_bytes());
        }),
        "REPLICAS" | "SLAVES" if call.takes(3..=3, reply) => with_ring(call, reply, |topology, reply| {
            replicas(topology, call.arg(2), reply);
        }),
        "INFO" if call.takes(2..=2, reply) => reply.verbatim("txt", info(call).as_bytes()),
        "MYID" if call.takes(2..=2, reply) => {
            with_ring(call, reply, |topology, reply| reply.bulk(topology.node_id(topology.me).as_bytes()));
        }
        "MYSHARDID" if call.takes(2..=2, reply) => {
            with_ring(call, reply, |topology, reply| match topology.my_shard() {
                Some((shard, _)) => reply.bulk(topology.shard_id(shard).as_bytes()),
                None => reply.error("ERR This member holds no shard"),
            })
        }
        "LINKS" if call.takes(2..=2, reply) => reply.array(0),
        "COUNT-FAILURE-REPORTS" if call.takes(3..=3, reply) => reply.integer(0),
        "FAILOVER" | "MEET" | "FORGET" | "REPLICATE" | "RESET" | "ADDSLOTS" | "ADDSLOTSRANGE" | "DELSLOTS"
        | "DELSLOTSRANGE" | "FLUSHSLOTS" | "SETSLOT" | "SET-CONFIG-EPOCH" | "BUMPEPOCH" | "SAVECONFIG" => {
            reply.error("ERR the ring decides who serves which slots: change the cluster's specification instead");
        }
        "HELP" => client::write_help("CLUSTER", HELP, reply),
        known if KNOWN.contains(&known) => {}
        _ => call.unknown_subcommand(reply),
    }
}

pub(super) const CLUSTER_MODE_OFF: &str = "ERR This instance has cluster support disabled";

/// Those that take arguments of which not all may be there, or that need cluster mode.
const KNOWN: [&str; 14] = [
    "KEYSLOT",
    "COUNTKEYSINSLOT",
    "GETKEYSINSLOT",
    "SLOTS",
    "SHARDS",
    "NODES",
    "REPLICAS",
    "SLAVES",
    "INFO",
    "MYID",
    "MYSHARDID",
    "LINKS",
    "COUNT-FAILURE-REPORTS",
    "HELP",
];

const HELP: &[&str] = &[
    "COUNTKEYSINSLOT <slot>",
    "GETKEYSINSLOT <slot> <count>",
    "INFO",
    "KEYSLOT <key>",
    "MYID",
    "MYSHARDID",
    "NODES",
    "REPLICAS <node-id>",
    "SHARDS",
    "SLOTS",
];

fn with_ring(call: &Call<'_>, reply: &mut ReplyBuf, write: impl FnOnce(&Topology, &mut ReplyBuf)) {
    match call.topology() {
        Some(topology) => write(&topology, reply),
        None => reply.error("CLUSTERDOWN The cluster is down"),
    }
}

fn slot(arg: &[u8]) -> Option<Slot> {
    parse::<u16>(arg).and_then(Slot::new)
}

fn keys_in_slot(call: &Call<'_>, reply: &mut ReplyBuf) {
    match (slot(call.arg(2)), parse::<usize>(call.arg(3))) {
        (Some(slot), Some(count)) => {
            let keys = call.shared().engine.keys_in_slot(slot, count);
            reply.array(keys.len());
            keys.iter().for_each(|key| reply.bulk(key));
        }
        (None, _) => reply.error("ERR Invalid slot"),
        (_, None) => reply.error("ERR Invalid number of keys"),
    }
}

/// `CLUSTER REPLICAS node-id`: the lines of CLUSTER NODES for the other members of that primary's shard.
fn replicas(topology: &Topology, asked: &[u8], reply: &mut ReplyBuf) {
    let primary_of = |id: &MemberId| topology.ring.shards.iter().find(|(_, shard)| shard.primary.member == *id);
    let Some(id) = topology.ring.members.keys().find(|id| topology.node_id(**id).as_bytes() == asked) else {
        return reply.error(&format!("ERR Unknown node {}", text_of(asked)));
    };
    let Some((shard, _)) = primary_of(id) else {
        return reply.error("ERR The specified node is not a master");
    };
    let lines: Vec<String> = topology
        .listed_members(*shard)
        .filter(|(member, _)| member != id)
        .map(|(member, _)| shards::node_line(topology, member))
        .collect();
    reply.array(lines.len());
    lines.iter().for_each(|line| reply.bulk(line.as_bytes()));
}

fn info(call: &Call<'_>) -> String {
    let topology = call.topology();
    let ring = topology.as_ref().map(|topology| &topology.ring);
    let assigned =
        topology.as_ref().map_or(0, |topology| Slot::all().filter(|s| topology.owner_of(*s).is_some()).count());
    let state = if assigned == usize::from(ringmaster_ring::SLOT_COUNT) { "ok" } else { "fail" };
    let listed = ring.map_or(0, |ring| ring.members.values().filter(|m| m.is_active() && m.shard.is_some()).count());
    let size = ring.map_or(0, |ring| ring.shards.len());
    let epoch = ring.map_or(0, |ring| ring.epoch.0);
    let my_epoch =
        topology.as_ref().and_then(|topology| topology.my_shard().map(|(_, shard)| shard.epoch.0)).unwrap_or(0);
    format!(
        "cluster_enabled:1\r\ncluster_state:{state}\r\ncluster_slots_assigned:{assigned}\r\ncluster_slots_ok:{assigned}\r\n\
         cluster_slots_pfail:0\r\ncluster_slots_fail:0\r\ncluster_known_nodes:{listed}\r\ncluster_size:{size}\r\n\
         cluster_current_epoch:{epoch}\r\ncluster_my_epoch:{my_epoch}\r\ncluster_stats_messages_sent:0\r\n\
         cluster_stats_messages_received:0\r\ntotal_cluster_links_buffer_limit_exceeded:0\r\n"
    )
}
