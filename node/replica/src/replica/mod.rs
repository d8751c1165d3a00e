//! One data member of one shard: it follows, serves, freezes and hands over.
//!
//! [`Replica::handle`] takes in what happened, then [`Replica::advance`] does everything that the facts now allow, in
//! one order. No step waits inside: what was missed is seen again from the facts at the next input.
//!
//! | file | concept |
//! |---|---|
//! | `io` | inputs and outputs |
//! | `books` | as primary: acknowledgements, the mark, additions and removals |
//! | `serve` | as primary: streams to copies, the release |
//! | `follow`, `copy` | as copy: whom to follow, what may be taken |
//! | `lease`, `log` | the lease; what is held |
//! | `status` | what tools and people see |

mod books;
mod copy;
mod follow;
mod io;
mod lease;
mod log;
mod serve;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;

use ringmaster_ring::{
    BootId, Command, Holder, MemberId, Mutations, Position, Ring, Rule, Seq, Shard, ShardChange, ShardEpoch, ShardId,
};

use self::books::Books;
use self::follow::Follow;
use self::lease::{Lease, LeaseTerms};
use self::log::{Data, Log};
use self::serve::Subscription;
use crate::time::millis;
use crate::wanted::Proposals;
use crate::{GateState, History, Mono, Phase};

pub use io::*;

/// How many leases a successor waits for the release of a primary that still answers, after that one's lease is over.
/// Until then it is likely to release, and no request of its clients has to fail.
const LEASES_FOR_RELEASE_MAX: u32 = 5;

/// What a [`Replica`] is told at its start.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    pub me: MemberId,
    /// New at each start of a process.
    pub boot: BootId,
    pub shard: ShardId,
    /// By how much two clocks may drift apart, in parts per million.
    pub drift_ppm: u32,
    /// What the data holds at the start, read from a disk; [`Held::default`] for nothing.
    pub held: Held,
    pub mutations: Mutations,
}

/// A log: where its epochs began, and where it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub history: History,
    pub end: Seq,
}

/// How a member stands to the data of its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncState {
    /// Follows nobody: it serves, is retired, or has nobody to follow yet.
    None,
    /// Asked the primary for a stream.
    Asked,
    /// Receives a walk over all data.
    Walking,
    /// Receives the log.
    Following,
}

/// One data member's part in the protocol.
#[derive(Debug)]
pub struct Replica {
    me: Holder,
    shard_id: ShardId,
    drift_ppm: u32,
    mutations: Mutations,
    view: Option<Arc<Ring>>,
    /// When the present epoch of the shard was first seen.
    epoch_seen_at: Mono,
    log: Log,
    /// The highest epoch in which this member served or accepted a stream.
    accepted: ShardEpoch,
    /// Raised whenever data is discarded.
    lineage: u64,
    lease: Lease,
    /// From the start of an epoch that this member serves until it follows another primary.
    books: Option<Books>,
    /// Commands may run under the gate.
    executing: bool,
    /// [`Output::Barrier`] was asked for: commands may still run, although the gate says no more that they may.
    draining: bool,
    /// On which stream the release was sent.
    released_on: Option<StreamId>,
    /// Who released, for which epoch, and the last record of it.
    release: Option<(Holder, ShardEpoch, Position)>,
    follow: Follow,
    /// What the primary of the accepted epoch counts as committed.
    primary_mark: Seq,
    /// Of what this member executed as primary, what is known to be kept although it serves no more: its successor's
    /// mark passed it, or the ring says that the handover is done.
    kept: Seq,
    subscriptions: BTreeMap<MemberId, Subscription>,
    leaving: Option<bool>,
    is_retired: bool,
    proposals: Proposals,
    published: GateState,
    seen_at: Mono,
}

/// Outputs that must follow the publication of the new state.
#[derive(Default)]
struct AfterPublish {
    barrier: bool,
    discard: bool,
}

