//! The slot stream: a walk over the data of a shard plus the log of what changes meanwhile. Every transfer of data is this.
//!
//! ```text
//! cursor = Cursor::start(), sent = log.end() at the start
//! until cursor.is_end():
//!     chunk = engine.walk(&cursor, sent, …)                      one lane's entries, and `at`: the log's end while that lane was held
//!     send filter(log records sent+1 ..= chunk.at, &mut cursor)  what changed behind the cursor since
//!     send chunk; cursor = chunk.next; sent = chunk.at
//! then the plain log from `sent` on
//! ```
//! After each step the receiver holds exactly what the sender held behind the cursor at `sent`. That rests on three things: a chunk never
//! goes beyond one lane, so that all of it is as of one record; hash order does not change when tables grow; and the filter passes a change
//! if and only if what it changes is behind the cursor.
//!
//! A chunk has the format of a record's content: whole strings, and hashes, sets and sorted sets element by element. One of these that is
//! large travels in pieces, in the hash order of its elements; `element` says how far it has come. So do the entries of a stream, in their
//! own order, where `element` is a millisecond; its groups follow with the last piece.
//!
//! A list travels in pieces too, from its head on. Its elements have no lasting order but their places, and these shift: the receiver holds
//! the first `index` of them as they are at `sent`, so each record that puts one in before that place, or takes one out, moves `index` by
//! one ([`Cursor::pass`]). The filter does so while it sends the records; the walk, which has to know where to begin before these are
//! sent, does the same on its own, and the two agree since both read the same records.

use ringmaster_ring::{Position, SLOT_COUNT, Seq, Slot};
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::keyspace::{Entry, Key, LANE_COUNT, Lane, SLOTS_PER_LANE, Seed, ValueRef, lane_of};
use crate::log::{Batch, Trimmed};
use crate::record::{self, BadRecord, Change, Effect, RecordWriter};

/// How many bytes of records the walk reads at a time to see what they moved.
const MOVE_BYTES_MAX: usize = 256 << 10;

/// How far a walk has come: everything before it, in the order of its fields, is behind it.
///
/// `position` is a place in hash order, which does not change when tables grow; `element` one in the hash order of the elements of the
/// collection there. Both mean something only to engines of the same hash seed. `element` is 0 where `index` is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cursor {
    pub slot: Slot,
    pub position: u64,
    pub element: u64,
    /// How many elements of a list are behind it, counted after the last record that was filtered. A cursor that has travelled does not
    /// know it, and begins such a list anew.
    #[serde(skip)]
    pub index: u64,
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
        Self { slot: Slot::of_key(b""), position: 0, element: 0, index: 0 }
    }

    /// Everything is behind it: all ones in the last slot.
    #[must_use]
    pub fn end() -> Self {
        let slot = Slot::new(SLOT_COUNT - 1).unwrap_or(Self::start().slot);
        Self { slot, position: u64::MAX, element: u64::MAX, index: 0 }
    }

    #[must_use]
    pub fn is_end(&self) -> bool {
        *self == Self::end()
    }

    /// The beginning of a slot, or the end if there is no such slot.
    fn at_slot(number: usize) -> Self {
        let slot = u16::try_from(number).ok().and_then(Slot::new);
        slot.map_or(Self::end(), |slot| Self { slot, position: 0, element: 0, index: 0 })
    }

    /// What of a change is behind the cursor, so that the log must bring it; the rest the walk will. A change of a list that is on its way
    /// moves the cursor with what it moves.
    fn pass<'a>(&mut self, seed: Seed, key: &Key<'_>, change: Change<'a>) -> Option<Change<'a>> {
        if self.is_end() {
            return Some(change);
        }
        match (key.slot, key.hash).cmp(&(self.slot, self.position)) {
            std::cmp::Ordering::Less => Some(change),
            std::cmp::Ordering::Greater => None,
            std::cmp::Ordering::Equal => self.pass_in_pieces(seed, change),
        }
    }

    /// The same for the collection that is on its way.
    ///
    /// The receiver has no expiry of it; its elements behind `element`, or if it is a list the first `index`, and no more than there are;
    /// nothing if the key is absent. Whatever the key becomes, these hold on, and the walk goes on with what it then finds: a value of
    /// which nothing is behind the cursor it brings whole, in place of anything that the receiver has.
    fn pass_in_pieces<'a>(&mut self, seed: Seed, change: Change<'a>) -> Option<Change<'a>> {
        let Self { element, ref mut index, .. } = *self;
        let is_behind = match change {
            Change::HashSet { field: bytes, .. }
            | Change::HashDel { field: bytes }
            | Change::ZSet { member: bytes, .. }
            | Change::ZDel { member: bytes }
            | Change::SetAdd { member: bytes }
            | Change::SetDel { member: bytes } => seed.hash(bytes) < element,
            Change::Stream(change) => change.is_before(element),
            Change::ListInsert { index: at, .. } => {
                let is_behind = at < *index;
                *index = index.saturating_add(is_behind.into());
                is_behind
            }
            Change::ListReplace { index: at, .. } => at < *index,
            Change::ListRemove { index: at, count } => {
                let behind = index.saturating_sub(at).min(count);
                *index -= behind;
                return (behind > 0).then_some(Change::ListRemove { index: at, count: behind });
            }
            Change::Del => element > 0 || *index > 0,
            Change::Put { .. } | Change::Splice { .. } | Change::Expire { .. } => false,
        };
        is_behind.then_some(change)
    }
}

