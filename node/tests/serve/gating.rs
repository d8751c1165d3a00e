//! What a client sees while its member's role changes: never an error, never an answer that could turn out wrong.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringmaster_replica::{Mono, Phase};
use ringmaster_ring::{Seq, ShardEpoch};

use crate::harness::{Node, SILENCE};

/// A key of shard 0, and its slot.
const KEY: &str = "b";
const SLOT: u16 = 3300;

fn moved() -> String {
    format!("-MOVED {SLOT} 127.0.0.1:7002")
}

#[test]
fn a_reply_waits_until_what_it_shows_is_committed() {
    let mut node = Node::primary();
    node.publish(|state| state.committed = Seq(0));
    let (mut writer, mut reader) = (node.connect(), node.connect());
    writer.send(&format!("INCR {KEY}")).expect_silence();
    reader.send(&format!("GET {KEY}")).expect_silence();
    node.publish(|state| state.committed = Seq(1));
    assert_eq!(writer.reply(), "1");
    assert_eq!(reader.reply(), "1");
}

#[test]
fn replies_behind_a_held_one_wait_for_it() {
    let mut node = Node::primary();
    node.publish(|state| state.committed = Seq(0));
    let mut client = node.connect();
    client.send("SET b 1").send("PING").expect_silence();
    node.publish(|state| state.committed = Seq(1));
    assert_eq!(client.reply(), "OK");
    assert_eq!(client.reply(), "PONG");
}

#[test]
fn with_acks_at_the_primary_nothing_waits_for_copies() {
    let mut node = Node::primary();
    node.publish(|state| {
        state.committed = Seq(0);
        state.acks = ringmaster_ring::Acks::Primary;
    });
    assert_eq!(node.connect().ask("SET b 1"), "OK");
}

#[test]
fn a_request_at_a_frozen_primary_is_not_executed_and_is_redirected_once_its_successor_serves() {
    let mut node = Node::primary();
    node.hand_over_in_ring();
    node.publish(|state| state.phase = Phase::Frozen);
    let mut client = node.connect();
    client.send("INCR b").send("PING").expect_silence();
    assert_eq!(node.engine.log().end().seq, Seq(0), "nothing was executed");
    node.publish(|state| {
        state.phase = Phase::Copy;
        state.epoch = ShardEpoch(2);
    });
    assert_eq!(client.reply(), moved());
    assert_eq!(client.reply(), "PONG");
    assert_eq!(node.engine.log().end().seq, Seq(0));
}

#[test]
fn a_request_at_a_frozen_primary_that_goes_on_is_executed_once() {
    let mut node = Node::primary();
    node.publish(|state| state.phase = Phase::Frozen);
    let mut client = node.connect();
    client.send("INCR b").send("INCR b").expect_silence();
    node.publish(|state| {
        state.phase = Phase::Primary;
        state.epoch = ShardEpoch(3);
    });
    assert_eq!(client.reply(), "1");
    assert_eq!(client.reply(), "2");
    assert!(node.shared.stats().parked >= 1);
}

#[test]
fn a_successor_parks_requests_until_it_serves() {
    let mut node = Node::primary();
    node.publish(|state| state.phase = Phase::Pending);
    let mut client = node.connect();
    client.send("INCR b").expect_silence();
    node.publish(|state| state.phase = Phase::Primary);
    assert_eq!(client.reply(), "1");
}

#[test]
fn a_write_that_was_executed_is_answered_by_the_successors_mark() {
    let mut node = Node::primary();
    node.publish(|state| state.committed = Seq(0));
    let mut client = node.connect();
    client.send("INCR b").expect_silence();
    node.hand_over_in_ring();
    node.publish(|state| state.phase = Phase::Frozen);
    node.publish(|state| {
        state.phase = Phase::Copy;
        state.epoch = ShardEpoch(2);
    });
    client.expect_silence();
    node.publish(|state| state.copy_mark = Seq(1));
    assert_eq!(client.reply(), "1");
    assert_eq!(client.ask("INCR b"), moved(), "and a further one is not executed here");
}

