//! A primary's books of its copies: what each acknowledged in this epoch, and what follows from it.
//!
//! In: acknowledgements, the log's end, the ring. Out: what is committed, who should join the in-sync set and who
//! should leave it.

use std::collections::BTreeMap;
use std::time::Duration;

use ringmaster_ring::{BootId, Holder, MemberId, Mutations, Ring, Rule, Seq, Shard, ShardEpoch, ShardId, Version};

use super::StreamId;
use crate::Mono;

/// A copy whose stream broke has this part of its lag to come again: it connects anew within milliseconds if it lives.
const LAG_PARTS_TO_RECONNECT: u32 = 4;

/// What is known of one member that follows or should follow.
#[derive(Clone, Copy, Debug)]
pub(super) struct CopyBook {
    pub(super) boot: BootId,
    pub(super) stream: Option<StreamId>,
    /// The newest stream that it asked for: a request for an older one came late.
    pub(super) newest: StreamId,
    /// What it acknowledged in this epoch, under `boot`.
    pub(super) acked: Option<Seq>,
    /// When it last said anything.
    heard_at: Mono,
    /// When its stream broke, if it has not come again.
    pub(super) lost_at: Option<Mono>,
    /// A sequence that it has not acknowledged, and since when.
    waiting: Option<(Seq, Mono)>,
    /// It holds what this primary does not, or lacks what cannot be read any more: it has to leave the set before it
    /// may discard (rule 2).
    pub(super) must_leave: bool,
}

impl CopyBook {
    pub(super) fn new(boot: BootId, now: Mono) -> Self {
        Self {
            boot,
            stream: None,
            newest: StreamId(0),
            acked: None,
            heard_at: now,
            lost_at: None,
            waiting: None,
            must_leave: false,
        }
    }

    /// One that was refused: it acknowledges nothing until it comes again, with a log that fits.
    pub(super) fn refused(boot: BootId, stream: StreamId, now: Mono) -> Self {
        Self { must_leave: true, newest: stream, ..Self::new(boot, now) }
    }

    pub(super) fn opened(boot: BootId, stream: StreamId, acked: Option<Seq>, now: Mono) -> Self {
        Self { stream: Some(stream), newest: stream, acked, ..Self::new(boot, now) }
    }

    fn is_late(&self, now: Mono, lag_max: Duration) -> bool {
        now.since(self.heard_at) > lag_max
            || self.waiting.is_some_and(|(_, since)| now.since(since) > lag_max)
            || self.lost_at.is_some_and(|since| now.since(since) > lag_max / LAG_PARTS_TO_RECONNECT)
    }
}

/// An addition whose outcome is not known (rule 5).
#[derive(Clone, Copy, Debug)]
pub(super) struct Adding {
    pub(super) copy: Holder,
    /// The version on which it was proposed.
    version: Version,
    since: Mono,
    /// The copy is not good any more: remove it, on the same version, so that one of the two comes first.
    pub(super) withdrawn: bool,
}

/// The books of one epoch.
#[derive(Debug)]
pub(super) struct Books {
    pub(super) epoch: ShardEpoch,
    /// Where the log ended when this epoch began.
    start: Seq,
    /// What a copy has to hold before it may be added (rule 3). Never goes back.
    mark: Seq,
    /// The highest sequence that was ever counted as committed in this epoch.
    pub(super) committed: Seq,
    pub(super) adding: Option<Adding>,
    pub(super) copies: BTreeMap<MemberId, CopyBook>,
    mutations: Mutations,
    /// Only where a test dropped the rule that a removal counts when it is seen.
    removing: Vec<Holder>,
}

impl Books {
    /// The books of a primary that begins `epoch` with a log that ends at `end`.
    pub(super) fn open(epoch: ShardEpoch, end: Seq, shard: &Shard, mutations: Mutations, now: Mono) -> Self {
        let copies = shard.in_sync.iter().map(|(member, boot)| (*member, CopyBook::new(*boot, now))).collect();
        Self { epoch, start: end, mark: end, committed: Seq(0), adding: None, copies, mutations, removing: Vec::new() }
    }

    /// The last record from before this epoch.
    pub(super) fn start(&self) -> Seq {
        self.start
    }

    /// Everything from before this epoch is known to be kept: the former primary can answer what it executed.
    pub(super) fn start_is_committed(&self) -> bool {
        self.committed >= self.start
    }

    /// Whose acknowledgement counts: the in-sync set, and who is being added to it (rules 5 and 6).
    pub(super) fn needed<'a>(&'a self, me: Holder, shard: &'a Shard) -> impl Iterator<Item = Holder> + 'a {
        let union = self.mutations.keep(Rule::AdditionNeedsUnion);
        let adding = self.adding.iter().filter(move |_| union).map(|adding| adding.copy);
        let in_sync = shard.in_sync.iter().map(|(member, boot)| Holder { member: *member, boot: *boot });
        let counted =
            |holder: &Holder| self.mutations.keep(Rule::RemovalSeenCommitted) || !self.removing.contains(holder);
        in_sync.filter(counted).chain(adding).filter(move |holder| holder.member != me.member)
    }

    pub(super) fn is_needed(&self, me: Holder, shard: &Shard, copy: Holder) -> bool {
        shard.holds(copy) || self.needed(me, shard).any(|needed| needed == copy)
    }

    fn acked(&self, copy: Holder) -> Option<Seq> {
        let book = self.copies.get(&copy.member)?;
        let same = book.boot == copy.boot || !self.mutations.keep(Rule::AcksNameBoot);
        book.acked.filter(|_| same)
    }

