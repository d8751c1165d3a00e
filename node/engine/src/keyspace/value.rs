//! Values: what a key can hold.

use super::hash::Seed;
use super::hashes::{Hash, HashRef};
use super::lists::List;
use super::sets::Set;
use super::sorted_sets::SortedSet;
use super::streams::Stream;
use crate::resp::parse_int;

/// A value in more pieces, or of more bytes, than these is dropped by a thread that serves nobody.
const DROP_PIECES_MAX: usize = 64;
const DROP_BYTES_MAX: usize = 8 << 20;

/// Clients know strings up to this length as `embstr`, and lists of up to so many bytes as one `listpack`.
const EMBEDDED_BYTES_MAX: usize = 44;
const LISTPACK_BYTES_MAX: usize = 8 << 10;

/// What an entry owns beside its own allocation: everything but short strings.
#[derive(Debug)]
pub(crate) enum Value {
    /// A string that is not short.
    #[allow(clippy::box_collection, reason = "every entry has room for the largest variant")]
    Bytes(Box<Vec<u8>>),
    Hash(Box<Hash>),
    List(Box<List>),
    Set(Box<Set>),
    SortedSet(Box<SortedSet>),
    Stream(Box<Stream>),
}

/// A value, wherever it is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ValueRef<'a> {
    String(&'a [u8]),
    Hash(HashRef<'a>),
    List(&'a List),
    Set(&'a Set),
    SortedSet(&'a SortedSet),
    Stream(&'a Stream),
}

/// The names that TYPE gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    String,
    Hash,
    List,
    Set,
    SortedSet,
    Stream,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] = [Self::String, Self::Hash, Self::List, Self::Set, Self::SortedSet, Self::Stream];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Hash => "hash",
            Self::List => "list",
            Self::Set => "set",
            Self::SortedSet => "zset",
            Self::Stream => "stream",
        }
    }
}

impl Value {
    pub(crate) fn view(&self) -> ValueRef<'_> {
        match self {
            Self::Bytes(bytes) => ValueRef::String(bytes),
            Self::Hash(hash) => ValueRef::Hash(hash.view()),
            Self::List(list) => ValueRef::List(list),
            Self::Set(set) => ValueRef::Set(set),
            Self::SortedSet(set) => ValueRef::SortedSet(set),
            Self::Stream(stream) => ValueRef::Stream(stream),
        }
    }

    /// What the value occupies beside its entry.
    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Self::Bytes(bytes) => size_of::<Vec<u8>>() + bytes.capacity(),
            Self::Hash(hash) => size_of::<Hash>() + hash.heap_bytes(),
            Self::List(list) => size_of::<List>() + list.heap_bytes(),
            Self::Set(set) => size_of::<Set>() + set.heap_bytes(),
            Self::SortedSet(set) => size_of::<SortedSet>() + set.heap_bytes(),
            Self::Stream(stream) => size_of::<Stream>() + stream.heap_bytes(),
        }
    }

    /// Whether a thread that serves nobody should drop it.
    pub(crate) fn is_slow_to_drop(&self) -> bool {
        let pieces = match self {
            Self::Bytes(_) => 1,
            Self::Hash(hash) => hash.len(),
            Self::List(list) => list.len(),
            Self::Set(set) => set.len(),
            Self::SortedSet(set) => set.len(),
            Self::Stream(stream) => stream.len(),
        };
        pieces > DROP_PIECES_MAX || self.heap_bytes() > DROP_BYTES_MAX
    }

    /// Whether it is a collection without elements, which is not to stay.
    pub(crate) fn is_empty_collection(&self) -> bool {
        match self {
            // A stream without entries still knows its last id and its groups.
            Self::Bytes(_) | Self::Stream(_) => false,
            Self::Hash(hash) => hash.len() == 0,
            Self::List(list) => list.len() == 0,
            Self::Set(set) => set.len() == 0,
            Self::SortedSet(set) => set.len() == 0,
        }
    }
}

impl<'a> ValueRef<'a> {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::String(_) => Kind::String,
            Self::Hash(_) => Kind::Hash,
            Self::List(_) => Kind::List,
            Self::Set(_) => Kind::Set,
            Self::SortedSet(_) => Kind::SortedSet,
            Self::Stream(_) => Kind::Stream,
        }
    }

    /// How it is stored, in the words of OBJECT ENCODING: those of the field for what is nearest to each form here.
    pub(crate) fn encoding(self) -> &'static str {
        match self {
            Self::String(bytes) if is_int(bytes) => "int",
            Self::String(bytes) if bytes.len() <= EMBEDDED_BYTES_MAX => "embstr",
            Self::String(_) => "raw",
            Self::Hash(hash) if hash.is_packed() => "listpack",
            Self::Hash(_) => "hashtable",
            Self::List(list) if list.reckoned_bytes() <= LISTPACK_BYTES_MAX => "listpack",
            Self::List(_) => "quicklist",
            Self::Set(set) if set.is_packed() && set.iter().all(|member| parse_int(member).is_some()) => "intset",
            Self::Set(set) if set.is_packed() => "listpack",
            Self::Set(_) => "hashtable",
            Self::SortedSet(set) if set.is_packed() => "listpack",
            Self::SortedSet(_) => "skiplist",
            Self::Stream(_) => "stream",
        }
    }

    /// The bytes of a string; `None` for the other kinds.
    pub(crate) fn string(self) -> Option<&'a [u8]> {
        match self {
            Self::String(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The same, for who wants to do something with them.
    pub(crate) fn with_string<R>(self, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        self.string().map(read)
    }

    /// A digest of what the value says, the same however it is stored.
    pub(crate) fn digest(self) -> u64 {
        match self {
            Self::String(bytes) => digest_of(1, &[bytes]),
            Self::Hash(hash) => sum(hash.iter().map(|(field, value)| digest_of(2, &[field, value]))),
            Self::Set(set) => sum(set.iter().map(|member| digest_of(3, &[member]))),
            Self::SortedSet(set) => {
                sum(set.iter().map(|(member, score)| digest_of(4, &[&score.to_le_bytes(), member])))
            }
            Self::Stream(stream) => stream.digest(),
            Self::List(list) => sum(list
                .range(0, usize::MAX)
                .zip(0u64..)
                .map(|(element, index)| digest_of(5, &[&index.to_le_bytes(), element]))),
        }
    }
}

/// Whether a string is an integer in its canonical form. None is longer than 20 bytes.
fn is_int(bytes: &[u8]) -> bool {
    bytes.len() <= 20 && parse_int(bytes).is_some()
}

/// Digests are compared between members, so their seed is the same everywhere.
const DIGEST_SEED: Seed = Seed([0x52_69_6e_67, 0x6d_61_73_74]);

pub(crate) fn digest_of(tag: u8, parts: &[&[u8]]) -> u64 {
    // Each part's hash seeds the next, so that ("ab", "c") and ("a", "bc") differ.
    let Seed([k0, k1]) = DIGEST_SEED;
    parts.iter().fold(u64::from(tag), |before, part| Seed([k0 ^ before, k1]).hash(part))
}

fn sum(digests: impl Iterator<Item = u64>) -> u64 {
    digests.fold(0, u64::wrapping_add)
}
