//! A lane: the tables of 64 slots, and what each [`Change`] means.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ringmaster_ring::{Seq, Slot};

use super::entry::{Entry, Usage};
use super::hash::{Rng, Seed};
use super::prefetch::prefetch;
use super::table::HashTable;
use super::value::Value;
use super::waiting::Waiting;
use super::watches::{Fate, Watches};
use super::{Key, SLOTS_PER_LANE};
use crate::engine::Eviction;
use crate::record::{BadRecord, Change, RecordWriter};
use crate::time::UnixMs;

#[derive(Debug)]
pub(crate) struct Lane {
    pub(super) slots: Box<[SlotTable]>,
    /// The highest sequence of a record that touched this lane.
    pub(crate) last_seq: Seq,
    pub(crate) rng: Rng,
    pub(crate) eviction: Eviction,
    /// What whoever executes on this lane has changed and not committed.
    pub(crate) record: RecordWriter,
    pub(crate) garbage: Garbage,
    pub(crate) waiting: Waiting,
    /// No key of this lane expires before.
    pub(super) next_expiry: UnixMs,
    /// Of slots (by their place here) whose search for expired keys is not at its end: how far it has come, and the earliest expiry that it
    /// left behind.
    pub(super) sweeps: BTreeMap<usize, (u64, UnixMs)>,
    pub(super) seed: Seed,
    used_bytes: usize,
    len: usize,
    volatile: usize,
    by_db: BTreeMap<u8, usize>,
    watches: Watches,
}

/// One slot's entries. It is one line of the processor's cache, so that a lookup waits for it once.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct SlotTable {
    pub(super) entries: HashTable<Entry>,
    /// No key of this slot expires before.
    pub(super) next_expiry: UnixMs,
}

const _: () = assert!(size_of::<SlotTable>() == 64);

/// Entries that left the keyspace and are still to be dropped.
#[derive(Debug, Default)]
pub(crate) struct Garbage {
    values: Vec<Value>,
    tables: Vec<SlotTable>,
}

impl Garbage {
    pub(crate) fn append(&mut self, mut other: Self) {
        self.values.append(&mut other.values);
        self.tables.append(&mut other.tables);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty() && self.tables.is_empty()
    }
}

impl Default for SlotTable {
    fn default() -> Self {
        Self { entries: HashTable::default(), next_expiry: UnixMs(u64::MAX) }
    }
}

