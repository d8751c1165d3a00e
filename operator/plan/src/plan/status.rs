//! What the operator says about a cluster: numbers, members, replacements, and conditions that a person can act on.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use ringmaster_ring::{Member, MemberId, Ring, VoterId};

use super::draft::Draft;
use super::reasons;
use super::view::{View, replaced_by};
use crate::crd::{
    CacheClusterStatus, CopyCount, MemberCondition, MemberReport, MemberRole, ReplacementReport, ShardCount,
};
use crate::{Observed, Problem, Timestamp, names};

/// Messages in conditions are cut at this many characters.
const MESSAGE_LENGTH_MAX: usize = 1_000;

pub(super) fn report(view: &View<'_>, draft: &Draft) -> CacheClusterStatus {
    let spec = view.spec;
    let (fewest, serving) = match view.ring {
        Some(ring) => {
            (fewest_copies(view, ring), spec.shard_ids().filter(|shard| view.is_serving(ring, *shard)).count())
        }
        None => (0, 0),
    };
    let members = match view.ring {
        Some(ring) => ring.members.iter().map(|(id, member)| of_member(view, draft, ring, *id, member)).collect(),
        None => view.seen.workloads.iter().map(|(id, workload)| of_founder(view, *id, workload.shard)).collect(),
    };
    let generation = view.ring.map(|ring| ring.generation).or(view.seen.identity.as_ref().map(|i| i.generation));
    CacheClusterStatus {
        observed_generation: spec.observed_generation,
        conditions: conditions(view, draft, fewest, serving),
        image: spec.image.clone(),
        ring_generation: generation.map_or(0, |generation| generation.0),
        copies: CopyCount {
            wanted: i32::from(spec.copies),
            fewest: small(fewest),
            summary: format!("{fewest}/{}", spec.copies),
        },
        shards: ShardCount {
            wanted: i32::from(spec.shards),
            serving: small(serving),
            summary: format!("{serving}/{}", spec.shards),
        },
        members,
        replacing: draft.replacing.iter().map(|replacing| of_replacement(view, replacing)).collect(),
    }
}

fn fewest_copies(view: &View<'_>, ring: &Ring) -> usize {
    ring.shards.values().map(|shard| view.copies_in_sync(ring, shard)).min().unwrap_or(0)
}

/// A resource that cannot be acted on: everything else that was said about it still holds.
pub(super) fn refusal(seen: &Observed, problems: &[Problem], now: Timestamp) -> CacheClusterStatus {
    let mut status = seen.cluster.status.clone().unwrap_or_default();
    let message: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let generation = seen.cluster.metadata.generation.unwrap_or_default();
    status.observed_generation = generation;
    let verdict = Verdict { holds: false, reason: "InvalidSpec".to_owned(), message: message.join("; ") };
    let progressing = verdict.condition("Progressing", generation, &status.conditions, now);
    status.conditions.retain(|condition| condition.type_ != "Progressing");
    status.conditions.push(progressing);
    status
}

fn of_replacement(view: &View<'_>, replacing: &super::draft::Replacing) -> ReplacementReport {
    ReplacementReport {
        member: view.name(replacing.member),
        spare: replacing.spare.map(|spare| view.name(spare)).unwrap_or_default(),
        reason: replacing.reason.clone(),
        waiting_for: replacing.waiting_for.clone(),
    }
}

fn of_member(view: &View<'_>, draft: &Draft, ring: &Ring, id: MemberId, member: &Member) -> MemberReport {
    let in_sync = view.is_in_sync(ring, id);
    let status = view.status(id);
    let is_primary = ring.shard_of_member(id).is_some_and(|(_, shard)| shard.primary.member == id);
    let role = match member.shard {
        _ if !member.is_active() => MemberRole::Retired,
        None => MemberRole::Witness,
        Some(_) if is_primary => MemberRole::Primary,
        Some(_) if replaced_by(ring, member).is_some() => MemberRole::Spare,
        Some(_) => MemberRole::Copy,
    };
    let state = match status {
        _ if !member.is_active() => MemberCondition::Lingering,
        _ if reasons::is_leaving(view, id, member) => MemberCondition::Leaving,
        _ if in_sync => MemberCondition::InSync,
        Some(_) => MemberCondition::Syncing,
        None if view.is_absent(ring, id) => MemberCondition::Absent,
        None => MemberCondition::Starting,
    };
    let is_absent = view.is_absent(ring, id);
    MemberReport {
        name: view.name(id),
        shard: member.shard.map(|shard| i32::from(shard.0)),
        role,
        state,
        zone: member.placement.zone.clone(),
        node: view.pod(id).and_then(|pod| pod.node.clone()).unwrap_or_else(|| member.placement.node.clone()),
        lag: if in_sync { 0 } else { status.map_or(0, |status| i64::try_from(status.lag_records).unwrap_or(i64::MAX)) },
        absent_since: is_absent.then(|| Time(view.absent_since(ring, id).unwrap_or(view.now))),
        misplaced: misplaced(view, ring, id, member),
        placement_tried: placement_tried(view, draft, ring, id, member),
    }
}

