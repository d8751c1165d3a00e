//! The engine: lanes behind their locks, the log, and one way to execute.
//!
//! The order of locks: lanes by number, then the log. Nobody waits for a lane while holding a higher one; an evictor that wants another
//! lane only tries.

mod blocking;
mod config;
mod copy;
mod debug;
mod observe;
mod script;
mod transaction;
mod txn;
mod upkeep;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ringmaster_ring::{Position, Seq, Slot};

use crate::commands::CommandError;
use crate::keyspace::{Garbage, Key, LANE_COUNT, Lane, SLOTS_PER_LANE, Seed, SlotTable, lane_of, prefetch};
use crate::log::ShardLog;
use crate::resp::ReplyBuf;
use crate::table::{CommandSpec, Flags, Handler, Keys, KeysError};
use crate::time::UnixMs;

pub(crate) use blocking::Wait;
pub use blocking::{Attempt, Served, Waiter};
pub use config::{EngineConfig, Eviction, UnknownEviction};
pub(crate) use observe::Observed;
pub use observe::{Cause, Changed, What};
pub(crate) use script::Scripts;
pub use script::{Called, ScriptCall, ScriptFn, ScriptId, ScriptTxn, script_id};
pub use transaction::{Parts, Queued, QueuedScript, QueuedScriptFn, SessionFn, Watch};
pub(crate) use txn::{HeldLane, Txn};

/// How a request waits for a lane while scripts run: so many times it only lets others run, then it sleeps for so long each time.
const LOOKS_BEFORE_SLEEP: u32 = 64;
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_micros(50);

/// How many keys are asked for at once.
const PREFETCH_MAX: usize = 32;
/// What is smaller than this is near in any case: processors have caches of a megabyte or two.
const NEAR_BYTES: u64 = 1 << 20;

/// Where a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    db: u8,
    slot: Slot,
    hash: u64,
}

impl Located {
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.slot
    }

    #[must_use]
    pub fn db(&self) -> u8 {
        self.db
    }
}

/// What an execution wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// Asked whether an execution may go on. It is called while lanes are held, so it must neither block nor call the engine.
pub type Permit<'a> = &'a dyn Fn(Access) -> bool;

/// What one execution is given.
#[derive(Clone, Copy)]
pub struct Ctx<'a> {
    pub now: UnixMs,
    pub db: u8,
    /// Asked while the lanes are held, before any effect. `false`: nothing is done, nothing is replied.
    pub permit: Permit<'a>,
}

impl fmt::Debug for Ctx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { now, db, permit: _ } = self;
        f.debug_struct("Ctx").field("now", now).field("db", db).finish_non_exhaustive()
    }
}

/// What came of an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executed {
    /// The reply, which may be an error, is in the buffer. It must be held back until `after`, the highest sequence of the lanes that
    /// were touched (0: none), is replicated. `wrote`: records were appended, be it for keys that were evicted.
    Replied { after: Seq, wrote: bool },
    /// The permit was refused. Nothing happened and nothing was replied.
    NotPermitted,
}

/// Data that is in no keyspace any more. Dropping it takes time in proportion to its size: do that on a thread that serves nobody.
#[derive(Debug, Default)]
#[must_use = "drop it on a thread that serves nobody"]
pub struct Dropped {
    garbage: Garbage,
}

impl Dropped {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.garbage.is_empty()
    }
}

/// The data of one shard's member. Shared by all serving threads as an `Arc`.
pub struct Engine {
    pub(crate) seed: Seed,
    lanes: Vec<Mutex<Lane>>,
    /// Where each lane's tables lie.
    tables_at: Vec<usize>,
    log: ShardLog,
    /// The sum over all lanes, brought up to date whenever a lane is let go.
    used_bytes: AtomicU64,
    /// 0 for no limit.
    maxmemory_bytes: AtomicU64,
    /// The latest time that anyone told, for copies: see [`Engine::set_now`].
    now_ms: AtomicU64,
    /// Where the next cycle of expiry and of eviction begins.
    expire_lane: AtomicUsize,
    evict_lane: AtomicUsize,
    garbage: Mutex<Garbage>,
    pub(crate) scripts: Scripts,
    pub(crate) observed: Observed,
    /// Expired keys are deleted by cycles, and not only when somebody asks for them.
    expires_actively: AtomicBool,
    cluster_mode: bool,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("log", &self.log).field("used_bytes", &self.used_bytes).finish_non_exhaustive()
    }
}

