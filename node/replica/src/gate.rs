//! What the threads that serve clients may do: whether a command may run, and whether its reply may go out.
//!
//! In: the state that the [`crate::Replica`] publishes, from one thread. Out: answers to any number of threads, from a
//! few atomic loads, without waiting. Parking a command, waiting with a reply and waking are the shell's.
//!
//! A command takes a [`Ticket`], then asks [`Gate::may_execute`] while it holds its lane. Its reply is kept until
//! [`Gate::answer`] says `Send` for the highest sequence of what it touched. The check of the lease *at flush* is the
//! one that carries safety: a thread may pause between any two instructions.

use std::sync::atomic::{AtomicU64, Ordering};

use ringmaster_ring::{Acks, Rule, Seq, ShardEpoch};

use crate::{Mono, Mutations};

/// What a member may do with its shard's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Holds no role, or follows nobody yet: others serve.
    #[default]
    Idle,
    /// The ring names this member as primary, and it does not serve yet: requests wait.
    Pending,
    /// Serves, while it has a lease.
    Primary,
    /// Has stopped for a handover, and its successor does not serve yet: requests wait.
    Frozen,
    /// Follows the primary of the epoch.
    Copy,
    /// Holds no data and gets no role again.
    Retired,
}

/// Everything that the serving threads act on. Published whole; they never see half of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateState {
    pub phase: Phase,
    /// Of the role: the epoch served or about to be served, or, for a copy, that of the stream it accepted.
    pub epoch: ShardEpoch,
    /// The end of this epoch's lease: it is valid before, not at, this time.
    pub lease_until: Mono,
    /// The highest sequence that the primary counted as held by the whole in-sync set in this epoch. What its streams
    /// name as `committed`.
    pub committed: Seq,
    /// For a copy, the highest sequence that it holds and that its primary counted as committed. For a former primary,
    /// the highest of what it executed that is known to be kept.
    pub copy_mark: Seq,
    /// Raised whenever the data is discarded: sequences of one lineage mean nothing in another.
    pub lineage: u64,
    /// Fewer in-sync copies than `minInSync`: writes are refused.
    pub writes_refused: bool,
    /// Until when a copy may answer READONLY reads.
    pub fresh_until: Mono,
    pub acks: Acks,
}

impl Default for GateState {
    fn default() -> Self {
        Self {
            phase: Phase::Idle,
            epoch: ShardEpoch(0),
            lease_until: Mono::ZERO,
            committed: Seq(0),
            copy_mark: Seq(0),
            lineage: 0,
            writes_refused: false,
            fresh_until: Mono::ZERO,
            acks: Acks::InSync,
        }
    }
}

/// What a command wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    /// A read on a connection that asked for READONLY: a copy may answer it.
    CopyRead,
}

/// Whether a command may run now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Yes,
    /// Not now: ask again when the gate was published. Nothing was executed.
    Park,
    /// Redirect: another member serves this shard.
    Elsewhere,
    /// Too few copies are in sync for a write.
    Refused,
}

/// Under what a command was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub epoch: ShardEpoch,
    pub lineage: u64,
    pub kind: TicketKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TicketKind {
    Write,
    Read,
    CopyRead,
}

impl Ticket {
    /// A command that might have written and did not is a read: it can be executed again.
    #[must_use]
    pub fn wrote(self, wrote: bool) -> Self {
        match (self.kind, wrote) {
            (TicketKind::Write, false) => Self { kind: TicketKind::Read, ..self },
            _ => self,
        }
    }
}

/// Whether the reply to an executed command may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Send,
    /// Not now: ask again when the gate was published.
    Wait,
    /// The command had no effect and cannot be answered any more: execute it again, as if it had just come.
    Rerun,
    /// It had an effect, and nobody can say any more whether that was kept: close the connection.
    Close,
}

/// The state of one shard's member, shared with the threads that serve it. One thread publishes.
#[derive(Debug)]
pub struct Gate {
    /// Phase, flags, the low bits of the lineage and the epoch in one word: see [`Role`].
    role: AtomicU64,
    lease_until: AtomicU64,
    committed: AtomicU64,
    copy_mark: AtomicU64,
    lineage: AtomicU64,
    fresh_until: AtomicU64,
    mutations: Mutations,
}

