//! An entry: a key, its value, its expiry and how lately or how often it was used.

use std::fmt;

use super::block::{Area, Block};
use super::hash::Seed;
use super::hashes::{Hash, HashRef};
use super::packed::{PACKED_ITEM_BYTES_MAX, PackedRef};
use super::prefetch::prefetch;
use super::table::Element;
use super::value::{Value, ValueRef, digest_of};
use crate::engine::Eviction;
use crate::record::{BadRecord, Change};
use crate::time::UnixMs;

/// A longer string is not kept in the entry's own allocation, so that what grows does not move the entry each time.
const SHORT_BYTES_MAX: usize = 1 << 10;
/// So is a hash whose fields need more than this.
const SMALL_HASH_BYTES_MAX: usize = 255;
const CACHE_LINE_BYTES: usize = 64;
/// What a table is reckoned to spend on an entry: a pointer, and a share of the segment's slack.
const PLACE_BYTES: usize = 8 + 2;
/// Allocations are reckoned in steps of this many bytes.
const ALLOCATION_STEP: usize = 16;

pub(crate) struct Entry(Block);

impl Element for Entry {
    fn hash(&self, seed: Seed) -> u64 {
        seed.hash_key(self.db(), self.key())
    }

    fn tag(&self) -> u16 {
        self.0.tag()
    }

    fn set_tag(&mut self, tag: u16) {
        self.0.set_tag(tag);
    }
}

impl Entry {
    pub(crate) fn new(db: u8, key: &[u8], value: Value) -> Self {
        Self(Block::with_value(db, key, value, None))
    }

    /// An entry with a string.
    pub(crate) fn string(db: u8, key: &[u8], string: &[u8], expires_at: Option<UnixMs>) -> Self {
        let expires = expires_at.map(stored);
        Self(if string.len() <= SHORT_BYTES_MAX {
            Block::with_area(db, key, Area::String, &[string], expires)
        } else {
            Block::with_value(db, key, Value::Bytes(Box::new(string.to_vec())), expires)
        })
    }

    /// Has its first bytes come nearer.
    pub(crate) fn prefetch(&self) {
        let at = self.0.place();
        prefetch(at);
        prefetch(at.wrapping_add(CACHE_LINE_BYTES));
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
        match (self.0.area(), self.0.value()) {
            (_, Some(value)) => value.view(),
            (Some((Area::Hash, area)), None) => ValueRef::Hash(HashRef::Packed(fields_of(area))),
            (area, None) => ValueRef::String(area.unwrap_or((Area::String, &[])).1),
        }
    }

    /// An entry with a hash of one field.
    pub(crate) fn with_field(db: u8, key: &[u8], seed: Seed, field: &[u8], value: &[u8]) -> Self {
        let mut entry = Self(Block::with_area(db, key, Area::Hash, &[&[0]], None));
        entry.set_field(seed, field, value);
        entry
    }

    /// Sets a field of a hash. Says whether it is one.
    pub(crate) fn set_field(&mut self, seed: Seed, field: &[u8], value: &[u8]) -> bool {
        let items = match self.0.area() {
            Some((Area::Hash, area)) => fields_of(area),
            _ => return self.change_hash(|hash| hash.set(seed, field, value)).is_some(),
        };
        match items.find_pair(field).map(|(_, old)| old.range()) {
            Some(old) if old.len() == value.len() => {
                // The count of items comes before them.
                let place = self.0.area_mut().and_then(|(_, area)| area.get_mut(old.start + 1..old.end + 1));
                if let Some(place) = place {
                    place.copy_from_slice(value);
                }
                true
            }
            None if field.len().max(value.len()) <= PACKED_ITEM_BYTES_MAX
                && items.bytes().len() + field.len() + value.len() + 2 < SMALL_HASH_BYTES_MAX =>
            {
                let count = [items.len() as u8 + 2];
                let parts = [&count, items.bytes(), &[field.len() as u8], field, &[value.len() as u8], value];
                let longer = self.with_area(Area::Hash, &parts);
                drop(self.replace(longer));
                true
            }
            _ => self.change_hash(|hash| hash.set(seed, field, value)).is_some(),
        }
    }

    /// Takes a field out of a hash, which may leave none. Says whether it was there.
    pub(crate) fn remove_field(&mut self, seed: Seed, field: &[u8]) -> bool {
        self.change_hash(|hash| hash.remove(seed, field)).unwrap_or(false)
    }

