//! The document itself: members, shards, settings, and the questions that everybody asks of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    BootId, ClusterUuid, FeatureLevel, Generation, MemberId, Position, RingEpoch, ShardEpoch, ShardId, Slot, SlotRange,
    Version, VoterId,
};

/// Who serves what. Changed by [`Ring::apply`] alone; a value never changes in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ring {
    pub cluster: ClusterUuid,
    pub generation: Generation,
    /// Counts commits. Of two documents of one generation the greater is the newer.
    pub epoch: RingEpoch,
    pub feature_level: FeatureLevel,
    pub settings: Settings,
    pub settings_version: Version,
    pub members: BTreeMap<MemberId, Member>,
    pub shards: BTreeMap<ShardId, Shard>,
    /// Slot moves under way. Empty at feature level 1.
    pub moves: Vec<SlotMove>,
    /// The voters of the consensus that holds this document, as its last membership entry says.
    pub voters: BTreeSet<VoterId>,
    /// The serial that the next member gets.
    pub next_serial: MemberId,
}

/// What the owner of the cluster asked for, as far as the ring acts on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// In-sync copies wanted of each shard, the primary included.
    pub copies: u16,
    /// Below this many in-sync copies, the primary included, writes are refused.
    pub min_in_sync: u16,
    pub acks: Acks,
    pub on_data_loss: OnDataLoss,
    /// How long a primary may serve after it asked for its lease.
    pub lease_ms: u32,
    /// How long a primary or a pending successor may be silent before the leader replaces it.
    pub failover_after_ms: u32,
    /// How long an in-sync copy may leave a record unacknowledged before the primary proposes its removal.
    pub copy_lag_ms_max: u32,
    /// How long ago an in-sync copy may have heard from its primary and still answer READONLY reads.
    pub copy_fresh_ms: u32,
    /// How long a retired member waits for its last client.
    pub linger_s: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            copies: 2,
            min_in_sync: 1,
            acks: Acks::InSync,
            on_data_loss: OnDataLoss::StartEmpty,
            lease_ms: 400,
            failover_after_ms: 500,
            copy_lag_ms_max: 1_000,
            copy_fresh_ms: 1_000,
            linger_s: 60,
        }
    }
}

/// When a command is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Acks {
    /// Once every in-sync copy holds what it wrote or read.
    InSync,
    /// Once the primary has executed it.
    Primary,
}

/// What happens to a shard that has no in-sync copy left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnDataLoss {
    Wait,
    StartEmpty,
}

/// A process that holds a copy of one shard, or a witness that holds none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    pub version: Version,
    /// The shard of which it holds a copy, for as long as it lives; none for a witness.
    pub shard: Option<ShardId>,
    pub state: MemberState,
    pub placement: Placement,
    /// Hash of the specification that it was made from.
    pub template: String,
    /// The member that it was made to replace, and why.
    pub replaces: Option<Replaces>,
    /// What its newest process announced.
    pub present: Option<Presence>,
    /// Its process was asked to end and waits for its replacement.
    pub leaving: bool,
    /// This boot is proven gone: its pod and the pod's volume are absent.
    pub gone: Option<BootId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    /// May hold roles.
    Active,
    /// Holds no role and no data, and gets none again. It stays until its clients have gone.
    Retired,
}

/// Where a member runs, as its announcement or the operator says. Empty where unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    pub zone: String,
    pub node: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replaces {
    pub member: MemberId,
    pub reason: ReplaceReason,
}

/// Why a member is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ReplaceReason {
    /// Its node is cordoned or tainted for removal.
    NodeCordoned,
    /// Its process was asked to end: an eviction or a deletion.
    Terminating,
    /// It was made from an older specification.
    Outdated,
    /// It did not come back.
    Lost,
    /// It stands where the placement rules do not want it.
    Misplaced,
}

impl fmt::Display for ReplaceReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A running process of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Presence {
    pub boot: BootId,
    pub voter: VoterId,
    pub address: Address,
    pub feature_level: FeatureLevel,
}

/// How clients and peers reach a member. `host` is an IP address or a DNS name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    pub host: String,
    pub client_port: u16,
    pub peer_port: u16,
    pub http_port: u16,
}

/// A member under one of its boots: the holder of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    pub member: MemberId,
    pub boot: BootId,
}

