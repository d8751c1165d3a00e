//! Every connection there is, for CLIENT LIST, CLIENT KILL, limits and lingering.
//!
//! Owns what other threads may know of a connection, and the way to reach it: a [`Client`] is shared by the connection's task,
//! which writes it, and by whoever lists or closes connections.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU16, AtomicU64, AtomicUsize, Ordering, fence};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use ringmaster_engine::{CommandSpec, commands};

use super::acl::DEFAULT;
use super::blocked::Block;
use super::mail::Mail;
use super::stats::row_of;

/// All connections of this process.
#[derive(Debug, Default)]
pub(super) struct Registry {
    last_id: AtomicU64,
    count: AtomicUsize,
    clients: Mutex<BTreeMap<u64, Arc<Client>>>,
}

impl Registry {
    /// Takes a connection in, unless there are `connections_max` already.
    pub(super) fn admit(
        self: &Arc<Self>,
        addr: SocketAddr,
        laddr: SocketAddr,
        now_ms: u64,
        connections_max: usize,
    ) -> Option<Registration> {
        let admitted = self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < connections_max).then(|| count.saturating_add(1))
        });
        admitted.ok()?;
        let id = self.last_id.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let client = Arc::new(Client::new(id, addr, laddr, now_ms));
        self.clients.lock().insert(id, Arc::clone(&client));
        Some(Registration { registry: Arc::clone(self), client })
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn find(&self, id: u64) -> Option<Arc<Client>> {
        self.clients.lock().get(&id).cloned()
    }

    /// In the order in which they connected.
    pub(super) fn all(&self) -> Vec<Arc<Client>> {
        self.clients.lock().values().cloned().collect()
    }

    /// Pokes the connections that listen to the member's role.
    pub(super) fn poke_role_listeners(&self) {
        self.clients
            .lock()
            .values()
            .filter(|client| client.listens_to_role.load(Ordering::SeqCst))
            .for_each(|c| c.poke());
    }

    /// How many connections wait for the member's role, for acknowledgements or for data.
    pub(super) fn blocked(&self) -> usize {
        self.clients.lock().values().filter(|client| client.blocked.load(Ordering::Relaxed)).count()
    }
}

/// A connection's place in the registry, for as long as it is held.
#[derive(Debug)]
pub(super) struct Registration {
    registry: Arc<Registry>,
    pub(super) client: Arc<Client>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.clients.lock().remove(&self.client.id);
        self.registry.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is known of one connection outside its own task.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: u64,
    pub(super) addr: SocketAddr,
    pub(super) laddr: SocketAddr,
    connected_ms: u64,
    last_command_ms: AtomicU64,
    /// Its row in the table of commands, plus one; 0 for none yet.
    last_command: AtomicU16,
    close: AtomicBool,
    /// Since when it takes nothing of what is sent to it, plus one; 0 if it does.
    stalled_ms: AtomicU64,
    /// Wakes the connection's task.
    waker: AtomicWaker,
    pub(super) shown: Shown,
    pub(super) names: Mutex<Names>,
    /// Whether the front request waits, for the member's role, for acknowledgements or for data.
    pub(super) blocked: AtomicBool,
    pub(super) block: Block,
    pub(super) mail: Mail,
    /// Somebody else did something that the connection has to look at.
    poked: AtomicBool,
    /// A change of the member's role is such a thing.
    listens_to_role: AtomicBool,
}

/// What CLIENT LIST shows and the connection's task keeps up to date.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) db: AtomicU8,
    pub(super) resp: AtomicU8,
    pub(super) readonly: AtomicBool,
    /// How many commands MULTI has queued; -1 outside of MULTI.
    pub(super) multi: AtomicI64,
    pub(super) watched: AtomicUsize,
    pub(super) channels: AtomicUsize,
    pub(super) patterns: AtomicUsize,
    pub(super) shard_channels: AtomicUsize,
    pub(super) query_bytes: AtomicUsize,
    pub(super) reply_bytes: AtomicUsize,
}

/// What clients say of themselves.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// Who it is, as a user.
    pub(super) user: Vec<u8>,
    pub(super) name: String,
    pub(super) lib_name: String,
    pub(super) lib_ver: String,
}

impl Client {
    fn new(id: u64, addr: SocketAddr, laddr: SocketAddr, now_ms: u64) -> Self {
        Self {
            id,
            addr,
            laddr,
            connected_ms: now_ms,
            last_command_ms: AtomicU64::new(now_ms),
            last_command: AtomicU16::new(0),
            close: AtomicBool::new(false),
            stalled_ms: AtomicU64::new(0),
            waker: AtomicWaker::new(),
            shown: Shown {
                db: AtomicU8::new(0),
                resp: AtomicU8::new(2),
                readonly: AtomicBool::new(false),
                multi: AtomicI64::new(-1),
                watched: AtomicUsize::new(0),
                channels: AtomicUsize::new(0),
                patterns: AtomicUsize::new(0),
                shard_channels: AtomicUsize::new(0),
                query_bytes: AtomicUsize::new(0),
                reply_bytes: AtomicUsize::new(0),
            },
            names: Mutex::new(Names { user: DEFAULT.to_vec(), ..Names::default() }),
            blocked: AtomicBool::new(false),
            block: Block::default(),
            mail: Mail::default(),
            poked: AtomicBool::new(false),
            listens_to_role: AtomicBool::new(false),
        }
    }

