//! A copy: whom it follows, what it takes, and when it drops what it has.

use ringmaster_ring::{Holder, Member, Position, Ring, Rule, Seq, Shard, ShardEpoch};

use super::follow::Stage;
use super::log::Data;
use super::{AfterPublish, Output, RefuseReason, Replica, StreamId, StreamStart};
use crate::time::millis;
use crate::{History, Mono};

impl Replica {
    /// Keeps the stream that the ring asks for, and no other.
    pub(super) fn follow_primary(
        &mut self,
        ring: &Ring,
        shard: &Shard,
        now: Mono,
        after: &mut AfterPublish,
        out: &mut Vec<Output>,
    ) {
        let target = self.whom_to_follow(ring, shard);
        if let Some(stream) = self.follow.stream {
            let of_target = target == Some(stream.primary) && stream.epoch == shard.epoch;
            // The former primary's stream brings its last records and the release.
            let tail = target == Some(stream.primary) && self.is_mine(shard) && stream.stage == Stage::Following;
            if !of_target && !tail {
                self.unfollow(out);
                self.follow.hurry();
            } else if self.follow.is_silent(now) {
                self.unfollow(out);
                self.follow.over(now);
            }
        }
        if self.follow.stream.is_some() || !self.log.is_quiet() || self.is_primary(shard) {
            return;
        }
        if self.log.data == Data::Partial {
            // Part of a walk is of no use, and nothing of it was acknowledged.
            return self.discard(after, out);
        }
        let Some(primary) = target else { return };
        if let Some(stream) = self.follow.begin(primary, shard.epoch, now) {
            let last = self.log.position();
            let may_discard = self.may_discard(shard, shard.epoch);
            out.push(Output::Follow { stream, primary, epoch: shard.epoch, last, may_discard });
        }
    }

    fn whom_to_follow(&self, ring: &Ring, shard: &Shard) -> Option<Holder> {
        let announced = |holder: &Holder| ring.members.get(&holder.member).and_then(Member::boot) == Some(holder.boot);
        let whom = if self.is_mine(shard) { shard.pending_from? } else { shard.primary };
        (announced(&self.me) && announced(&whom) && whom.member != self.me.member).then_some(whom)
    }

    /// Outside the in-sync set in this epoch, by its own view, or with nothing to lose (rule 2).
    fn may_discard(&self, shard: &Shard, epoch: ShardEpoch) -> bool {
        let outside = shard.epoch == epoch && !shard.holds(self.me);
        outside || self.log.is_empty() || !self.mutations.keep(Rule::NoDiscardInSet)
    }

    pub(super) fn unfollow(&mut self, out: &mut Vec<Output>) {
        if let Some(stream) = self.follow.stream.take() {
            out.push(Output::Unfollow { stream: stream.id });
        }
    }

    /// Something came that this stream should not have brought.
    fn give_up_stream(&mut self, now: Mono, out: &mut Vec<Output>) {
        self.unfollow(out);
        self.follow.over(now);
    }

    pub(super) fn on_accepted(
        &mut self,
        id: StreamId,
        epoch: ShardEpoch,
        start: StreamStart,
        now: Mono,
        after: &mut AfterPublish,
        out: &mut Vec<Output>,
    ) {
        let may_discard = self.view.as_ref().and_then(|ring| ring.shards.get(&self.shard_id));
        let may_discard = may_discard.is_some_and(|shard| self.may_discard(shard, epoch));
        let whole = self.log.data == Data::Whole && self.log.is_quiet();
        let Some(stream) = self.follow.heard(id, now) else { return };
        if stream.stage != Stage::Asked || stream.epoch != epoch || epoch < self.accepted || !whole {
            return self.give_up_stream(now, out);
        }
        match start {
            StreamStart::After(seq) if seq == self.log.end => {
                stream.stage = Stage::Following;
                let to = stream.primary;
                self.accept_epoch(epoch, out);
                out.push(Output::SendAck { stream: id, to, epoch, seq });
            }
            StreamStart::Walk if may_discard && self.log.is_empty() => {
                stream.stage = Stage::Walking;
                self.accept_epoch(epoch, out);
                self.log.data = Data::Partial;
                out.push(Output::Walk { stream: id });
            }
            StreamStart::Walk if may_discard => {
                stream.stage = Stage::Clearing;
                self.accept_epoch(epoch, out);
                self.discard(after, out);
            }
            StreamStart::After(_) | StreamStart::Walk => self.give_up_stream(now, out),
        }
    }

    /// From now on nothing of an older epoch counts here.
    fn accept_epoch(&mut self, epoch: ShardEpoch, out: &mut Vec<Output>) {
        if epoch > self.accepted {
            self.accepted = epoch;
            self.kept = self.kept.max(self.copy_mark());
            self.primary_mark = Seq(0);
            self.close_books(out);
        }
    }

