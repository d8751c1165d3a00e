//! The keyspace: 16,384 slots in 256 lanes, and the only code that changes them.
//!
//! Owns: entries, their tables, their expiry and their reckoning of memory. In: a [`Change`] of a key, from a command on the primary or from
//! a record on a copy. Out: entries to read. A lane knows neither locks nor the log: `engine` wraps it in the one and writes the other.

mod block;
mod entry;
mod evict;
mod expire;
mod hash;
mod hashes;
mod lane;
mod list_block;
mod lists;
mod packed;
mod prefetch;
mod sequence;
mod sets;
mod sorted_sets;
mod streams;
mod table;
mod tagged;
mod thin;
mod value;
mod waiting;
mod watches;

pub(crate) use entry::{Entry, Usage};
pub(crate) use hash::{Rng, Seed};
pub(crate) use hashes::HashRef;
pub(crate) use lane::{Garbage, Lane, SlotTable};
pub(crate) use lists::List;
pub(crate) use prefetch::prefetch;
pub(crate) use sets::Set;
pub(crate) use sorted_sets::SortedSet;
pub(crate) use streams::{Consumer, Fields, Group, Pending, Stream};
pub(crate) use table::SCAN_SHIFT;
pub(crate) use value::{Kind, ValueRef};

use ringmaster_ring::{SLOT_COUNT, Slot};

/// A lane is 64 slots that follow each other.
pub(crate) const SLOTS_PER_LANE: usize = 64;
pub(crate) const LANE_COUNT: usize = SLOT_COUNT as usize / SLOTS_PER_LANE;

/// Which lane a slot is in.
pub(crate) fn lane_of(slot: Slot) -> usize {
    usize::from(slot.number()) / SLOTS_PER_LANE
}

/// A key with what is worked out from it once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key<'a> {
    pub(crate) db: u8,
    pub(crate) slot: Slot,
    pub(crate) hash: u64,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Key<'a> {
    pub(crate) fn new(seed: Seed, db: u8, bytes: &'a [u8]) -> Self {
        Self::in_slot(seed, db, Slot::of_key(bytes), bytes)
    }

    /// The same for a key whose slot is known.
    pub(crate) fn in_slot(seed: Seed, db: u8, slot: Slot, bytes: &'a [u8]) -> Self {
        debug_assert_eq!(slot, Slot::of_key(bytes), "a key in another slot");
        Self { db, slot, hash: seed.hash_key(db, bytes), bytes }
    }
}