    /// Asks the connection to end, whatever it does at present.
    pub(super) fn ask_to_close(&self) {
        self.close.store(true, Ordering::SeqCst);
        self.waker.wake();
    }

    pub(super) fn is_to_close(&self) -> bool {
        self.close.load(Ordering::SeqCst)
    }

    /// The task that polls now is the one to wake from now on.
    pub(super) fn register(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }

    pub(super) fn wake(&self) {
        self.waker.wake();
    }

    /// Has the connection look at what others did.
    pub(super) fn poke(&self) {
        self.poked.store(true, Ordering::SeqCst);
        self.waker.wake();
    }

    pub(super) fn is_poked(&self) -> bool {
        self.poked.load(Ordering::Relaxed)
    }

    /// To be called before it looks.
    pub(super) fn take_poke(&self) -> bool {
        self.is_poked() && self.poked.swap(false, Ordering::SeqCst)
    }

    /// From now on it is poked when the member's role changes. To be called before the role is asked for.
    pub(super) fn listen_to_role(&self) {
        self.listens_to_role.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    pub(super) fn note_command(&self, spec: &'static CommandSpec, now_ms: u64) {
        self.last_command_ms.store(now_ms, Ordering::Relaxed);
        let row = u16::try_from(row_of(spec)).unwrap_or(u16::MAX);
        self.last_command.store(row.saturating_add(1), Ordering::Relaxed);
    }

    fn last_command(&self) -> Option<&'static CommandSpec> {
        let row = self.last_command.load(Ordering::Relaxed).checked_sub(1)?;
        commands().nth(usize::from(row))
    }

    /// It does not take what is to be written.
    pub(super) fn note_stall(&self, now_ms: u64) {
        if self.stalled_ms.load(Ordering::Relaxed) == 0 {
            self.stalled_ms.store(now_ms.saturating_add(1), Ordering::Relaxed);
        }
    }

    /// It took something.
    pub(super) fn note_write(&self) {
        if self.stalled_ms.load(Ordering::Relaxed) != 0 {
            self.stalled_ms.store(0, Ordering::Relaxed);
        }
    }

    /// For how long it has taken nothing of what is to be written.
    pub(super) fn stalled_ms(&self, now_ms: u64) -> u64 {
        match self.stalled_ms.load(Ordering::Relaxed) {
            0 => 0,
            since => now_ms.saturating_add(1).saturating_sub(since),
        }
    }

    /// How many bytes it holds, for CLIENT LIST.
    pub(super) fn show_bytes(&self, query_bytes: usize, reply_bytes: usize) {
        self.shown.query_bytes.store(query_bytes, Ordering::Relaxed);
        self.shown.reply_bytes.store(reply_bytes, Ordering::Relaxed);
    }

    pub(super) fn idle_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.last_command_ms.load(Ordering::Relaxed))
    }

    pub(super) fn age_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.connected_ms)
    }

    pub(super) fn is_subscriber(&self) -> bool {
        let Shown { channels, patterns, shard_channels, .. } = &self.shown;
        [channels, patterns, shard_channels].iter().any(|count| count.load(Ordering::Relaxed) > 0)
    }

    /// One line of CLIENT LIST, without its end.
    pub(super) fn describe(&self, now_ms: u64) -> String {
        let names = self.names.lock().clone();
        let shown = &self.shown;
        let readonly = shown.readonly.load(Ordering::Relaxed);
        let multi = shown.multi.load(Ordering::Relaxed);
        let states = [('P', self.is_subscriber()), ('x', multi >= 0), ('b', self.block.is_waiting()), ('r', readonly)];
        let mut flags: String = states.into_iter().filter(|(_, holds)| *holds).map(|(flag, _)| flag).collect();
        if flags.is_empty() {
            flags.push('N');
        }
        let command = self.last_command().map_or("NULL", |spec| spec.name);
        let mut line = String::with_capacity(320);
        // Writing to a string does not fail.
        let _ = write!(
            line,
            "id={} addr={} laddr={} fd=0 name={} age={} idle={} flags={flags} db={} sub={} psub={} ssub={} multi={multi} watch={} \
             qbuf={} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem={} tot-mem={} events=r cmd={command} \
             user={} redir=-1 resp={} lib-name={} lib-ver={}",
            self.id,
            self.addr,
            self.laddr,
            names.name,
            self.age_ms(now_ms) / 1_000,
            self.idle_ms(now_ms) / 1_000,
            shown.db.load(Ordering::Relaxed),
            shown.channels.load(Ordering::Relaxed),
            shown.patterns.load(Ordering::Relaxed),
            shown.shard_channels.load(Ordering::Relaxed),
            shown.watched.load(Ordering::Relaxed),
            shown.query_bytes.load(Ordering::Relaxed),
            shown.reply_bytes.load(Ordering::Relaxed),
            shown.query_bytes.load(Ordering::Relaxed).saturating_add(shown.reply_bytes.load(Ordering::Relaxed)),
            String::from_utf8_lossy(&names.user),
            shown.resp.load(Ordering::Relaxed),
            names.lib_name,
            names.lib_ver,
        );
        line
    }
}
