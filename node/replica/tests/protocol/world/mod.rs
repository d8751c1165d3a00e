//! A small world around the protocol: members with clocks of their own, an abstract consensus, and a network that may
//! delay, cut and hold. One queue of events in the order of true time; nothing else moves.

mod clients;
mod consensus;
mod member;
mod network;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use ringmaster_replica::*;
use ringmaster_ring::*;

use crate::ledger::{Ledger, Writes};
use crate::rng::Rng;

pub const MS: u64 = 1_000_000;
const SHARD: ShardId = ShardId(0);
const TICK: u64 = 50 * MS;

/// One record of the abstract log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub epoch: ShardEpoch,
    pub id: u16,
}

/// What travels, or happens inside a member.
#[derive(Clone, Debug)]
pub enum Packet {
    // Inside one member.
    Tick,
    LogEnd,
    Barrier,
    Applied {
        last: Position,
    },
    Discarded,
    Pump,
    Flush,
    RoundChecked {
        round: RoundId,
        leadership: u64,
    },
    RoundResult {
        round: RoundId,
        confirmed: bool,
    },
    LeadRing {
        index: usize,
    },
    Leading {
        leadership: u64,
    },
    NotLeading,
    Restart,
    // Between members.
    Learn {
        index: usize,
    },
    LeaseAsk {
        ask: AskId,
        shard: ShardId,
        epoch: ShardEpoch,
        holder: Holder,
    },
    LeaseAnswer {
        ask: AskId,
        granted: bool,
        prev_over: bool,
    },
    /// To the consensus. `leadership`: refused in any other.
    Propose {
        command: Command,
        leadership: Option<u64>,
    },
    Probe,
    Probed {
        member: MemberId,
        result: Probe,
    },
    // On a stream; `boot` is the copy's.
    Subscribe {
        stream: StreamId,
        boot: BootId,
        epoch: ShardEpoch,
        last: Position,
        may_discard: bool,
    },
    Ack {
        stream: StreamId,
        boot: BootId,
        epoch: ShardEpoch,
        seq: Seq,
    },
    CopyLost {
        stream: StreamId,
        boot: BootId,
    },
    Stream {
        stream: StreamId,
        what: Frame,
    },
    StreamLost {
        stream: StreamId,
    },
}

/// What a primary sends on a stream.
#[derive(Clone, Debug)]
pub enum Frame {
    Accepted { epoch: ShardEpoch, start: StreamStart },
    Refused { reason: RefuseReason },
    Walk { epoch: ShardEpoch, entries: Vec<Entry>, end: Position, history: History },
    Records { epoch: ShardEpoch, first: Seq, entries: Vec<Entry>, committed: Seq },
    Heartbeat { epoch: ShardEpoch, end: Seq, committed: Seq },
    Release { epoch: ShardEpoch, last: Position },
}

#[derive(Clone, Debug)]
pub struct Envelope {
    pub from: usize,
    pub to: usize,
    to_boot: Option<BootId>,
    pub packet: Packet,
}

