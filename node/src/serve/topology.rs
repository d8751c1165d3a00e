//! The ring as a serving thread needs it: whose a slot is, and where that member listens.
//!
//! Owns what is derived from one ring document ([`Topology`]), and each thread's handle on the newest one ([`Rings`]).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use ringmaster_ring::{Holder, Member, MemberId, Ring, SLOT_COUNT, Shard, ShardId, Slot};
use tokio::sync::watch;

/// One ring document, from the side of one member.
#[derive(Debug)]
pub(super) struct Topology {
    pub(super) ring: Arc<Ring>,
    pub(super) me: MemberId,
    /// For each slot the place of its shard in `owners`, plus one; 0 for none.
    owner_of_slot: Vec<u16>,
    owners: Vec<Owner>,
    /// A bit for each slot whose shard this member holds a copy of: every request asks, and the owners take more cache than there is.
    mine: Vec<u64>,
}

/// Who serves a shard.
#[derive(Debug)]
pub(super) struct Owner {
    /// Whether this member holds a copy of it.
    pub(super) mine: bool,
    pub(super) primary: Holder,
    /// `host:port` of the primary, if the ring knows it.
    pub(super) endpoint: Option<String>,
}

impl Topology {
    pub(super) fn new(ring: Arc<Ring>, me: MemberId) -> Self {
        let my_shard = ring.members.get(&me).filter(|member| member.is_active()).and_then(|member| member.shard);
        let mut owner_of_slot = vec![0; usize::from(SLOT_COUNT)];
        let mut owners = Vec::with_capacity(ring.shards.len());
        for (&id, shard) in &ring.shards {
            let address = ring.members.get(&shard.primary.member).and_then(|member| member.present.as_ref());
            let endpoint = address.map(|p| format!("{}:{}", p.address.host, p.address.client_port));
            owners.push(Owner { mine: my_shard == Some(id), primary: shard.primary, endpoint });
            let place = u16::try_from(owners.len()).unwrap_or(0);
            for range in &shard.slots {
                let (first, last) = (usize::from(range.first.number()), usize::from(range.last.number()));
                owner_of_slot.get_mut(first..=last).unwrap_or_default().fill(place);
            }
        }
        let mut topology = Self { ring, me, owner_of_slot, owners, mine: vec![0; usize::from(SLOT_COUNT) / 64] };
        for slot in Slot::all() {
            let is_mine = topology.owner_of(slot).is_some_and(|owner| owner.mine);
            if let Some(bits) = topology.mine.get_mut(usize::from(slot.number()) / 64) {
                *bits |= u64::from(is_mine) << (slot.number() % 64);
            }
        }
        topology
    }

    /// Whether this member holds a copy of the slot's shard.
    fn is_mine(&self, slot: Slot) -> bool {
        let number = usize::from(slot.number());
        self.mine.get(number / 64).is_some_and(|bits| bits >> (number % 64) & 1 == 1)
    }

    pub(super) fn owner_of(&self, slot: Slot) -> Option<&Owner> {
        let place = self.owner_of_slot.get(usize::from(slot.number())).copied().unwrap_or(0);
        self.owners.get(usize::from(place).checked_sub(1)?)
    }

    /// The shard that this member holds a copy of.
    pub(super) fn my_shard(&self) -> Option<(ShardId, &Shard)> {
        self.ring.shard_of_member(self.me)
    }

    /// Members of a shard that clients may be told of: not retired, and the ring knows where they listen.
    pub(super) fn listed_members(&self, shard: ShardId) -> impl Iterator<Item = (MemberId, &Member)> {
        self.ring.members_of(shard).filter(|(_, member)| member.present.is_some())
    }

    /// Whether the ring has a member's present process in its shard's in-sync set.
    pub(super) fn is_in_sync(&self, id: MemberId, member: &Member) -> bool {
        member.boot().is_some_and(|boot| self.ring.is_ready(Holder { member: id, boot }))
    }

    pub(super) fn is_retired(&self) -> bool {
        self.ring.members.get(&self.me).is_some_and(|member| !member.is_active())
    }

    /// A member's name in cluster replies: 40 hexadecimal digits, the same for as long as the member lives. The serial comes first,
    /// since tools shorten these names to their beginning.
    pub(super) fn node_id(&self, member: MemberId) -> String {
        format!("{:08x}{}", member.0, self.ring.cluster)
    }

    pub(super) fn shard_id(&self, shard: ShardId) -> String {
        format!("{:08x}{}", u32::from(shard.0) | 0x8000_0000, self.ring.cluster)
    }
}

/// One thread's handle on the newest ring. Asking costs an atomic load while the ring stays the same.
///
/// A process that restarts begins with the ring of its last snapshot, whose members may be gone for hours: nobody is sent
/// to them. What it knows is of use once it names this very process.
#[derive(Debug)]
pub(super) struct Rings {
    me: Holder,
    followed: RefCell<Followed>,
}

#[derive(Debug)]
struct Followed {
    rings: watch::Receiver<Option<Arc<Ring>>>,
    is_current: bool,
    newest: Option<Rc<Topology>>,
}

impl Rings {
    pub(super) fn new(me: Holder, mut rings: watch::Receiver<Option<Arc<Ring>>>) -> Self {
        rings.mark_changed();
        Self { me, followed: RefCell::new(Followed { rings, is_current: false, newest: None }) }
    }

    /// What was published last before this call; none before the first ring that names this process.
    pub(super) fn newest(&self) -> Option<Rc<Topology>> {
        self.followed.borrow_mut().newest(self.me).cloned()
    }

    /// Whether this member holds a copy of a slot's shard, by the newest ring.
    pub(super) fn is_mine(&self, slot: Slot) -> bool {
        self.followed.borrow_mut().newest(self.me).is_some_and(|topology| topology.is_mine(slot))
    }
}

impl Followed {
    fn newest(&mut self, me: Holder) -> Option<&Rc<Topology>> {
        let Self { rings, is_current, newest } = self;
        // An error means that the publisher has ended: what it said last holds.
        if rings.has_changed().unwrap_or(newest.is_none()) {
            let ring = rings.borrow_and_update().clone();
            let names_me = |ring: &Arc<Ring>| ring.members.get(&me.member).and_then(Member::boot) == Some(me.boot);
            *is_current |= ring.as_ref().is_some_and(names_me);
            *newest = ring.filter(|_| *is_current).map(|ring| Rc::new(Topology::new(ring, me.member)));
        }
        newest.as_ref()
    }
}
