//! One execution: the lanes it holds, what it reads and changes there, and the record of that.

use std::ops::{ControlFlow, Deref, DerefMut};
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use ringmaster_ring::{Seq, Slot};

use super::{Access, Cause, Changed, Ctx, Engine, Eviction, Located, Permit, Wait, What};
use crate::commands::CommandError;
use crate::keyspace::{
    Entry, HashRef, Key, LANE_COUNT, Lane, List, Rng, Set, SortedSet, Stream, Usage, ValueRef, lane_of,
};
use crate::record::{Change, Effect};
use crate::time::UnixMs;

/// A lane that is held. Letting it go brings the engine's accounts up to date.
pub(crate) struct HeldLane<'e> {
    engine: &'e Engine,
    pub(super) number: usize,
    guard: MutexGuard<'e, Lane>,
    used_bytes_before: usize,
}

impl<'e> HeldLane<'e> {
    pub(super) fn new(engine: &'e Engine, number: usize, guard: MutexGuard<'e, Lane>) -> Self {
        let used_bytes_before = guard.used_bytes();
        Self { engine, number, guard, used_bytes_before }
    }

    /// Tells the engine what has changed so far.
    pub(super) fn settle(&mut self) {
        let used_bytes = self.guard.used_bytes();
        let (before, after) = (self.used_bytes_before as u64, used_bytes as u64);
        if after > before {
            self.engine.used_bytes.fetch_add(after - before, Ordering::Relaxed);
        } else if after < before {
            self.engine.used_bytes.fetch_sub(before - after, Ordering::Relaxed);
        }
        self.used_bytes_before = used_bytes;
    }
}

impl Drop for HeldLane<'_> {
    fn drop(&mut self) {
        self.settle();
        if !self.guard.garbage.is_empty() {
            let garbage = std::mem::take(&mut self.guard.garbage);
            self.engine.garbage.lock().unwrap_or_else(PoisonError::into_inner).append(garbage);
        }
    }
}

impl Deref for HeldLane<'_> {
    type Target = Lane;
    fn deref(&self) -> &Lane {
        &self.guard
    }
}

impl DerefMut for HeldLane<'_> {
    fn deref_mut(&mut self) -> &mut Lane {
        &mut self.guard
    }
}

/// One execution. Commands read entries through it and change them through [`Txn::apply`], which is also how the record comes about.
pub(crate) struct Txn<'e> {
    pub(crate) engine: &'e Engine,
    pub(crate) now: UnixMs,
    pub(crate) db: u8,
    permit: Permit<'e>,
    /// The slot of every key that is touched, where that is known beforehand.
    pub(super) slot: Option<Slot>,
    /// In ascending order of their numbers. Nearly always one, which needs no allocation.
    first: Option<HeldLane<'e>>,
    others: Vec<HeldLane<'e>>,
    /// A key of which that is known already, by where its name lies.
    known: Option<Known>,
    /// The highest sequence of lanes that were visited and let go.
    visited: Seq,
    /// Whether anything was appended to the log, be it for evictions: then those who wait for records are to be woken.
    pub(super) appended: bool,
    /// The command that runs, and whether it told of a change that more of the same would repeat.
    command: &'static str,
    told: Option<(Box<[u8]>, What)>,
    /// What the command that ran last would wait for.
    pub(crate) wait: Option<Wait>,
}

/// A key's name by its place in memory, and what was found out about it.
#[derive(Clone, Copy)]
struct Known {
    at: usize,
    len: usize,
    located: Located,
}

impl<'e> Txn<'e> {
    pub(super) fn new(engine: &'e Engine, mut lanes: impl Iterator<Item = HeldLane<'e>>, ctx: &Ctx<'e>) -> Self {
        let first = lanes.next();
        Self::with(engine, first, lanes.collect(), ctx)
    }

    /// One that holds a single lane, or none.
    #[inline]
    pub(super) fn with(
        engine: &'e Engine,
        first: Option<HeldLane<'e>>,
        others: Vec<HeldLane<'e>>,
        ctx: &Ctx<'e>,
    ) -> Self {
        let Ctx { now, db, permit } = *ctx;
        Self {
            engine,
            now,
            db,
            permit,
            slot: None,
            first,
            others,
            known: None,
            visited: Seq(0),
            appended: false,
            command: "",
            told: None,
            wait: None,
        }
    }