struct Queued {
    at: u64,
    order: u64,
    envelope: Envelope,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// A stream as the primary's shell sends it.
#[derive(Clone, Debug)]
struct OutStream {
    stream: StreamId,
    to: Holder,
    epoch: ShardEpoch,
    /// Still to be sent in full.
    walk: bool,
    next: u64,
    release: Option<(ShardEpoch, Position)>,
}

/// A reply that is withheld.
#[derive(Clone)]
struct Pending {
    ticket: Ticket,
    after: Seq,
    /// The write, or none for a read.
    wrote: Option<u16>,
    /// What a read showed.
    seen: Writes,
    /// What clients had been told when the read came.
    before: Writes,
}

pub struct Node {
    pub alive: bool,
    pub boot: BootId,
    data: bool,
    clock_rate_ppm: i64,
    clock_offset: u64,
    pub replica: Replica,
    pub gate: Gate,
    pub lead: Lead,
    pub log: Vec<Entry>,
    pub set: Writes,
    kept_after: u64,
    log_epoch: ShardEpoch,
    out: BTreeMap<MemberId, OutStream>,
    /// The walk that may be taken in, and one that came before it might.
    walk_allowed: Option<StreamId>,
    walk_waiting: Option<(StreamId, Frame)>,
    records: Vec<(Seq, Entry)>,
    pending: Vec<Pending>,
    announced_at: u64,
    pub paused_until: u64,
    /// The leadership in which its leader's part believes to be.
    leads_in: u64,
    /// The newest commit that its Raft part knows.
    known: usize,
}

/// How the network behaves.
#[derive(Clone, Debug)]
pub struct Network {
    /// Usual delay, in µs.
    pub delay_us: (u64, u64),
    /// Of a thousand packets, this many take long, and how long in ms.
    pub slow_per_mille: u64,
    pub slow_ms: (u64, u64),
    pub lost_per_mille: u64,
}

impl Network {
    /// Every packet takes as long as any other, and arrives.
    pub fn calm() -> Self {
        Self { delay_us: (500, 500), slow_per_mille: 0, slow_ms: (0, 0), lost_per_mille: 0 }
    }
}

type Predicate = Box<dyn Fn(&Envelope) -> bool>;

/// What a filter does with the packets that it names.
pub enum Fate {
    Hold,
    Lose,
}

pub struct World {
    pub now: u64,
    pub rng: Rng,
    order: u64,
    queue: BinaryHeap<Reverse<Queued>>,
    pub nodes: Vec<Node>,
    pub rings: Vec<Arc<Ring>>,
    pub leader: Option<usize>,
    leadership: u64,
    /// Whom each member takes for the leader.
    pub believed_leader: Vec<Option<usize>>,
    /// Whether a leader that was deposed hears of it.
    pub deposed_hears: bool,
    /// How much later than usual a new leader hears that it is.
    pub leading_heard_after: u64,
    pub mutations: Mutations,
    drift_ppm: u32,
    pub network: Network,
    /// Pairs (from, to) between which nothing passes.
    pub cut: BTreeSet<(usize, usize)>,
    connections: BTreeMap<(usize, BootId, StreamId), Connection>,
    filters: Vec<(Fate, Predicate)>,
    held: Vec<Envelope>,
    pub ledger: Ledger,
    next_write: u16,
    /// Nothing but planned work happens: the number of copies never falls below what is wanted.
    pub planned: bool,
    pub violation: Option<String>,
    pub steps: u64,
    pub trace: Option<Vec<String>>,
    pub hash: u64,
    pub losses: usize,
}

#[derive(Clone, Copy)]
struct Connection {
    alive: bool,
    /// When the last packet of each direction arrives: streams keep their order.
    last_at: [u64; 2],
}

pub struct Setup {
    pub data: usize,
    pub copies: u16,
    pub witnesses: usize,
    pub mutations: Mutations,
    pub drift_ppm: u32,
    pub failover_after_ms: u32,
    pub seed: u64,
}

fn presence(index: usize, boot: BootId) -> Presence {
    let address = Address { host: format!("m{index}"), client_port: 1, peer_port: 2, http_port: 3 };
    Presence { boot, voter: VoterId(index as u64), address, feature_level: FeatureLevel(1) }
}

impl World {
    pub fn new(setup: &Setup) -> Self {
        let count = setup.data + setup.witnesses;
        let mut founders = BTreeMap::new();
        for index in 0..count {
            let founder = FoundingMember {
                shard: (index < setup.data).then_some(SHARD),
                template: String::new(),
                placement: Placement::default(),
                presence: presence(index, BootId(index as u64 * 1_000 + 1)),
            };
            founders.insert(MemberId(index as u32), founder);
        }
        let failover_after_ms = setup.failover_after_ms;
        let settings = Settings { copies: setup.copies, failover_after_ms, lease_ms: 400, ..Settings::default() };
        let ring = Ring::form(&Formation {
            cluster: ClusterUuid(1),
            generation: Generation(1),
            settings,
            members: founders,
            shards: BTreeMap::from([(SHARD, SlotRange::split(1))]),
            next_serial: MemberId(count as u32),
        })
        .unwrap();
        let mut world = Self {
            now: 1_000 * MS,
            rng: Rng::new(setup.seed),
            order: 0,
            queue: BinaryHeap::new(),
            nodes: Vec::new(),
            rings: vec![Arc::new(ring)],
            leader: None,
            leadership: 0,
            believed_leader: Vec::new(),
            deposed_hears: true,
            leading_heard_after: 0,
            mutations: setup.mutations,
            drift_ppm: setup.drift_ppm,
            network: Network::calm(),
            cut: BTreeSet::new(),
            connections: BTreeMap::new(),
            filters: Vec::new(),
            held: Vec::new(),
            ledger: Ledger::new(),
            next_write: 0,
            planned: false,
            violation: None,
            steps: 0,
            trace: std::env::var_os("TRACE").map(|_| Vec::new()),
            hash: 0,
            losses: 0,
        };
        for index in 0..count {
            world.add_node(index < setup.data);
        }
        world.set_leader(count - 1);
        world
    }

