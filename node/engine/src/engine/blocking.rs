//! Requests that wait for data: BLPOP and its kin, XREAD and XREADGROUP.
//!
//! Owns a waiting request ([`Waiter`]) and how it is served. Its place is a queue of its key's lane, so that whoever makes data serves it
//! before letting the lane go: no other request comes in between, first come is first served, and what it takes is a record of its own
//! behind the one that brought the data. What a transaction brings is handed out after its last command.
//!
//! ```text
//! execute_or_wait ─ nothing there ─▶ queue of each key (in its lane)
//! any write ─ its record ─ for each key it touched that has a queue: run the first waiter's command again, its record, wake it
//! ```
//! A waiter whose keys are in lanes that the write does not hold (cluster mode off) is served right after it, with its lanes taken anew.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringmaster_ring::{Seq, Slot};

use super::{Ctx, Engine, Executed, Lanes, Txn, run};
use crate::keyspace::{Key, Kind, lane_of};
use crate::resp::{Protocol, ReplyBuf};
use crate::table::CommandSpec;

/// What came of a request that may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    Done(Executed),
    /// There is nothing for it yet. The waiter is queued; nothing was replied. Without a timeout it waits for ever.
    Waiting {
        timeout: Option<Duration>,
    },
}

/// A request that waits until data comes for it.
pub struct Waiter {
    spec: &'static CommandSpec,
    args: Vec<Vec<u8>>,
    db: u8,
    protocol: Protocol,
    state: Mutex<State>,
    /// Called once it is served, while lanes are held: it must neither block nor call the engine.
    wake: Box<dyn Fn() + Send + Sync>,
}

#[derive(Debug)]
enum State {
    /// Not queued yet.
    New,
    Waiting(Kind),
    Served(Served),
    Over,
}

/// What a waiter got. As for any reply: hold it back until `after` is replicated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    pub reply: Vec<u8>,
    pub after: Seq,
    pub wrote: bool,
}

/// What a command says that found nothing and would wait. Where it must not wait, its reply is what it says of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) kind: Kind,
    /// Where among the arguments the keys are whose data it waits for.
    pub(crate) keys: std::ops::Range<usize>,
    pub(crate) timeout: Option<Duration>,
    /// What is executed once there is data, where that is not the request as it was: `$` means the end of a stream as it is now.
    pub(crate) instead: Option<Vec<Vec<u8>>>,
}

