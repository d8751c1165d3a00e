//! The serving side: clients' sockets, and the threads that execute their commands where they arrive.
//!
//! Owns connections from accept to close. In: bytes of clients; the gate and the ring, which the control side publishes. Out: calls
//! of the engine, and replies, each held back until the gate lets it go.
//!
//! ```text
//! listener ─ connection ─┬─ input    what was read and is not done with
//!   (one a thread)       ├─ dispatch one request: engine or session, under the gate
//!                        ├─ session  commands about the connection, the ring or the process
//!                        └─ pending  replies, in order, until they may leave
//! wake: gate published ─▶ threads with waiting connections ─▶ those whose answer is due
//! ```
//!
//! Serving threads share the engine, the gate and a few counters, and never wait for each other or for a control thread: a request
//! that cannot be executed now is parked in its connection, without an error, for as long as its client waits.

mod acl;
mod blocked;
mod connection;
mod dispatch;
mod forward;
mod input;
mod listener;
mod mail;
mod notifications;
mod pending;
mod pubsub;
mod registry;
mod scripts;
mod session;
mod settings;
mod stats;
mod thread;
mod topology;
mod tracking;
mod wake;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use ringmaster_engine::{Changed, Engine};
use ringmaster_replica::{Gate, Mono, Verdict};
use ringmaster_ring::{CopyStatus, Holder, Ring, SyncProgress};
use tokio::sync::watch;

pub use acl::{Acl, RuleError, UserFileError, UserFiles};
pub use listener::{ServeError, ServeHandle, start};
pub use stats::{CommandTotals, Stats, Totals};

use crate::bus::{Bus, Message, Scope};
use crate::env::boot_now;
use crate::status::{ClientStats, Sample, SampleValue};
use notifications::Notifications;
use pubsub::PubSub;
use registry::Registry;
use scripts::Scripts;
use settings::{Pause, SlowLog};
use tracking::Tracking;
use wake::WakeHub;

/// The version of Redis whose commands and replies are meant: clients choose their features by it.
pub(crate) const REDIS_VERSION: &str = "7.2.4";
/// How many databases there are with cluster mode off.
pub(crate) const DATABASES: u8 = 16;

/// How clients are served.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// The address to listen on.
    pub bind: String,
    /// 0 lets the system choose: see [`ServeHandle::port`].
    pub client_port: u16,
    pub threads: usize,
    /// Further ones are told so and closed.
    pub connections_max: usize,
    /// Whether clients see Redis Cluster.
    pub cluster_mode: bool,
    /// The longest argument of a request.
    pub argument_bytes_max: usize,
    /// A client whose unfinished request is longer than this is closed.
    pub query_buffer_bytes_max: usize,
    /// No further request of a client is executed while this much of its replies waits to be sent.
    pub reply_backlog_bytes_max: usize,
    /// A client of whose replies more than this waits to be sent is closed. One reply alone may be that long.
    pub output_buffer_bytes_max: usize,
    /// A subscriber for whom more than this waits is closed; also one for whom more than the soft limit waits for so long.
    pub subscriber_backlog_bytes_max: usize,
    pub subscriber_backlog_soft_bytes_max: usize,
    pub subscriber_backlog_soft_s: u64,
    /// After how long requests that wait for a script are told that the member is busy, and SCRIPT KILL ends it; 0 for never.
    pub busy_reply_threshold_ms: u64,
    /// What the scripts of one thread may use.
    pub script_memory_bytes_max: usize,
    /// A client that takes nothing of what is sent to it for so long is closed.
    pub write_stall_ms_max: u64,
    /// A client that sends no command for so long is closed; 0 for never.
    pub idle_ms_max: u64,
    /// Who may use DEBUG.
    pub debug_command: DebugCommand,
    /// How long a connection is silent before the system asks whether the peer is still there.
    pub keepalive_s: u64,
}

/// Who may use DEBUG.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DebugCommand {
    No,
    /// Clients that connect from this machine.
    Local,
    Yes,
}

impl DebugCommand {
    fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Local => "local",
            Self::Yes => "yes",
        }
    }
}

/// How a client has the member replaced, and asks whether somebody has.
struct Leaving {
    begin: Box<dyn Fn() + Send + Sync>,
    has_begun: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            bind: "127.0.0.1".into(),
            client_port: 6379,
            threads: 1,
            connections_max: 10_000,
            cluster_mode: true,
            argument_bytes_max: 512 << 20,
            query_buffer_bytes_max: 1 << 30,
            reply_backlog_bytes_max: 1 << 20,
            output_buffer_bytes_max: 1 << 30,
            subscriber_backlog_bytes_max: 32 << 20,
            subscriber_backlog_soft_bytes_max: 8 << 20,
            subscriber_backlog_soft_s: 60,
            busy_reply_threshold_ms: 5_000,
            script_memory_bytes_max: 256 << 20,
            write_stall_ms_max: 60_000,
            idle_ms_max: 0,
            debug_command: DebugCommand::No,
            keepalive_s: 60,
        }
    }
}

