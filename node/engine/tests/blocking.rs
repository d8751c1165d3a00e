//! Requests that wait for data, without connections: who is served, with what, and in which record.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test ends where its claim does")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{NOW, digests, engine, replicate, run, show, words};
use ringmaster_engine::{Attempt, Ctx, Engine, EngineConfig, Executed, Protocol, Queued, ReplyBuf, Waiter, lookup};
use ringmaster_ring::Seq;

struct Waiting {
    waiter: Arc<Waiter>,
    timeout: Option<Duration>,
    woken: Arc<AtomicUsize>,
}

impl Waiting {
    /// What it got.
    fn reply(&self) -> Option<String> {
        self.waiter.take().map(|served| show(&served.reply))
    }
}

fn attempt(engine: &Engine, line: &str, protocol: Protocol) -> Result<Waiting, String> {
    let owned = words(line);
    let args: Vec<&[u8]> = owned.iter().map(Vec::as_slice).collect();
    let spec = lookup(args[0]).unwrap();
    let mut reply = ReplyBuf::new(protocol);
    let (mut made, woken) = (None, Arc::new(AtomicUsize::new(0)));
    let ctx = Ctx { now: NOW, db: 0, permit: &|_| true };
    let attempt = engine.execute_or_wait(spec, &args, &ctx, &mut reply, |args| {
        let woken = Arc::clone(&woken);
        let wake = move || {
            woken.fetch_add(1, Ordering::Relaxed);
        };
        made.insert(Waiter::new(spec, args, 0, protocol, wake)).clone()
    });
    match attempt {
        Attempt::Waiting { timeout } => {
            assert!(reply.is_empty());
            Ok(Waiting { waiter: made.unwrap(), timeout, woken })
        }
        Attempt::Done(_) => Err(show(reply.as_bytes())),
    }
}

fn wait(engine: &Engine, line: &str) -> Waiting {
    attempt(engine, line, Protocol::Resp2).unwrap_or_else(|reply| panic!("{line} did not wait: {reply}"))
}

fn at_once(engine: &Engine, line: &str) -> String {
    match attempt(engine, line, Protocol::Resp2) {
        Ok(_) => panic!("{line} waits"),
        Err(reply) => reply,
    }
}

#[test]
fn what_is_there_is_taken_without_a_wait() {
    let engine = engine();
    run(&engine, "RPUSH {k}b 1 2 3");
    assert_eq!(at_once(&engine, "BLPOP {k}a {k}b 0"), "[\"{k}b\" \"1\"]");
    assert_eq!(at_once(&engine, "BRPOP {k}a {k}b 0"), "[\"{k}b\" \"3\"]");
    assert_eq!(at_once(&engine, "BLMOVE {k}b {k}c LEFT RIGHT 0"), "\"2\"");
    assert_eq!(run(&engine, "EXISTS {k}b"), "0");
    run(&engine, "ZADD {k}z 1 one 2 two");
    assert_eq!(at_once(&engine, "BZPOPMAX {k}z 0"), "[\"{k}z\" \"two\" \"2\"]");
    assert_eq!(at_once(&engine, "BZMPOP 0 2 {k}y {k}z MIN COUNT 5"), "[\"{k}z\" [[\"one\" \"1\"]]]");
    run(&engine, "RPUSH {k}b 1 2 3");
    assert_eq!(at_once(&engine, "BLMPOP 0 2 {k}a {k}b RIGHT COUNT 2"), "[\"{k}b\" [\"3\" \"2\"]]");
    assert_eq!(run(&engine, "LMPOP 2 {k}a {k}b LEFT"), "[\"{k}b\" [\"1\"]]");
    assert_eq!(run(&engine, "LMPOP 2 {k}a {k}b LEFT"), "(nil)");
}

#[test]
fn who_came_first_is_served_first_by_the_push_itself() {
    let engine = engine();
    let (one, two) = (wait(&engine, "BLPOP q 0"), wait(&engine, "BRPOP q 1.5"));
    assert_eq!((one.timeout, two.timeout), (None, Some(Duration::from_millis(1500))));
    assert_eq!(run(&engine, "RPUSH q a"), "1");
    assert_eq!(one.reply().unwrap(), "[\"q\" \"a\"]");
    assert_eq!((one.woken.load(Ordering::Relaxed), two.woken.load(Ordering::Relaxed)), (1, 0));
    assert_eq!(two.reply(), None);
    assert_eq!(run(&engine, "EXISTS q"), "0");
    assert_eq!(run(&engine, "RPUSH q b c"), "2");
    assert_eq!(two.reply().unwrap(), "[\"q\" \"c\"]");
    assert_eq!(run(&engine, "LRANGE q 0 -1"), "[\"b\"]");
    assert_eq!(engine.waiting(), 0);
}

