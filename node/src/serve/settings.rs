//! Settings that `CONFIG SET` changes while this member runs, and what hangs on them: the pause of clients and the log of slow commands.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use ringmaster_engine::{CommandSpec, Flags, Handler, SessionCommand};

/// What one entry of the slow log keeps of a request.
const ARGS_MAX: usize = 32;
const ARG_BYTES_MAX: usize = 128;

/// CLIENT PAUSE.
#[derive(Debug, Default)]
pub(super) struct Pause {
    /// In ms after the start; 0 if nothing is paused.
    until_ms: AtomicU64,
    writes_only: AtomicBool,
}

impl Pause {
    /// A pause that is under way is never made shorter or weaker.
    pub(super) fn begin(&self, until_ms: u64, writes_only: bool, now_ms: u64) {
        let under_way = self.until_ms.load(Ordering::Relaxed) > now_ms;
        let writes_only = writes_only && (!under_way || self.writes_only.load(Ordering::Relaxed));
        self.writes_only.store(writes_only, Ordering::Relaxed);
        if under_way {
            self.until_ms.fetch_max(until_ms, Ordering::Release);
        } else {
            self.until_ms.store(until_ms, Ordering::Release);
        }
    }

    pub(super) fn end(&self) {
        self.until_ms.store(0, Ordering::Release);
    }

    /// When the pause ends that holds a command back, in ms after the start. Costs a load where nothing is paused.
    pub(super) fn holds(&self, spec: &CommandSpec, writes_queued: bool, now_ms: impl FnOnce() -> u64) -> Option<u64> {
        let until_ms = self.until_ms.load(Ordering::Acquire);
        if until_ms == 0 || until_ms <= now_ms() {
            return None;
        }
        if matches!(spec.handler, Handler::Session(SessionCommand::Client)) {
            return None;
        }
        let may_write = || {
            let scripted = spec.flags.has(Flags::SCRIPT) && !spec.flags.has(Flags::READONLY);
            let published = matches!(
                spec.handler,
                Handler::Session(SessionCommand::Publish | SessionCommand::Spublish | SessionCommand::Script)
            );
            spec.flags.has(Flags::WRITE) || scripted || published || writes_queued
        };
        (!self.writes_only.load(Ordering::Relaxed) || may_write()).then_some(until_ms)
    }
}

/// The commands that took longest.
#[derive(Debug)]
pub(super) struct SlowLog {
    /// In µs; 0 logs everything that is timed, a negative number nothing.
    pub(super) slower_than_us: AtomicI64,
    pub(super) len_max: AtomicUsize,
    last_id: AtomicU64,
    entries: Mutex<VecDeque<SlowCommand>>,
}

#[derive(Clone, Debug)]
pub(super) struct SlowCommand {
    pub(super) id: u64,
    pub(super) unix_s: u64,
    pub(super) took_us: u64,
    pub(super) args: Vec<Vec<u8>>,
    pub(super) addr: String,
    pub(super) name: String,
}

impl Default for SlowLog {
    fn default() -> Self {
        Self {
            slower_than_us: AtomicI64::new(10_000),
            len_max: AtomicUsize::new(128),
            last_id: AtomicU64::new(0),
            entries: Mutex::default(),
        }
    }
}

impl SlowLog {
    /// Whether a command of this duration belongs in it.
    pub(super) fn wants(&self, took_us: u64) -> bool {
        u64::try_from(self.slower_than_us.load(Ordering::Relaxed)).is_ok_and(|limit| took_us >= limit)
    }

    pub(super) fn add(&self, unix_s: u64, took_us: u64, args: &[&[u8]], addr: String, name: String) {
        let shorten = |arg: &&[u8]| match arg.len().checked_sub(ARG_BYTES_MAX) {
            None | Some(0) => arg.to_vec(),
            Some(more) => {
                let mut short = arg.get(..ARG_BYTES_MAX).unwrap_or_default().to_vec();
                short.extend_from_slice(format!("... ({more} more bytes)").as_bytes());
                short
            }
        };
        let kept = if args.len() > ARGS_MAX { ARGS_MAX - 1 } else { args.len() };
        let mut shown: Vec<Vec<u8>> = args.iter().take(kept).map(shorten).collect();
        if args.len() > kept {
            shown.push(format!("... ({} more arguments)", args.len() - kept).into_bytes());
        }
        let id = self.last_id.fetch_add(1, Ordering::Relaxed);
        let mut entries = self.entries.lock();
        entries.push_front(SlowCommand { id, unix_s, took_us, args: shown, addr, name });
        entries.truncate(self.len_max.load(Ordering::Relaxed));
    }

    /// The newest first.
    pub(super) fn newest(&self, count: usize) -> Vec<SlowCommand> {
        self.entries.lock().iter().take(count).cloned().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.lock().len()
    }

    pub(super) fn reset(&self) {
        self.entries.lock().clear();
    }
}
