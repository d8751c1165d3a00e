//! An entry's one allocation.
//!
//! ```text
//! header (16 bytes) │ expiry (8, if there is room for one) │ value (16, unless there is an area) │ key │ area
//! ```
//! The area is a short string, or the fields of a small hash.
//! What is in it is said by the header alone, so a pointer of 8 bytes is all that a table holds of an entry, and a lookup that found
//! the pointer waits for memory once more. What the table notes of the entry is in the pointer, too (`tagged`).
//!
//! This is one of the modules with `unsafe` code. Its invariants:
//! 1. `tagged` points to an allocation of `layout(header)`, which no other block names. `key_len`, `area_len` and `form` never change
//!    after it was made, so the layout is the same until it is freed.
//! 2. If `form` has VALUE, a valid `Value` lies at `value_offset`, which is a multiple of 8, and it is dropped exactly once, by `drop`.
//! 3. Every byte of the key and of the area was written before anything is lent.
//! 4. References into it live no longer than the borrow of the block that they came from.

#![allow(
    unsafe_code,
    reason = "one allocation of a length and form that only its header knows; the invariants stand above"
)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use super::tagged::Tagged;
use super::value::Value;

/// Owns its allocation.
pub(super) struct Block {
    tagged: Tagged<Header>,
}

#[repr(C)]
struct Header {
    key_len: u32,
    area_len: u32,
    usage: u32,
    form: u8,
    db: u8,
}

/// There is room for an expiry.
const EXPIRY: u8 = 1;
/// There is a `Value`, and no area.
const VALUE: u8 = 2;
/// The area is a hash.
const HASH: u8 = 4;

/// What the area is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Area {
    String,
    Hash,
}

const HEADER_BYTES: usize = size_of::<Header>();
const _: () = assert!(HEADER_BYTES == 16 && align_of::<Value>() <= 8 && align_of::<Header>() <= 8);

// SAFETY: a block owns what it points to, which is bytes and a `Value`, and lends it as any owner does.
unsafe impl Send for Block where Value: Send {}
// SAFETY: as above; nothing in it changes through a shared reference.
unsafe impl Sync for Block where Value: Sync {}

impl Block {
    /// A block whose area has these parts, one behind another. `expires` makes room for an expiry; 0 stands for none yet.
    pub(super) fn with_area(db: u8, key: &[u8], area: Area, parts: &[&[u8]], expires: Option<u64>) -> Self {
        let form = if area == Area::Hash { HASH } else { 0 };
        let block = Self::new(db, key, parts.iter().map(|part| part.len()).sum(), form, expires);
        let mut offset = block.area_offset();
        for part in parts {
            // SAFETY: `new` allocated the sum of their lengths behind the key, and nobody else knows the block yet (1, 3).
            unsafe { block.byte(offset).copy_from_nonoverlapping(part.as_ptr(), part.len()) };
            offset += part.len();
        }
        block
    }

    pub(super) fn with_value(db: u8, key: &[u8], value: Value, expires: Option<u64>) -> Self {
        let block = Self::new(db, key, 0, VALUE, expires);
        let offset = block.value_offset();
        // SAFETY: the form has VALUE, so the allocation has room for one there, suitably aligned; it holds none yet (2).
        unsafe { block.byte(offset).cast::<Value>().write(value) };
        block
    }

    pub(super) fn db(&self) -> u8 {
        self.header().db
    }

    pub(super) fn key(&self) -> &[u8] {
        // SAFETY: that many bytes were written there (3).
        unsafe { std::slice::from_raw_parts(self.byte(self.key_offset()), self.header().key_len as usize) }
    }

    /// The area and what it is; none where there is a value.
    pub(super) fn area(&self) -> Option<(Area, &[u8])> {
        let Header { area_len, form, .. } = *self.header();
        // SAFETY: that many bytes were written there (3).
        (form & VALUE == 0)
            .then(|| unsafe { std::slice::from_raw_parts(self.byte(self.area_offset()), area_len as usize) })
            .map(|bytes| (area_of(form), bytes))
    }

    pub(super) fn area_mut(&mut self) -> Option<(Area, &mut [u8])> {
        let Header { area_len, form, .. } = *self.header();
        // SAFETY: as in `area`; the block is borrowed for as long, so nobody else reads or writes it (4).
        (form & VALUE == 0)
            .then(|| unsafe { std::slice::from_raw_parts_mut(self.byte(self.area_offset()), area_len as usize) })
            .map(|bytes| (area_of(form), bytes))
    }

    pub(super) fn value(&self) -> Option<&Value> {
        // SAFETY: there is one (2), and it is borrowed from the block (4).
        (self.header().form & VALUE != 0).then(|| unsafe { &*self.byte(self.value_offset()).cast::<Value>() })
    }

    pub(super) fn value_mut(&mut self) -> Option<&mut Value> {
        // SAFETY: as in `value`, and nobody else borrows the block (4).
        (self.header().form & VALUE != 0).then(|| unsafe { &mut *self.byte(self.value_offset()).cast::<Value>() })
    }

    /// 0 for none.
    pub(super) fn expires(&self) -> u64 {
        if self.header().form & EXPIRY == 0 {
            return 0;
        }
        // SAFETY: `new` wrote 8 bytes there (3), aligned as the block is.
        unsafe { self.byte(HEADER_BYTES).cast::<u64>().read() }
    }

    /// Says whether there was room.
    pub(super) fn set_expires(&mut self, at: u64) -> bool {
        let has_room = self.header().form & EXPIRY != 0;
        if has_room {
            // SAFETY: there is room, and the block is borrowed alone (4).
            unsafe { self.byte(HEADER_BYTES).cast::<u64>().write(at) };
        }
        has_room
    }

