//! A small sequence of byte strings in one allocation: what small hashes, sets, sorted sets and lists are made of.
//!
//! Each item is its length in a byte, then its bytes. Everything takes time in proportion to the whole, which is why it stays small: see
//! [`PACKED_ITEMS_MAX`] and [`PACKED_ITEM_BYTES_MAX`].

/// A collection of more elements than this is kept in tables.
pub(crate) const PACKED_ITEMS_MAX: usize = 128;
/// So is one that holds a longer element.
pub(crate) const PACKED_ITEM_BYTES_MAX: usize = 64;
const _: () = assert!(PACKED_ITEM_BYTES_MAX <= u8::MAX as usize);

#[derive(Debug, Default, Clone)]
pub(crate) struct Packed {
    bytes: Vec<u8>,
    len: usize,
}

/// A packed sequence, wherever it is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackedRef<'a> {
    bytes: &'a [u8],
    len: usize,
}

impl<'a> PackedRef<'a> {
    /// So many items, one behind another.
    pub(crate) fn new(bytes: &'a [u8], len: usize) -> Self {
        Self { bytes, len }
    }

    /// Items, not bytes.
    pub(crate) fn len(self) -> usize {
        self.len
    }

    pub(crate) fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn items(self) -> Items<'a> {
        Items { whole: self.bytes.len(), rest: self.bytes }
    }

    /// The first item of those at even places that is `wanted`, with the one behind it: a name and its value.
    pub(crate) fn find_pair(self, wanted: &[u8]) -> Option<(Item<'a>, Item<'a>)> {
        let mut items = self.items();
        loop {
            let (name, value) = (items.next()?, items.next()?);
            if is_same(name.bytes, wanted) {
                return Some((name, value));
            }
        }
    }

    pub(crate) fn to_packed(self) -> Packed {
        Packed { bytes: self.bytes.to_vec(), len: self.len }
    }
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
        self.view().items()
    }

    pub(crate) fn view(&self) -> PackedRef<'_> {
        PackedRef { bytes: &self.bytes, len: self.len }
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
        let (len_before, taken) = (self.bytes.len(), range.len());
        let wanted: usize = items.iter().map(|item| item.len() + 1).sum();
        if wanted > taken {
            let more = wanted - taken;
            if self.bytes.capacity() - len_before < more {
                // A small collection that doubled would waste much of what packing saves. Allocators deal in steps of 16 bytes anyway.
                let slack = if len_before < 256 { 0 } else { len_before / 8 };
                self.bytes.reserve_exact(more + slack);
            }
            self.bytes.resize(len_before + more, 0);
        }
        self.bytes.copy_within(range.end..len_before, range.start + wanted);
        self.bytes.truncate(len_before + wanted - taken);
        let mut place = self.bytes.get_mut(range.start..).unwrap_or_default();
        for item in items {
            let Some((len, behind)) = place.split_first_mut() else { return };
            *len = item.len() as u8;
            let Some((bytes, rest)) = behind.split_at_mut_checked(item.len()) else { return };
            bytes.copy_from_slice(item);
            place = rest;
        }
        if self.bytes.capacity() > 2 * self.bytes.len() + 32 {
            self.bytes.shrink_to_fit();
        }
    }
}

/// Whether two items are equal. Names that a collection holds often begin alike, so their ends are looked at first.
pub(crate) fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.last_chunk::<8>() == b.last_chunk::<8>() && a == b
}

/// A stretch of items, by the bytes they occupy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span(usize, usize);

impl Span {
    pub(crate) fn is_before(self, other: Self) -> bool {
        self.1 <= other.0
    }
}

impl Item<'_> {
    /// Where its bytes are, without the length before them.
    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        self.end - self.bytes.len()..self.end
    }

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
        let (&len, behind) = self.rest.split_first()?;
        let (bytes, rest) = behind.split_at_checked(usize::from(len))?;
        self.rest = rest;
        Some(Item { bytes, start, end: self.whole - rest.len() })
    }
}
