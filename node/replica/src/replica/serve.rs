//! A primary's streams to its copies, and the release that ends a handover.

use ringmaster_ring::{Holder, Position, Ring, Rule, Seq, Shard, ShardEpoch};

use super::books::CopyBook;
use super::{Output, RefuseReason, Replica, StreamId, StreamStart};
use crate::Mono;

/// A copy's request for a stream. It is kept until it can be answered: the successor in a handover accepts its copies
/// the moment it serves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subscription {
    pub(super) stream: StreamId,
    pub(super) from: Holder,
    pub(super) epoch: ShardEpoch,
    pub(super) last: Position,
    pub(super) may_discard: bool,
    pub(super) kept_after: Seq,
}

/// What to do with a request for a stream.
enum Decision {
    /// It cannot be answered yet.
    Keep,
    Refuse(RefuseReason),
    Open(StreamStart),
}

impl Replica {
    /// Answers the requests for streams that can be answered, and releases the shard once it is drained.
    pub(super) fn tend_streams(&mut self, ring: &Ring, shard: &Shard, now: Mono, out: &mut Vec<Output>) {
        self.close_streams_of_frozen(shard, out);
        for subscription in self.subscriptions.values().copied().collect::<Vec<_>>() {
            let decision = self.decide(&subscription, ring, shard);
            let Subscription { stream, from: to, .. } = subscription;
            match decision {
                Decision::Keep => continue,
                Decision::Refuse(reason) => {
                    if reason == RefuseReason::MustLeave
                        && let Some(books) = &mut self.books
                    {
                        books.copies.insert(to.member, CopyBook::refused(to.boot, stream, now));
                    }
                    out.push(Output::RefuseStream { stream, to, reason });
                }
                Decision::Open(start) => {
                    self.open(&subscription, start, now);
                    out.push(Output::OpenStream { stream, to, epoch: subscription.epoch, start });
                }
            }
            self.subscriptions.remove(&to.member);
        }
        self.release(shard, out);
    }

    /// Takes in a request, unless the same process has asked anew since.
    pub(super) fn subscribe(&mut self, wanted: Subscription, out: &mut Vec<Output>) {
        let Subscription { stream, from, .. } = wanted;
        let waiting = self.subscriptions.get(&from.member).filter(|s| s.from == from).map(|s| s.stream);
        let book = self.books.as_ref().and_then(|books| books.copies.get(&from.member));
        let newest = book.filter(|book| book.boot == from.boot).map(|book| book.newest);
        if waiting.max(newest) >= Some(stream) {
            out.push(Output::RefuseStream { stream, to: from, reason: RefuseReason::NotPrimary });
        } else {
            self.subscriptions.insert(from.member, wanted);
        }
    }

    fn decide(&self, wanted: &Subscription, ring: &Ring, shard: &Shard) -> Decision {
        let Subscription { from, epoch, .. } = *wanted;
        if epoch < shard.epoch {
            return Decision::Refuse(RefuseReason::NotPrimary);
        }
        match ring.members.get(&from.member) {
            Some(member) if member.is_active() && member.shard == Some(self.shard_id) => {
                // The ring known here may be behind the copy's.
                if epoch > shard.epoch || member.boot() != Some(from.boot) {
                    return Decision::Keep;
                }
            }
            None if from.member >= ring.next_serial => return Decision::Keep,
            _ => return Decision::Refuse(RefuseReason::NotWanted),
        }
        if self.is_frozen(shard) && from == shard.primary {
            return self.decide_tail(wanted);
        }
        if !self.is_mine(shard) {
            return Decision::Refuse(RefuseReason::NotPrimary);
        }
        match &self.books {
            Some(books) if self.is_primary(shard) => {
                let needed = books.is_needed(self.me, shard, from);
                self.decide_start(wanted, needed)
            }
            _ => Decision::Keep,
        }
    }

    /// The successor lost its stream before it had the tail.
    fn decide_tail(&self, wanted: &Subscription) -> Decision {
        if self.fits(wanted) {
            Decision::Open(StreamStart::After(wanted.last.seq))
        } else {
            Decision::Refuse(RefuseReason::NotPrimary)
        }
    }

