//! An operator small enough to see through: it replaces members as the real one does, spare first, and remembers
//! nothing.
//!
//! Each time it looks, it sees the ring through some member, so perhaps an old one, and it may be gone before it has
//! done all that it saw to do. In: which members are to go, which machines are lost. Out: machines and proposals.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ringmaster_ring::{Command, Holder, Member, MemberId, ReplaceReason, ReserveMember, Ring, ShardChange, ShardId};

use crate::process::Machine;

/// What the owner of the cluster, or fate, decided about its machines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    /// Members that are to be replaced: their nodes are drained.
    pub(crate) drained: BTreeSet<MemberId>,
    /// Members whose machine and disk are gone for good.
    pub(crate) destroyed: BTreeSet<MemberId>,
}

/// One step.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Propose(Command),
    /// Starts the machine of a member for which the ring reserved a serial.
    Create {
        member: MemberId,
        shard: Option<ShardId>,
    },
    /// Takes the machine of a retired member away.
    Delete {
        member: MemberId,
    },
}

/// What is to be done, as far as `ring` shows.
#[must_use]
pub(crate) fn steps(ring: &Arc<Ring>, machines: &BTreeMap<MemberId, Machine>, wishes: &Wishes) -> Vec<Step> {
    let mut steps = Vec::new();
    for (id, member) in &ring.members {
        let exists = machines.contains_key(id);
        if !member.is_active() {
            steps.push(match exists {
                true => Step::Delete { member: *id },
                false => Step::Propose(Command::Forget { member: *id, if_version: member.version }),
            });
            continue;
        }
        if !exists && !wishes.destroyed.contains(id) {
            steps.push(Step::Create { member: *id, shard: member.shard });
            continue;
        }
        if wishes.destroyed.contains(id)
            && let Some(boot) = member.boot().filter(|boot| member.gone != Some(*boot))
        {
            steps.push(Step::Propose(Command::Gone(Holder { member: *id, boot })));
        }
        if wishes.drained.contains(id) || wishes.destroyed.contains(id) {
            steps.extend(replace(ring, *id, member, wishes).map(Step::Propose));
        }
    }
    steps
}

/// The next step of replacing a member.
fn replace(ring: &Ring, id: MemberId, member: &Member, wishes: &Wishes) -> Option<Command> {
    let retire = Command::Retire { member: id, if_version: member.version };
    let replaces = member.replaces.as_ref().and_then(|replaces| ring.members.get(&replaces.member));
    if replaces.is_some_and(Member::is_active) {
        // A spare that is not wanted, or is lost, makes room for another one.
        return Some(retire);
    }
    let Some((spare_id, spare)) = ring.spare_of(id) else {
        let reason = if wishes.destroyed.contains(&id) { ReplaceReason::Lost } else { ReplaceReason::NodeCordoned };
        return Some(Command::ReserveMember(ReserveMember {
            if_next_serial: ring.next_serial,
            shard: member.shard,
            template: String::new(),
            replaces: Some(id),
            reason: Some(reason),
        }));
    };
    let Some((shard_id, shard)) = ring.shard_of_member(id) else {
        // A witness goes when its successor is there.
        return spare.present.is_some().then_some(retire);
    };
    let to = Holder { member: spare_id, boot: spare.boot()? };
    if !shard.holds(to) {
        return None;
    }
    match (shard.primary.member == id, shard.pending_from) {
        (_, Some(_)) => None,
        (true, None) => Command::on_shard(ring, shard_id, ShardChange::Handover { to }),
        (false, None) => Some(retire),
    }
}
