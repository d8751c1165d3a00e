//! Who takes over from a primary that is to go: a copy that clients have known for a while, where there is one, for a
//! spare is a stranger to them. A client that meets its new primary by a redirection alone is on thin ice until it has
//! read the topology again: go-redis (9.23) closes the connections of every node that its last topologies did not name, a
//! minute after each, and what was under way there is sent twice.

use ringmaster_ring::{MemberId, Ring, Shard, ShardId};

use crate::plan::reasons;
use crate::plan::view::{View, replaced_by};

/// Clients that read the topology by themselves do so more often than this: go-redis every 10 s.
const KNOWN_AFTER_S: i64 = 12;

/// The member that the primary of `shard` hands over to, before `spare` stays in its place.
pub(super) fn of_primary(view: &View<'_>, ring: &Ring, id: ShardId, shard: &Shard, spare: MemberId) -> MemberId {
    let primaries_beside = |member| {
        let node = view.node_name(member);
        ring.members.keys().filter(|other| ring.is_primary(**other) && view.node_name(**other) == node).count()
    };
    let copies = view.seats(ring, Some(id)).filter(|(member, _)| *member != shard.primary.member);
    let stays = copies.filter(|(member, copy)| {
        view.is_in_sync(ring, *member)
            && ring.spare_of(*member).is_none()
            && replaced_by(ring, copy).is_none()
            && reasons::reason(view, ring, *member, copy).is_none()
    });
    let known = stays.filter_map(|(member, _)| {
        let since = view.pod(member)?.ready_since.filter(|since| view.seconds_since(*since) >= KNOWN_AFTER_S)?;
        Some((primaries_beside(member), since, member))
    });
    known.min().map_or(spare, |(_, _, member)| member)
}
