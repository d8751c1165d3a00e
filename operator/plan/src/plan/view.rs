//! What an [`Observed`] means: the questions that every part of the plan asks of it.

use ringmaster_ring::{BootId, Holder, Member, MemberId, MemberStatus, Ring, Role, Shard, ShardId, VoterId};

use crate::crd::MemberReport;
use crate::observed::{Node, Pod, Workload};
use crate::{Observed, Spec, Timestamp, names};

#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) seen: &'a Observed,
    pub(super) spec: &'a Spec,
    /// The ring of this cluster; none before it is formed.
    pub(super) ring: Option<&'a Ring>,
    pub(super) now: Timestamp,
}

impl<'a> View<'a> {
    pub(super) fn new(seen: &'a Observed, spec: &'a Spec, now: Timestamp) -> Self {
        // What members of a namesake or of a lost generation know is not this cluster's ring.
        let ring = seen.ring.as_ref().filter(|ring| {
            let generation = seen.identity.as_ref().map(|identity| identity.generation);
            ring.cluster == spec.uuid && generation.is_none_or(|generation| ring.generation >= generation)
        });
        Self { seen, spec, ring, now }
    }

    pub(super) fn name(&self, member: MemberId) -> String {
        names::member(&self.spec.name, member)
    }

    pub(super) fn workload(&self, member: MemberId) -> Option<&'a Workload> {
        self.seen.workloads.get(&member)
    }

    pub(super) fn has_set(&self, member: MemberId) -> bool {
        self.workload(member).is_some_and(|workload| workload.set.is_some())
    }

    pub(super) fn pod(&self, member: MemberId) -> Option<&'a Pod> {
        self.workload(member)?.pod.as_ref()
    }

    /// Where it was placed.
    pub(super) fn node_name(&self, member: MemberId) -> Option<&'a str> {
        self.pod(member)?.node.as_deref()
    }

    pub(super) fn node(&self, member: MemberId) -> Option<&'a Node> {
        self.seen.nodes.get(self.node_name(member)?)
    }

    /// It was placed on a node that is not ready, or is no more.
    pub(super) fn stands_on_lost_node(&self, member: MemberId) -> bool {
        let is_placed = self.pod(member).is_some_and(|pod| pod.node.is_some());
        is_placed && self.node(member).is_none_or(|node| !node.ready)
    }

    /// Nobody hears of a member that was there, or that cannot come where it was placed. One that has not started yet
    /// is not absent, however long that takes: what keeps it is said as its trouble.
    pub(super) fn is_absent(&self, ring: &Ring, id: MemberId) -> bool {
        let Some(member) = ring.members.get(&id) else { return false };
        let was_there = member.present.is_some() || self.stands_on_lost_node(id);
        member.is_active() && was_there && !self.is_in_sync(ring, id) && self.status(id).is_none()
    }

    pub(super) fn status(&self, member: MemberId) -> Option<&'a MemberStatus> {
        self.seen.statuses.get(&member)
    }

    pub(super) fn is_outdated(&self, member: &Member) -> bool {
        member.template != self.spec.template.0
    }

    /// By the ring's word. A witness has nothing to be in sync with: it counts while it answers.
    pub(super) fn is_in_sync(&self, ring: &Ring, id: MemberId) -> bool {
        let Some(member) = ring.members.get(&id) else { return false };
        let Some(holder) = holder(id, member) else { return false };
        match member.shard {
            Some(_) => ring.is_ready(holder),
            None => ring.is_ready(holder) && self.status(id).is_some_and(|s| s.presence.boot == holder.boot),
        }
    }

    /// How many copies of a shard are in sync, as far as anybody can tell: by the ring's word, but for processes that are
    /// proven to be no more, or in whose place another one answers. A ring without a quorum does not learn of them.
    pub(super) fn copies_in_sync(&self, ring: &Ring, shard: &Shard) -> usize {
        let is_no_more = |id: MemberId, boot: BootId| {
            ring.is_superseded(Holder { member: id, boot })
                || self.status(id).is_some_and(|status| status.presence.boot != boot)
        };
        shard.in_sync.iter().filter(|(id, boot)| !is_no_more(**id, **boot)).count()
    }

    /// Voters of the ring that nobody hears of under the id by which they vote.
    pub(super) fn silent_voters(&self, ring: &Ring) -> Vec<VoterId> {
        let answers = |voter: &VoterId| {
            ring.member_of_voter(*voter)
                .and_then(|(id, _)| self.status(id))
                .is_some_and(|status| status.presence.voter == *voter)
        };
        ring.voters.iter().copied().filter(|voter| !answers(voter)).collect()
    }

    /// Half of the voters or more are silent: nothing can be changed.
    pub(super) fn lacks_quorum(&self, ring: &Ring) -> bool {
        !ring.voters.is_empty() && self.silent_voters(ring).len() * 2 >= ring.voters.len()
    }

    /// Members that hold a place of a shard, or of the witness: active, and not the spare of somebody who still is.
    pub(super) fn seats<'r>(
        &self,
        ring: &'r Ring,
        shard: Option<ShardId>,
    ) -> impl Iterator<Item = (MemberId, &'r Member)> + use<'r> {
        ring.members
            .iter()
            .filter(move |(_, m)| m.is_active() && m.shard == shard && replaced_by(ring, m).is_none())
            .map(|(id, m)| (*id, m))
    }

    pub(super) fn wanted_seats(&self, shard: Option<ShardId>) -> usize {
        match shard {
            Some(_) => usize::from(self.spec.copies),
            None => usize::from(self.spec.wants_witness()),
        }
    }

    /// Every shard, and the witness.
    pub(super) fn places(&self) -> impl Iterator<Item = Option<ShardId>> + use<> {
        self.spec.shard_ids().map(Some).chain([None])
    }

    /// Whether the shard's primary says that it serves.
    pub(super) fn is_serving(&self, ring: &Ring, shard: ShardId) -> bool {
        let Some(shard) = ring.shards.get(&shard) else { return false };
        self.status(shard.primary.member).is_some_and(|status| {
            status.presence.boot == shard.primary.boot && matches!(status.role, Role::Primary | Role::Handover)
        })
    }

    /// How many nodes could take a member.
    pub(super) fn schedulable_nodes(&self) -> usize {
        self.seen.nodes.iter().filter(|(name, node)| node.admits(name, &self.spec.placement)).count()
    }

    /// Seconds that passed since `then`, by wall clocks that may disagree.
    pub(super) fn seconds_since(&self, then: Timestamp) -> i64 {
        self.now.as_second().saturating_sub(then.as_second())
    }

    /// Since when a member has been absent, as the status kept it.
    pub(super) fn absent_since(&self, ring: &Ring, id: MemberId) -> Option<Timestamp> {
        if !self.is_absent(ring, id) {
            return None;
        }
        self.former_report(id)?.absent_since.as_ref().map(|time| time.0)
    }

    /// When a better place was last sought for a member in vain, as the status kept it.
    pub(super) fn placement_tried(&self, id: MemberId) -> Option<Timestamp> {
        self.former_report(id)?.placement_tried.as_ref().map(|time| time.0)
    }

    fn former_report(&self, id: MemberId) -> Option<&'a MemberReport> {
        let name = self.name(id);
        self.seen.cluster.status.as_ref()?.members.iter().find(|report| report.name == name)
    }
}

/// The member that this one was made to replace, while that one still holds roles.
pub(super) fn replaced_by(ring: &Ring, spare: &Member) -> Option<MemberId> {
    let replaced = spare.replaces.as_ref()?.member;
    ring.members.get(&replaced).filter(|m| m.is_active()).map(|_| replaced)
}

pub(super) fn holder(id: MemberId, member: &Member) -> Option<Holder> {
    member.boot().map(|boot| Holder { member: id, boot })
}
