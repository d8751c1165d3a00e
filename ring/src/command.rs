//! What may be asked of the ring. Each command names the versions that it was decided on, so that a stale proposer is
//! refused without every shard contending on one number.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    BootId, ClusterUuid, FeatureLevel, Generation, Holder, MemberId, Placement, Position, Presence, ReplaceReason,
    Settings, ShardEpoch, ShardId, SlotRange, Version,
};

/// A change of the ring. What each requires and does is documented at its arm in `apply`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Command {
    /// Makes the first document. Refused where one exists.
    Form(Box<Formation>),
    /// Gives out a serial for a member to be made.
    ReserveMember(ReserveMember),
    /// Says where a member runs.
    Place { member: MemberId, placement: Placement },
    /// A process says that it is the member now. Roles of the former boot do not pass to it.
    Announce { member: MemberId, if_version: Version, presence: Presence },
    /// The process was asked to end and waits to be replaced.
    Leave(Holder),
    /// Withdraws [`Command::Leave`]: the process goes on.
    Stay(Holder),
    /// Takes every role from a member for good.
    Retire { member: MemberId, if_version: Version },
    /// Deletes a retired member from the document.
    Forget { member: MemberId, if_version: Version },
    /// The operator saw that the pod of this boot and the pod's volume are absent.
    Gone(Holder),
    /// Changes the settings.
    Configure { if_version: Version, settings: Settings },
    /// Raises what members may send each other.
    RaiseFeatureLevel { to: FeatureLevel },
    /// A change of one shard.
    Shard { shard: ShardId, if_epoch: ShardEpoch, if_version: Version, change: ShardChange },
}

/// A change of one shard, conditional on its epoch and version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ShardChange {
    /// The primary found the copy to hold everything up to its mark.
    Add(Holder),
    /// Takes a copy out of the in-sync set; of a copy that is not in it, only raises the version.
    Remove(Holder),
    /// Makes `to` the primary of the next epoch while the present one still serves.
    Handover { to: Holder },
    /// The new primary serves, from this position on, and the whole in-sync set holds what was before it.
    HandoverDone { start: Position },
    /// Makes `to` the primary of the next epoch; all grants on the shard are over. The former primary is dropped from
    /// the in-sync set where its boot is known to be dead.
    Failover { to: Holder, drop_former: bool },
    /// No in-sync copy is left: `on` begins the next epoch without data.
    StartEmpty { on: Holder },
    /// No in-sync copy is left: `on` begins the next epoch with what its disk held.
    Recover { on: Holder, position: Position },
}

/// A request for a serial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReserveMember {
    /// The serial that the proposer expects to get: two proposers do not get one each.
    pub if_next_serial: MemberId,
    /// None for a witness.
    pub shard: Option<ShardId>,
    pub template: String,
    pub replaces: Option<MemberId>,
    pub reason: Option<ReplaceReason>,
}

/// The first document of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Formation {
    pub cluster: ClusterUuid,
    pub generation: Generation,
    pub settings: Settings,
    /// All of them empty, and so in sync. The first of each shard is its primary.
    pub members: BTreeMap<MemberId, FoundingMember>,
    pub shards: BTreeMap<ShardId, Vec<SlotRange>>,
    /// No serial below this one was ever given out to anybody else.
    pub next_serial: MemberId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FoundingMember {
    pub shard: Option<ShardId>,
    pub template: String,
    pub placement: Placement,
    pub presence: Presence,
}

impl Command {
    /// A change of one shard, on the versions in `ring`. None where there is no such shard.
    #[must_use]
    pub fn on_shard(ring: &crate::Ring, shard: ShardId, change: ShardChange) -> Option<Self> {
        let now = ring.shards.get(&shard)?;
        Some(Self::Shard { shard, if_epoch: now.epoch, if_version: now.version, change })
    }
}

/// Why the ring refused a command. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Rejection {
    #[error("the ring is not formed yet")]
    NotFormed,
    #[error("the ring is formed already")]
    AlreadyFormed,
    #[error("the ring's leader decided this in a term that is over")]
    StaleLeadership,
    #[error("the formation is not usable: {why}")]
    BadFormation { why: String },
    #[error("there is no member {member}")]
    UnknownMember { member: MemberId },
    #[error("there is no shard {shard}")]
    UnknownShard { shard: ShardId },
    #[error("member {member} is retired")]
    Retired { member: MemberId },
    #[error("member {member} is not retired")]
    NotRetired { member: MemberId },
    #[error("decided on version {named}, but it is {now}: read the ring again")]
    StaleVersion { named: Version, now: Version },
    #[error("decided in shard epoch {named}, but it is {now}: read the ring again")]
    StaleEpoch { named: ShardEpoch, now: ShardEpoch },
    #[error("boot {boot} of member {member} is not the one that it announced last")]
    StaleBoot { member: MemberId, boot: BootId },
    #[error("expected to get serial {named}, but the next is {now}: read the ring again")]
    StaleSerial { named: MemberId, now: MemberId },
    #[error("member {member} holds no copy of shard {shard}")]
    NotOfShard { member: MemberId, shard: ShardId },
    #[error("member {member} is not in sync under that boot")]
    NotInSync { member: MemberId },
    #[error("member {member} is the last of its shard's in-sync copies whose process is not known to be gone")]
    LastLiving { member: MemberId },
    #[error("member {member} is in sync under another boot")]
    InSyncUnderOtherBoot { member: MemberId },
    #[error("member {member} is the primary of its shard: hand over first")]
    IsPrimary { member: MemberId },
    #[error("member {member} takes part in a handover that is not done")]
    InHandover { member: MemberId },
    #[error("a handover of shard {shard} is under way")]
    HandoverPending { shard: ShardId },
    #[error("no handover of shard {shard} is under way")]
    NoHandover { shard: ShardId },
    #[error("member {member} votes: move its vote first")]
    IsVoter { member: MemberId },
    #[error("shard {shard} would have {left} in-sync copies, and {wanted} are wanted")]
    TooFewCopies { shard: ShardId, left: usize, wanted: u16 },
    #[error("an in-sync copy of shard {shard} may still exist on member {member}")]
    CopyMayExist { shard: ShardId, member: MemberId },
    #[error("settings are not usable: {why}")]
    BadSettings { why: String },
    #[error("a member does not support feature level {level}")]
    FeatureUnsupported { level: FeatureLevel },
    #[error("member {member} has a replacement already: member {spare}")]
    AlreadyReplaced { member: MemberId, spare: MemberId },
}
