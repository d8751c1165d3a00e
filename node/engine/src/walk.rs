//! The slot stream: a walk over the data of a shard plus the log of what changes meanwhile. Every transfer of data is this.
//!
//! ```text
//! cursor = Cursor::start(), sent = log.end() at the start
//! until cursor.is_end():
//!     chunk = engine.walk(&cursor, …)                        one lane's entries, and `at`: the log's end while that lane was held
//!     send filter(log records sent+1 ..= chunk.at, &cursor)  what changed behind the cursor since
//!     send chunk; cursor = chunk.next; sent = chunk.at
//! then the plain log from `sent` on
//! ```
//! After each step the receiver holds exactly what the sender held behind the cursor at `sent`. That rests on three things: a chunk never
//! goes beyond one lane, so that all of it is as of one record; hash order does not change when tables grow; and the filter passes a change
//! if and only if what it changes is behind the cursor.
//!
//! A chunk has the format of a record's content: whole strings and lists, and hashes, sets and sorted sets element by element. One of these
//! that is large travels in pieces, in the hash order of its elements; `element` says how far it has come. So do the entries of a stream, in
//! their own order, where `element` is a millisecond; its groups follow with the last piece. Lists travel whole.

use ringmaster_ring::{Position, SLOT_COUNT, Slot};
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::keyspace::{Entry, Key, LANE_COUNT, Lane, SLOTS_PER_LANE, Seed, ValueRef, lane_of};
use crate::log::Batch;
use crate::record::{self, BadRecord, Change, Effect, RecordWriter};

/// How far a walk has come: everything before it, in the order of its fields, is behind it.
///
/// `position` is a place in hash order, which does not change when tables grow; `element` one in the hash order of the elements of the
/// collection there. Both mean something only to engines of the same hash seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cursor {
    pub slot: Slot,
    pub position: u64,
    pub element: u64,
}

/// One chunk of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Where the next chunk begins.
    pub next: Cursor,
    /// The chunk shows its entries as they were after this record, whatever the log says of later.
    pub at: Position,
    /// How many entries, or pieces of one, the chunk holds. None for a stretch of empty slots, whose chunk counts all the same.
    pub entries: usize,
}

impl Cursor {
    /// Nothing is behind it.
    #[must_use]
    pub fn start() -> Self {
        // CRC16 of nothing is 0.
        Self { slot: Slot::of_key(b""), position: 0, element: 0 }
    }

    /// Everything is behind it: all ones in the last slot.
    #[must_use]
    pub fn end() -> Self {
        let slot = Slot::new(SLOT_COUNT - 1).unwrap_or(Self::start().slot);
        Self { slot, position: u64::MAX, element: u64::MAX }
    }

    #[must_use]
    pub fn is_end(&self) -> bool {
        *self == Self::end()
    }

    /// The beginning of a slot, or the end if there is no such slot.
    fn at_slot(number: usize) -> Self {
        let slot = u16::try_from(number).ok().and_then(Slot::new);
        slot.map_or(Self::end(), |slot| Self { slot, position: 0, element: 0 })
    }

    /// Whether a change is behind the cursor, so that the log must bring it; otherwise the walk will.
    fn covers(&self, seed: Seed, key: &Key<'_>, change: &Change<'_>) -> bool {
        if self.is_end() {
            return true;
        }
        let Self { slot, position, element } = *self;
        match (key.slot, key.hash).cmp(&(slot, position)) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Greater => false,
            // Of a collection that is on its way in pieces, the receiver has the elements behind `element` and no expiry. Whatever it
            // becomes, the walk goes on with what it then finds at this key: a value of another kind it brings whole.
            std::cmp::Ordering::Equal => match *change {
                Change::HashSet { field: bytes, .. }
                | Change::HashDel { field: bytes }
                | Change::ZSet { member: bytes, .. }
                | Change::ZDel { member: bytes }
                | Change::SetAdd { member: bytes }
                | Change::SetDel { member: bytes } => seed.hash(bytes) < element,
                Change::Stream(change) => change.is_before(element),
                Change::Del => element > 0,
                Change::Put { .. }
                | Change::Splice { .. }
                | Change::Expire { .. }
                | Change::ListInsert { .. }
                | Change::ListReplace { .. }
                | Change::ListRemove { .. } => false,
            },
        }
    }
}

impl Engine {
    /// Writes the entries from the cursor on, at least one if its lane has any and about `bytes_max` of them, behind what `out` holds.
    ///
    /// Holds one lane, and never goes beyond it: an empty lane is a chunk of its own, with nothing in it.
    pub fn walk(&self, cursor: &Cursor, bytes_max: usize, out: &mut Vec<u8>) -> Walked {
        let number = lane_of(cursor.slot);
        let done = |at| Walked { next: Cursor::end(), at, entries: 0 };
        if cursor.is_end() {
            return done(self.end_of_log());
        }
        let Some(lane) = self.hold(number) else { return done(self.end_of_log()) };
        let at = self.end_of_log();
        let mut chunk = Chunk { writer: RecordWriter::default(), bytes_max, entries: 0, seed: self.seed };
        if *cursor == Cursor::start() {
            for (body, stays) in self.scripts.all() {
                chunk.writer.push(&Effect::Script { body: &body, stays });
            }
        }
        let next = chunk.fill(&lane, number, *cursor);
        drop(lane);
        out.extend_from_slice(chunk.writer.content());
        Walked { next, at, entries: chunk.entries }
    }

