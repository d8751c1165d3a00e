//! What holds of every document that [`Ring::apply`] makes. For tests and simulations: production relies on `apply`.

use crate::{Holder, MemberId, Ring, Shard, ShardId, Slot};

/// What a document breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("slot {slot} has {owners} owners")]
    SlotOwners { slot: Slot, owners: usize },
    #[error("the primary of shard {shard} is not in the in-sync set under its boot")]
    PrimaryNotInSync { shard: ShardId },
    #[error("shard {shard} is handed over from its primary to itself")]
    HandoverToSelf { shard: ShardId },
    #[error("shard {shard} is being handed over, and names what the handover kept")]
    KeptBeforeDone { shard: ShardId },
    #[error("member {member} has a role in shard {shard}, and it is retired, of another shard, or not there")]
    RoleWithoutMember { shard: ShardId, member: MemberId },
    #[error("the version of shard {shard} is below its epoch")]
    VersionBelowEpoch { shard: ShardId },
    #[error("member {member} has a serial that was not given out")]
    UnknownSerial { member: MemberId },
    #[error("member {member} does not support the ring's feature level")]
    FeatureUnsupported { member: MemberId },
}

impl Ring {
    /// Whether the document is one that can come to be.
    ///
    /// # Errors
    /// The first thing that it breaks.
    pub fn check(&self) -> Result<(), Broken> {
        let ranges = || self.shards.values().flat_map(|shard| &shard.slots);
        for slot in Slot::all() {
            let owners = ranges().filter(|range| range.contains(slot)).count();
            if owners != 1 {
                return Err(Broken::SlotOwners { slot, owners });
            }
        }
        for (id, member) in &self.members {
            if *id >= self.next_serial {
                return Err(Broken::UnknownSerial { member: *id });
            }
            let present = member.present.as_ref().filter(|_| member.is_active());
            if present.is_some_and(|present| present.feature_level < self.feature_level) {
                return Err(Broken::FeatureUnsupported { member: *id });
            }
        }
        self.shards.iter().try_for_each(|(id, shard)| self.check_shard(*id, shard))
    }

    fn check_shard(&self, id: ShardId, shard: &Shard) -> Result<(), Broken> {
        let Shard {
            slots: _,
            epoch,
            version,
            primary,
            pending_from,
            in_sync,
            kept_through,
            losses: _,
            recovered_at: _,
        } = shard;
        if !shard.holds(*primary) {
            return Err(Broken::PrimaryNotInSync { shard: id });
        }
        let former = pending_from.map(|Holder { member, boot: _ }| member);
        if former == Some(primary.member) {
            return Err(Broken::HandoverToSelf { shard: id });
        }
        if former.is_some() && kept_through.is_some() {
            return Err(Broken::KeptBeforeDone { shard: id });
        }
        if version.0 < epoch.0 {
            return Err(Broken::VersionBelowEpoch { shard: id });
        }
        let of_shard = |member: &MemberId| {
            self.members.get(member).is_some_and(|member| member.is_active() && member.shard == Some(id))
        };
        match in_sync.keys().copied().chain(former).find(|member| !of_shard(member)) {
            Some(member) => Err(Broken::RoleWithoutMember { shard: id, member }),
            None => Ok(()),
        }
    }
}
