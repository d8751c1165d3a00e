//! What cluster clients are told of the ring.

use redis::Commands;
use ringmaster_ring::{BootId, MemberId, ShardId};

use crate::harness::{ME, Node};

#[test]
fn keys_of_other_shards_are_moved_and_keys_of_two_slots_refused() {
    let node = Node::primary();
    let mut client = node.connect();
    assert_eq!(client.ask("GET foo"), "-MOVED 12182 127.0.0.1:7003");
    assert_eq!(client.ask("SET foo 1"), "-MOVED 12182 127.0.0.1:7003");
    assert_eq!(client.ask("MGET b foo"), "-CROSSSLOT Keys in request don't hash to the same slot");
    assert_eq!(client.ask("MSET {b}1 1 {b}2 2"), "OK");
    assert_eq!(client.ask("ASKING"), "OK");
    assert_eq!(node.shared.stats().moved, 2);
}

#[test]
fn without_a_ring_or_a_primary_the_cluster_is_down() {
    let mut node = Node::primary();
    let mut client = node.connect();
    node.publish_ring(|ring| ring.members.get_mut(&MemberId(3)).unwrap().present = None);
    assert_eq!(client.ask("GET foo"), "-CLUSTERDOWN Hash slot not served");
    node.forget_ring();
    assert_eq!(client.ask("GET b"), "-CLUSTERDOWN The cluster is down");
    assert_eq!(client.ask("CLUSTER SLOTS"), "-CLUSTERDOWN The cluster is down");
    assert!(client.ask("INFO persistence").contains("loading:1"));
}

#[test]
fn a_process_sends_nobody_anywhere_before_the_ring_names_it() {
    let boot_of_me = |ring: &mut ringmaster_ring::Ring, boot| {
        ring.members.get_mut(&ME.member).unwrap().present.as_mut().unwrap().boot = boot;
    };
    // The ring as it was before the restart: its other members may be gone.
    let mut node = Node::with_first_ring(|_| {}, |ring| boot_of_me(ring, BootId(9)));
    let mut early = node.connect();
    early.send("GET foo");
    std::thread::sleep(std::time::Duration::from_millis(100));
    node.publish_ring(|ring| boot_of_me(ring, ME.boot));
    assert_eq!(early.reply(), "-MOVED 12182 127.0.0.1:7003", "it waited for the ring");
}

#[test]
fn a_process_that_hears_of_no_ring_says_so() {
    let node = Node::with_first_ring(
        |_| {},
        |ring| ring.members.get_mut(&ME.member).unwrap().present.as_mut().unwrap().boot = BootId(9),
    );
    let mut client = node.connect();
    assert_eq!(client.ask("CLUSTER SLOTS"), "-CLUSTERDOWN The cluster is down");
    assert_eq!(client.ask("GET foo"), "-CLUSTERDOWN The cluster is down");
}

#[test]
fn a_member_that_the_ring_still_names_under_a_former_boot_serves_nothing() {
    let mut node = Node::primary();
    node.publish_ring(|ring| ring.shards.get_mut(&ShardId(0)).unwrap().primary.boot = BootId(9));
    node.publish(|state| state.phase = ringmaster_replica::Phase::Idle);
    assert_eq!(node.connect().ask("GET b"), "-CLUSTERDOWN Hash slot not served");
}

#[test]
fn slots_name_primaries_first_and_only_members_that_may_be_used() {
    let mut node = Node::primary();
    let port = node.port();
    let id = |serial: u32| format!("{serial:08x}{:032x}", 0xabc);
    let (one, two, three) = (id(1), id(2), id(3));
    let mut client = node.connect();
    assert_eq!(
        client.ask("CLUSTER SLOTS"),
        format!(
            "[[0 8191 [127.0.0.1 {port} {one} []] [127.0.0.1 7002 {two} []]] [8192 16383 [127.0.0.1 7003 {three} []]]]"
        )
    );
    node.hand_over_in_ring();
    assert!(client.ask("CLUSTER SLOTS").starts_with(&format!("[[0 8191 [127.0.0.1 7002 {two} []] [127.0.0.1 {port}")));
    node.publish_ring(|ring| {
        ring.shards.get_mut(&ShardId(0)).unwrap().in_sync.remove(&ME.member);
    });
    assert!(!client.ask("CLUSTER SLOTS").contains(&one), "a copy that is not in sync is not to be used");
    let shards = client.ask("CLUSTER SHARDS");
    assert!(shards.contains("role replica replication-offset 0 health loading"), "{shards}");
    assert!(shards.contains("slots [0 8191]") && shards.contains("health online"), "{shards}");
    node.retire_me();
    assert!(!client.ask("CLUSTER SHARDS").contains(&one) && !client.ask("CLUSTER NODES").contains(&one));
}

