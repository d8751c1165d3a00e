//! Why a member must be replaced. The first reason that holds counts.

use ringmaster_ring::{Member, MemberId, MemberStatus, ReplaceReason, Ring};

use super::view::View;
use crate::crd::OnCordon;

/// Who wants a replacement: that decides how soon it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Somebody waits for the node or the pod, or a copy is missing: at once.
    AtOnce,
    /// We want it: one after the other, and only while nothing else is wrong.
    InTurn,
}

pub(super) fn pace(reason: ReplaceReason) -> Pace {
    match reason {
        ReplaceReason::NodeCordoned | ReplaceReason::Terminating | ReplaceReason::Lost => Pace::AtOnce,
        ReplaceReason::Outdated | ReplaceReason::Misplaced => Pace::InTurn,
    }
}

/// Why this member must be replaced, if it must.
///
/// A node that is not ready is no reason by itself: what counts is whether the ring calls the member in sync.
pub(super) fn reason(view: &View<'_>, ring: &Ring, id: MemberId, member: &Member) -> Option<ReplaceReason> {
    if is_leaving(view, id, member) {
        Some(ReplaceReason::Terminating)
    } else if stands_on_leaving_node(view, id) {
        Some(ReplaceReason::NodeCordoned)
    } else if is_lost(view, ring, id) {
        Some(ReplaceReason::Lost)
    } else if view.is_outdated(member) {
        Some(ReplaceReason::Outdated)
    } else if is_misplaced(view, ring, id, member) && !was_sought_lately(view, id) {
        Some(ReplaceReason::Misplaced)
    } else {
        None
    }
}

/// Its process was asked to end: by the ring's word, or because its pod or its StatefulSet is being deleted.
pub(super) fn is_leaving(view: &View<'_>, id: MemberId, member: &Member) -> bool {
    let workload = view.workload(id);
    let pod_goes = workload.and_then(|workload| workload.pod.as_ref()).is_some_and(|pod| pod.deleting);
    let set_goes = workload.and_then(|workload| workload.set.as_ref()).is_some_and(|set| set.deleting);
    pod_goes || set_goes || (member.leaving && !is_marked_only(view, id, member))
}

/// The ring has it leaving, so that votes move away from it, because it was to be dismissed; its process says that
/// nobody asked it to end.
pub(super) fn is_marked_only(view: &View<'_>, id: MemberId, member: &Member) -> bool {
    let is_at_ease = |status: &MemberStatus| !status.terminating && Some(status.presence.boot) == member.boot();
    member.leaving && view.status(id).is_some_and(is_at_ease)
}

pub(super) fn stands_on_leaving_node(view: &View<'_>, id: MemberId) -> bool {
    view.spec.on_cordon == OnCordon::Replace && view.node(id).is_some_and(|node| node.leaving().is_some())
}

/// Neither in sync nor reachable for as long as the user allows a member to refill in place.
pub(super) fn is_lost(view: &View<'_>, ring: &Ring, id: MemberId) -> bool {
    view.absent_since(ring, id).is_some_and(|since| view.seconds_since(since) >= i64::from(view.spec.repair_after_s))
}

/// It shares a node with another copy of its shard, although a node is free that could take it. Of the two the younger
/// one moves.
pub(super) fn is_misplaced(view: &View<'_>, ring: &Ring, id: MemberId, member: &Member) -> bool {
    let (Some(shard), Some(node)) = (member.shard, view.node_name(id)) else { return false };
    let shares = view.seats(ring, Some(shard)).any(|(other, _)| other < id && view.node_name(other) == Some(node));
    // Its own spare takes the node that was free, and that is what the spare is for.
    let is_own_spare = |other: &Member| other.replaces.as_ref().is_some_and(|replaces| replaces.member == id);
    let others = ring.members_of(shard).filter(|(_, other)| !is_own_spare(other));
    let taken: Vec<&str> = others.filter_map(|(other, _)| view.node_name(other)).collect();
    let is_free = |name: &str| !taken.contains(&name);
    shares && view.seen.nodes.iter().any(|(name, node)| node.admits(name, &view.spec.placement) && is_free(name))
}

/// That a node is free says nothing of its room: the scheduler alone can tell, and is not asked again and again.
const PLACE_SOUGHT_EVERY_S: i64 = 600;

/// A better place was sought in vain, not long ago.
pub(super) fn was_sought_lately(view: &View<'_>, id: MemberId) -> bool {
    view.placement_tried(id).is_some_and(|tried| view.seconds_since(tried) < PLACE_SOUGHT_EVERY_S)
}