    /// From where a copy goes on. One whose acknowledgement counts may not discard: it has to leave first (rule 2).
    fn decide_start(&self, wanted: &Subscription, needed: bool) -> Decision {
        if self.fits(wanted) {
            Decision::Open(StreamStart::After(wanted.last.seq))
        } else if (needed || !wanted.may_discard) && self.mutations.keep(Rule::NoDiscardInSet) {
            Decision::Refuse(RefuseReason::MustLeave)
        } else {
            Decision::Open(StreamStart::Walk)
        }
    }

    /// Whether the copy's log is a beginning of this one, and what follows can still be read.
    fn fits(&self, wanted: &Subscription) -> bool {
        let Subscription { last, kept_after, .. } = *wanted;
        last.seq >= kept_after && self.log.history.is_prefix(last, self.log.end, self.mutations)
    }

    fn open(&mut self, wanted: &Subscription, start: StreamStart, now: Mono) {
        let Some(books) = &mut self.books else { return };
        let Subscription { stream, from, last, .. } = *wanted;
        let before = books.copies.get(&from.member).filter(|book| book.boot == from.boot);
        // What it acknowledged in this epoch still holds, unless it begins anew or has less than it had.
        let acked = before.and_then(|book| book.acked).filter(|acked| match start {
            StreamStart::After(_) => *acked <= last.seq,
            StreamStart::Walk => false,
        });
        books.copies.insert(from.member, CopyBook::opened(from.boot, stream, acked, now));
    }

    pub(super) fn copy_lost(&mut self, stream: StreamId, from: Holder, now: Mono) {
        if self.subscriptions.get(&from.member).is_some_and(|s| s.stream == stream && s.from == from) {
            self.subscriptions.remove(&from.member);
        }
        let book = self.books.as_mut().and_then(|books| books.copies.get_mut(&from.member));
        if let Some(book) = book.filter(|book| book.boot == from.boot && book.stream == Some(stream)) {
            book.stream = None;
            book.lost_at = Some(now);
        }
        if self.released_on == Some(stream) {
            self.released_on = None;
        }
    }

    /// Once frozen, only the successor's stream goes on: others must not take this member for one that serves.
    fn close_streams_of_frozen(&mut self, shard: &Shard, out: &mut Vec<Output>) {
        let keep = self.is_frozen(shard).then_some(shard.primary);
        let Some(books) = self.books.as_mut().filter(|books| books.epoch < shard.epoch) else { return };
        for (member, book) in &mut books.copies {
            let to = Holder { member: *member, boot: book.boot };
            if keep != Some(to)
                && let Some(stream) = book.stream.take()
            {
                out.push(Output::CloseStream { stream, to });
            }
        }
    }

    /// Sends the successor what it lacks, and that this member serves no more (rule 7).
    fn release(&mut self, shard: &Shard, out: &mut Vec<Output>) {
        // Rule 9: only who served in the epoch before releases.
        if !self.is_frozen(shard) {
            return;
        }
        let to = shard.primary;
        let book = self.books.as_ref().and_then(|books| books.copies.get(&to.member));
        let stream = book.filter(|book| book.boot == to.boot).and_then(|book| book.stream);
        if let Some(stream) = stream.filter(|stream| self.released_on != Some(*stream)) {
            self.released_on = Some(stream);
            out.push(Output::Release { stream, to, epoch: shard.epoch, last: self.log.position() });
        }
    }

    /// Drops the books, and with them the streams of an epoch that is over.
    pub(super) fn close_books(&mut self, out: &mut Vec<Output>) {
        let Some(books) = self.books.take() else { return };
        for (member, book) in books.copies {
            if let Some(stream) = book.stream {
                out.push(Output::CloseStream { stream, to: Holder { member, boot: book.boot } });
            }
        }
        self.released_on = None;
    }

    pub(super) fn refuse_all(&mut self, out: &mut Vec<Output>) {
        for (_, subscription) in std::mem::take(&mut self.subscriptions) {
            let Subscription { stream, from: to, .. } = subscription;
            out.push(Output::RefuseStream { stream, to, reason: RefuseReason::NotPrimary });
        }
    }
}
