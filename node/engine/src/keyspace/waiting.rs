//! Who waits for the data of which key of a lane, in the order in which they came.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::Key;
use crate::engine::Waiter;

/// A database and a key in it.
type DbKey = (u8, Box<[u8]>);

/// Empty nearly always: then a write pays one look at that for it.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    queues: BTreeMap<DbKey, VecDeque<Arc<Waiter>>>,
    /// Keys with a queue that were changed since it was last served, in that order, each once.
    touched: Vec<DbKey>,
}

impl Waiting {
    pub(crate) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.queues.values().map(VecDeque::len).sum()
    }

    /// Puts a waiter at the end of a key's queue, unless it is in there.
    pub(crate) fn push(&mut self, key: &Key<'_>, waiter: &Arc<Waiter>) {
        let queue = self.queues.entry((key.db, key.bytes.into())).or_default();
        // Of one request, whose keys are queued one after another.
        if !queue.back().is_some_and(|last| Arc::ptr_eq(last, waiter)) {
            queue.push_back(Arc::clone(waiter));
        }
    }

    pub(crate) fn get(&self, key: &Key<'_>, place: usize) -> Option<Arc<Waiter>> {
        self.queues.get(&(key.db, key.bytes.into()))?.get(place).cloned()
    }

    pub(crate) fn remove(&mut self, db: u8, key: &[u8], waiter: &Waiter) {
        if self.queues.is_empty() {
            return;
        }
        let name = (db, key.into());
        let Some(queue) = self.queues.get_mut(&name) else { return };
        queue.retain(|other| !std::ptr::eq(Arc::as_ptr(other), waiter));
        if queue.is_empty() {
            self.queues.remove(&name);
        }
    }

    /// A key was changed.
    pub(crate) fn touch(&mut self, key: &Key<'_>) {
        let name = (key.db, key.bytes.into());
        if self.queues.contains_key(&name) && !self.touched.contains(&name) {
            self.touched.push(name);
        }
    }

    /// A change of a key was one that nobody waits for.
    pub(crate) fn forget(&mut self, key: &Key<'_>) {
        self.touched.retain(|(db, bytes)| *db != key.db || **bytes != *key.bytes);
    }

    pub(crate) fn has_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// The key that was touched first.
    pub(crate) fn take_touched(&mut self) -> Option<DbKey> {
        (!self.touched.is_empty()).then(|| self.touched.remove(0))
    }

    pub(crate) fn forget_touched(&mut self) {
        self.touched.clear();
    }
}
