//! Commands that wait for data, over sockets and through changes of the role.

use std::time::{Duration, Instant};

use ringmaster_replica::Phase;
use ringmaster_ring::{Seq, ShardEpoch};

use crate::harness::{Client, Node};

/// `b` and its namesakes are in slots of the member under test.
fn waiting(node: &Node, request: &str) -> Client {
    let before = node.engine.waiting();
    let mut client = node.connect();
    client.send(request);
    let began = Instant::now();
    while node.engine.waiting() <= before {
        assert!(began.elapsed() < Duration::from_secs(10), "{request} does not wait");
        std::thread::sleep(Duration::from_millis(2));
    }
    client
}

#[test]
fn a_push_serves_the_first_who_waits_and_what_was_pipelined_behind_goes_on() {
    let node = Node::primary();
    let mut one = waiting(&node, "BLPOP b 0");
    let mut two = waiting(&node, "BRPOP {b}other b 0");
    one.send("PING");
    one.expect_silence();
    let mut pusher = node.connect();
    assert_eq!(pusher.ask("RPUSH b x"), "1");
    assert_eq!((one.reply(), one.reply()), ("[b x]".into(), "PONG".into()));
    two.expect_silence();
    assert_eq!(pusher.ask("LPUSH b y"), "1");
    assert_eq!(two.reply(), "[b y]");
    assert_eq!(pusher.ask("EXISTS b"), "0");
    assert!(pusher.ask("INFO clients").contains("blocked_clients:0"));
}

#[test]
fn a_wait_ends_at_its_time_with_null() {
    let node = Node::primary();
    let mut client = node.connect();
    let began = Instant::now();
    assert_eq!(client.ask("BLPOP b 0.1"), "nil");
    assert!(began.elapsed() >= Duration::from_millis(100), "{:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(client.ask("BLMOVE b {b}2 LEFT RIGHT 0.01"), "nil");
    assert_eq!(client.ask("BZPOPMIN b 0.01"), "nil");
    assert_eq!(client.ask("PING"), "PONG");
    assert_eq!(node.engine.waiting(), 0);
}

#[test]
fn readers_of_a_stream_wait_for_its_next_entry() {
    let node = Node::primary();
    let mut one = waiting(&node, "XREAD BLOCK 0 STREAMS b $");
    let mut two = waiting(&node, "XREAD BLOCK 10000 STREAMS b 0-5");
    let mut writer = node.connect();
    assert_eq!(writer.ask("XADD b 1-1 f v"), "1-1");
    assert_eq!(one.reply(), "[[b [[1-1 [f v]]]]]");
    assert_eq!(two.reply(), "[[b [[1-1 [f v]]]]]");
    assert_eq!(one.ask("XREAD BLOCK 20 STREAMS b $"), "nil");
}

#[test]
fn in_a_transaction_nothing_waits() {
    let node = Node::primary();
    let mut client = node.connect();
    assert_eq!(client.ask("MULTI"), "OK");
    assert_eq!(client.ask("BLPOP b 0"), "QUEUED");
    assert_eq!(client.ask("EXEC"), "[nil]");
}

#[test]
fn the_reply_to_who_waited_is_held_back_until_the_pop_is_kept() {
    let mut node = Node::primary();
    let mut client = waiting(&node, "BLPOP b 0");
    node.publish(|state| state.committed = Seq(1));
    let mut pusher = node.connect();
    assert_eq!(pusher.ask("RPUSH b x"), "1", "record 1");
    client.expect_silence();
    node.publish(|state| state.committed = Seq(2));
    assert_eq!(client.reply(), "[b x]");
}

#[test]
fn clients_are_unblocked_by_others() {
    let node = Node::primary();
    let mut admin = node.connect();
    for (reason, reply) in
        [("", "nil"), (" TIMEOUT", "nil"), (" ERROR", "-UNBLOCKED client unblocked via CLIENT UNBLOCK")]
    {
        let mut client = node.connect();
        let id = client.ask("CLIENT ID");
        client.send("BLPOP b 0");
        let began = Instant::now();
        while admin.ask(&format!("CLIENT UNBLOCK {id}{reason}")) == "0" {
            assert!(began.elapsed() < Duration::from_secs(10));
        }
        assert_eq!(client.reply(), reply);
        assert_eq!(admin.ask(&format!("CLIENT UNBLOCK {id}")), "0");
        assert_eq!(client.ask("PING"), "PONG");
    }
}

#[test]
fn who_goes_away_takes_nothing() {
    let node = Node::primary();
    drop(waiting(&node, "BLPOP b 0"));
    node.wait_for_clients(0);
    let mut pusher = node.connect();
    assert_eq!(pusher.ask("RPUSH b x"), "1");
    assert_eq!(pusher.ask("LLEN b"), "1");
}

#[test]
fn who_waits_through_a_handover_is_sent_to_the_new_primary() {
    let mut node = Node::primary();
    let mut client = waiting(&node, "BLPOP b 0");
    node.publish(|state| state.phase = Phase::Frozen);
    client.expect_silence();
    node.hand_over();
    assert_eq!(client.reply(), "-MOVED 3300 127.0.0.1:7002");
    assert_eq!(node.engine.waiting(), 0);
}

#[test]
fn a_wait_whose_time_ends_while_the_role_changes_is_redirected_too() {
    let mut node = Node::primary();
    let mut client = waiting(&node, "BLPOP b 0.05");
    node.publish(|state| state.phase = Phase::Frozen);
    client.expect_silence();
    node.hand_over();
    assert_eq!(client.reply(), "-MOVED 3300 127.0.0.1:7002");
}

#[test]
fn an_aborted_handover_leaves_it_waiting() {
    let mut node = Node::primary();
    let mut client = waiting(&node, "BLPOP b 0");
    node.publish(|state| state.phase = Phase::Frozen);
    node.publish(|state| {
        state.phase = Phase::Primary;
        state.epoch = ShardEpoch(2);
    });
    assert_eq!(node.connect().ask("RPUSH b x"), "1");
    assert_eq!(client.reply(), "[b x]");
}
