//! The engine: everything above, behind one type that all serving threads share.

use ringmaster_ring::{Position, Seq, Slot};

use crate::log::{Batch, ShardLog};
use crate::record::BadRecord;
use crate::resp::ReplyBuf;
use crate::table::{CommandSpec, Handler};
use crate::time::UnixMs;
use crate::walk::{Cursor, Walked};

/// What an engine is made with.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Keys the hash of every table, so that clients cannot make keys collide. Members between which a walk may be resumed share it.
    pub hash_seed: [u64; 2],
    /// 0 for no limit.
    pub maxmemory_bytes: u64,
    pub eviction: Eviction,
    /// How many bytes of records are kept for copies to read.
    pub log_bytes_max: usize,
    /// With it off, the keys of one command may be in several slots.
    pub cluster_mode: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            hash_seed: [0; 2],
            maxmemory_bytes: 0,
            eviction: Eviction::NoEviction,
            log_bytes_max: 64 << 20,
            cluster_mode: true,
        }
    }
}

/// What goes when `maxmemory` is reached: Redis's `maxmemory-policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Eviction {
    #[default]
    NoEviction,
    AllKeysLru,
    AllKeysLfu,
    AllKeysRandom,
    VolatileLru,
    VolatileLfu,
    VolatileRandom,
    VolatileTtl,
}

/// What an execution wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// What one execution is given.
#[derive(Clone, Copy)]
pub struct Ctx<'a> {
    pub now: UnixMs,
    pub db: u8,
    /// Asked while the lanes are held, before any effect. `false`: nothing is done, nothing is replied.
    pub permit: &'a dyn Fn(Access) -> bool,
}

impl std::fmt::Debug for Ctx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ctx").field("now", &self.now).field("db", &self.db).finish_non_exhaustive()
    }
}

/// What came of an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executed {
    /// The reply, which may be an error, is in the buffer. It must be held back until `after`, the highest sequence of the lanes that
    /// were touched (0: none), is replicated. `wrote`: the data changed.
    Replied { after: Seq, wrote: bool },
    /// The permit was refused. Nothing happened and nothing was replied.
    NotPermitted,
}

/// Data that is in no keyspace any more. Dropping it takes time in proportion to its size: do that on a thread that serves nobody.
#[derive(Debug, Default)]
#[must_use = "drop it on a thread that serves nobody"]
pub struct Dropped {}

/// The data of one shard's member. Shared by all serving threads as an `Arc`.
#[derive(Debug)]
pub struct Engine {
    log: ShardLog,
}

impl Engine {
    #[must_use]
    pub fn new(config: EngineConfig) -> Self {
        Self { log: ShardLog::new(config.log_bytes_max) }
    }

    pub fn log(&self) -> &ShardLog {
        &self.log
    }

    /// Executes one command; `args[0]` is its name. Its keys were already found to be in slots owned here (in one slot, in cluster mode).
    ///
    /// Arity is checked here too. Appends at most one record for the command, and one each for what had to be evicted first.
    pub fn execute(&self, spec: &CommandSpec, args: &[&[u8]], ctx: &Ctx<'_>, reply: &mut ReplyBuf) -> Executed {
        let _ = (args, ctx);
        match spec.handler {
            Handler::Data(_) | Handler::Whole(_) | Handler::Session(_) => reply.error("ERR not served yet"),
        }
        Executed::Replied { after: Seq(0), wrote: false }
    }

    /// Takes and releases every lane once. After it, whoever changed the permit before the call knows that no execution under the old
    /// permit is still running. Returns the log's end.
    pub fn barrier(&self) -> Position {
        self.log.end()
    }

    /// Applies what a primary sent, in order, and adopts it into the log. The batch must follow on the log's end.
    ///
    /// On an error some of the batch may have been applied; the log's end did not move. The copy must be made anew.
    pub fn apply(&self, batch: &Batch) -> Result<(), BadRecord> {
        self.log.adopt(batch);
        Ok(())
    }

    /// Deletes at most about `budget` expired keys, as records; primaries only. Returns how many went.
    pub fn expire_cycle(&self, now: UnixMs, budget: usize, permit: &dyn Fn(Access) -> bool) -> usize {
        let _ = (now, budget, permit);
        0
    }

    /// Evicts at most about `budget` keys while memory is over its limit, as records; primaries only. Returns how many went.
    pub fn evict_cycle(&self, now: UnixMs, budget: usize, permit: &dyn Fn(Access) -> bool) -> usize {
        let _ = (now, budget, permit);
        0
    }

    /// Keys in one database, those that have expired but were not deleted yet included (as DBSIZE).
    pub fn dbsize(&self, db: u8) -> u64 {
        u64::from(db) * 0
    }

    pub fn count_keys_in_slot(&self, slot: Slot) -> u64 {
        let _ = slot;
        0
    }

    pub fn keys_in_slot(&self, slot: Slot, count: usize) -> Vec<Vec<u8>> {
        let _ = (slot, count);
        Vec::new()
    }

    /// A digest of every (database, key, value, expiry) of a slot, whatever their order: equal slots have equal digests on all members.
    pub fn slot_digest(&self, slot: Slot) -> u64 {
        let _ = slot;
        0
    }

    /// What the data is reckoned to occupy.
    pub fn used_bytes(&self) -> u64 {
        0
    }

    pub fn key_count(&self) -> u64 {
        0
    }

    /// Discards all data without a record, and the log. Its end is then position 0:0: call [`ShardLog::reset`] if it is another.
    pub fn clear(&self) -> Dropped {
        self.log.reset(Position::default());
        Dropped {}
    }

    /// Large values and flushed tables that commands took out since the last call.
    pub fn take_dropped(&self) -> Dropped {
        Dropped {}
    }

    /// 0 for no limit.
    pub fn set_maxmemory(&self, maxmemory_bytes: u64, eviction: Eviction) {
        let _ = (maxmemory_bytes, eviction);
    }

    /// Writes the entries from the cursor on, at least one if there is any and about `bytes_max` of them, behind what `out` holds.
    ///
    /// Holds one lane, and never goes beyond it: an empty lane is a chunk of its own. See the `walk` module for the loop.
    pub fn walk(&self, cursor: &Cursor, bytes_max: usize, out: &mut Vec<u8>) -> Walked {
        let _ = (cursor, bytes_max, out);
        Walked { next: Cursor::end(), at: self.log.end(), entries: 0 }
    }

    /// The batch with only those changes that are behind the cursor; what is ahead of it the walk will bring. Numbers stay as they are.
    pub fn filter(&self, batch: &Batch, cursor: &Cursor) -> Result<Batch, BadRecord> {
        let _ = cursor;
        Ok(batch.clone())
    }

    /// Applies a chunk that [`walk`](Self::walk) wrote.
    pub fn apply_walk(&self, chunk: &[u8]) -> Result<(), BadRecord> {
        let _ = chunk;
        Ok(())
    }
}
