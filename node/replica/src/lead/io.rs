//! What goes into a [`Lead`](super::Lead) and what comes out of it.

use std::sync::Arc;

use ringmaster_ring::{BootId, Command, Holder, MemberId, Position, Ring, ShardEpoch, ShardId};

use crate::AskId;

/// Where the answer to a request for a lease goes. Given by the shell, returned untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteId(pub u64);

/// One confirmation by a quorum, unique in its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoundId(pub u64);

/// What a probe of a member found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// The member answered: its process, and how far its data goes.
    Alive { boot: BootId, shard_epoch: ShardEpoch, position: Position },
    /// Nothing listens where the member was.
    Refused,
    /// No answer in time, neither directly nor through others.
    Silent,
}

/// What happened at this voter.
#[derive(Clone, Debug)]
pub enum LeadInput {
    /// This voter leads, and has applied an entry of its own term that this process proposed, hence every entry before.
    /// Given in once for each term, and anew after a restart in the same one. The newest ring is given in before.
    ///
    /// All outputs until the next `Leading` belong to this term: see [`LeadOutput::Propose`].
    Leading,
    /// It leads no more.
    NotLeading,
    /// The ring as applied at this voter.
    Ring(Arc<Ring>),
    /// Time went on: at least every eighth of a lease. A failover begins at a tick, so a finer one shortens it.
    Tick,
    /// A member asks for a lease.
    LeaseAsk {
        route: RouteId,
        ask: AskId,
        shard: ShardId,
        epoch: ShardEpoch,
        holder: Holder,
    },
    /// A quorum acknowledged this leader after [`LeadOutput::ConfirmQuorum`] of this round.
    QuorumConfirmed {
        round: RoundId,
    },
    QuorumFailed {
        round: RoundId,
    },
    Probed {
        member: MemberId,
        result: Probe,
    },
}

/// What to do, in this order.
#[derive(Clone, Debug)]
pub enum LeadOutput {
    /// Have a quorum acknowledge this leader, by heartbeats sent from now on, in the term of the last
    /// [`LeadInput::Leading`]: a confirmation of a later term is a failure.
    ConfirmQuorum { round: RoundId },
    /// Answer a request for a lease.
    Answer { route: RouteId, ask: AskId, granted: bool, prev_over: bool },
    /// Propose this to the ring, to be refused unless its log entry is of the term of the last [`LeadInput::Leading`].
    /// A voter may be deposed and elected again before it hears of either: what it decided in between counts on grants
    /// that another leader may have given meanwhile. Proposed again while it is still wanted.
    Propose(Command),
    /// Find out whether a member is there, directly and through others.
    Probe { member: MemberId },
}