impl Lane {
    pub(crate) fn new(seed: Seed, eviction: Eviction, number: usize) -> Self {
        let Seed([k0, _]) = seed;
        Self {
            slots: (0..SLOTS_PER_LANE).map(|_| SlotTable::default()).collect(),
            last_seq: Seq(0),
            rng: Rng::new(k0.wrapping_add(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            eviction,
            record: RecordWriter::default(),
            garbage: Garbage::default(),
            waiting: Waiting::default(),
            next_expiry: UnixMs(u64::MAX),
            sweeps: BTreeMap::new(),
            seed,
            used_bytes: 0,
            len: 0,
            volatile: 0,
            by_db: BTreeMap::new(),
            watches: Watches::default(),
        }
    }

    pub(crate) fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Keys that have an expiry.
    pub(crate) fn volatile(&self) -> usize {
        self.volatile
    }

    pub(crate) fn len_of_db(&self, db: u8) -> usize {
        self.by_db.get(&db).copied().unwrap_or(0)
    }

    /// The entries of a slot of this lane.
    pub(crate) fn entries(&self, slot: Slot) -> Option<&HashTable<Entry>> {
        self.slots.get(usize::from(slot.number()) % SLOTS_PER_LANE).map(|table| &table.entries)
    }

    pub(crate) fn all_entries(&self) -> impl Iterator<Item = &Entry> {
        self.slots.iter().flat_map(|table| table.entries.iter())
    }

    /// The entry of a key, expired or not.
    pub(crate) fn entry(&self, key: &Key<'_>) -> Option<&Entry> {
        self.entries(key.slot)?.get(key.hash, |entry| entry.is(key.db, key.bytes))
    }

    /// The entry of a key that has not expired.
    pub(crate) fn live(&self, key: &Key<'_>, now: UnixMs) -> Option<&Entry> {
        self.entry(key).filter(|entry| !entry.is_expired(now))
    }

    /// The same, noted as used.
    pub(crate) fn read(&mut self, key: &Key<'_>, now: UnixMs) -> Option<&Entry> {
        let (eviction, rng) = (self.eviction, &mut self.rng);
        let table = self.slots.get_mut(usize::from(key.slot.number()) % SLOTS_PER_LANE)?;
        let entry = table.entries.get_mut(key.hash, |entry| entry.is(key.db, key.bytes))?;
        if entry.is_expired(now) {
            return None;
        }
        let (usage, mut touched) = (entry.usage(), entry.usage());
        touched.touch(eviction, now, || rng.next());
        // Most reads of a second change nothing, and then the line stays as it is.
        if touched != usage {
            entry.set_usage(touched);
        }
        Some(entry)
    }

    /// Says how lately or how often a key was used, which is no change of its data.
    pub(crate) fn set_usage(&mut self, key: &Key<'_>, usage: Usage) {
        let table = self.slots.get_mut(usize::from(key.slot.number()) % SLOTS_PER_LANE);
        if let Some(entry) = table.and_then(|table| table.entries.get_mut(key.hash, |e| e.is(key.db, key.bytes))) {
            entry.set_usage(usage);
        }
    }

    /// Where the table of its first slot lies, for as long as the lane lives; the others follow it.
    pub(crate) fn tables_at(&self) -> usize {
        self.slots.as_ptr().addr()
    }

    /// Has the part of a slot's table come nearer that says where a key is.
    pub(crate) fn prefetch_place(&self, slot: Slot, hash: u64) {
        if let Some(entries) = self.entries(slot) {
            prefetch(entries.place(hash));
        }
    }

    /// The same for the entry itself.
    pub(crate) fn prefetch_entry(&self, slot: Slot, hash: u64) {
        if let Some(entry) = self.entries(slot).and_then(|entries| entries.get(hash, |_| true)) {
            entry.prefetch();
        }
    }

    /// Whether a key of this lane can have expired. Cheap, and rarely true without reason.
    pub(crate) fn may_have_expired(&self, now: UnixMs) -> bool {
        self.next_expiry <= now
    }

    /// Raises the flag once the key changes, if anyone still holds it then. Returns when the key expires, if it is to.
    pub(crate) fn watch(&mut self, key: &Key<'_>, changed: &Arc<AtomicBool>, now: UnixMs) -> Option<UnixMs> {
        let found_expired = self.entry(key).is_some_and(|entry| entry.is_expired(now));
        self.watches.add(key, changed, found_expired);
        self.live(key, now)?.expires_at()
    }

    /// Changes a key, for a command as for a record. An error means that a record does not fit; the key may be half changed then.
    pub(crate) fn apply(&mut self, key: &Key<'_>, change: &Change<'_>, now: UnixMs) -> Result<(), BadRecord> {
        self.signal(key, change, now);
        let seed = self.seed;
        match *change {
            Change::Put { value, expires_at } => {
                let mut replaced = None;
                self.change(
                    key,
                    now,
                    || Entry::string(key.db, key.bytes, value, expires_at),
                    |entry| {
                        replaced = entry.put_string(value, expires_at);
                        Ok(())
                    },
                )?;
                self.garbage.values.extend(replaced);
                Ok(())
            }
            Change::Splice { offset, bytes } => {
                let offset = usize::try_from(offset).map_err(|_| BadRecord::Diverged)?;
                if self.entry(key).is_none() {
                    self.apply(key, &Change::Put { value: b"", expires_at: None }, now)?;
                }
                self.change_present(key, now, |entry| entry.splice(offset, bytes))
            }
            Change::Del => {
                self.remove(key);
                Ok(())
            }
            Change::Expire { at } => self.change_present(key, now, |entry| {
                entry.set_expires_at(at);
                Ok(())
            }),
            Change::HashSet { field, value } => self.change(
                key,
                now,
                || Entry::with_field(key.db, key.bytes, seed, field, value),
                |entry| entry.set_field(seed, field, value).then_some(()).ok_or(BadRecord::Diverged),
            ),
            Change::HashDel { field } => self.shrink_entry(key, now, |entry| entry.remove_field(seed, field)),
            Change::ZSet { member, score } => self.update(
                key,
                now,
                || Value::SortedSet(Box::default()),
                |held| match held {
                    Value::SortedSet(set) if !score.is_nan() => {
                        set.set(seed, member, score);
                        Ok(())
                    }
                    _ => Err(BadRecord::Diverged),
                },
            ),
            Change::ZDel { member } => self.shrink(key, now, |value| match value {
                Value::SortedSet(set) => set.remove(seed, member),
                _ => false,
            }),
            Change::SetAdd { member } => self.update(
                key,
                now,
                || Value::Set(Box::default()),
                |held| match held {
                    Value::Set(set) => {
                        set.add(seed, member);
                        Ok(())
                    }
                    _ => Err(BadRecord::Diverged),
                },
            ),
            Change::SetDel { member } => self.shrink(key, now, |value| match value {
                Value::Set(set) => set.remove(seed, member),
                _ => false,
            }),
            Change::ListInsert { index, value } => {
                let index = usize::try_from(index).map_err(|_| BadRecord::Diverged)?;
                self.update(
                    key,
                    now,
                    || Value::List(Box::default()),
                    |held| match held {
                        Value::List(list) if index <= list.len() => {
                            list.insert(index, value);
                            Ok(())
                        }
                        _ => Err(BadRecord::Diverged),
                    },
                )
            }
            Change::ListReplace { index, value } => {
                self.shrink(key, now, |entry| match (entry, usize::try_from(index)) {
                    (Value::List(list), Ok(index)) => list.replace(index, value),
                    _ => false,
                })
            }
            Change::Stream(change) => self.update(
                key,
                now,
                || Value::Stream(Box::default()),
                |held| match held {
                    Value::Stream(stream) => stream.apply(&change).ok_or(BadRecord::Diverged),
                    _ => Err(BadRecord::Diverged),
                },
            ),
            Change::ListRemove { index, count } => {
                self.shrink(key, now, |value| match (value, usize::try_from(index), usize::try_from(count)) {
                    (Value::List(list), Ok(index), Ok(count)) => list.remove(index, count),
                    _ => false,
                })
            }
        }
    }

    /// Takes out every key of one database, or of all.
    pub(crate) fn flush(&mut self, db: Option<u8>, now: UnixMs) {
        if !self.watches.is_empty() {
            let mut watches = std::mem::take(&mut self.watches);
            watches.tell_all(|of, bytes| match self.entry(&Key::new(self.seed, of, bytes)) {
                Some(entry) if db.is_none_or(|db| db == of) => Fate::of_taking(entry, now),
                _ => Fate::StaysAway,
            });
            self.watches = watches;
        }
        let whole = db.is_none_or(|db| self.len_of_db(db) == self.len);
        if whole {
            let tables = self.slots.iter_mut().filter(|table| !table.entries.is_empty()).map(std::mem::take);
            self.garbage.tables.extend(tables);
            (self.used_bytes, self.len, self.volatile) = (0, 0, 0);
            self.by_db.clear();
            self.sweeps.clear();
            self.next_expiry = UnixMs(u64::MAX);
        } else if let Some(db) = db {
            let seed = self.seed;
            let doomed: Vec<(Slot, u64, Box<[u8]>)> = self
                .slots
                .iter()
                .flat_map(|table| table.entries.iter_from(seed, 0))
                .filter(|(_, entry)| entry.db() == db)
                .map(|(hash, entry)| (Slot::of_key(entry.key()), hash, entry.key().into()))
                .collect();
            for (slot, hash, bytes) in doomed {
                self.remove(&Key { db, slot, hash, bytes: &bytes });
            }
        }
    }

    pub(crate) fn digest(&self, slot: Slot) -> u64 {
        self.entries(slot).map_or(0, |entries| entries.iter().fold(0, |sum, entry| sum.wrapping_add(entry.digest())))
    }

    /// Changes a value other than a short string, made empty if the key is absent.
    fn update(
        &mut self,
        key: &Key<'_>,
        now: UnixMs,
        empty: impl FnOnce() -> Value,
        change: impl Fn(&mut Value) -> Result<(), BadRecord>,
    ) -> Result<(), BadRecord> {
        let change_entry = |entry: &mut Entry| match entry.value_mut() {
            Some(value) => change(value),
            None => Err(BadRecord::Diverged),
        };
        let mut made = Ok(());
        let make = || {
            let mut entry = Entry::new(key.db, key.bytes, empty());
            made = change_entry(&mut entry);
            entry
        };
        self.change(key, now, make, change_entry)?;
        made
    }

    /// Changes an entry that must be there.
    fn change_present(
        &mut self,
        key: &Key<'_>,
        now: UnixMs,
        change: impl FnOnce(&mut Entry) -> Result<(), BadRecord>,
    ) -> Result<(), BadRecord> {
        if self.entry(key).is_none() {
            return Err(BadRecord::Diverged);
        }
        self.change(key, now, || Entry::string(key.db, key.bytes, b"", None), change)
    }

    /// Changes an entry, or makes it if there is none; keeps the accounts.
    fn change(
        &mut self,
        key: &Key<'_>,
        now: UnixMs,
        make: impl FnOnce() -> Entry,
        change: impl FnOnce(&mut Entry) -> Result<(), BadRecord>,
    ) -> Result<(), BadRecord> {
        let Some(table) = self.slots.get_mut(usize::from(key.slot.number()) % SLOTS_PER_LANE) else { return Ok(()) };
        let is = |entry: &Entry| entry.is(key.db, key.bytes);
        let (before_bytes, was_volatile, expires_at, bytes) = match table.entries.get_mut(key.hash, is) {
            Some(entry) => {
                let (before, was_volatile) = (entry.bytes(), entry.expires_at().is_some());
                change(entry)?;
                (before, was_volatile, entry.expires_at(), entry.bytes())
            }
            None => {
                let mut entry = make();
                entry.set_usage(Usage::begin(self.eviction, now));
                self.len += 1;
                *self.by_db.entry(key.db).or_default() += 1;
                let after = (0, false, entry.expires_at(), entry.bytes());
                table.entries.insert(self.seed, key.hash, entry);
                after
            }
        };
        self.used_bytes = self.used_bytes + bytes - before_bytes;
        self.volatile = self.volatile + usize::from(expires_at.is_some()) - usize::from(was_volatile);
        if let Some(at) = expires_at {
            table.next_expiry = table.next_expiry.min(at);
            self.next_expiry = self.next_expiry.min(at);
            if let Some((_, earliest)) = self.sweeps.get_mut(&(usize::from(key.slot.number()) % SLOTS_PER_LANE)) {
                *earliest = (*earliest).min(at);
            }
        }
        Ok(())
    }

    /// Changes the value of an entry that must be there, and removes the entry if that leaves an empty collection.
    fn shrink(&mut self, key: &Key<'_>, now: UnixMs, change: impl FnOnce(&mut Value) -> bool) -> Result<(), BadRecord> {
        self.shrink_entry(key, now, |entry| entry.value_mut().is_some_and(change))
    }

    fn shrink_entry(
        &mut self,
        key: &Key<'_>,
        now: UnixMs,
        change: impl FnOnce(&mut Entry) -> bool,
    ) -> Result<(), BadRecord> {
        let mut is_empty = false;
        self.change_present(key, now, |entry| {
            let fits = change(entry);
            is_empty = entry.is_empty_collection();
            fits.then_some(()).ok_or(BadRecord::Diverged)
        })?;
        if is_empty {
            self.remove(key);
        }
        Ok(())
    }

    fn remove(&mut self, key: &Key<'_>) {
        let Some(table) = self.slots.get_mut(usize::from(key.slot.number()) % SLOTS_PER_LANE) else { return };
        let Some(mut entry) = table.entries.remove(self.seed, key.hash, |entry| entry.is(key.db, key.bytes)) else {
            return;
        };
        self.used_bytes -= entry.bytes();
        self.len -= 1;
        self.volatile -= usize::from(entry.expires_at().is_some());
        if let Some(count) = self.by_db.get_mut(&key.db) {
            *count -= 1;
            if *count == 0 {
                self.by_db.remove(&key.db);
            }
        }
        self.garbage.values.extend(entry.take_slow_value());
    }

    fn signal(&mut self, key: &Key<'_>, change: &Change<'_>, now: UnixMs) {
        if !self.waiting.is_empty() {
            self.waiting.touch(key);
        }
        if !self.watches.is_empty() {
            let taken = self.entry(key).filter(|_| matches!(change, Change::Del));
            let fate = taken.map_or(Fate::Changes, |entry| Fate::of_taking(entry, now));
            self.watches.tell(key, fate);
        }
    }
}
