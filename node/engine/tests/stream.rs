//! What reaches a copy: through the log, and through a walk with the log beside it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test ends where its claim does")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::writes::command;
use common::{NOW, always, digests, engine, engine_seeded, execute, replicate, run, run_at, words};
use proptest::prelude::*;
use ringmaster_engine::{Batch, Cursor, Engine, Protocol, UnixMs};
use ringmaster_ring::{Position, Seq, ShardEpoch};

#[derive(Clone, Debug)]
enum Step {
    Command(String),
    Flush,
    Time(u32),
    Expire,
    /// The walk goes on by one chunk of about so many bytes.
    Chunk(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => command().prop_map(Step::Command),
        1 => Just(Step::Flush),
        2 => (0u32..3000).prop_map(Step::Time),
        2 => Just(Step::Expire),
        12 => (0usize..2000).prop_map(Step::Chunk),
    ]
}

/// Commands at the list `l`, some of which make something else of it.
fn change_of_list() -> impl Strategy<Value = String> {
    let element = || (0u8..12).prop_map(|n| format!("e{n}"));
    prop_oneof![
        3 => element().prop_map(|e| format!("LPUSH l {e} more")),
        3 => element().prop_map(|e| format!("RPUSH l {e} more")),
        3 => (1u8..5).prop_map(|count| format!("LPOP l {count}")),
        2 => (1u8..5).prop_map(|count| format!("RPOP l {count}")),
        2 => (element(), element()).prop_map(|(pivot, e)| format!("LINSERT l BEFORE {pivot} {e}")),
        2 => (element(), element()).prop_map(|(pivot, e)| format!("LINSERT l AFTER {pivot} {e}")),
        2 => (-30i8..30, element()).prop_map(|(at, e)| format!("LSET l {at} {e}")),
        2 => (-3i8..3, element()).prop_map(|(count, e)| format!("LREM l {count} {e}")),
        1 => (0u8..20, -9i8..0).prop_map(|(start, end)| format!("LTRIM l {start} {end}")),
        1 => Just("LMOVE l l LEFT RIGHT".into()),
        1 => Just("RPOPLPUSH l l".into()),
        1 => Just("LMOVE l {l}other RIGHT LEFT".into()),
        1 => Just("RENAME {l}other l".into()),
        1 => Just("DEL l".into()),
        1 => Just("SET l text".into()),
        1 => Just("HSET l f1 v f2 v f3 v f4 v f5 v".into()),
        1 => Just("HDEL l f1 f2 f3 f4 f5".into()),
        1 => Just("XADD l 3-* f v".into()),
        1 => Just("PERSIST l".into()),
        1 => Just("FLUSHALL".into()),
    ]
}

/// The sender of a walk and its receiver, as the `walk` module describes them.
struct Stream {
    cursor: Cursor,
    sent: Seq,
}

impl Stream {
    fn start(primary: &Engine, copy: &Engine) -> Self {
        let end = primary.log().end();
        copy.log().reset(end);
        Self { cursor: Cursor::start(), sent: end.seq }
    }

    fn chunk(&mut self, primary: &Engine, copy: &Engine, bytes_max: usize) {
        let mut chunk = Vec::new();
        let walked = primary.walk(&self.cursor, self.sent, bytes_max, &mut chunk).unwrap();
        while let Some(batch) = primary.log().read_through(self.sent, walked.at.seq, 500).unwrap() {
            let filtered = primary.filter(&batch, &mut self.cursor).unwrap();
            assert_eq!((filtered.first, filtered.last), (batch.first, batch.last));
            copy.apply(&filtered).unwrap();
            self.sent = batch.last;
        }
        assert_eq!(self.sent, walked.at.seq);
        copy.apply_walk(&chunk).unwrap();
        // A list that took the place of what was on its way is begun anew.
        let place = |cursor: &Cursor| (cursor.slot, cursor.position);
        let is_anew = self.cursor.element > 0 && walked.next.index > 0 && place(&walked.next) == place(&self.cursor);
        assert!(walked.next > self.cursor || is_anew, "a walk gets on");
        self.cursor = walked.next;
    }

    /// Skips lanes in which there is nothing.
    fn skip_empty(&mut self, primary: &Engine, copy: &Engine) {
        while !self.cursor.is_end() && self.cursor.position == 0 && primary.keys_in_slot(self.cursor.slot, 1).is_empty()
        {
            self.chunk(primary, copy, 0);
        }
    }
}

