//! Sets. Small ones are packed, in the order of insertion; large ones are tables, in hash order.

use super::hash::{Rng, Seed};
use super::packed::{PACKED_ITEM_BYTES_MAX, PACKED_ITEMS_MAX, Packed, is_same};
use super::table::{Element, HashTable, in_hash_order};
use super::thin::Thin;

/// What one member of a table is reckoned to cost beside its bytes.
const MEMBER_OVERHEAD_BYTES: usize = 24;

#[derive(Debug)]
pub(crate) enum Set {
    Packed(Packed),
    /// The table is boxed for the sake of the many sets that are packed.
    Table {
        members: Box<HashTable<Member>>,
        heap_bytes: usize,
    },
}

type Member = Thin<()>;

impl Element for Member {
    fn hash(&self, seed: Seed) -> u64 {
        seed.hash(self.bytes())
    }

    fn tag(&self) -> u16 {
        self.tag()
    }

    fn set_tag(&mut self, tag: u16) {
        self.set_tag(tag);
    }
}

impl Default for Set {
    fn default() -> Self {
        Self::Packed(Packed::default())
    }
}

impl Set {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.len(),
            Self::Table { members, .. } => members.len(),
        }
    }

    pub(crate) fn is_packed(&self) -> bool {
        matches!(self, Self::Packed(_))
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.heap_bytes(),
            Self::Table { heap_bytes, .. } => *heap_bytes,
        }
    }

    pub(crate) fn contains(&self, seed: Seed, member: &[u8]) -> bool {
        match self {
            Self::Packed(packed) => packed.iter().any(|m| is_same(m, member)),
            Self::Table { members, .. } => members.get(seed.hash(member), |m| m.bytes() == member).is_some(),
        }
    }

    pub(crate) fn add(&mut self, seed: Seed, member: &[u8]) {
        if self.contains(seed, member) {
            return;
        }
        if let Self::Packed(packed) = self {
            if member.len() <= PACKED_ITEM_BYTES_MAX && packed.len() < PACKED_ITEMS_MAX {
                return packed.insert(None, [member]);
            }
            self.unpack(seed);
        }
        let Self::Table { members, heap_bytes } = self else { return };
        *heap_bytes += member.len() + MEMBER_OVERHEAD_BYTES;
        members.insert(seed, seed.hash(member), Thin::new((), &[member]));
    }

    pub(crate) fn remove(&mut self, seed: Seed, member: &[u8]) -> bool {
        match self {
            Self::Packed(packed) => {
                let span = packed.items().find(|item| item.bytes == member).map(|item| item.span());
                span.map(|span| packed.remove(span, 1)).is_some()
            }
            Self::Table { members, heap_bytes } => {
                let removed = members.remove(seed, seed.hash(member), |m| m.bytes() == member).is_some();
                if removed {
                    *heap_bytes -= member.len() + MEMBER_OVERHEAD_BYTES;
                }
                removed
            }
        }
    }

    pub(crate) fn iter(&self) -> Box<dyn Iterator<Item = &[u8]> + '_> {
        match self {
            Self::Packed(packed) => Box::new(packed.iter()),
            Self::Table { members, .. } => Box::new(members.iter().map(Thin::bytes)),
        }
    }

    /// As [`HashTable::scan`]; a packed set is visited at once.
    pub(crate) fn scan(&self, seed: Seed, from: u64, count: usize, mut visit: impl FnMut(&[u8])) -> Option<u64> {
        match self {
            Self::Packed(packed) => {
                packed.iter().for_each(visit);
                None
            }
            Self::Table { members, .. } => members.scan(seed, from, count, |member| visit(member.bytes())),
        }
    }

    /// Any member, each as likely as any other.
    pub(crate) fn sample(&self, rng: &mut Rng) -> Option<&[u8]> {
        match self {
            Self::Packed(packed) => packed.iter().nth(rng.below(packed.len())),
            Self::Table { members, .. } => members.sample(rng).map(Thin::bytes),
        }
    }

    /// Members with their hashes, in hash order from a hash on.
    pub(crate) fn iter_from(&self, seed: Seed, from: u64) -> Box<dyn Iterator<Item = (u64, &[u8])> + '_> {
        match self {
            Self::Packed(_) => {
                Box::new(in_hash_order(from, self.iter().map(move |member| (seed.hash(member), member))))
            }
            Self::Table { members, .. } => {
                Box::new(members.iter_from(seed, from).map(|(hash, member)| (hash, member.bytes())))
            }
        }
    }

    fn unpack(&mut self, seed: Seed) {
        let (mut members, mut heap_bytes) = (Box::<HashTable<Member>>::default(), 0);
        for member in self.iter() {
            heap_bytes += member.len() + MEMBER_OVERHEAD_BYTES;
            members.insert(seed, seed.hash(member), Thin::new((), &[member]));
        }
        *self = Self::Table { members, heap_bytes };
    }
}
