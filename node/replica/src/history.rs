//! Where each epoch began in a log.
//!
//! Two logs that have the same epoch at the same sequence are equal up to there: an epoch has one primary, and a
//! primary appends only. So a member need not compare records to know whether its log is the beginning of another.

use ringmaster_ring::{Position, Rule, Seq, ShardEpoch};
use serde::{Deserialize, Serialize};

use crate::Mutations;

/// How many epochs a history remembers. A log whose end is of an older epoch is no known beginning of anything, and its
/// holder gets everything anew.
pub const HISTORY_EPOCHS_MAX: usize = 256;

/// The first sequence of each epoch that has records in a log, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    begins: Vec<(ShardEpoch, Seq)>,
}

impl History {
    /// The history of an empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The epoch of the record `seq`; none if that is no longer, or not yet, known. "Nothing yet" is of epoch 0.
    #[must_use]
    pub fn epoch_at(&self, seq: Seq) -> Option<ShardEpoch> {
        if seq == Seq(0) {
            return Some(ShardEpoch(0));
        }
        self.begins.iter().rev().find(|(_, first)| *first <= seq).map(|(epoch, _)| *epoch)
    }

    /// Whether a log that ends at `last` is the beginning of the log of this history, which ends at `end`.
    #[must_use]
    pub fn is_prefix(&self, last: Position, end: Seq, mutations: Mutations) -> bool {
        let of_same_epoch = self.epoch_at(last.seq) == Some(last.epoch) || !mutations.keep(Rule::TailMatchesByEpoch);
        last.seq <= end && of_same_epoch
    }

    /// Notes that the record `first` and those after it are of `epoch`.
    pub fn begin(&mut self, epoch: ShardEpoch, first: Seq) {
        // An epoch without records leaves no trace.
        while self.begins.last().is_some_and(|(_, begun)| *begun >= first) {
            self.begins.pop();
        }
        if self.begins.last().is_none_or(|(last, _)| *last < epoch) {
            self.begins.push((epoch, first));
        }
        if self.begins.len() > HISTORY_EPOCHS_MAX {
            self.begins.remove(0);
        }
    }

    /// The epoch of the last record, as far as it was noted.
    #[must_use]
    pub fn last_epoch(&self) -> ShardEpoch {
        self.begins.last().map_or(ShardEpoch(0), |(epoch, _)| *epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u64, seq: u64) -> Position {
        Position { epoch: ShardEpoch(epoch), seq: Seq(seq) }
    }

    fn history(begins: &[(u64, u64)]) -> History {
        let mut history = History::new();
        for (epoch, first) in begins {
            history.begin(ShardEpoch(*epoch), Seq(*first));
        }
        history
    }

    #[test]
    fn a_log_continues_another_only_if_its_epoch_at_that_sequence_is_the_same() {
        let log = history(&[(1, 1), (3, 6)]);
        let prefix = |last| log.is_prefix(last, Seq(9), Mutations::none());
        assert!(prefix(at(0, 0)));
        assert!(prefix(at(1, 5)));
        assert!(prefix(at(3, 9)));
        assert!(!prefix(at(1, 6)), "written by a primary that was deposed");
        assert!(!prefix(at(2, 6)));
        assert!(!prefix(at(3, 10)), "longer");
    }

    #[test]
    fn an_epoch_without_records_leaves_no_trace() {
        let log = history(&[(1, 1), (2, 4), (3, 4)]);
        assert_eq!(log.epoch_at(Seq(3)), Some(ShardEpoch(1)));
        assert_eq!(log.epoch_at(Seq(4)), Some(ShardEpoch(3)));
        assert_eq!(log, history(&[(1, 1), (3, 4)]));
    }

    #[test]
    fn a_forgotten_epoch_is_no_prefix() {
        let log = history(&(1..=300).map(|n| (n, n)).collect::<Vec<_>>());
        assert!(!log.is_prefix(at(1, 1), Seq(300), Mutations::none()));
        assert!(log.is_prefix(at(299, 299), Seq(300), Mutations::none()));
    }
}