impl Engine {
    #[must_use]
    pub fn new(config: EngineConfig) -> Self {
        let EngineConfig { hash_seed, maxmemory_bytes, eviction, log_bytes_max, cluster_mode } = config;
        let seed = Seed(hash_seed);
        let lanes: Vec<Lane> = (0..LANE_COUNT).map(|number| Lane::new(seed, eviction, number)).collect();
        Self {
            seed,
            tables_at: lanes.iter().map(Lane::tables_at).collect(),
            lanes: lanes.into_iter().map(Mutex::new).collect(),
            log: ShardLog::new(log_bytes_max),
            used_bytes: AtomicU64::new(0),
            maxmemory_bytes: AtomicU64::new(maxmemory_bytes),
            now_ms: AtomicU64::new(0),
            expire_lane: AtomicUsize::new(0),
            evict_lane: AtomicUsize::new(0),
            garbage: Mutex::default(),
            scripts: Scripts::default(),
            observed: Observed::default(),
            expires_actively: AtomicBool::new(true),
            cluster_mode,
        }
    }

    pub fn log(&self) -> &ShardLog {
        &self.log
    }

    /// Executes one command; `args[0]` is its name. Its keys were already found to be in slots owned here (in one slot, in cluster mode).
    ///
    /// Arity is checked here too. Appends at most one record for the command, and one each for what had to be evicted first.
    pub fn execute(&self, spec: &CommandSpec, args: &[&[u8]], ctx: &Ctx<'_>, reply: &mut ReplyBuf) -> Executed {
        self.execute_in(None, spec, args, ctx, reply)
    }

    /// The same for a caller who has found out the slot that all keys of the command are in.
    pub fn execute_in(
        &self,
        slot: Option<Slot>,
        spec: &CommandSpec,
        args: &[&[u8]],
        ctx: &Ctx<'_>,
        reply: &mut ReplyBuf,
    ) -> Executed {
        self.execute_at(slot, None, spec, args, ctx, reply)
    }

    /// The same for a caller who has also found out where the first argument behind the name is, if that is a key.
    pub fn execute_at(
        &self,
        slot: Option<Slot>,
        first: Option<Located>,
        spec: &CommandSpec,
        args: &[&[u8]],
        ctx: &Ctx<'_>,
        reply: &mut ReplyBuf,
    ) -> Executed {
        let mut txn = match self.prepare(slot, spec, args, ctx, reply) {
            Ok(txn) => txn,
            Err(executed) => return executed,
        };
        txn.slot = slot;
        if let (Some(located), [_, key, ..]) = (first, args) {
            txn.know(key, located);
        }
        if self.attempt(spec, args, &mut txn, reply) { self.end(&mut txn) } else { Executed::NotPermitted }
    }

    /// Finds out where a key is, for all that is done with it.
    #[must_use]
    pub fn locate(&self, db: u8, key: &[u8]) -> Located {
        Located { db, slot: Slot::of_key(key), hash: self.seed.hash_key(db, key) }
    }

    /// Has what is needed to find these keys come nearer, for requests that are executed soon: each wait for memory is then one for all of
    /// them. Keys whose lanes are busy are left out.
    pub fn prefetch(&self, keys: impl Iterator<Item = Located>) {
        if self.used_bytes() < NEAR_BYTES {
            return;
        }
        let mut places = [None; PREFETCH_MAX];
        for (place, Located { slot, hash, .. }) in places.iter_mut().zip(keys) {
            *place = Some((slot, hash));
            if let Some(tables) = self.tables_at.get(lane_of(slot)) {
                let offset = usize::from(slot.number()) % SLOTS_PER_LANE * size_of::<SlotTable>();
                prefetch(std::ptr::without_provenance::<SlotTable>(tables.wrapping_add(offset)));
            }
        }
        let visit = |look: fn(&Lane, Slot, u64)| {
            for (slot, hash) in places.iter().map_while(|place| *place) {
                if let Some(Ok(lane)) = self.lanes.get(lane_of(slot)).map(Mutex::try_lock) {
                    look(&lane, slot, hash);
                }
            }
        };
        visit(Lane::prefetch_place);
        visit(Lane::prefetch_entry);
    }

