//! The rules by which the ring changes. Deterministic and total: a command leads to the next document, or to the rule
//! that it would break. The rules of a shard are those of the protocol's `RING` (guards `add`, `remove`, `handover`,
//! `failover`, `retire`, `start_empty`).

use std::collections::{BTreeMap, BTreeSet};

use crate::document::is_superseded;
use crate::{
    Command, FeatureLevel, Formation, Holder, Member, MemberId, MemberState, Mutations, Placement, Position, Presence,
    Rejection, Replaces, ReserveMember, Ring, RingEpoch, Rule, Settings, Shard, ShardChange, ShardEpoch, ShardId, Slot,
    Version, VoterId,
};

impl Ring {
    /// The first document, from a formation in which each shard has a member and each slot an owner.
    ///
    /// # Errors
    /// [`Rejection::BadFormation`] or [`Rejection::BadSettings`]: nothing exists afterwards.
    pub fn form(formation: &Formation) -> Result<Self, Rejection> {
        check_settings(&formation.settings)?;
        let bad = |why: &str| Err(Rejection::BadFormation { why: why.to_owned() });
        for slot in Slot::all() {
            let owners = formation.shards.values().flatten().filter(|range| range.contains(slot)).count();
            if owners != 1 {
                return bad("each slot needs exactly one shard");
            }
        }
        if formation.members.keys().any(|id| *id >= formation.next_serial) {
            return bad("the next serial was given out already");
        }
        let mut members = BTreeMap::new();
        let mut feature_level = None;
        for (id, founding) in &formation.members {
            if founding.shard.is_some_and(|shard| !formation.shards.contains_key(&shard)) {
                return bad("a member belongs to a shard that is not there");
            }
            let level = founding.presence.feature_level;
            feature_level = Some(feature_level.map_or(level, |lowest: FeatureLevel| lowest.min(level)));
            members.insert(*id, founding_member(founding));
        }
        let mut shards = BTreeMap::new();
        for (id, slots) in &formation.shards {
            let of_shard = formation.members.iter().filter(|(_, m)| m.shard == Some(*id));
            let in_sync: BTreeMap<_, _> = of_shard.map(|(member, m)| (*member, m.presence.boot)).collect();
            let Some((member, boot)) = in_sync.first_key_value() else { return bad("a shard has no member") };
            let primary = Holder { member: *member, boot: *boot };
            shards.insert(*id, founding_shard(slots.clone(), primary, in_sync));
        }
        Ok(Self {
            cluster: formation.cluster,
            generation: formation.generation,
            epoch: RingEpoch(1),
            feature_level: feature_level.unwrap_or(FeatureLevel(1)),
            settings: formation.settings.clone(),
            settings_version: Version(1),
            members,
            shards,
            moves: Vec::new(),
            voters: BTreeSet::new(),
            next_serial: formation.next_serial,
        })
    }

    /// The document after `command`.
    ///
    /// # Errors
    /// The rule that the command would break. `self` stays the truth.
    pub fn apply(&self, command: &Command) -> Result<Self, Rejection> {
        self.apply_under(command, Mutations::none())
    }

    /// As [`Ring::apply`], but without the rules that a test dropped.
    ///
    /// # Errors
    /// As [`Ring::apply`].
    #[cfg(feature = "mutations")]
    pub fn apply_mutated(&self, command: &Command, mutations: Mutations) -> Result<Self, Rejection> {
        self.apply_under(command, mutations)
    }

    fn apply_under(&self, command: &Command, rules: Mutations) -> Result<Self, Rejection> {
        let mut next = self.clone();
        match command {
            Command::Form(_) => return Err(Rejection::AlreadyFormed),
            Command::ReserveMember(wanted) => next.reserve_member(wanted)?,
            Command::Place { member, placement } => next.active_mut(*member)?.placement = placement.clone(),
            Command::Announce { member, if_version, presence } => next.announce(*member, *if_version, presence)?,
            Command::Leave(holder) => next.set_leaving(*holder, true)?,
            Command::Stay(holder) => next.set_leaving(*holder, false)?,
            Command::Retire { member, if_version } => next.retire(*member, *if_version, rules)?,
            Command::Forget { member, if_version } => next.forget(*member, *if_version)?,
            Command::Gone(holder) => next.mark_gone(*holder)?,
            Command::Configure { if_version, settings } => next.configure(*if_version, settings)?,
            Command::RaiseFeatureLevel { to } => next.raise_feature_level(*to)?,
            Command::Shard { shard, if_epoch, if_version, change } => {
                next.change_shard(*shard, *if_epoch, *if_version, change, rules)?;
            }
        }
        next.epoch = next.epoch.next();
        Ok(next)
    }

