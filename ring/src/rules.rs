//! The rules of the safety protocol that a test may drop, to show that it finds what goes wrong without them.
//!
//! A build without the feature `mutations` cannot make a [`Mutations`] that drops anything, and the compiler removes
//! every place that asks.

/// One rule of the protocol. Each was a hole in a first version of the design; the protocol's table of mutations gives
/// the shortest failure without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A failover waits for the end of every grant on the shard.
    FailoverWaitsForGrants,
    /// A lease runs from when it was asked for, not from the answer.
    LeaseRunsFromAsk,
    /// A lease is shorter than its grant by what two clocks may drift apart.
    LeaseAllowsForDrift,
    /// No lease is granted on a shard from the proposal of a failover to its outcome.
    NoGrantsDuringFailover,
    /// A new leader promotes nobody before one lease has passed.
    NewLeaderWaits,
    /// A lease is granted only after a quorum confirmed the leader since the request came.
    QuorumAfterAsk,
    /// A removal from the in-sync set counts only once it is seen committed.
    RemovalSeenCommitted,
    /// From sending an addition on, acknowledgements of the old and the new set are needed.
    AdditionNeedsUnion,
    /// A timeout is no outcome of an addition.
    AdditionHasNoTimeout,
    /// An addition is sent only once the copy holds everything up to the mark.
    AdditionNeedsMark,
    /// An addition names the process that acknowledged.
    AdditionNamesBoot,
    /// A role belongs to one process of a member.
    RolesNameBoot,
    /// An acknowledgement counts for the process that sent it.
    AcksNameBoot,
    /// A change of a shard is conditional on its epoch and version.
    ChangesAreConditional,
    /// A copy discards nothing while it is in the in-sync set.
    NoDiscardInSet,
    /// A frozen primary unfreezes only by a commit of the ring.
    UnfreezeByCommit,
    /// The new primary of a handover waits for the release or the end of the former's lease.
    SuccessorWaits,
    /// One handover at a time, released only by a member that served in the epoch before.
    OneHandoverAtATime,
    /// A successor hears that the former lease is over only when every other grant is over and the leader has waited.
    PreviousOverMeansAllGrants,
    /// A release counts only once its last sequence is held.
    ReleaseNeedsTail,
    /// A former primary answers by what its successor counts as committed, not by what it holds.
    FormerAnswersByMark,
    /// A read is answered once everything that it may have seen is committed.
    ReadsAreGated,
    /// The lease is checked again when a reply is flushed.
    LeaseAtFlush,
    /// A retirement counts the in-sync copies at commit.
    RetireCounts,
    /// A copy's tail is compared by epoch, not by sequence alone.
    TailMatchesByEpoch,
}

impl Rule {
    /// Every rule, in the order of the protocol's table.
    pub const ALL: [Self; 25] = [
        Self::FailoverWaitsForGrants,
        Self::LeaseRunsFromAsk,
        Self::LeaseAllowsForDrift,
        Self::NoGrantsDuringFailover,
        Self::NewLeaderWaits,
        Self::QuorumAfterAsk,
        Self::RemovalSeenCommitted,
        Self::AdditionNeedsUnion,
        Self::AdditionHasNoTimeout,
        Self::AdditionNeedsMark,
        Self::AdditionNamesBoot,
        Self::RolesNameBoot,
        Self::AcksNameBoot,
        Self::ChangesAreConditional,
        Self::NoDiscardInSet,
        Self::UnfreezeByCommit,
        Self::SuccessorWaits,
        Self::OneHandoverAtATime,
        Self::PreviousOverMeansAllGrants,
        Self::ReleaseNeedsTail,
        Self::FormerAnswersByMark,
        Self::ReadsAreGated,
        Self::LeaseAtFlush,
        Self::RetireCounts,
        Self::TailMatchesByEpoch,
    ];
}

/// The rules that a test has dropped. Empty in production, where nothing else can be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mutations {
    #[cfg(feature = "mutations")]
    dropped: u32,
}

impl Mutations {
    /// Every rule holds.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            #[cfg(feature = "mutations")]
            dropped: 0,
        }
    }

    /// Every rule but `rule` holds.
    #[cfg(feature = "mutations")]
    #[must_use]
    pub const fn only(rule: Rule) -> Self {
        Self { dropped: 1 << rule as u32 }
    }

    /// As before, and without `rule`.
    #[cfg(feature = "mutations")]
    #[must_use]
    pub const fn and(self, rule: Rule) -> Self {
        Self { dropped: self.dropped | 1 << rule as u32 }
    }

    /// Whether `rule` holds.
    #[cfg(feature = "mutations")]
    #[must_use]
    pub const fn keep(self, rule: Rule) -> bool {
        self.dropped & (1 << rule as u32) == 0
    }

    /// Whether `rule` holds: always.
    #[cfg(not(feature = "mutations"))]
    #[must_use]
    pub const fn keep(self, _rule: Rule) -> bool {
        true
    }
}
