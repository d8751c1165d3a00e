//! Expiry, eviction, accounts, permits, transactions.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test ends where its claim does")]

mod common;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{NOW, always, digests, engine, replicate, run, run_at, words};
use proptest::prelude::*;
use ringmaster_engine::{
    Access, Ctx, Engine, EngineConfig, Eviction, Executed, Protocol, Queued, ReplyBuf, UnixMs, lookup,
};
use ringmaster_ring::{Seq, Slot};

fn later(ms: u64) -> UnixMs {
    UnixMs(NOW.0 + ms)
}

#[test]
fn expired_keys_are_hidden_at_once_and_deleted_by_a_record() {
    let (primary, copy) = (engine(), engine());
    run(&primary, "SET a 1 PX 100");
    run(&primary, "HSET h f v");
    run(&primary, "PEXPIRE h 50");
    replicate(&primary, &copy);
    let after = later(200);
    for side in [&primary, &copy] {
        assert_eq!(run_at(side, "GET a", after), "(nil)");
        assert_eq!(run_at(side, "HGET h f", after), "(nil)");
        assert_eq!(run_at(side, "EXISTS a h", after), "0");
        assert_eq!(side.key_count(), 2, "reading deletes nothing");
    }
    assert_eq!(primary.log().end().seq, Seq(3));
    assert_eq!(primary.expire_cycle(after, 1000, &always), 2);
    replicate(&primary, &copy);
    assert_eq!((primary.key_count(), copy.key_count()), (0, 0));
}

#[test]
fn a_write_on_an_expired_key_finds_nothing_there() {
    let (primary, copy) = (engine(), engine());
    run(&primary, "SET a 41 PX 100");
    run(&primary, "HSET h old v");
    run(&primary, "PEXPIRE h 100");
    let after = later(100);
    assert_eq!(run_at(&primary, "INCR a", after), "1");
    assert_eq!(run_at(&primary, "HSET h new v", after), "1");
    assert_eq!(run_at(&primary, "HGETALL h", after), "[\"new\" \"v\"]");
    assert_eq!(run_at(&primary, "TTL h", after), "-1");
    assert_eq!(run_at(&primary, "TTL a", after), "-1");
    replicate(&primary, &copy);
    assert_eq!(digests(&copy), digests(&primary));
}

#[test]
fn an_expiry_cycle_keeps_to_its_budget_and_gets_to_the_end() {
    let engine = engine();
    for n in 0..3000 {
        run(&engine, &format!("SET {{one}}{n} v PX {}", 1000 + n));
        run(&engine, &format!("SET {{one}}stays{n} v"));
    }
    let (mut gone, mut cycles) = (0, 0);
    while gone < 3000 {
        let now = engine.expire_cycle(later(10_000), 100, &always);
        assert!(now <= 100);
        gone += now;
        cycles += 1;
        assert!(cycles < 200, "{gone} after {cycles} cycles");
    }
    assert_eq!(engine.key_count(), 3000);
    assert_eq!(engine.expire_cycle(later(20_000), 100_000, &always), 0);
}

#[test]
fn without_a_permit_nothing_expires_is_evicted_or_happens() {
    let engine = Engine::new(EngineConfig { eviction: Eviction::AllKeysLru, ..EngineConfig::default() });
    run(&engine, "SET a 1 PX 1");
    engine.set_maxmemory(1, Eviction::AllKeysLru);
    let never = |_: Access| false;
    assert_eq!(engine.expire_cycle(later(100), 100, &never), 0);
    assert_eq!(engine.evict_cycle(later(100), 100, &never), 0);
    let (digests_before, end) = (digests(&engine), engine.log().end());
    for line in ["SET a 2", "GET a", "SCAN 0", "FLUSHALL", "DBSIZE", "KEYS *", "RANDOMKEY", "MSET {a}1 1 {a}2 2"] {
        let args = words(line);
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        let mut reply = ReplyBuf::new(Protocol::Resp2);
        let ctx = Ctx { now: NOW, db: 0, permit: &never };
        let executed = engine.execute(lookup(args[0]).unwrap(), &args, &ctx, &mut reply);
        assert_eq!(executed, Executed::NotPermitted, "{line}");
        assert!(reply.is_empty(), "{line}");
    }
    assert_eq!((digests(&engine), engine.log().end()), (digests_before, end));
}

