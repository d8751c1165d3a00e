//! Scripts, from the side of the data: the cache of their bodies, and one execution as one record.
//!
//! Owns which lanes a script holds and what it may do there ([`ScriptTxn`]); the interpreter is the caller's. A script holds the lanes of its
//! declared keys from its start to its end. One that declares none, or asks for a key elsewhere before it has written, is run again with all
//! lanes; with cluster mode off it has all from the start, since what it has written cannot be taken back.
//!
//! The cache travels with the data: a new body is a part of the record of the execution that brought it, and of every walk.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use ringmaster_ring::Slot;
use sha1::{Digest, Sha1};

use super::{Access, Ctx, Engine, Executed, Lanes, Txn, access_of, run};
use crate::commands::CommandError;
use crate::keyspace::{LANE_COUNT, lane_of};
use crate::record::Effect;
use crate::resp::ReplyBuf;
use crate::table::{CommandSpec, Flags, Handler, Keys};

/// How many bodies that EVAL brought are kept: clients that build scripts as they go would fill the memory. Those of SCRIPT LOAD stay.
const EVALUATED_MAX: usize = 500;

/// The name of a script: SHA-1 of its body.
pub type ScriptId = [u8; 20];

#[must_use]
pub fn script_id(body: &[u8]) -> ScriptId {
    Sha1::digest(body).into()
}

/// The bodies that EVALSHA finds.
#[derive(Debug, Default)]
pub(crate) struct Scripts {
    /// Raised whenever bodies were taken out.
    generation: AtomicU64,
    bodies: RwLock<Bodies>,
    /// Executions under way, and those of them that take long.
    running: AtomicUsize,
    slow: AtomicUsize,
}

#[derive(Debug, Default)]
struct Bodies {
    by_id: BTreeMap<ScriptId, Arc<[u8]>>,
    /// Those that may go, the oldest first.
    evaluated: VecDeque<ScriptId>,
}

impl Scripts {
    pub(crate) fn insert(&self, body: &[u8], stays: bool) {
        let id = script_id(body);
        let mut bodies = self.bodies.write().unwrap_or_else(PoisonError::into_inner);
        let known = bodies.by_id.insert(id, body.into()).is_some();
        if stays {
            bodies.evaluated.retain(|other| *other != id);
        } else if !known {
            bodies.evaluated.push_back(id);
            if bodies.evaluated.len() > EVALUATED_MAX
                && let Some(oldest) = bodies.evaluated.pop_front()
            {
                bodies.by_id.remove(&oldest);
                self.generation.fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    pub(crate) fn clear(&self) {
        let mut bodies = self.bodies.write().unwrap_or_else(PoisonError::into_inner);
        *bodies = Bodies::default();
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// All bodies, and whether each stays.
    pub(crate) fn all(&self) -> Vec<(Arc<[u8]>, bool)> {
        let bodies = self.bodies.read().unwrap_or_else(PoisonError::into_inner);
        let stays = |id: &ScriptId| !bodies.evaluated.contains(id);
        bodies.by_id.iter().map(|(id, body)| (Arc::clone(body), stays(id))).collect()
    }

    pub(super) fn are_running(&self) -> bool {
        self.running.load(Ordering::Acquire) > 0
    }

    pub(super) fn are_slow(&self) -> bool {
        self.slow.load(Ordering::Acquire) > 0
    }
}

/// What a script is given.
#[derive(Clone, Copy, Debug)]
pub struct ScriptCall<'a> {
    /// The declared keys, which are in one slot in cluster mode.
    pub keys: &'a [&'a [u8]],
    /// A body to be kept once the script is permitted to run.
    pub new_body: Option<&'a [u8]>,
    /// Whether it may write.
    pub access: Access,
}

/// What came of one command of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    /// The reply, which may be an error, is in the buffer.
    Replied,
    /// The script has to begin anew with more lanes: end it at once. Nothing was changed so far.
    NeedsLanes,
}

/// The interpreter's part: runs the script, calling commands as it likes, and writes its reply. It may be called twice, if the first call
/// ended by [`Called::NeedsLanes`].
pub type ScriptFn<'a> = &'a mut dyn FnMut(&mut ScriptTxn<'_, '_>, &mut ReplyBuf);

/// The data, while a script runs.
pub struct ScriptTxn<'t, 'e> {
    txn: &'t mut Txn<'e>,
    engine: &'e Engine,
    cluster_mode: bool,
    /// In cluster mode: the slot of all keys so far.
    slot: Option<Slot>,
    read_only: bool,
    out_of_memory: bool,
    has_all: bool,
    wrote: bool,
    needs_lanes: bool,
}

impl std::fmt::Debug for ScriptTxn<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScriptTxn").field("slot", &self.slot).field("wrote", &self.wrote).finish_non_exhaustive()
    }
}

