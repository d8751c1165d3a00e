//! What tools and people see of a member. Nothing here decides anything.

use ringmaster_ring::{CopyStatus, Holder, Position, Role, Seq, ShardEpoch};

use super::follow::Stage;
use super::{Replica, SyncState};
use crate::{GateState, History, Phase};

impl Replica {
    #[must_use]
    pub fn me(&self) -> Holder {
        self.me
    }

    /// The state that was published last.
    #[must_use]
    pub fn gate_state(&self) -> GateState {
        self.published
    }

    #[must_use]
    pub fn role(&self) -> Role {
        match self.published.phase {
            Phase::Primary => Role::Primary,
            Phase::Pending | Phase::Frozen => Role::Handover,
            Phase::Copy => Role::Copy,
            Phase::Retired => Role::Retired,
            Phase::Idle if self.follow.accepted().is_some() => Role::Copy,
            Phase::Idle => Role::Idle,
        }
    }

    /// Whether the ring, as known here, has this process in the in-sync set.
    #[must_use]
    pub fn is_in_sync(&self) -> bool {
        let shard = self.view.as_ref().and_then(|ring| ring.shards.get(&self.shard_id));
        shard.is_some_and(|shard| shard.holds(self.me))
    }

    /// The last record held.
    #[must_use]
    pub fn position(&self) -> Position {
        self.log.position()
    }

    /// Where the epochs of the held log began. Travels at the end of a walk.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.log.history
    }

    #[must_use]
    pub fn sync_state(&self) -> SyncState {
        match self.follow.stream.map(|stream| stream.stage) {
            None => SyncState::None,
            Some(Stage::Asked) => SyncState::Asked,
            Some(Stage::Clearing | Stage::Walking) => SyncState::Walking,
            Some(Stage::Following) => SyncState::Following,
        }
    }

    /// Whom this member follows, and in which epoch it accepted the stream.
    #[must_use]
    pub fn following(&self) -> Option<(Holder, ShardEpoch)> {
        self.follow.accepted().map(|stream| (stream.primary, stream.epoch))
    }

    /// How many records behind its primary this copy is, as far as it knows; 0 at the primary.
    #[must_use]
    pub fn lag_records(&self) -> u64 {
        self.follow.accepted().map_or(0, |stream| stream.primary_end.0.saturating_sub(self.log.end.0))
    }

    /// As primary, each copy that follows or should follow.
    #[must_use]
    pub fn copies(&self) -> Vec<CopyStatus> {
        let Some(books) = &self.books else { return Vec::new() };
        let shard = self.view.as_ref().and_then(|ring| ring.shards.get(&self.shard_id));
        let others = books.copies.iter().filter(|(member, _)| **member != self.me.member);
        others
            .map(|(member, book)| {
                let copy = Holder { member: *member, boot: book.boot };
                let seq = book.acked.unwrap_or_default();
                CopyStatus {
                    copy,
                    acknowledged: Position { epoch: self.log.history.epoch_at(seq).unwrap_or_default(), seq },
                    lag_records: self.log.end.0.saturating_sub(seq.0),
                    in_sync: shard.is_some_and(|shard| shard.holds(copy)),
                }
            })
            .collect()
    }

    /// As primary, how many copies acknowledged everything up to `seq` in this epoch (WAIT).
    #[must_use]
    pub fn copies_holding(&self, seq: Seq) -> usize {
        self.books.as_ref().map_or(0, |books| books.holding(seq))
    }
}