#[test]
fn the_permit_is_asked_for_what_the_command_does() {
    let engine = engine();
    let asked = Cell::new(None);
    let permit = |access| {
        asked.set(Some(access));
        true
    };
    for (line, expected) in [
        ("GET a", Some(Access::Read)),
        ("SET a 1", Some(Access::Write)),
        ("SCAN 0", Some(Access::Read)),
        ("ECHO hi", None),
    ] {
        asked.set(None);
        let args = words(line);
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        let ctx = Ctx { now: NOW, db: 0, permit: &permit };
        engine.execute(lookup(args[0]).unwrap(), &args, &ctx, &mut ReplyBuf::new(Protocol::Resp2));
        assert_eq!(asked.get(), expected, "{line}");
    }
}

#[test]
fn a_reply_waits_for_the_last_write_of_its_lane_only() {
    let engine = engine();
    let executed = |line: &str| common::execute(&engine, &words(line), NOW, Protocol::Resp2).0;
    let other = (0..)
        .map(|n| format!("k{n}"))
        .find(|k| Slot::of_key(k.as_bytes()).number().abs_diff(Slot::of_key(b"a").number()) > 64)
        .unwrap();
    assert_eq!(executed("GET a"), Executed::Replied { after: Seq(0), wrote: false });
    assert_eq!(executed("SET a 1"), Executed::Replied { after: Seq(1), wrote: true });
    assert_eq!(executed(&format!("SET {other} 1")), Executed::Replied { after: Seq(2), wrote: true });
    assert_eq!(executed("GET a"), Executed::Replied { after: Seq(1), wrote: false });
    assert_eq!(executed(&format!("GET {other}")), Executed::Replied { after: Seq(2), wrote: false });
    assert_eq!(executed("DBSIZE"), Executed::Replied { after: Seq(2), wrote: false });
    assert_eq!(executed("DEL nothing"), Executed::Replied { after: executed_after(&engine, "nothing"), wrote: false });
}

fn executed_after(engine: &Engine, key: &str) -> Seq {
    match common::execute(engine, &words(&format!("GET {key}")), NOW, Protocol::Resp2).0 {
        Executed::Replied { after, .. } => after,
        Executed::NotPermitted => panic!(),
    }
}