fn perform(primary: &Engine, step: &Step, now: &mut UnixMs) {
    match step {
        Step::Command(line) => drop(execute(primary, &words(line), *now, Protocol::Resp2)),
        Step::Flush => drop(run_at(primary, "FLUSHALL", *now)),
        Step::Time(ms) => now.0 += u64::from(*ms),
        Step::Expire => drop(primary.expire_cycle(*now, 1000, &always)),
        Step::Chunk(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_walk_beside_any_writes_makes_an_identical_copy(
        before in prop::collection::vec(step(), 0..40),
        meanwhile in prop::collection::vec(step(), 0..120),
    ) {
        // The receiver's tables have another seed: only the sender's hash order counts.
        let (primary, copy) = (engine(), engine_seeded(99));
        let mut now = NOW;
        before.iter().for_each(|step| perform(&primary, step, &mut now));
        let mut stream = Stream::start(&primary, &copy);
        for step in &meanwhile {
            match step {
                Step::Chunk(bytes_max) if !stream.cursor.is_end() => {
                    stream.chunk(&primary, &copy, *bytes_max);
                    stream.skip_empty(&primary, &copy);
                }
                step => perform(&primary, step, &mut now),
            }
        }
        while !stream.cursor.is_end() {
            stream.chunk(&primary, &copy, 300);
        }
        replicate(&primary, &copy);
        prop_assert_eq!(digests(&copy), digests(&primary));
        prop_assert_eq!(copy.key_count(), primary.key_count());
    }

    #[test]
    fn a_list_that_changes_between_its_pieces_arrives_as_it_is(
        len in 1usize..60,
        steps in prop::collection::vec((prop::collection::vec(change_of_list(), 0..4), 0usize..80), 1..60),
    ) {
        let (primary, copy) = (engine(), engine_seeded(99));
        let elements: Vec<String> = (0..len).map(|n| format!("e{}", n % 9)).collect();
        run(&primary, &format!("RPUSH l {}", elements.join(" ")));
        run(&primary, "PEXPIRE l 100000");
        let mut stream = Stream::start(&primary, &copy);
        stream.skip_empty(&primary, &copy);
        // The cursor stands in this list, or behind it if it has one element; later perhaps in the other one.
        let here = stream.cursor.position;
        for (changes, bytes_max) in &steps {
            changes.iter().for_each(|line| drop(run(&primary, line)));
            if !stream.cursor.is_end() {
                stream.chunk(&primary, &copy, *bytes_max);
            }
            if let Some(last) = stream.cursor.index.checked_sub(1)
                && stream.cursor.position == here
            {
                let begun = run(&primary, &format!("LRANGE l 0 {last}"));
                prop_assert_eq!(run(&copy, "LRANGE l 0 -1"), begun, "after {:?}", changes);
            }
        }
        while !stream.cursor.is_end() {
            stream.chunk(&primary, &copy, 30);
        }
        replicate(&primary, &copy);
        prop_assert_eq!(digests(&copy), digests(&primary));
    }

    #[test]
    fn a_copy_that_applies_the_log_is_identical_after_every_record(steps in prop::collection::vec(step(), 0..80)) {
        let (primary, copy) = (engine(), engine_seeded(99));
        let mut now = NOW;
        for step in &steps {
            perform(&primary, step, &mut now);
            replicate(&primary, &copy);
        }
        prop_assert_eq!(digests(&copy), digests(&primary));
        prop_assert_eq!(copy.dbsize(0), primary.dbsize(0));
    }
}

#[test]
fn a_large_hash_travels_in_pieces() {
    let (primary, copy) = (engine(), engine_seeded(5));
    for n in 0..1000 {
        run(&primary, &format!("HSET big field-{n} value-{n}"));
    }
    run(&primary, "PEXPIRE big 100000");
    let mut stream = Stream::start(&primary, &copy);
    let (mut pieces, mut n) = (0, 0);
    while !stream.cursor.is_end() {
        stream.chunk(&primary, &copy, 1000);
        if stream.cursor.element > 0 {
            pieces += 1;
            run(&primary, &format!("HSET big field-{n} changed"));
            run(&primary, &format!("HDEL big field-{}", n + 500));
            n += 1;
        }
    }
    assert!(pieces > 10, "{pieces}");
    replicate(&primary, &copy);
    assert_eq!(digests(&copy), digests(&primary));
}

#[test]
fn a_large_stream_travels_in_pieces_and_its_groups_with_the_last() {
    let (primary, copy) = (engine(), engine_seeded(5));
    for ms in 1..1000 {
        run(&primary, &format!("XADD big {ms}-1 field value-{ms}"));
    }
    run(&primary, "XGROUP CREATE big g 0");
    run(&primary, "XREADGROUP GROUP g c COUNT 300 STREAMS big >");
    run(&primary, "PEXPIRE big 100000");
    let mut stream = Stream::start(&primary, &copy);
    let (mut pieces, mut ms) = (0, 1);
    while !stream.cursor.is_end() {
        stream.chunk(&primary, &copy, 1000);
        if stream.cursor.element > 0 {
            pieces += 1;
            run(&primary, &format!("XDEL big {ms}-1 {}-1", ms + 500));
            run(&primary, &format!("XACK big g {}-1", ms + 1));
            run(&primary, "XREADGROUP GROUP g other COUNT 1 STREAMS big >");
            run(&primary, &format!("XTRIM big MAXLEN {}", 990 - ms));
            ms += 2;
        }
    }
    assert!(pieces > 10, "{pieces}");
    replicate(&primary, &copy);
    assert_eq!(digests(&copy), digests(&primary));
}

#[test]
fn a_large_list_travels_in_pieces_while_its_head_is_taken() {
    let (primary, copy) = (engine(), engine_seeded(5));
    for n in 0..1000 {
        run(&primary, &format!("RPUSH big element-{n}"));
    }
    run(&primary, "PEXPIRE big 100000");
    let mut stream = Stream::start(&primary, &copy);
    let mut pieces = 0;
    while !stream.cursor.is_end() {
        stream.chunk(&primary, &copy, 1000);
        if stream.cursor.index > 0 {
            pieces += 1;
            run(&primary, "LPOP big 3");
            run(&primary, "RPUSH big new");
            run(&primary, "LSET big 0 changed");
            run(&primary, "LREM big 1 element-200");
        }
    }
    assert!(pieces > 10, "{pieces}");
    replicate(&primary, &copy);
    assert_eq!(digests(&copy), digests(&primary));
}

#[test]
fn a_queue_in_use_arrives_as_it_is() {
    let (primary, copy) = (engine(), engine_seeded(5));
    for n in 0..20_000 {
        run(&primary, &format!("RPUSH queue job-{n}"));
    }
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let user = scope.spawn(|| {
            // Its end by number is for a walk that fails.
            for n in 0..50_000 {
                if is_over.load(Ordering::Relaxed) {
                    return n;
                }
                run(&primary, &format!("LPUSH queue urgent-{n} urgent"));
                run(&primary, "LPOP queue 3");
                run(&primary, &format!("LINSERT queue AFTER job-{} between", 200 + n));
                run(&primary, &format!("RPUSH queue job-{}", 20_000 + n));
            }
            panic!("the walk did not end");
        });
        let (mut stream, mut pieces) = (Stream::start(&primary, &copy), 0);
        while !stream.cursor.is_end() {
            stream.chunk(&primary, &copy, 4000);
            pieces += u32::from(stream.cursor.index > 0);
        }
        is_over.store(true, Ordering::Relaxed);
        let rounds = user.join().unwrap();
        assert!(pieces > 10 && rounds > 0, "{pieces} pieces beside {rounds} rounds");
    });
    replicate(&primary, &copy);
    assert_eq!(digests(&copy), digests(&primary));
}