    /// Takes the lanes of a command, unless it is refused before.
    #[inline(always)]
    fn prepare<'e>(
        &'e self,
        slot: Option<Slot>,
        spec: &CommandSpec,
        args: &[&[u8]],
        ctx: &Ctx<'e>,
        reply: &mut ReplyBuf,
    ) -> Result<Txn<'e>, Executed> {
        let refused = |reply: &mut ReplyBuf, error: &CommandError| {
            reply.error(&error.to_string());
            Executed::Replied { after: Seq(0), wrote: false }
        };
        if !spec.accepts(args.len()) {
            return Err(refused(reply, &CommandError::Arity(spec.name)));
        }
        // Which keys are meant cannot be told. The command itself knows best what is wrong with its arguments; should it think that
        // nothing is, it may touch any key.
        let lanes = match slot {
            Some(slot) => Lanes::One(lane_of(slot)),
            None => self.lanes_of(spec, args).unwrap_or_else(|_| Lanes::all()),
        };
        let txn = self.begin_unless_busy(lanes, ctx).ok_or(Executed::NotPermitted)?;
        match access_of(spec) {
            Some(access) if txn.holds_lanes() && !(ctx.permit)(access) => Err(Executed::NotPermitted),
            _ => Ok(txn),
        }
    }

    /// Runs a command. Says whether it was permitted; if so the reply, which may be an error, is in the buffer.
    fn attempt(&self, spec: &CommandSpec, args: &[&[u8]], txn: &mut Txn<'_>, reply: &mut ReplyBuf) -> bool {
        let start = reply.len();
        let room = if spec.flags.has(Flags::DENYOOM) { self.make_room(txn, spec, args) } else { Ok(()) };
        match room.and_then(|()| run(spec, args, txn, reply)) {
            Ok(()) => {}
            Err(CommandError::NotPermitted) => {
                reply.truncate(start);
                return false;
            }
            Err(error) => {
                reply.truncate(start);
                reply.error(&error.to_string());
            }
        }
        true
    }

    /// Executes what EXEC found queued, as one record, unless a watched key has changed: then the reply is null.
    ///
    /// The commands' arity was checked when they were queued. An error of one is its reply, and the others go on.
    pub fn execute_transaction(
        &self,
        queued: &[Queued<'_>],
        watches: &[Watch],
        ctx: &Ctx<'_>,
        session: SessionFn<'_>,
        reply: &mut ReplyBuf,
    ) -> Executed {
        let mut without_data = |command: &Queued<'_>, reply: &mut ReplyBuf| session(command, reply);
        self.execute_transaction_with(
            queued,
            watches,
            ctx,
            &mut Parts { session: &mut without_data, script: None },
            reply,
        )
    }

    /// The same, with what executes scripts.
    pub fn execute_transaction_with(
        &self,
        queued: &[Queued<'_>],
        watches: &[Watch],
        ctx: &Ctx<'_>,
        parts: &mut Parts<'_>,
        reply: &mut ReplyBuf,
    ) -> Executed {
        let Parts { session, script } = parts;
        let runs_scripts = queued.iter().any(|command| command.spec.flags.has(Flags::SCRIPT));
        let _running = runs_scripts.then(|| script::Running::begin(&self.scripts));
        let mut numbers = Vec::new();
        for command in queued {
            if command.changes_scripts() {
                // A walk begins in this lane, and there takes all bodies with it.
                numbers.push(0);
            }
            match self.lanes_of(command.spec, command.args) {
                Ok(_) if command.spec.flags.has(Flags::SCRIPT) && !self.cluster_mode => numbers.extend(0..LANE_COUNT),
                Ok(Lanes::None) if access_of(command.spec).is_some() => numbers.extend(0..LANE_COUNT),
                Ok(lanes) => numbers.extend(lanes.numbers()),
                Err(_) => numbers.extend(0..LANE_COUNT),
            }
        }
        let writes =
            queued.iter().any(|command| access_of(command.spec) == Some(Access::Write) || command.changes_scripts());
        let Some(mut txn) = self.begin_unless_busy(Lanes::many(numbers), ctx) else { return Executed::NotPermitted };
        if txn.holds_lanes() && !(ctx.permit)(if writes { Access::Write } else { Access::Read }) {
            return Executed::NotPermitted;
        }
        if watches.iter().any(|watch| watch.has_changed(ctx.now)) {
            reply.null_array();
            return self.end(&mut txn);
        }
        if let Some(command) = queued.iter().find(|command| command.spec.flags.has(Flags::DENYOOM))
            && let Err(error) = self.make_room(&mut txn, command.spec, command.args)
        {
            reply.error(&format!("EXECABORT Transaction discarded because of: {error}"));
            return self.end(&mut txn);
        }
        reply.array(queued.len());
        for command in queued {
            if (command.spec.flags.has(Flags::SCRIPT) || command.is_about_scripts())
                && let Some(script) = script
            {
                script(QueuedScript { engine: self, txn: &mut txn }, command, reply);
                continue;
            }
            if matches!(command.spec.handler, Handler::Session(_)) {
                if let Some(db) = session(command, reply) {
                    txn.db = db;
                }
                continue;
            }
            let start = reply.len();
            if let Err(error) = run(command.spec, command.args, &mut txn, reply) {
                reply.truncate(start);
                reply.error(&error.to_string());
            }
        }
        self.end(&mut txn)
    }

    /// From now on notices any change of a key, for WATCH.
    pub fn watch(&self, db: u8, key: &[u8], now: UnixMs) -> Watch {
        let key = Key::new(self.seed, db, key);
        let changed = Arc::new(AtomicBool::new(false));
        let expires_at = match self.hold_unless_busy(lane_of(key.slot)) {
            Some(mut lane) => lane.watch(&key, &changed, now),
            // A script that takes long may be changing it.
            None => {
                changed.store(true, Ordering::Release);
                None
            }
        };
        Watch { changed, expires_at }
    }

    /// Takes and releases every lane once. After it, whoever changed the permit before the call knows that no execution under the old
    /// permit is still running. Returns the log's end.
    pub fn barrier(&self) -> Position {
        for number in 0..LANE_COUNT {
            drop(self.hold(number));
        }
        self.log.end()
    }

    /// Keys in one database, those that have expired but were not deleted yet included (as DBSIZE).
    pub fn dbsize(&self, db: u8) -> u64 {
        self.sum_over_lanes(|lane| lane.len_of_db(db))
    }

    pub fn key_count(&self) -> u64 {
        self.sum_over_lanes(Lane::len)
    }

    /// Keys that have an expiry.
    pub fn volatile_key_count(&self) -> u64 {
        self.sum_over_lanes(Lane::volatile)
    }

    pub fn count_keys_in_slot(&self, slot: Slot) -> u64 {
        let lane = self.hold(lane_of(slot));
        lane.and_then(|lane| lane.entries(slot).map(|entries| entries.len() as u64)).unwrap_or(0)
    }

    /// The first `count` keys of a slot in hash order.
    pub fn keys_in_slot(&self, slot: Slot, count: usize) -> Vec<Vec<u8>> {
        let Some(lane) = self.hold(lane_of(slot)) else { return Vec::new() };
        let entries = lane.entries(slot).into_iter().flat_map(|entries| entries.iter());
        entries.take(count).map(|entry| entry.key().to_vec()).collect()
    }

    /// A digest of every (database, key, value, expiry) of a slot, whatever their order: equal slots have equal digests on all members.
    pub fn slot_digest(&self, slot: Slot) -> u64 {
        self.hold(lane_of(slot)).map_or(0, |lane| lane.digest(slot))
    }

    /// What the data is reckoned to occupy.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Which lanes a command touches.
    fn lanes_of(&self, spec: &CommandSpec, args: &[&[u8]]) -> Result<Lanes, KeysError> {
        if spec.keys == Keys::None {
            let writes = spec.flags.has(Flags::WRITE);
            return Ok(if writes { Lanes::all() } else { Lanes::None });
        }
        let mut keys = spec.keys_of(args)?.map(|key| lane_of(Slot::of_key(key)));
        let Some(first) = keys.next() else { return Ok(Lanes::None) };
        match keys.next() {
            None => Ok(Lanes::One(first)),
            Some(second) => Ok(Lanes::many([first, second].into_iter().chain(keys).collect())),
        }
    }

    fn begin<'e>(&'e self, lanes: Lanes, ctx: &Ctx<'e>) -> Txn<'e> {
        self.set_now(ctx.now);
        Txn::new(self, lanes.numbers().filter_map(|number| self.hold(number)), ctx)
    }

    /// The same, or nothing if a script that takes long holds one of the lanes.
    #[inline(always)]
    fn begin_unless_busy<'e>(&'e self, lanes: Lanes, ctx: &Ctx<'e>) -> Option<Txn<'e>> {
        self.set_now(ctx.now);
        if let Lanes::One(number) = lanes {
            let lane = self.hold_unless_busy(number)?;
            return Some(Txn::with(self, Some(lane), Vec::new(), ctx));
        }
        let lanes: Option<Vec<HeldLane<'e>>> = lanes.numbers().map(|number| self.hold_unless_busy(number)).collect();
        Some(Txn::new(self, lanes?.into_iter(), ctx))
    }

    #[inline]
    fn hold_unless_busy(&self, number: usize) -> Option<HeldLane<'_>> {
        match self.lanes.get(number)?.try_lock() {
            Ok(guard) => Some(HeldLane::new(self, number, guard)),
            Err(_) => self.hold_contended(number),
        }
    }

    /// Waits for a lane that somebody holds, but not for one of a script that takes long.
    #[cold]
    fn hold_contended(&self, number: usize) -> Option<HeldLane<'_>> {
        let mut looks: u32 = 0;
        // Whoever runs a script says so before it takes a lane.
        while self.scripts.are_running() {
            if let Some(lane) = self.try_hold(number) {
                return Some(lane);
            }
            if self.scripts.are_slow() {
                return None;
            }
            looks = looks.saturating_add(1);
            if looks < LOOKS_BEFORE_SLEEP {
                std::thread::yield_now();
            } else {
                std::thread::sleep(LOOK_AGAIN);
            }
        }
        self.hold(number)
    }

    /// Appends the record, lets the lanes go, and only then wakes those who wait for records.
    #[inline]
    fn end(&self, txn: &mut Txn<'_>) -> Executed {
        let (after, wrote) = txn.commit();
        if txn.has_touched() {
            // What waiters ask for is in any slot of the lanes.
            txn.slot = None;
            self.end_serving(txn);
        } else {
            txn.let_go();
        }
        if wrote {
            self.log.notify();
        }
        Executed::Replied { after, wrote }
    }

    /// Lets the lanes go once those who waited for what was written are served.
    #[cold]
    fn end_serving(&self, txn: &mut Txn<'_>) {
        let apart = self.serve_waiters(txn);
        let ctx = txn.ctx();
        txn.let_go();
        if !apart.is_empty() {
            self.serve_apart(apart, &ctx);
        }
        self.log.notify();
    }

    /// A number for choosing at random; not for secrets. The caller holds no lane.
    pub(crate) fn random(&self) -> u64 {
        self.hold(0).map_or(0, |mut lane| lane.rng.next())
    }

    pub(crate) fn hold(&self, number: usize) -> Option<HeldLane<'_>> {
        // A panic while a lane is held ends the process: its data may be half changed.
        let guard = self.lanes.get(number)?.lock().unwrap_or_else(PoisonError::into_inner);
        Some(HeldLane::new(self, number, guard))
    }

    fn try_hold(&self, number: usize) -> Option<HeldLane<'_>> {
        let guard = self.lanes.get(number)?.try_lock().ok()?;
        Some(HeldLane::new(self, number, guard))
    }

    fn sum_over_lanes(&self, count: impl Fn(&Lane) -> usize) -> u64 {
        // What a script that takes long holds is left out.
        (0..LANE_COUNT).filter_map(|number| self.hold_unless_busy(number)).map(|lane| count(&lane) as u64).sum()
    }
}