impl Replica {
    #[must_use]
    pub fn new(config: ReplicaConfig) -> Self {
        let ReplicaConfig { me, boot, shard, drift_ppm, held, mutations } = config;
        Self {
            me: Holder { member: me, boot },
            shard_id: shard,
            drift_ppm,
            mutations,
            view: None,
            epoch_seen_at: Mono::ZERO,
            log: Log::new(held),
            accepted: ShardEpoch(0),
            lineage: 0,
            lease: Lease::default(),
            books: None,
            executing: false,
            draining: false,
            released_on: None,
            release: None,
            follow: Follow::default(),
            primary_mark: Seq(0),
            kept: Seq(0),
            subscriptions: BTreeMap::new(),
            leaving: None,
            is_retired: false,
            proposals: Proposals::default(),
            published: GateState::default(),
            seen_at: Mono::ZERO,
        }
    }

    /// Takes in what happened at `now`, and appends to `out` what is to be done.
    pub fn handle(&mut self, input: Input, now: Mono, out: &mut Vec<Output>) {
        self.forgive_a_pause(now);
        let mut after = AfterPublish::default();
        match input {
            Input::Ring(ring) => self.learn(ring, now),
            Input::Tick => {}
            Input::LogEnd(end) => {
                if self.executing || self.draining {
                    self.log.end = self.log.end.max(end);
                }
            }
            Input::LeaseGranted { ask, prev_over } => {
                if let Some(terms) = self.lease_terms() {
                    self.lease.granted(ask, prev_over, now, terms);
                }
            }
            Input::Leave => self.leaving = Some(true),
            Input::Stay => self.leaving = Some(false),
            Input::Barrier { end } => {
                if self.draining {
                    self.draining = false;
                    self.log.end = self.log.end.max(end);
                }
            }
            Input::Subscribe { stream, from, epoch, last, may_discard, kept_after, log_end } => {
                if self.executing {
                    self.log.end = self.log.end.max(log_end);
                }
                self.subscribe(Subscription { stream, from, epoch, last, may_discard, kept_after }, out);
            }
            Input::CopyLost { stream, from } => self.copy_lost(stream, from, now),
            Input::Ack { stream, from, epoch, seq } => {
                if let Some(books) = self.books.as_mut().filter(|books| books.epoch == epoch)
                    && !books.ack(from, stream, seq, now)
                {
                    out.push(Output::CloseStream { stream, to: from });
                }
            }
            Input::Accepted { stream, epoch, start } => self.on_accepted(stream, epoch, start, now, &mut after, out),
            Input::Refused { stream, reason } => self.on_refused(stream, reason, now),
            Input::StreamLost { stream } => {
                if self.follow.heard(stream, now).is_some() {
                    self.follow.over(now);
                }
            }
            Input::Records { stream, epoch, entry_epoch, first, last, committed } => {
                self.on_records(stream, epoch, entry_epoch, (first, last), committed, now, out);
            }
            Input::Heartbeat { stream, epoch, end, committed } => {
                self.on_heartbeat(stream, epoch, end, committed, now, out);
            }
            Input::Applied { last } => self.on_applied(last, out),
            Input::WalkDone { stream, epoch, end, history } => self.on_walk_done(stream, epoch, end, history, now, out),
            Input::Discarded => self.on_discarded(out),
            Input::Release { stream, epoch, last } => self.on_release(stream, epoch, last, now),
        }
        self.advance(now, after, out);
    }

    /// Does everything that the facts allow.
    fn advance(&mut self, now: Mono, mut after: AfterPublish, out: &mut Vec<Output>) {
        if let Some(ring) = self.view.clone()
            && let Some(shard) = ring.shards.get(&self.shard_id)
        {
            if self.is_retired {
                self.retire(&mut after, out);
            } else {
                self.pretend_to_have_served(shard, now);
                self.stop_if_deposed(shard, &mut after);
                if !self.draining && self.log.data != Data::Discarding {
                    self.serve_if_allowed(&ring, shard, now, &mut after, out);
                    self.tend_streams(&ring, shard, now, out);
                    self.follow_primary(&ring, shard, now, &mut after, out);
                }
                self.count(shard, now);
                self.ask_for_lease(&ring, shard, now, out);
                self.propose(&ring, shard, now, out);
            }
        }
        let state = self.gate_state_at(now);
        if state != self.published {
            self.published = state;
            out.push(Output::Publish(state));
        }
        if after.barrier {
            out.push(Output::Barrier);
        }
        if after.discard {
            out.push(Output::Discard);
        }
    }

