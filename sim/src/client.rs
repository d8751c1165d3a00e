//! Clients: they write counters and registers, follow redirects, and keep the ledger.
//!
//! A client has one request under way at a time and any number of connections. It knows the members by name, as from
//! DNS, and learns from redirects who serves what.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use ringmaster_node::env::{Env, within};
use ringmaster_node::peer::{read_frame, write_frame};
use ringmaster_ring::{Ring, ShardId, Slot};
use tokio::io::AsyncWriteExt;

use crate::env::{Directory, SimEnv};
use crate::ledger::{Deed, Kind, Ledger, Operation};
use crate::net::SimStream;
use crate::serve::{Ask, CLIENT_PORT, Executing, Told};
use crate::trace::Trace;

/// The name under which the directory has all members.
pub const MEMBERS: &str = "members";

const CONNECT_LIMIT: Duration = Duration::from_millis(300);
const ANSWER_LIMIT: Duration = Duration::from_millis(2_500);
/// How many counters each shard has. All clients share them.
const COUNTERS: u64 = 3;
/// How often an operation is sent on before the client takes up another, if it was never executed.
const HOPS_MAX: u32 = 40;

/// What clients are to do at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    Wait = 0,
    Work = 1,
    /// Reads every key of the ledger once, then waits.
    Settle = 2,
}

/// What all clients of a run share.
#[derive(Debug)]
pub struct Workload {
    pub ledger: Mutex<Ledger>,
    pub directory: Directory,
    pub trace: Trace,
    /// The slots of each shard, as the ring was formed.
    shards: Mutex<Option<Arc<Ring>>>,
    mode: AtomicU8,
    /// How many clients finished their part of settling, and how many are at rest.
    settled: Mutex<u32>,
    resting: Mutex<u32>,
}

impl Workload {
    #[must_use]
    pub fn new(directory: Directory, trace: Trace) -> Arc<Self> {
        Arc::new(Self {
            ledger: Mutex::default(),
            directory,
            trace,
            shards: Mutex::default(),
            mode: AtomicU8::new(Mode::Wait as u8),
            settled: Mutex::default(),
            resting: Mutex::default(),
        })
    }

    /// Tells the clients where keys belong; without it they wait.
    pub fn set_ring(&self, ring: Arc<Ring>) {
        *self.shards.lock() = Some(ring);
    }

    pub fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Release);
    }

    /// How many clients have nothing under way.
    #[must_use]
    pub fn resting(&self) -> u32 {
        *self.resting.lock()
    }

    /// How many clients have read what they were to read at the end.
    #[must_use]
    pub fn settled(&self) -> u32 {
        *self.settled.lock()
    }

    fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Acquire) {
            1 => Mode::Work,
            2 => Mode::Settle,
            _ => Mode::Wait,
        }
    }
}

/// One client.
pub struct Client {
    env: SimEnv,
    workload: Arc<Workload>,
    number: u32,
    clients: u32,
    connections: BTreeMap<String, SimStream>,
    /// Who served each shard last.
    servers: BTreeMap<ShardId, String>,
    /// This client's registers: how often each was given up, and its last number.
    registers: BTreeMap<(ShardId, u32), (u32, u64)>,
}

