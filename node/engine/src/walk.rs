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
//! After each step the receiver holds exactly what the sender held behind the cursor at `sent`.

use ringmaster_ring::{Position, SLOT_COUNT, Slot};
use serde::{Deserialize, Serialize};

/// How far a walk has come: everything before it, in the order of its fields, is behind it.
///
/// `position` is a place in hash order, which does not change when tables grow. It means something only to engines of the same hash
/// seed. A cursor at the end is `position` and `element` all ones in the last slot.
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
    /// How many entries the chunk holds. None for a stretch of empty slots, whose chunk counts all the same.
    pub entries: usize,
}

impl Cursor {
    /// Nothing is behind it.
    #[must_use]
    pub fn start() -> Self {
        // CRC16 of nothing is 0.
        Self { slot: Slot::of_key(b""), position: 0, element: 0 }
    }

    /// Everything is behind it.
    #[must_use]
    pub fn end() -> Self {
        let slot = Slot::new(SLOT_COUNT - 1).unwrap_or(Self::start().slot);
        Self { slot, position: u64::MAX, element: u64::MAX }
    }

    #[must_use]
    pub fn is_end(&self) -> bool {
        *self == Self::end()
    }
}
