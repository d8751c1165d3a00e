//! Who watches which key of a lane (WATCH).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use super::{Entry, Key};
use crate::time::UnixMs;

/// Empty nearly always: then a write pays one look at that for it.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    of_key: BTreeMap<(u8, Box<[u8]>), Vec<Watcher>>,
}

#[derive(Debug)]
struct Watcher {
    changed: Weak<AtomicBool>,
    /// The key was there and had expired: to take it out changes nothing.
    found_expired: bool,
}

/// What becomes of a key that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Changes,
    /// It had expired and is taken out.
    GoesExpired,
    /// There is none, and none comes.
    StaysAway,
}

impl Fate {
    /// Of a key that is taken out.
    pub(super) fn of_taking(entry: &Entry, now: UnixMs) -> Self {
        if entry.is_expired(now) { Self::GoesExpired } else { Self::Changes }
    }
}

impl Watches {
    pub(super) fn is_empty(&self) -> bool {
        self.of_key.is_empty()
    }

    /// Raises the flag once the key changes, if anyone still holds it then.
    pub(super) fn add(&mut self, key: &Key<'_>, changed: &Arc<AtomicBool>, found_expired: bool) {
        let watchers = self.of_key.entry((key.db, key.bytes.into())).or_default();
        watchers.retain(|watcher| watcher.changed.strong_count() > 0);
        watchers.push(Watcher { changed: Arc::downgrade(changed), found_expired });
    }

    pub(super) fn tell(&mut self, key: &Key<'_>, fate: Fate) {
        let name = (key.db, key.bytes.into());
        if self.of_key.get_mut(&name).is_some_and(|watchers| tell(watchers, fate)) {
            self.of_key.remove(&name);
        }
    }

    /// Tells those who watch any key what becomes of it, by its database and its bytes.
    pub(super) fn tell_all(&mut self, fate: impl Fn(u8, &[u8]) -> Fate) {
        self.of_key.retain(|(db, bytes), watchers| !tell(watchers, fate(*db, bytes)));
    }
}

/// Says whether nobody is left.
fn tell(watchers: &mut Vec<Watcher>, fate: Fate) -> bool {
    if fate == Fate::StaysAway {
        return false;
    }
    watchers.retain_mut(|watcher| {
        let was_gone = std::mem::take(&mut watcher.found_expired) && fate == Fate::GoesExpired;
        if let Some(changed) = watcher.changed.upgrade().filter(|_| !was_gone) {
            changed.store(true, Ordering::Release);
        }
        was_gone
    });
    watchers.is_empty()
}
