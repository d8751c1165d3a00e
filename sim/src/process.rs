//! Machines and the processes on them: a member's process is the production control plane with its replica, its engine
//! and a serving side, on a runtime of its own.
//!
//! In: what the scenario does to it. Out: what the checks look at. Two processes share nothing but the network.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ringmaster_engine::{Engine, EngineConfig, Eviction};
use ringmaster_node::ClientStats as _;
use ringmaster_node::consensus::RaftTiming;
use ringmaster_node::control::{Control, MemberConfig, MemberParts};
use ringmaster_node::peer::{Identity, Secrets};
use ringmaster_replica::{Gate, Held, Lead, LeadConfig, Mono, Mutations, Replica, ReplicaConfig};
use ringmaster_ring::{
    Address, BootId, ClusterUuid, Command, Generation, Holder, MemberId, MemberStatus, Rejection, Ring, ShardId,
    VoterId,
};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use crate::client::MEMBERS;
use crate::disk::SimDisk;
use crate::env::{Clock, Directory, EnvParts, SimEnv};
use crate::net::{HostId, Net, ProcessId};
use crate::serve::{CLIENT_PORT, Clients, Serving};

/// By how much leases believe that clocks may run apart, in parts per million.
pub const DRIFT_PPM_BOUND: u32 = 1_000;
const PEER_PORT: u16 = 7379;
const HTTP_PORT: u16 = 8379;
const SECRET: &str = "simulated";

/// The cluster that is simulated.
pub const CLUSTER: ClusterUuid = ClusterUuid(0x51);
pub const GENERATION: Generation = Generation(1);

/// How every member of a run is made.
#[derive(Clone, Debug)]
pub struct MemberSettings {
    pub raft: RaftTiming,
    pub log_bytes_max: usize,
    pub sync_bytes_per_second: u64,
    /// The rules that this run does without.
    pub mutations: Mutations,
}

/// A machine with a disk and clocks, for one member.
#[derive(Debug)]
pub struct Machine {
    pub host: HostId,
    pub member: MemberId,
    pub shard: Option<ShardId>,
    pub clock: Clock,
    pub disk: SimDisk,
    pub process: Option<Process>,
    /// The voter whose log is on the disk, once a process told.
    pub voter: Option<VoterId>,
    /// Switched off: it answers nothing.
    pub is_down: bool,
}

/// A member's process.
pub struct Process {
    pub holder: Holder,
    runtime: Turns,
    clock: Clock,
    node: Arc<NodeParts>,
}

/// What a process consists of, once it has begun.
pub(crate) struct NodeParts {
    engine: Arc<Engine>,
    gate: Arc<Gate>,
    control: Mutex<Option<Arc<Control<SimEnv>>>>,
    pub(crate) clients: Clients,
    failed: Mutex<Option<String>>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").field("holder", &self.holder).finish_non_exhaustive()
    }
}

/// A runtime whose clock stands still but for the turns it is given.
#[derive(Debug)]
pub(crate) struct Turns {
    runtime: Runtime,
    /// True time up to which its clock has come, in ms.
    at_ms: u64,
    is_stopped: bool,
}