    pub(super) fn on_refused(&mut self, id: StreamId, reason: RefuseReason, now: Mono) {
        if self.follow.heard(id, now).is_some() {
            match reason {
                // A later ring hurries the next attempt: it names another primary, or takes this member out of the set.
                RefuseReason::NotPrimary | RefuseReason::MustLeave | RefuseReason::NotWanted => self.follow.over(now),
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one message")]
    pub(super) fn on_records(
        &mut self,
        id: StreamId,
        epoch: ShardEpoch,
        entry_epoch: ShardEpoch,
        (first, last): (Seq, Seq),
        committed: Seq,
        now: Mono,
        out: &mut Vec<Output>,
    ) {
        let whole = self.log.data == Data::Whole;
        let fits = whole && entry_epoch <= epoch && self.log.continues_with(entry_epoch, first, last);
        let Some(stream) = self.follow.heard(id, now) else { return };
        if stream.stage != Stage::Following || !stream.carries(epoch) || !fits {
            return self.give_up_stream(now, out);
        }
        stream.primary_end = stream.primary_end.max(last);
        self.primary_mark = self.primary_mark.max(committed);
        self.log.allow(entry_epoch, first, last);
        out.push(Output::Apply { stream: id, first, last });
    }

    pub(super) fn on_heartbeat(
        &mut self,
        id: StreamId,
        epoch: ShardEpoch,
        end: Seq,
        committed: Seq,
        now: Mono,
        out: &mut Vec<Output>,
    ) {
        let Some(stream) = self.follow.heard(id, now) else { return };
        if !stream.carries(epoch) {
            return self.give_up_stream(now, out);
        }
        stream.primary_end = stream.primary_end.max(end);
        if stream.stage == Stage::Following {
            self.primary_mark = self.primary_mark.max(committed);
            self.acknowledge(out);
        }
    }

    pub(super) fn on_applied(&mut self, last: Position, out: &mut Vec<Output>) {
        if self.log.data == Data::Whole {
            self.log.applied(last.seq);
            self.acknowledge(out);
        }
    }

    /// Tells the primary how far this member has come, in the epoch of the stream.
    fn acknowledge(&self, out: &mut Vec<Output>) {
        if let Some(stream) = self.follow.stream.filter(|stream| stream.stage == Stage::Following) {
            let (to, epoch, seq) = (stream.primary, stream.epoch, self.log.end);
            out.push(Output::SendAck { stream: stream.id, to, epoch, seq });
        }
    }

    pub(super) fn on_walk_done(
        &mut self,
        id: StreamId,
        epoch: ShardEpoch,
        end: Position,
        history: History,
        now: Mono,
        out: &mut Vec<Output>,
    ) {
        let consistent = history.epoch_at(end.seq) == Some(end.epoch);
        let Some(stream) = self.follow.heard(id, now) else { return };
        if stream.stage != Stage::Walking || stream.epoch != epoch || !consistent {
            return self.give_up_stream(now, out);
        }
        stream.stage = Stage::Following;
        self.log.reset(history, end.seq);
        self.acknowledge(out);
    }

    pub(super) fn on_discarded(&mut self, out: &mut Vec<Output>) {
        if self.log.data != Data::Discarding {
            return;
        }
        self.log.reset(History::new(), Seq(0));
        if let Some(stream) = self.follow.stream.as_mut().filter(|stream| stream.stage == Stage::Clearing) {
            stream.stage = Stage::Walking;
            self.log.data = Data::Partial;
            out.push(Output::Walk { stream: stream.id });
        }
    }

    /// It may come before this member has seen the handover in the ring: it waits for that.
    pub(super) fn on_release(&mut self, id: StreamId, epoch: ShardEpoch, last: Position, now: Mono) {
        if let Some(stream) = self.follow.heard(id, now)
            && stream.carries(epoch)
        {
            self.release = Some((stream.primary, epoch, last));
        }
    }

    /// The highest sequence held here that the primary counts as committed (rules 8 and 15).
    pub(super) fn copy_mark(&self) -> Seq {
        if self.mutations.keep(Rule::FormerAnswersByMark) { self.primary_mark.min(self.log.end) } else { self.log.end }
    }

    /// Until when READONLY reads are answered here: in sync, and the primary of this epoch was heard lately.
    pub(super) fn fresh_until(&self, ring: &Ring, shard: &Shard) -> Mono {
        let stream = self.follow.stream.filter(|stream| stream.stage == Stage::Following);
        match stream {
            Some(stream) if shard.holds(self.me) => stream.heard_at.plus(millis(ring.settings.copy_fresh_ms)),
            _ => Mono::ZERO,
        }
    }
}
