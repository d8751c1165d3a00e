//! The duty of the ring's leader: grant leases, notice the dead, promote, move votes, and tell everybody the ring.
//!
//! Any member may come to lead; those who do not, keep a core that knows so and does nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use ringmaster_replica::{AskId, Lead, LeadInput, LeadOutput, Probe, RouteId};
use ringmaster_ring::{MemberId, Ring, VoterId, next_vote_move, wanted_voters};
use tokio::sync::oneshot;

use super::Control;
use crate::consensus::Leadership;
use crate::env::{Env, within};
use crate::peer::{CallError, LeaseAsk, ProbeReport, Request, Response, RingNews};

/// How long a primary may wait for the answer to its ask.
const LEASE_ANSWER_LIMIT: Duration = Duration::from_millis(500);
/// How long a member may take to receive a ring.
const NEWS_LIMIT: Duration = Duration::from_secs(1);
/// How often a ring is sent to a member while the connection to it breaks.
const NEWS_TRIES: usize = 3;
/// How often the leader looks whether a vote should move.
const VOTES_EVERY: Duration = Duration::from_millis(250);
/// How long the moving of a vote may take: the new voter has to receive the ring.
const VOTE_LIMIT: Duration = Duration::from_secs(5);
/// How many others probe a member that does not answer the leader.
const PROBERS: usize = 2;

/// The leader core and the asks that wait for it.
#[derive(Debug)]
pub(super) struct LeaderDuty {
    core: Mutex<Lead>,
    /// The term of the leadership that the core was told of last.
    term: AtomicU64,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    asks: BTreeMap<RouteId, oneshot::Sender<(bool, bool)>>,
}

impl LeaderDuty {
    pub(super) fn new(core: Lead) -> Self {
        Self { core: Mutex::new(core), term: AtomicU64::new(0), waiting: Mutex::default() }
    }
}

impl<E: Env> Control<E> {
    /// Leads while the consensus says so, and ends with it.
    pub(super) async fn watch_leadership(self: Arc<Self>) {
        let mut leadership = Some(self.consensus.leadership());
        while let Some(known) = leadership {
            match known {
                Leadership::Leading { term } => {
                    tracing::info!(term, "this member leads the ring");
                    self.view.set_leader(Some(self.identity.member));
                    self.leader.term.store(term, Ordering::Release);
                    self.lead(LeadInput::Leading);
                    self.tell_everybody();
                }
                Leadership::NotLeading { leader } => {
                    self.lead(LeadInput::NotLeading);
                    let ring = self.view.ring();
                    let member = leader.and_then(|voter| ring.as_ref()?.member_of_voter(voter).map(|(id, _)| id));
                    if member.is_some() {
                        self.view.set_leader(member);
                    }
                }
            }
            leadership = self.consensus.leadership_changed(known).await;
        }
        self.lead(LeadInput::NotLeading);
        if !self.is_stopping.load(Ordering::Acquire) {
            // Without Raft this process would only look as if it took part.
            self.driver.fail("Raft ended: its log could not be written");
        }
    }

    pub(super) fn lead_with_ring(self: &Arc<Self>, ring: Arc<Ring>) {
        self.lead(LeadInput::Ring(ring));
        if self.leads() {
            self.tell_everybody();
        }
    }

    pub(super) fn lead_tick(self: &Arc<Self>) {
        self.lead(LeadInput::Tick);
    }

    fn lead(self: &Arc<Self>, input: LeadInput) {
        let mut outputs = Vec::new();
        self.leader.core.lock().handle(input, self.env.now(), &mut outputs);
        for output in outputs {
            self.obey_lead(output);
        }
    }

    fn obey_lead(self: &Arc<Self>, output: LeadOutput) {
        let control = Arc::clone(self);
        let term = self.leader.term.load(Ordering::Acquire);
        match output {
            LeadOutput::ConfirmQuorum { round } => self.env.spawn(async move {
                match control.consensus.confirm_quorum(term).await {
                    Ok(()) => control.lead(LeadInput::QuorumConfirmed { round }),
                    Err(_) => control.lead(LeadInput::QuorumFailed { round }),
                }
            }),
            LeadOutput::Answer { route, granted, prev_over, .. } => {
                if let Some(asker) = self.leader.waiting.lock().asks.remove(&route) {
                    // The asker may have given up.
                    let _ = asker.send((granted, prev_over));
                }
            }
            LeadOutput::Propose(command) => self.env.spawn(async move {
                let proposed = control.consensus.propose_as_leader(term, command.clone()).await;
                tracing::info!(?command, ?proposed, "proposed as leader");
            }),
            LeadOutput::Probe { member } => self.env.spawn(async move {
                let result = control.probe_directly_and_through_others(member).await;
                control.lead(LeadInput::Probed { member, result });
            }),
        }
    }

