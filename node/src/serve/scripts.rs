//! Scripts that run on this member: how long they have, and who may end them.
//!
//! A script runs on the thread that its request came to, and holds its lanes to its end. One that takes long stops nobody else: requests for
//! its lanes are parked rather than waiting on other threads, and once it has taken longer than `busy_reply_threshold_ms` they are told BUSY.
//! From then on SCRIPT KILL ends it, unless it has written. Only what its own thread serves waits for it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use ringmaster_replica::Mono;
use ringmaster_script::{Interpreter, Limits, Tick};

use super::{REDIS_VERSION, Shared};
use crate::env::boot_now;

pub(super) const BUSY: &str = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.";
const KILLED: &str = "Script killed by user with SCRIPT KILL.";
/// After how long requests for a script's lanes are parked: waiting for it would stop the threads that they are on.
const SLOW_MS: u64 = 5;

/// The scripts that run on this member.
#[derive(Debug)]
pub(super) struct Scripts {
    running: Mutex<Vec<Arc<Running>>>,
    /// How many of them have taken longer than the threshold.
    busy: AtomicUsize,
    busy_reply_threshold_ms: AtomicU64,
    memory_bytes_max: AtomicUsize,
}

impl Default for Scripts {
    fn default() -> Self {
        Self {
            running: Mutex::default(),
            busy: AtomicUsize::new(0),
            busy_reply_threshold_ms: AtomicU64::new(5_000),
            memory_bytes_max: AtomicUsize::new(256 << 20),
        }
    }
}

/// One of them, since it takes long.
#[derive(Debug, Default)]
struct Running {
    wrote: AtomicBool,
    kill: AtomicBool,
}

/// Why no script was ended.
pub(super) enum NotKilled {
    NoneRuns,
    HasWritten,
}

impl Scripts {
    pub(super) fn configure(&self, busy_reply_threshold_ms: u64, memory_bytes_max: usize) {
        self.busy_reply_threshold_ms.store(busy_reply_threshold_ms, Ordering::Relaxed);
        self.memory_bytes_max.store(memory_bytes_max, Ordering::Relaxed);
    }

    pub(super) fn threshold_ms(&self) -> &AtomicU64 {
        &self.busy_reply_threshold_ms
    }

    /// Whether a request that is not permitted because of a script's lanes is told so.
    pub(super) fn are_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    /// Ends the scripts that take long and have not written.
    pub(super) fn kill(&self) -> Result<(), NotKilled> {
        let running = self.running.lock();
        if running.is_empty() {
            return Err(NotKilled::NoneRuns);
        }
        let mut result = Err(NotKilled::HasWritten);
        for script in running.iter().filter(|script| !script.wrote.load(Ordering::Acquire)) {
            script.kill.store(true, Ordering::Release);
            result = Ok(());
        }
        result
    }
}

/// One thread's interpreter, and what it knows of the script that runs in it.
#[derive(Debug)]
pub(super) struct ScriptRunner {
    interpreter: RefCell<Option<Rc<Interpreter>>>,
    generation: Cell<u64>,
    watch: Rc<Watch>,
}

#[derive(Debug)]
struct Watch {
    shared: Arc<Shared>,
    /// When it was first looked at: most scripts never are, and need no clock.
    began: Cell<Option<Mono>>,
    wrote: Cell<bool>,
    slow: RefCell<Option<Arc<Running>>>,
    busy: Cell<bool>,
}

impl ScriptRunner {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let watch = Watch {
            shared,
            began: Cell::new(None),
            wrote: Cell::new(false),
            slow: RefCell::new(None),
            busy: Cell::new(false),
        };
        Self { interpreter: RefCell::new(None), generation: Cell::new(0), watch: Rc::new(watch) }
    }

    /// The interpreter, made at the first call.
    pub(super) fn interpreter(&self) -> Result<Rc<Interpreter>, String> {
        let shared = &self.watch.shared;
        let generation = shared.engine.scripts_generation();
        let mut made = self.interpreter.borrow_mut();
        if let Some(interpreter) = &*made {
            if self.generation.replace(generation) != generation {
                interpreter.forget_compiled();
            }
            return Ok(Rc::clone(interpreter));
        }
        let watch = Rc::clone(&self.watch);
        let limits = Limits {
            memory_bytes_max: shared.scripts.memory_bytes_max.load(Ordering::Relaxed),
            redis_version: REDIS_VERSION,
        };
        let interpreter = Rc::new(Interpreter::new(limits, move || watch.tick())?);
        self.generation.set(generation);
        *made = Some(Rc::clone(&interpreter));
        Ok(interpreter)
    }

    /// Times a script for as long as the returned value lives.
    pub(super) fn begin(&self) -> Timed<'_> {
        self.watch.began.set(None);
        self.watch.wrote.set(false);
        Timed(&self.watch)
    }

    /// The script that runs has changed data: it cannot be ended any more.
    pub(super) fn note_write(&self) {
        self.watch.wrote.set(true);
        if let Some(running) = &*self.watch.slow.borrow() {
            running.wrote.store(true, Ordering::Release);
        }
    }
}

impl Watch {
    fn tick(&self) -> Tick {
        let now = boot_now();
        let began = self.began.get().unwrap_or(now);
        self.began.set(Some(began));
        let elapsed_ms = u64::try_from(now.since(began).as_millis()).unwrap_or(u64::MAX);
        if elapsed_ms < SLOW_MS {
            return Tick::GoOn;
        }
        let scripts = &self.shared.scripts;
        let mut slow = self.slow.borrow_mut();
        let running = slow.get_or_insert_with(|| {
            let running = Arc::new(Running { wrote: AtomicBool::new(self.wrote.get()), kill: AtomicBool::new(false) });
            scripts.running.lock().push(Arc::clone(&running));
            self.shared.engine.mark_script_slow(true);
            running
        });
        let threshold_ms = scripts.busy_reply_threshold_ms.load(Ordering::Relaxed);
        if threshold_ms > 0 && elapsed_ms >= threshold_ms && !self.busy.replace(true) {
            tracing::warn!(elapsed_ms, "a script takes long");
            scripts.busy.fetch_add(1, Ordering::AcqRel);
            // Those who were parked are told.
            self.shared.hub.wake();
        }
        if running.kill.load(Ordering::Acquire) && !self.wrote.get() { Tick::End(KILLED) } else { Tick::GoOn }
    }
}

/// A script that is timed.
pub(super) struct Timed<'a>(&'a Watch);

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        let Some(running) = self.0.slow.take() else { return };
        let scripts = &self.0.shared.scripts;
        scripts.running.lock().retain(|other| !Arc::ptr_eq(other, &running));
        self.0.shared.engine.mark_script_slow(false);
        if self.0.busy.replace(false) {
            scripts.busy.fetch_sub(1, Ordering::AcqRel);
        }
        // Those who were parked can have their lanes.
        self.0.shared.hub.wake();
    }
}
