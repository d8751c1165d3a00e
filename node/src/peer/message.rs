//! What members ask each other.

use std::sync::Arc;

use ringmaster_ring::{
    BootId, Command, Generation, Holder, MemberId, Position, Presence, Rejection, Ring, RingEpoch, ShardEpoch, ShardId,
    VoterId,
};
use serde::{Deserialize, Serialize};

use crate::consensus::{AppendRequest, AppendResponse, SnapshotRequest, SnapshotResponse, VoteRequest, VoteResponse};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// A newer ring, from somebody who knows it to be committed.
    News(RingNews),
    /// Asks for the ring, if it is newer than this.
    Pull { known: Option<(Generation, RingEpoch)> },
    /// A command for the ring. Only its leader takes it.
    Propose(Command),
    /// A primary asks for its lease. Only the ring's leader answers.
    AskLease(LeaseAsk),
    /// Asks who listens here.
    Identify,
    /// Asks a member how far its copy is.
    Probe,
    /// Asks a member to probe another one.
    ProbeFor { member: MemberId },
    /// The cluster is being deleted: nobody needs to wait for a replacement.
    Disband,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Response {
    Done,
    /// None where the asker knows the newest ring that this member knows.
    News(Option<RingNews>),
    Proposed(Proposed),
    Lease {
        granted: bool,
        prev_over: bool,
    },
    Identified(Presence),
    Probed(ProbeReport),
    /// This member is not the ring's leader.
    NotLeader,
}

/// A ring that was committed, and who leads it as far as the sender knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RingNews {
    pub ring: Arc<Ring>,
    pub leader: Option<MemberId>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct LeaseAsk {
    pub shard: ShardId,
    pub epoch: ShardEpoch,
    pub holder: Holder,
}

/// What came of a proposal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Proposed {
    Applied(RingEpoch),
    Rejected(Rejection),
    /// Nobody knows yet whether it is or will be applied.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeReport {
    Alive {
        boot: BootId,
        shard_epoch: ShardEpoch,
        position: Position,
    },
    /// Its host answers that no such process is there.
    Refused,
    Silent,
}

/// A message for one voter. Another process may listen at its address by now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ToVoter {
    pub voter: VoterId,
    pub request: RaftRequest,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum RaftRequest {
    Append(AppendRequest),
    Vote(VoteRequest),
    Snapshot(SnapshotRequest),
    /// Asks whether the voter still follows this leader: whether it has voted for nobody since.
    Confirm {
        leader: VoterId,
        term: u64,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub enum RaftResponse {
    Append(AppendResponse),
    Vote(VoteResponse),
    Snapshot(SnapshotResponse),
    /// Until it received the question it had voted for nobody since.
    Confirmed,
    /// This process is not that voter, or does not take part: it has just started, or failed.
    Unavailable,
}