#[test]
fn each_pop_is_a_record_behind_the_push_and_copies_agree() {
    let (primary, copy) = (engine(), engine());
    let waiting = wait(&primary, "BLPOP q 0");
    run(&primary, "RPUSH q a b");
    let served = waiting.waiter.take().unwrap();
    assert_eq!((served.after, served.wrote), (Seq(2), true));
    replicate(&primary, &copy);
    assert_eq!(digests(&primary), digests(&copy));
    assert_eq!(run(&copy, "LRANGE q 0 -1"), "[\"b\"]");
}

#[test]
fn a_transaction_hands_out_what_it_brought_once_it_is_done() {
    let engine = engine();
    let waiting = wait(&engine, "BLPOP {k}a {k}b 0");
    let lines = ["RPUSH {k}b 1", "RPUSH {k}a 2", "LLEN {k}b", "BLPOP {k}none 0"].map(words);
    let args: Vec<Vec<&[u8]>> = lines.iter().map(|line| line.iter().map(Vec::as_slice).collect()).collect();
    let queued: Vec<Queued<'_>> = args.iter().map(|args| Queued { spec: lookup(args[0]).unwrap(), args }).collect();
    let mut reply = ReplyBuf::default();
    let ctx = Ctx { now: NOW, db: 0, permit: &|_| true };
    let executed = engine.execute_transaction(&queued, &[], &ctx, &mut |_, _| None, &mut reply);
    assert_eq!(executed, Executed::Replied { after: Seq(1), wrote: true });
    assert_eq!(show(reply.as_bytes()), "[1 1 1 (nil)]", "it never waits");
    assert_eq!(waiting.reply().unwrap(), "[\"{k}a\" \"2\"]", "its own order of keys counts");
    assert_eq!(run(&engine, "LLEN {k}b"), "1");
}

#[test]
fn data_of_another_kind_leaves_it_waiting_and_the_next_one_is_asked() {
    let engine = engine();
    let (list, set) = (wait(&engine, "BLPOP k 0"), wait(&engine, "BZPOPMIN k 0"));
    run(&engine, "ZADD k 1.5 m 2 n");
    assert_eq!(list.reply(), None);
    assert_eq!(set.reply().unwrap(), "[\"k\" \"m\" \"1.5\"]");
    run(&engine, "DEL k");
    run(&engine, "RPUSH k x");
    assert_eq!(list.reply().unwrap(), "[\"k\" \"x\"]");
}

#[test]
fn a_destination_of_the_wrong_kind_is_told_when_there_is_something_to_move() {
    let engine = engine();
    run(&engine, "SET {k}to string");
    let waiting = wait(&engine, "BLMOVE {k}from {k}to LEFT LEFT 0");
    run(&engine, "RPUSH {k}from x");
    assert_eq!(waiting.reply().unwrap(), "(error) WRONGTYPE Operation against a key holding the wrong kind of value");
    assert_eq!(run(&engine, "LRANGE {k}from 0 -1"), "[\"x\"]");
}

#[test]
fn a_chain_of_moves_is_served_to_its_end() {
    let engine = engine();
    let first = wait(&engine, "BLMOVE {k}a {k}b LEFT LEFT 0");
    let second = wait(&engine, "BRPOPLPUSH {k}b {k}c 0");
    let third = wait(&engine, "BLPOP {k}c 0");
    run(&engine, "RPUSH {k}a x");
    assert_eq!(first.reply().unwrap(), "\"x\"");
    assert_eq!(second.reply().unwrap(), "\"x\"");
    assert_eq!(third.reply().unwrap(), "[\"{k}c\" \"x\"]");
    assert_eq!(engine.key_count(), 0);
}

#[test]
fn a_read_of_streams_waits_for_what_comes_behind_their_end_as_it_was() {
    let engine = engine();
    run(&engine, "XADD {k}a 1-1 f old");
    assert_eq!(at_once(&engine, "XREAD STREAMS {k}a $"), "(nil)", "without BLOCK");
    assert_eq!(at_once(&engine, "XREAD BLOCK 0 STREAMS {k}a 0"), "[[\"{k}a\" [[\"1-1\" [\"f\" \"old\"]]]]]");
    let all = [0, 1].map(|_| wait(&engine, "XREAD BLOCK 1500 COUNT 2 STREAMS {k}none {k}a $ $"));
    assert_eq!((all[0].timeout, engine.waiting()), (Some(Duration::from_millis(1500)), 4));
    run(&engine, "XADD {k}a 2-1 f new");
    for waiting in all {
        assert_eq!(waiting.reply().unwrap(), "[[\"{k}a\" [[\"2-1\" [\"f\" \"new\"]]]]]");
    }
    assert_eq!(engine.waiting(), 0);
}

