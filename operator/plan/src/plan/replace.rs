//! `replace(member)`, the one primitive: reserve a serial, create the spare, wait until it is in sync, hand over if the
//! member is primary, wait for its vote to move, retire it. What is left of it is cleared away by `remains`.
//!
//! Each function looks at where a replacement stands and takes the one step that is next; the ring is the only memory.

mod progress;
mod successor;

pub(super) use progress::trouble;

use ringmaster_ring::{Command, Member, MemberId, ReplaceReason, ReserveMember, Ring, ShardChange};

use super::copies;
use super::draft::{Draft, Replacing};
use super::reasons::{self, Pace};
use super::view::{View, holder, replaced_by};
use super::{NewMember, Step};

/// How long the first member of a roll has to be ready before the next one is replaced.
pub const CANARY_S: i64 = 10;
/// How long a spare that is to stand in a better place may wait for a node, a new one among them.
const PLACE_FOUND_WITHIN_S: i64 = 120;
/// How many replacements that somebody waits for may be under way in one cluster.
pub const AT_ONCE_MAX: usize = 16;

/// Takes the next step of each replacement under way, and creates the members that the ring expects.
pub(super) fn go_on(view: &View<'_>, ring: &Ring, draft: &mut Draft) {
    create_members(view, ring, draft);
    for (spare_id, spare) in ring.members.iter().filter(|(_, m)| m.is_active()) {
        let Some(member_id) = replaced_by(ring, spare) else { continue };
        let Some(member) = ring.members.get(&member_id) else { continue };
        let swap = Swap { view, ring, member_id, member, spare_id: *spare_id, spare };
        let waiting_for = swap.step(draft);
        draft.replacing.push(Replacing {
            member: member_id,
            spare: Some(*spare_id),
            reason: spare.replaces.as_ref().map(|r| r.reason.to_string()).unwrap_or_default(),
            waiting_for,
        });
    }
}

/// A serial is reserved first and its StatefulSet created then, so that a crash between the two loses nothing. The same
/// rule brings back what somebody deleted by hand.
fn create_members(view: &View<'_>, ring: &Ring, draft: &mut Draft) {
    for (id, member) in ring.members.iter().filter(|(_, m)| m.is_active()) {
        let is_wanted = !view.is_outdated(member) && !member.leaving && ring.spare_of(*id).is_none();
        if view.has_set(*id) || !is_wanted {
            continue;
        }
        let name = view.name(*id);
        let why = match &member.replaces {
            Some(replaces) => {
                format!("Creating {name}, the spare for {} ({}).", view.name(replaces.member), replaces.reason)
            }
            None => format!("Creating {name}."),
        };
        draft.step(Step::CreateMember(new_member(view, ring.generation, *id, member.shard)), why);
    }
}

pub(super) fn new_member(
    view: &View<'_>,
    generation: ringmaster_ring::Generation,
    member: MemberId,
    shard: Option<ringmaster_ring::ShardId>,
) -> NewMember {
    let own_node_required = view.schedulable_nodes() > usize::from(view.spec.copies);
    NewMember { member, shard, generation, own_node_required }
}

