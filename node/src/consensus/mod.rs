//! The consensus that holds the ring: openraft, its log on our disk, its state machine the ring.
//!
//! In: commands and Raft messages. Out: the committed ring, as a watch, and who leads. Nobody outside this module names
//! openraft, so that its next version can follow.

mod log;
mod network;
mod recent;
mod ring;
mod runtime;
mod state;

use std::io::Cursor;

pub use ring::{Consensus, ConsensusError, Leadership, RaftTiming};
pub use runtime::seed_randomness;
pub use state::ApplyFn;

/// A command of the ring, as Raft carries it.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Proposal {
    pub command: ringmaster_ring::Command,
    /// What a leader decided on its grants holds in the term in which it made them: in another term somebody else may
    /// have made others meanwhile.
    pub if_term: Option<u64>,
}

/// What came of a command when it was applied.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Outcome(pub Result<ringmaster_ring::RingEpoch, ringmaster_ring::Rejection>);

/// Where a voter listens for Raft, as the membership remembers it. The ring's address goes first.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RaftNode {
    pub host: String,
    pub peer_port: u16,
}

openraft::declare_raft_types!(
    pub Types:
        D = Proposal,
        R = Outcome,
        NodeId = u64,
        Node = RaftNode,
        Entry = openraft::Entry<Types>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = runtime::SeededTokio,
);

pub type AppendRequest = openraft::raft::AppendEntriesRequest<Types>;
pub type AppendResponse = openraft::raft::AppendEntriesResponse<u64>;
pub type VoteRequest = openraft::raft::VoteRequest<u64>;
pub type VoteResponse = openraft::raft::VoteResponse<u64>;
pub type SnapshotRequest = openraft::raft::InstallSnapshotRequest<Types>;
pub type SnapshotResponse = openraft::raft::InstallSnapshotResponse<u64>;