/// Which lanes to hold: numbers in ascending order, each once.
enum Lanes {
    None,
    One(usize),
    Many(Vec<usize>),
}

impl Lanes {
    fn all() -> Self {
        Self::Many((0..LANE_COUNT).collect())
    }

    fn many(mut numbers: Vec<usize>) -> Self {
        numbers.sort_unstable();
        numbers.dedup();
        Self::Many(numbers)
    }

    fn numbers(self) -> impl Iterator<Item = usize> {
        let (one, many) = match self {
            Self::None => (None, Vec::new()),
            Self::One(number) => (Some(number), Vec::new()),
            Self::Many(numbers) => (None, numbers),
        };
        one.into_iter().chain(many)
    }
}

/// `None` for a command that touches no data (ECHO).
fn access_of(spec: &CommandSpec) -> Option<Access> {
    if spec.flags.has(Flags::WRITE) || (spec.flags.has(Flags::SCRIPT) && !spec.flags.has(Flags::READONLY)) {
        Some(Access::Write)
    } else {
        spec.flags.has(Flags::READONLY).then_some(Access::Read)
    }
}

fn run(spec: &CommandSpec, args: &[&[u8]], txn: &mut Txn<'_>, reply: &mut ReplyBuf) -> Result<(), CommandError> {
    txn.begin_command(spec.name);
    match spec.handler {
        Handler::Data(command) => (command.0)(txn, args, reply),
        Handler::Session(_) => Err(CommandError::NotData(spec.name)),
    }
}
