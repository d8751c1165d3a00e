//! Monotonic time, as the shell read it: this crate has no clock.

use std::fmt;
use std::time::Duration;

/// Nanoseconds of a clock that never goes back and runs on while the machine is suspended (CLOCK_BOOTTIME). Times of
/// different processes cannot be compared. Arithmetic saturates: a time that cannot be is far away, never a panic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mono(pub u64);

impl Mono {
    /// Before everything: a deadline that is always over.
    pub const ZERO: Self = Self(0);

    #[must_use]
    pub const fn plus(self, span: Duration) -> Self {
        // A span above 584 years does not fit; it saturates as the sum does.
        let ns = span.as_nanos();
        let ns = if ns > u64::MAX as u128 { u64::MAX } else { ns as u64 };
        Self(self.0.saturating_add(ns))
    }

    /// How long after `earlier` this is; nothing if it is not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Debug for Mono {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", Duration::from_nanos(self.0))
    }
}

/// A setting in milliseconds, as a span.
pub(crate) const fn millis(ms: u32) -> Duration {
    Duration::from_millis(ms as u64)
}
