//! A run of a list's elements in one allocation.
//!
//! ```text
//! block = element*        element = varint(length) byte*
//! ```
//! Whatever is done to one takes time in proportion to its bytes, so it stays small: see [`BLOCK_BYTES_MAX`]. Only an element that is longer
//! makes a longer one, alone.

use std::ops::Range;

/// A block is not let grow beyond this.
pub(super) const BLOCK_BYTES_MAX: usize = 2 << 10;
/// Allocations grow by a quarter, in steps of so many bytes: a list that doubled would waste a third of its memory.
const STEP_BYTES: usize = 32;
/// The longest varint of a length.
const LENGTH_BYTES_MAX: usize = 10;

#[derive(Debug, Default)]
pub(super) struct Block {
    bytes: Vec<u8>,
    len: u32,
}

impl Block {
    /// Elements, not bytes.
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// Whether one more element leaves it small. The first one always does.
    pub(super) fn has_room_for(&self, value: &[u8]) -> bool {
        self.len == 0 || self.bytes.len() + value.len() + length_bytes(value.len()) <= BLOCK_BYTES_MAX
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || take(&mut rest))
    }

    /// The same, last first.
    pub(super) fn iter_rev(&self) -> impl Iterator<Item = &[u8]> {
        self.iter().collect::<Vec<_>>().into_iter().rev()
    }

    pub(super) fn get(&self, index: usize) -> Option<&[u8]> {
        self.iter().nth(index)
    }

    /// Puts an element before the one that is `index`th now, or at the end.
    pub(super) fn insert(&mut self, index: usize, value: &[u8]) {
        let at = self.offset_of(index);
        self.splice(at..at, Some(value));
        self.len += 1;
    }

    pub(super) fn replace(&mut self, index: usize, value: &[u8]) {
        let place = self.offset_of(index)..self.offset_of(index + 1);
        self.splice(place, Some(value));
    }

    pub(super) fn remove(&mut self, range: Range<usize>) {
        let count = range.len().min(self.len().saturating_sub(range.start));
        let place = self.offset_of(range.start)..self.offset_of(range.end);
        self.splice(place, None);
        self.len -= count as u32;
        if self.bytes.capacity() / 2 > self.bytes.len() + STEP_BYTES {
            self.bytes.shrink_to(roomy(self.bytes.len()));
        }
    }

    /// Keeps the first `index` elements, and returns the others.
    pub(super) fn split_off(&mut self, index: usize) -> Self {
        let at = self.offset_of(index);
        let right = Self { bytes: self.bytes.split_off(at), len: self.len.saturating_sub(index as u32) };
        self.len = self.len.min(index as u32);
        self.bytes.shrink_to(roomy(at));
        right
    }

    /// Takes in all elements of a block behind this one, if that leaves it well below its limit.
    pub(super) fn absorb(&mut self, right: &mut Self) -> bool {
        let fits = self.bytes.len() + right.bytes.len() <= BLOCK_BYTES_MAX / 2;
        if fits {
            self.bytes.append(&mut right.bytes);
            self.len += std::mem::take(&mut right.len);
        }
        fits
    }

    /// Where an element begins; the end, if there is none.
    fn offset_of(&self, index: usize) -> usize {
        if index >= self.len() {
            return self.bytes.len();
        }
        let mut rest = self.bytes.as_slice();
        for _ in 0..index {
            let _skipped = take(&mut rest);
        }
        self.bytes.len() - rest.len()
    }

    /// Puts one element, or none, in place of some bytes.
    fn splice(&mut self, place: Range<usize>, value: Option<&[u8]>) {
        let mut room = [0; LENGTH_BYTES_MAX];
        let (length, value) = match value {
            Some(value) => (length_of(value.len(), &mut room), value),
            None => (&[][..], &[][..]),
        };
        let (before, added) = (self.bytes.len(), length.len() + value.len());
        let after = before - place.len() + added;
        if after > self.bytes.capacity() {
            self.bytes.reserve_exact(roomy(after) - before);
        }
        let moved = place.start + added;
        if after > before {
            self.bytes.resize(after, 0);
        }
        self.bytes.copy_within(place.end..before, moved);
        self.bytes.truncate(after);
        if let Some((at_length, at_value)) =
            self.bytes.get_mut(place.start..moved).and_then(|at| at.split_at_mut_checked(length.len()))
        {
            at_length.copy_from_slice(length);
            at_value.copy_from_slice(value);
        }
    }
}

/// The capacity for so many bytes.
fn roomy(bytes: usize) -> usize {
    (bytes + bytes / 4).next_multiple_of(STEP_BYTES).min(bytes.max(BLOCK_BYTES_MAX))
}

fn length_bytes(len: usize) -> usize {
    length_of(len, &mut [0; LENGTH_BYTES_MAX]).len()
}

fn length_of(len: usize, room: &mut [u8; LENGTH_BYTES_MAX]) -> &[u8] {
    let (mut rest, mut used) = (len, 0);
    for place in room.iter_mut() {
        used += 1;
        *place = (rest & 0x7f) as u8;
        rest >>= 7;
        if rest == 0 {
            break;
        }
        *place |= 0x80;
    }
    room.get(..used).unwrap_or_default()
}

/// Takes one element from the front.
fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (mut len, mut shift) = (0usize, 0);
    loop {
        let (&byte, behind) = rest.split_first()?;
        *rest = behind;
        len |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
    }
    let (element, behind) = rest.split_at_checked(len)?;
    *rest = behind;
    Some(element)
}
