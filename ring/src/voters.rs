//! Which members should vote. Votes follow the members: they move one at a time, towards zones that have none.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Member, Ring, VoterId};

/// Rings of at least this many members have five voters; smaller ones have three, or as many as there are, kept odd.
pub const MEMBERS_FOR_FIVE_VOTERS: usize = 6;

/// One step towards the wanted voters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteMove {
    /// Gives a vote, and takes one in the same membership change where one has to go.
    Give { to: VoterId, from: Option<VoterId> },
    /// Takes a vote that nobody needs.
    Take { from: VoterId },
}

/// The next vote to move, or none. `is_alive` says whether the consensus heard from a voter lately; `leader` is the voter
/// that leads it, whose vote goes after all others that have to: with it goes the leadership, and there is an election.
///
/// While voters are silent no vote moves but that of a silent one that is not wanted any more: its disk was lost and its
/// member came back as another voter, or its member was replaced. One at a time, and only while a majority lives: every
/// such step leaves fewer silent voters than before.
#[must_use]
pub fn next_vote_move(ring: &Ring, leader: VoterId, is_alive: impl Fn(VoterId) -> bool) -> Option<VoteMove> {
    let wanted = wanted_voters(ring);
    let silent: Vec<VoterId> = ring.voters.iter().copied().filter(|voter| !is_alive(*voter)).collect();
    let to = wanted.iter().copied().find(|voter| !ring.voters.contains(voter) && is_alive(*voter));
    let unwanted = ring.voters.iter().copied().filter(|voter| !wanted.contains(voter));
    let unwanted = unwanted.min_by_key(|voter| (*voter == leader, *voter));
    // The one whose member is known under another voter id, or not at all, never comes back.
    let comes_back = |voter: &VoterId| ring.member_of_voter(*voter).is_some_and(|(_, member)| member.is_active());
    let lost = silent.iter().filter(|voter| !wanted.contains(voter)).min_by_key(|voter| (comes_back(voter), **voter));
    let is_majority_alive = (ring.voters.len() - silent.len()) * 2 > ring.voters.len();
    match (lost, to) {
        (Some(_), _) if !is_majority_alive => None,
        (Some(lost), Some(to)) => Some(VoteMove::Give { to, from: Some(*lost) }),
        (Some(lost), None) => (ring.voters.len() > wanted.len()).then_some(VoteMove::Take { from: *lost }),
        (None, _) if !silent.is_empty() => None,
        (None, Some(to)) => {
            // An unwanted vote goes in the same step.
            Some(VoteMove::Give { to, from: unwanted.filter(|_| ring.voters.len() >= wanted.len()) })
        }
        (None, None) => {
            let from = unwanted?;
            (ring.voters.len() > wanted.len()).then_some(VoteMove::Take { from })
        }
    }
}

/// The voters that the ring should have: present members whose replacement is not there yet, spread over zones and
/// nodes, present voters first, members that wait to leave after the others, and members that are gone last.
#[must_use]
pub fn wanted_voters(ring: &Ring) -> BTreeSet<VoterId> {
    // A process that is proven to be gone took its disk, and so its vote, with it.
    let is_gone = |member: &Member| member.gone.is_some() && member.gone == member.boot();
    let is_replaced = |id| {
        ring.spare_of(id).is_some_and(|(spare_id, spare)| {
            // One that is asked to end is taken back, unless it serves: then there is no way but on.
            spare.present.is_some() && !is_gone(spare) && (!spare.leaving || ring.is_primary(spare_id))
        })
    };
    let candidates: Vec<(VoterId, &Member)> = ring
        .members
        .iter()
        .filter(|(id, member)| member.is_active() && !is_replaced(**id))
        .filter_map(|(_, member)| member.voter().map(|voter| (voter, member)))
        .collect();
    // Surplus members that wait to leave do not count, or their votes would never move; members that wait for their
    // replacement do, or votes would be taken away for nothing.
    let staying = candidates.iter().filter(|(_, member)| !member.leaving && !is_gone(member)).count();
    let count = match candidates.len().min(members_when_settled(ring)).max(staying) {
        n if n >= MEMBERS_FOR_FIVE_VOTERS => 5,
        n if n >= 3 => 3,
        n => n.min(1),
    };
    let mut chosen = BTreeSet::new();
    let mut per_zone: BTreeMap<&str, usize> = BTreeMap::new();
    let mut per_node: BTreeMap<&str, usize> = BTreeMap::new();
    while chosen.len() < count {
        let next = candidates.iter().filter(|(voter, _)| !chosen.contains(voter)).min_by_key(|(voter, member)| {
            let in_zone = per_zone.get(member.placement.zone.as_str()).copied().unwrap_or(0);
            let on_node = per_node.get(member.placement.node.as_str()).copied().unwrap_or(0);
            (is_gone(member), member.leaving, in_zone, on_node, !ring.voters.contains(voter), *voter)
        });
        let Some((voter, member)) = next else { break };
        chosen.insert(*voter);
        *per_zone.entry(&member.placement.zone).or_default() += 1;
        *per_node.entry(&member.placement.node).or_default() += 1;
    }
    chosen
}

/// How many members the ring has when nothing is being replaced: the copies of each shard, and a witness beside two.
fn members_when_settled(ring: &Ring) -> usize {
    match ring.shards.len() * usize::from(ring.settings.copies) {
        2 => 3,
        members => members,
    }
}