    /// The document after the consensus that holds it changed its voters.
    #[must_use]
    pub fn with_voters(&self, voters: BTreeSet<VoterId>) -> Self {
        Self { voters, epoch: self.epoch.next(), ..self.clone() }
    }

    fn member_mut(&mut self, member: MemberId) -> Result<&mut Member, Rejection> {
        self.members.get_mut(&member).ok_or(Rejection::UnknownMember { member })
    }

    /// A member that may still change, with its version raised.
    fn active_mut(&mut self, id: MemberId) -> Result<&mut Member, Rejection> {
        let member = self.member_mut(id)?;
        if !member.is_active() {
            return Err(Rejection::Retired { member: id });
        }
        member.version = member.version.next();
        Ok(member)
    }

    fn reserve_member(&mut self, wanted: &ReserveMember) -> Result<(), Rejection> {
        let serial = self.next_serial;
        if wanted.if_next_serial != serial {
            return Err(Rejection::StaleSerial { named: wanted.if_next_serial, now: serial });
        }
        if let Some(shard) = wanted.shard.filter(|shard| !self.shards.contains_key(shard)) {
            return Err(Rejection::UnknownShard { shard });
        }
        if let Some(member) = wanted.replaces {
            let replaced = self.members.get(&member).ok_or(Rejection::UnknownMember { member })?;
            if !replaced.is_active() {
                return Err(Rejection::Retired { member });
            }
            if let Some((spare, _)) = self.spare_of(member) {
                return Err(Rejection::AlreadyReplaced { member, spare });
            }
        }
        let reason = wanted.reason;
        let member = Member {
            version: Version(1),
            shard: wanted.shard,
            state: MemberState::Active,
            placement: Placement::default(),
            template: wanted.template.clone(),
            replaces: wanted.replaces.zip(reason).map(|(member, reason)| Replaces { member, reason }),
            present: None,
            leaving: false,
            gone: None,
        };
        self.members.insert(serial, member);
        self.next_serial = serial.next();
        Ok(())
    }

    /// A process that cannot read what the others may send, or that was proven to be gone, is not let in.
    fn announce(&mut self, id: MemberId, if_version: Version, presence: &Presence) -> Result<(), Rejection> {
        let feature_level = self.feature_level;
        let member = self.member_mut(id)?;
        if !member.is_active() {
            return Err(Rejection::Retired { member: id });
        }
        expect_version(if_version, member.version)?;
        if member.gone == Some(presence.boot) {
            return Err(Rejection::StaleBoot { member: id, boot: presence.boot });
        }
        if presence.feature_level < feature_level {
            return Err(Rejection::FeatureUnsupported { level: feature_level });
        }
        member.version = member.version.next();
        if member.boot() != Some(presence.boot) {
            member.leaving = false;
        }
        member.present = Some(presence.clone());
        Ok(())
    }

    fn set_leaving(&mut self, holder: Holder, leaving: bool) -> Result<(), Rejection> {
        let member = self.active_mut(holder.member)?;
        if member.boot() != Some(holder.boot) {
            return Err(Rejection::StaleBoot { member: holder.member, boot: holder.boot });
        }
        member.leaving = leaving;
        Ok(())
    }

    /// Counts at commit: a shard that wants two copies keeps two without this member.
    fn retire(&mut self, id: MemberId, if_version: Version, rules: Mutations) -> Result<(), Rejection> {
        let member = self.members.get(&id).ok_or(Rejection::UnknownMember { member: id })?;
        if !member.is_active() {
            return Err(Rejection::Retired { member: id });
        }
        expect_version(if_version, member.version)?;
        if member.voter().is_some_and(|voter| self.voters.contains(&voter)) {
            return Err(Rejection::IsVoter { member: id });
        }
        if let Some(shard_id) = member.shard {
            let wanted = self.settings.copies;
            let shard = self.shards.get_mut(&shard_id).ok_or(Rejection::UnknownShard { shard: shard_id })?;
            if shard.primary.member == id && shard.pending_from.is_none() {
                return Err(Rejection::IsPrimary { member: id });
            }
            if shard.primary.member == id || shard.pending_from.is_some_and(|from| from.member == id) {
                return Err(Rejection::InHandover { member: id });
            }
            if shard.in_sync.remove(&id).is_some() {
                let left = living(&self.members, shard, id);
                if left < usize::from(wanted) && rules.keep(Rule::RetireCounts) {
                    return Err(Rejection::TooFewCopies { shard: shard_id, left, wanted });
                }
            }
            // An addition of this member that is under way is refused by the version.
            shard.version = shard.version.next();
        }
        self.active_mut(id)?.state = MemberState::Retired;
        Ok(())
    }

