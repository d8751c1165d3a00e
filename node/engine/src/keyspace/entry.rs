//! An entry: a key, its value, its expiry and how lately or how often it was used.

use std::fmt;

use super::block::Block;
use super::value::{Value, ValueRef, digest_of};
use crate::engine::Eviction;
use crate::record::{BadRecord, Change};
use crate::time::UnixMs;

/// A longer string is not kept in the entry's own allocation, so that what grows does not move the entry each time.
const SHORT_BYTES_MAX: usize = 1 << 10;
/// What a table is reckoned to spend on an entry: a pointer, a hash, and a share of the segment's slack.
const PLACE_BYTES: usize = 16 + 4;
/// Allocations are reckoned in steps of this many bytes.
const ALLOCATION_STEP: usize = 16;

pub(crate) struct Entry(Block);

impl Entry {
    pub(crate) fn new(db: u8, key: &[u8], value: Value) -> Self {
        Self(Block::with_value(db, key, value, None))
    }

    /// An entry with a string.
    pub(crate) fn string(db: u8, key: &[u8], string: &[u8], expires_at: Option<UnixMs>) -> Self {
        let expires = expires_at.map(stored);
        Self(if string.len() <= SHORT_BYTES_MAX {
            Block::with_string(db, key, string, expires)
        } else {
            Block::with_value(db, key, Value::Bytes(Box::new(string.to_vec())), expires)
        })
    }

    pub(crate) fn is(&self, db: u8, key: &[u8]) -> bool {
        self.0.key() == key && self.0.db() == db
    }

    pub(crate) fn db(&self) -> u8 {
        self.0.db()
    }

    pub(crate) fn key(&self) -> &[u8] {
        self.0.key()
    }

    pub(crate) fn value(&self) -> ValueRef<'_> {
        match (self.0.string(), self.0.value()) {
            (_, Some(value)) => value.view(),
            (string, None) => ValueRef::String(string.unwrap_or_default()),
        }
    }

    /// The value, unless it is a short string.
    pub(crate) fn value_mut(&mut self) -> Option<&mut Value> {
        self.0.value_mut()
    }

    pub(crate) fn is_empty_collection(&self) -> bool {
        self.0.value().is_some_and(Value::is_empty_collection)
    }

    pub(crate) fn expires_at(&self) -> Option<UnixMs> {
        let at = self.0.expires();
        (at > 0).then_some(UnixMs(at))
    }

    pub(crate) fn set_expires_at(&mut self, at: Option<UnixMs>) {
        let at = at.map_or(0, stored);
        if self.0.set_expires(at) || at == 0 {
            return;
        }
        let usage = self.0.usage();
        let (db, key) = (self.0.db(), self.0.key());
        let block = match self.0.string() {
            Some(string) => Block::with_string(db, key, string, Some(at)),
            None => {
                let mut roomier = Block::with_value(db, key, nothing(), Some(at));
                if let (Some(new), Some(old)) = (roomier.value_mut(), self.0.value_mut()) {
                    std::mem::swap(new, old);
                }
                roomier
            }
        };
        self.0 = block;
        self.0.set_usage(usage);
    }

    /// Becomes this string, whatever it was. Returns what it was if that takes long to drop.
    pub(crate) fn put_string(&mut self, string: &[u8], expires_at: Option<UnixMs>) -> Option<Value> {
        if let Some(old) = self.0.string_mut()
            && old.len() == string.len()
        {
            old.copy_from_slice(string);
            self.set_expires_at(expires_at);
            return None;
        }
        let usage = self.0.usage();
        let old = std::mem::replace(&mut self.0, Block::with_string(0, b"", b"", None));
        *self = Self::string(old.db(), old.key(), string, expires_at);
        self.0.set_usage(usage);
        Self(old).take_slow_value()
    }

    /// The value, if it takes long to drop, so that somebody else can. The entry is worth nothing then.
    pub(crate) fn take_slow_value(&mut self) -> Option<Value> {
        let value = self.0.value_mut().filter(|value| value.is_slow_to_drop())?;
        Some(std::mem::replace(value, nothing()))
    }

    /// Writes bytes into a string at an offset; a gap before it is filled with zeros.
    pub(crate) fn splice(&mut self, offset: usize, bytes: &[u8]) -> Result<(), BadRecord> {
        let end = offset.checked_add(bytes.len()).ok_or(BadRecord::Diverged)?;
        let short = match self.0.string_mut() {
            Some(short) => short,
            None => {
                let Some(Value::Bytes(long)) = self.0.value_mut() else { return Err(BadRecord::Diverged) };
                if long.len() < end {
                    long.resize(end, 0);
                }
                if let Some(place) = long.get_mut(offset..end) {
                    place.copy_from_slice(bytes);
                }
                return Ok(());
            }
        };
        if let Some(place) = short.get_mut(offset..end) {
            place.copy_from_slice(bytes);
            return Ok(());
        }
        let mut string = short.to_vec();
        string.resize(end, 0);
        if let Some(place) = string.get_mut(offset..end) {
            place.copy_from_slice(bytes);
        }
        let (usage, expires_at) = (self.0.usage(), self.expires_at());
        *self = Self::string(self.0.db(), self.0.key(), &string, expires_at);
        self.0.set_usage(usage);
        Ok(())
    }

    pub(crate) fn is_expired(&self, now: UnixMs) -> bool {
        self.expires_at().is_some_and(|at| at <= now)
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage(self.0.usage())
    }

    pub(crate) fn set_usage(&mut self, usage: Usage) {
        self.0.set_usage(usage.0);
    }

    pub(crate) fn bytes(&self) -> usize {
        let block = self.0.len().next_multiple_of(ALLOCATION_STEP);
        PLACE_BYTES + block + self.0.value().map_or(0, Value::heap_bytes)
    }

    /// The changes that would make this entry under any absent key.
    pub(crate) fn describe(&self, mut visit: impl FnMut(Change<'_>)) {
        let expires_at = self.expires_at();
        match self.value() {
            ValueRef::String(value) => return visit(Change::Put { value, expires_at }),
            ValueRef::Hash(hash) => hash.iter().for_each(|(field, value)| visit(Change::HashSet { field, value })),
            ValueRef::Set(set) => set.iter().for_each(|member| visit(Change::SetAdd { member })),
            ValueRef::SortedSet(set) => set.iter().for_each(|(member, score)| visit(Change::ZSet { member, score })),
            ValueRef::Stream(stream) => {
                stream.describe_entries(0).for_each(|(_, change)| visit(Change::Stream(change)));
                stream.describe_rest(|change| visit(Change::Stream(change)));
            }
            ValueRef::List(list) => (0..).zip(list.range(0, usize::MAX)).for_each(|(index, value)| {
                visit(Change::ListInsert { index, value });
            }),
        }
        if expires_at.is_some() {
            visit(Change::Expire { at: expires_at });
        }
    }

    pub(crate) fn digest(&self) -> u64 {
        let expires = self.0.expires();
        digest_of(0, &[&[self.db()], self.key(), &expires.to_le_bytes(), &self.value().digest().to_le_bytes()])
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Entry");
        shown.field("db", &self.db()).field("key", &self.key()).field("expires_at", &self.expires_at());
        shown.field("value", &self.value()).finish()
    }
}