    fn add_node(&mut self, data: bool) {
        let index = self.nodes.len();
        let boot = BootId(index as u64 * 1_000 + 1);
        let clock_offset = self.rng.below(1_000_000) * MS;
        let node = Node {
            alive: true,
            boot,
            data,
            clock_rate_ppm: 0,
            clock_offset,
            replica: self.replica(index, boot, Held::default()),
            gate: Gate::new(self.mutations),
            lead: Lead::new(LeadConfig { mutations: self.mutations }),
            log: Vec::new(),
            set: Writes::NONE,
            kept_after: 0,
            log_epoch: ShardEpoch(0),
            out: BTreeMap::new(),
            walk_allowed: None,
            walk_waiting: None,
            records: Vec::new(),
            pending: Vec::new(),
            announced_at: 0,
            paused_until: 0,
            leads_in: 0,
            known: 0,
        };
        self.nodes.push(node);
        self.believed_leader.push(self.leader);
        let newest = self.rings.len() - 1;
        self.local(index, 0, Packet::Learn { index: newest });
        self.local(index, self.now % 7 * MS, Packet::Tick);
    }

    fn replica(&self, index: usize, boot: BootId, held: Held) -> Replica {
        let me = MemberId(index as u32);
        let config =
            ReplicaConfig { me, boot, shard: SHARD, drift_ppm: self.drift_ppm, held, mutations: self.mutations };
        Replica::new(config)
    }

    pub fn set_clock_rate_ppm(&mut self, index: usize, rate: i64) {
        // The clock goes on from where it is.
        let before = self.clock(index);
        self.nodes[index].clock_rate_ppm = rate;
        let after = self.clock(index);
        self.nodes[index].clock_offset += before.0.saturating_sub(after.0);
    }

    /// What a member's clock says.
    pub fn clock(&self, index: usize) -> Mono {
        let node = &self.nodes[index];
        let gone = i128::from(self.now) * i128::from(1_000_000 + node.clock_rate_ppm) / 1_000_000;
        Mono(node.clock_offset + gone as u64)
    }

    pub fn ring(&self) -> &Arc<Ring> {
        self.rings.last().unwrap()
    }

    pub fn shard(&self) -> &Shard {
        &self.ring().shards[&SHARD]
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let line = format!("{:>9.3} {}", self.now as f64 / MS as f64 - 1_000.0, text());
            trace.push(line);
        }
    }

    pub fn fail(&mut self, what: String) {
        if self.violation.is_none() {
            self.note(|| format!("VIOLATION {what}"));
            self.violation = Some(what);
        }
    }

    pub fn run_ms(&mut self, ms: u64) {
        self.run_until(self.now + ms * MS);
    }

    pub fn run_until(&mut self, until: u64) {
        while self.violation.is_none() {
            match self.queue.peek() {
                Some(Reverse(next)) if next.at <= until => {}
                _ => break,
            }
            let Some(Reverse(Queued { at, envelope, .. })) = self.queue.pop() else { break };
            self.now = self.now.max(at);
            self.step(envelope);
        }
        self.now = self.now.max(until);
        self.check();
    }

    fn step(&mut self, envelope: Envelope) {
        let to = envelope.to;
        let restarting = matches!(envelope.packet, Packet::Restart);
        let Some(node) = self.nodes.get(to) else { return };
        let meant = envelope.to_boot.is_none_or(|boot| boot == node.boot);
        if !restarting && (!node.alive || !meant) {
            return self.refuse(envelope);
        }
        if node.paused_until > self.now {
            let at = node.paused_until;
            return self.enqueue(at, envelope);
        }
        self.steps += 1;
        let mark = self.now ^ (to as u64) << 48 ^ (self.rings.len() as u64) << 32 ^ self.order;
        self.hash = (self.hash.rotate_left(5) ^ mark).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        if self.trace.is_some()
            && !matches!(envelope.packet, Packet::Tick | Packet::Pump | Packet::Flush | Packet::LogEnd)
        {
            self.note(|| format!("{} -> {}: {:?}", envelope.from, to, envelope.packet));
        }
        self.deliver(envelope);
        self.check();
    }
}