    fn forget(&mut self, id: MemberId, if_version: Version) -> Result<(), Rejection> {
        let member = self.member_mut(id)?;
        if member.is_active() {
            return Err(Rejection::NotRetired { member: id });
        }
        expect_version(if_version, member.version)?;
        self.members.remove(&id);
        for spare in self.members.values_mut().filter(|m| m.replaces.as_ref().is_some_and(|r| r.member == id)) {
            spare.replaces = None;
            spare.version = spare.version.next();
        }
        Ok(())
    }

    fn mark_gone(&mut self, holder: Holder) -> Result<(), Rejection> {
        let member = self.active_mut(holder.member)?;
        // Of an older process it is known already.
        if member.boot() == Some(holder.boot) {
            member.gone = Some(holder.boot);
        }
        Ok(())
    }

    /// The length of a lease cannot change: a leader would wait for a shorter lease than its predecessor granted.
    fn configure(&mut self, if_version: Version, settings: &Settings) -> Result<(), Rejection> {
        expect_version(if_version, self.settings_version)?;
        check_settings(settings)?;
        if settings.lease_ms != self.settings.lease_ms {
            return Err(Rejection::BadSettings { why: "leaseMs is fixed when the ring is formed".to_owned() });
        }
        self.settings = settings.clone();
        self.settings_version = self.settings_version.next();
        Ok(())
    }

    fn raise_feature_level(&mut self, to: FeatureLevel) -> Result<(), Rejection> {
        let supported = self.members.values().filter(|m| m.is_active());
        let lowest = supported.map(|m| m.present.as_ref().map_or(self.feature_level, |p| p.feature_level)).min();
        if to < self.feature_level || lowest.is_none_or(|lowest| to > lowest) {
            return Err(Rejection::FeatureUnsupported { level: to });
        }
        self.feature_level = to;
        Ok(())
    }

    fn change_shard(
        &mut self,
        id: ShardId,
        if_epoch: ShardEpoch,
        if_version: Version,
        change: &ShardChange,
        rules: Mutations,
    ) -> Result<(), Rejection> {
        let members = &self.members;
        let shard = self.shards.get_mut(&id).ok_or(Rejection::UnknownShard { shard: id })?;
        if rules.keep(Rule::ChangesAreConditional) {
            if shard.epoch != if_epoch {
                return Err(Rejection::StaleEpoch { named: if_epoch, now: shard.epoch });
            }
            expect_version(if_version, shard.version)?;
        }
        match change {
            ShardChange::Add(copy) => {
                let copy = &named_or_present(members, *copy, rules);
                announced_of_shard(members, *copy, id)?;
                if shard.primary.member == copy.member && shard.primary.boot != copy.boot {
                    return Err(Rejection::IsPrimary { member: copy.member });
                }
                shard.in_sync.insert(copy.member, copy.boot);
            }
            ShardChange::Remove(copy) => {
                if shard.primary.member == copy.member {
                    return Err(Rejection::IsPrimary { member: copy.member });
                }
                match shard.in_sync.get(&copy.member) {
                    // A primary whose successor on the same member was announced may live on for a moment, and lose
                    // touch with copies that are well: what it counts as kept must not come to rest on it alone.
                    Some(boot) if *boot == copy.boot && living(members, shard, copy.member) == 0 => {
                        return Err(Rejection::LastLiving { member: copy.member });
                    }
                    Some(boot) if *boot == copy.boot => drop(shard.in_sync.remove(&copy.member)),
                    Some(_) => return Err(Rejection::InSyncUnderOtherBoot { member: copy.member }),
                    None => {}
                }
            }
            ShardChange::Handover { to } => {
                if shard.pending_from.is_some() && rules.keep(Rule::OneHandoverAtATime) {
                    return Err(Rejection::HandoverPending { shard: id });
                }
                if shard.primary.member == to.member {
                    return Err(Rejection::IsPrimary { member: to.member });
                }
                announced_of_shard(members, *to, id)?;
                let from = shard.primary;
                shard.begin_epoch(*to)?;
                shard.pending_from = Some(from);
            }
            ShardChange::HandoverDone { start } => {
                if shard.pending_from.take().is_none() {
                    return Err(Rejection::NoHandover { shard: id });
                }
                shard.kept_through = Some(*start);
            }
            ShardChange::Failover { to, drop_former } => {
                let former = shard.primary;
                shard.begin_epoch(*to)?;
                if *drop_former && former.member != to.member {
                    shard.in_sync.remove(&former.member);
                }
            }
            ShardChange::StartEmpty { on } => {
                shard.begin_after_loss(members, id, *on)?;
                shard.recovered_at = Some(Position::default());
            }
            ShardChange::Recover { on, position } => {
                shard.begin_after_loss(members, id, *on)?;
                shard.recovered_at = Some(*position);
            }
        }
        shard.version = shard.version.next();
        Ok(())
    }
}

