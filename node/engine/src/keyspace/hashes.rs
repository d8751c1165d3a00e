//! Hashes: fields and their values. Small ones are packed, in the order of insertion; large ones are tables, in hash order.

use super::hash::{Rng, Seed};
use super::packed::{Item, PACKED_ITEM_BYTES_MAX, PACKED_ITEMS_MAX, Packed};
use super::table::{HashTable, in_hash_order};

/// What one field of a table is reckoned to cost beside its bytes.
const FIELD_OVERHEAD_BYTES: usize = 64;

#[derive(Debug)]
pub(crate) enum Hash {
    Packed(Packed),
    /// The table is boxed for the sake of the many hashes that are packed.
    Table {
        fields: Box<HashTable<Field>>,
        heap_bytes: usize,
    },
}

/// A name and its value.
type Field = (Box<[u8]>, Box<[u8]>);
/// Fields with their values, as they are read.
type Fields<'a> = Box<dyn Iterator<Item = (&'a [u8], &'a [u8])> + 'a>;
/// The same with their hashes.
type HashedFields<'a> = Box<dyn Iterator<Item = (u64, (&'a [u8], &'a [u8]))> + 'a>;

impl Default for Hash {
    fn default() -> Self {
        Self::Packed(Packed::default())
    }
}

impl Hash {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.len() / 2,
            Self::Table { fields, .. } => fields.len(),
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

    pub(crate) fn get(&self, seed: Seed, field: &[u8]) -> Option<&[u8]> {
        match self {
            Self::Packed(packed) => find(packed, field).map(|(_, value)| value.bytes),
            Self::Table { fields, .. } => {
                fields.get(seed.hash(field), |(f, _)| **f == *field).map(|(_, value)| &**value)
            }
        }
    }

    pub(crate) fn set(&mut self, seed: Seed, field: &[u8], value: &[u8]) {
        if let Self::Packed(packed) = self {
            let found = find(packed, field).map(|(_, value)| value.span());
            if value.len() <= PACKED_ITEM_BYTES_MAX && field.len() <= PACKED_ITEM_BYTES_MAX {
                match found {
                    Some(span) => return packed.replace(span, value),
                    None if packed.len() < 2 * PACKED_ITEMS_MAX => return packed.insert(None, [field, value]),
                    None => {}
                }
            }
            self.unpack(seed);
        }
        let Self::Table { fields, heap_bytes } = self else { return };
        let hash = seed.hash(field);
        *heap_bytes += value.len();
        match fields.get_mut(hash, |(f, _)| **f == *field) {
            Some((_, old)) => {
                *heap_bytes -= old.len();
                *old = value.into();
            }
            None => {
                *heap_bytes += field.len() + FIELD_OVERHEAD_BYTES;
                fields.insert(hash, (field.into(), value.into()));
            }
        }
    }

    pub(crate) fn remove(&mut self, seed: Seed, field: &[u8]) -> bool {
        match self {
            Self::Packed(packed) => {
                let span = find(packed, field).map(|(field, value)| field.span_to(&value));
                span.map(|span| packed.remove(span, 2)).is_some()
            }
            Self::Table { fields, heap_bytes } => match fields.remove(seed.hash(field), |(f, _)| **f == *field) {
                Some((field, value)) => {
                    *heap_bytes -= field.len() + value.len() + FIELD_OVERHEAD_BYTES;
                    true
                }
                None => false,
            },
        }
    }

    /// Fields with their values.
    pub(crate) fn iter(&self) -> Fields<'_> {
        match self {
            Self::Packed(packed) => Box::new(pairs(packed).map(|(field, value)| (field.bytes, value.bytes))),
            Self::Table { fields, .. } => Box::new(fields.iter().map(|(field, value)| (&**field, &**value))),
        }
    }

    /// As [`HashTable::scan`]; a packed hash is visited at once.
    pub(crate) fn scan(&self, from: u64, count: usize, mut visit: impl FnMut(&[u8], &[u8])) -> Option<u64> {
        match self {
            Self::Packed(_) => {
                self.iter().for_each(|(field, value)| visit(field, value));
                None
            }
            Self::Table { fields, .. } => fields.scan(from, count, |(field, value)| visit(field, value)),
        }
    }

    /// Any field, each as likely as any other.
    pub(crate) fn sample(&self, rng: &mut Rng) -> Option<(&[u8], &[u8])> {
        match self {
            Self::Packed(_) => self.iter().nth(rng.below(self.len())),
            Self::Table { fields, .. } => fields.sample(rng).map(|(field, value)| (&**field, &**value)),
        }
    }

    /// Fields with their hashes and values, in hash order from a hash on.
    pub(crate) fn iter_from(&self, seed: Seed, from: u64) -> HashedFields<'_> {
        match self {
            Self::Packed(_) => Box::new(in_hash_order(from, self.iter().map(move |pair| (seed.hash(pair.0), pair)))),
            Self::Table { fields, .. } => {
                Box::new(fields.iter_from(from).map(|(hash, (field, value))| (hash, (&**field, &**value))))
            }
        }
    }

    fn unpack(&mut self, seed: Seed) {
        let (mut fields, mut heap_bytes) = (Box::<HashTable<Field>>::default(), 0);
        for (field, value) in self.iter() {
            heap_bytes += field.len() + value.len() + FIELD_OVERHEAD_BYTES;
            fields.insert(seed.hash(field), (field.into(), value.into()));
        }
        *self = Self::Table { fields, heap_bytes };
    }
}

fn pairs(packed: &Packed) -> impl Iterator<Item = (Item<'_>, Item<'_>)> {
    let mut items = packed.items();
    std::iter::from_fn(move || Some((items.next()?, items.next()?)))
}

fn find<'a>(packed: &'a Packed, field: &[u8]) -> Option<(Item<'a>, Item<'a>)> {
    pairs(packed).find(|(found, _)| found.bytes == field)
}