#[test]
fn appends_wake_the_listener_once_the_lanes_are_free() {
    let engine = Arc::new(engine());
    let woken = Arc::new(AtomicUsize::new(0));
    let (held, counter) = (Arc::downgrade(&engine), Arc::clone(&woken));
    engine.log().on_append(Box::new(move |_| {
        // Would wait for ever if a lane were still held.
        held.upgrade().unwrap().barrier();
        counter.fetch_add(1, Ordering::Relaxed);
    }));
    run(&engine, "SET a 1 PX 5");
    run(&engine, "GET a");
    run(&engine, "DEL nothing");
    assert_eq!(woken.load(Ordering::Relaxed), 1);
    engine.expire_cycle(later(10), 100, &always);
    assert_eq!(woken.load(Ordering::Relaxed), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn memory_is_given_back_to_the_last_byte(commands in prop::collection::vec((0u8..12, 0u16..300, 0u16..30, 0usize..200), 0..600)) {
        let engine = engine();
        for (kind, n, key, size) in commands {
            let value = "v".repeat(size);
            run(&engine, &match kind {
                0 => format!("SET s{key} x{value}"),
                1 => format!("APPEND s{key} x{value}"),
                2 => format!("HSET h{} f{n} x{value}", key % 2),
                3 => format!("HDEL h{} f{n}", key % 2),
                4 => format!("ZADD z{} {n} m{n}{value}", key % 2),
                5 => format!("ZREM z{} m{n}", key % 2),
                6 => format!("SADD t{} m{n}{value}", key % 2),
                7 => format!("LPUSH l{key} x{value}"),
                8 => format!("RPOP l{key} 3"),
                9 => format!("PEXPIRE s{key} 10000"),
                10 => format!("RENAME {{r}}{key} {{r}}{n}"),
                _ => format!("SET {{r}}{key} 12345"),
            });
        }
        prop_assert_eq!(engine.used_bytes() > 0, engine.key_count() > 0);
        while engine.key_count() > 0 {
            let key = run(&engine, "RANDOMKEY");
            prop_assert_eq!(run(&engine, &format!("DEL {key}")), "1");
        }
        prop_assert_eq!(engine.used_bytes(), 0);
        prop_assert_eq!(engine.volatile_key_count(), 0);
    }
}

#[test]
fn flushing_and_clearing_give_everything_back() {
    let engine = engine();
    for n in 0..100 {
        run(&engine, &format!("HSET h{n} a b"));
    }
    run(&engine, "FLUSHALL ASYNC");
    assert_eq!((engine.used_bytes(), engine.key_count()), (0, 0));
    assert!(!engine.take_dropped().is_empty());
    assert!(engine.take_dropped().is_empty());
    run(&engine, "SET a 1");
    assert!(!engine.clear().is_empty());
    assert_eq!((engine.used_bytes(), engine.key_count(), engine.log().end().seq), (0, 0, Seq(0)));
}

#[test]
fn what_is_large_is_dropped_elsewhere() {
    let engine = engine();
    let members: Vec<String> = (0..300).map(|n| format!("m{n}")).collect();
    for line in ["DEL large", "SET large 1"] {
        run(&engine, &format!("SADD large {}", members.join(" ")));
        assert!(engine.take_dropped().is_empty());
        run(&engine, line);
        assert!(!engine.take_dropped().is_empty(), "{line}");
    }
    run(&engine, "DEL large");
    run(&engine, "SET small 1");
    run(&engine, "DEL small");
    assert!(engine.take_dropped().is_empty());
    assert_eq!(engine.used_bytes(), 0);
}

#[test]
fn without_eviction_a_full_engine_refuses_writes_that_need_memory() {
    let engine = engine();
    run(&engine, "SET a 1");
    run(&engine, "HSET h f v");
    engine.set_maxmemory(10, Eviction::NoEviction);
    let refused = "(error) OOM command not allowed when used memory > 'maxmemory'.";
    assert_eq!(run(&engine, "SET b 1"), refused);
    assert_eq!(run(&engine, "HSET h g v"), refused);
    assert_eq!(run(&engine, "GET a"), "\"1\"");
    assert_eq!(run(&engine, "HDEL h f"), "1");
    assert_eq!(run(&engine, "DEL a"), "1");
    assert_eq!(run(&engine, "SET b 1"), "OK");
}

fn fill(eviction: Eviction, keys: u64) -> Engine {
    let limit = 200_000;
    let engine = Engine::new(EngineConfig { maxmemory_bytes: limit, eviction, ..EngineConfig::default() });
    for n in 0..keys {
        let line = if n % 2 == 0 { format!("SET k{n} {n} EX {}", 1000 + n) } else { format!("SET k{n} {n}") };
        let reply = run_at(&engine, &line, UnixMs(NOW.0 + n * 1000));
        assert!(reply == "OK" || reply.contains("OOM"), "{reply}");
        assert!(engine.used_bytes() <= limit + limit / 16 + 1000);
        engine.evict_cycle(UnixMs(NOW.0 + n * 1000), 2, &always);
    }
    engine
}

#[test]
fn every_policy_that_may_evict_all_keys_takes_all_writes() {
    for eviction in [Eviction::AllKeysLru, Eviction::AllKeysLfu, Eviction::AllKeysRandom] {
        let engine = fill(eviction, 5000);
        assert!(engine.key_count() > 500, "{eviction}: {}", engine.key_count());
        assert_eq!(run(&engine, "SET another 1"), "OK");
    }
}

#[test]
fn volatile_policies_leave_keys_without_expiry_alone() {
    for eviction in [Eviction::VolatileLru, Eviction::VolatileLfu, Eviction::VolatileRandom, Eviction::VolatileTtl] {
        let engine = fill(eviction, 800);
        for n in (1..800).step_by(2) {
            assert_eq!(run(&engine, &format!("EXISTS k{n}")), "1", "{eviction} k{n}");
        }
    }
}

#[test]
fn lru_keeps_what_is_used() {
    let engine = Engine::new(EngineConfig {
        maxmemory_bytes: 300_000,
        eviction: Eviction::AllKeysLru,
        ..EngineConfig::default()
    });
    for n in 0..100 {
        run(&engine, &format!("SET hot{n} 1"));
    }
    for n in 0..10_000u64 {
        let now = UnixMs(NOW.0 + n * 1000);
        run_at(&engine, &format!("SET cold{n} 1"), now);
        for hot in 0..4 {
            run_at(&engine, &format!("GET hot{}", (n * 4 + hot) % 100), now);
        }
        engine.evict_cycle(now, 4, &always);
    }
    let kept = (0..100).filter(|n| run(&engine, &format!("EXISTS hot{n}")) == "1").count();
    assert!(kept >= 90, "{kept} of 100 hot keys are left");
}

#[test]
fn evictions_are_records() {
    let (primary, copy) = (engine(), engine());
    for n in 0..500 {
        run(&primary, &format!("SET k{n} v"));
    }
    primary.set_maxmemory(primary.used_bytes() / 2, Eviction::AllKeysRandom);
    while primary.evict_cycle(NOW, 10, &always) > 0 {}
    assert!(primary.used_bytes() <= primary.maxmemory_bytes());
    replicate(&primary, &copy);
    assert_eq!(digests(&copy), digests(&primary));
}

fn transact(engine: &Engine, lines: &[&str], watches: &[ringmaster_engine::Watch]) -> (Executed, String) {
    let args: Vec<Vec<Vec<u8>>> = lines.iter().map(|line| words(line)).collect();
    let args: Vec<Vec<&[u8]>> = args.iter().map(|args| args.iter().map(Vec::as_slice).collect()).collect();
    let queued: Vec<Queued<'_>> = args.iter().map(|args| Queued { spec: lookup(args[0]).unwrap(), args }).collect();
    let mut reply = ReplyBuf::new(Protocol::Resp2);
    let ctx = Ctx { now: NOW, db: 0, permit: &|_| true };
    let mut session = |command: &Queued<'_>, reply: &mut ReplyBuf| {
        reply.simple("SESSION");
        (command.spec.name == "select").then_some(1)
    };
    let executed = engine.execute_transaction(&queued, watches, &ctx, &mut session, &mut reply);
    (executed, common::show(reply.as_bytes()))
}

