//! A machine's disk: a few named files that outlive processes.
//!
//! What was synced stays. What was under way when the process died may be there in part: an append torn at any byte, a
//! replacement whole or not at all. A lost disk comes back empty. A disk that lies about syncing is not simulated: the
//! fault model excludes it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringmaster_node::env::Disk;
use tokio::sync::oneshot;

/// How long a sync takes, and how long a slow one does, in ms.
const SYNC_MS: std::ops::RangeInclusive<u64> = 1..=2;
const SLOW_SYNC_MS: std::ops::RangeInclusive<u64> = 10..=60;

/// A handle on one disk. It belongs to the machine; processes come and go.
#[derive(Clone, Debug)]
pub struct SimDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    files: BTreeMap<String, Vec<u8>>,
    /// Not synced yet, oldest first. They end in this order.
    under_way: VecDeque<Write>,
    next: u64,
    slow_per_mille: u32,
    random: StdRng,
}

#[derive(Debug)]
struct Write {
    number: u64,
    file: String,
    bytes: Vec<u8>,
    replaces: bool,
}

impl SimDisk {
    #[must_use]
    pub fn new(seed: u64, slow_per_mille: u32) -> Self {
        let inner = Inner {
            files: BTreeMap::new(),
            under_way: VecDeque::new(),
            next: 0,
            slow_per_mille,
            random: StdRng::seed_from_u64(seed),
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// The process died: what it had under way is there in part.
    pub fn crash(&self) {
        let mut inner = self.inner.lock();
        let under_way: Vec<Write> = inner.under_way.drain(..).collect();
        for write in under_way {
            if write.replaces {
                if inner.random.gen_bool(0.5) {
                    inner.files.insert(write.file, write.bytes);
                }
                continue;
            }
            let kept = inner.random.gen_range(0..=write.bytes.len());
            let torn = kept < write.bytes.len();
            inner.files.entry(write.file).or_default().extend(write.bytes.iter().take(kept));
            if torn {
                // What comes after a torn write never reached the disk.
                break;
            }
        }
    }

    /// The disk is gone; the machine gets an empty one.
    pub fn lose(&self) {
        let mut inner = self.inner.lock();
        inner.files.clear();
        inner.under_way.clear();
    }

    fn begin(&self, file: &str, bytes: Vec<u8>, replaces: bool) -> oneshot::Receiver<()> {
        let (done, synced) = oneshot::channel();
        let mut inner = self.inner.lock();
        let number = inner.next;
        inner.next += 1;
        inner.under_way.push_back(Write { number, file: file.to_owned(), bytes, replaces });
        let slow = inner.random.gen_range(0..1_000) < inner.slow_per_mille;
        let took_ms = inner.random.gen_range(if slow { SLOW_SYNC_MS } else { SYNC_MS });
        drop(inner);
        // The kernel goes on with a write whose caller has lost interest.
        let disk = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(took_ms)).await;
            disk.finish_through(number);
            // The caller may have lost interest.
            let _ = done.send(());
        });
        synced
    }

    /// This write is durable, and so are those before it.
    fn finish_through(&self, number: u64) {
        let mut inner = self.inner.lock();
        while inner.under_way.front().is_some_and(|write| write.number <= number) {
            let Some(write) = inner.under_way.pop_front() else { return };
            if write.replaces {
                inner.files.insert(write.file, write.bytes);
            } else {
                inner.files.entry(write.file).or_default().extend(write.bytes);
            }
        }
    }
}

impl Disk for SimDisk {
    async fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.inner.lock().files.get(name).cloned())
    }

    async fn replace(&self, name: &str, bytes: Vec<u8>) -> io::Result<()> {
        self.begin(name, bytes, true).await.map_err(io::Error::other)
    }

    async fn append(&self, name: &str, bytes: Vec<u8>) -> io::Result<()> {
        self.begin(name, bytes, false).await.map_err(io::Error::other)
    }
}
