//! Who is there: what probes and requests for leases tell of the members.

use std::collections::BTreeMap;
use std::time::Duration;

use ringmaster_ring::{BootId, Holder, MemberId, Position, Ring, ShardEpoch, ShardId};

use super::Probe;
use crate::Mono;

/// How many refused connections in a row mean that no process is there.
const REFUSALS_FOR_DEAD: u32 = 2;

/// The primary of a shard in one epoch, as the leader sees it.
#[derive(Clone, Copy, Debug)]
struct Watched {
    holder: Holder,
    epoch: ShardEpoch,
    /// When it last asked for its lease; at first, since when it is watched.
    asked_at: Mono,
    /// When it last answered a probe; at first, since when it is watched.
    answered_at: Mono,
    refusals: u32,
    /// Another process of the member answered.
    is_replaced: bool,
    /// Since when there is reason to look for a successor.
    suspected_at: Option<Mono>,
}

/// What the last probe of a member found, and when.
#[derive(Clone, Copy, Debug)]
struct Found {
    at: Mono,
    alive: Option<(BootId, Position)>,
}

/// How long a member may be silent, and a primary without a lease.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) silence: Duration,
    pub(super) lease: Duration,
}

impl Patience {
    /// A primary that answers probes and yet asks for no lease for this long does not do its work.
    fn without_lease(self) -> Duration {
        self.lease * 2 + self.silence
    }

    /// How often a member is probed.
    fn between_probes(self) -> Duration {
        self.silence / 4
    }
}

#[derive(Debug, Default)]
pub(super) struct Watch {
    primaries: BTreeMap<ShardId, Watched>,
    found: BTreeMap<MemberId, Found>,
    probed_at: BTreeMap<MemberId, Mono>,
}

impl Watch {
    /// Watches the primaries that the ring names now.
    pub(super) fn see(&mut self, ring: &Ring, now: Mono) {
        self.primaries.retain(|shard, _| ring.shards.contains_key(shard));
        for (id, shard) in &ring.shards {
            let same = self.primaries.get(id).is_some_and(|w| w.holder == shard.primary && w.epoch == shard.epoch);
            if !same {
                let watched = Watched {
                    holder: shard.primary,
                    epoch: shard.epoch,
                    asked_at: now,
                    answered_at: now,
                    refusals: 0,
                    is_replaced: false,
                    suspected_at: None,
                };
                self.primaries.insert(*id, watched);
            }
        }
        self.found.retain(|member, _| ring.members.contains_key(member));
        self.probed_at.retain(|member, _| ring.members.contains_key(member));
    }

    /// A primary asked for its lease.
    pub(super) fn asked(&mut self, shard: ShardId, holder: Holder, now: Mono) {
        if let Some(watched) = self.primaries.get_mut(&shard).filter(|watched| watched.holder == holder) {
            watched.asked_at = now;
            watched.refusals = 0;
        }
    }

    pub(super) fn probed(&mut self, member: MemberId, result: Probe, now: Mono) {
        let alive = match result {
            Probe::Alive { boot, shard_epoch: _, position } => Some((boot, position)),
            Probe::Refused | Probe::Silent => None,
        };
        self.found.insert(member, Found { at: now, alive });
        for watched in self.primaries.values_mut().filter(|watched| watched.holder.member == member) {
            match result {
                Probe::Alive { boot, .. } if boot == watched.holder.boot => {
                    watched.answered_at = now;
                    watched.refusals = 0;
                }
                Probe::Alive { .. } => watched.is_replaced = true,
                Probe::Refused => watched.refusals = watched.refusals.saturating_add(1),
                Probe::Silent => {}
            }
        }
    }

    /// The members to probe now: each primary, and where one is suspected, every member of its shard.
    pub(super) fn due_probes(&mut self, ring: &Ring, now: Mono, patience: Patience) -> Vec<MemberId> {
        let mut wanted = Vec::new();
        for (shard, watched) in &mut self.primaries {
            let suspected = watched.is_suspect(ring, now, patience);
            watched.suspected_at = if suspected { watched.suspected_at.or(Some(now)) } else { None };
            wanted.push(watched.holder.member);
            if suspected {
                let present = ring.members_of(*shard).filter(|(_, member)| member.present.is_some());
                wanted.extend(present.map(|(id, _)| id).filter(|id| *id != watched.holder.member));
            }
        }
        wanted.retain(|member| {
            let due = self.probed_at.get(member).is_none_or(|at| now.since(*at) >= patience.between_probes());
            if due {
                self.probed_at.insert(*member, now);
            }
            due
        });
        wanted
    }

    /// Whether the primary of the shard is to be replaced.
    pub(super) fn is_dead(&self, shard: ShardId, ring: &Ring, now: Mono, patience: Patience) -> bool {
        self.primaries.get(&shard).is_some_and(|watched| watched.is_dead(ring, now, patience))
    }

    /// Whether the primary of the shard gave a sign lately, although perhaps not the right one.
    pub(super) fn answers(&self, shard: ShardId, ring: &Ring, now: Mono, patience: Patience) -> bool {
        self.primaries.get(&shard).is_some_and(|watched| !watched.is_gone(ring, now, patience))
    }

    /// How far the data of a process goes that was found alive lately.
    pub(super) fn position(&self, holder: Holder, now: Mono, patience: Patience) -> Option<Position> {
        let found = self.found.get(&holder.member).filter(|found| now.since(found.at) <= patience.silence)?;
        found.alive.filter(|(boot, _)| *boot == holder.boot).map(|(_, position)| position)
    }

    /// Whether it was found out about `member` since the primary of the shard was suspected, or long enough tried to.
    pub(super) fn is_known(&self, shard: ShardId, member: MemberId, now: Mono, patience: Patience) -> bool {
        let Some(suspected_at) = self.primaries.get(&shard).and_then(|watched| watched.suspected_at) else {
            return false;
        };
        let found = self.found.get(&member).is_some_and(|found| found.at >= suspected_at);
        found || now.since(suspected_at) > patience.silence
    }

    /// This process did not run for a while: that is nobody else's fault.
    pub(super) fn forgive(&mut self, gap: Duration) {
        for watched in self.primaries.values_mut() {
            watched.asked_at = watched.asked_at.plus(gap);
            watched.answered_at = watched.answered_at.plus(gap);
        }
    }
}

impl Watched {
    fn silent_for(&self, now: Mono) -> Duration {
        now.since(self.asked_at.max(self.answered_at))
    }

    /// Its process is known or taken to be no more.
    fn is_gone(&self, ring: &Ring, now: Mono, patience: Patience) -> bool {
        ring.is_superseded(self.holder)
            || self.is_replaced
            || self.refusals >= REFUSALS_FOR_DEAD
            || self.silent_for(now) > patience.silence
    }

    fn is_dead(&self, ring: &Ring, now: Mono, patience: Patience) -> bool {
        self.is_gone(ring, now, patience) || now.since(self.asked_at) > patience.without_lease()
    }

    fn is_suspect(&self, ring: &Ring, now: Mono, patience: Patience) -> bool {
        self.refusals > 0 || self.silent_for(now) > patience.silence / 2 || self.is_dead(ring, now, patience)
    }
}
