//! Choosing keys to evict: a few are sampled and the worst of them goes, as in Redis.

use std::cmp::Reverse;

use super::entry::Entry;
use super::hash::Rng;
use super::{Key, Lane};
use crate::engine::Eviction;
use crate::time::UnixMs;

/// How many entries are compared for one that goes. Redis's default.
const SAMPLES: usize = 5;
/// How many draws that may take where only keys with an expiry may go, and few have one.
const DRAWS_MAX: usize = 64;

impl Eviction {
    pub(crate) fn counts_frequency(self) -> bool {
        matches!(self, Self::AllKeysLfu | Self::VolatileLfu)
    }

    fn only_volatile(self) -> bool {
        matches!(self, Self::VolatileLru | Self::VolatileLfu | Self::VolatileRandom | Self::VolatileTtl)
    }
}

impl Lane {
    /// The key that is best evicted among some of this lane's, other than `spared`; `None` if the policy allows none here.
    pub(crate) fn find_victim(&mut self, now: UnixMs, spared: Option<&Key<'_>>) -> Option<(u8, Box<[u8]>)> {
        let policy = self.eviction;
        if policy == Eviction::NoEviction || (policy.only_volatile() && self.volatile() == 0) {
            return None;
        }
        let mut rng = self.rng.clone();
        let may_go = |entry: &&Entry| {
            (!policy.only_volatile() || entry.expires_at().is_some())
                && spared.is_none_or(|key| !entry.is(key.db, key.bytes))
        };
        let drawn = (0..DRAWS_MAX).filter_map(|_| self.sample(&mut rng)).filter(may_go).take(SAMPLES);
        // Least first: the one that was idle longest, used least, or expires soonest.
        let victim = drawn.min_by_key(|entry| match policy {
            Eviction::AllKeysLru | Eviction::VolatileLru => Reverse(u64::from(entry.usage().idle_s(now))),
            Eviction::AllKeysLfu | Eviction::VolatileLfu => Reverse(u64::from(u8::MAX - entry.usage().frequency(now))),
            Eviction::VolatileTtl => Reverse(entry.expires_at().map_or(0, |at| u64::MAX - at.0)),
            Eviction::AllKeysRandom | Eviction::VolatileRandom | Eviction::NoEviction => Reverse(0),
        });
        // Where keys with an expiry are too rare to be drawn, the first that is met will do.
        let victim = victim.or_else(|| self.slots.iter().flat_map(|table| table.entries.iter()).find(may_go));
        let victim = victim.map(|entry| (entry.db(), entry.key().into()));
        self.rng = rng;
        victim
    }

    /// Any entry, each about as likely as any other.
    pub(crate) fn sample(&self, rng: &mut Rng) -> Option<&Entry> {
        let mut rank = rng.below(self.len());
        for table in &self.slots {
            if rank < table.entries.len() {
                return table.entries.sample(rng);
            }
            rank -= table.entries.len();
        }
        None
    }
}