/// Begins the replacements that are due.
pub(super) fn begin(view: &View<'_>, ring: &Ring, draft: &mut Draft) {
    let mut due = Vec::new();
    for place in view.places() {
        let surplus: Vec<MemberId> = copies::surplus(view, ring, place).iter().map(|(id, _)| *id).collect();
        for (id, member) in view.seats(ring, place) {
            if surplus.contains(&id) || ring.spare_of(id).is_some() {
                continue;
            }
            if let Some(reason) = reasons::reason(view, ring, id, member) {
                due.push((id, member, reason));
            }
        }
    }
    // Copies go before primaries: a roll meets its first trouble where no handover was needed yet. A better place is
    // sought last: nobody waits for it, and it may take its time.
    due.sort_by_key(|(id, _, reason)| (*reason == ReplaceReason::Misplaced, ring.is_primary(*id), *id));
    let mut budget = Budget::of(view, ring);
    for (id, member, reason) in due {
        let waiting_for = match budget.take(view, ring, id, reason) {
            Ok(()) => {
                let wanted = ReserveMember {
                    if_next_serial: MemberId(0),
                    shard: member.shard,
                    template: view.spec.template.0.clone(),
                    replaces: Some(id),
                    reason: Some(reason),
                };
                draft.reserve(wanted, format!("{} is to be replaced: {reason}.", view.name(id)));
                "its spare to be created".to_owned()
            }
            Err(waiting_for) => waiting_for,
        };
        let reason = reason.to_string();
        draft.replacing.push(Replacing { member: id, spare: None, reason, waiting_for });
    }
}

/// How many replacements may begin now.
struct Budget {
    at_once: usize,
    in_turn: Result<usize, String>,
}

impl Budget {
    fn of(view: &View<'_>, ring: &Ring) -> Self {
        let under_way = |wanted: Pace| {
            let spares = ring.members.values().filter(|m| m.is_active() && replaced_by(ring, m).is_some());
            let reasons = spares.filter_map(|m| m.replaces.as_ref().map(|r| r.reason));
            reasons.filter(|reason| reasons::pace(*reason) == wanted).count()
        };
        let at_once = AT_ONCE_MAX.saturating_sub(under_way(Pace::AtOnce));
        let rolling = under_way(Pace::InTurn);
        let in_turn = match canary(view, ring) {
            Canary::Passed => Ok(view.spec.surge_max.saturating_sub(rolling)),
            Canary::None => Ok(1_usize.saturating_sub(rolling)),
            Canary::Waiting(waiting_for) => Err(waiting_for),
        };
        Self { at_once, in_turn }
    }

    /// Takes one from the budget, or says what has to happen first.
    fn take(&mut self, view: &View<'_>, ring: &Ring, id: MemberId, reason: ReplaceReason) -> Result<(), String> {
        let left = match reasons::pace(reason) {
            Pace::AtOnce => &mut self.at_once,
            Pace::InTurn => {
                // A member that serves nothing costs no copy; any other one goes only while every copy is there.
                if view.is_in_sync(ring, id) {
                    let short = ring.shards.iter().find(|(_, s)| s.in_sync.len() < usize::from(ring.settings.copies));
                    if let Some((shard, _)) = short {
                        return Err(format!("shard {shard} to have all of its copies in sync again"));
                    }
                }
                match &mut self.in_turn {
                    Ok(left) => left,
                    Err(waiting_for) => return Err(waiting_for.clone()),
                }
            }
        };
        *left = left.checked_sub(1).ok_or_else(|| "the replacements that are under way".to_owned())?;
        Ok(())
    }
}

/// The first member of a new template shows whether the rest may follow.
enum Canary {
    /// Nobody has this template yet: one may be made.
    None,
    Waiting(String),
    Passed,
}

fn canary(view: &View<'_>, ring: &Ring) -> Canary {
    let mut waiting = None;
    for (id, member) in ring.members.iter().filter(|(_, m)| m.is_active() && !view.is_outdated(m)) {
        // A witness serves nothing and so proves nothing.
        if member.shard.is_none() {
            continue;
        }
        let ready_since = view.pod(*id).and_then(|pod| pod.ready_since);
        if view.is_in_sync(ring, *id) && ready_since.is_some_and(|since| view.seconds_since(since) >= CANARY_S) {
            return Canary::Passed;
        }
        waiting = Some(format!("{}, the first of its kind, to be ready for {CANARY_S} s", view.name(*id)));
    }
    waiting.map_or(Canary::None, Canary::Waiting)
}

/// One replacement under way: an active spare of an active member.
struct Swap<'a> {
    view: &'a View<'a>,
    ring: &'a Ring,
    member_id: MemberId,
    member: &'a Member,
    spare_id: MemberId,
    spare: &'a Member,
}

