//! Raft's state machine: the ring. Every applied entry leads to a new document, which is published at once.

use std::io::Cursor;
use std::sync::Arc;

use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{
    Entry, EntryPayload, LogId, OptionalSend, RaftSnapshotBuilder, SnapshotMeta, StorageError, StorageIOError,
    StoredMembership,
};
use ringmaster_ring::{Command, Rejection, Ring, RingEpoch, VoterId};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::log::{Store, StoreError, StoredSnapshot};
use super::recent::RecentRings;
use super::{Outcome, RaftNode, Types};
use crate::env::Disk;

/// The ring as it is after the last applied entry.
type Newest = watch::Receiver<Option<Arc<Ring>>>;

/// How a committed command leads to the next ring. Production applies the ring's rules; the simulator can drop one.
pub type ApplyFn = fn(&Ring, &Command) -> Result<Ring, Rejection>;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    last_applied: Option<LogId<u64>>,
    membership: StoredMembership<u64, RaftNode>,
    ring: Option<Arc<Ring>>,
}

#[derive(Debug)]
pub(crate) struct StateMachine<D> {
    store: Store<D>,
    state: State,
    published: watch::Sender<Option<Arc<Ring>>>,
    recent: RecentRings,
    apply: ApplyFn,
}

impl<D: Disk> StateMachine<D> {
    /// Starts from the snapshot in the store, if there is one.
    pub(crate) fn open(store: Store<D>, recent: RecentRings, apply: ApplyFn) -> Result<(Self, Newest), StoreError> {
        let stored = store.snapshot().map(|snapshot| postcard::from_bytes::<State>(&snapshot.data));
        // An empty ring in its place would come with a log that is purged.
        let state = stored.transpose().map_err(|_| StoreError::OtherFormat { what: "snapshot" })?.unwrap_or_default();
        let (published, ring) = watch::channel(state.ring.clone());
        Ok((Self { store, state, published, recent, apply }, ring))
    }

    fn apply_entry(&mut self, entry: Entry<Types>) -> Outcome {
        self.state.last_applied = Some(entry.log_id);
        let epoch = self.state.ring.as_ref().map_or(RingEpoch(0), |ring| ring.epoch);
        match entry.payload {
            EntryPayload::Blank => Outcome(Ok(epoch)),
            EntryPayload::Normal(proposal) => {
                let term = entry.log_id.leader_id.term;
                if proposal.if_term.is_some_and(|decided| decided != term) {
                    return Outcome(Err(Rejection::StaleLeadership));
                }
                let next = match (&self.state.ring, &proposal.command) {
                    (None, Command::Form(formation)) => Ring::form(formation).map(|ring| self.with_voters(&ring)),
                    (None, _) => Err(Rejection::NotFormed),
                    (Some(ring), command) => (self.apply)(ring, command),
                };
                Outcome(next.map(|ring| self.publish(ring)))
            }
            EntryPayload::Membership(membership) => {
                self.state.membership = StoredMembership::new(Some(entry.log_id), membership);
                let next = self.state.ring.as_ref().map(|ring| self.with_voters(ring));
                Outcome(Ok(next.map_or(epoch, |ring| self.publish(ring))))
            }
        }
    }

    fn with_voters(&self, ring: &Ring) -> Ring {
        ring.with_voters(self.state.membership.membership().voter_ids().map(VoterId).collect())
    }

    fn publish(&mut self, ring: Ring) -> RingEpoch {
        let epoch = ring.epoch;
        let ring = Arc::new(ring);
        self.state.ring = Some(Arc::clone(&ring));
        self.recent.push(Arc::clone(&ring));
        self.published.send_replace(Some(ring));
        epoch
    }

    #[allow(clippy::result_large_err, reason = "Raft's own error")]
    fn stored_snapshot(&self) -> Result<StoredSnapshot, StorageError<u64>> {
        let data = postcard::to_extend(&self.state, Vec::new())
            .map_err(|error| StorageError::from(StorageIOError::read_state_machine(&error)))?;
        let id = self.state.last_applied.map_or_else(|| "empty".to_owned(), |log_id| log_id.to_string());
        let meta = SnapshotMeta {
            last_log_id: self.state.last_applied,
            last_membership: self.state.membership.clone(),
            snapshot_id: id,
        };
        Ok(StoredSnapshot { meta, data })
    }
}

impl<D: Disk> RaftStateMachine<Types> for StateMachine<D> {
    type SnapshotBuilder = SnapshotBuilder<D>;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<u64>>, StoredMembership<u64, RaftNode>), StorageError<u64>> {
        Ok((self.state.last_applied, self.state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcome>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        Ok(entries.into_iter().map(|entry| self.apply_entry(entry)).collect())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder<D> {
        SnapshotBuilder { store: self.store.clone(), snapshot: self.stored_snapshot() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError<u64>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, RaftNode>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError<u64>> {
        let data = snapshot.into_inner();
        let state: State = postcard::from_bytes(&data)
            .map_err(|error| StorageIOError::read_snapshot(Some(meta.signature()), &error))?;
        self.store
            .keep_snapshot(StoredSnapshot { meta: meta.clone(), data })
            .await
            .map_err(|error| StorageIOError::write_snapshot(Some(meta.signature()), &error))?;
        self.state = state;
        self.published.send_replace(self.state.ring.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError<u64>> {
        Ok(self.store.snapshot().map(into_snapshot))
    }
}

fn into_snapshot(stored: StoredSnapshot) -> Snapshot<Types> {
    Snapshot { meta: stored.meta, snapshot: Box::new(Cursor::new(stored.data)) }
}

/// Keeps the state as it was when the builder was made.
#[derive(Debug)]
pub(crate) struct SnapshotBuilder<D> {
    store: Store<D>,
    snapshot: Result<StoredSnapshot, StorageError<u64>>,
}

impl<D: Disk> RaftSnapshotBuilder<Types> for SnapshotBuilder<D> {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError<u64>> {
        let snapshot = self.snapshot.clone()?;
        self.store
            .keep_snapshot(snapshot.clone())
            .await
            .map_err(|error| StorageIOError::write_snapshot(Some(snapshot.meta.signature()), &error))?;
        Ok(into_snapshot(snapshot))
    }
}
