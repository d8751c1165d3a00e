//! As many members a shard as the resource says, and a witness where two members could not tell who is cut off.

use ringmaster_ring::{Command, Member, MemberId, ReserveMember, Ring, ShardId};

use super::draft::Draft;
use super::view::{View, holder};
use super::{reasons, replace};

pub(super) fn follow(view: &View<'_>, ring: &Ring, draft: &mut Draft) {
    for place in view.places() {
        let (present, wanted) = (view.seats(ring, place).count(), view.wanted_seats(place));
        if present < wanted {
            for _ in present..wanted {
                add(view, place, draft);
            }
        } else {
            for (id, member) in surplus(view, ring, place) {
                remove(view, ring, id, member, draft);
            }
        }
    }
}

/// The members that a place has too many of, once the ring wants fewer copies. Never a primary; first those that are
/// worth least.
pub(super) fn surplus<'r>(view: &View<'_>, ring: &'r Ring, place: Option<ShardId>) -> Vec<(MemberId, &'r Member)> {
    let mut seats: Vec<(MemberId, &Member)> = view.seats(ring, place).collect();
    let is_settled = ring.settings.copies == view.spec.copies;
    let too_many = seats.len().saturating_sub(view.wanted_seats(place));
    if too_many == 0 || !is_settled {
        return Vec::new();
    }
    seats.retain(|(id, _)| !ring.is_primary(*id));
    seats.sort_by_key(|(id, member)| {
        let is_unwanted = reasons::reason(view, ring, *id, member).is_some();
        (!member.leaving, view.is_in_sync(ring, *id), !is_unwanted, std::cmp::Reverse(*id))
    });
    seats.truncate(too_many);
    seats
}

fn add(view: &View<'_>, place: Option<ShardId>, draft: &mut Draft) {
    let what = place.map_or_else(|| "a witness".to_owned(), |shard| format!("a copy of shard {shard}"));
    draft.doing.push(format!("adding {what}"));
    let wanted = ReserveMember {
        if_next_serial: MemberId(0),
        shard: place,
        template: view.spec.template.0.clone(),
        replaces: None,
        reason: None,
    };
    draft.reserve(wanted, format!("Adding {what}."));
}

fn remove(view: &View<'_>, ring: &Ring, id: MemberId, member: &Member, draft: &mut Draft) {
    let name = view.name(id);
    draft.dismissed.insert(id);
    draft.doing.push(format!("retiring {name}, which is one more than wanted"));
    if ring.spare_of(id).is_some() {
        // Its spare goes first: `replace` takes it back.
        return;
    }
    match replace::hindrance_to_retire(ring, id, member) {
        None => draft.propose_on(
            member.shard,
            Command::Retire { member: id, if_version: member.version },
            format!("Retiring {name}: one more than wanted."),
        ),
        // Votes go last to those that are leaving, and so move away from it.
        Some(replace::Hindrance::Votes) => {
            if let Some(process) = holder(id, member).filter(|_| !member.leaving) {
                draft.propose_on(member.shard, Command::Leave(process), format!("{name} is about to be retired."));
            }
        }
        Some(_) => {}
    }
}