#[test]
fn of_a_group_one_consumer_gets_what_comes_and_copies_know_of_it() {
    let (primary, copy) = (engine(), engine());
    run(&primary, "XGROUP CREATE s g $ MKSTREAM");
    let one = wait(&primary, "XREADGROUP GROUP g one BLOCK 0 STREAMS s >");
    let two = wait(&primary, "XREADGROUP GROUP g two BLOCK 0 STREAMS s >");
    run(&primary, "XADD s 1-1 f v");
    assert_eq!(one.reply().unwrap(), "[[\"s\" [[\"1-1\" [\"f\" \"v\"]]]]]");
    assert_eq!(two.reply(), None);
    replicate(&primary, &copy);
    assert_eq!(digests(&primary), digests(&copy));
    run(&primary, "XGROUP DESTROY s g");
    assert!(two.reply().unwrap().starts_with("(error) NOGROUP"));
}

#[test]
fn a_consumer_that_acknowledges_nothing_is_seen_but_not_active() {
    let engine = engine();
    run(&engine, "XADD s 1-1 f v");
    run(&engine, "XGROUP CREATE s g 0");
    assert_ne!(run(&engine, "XREADGROUP GROUP g c NOACK STREAMS s >"), "(nil)");
    assert!(
        run(&engine, "XINFO CONSUMERS s g").ends_with("\"inactive\" -1]]"),
        "{}",
        run(&engine, "XINFO CONSUMERS s g")
    );
}

#[test]
fn keys_in_other_lanes_are_served_too_with_cluster_mode_off() {
    let engine = Engine::new(EngineConfig { cluster_mode: false, ..EngineConfig::default() });
    let (moves, pops) = (wait(&engine, "BLMOVE from to LEFT LEFT 0"), wait(&engine, "BRPOP low from high 0"));
    let far = wait(&engine, "BLPOP to 0");
    run(&engine, "RPUSH from 1 2");
    assert_eq!(moves.reply().unwrap(), "\"1\"");
    assert_eq!(pops.reply().unwrap(), "[\"from\" \"2\"]");
    assert_eq!(far.reply().unwrap(), "[\"to\" \"1\"]");
    assert_eq!((engine.key_count(), engine.waiting()), (0, 0));
}

#[test]
fn who_has_withdrawn_is_not_served() {
    let engine = engine();
    let (one, two) = (wait(&engine, "BLPOP q r{q} 0"), wait(&engine, "BLPOP q 0"));
    assert_eq!(engine.withdraw(&one.waiter), None);
    run(&engine, "RPUSH q x");
    assert_eq!(one.reply(), None);
    assert_eq!(
        engine.withdraw(&two.waiter).map(|served| show(&served.reply)).unwrap(),
        "[\"q\" \"x\"]",
        "it came first"
    );
    assert_eq!(engine.waiting(), 0);
}

#[test]
fn nobody_is_served_without_a_permit_to_write() {
    let engine = engine();
    let waiting = wait(&engine, "BLPOP q 0");
    let copy_of = common::engine();
    run(&copy_of, "RPUSH q x");
    replicate(&copy_of, &engine);
    assert_eq!(run(&engine, "LLEN q"), "1");
    assert_eq!(waiting.reply(), None, "a copy serves nobody");
}

#[test]
fn every_push_finds_its_waiter_whichever_threads_they_come_from() {
    const EACH: usize = 2_000;
    let engine = Arc::new(engine());
    let got = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..EACH {
                    match attempt(&engine, "BLPOP q 0", Protocol::Resp3) {
                        Err(_) => {}
                        Ok(waiting) => {
                            while waiting.reply().is_none() {
                                std::thread::yield_now();
                            }
                        }
                    }
                    got.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| (0..2 * EACH).for_each(|_| drop(run(&engine, "RPUSH q x"))));
    });
    assert_eq!((got.into_inner(), engine.key_count(), engine.waiting()), (2 * EACH, 0, 0));
}

#[test]
fn wrong_arguments_are_refused_at_once() {
    let engine = engine();
    assert_eq!(at_once(&engine, "BLPOP q x"), "(error) ERR timeout is not a float or out of range");
    assert_eq!(at_once(&engine, "BLPOP q -1"), "(error) ERR timeout is negative");
    assert_eq!(at_once(&engine, "BLMOVE a{q} b{q} UP LEFT 0"), "(error) ERR syntax error");
    assert_eq!(at_once(&engine, "BLMPOP 0 0 q LEFT"), "(error) ERR numkeys should be greater than 0");
    run(&engine, "SET q x");
    assert_eq!(
        at_once(&engine, "BZPOPMIN q 0"),
        "(error) WRONGTYPE Operation against a key holding the wrong kind of value"
    );
    assert_eq!(run(&engine, "BLPOP none 0"), "(nil)", "executed as in a transaction");
}