    fn learn(&mut self, ring: Arc<Ring>, now: Mono) {
        let epoch_before = match &self.view {
            Some(view) if ring.epoch <= view.epoch => return,
            Some(view) => view.shards.get(&self.shard_id).map(|shard| shard.epoch),
            None => None,
        };
        if let Some(shard) = ring.shards.get(&self.shard_id) {
            if Some(shard.epoch) != epoch_before {
                self.epoch_seen_at = now;
                self.lease.ask_at_once();
            }
            if let Some(books) = &mut self.books {
                books.see(&ring, shard, now);
            }
            self.note_what_was_kept(shard);
        }
        // A serial that is below the next and not in the ring was given out and deleted again.
        let me = ring.members.get(&self.me.member);
        self.is_retired |= me.map_or(self.me.member < ring.next_serial, |member| !member.is_active());
        self.follow.hurry();
        self.view = Some(ring);
    }

    /// A handover is done: the successor began with a log that is a beginning of the one here, and the whole in-sync set
    /// holds that (rule 8). The same comes on the successor's stream, but perhaps not before this member is retired.
    fn note_what_was_kept(&mut self, shard: &Shard) {
        if let Some(start) = shard.kept_through
            && self.log.data == Data::Whole
            && self.log.history.is_prefix(start, self.log.end, self.mutations)
        {
            self.kept = self.kept.max(start.seq);
        }
    }

    /// Whether the shard's primary is this process.
    fn is_mine(&self, shard: &Shard) -> bool {
        shard.primary == self.me
            || (shard.primary.member == self.me.member && !self.mutations.keep(Rule::RolesNameBoot))
    }

    /// Serves, by the newest ring that it knows.
    fn is_primary(&self, shard: &Shard) -> bool {
        self.is_mine(shard)
            && self.accepted == shard.epoch
            && self.books.as_ref().is_some_and(|books| books.epoch == shard.epoch)
    }

    /// Served in the epoch before, and is named by the ring as the one that hands over.
    fn is_frozen(&self, shard: &Shard) -> bool {
        shard.pending_from == Some(self.me)
            && self
                .books
                .as_ref()
                .is_some_and(|books| books.epoch.next() == shard.epoch && self.accepted == books.epoch)
    }

    /// Only where a test dropped the rule: a member hands over what was never handed to it.
    fn pretend_to_have_served(&mut self, shard: &Shard, now: Mono) {
        let before = ShardEpoch(shard.epoch.0.saturating_sub(1));
        let named = shard.pending_from == Some(self.me) && self.books.is_none() && self.accepted < before;
        if named && !self.mutations.keep(Rule::OneHandoverAtATime) {
            self.accepted = before;
            self.books = Some(Books::open(before, self.log.end, shard, self.mutations, now));
        }
    }

    /// The freeze: it ends by a later epoch alone (rule 8, `freeze`).
    fn stop_if_deposed(&mut self, shard: &Shard, after: &mut AfterPublish) {
        if self.executing && !self.is_primary(shard) {
            self.executing = false;
            self.draining = true;
            after.barrier = true;
        }
    }

    /// Activation (`activate` in the protocol).
    fn serve_if_allowed(
        &mut self,
        ring: &Ring,
        shard: &Shard,
        now: Mono,
        after: &mut AfterPublish,
        out: &mut Vec<Output>,
    ) {
        let already = self.books.as_ref().is_some_and(|books| books.epoch == shard.epoch);
        if !self.is_mine(shard) || already || self.accepted > shard.epoch || !self.log.is_quiet() {
            return;
        }
        match shard.recovered_at {
            Some(start) if start.seq == Seq(0) && !self.log.is_empty() => return self.discard(after, out),
            Some(start) if start != self.log.position() => return,
            _ if self.log.data != Data::Whole => return,
            _ => {}
        }
        if let Some(former) = shard.pending_from
            && !self.may_succeed(former, ring, shard, now)
        {
            return;
        }
        self.unfollow(out);
        self.close_books(out);
        let start = self.log.position();
        self.log.history.begin(shard.epoch, start.seq.next());
        self.accepted = shard.epoch;
        self.books = Some(Books::open(shard.epoch, start.seq, shard, self.mutations, now));
        self.executing = true;
        self.release = None;
        self.released_on = None;
        self.lease.ask_at_once();
        out.push(Output::Serve { epoch: shard.epoch, start });
    }