/// What the serving threads and the control side have in common.
pub struct Shared {
    pub(crate) holder: Holder,
    pub(crate) engine: Arc<Engine>,
    pub(crate) gate: Arc<Gate>,
    rings: OnceLock<watch::Receiver<Option<Arc<Ring>>>>,
    replication: OnceLock<Box<dyn Fn() -> Replication + Send + Sync>>,
    leaving: OnceLock<Leaving>,
    hub: WakeHub,
    acl: Acl,
    registry: Arc<Registry>,
    pubsub: Arc<PubSub>,
    scripts: Scripts,
    tracking: Tracking,
    notifications: Notifications,
    pause: Pause,
    slow_log: SlowLog,
    bus: OnceLock<Bus>,
    stats: Stats,
    commands_per_second: AtomicU64,
    /// The gate's role when it was last published.
    role: AtomicU64,
    started: Mono,
    /// When a client last sent a command on data, in ms after `started`, plus one; 0 for never.
    last_use: AtomicU64,
}

/// What INFO, ROLE and WAIT say about replication, beyond what the ring says.
#[derive(Clone, Debug, Default)]
pub struct Replication {
    /// At a primary: who follows it, and how far they are.
    pub copies: Vec<CopyStatus>,
    /// At a copy: the full sync under way.
    pub sync: Option<SyncProgress>,
    /// At a copy: whether records or heartbeats of the primary arrive.
    pub linked: bool,
}

impl Shared {
    #[must_use]
    pub fn new(holder: Holder, engine: Arc<Engine>, gate: Arc<Gate>) -> Arc<Self> {
        let shared = Arc::new(Self {
            holder,
            engine,
            gate,
            rings: OnceLock::new(),
            replication: OnceLock::new(),
            leaving: OnceLock::new(),
            hub: WakeHub::default(),
            acl: Acl::default(),
            registry: Arc::default(),
            pubsub: Arc::default(),
            scripts: Scripts::default(),
            tracking: Tracking::default(),
            notifications: Notifications::default(),
            pause: Pause::default(),
            slow_log: SlowLog::default(),
            bus: OnceLock::new(),
            stats: Stats::default(),
            commands_per_second: AtomicU64::new(0),
            role: AtomicU64::new(0),
            started: boot_now(),
            last_use: AtomicU64::new(0),
        });
        let observer = Arc::downgrade(&shared);
        shared.engine.on_change(move |changed| {
            if let Some(shared) = observer.upgrade() {
                shared.note_change(changed);
            }
        });
        shared
    }

    /// Has the engine tell of changes if anybody wants to hear of them.
    fn observe(&self) {
        self.engine.observe(self.tracking.is_active() || self.notifications.are_on());
    }

    /// A key has changed. Called while its lane is held.
    fn note_change(&self, changed: &Changed<'_>) {
        self.tracking.changed(changed.key, |id| self.registry.find(id));
        if self.notifications.are_on() {
            self.notifications.tell(changed, &self.pubsub);
        }
    }

    /// Names where rings come from. To be called before [`start`]; later calls change nothing.
    ///
    /// A ring must be sent before the gate that follows from it is published: a request that the gate sends elsewhere is redirected by
    /// the ring that is found then.
    pub fn follow_ring(&self, rings: watch::Receiver<Option<Arc<Ring>>>) {
        let _first_wins = self.rings.set(rings);
    }

    /// Names what answers questions about replication. Later calls change nothing.
    pub fn report_replication(&self, report: impl Fn() -> Replication + Send + Sync + 'static) {
        let _first_wins = self.replication.set(Box::new(report));
    }

    /// Names what has this member replaced, for SHUTDOWN, and what says whether that was asked for. Later calls change nothing.
    pub fn leave_by(
        &self,
        begin: impl Fn() + Send + Sync + 'static,
        has_begun: impl Fn() -> bool + Send + Sync + 'static,
    ) {
        let _first_wins = self.leaving.set(Leaving { begin: Box::new(begin), has_begun: Box::new(has_begun) });
    }

    /// Asks to be replaced. Says whether there is anybody to ask.
    fn leave(&self) -> bool {
        let leaving = self.leaving.get();
        leaving.inspect(|leaving| (leaving.begin)()).is_some()
    }

    fn is_leaving(&self) -> bool {
        self.leaving.get().is_some_and(|leaving| (leaving.has_begun)())
    }

    /// Names what carries messages to other members. Later calls change nothing.
    pub fn send_messages_by(&self, bus: Bus) {
        let _first_wins = self.bus.set(bus);
    }

    /// Delivers what was published at another member.
    pub fn deliver(&self, message: &Message) {
        let Message { scope, channel, payload } = message;
        match scope {
            Scope::Ring => self.pubsub.publish(channel, payload),
            Scope::Shard => self.pubsub.publish_in_shard(channel, payload),
        };
    }

    /// Sends a message to all members. Returns how many subscribers of this one it reached.
    fn publish(&self, channel: &[u8], payload: &[u8]) -> usize {
        let reached = self.pubsub.publish(channel, payload);
        self.send_out(|| Message { scope: Scope::Ring, channel: channel.to_vec(), payload: payload.to_vec() });
        reached
    }

