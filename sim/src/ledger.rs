//! What clients were told, and whether one history explains it all.
//!
//! Two kinds of keys suffice. A *counter* is incremented by everybody: its replies must all differ, must grow along
//! with real time, and must never exceed the increments that were begun. A *register* is written by one client alone,
//! with growing numbers: a read must return one that was written, none older than what was acknowledged before the read
//! began, and none older than what an earlier read returned. Both are exact: a history of such operations is
//! linearizable if and only if these hold. A write whose outcome is unknown may take effect at any later time; a
//! register is given up after one, so that no such write can come between.

use std::collections::{BTreeMap, BTreeSet};

use ringmaster_ring::{Seq, ShardEpoch, ShardId};

use crate::serve::Executing;

/// What a key is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Register,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Increment,
    /// Writes this number.
    Set(u64),
    Get,
}

/// An operation under way.
#[derive(Clone, Debug)]
pub struct Operation {
    pub key: String,
    pub deed: Deed,
    /// The least value that it may observe.
    floor: u64,
}

#[derive(Debug)]
struct Key {
    shard: ShardId,
    kind: Kind,
    /// The greatest value of any finished operation.
    floor: u64,
    /// The greatest value that any operation begun so far can have led to.
    ceiling: u64,
    acknowledged: u64,
    unknown: u64,
    /// Replies to increments.
    replies: BTreeSet<u64>,
}

/// How many operations ended which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub writes: u64,
    pub reads: u64,
    /// Writes of which nobody knows whether they took effect.
    pub unknown: u64,
    /// Answers that a client of a healthy cluster must not see: nobody serves the key, or the connection broke.
    pub errors: u64,
    pub redirects: u64,
}

/// All keys of one run.
#[derive(Debug, Default)]
pub struct Ledger {
    keys: BTreeMap<String, Key>,
    /// Who holds each number of acknowledged writes.
    numbers: BTreeMap<(ShardId, ShardEpoch, Seq), String>,
    /// How often each shard lost its data.
    eras: BTreeMap<ShardId, u32>,
    counts: Counts,
    violations: Vec<String>,
}

impl Ledger {
    /// Part of the names of a shard's keys. After a loss they are others, so that what was under way confuses nobody.
    #[must_use]
    pub fn era(&self, shard: ShardId) -> u32 {
        self.eras.get(&shard).copied().unwrap_or(0)
    }

    /// Every key, for a last look.
    #[must_use]
    pub fn keys(&self) -> Vec<(String, ShardId, Kind)> {
        self.keys.iter().map(|(name, key)| (name.clone(), key.shard, key.kind)).collect()
    }

    /// Begins an operation.
    pub fn begin(&mut self, key: &str, kind: Kind, shard: ShardId, deed: Deed) -> Operation {
        let entry = self.keys.entry(key.to_owned()).or_insert_with(|| Key {
            shard,
            kind,
            floor: 0,
            ceiling: 0,
            acknowledged: 0,
            unknown: 0,
            replies: BTreeSet::new(),
        });
        match deed {
            Deed::Increment => entry.ceiling += 1,
            Deed::Set(number) => entry.ceiling = entry.ceiling.max(number),
            Deed::Get => {}
        }
        Operation { key: key.to_owned(), deed, floor: entry.floor }
    }

    /// It was not executed, and never will be.
    pub fn withdraw(&mut self, operation: &Operation) {
        if let (Some(key), Deed::Increment) = (self.keys.get_mut(&operation.key), operation.deed) {
            key.ceiling = key.ceiling.saturating_sub(1);
        }
    }

    /// Nobody will know whether it took effect.
    pub fn give_up(&mut self, operation: &Operation) {
        if operation.deed != Deed::Get {
            self.counts.unknown += 1;
            if let Some(key) = self.keys.get_mut(&operation.key) {
                key.unknown += 1;
            }
        }
    }

    /// A client saw what a client of a healthy cluster does not see.
    pub fn note_error(&mut self) {
        self.counts.errors += 1;
    }

    pub fn note_redirect(&mut self) {
        self.counts.redirects += 1;
    }

    /// It was answered with `value`, which for a `Set` is what was written.
    pub(crate) fn complete(&mut self, operation: &Operation, value: u64, executed: &Executing) {
        let Operation { key: name, deed, floor } = operation;
        let Some(key) = self.keys.get_mut(name) else { return };
        let mut wrong = Vec::new();
        match deed {
            Deed::Increment => {
                self.counts.writes += 1;
                key.acknowledged += 1;
                if value <= *floor {
                    wrong.push(format!("an increment returned {value}, after {floor} had been seen"));
                }
                if !key.replies.insert(value) {
                    wrong.push(format!("two increments returned {value}"));
                }
            }
            Deed::Set(_) => {
                self.counts.writes += 1;
                key.acknowledged += 1;
            }
            Deed::Get => {
                self.counts.reads += 1;
                if value < *floor {
                    wrong.push(format!("a read returned {value}, after {floor} had been seen"));
                }
            }
        }
        if value > key.ceiling {
            wrong.push(format!("{value} was seen, but only {} can have been written", key.ceiling));
        }
        key.floor = key.floor.max(value);
        let Executing { by, shard, epoch, after, wrote, .. } = executed;
        if *wrote {
            let what = format!("{name} {deed:?} = {value} by {by:?}");
            if let Some(other) = self.numbers.insert((*shard, *epoch, *after), what.clone()) {
                wrong.push(format!(
                    "two acknowledged writes have number {epoch}:{after} in shard {shard}: {other}; {what}"
                ));
            }
        }
        self.violations.extend(wrong.into_iter().map(|wrong| format!("{name} {deed:?} answered by {by:?}: {wrong}")));
    }

