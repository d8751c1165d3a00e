//! A small sequence of byte strings in one allocation: what small hashes, sets, sorted sets and lists are made of.
//!
//! Each item is its length as LEB128, then its bytes. Everything takes time in proportion to the whole, which is why it stays small: see
//! [`PACKED_ITEMS_MAX`] and [`PACKED_ITEM_BYTES_MAX`].

use crate::record::{take_bytes, write_bytes};

/// A collection of more elements than this is kept in tables.
pub(crate) const PACKED_ITEMS_MAX: usize = 128;
/// So is one that holds a longer element.
pub(crate) const PACKED_ITEM_BYTES_MAX: usize = 64;

#[derive(Debug, Default, Clone)]
pub(crate) struct Packed {
    bytes: Vec<u8>,
    len: usize,
}

/// An item and where it stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item<'a> {
    pub(crate) bytes: &'a [u8],
    start: usize,
    end: usize,
}

impl Packed {
    /// Items, not bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.items().map(|item| item.bytes)
    }

    pub(crate) fn items(&self) -> Items<'_> {
        Items { whole: self.bytes.len(), rest: &self.bytes }
    }

    /// Puts items in before what stands at `before`, or at the end.
    pub(crate) fn insert<const N: usize>(&mut self, before: Option<Span>, items: [&[u8]; N]) {
        let start = before.map_or(self.bytes.len(), |Span(start, _)| start);
        self.splice(start..start, &items);
        self.len += N;
    }

    /// Puts another item where this one is.
    pub(crate) fn replace(&mut self, at: Span, item: &[u8]) {
        self.splice(at.0..at.1, &[item]);
    }

    /// Takes out `count` items that stand in `at`.
    pub(crate) fn remove(&mut self, at: Span, count: usize) {
        self.splice(at.0..at.1, &[]);
        self.len -= count;
    }

    fn splice(&mut self, range: std::ops::Range<usize>, items: &[&[u8]]) {
        let tail = self.bytes.get(range.end..).unwrap_or_default().to_vec();
        self.bytes.truncate(range.start);
        let wanted =
            tail.len() + items.iter().map(|item| item.len() + 1 + usize::from(item.len() > 127)).sum::<usize>();
        if self.bytes.capacity() - self.bytes.len() < wanted {
            // A small collection that doubled would waste much of what packing saves. Allocators deal in steps of 16 bytes anyway.
            let slack = if self.bytes.len() < 256 { 0 } else { self.bytes.len() / 8 };
            self.bytes.reserve_exact(wanted + slack);
        }
        items.iter().for_each(|item| write_bytes(item, &mut self.bytes));
        self.bytes.extend_from_slice(&tail);
        if self.bytes.capacity() > 2 * self.bytes.len() + 32 {
            self.bytes.shrink_to_fit();
        }
    }
}

/// A stretch of items, by the bytes they occupy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span(usize, usize);

impl Item<'_> {
    pub(crate) fn span(&self) -> Span {
        Span(self.start, self.end)
    }

    /// From this item to `last`, both included.
    pub(crate) fn span_to(&self, last: &Item<'_>) -> Span {
        Span(self.start, last.end)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Items<'a> {
    whole: usize,
    rest: &'a [u8],
}

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        let start = self.whole - self.rest.len();
        let bytes = take_bytes(&mut self.rest)?;
        Some(Item { bytes, start, end: self.whole - self.rest.len() })
    }
}