    /// Changes a hash, and puts it where one of its size belongs. None if it is something else.
    fn change_hash<R>(&mut self, change: impl FnOnce(&mut Hash) -> R) -> Option<R> {
        let (result, changed) = if let Some((Area::Hash, area)) = self.0.area() {
            let mut hash = Hash::Packed(fields_of(area).to_packed());
            (change(&mut hash), hash)
        } else {
            let Some(Value::Hash(hash)) = self.0.value_mut() else { return None };
            let result = change(hash);
            if !matches!(hash.view(), HashRef::Packed(packed) if packed.bytes().len() < SMALL_HASH_BYTES_MAX / 2) {
                return Some(result);
            }
            (result, std::mem::take(&mut **hash))
        };
        let other = match changed.view() {
            HashRef::Packed(packed) if packed.bytes().len() < SMALL_HASH_BYTES_MAX => {
                self.with_area(Area::Hash, &[&[packed.len() as u8], packed.bytes()])
            }
            _ => {
                let expires = self.expires_at().map(stored);
                Self(Block::with_value(self.0.db(), self.0.key(), Value::Hash(Box::new(changed)), expires))
            }
        };
        drop(self.replace(other));
        Some(result)
    }

    /// The same key and expiry with an area instead of what it has.
    fn with_area(&self, area: Area, parts: &[&[u8]]) -> Self {
        Self(Block::with_area(self.0.db(), self.0.key(), area, parts, self.expires_at().map(stored)))
    }

    /// The value, unless it lies in the entry's own allocation.
    pub(crate) fn value_mut(&mut self) -> Option<&mut Value> {
        self.0.value_mut()
    }

    pub(crate) fn is_empty_collection(&self) -> bool {
        self.0.value().is_some_and(Value::is_empty_collection) || matches!(self.0.area(), Some((Area::Hash, [0, ..])))
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
        let (db, key) = (self.0.db(), self.0.key());
        let block = match self.0.area() {
            Some((area, bytes)) => Block::with_area(db, key, area, &[bytes], Some(at)),
            None => {
                let mut roomier = Block::with_value(db, key, nothing(), Some(at));
                if let (Some(new), Some(old)) = (roomier.value_mut(), self.0.value_mut()) {
                    std::mem::swap(new, old);
                }
                roomier
            }
        };
        drop(self.replace(Self(block)));
    }

    /// Becomes this string, whatever it was. Returns what it was if that takes long to drop.
    pub(crate) fn put_string(&mut self, string: &[u8], expires_at: Option<UnixMs>) -> Option<Value> {
        if let Some((Area::String, old)) = self.0.area_mut()
            && old.len() == string.len()
        {
            old.copy_from_slice(string);
            self.set_expires_at(expires_at);
            return None;
        }
        self.replace(Self::string(self.0.db(), self.0.key(), string, expires_at)).take_slow_value()
    }

    /// Goes on as another allocation of the same key, and returns the former.
    fn replace(&mut self, mut other: Self) -> Self {
        other.0.set_usage(self.0.usage());
        other.0.set_tag(self.0.tag());
        std::mem::replace(self, other)
    }

    /// The value, if it takes long to drop, so that somebody else can. The entry is worth nothing then.
    pub(crate) fn take_slow_value(&mut self) -> Option<Value> {
        let value = self.0.value_mut().filter(|value| value.is_slow_to_drop())?;
        Some(std::mem::replace(value, nothing()))
    }

    /// Writes bytes into a string at an offset; a gap before it is filled with zeros.
    pub(crate) fn splice(&mut self, offset: usize, bytes: &[u8]) -> Result<(), BadRecord> {
        let end = offset.checked_add(bytes.len()).ok_or(BadRecord::Diverged)?;
        let short = match self.0.area_mut() {
            Some((Area::String, short)) => short,
            _ => {
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
        let longer = Self::string(self.0.db(), self.0.key(), &string, self.expires_at());
        drop(self.replace(longer));
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

/// The items of a small hash: a byte says how many there are.
fn fields_of(area: &[u8]) -> PackedRef<'_> {
    let (&count, items) = area.split_first().unwrap_or((&0, &[]));
    PackedRef::new(items, usize::from(count))
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
