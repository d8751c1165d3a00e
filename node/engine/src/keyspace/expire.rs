//! Finding keys that have expired.
//!
//! Each slot knows a time before which none of its keys expires, and each lane the earliest of these, so that lanes without expired keys cost
//! one comparison. A slot that may have some is swept in hash order, in as many calls as the budget makes of it.

use super::Lane;
use crate::time::UnixMs;

impl Lane {
    /// Keys that have expired, found while looking at no more than `budget` entries; what was not used stays in `budget`.
    ///
    /// The caller deletes them all before it lets the lane go.
    pub(crate) fn find_expired(&mut self, now: UnixMs, budget: &mut usize) -> Vec<(u8, Box<[u8]>)> {
        let mut expired = Vec::new();
        if self.next_expiry > now {
            return expired;
        }
        let seed = self.seed;
        for (place, table) in self.slots.iter_mut().enumerate() {
            if table.next_expiry > now {
                continue;
            }
            if *budget == 0 {
                return expired;
            }
            let (from, mut earliest) = self.sweeps.remove(&place).unwrap_or((0, UnixMs(u64::MAX)));
            let mut entries = table.entries.iter_from(seed, from);
            let stopped_at = loop {
                let Some((hash, entry)) = entries.next() else { break None };
                if *budget == 0 {
                    break Some(hash);
                }
                *budget -= 1;
                match entry.expires_at() {
                    Some(_) if entry.is_expired(now) => expired.push((entry.db(), entry.key().into())),
                    Some(at) => earliest = earliest.min(at),
                    None => {}
                }
            };
            drop(entries);
            match stopped_at {
                Some(hash) => {
                    self.sweeps.insert(place, (hash, earliest));
                }
                None => table.next_expiry = earliest,
            }
        }
        self.next_expiry = self.slots.iter().map(|table| table.next_expiry).min().unwrap_or(UnixMs(u64::MAX));
        expired
    }
}