/// A share of the slots, with those who hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shard {
    pub slots: Vec<SlotRange>,
    pub epoch: ShardEpoch,
    pub version: Version,
    /// Who serves in this epoch. In the in-sync set under the same boot.
    pub primary: Holder,
    /// Who served in the epoch before, while the handover from it is under way.
    pub pending_from: Option<Holder>,
    pub in_sync: BTreeMap<MemberId, BootId>,
    /// Of this epoch's handover, once it is done: everything up to there is held by the whole in-sync set. The former
    /// primary answers by it what it executed, however soon it is retired.
    pub kept_through: Option<Position>,
    /// How often this shard lost acknowledged writes: it started empty, or from a disk.
    pub losses: u32,
    /// The position from which the primary of this epoch starts after a loss: what it recovered from a disk, or 0:0,
    /// so that whatever it still holds is discarded.
    pub recovered_at: Option<Position>,
}

/// Slots on their way from one shard to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlotMove {
    pub slots: SlotRange,
    pub from: ShardId,
    pub to: ShardId,
}

impl Ring {
    /// The shard that owns `slot`.
    #[must_use]
    pub fn shard_of_slot(&self, slot: Slot) -> Option<(ShardId, &Shard)> {
        self.shards
            .iter()
            .find(|(_, shard)| shard.slots.iter().any(|range| range.contains(slot)))
            .map(|(id, s)| (*id, s))
    }

    /// The shard of which `member` holds a copy.
    #[must_use]
    pub fn shard_of_member(&self, member: MemberId) -> Option<(ShardId, &Shard)> {
        let id = self.members.get(&member)?.shard?;
        self.shards.get(&id).map(|shard| (id, shard))
    }

    /// Whether it is the primary of a shard.
    #[must_use]
    pub fn is_primary(&self, member: MemberId) -> bool {
        self.shards.values().any(|shard| shard.primary.member == member)
    }

    /// The members of a shard that are not retired, in sync or not.
    pub fn members_of(&self, shard: ShardId) -> impl Iterator<Item = (MemberId, &Member)> {
        self.members.iter().filter(move |(_, m)| m.shard == Some(shard) && m.is_active()).map(|(id, m)| (*id, m))
    }

    /// Whether this process of `member` may be offered to clients: in sync, or a witness.
    #[must_use]
    pub fn is_ready(&self, holder: Holder) -> bool {
        let Some(member) = self.members.get(&holder.member) else { return false };
        match member.shard {
            _ if !member.is_active() => false,
            None => member.boot() == Some(holder.boot),
            Some(shard) => self.shards.get(&shard).is_some_and(|s| s.holds(holder)),
        }
    }

    /// Whether this process is proven to be no more, or its member is not in the ring any more.
    #[must_use]
    pub fn is_superseded(&self, holder: Holder) -> bool {
        is_superseded(&self.members, holder)
    }

    /// The member whose newest process is this voter.
    #[must_use]
    pub fn member_of_voter(&self, voter: VoterId) -> Option<(MemberId, &Member)> {
        self.members.iter().find(|(_, m)| m.voter() == Some(voter)).map(|(id, m)| (*id, m))
    }

    /// The member made to replace `member`, if there is one.
    #[must_use]
    pub fn spare_of(&self, member: MemberId) -> Option<(MemberId, &Member)> {
        self.members
            .iter()
            .find(|(_, m)| m.is_active() && m.replaces.as_ref().is_some_and(|r| r.member == member))
            .map(|(id, m)| (*id, m))
    }

    /// The fewest in-sync copies that any shard has, by the ring's word.
    #[must_use]
    pub fn fewest_copies(&self) -> usize {
        self.shards.values().map(|s| s.in_sync.len()).min().unwrap_or(0)
    }
}

impl Member {
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.state == MemberState::Active
    }

    /// The boot that it announced last.
    #[must_use]
    pub fn boot(&self) -> Option<BootId> {
        self.present.as_ref().map(|p| p.boot)
    }

    #[must_use]
    pub fn voter(&self) -> Option<VoterId> {
        self.present.as_ref().map(|p| p.voter)
    }

    /// Whether the process with this boot is proven to be no more.
    #[must_use]
    pub fn is_superseded(&self, boot: BootId) -> bool {
        self.boot().is_some_and(|now| now != boot) || self.gone == Some(boot)
    }
}

/// As [`Ring::is_superseded`], where the rest of the ring is being changed.
pub(crate) fn is_superseded(members: &BTreeMap<MemberId, Member>, holder: Holder) -> bool {
    members.get(&holder.member).is_none_or(|member| member.is_superseded(holder.boot))
}

impl Shard {
    /// Whether this process is in the in-sync set.
    #[must_use]
    pub fn holds(&self, holder: Holder) -> bool {
        self.in_sync.get(&holder.member) == Some(&holder.boot)
    }
}
