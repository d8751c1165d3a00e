//! Telling somebody which keys change, as they change: for client tracking and keyspace notifications.
//!
//! Nobody observes, nearly always: then a change pays one look at that for it.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Engine;
use crate::record::Change;

/// A change of a key that has just been made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed<'a> {
    pub db: u8,
    /// None: every key of the database went away.
    pub key: Option<&'a [u8]>,
    pub cause: Cause,
    pub what: What,
    /// The key is not there any more.
    pub is_gone: bool,
}

/// Why a key changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A command of this name.
    Command(&'static str),
    Expired,
    Evicted,
    /// This is a copy, and its primary said so.
    Primary,
}

/// What was done to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It became a string; with an expiry or without.
    Put {
        expires: bool,
    },
    /// A part of a string was written.
    Splice,
    Del,
    Expire,
    Persist,
    /// An element of a collection was set, added, or inserted at its start or elsewhere.
    Add {
        at_start: bool,
    },
    Remove {
        at_start: bool,
    },
    Replace,
    /// Something that has no events.
    Other,
}

type Observer = Box<dyn Fn(&Changed<'_>) + Send + Sync>;

/// Who is told.
#[derive(Default)]
pub(crate) struct Observed {
    is_on: AtomicBool,
    observer: OnceLock<Observer>,
}

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed").field("is_on", &self.is_on).finish_non_exhaustive()
    }
}

impl Observed {
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    #[cold]
    pub(crate) fn tell(&self, changed: &Changed<'_>) {
        if let Some(observer) = self.observer.get() {
            observer(changed);
        }
    }
}

impl Engine {
    /// Names who is told of changes, once [`observe`](Self::observe) said so: on the thread that makes them, while the key's lane is held, so
    /// it must neither block nor call the engine. Later calls change nothing.
    pub fn on_change(&self, observer: impl Fn(&Changed<'_>) + Send + Sync + 'static) {
        let _first_wins = self.observed.observer.set(Box::new(observer));
    }

    /// Begins or ends telling of changes. A change that is made after this returns is told.
    pub fn observe(&self, on: bool) {
        if self.observed.is_on.swap(on, Ordering::SeqCst) != on {
            // Whoever was in a lane has left it afterwards.
            self.barrier();
        }
    }
}

impl What {
    pub(crate) fn of(change: &Change<'_>) -> Self {
        #[allow(unreachable_patterns, reason = "kinds of changes are added by themselves")]
        match change {
            Change::Put { expires_at, .. } => Self::Put { expires: expires_at.is_some() },
            Change::Splice { .. } => Self::Splice,
            Change::Del => Self::Del,
            Change::Expire { at: Some(_) } => Self::Expire,
            Change::Expire { at: None } => Self::Persist,
            Change::HashSet { .. } | Change::ZSet { .. } | Change::SetAdd { .. } => Self::Add { at_start: false },
            Change::HashDel { .. } | Change::ZDel { .. } | Change::SetDel { .. } => Self::Remove { at_start: false },
            Change::ListInsert { index, .. } => Self::Add { at_start: *index == 0 },
            Change::ListRemove { index, .. } => Self::Remove { at_start: *index == 0 },
            Change::ListReplace { .. } => Self::Replace,
            _ => Self::Other,
        }
    }
}