    /// Whether the former primary of a handover is out of the way (rules 7 and 10).
    fn may_succeed(&self, former: Holder, ring: &Ring, shard: &Shard, now: Mono) -> bool {
        if !self.mutations.keep(Rule::SuccessorWaits) {
            return true;
        }
        if let Some((from, epoch, last)) = self.release {
            let has_tail = self.log.position() == last || !self.mutations.keep(Rule::ReleaseNeedsTail);
            // Only a member that served in the epoch before releases: the one that the handover names (rule 9).
            if epoch == shard.epoch && from == former && has_tail {
                return true;
            }
        }
        let former_answers = self.follow.hears(former, now, millis(ring.settings.failover_after_ms));
        let patience = millis(ring.settings.lease_ms) * LEASES_FOR_RELEASE_MAX;
        let waited = now.since(self.epoch_seen_at) > patience;
        self.lease.previous_is_over(shard.epoch) && (waited || !former_answers)
    }

    fn lease_terms(&self) -> Option<LeaseTerms> {
        let length = millis(self.view.as_ref()?.settings.lease_ms);
        Some(LeaseTerms { length, drift_ppm: self.drift_ppm, mutations: self.mutations })
    }

    /// Counts acknowledgements, while the lease says that nobody else does.
    fn count(&mut self, shard: &Shard, now: Mono) {
        if let Some(books) = &mut self.books {
            books.watch(self.log.end, now);
            if self.lease.is_valid(books.epoch, now) {
                books.count(self.me, shard, self.log.end);
            }
        }
    }

    fn ask_for_lease(&mut self, ring: &Ring, shard: &Shard, now: Mono, out: &mut Vec<Output>) {
        if !self.is_mine(shard) || ring.is_superseded(self.me) {
            return;
        }
        let lease = millis(ring.settings.lease_ms);
        let settled = self.is_primary(shard) && self.lease.is_valid(shard.epoch, now);
        if let Some(ask) = self.lease.ask(shard.epoch, now, if settled { lease / 8 } else { lease / 16 }) {
            out.push(Output::AskLease { ask, shard: self.shard_id, epoch: shard.epoch, holder: shard.primary });
        }
    }

    /// Asks the ring for what this member wants of it.
    fn propose(&mut self, ring: &Ring, shard: &Shard, now: Mono, out: &mut Vec<Output>) {
        let mut changes = Vec::new();
        // Its copies may follow the newer process already: that they do not follow this one says nothing about them.
        if self.is_primary(shard)
            && !ring.is_superseded(self.me)
            && let Some(books) = &mut self.books
        {
            let lag_max = millis(ring.settings.copy_lag_ms_max);
            let remove = books.to_remove(self.me, ring, shard, now, lag_max);
            books.removal_sent(&remove);
            let may_begin = books.review_addition(ring, now, lag_max, millis(ring.settings.lease_ms) / 4);
            if may_begin && remove.is_empty() {
                books.begin_addition(self.shard_id, ring, shard, now, lag_max);
            }
            changes.extend(remove.into_iter().map(ShardChange::Remove));
            changes.extend(books.adding.map(|adding| match adding.withdrawn {
                true => ShardChange::Remove(adding.copy),
                false => ShardChange::Add(adding.copy),
            }));
            // Until it is done nobody can retire the former primary: it first hears that its writes were kept.
            if shard.pending_from.is_some() && books.start_is_committed() {
                let epoch = self.log.history.epoch_at(books.start()).unwrap_or_default();
                changes.push(ShardChange::HandoverDone { start: Position { epoch, seq: books.start() } });
            }
        }
        let mut commands: Vec<Command> =
            changes.into_iter().filter_map(|change| Command::on_shard(ring, self.shard_id, change)).collect();
        let present = ring.members.get(&self.me.member).filter(|member| member.boot() == Some(self.me.boot));
        if let (Some(leaving), Some(member)) = (self.leaving, present)
            && member.leaving != leaving
        {
            commands.push(if leaving { Command::Leave(self.me) } else { Command::Stay(self.me) });
        }
        self.proposals.want(commands, now, |command| out.push(Output::Propose(command)));
    }

