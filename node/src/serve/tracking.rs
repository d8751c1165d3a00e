//! Client tracking: which connection may have which key in a cache of its own, so that it is told when the key changes.
//!
//! Owns the table from keys to connections, the prefixes of those that want to hear of all keys, and who redirects to whom. A key is noted
//! before it is read: a change in between is told once too often rather than never. Told, it is forgotten until it is read again.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};

use super::mail::{Message, encode};
use super::registry::Client;

/// The channel on which connections of the old protocol hear of keys for others.
const CHANNEL: &[u8] = b"__redis__:invalidate";

thread_local! {
    /// Whose request this thread executes; 0 for nobody's.
    static ACTOR: Cell<u64> = const { Cell::new(0) };
}

/// From now on changes on this thread are this client's.
pub(super) fn set_actor(client: u64) {
    ACTOR.set(client);
}

/// How a connection wants to be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// Another connection hears it in its place.
    pub(super) redirect: Option<u64>,
    pub(super) broadcast: bool,
    /// Only keys that are read right after CLIENT CACHING yes count; or all but those after CLIENT CACHING no.
    pub(super) opt_in: bool,
    pub(super) opt_out: bool,
    /// Its own changes are not told.
    pub(super) no_loop: bool,
}

#[derive(Debug)]
struct Tracked {
    client: Arc<Client>,
    options: Options,
    prefixes: Vec<Box<[u8]>>,
}

#[derive(Debug)]
pub(super) struct Tracking {
    active: AtomicUsize,
    clients: RwLock<BTreeMap<u64, Tracked>>,
    keys: Mutex<BTreeMap<Box<[u8]>, BTreeSet<u64>>>,
    pub(super) keys_max: AtomicUsize,
}

impl Default for Tracking {
    fn default() -> Self {
        Self {
            active: AtomicUsize::new(0),
            clients: RwLock::default(),
            keys: Mutex::default(),
            keys_max: AtomicUsize::new(1_000_000),
        }
    }
}

impl Tracking {
    pub(super) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed) > 0
    }

    pub(super) fn clients(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self, client: &Arc<Client>, options: Options, prefixes: Vec<Box<[u8]>>) {
        let tracked = Tracked { client: Arc::clone(client), options, prefixes };
        if self.clients.write().insert(client.id, tracked).is_none() {
            self.active.fetch_add(1, Ordering::SeqCst);
        }
    }

    pub(super) fn end(&self, client: u64) {
        if self.clients.write().remove(&client).is_some() {
            self.active.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// The prefixes of a connection that hears of all keys.
    pub(super) fn prefixes(&self, client: u64) -> Vec<Box<[u8]>> {
        self.clients.read().get(&client).map(|tracked| tracked.prefixes.clone()).unwrap_or_default()
    }

    /// A connection is about to read a key.
    pub(super) fn note(&self, client: u64, key: &[u8], find: impl Fn(u64) -> Option<Arc<Client>>) {
        let mut keys = self.keys.lock();
        keys.entry(key.into()).or_default().insert(client);
        // Whatever is forgotten here is told, so that nobody relies on it.
        let forgotten = if keys.len() > self.keys_max.load(Ordering::Relaxed) { keys.pop_first() } else { None };
        drop(keys);
        if let Some((key, readers)) = forgotten {
            self.tell_readers(&readers, &key, 0, &find);
        }
    }

    /// A key has changed; none: all have.
    pub(super) fn changed(&self, key: Option<&[u8]>, find: impl Fn(u64) -> Option<Arc<Client>>) {
        if !self.is_active() {
            return;
        }
        let Some(key) = key else {
            self.keys.lock().clear();
            let clients = self.clients.read();
            return clients.values().for_each(|tracked| tell(tracked, None, &find));
        };
        let actor = ACTOR.get();
        if let Some(readers) = self.keys.lock().remove(key) {
            self.tell_readers(&readers, key, actor, &find);
        }
        for tracked in self.clients.read().values().filter(|tracked| tracked.options.broadcast) {
            let concerns = tracked.prefixes.is_empty() || tracked.prefixes.iter().any(|prefix| key.starts_with(prefix));
            if concerns && !(tracked.options.no_loop && tracked.client.id == actor) {
                tell(tracked, Some(key), &find);
            }
        }
    }

    /// One connection must not rely on anything that it has read here.
    pub(super) fn forget_all(&self, client: u64, find: impl Fn(u64) -> Option<Arc<Client>>) {
        if let Some(tracked) = self.clients.read().get(&client) {
            tell(tracked, None, &find);
        }
    }

    fn tell_readers(
        &self,
        readers: &BTreeSet<u64>,
        key: &[u8],
        actor: u64,
        find: &impl Fn(u64) -> Option<Arc<Client>>,
    ) {
        let clients = self.clients.read();
        for tracked in readers.iter().filter_map(|reader| clients.get(reader)) {
            let own = tracked.options.no_loop && tracked.client.id == actor;
            if !own && !tracked.options.broadcast {
                tell(tracked, Some(key), find);
            }
        }
    }
}

fn tell(tracked: &Tracked, key: Option<&[u8]>, find: &impl Fn(u64) -> Option<Arc<Client>>) {
    let speaks_resp3 = |client: &Client| client.shown.resp.load(Ordering::Relaxed) == 3;
    let client = &tracked.client;
    let Some(target) = tracked.options.redirect else {
        // Without pushes there is no way to tell.
        if speaks_resp3(client) {
            client.send(&invalidation(key), usize::MAX);
        }
        return;
    };
    match find(target) {
        Some(target) if speaks_resp3(&target) => {
            target.send(&invalidation(key), usize::MAX);
        }
        Some(target) => {
            target.send(&invalidation_message(key), usize::MAX);
        }
        None if speaks_resp3(client) => {
            let broken = encode(|push| {
                push.push(2);
                push.bulk(b"tracking-redir-broken");
                push.integer(i64::try_from(target).unwrap_or(i64::MAX));
            });
            client.send(&broken, usize::MAX);
        }
        None => {}
    }
}

fn invalidation(key: Option<&[u8]>) -> Message {
    encode(|push| {
        push.push(2);
        push.bulk(b"invalidate");
        match key {
            None => push.null_array(),
            Some(key) => {
                push.array(1);
                push.bulk(key);
            }
        }
    })
}

/// The same for a connection of the old protocol that is subscribed to the channel for it.
fn invalidation_message(key: Option<&[u8]>) -> Message {
    encode(|push| {
        push.push(3);
        push.bulk(b"message");
        push.bulk(CHANNEL);
        match key {
            None => push.raw(b"*-1\r\n"),
            Some(key) => {
                push.array(1);
                push.bulk(key);
            }
        }
    })
}
