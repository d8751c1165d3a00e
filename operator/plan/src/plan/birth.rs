//! How a cluster gets its ring, once: an identity, the founding members, a record of who may form it, and the forming.
//! Each is written before the next is begun, and never overwritten.
//!
//! A generation that was lost as a whole is followed by the next one only if it is proven that none of its voters can
//! come back: see [`every_member_is_new`].

use std::collections::BTreeMap;

use ringmaster_ring::{
    Formation, FoundingMember, Generation, MemberId, MemberStatus, Placement, Ring, Settings, ShardId, SlotRange,
};

use super::Step;
use super::draft::Draft;
use super::replace::new_member;
use super::view::View;
use crate::names;
use crate::observed::{Birth, Identity, Workload};

pub(super) fn give(view: &View<'_>, draft: &mut Draft) {
    match &view.seen.identity {
        None => write_identity(view, draft),
        Some(identity) if identity.uuid != view.spec.uuid => draft.obstacle(
            "FormerClusterRemains",
            "the ring's Secret belongs to an earlier cluster of this name: it has to be deleted first",
        ),
        Some(identity) => found(view, identity, draft),
    }
}

/// The Secret of the ring's generation is not there, or only that of an earlier one. Without its token no member obeys,
/// and none that is made can start.
pub(super) fn misses_identity(view: &View<'_>, ring: &Ring) -> bool {
    view.seen.identity.as_ref().is_none_or(|identity| identity.generation < ring.generation)
}

pub(super) fn say_identity_is_missing(view: &View<'_>, draft: &mut Draft) {
    let generation = view.seen.identity.as_ref().map_or(Generation(1), |identity| identity.generation.next());
    let secret = names::identity_secret(&view.spec.name, &view.spec.uid, generation);
    draft.obstacle(
        "IdentityMissing",
        format!(
            "members exist, but the Secret {secret} with the ring's identity is gone: nothing can be changed. Restore it from a backup, or delete the CacheCluster and make it anew"
        ),
    );
}

fn write_identity(view: &View<'_>, draft: &mut Draft) {
    if !view.seen.workloads.is_empty() {
        say_identity_is_missing(view, draft);
        return;
    }
    draft.doing.push("writing down the identity of the ring".to_owned());
    let identity = Identity {
        uuid: view.spec.uuid,
        generation: Generation(1),
        first_serial: MemberId(1),
        image: view.seen.defaults.image.clone(),
    };
    draft.step(Step::CreateIdentity(identity), "Writing down the identity of the ring.");
}

fn found(view: &View<'_>, identity: &Identity, draft: &mut Draft) {
    let knows_a_ring = |status: &&MemberStatus| status.ring_epoch.is_some() && status.generation == identity.generation;
    if view.seen.statuses.values().any(|status| knows_a_ring(&status)) {
        draft.doing.push("reading the ring from the members that know it".to_owned());
        return;
    }
    let birth = view.seen.birth.filter(|birth| birth.generation == identity.generation);
    if birth.is_none() {
        drop_outdated_founders(view, identity, draft);
    }
    let founders = founders(view, identity, birth.is_some());
    create_founders(view, identity, &founders, draft);
    let Some(answers) = answers_of_all(view, identity, &founders) else {
        say_who_is_missing(view, identity, &founders, birth.is_some(), draft);
        return;
    };
    match birth {
        None => {
            let Some((founder, status)) = answers.first_key_value() else { return };
            draft.doing.push("forming the ring".to_owned());
            let birth = Birth { generation: identity.generation, founder: *founder, voter: status.presence.voter };
            draft.step(Step::RecordBirth(birth), format!("{} is to form the ring.", view.name(*founder)));
        }
        Some(birth) if answers.get(&birth.founder).is_some_and(|status| status.presence.voter == birth.voter) => {
            draft.doing.push("forming the ring".to_owned());
            let formation = Box::new(formation(view, identity, &answers));
            let step = Step::Form { founder: birth.founder, formation };
            draft.step(step, format!("{} forms the ring.", view.name(birth.founder)));
        }
        Some(_) => succeed_lost_generation(view, identity, draft),
    }
}

/// The places of the first members, and who has them. Before the birth is recorded nobody depends on a founder, so that
/// one made from an older specification is simply made anew.
fn founders(view: &View<'_>, identity: &Identity, is_recorded: bool) -> Vec<Founder> {
    let mut next_serial = identity.first_serial;
    for (id, _) in of_generation(view, identity) {
        next_serial = next_serial.max(id.next());
    }
    let mut founders = Vec::new();
    for shard in view.places() {
        let present = of_generation(view, identity).filter(|(_, workload)| {
            let is_outdated = workload.set.as_ref().is_some_and(|set| set.template != view.spec.template.0);
            workload.shard == shard && (is_recorded || !is_outdated)
        });
        let mut members: Vec<Founder> =
            present.take(view.wanted_seats(shard)).map(|(member, _)| Founder { member, shard }).collect();
        while members.len() < view.wanted_seats(shard) {
            members.push(Founder { member: next_serial, shard });
            next_serial = next_serial.next();
        }
        founders.extend(members);
    }
    founders
}

#[derive(Clone, Copy, Debug)]
struct Founder {
    member: MemberId,
    shard: Option<ShardId>,
}

fn of_generation<'a>(view: &View<'a>, identity: &Identity) -> impl Iterator<Item = (MemberId, &'a Workload)> {
    let generation = identity.generation;
    view.seen.workloads.iter().filter(move |(_, w)| w.generation == generation).map(|(id, w)| (*id, w))
}