#[test]
fn a_transaction_is_one_record_whatever_it_holds() {
    let (primary, copy) = (engine(), engine());
    let (executed, reply) = transact(
        &primary,
        &["SET {a}1 5", "INCR {a}1", "LPUSH {a}1 x", "PING", "SELECT 1", "SET {a}1 other", "DBSIZE", "GET {a}1"],
        &[],
    );
    let wrong = "(error) WRONGTYPE Operation against a key holding the wrong kind of value";
    assert_eq!(reply, format!("[OK 6 {wrong} SESSION SESSION OK 1 \"other\"]"));
    assert_eq!(executed, Executed::Replied { after: Seq(1), wrote: true });
    assert_eq!(run(&primary, "GET {a}1"), "\"6\"");
    replicate(&primary, &copy);
    assert_eq!(digests(&copy), digests(&primary));
}

#[test]
fn a_transaction_may_ask_about_all_keys() {
    let engine = engine();
    let lines = ["SET a 1", "RANDOMKEY", "KEYS *", "SCAN 0 COUNT 100000", "FLUSHALL", "DBSIZE", "RANDOMKEY"];
    assert_eq!(transact(&engine, &lines, &[]).1, "[OK \"a\" [\"a\"] [\"0\" [\"a\"]] OK 0 (nil)]");
}

#[test]
fn a_transaction_fails_if_a_watched_key_changed() {
    let engine = engine();
    for (line, expected) in
        [("SET a 2", "(nil)"), ("DEL a", "(nil)"), ("FLUSHALL", "(nil)"), ("SET b 2", "[OK]"), ("GET a", "[OK]")]
    {
        run(&engine, "SET a 1");
        let watch = engine.watch(0, b"a", NOW);
        run(&engine, line);
        assert_eq!(transact(&engine, &["SET c 1"], &[watch]).1, expected, "{line}");
    }
    let watch = engine.watch(1, b"a", NOW);
    run(&engine, "SET a 3");
    assert!(!watch.has_changed(NOW), "another database's key of the same name");
    let watch = engine.watch(0, b"none", NOW);
    run(&engine, "FLUSHALL");
    assert!(!watch.has_changed(NOW), "there was nothing to flush");
}

#[test]
fn a_watched_key_that_expires_has_changed_but_one_that_had_expired_has_not() {
    let engine = engine();
    let later = later(10);
    run(&engine, "SET a 1 PX 5");
    let (before, after) = (engine.watch(0, b"a", NOW), engine.watch(0, b"a", later));
    assert!(before.has_changed(later) && !after.has_changed(later), "whether it was taken out or not");
    assert_eq!(engine.expire_cycle(later, 10, &always), 1);
    assert!(before.has_changed(later) && !after.has_changed(later), "it was gone already");
    assert_eq!(run_at(&engine, "SET a 2", later), "OK");
    assert!(after.has_changed(later), "now there is one");
    for line in ["SET a 3", "FLUSHALL"] {
        run_at(&engine, "SET a 1 PX 5", NOW);
        let watch = engine.watch(0, b"a", later);
        run_at(&engine, line, later);
        assert_eq!(watch.has_changed(later), line != "FLUSHALL", "{line}");
    }
}
