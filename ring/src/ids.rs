//! The names of things in the ring, as types: nothing here is a bare integer once it is parsed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How many hash slots the key space has (Redis Cluster specification).
pub const SLOT_COUNT: u16 = 16_384;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The number that follows. Saturates, so that a corrupt document cannot panic a reader.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                s.parse().map(Self)
            }
        }
    };
}

number! {
    /// A member's serial in its ring. Given out once, never reused.
    MemberId(u32)
}
number! {
    /// A shard's number, from 0.
    ShardId(u16)
}
number! {
    /// Counts the changes of one shard's primary. Positions, leases and streams name it.
    ShardEpoch(u64)
}
number! {
    /// Counts every change of one shard or one member. Proposals are conditional on it.
    Version(u64)
}
number! {
    /// Counts the commits of the ring.
    RingEpoch(u64)
}
number! {
    /// A write's number in its shard. The first write is 1; 0 means "nothing yet".
    Seq(u64)
}
number! {
    /// Which formation of a cluster's ring this is. The first is 1.
    Generation(u32)
}
number! {
    /// What the members of a ring may send each other: the lowest level that all of them support.
    FeatureLevel(u32)
}

macro_rules! random {
    ($(#[$doc:meta])* $name:ident($inner:ty, $width:literal)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", $width, "x}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", $width, "x}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                <$inner>::from_str_radix(s, 16).map(Self)
            }
        }

        // Hexadecimal text where a person or JavaScript reads it, which cannot hold 64 bits in a number.
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                if s.is_human_readable() {
                    s.collect_str(self)
                } else {
                    self.0.serialize(s)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                if d.is_human_readable() {
                    let text = String::deserialize(d)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    <$inner>::deserialize(d).map(Self)
                }
            }
        }
    };
}

random! {
    /// Made at random with the data directory; the Raft node id. It dies with the disk and is never reused.
    VoterId(u64, "16")
}
random! {
    /// Made at random at each start of a process. Roles, in-sync membership and leases name it.
    BootId(u64, "16")
}
random! {
    /// Which cluster a ring, a member or data belongs to: the UID of its `CacheCluster`.
    ClusterUuid(u128, "32")
}

/// A place in a shard's log. Ordered by epoch first: a longer tail of an older epoch is not ahead.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Position {
    pub epoch: ShardEpoch,
    pub seq: Seq,
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.seq)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.seq)
    }
}

/// A hash slot, always below [`SLOT_COUNT`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Slot(u16);

impl Slot {
    /// The slot of a key: CRC16 (XMODEM) of its hash tag, or of all of it, modulo 16,384 (Redis Cluster specification,
    /// "Hash tags": the first non-empty `{…}`).
    #[must_use]
    pub fn of_key(key: &[u8]) -> Self {
        Self(crc16(hash_tag(key)) % SLOT_COUNT)
    }

    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        (number < SLOT_COUNT).then_some(Self(number))
    }

    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }

    /// Every slot in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SLOT_COUNT).map(Self)
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl TryFrom<u16> for Slot {
    type Error = SlotOutOfRange;
    fn try_from(number: u16) -> Result<Self, Self::Error> {
        Self::new(number).ok_or(SlotOutOfRange(number))
    }
}

impl From<Slot> for u16 {
    fn from(slot: Slot) -> Self {
        slot.0
    }
}

/// A number that is no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("slot {0} is out of range (0 to 16383)")]
pub struct SlotOutOfRange(pub u16);

/// A run of slots, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotRange {
    pub first: Slot,
    pub last: Slot,
}

impl SlotRange {
    #[must_use]
    pub fn contains(&self, slot: Slot) -> bool {
        self.first <= slot && slot <= self.last
    }

    /// The even split of all slots over `shards`: the first ranges are one longer where it does not divide.
    #[must_use]
    pub fn split(shards: u16) -> Vec<Self> {
        let shards = shards.max(1);
        let (base, longer) = (SLOT_COUNT / shards, SLOT_COUNT % shards);
        let mut first = 0;
        (0..shards)
            .map(|shard| {
                let length = base + u16::from(shard < longer);
                let range = Self { first: Slot(first), last: Slot(first + length - 1) };
                first += length;
                range
            })
            .collect()
    }
}