    /// The shard lost its data, as the ring declared: what it was told before binds nobody any more.
    pub fn shard_lost(&mut self, shard: ShardId) {
        *self.eras.entry(shard).or_default() += 1;
        self.keys.retain(|_, key| key.shard != shard);
        self.numbers.retain(|(of, ..), _| *of != shard);
    }

    /// Compares a key's last value, read when nothing was under way any more, with the whole history.
    pub fn settle(&mut self, name: &str, value: u64) {
        let Some(key) = self.keys.get(name) else { return };
        let most = match key.kind {
            Kind::Counter => key.acknowledged + key.unknown,
            Kind::Register => key.ceiling,
        };
        let least = match key.kind {
            Kind::Counter => key.acknowledged.max(key.floor),
            Kind::Register if key.unknown > 0 => 0,
            Kind::Register => key.floor,
        };
        if value < least || value > most {
            self.violations.push(format!(
                "{name} is {value} at rest: {} acknowledged, {} unknown, {} seen",
                key.acknowledged, key.unknown, key.floor
            ));
        }
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What no history explains, once.
    pub fn take_violations(&mut self) -> Vec<String> {
        std::mem::take(&mut self.violations)
    }
}

#[cfg(test)]
mod tests {
    use ringmaster_ring::{BootId, Holder, MemberId};

    use super::*;

    fn executed(seq: u64, wrote: bool) -> Executing {
        Executing {
            bytes: Vec::new(),
            by: Holder { member: MemberId(1), boot: BootId(1) },
            shard: ShardId(0),
            epoch: ShardEpoch(1),
            after: Seq(seq),
            wrote,
        }
    }

    #[test]
    fn a_lost_increment_shows_at_the_next_one() {
        let mut ledger = Ledger::default();
        for (seq, reply) in [(1, 1), (2, 1)] {
            let increment = ledger.begin("c", Kind::Counter, ShardId(0), Deed::Increment);
            ledger.complete(&increment, reply, &executed(seq, true));
        }
        assert_eq!(ledger.take_violations().len(), 2, "it did not grow, and was given twice");
    }

    #[test]
    fn an_increment_that_ran_twice_shows_in_the_reply() {
        let mut ledger = Ledger::default();
        let increment = ledger.begin("c", Kind::Counter, ShardId(0), Deed::Increment);
        ledger.complete(&increment, 2, &executed(2, true));
        assert_eq!(ledger.take_violations().len(), 1);
    }

    #[test]
    fn a_stale_read_shows_and_a_concurrent_one_does_not() {
        let mut ledger = Ledger::default();
        let early = ledger.begin("r", Kind::Register, ShardId(0), Deed::Get);
        let write = ledger.begin("r", Kind::Register, ShardId(0), Deed::Set(1));
        ledger.complete(&write, 1, &executed(1, true));
        ledger.complete(&early, 0, &executed(0, false));
        assert!(ledger.take_violations().is_empty(), "it began before the write was acknowledged");
        let late = ledger.begin("r", Kind::Register, ShardId(0), Deed::Get);
        ledger.complete(&late, 0, &executed(0, false));
        assert_eq!(ledger.take_violations().len(), 1);
    }

    #[test]
    fn two_writers_show_in_the_numbers_of_their_writes() {
        let mut ledger = Ledger::default();
        for key in ["a", "b"] {
            let write = ledger.begin(key, Kind::Register, ShardId(0), Deed::Set(1));
            ledger.complete(&write, 1, &executed(7, true));
        }
        assert_eq!(ledger.take_violations().len(), 1);
    }

    #[test]
    fn at_rest_unknown_increments_may_count_or_not() {
        for (value, fine) in [(0, false), (1, true), (2, true), (3, false)] {
            let mut ledger = Ledger::default();
            let known = ledger.begin("c", Kind::Counter, ShardId(0), Deed::Increment);
            ledger.complete(&known, 1, &executed(1, true));
            let unknown = ledger.begin("c", Kind::Counter, ShardId(0), Deed::Increment);
            ledger.give_up(&unknown);
            ledger.settle("c", value);
            assert_eq!(ledger.take_violations().is_empty(), fine, "{value}");
        }
    }
}
