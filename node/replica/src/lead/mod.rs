//! The work of the ring's leader: it grants leases, and replaces primaries that are gone.
//!
//! The leader has no memory across leaderships: what it must not forget, it waits out (rule 1).

mod grants;
mod io;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;

use ringmaster_ring::{
    BootId, Command, FeatureLevel, Holder, Member, MemberId, Mutations, OnDataLoss, Position, Ring, Rule, Shard,
    ShardChange, ShardId, Version,
};

use self::grants::{Asks, Grants, LeaseAsk};
use self::watch::{Patience, Watch};
use crate::Mono;
use crate::time::millis;
use crate::wanted::Proposals;

pub use io::*;

/// What a [`Lead`] is told at its start.
#[derive(Clone, Copy, Debug)]
pub struct LeadConfig {
    pub mutations: Mutations,
}

/// One voter's part in leases and failover. Idle unless it leads.
#[derive(Debug)]
pub struct Lead {
    mutations: Mutations,
    ring: Option<Arc<Ring>>,
    leadership: Option<Leadership>,
    last_round: u64,
    seen_at: Mono,
}

/// From the first applied entry of the leader's own term on.
#[derive(Debug)]
struct Leadership {
    since: Mono,
    asks: Asks,
    grants: Grants,
    watch: Watch,
    /// From the proposal of a failover to its outcome (rule 1).
    failovers: BTreeMap<ShardId, Failover>,
    proposals: Proposals,
}

/// A change of a shard's primary that was decided and whose outcome is not applied yet.
#[derive(Clone, Debug)]
struct Failover {
    /// The shard's version on which it is conditional: a higher one is the outcome.
    version: Version,
    command: Command,
}

impl Failover {
    /// Whether the ring shows what became of it: it was applied, something else came first, or it names a process that
    /// is no more and so can be refused only.
    fn is_decided(&self, id: ShardId, ring: &Ring) -> bool {
        let superseded =
            |holder: &Holder| ring.members.get(&holder.member).is_none_or(|m| m.boot() != Some(holder.boot));
        let refused = match &self.command {
            Command::Shard { change: ShardChange::StartEmpty { on }, .. } => superseded(on),
            _ => false,
        };
        refused || ring.shards.get(&id).is_none_or(|shard| shard.version > self.version)
    }
}

impl Lead {
    #[must_use]
    pub fn new(config: LeadConfig) -> Self {
        let LeadConfig { mutations } = config;
        Self { mutations, ring: None, leadership: None, last_round: 0, seen_at: Mono::ZERO }
    }

    /// Takes in what happened at `now`, and appends to `out` what is to be done.
    pub fn handle(&mut self, input: LeadInput, now: Mono, out: &mut Vec<LeadOutput>) {
        self.forgive_a_pause(now);
        match input {
            LeadInput::Leading => self.begin(now, out),
            LeadInput::NotLeading => self.end(out),
            LeadInput::Ring(ring) => self.learn(ring, now),
            LeadInput::Tick => {}
            LeadInput::LeaseAsk { route, ask, shard, epoch, holder } => {
                let Some(leadership) = &mut self.leadership else {
                    out.push(LeadOutput::Answer { route, ask, granted: false, prev_over: false });
                    return;
                };
                leadership.watch.asked(shard, holder, now);
                leadership.asks.push(route, ask, (shard, epoch, holder), now);
                if !self.mutations.keep(Rule::QuorumAfterAsk) {
                    let asks = leadership.asks.take_all();
                    self.answer(asks, true, now, out);
                }
            }
            LeadInput::QuorumConfirmed { round } => self.end_round(round, true, now, out),
            LeadInput::QuorumFailed { round } => self.end_round(round, false, now, out),
            LeadInput::Probed { member, result } => {
                if let Some(leadership) = &mut self.leadership {
                    leadership.watch.probed(member, result, now);
                }
            }
        }
        self.advance(now, out);
    }