    fn send_out(&self, message: impl FnOnce() -> Message) {
        if let Some(bus) = self.bus.get() {
            bus.send(message());
        }
    }

    /// To be called after the gate was published, if [`Gate::publish`] said so.
    pub fn wake(&self) {
        self.hub.wake();
        let role = self.gate.role();
        if self.role.swap(role, Ordering::SeqCst) != role {
            self.registry.poke_role_listeners();
        }
    }

    /// The users, which may be changed while clients are served.
    pub fn acl(&self) -> &Acl {
        &self.acl
    }

    /// To be called after users have changed: closes the connections of those that are no more but for one that is to have its reply first, and
    /// has subscribers look at what they may hear.
    fn users_changed(&self, spared: Option<u64>) {
        for client in self.registry.all() {
            if spared == Some(client.id) {
                continue;
            }
            if self.acl.user(&client.names.lock().user).is_none() {
                client.ask_to_close();
            } else if client.is_subscriber() {
                client.poke();
            }
        }
    }

    /// The sums of what all serving threads have counted.
    #[must_use]
    pub fn stats(&self) -> Totals {
        self.stats.totals()
    }

    /// How long ago a client last sent a command on data, in ms; none if none ever did. Questions about the connection, the ring or
    /// the process do not count: monitoring would keep a retired member for ever.
    #[must_use]
    pub fn last_use_ms(&self) -> Option<u64> {
        let at = self.last_use.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.now_ms().saturating_sub(at))
    }

    fn note_use(&self, now: Mono) {
        let at = self.ms_of(now).saturating_add(1);
        // The line is shared by all threads: it is written once a millisecond at most.
        if self.last_use.load(Ordering::Relaxed) < at {
            self.last_use.store(at, Ordering::Relaxed);
        }
    }

    fn replication(&self) -> Replication {
        self.replication.get().map(|report| report()).unwrap_or_default()
    }

    fn uptime_ms(&self) -> u64 {
        self.now_ms()
    }

    /// Milliseconds since the start, as connections note times.
    fn now_ms(&self) -> u64 {
        self.ms_of(boot_now())
    }

    fn ms_of(&self, now: Mono) -> u64 {
        u64::try_from(now.since(self.started).as_millis()).unwrap_or(u64::MAX)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("holder", &self.holder)
            .field("clients", &self.registry.count())
            .finish_non_exhaustive()
    }
}

/// Whether the gate lets the engine do something that no client asked for, or that a client may do at the primary alone.
#[must_use]
pub fn permits(gate: &Gate, access: ringmaster_engine::Access, now: Mono) -> bool {
    gate.may_execute(gate_access(access), now) == Verdict::Yes
}

fn gate_access(access: ringmaster_engine::Access) -> ringmaster_replica::Access {
    match access {
        ringmaster_engine::Access::Read => ringmaster_replica::Access::Read,
        ringmaster_engine::Access::Write => ringmaster_replica::Access::Write,
    }
}

impl ClientStats for Shared {
    fn clients(&self) -> u64 {
        self.registry.count() as u64
    }

    fn last_use_ms(&self) -> Option<u64> {
        Self::last_use_ms(self)
    }

    fn samples(&self) -> Vec<Sample> {
        let Totals {
            commands,
            connections_accepted,
            connections_refused,
            bytes_read,
            bytes_written,
            moved,
            forwarded,
            parked,
            rerun,
            unanswerable,
            protocol_errors,
            slow_readers,
            auth_failures,
            keyspace_hits,
            keyspace_misses,
        } = self.stats();
        let counters = [
            ("commands", "Requests executed or refused", commands),
            ("connections_accepted", "Connections taken in", connections_accepted),
            ("connections_refused", "Connections turned away: too many", connections_refused),
            ("read_bytes", "Bytes read from clients", bytes_read),
            ("written_bytes", "Bytes written to clients", bytes_written),
            ("moved", "Requests redirected to another member", moved),
            ("forwarded", "Connections whose requests another member executes, since they began", forwarded),
            ("parked", "Requests that waited for a change of role", parked),
            ("rerun", "Reads executed again after a change of role", rerun),
            ("unanswerable", "Connections closed because a request could not be answered any more", unanswerable),
            ("protocol_errors", "Connections closed because they broke the protocol", protocol_errors),
            ("slow_readers", "Connections closed because they did not read their replies", slow_readers),
            ("auth_failures", "Wrong passwords", auth_failures),
            (
                "messages_dropped",
                "Messages that some member of the ring did not get",
                self.bus.get().map_or(0, Bus::dropped),
            ),
            ("keyspace_hits", "Reads that found something", keyspace_hits),
            ("keyspace_misses", "Reads that found nothing", keyspace_misses),
        ];
        let counters = counters.map(|(name, help, value)| Sample { name, help, value: SampleValue::Counter(value) });
        let blocked = Sample {
            name: "clients_blocked",
            help: "Connections whose oldest request waits for a role or for acknowledgements",
            value: SampleValue::Gauge(self.registry.blocked() as f64),
        };
        counters.into_iter().chain([blocked]).collect()
    }
}
