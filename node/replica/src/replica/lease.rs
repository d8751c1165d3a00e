//! The lease of a primary: asked for by it, running from when it asked.

use std::collections::VecDeque;
use std::time::Duration;

use ringmaster_ring::{Mutations, Rule, ShardEpoch};

use super::AskId;
use crate::Mono;

/// How many requests are remembered. An answer to an older one is worth nothing: newer ones run longer.
const ASKS_MAX: usize = 16;

/// A request under way.
#[derive(Clone, Copy, Debug)]
struct Ask {
    id: AskId,
    epoch: ShardEpoch,
    sent_at: Mono,
}

/// The lease of one member, in one epoch at a time.
#[derive(Debug, Default)]
pub(super) struct Lease {
    epoch: ShardEpoch,
    until: Mono,
    asks: VecDeque<Ask>,
    last_ask: u64,
    ask_again_at: Mono,
    /// The epoch in which the leader said that every other grant is over.
    previous_over_in: Option<ShardEpoch>,
}

impl Lease {
    /// The end of the lease of `epoch`.
    pub(super) fn until(&self, epoch: ShardEpoch) -> Mono {
        if self.epoch == epoch { self.until } else { Mono::ZERO }
    }

    pub(super) fn is_valid(&self, epoch: ShardEpoch, now: Mono) -> bool {
        now < self.until(epoch)
    }

    pub(super) fn previous_is_over(&self, epoch: ShardEpoch) -> bool {
        self.previous_over_in == Some(epoch)
    }

    /// Ask at the next opportunity.
    pub(super) fn ask_at_once(&mut self) {
        self.ask_again_at = Mono::ZERO;
    }

    /// A request for a lease of `epoch`, if one is due.
    pub(super) fn ask(&mut self, epoch: ShardEpoch, now: Mono, every: Duration) -> Option<AskId> {
        if now < self.ask_again_at {
            return None;
        }
        self.ask_again_at = now.plus(every);
        self.last_ask = self.last_ask.saturating_add(1);
        let id = AskId(self.last_ask);
        if self.asks.len() >= ASKS_MAX {
            self.asks.pop_front();
        }
        self.asks.push_back(Ask { id, epoch, sent_at: now });
        Some(id)
    }

    /// The request `id` was granted. It counts for the epoch that it named, from when it was sent.
    pub(super) fn granted(&mut self, id: AskId, prev_over: bool, now: Mono, terms: LeaseTerms) {
        let Some(index) = self.asks.iter().position(|ask| ask.id == id) else { return };
        let Some(ask) = self.asks.remove(index) else { return };
        if ask.epoch < self.epoch {
            return;
        }
        let from = if terms.mutations.keep(Rule::LeaseRunsFromAsk) { ask.sent_at } else { now };
        let until = from.plus(terms.usable());
        self.until = if ask.epoch == self.epoch { self.until.max(until) } else { until };
        self.epoch = ask.epoch;
        if prev_over {
            self.previous_over_in = Some(ask.epoch);
        }
    }
}

/// What a grant is worth.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeaseTerms {
    pub(super) length: Duration,
    pub(super) drift_ppm: u32,
    pub(super) mutations: Mutations,
}

impl LeaseTerms {
    /// The length of a lease by this member's clock, so that it ends before the grant does by the leader's.
    fn usable(&self) -> Duration {
        if !self.mutations.keep(Rule::LeaseAllowsForDrift) {
            return self.length;
        }
        let ns = u64::try_from(self.length.as_nanos()).unwrap_or(u64::MAX);
        // Rounded up: a margin that is too large costs nothing.
        let margin = (u128::from(ns) * u128::from(self.drift_ppm)).div_ceil(1_000_000);
        Duration::from_nanos(ns.saturating_sub(u64::try_from(margin).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: LeaseTerms =
        LeaseTerms { length: Duration::from_millis(400), drift_ppm: 1_000, mutations: Mutations::none() };

    fn at_ms(ms: u64) -> Mono {
        Mono(ms * 1_000_000)
    }

    #[test]
    fn a_lease_runs_from_when_it_was_asked_for_less_the_drift() {
        let mut lease = Lease::default();
        let ask = lease.ask(ShardEpoch(1), at_ms(1_000), Duration::ZERO).unwrap();
        lease.granted(ask, false, at_ms(1_350), TERMS);
        assert!(lease.is_valid(ShardEpoch(1), Mono(1_399_599_999)));
        assert!(!lease.is_valid(ShardEpoch(1), Mono(1_399_600_000)));
    }

    #[test]
    fn a_lease_counts_in_the_epoch_that_was_asked_for_alone() {
        let mut lease = Lease::default();
        let ask = lease.ask(ShardEpoch(1), at_ms(0), Duration::ZERO).unwrap();
        let next = lease.ask(ShardEpoch(2), at_ms(1), Duration::ZERO).unwrap();
        lease.granted(next, true, at_ms(2), TERMS);
        lease.granted(ask, true, at_ms(3), TERMS);
        assert!(!lease.is_valid(ShardEpoch(1), at_ms(3)));
        assert!(lease.is_valid(ShardEpoch(2), at_ms(3)));
        assert!(lease.previous_is_over(ShardEpoch(2)) && !lease.previous_is_over(ShardEpoch(1)));
    }

    #[test]
    fn an_answer_counts_once_and_an_unknown_one_never() {
        let mut lease = Lease::default();
        lease.granted(AskId(7), true, at_ms(0), TERMS);
        assert_eq!(lease.until, Mono::ZERO);
        let ask = lease.ask(ShardEpoch(1), at_ms(0), Duration::ZERO).unwrap();
        lease.granted(ask, false, at_ms(0), TERMS);
        lease.granted(ask, true, at_ms(9), TERMS);
        assert!(!lease.previous_is_over(ShardEpoch(1)));
    }
}
