//! A ring of one shard for tests of single parts.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringmaster_replica::Mono;
use ringmaster_ring::*;

pub const SHARD: ShardId = ShardId(0);

pub fn at_ms(ms: u64) -> Mono {
    Mono(ms * 1_000_000)
}

/// The first process of a member.
pub fn first(member: u32) -> Holder {
    process(member, 1)
}

pub fn process(member: u32, boot: u64) -> Holder {
    Holder { member: MemberId(member), boot: BootId(u64::from(member) * 100 + boot) }
}

pub fn presence(holder: Holder, level: u32) -> Presence {
    let address = Address { host: "h".to_owned(), client_port: 1, peer_port: 2, http_port: 3 };
    let voter = VoterId(u64::from(holder.member.0));
    Presence { boot: holder.boot, voter, address, feature_level: FeatureLevel(level) }
}

/// `members` of one shard, all in sync, of which 0 is the primary.
pub fn ring(members: u32, settings: Settings) -> Arc<Ring> {
    let founder = |member: u32| FoundingMember {
        shard: Some(SHARD),
        template: String::new(),
        placement: Placement::default(),
        presence: presence(first(member), 1),
    };
    let formation = Formation {
        cluster: ClusterUuid(1),
        generation: Generation(1),
        settings,
        members: (0..members).map(|member| (MemberId(member), founder(member))).collect(),
        shards: BTreeMap::from([(SHARD, SlotRange::split(1))]),
        next_serial: MemberId(members),
    };
    Arc::new(Ring::form(&formation).unwrap())
}

pub fn after(ring: &Arc<Ring>, command: &Command) -> Arc<Ring> {
    Arc::new(ring.apply(command).unwrap())
}

pub fn changed(ring: &Arc<Ring>, change: ShardChange) -> Arc<Ring> {
    after(ring, &Command::on_shard(ring, SHARD, change).unwrap())
}

pub fn announced(ring: &Arc<Ring>, holder: Holder, level: u32) -> Arc<Ring> {
    let if_version = ring.members[&holder.member].version;
    let presence = presence(holder, level);
    after(ring, &Command::Announce { member: holder.member, if_version, presence })
}