impl Waiter {
    pub fn new(
        spec: &'static CommandSpec,
        args: &[&[u8]],
        db: u8,
        protocol: Protocol,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Arc<Self> {
        let args = args.iter().map(|arg| arg.to_vec()).collect();
        Arc::new(Self { spec, args, db, protocol, state: Mutex::new(State::New), wake: Box::new(wake) })
    }

    /// What it was served with, once.
    pub fn take(&self) -> Option<Served> {
        let mut state = self.state();
        if !matches!(*state, State::Served(_)) {
            return None;
        }
        match std::mem::replace(&mut *state, State::Over) {
            State::Served(served) => Some(served),
            State::New | State::Waiting(_) | State::Over => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waits_for(&self) -> Option<Kind> {
        match *self.state() {
            State::Waiting(kind) => Some(kind),
            State::New | State::Served(_) | State::Over => None,
        }
    }

    fn is_over(&self) -> bool {
        matches!(*self.state(), State::Over | State::Served(_))
    }

    fn args(&self) -> Vec<&[u8]> {
        self.args.iter().map(Vec::as_slice).collect()
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { spec, db, state, args: _, protocol: _, wake: _ } = self;
        f.debug_struct("Waiter")
            .field("command", &spec.name)
            .field("db", db)
            .field("state", state)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// As [`execute`](Self::execute), but if there is nothing for the request yet, the waiter that `make` gives for these arguments is queued
    /// for it. End the wait with [`withdraw`](Self::withdraw), however it ends.
    pub fn execute_or_wait(
        &self,
        spec: &CommandSpec,
        args: &[&[u8]],
        ctx: &Ctx<'_>,
        reply: &mut ReplyBuf,
        make: impl FnOnce(&[&[u8]]) -> Arc<Waiter>,
    ) -> Attempt {
        let start = reply.len();
        let mut txn = match self.prepare(None, spec, args, ctx, reply) {
            Ok(txn) => txn,
            Err(executed) => return Attempt::Done(executed),
        };
        if !self.attempt(spec, args, &mut txn, reply) {
            return Attempt::Done(Executed::NotPermitted);
        }
        let Some(wait) = txn.wait.take() else { return Attempt::Done(self.end(&mut txn)) };
        reply.truncate(start);
        let waiter = match &wait.instead {
            Some(instead) => make(&instead.iter().map(Vec::as_slice).collect::<Vec<_>>()),
            None => make(args),
        };
        *waiter.state() = State::Waiting(wait.kind);
        for key in args.get(wait.keys.clone()).unwrap_or_default() {
            let key = txn.key(key);
            if let Some(lane) = txn.held_mut(lane_of(key.slot)) {
                lane.waiting.push(&key, &waiter);
            }
        }
        // What it found out about expired keys, or evicted, is written all the same.
        let _nothing_replied = self.end(&mut txn);
        Attempt::Waiting { timeout: wait.timeout }
    }

    /// Ends a wait: afterwards nobody serves it. Returns what it was served with, if that came first and was not taken.
    pub fn withdraw(&self, waiter: &Waiter) -> Option<Served> {
        let before = std::mem::replace(&mut *waiter.state(), State::Over);
        let served = match before {
            State::Served(served) => Some(served),
            State::New | State::Waiting(_) | State::Over => None,
        };
        for key in &waiter.args {
            // Arguments that are no keys have no queue that it is in. Where a script takes long, it is left to whoever comes by next.
            if let Some(mut lane) = self.hold_unless_busy(lane_of(Slot::of_key(key))) {
                lane.waiting.remove(waiter.db, key, waiter);
            }
        }
        served
    }

    /// How many requests wait for data, for INFO. A request that waits for several keys counts for each.
    pub fn waiting(&self) -> u64 {
        self.sum_over_lanes(|lane| lane.waiting.len())
    }

    /// Serves those who wait for keys that were touched, while the lanes are held. Returns keys whose first waiter needs other lanes too.
    pub(super) fn serve_waiters(&self, txn: &mut Txn<'_>) -> Vec<(u8, Box<[u8]>)> {
        let mut apart = Vec::new();
        if !txn.permits_write() {
            return apart;
        }
        while let Some((db, bytes)) = txn.take_touched() {
            let key = Key::new(self.seed, db, &bytes);
            let mut place = 0;
            while let Some(waiter) = txn.held_mut(lane_of(key.slot)).and_then(|lane| lane.waiting.get(&key, place)) {
                if waiter.is_over() {
                    if let Some(lane) = txn.held_mut(lane_of(key.slot)) {
                        lane.waiting.remove(db, &bytes, &waiter);
                    }
                    continue;
                }
                if !self.may_serve(txn, &key, &waiter) {
                    place += 1;
                    if !self.is_there(txn, &key) {
                        break;
                    }
                    continue;
                }
                let lanes = self.lanes_of(waiter.spec, &waiter.args());
                if lanes.is_ok_and(|lanes| lanes.numbers().all(|number| txn.held_mut(number).is_some())) {
                    if !self.serve(txn, &waiter) {
                        place += 1;
                    }
                } else {
                    apart.push((db, bytes));
                    break;
                }
            }
        }
        apart
    }

    /// Serves those who wait for a key and need more lanes than whoever brought its data held.
    pub(super) fn serve_apart(&self, keys: Vec<(u8, Box<[u8]>)>, ctx: &Ctx<'_>) {
        let mut keys = std::collections::VecDeque::from(keys);
        while let Some((db, bytes)) = keys.pop_front() {
            let key = Key::new(self.seed, db, &bytes);
            let mut place = 0;
            while let Some(waiter) = self.hold(lane_of(key.slot)).and_then(|lane| lane.waiting.get(&key, place)) {
                let Ok(lanes) = self.lanes_of(waiter.spec, &waiter.args()) else { break };
                let mut txn = self.begin(Lanes::many(lanes.numbers().chain([lane_of(key.slot)]).collect()), ctx);
                if !txn.permits_write() {
                    return;
                }
                if !self.is_there(&txn, &key) {
                    break;
                }
                if !self.may_serve(&mut txn, &key, &waiter) || !self.serve(&mut txn, &waiter) {
                    place += 1;
                }
                // What this one brought elsewhere (BLMOVE) may be what others wait for.
                let (more, appended) = (self.serve_waiters(&mut txn), txn.appended);
                drop(txn);
                if appended {
                    self.log.notify();
                }
                keys.extend(more);
            }
        }
    }

    /// Whether a waiter still waits, for data of the kind that is there.
    fn may_serve(&self, txn: &mut Txn<'_>, key: &Key<'_>, waiter: &Waiter) -> bool {
        let there = txn.peek(key).map(|entry| entry.value().kind());
        there.is_some() && waiter.waits_for() == there
    }

    fn is_there(&self, txn: &Txn<'_>, key: &Key<'_>) -> bool {
        txn.peek(key).is_some()
    }

    /// Runs a waiter's command again, in its name. Says whether that ended its wait.
    fn serve(&self, txn: &mut Txn<'_>, waiter: &Arc<Waiter>) -> bool {
        // Held for as long as its command runs, so that a wait does not end in the middle of it.
        let mut state = waiter.state();
        if !matches!(*state, State::Waiting(_)) {
            return false;
        }
        let (args, mut reply) = (waiter.args(), ReplyBuf::new(waiter.protocol));
        let present_db = std::mem::replace(&mut txn.db, waiter.db);
        txn.wait = None;
        let result = run(waiter.spec, &args, txn, &mut reply);
        if let Err(error) = &result {
            reply.clear();
            reply.error(&error.to_string());
        }
        let waits_on = result.is_ok() && txn.wait.take().is_some();
        let keys: Vec<Key<'_>> = args.iter().skip(1).map(|arg| txn.key(arg)).collect();
        txn.db = present_db;
        if waits_on {
            // That it asked may be a change (XREADGROUP sees its consumer), but brings nothing: else it would be asked for ever.
            for key in keys {
                if let Some(lane) = txn.held_mut(lane_of(key.slot)) {
                    lane.waiting.forget(&key);
                }
            }
            return false;
        }
        let (after, wrote) = txn.commit();
        for key in keys {
            if let Some(lane) = txn.held_mut(lane_of(key.slot)) {
                lane.waiting.remove(key.db, key.bytes, waiter);
            }
        }
        *state = State::Served(Served { reply: reply.take(), after, wrote });
        drop(state);
        (waiter.wake)();
        true
    }
}
