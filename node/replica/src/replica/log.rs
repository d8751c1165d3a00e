//! What a member holds: a log up to some record, part of a walk, or nothing.

use std::collections::VecDeque;

use ringmaster_ring::{Position, Seq, ShardEpoch};

use super::Held;
use crate::History;

/// Whether the data is that of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// It is what the log says, up to its end.
    Whole,
    /// Some of a walk: of no use, unless the walk ends well.
    Partial,
    /// The shell was told to drop it, and has not said that it did.
    Discarding,
}

/// Records that may be applied and are not yet reported as applied.
#[derive(Clone, Copy, Debug)]
struct Arriving {
    epoch: ShardEpoch,
    first: Seq,
    last: Seq,
}

#[derive(Debug)]
pub(super) struct Log {
    pub(super) data: Data,
    pub(super) history: History,
    /// The last record that is applied.
    pub(super) end: Seq,
    arriving: VecDeque<Arriving>,
}

impl Log {
    pub(super) fn new(held: Held) -> Self {
        let Held { history, end } = held;
        Self { data: Data::Whole, history, end, arriving: VecDeque::new() }
    }

    pub(super) fn position(&self) -> Position {
        // A forgotten epoch is older than any that is known, so 0 compares and matches as it should.
        Position { epoch: self.history.epoch_at(self.end).unwrap_or_default(), seq: self.end }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.data == Data::Whole && self.end == Seq(0)
    }

    /// Everything that was allowed is applied.
    pub(super) fn is_quiet(&self) -> bool {
        self.arriving.is_empty()
    }

    /// Whether these records follow those that were allowed so far.
    pub(super) fn continues_with(&self, epoch: ShardEpoch, first: Seq, last: Seq) -> bool {
        let (before, before_epoch) = match self.arriving.back() {
            Some(arriving) => (arriving.last, arriving.epoch),
            // Not the last epoch of the history: one that was served without a record is in there, too.
            None => (self.end, self.position().epoch),
        };
        first == before.next() && last >= first && epoch >= before_epoch
    }

    pub(super) fn allow(&mut self, epoch: ShardEpoch, first: Seq, last: Seq) {
        self.arriving.push_back(Arriving { epoch, first, last });
    }

    /// The records up to `last` are applied.
    pub(super) fn applied(&mut self, last: Seq) {
        while let Some(arriving) = self.arriving.front().copied().filter(|arriving| arriving.first <= last) {
            self.history.begin(arriving.epoch, arriving.first);
            self.end = self.end.max(arriving.last.min(last));
            if arriving.last > last {
                break;
            }
            self.arriving.pop_front();
        }
    }

    pub(super) fn reset(&mut self, history: History, end: Seq) {
        self.data = Data::Whole;
        self.history = history;
        self.end = end;
        self.arriving.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_served_an_epoch_without_a_record_follows_an_older_log_that_is_longer() {
        let mut log = Log::new(Held::default());
        log.allow(ShardEpoch(5), Seq(1), Seq(50));
        log.applied(Seq(50));
        log.history.begin(ShardEpoch(7), Seq(51));
        assert!(log.continues_with(ShardEpoch(6), Seq(51), Seq(53)));
        log.allow(ShardEpoch(6), Seq(51), Seq(53));
        log.applied(Seq(53));
        assert_eq!(log.position(), Position { epoch: ShardEpoch(6), seq: Seq(53) });
        assert_eq!(log.history.last_epoch(), ShardEpoch(6));
    }

    #[test]
    fn records_that_leave_a_gap_or_go_back_do_not_continue_a_log() {
        let mut log = Log::new(Held::default());
        log.allow(ShardEpoch(3), Seq(1), Seq(4));
        assert!(log.continues_with(ShardEpoch(3), Seq(5), Seq(5)));
        assert!(!log.continues_with(ShardEpoch(3), Seq(6), Seq(6)), "a gap");
        assert!(!log.continues_with(ShardEpoch(3), Seq(4), Seq(5)), "a repetition");
        assert!(!log.continues_with(ShardEpoch(2), Seq(5), Seq(5)), "an older epoch after a newer one");
        assert_eq!(log.end, Seq(0), "nothing is held before it is applied");
    }
}