    /// The batch with only those changes that are behind the cursor; what is ahead of it the walk will bring. Numbers stay as they are:
    /// a record without changes left stays as an empty one.
    pub fn filter(&self, batch: &Batch, cursor: &Cursor) -> Result<Batch, BadRecord> {
        let mut bytes = Vec::with_capacity(batch.bytes.len());
        let (mut rest, mut writer) = (&batch.bytes[..], RecordWriter::default());
        while let Some((content, behind)) = record::split_frame(rest) {
            for effect in record::effects(content) {
                let effect = effect?;
                let covered = match effect {
                    // Whether or not the receiver has any of these keys, it must not keep them.
                    Effect::Flush { .. } | Effect::Script { .. } | Effect::FlushScripts => true,
                    Effect::Keyed { db, key, change } => {
                        cursor.covers(self.seed, &Key::new(self.seed, db, key), &change)
                    }
                };
                if covered {
                    writer.push(&effect);
                }
            }
            writer.finish(|framed| bytes.extend_from_slice(framed));
            rest = behind;
        }
        if !rest.is_empty() {
            return Err(BadRecord::Short);
        }
        Ok(Batch { filtered: true, bytes: bytes.into(), ..*batch })
    }
}

struct Chunk {
    writer: RecordWriter,
    bytes_max: usize,
    entries: usize,
    seed: Seed,
}

impl Chunk {
    fn is_full(&self) -> bool {
        self.entries > 0 && self.writer.content().len() >= self.bytes_max
    }

    /// Writes entries of one lane from the cursor on, and returns where it stopped.
    fn fill(&mut self, lane: &Lane, number: usize, from: Cursor) -> Cursor {
        let (mut cursor, seed) = (from, self.seed);
        loop {
            let entries = lane.entries(cursor.slot).into_iter();
            for (hash, entry) in entries.flat_map(|entries| entries.iter_from(seed, cursor.position)) {
                let element = if hash == from.position && cursor.slot == from.slot { from.element } else { 0 };
                if self.is_full() {
                    return Cursor { position: hash, element, ..cursor };
                }
                if let Some(element) = self.entry(entry, element) {
                    return Cursor { position: hash, element, ..cursor };
                }
            }
            let next = usize::from(cursor.slot.number()) + 1;
            cursor = Cursor::at_slot(next);
            if next >= (number + 1).min(LANE_COUNT) * SLOTS_PER_LANE {
                return cursor;
            }
        }
    }

    /// Writes an entry from an element on. Returns the element to go on with if that is not all of it.
    fn entry(&mut self, entry: &Entry, element: u64) -> Option<u64> {
        let seed = self.seed;
        self.entries += 1;
        let goes_on = match entry.value() {
            ValueRef::String(value) => {
                self.push(entry, Change::Put { value, expires_at: entry.expires_at() });
                return None;
            }
            ValueRef::List(list) => {
                self.push(entry, Change::Del);
                for (index, value) in list.range(0, usize::MAX).enumerate() {
                    self.push(entry, Change::ListInsert { index: index as u64, value });
                }
                None
            }
            ValueRef::Hash(hash) => {
                let elements = hash.iter_from(seed, element);
                self.elements(
                    entry,
                    element,
                    elements.map(|(at, (field, value))| (at, Change::HashSet { field, value })),
                )
            }
            ValueRef::Stream(stream) => {
                let entries = stream.describe_entries(element).map(|(ms, change)| (ms, Change::Stream(change)));
                let goes_on = self.elements(entry, element, entries);
                if goes_on.is_none() {
                    stream.describe_rest(|change| self.push(entry, Change::Stream(change)));
                }
                goes_on
            }
            ValueRef::Set(set) => {
                let elements = set.iter_from(seed, element);
                self.elements(entry, element, elements.map(|(at, member)| (at, Change::SetAdd { member })))
            }
            ValueRef::SortedSet(set) => {
                let elements = set.iter_from(seed, element);
                self.elements(
                    entry,
                    element,
                    elements.map(|(at, (member, score))| (at, Change::ZSet { member, score })),
                )
            }
        };
        if goes_on.is_none() && entry.expires_at().is_some() {
            self.push(entry, Change::Expire { at: entry.expires_at() });
        }
        goes_on
    }

    /// Writes elements that come in hash order until the chunk is full.
    fn elements<'a>(
        &mut self,
        entry: &Entry,
        from: u64,
        elements: impl Iterator<Item = (u64, Change<'a>)>,
    ) -> Option<u64> {
        if from == 0 {
            // The receiver may hold this key from an attempt that broke off.
            self.push(entry, Change::Del);
        }
        let mut last = None;
        for (hash, change) in elements {
            // Elements of one hash stay together, since the cursor cannot stand between them.
            if last.is_some_and(|last| last != hash) && self.is_full() {
                return Some(hash);
            }
            last = Some(hash);
            self.push(entry, change);
        }
        None
    }

    fn push(&mut self, entry: &Entry, change: Change<'_>) {
        self.writer.push(&Effect::Keyed { db: entry.db(), key: entry.key(), change });
    }
}