fn create_founders(view: &View<'_>, identity: &Identity, founders: &[Founder], draft: &mut Draft) {
    for Founder { member, shard } in founders {
        // A pod without its StatefulSet is on its way out: its name is free once it has gone.
        if view.workload(*member).is_none() {
            let step = Step::CreateMember(new_member(view, identity.generation, *member, *shard));
            draft.step(step, format!("Creating {}, one of the first members.", view.name(*member)));
        }
    }
}

fn drop_outdated_founders(view: &View<'_>, identity: &Identity, draft: &mut Draft) {
    for (id, workload) in of_generation(view, identity) {
        let Some(set) = &workload.set else { continue };
        if set.template != view.spec.template.0 && !set.deleting {
            let why = format!("{} was made from an older specification, and no ring knows it.", view.name(id));
            draft.step(Step::DeleteMember { member: id, uid: set.uid.clone() }, why);
        }
    }
}

/// What every founder says; none while one of them is silent or of another cluster.
fn answers_of_all<'a>(
    view: &View<'a>,
    identity: &Identity,
    founders: &[Founder],
) -> Option<BTreeMap<MemberId, &'a MemberStatus>> {
    let mut answers = BTreeMap::new();
    for founder in founders {
        let status = view.status(founder.member)?;
        let is_of_this_ring = status.cluster == identity.uuid && status.generation == identity.generation;
        if !is_of_this_ring || view.pod(founder.member).is_none_or(|pod| pod.deleting) {
            return None;
        }
        answers.insert(founder.member, status);
    }
    Some(answers)
}

fn say_who_is_missing(
    view: &View<'_>,
    identity: &Identity,
    founders: &[Founder],
    is_recorded: bool,
    draft: &mut Draft,
) {
    let silent: Vec<MemberId> =
        founders.iter().map(|founder| founder.member).filter(|member| view.status(*member).is_none()).collect();
    let total = founders.len();
    let answering = total - silent.len();
    draft.doing.push(match is_recorded {
        true => format!("waiting for members that may know the ring: {answering} of {total} answer"),
        false => format!("waiting for the first members: {answering} of {total} have started"),
    });
    for member in silent {
        if let Some(trouble) = super::replace::trouble(view, member) {
            let message = format!("{} cannot start: {}: {}", view.name(member), trouble.reason, trouble.message);
            draft.obstacle(trouble.reason, message);
        }
    }
    if identity.generation > Generation(1) {
        draft.doing.push(format!("forming generation {} of the ring", identity.generation));
    }
}

/// All founding members hold no data, and so all of them are in sync.
fn formation(view: &View<'_>, identity: &Identity, answers: &BTreeMap<MemberId, &MemberStatus>) -> Formation {
    let spec = view.spec;
    let defaults = Settings { copies: spec.copies, ..Settings::default() };
    let members = answers.iter().map(|(id, status)| {
        let workload = view.workload(*id);
        let set = workload.and_then(|workload| workload.set.as_ref());
        let node = view.pod(*id).and_then(|pod| pod.node.clone()).unwrap_or_default();
        let zone = view.node(*id).map(|node| node.zone(&spec.placement).to_owned()).unwrap_or_default();
        let member = FoundingMember {
            shard: status.shard,
            template: set.map_or_else(|| spec.template.0.clone(), |set| set.template.clone()),
            placement: Placement { zone, node },
            presence: status.presence.clone(),
        };
        (*id, member)
    });
    let next_serial = view.seen.workloads.keys().next_back().map_or(identity.first_serial, |last| last.next());
    Formation {
        cluster: identity.uuid,
        generation: identity.generation,
        settings: spec.settings(&defaults),
        members: members.collect(),
        shards: spec.shard_ids().zip(SlotRange::split(spec.shards).into_iter().map(|range| vec![range])).collect(),
        next_serial: next_serial.max(identity.first_serial),
    }
}

/// The recorded founder's disk is gone, and nobody knows a ring. Either it was formed and lost as a whole, or it was
/// about to be formed: nobody can tell, so the next generation takes new serials.
fn succeed_lost_generation(view: &View<'_>, lost: &Identity, draft: &mut Draft) {
    if !every_member_is_new(view) {
        draft.obstacle(
            "RingLost",
            format!(
                "no member knows the ring of generation {}, but one of its voters may come back: wait for it, or delete the pods of all members to start empty",
                lost.generation
            ),
        );
        return;
    }
    draft.doing.push("starting a new generation of the ring".to_owned());
    let last = view.seen.workloads.keys().next_back().copied().unwrap_or(lost.first_serial);
    let identity = Identity {
        generation: Generation(lost.generation.0.saturating_add(1)),
        // Room for members that the lost ring may have had beyond those that are left.
        first_serial: MemberId(last.0.saturating_add(1_000)),
        ..lost.clone()
    };
    let why = format!("Every voter of generation {} of the ring is gone, and all data with them.", lost.generation);
    draft.step(Step::CreateIdentity(identity), why);
}

/// Whether no process that exists can ever have been a voter: each pod that exists answers, has run one process only,
/// and that process knows no ring. A voter's disk lives as long as its pod, so every disk of a voter is gone.
fn every_member_is_new(view: &View<'_>) -> bool {
    view.seen.workloads.iter().all(|(id, workload)| {
        let Some(pod) = &workload.pod else { return true };
        let knows_no_ring = view.status(*id).is_some_and(|status| status.ring_epoch.is_none());
        pod.node.is_none() || (pod.restarts == 0 && !pod.deleting && knows_no_ring)
    })
}
