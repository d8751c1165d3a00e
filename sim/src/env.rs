//! One process's outside: what production takes from the kernel, a simulated process takes from here.
//!
//! A process has a tokio runtime of its own with a paused clock, which the simulation moves on. So a process that is
//! killed takes every task with it, Raft's included, and one that is stopped has stopped timers, while its machine's
//! clock goes on.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use ringmaster_node::env::Env;
use ringmaster_replica::Mono;

use crate::disk::SimDisk;
use crate::net::{HostId, Net, ProcessId, SimListener, SimStream};

/// A machine's clocks, as functions of the true time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// What the boot clock showed at true time 0.
    pub offset_ns: u64,
    /// How much faster than the truth it runs, in parts per million.
    pub drift_ppm: i64,
    /// What the wall clock showed at true time 0.
    pub wall_ms: u64,
}

impl Clock {
    /// What the boot clock shows.
    #[must_use]
    pub fn mono(&self, true_ns: u64) -> Mono {
        Mono(self.offset_ns.saturating_add(self.drifted(true_ns)))
    }

    /// What the wall clock shows.
    #[must_use]
    pub fn wall(&self, true_ns: u64) -> u64 {
        self.wall_ms.saturating_add(self.drifted(true_ns) / 1_000_000)
    }

    fn drifted(&self, true_ns: u64) -> u64 {
        let true_ns = i128::from(true_ns);
        let shown = true_ns + true_ns * i128::from(self.drift_ppm) / 1_000_000;
        u64::try_from(shown).unwrap_or(0)
    }
}

/// Names and the addresses behind them.
pub type Directory = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

/// The outside of one process. Clones are handles on the same one.
#[derive(Clone, Debug)]
pub struct SimEnv {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    net: Net,
    host: HostId,
    process: ProcessId,
    disk: SimDisk,
    clock: Clock,
    directory: Directory,
    started_true_ms: u64,
    started: tokio::time::Instant,
    random: Mutex<StdRng>,
}

/// What an outside is made of.
#[derive(Clone, Debug)]
pub struct EnvParts {
    pub net: Net,
    pub host: HostId,
    pub process: ProcessId,
    pub disk: SimDisk,
    pub clock: Clock,
    pub directory: Directory,
    pub true_ms: u64,
    pub seed: u64,
}

impl SimEnv {
    /// To be called within the runtime of the process.
    #[must_use]
    pub fn new(parts: EnvParts) -> Self {
        let EnvParts { net, host, process, disk, clock, directory, true_ms, seed } = parts;
        let inner = Inner {
            net,
            host,
            process,
            disk,
            clock,
            directory,
            started_true_ms: true_ms,
            started: tokio::time::Instant::now(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
        };
        Self { inner: Arc::new(inner) }
    }

    fn true_ns(&self) -> u64 {
        let since_start = u64::try_from(self.inner.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        (self.inner.started_true_ms * 1_000_000).saturating_add(since_start)
    }
}

impl Env for SimEnv {
    type Stream = SimStream;
    type Listener = SimListener;
    type Disk = SimDisk;

    fn now(&self) -> Mono {
        self.inner.clock.mono(self.true_ns())
    }

    fn wall_ms(&self) -> u64 {
        self.inner.clock.wall(self.true_ns())
    }

    fn random(&self) -> u64 {
        self.inner.random.lock().next_u64()
    }

    fn disk(&self) -> &SimDisk {
        &self.inner.disk
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(duration)
    }

    async fn listen(&self, port: u16) -> io::Result<SimListener> {
        self.inner.net.listen(self.inner.host, self.inner.process, port)
    }

    async fn connect(&self, host: &str, port: u16) -> io::Result<SimStream> {
        let to = HostId::of_name(host).ok_or(io::ErrorKind::AddrNotAvailable)?;
        self.inner.net.connect(self.inner.host, self.inner.process, to, port).await
    }

    fn adopt(&self, stream: SimStream) -> io::Result<SimStream> {
        Ok(stream)
    }

    async fn resolve(&self, host: &str) -> io::Result<Vec<String>> {
        if HostId::of_name(host).is_some() {
            return Ok(vec![host.to_owned()]);
        }
        Ok(self.inner.directory.lock().get(host).cloned().unwrap_or_default())
    }
}