impl Turns {
    pub(crate) fn new(now_ms: u64) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
        Ok(Self { runtime, at_ms: now_ms, is_stopped: false })
    }

    /// Runs everything up to `now_ms`. A runtime that was stopped finds its clock ahead, as a process does after
    /// SIGCONT: everything that was due meanwhile is late.
    pub(crate) fn run_until(&mut self, now_ms: u64) {
        if self.is_stopped {
            return;
        }
        let missed = now_ms.saturating_sub(self.at_ms).saturating_sub(1);
        self.runtime.block_on(async {
            if missed > 0 {
                tokio::time::advance(Duration::from_millis(missed)).await;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        });
        self.at_ms = now_ms;
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    pub(crate) fn enter<T>(&self, within: impl FnOnce() -> T) -> T {
        let _entered = self.runtime.enter();
        within()
    }
}

thread_local! {
    /// The rules that the runs on this thread do without: Raft's state machine takes a plain function.
    static DROPPED: Cell<Mutations> = const { Cell::new(Mutations::none()) };
}

/// Names the rules that the ring does without, on this thread, from now on.
pub(crate) fn drop_ring_rules(mutations: Mutations) {
    DROPPED.set(mutations);
}

fn apply(ring: &Ring, command: &Command) -> Result<Ring, Rejection> {
    ring.apply_mutated(command, DROPPED.get())
}

/// What a process is started with.
#[derive(Clone, Debug)]
pub struct Start {
    pub net: Net,
    pub directory: Directory,
    pub now_ms: u64,
    pub process: ProcessId,
    pub boot: BootId,
    pub seed: u64,
    pub settings: MemberSettings,
}

impl Machine {
    /// Starts the member's process.
    ///
    /// # Errors
    /// The operating system gave no runtime.
    pub fn start(&mut self, start: Start) -> std::io::Result<()> {
        let Start { net, directory, now_ms, process, boot, seed, settings } = start;
        self.is_down = false;
        net.host_up(self.host);
        net.process_started(self.host, process);
        let runtime = Turns::new(now_ms)?;
        let holder = Holder { member: self.member, boot };
        let parts = EnvParts {
            net,
            host: self.host,
            process,
            disk: self.disk.clone(),
            clock: self.clock,
            directory,
            true_ms: now_ms,
            seed,
        };
        let env = runtime.enter(|| SimEnv::new(parts));
        let engine = Arc::new(Engine::new(EngineConfig {
            hash_seed: [seed, u64::from(self.member.0)],
            maxmemory_bytes: 0,
            eviction: Eviction::NoEviction,
            log_bytes_max: settings.log_bytes_max,
            cluster_mode: true,
        }));
        let node = Arc::new(NodeParts {
            engine: Arc::clone(&engine),
            gate: Arc::new(Gate::new(settings.mutations)),
            control: Mutex::default(),
            clients: Clients::new(env.clone()),
            failed: Mutex::default(),
        });
        runtime.spawn(run_member(env, holder, self.shard, settings, Arc::clone(&node)));
        self.process = Some(Process { holder, runtime, clock: self.clock, node });
        Ok(())
    }

    /// The process is killed. Its machine answers that nothing listens there.
    pub fn kill(&mut self, net: &Net) {
        net.process_died(self.host);
        self.disk.crash();
        self.process = None;
    }

    /// The machine stops, and answers nothing.
    pub fn power_off(&mut self, net: &Net) {
        net.host_down(self.host);
        self.disk.crash();
        self.process = None;
        self.is_down = true;
    }

    /// The disk is lost; the next process finds an empty one.
    pub fn lose_disk(&mut self) {
        self.disk.lose();
        self.voter = None;
    }

    /// Gives the process its turn, up to `now_ms` of true time.
    pub fn run_until(&mut self, now_ms: u64) {
        let Some(process) = &mut self.process else { return };
        process.runtime.run_until(now_ms);
        if self.voter.is_none() {
            self.voter = process.control().map(|control| control.consensus().voter());
        }
    }

    /// The address that its member announces.
    #[must_use]
    pub fn address(&self) -> Address {
        address_of(self.member)
    }
}

/// Every member has a machine of its own, with its serial in the address.
#[must_use]
pub fn host_of(member: MemberId) -> HostId {
    HostId(u32::try_from(u64::from(member.0)).unwrap_or(u32::MAX))
}

fn address_of(member: MemberId) -> Address {
    Address { host: host_of(member).name(), client_port: CLIENT_PORT, peer_port: PEER_PORT, http_port: HTTP_PORT }
}

async fn run_member(
    env: SimEnv,
    holder: Holder,
    shard: Option<ShardId>,
    settings: MemberSettings,
    node: Arc<NodeParts>,
) {
    let Some(secrets) = Secrets::parse(SECRET) else { return };
    let Holder { member, boot } = holder;
    let MemberSettings { raft, sync_bytes_per_second, mutations, .. } = settings;
    let bell = Arc::new(Notify::new());
    let rung = Arc::clone(&bell);
    // Weak, or the process would keep itself, with all its data, after its end.
    let dying = Arc::downgrade(&node);
    let replica = shard.map(|shard| {
        Replica::new(ReplicaConfig {
            me: member,
            boot,
            shard,
            drift_ppm: DRIFT_PPM_BOUND,
            held: Held::default(),
            mutations,
        })
    });
    let parts = MemberParts {
        env: env.clone(),
        identity: Identity { cluster: CLUSTER, generation: GENERATION, member, boot, secrets },
        config: MemberConfig {
            shard,
            address: address_of(member),
            seeds: vec![(MEMBERS.to_owned(), PEER_PORT)],
            zone: String::new(),
            node: String::new(),
            raft,
            sync_bytes_per_second,
        },
        engine: Arc::clone(&node.engine),
        gate: Arc::clone(&node.gate),
        replica,
        lead: Lead::new(LeadConfig { mutations }),
        apply,
        wake: Box::new(move || rung.notify_waiters()),
        graveyard: Box::new(drop),
        fatal: Box::new(move |why| {
            if let Some(dying) = dying.upgrade() {
                *dying.failed.lock() = Some(why.to_owned());
            }
        }),
    };
    let (control, streams) = match Control::start(parts).await {
        Ok(started) => started,
        Err(error) => {
            *node.failed.lock() = Some(error.to_string());
            return;
        }
    };
    *node.control.lock() = Some(Arc::clone(&control));
    if let Some(shard) = shard {
        let view = control.view().clone();
        let serving = Serving {
            env: env.clone(),
            holder,
            shard,
            engine: Arc::clone(&node.engine),
            gate: Arc::clone(&node.gate),
            ring: Box::new(move || view.ring()),
            bell,
            node: Arc::clone(&node),
        };
        tokio::spawn(Arc::new(serving).run());
    }
    control.run_streams(env, streams).await;
}

impl Process {
    /// SIGSTOP.
    pub fn stop(&mut self) {
        self.runtime.is_stopped = true;
    }

    /// SIGCONT.
    pub fn go_on(&mut self) {
        self.runtime.is_stopped = false;
    }

    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.runtime.is_stopped
    }

    /// The control plane, once it has begun.
    #[must_use]
    pub fn control(&self) -> Option<Arc<Control<SimEnv>>> {
        self.node.control.lock().clone()
    }

    /// What it says of itself; none before it has begun.
    #[must_use]
    pub fn status(&self) -> Option<MemberStatus> {
        let control = self.control()?;
        Some(self.runtime.enter(|| control.status(&self.node.clients)))
    }

    /// SIGTERM.
    pub fn ask_to_end(&self) {
        if let Some(control) = self.control() {
            self.runtime.enter(|| control.leave());
        }
    }

    /// Whether it was asked to end, and nobody needs it any more.
    #[must_use]
    pub fn may_end(&self) -> bool {
        let last_use_ms = self.runtime.enter(|| self.node.clients.last_use_ms());
        self.control().is_some_and(|control| control.is_leaving() && control.may_end(last_use_ms))
    }

    /// Runs a task in the process.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.node.engine
    }

    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.node.gate
    }

    /// Why the process could not begin.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.node.failed.lock().clone()
    }

    /// The newest ring that the process knows.
    #[must_use]
    pub fn ring(&self) -> Option<Arc<Ring>> {
        self.node.control.lock().as_ref()?.view().ring()
    }

    /// What its boot clock shows at `now_ms` of true time.
    #[must_use]
    pub fn now(&self, now_ms: u64) -> Mono {
        self.clock.mono(now_ms * 1_000_000)
    }
}