/// The first millisecond of 1970 stands for "none"; it is as much in the past as the second.
fn stored(UnixMs(at): UnixMs) -> u64 {
    at.max(1)
}

/// What is put where a value was taken from.
fn nothing() -> Value {
    Value::Bytes(Box::default())
}

/// How lately or how often an entry was used, as the policy in force counts it.
///
/// Lately: the second of the last use. Often: a logarithmic counter in the low byte, over the minute of its last decay, as Redis's LFU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage(u32);

/// What a new entry's counter begins with, so that it is not the next to go.
const FREQUENCY_INITIAL: u8 = 5;
/// The larger, the more uses the counter tells apart: with 10 it is full after about a million.
const FREQUENCY_LOG_FACTOR: u64 = 10;

impl Usage {
    pub(crate) fn touch(&mut self, eviction: Eviction, now: UnixMs, random: impl FnOnce() -> u64) {
        if !eviction.counts_frequency() {
            self.0 = (now.0 / 1000) as u32;
            return;
        }
        let minute = (now.0 / 60_000) as u16;
        let mut counter = self.frequency(now);
        // Redis's rule: the next step comes with probability 1 / (steps above the initial value × factor + 1).
        let above = u64::from(counter.saturating_sub(FREQUENCY_INITIAL));
        if counter < u8::MAX && random().is_multiple_of(above * FREQUENCY_LOG_FACTOR + 1) {
            counter += 1;
        }
        self.0 = u32::from(minute) << 16 | u32::from(counter);
    }

    pub(crate) fn begin(eviction: Eviction, now: UnixMs) -> Self {
        if eviction.counts_frequency() {
            Self(u32::from((now.0 / 60_000) as u16) << 16 | u32::from(FREQUENCY_INITIAL))
        } else {
            Self((now.0 / 1000) as u32)
        }
    }

    /// As if it had not been used for so long.
    pub(crate) fn idle_since(now: UnixMs, idle_s: u64) -> Self {
        Self((now.0 / 1000).saturating_sub(idle_s) as u32)
    }

    /// As if it had been used so often.
    pub(crate) fn with_frequency(now: UnixMs, frequency: u8) -> Self {
        Self(u32::from((now.0 / 60_000) as u16) << 16 | u32::from(frequency))
    }

    pub(crate) fn idle_s(self, now: UnixMs) -> u32 {
        ((now.0 / 1000) as u32).wrapping_sub(self.0)
    }

    /// The counter, less one for each minute without a use.
    pub(crate) fn frequency(self, now: UnixMs) -> u8 {
        let minutes = ((now.0 / 60_000) as u16).wrapping_sub((self.0 >> 16) as u16);
        (self.0 as u8).saturating_sub(u8::try_from(minutes).unwrap_or(u8::MAX))
    }
}