/// What came of an operation.
enum Outcome {
    Done(u64, Executing),
    /// It was not executed.
    Untouched,
    /// It was sent, and the answer did not come.
    Unknown,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Client {
    #[must_use]
    pub fn new(env: SimEnv, workload: Arc<Workload>, number: u32, clients: u32) -> Self {
        let (connections, servers, registers) = Default::default();
        Self { env, workload, number, clients, connections, servers, registers }
    }

    /// Works as the workload's mode says, for as long as the process lives.
    pub async fn run(mut self) {
        let mut rested = false;
        let mut settled = false;
        loop {
            let ring = self.workload.shards.lock().clone();
            match (self.workload.mode(), ring) {
                (Mode::Work, Some(ring)) => {
                    if std::mem::take(&mut rested) {
                        *self.workload.resting.lock() -= 1;
                    }
                    self.work(&ring).await;
                    let pause = self.below(12);
                    self.env.sleep(Duration::from_millis(pause)).await;
                }
                (Mode::Settle, Some(_)) if !settled => {
                    self.settle().await;
                    settled = true;
                    *self.workload.settled.lock() += 1;
                }
                _ => {
                    if !std::mem::replace(&mut rested, true) {
                        *self.workload.resting.lock() += 1;
                    }
                    self.env.sleep(Duration::from_millis(5)).await;
                }
            }
        }
    }

    async fn work(&mut self, ring: &Ring) {
        let shards: Vec<ShardId> = ring.shards.keys().copied().collect();
        let picked = usize::try_from(self.below(shards.len() as u64)).unwrap_or(0);
        let Some(shard) = shards.get(picked).copied() else { return };
        let era = self.workload.ledger.lock().era(shard);
        let (kind, name, deed) = match self.below(10) {
            0..4 => (Kind::Counter, format!("c{}", self.below(COUNTERS)), Deed::Increment),
            4..7 => {
                let (tries, last) = self.registers.entry((shard, era)).or_default();
                *last += 1;
                (Kind::Register, format!("r{}.{tries}", self.number), Deed::Set(*last))
            }
            7..9 => {
                let of = u32::try_from(self.below(u64::from(self.clients))).unwrap_or(0);
                (Kind::Register, format!("r{of}.0"), Deed::Get)
            }
            _ => (Kind::Counter, format!("c{}", self.below(COUNTERS)), Deed::Get),
        };
        let Some(key) = key_in_shard(ring, shard, &format!("{name}:{era}")) else { return };
        let operation = self.workload.ledger.lock().begin(&key, kind, shard, deed);
        let outcome = self.run_operation(&operation, shard).await;
        let mut ledger = self.workload.ledger.lock();
        match outcome {
            Outcome::Done(value, executed) => {
                let Executing { by, epoch, after, .. } = &executed;
                self.workload.trace.line(format_args!(
                    "client {} {key} {deed:?} = {value} by {} at {epoch}:{after}",
                    self.number, by.member
                ));
                ledger.complete(&operation, value, &executed);
            }
            Outcome::Untouched => ledger.withdraw(&operation),
            Outcome::Unknown => {
                self.workload.trace.line(format_args!("client {} {key} {deed:?} unknown", self.number));
                ledger.note_error();
                ledger.give_up(&operation);
                if let (Deed::Set(_), Some(register)) = (deed, self.registers.get_mut(&(shard, era))) {
                    *register = (register.0 + 1, 0);
                }
            }
        }
    }

    /// Reads this client's part of all keys, until each is read.
    async fn settle(&mut self) {
        let keys = self.workload.ledger.lock().keys();
        let mine = keys
            .into_iter()
            .enumerate()
            .filter(|(index, _)| *index as u64 % u64::from(self.clients) == u64::from(self.number));
        for (_, (key, shard, kind)) in mine.collect::<Vec<_>>() {
            loop {
                let read = self.workload.ledger.lock().begin(&key, kind, shard, Deed::Get);
                if let Outcome::Done(value, executed) = self.run_operation(&read, shard).await {
                    let mut ledger = self.workload.ledger.lock();
                    ledger.complete(&read, value, &executed);
                    ledger.settle(&key, value);
                    break;
                }
                self.env.sleep(Duration::from_millis(20)).await;
            }
        }
    }

    async fn run_operation(&mut self, operation: &Operation, shard: ShardId) -> Outcome {
        let key = operation.key.clone().into_bytes();
        let args = match operation.deed {
            Deed::Increment => vec![b"INCR".to_vec(), key],
            Deed::Set(number) => vec![b"SET".to_vec(), key, number.to_string().into_bytes()],
            Deed::Get => vec![b"GET".to_vec(), key],
        };
        let ask = Ask { args };
        for _ in 0..HOPS_MAX {
            let Some(server) = self.server_of(shard) else { return Outcome::Untouched };
            let Some(mut stream) = self.connection(&server).await else {
                self.servers.remove(&shard);
                self.env.sleep(Duration::from_millis(10)).await;
                continue;
            };
            match self.call(&mut stream, &ask).await {
                None => {
                    self.servers.remove(&shard);
                    return Outcome::Unknown;
                }
                Some(told) => {
                    self.connections.insert(server, stream);
                    match told {
                        Told::Reply(executed) => match value_of(&executed.bytes, operation.deed) {
                            Some(value) => return Outcome::Done(value, executed),
                            None => return Outcome::Unknown,
                        },
                        Told::Moved { host } => {
                            self.workload.ledger.lock().note_redirect();
                            self.servers.insert(shard, host);
                        }
                        Told::Down => {
                            self.workload.ledger.lock().note_error();
                            self.servers.remove(&shard);
                            self.env.sleep(Duration::from_millis(15)).await;
                        }
                        Told::Refused => self.env.sleep(Duration::from_millis(15)).await,
                    }
                }
            }
            if self.workload.mode() == Mode::Wait {
                break;
            }
        }
        Outcome::Untouched
    }

    fn server_of(&mut self, shard: ShardId) -> Option<String> {
        if let Some(server) = self.servers.get(&shard) {
            return Some(server.clone());
        }
        let members = self.workload.directory.lock().get(MEMBERS).cloned().unwrap_or_default();
        let picked = usize::try_from(self.below(members.len() as u64)).unwrap_or(0);
        members.get(picked).cloned()
    }

    async fn connection(&mut self, server: &str) -> Option<SimStream> {
        if let Some(open) = self.connections.remove(server).filter(SimStream::is_open) {
            return Some(open);
        }
        within(&self.env, CONNECT_LIMIT, self.env.connect(server, CLIENT_PORT)).await?.ok()
    }

    async fn call(&self, stream: &mut SimStream, ask: &Ask) -> Option<Told> {
        let calling = async {
            write_frame(stream, ask).await.ok()?;
            stream.flush().await.ok()?;
            read_frame::<Told>(stream).await.ok()
        };
        within(&self.env, ANSWER_LIMIT, calling).await?
    }

    fn below(&self, bound: u64) -> u64 {
        self.env.random().checked_rem(bound).unwrap_or(0)
    }
}

/// A key with this name that belongs to the shard.
fn key_in_shard(ring: &Ring, shard: ShardId, name: &str) -> Option<String> {
    (0..1_000)
        .map(|salt| format!("{name}#{salt}"))
        .find(|key| ring.shard_of_slot(Slot::of_key(key.as_bytes())).is_some_and(|(owner, _)| owner == shard))
}

/// The number in a reply: what an increment or a read returned, or what was set.
fn value_of(reply: &[u8], deed: Deed) -> Option<u64> {
    let text = std::str::from_utf8(reply).ok()?;
    let mut lines = text.split("\r\n");
    let head = lines.next()?;
    match (deed, head.split_at_checked(1)?) {
        (Deed::Set(number), ("+", "OK")) => Some(number),
        (Deed::Increment, (":", number)) => number.parse().ok(),
        (Deed::Get, ("$", "-1")) => Some(0),
        (Deed::Get, ("$", _)) => lines.next()?.parse().ok(),
        _ => None,
    }
}
