//! What a member says of itself, to the operator, to tools and to people: the body of `GET /v1/status`.

use serde::{Deserialize, Serialize};

use crate::{ClusterUuid, Generation, Holder, MemberId, Position, Presence, RingEpoch, ShardId};

/// One member's own view. It decides nothing: the ring does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    pub cluster: ClusterUuid,
    pub generation: Generation,
    pub member: MemberId,
    pub shard: Option<ShardId>,
    /// What this process announces, or would announce once there is a ring.
    pub presence: Presence,
    /// The newest ring that it knows; none before the ring was formed or found.
    pub ring_epoch: Option<RingEpoch>,
    /// The member that it takes for the ring's leader.
    pub ring_leader: Option<MemberId>,
    pub role: Role,
    /// Whether the ring has this process in the in-sync set of its shard.
    pub in_sync: bool,
    pub position: Position,
    /// How many records behind its primary it is, as far as it knows; 0 at the primary.
    pub lag_records: u64,
    /// The full sync that it receives.
    pub sync: Option<SyncProgress>,
    /// For a primary, each copy that follows it.
    pub copies: Vec<CopyStatus>,
    pub keys: u64,
    pub used_bytes: u64,
    pub clients: u64,
    /// How long ago a client last sent a command, in ms; none if none ever did.
    pub last_client_use_ms: Option<u64>,
    /// The process was asked to end and waits for its replacement.
    pub terminating: bool,
}

/// What a member does at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Serves its shard.
    Primary,
    /// About to serve, or about to stop: requests wait.
    Handover,
    /// Follows its primary.
    Copy,
    /// Votes, and holds no data.
    Witness,
    /// Holds no role: it has just started, or knows no ring.
    Idle,
    /// Holds no role and gets none again.
    Retired,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncProgress {
    pub bytes_done: u64,
    /// As the primary estimated it at the start.
    pub bytes_total: u64,
    pub bytes_per_second: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyStatus {
    pub copy: Holder,
    pub acknowledged: Position,
    pub lag_records: u64,
    pub in_sync: bool,
}

/// The answer to an accepted proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    pub ring_epoch: RingEpoch,
}

/// The answer to a proposal that was not applied. With a rejection the ring refused it; without one it is unknown
/// whether it was applied (no leader answered in time).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotApplied {
    pub rejection: Option<crate::Rejection>,
    pub message: String,
}