/// Kept while the member stands where it does, so that a better place is not sought again at once.
fn placement_tried(view: &View<'_>, draft: &Draft, ring: &Ring, id: MemberId, member: &Member) -> Option<Time> {
    let is_new = draft.sought_in_vain.contains(&id) && !reasons::was_sought_lately(view, id);
    match view.placement_tried(id) {
        _ if is_new => Some(whole_seconds(view.now)),
        Some(tried) if member.is_active() && reasons::is_misplaced(view, ring, id, member) => Some(Time(tried)),
        Some(_) | None => None,
    }
}

fn of_founder(view: &View<'_>, id: MemberId, shard: Option<ringmaster_ring::ShardId>) -> MemberReport {
    MemberReport {
        name: view.name(id),
        shard: shard.map(|shard| i32::from(shard.0)),
        role: MemberRole::Founder,
        state: MemberCondition::Starting,
        zone: view.node(id).map(|node| node.zone(&view.spec.placement).to_owned()).unwrap_or_default(),
        node: view.pod(id).and_then(|pod| pod.node.clone()).unwrap_or_default(),
        lag: 0,
        absent_since: None,
        misplaced: String::new(),
        placement_tried: None,
    }
}

/// Says so where a copy shares its node with an older one of its shard, or its zone although the cluster has zones
/// enough.
fn misplaced(view: &View<'_>, ring: &Ring, id: MemberId, member: &Member) -> String {
    let (Some(shard), true) = (member.shard, member.is_active()) else { return String::new() };
    let zone_of = |id| view.node(id).map(|node| node.zone(&view.spec.placement));
    let older: Vec<MemberId> =
        view.seats(ring, Some(shard)).map(|(other, _)| other).filter(|other| *other < id).collect();
    if older.iter().copied().any(|other| view.node_name(id).is_some() && view.node_name(other) == view.node_name(id)) {
        return "shares its node with another copy of its shard".to_owned();
    }
    let nodes = view.seen.nodes.iter().filter(|(name, node)| node.admits(name, &view.spec.placement));
    let mut zones: Vec<&str> = nodes.map(|(_, node)| node.zone(&view.spec.placement)).collect();
    zones.sort_unstable();
    zones.dedup();
    let shares_zone = older.into_iter().any(|other| zone_of(id).is_some() && zone_of(other) == zone_of(id));
    if shares_zone && zones.len() >= usize::from(view.spec.copies) {
        return "shares its zone with another copy of its shard".to_owned();
    }
    String::new()
}

struct Verdict {
    holds: bool,
    reason: String,
    message: String,
}

impl Verdict {
    fn new(holds: bool, reason: &str, message: impl Into<String>) -> Self {
        Self { holds, reason: reason.to_owned(), message: message.into() }
    }

    /// As a condition. The time of its last change is kept while it does not change.
    fn condition(self, kind: &str, generation: i64, former: &[Condition], now: Timestamp) -> Condition {
        let status = if self.holds { "True" } else { "False" };
        let same = former.iter().find(|condition| condition.type_ == kind && condition.status == status);
        let mut message = self.message;
        if message.chars().count() > MESSAGE_LENGTH_MAX {
            message = message.chars().take(MESSAGE_LENGTH_MAX).chain(['…']).collect();
        }
        Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: self.reason,
            message,
            observed_generation: Some(generation),
            // Whole seconds, as the API server keeps them: what is read back equals what was written.
            last_transition_time: same.map_or_else(|| whole_seconds(now), |same| same.last_transition_time.clone()),
        }
    }
}

