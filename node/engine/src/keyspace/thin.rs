//! An element of a large collection: a head and some bytes in one allocation, named by pointers of 8 bytes.
//!
//! ```text
//! head (of any type) │ handles (4) │ length (4) │ bytes
//! ```
//! Several handles may share one element, as a sorted set does, which finds it by its name and by its score. Each notes 16 bits for its
//! table in its pointer (`tagged`).
//!
//! This is one of the modules with `unsafe` code. Its invariants:
//! 1. `tagged` points to an allocation of `layout(len)`, whose `Inner` and bytes were written before the first
//!    handle was given out. `len` never changes.
//! 2. `handles` counts the handles. Who takes it to 0 frees the allocation, and nobody else does.
//! 3. What is lent lives no longer than the borrow of the handle. Bytes are lent for writing only by the one handle there is.

#![allow(unsafe_code, reason = "one allocation of a length that only it knows; the invariants stand above")]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use super::tagged::Tagged;

/// One handle of an element.
pub(crate) struct Thin<H: Copy> {
    tagged: Tagged<Inner<H>>,
    owns: PhantomData<Inner<H>>,
}

#[repr(C)]
struct Inner<H> {
    head: H,
    handles: AtomicU32,
    len: u32,
}

// SAFETY: what handles share is only read, but for the count, which is atomic (2), and by the last handle there is (3).
unsafe impl<H: Copy + Send + Sync> Send for Thin<H> {}
// SAFETY: as above.
unsafe impl<H: Copy + Send + Sync> Sync for Thin<H> {}

impl<H: Copy> Thin<H> {
    /// An element of these bytes, one part behind another.
    pub(super) fn new(head: H, parts: &[&[u8]]) -> Self {
        // Never more: a record holds them all.
        let len = u32::try_from(parts.iter().map(|part| part.len()).sum::<usize>()).unwrap_or(u32::MAX);
        let layout = layout::<H>(len);
        // SAFETY: the layout is not empty: it has the count.
        let Some(at) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        let Some(tagged) = Tagged::new(at.cast::<Inner<H>>()) else { handle_alloc_error(layout) };
        // SAFETY: it was just allocated for an `Inner` first, aligned for it.
        unsafe { tagged.at().write(Inner { head, handles: AtomicU32::new(1), len }) };
        let mut written = 0;
        for part in parts {
            let count = part.len().min(len as usize - written);
            // SAFETY: so many bytes fit behind what was written, and nobody else knows them yet (1).
            unsafe { at.as_ptr().add(size_of::<Inner<H>>() + written).copy_from_nonoverlapping(part.as_ptr(), count) };
            written += count;
        }
        Self { tagged, owns: PhantomData }
    }

    pub(super) fn head(&self) -> H {
        self.inner().head
    }

    pub(super) fn bytes(&self) -> &[u8] {
        let len = self.inner().len as usize;
        // SAFETY: so many were written there (1), and they are borrowed from the handle (3).
        unsafe { std::slice::from_raw_parts(self.byte(size_of::<Inner<H>>()), len) }
    }

    /// The same for writing, if this is the only handle.
    pub(super) fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        let Inner { ref handles, len, .. } = *self.inner();
        if handles.load(Ordering::Acquire) != 1 {
            return None;
        }
        // SAFETY: as in `bytes`; there is no other handle, and this one is borrowed alone (3).
        Some(unsafe { std::slice::from_raw_parts_mut(self.byte(size_of::<Inner<H>>()), len as usize) })
    }

    /// What was noted with [`set_tag`](Self::set_tag); 0 at first.
    pub(super) fn tag(&self) -> u16 {
        self.tagged.tag()
    }

    pub(super) fn set_tag(&mut self, tag: u16) {
        self.tagged.set_tag(tag);
    }

    fn at(&self) -> *mut Inner<H> {
        self.tagged.at()
    }

    fn inner(&self) -> &Inner<H> {
        // SAFETY: it is there as long as a handle is (1, 2).
        unsafe { &*self.at() }
    }

    /// A place in the allocation. The offset is at most its length.
    fn byte(&self, offset: usize) -> *mut u8 {
        // SAFETY: callers name offsets within the allocation (1).
        unsafe { self.at().cast::<u8>().add(offset) }
    }
}

impl<H: Copy> Clone for Thin<H> {
    fn clone(&self) -> Self {
        // As `Arc` does; there are never more than a few.
        self.inner().handles.fetch_add(1, Ordering::Relaxed);
        Self { tagged: self.tagged, owns: PhantomData }
    }
}

impl<H: Copy> Drop for Thin<H> {
    fn drop(&mut self) {
        let Inner { ref handles, len, .. } = *self.inner();
        if handles.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        // What other handles did with it comes before its end.
        fence(Ordering::Acquire);
        // SAFETY: it was allocated with this layout, and this was the last handle (1, 2); a head that is `Copy` needs no drop.
        unsafe { dealloc(self.at().cast::<u8>(), layout::<H>(len)) };
    }
}

impl<H: Copy + fmt::Debug> fmt::Debug for Thin<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.head(), self.bytes().escape_ascii())
    }
}

fn layout<H>(len: u32) -> Layout {
    let size = size_of::<Inner<H>>() + len as usize;
    #[allow(clippy::expect_used, reason = "a length below 2^32 and a few bytes never overflow an isize of 64 bits")]
    Layout::from_size_align(size, align_of::<Inner<H>>()).expect("the length is below 2^32")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_share_one_element_and_note_their_own_tags() {
        let mut one = Thin::new(1.5f64, &[b"mem", b"", b"ber"]);
        assert_eq!((one.head(), one.bytes(), one.tag()), (1.5, &b"member"[..], 0));
        let mut other = one.clone();
        one.set_tag(0xffff);
        one.set_tag(0x8001);
        other.set_tag(7);
        assert_eq!((one.tag(), other.tag()), (0x8001, 7));
        assert!(one.bytes_mut().is_none(), "the other would see it");
        drop(one);
        assert_eq!((other.head(), other.bytes()), (1.5, &b"member"[..]));
        other.bytes_mut().unwrap()[0] = b'M';
        assert_eq!((other.bytes(), other.tag()), (&b"Member"[..], 7));
        assert!(Thin::new((), &[]).bytes().is_empty());
    }
}