impl Gate {
    /// A gate behind which nothing is served.
    #[must_use]
    pub fn new(mutations: Mutations) -> Self {
        let state = GateState::default();
        Self {
            role: AtomicU64::new(Role::of(&state).0),
            lease_until: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            copy_mark: AtomicU64::new(0),
            lineage: AtomicU64::new(0),
            fresh_until: AtomicU64::new(0),
            mutations,
        }
    }

    /// Takes a ticket. Before execution: if the role changes in between, the reply is at worst withheld or the command
    /// run again.
    #[must_use]
    pub fn ticket(&self, access: Access) -> Ticket {
        let role = Role(self.role.load(Ordering::Acquire));
        let lineage = self.lineage.load(Ordering::Acquire);
        let kind = match access {
            Access::Write => TicketKind::Write,
            Access::CopyRead if role.state() == State::Is(Phase::Copy) => TicketKind::CopyRead,
            Access::Read | Access::CopyRead => TicketKind::Read,
        };
        Ticket { epoch: role.epoch(), lineage, kind }
    }

    /// Whether a command may run. Asked while its lanes are held: after the shell has taken and released every lane
    /// once, nothing runs any more under a state published before.
    #[must_use]
    pub fn may_execute(&self, access: Access, now: Mono) -> Verdict {
        let role = Role(self.role.load(Ordering::Acquire));
        match role.state() {
            State::Changing | State::Is(Phase::Pending | Phase::Frozen) => Verdict::Park,
            State::Is(Phase::Primary) => {
                if access == Access::Write && role.refuses_writes() {
                    Verdict::Refused
                } else if now.0 < self.lease_until.load(Ordering::Acquire) {
                    Verdict::Yes
                } else {
                    Verdict::Park
                }
            }
            State::Is(Phase::Copy) => {
                let fresh = now.0 < self.fresh_until.load(Ordering::Acquire);
                if access == Access::CopyRead && fresh { Verdict::Yes } else { Verdict::Elsewhere }
            }
            State::Is(Phase::Idle | Phase::Retired) => Verdict::Elsewhere,
        }
    }

    /// Whether the reply to what was executed under `ticket` may go out. `after` is the highest sequence of the lanes
    /// that it touched; `now` was read after the execution.
    #[must_use]
    pub fn answer(&self, ticket: &Ticket, after: Seq, now: Mono) -> Answer {
        self.look(now).answer(ticket, after)
    }

    /// All that [`answer`](Self::answer) goes by, for several replies that leave together. `now` was read after the
    /// execution of all of them.
    #[must_use]
    pub fn look(&self, now: Mono) -> Look {
        let role = Role(self.role.load(Ordering::Acquire));
        let lineage = self.lineage.load(Ordering::Acquire);
        let leased = now.0 < self.lease_until.load(Ordering::Acquire) || !self.mutations.keep(Rule::LeaseAtFlush);
        let committed = self.committed.load(Ordering::Acquire);
        let copy_mark = self.copy_mark.load(Ordering::Acquire);
        let fresh = now.0 < self.fresh_until.load(Ordering::Acquire);
        // Otherwise the values may be of two states. Whoever changed it wakes those who wait.
        let role = if self.role.load(Ordering::Relaxed) == role.0 { role } else { role.changing() };
        let reads_are_gated = self.mutations.keep(Rule::ReadsAreGated);
        Look { role, lineage, leased, committed, copy_mark, fresh, reads_are_gated }
    }

    /// Whether this member answers writes as soon as it executed them, so that nobody waits for acknowledgements.
    #[must_use]
    pub fn acks_at_primary(&self) -> bool {
        Role(self.role.load(Ordering::Acquire)).acks_at_primary()
    }

    /// A number that is another one whenever the phase, the epoch or the lineage is. While one role is being published for another it
    /// is neither's.
    #[must_use]
    pub fn role(&self) -> u64 {
        self.role.load(Ordering::Acquire)
    }

    /// What streams name as committed: see [`GateState::committed`].
    #[must_use]
    pub fn committed(&self) -> Seq {
        Seq(self.committed.load(Ordering::Acquire))
    }

