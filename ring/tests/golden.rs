//! What 0.1 wrote is read for ever: members keep the image that they were made with, so a newer operator reads the rings,
//! statuses and rejections of older members, and sends them commands. A new field therefore has a default
//! (`#[serde(default)]`), and no field or variant is renamed.
//!
//! `WRITE_GOLDEN=1 cargo test -p ringmaster-ring --test golden` writes the files anew, which only a release that nobody
//! runs yet may do.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use ringmaster_ring::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn presence(member: u64) -> Presence {
    let address = Address { host: format!("10.0.0.{member}"), client_port: 6379, peer_port: 7379, http_port: 8379 };
    Presence { boot: BootId(member + 100), voter: VoterId(member + 200), address, feature_level: FeatureLevel(1) }
}

fn holder(member: u32) -> Holder {
    Holder { member: MemberId(member), boot: BootId(u64::from(member) + 100) }
}

fn formation() -> Formation {
    let founder = |member: u32| FoundingMember {
        shard: Some(ShardId(0)),
        template: "t1".into(),
        placement: Placement { zone: "zone-1".into(), node: "node1".into() },
        presence: presence(member.into()),
    };
    Formation {
        cluster: ClusterUuid(7),
        generation: Generation(1),
        settings: Settings { copies: 2, ..Settings::default() },
        next_serial: MemberId(3),
        members: [1, 2].map(|member| (MemberId(member), founder(member))).into(),
        shards: BTreeMap::from([(ShardId(0), SlotRange::split(1))]),
    }
}

fn reservation() -> ReserveMember {
    ReserveMember {
        if_next_serial: MemberId(3),
        shard: Some(ShardId(0)),
        template: "t2".into(),
        replaces: Some(MemberId(1)),
        reason: Some(ReplaceReason::NodeCordoned),
    }
}

/// A ring in the middle of things: a spare that is in sync, and a handover to it under way.
fn ring() -> Ring {
    let mut ring = Ring::form(&formation()).unwrap();
    ring = ring.apply(&Command::ReserveMember(reservation())).unwrap();
    ring = ring.apply(&announcement()).unwrap();
    for change in [ShardChange::Add(holder(3)), ShardChange::Handover { to: holder(3) }] {
        ring = ring.apply(&Command::on_shard(&ring, ShardId(0), change).unwrap()).unwrap();
    }
    ring
}

fn announcement() -> Command {
    Command::Announce { member: MemberId(3), if_version: Version(1), presence: presence(3) }
}

fn status() -> MemberStatus {
    MemberStatus {
        cluster: ClusterUuid(7),
        generation: Generation(1),
        member: MemberId(1),
        shard: Some(ShardId(0)),
        presence: presence(1),
        ring_epoch: Some(RingEpoch(5)),
        ring_leader: Some(MemberId(2)),
        role: Role::Primary,
        in_sync: true,
        position: Position { epoch: ShardEpoch(2), seq: Seq(99) },
        lag_records: 0,
        sync: Some(SyncProgress { bytes_done: 1, bytes_total: 2, bytes_per_second: 3 }),
        copies: Vec::new(),
        keys: 5,
        used_bytes: 6,
        clients: 7,
        last_client_use_ms: Some(8),
        terminating: false,
    }
}

fn commands() -> Vec<Command> {
    let ring = ring();
    let on_shard = |change| Command::on_shard(&ring, ShardId(0), change).unwrap();
    vec![
        Command::Form(Box::new(formation())),
        Command::ReserveMember(reservation()),
        Command::Place { member: MemberId(1), placement: Placement { zone: "z".into(), node: "n".into() } },
        announcement(),
        Command::Leave(holder(1)),
        Command::Stay(holder(1)),
        Command::Gone(holder(1)),
        on_shard(ShardChange::Add(holder(3))),
        on_shard(ShardChange::Remove(holder(3))),
        on_shard(ShardChange::Handover { to: holder(3) }),
        on_shard(ShardChange::Failover { to: holder(3), drop_former: true }),
    ]
}

/// Reads the golden file as what the sample is today.
fn is_read<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, sample: &T) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("WRITE_GOLDEN").is_some() {
        std::fs::write(&path, serde_json::to_string_pretty(sample).unwrap() + "\n").unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    match serde_json::from_str::<T>(&golden) {
        Ok(read) => assert_eq!(&read, sample, "{name} means something else now"),
        Err(error) => panic!("{name}: what 0.1 wrote cannot be read any more: {error}"),
    }
}

#[test]
fn the_ring_of_a_member_of_0_1_is_read() {
    is_read("ring-0.1.json", &ring());
}

#[test]
fn the_status_of_a_member_of_0_1_is_read() {
    is_read("status-0.1.json", &status());
}

#[test]
fn the_commands_of_an_operator_of_0_1_are_read() {
    is_read("commands-0.1.json", &commands());
}

#[test]
fn what_0_1_answers_to_a_refused_command_is_read() {
    let refusal = ring().apply(&Command::ReserveMember(reservation())).unwrap_err();
    is_read("refusal-0.1.json", &NotApplied { message: "why".into(), rejection: Some(refusal) });
}
