//! How fast full syncs may go, all of a member's together.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ringmaster_replica::Mono;

/// A budget of bytes per second. It may be overdrawn by one chunk, which the next one waits for.
#[derive(Clone, Debug)]
pub struct Bandwidth {
    bytes_per_second: Option<u64>,
    /// When what was sent so far is paid for.
    paid_at: Arc<Mutex<Mono>>,
}

impl Bandwidth {
    /// 0 for no limit.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: (bytes_per_second > 0).then_some(bytes_per_second), paid_at: Arc::default() }
    }

    /// Books `bytes` at `now`, and says how long to wait before the next chunk.
    #[must_use]
    pub fn book(&self, bytes: usize, now: Mono) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        let cost = Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / rate);
        let mut paid_at = self.paid_at.lock();
        let from = (*paid_at).max(now);
        *paid_at = from.plus(cost);
        paid_at.since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_all_syncs_together() {
        let bandwidth = Bandwidth::new(1_000);
        let now = Mono(5_000_000_000);
        assert_eq!(bandwidth.book(500, now), Duration::from_millis(500));
        assert_eq!(bandwidth.clone().book(500, now), Duration::from_millis(1_000));
        assert_eq!(bandwidth.book(100, now.plus(Duration::from_secs(9))), Duration::from_millis(100));
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        assert_eq!(Bandwidth::new(0).book(1 << 30, Mono(0)), Duration::ZERO);
    }
}