#[test]
fn nodes_say_who_follows_whom() {
    let node = Node::primary();
    let port = node.port();
    let mut client = node.connect();
    let text = client.ask("CLUSTER NODES");
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(&lines[0][1..3], [format!("127.0.0.1:{port}@1").as_str(), "myself,master"]);
    assert_eq!(lines[0][7..], ["connected", "0-8191"]);
    assert_eq!(&lines[1][1..4], ["127.0.0.1:7002@1", "slave", lines[0][0]]);
    assert_eq!(lines[1][7..], ["connected"]);
    assert_eq!(client.ask("CLUSTER MYID"), lines[0][0]);
    assert_eq!(lines[0][0].len(), 40);
    assert_eq!(client.ask("CLUSTER MYSHARDID").len(), 40);
    let replicas = client.ask(&format!("CLUSTER REPLICAS {}", lines[0][0]));
    assert!(replicas.contains("127.0.0.1:7002@1 slave"), "{replicas}");
    assert_eq!(client.ask(&format!("CLUSTER REPLICAS {}", lines[1][0])), "-ERR The specified node is not a master");
}

#[test]
fn slots_and_their_keys_can_be_asked_for() {
    let node = Node::primary();
    let mut client = node.connect();
    assert_eq!(client.ask("CLUSTER KEYSLOT b"), "3300");
    assert_eq!(client.ask("SET b 1"), "OK");
    assert_eq!(client.ask("CLUSTER COUNTKEYSINSLOT 3300"), "1");
    assert_eq!(client.ask("CLUSTER GETKEYSINSLOT 3300 10"), "[b]");
    assert_eq!(client.ask("CLUSTER COUNTKEYSINSLOT 16384"), "-ERR Invalid slot");
    let info = client.ask("CLUSTER INFO");
    assert!(info.contains("cluster_state:ok") && info.contains("cluster_slots_assigned:16384"), "{info}");
    assert!(client.ask("CLUSTER FAILOVER").starts_with("-ERR the ring decides"));
    assert_eq!(client.ask("SELECT 0"), "OK");
    assert_eq!(client.ask("SELECT 1"), "-ERR SELECT is not allowed in cluster mode");
}

#[test]
fn a_retired_member_redirects_keys_and_refuses_the_rest() {
    let mut node = Node::primary();
    node.hand_over_in_ring();
    node.retire_me();
    let mut client = node.connect();
    assert_eq!(client.ask("GET b"), "-MOVED 3300 127.0.0.1:7002");
    assert_eq!(client.ask("READONLY"), "OK");
    assert_eq!(client.ask("GET b"), "-MOVED 3300 127.0.0.1:7002");
    assert_eq!(client.ask("DBSIZE"), "-CLUSTERDOWN This member is retired");
    assert_eq!(client.ask("FLUSHALL"), "-CLUSTERDOWN This member is retired");
    assert_eq!(client.ask("PING"), "PONG");
}

#[test]
fn questions_about_all_keys_are_answered_by_copies_and_changes_refused() {
    let mut node = Node::primary();
    node.hand_over();
    let mut client = node.connect();
    assert_eq!(client.ask("DBSIZE"), "0");
    assert_eq!(client.ask("FLUSHALL"), "-READONLY You can't write against a read only replica.");
    assert!(client.ask("ROLE").starts_with("[slave 127.0.0.1 7002"));
}

#[test]
fn a_cluster_client_finds_its_way() {
    let mut node = Node::primary();
    let port = node.port();
    // One member serves both shards, so that every slot is reachable.
    node.publish_ring(|ring| {
        let slots = ring.shards.remove(&ShardId(1)).unwrap().slots;
        ring.shards.get_mut(&ShardId(0)).unwrap().slots.extend(slots);
    });
    let client = redis::cluster::ClusterClient::new(vec![format!("redis://127.0.0.1:{port}/")]).unwrap();
    let mut connection = client.get_connection().unwrap();
    for number in 0..100 {
        let () = connection.set(format!("key-{number}"), number).unwrap();
        let value: u32 = connection.get(format!("key-{number}")).unwrap();
        assert_eq!(value, number);
    }
    let count: u64 = connection.incr("counter", 5).unwrap();
    assert_eq!(count, 5);
}