    pub(super) fn usage(&self) -> u32 {
        self.header().usage
    }

    pub(super) fn set_usage(&mut self, usage: u32) {
        // SAFETY: the header is there as long as the block is (1), which is borrowed alone (4).
        unsafe { (*self.at()).usage = usage };
    }

    /// What was noted with [`set_tag`](Self::set_tag); 0 at first.
    pub(super) fn tag(&self) -> u16 {
        self.tagged.tag()
    }

    pub(super) fn set_tag(&mut self, tag: u16) {
        self.tagged.set_tag(tag);
    }

    /// Where it lies.
    pub(super) fn place(&self) -> *const u8 {
        self.at().cast()
    }

    /// How long the allocation is.
    pub(super) fn len(&self) -> usize {
        layout(self.header()).size()
    }

    /// Room for everything, with all written but the area or the value.
    fn new(db: u8, key: &[u8], area_len: usize, form: u8, expires: Option<u64>) -> Self {
        let form = form | if expires.is_some() { EXPIRY } else { 0 };
        // Neither is ever longer: arguments are limited to 512 MiB, and areas are short.
        let len = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let header = Header { key_len: len(key.len()), area_len: len(area_len), usage: 0, form, db };
        let key = key.get(..header.key_len as usize).unwrap_or(key);
        let layout = layout(&header);
        // SAFETY: the layout is not empty: it has the header.
        let Some(at) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        let Some(tagged) = Tagged::new(at.cast::<Header>()) else { handle_alloc_error(layout) };
        // SAFETY: it was just allocated for a header first, aligned for it.
        unsafe { tagged.at().write(header) };
        let mut block = Self { tagged };
        block.set_expires(expires.unwrap_or(0));
        // SAFETY: the layout has room for the key there.
        unsafe { block.byte(block.key_offset()).copy_from_nonoverlapping(key.as_ptr(), key.len()) };
        block
    }

    fn header(&self) -> &Header {
        // SAFETY: it is there as long as the block is (1).
        unsafe { &*self.at() }
    }

    fn at(&self) -> *mut Header {
        self.tagged.at()
    }

    /// A place in the allocation. The offset is at most its length.
    fn byte(&self, offset: usize) -> *mut u8 {
        // SAFETY: callers name offsets within the allocation (1).
        unsafe { self.at().cast::<u8>().add(offset) }
    }

    fn value_offset(&self) -> usize {
        value_offset(self.header().form)
    }

    fn key_offset(&self) -> usize {
        key_offset(self.header().form)
    }

    fn area_offset(&self) -> usize {
        self.key_offset() + self.header().key_len as usize
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let layout = layout(self.header());
        if let Some(value) = self.value_mut() {
            // SAFETY: it is dropped here alone, and the block is not used any more (2).
            unsafe { std::ptr::drop_in_place(value) };
        }
        // SAFETY: it was allocated with this layout (1).
        unsafe { dealloc(self.at().cast::<u8>(), layout) };
    }
}

fn area_of(form: u8) -> Area {
    if form & HASH == 0 { Area::String } else { Area::Hash }
}

fn value_offset(form: u8) -> usize {
    HEADER_BYTES + if form & EXPIRY != 0 { 8 } else { 0 }
}

fn key_offset(form: u8) -> usize {
    value_offset(form) + if form & VALUE != 0 { size_of::<Value>() } else { 0 }
}

fn layout(header: &Header) -> Layout {
    let size = key_offset(header.form) + header.key_len as usize + header.area_len as usize;
    #[allow(clippy::expect_used, reason = "two lengths below 2^32 and a few bytes never overflow an isize of 64 bits")]
    Layout::from_size_align(size, 8).expect("lengths are below 2^32")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_comes_out_in_every_form() {
        for expires in [None, Some(0), Some(7)] {
            for (key, string) in [(&b""[..], &b""[..]), (b"k", b""), (b"key", b"some string"), (b"", b"x")] {
                let (head, tail) = string.split_at(string.len() / 2);
                let mut block = Block::with_area(3, key, Area::Hash, &[head, tail], expires);
                block.set_usage(9);
                assert_eq!(block.tag(), 0);
                block.set_tag(0xffff);
                block.set_tag(0x8001);
                assert_eq!(block.tag(), 0x8001);
                assert_eq!(
                    (block.db(), block.key(), block.area(), block.usage()),
                    (3, key, Some((Area::Hash, string)), 9)
                );
                assert_eq!(block.expires(), expires.unwrap_or(0));
                assert_eq!(block.set_expires(8), expires.is_some());
                assert_eq!(block.expires(), if expires.is_some() { 8 } else { 0 });
                assert!(block.value().is_none() && block.value_mut().is_none());
                if let Some(first) = block.area_mut().and_then(|(_, area)| area.first_mut()) {
                    *first = b'!';
                    assert_eq!(block.area().and_then(|(_, area)| area.first()), Some(&b'!'));
                }
                assert_eq!(block.key(), key);
                let mut block = Block::with_value(3, key, Value::Bytes(Box::new(b"long".to_vec())), expires);
                assert_eq!((block.key(), block.area()), (key, None));
                if let Some(Value::Bytes(bytes)) = block.value_mut() {
                    bytes.extend_from_slice(b"er");
                }
                assert!(matches!(block.value(), Some(Value::Bytes(bytes)) if **bytes == b"longer"));
            }
        }
    }
}