fn whole_seconds(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

fn conditions(view: &View<'_>, draft: &Draft, fewest: usize, serving: usize) -> Vec<Condition> {
    let former = view.seen.cluster.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let generation = view.spec.observed_generation;
    let verdicts = [
        ("Ready", ready(view, serving)),
        ("Progressing", progressing(view, draft)),
        ("Redundant", redundant(view, fewest)),
        ("Degraded", degraded(view, draft)),
        ("DataLost", data_lost(view)),
    ];
    verdicts.into_iter().map(|(kind, verdict)| verdict.condition(kind, generation, former, view.now)).collect()
}

/// A ring that was known before was formed: nobody who knows it can be asked at present, which is another trouble.
fn no_ring(view: &View<'_>) -> Verdict {
    let former = view.seen.cluster.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let was_known = former.iter().any(|former| former.type_ == "Ready" && former.reason != "NotFormed");
    match was_known {
        true => Verdict::new(false, "RingUnknown", "no member that knows the ring can be asked"),
        false => Verdict::new(false, "NotFormed", "the ring is not formed yet"),
    }
}

fn ready(view: &View<'_>, serving: usize) -> Verdict {
    let Some(ring) = view.ring else { return no_ring(view) };
    let not_serving: Vec<String> = view
        .spec
        .shard_ids()
        .filter(|shard| !view.is_serving(ring, *shard))
        .map(|shard| {
            let primary = ring.shards.get(&shard).map(|shard| view.name(shard.primary.member)).unwrap_or_default();
            format!("shard {shard} (primary {primary})")
        })
        .collect();
    match not_serving.is_empty() {
        true => Verdict::new(true, "Serving", format!("all {serving} shards are served")),
        false => Verdict::new(false, "ShardsNotServing", format!("not served: {}", not_serving.join(", "))),
    }
}

/// True while steps are being taken, False once there is nothing to do or something keeps the next step from being taken.
fn progressing(view: &View<'_>, draft: &Draft) -> Verdict {
    if let Some(ring) = view.ring.filter(|ring| view.lacks_quorum(ring)) {
        return Verdict::new(false, WITHOUT_QUORUM, without_quorum(view, ring));
    }
    if let Some(obstacle) = draft.obstacles.first() {
        let messages: Vec<&str> = draft.obstacles.iter().map(|o| o.message.as_str()).collect();
        return Verdict::new(false, &obstacle.reason, messages.join("; "));
    }
    if let Some(first) = draft.replacing.first() {
        return Verdict::new(
            true,
            "Replacing",
            format!("{} members are being replaced; the first waits for {}", draft.replacing.len(), first.waiting_for),
        );
    }
    match draft.doing.first() {
        Some(doing) => Verdict::new(true, "Working", doing.clone()),
        None if !draft.leftovers.is_empty() => {
            Verdict::new(false, "Settled", format!("everything is as it should be; {}", draft.leftovers.join("; ")))
        }
        None => Verdict::new(false, "Settled", "everything is as it should be"),
    }
}

const WITHOUT_QUORUM: &str = "RingWithoutQuorum";

/// What helps: the voters, or an end to this ring. A pod that is deleted with grace would wait for a ring to release it.
fn without_quorum(view: &View<'_>, ring: &Ring) -> String {
    let (silent, all) = (view.silent_voters(ring).len(), ring.voters.len());
    let (namespace, label, uid) = (&view.spec.namespace, names::LABEL_CLUSTER, &view.spec.uid);
    format!(
        "{silent} of {all} voters of the ring do not answer: nothing can be changed until they are back. If they are lost for good, `kubectl delete pods -n {namespace} -l {label}={uid} --force` gives up all data, and a new ring starts empty"
    )
}

fn redundant(view: &View<'_>, fewest: usize) -> Verdict {
    let wanted = usize::from(view.spec.copies);
    if fewest >= wanted {
        return Verdict::new(true, "EveryCopyInSync", format!("every shard has {wanted} copies in sync"));
    }
    let Some(ring) = view.ring else { return no_ring(view) };
    let counts = ring.shards.iter().map(|(id, shard)| (id, view.copies_in_sync(ring, shard)));
    let short = counts.filter(|(_, copies)| *copies < wanted);
    let list: Vec<String> = short.map(|(id, copies)| format!("shard {id} has {copies}")).collect();
    Verdict::new(false, "CopiesMissing", format!("{wanted} copies are wanted: {}", list.join(", ")))
}

fn degraded(view: &View<'_>, draft: &Draft) -> Verdict {
    let mut worries: Vec<(&str, String)> = Vec::new();
    if let Some(ring) = view.ring {
        if view.lacks_quorum(ring) {
            worries.push((WITHOUT_QUORUM, without_quorum(view, ring)));
        } else {
            // A voter that is silent for a moment is no worry; one whose disk is gone stays silent for ever.
            let is_lost = |voter: &&VoterId| ring.member_of_voter(**voter).is_none();
            let (lost, all) = (ring.voters.iter().filter(is_lost).count(), ring.voters.len());
            if lost > 0 {
                let message = format!("{lost} of {all} voters of the ring lost their disks: their votes have to move");
                worries.push(("VotersLost", message));
            }
        }
        for id in ring.members.keys().filter(|id| view.is_absent(ring, **id)) {
            worries.push(("MemberAbsent", format!("{} cannot be reached", view.name(*id))));
        }
    }
    for obstacle in &draft.obstacles {
        worries.push((obstacle.reason.as_str(), obstacle.message.clone()));
    }
    match worries.first() {
        Some((reason, _)) => {
            let list: Vec<&str> = worries.iter().map(|(_, message)| message.as_str()).collect();
            Verdict::new(true, reason, list.join("; "))
        }
        None => Verdict::new(false, "AsExpected", "nothing is wrong"),
    }
}

fn data_lost(view: &View<'_>) -> Verdict {
    let Some(ring) = view.ring else { return Verdict::new(false, "NothingLost", "no acknowledged write was lost") };
    if ring.generation.0 > 1 {
        let message = format!("the ring is of generation {}: all members of the one before were lost", ring.generation);
        return Verdict::new(true, "RingLost", message);
    }
    let lost: Vec<String> = ring
        .shards
        .iter()
        .filter(|(_, shard)| shard.losses > 0)
        .map(|(id, shard)| format!("shard {id}: {} times", shard.losses))
        .collect();
    match lost.is_empty() {
        true => Verdict::new(false, "NothingLost", "no acknowledged write was lost"),
        false => Verdict::new(true, "NoCopyLeft", format!("every copy was lost of {}", lost.join(", "))),
    }
}

fn small(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