    /// Counts what everybody needed has acknowledged. Only under a valid lease.
    pub(super) fn count(&mut self, me: Holder, shard: &Shard, end: Seq) {
        let held = self.needed(me, shard).map(|copy| self.acked(copy).unwrap_or_default()).min();
        let held = held.map_or(end, |held| held.min(end));
        self.committed = self.committed.max(held);
        self.mark = self.mark.max(self.committed);
    }

    /// Takes in an acknowledgement of this epoch. False if the stream is not the one that the copy has: it follows what
    /// nobody sends to.
    pub(super) fn ack(&mut self, from: Holder, stream: StreamId, seq: Seq, now: Mono) -> bool {
        let Some(book) = self.copies.get_mut(&from.member) else { return false };
        if book.boot != from.boot || book.stream != Some(stream) {
            return false;
        }
        book.acked = book.acked.max(Some(seq));
        book.heard_at = now;
        if book.waiting.is_some_and(|(waiting, _)| seq >= waiting) {
            book.waiting = None;
        }
        true
    }

    /// Takes in what a newer ring says about an addition: its version is above the condition, or a newer process of the
    /// copy was announced (rule 5).
    pub(super) fn see(&mut self, ring: &Ring, shard: &Shard, now: Mono) {
        if self.adding.is_some_and(|adding| {
            let superseded = ring.members.get(&adding.copy.member).is_none_or(|m| m.boot() != Some(adding.copy.boot));
            shard.version > adding.version || superseded
        }) {
            self.adding = None;
        }
        self.removing.retain(|copy| shard.holds(*copy));
        for (member, boot) in &shard.in_sync {
            self.copies.entry(*member).or_insert_with(|| CopyBook::new(*boot, now));
        }
        self.copies.retain(|member, _| ring.members.get(member).is_none_or(ringmaster_ring::Member::is_active));
    }

    /// Notes since when each copy owes an acknowledgement.
    pub(super) fn watch(&mut self, end: Seq, now: Mono) {
        for book in self.copies.values_mut() {
            if book.waiting.is_none() && book.acked.is_none_or(|acked| acked < end) {
                book.waiting = Some((end, now));
            }
        }
    }

    /// This process did not run for a while: that is nobody else's fault.
    pub(super) fn forgive(&mut self, gap: Duration) {
        for book in self.copies.values_mut() {
            book.heard_at = book.heard_at.plus(gap);
            book.lost_at = book.lost_at.map(|lost_at| lost_at.plus(gap));
            if let Some((_, since)) = &mut book.waiting {
                *since = since.plus(gap);
            }
        }
        if let Some(adding) = &mut self.adding {
            adding.since = adding.since.plus(gap);
        }
    }

    /// The in-sync copies that cannot stay: restarted, gone, too late, or with a log that does not fit.
    pub(super) fn to_remove(
        &self,
        me: Holder,
        ring: &Ring,
        shard: &Shard,
        now: Mono,
        lag_max: Duration,
    ) -> Vec<Holder> {
        let in_sync = shard.in_sync.iter().map(|(member, boot)| Holder { member: *member, boot: *boot });
        in_sync.filter(|copy| copy.member != me.member && !self.may_stay(*copy, ring, now, lag_max)).collect()
    }

    fn may_stay(&self, copy: Holder, ring: &Ring, now: Mono, lag_max: Duration) -> bool {
        if ring.is_superseded(copy) {
            return false;
        }
        match self.copies.get(&copy.member) {
            Some(book) if book.boot == copy.boot => !book.must_leave && !book.is_late(now, lag_max),
            // Another process of it follows: the one in the set is not there any more, or soon will not be.
            Some(_) => false,
            None => true,
        }
    }

    /// Only where a test dropped the rule: the removal of these counts from now on.
    pub(super) fn removal_sent(&mut self, copies: &[Holder]) {
        if !self.mutations.keep(Rule::RemovalSeenCommitted) {
            self.removing.extend(copies);
        }
    }

    /// Withdraws an addition whose copy is not good any more. Returns whether another may begin.
    pub(super) fn review_addition(&mut self, ring: &Ring, now: Mono, lag_max: Duration, timeout: Duration) -> bool {
        let Some(adding) = self.adding else { return true };
        if !self.mutations.keep(Rule::AdditionHasNoTimeout) && now.since(adding.since) > timeout {
            self.adding = None;
        } else if !self.may_stay(adding.copy, ring, now, lag_max) {
            self.adding = Some(Adding { withdrawn: true, ..adding });
        }
        false
    }

    /// Chooses a copy to add: it acknowledged everything up to the mark, in this epoch, under the boot that it announced
    /// (rules 3 and 4), and would not be removed again at once.
    pub(super) fn begin_addition(
        &mut self,
        shard_id: ShardId,
        ring: &Ring,
        shard: &Shard,
        now: Mono,
        lag_max: Duration,
    ) {
        let marked = |acked: Seq| acked >= self.mark || !self.mutations.keep(Rule::AdditionNeedsMark);
        let next = self.copies.iter().find_map(|(id, book)| {
            let member = ring.members.get(id).filter(|m| m.is_active() && m.shard == Some(shard_id))?;
            let copy = Holder { member: *id, boot: member.boot()? };
            let follows = book.stream.is_some() || !self.mutations.keep(Rule::AcksNameBoot);
            let outside = !shard.in_sync.contains_key(id) && member.gone != Some(copy.boot);
            let good = follows && !book.must_leave && !book.is_late(now, lag_max);
            (outside && good && marked(self.acked(copy)?)).then_some(copy)
        });
        self.adding = next.map(|copy| Adding { copy, version: shard.version, since: now, withdrawn: false });
    }

    /// How many copies acknowledged everything up to `seq`.
    pub(super) fn holding(&self, seq: Seq) -> usize {
        self.copies
            .values()
            .filter(|book| book.stream.is_some() && book.acked.is_some_and(|acked| acked >= seq))
            .count()
    }
}
