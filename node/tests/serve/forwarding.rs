//! With cluster mode off a client may be connected to any member, and stays connected while the primary changes. Both members have
//! data of their own here, so that it shows which of them has executed a request.

use std::time::{Duration, Instant};

use ringmaster_node::bus::{Message, Scope};
use ringmaster_node::serve::ServeConfig;
use ringmaster_replica::Phase;
use ringmaster_ring::{MemberState, Ring, Seq, ShardEpoch, ShardId};

use crate::harness::{ME, Node, OTHER, PATIENCE};

/// The two members of a shard; the first is its primary at the beginning.
struct Pair {
    first: Node,
    second: Node,
}

impl Pair {
    fn new() -> Self {
        let configure = |config: &mut ServeConfig| config.cluster_mode = false;
        let (first, second) = (Node::of(ME, configure, |_| {}), Node::of(OTHER, configure, |_| {}));
        let mut pair = Self { first, second };
        let ports = [(ME, pair.first.port()), (OTHER, pair.second.port())];
        pair.publish_ring(|ring| {
            for (holder, port) in ports {
                ring.members.get_mut(&holder.member).unwrap().present.as_mut().unwrap().address.client_port = port;
            }
        });
        pair.second.publish(|state| state.phase = Phase::Copy);
        pair
    }

    fn publish_ring(&mut self, change: impl Fn(&mut Ring)) {
        self.first.publish_ring(&change);
        self.second.publish_ring(&change);
    }

    /// The ring's word, and the first member's freeze.
    fn begin_handover(&mut self) {
        self.publish_ring(|ring| {
            let shard = ring.shards.get_mut(&ShardId(0)).unwrap();
            shard.epoch = shard.epoch.next();
            shard.pending_from = Some(ME);
            shard.primary = OTHER;
        });
        self.first.publish(|state| state.phase = Phase::Frozen);
        self.second.publish(|state| {
            state.phase = Phase::Pending;
            state.epoch = ShardEpoch(2);
        });
    }

    /// The second member serves, and the first one knows it.
    fn end_handover(&mut self) {
        self.second.publish(|state| state.phase = Phase::Primary);
        self.first.publish(|state| {
            state.phase = Phase::Copy;
            state.epoch = ShardEpoch(2);
        });
    }

