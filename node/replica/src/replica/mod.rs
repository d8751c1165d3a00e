//! One data member of one shard: it follows, serves, freezes and hands over.

mod io;

use ringmaster_ring::{BootId, CopyStatus, Holder, MemberId, Mutations, Position, Role, Seq, ShardEpoch, ShardId};

use crate::{GateState, History, Mono};

pub use io::*;

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
    config: ReplicaConfig,
}

impl Replica {
    #[must_use]
    pub fn new(config: ReplicaConfig) -> Self {
        Self { config }
    }

    /// Takes in what happened at `now`, and appends to `out` what is to be done.
    pub fn handle(&mut self, _input: Input, _now: Mono, _out: &mut Vec<Output>) {}

    #[must_use]
    pub fn me(&self) -> Holder {
        Holder { member: self.config.me, boot: self.config.boot }
    }

    /// The state that was published last.
    #[must_use]
    pub fn gate_state(&self) -> GateState {
        GateState::default()
    }

    #[must_use]
    pub fn role(&self) -> Role {
        Role::Idle
    }

    /// Whether the ring, as known here, has this process in the in-sync set.
    #[must_use]
    pub fn is_in_sync(&self) -> bool {
        false
    }

    /// The last record held.
    #[must_use]
    pub fn position(&self) -> Position {
        Position::default()
    }

    /// Where the epochs of the held log began. Travels at the end of a walk.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.config.held.history
    }

    #[must_use]
    pub fn sync_state(&self) -> SyncState {
        SyncState::None
    }

    /// Whom this member follows, and in which epoch it accepted the stream.
    #[must_use]
    pub fn following(&self) -> Option<(Holder, ShardEpoch)> {
        None
    }

    /// How many records behind its primary this copy is, as far as it knows; 0 at the primary.
    #[must_use]
    pub fn lag_records(&self) -> u64 {
        0
    }

    /// As primary, each copy that follows or should follow.
    #[must_use]
    pub fn copies(&self) -> Vec<CopyStatus> {
        Vec::new()
    }

    /// As primary, how many copies acknowledged everything up to `seq` in this epoch (WAIT).
    #[must_use]
    pub fn copies_holding(&self, _seq: Seq) -> usize {
        0
    }
}
