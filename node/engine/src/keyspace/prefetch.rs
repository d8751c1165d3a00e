//! Asking the processor for memory before it is needed.
//!
//! This is one of the modules with `unsafe` code. Its invariant: what is asked for is never read or written here, so any address will do.

#![allow(unsafe_code, reason = "an instruction that has no other name; it touches nothing")]

/// Has what begins at this address come nearer. The address may be of anything, or of nothing any more.
pub(crate) fn prefetch<T>(place: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch reads nothing that the program could see, and faults nowhere.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(place.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = place;
}
