//! Hashes: fields and their values. Small ones are packed, in the order of insertion; large ones are tables, in hash order.

use super::hash::{Rng, Seed};
use super::packed::{Item, PACKED_ITEM_BYTES_MAX, PACKED_ITEMS_MAX, Packed, PackedRef};
use super::table::{Element, HashTable, in_hash_order};
use super::thin::Thin;

/// What one field of a table is reckoned to cost beside its bytes.
const FIELD_OVERHEAD_BYTES: usize = 28;

#[derive(Debug)]
pub(crate) enum Hash {
    Packed(Packed),
    /// The table is boxed for the sake of the many hashes that are packed.
    Table {
        fields: Box<HashTable<Field>>,
        heap_bytes: usize,
    },
}

/// A hash, wherever it is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) enum HashRef<'a> {
    Packed(PackedRef<'a>),
    Table(&'a HashTable<Field>),
}

/// How long its name is; its name, then its value.
pub(crate) type Field = Thin<u32>;
/// Fields with their values, as they are read.
type Fields<'a> = Box<dyn Iterator<Item = (&'a [u8], &'a [u8])> + 'a>;
/// The same with their hashes.
type HashedFields<'a> = Box<dyn Iterator<Item = (u64, (&'a [u8], &'a [u8]))> + 'a>;

impl Element for Field {
    fn hash(&self, seed: Seed) -> u64 {
        seed.hash(show(self).0)
    }

    fn tag(&self) -> u16 {
        self.tag()
    }

    fn set_tag(&mut self, tag: u16) {
        self.set_tag(tag);
    }
}

impl Default for Hash {
    fn default() -> Self {
        Self::Packed(Packed::default())
    }
}

impl<'a> HashRef<'a> {
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Packed(packed) => packed.len() / 2,
            Self::Table(fields) => fields.len(),
        }
    }

    pub(crate) fn is_packed(self) -> bool {
        matches!(self, Self::Packed(_))
    }

    pub(crate) fn get(self, seed: Seed, field: &[u8]) -> Option<&'a [u8]> {
        match self {
            Self::Packed(packed) => packed.find_pair(field).map(|(_, value)| value.bytes),
            Self::Table(fields) => fields.get(seed.hash(field), |held| show(held).0 == field).map(|held| show(held).1),
        }
    }

    /// Fields with their values.
    pub(crate) fn iter(self) -> Fields<'a> {
        match self {
            Self::Packed(packed) => Box::new(pairs(packed).map(|(field, value)| (field.bytes, value.bytes))),
            Self::Table(fields) => Box::new(fields.iter().map(show)),
        }
    }

    /// As [`HashTable::scan`]; a packed hash is visited at once.
    pub(crate) fn scan(self, seed: Seed, from: u64, count: usize, mut visit: impl FnMut(&[u8], &[u8])) -> Option<u64> {
        match self {
            Self::Packed(_) => {
                self.iter().for_each(|(field, value)| visit(field, value));
                None
            }
            Self::Table(fields) => fields.scan(seed, from, count, |held| {
                let (field, value) = show(held);
                visit(field, value);
            }),
        }
    }

    /// Any field, each as likely as any other.
    pub(crate) fn sample(self, rng: &mut Rng) -> Option<(&'a [u8], &'a [u8])> {
        match self {
            Self::Packed(_) => self.iter().nth(rng.below(self.len())),
            Self::Table(fields) => fields.sample(rng).map(show),
        }
    }

    /// Fields with their hashes and values, in hash order from a hash on.
    pub(crate) fn iter_from(self, seed: Seed, from: u64) -> HashedFields<'a> {
        match self {
            Self::Packed(_) => Box::new(in_hash_order(from, self.iter().map(move |pair| (seed.hash(pair.0), pair)))),
            Self::Table(fields) => Box::new(fields.iter_from(seed, from).map(|(hash, held)| (hash, show(held)))),
        }
    }
}

impl Hash {
    pub(crate) fn view(&self) -> HashRef<'_> {
        match self {
            Self::Packed(packed) => HashRef::Packed(packed.view()),
            Self::Table { fields, .. } => HashRef::Table(fields),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.view().len()
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.heap_bytes(),
            Self::Table { heap_bytes, .. } => *heap_bytes,
        }
    }

    pub(crate) fn set(&mut self, seed: Seed, field: &[u8], value: &[u8]) {
        if let Self::Packed(packed) = self {
            let found = packed.view().find_pair(field).map(|(_, value)| value.span());
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
        match fields.get_mut(hash, |held| show(held).0 == field) {
            Some(held) => {
                let old = show(held).1.len();
                *heap_bytes -= old;
                let place = held.bytes_mut().and_then(|bytes| bytes.get_mut(field.len()..));
                match place {
                    Some(place) if old == value.len() => place.copy_from_slice(value),
                    _ => {
                        let mut other = make(field, value);
                        other.set_tag(held.tag());
                        *held = other;
                    }
                }
            }
            None => {
                *heap_bytes += field.len() + FIELD_OVERHEAD_BYTES;
                fields.insert(seed, hash, make(field, value));
            }
        }
    }

    pub(crate) fn remove(&mut self, seed: Seed, field: &[u8]) -> bool {
        match self {
            Self::Packed(packed) => {
                let span = packed.view().find_pair(field).map(|(field, value)| field.span_to(&value));
                span.map(|span| packed.remove(span, 2)).is_some()
            }
            Self::Table { fields, heap_bytes } => match fields.remove(seed, seed.hash(field), |f| show(f).0 == field) {
                Some(held) => {
                    *heap_bytes -= held.bytes().len() + FIELD_OVERHEAD_BYTES;
                    true
                }
                None => false,
            },
        }
    }

    fn unpack(&mut self, seed: Seed) {
        let (mut fields, mut heap_bytes) = (Box::<HashTable<Field>>::default(), 0);
        for (field, value) in self.view().iter() {
            heap_bytes += field.len() + value.len() + FIELD_OVERHEAD_BYTES;
            fields.insert(seed, seed.hash(field), make(field, value));
        }
        *self = Self::Table { fields, heap_bytes };
    }
}

fn make(field: &[u8], value: &[u8]) -> Field {
    Thin::new(u32::try_from(field.len()).unwrap_or(u32::MAX), &[field, value])
}

fn show(held: &Field) -> (&[u8], &[u8]) {
    held.bytes().split_at_checked(held.head() as usize).unwrap_or_default()
}

fn pairs(packed: PackedRef<'_>) -> impl Iterator<Item = (Item<'_>, Item<'_>)> {
    let mut items = packed.items();
    std::iter::from_fn(move || Some((items.next()?, items.next()?)))
}