    pub(crate) fn key<'k>(&self, bytes: &'k [u8]) -> Key<'k> {
        self.key_in(self.db, bytes)
    }

    /// What was found out about a key, whose name stays where it is for as long as this lives.
    pub(super) fn know(&mut self, key: &[u8], located: Located) {
        self.known = Some(Known { at: key.as_ptr().addr(), len: key.len(), located });
    }

    /// A key of another database; it is in the lane of its namesakes.
    pub(crate) fn key_in<'k>(&self, db: u8, bytes: &'k [u8]) -> Key<'k> {
        if let Some(Known { at, len, located }) = self.known
            && (at, len, located.db) == (bytes.as_ptr().addr(), bytes.len(), db)
        {
            let key = Key { db, slot: located.slot, hash: located.hash, bytes };
            debug_assert_eq!(key.hash, Key::new(self.engine.seed, db, bytes).hash, "another name in its place");
            return key;
        }
        match self.slot {
            Some(slot) => Key::in_slot(self.engine.seed, db, slot, bytes),
            None => Key::new(self.engine.seed, db, bytes),
        }
    }

    /// The live entry of a key, noted as used.
    pub(crate) fn entry(&mut self, key: &Key<'_>) -> Option<&Entry> {
        let now = self.now;
        self.lane_mut(key).read(key, now)
    }

    /// The live entry of a key, for commands that do not count as its use.
    pub(crate) fn peek(&self, key: &Key<'_>) -> Option<&Entry> {
        self.lane(key).live(key, self.now)
    }

    pub(crate) fn hash(&mut self, key: &Key<'_>) -> Result<Option<HashRef<'_>>, CommandError> {
        match self.entry(key).map(Entry::value) {
            None => Ok(None),
            Some(ValueRef::Hash(hash)) => Ok(Some(hash)),
            Some(_) => Err(CommandError::WrongType),
        }
    }

    pub(crate) fn list(&mut self, key: &Key<'_>) -> Result<Option<&List>, CommandError> {
        match self.entry(key).map(Entry::value) {
            None => Ok(None),
            Some(ValueRef::List(list)) => Ok(Some(list)),
            Some(_) => Err(CommandError::WrongType),
        }
    }

    pub(crate) fn set(&mut self, key: &Key<'_>) -> Result<Option<&Set>, CommandError> {
        match self.entry(key).map(Entry::value) {
            None => Ok(None),
            Some(ValueRef::Set(set)) => Ok(Some(set)),
            Some(_) => Err(CommandError::WrongType),
        }
    }

    pub(crate) fn sorted_set(&mut self, key: &Key<'_>) -> Result<Option<&SortedSet>, CommandError> {
        match self.entry(key).map(Entry::value) {
            None => Ok(None),
            Some(ValueRef::SortedSet(set)) => Ok(Some(set)),
            Some(_) => Err(CommandError::WrongType),
        }
    }

    pub(crate) fn stream(&mut self, key: &Key<'_>) -> Result<Option<&Stream>, CommandError> {
        match self.entry(key).map(Entry::value) {
            None => Ok(None),
            Some(ValueRef::Stream(stream)) => Ok(Some(stream)),
            Some(_) => Err(CommandError::WrongType),
        }
    }

    /// The policy of a key's lane.
    pub(crate) fn eviction(&self, key: &Key<'_>) -> Eviction {
        self.lane(key).eviction
    }

    pub(crate) fn set_usage(&mut self, key: &Key<'_>, usage: Usage) {
        self.lane_mut(key).set_usage(key, usage);
    }

    /// A generator for commands that choose at random.
    pub(crate) fn rng(&mut self) -> Rng {
        Rng::new(match &mut self.first {
            Some(lane) => lane.rng.next(),
            None => self.engine.random(),
        })
    }

    /// Changes a key and records it. The command has checked that the change fits the key's type.
    pub(crate) fn apply(&mut self, key: &Key<'_>, change: &Change<'_>) {
        let now = self.now;
        let lane = self.lane_mut(key);
        // What has expired is gone for every reader, so it must not lend its value or its expiry to what is written now.
        let expired = lane.may_have_expired(now) && lane.entry(key).is_some_and(|entry| entry.is_expired(now));
        if expired && !matches!(change, Change::Put { .. } | Change::Del) {
            self.change(key, &Change::Del);
        }
        self.change(key, change);
    }

    /// Records an effect that is on no key.
    pub(super) fn note(&mut self, effect: &Effect<'_>) {
        // Without lanes nothing is changed.
        debug_assert!(self.first.is_some(), "{effect:?} without a lane");
        if let Some(first) = &mut self.first {
            first.record.push(effect);
        }
    }

    /// Whether anything is to be recorded.
    pub(super) fn has_changed(&self) -> bool {
        self.first.as_ref().is_some_and(|lane| !lane.record.is_empty())
    }

    /// A command runs now.
    pub(super) fn begin_command(&mut self, name: &'static str) {
        self.command = name;
        if self.told.is_some() {
            self.told = None;
        }
    }

    /// Takes out every key of one database, or of all. Every lane is held.
    pub(crate) fn flush(&mut self, db: Option<u8>) {
        if self.engine.observed.is_on() {
            let (cause, db) = (Cause::Command(self.command), db.unwrap_or(u8::MAX));
            self.engine.observed.tell(&Changed { db, key: None, cause, what: What::Other, is_gone: true });
        }
        let now = self.now;
        self.first.iter_mut().chain(&mut self.others).for_each(|lane| lane.flush(db, now));
        self.note(&Effect::Flush { db });
    }

    /// Visits lanes from one on, one at a time unless all are held already, until `visit` breaks.
    pub(crate) fn visit_lanes(
        &mut self,
        first: usize,
        mut visit: impl FnMut(usize, &mut Lane) -> ControlFlow<()>,
    ) -> Result<(), CommandError> {
        for number in first..LANE_COUNT {
            let flow = match self.held_mut(number) {
                Some(lane) => visit(number, lane),
                None => {
                    let lane = self.engine.hold_unless_busy(number);
                    let mut lane = lane.ok_or(CommandError::NotPermitted)?;
                    if !(self.permit)(Access::Read) {
                        return Err(CommandError::NotPermitted);
                    }
                    self.visited = self.visited.max(lane.last_seq);
                    visit(number, &mut lane)
                }
            };
            if flow.is_break() {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn holds_lanes(&self) -> bool {
        self.first.is_some()
    }

    pub(super) fn permits_write(&self) -> bool {
        (self.permit)(Access::Write)
    }

    pub(super) fn held_numbers(&self) -> Vec<usize> {
        self.first.iter().chain(&self.others).map(|lane| lane.number).collect()
    }

    pub(super) fn held_mut(&mut self, number: usize) -> Option<&mut HeldLane<'e>> {
        match &mut self.first {
            Some(first) if first.number == number => Some(first),
            _ => {
                let at = self.others.binary_search_by_key(&number, |lane| lane.number).ok()?;
                self.others.get_mut(at)
            }
        }
    }

    /// Appends the record, if anything changed. Returns the highest sequence of the lanes touched, and whether anything was appended. The
    /// lanes stay held: what is executed on afterwards is another record.
    pub(super) fn commit(&mut self) -> (Seq, bool) {
        let Some(first) = &mut self.first else { return (self.visited, self.appended) };
        if !first.record.is_empty() {
            let log = &self.engine.log;
            let seq = first.record.finish(|framed| log.append(framed));
            first.last_seq = seq;
            self.others.iter_mut().for_each(|lane| lane.last_seq = seq);
            self.appended = true;
        }
        let last = self.others.iter().fold(first.last_seq, |last, lane| last.max(lane.last_seq));
        (last.max(self.visited), self.appended)
    }

    /// Lets the lanes go; what was not committed is as if it had not been recorded.
    #[inline]
    pub(super) fn let_go(&mut self) {
        if let Some(mut first) = self.first.take()
            && !first.record.is_empty()
        {
            first.record.clear();
        }
        if !self.others.is_empty() {
            self.others.clear();
        }
    }

    /// Whether keys were touched that somebody waits for.
    pub(super) fn has_touched(&self) -> bool {
        self.first.as_ref().is_some_and(|lane| lane.waiting.has_touched())
            || self.others.iter().any(|lane| lane.waiting.has_touched())
    }

    /// One of these keys.
    pub(super) fn take_touched(&mut self) -> Option<(u8, Box<[u8]>)> {
        self.first.iter_mut().chain(&mut self.others).find_map(|lane| lane.waiting.take_touched())
    }

    /// What another execution on the same terms is given.
    pub(super) fn ctx(&self) -> Ctx<'e> {
        Ctx { now: self.now, db: self.db, permit: self.permit }
    }

    fn change(&mut self, key: &Key<'_>, change: &Change<'_>) {
        let now = self.now;
        let applied = self.lane_mut(key).apply(key, change, now);
        debug_assert!(applied.is_ok(), "{change:?} does not fit {key:?}");
        if self.engine.observed.is_on() {
            self.tell(key, change);
        }
        if applied.is_ok() {
            self.note(&Effect::Keyed { db: key.db, key: key.bytes, change: *change });
        }
    }

    /// Tells of a change, once for all elements that a command changes alike.
    #[cold]
    fn tell(&mut self, key: &Key<'_>, change: &Change<'_>) {
        let is_gone = self.lane(key).entry(key).is_none();
        let what = What::of(change);
        // The first element of a new list is put at its start, whatever end the others are pushed to.
        let is_alike = |of: &What| std::mem::discriminant(of) == std::mem::discriminant(&what);
        if !is_gone && self.told.as_ref().is_some_and(|(told, of)| **told == *key.bytes && is_alike(of)) {
            return;
        }
        self.told = Some((key.bytes.into(), what));
        let cause = Cause::Command(self.command);
        self.engine.observed.tell(&Changed { db: key.db, key: Some(key.bytes), cause, what, is_gone });
    }

    fn lane(&self, key: &Key<'_>) -> &Lane {
        let number = lane_of(key.slot);
        let held = match &self.first {
            Some(first) if first.number == number => Some(first),
            _ => {
                let at = self.others.binary_search_by_key(&number, |lane| lane.number).ok();
                at.and_then(|at| self.others.get(at))
            }
        };
        #[allow(
            clippy::expect_used,
            reason = "commands touch only keys that the table names, whose lanes are held from the start"
        )]
        held.expect("the key's lane is held")
    }

    fn lane_mut(&mut self, key: &Key<'_>) -> &mut Lane {
        #[allow(
            clippy::expect_used,
            reason = "commands touch only keys that the table names, whose lanes are held from the start"
        )]
        self.held_mut(lane_of(key.slot)).expect("the key's lane is held")
    }
}

impl Drop for Txn<'_> {
    fn drop(&mut self) {
        self.let_go();
    }
}