    fn hand_over(&mut self) {
        self.begin_handover();
        self.end_handover();
    }
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn waits_for_data(node: &Node) {
    until("the request waits for data", || node.engine.waiting() == 1);
}

#[test]
fn requests_at_a_copy_are_executed_by_the_primary() {
    let pair = Pair::new();
    let (mut client, mut direct) = (pair.second.connect(), pair.first.connect());
    assert_eq!(client.ask("SET a 1"), "OK");
    assert_eq!(direct.ask("INCR a"), "2");
    assert_eq!(client.ask("GET a"), "2");
    assert_eq!(client.ask("GET none"), "nil");
    assert_eq!(client.ask("LPUSH a x"), "-WRONGTYPE Operation against a key holding the wrong kind of value");
    assert_eq!(client.ask("EVAL return{KEYS[1],redis.call('GET',KEYS[1])} 1 a"), "[a 2]");
    assert_eq!(client.ask("DBSIZE"), "1");
    assert_eq!(pair.second.engine.log().end().seq, Seq(0), "nothing was executed at the copy");
    assert_eq!(pair.second.shared.stats().forwarded, 1);
}

#[test]
fn what_the_client_agreed_on_before_holds_at_the_primary() {
    let pair = Pair::new();
    for node in [&pair.first, &pair.second] {
        node.shared.acl().set_passwords(["secret"]);
    }
    let mut client = pair.second.connect();
    assert_eq!(client.ask("GET a"), "-NOAUTH Authentication required.");
    assert_eq!(client.ask("AUTH secret"), "OK");
    assert!(client.ask("HELLO 3").contains("proto 3"));
    assert_eq!(client.ask("SELECT 5"), "OK");
    assert_eq!(client.ask("HSET h f v"), "1");
    assert_eq!(client.ask("HGETALL h"), "[f v]");
    assert_eq!(client.ask("SELECT 6"), "OK");
    assert_eq!(client.ask("EXISTS h"), "0");
    let mut direct = pair.first.connect();
    assert_eq!(direct.ask("AUTH secret"), "OK");
    assert_eq!(direct.ask("SELECT 5"), "OK");
    assert_eq!(direct.ask("HGET h f"), "v");
}

#[test]
fn a_user_has_the_same_rights_at_the_primary() {
    let pair = Pair::new();
    let mut direct = pair.first.connect();
    for mut admin in [pair.first.connect(), pair.second.connect()] {
        assert_eq!(admin.ask("ACL SETUSER ann on >pw ~k* +get +set"), "OK");
    }
    let mut client = pair.second.connect();
    assert_eq!(client.ask("AUTH ann pw"), "OK");
    assert_eq!(client.ask("GET other"), "-NOPERM No permissions to access a key", "says the copy");
    assert_eq!(client.ask("SET k v"), "OK");
    assert_eq!(pair.second.shared.stats().forwarded, 1);
    assert_eq!(client.ask("GET k"), "v");
    assert_eq!(client.ask("GET other"), "-NOPERM No permissions to access a key", "says the primary");
    assert_eq!(direct.ask("ACL SETUSER ann -set"), "OK");
    assert_eq!(client.ask("SET k v"), "-NOPERM User ann has no permissions to run the 'set' command");
    assert_eq!(direct.ask("ACL DELUSER ann"), "1");
    client.send("GET k").expect_closed();
}

#[test]
fn a_pipeline_and_large_values_come_back_in_order() {
    let pair = Pair::new();
    let mut client = pair.second.connect();
    let large = "x".repeat(3 << 20);
    for n in 0..500 {
        client.send("INCR n").send(&format!("SET k{n} {n}")).send(&format!("GET k{n}"));
    }
    client.send(&format!("SET large {large}")).send("GET large").send("ECHO end");
    for n in 0..500 {
        assert_eq!([client.reply(), client.reply(), client.reply()], [(n + 1).to_string(), "OK".into(), n.to_string()]);
    }
    assert_eq!(client.reply(), "OK");
    assert!(client.reply() == large);
    assert_eq!(client.reply(), "end");
}

#[test]
fn transactions_and_watches_work_through_a_copy() {
    let pair = Pair::new();
    let (mut client, mut direct) = (pair.second.connect(), pair.first.connect());
    for words in ["WATCH a", "MULTI"] {
        assert_eq!(client.ask(words), "OK");
    }
    assert_eq!(client.ask("INCR a"), "QUEUED");
    assert_eq!(client.ask("EXEC"), "[1]");
    assert_eq!(client.ask("WATCH a"), "OK");
    assert_eq!(direct.ask("SET a 7"), "OK");
    assert_eq!(client.ask("MULTI"), "OK");
    assert_eq!(client.ask("INCR a"), "QUEUED");
    assert_eq!(client.ask("EXEC"), "nil");
    assert_eq!(client.ask("GET a"), "7");
    // Begun at the copy, which executes MULTI by itself.
    let mut fresh = pair.second.connect();
    assert_eq!(fresh.ask("MULTI"), "OK");
    assert_eq!(fresh.ask("INCR a"), "QUEUED");
    assert_eq!(fresh.ask("INCR a"), "QUEUED");
    assert_eq!(fresh.ask("EXEC"), "[8 9]");
    assert_eq!(fresh.ask("INCR a"), "10");
}

#[test]
fn a_request_that_meets_a_handover_is_executed_by_the_successor() {
    let mut pair = Pair::new();
    let (mut here, mut there) = (pair.first.connect(), pair.second.connect());
    assert_eq!((here.ask("INCR a"), there.ask("INCR a")), ("1".into(), "2".into()));
    pair.begin_handover();
    here.send("INCR a").expect_silence();
    there.send("INCR a").expect_silence();
    pair.end_handover();
    let mut replies = [here.reply(), there.reply()];
    replies.sort();
    assert_eq!(replies, ["1", "2"], "by the second member, whose data is its own");
    assert_eq!(pair.first.engine.log().end().seq, Seq(2));
    assert_eq!((here.ask("INCR a"), there.ask("INCR a")), ("3".into(), "4".into()));
}

#[test]
fn a_transaction_that_was_begun_before_a_handover_is_executed_after_it() {
    let mut pair = Pair::new();
    let (mut here, mut there) = (pair.first.connect(), pair.second.connect());
    assert_eq!(there.ask("GET a"), "nil", "it is forwarded from here on");
    for client in [&mut here, &mut there] {
        assert_eq!(client.ask("MULTI"), "OK");
        assert_eq!(client.ask("INCR a"), "QUEUED");
    }
    pair.hand_over();
    assert_eq!(here.ask("EXEC"), "[1]");
    assert_eq!(there.ask("INCR a"), "QUEUED");
    assert_eq!(there.ask("EXEC"), "[2 3]");
    assert_eq!((here.ask("INCR a"), there.ask("INCR a")), ("4".into(), "5".into()));
    assert_eq!(pair.first.engine.log().end().seq, Seq(0));
}

#[test]
fn a_watch_does_not_outlive_a_handover() {
    let mut pair = Pair::new();
    let (mut here, mut there) = (pair.first.connect(), pair.second.connect());
    for client in [&mut here, &mut there] {
        assert_eq!(client.ask("WATCH a"), "OK");
        assert_eq!(client.ask("MULTI"), "OK");
        assert_eq!(client.ask("INCR a"), "QUEUED");
    }
    pair.hand_over();
    assert_eq!(here.ask("EXEC"), "nil");
    assert_eq!(here.ask("INCR a"), "1");
    there.send("EXEC").expect_closed();
    assert_eq!(pair.second.connect().ask("GET a"), "1");
}

#[test]
fn who_waits_for_data_goes_on_waiting_at_the_successor() {
    let mut pair = Pair::new();
    let mut here = pair.first.connect();
    here.send("BLPOP b 0");
    waits_for_data(&pair.first);
    pair.hand_over();
    waits_for_data(&pair.second);
    assert_eq!(pair.first.connect().ask("RPUSH b x"), "1");
    assert_eq!(here.reply(), "[b x]");

    let mut pair = Pair::new();
    let mut there = pair.second.connect();
    there.send("BLPOP b 0");
    waits_for_data(&pair.first);
    pair.hand_over();
    waits_for_data(&pair.second);
    assert_eq!(pair.first.engine.waiting(), 0);
    assert_eq!(pair.second.connect().ask("RPUSH b x"), "1");
    assert_eq!(there.reply(), "[b x]");
}

#[test]
fn reads_that_were_not_answered_are_read_at_the_successor() {
    let mut pair = Pair::new();
    pair.first.publish(|state| state.committed = Seq(0));
    let mut writer = pair.first.connect();
    writer.send("SET a 1");
    until("the write is executed", || pair.first.engine.log().end().seq == Seq(1));
    let mut reader = pair.first.connect();
    reader.send("GET a").send("STRLEN a").expect_silence();
    pair.hand_over();
    assert_eq!((reader.reply(), reader.reply()), ("nil".into(), "0".into()));
    assert_eq!(reader.ask("SET a 2"), "OK");
}

#[test]
fn a_read_behind_a_write_that_was_executed_is_read_at_the_successor() {
    let mut pair = Pair::new();
    pair.first.publish(|state| state.committed = Seq(0));
    let mut client = pair.first.connect();
    client.send("INCR a").send("GET a").expect_silence();
    pair.hand_over();
    client.expect_silence();
    pair.first.publish(|state| state.copy_mark = Seq(1));
    assert_eq!((client.reply(), client.reply()), ("1".into(), "nil".into()));
}

#[test]
fn a_write_that_was_executed_is_never_executed_again() {
    let mut pair = Pair::new();
    pair.first.publish(|state| state.committed = Seq(0));
    let mut client = pair.first.connect();
    client.send("INCR a").send("INCR a").expect_silence();
    pair.hand_over();
    client.expect_silence();
    pair.first.publish(|state| state.copy_mark = Seq(2));
    assert_eq!((client.reply(), client.reply()), ("1".into(), "2".into()));
    assert_eq!(pair.second.engine.log().end().seq, Seq(0));
    assert_eq!(client.ask("INCR a"), "1", "the next one is executed there");
}

#[test]
fn a_retired_member_forwards_once_more_and_then_lets_its_clients_go() {
    let mut pair = Pair::new();
    let mut client = pair.first.connect();
    assert_eq!(client.ask("INCR a"), "1");
    pair.hand_over();
    pair.publish_ring(|ring| {
        ring.members.get_mut(&ME.member).unwrap().state = MemberState::Retired;
        ring.shards.get_mut(&ShardId(0)).unwrap().in_sync.remove(&ME.member);
    });
    pair.first.publish(|state| state.phase = Phase::Retired);
    assert_eq!(client.ask("INCR a"), "1", "by the successor");
    client.expect_closed();
}

#[test]
fn what_a_primary_that_is_gone_has_not_answered_is_not_known() {
    let mut pair = Pair::new();
    let (mut idle, mut waiting) = (pair.second.connect(), pair.second.connect());
    assert_eq!(idle.ask("SET a 1"), "OK");
    waiting.send("BLPOP b 0");
    waits_for_data(&pair.first);
    pair.first.handle.take().unwrap().shutdown();
    waiting.expect_closed();
    idle.send("SET a 2").expect_silence();
    pair.hand_over();
    assert_eq!(idle.reply(), "OK", "it was sent to nobody before");
}

#[test]
fn a_subscriber_is_served_where_it_is() {
    let pair = Pair::new();
    let mut subscriber = pair.second.connect();
    assert_eq!(subscriber.ask("SUBSCRIBE news"), "[subscribe news 1]");
    let message = Message { scope: Scope::Ring, channel: b"news".into(), payload: b"hello".into() };
    pair.second.shared.deliver(&message);
    assert_eq!(subscriber.reply(), "[message news hello]");
    assert_eq!(pair.second.shared.stats().forwarded, 0);
}

#[test]
fn subscriptions_and_tracking_go_along() {
    let mut pair = Pair::new();
    let mut client = pair.second.connect();
    assert!(client.ask("HELLO 3").contains("proto 3"));
    assert_eq!(client.ask("SUBSCRIBE news"), "[subscribe news 1]");
    assert_eq!(client.ask("CLIENT TRACKING ON"), "OK");
    assert_eq!(client.ask("GET a"), "nil");
    let mut other = pair.first.connect();
    assert_eq!(other.ask("SET a 1"), "OK");
    assert_eq!(client.reply(), "[invalidate [a]]");
    assert_eq!(other.ask("PUBLISH news hello"), "1");
    assert_eq!(client.reply(), "[message news hello]");
    assert_eq!(client.ask("GET a"), "1");
    // It hears of nothing while it is carried elsewhere, so it is let go instead, and agrees anew.
    pair.hand_over();
    client.expect_closed();
}

#[test]
fn replies_that_are_not_wanted_do_not_come() {
    let pair = Pair::new();
    let mut client = pair.second.connect();
    client.send("CLIENT REPLY OFF").send("INCR a").send("INCR a").expect_silence();
    assert_eq!(pair.first.connect().ask("GET a"), "2");
    client.send("CLIENT REPLY ON");
    assert_eq!(client.reply(), "OK");
    assert_eq!(client.ask("INCR a"), "3");
}

#[test]
fn with_cluster_mode_on_nothing_is_forwarded() {
    let mut node = Node::primary();
    node.hand_over_in_ring();
    node.publish(|state| {
        state.phase = Phase::Copy;
        state.epoch = ShardEpoch(2);
    });
    let mut client = node.connect();
    assert_eq!(client.ask("SET b 1"), "-MOVED 3300 127.0.0.1:7002");
    assert_eq!(client.ask("FLUSHALL"), "-READONLY You can't write against a read only replica.");
    assert!(client.ask("CLIENT FORWARDED").starts_with("-ERR unknown subcommand"));
}