impl ScriptTxn<'_, '_> {
    /// Executes one command on data, in the script's database.
    pub fn call(&mut self, spec: &CommandSpec, args: &[&[u8]], reply: &mut ReplyBuf) -> Called {
        let start = reply.len();
        match self.try_call(spec, args, reply) {
            Ok(called) => called,
            Err(error) => {
                reply.truncate(start);
                reply.error(&error.to_string());
                Called::Replied
            }
        }
    }

    /// Whether it has changed anything: then it must not be ended half-way.
    #[must_use]
    pub fn has_written(&self) -> bool {
        self.wrote
    }

    #[must_use]
    pub fn db(&self) -> u8 {
        self.txn.db
    }

    pub fn select(&mut self, db: u8) {
        self.txn.db = db;
    }

    fn try_call(&mut self, spec: &CommandSpec, args: &[&[u8]], reply: &mut ReplyBuf) -> Result<Called, CommandError> {
        let writes = spec.flags.has(Flags::WRITE);
        if writes && self.read_only {
            return Err(CommandError::Other("ERR Write commands are not allowed from read-only scripts."));
        }
        if writes && self.out_of_memory && spec.flags.has(Flags::DENYOOM) {
            return Err(CommandError::OutOfMemory);
        }
        let lanes = self.lanes_of(spec, args)?;
        if !self.has_all && !lanes.numbers().all(|number| self.txn.held_mut(number).is_some()) {
            if self.wrote {
                return Err(CommandError::Other("ERR this command must come before the first write of a script"));
            }
            self.needs_lanes = true;
            return Ok(Called::NeedsLanes);
        }
        let Handler::Data(_) = spec.handler else { return Err(CommandError::NotData(spec.name)) };
        self.txn.wait = None;
        let result = run(spec, args, self.txn, reply);
        self.wrote |= writes && self.txn.has_changed();
        result.map(|()| Called::Replied)
    }

    /// Which lanes a command touches. In cluster mode all keys are in one slot.
    fn lanes_of(&mut self, spec: &CommandSpec, args: &[&[u8]]) -> Result<Lanes, CommandError> {
        if spec.keys == Keys::None {
            return Ok(if access_of(spec).is_some() { Lanes::all() } else { Lanes::None });
        }
        // As outside of scripts: where it cannot be told which keys are meant, the command knows best what is wrong.
        let Ok(keys) = spec.keys_of(args) else { return Ok(Lanes::all()) };
        if !self.cluster_mode {
            return Ok(self.engine.lanes_of(spec, args).unwrap_or_else(|_| Lanes::all()));
        }
        let mut lanes = Lanes::None;
        for slot in keys.map(Slot::of_key) {
            if *self.slot.get_or_insert(slot) != slot {
                return Err(CommandError::Other(
                    "ERR Script attempted to access keys that do not hash to the same slot",
                ));
            }
            lanes = Lanes::One(lane_of(slot));
            self.txn.slot = Some(slot);
        }
        Ok(lanes)
    }
}

impl Engine {
    /// The body of a script, if it is known.
    pub fn script(&self, id: &ScriptId) -> Option<Arc<[u8]>> {
        let bodies = self.scripts.bodies.read().unwrap_or_else(PoisonError::into_inner);
        bodies.by_id.get(id).cloned()
    }

    /// Raised whenever bodies went away: what was looked up before may be unknown now.
    pub fn scripts_generation(&self) -> u64 {
        self.scripts.generation.load(Ordering::Acquire)
    }

    /// How many scripts are kept, and their bytes.
    pub fn scripts_kept(&self) -> (usize, usize) {
        let bodies = self.scripts.bodies.read().unwrap_or_else(PoisonError::into_inner);
        (bodies.by_id.len(), bodies.by_id.values().map(|body| body.len()).sum())
    }