fn hash_tag(key: &[u8]) -> &[u8] {
    if !has_brace(key) {
        return key;
    }
    let Some(open) = key.iter().position(|&b| b == b'{') else { return key };
    let inner = key.get(open + 1..).unwrap_or_default();
    match inner.iter().position(|&b| b == b'}') {
        None | Some(0) => key,
        Some(close) => inner.get(..close).unwrap_or(key),
    }
}

/// Whether there is a `{`: most keys have none, and every request asks. Eight bytes at a time, by what borrows below them in a subtraction
/// (Warren, "Hacker's Delight", "find first 0-byte").
fn has_brace(key: &[u8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const TOPS: u64 = u64::from_ne_bytes([0x80; 8]);
    const BRACES: u64 = u64::from_ne_bytes([b'{'; 8]);
    let (words, rest) = key.as_chunks::<8>();
    let found = words.iter().fold(0, |found, word| {
        let zero_where_brace = u64::from_ne_bytes(*word) ^ BRACES;
        found | zero_where_brace.wrapping_sub(ONES) & !zero_where_brace & TOPS
    });
    found != 0 || rest.contains(&b'{')
}

/// CRC16 XMODEM (polynomial 0x1021, initial value 0), eight bytes at a time: the tables of a byte and of how far it is from the end of its
/// eight do not wait for each other (Kounavis and Berry, "slicing-by-8").
fn crc16(bytes: &[u8]) -> u16 {
    let [last, t1, t2, t3, t4, t5, t6, t7] = &CRC16_TABLES;
    let of = |table: &[u16; 256], byte: u8| table.get(usize::from(byte)).copied().unwrap_or(0);
    let (words, rest) = bytes.as_chunks::<8>();
    let crc = words.iter().fold(0u16, |crc, [a, b, c, d, e, f, g, h]| {
        let [high, low] = crc.to_be_bytes();
        of(t7, high ^ a)
            ^ of(t6, low ^ b)
            ^ of(t5, *c)
            ^ of(t4, *d)
            ^ of(t3, *e)
            ^ of(t2, *f)
            ^ of(t1, *g)
            ^ of(last, *h)
    });
    rest.iter().fold(crc, |crc, &byte| {
        let [high, _] = crc.to_be_bytes();
        (crc << 8) ^ of(last, high ^ byte)
    })
}

/// What a byte adds that so many others follow.
#[allow(clippy::indexing_slicing, reason = "each index is below its length, and this runs at compile time")]
static CRC16_TABLES: [[u16; 256]; 8] = {
    let mut tables = [[0u16; 256]; 8];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        tables[0][index] = crc;
        index += 1;
    }
    let mut behind = 1;
    while behind < 8 {
        index = 0;
        while index < 256 {
            let before = tables[behind - 1][index];
            tables[behind][index] = (before << 8) ^ tables[0][(before >> 8) as usize];
            index += 1;
        }
        behind += 1;
    }
    tables
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_known_keys_are_those_of_redis_cluster() {
        for (key, slot) in [("123456789", 12_739), ("foo", 12_182), ("bar", 5_061), ("", 0)] {
            assert_eq!(Slot::of_key(key.as_bytes()).number(), slot, "{key}");
        }
    }

    #[test]
    fn keys_of_any_length_are_summed_as_bit_by_bit() {
        let bitwise = |bytes: &[u8]| {
            bytes.iter().fold(0u16, |crc, byte| {
                let begun = crc ^ u16::from(*byte) << 8;
                (0..8).fold(begun, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 })
            })
        };
        let bytes: Vec<u8> = (0..70u32).map(|n| (n * n * 37 % 251) as u8).collect();
        for len in 0..bytes.len() {
            assert_eq!(crc16(&bytes[..len]), bitwise(&bytes[..len]), "{len}");
        }
    }

    #[test]
    fn only_the_first_non_empty_hash_tag_counts() {
        let slot = |k: &str| Slot::of_key(k.as_bytes());
        assert_eq!(slot("{user1000}.following"), slot("user1000"));
        assert_eq!(slot("foo{{bar}}zap"), slot("{bar"));
        assert_eq!(slot("foo{bar}{zap}"), slot("bar"));
        assert_ne!(slot("foo{}{bar}"), slot("bar"));
    }

    #[test]
    fn split_covers_every_slot_once() {
        for shards in [1, 2, 3, 5, 7, 100] {
            let ranges = SlotRange::split(shards);
            assert_eq!(ranges.len(), usize::from(shards));
            for slot in Slot::all() {
                assert_eq!(ranges.iter().filter(|r| r.contains(slot)).count(), 1);
            }
        }
    }
}