#[test]
fn a_read_that_was_not_answered_is_executed_again_and_keeps_its_place() {
    let mut node = Node::primary();
    node.publish(|state| state.committed = Seq(0));
    let mut client = node.connect();
    client.send("INCR b").send("GET b").send("HGETALL {b}h").send("PING").expect_silence();
    node.hand_over_in_ring();
    node.publish(|state| state.phase = Phase::Frozen);
    node.publish(|state| {
        state.phase = Phase::Copy;
        state.epoch = ShardEpoch(2);
        state.copy_mark = Seq(1);
    });
    assert_eq!(client.reply(), "1", "the write is answered");
    assert_eq!(client.reply(), moved(), "the read is not: it was executed before and is redirected now");
    assert!(client.reply().starts_with("-MOVED"));
    assert_eq!(client.reply(), "PONG");
    assert_eq!(node.shared.stats().rerun, 2);
}

#[test]
fn reads_of_an_aborted_handover_are_answered_by_the_same_member_with_its_present_data() {
    let mut node = Node::primary();
    node.publish(|state| state.committed = Seq(0));
    let (mut reader, mut writer) = (node.connect(), node.connect());
    writer.send("INCR b").expect_silence();
    reader.send("GET b").send("ECHO behind").expect_silence();
    node.publish(|state| state.phase = Phase::Frozen);
    reader.expect_silence();
    node.publish(|state| {
        state.phase = Phase::Primary;
        state.epoch = ShardEpoch(3);
        state.committed = Seq(1);
    });
    assert_eq!(writer.reply(), "1");
    assert_eq!(reader.reply(), "1");
    assert_eq!(reader.reply(), "behind");
}

#[test]
fn a_write_whose_data_was_discarded_ends_its_connection_and_a_read_goes_on() {
    let mut node = Node::primary();
    node.publish(|state| state.committed = Seq(0));
    let (mut writer, mut reader) = (node.connect(), node.connect());
    writer.send("INCR b").expect_silence();
    reader.send("GET b").expect_silence();
    node.hand_over_in_ring();
    node.publish(|state| {
        state.phase = Phase::Copy;
        state.epoch = ShardEpoch(2);
        state.lineage = 1;
        state.copy_mark = Seq(9);
    });
    writer.expect_closed();
    assert_eq!(reader.reply(), moved());
    assert_eq!(node.shared.stats().unanswerable, 1);
}

#[test]
fn a_reply_whose_lease_ran_out_before_it_could_leave_waits_for_the_next_lease() {
    let mut node = Node::primary();
    node.publish(|state| state.committed = Seq(0));
    node.lease_for(Duration::from_millis(100));
    let mut client = node.connect();
    client.send("INCR b").expect_silence();
    node.publish(|state| state.committed = Seq(1));
    client.expect_silence();
    node.publish(|state| state.lease_until = Mono(u64::MAX));
    assert_eq!(client.reply(), "1");
}

#[test]
fn without_a_lease_nothing_is_executed() {
    let mut node = Node::primary();
    node.publish(|state| state.lease_until = Mono::ZERO);
    let mut client = node.connect();
    client.send("INCR b").expect_silence();
    assert_eq!(node.engine.log().end().seq, Seq(0));
    node.publish(|state| state.lease_until = Mono(u64::MAX));
    assert_eq!(client.reply(), "1");
}

#[test]
fn writes_below_the_wanted_copies_are_refused_and_reads_are_not() {
    let mut node = Node::primary();
    node.publish(|state| state.writes_refused = true);
    let mut client = node.connect();
    assert_eq!(client.ask("SET b 1"), "-NOREPLICAS Not enough good replicas to write.");
    assert_eq!(client.ask("GET b"), "nil");
}