/// How many processes of the in-sync set but for this member's are not known to be gone.
fn living(members: &BTreeMap<MemberId, Member>, shard: &Shard, without: MemberId) -> usize {
    let others = shard.in_sync.iter().filter(|(id, _)| **id != without);
    others.filter(|(id, boot)| !is_superseded(members, Holder { member: **id, boot: **boot })).count()
}

impl Shard {
    /// Makes an in-sync copy the primary of the next epoch. The in-sync set stays.
    fn begin_epoch(&mut self, primary: Holder) -> Result<(), Rejection> {
        if !self.holds(primary) {
            return Err(Rejection::NotInSync { member: primary.member });
        }
        self.epoch = self.epoch.next();
        self.primary = primary;
        self.pending_from = None;
        self.kept_through = None;
        self.recovered_at = None;
        Ok(())
    }

    /// Begins the next epoch with one copy alone, once every in-sync process is proven to be no more.
    fn begin_after_loss(
        &mut self,
        members: &BTreeMap<MemberId, Member>,
        id: ShardId,
        on: Holder,
    ) -> Result<(), Rejection> {
        announced_of_shard(members, on, id)?;
        let survivor = self.in_sync.iter().find(|(member, boot)| {
            // A member that the ring forgot was retired, and so is in no set.
            !is_superseded(members, Holder { member: **member, boot: **boot })
        });
        if let Some((member, _)) = survivor {
            return Err(Rejection::CopyMayExist { shard: id, member: *member });
        }
        self.in_sync = BTreeMap::from([(on.member, on.boot)]);
        self.losses = self.losses.saturating_add(1);
        self.begin_epoch(on)
    }
}

/// The process that an addition is about: the one that it names, unless a test dropped that rule.
fn named_or_present(members: &BTreeMap<MemberId, Member>, copy: Holder, rules: Mutations) -> Holder {
    if rules.keep(Rule::AdditionNamesBoot) {
        return copy;
    }
    let present = members.get(&copy.member).and_then(Member::boot);
    Holder { boot: present.unwrap_or(copy.boot), ..copy }
}

/// An active member of the shard whose newest process has this boot.
fn announced_of_shard(members: &BTreeMap<MemberId, Member>, holder: Holder, shard: ShardId) -> Result<(), Rejection> {
    let Holder { member: id, boot } = holder;
    let member = members.get(&id).ok_or(Rejection::UnknownMember { member: id })?;
    if !member.is_active() {
        return Err(Rejection::Retired { member: id });
    }
    if member.shard != Some(shard) {
        return Err(Rejection::NotOfShard { member: id, shard });
    }
    if member.boot() != Some(boot) {
        return Err(Rejection::StaleBoot { member: id, boot });
    }
    Ok(())
}

fn expect_version(named: Version, now: Version) -> Result<(), Rejection> {
    if named == now { Ok(()) } else { Err(Rejection::StaleVersion { named, now }) }
}

fn check_settings(settings: &Settings) -> Result<(), Rejection> {
    let bad = |why: &str| Err(Rejection::BadSettings { why: why.to_owned() });
    if settings.copies == 0 {
        return bad("copies must be at least 1");
    }
    if settings.min_in_sync == 0 || settings.min_in_sync > settings.copies {
        return bad("minInSync must lie between 1 and copies");
    }
    if settings.lease_ms == 0 || settings.failover_after_ms == 0 {
        return bad("leaseMs and failoverAfterMs must be positive");
    }
    Ok(())
}

fn founding_member(founding: &crate::FoundingMember) -> Member {
    Member {
        version: Version(1),
        shard: founding.shard,
        state: MemberState::Active,
        placement: founding.placement.clone(),
        template: founding.template.clone(),
        replaces: None,
        present: Some(founding.presence.clone()),
        leaving: false,
        gone: None,
    }
}

fn founding_shard(slots: Vec<crate::SlotRange>, primary: Holder, in_sync: BTreeMap<MemberId, crate::BootId>) -> Shard {
    Shard {
        slots,
        epoch: ShardEpoch(1),
        version: Version(1),
        primary,
        pending_from: None,
        in_sync,
        kept_through: None,
        losses: 0,
        recovered_at: None,
    }
}