/// The records after a cursor cannot be had, so the walk cannot go on from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalkError {
    #[error(transparent)]
    Trimmed(#[from] Trimmed),
    #[error(transparent)]
    BadRecord(#[from] BadRecord),
}

impl Engine {
    /// Writes the entries from the cursor on, at least one if its lane has any and about `bytes_max` of them, behind what `out` holds.
    ///
    /// Holds one lane, and never goes beyond it: an empty lane is a chunk of its own, with nothing in it. `sent` is the last record that the
    /// cursor has passed: the last that was filtered with it, or where the chunk before was taken. On an error nothing was written.
    pub fn walk(&self, cursor: &Cursor, sent: Seq, bytes_max: usize, out: &mut Vec<u8>) -> Result<Walked, WalkError> {
        let (mut cursor, mut sent, number) = (*cursor, sent, lane_of(cursor.slot));
        let done = |at| Ok(Walked { next: Cursor::end(), at, entries: 0 });
        if cursor.is_end() {
            return done(self.end_of_log());
        }
        // Most of it before the lane is held: what comes meanwhile is little.
        self.move_index(&mut cursor, &mut sent, self.end_of_log().seq)?;
        let Some(lane) = self.hold(number) else { return done(self.end_of_log()) };
        let at = self.end_of_log();
        self.move_index(&mut cursor, &mut sent, at.seq)?;
        let mut chunk = Chunk { writer: RecordWriter::default(), bytes_max, entries: 0, seed: self.seed };
        if cursor == Cursor::start() {
            for (body, stays) in self.scripts.all() {
                chunk.writer.push(&Effect::Script { body: &body, stays });
            }
        }
        let next = chunk.fill(&lane, number, cursor);
        drop(lane);
        out.extend_from_slice(chunk.writer.content());
        Ok(Walked { next, at, entries: chunk.entries })
    }

    /// Moves the cursor as filtering the records after `sent` would, if it stands in a list.
    fn move_index(&self, cursor: &mut Cursor, sent: &mut Seq, through: Seq) -> Result<(), WalkError> {
        while cursor.index > 0
            && let Some(batch) = self.log().read_through(*sent, through, MOVE_BYTES_MAX)?
        {
            let mut rest = &batch.bytes[..];
            while let Some((content, behind)) = record::split_frame(rest) {
                for effect in record::effects(content) {
                    // Nothing else moves it, and then no key is hashed.
                    if let Effect::Keyed { db, key, change } = effect?
                        && matches!(change, Change::ListInsert { .. } | Change::ListRemove { .. })
                    {
                        cursor.pass(self.seed, &Key::new(self.seed, db, key), change);
                    }
                }
                rest = behind;
            }
            *sent = batch.last;
        }
        Ok(())
    }

    /// The batch with only those changes that are behind the cursor; what is ahead of it the walk will bring. Numbers stay as they are:
    /// a record without changes left stays as an empty one. The cursor moves with the records: each batch is to be filtered once, in order.
    pub fn filter(&self, batch: &Batch, cursor: &mut Cursor) -> Result<Batch, BadRecord> {
        let mut bytes = Vec::with_capacity(batch.bytes.len());
        let (mut rest, mut writer) = (&batch.bytes[..], RecordWriter::default());
        while let Some((content, behind)) = record::split_frame(rest) {
            for effect in record::effects(content) {
                let passed = match effect? {
                    // Whether or not the receiver has any of these keys, it must not keep them.
                    whole @ (Effect::Flush { .. } | Effect::Script { .. } | Effect::FlushScripts) => Some(whole),
                    Effect::Keyed { db, key, change } => {
                        let passed = cursor.pass(self.seed, &Key::new(self.seed, db, key), change);
                        passed.map(|change| Effect::Keyed { db, key, change })
                    }
                };
                if let Some(effect) = passed {
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
                let here = if hash == from.position && cursor.slot == from.slot {
                    from
                } else {
                    Cursor { position: hash, element: 0, index: 0, ..cursor }
                };
                if self.is_full() {
                    return here;
                }
                if let Some(next) = self.entry(entry, here) {
                    return next;
                }
            }
            let next = usize::from(cursor.slot.number()) + 1;
            cursor = Cursor::at_slot(next);
            if next >= (number + 1).min(LANE_COUNT) * SLOTS_PER_LANE {
                return cursor;
            }
        }
    }

    /// Writes an entry from a cursor in it on. Returns where to go on if that is not all of it.
    fn entry(&mut self, entry: &Entry, from: Cursor) -> Option<Cursor> {
        let (seed, Cursor { element, index, .. }) = (self.seed, from);
        let in_order = |element| Cursor { element, index: 0, ..from };
        self.entries += 1;
        let goes_on = match entry.value() {
            ValueRef::String(value) => {
                self.push(entry, Change::Put { value, expires_at: entry.expires_at() });
                return None;
            }
            ValueRef::List(list) => {
                let start = usize::try_from(index).unwrap_or(usize::MAX);
                let elements = (index..).zip(list.range(start, usize::MAX));
                let elements = elements.map(|(index, value)| (index, Change::ListInsert { index, value }));
                self.elements(entry, index, elements).map(|index| Cursor { element: 0, index, ..from })
            }
            ValueRef::Hash(hash) => {
                let elements = hash.iter_from(seed, element);
                let elements = elements.map(|(at, (field, value))| (at, Change::HashSet { field, value }));
                self.elements(entry, element, elements).map(in_order)
            }
            ValueRef::Stream(stream) => {
                let entries = stream.describe_entries(element).map(|(ms, change)| (ms, Change::Stream(change)));
                let goes_on = self.elements(entry, element, entries);
                if goes_on.is_none() {
                    stream.describe_rest(|change| self.push(entry, Change::Stream(change)));
                }
                goes_on.map(in_order)
            }
            ValueRef::Set(set) => {
                let elements = set.iter_from(seed, element);
                let elements = elements.map(|(at, member)| (at, Change::SetAdd { member }));
                self.elements(entry, element, elements).map(in_order)
            }
            ValueRef::SortedSet(set) => {
                let elements = set.iter_from(seed, element);
                let elements = elements.map(|(at, (member, score))| (at, Change::ZSet { member, score }));
                self.elements(entry, element, elements).map(in_order)
            }
        };
        if goes_on.is_none() && entry.expires_at().is_some() {
            self.push(entry, Change::Expire { at: entry.expires_at() });
        }
        goes_on
    }

    /// Writes elements, each with its place in the order of the collection, until the chunk is full. Returns the place to go on with.
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
        for (place, change) in elements {
            // Elements of one place stay together, since the cursor cannot stand between them.
            if last.is_some_and(|last| last != place) && self.is_full() {
                return Some(place);
            }
            last = Some(place);
            self.push(entry, change);
        }
        None
    }

    fn push(&mut self, entry: &Entry, change: Change<'_>) {
        self.writer.push(&Effect::Keyed { db: entry.db(), key: entry.key(), change });
    }
}