    /// Whether this voter leads and has to wait before it may promote anybody.
    #[must_use]
    pub fn is_waiting(&self, now: Mono) -> bool {
        match (&self.leadership, &self.ring) {
            (Some(leadership), Some(ring)) => now.since(leadership.since) < millis(ring.settings.lease_ms),
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    fn begin(&mut self, now: Mono, out: &mut Vec<LeadOutput>) {
        // A restart in the same term is a leadership of its own: what was granted before is not known any more.
        self.end(out);
        let mut watch = Watch::default();
        if let Some(ring) = &self.ring {
            watch.see(ring, now);
        }
        self.leadership = Some(Leadership {
            since: now,
            asks: Asks::default(),
            grants: Grants::default(),
            watch,
            failovers: BTreeMap::new(),
            proposals: Proposals::default(),
        });
    }

    fn end(&mut self, out: &mut Vec<LeadOutput>) {
        let Some(mut leadership) = self.leadership.take() else { return };
        for LeaseAsk { route, ask, .. } in leadership.asks.take_all() {
            out.push(LeadOutput::Answer { route, ask, granted: false, prev_over: false });
        }
    }

    fn learn(&mut self, ring: Arc<Ring>, now: Mono) {
        if self.ring.as_ref().is_some_and(|known| ring.epoch <= known.epoch) {
            return;
        }
        if let Some(leadership) = &mut self.leadership {
            leadership.watch.see(&ring, now);
            leadership.failovers.retain(|id, failover| !failover.is_decided(*id, &ring));
        }
        self.ring = Some(ring);
    }

    fn end_round(&mut self, round: RoundId, confirmed: bool, now: Mono, out: &mut Vec<LeadOutput>) {
        if let Some(leadership) = &mut self.leadership {
            let asks = leadership.asks.end_round(round);
            self.answer(asks, confirmed, now, out);
        }
    }

    /// Answers requests after their confirmation (`lease` in the protocol).
    fn answer(&mut self, asks: Vec<LeaseAsk>, confirmed: bool, now: Mono, out: &mut Vec<LeadOutput>) {
        let waiting = self.is_waiting(now);
        let (Some(leadership), Some(ring)) = (&mut self.leadership, &self.ring) else { return };
        for LeaseAsk { route, ask, shard: id, epoch, holder, received_at, .. } in asks {
            let failing_over =
                leadership.failovers.contains_key(&id) && self.mutations.keep(Rule::NoGrantsDuringFailover);
            let is_primary = ring.shards.get(&id).is_some_and(|s| s.primary == holder && s.epoch == epoch);
            let granted = confirmed && is_primary && !failing_over;
            if granted {
                // The member's lease runs from before this moment, and shorter: it ends first.
                leadership.grants.grant(id, holder, received_at.plus(millis(ring.settings.lease_ms)));
            }
            let others_over = !waiting && leadership.grants.are_over(id, Some(holder), now);
            let prev_over = granted && (others_over || !self.mutations.keep(Rule::PreviousOverMeansAllGrants));
            out.push(LeadOutput::Answer { route, ask, granted, prev_over });
        }
    }

    /// Does everything that the facts allow.
    fn advance(&mut self, now: Mono, out: &mut Vec<LeadOutput>) {
        let Some(ring) = self.ring.clone() else { return };
        let may_promote = !self.is_waiting(now) || !self.mutations.keep(Rule::NewLeaderWaits);
        let Some(leadership) = &mut self.leadership else { return };
        let lease = millis(ring.settings.lease_ms);
        let patience = Patience { silence: millis(ring.settings.failover_after_ms), lease };

        if let Some(round) = leadership.asks.overdue(now, lease) {
            for LeaseAsk { route, ask, .. } in leadership.asks.end_round(round) {
                out.push(LeadOutput::Answer { route, ask, granted: false, prev_over: false });
            }
        }
        if let Some(round) = leadership.asks.begin_round(RoundId(self.last_round.saturating_add(1)), now) {
            self.last_round = round.0;
            out.push(LeadOutput::ConfirmQuorum { round });
        }
        let probes = leadership.watch.due_probes(&ring, now, patience);
        out.extend(probes.into_iter().map(|member| LeadOutput::Probe { member }));

        for (id, shard) in &ring.shards {
            let over = leadership.grants.are_over(*id, None, now) || !self.mutations.keep(Rule::FailoverWaitsForGrants);
            if may_promote
                && over
                && !leadership.failovers.contains_key(id)
                && leadership.watch.is_dead(*id, &ring, now, patience)
                && let Some(change) = choose(&ring, *id, shard, &leadership.watch, now, patience)
                && let Some(command) = Command::on_shard(&ring, *id, change)
            {
                leadership.failovers.insert(*id, Failover { version: shard.version, command });
            }
        }
        leadership.grants.forget_ended(now);

        let mut wanted: Vec<Command> = leadership.failovers.values().map(|failover| failover.command.clone()).collect();
        wanted.extend(next_feature_level(&ring).map(|to| Command::RaiseFeatureLevel { to }));
        leadership.proposals.want(wanted, now, |command| out.push(LeadOutput::Propose(command)));
    }

    /// After a pause of this process nobody else is to blame for the silence. Grants ran on.
    fn forgive_a_pause(&mut self, now: Mono) {
        let gap = now.since(self.seen_at);
        self.seen_at = self.seen_at.max(now);
        let Some(ring) = &self.ring else { return };
        if let Some(leadership) = self.leadership.as_mut().filter(|_| gap > millis(ring.settings.failover_after_ms) / 2)
        {
            leadership.watch.forgive(gap);
        }
    }
}

/// What to do about a shard whose primary is dead and on which every grant is over.
fn choose(
    ring: &Ring,
    id: ShardId,
    shard: &Shard,
    watch: &Watch,
    now: Mono,
    patience: Patience,
) -> Option<ShardChange> {
    let in_sync: Vec<Holder> =
        shard.in_sync.iter().map(|(member, boot)| Holder { member: *member, boot: *boot }).collect();
    if in_sync.iter().all(|holder| ring.is_superseded(*holder)) {
        return match ring.settings.on_data_loss {
            OnDataLoss::StartEmpty => start_empty_on(ring, id, shard, watch, now, patience),
            OnDataLoss::Wait => None,
        };
    }
    let others = || in_sync.iter().copied().filter(|holder| *holder != shard.primary && !ring.is_superseded(*holder));
    if !others().all(|holder| watch.is_known(id, holder.member, now, patience)) {
        return None;
    }
    let alive = others().filter_map(|holder| Some((watch.position(holder, now, patience)?, holder)));
    // Rule 11: a handover is aborted in favour of the member that handed over. Else the most advanced, and of equals
    // the lowest serial.
    let rank = |(position, holder): &(Position, Holder)| {
        (shard.pending_from == Some(*holder), *position, std::cmp::Reverse(holder.member))
    };
    let (_, to) = alive.max_by_key(rank)?;
    // Whoever is promoted would wait for the acknowledgements of a member that is not there.
    let drop_former = !watch.answers(id, ring, now, patience);
    Some(ShardChange::Failover { to, drop_former })
}

/// On which member a shard starts empty of which no copy is left: one that answers, the former primary's if it does.
fn start_empty_on(
    ring: &Ring,
    id: ShardId,
    shard: &Shard,
    watch: &Watch,
    now: Mono,
    patience: Patience,
) -> Option<ShardChange> {
    let process = |member: &Member| -> Option<BootId> { member.boot().filter(|boot| member.gone != Some(*boot)) };
    let present = ring.members_of(id).filter_map(|(member, m)| Some(Holder { member, boot: process(m)? }));
    let alive = present.filter(|holder| watch.position(*holder, now, patience).is_some());
    let on = alive.min_by_key(|holder| (holder.member != shard.primary.member, holder.member))?;
    Some(ShardChange::StartEmpty { on })
}

/// The feature level that every member supports, if it is above the ring's.
fn next_feature_level(ring: &Ring) -> Option<FeatureLevel> {
    let level = |(_, member): (&MemberId, &Member)| member.present.as_ref().map(|present| present.feature_level);
    let levels: Option<Vec<FeatureLevel>> = ring.members.iter().filter(|(_, m)| m.is_active()).map(level).collect();
    levels?.into_iter().min().filter(|lowest| *lowest > ring.feature_level)
}
