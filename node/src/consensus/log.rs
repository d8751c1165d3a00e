//! Raft's durable state in one file: who this voter is, its vote, its log, and the last snapshot of the ring.
//!
//! The file is a list of records, each with its length and CRC32. A change is appended and synced before it is
//! answered; a snapshot rewrites the file. A torn record at the end is a change that was never answered, and is cut off
//! when the file is read. The voter's identity is the first record: it dies with the disk, and a voter that lost its
//! disk comes back as another one.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::Arc;

use openraft::storage::{LogFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{Entry, LogId, OptionalSend, SnapshotMeta, StorageError, StorageIOError, Vote};
use parking_lot::Mutex;
use ringmaster_ring::{ClusterUuid, Generation, VoterId};
use serde::{Deserialize, Serialize};

use super::{RaftNode, Types};
use crate::env::Disk;

/// The file's name in the data directory.
const FILE: &str = "raft.log";

/// Which voter of which ring the file belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoreIdentity {
    pub(crate) cluster: ClusterUuid,
    pub(crate) generation: Generation,
    pub(crate) voter: VoterId,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Record {
    Identity(StoreIdentity),
    Vote(Vote<u64>),
    Append(Vec<Entry<Types>>),
    /// Takes back the entries from this index on.
    Truncate(u64),
    /// Forgets the entries up to this one.
    Purge(LogId<u64>),
    Snapshot(StoredSnapshot),
}

/// A snapshot as the file holds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StoredSnapshot {
    pub(crate) meta: SnapshotMeta<u64, RaftNode>,
    pub(crate) data: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the data directory cannot be used: {0}")]
    Disk(#[from] io::Error),
    #[error("the data belongs to cluster {cluster} generation {generation}: it is left untouched")]
    Foreign { cluster: ClusterUuid, generation: Generation },
    #[error("the log's file is damaged at byte {offset}")]
    Damaged { offset: usize },
    #[error("the {what} in the log's file is whole, but another version of this program wrote it: run that version")]
    OtherFormat { what: &'static str },
}

#[derive(Debug, Default)]
struct Contents {
    vote: Option<Vote<u64>>,
    entries: BTreeMap<u64, Entry<Types>>,
    purged: Option<LogId<u64>>,
    snapshot: Option<StoredSnapshot>,
}

/// One handle on the store; clones share it.
#[derive(Debug)]
pub(crate) struct Store<D> {
    disk: D,
    identity: StoreIdentity,
    contents: Arc<Mutex<Contents>>,
    /// Held while the file is written, so that records stand in the order of their changes.
    writing: Arc<tokio::sync::Mutex<()>>,
}

impl<D: Clone> Clone for Store<D> {
    fn clone(&self) -> Self {
        Self {
            disk: self.disk.clone(),
            identity: self.identity,
            contents: Arc::clone(&self.contents),
            writing: Arc::clone(&self.writing),
        }
    }
}

impl<D: Disk> Store<D> {
    /// Opens the file, or makes it with the identity `fresh`.
    pub(crate) async fn open(disk: D, fresh: StoreIdentity) -> Result<Self, StoreError> {
        let bytes = disk.read(FILE).await?.unwrap_or_default();
        let (records, whole) = decode_all(&bytes)?;
        let mut contents = Contents::default();
        let mut identity = None;
        for record in records {
            contents.replay(record, &mut identity);
        }
        let identity = match identity {
            Some(found) if (found.cluster, found.generation) != (fresh.cluster, fresh.generation) => {
                return Err(StoreError::Foreign { cluster: found.cluster, generation: found.generation });
            }
            Some(found) => found,
            None => fresh,
        };
        let store = Self { disk, identity, contents: Arc::new(Mutex::new(contents)), writing: Arc::default() };
        if whole < bytes.len() || bytes.is_empty() {
            store.rewrite().await?;
        }
        Ok(store)
    }

    pub(crate) fn identity(&self) -> StoreIdentity {
        self.identity
    }

    /// Whether the voter took part in anything before.
    pub(crate) fn is_blank(&self) -> bool {
        let contents = self.contents.lock();
        contents.vote.is_none() && contents.entries.is_empty() && contents.snapshot.is_none()
    }

    /// The vote as it is on disk, or about to be: what this voter has answered to anybody is never newer.
    pub(crate) fn vote(&self) -> Option<Vote<u64>> {
        self.contents.lock().vote
    }

    pub(crate) fn snapshot(&self) -> Option<StoredSnapshot> {
        self.contents.lock().snapshot.clone()
    }

    /// Keeps a snapshot, durably, in place of the last one.
    pub(crate) async fn keep_snapshot(&self, snapshot: StoredSnapshot) -> io::Result<()> {
        self.contents.lock().snapshot = Some(snapshot);
        self.rewrite().await
    }

    async fn write(&self, record: Record) -> io::Result<()> {
        let _order = self.writing.lock().await;
        let bytes = encode(&record)?;
        self.contents.lock().replay(record, &mut None);
        self.disk.append(FILE, bytes).await
    }

    async fn rewrite(&self) -> io::Result<()> {
        let _order = self.writing.lock().await;
        let records = self.contents.lock().records(self.identity);
        let mut bytes = Vec::new();
        for record in &records {
            bytes.extend(encode(record)?);
        }
        self.disk.replace(FILE, bytes).await
    }
}

impl Contents {
    fn replay(&mut self, record: Record, identity: &mut Option<StoreIdentity>) {
        match record {
            Record::Identity(found) => *identity = Some(found),
            Record::Vote(vote) => self.vote = Some(vote),
            Record::Append(entries) => self.entries.extend(entries.into_iter().map(|e| (e.log_id.index, e))),
            Record::Truncate(from) => drop(self.entries.split_off(&from)),
            Record::Purge(upto) => {
                self.entries = self.entries.split_off(&(upto.index + 1));
                self.purged = Some(upto);
            }
            Record::Snapshot(snapshot) => self.snapshot = Some(snapshot),
        }
    }

    fn records(&self, identity: StoreIdentity) -> Vec<Record> {
        let mut records = vec![Record::Identity(identity)];
        records.extend(self.vote.map(Record::Vote));
        records.extend(self.snapshot.clone().map(Record::Snapshot));
        records.extend(self.purged.map(Record::Purge));
        if !self.entries.is_empty() {
            records.push(Record::Append(self.entries.values().cloned().collect()));
        }
        records
    }
}

fn encode(record: &Record) -> io::Result<Vec<u8>> {
    let body = postcard::to_extend(record, Vec::new()).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(crc32fast::hash(&body).to_le_bytes());
    bytes.extend(body);
    Ok(bytes)
}

/// The whole records, and how many bytes they take. What follows them is a torn tail, unless whole records follow it. A
/// whole record that means nothing here is no torn tail: it may be a vote that was given.
fn decode_all(bytes: &[u8]) -> Result<(Vec<Record>, usize), StoreError> {
    let mut records = Vec::new();
    let mut offset = 0;
    while let Some(rest) = bytes.get(offset..).filter(|rest| !rest.is_empty()) {
        let Some(body) = body_of(rest) else {
            // A torn write cannot be followed by anything: it was the last. After a loss of power it may be zeros.
            let claimed = rest.first_chunk::<4>().map(|head| u32::from_le_bytes(*head) as usize + 8);
            let is_last = claimed.is_none_or(|claimed| claimed >= rest.len()) || rest.iter().all(|byte| *byte == 0);
            return if is_last { Ok((records, offset)) } else { Err(StoreError::Damaged { offset }) };
        };
        records.push(postcard::from_bytes(body).map_err(|_| StoreError::OtherFormat { what: "record" })?);
        offset += 8 + body.len();
    }
    Ok((records, offset))
}

/// The body of the first record, if all of it is there. None is empty.
fn body_of(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let body = rest.get(..u32::from_le_bytes(*length) as usize).filter(|body| !body.is_empty())?;
    (crc32fast::hash(body) == u32::from_le_bytes(*crc)).then_some(body)
}

fn failed(error: &io::Error) -> StorageError<u64> {
    StorageIOError::write_logs(error).into()
}

impl<D: Disk> RaftLogReader<Types> for Store<D> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<Types>>, StorageError<u64>> {
        Ok(self.contents.lock().entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }
}

impl<D: Disk> RaftLogStorage<Types> for Store<D> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError<u64>> {
        let contents = self.contents.lock();
        let last = contents.entries.last_key_value().map(|(_, entry)| entry.log_id).or(contents.purged);
        Ok(LogState { last_purged_log_id: contents.purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError<u64>> {
        self.write(Record::Vote(*vote)).await.map_err(|e| failed(&e))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError<u64>> {
        Ok(self.contents.lock().vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let written = self.write(Record::Append(entries.into_iter().collect())).await;
        callback.log_io_completed(written);
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId<u64>) -> Result<(), StorageError<u64>> {
        self.write(Record::Truncate(log_id.index)).await.map_err(|e| failed(&e))
    }

    async fn purge(&mut self, log_id: LogId<u64>) -> Result<(), StorageError<u64>> {
        self.write(Record::Purge(log_id)).await.map_err(|e| failed(&e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record> {
        (0..3).map(|term| Record::Vote(Vote::new(term, 7))).collect()
    }

    #[test]
    fn a_torn_tail_is_cut_off_wherever_it_tears() {
        let mut bytes = Vec::new();
        for record in &records() {
            bytes.extend(encode(record).unwrap());
        }
        let whole = bytes.len();
        let last = whole / 3;
        for length in whole - last + 1..whole {
            let (found, kept) = decode_all(&bytes[..length]).unwrap();
            assert_eq!((found.len(), kept), (2, whole - last), "cut at {length}");
        }
    }

    #[test]
    fn damage_before_the_last_record_is_an_error() {
        let mut bytes = Vec::new();
        for record in &records() {
            bytes.extend(encode(record).unwrap());
        }
        bytes[9] ^= 0xff;
        assert!(matches!(decode_all(&bytes), Err(StoreError::Damaged { offset: 0 })));
    }

    #[test]
    fn zeros_after_the_last_record_are_a_torn_tail() {
        let mut bytes = encode(&records()[0]).unwrap();
        let whole = bytes.len();
        for zeros in [1, 7, 8, 500] {
            bytes.resize(whole + zeros, 0);
            let (found, kept) = decode_all(&bytes).unwrap();
            assert_eq!((found.len(), kept), (1, whole), "{zeros} zeros");
        }
    }

    #[test]
    fn a_whole_record_of_another_format_is_an_error_and_no_torn_tail() {
        let mut bytes = encode(&records()[0]).unwrap();
        let body = [0xfe, 1, 2, 3];
        bytes.extend(4_u32.to_le_bytes());
        bytes.extend(crc32fast::hash(&body).to_le_bytes());
        bytes.extend(body);
        assert!(matches!(decode_all(&bytes), Err(StoreError::OtherFormat { .. })));
    }
}