#[test]
fn a_chunk_that_comes_again_changes_nothing() {
    let (primary, copy) = (engine(), engine());
    for line in [
        "SET s v EX 100",
        "XADD x 1-1 f v",
        "XGROUP CREATE x g 0",
        "RPUSH l a b c",
        "HSET h a 1 b 2",
        "SADD t a b",
        "ZADD z 1 a 2 b",
    ] {
        run(&primary, line);
    }
    let (mut cursor, mut chunks) = (Cursor::start(), Vec::new());
    while !cursor.is_end() {
        let mut chunk = Vec::new();
        cursor = primary.walk(&cursor, Seq(0), 1000, &mut chunk).unwrap().next;
        chunks.push(chunk);
    }
    chunks.iter().for_each(|chunk| copy.apply_walk(chunk).unwrap());
    // What an attempt that broke off may have left.
    run(&copy, "HSET h left over");
    chunks.iter().for_each(|chunk| copy.apply_walk(chunk).unwrap());
    assert_eq!(digests(&copy), digests(&primary));
}

#[test]
fn a_filtered_batch_is_not_handed_on() {
    let (primary, copy) = (engine(), engine());
    run(&primary, "SET a 1");
    let batch = primary.log().read_after(Seq(0), 1000).unwrap().unwrap();
    copy.apply(&primary.filter(&batch, &mut Cursor::start()).unwrap()).unwrap();
    assert_eq!(copy.log().end(), primary.log().end());
    assert!(copy.log().read_after(Seq(0), 1000).is_err());
    assert_eq!(copy.key_count(), 0);
}

#[test]
fn records_that_do_not_fit_are_refused_and_the_log_stays() {
    let (primary, copy) = (engine(), engine());
    run(&primary, "HSET h f v");
    run(&primary, "HDEL h f");
    let batch = primary.log().read_after(Seq(0), 1000).unwrap().unwrap();
    let without_its_end = Batch { bytes: batch.bytes.slice(..batch.bytes.len() - 1), ..batch.clone() };
    assert!(copy.apply(&without_its_end).is_err());
    let miscounted = Batch { last: Seq(3), ..batch.clone() };
    assert!(copy.apply(&miscounted).is_err());
    run(&copy, "SET h text");
    copy.log().reset(Position::default());
    assert!(copy.apply(&batch).is_err());
    assert_eq!(copy.log().end(), Position::default());
}

#[test]
fn positions_carry_the_epoch_that_appended() {
    let engine = engine();
    run(&engine, "SET a 1");
    engine.log().begin_epoch(ShardEpoch(7));
    assert_eq!(engine.log().end(), Position { epoch: ShardEpoch(0), seq: Seq(1) });
    run(&engine, "SET a 2");
    assert_eq!(engine.log().end(), Position { epoch: ShardEpoch(7), seq: Seq(2) });
}