    /// Keeps a body for EVALSHA, as a record.
    pub fn load_script(&self, body: &[u8], ctx: &Ctx<'_>) -> Executed {
        self.change_scripts(ctx, &Effect::Script { body, stays: true }, || self.scripts.insert(body, true))
    }

    /// Forgets all bodies, as a record.
    pub fn flush_scripts(&self, ctx: &Ctx<'_>) -> Executed {
        self.change_scripts(ctx, &Effect::FlushScripts, || self.scripts.clear())
    }

    /// Keeps a body on this member alone.
    pub fn keep_script(&self, body: &[u8]) {
        self.scripts.insert(body, false);
    }

    /// Executes a script as one record.
    pub fn execute_script(
        &self,
        call: &ScriptCall<'_>,
        ctx: &Ctx<'_>,
        script: ScriptFn<'_>,
        reply: &mut ReplyBuf,
    ) -> Executed {
        let _running = Running::begin(&self.scripts);
        let start = reply.len();
        let mut wide = !self.cluster_mode;
        loop {
            let lanes = match call.keys {
                _ if wide => Lanes::Many((0..LANE_COUNT).collect()),
                // The record of a new body needs a lane, and a walk takes all bodies with it where it begins.
                [] if call.new_body.is_some() => Lanes::One(0),
                keys => lanes_of_keys(keys),
            };
            let Some(mut txn) = self.begin_unless_busy(lanes, ctx) else { return Executed::NotPermitted };
            if txn.holds_lanes() && !(ctx.permit)(call.access) {
                return Executed::NotPermitted;
            }
            if self.run_script(&mut txn, call, wide, script, reply) {
                return self.end(&mut txn);
            }
            reply.truncate(start);
            wide = true;
        }
    }

    /// Runs a script in a transaction whose lanes are held. Says whether it came to its end.
    pub(super) fn run_script<'e>(
        &'e self,
        txn: &mut Txn<'e>,
        call: &ScriptCall<'_>,
        has_all: bool,
        script: ScriptFn<'_>,
        reply: &mut ReplyBuf,
    ) -> bool {
        if let Some(body) = call.new_body {
            // Before its record: whoever walks finds it here or there.
            self.scripts.insert(body, false);
            if txn.holds_lanes() && call.access == Access::Write {
                txn.note(&Effect::Script { body, stays: false });
            }
        }
        let out_of_memory = self.make_room_for_script(txn).is_err();
        let mut script_txn = ScriptTxn {
            engine: self,
            cluster_mode: self.cluster_mode,
            slot: call.keys.first().map(|key| Slot::of_key(key)),
            read_only: call.access == Access::Read,
            out_of_memory,
            has_all,
            wrote: txn.has_changed() && call.new_body.is_none(),
            needs_lanes: false,
            txn,
        };
        script(&mut script_txn, reply);
        !script_txn.needs_lanes
    }

    /// From now on, until as many calls with `false`, requests do not wait for lanes that a script holds: they are not permitted.
    pub fn mark_script_slow(&self, slow: bool) {
        if slow {
            self.scripts.slow.fetch_add(1, Ordering::AcqRel);
        } else {
            self.scripts.slow.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn change_scripts(&self, ctx: &Ctx<'_>, effect: &Effect<'_>, change: impl FnOnce()) -> Executed {
        // A walk begins in this lane, and there takes all bodies with it.
        let Some(mut txn) = self.begin_unless_busy(Lanes::One(0), ctx) else { return Executed::NotPermitted };
        if !(ctx.permit)(Access::Write) {
            return Executed::NotPermitted;
        }
        change();
        txn.note(effect);
        self.end(&mut txn)
    }
}

pub(super) fn lanes_of_keys(keys: &[&[u8]]) -> Lanes {
    match keys {
        [] => Lanes::None,
        [key] => Lanes::One(lane_of(Slot::of_key(key))),
        keys => Lanes::many(keys.iter().map(|key| lane_of(Slot::of_key(key))).collect()),
    }
}

/// Counts an execution for as long as it lasts.
pub(super) struct Running<'a>(&'a Scripts);

impl<'a> Running<'a> {
    pub(super) fn begin(scripts: &'a Scripts) -> Self {
        scripts.running.fetch_add(1, Ordering::AcqRel);
        Self(scripts)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}