    /// Gives up every role for good, and then the data.
    fn retire(&mut self, after: &mut AfterPublish, out: &mut Vec<Output>) {
        if self.executing {
            self.executing = false;
            self.draining = true;
            after.barrier = true;
        }
        self.kept = self.kept.max(self.copy_mark());
        self.unfollow(out);
        self.close_books(out);
        self.refuse_all(out);
        if self.draining || self.log.data == Data::Discarding || !self.log.is_quiet() || self.log.is_empty() {
            return;
        }
        // The lineage stays: nothing is executed here any more, and what was and is kept may still be answered.
        self.log.data = Data::Discarding;
        after.discard = true;
    }

    /// Begins to drop all data. Whoever calls has seen that this process is outside the in-sync set, or alone in an
    /// epoch that starts empty.
    fn discard(&mut self, after: &mut AfterPublish, out: &mut Vec<Output>) {
        self.log.data = Data::Discarding;
        self.lineage = self.lineage.saturating_add(1);
        self.primary_mark = Seq(0);
        self.kept = Seq(0);
        self.close_books(out);
        after.discard = true;
    }

    fn gate_state_at(&self, now: Mono) -> GateState {
        let lineage = self.lineage;
        let idle = GateState { lineage, copy_mark: self.kept, ..GateState::default() };
        if self.is_retired {
            return GateState { phase: Phase::Retired, ..idle };
        }
        let Some(ring) = &self.view else { return idle };
        let Some(shard) = ring.shards.get(&self.shard_id) else { return idle };
        let idle = GateState { acks: ring.settings.acks, ..idle };
        if let Some(books) = &self.books {
            let unfrozen = self.is_frozen(shard) && self.unfreezes_by_timer(ring, now);
            let phase = match () {
                () if (self.is_primary(shard) && self.executing) || unfrozen => Some(Phase::Primary),
                () if self.is_frozen(shard) => Some(Phase::Frozen),
                () => None,
            };
            if let Some(phase) = phase {
                return GateState {
                    phase,
                    epoch: books.epoch,
                    lease_until: self.lease.until(books.epoch),
                    committed: books.committed,
                    writes_refused: shard.in_sync.len() < usize::from(ring.settings.min_in_sync),
                    ..idle
                };
            }
        }
        if shard.primary.member == self.me.member {
            return GateState { phase: Phase::Pending, epoch: shard.epoch, ..idle };
        }
        // A copy stays one while it looks for its stream again: what its mark has passed stays so.
        if self.accepted == shard.epoch && self.log.data == Data::Whole && self.books.is_none() {
            return GateState {
                phase: Phase::Copy,
                epoch: self.accepted,
                copy_mark: self.copy_mark().max(self.kept),
                fresh_until: self.fresh_until(ring, shard),
                ..idle
            };
        }
        idle
    }

    /// Only where a test dropped the rule that a commit alone ends a freeze.
    fn unfreezes_by_timer(&self, ring: &Ring, now: Mono) -> bool {
        !self.mutations.keep(Rule::UnfreezeByCommit)
            && now.since(self.epoch_seen_at) > millis(ring.settings.lease_ms) / 4
    }

    /// After a pause of this process nobody else is to blame for the silence.
    fn forgive_a_pause(&mut self, now: Mono) {
        let gap = now.since(self.seen_at);
        self.seen_at = self.seen_at.max(now);
        if self.view.as_ref().is_some_and(|view| gap > millis(view.settings.lease_ms) / 2) {
            self.follow.forgive(gap);
            if let Some(books) = &mut self.books {
                books.forgive(gap);
            }
        }
    }
}