    /// Shows `state` to the serving threads. From one thread only. Returns whether those that parked or wait have to be
    /// woken to ask again.
    #[must_use = "those who wait ask again only when woken"]
    pub fn publish(&self, state: &GateState) -> bool {
        let GateState {
            phase: _,
            epoch: _,
            lease_until,
            committed,
            copy_mark,
            lineage,
            writes_refused: _,
            fresh_until,
            acks: _,
        } = *state;
        let (role, before) = (Role::of(state), Role(self.role.load(Ordering::Relaxed)));
        if role != before {
            // Nobody may take a value of the new role for one of the old: readers compare the role before and after.
            self.role.store(role.changing().0, Ordering::Release);
        }
        let mut changed = role != before;
        changed |= self.lease_until.swap(lease_until.0, Ordering::AcqRel) != lease_until.0;
        changed |= self.committed.swap(committed.0, Ordering::AcqRel) != committed.0;
        changed |= self.copy_mark.swap(copy_mark.0, Ordering::AcqRel) != copy_mark.0;
        self.lineage.store(lineage, Ordering::Release);
        self.fresh_until.store(fresh_until.0, Ordering::Release);
        self.role.store(role.0, Ordering::Release);
        changed
    }
}

/// What the gate said at one instant.
#[derive(Clone, Copy)]
pub struct Look {
    role: Role,
    lineage: u64,
    leased: bool,
    committed: u64,
    copy_mark: u64,
    fresh: bool,
    reads_are_gated: bool,
}

impl Look {
    /// As [`Gate::answer`] at that instant.
    #[must_use]
    pub fn answer(&self, ticket: &Ticket, after: Seq) -> Answer {
        let Self { role, lineage, leased, committed, copy_mark, fresh, reads_are_gated } = *self;
        let send_if = |condition| if condition { Answer::Send } else { Answer::Wait };
        match (ticket.kind, role.state()) {
            (_, State::Changing) => Answer::Wait,
            (TicketKind::Write, _) if lineage != ticket.lineage => Answer::Close,
            (TicketKind::Read | TicketKind::CopyRead, _) if lineage != ticket.lineage => Answer::Rerun,
            (TicketKind::Write, State::Is(Phase::Primary)) => {
                send_if(leased && (after.0 <= committed || role.acks_at_primary()))
            }
            // Stopped, but no other member can have answered anything yet.
            (TicketKind::Write, State::Is(Phase::Frozen)) => send_if(leased && after.0 <= committed),
            // A former primary: its successor says what was kept, on its stream or by the ring (rule 8).
            (TicketKind::Write, State::Is(Phase::Copy | Phase::Idle | Phase::Pending)) => send_if(after.0 <= copy_mark),
            // It follows nobody any more, and so hears no more than it knows.
            (TicketKind::Write, State::Is(Phase::Retired)) => {
                if after.0 <= copy_mark {
                    Answer::Send
                } else {
                    Answer::Close
                }
            }
            (TicketKind::Read, State::Is(Phase::Primary)) if role.epoch() == ticket.epoch => {
                send_if(leased && (after.0 <= committed || role.acks_at_primary() || !reads_are_gated))
            }
            (TicketKind::CopyRead, State::Is(Phase::Copy)) if role.epoch() == ticket.epoch && fresh => {
                send_if(after.0 <= copy_mark)
            }
            (TicketKind::Read | TicketKind::CopyRead, _) => Answer::Rerun,
        }
    }
}

/// Phase (3 bits), writes refused (1), acks at the primary (1), lineage (11, its lowest), epoch (48).
#[derive(Clone, Copy, PartialEq, Eq)]
struct Role(u64);

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Is(Phase),
    /// Being published.
    Changing,
}

impl Role {
    const PHASE: u64 = 0b111;
    const CHANGING: u64 = 7;
    const WRITES_REFUSED: u64 = 1 << 3;
    const ACKS_AT_PRIMARY: u64 = 1 << 4;
    const LINEAGE_SHIFT: u32 = 5;
    const LINEAGE_MASK: u64 = (1 << 11) - 1;
    const EPOCH_SHIFT: u32 = 16;
    const EPOCH_MASK: u64 = (1 << 48) - 1;

    fn of(state: &GateState) -> Self {
        let phase = match state.phase {
            Phase::Idle => 0,
            Phase::Pending => 1,
            Phase::Primary => 2,
            Phase::Frozen => 3,
            Phase::Copy => 4,
            Phase::Retired => 5,
        };
        let refused = if state.writes_refused { Self::WRITES_REFUSED } else { 0 };
        let acks = if state.acks == Acks::Primary { Self::ACKS_AT_PRIMARY } else { 0 };
        let lineage = (state.lineage & Self::LINEAGE_MASK) << Self::LINEAGE_SHIFT;
        let epoch = (state.epoch.0 & Self::EPOCH_MASK) << Self::EPOCH_SHIFT;
        Self(phase | refused | acks | lineage | epoch)
    }

