//! Publish and subscribe over sockets.

use std::sync::Arc;
use std::time::Duration;

use ringmaster_node::bus::{Message, Scope};
use ringmaster_replica::Phase;

use crate::harness::Node;

#[test]
fn a_message_reaches_channels_and_patterns_in_either_protocol() {
    let node = Node::primary();
    let (mut two, mut three, mut publisher) = (node.connect(), node.connect(), node.connect());
    assert_eq!(two.ask("SUBSCRIBE news other"), "[subscribe news 1]");
    assert_eq!(two.reply(), "[subscribe other 2]");
    assert!(three.ask("HELLO 3").contains("proto 3"));
    assert_eq!(three.ask("PSUBSCRIBE n?ws N*"), "[psubscribe n?ws 1]");
    assert_eq!(three.reply(), "[psubscribe N* 2]");
    assert_eq!(publisher.ask("PUBLISH news hello"), "2", "case counts in patterns");
    assert_eq!(two.reply(), "[message news hello]");
    assert_eq!(three.reply(), "[pmessage n?ws news hello]");
    assert_eq!(publisher.ask("PUBLISH nobody hello"), "0");
    assert_eq!(publisher.ask("PUBSUB CHANNELS"), "[news other]");
    assert_eq!(publisher.ask("PUBSUB CHANNELS o*"), "[other]");
    assert_eq!(publisher.ask("PUBSUB NUMSUB news none"), "[news 1 none 0]");
    assert_eq!(publisher.ask("PUBSUB NUMPAT"), "2");
    let list = publisher.ask("CLIENT LIST");
    assert!(list.contains("flags=P") && list.contains("sub=2 psub=0") && list.contains("sub=0 psub=2"), "{list}");
}

#[test]
fn a_subscriber_of_the_old_protocol_may_do_little_else_and_one_of_the_new_everything() {
    let node = Node::primary();
    let (mut two, mut three) = (node.connect(), node.connect());
    assert_eq!(two.ask("SUBSCRIBE a"), "[subscribe a 1]");
    assert_eq!(
        two.ask("GET b"),
        "-ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
    );
    assert_eq!(two.ask("PING"), "[pong ]");
    assert_eq!(two.ask("PING x"), "[pong x]");
    assert_eq!(two.ask("UNSUBSCRIBE"), "[unsubscribe a 0]");
    assert_eq!(two.ask("UNSUBSCRIBE"), "[unsubscribe nil 0]");
    assert_eq!(two.ask("PING"), "PONG");
    three.ask("HELLO 3");
    assert_eq!(three.ask("SUBSCRIBE a"), "[subscribe a 1]");
    assert_eq!(three.ask("SET b 1"), "OK");
    assert_eq!(three.ask("PUBLISH a x"), "[message a x]", "its own message comes first");
    assert_eq!(three.reply(), "1");
    assert_eq!(three.ask("RESET"), "RESET");
    assert_eq!(two.ask("PUBLISH a x"), "0");
}

#[test]
fn subscriptions_end_with_their_connection() {
    let node = Node::primary();
    let mut subscriber = node.connect();
    subscriber.ask("SUBSCRIBE a");
    drop(subscriber);
    node.wait_for_clients(0);
    assert_eq!(node.connect().ask("PUBSUB CHANNELS"), "[]");
}

#[test]
fn a_transaction_publishes_when_it_is_executed() {
    let node = Node::primary();
    let (mut subscriber, mut publisher) = (node.connect(), node.connect());
    subscriber.ask("SUBSCRIBE a");
    for (line, reply) in [("MULTI", "OK"), ("SET b 1", "QUEUED"), ("PUBLISH a x", "QUEUED")] {
        assert_eq!(publisher.ask(line), reply);
    }
    subscriber.expect_silence();
    assert_eq!(publisher.ask("EXEC"), "[OK 1]");
    assert_eq!(subscriber.reply(), "[message a x]");
    publisher.ask("WATCH b");
    node.connect().ask("SET b 2");
    for line in ["MULTI", "PUBLISH a y", "SET b 3"] {
        publisher.ask(line);
    }
    assert_eq!(publisher.ask("EXEC"), "nil");
    subscriber.expect_silence();
}

#[test]
fn channels_of_a_shard_are_where_their_slot_is() {
    let mut node = Node::primary();
    let (mut subscriber, mut publisher) = (node.connect(), node.connect());
    assert_eq!(subscriber.ask("SSUBSCRIBE b {b}2"), "[ssubscribe b 1]");
    assert_eq!(subscriber.reply(), "[ssubscribe {b}2 2]");
    assert_eq!(publisher.ask("SPUBLISH b x"), "1");
    assert_eq!(subscriber.reply(), "[smessage b x]");
    assert_eq!(publisher.ask("PUBLISH b x"), "0", "another name space");
    assert_eq!(publisher.ask("PUBSUB SHARDCHANNELS"), "[b {b}2]");
    assert!(publisher.ask("SSUBSCRIBE foo").starts_with("-MOVED 12182 "));
    assert!(publisher.ask("SPUBLISH foo x").starts_with("-MOVED 12182 "));
    assert!(publisher.ask("SSUBSCRIBE b c").starts_with("-CROSSSLOT"));
    assert_eq!(subscriber.ask("SUNSUBSCRIBE {b}2"), "[sunsubscribe {b}2 1]");
    // The slots go to the other shard.
    node.publish_ring(|ring| {
        let mine = std::mem::take(&mut ring.shards.get_mut(&ringmaster_ring::ShardId(0)).unwrap().slots);
        ring.shards.get_mut(&ringmaster_ring::ShardId(1)).unwrap().slots.extend(mine);
    });
    node.publish(|state| state.epoch = state.epoch.next());
    assert_eq!(subscriber.reply(), "[sunsubscribe b 0]");
}

#[test]
fn a_retired_member_sends_its_subscribers_away() {
    let mut node = Node::primary();
    let mut subscriber = node.connect();
    subscriber.ask("SUBSCRIBE a");
    node.publish(|state| state.phase = Phase::Frozen);
    subscriber.expect_silence();
    node.retire_me();
    assert_eq!(subscriber.reply(), "[unsubscribe a 0]");
    subscriber.expect_closed();
}

#[test]
fn what_other_members_publish_is_delivered() {
    let node = Node::primary();
    let mut subscriber = node.connect();
    subscriber.ask("SUBSCRIBE a");
    subscriber.ask("SSUBSCRIBE b");
    let shared = Arc::clone(&node.shared);
    for scope in [Scope::Ring, Scope::Shard] {
        for channel in ["a", "b"] {
            shared.deliver(&Message { scope, channel: channel.into(), payload: b"x".to_vec() });
        }
    }
    assert_eq!((subscriber.reply(), subscriber.reply()), ("[message a x]".into(), "[smessage b x]".into()));
    subscriber.expect_silence();
}

#[test]
fn a_subscriber_that_does_not_read_is_closed_and_others_get_everything() {
    let node = Node::with(|config| config.subscriber_backlog_bytes_max = 1 << 20);
    let (mut slow, mut publisher) = (node.connect(), node.connect());
    slow.ask("SUBSCRIBE a");
    let payload = vec![b'x'; 100_000];
    let mut reached = String::new();
    for _ in 0..2_000 {
        reached = publisher.send_args(&[b"PUBLISH", b"a", &payload]).reply();
        if reached == "0" {
            break;
        }
    }
    assert_eq!(reached, "0", "it was closed");
    slow.stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    slow.expect_closed();
}
