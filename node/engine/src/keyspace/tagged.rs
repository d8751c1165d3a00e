//! A pointer with 16 bits of its own: addresses have 48 bits on the systems that this runs on, and a table notes in the others what it
//! would wait for memory to find.
//!
//! Nothing here reads or writes what it points to.

use std::ptr::NonNull;

const TAG_SHIFT: u32 = 48;
const ADDRESS: usize = (1 << TAG_SHIFT) - 1;

/// The address of a `T`, never null, and a tag.
#[derive(Debug)]
pub(super) struct Tagged<T>(NonNull<T>);

impl<T> Tagged<T> {
    /// With tag 0. None for an address that leaves no room for one, which Linux gives only to who asks for it.
    pub(super) fn new(at: NonNull<T>) -> Option<Self> {
        (at.addr().get() <= ADDRESS).then_some(Self(at))
    }

    pub(super) fn at(self) -> *mut T {
        self.0.as_ptr().map_addr(|addr| addr & ADDRESS)
    }

    /// What was noted with [`set_tag`](Self::set_tag); 0 at first.
    pub(super) fn tag(self) -> u16 {
        (self.0.addr().get() >> TAG_SHIFT) as u16
    }

    pub(super) fn set_tag(&mut self, tag: u16) {
        let tagged = self.at().map_addr(|addr| addr | usize::from(tag) << TAG_SHIFT);
        self.0 = NonNull::new(tagged).unwrap_or(self.0);
    }
}

impl<T> Clone for Tagged<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Tagged<T> {}
