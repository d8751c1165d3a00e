//! An entry: a key, its value, its expiry and how lately or how often it was used.

use std::num::NonZeroU64;

use super::value::{Value, digest_of};
use crate::engine::Eviction;
use crate::record::Change;
use crate::time::UnixMs;

/// What an entry is reckoned to cost beside its key and value: itself, its hash, the slack of its segment, two allocations.
const OVERHEAD_BYTES: usize = size_of::<Entry>() + 8 + 16 + 16;

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: Box<[u8]>,
    pub(crate) value: Value,
    expires: Option<NonZeroU64>,
    pub(crate) usage: Usage,
    pub(crate) db: u8,
}

impl Entry {
    pub(crate) fn new(db: u8, key: &[u8], value: Value) -> Self {
        Self { key: key.into(), value, expires: None, usage: Usage::default(), db }
    }

    pub(crate) fn is(&self, db: u8, key: &[u8]) -> bool {
        self.db == db && *self.key == *key
    }

    pub(crate) fn expires_at(&self) -> Option<UnixMs> {
        self.expires.map(|at| UnixMs(at.get()))
    }

    pub(crate) fn set_expires_at(&mut self, at: Option<UnixMs>) {
        // The first millisecond of 1970 stands for "none"; it is as much in the past as the second.
        self.expires = at.and_then(|UnixMs(at)| NonZeroU64::new(at.max(1)));
    }

    pub(crate) fn is_expired(&self, now: UnixMs) -> bool {
        self.expires.is_some_and(|at| at.get() <= now.0)
    }

    pub(crate) fn bytes(&self) -> usize {
        OVERHEAD_BYTES + self.key.len() + self.value.heap_bytes()
    }

    /// The changes that would make this entry under any absent key.
    pub(crate) fn describe(&self, mut visit: impl FnMut(Change<'_>)) {
        let expires_at = self.expires_at();
        match &self.value {
            Value::Int(_) | Value::Bytes(_) => {
                self.value.with_string(|value| visit(Change::Put { value, expires_at }));
                return;
            }
            Value::Hash(hash) => hash.iter().for_each(|(field, value)| visit(Change::HashSet { field, value })),
            Value::Set(set) => set.iter().for_each(|member| visit(Change::SetAdd { member })),
            Value::SortedSet(set) => set.iter().for_each(|(member, score)| visit(Change::ZSet { member, score })),
            Value::Stream(stream) => {
                stream.describe_entries(0).for_each(|(_, change)| visit(Change::Stream(change)));
                stream.describe_rest(|change| visit(Change::Stream(change)));
            }
            Value::List(list) => (0..).zip(list.range(0, usize::MAX)).for_each(|(index, value)| {
                visit(Change::ListInsert { index, value });
            }),
        }
        if expires_at.is_some() {
            visit(Change::Expire { at: expires_at });
        }
    }

    pub(crate) fn digest(&self) -> u64 {
        let expires = self.expires.map_or(0, NonZeroU64::get);
        digest_of(0, &[&[self.db], &self.key, &expires.to_le_bytes(), &self.value.digest().to_le_bytes()])
    }
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

    pub(crate) fn idle_s(self, now: UnixMs) -> u32 {
        ((now.0 / 1000) as u32).wrapping_sub(self.0)
    }

    /// The counter, less one for each minute without a use.
    pub(crate) fn frequency(self, now: UnixMs) -> u8 {
        let minutes = ((now.0 / 60_000) as u16).wrapping_sub((self.0 >> 16) as u16);
        (self.0 as u8).saturating_sub(u8::try_from(minutes).unwrap_or(u8::MAX))
    }
}