    fn changing(self) -> Self {
        Self(self.0 | Self::CHANGING)
    }

    fn state(self) -> State {
        match self.0 & Self::PHASE {
            0 => State::Is(Phase::Idle),
            1 => State::Is(Phase::Pending),
            2 => State::Is(Phase::Primary),
            3 => State::Is(Phase::Frozen),
            4 => State::Is(Phase::Copy),
            5 => State::Is(Phase::Retired),
            _ => State::Changing,
        }
    }

    fn epoch(self) -> ShardEpoch {
        ShardEpoch(self.0 >> Self::EPOCH_SHIFT)
    }

    fn refuses_writes(self) -> bool {
        self.0 & Self::WRITES_REFUSED != 0
    }

    fn acks_at_primary(self) -> bool {
        self.0 & Self::ACKS_AT_PRIMARY != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASED: Mono = Mono(100);
    const NOW: Mono = Mono(50);

    fn primary() -> GateState {
        GateState {
            phase: Phase::Primary,
            epoch: ShardEpoch(3),
            lease_until: LEASED,
            committed: Seq(10),
            ..GateState::default()
        }
    }

    fn gate(state: GateState) -> Gate {
        let gate = Gate::new(Mutations::none());
        assert!(gate.publish(&state));
        gate
    }

    #[test]
    fn a_reply_goes_out_under_a_lease_and_once_its_sequence_is_committed() {
        let gate = gate(primary());
        for access in [Access::Read, Access::Write] {
            let ticket = gate.ticket(access);
            assert_eq!(gate.may_execute(access, NOW), Verdict::Yes);
            assert_eq!(gate.answer(&ticket, Seq(10), NOW), Answer::Send);
            assert_eq!(gate.answer(&ticket, Seq(11), NOW), Answer::Wait, "not committed");
            assert_eq!(gate.answer(&ticket, Seq(10), LEASED), Answer::Wait, "the lease has ended at this instant");
            assert_eq!(gate.may_execute(access, LEASED), Verdict::Park);
        }
    }

    #[test]
    fn acks_at_the_primary_need_a_lease_and_nothing_else() {
        let gate = gate(GateState { acks: Acks::Primary, ..primary() });
        let ticket = gate.ticket(Access::Write);
        assert_eq!(gate.answer(&ticket, Seq(99), NOW), Answer::Send);
        assert_eq!(gate.answer(&ticket, Seq(99), LEASED), Answer::Wait);
    }

    #[test]
    fn a_frozen_primary_parks_commands_answers_committed_writes_and_runs_reads_again() {
        let gate = gate(primary());
        let (write, read) = (gate.ticket(Access::Write), gate.ticket(Access::Read));
        assert!(gate.publish(&GateState { phase: Phase::Frozen, ..primary() }));
        assert_eq!(gate.may_execute(Access::Write, NOW), Verdict::Park);
        assert_eq!(gate.answer(&write, Seq(10), NOW), Answer::Send);
        assert_eq!(gate.answer(&write, Seq(11), NOW), Answer::Wait);
        assert_eq!(gate.answer(&read, Seq(1), NOW), Answer::Rerun);
    }

    #[test]
    fn a_former_primary_answers_writes_by_what_its_successor_committed() {
        let gate = gate(primary());
        let write = gate.ticket(Access::Write);
        let copy = GateState { phase: Phase::Copy, epoch: ShardEpoch(4), copy_mark: Seq(11), ..GateState::default() };
        assert!(gate.publish(&copy));
        assert_eq!(gate.answer(&write, Seq(12), NOW), Answer::Wait);
        assert_eq!(gate.answer(&write, Seq(11), NOW), Answer::Send);
        assert_eq!(gate.may_execute(Access::Write, NOW), Verdict::Elsewhere);
    }

    #[test]
    fn a_retired_member_answers_what_is_known_to_be_kept_and_closes_the_other_connections() {
        let gate = gate(primary());
        let (write, read) = (gate.ticket(Access::Write), gate.ticket(Access::Read));
        assert!(gate.publish(&GateState { phase: Phase::Retired, copy_mark: Seq(11), ..GateState::default() }));
        assert_eq!(gate.answer(&write, Seq(11), NOW), Answer::Send);
        assert_eq!(gate.answer(&write, Seq(12), NOW), Answer::Close);
        assert_eq!(gate.answer(&read, Seq(1), NOW), Answer::Rerun);
    }

    #[test]
    fn a_write_whose_data_was_discarded_closes_its_connection_and_a_read_runs_again() {
        let gate = gate(primary());
        let (write, read) = (gate.ticket(Access::Write), gate.ticket(Access::Read));
        // The same role, and sequences that have nothing to do with the former ones.
        assert!(gate.publish(&GateState { lineage: 1, ..primary() }));
        assert_eq!(gate.answer(&write, Seq(1), NOW), Answer::Close);
        assert_eq!(gate.answer(&read, Seq(1), NOW), Answer::Rerun);
        assert_eq!(gate.answer(&write.wrote(false), Seq(1), NOW), Answer::Rerun, "it wrote nothing");
    }

    #[test]
    fn a_read_of_an_earlier_epoch_runs_again_even_if_this_member_serves_again() {
        let gate = gate(primary());
        let (write, read) = (gate.ticket(Access::Write), gate.ticket(Access::Read));
        assert!(gate.publish(&GateState { epoch: ShardEpoch(5), ..primary() }));
        assert_eq!(gate.answer(&read, Seq(1), NOW), Answer::Rerun);
        assert_eq!(gate.answer(&write, Seq(1), NOW), Answer::Send, "its effect is in the log that is served");
    }

    #[test]
    fn a_copy_answers_fresh_readonly_reads_of_what_is_committed() {
        let state = GateState {
            phase: Phase::Copy,
            epoch: ShardEpoch(3),
            copy_mark: Seq(5),
            fresh_until: Mono(60),
            ..GateState::default()
        };
        let gate = gate(state);
        let ticket = gate.ticket(Access::CopyRead);
        assert_eq!(gate.may_execute(Access::CopyRead, NOW), Verdict::Yes);
        assert_eq!(gate.may_execute(Access::Read, NOW), Verdict::Elsewhere);
        assert_eq!(gate.may_execute(Access::CopyRead, Mono(60)), Verdict::Elsewhere, "not fresh");
        assert_eq!(gate.answer(&ticket, Seq(5), NOW), Answer::Send);
        assert_eq!(gate.answer(&ticket, Seq(6), NOW), Answer::Wait);
        assert_eq!(gate.answer(&ticket, Seq(5), Mono(60)), Answer::Rerun);
    }

    #[test]
    fn too_few_copies_refuse_writes_and_not_reads() {
        let gate = gate(GateState { writes_refused: true, ..primary() });
        assert_eq!(gate.may_execute(Access::Write, NOW), Verdict::Refused);
        assert_eq!(gate.may_execute(Access::Read, NOW), Verdict::Yes);
    }

    #[test]
    fn those_who_wait_are_woken_by_what_they_wait_for_and_not_by_freshness() {
        let gate = gate(primary());
        assert!(!gate.publish(&primary()));
        assert!(!gate.publish(&GateState { fresh_until: Mono(9), ..primary() }));
        assert!(gate.publish(&GateState { committed: Seq(11), ..primary() }));
        assert!(gate.publish(&GateState { committed: Seq(11), lease_until: Mono(200), ..primary() }));
    }

    #[test]
    fn no_thread_ever_sees_a_commit_of_one_epoch_under_the_role_of_another() {
        // Odd epochs have committed nothing; even ones have committed everything but hold no lease.
        let state = |epoch: u64| GateState {
            epoch: ShardEpoch(epoch),
            committed: Seq(if epoch.is_multiple_of(2) { 100 } else { 0 }),
            lease_until: Mono(if epoch.is_multiple_of(2) { 0 } else { 100 }),
            ..primary()
        };
        let gate = gate(state(1));
        let ticket = Ticket { epoch: ShardEpoch(1), lineage: 0, kind: TicketKind::Write };
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| (0..200_000).filter(|_| gate.answer(&ticket, Seq(50), NOW) == Answer::Send).count())
                })
                .collect();
            for epoch in 2..100_000 {
                let _ = gate.publish(&state(epoch));
            }
            for reader in readers {
                assert_eq!(reader.join().unwrap(), 0);
            }
        });
    }
}
