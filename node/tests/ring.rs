//! Real members' control planes in one process, over loopback sockets and real directories.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ringmaster_engine::{Engine, EngineConfig};
use ringmaster_node::consensus::RaftTiming;
use ringmaster_node::control::{Control, MemberConfig, MemberParts};
use ringmaster_node::env::{RealDisk, RealEnv};
use ringmaster_node::peer::{Identity, Proposed, Secrets};
use ringmaster_replica::{Gate, Held, Lead, LeadConfig, Mutations, Replica, ReplicaConfig};
use ringmaster_ring::{
    Address, BootId, ClusterUuid, Command, Formation, FoundingMember, Generation, MemberId, Placement, Ring, Settings,
    ShardId, SlotRange,
};

const LIMIT: Duration = Duration::from_secs(20);

struct TestMember {
    control: Arc<Control<RealEnv>>,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn directory(test: &str, member: MemberId) -> PathBuf {
    std::env::temp_dir().join(format!("ringmaster-{test}-{}-{member}", std::process::id()))
}

async fn start(test: &str, member: MemberId, shard: ShardId, seeds: Vec<(String, u16)>, secret: &str) -> TestMember {
    let boot = BootId(rand::random());
    let identity = Identity {
        cluster: ClusterUuid(7),
        generation: Generation(1),
        member,
        boot,
        secrets: Secrets::parse(secret).unwrap(),
    };
    let env = RealEnv::new("127.0.0.1", RealDisk::open(&directory(test, member)).unwrap());
    let address = Address { host: "127.0.0.1".into(), client_port: 1, peer_port: free_port(), http_port: 2 };
    let replica = Replica::new(ReplicaConfig {
        me: member,
        boot,
        shard,
        drift_ppm: 1_000,
        held: Held::default(),
        mutations: Mutations::none(),
    });
    let parts = MemberParts {
        env: env.clone(),
        identity,
        config: MemberConfig {
            shard: Some(shard),
            address,
            seeds,
            zone: String::new(),
            node: String::new(),
            raft: RaftTiming::default(),
            sync_bytes_per_second: 0,
        },
        engine: Arc::new(Engine::new(EngineConfig::default())),
        gate: Arc::new(Gate::new(Mutations::none())),
        replica: Some(replica),
        lead: Lead::new(LeadConfig { mutations: Mutations::none() }),
        apply: Ring::apply,
        wake: Box::new(|| {}),
        graveyard: Box::new(drop),
        fatal: Box::new(|why| panic!("{why}")),
    };
    let (control, streams) = Control::start(parts).await.unwrap();
    tokio::spawn(Arc::clone(&control).run_streams(env, streams));
    TestMember { control }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(LIMIT, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "not within {LIMIT:?}: {what}");
}

fn formation(members: &[TestMember]) -> Formation {
    let shards = SlotRange::split(1).into_iter();
    Formation {
        cluster: ClusterUuid(7),
        generation: Generation(1),
        settings: Settings { copies: 2, ..Settings::default() },
        members: members
            .iter()
            .map(|member| {
                let founding = FoundingMember {
                    shard: Some(ShardId(0)),
                    template: String::new(),
                    placement: Placement::default(),
                    presence: member.control.presence(),
                };
                (member.control.identity().member, founding)
            })
            .collect(),
        shards: shards.map(|range| (ShardId(0), vec![range])).collect::<BTreeMap<_, _>>(),
        next_serial: MemberId(10),
    }
}

async fn formed(test: &str) -> Vec<TestMember> {
    let mut members = Vec::new();
    for serial in 1..=3 {
        members.push(start(test, MemberId(serial), ShardId(0), Vec::new(), "secret").await);
    }
    let proposed = members[0].control.form(formation(&members)).await.unwrap();
    assert!(matches!(proposed, Proposed::Applied(_)), "{proposed:?}");
    members
}

fn remove_directories(test: &str) {
    for serial in 1..=9 {
        let _ = std::fs::remove_dir_all(directory(test, MemberId(serial)));
    }
}

#[tokio::test]
async fn a_formed_ring_reaches_every_member_and_gets_three_voters() {
    let members = formed("forms").await;
    let wanted: BTreeSet<_> = members.iter().map(|m| m.control.consensus().voter()).collect();
    for member in &members {
        until("each member knows three voters", || {
            member.control.view().ring().is_some_and(|ring| ring.voters == wanted)
        })
        .await;
    }
    // Forming again, as an operator does that lost the answer, changes nothing.
    let again = members[0].control.form(formation(&members)).await.unwrap();
    assert!(matches!(again, Proposed::Applied(_)), "{again:?}");
    remove_directories("forms");
}

#[tokio::test]
async fn any_member_takes_a_proposal_to_the_leader() {
    let members = formed("proposes").await;
    until("the last member knows the ring", || members[2].control.view().ring().is_some()).await;
    let placement = Placement { zone: "zone-1".into(), node: "node-1".into() };
    let command = Command::Place { member: MemberId(1), placement: placement.clone() };
    let proposed = members[2].control.propose(command).await;
    assert!(matches!(proposed, Proposed::Applied(_)), "{proposed:?}");
    for member in &members {
        until("each member sees the change", || {
            member.control.view().ring().is_some_and(|ring| ring.members[&MemberId(1)].placement == placement)
        })
        .await;
    }
    remove_directories("proposes");
}

#[tokio::test]
async fn a_stranger_without_the_secret_learns_nothing() {
    let members = formed("stranger").await;
    let seed = ("127.0.0.1".to_owned(), members[0].control.config().address.peer_port);
    let stranger = start("stranger", MemberId(9), ShardId(0), vec![seed.clone()], "another").await;
    let friend = start("stranger", MemberId(8), ShardId(0), vec![seed], "secret").await;
    until("who knows the secret gets the ring", || friend.control.view().ring().is_some()).await;
    assert!(stranger.control.view().ring().is_none());
    remove_directories("stranger");
}