#[test]
fn a_copy_answers_reads_only_to_those_who_asked_for_it_and_only_what_is_committed() {
    let mut node = Node::primary();
    let mut writer = node.connect();
    assert_eq!(writer.ask("SET b 1"), "OK");
    node.hand_over();
    let mut reader = node.connect();
    assert_eq!(reader.ask("GET b"), moved());
    assert_eq!(reader.ask("READONLY"), "OK");
    reader.send("GET b").expect_silence();
    node.publish(|state| state.copy_mark = Seq(1));
    assert_eq!(reader.reply(), "1");
    assert_eq!(reader.ask("SET b 2"), moved());
    assert_eq!(reader.ask("READWRITE"), "OK");
    assert_eq!(reader.ask("GET b"), moved());
    assert_eq!(reader.ask("READONLY"), "OK");
    node.publish(|state| state.fresh_until = Mono::ZERO);
    assert_eq!(reader.ask("GET b"), moved(), "it has not heard from its primary for too long");
}

#[test]
fn a_ring_that_is_ahead_of_the_gate_parks_instead_of_sending_clients_in_circles() {
    let mut node = Node::primary();
    node.publish(|state| state.phase = Phase::Idle);
    let mut client = node.connect();
    client.send("INCR b").expect_silence();
    node.publish(|state| state.phase = Phase::Primary);
    assert_eq!(client.reply(), "1");
}

/// Every acknowledged INCR counts once, however often the role goes and comes back, and no wake-up is missed.
#[test]
fn increments_count_once_through_many_changes_of_role() {
    const CLIENTS: usize = 16;
    let mut node = Node::primary();
    node.publish(|state| state.committed = Seq(0));
    let port = node.port();
    let engine = Arc::clone(&node.engine);
    let node = Arc::new(Mutex::new(node));
    let stop = Arc::new(AtomicBool::new(false));
    let publisher = {
        let (node, stop) = (Arc::clone(&node), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut round = 0u64;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                let mut node = node.lock().unwrap();
                match round % 40 {
                    30 => node.publish(|state| state.phase = Phase::Frozen),
                    35 => node.publish(|state| {
                        state.phase = Phase::Primary;
                        state.epoch = state.epoch.next();
                    }),
                    _ => {
                        let end = engine.log().end().seq;
                        node.publish(|state| state.committed = end);
                    }
                }
                drop(node);
                std::thread::sleep(Duration::from_micros(200));
            }
            let end = engine.log().end().seq;
            node.lock().unwrap().publish(|state| {
                state.phase = Phase::Primary;
                state.committed = end.max(state.committed);
            });
        })
    };
    let began = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            std::thread::spawn(move || {
                let mut client = crate::harness::Client::connect(port);
                let key = format!("{{b}}{number}");
                let mut acknowledged = 0u64;
                while began.elapsed() < Duration::from_secs(2) {
                    client.send(&format!("INCR {key}")).send(&format!("GET {key}"));
                    acknowledged += 1;
                    assert_eq!(client.reply(), acknowledged.to_string(), "counted once");
                    assert_eq!(client.reply(), acknowledged.to_string());
                }
                acknowledged
            })
        })
        .collect();
    let total: u64 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    stop.store(true, Ordering::Relaxed);
    publisher.join().unwrap();
    let node = node.lock().unwrap();
    assert_eq!(node.engine.log().end().seq, Seq(total));
    assert!(node.shared.stats().rerun > 0, "some reads were caught by a freeze");
    assert!(total > 100, "{total}");
}

#[test]
fn a_client_that_goes_away_while_parked_leaves_nothing_behind() {
    let mut node = Node::primary();
    node.publish(|state| state.phase = Phase::Frozen);
    let mut client = node.connect();
    client.send("INCR b").expect_silence();
    drop(client);
    node.wait_for_clients(0);
    node.publish(|state| state.phase = Phase::Primary);
    std::thread::sleep(SILENCE);
    assert_eq!(node.engine.log().end().seq, Seq(0), "nobody waits for it any more");
}