impl Swap<'_> {
    /// Plans the next step, and says what the replacement waits for.
    fn step(&self, draft: &mut Draft) -> String {
        let Self { view, ring, member_id, member, spare_id, spare } = *self;
        let shard = ring.shard_of_member(member_id);
        if let Some((id, _)) = shard.filter(|(_, shard)| shard.pending_from.is_some()) {
            return format!("the handover of shard {id} to end");
        }
        let spare_is_primary = shard.is_some_and(|(_, shard)| shard.primary.member == spare_id);
        if !spare_is_primary && let Some(why) = self.why_its_place_is_no_better() {
            draft.sought_in_vain.insert(member_id);
            return self.cancel(&why, draft);
        }
        if !spare_is_primary && let Some(why) = self.why_to_cancel() {
            return self.cancel(&why, draft);
        }
        if !view.is_in_sync(ring, spare_id) {
            if let Some(trouble) = progress::trouble(view, spare_id) {
                let message = format!(
                    "{}, the spare for {}, cannot start: {}: {}",
                    view.name(spare_id),
                    view.name(member_id),
                    trouble.reason,
                    trouble.message
                );
                draft.obstacle(trouble.reason, message);
            }
            return progress::waiting_for(view, spare_id, spare);
        }
        if let Some((id, shard)) = shard
            && shard.primary.member == member_id
        {
            let successor = successor::of_primary(view, ring, id, shard, spare_id);
            let holder = ring.members.get(&successor).and_then(|member| holder(successor, member));
            return match (view.is_serving(ring, id), holder) {
                (true, Some(to)) => {
                    if let Some(command) = Command::on_shard(ring, id, ShardChange::Handover { to }) {
                        let why = format!(
                            "Handing shard {id} over from {} to {}.",
                            view.name(member_id),
                            view.name(successor)
                        );
                        draft.propose_on(Some(id), command, why);
                    }
                    format!("the handover of shard {id}")
                }
                _ => format!("shard {id} to have a primary that serves"),
            };
        }
        match hindrance_to_retire(ring, member_id, member) {
            None => {
                let why = format!("Retiring {}: {} has taken its place.", view.name(member_id), view.name(spare_id));
                draft.propose_on(member.shard, Command::Retire { member: member_id, if_version: member.version }, why);
                "its retirement".to_owned()
            }
            Some(hindrance) => hindrance.to_string(),
        }
    }

    /// Why this spare is not wanted, or not wanted any more.
    fn why_to_cancel(&self) -> Option<String> {
        let Self { view, ring, member_id, member, spare_id, spare } = *self;
        let reason = reasons::reason(view, ring, member_id, member);
        if copies::surplus(view, ring, member.shard).iter().any(|(id, _)| *id == member_id) {
            return Some(format!("{} is one more than wanted", view.name(member_id)));
        }
        if reason.is_none() && view.is_in_sync(ring, member_id) {
            return Some(format!("{} may stay after all", view.name(member_id)));
        }
        // Both wait to go, and no vote moves to one that leaves: somebody else has to come. A spare that has the vote
        // already takes over first, and is replaced then.
        let may_go = hindrance_to_retire(ring, spare_id, spare).is_none();
        if reasons::is_leaving(view, spare_id, spare) && view.is_in_sync(ring, member_id) && may_go {
            return Some(format!("{} was asked to end", view.name(spare_id)));
        }
        let is_in_turn = reason.is_some_and(|reason| reasons::pace(reason) == Pace::InTurn);
        // A spare that is in sync is worth having wherever it stands and whatever it was made from, but for a roll.
        if view.is_in_sync(ring, spare_id) && !(is_in_turn && view.is_outdated(spare)) {
            return None;
        }
        let name = view.name(spare_id);
        if view.is_outdated(spare) {
            Some(format!("{name} was made from an older specification"))
        } else if reasons::is_leaving(view, spare_id, spare) {
            Some(format!("{name} was asked to end"))
        } else if reasons::stands_on_leaving_node(view, spare_id) {
            Some(format!("the node of {name} is about to go, too"))
        } else if reasons::is_lost(view, ring, spare_id) && !self.is_kept_from_starting() {
            Some(format!("{name} was lost before it was in sync"))
        } else {
            None
        }
    }

    /// Where a replacement is for the sake of the place alone: why it gains nothing. Otherwise two copies on one node would
    /// be replaced for ever, or a spare that no node takes would keep a roll from going on.
    fn why_its_place_is_no_better(&self) -> Option<String> {
        let Self { view, ring, member_id, member, spare_id, spare } = *self;
        if reasons::reason(view, ring, member_id, member) != Some(ReplaceReason::Misplaced) {
            return None;
        }
        let name = view.name(spare_id);
        if let Some(node) = view.node_name(spare_id) {
            let others = ring.members_of(spare.shard?).filter(|(other, _)| ![spare_id, member_id].contains(other));
            let shares = others.into_iter().any(|(other, _)| view.node_name(other) == Some(node));
            return shares.then(|| format!("{name} stands beside another copy, too"));
        }
        let made_at = view.workload(spare_id)?.set.as_ref()?.created_at;
        (view.seconds_since(made_at) >= PLACE_FOUND_WITHIN_S).then(|| format!("no node takes {name}"))
    }

    /// The next spare would meet the same trouble, unless it is the node's.
    fn is_kept_from_starting(&self) -> bool {
        progress::trouble(self.view, self.spare_id).is_some() && !self.view.stands_on_lost_node(self.spare_id)
    }

    fn cancel(&self, why: &str, draft: &mut Draft) -> String {
        let Self { view, ring, spare_id, spare, .. } = *self;
        let name = view.name(spare_id);
        draft.dismissed.insert(spare_id);
        match hindrance_to_retire(ring, spare_id, spare) {
            None => {
                let command = Command::Retire { member: spare_id, if_version: spare.version };
                draft.propose_on(spare.shard, command, format!("Taking the spare {name} back: {why}."));
                format!("{name} to be taken back: {why}")
            }
            Some(hindrance) => {
                if let Some(process) = holder(spare_id, spare).filter(|_| !spare.leaving) {
                    let command = Command::Leave(process);
                    draft.propose_on(spare.shard, command, format!("Taking the spare {name} back: {why}."));
                }
                format!("{hindrance}, before {name} is taken back: {why}")
            }
        }
    }
}

/// What the ring would refuse a retirement for. Asked here as well, to say what is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hindrance {
    Votes,
    Serves,
    Handover,
    Copies(ringmaster_ring::ShardId),
}

impl std::fmt::Display for Hindrance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Votes => f.write_str("its vote to move to another member"),
            Self::Serves => f.write_str("another member to become primary"),
            Self::Handover => f.write_str("a handover to end"),
            Self::Copies(shard) => write!(f, "another copy of shard {shard} to be in sync"),
        }
    }
}

pub(super) fn hindrance_to_retire(ring: &Ring, id: MemberId, member: &Member) -> Option<Hindrance> {
    if member.voter().is_some_and(|voter| ring.voters.contains(&voter)) {
        return Some(Hindrance::Votes);
    }
    let (shard_id, shard) = ring.shard_of_member(id)?;
    if shard.pending_from.is_some_and(|from| from.member == id) {
        return Some(Hindrance::Handover);
    }
    if shard.primary.member == id {
        return Some(Hindrance::Serves);
    }
    let left = shard.in_sync.keys().filter(|copy| **copy != id).count();
    let counts = shard.in_sync.contains_key(&id);
    (counts && left < usize::from(ring.settings.copies)).then_some(Hindrance::Copies(shard_id))
}
