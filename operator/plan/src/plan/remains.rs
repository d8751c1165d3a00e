//! What is left of members: where they stand, who is proven gone, and the objects of those that were retired.

use ringmaster_ring::{Command, Member, MemberId, Placement, Ring};

use super::Step;
use super::draft::Draft;
use super::view::{View, holder};
use super::{reasons, replace};

pub(super) fn clear(view: &View<'_>, ring: &Ring, draft: &mut Draft) {
    for (id, member) in &ring.members {
        if member.is_active() {
            withdraw_mark(view, *id, member, draft);
            place(view, *id, member, draft);
            prove_gone(view, *id, member, draft);
        } else {
            clear_retired(view, *id, member, draft);
        }
    }
    delete_forgotten(view, ring, draft);
}

/// It was to be dismissed, and is wanted after all: votes may come to it again.
fn withdraw_mark(view: &View<'_>, id: MemberId, member: &Member, draft: &mut Draft) {
    let Some(process) = holder(id, member) else { return };
    if reasons::is_marked_only(view, id, member) && !draft.dismissed.contains(&id) {
        let why = format!("{} stays after all.", view.name(id));
        draft.propose_on(member.shard, Command::Stay(process), why);
    }
}

/// The ring spreads votes over zones: it has to know where its members run.
fn place(view: &View<'_>, id: MemberId, member: &Member, draft: &mut Draft) {
    let Some(name) = view.pod(id).and_then(|pod| pod.node.clone()) else { return };
    let Some(node) = view.seen.nodes.get(&name) else { return };
    let placement = Placement { zone: node.zone(&view.spec.placement).to_owned(), node: name };
    if placement != member.placement {
        let why = format!("{} runs on {}.", view.name(id), placement.node);
        draft.propose_on(member.shard, Command::Place { member: id, placement }, why);
    }
}

/// The process that announced itself last ran in a pod that is no more, and its data with it: its StatefulSet has no
/// pod, or one that no node was chosen for yet. Unreachable is not gone.
fn prove_gone(view: &View<'_>, id: MemberId, member: &Member, draft: &mut Draft) {
    let Some(process) = holder(id, member) else { return };
    let may_run = view.pod(id).is_some_and(|pod| pod.node.is_some()) || view.status(id).is_some();
    if !may_run && member.gone != Some(process.boot) {
        let why = format!("The pod in which {} ran is gone.", view.name(id));
        draft.propose_on(member.shard, Command::Gone(process), why);
    }
}

/// A retired member redirects clients until the last one has left; then its objects go, then its place in the ring.
fn clear_retired(view: &View<'_>, id: MemberId, member: &Member, draft: &mut Draft) {
    let name = view.name(id);
    let Some(workload) = view.workload(id) else {
        let command = Command::Forget { member: id, if_version: member.version };
        draft.propose_on(member.shard, command, format!("{name} is gone."));
        return;
    };
    match &workload.set {
        Some(set) if set.deleting => {}
        // What never announced itself has no client, and nobody waits for its answer.
        Some(set) if member.present.is_none() => {
            let why = format!("{name} was retired before it joined the ring.");
            draft.step(Step::DeleteMember { member: id, uid: set.uid.clone() }, why);
        }
        Some(set) if may_be_deleted(view, id) => {
            let why = format!("{name} was retired, and its last client has left.");
            draft.step(Step::DeleteMember { member: id, uid: set.uid.clone() }, why);
        }
        Some(_) | None => {}
    }
    if view.stands_on_lost_node(id) {
        // Its pod is deleted with the node, or ends when the node is back: either wakes us up.
        let node = view.node_name(id).unwrap_or_default();
        draft.leftovers.push(format!("{name} is retired, and its pod is left on {node}, which is not ready"));
    } else if workload.set.as_ref().is_none_or(|set| set.deleting) || view.status(id).is_none() {
        draft.doing.push(format!("{name} is retired and ends"));
    } else {
        draft.doing.push(format!("{name} is retired and waits for its last client"));
    }
}

fn may_be_deleted(view: &View<'_>, id: MemberId) -> bool {
    let Some(pod) = view.pod(id) else { return true };
    if pod.deleting || pod.node.is_none() {
        return true;
    }
    match view.status(id) {
        Some(status) => status.last_client_use_ms.is_none_or(|ago| ago >= u64::from(view.spec.linger_s) * 1_000),
        // It answers nobody: that is a stopped container, a broken image or a lost node.
        None => {
            replace::trouble(view, id).is_some()
                || pod.ready_since.is_none() && view.node(id).is_none_or(|node| !node.ready)
        }
    }
}

/// Objects of members that the ring forgot, or of a lost generation. A serial that the ring has given out and does not
/// know any more never comes back, so that an old copy of the ring tells the same.
fn delete_forgotten(view: &View<'_>, ring: &Ring, draft: &mut Draft) {
    for (id, workload) in &view.seen.workloads {
        let is_forgotten = *id < ring.next_serial && !ring.members.contains_key(id);
        let Some(set) = workload.set.as_ref().filter(|set| !set.deleting && is_forgotten) else { continue };
        let why = format!("{} is not in the ring any more.", view.name(*id));
        draft.step(Step::DeleteMember { member: *id, uid: set.uid.clone() }, why);
    }
}
