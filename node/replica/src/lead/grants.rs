//! Requests for leases, and the leases that were granted.

use std::collections::BTreeMap;
use std::time::Duration;

use ringmaster_ring::{Holder, ShardEpoch, ShardId};

use super::{RoundId, RouteId};
use crate::{AskId, Mono};

/// A request that waits for a quorum.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeaseAsk {
    pub(super) route: RouteId,
    pub(super) ask: AskId,
    pub(super) shard: ShardId,
    pub(super) epoch: ShardEpoch,
    pub(super) holder: Holder,
    pub(super) received_at: Mono,
    /// The confirmation that was begun after it came; none if the next one is its.
    round: Option<RoundId>,
}

/// The requests under way. One confirmation at a time serves all that came before it began.
#[derive(Debug, Default)]
pub(super) struct Asks {
    waiting: Vec<LeaseAsk>,
    under_way: Option<(RoundId, Mono)>,
}

impl Asks {
    pub(super) fn push(&mut self, route: RouteId, ask: AskId, wanted: (ShardId, ShardEpoch, Holder), now: Mono) {
        let (shard, epoch, holder) = wanted;
        self.waiting.push(LeaseAsk { route, ask, shard, epoch, holder, received_at: now, round: None });
    }

    /// Begins a confirmation with the number `next`, if one is needed and none is under way.
    pub(super) fn begin_round(&mut self, next: RoundId, now: Mono) -> Option<RoundId> {
        if self.under_way.is_some() || self.waiting.is_empty() {
            return None;
        }
        self.under_way = Some((next, now));
        for ask in &mut self.waiting {
            ask.round = Some(next);
        }
        Some(next)
    }

    /// The requests whose confirmation is over, well or not.
    pub(super) fn end_round(&mut self, round: RoundId) -> Vec<LeaseAsk> {
        if self.under_way.is_none_or(|(under_way, _)| under_way != round) {
            return Vec::new();
        }
        self.under_way = None;
        let (done, waiting) = self.waiting.iter().partition(|ask| ask.round == Some(round));
        self.waiting = waiting;
        done
    }

    /// The confirmation that has taken longer than `max`.
    pub(super) fn overdue(&self, now: Mono, max: Duration) -> Option<RoundId> {
        self.under_way.filter(|(_, since)| now.since(*since) > max).map(|(round, _)| round)
    }

    pub(super) fn take_all(&mut self) -> Vec<LeaseAsk> {
        self.under_way = None;
        std::mem::take(&mut self.waiting)
    }
}

/// Until when each holder may believe that it has a lease, by this leader's clock.
#[derive(Debug, Default)]
pub(super) struct Grants {
    until: BTreeMap<(ShardId, Holder), Mono>,
}

impl Grants {
    pub(super) fn grant(&mut self, shard: ShardId, holder: Holder, until: Mono) {
        let granted = self.until.entry((shard, holder)).or_default();
        *granted = (*granted).max(until);
    }

    pub(super) fn forget_ended(&mut self, now: Mono) {
        self.until.retain(|_, until| now < *until);
    }

    /// Whether every grant on the shard, of whatever epoch or member, is over: but that of `except`.
    pub(super) fn are_over(&self, shard: ShardId, except: Option<Holder>, now: Mono) -> bool {
        let others = self.until.iter().filter(|((of, holder), _)| *of == shard && Some(*holder) != except);
        others.into_iter().all(|(_, until)| *until <= now)
    }
}