    async fn probe_directly_and_through_others(self: &Arc<Self>, member: MemberId) -> Probe {
        let mut report = self.probe(member).await;
        if report == ProbeReport::Silent {
            // It may be this member that is cut off from it.
            let ring = self.view.ring();
            let others: Vec<MemberId> = ring
                .iter()
                .flat_map(|ring| ring.members.keys().copied())
                .filter(|other| *other != member && *other != self.identity.member)
                .take(PROBERS)
                .collect();
            for other in others {
                match self.probe_through(other, member).await {
                    ProbeReport::Silent => {}
                    heard => {
                        report = heard;
                        break;
                    }
                }
            }
        }
        match report {
            ProbeReport::Alive { boot, shard_epoch, position } => Probe::Alive { boot, shard_epoch, position },
            ProbeReport::Refused => Probe::Refused,
            ProbeReport::Silent => Probe::Silent,
        }
    }

    /// Answers a primary that asks for its lease; None where this process does not lead.
    pub(super) async fn answer_lease(&self, ask: LeaseAsk) -> Option<Response> {
        if !self.leads() {
            return None;
        }
        let (answered, answer) = oneshot::channel();
        let route = {
            let mut waiting = self.leader.waiting.lock();
            waiting.next = waiting.next.wrapping_add(1);
            let route = RouteId(waiting.next);
            waiting.asks.insert(route, answered);
            route
        };
        self.lead_now(LeadInput::LeaseAsk {
            route,
            ask: AskId(route.0),
            shard: ask.shard,
            epoch: ask.epoch,
            holder: ask.holder,
        });
        let answer = within(&self.env, LEASE_ANSWER_LIMIT, answer).await;
        self.leader.waiting.lock().asks.remove(&route);
        let (granted, prev_over) = answer?.ok()?;
        Some(Response::Lease { granted, prev_over })
    }

    /// As [`Self::lead`], from a place that holds no `Arc`.
    fn lead_now(&self, input: LeadInput) {
        if let Some(control) = self.myself.upgrade() {
            control.lead(input);
        }
    }

    /// Sends the newest ring to every member.
    fn tell_everybody(self: &Arc<Self>) {
        let Some(ring) = self.view.ring() else { return };
        let version = (ring.generation, ring.epoch);
        for (id, member) in &ring.members {
            let (true, Some(presence)) = (*id != self.identity.member, &member.present) else { continue };
            let (control, address) = (Arc::clone(self), presence.address.clone());
            let news = Request::News(RingNews { ring: Arc::clone(&ring), leader: Some(self.identity.member) });
            self.env.spawn(async move {
                // Who misses all of these asks for it later.
                for _ in 0..NEWS_TRIES {
                    let told = control.peers.call(&address, &news, NEWS_LIMIT).await;
                    let is_newest = control.view.version() == Some(version);
                    if !matches!(told, Err(CallError::Broken | CallError::TimedOut)) || !is_newest {
                        return;
                    }
                }
            });
        }
    }

    /// Moves votes one at a time towards where the ring wants them.
    pub(super) async fn move_votes(self: Arc<Self>) {
        loop {
            self.env.sleep(VOTES_EVERY).await;
            if !self.leads() {
                continue;
            }
            let rings = self.consensus.ring();
            let ring = rings.borrow().clone();
            let Some(ring) = ring else { continue };
            let reachable = self.reachable_candidates(&ring).await;
            let is_alive = |voter| self.consensus.is_alive(voter) || reachable.contains(&voter);
            let Some(step) = next_vote_move(&ring, self.consensus.voter(), is_alive) else { continue };
            let to = match step {
                ringmaster_ring::VoteMove::Give { to, .. } => ring.member_of_voter(to),
                ringmaster_ring::VoteMove::Take { from } => ring.member_of_voter(from),
            };
            let address = to.and_then(|(_, member)| member.present.as_ref()).map(|presence| presence.address.clone());
            let address = address.unwrap_or_else(|| self.config.address.clone());
            match within(&self.env, VOTE_LIMIT, self.consensus.move_vote(step, &address)).await {
                Some(Ok(())) => tracing::info!(?step, "a vote moved"),
                Some(Err(error)) => tracing::warn!(?step, %error, "a vote did not move"),
                None => tracing::warn!(?step, "a vote did not move in time"),
            }
        }
    }

    /// The wanted voters that have no vote yet and answer. Raft itself has not spoken to them.
    async fn reachable_candidates(&self, ring: &Ring) -> BTreeSet<VoterId> {
        let mut reachable = BTreeSet::new();
        for voter in wanted_voters(ring).difference(&ring.voters) {
            let Some((member, _)) = ring.member_of_voter(*voter) else { continue };
            if matches!(self.probe(member).await, ProbeReport::Alive { .. }) {
                reachable.insert(*voter);
            }
        }
        reachable
    }
}
