//! A small world around the protocol: members with clocks of their own, an abstract consensus, and a network that may
//! delay, cut and hold. One queue of events in the order of true time; nothing else moves.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use ringmaster_replica::*;
use ringmaster_ring::*;

use crate::ledger::{Ledger, WRITES_MAX, Writes};
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
    /// To the consensus. `leader`: only if the sender still leads.
    Propose {
        command: Command,
        leader: bool,
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
        let settings = Settings { copies: setup.copies, ..Settings::default() };
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

    // --- the queue and the network ---

    fn enqueue(&mut self, at: u64, envelope: Envelope) {
        self.order += 1;
        self.queue.push(Reverse(Queued { at, order: self.order, envelope }));
    }

    /// Something that happens inside a member after `delay`, if it is still the same process.
    fn local(&mut self, index: usize, delay: u64, packet: Packet) {
        let to_boot = match packet {
            Packet::Restart => None,
            _ => Some(self.nodes[index].boot),
        };
        self.enqueue(self.now + delay, Envelope { from: index, to: index, to_boot, packet });
    }

    fn delay(&mut self) -> u64 {
        let Network { delay_us: (low, high), slow_per_mille, slow_ms, .. } = self.network;
        if self.rng.per_mille(slow_per_mille) {
            self.rng.between(slow_ms.0, slow_ms.1) * MS
        } else {
            self.rng.between(low, high) * 1_000
        }
    }

    /// Sends between members. Packets outside streams may overtake each other and get lost.
    fn send(&mut self, from: usize, to: usize, packet: Packet) {
        let to_boot = None;
        self.filter_or(Envelope { from, to, to_boot, packet }, |world, envelope| {
            let lost = world.rng.per_mille(world.network.lost_per_mille);
            if lost || world.cut.contains(&(from, to)) {
                return;
            }
            let at = world.now + world.delay();
            world.enqueue(at, envelope);
        });
    }

    /// Sends on a stream of the copy `(copy, boot)`: in order, until it breaks.
    fn send_on_stream(&mut self, from: usize, to: usize, copy: (usize, BootId), stream: StreamId, packet: Packet) {
        let to_boot = (to == copy.0).then_some(copy.1);
        self.filter_or(Envelope { from, to, to_boot, packet }, |world, envelope| {
            let key = (copy.0, copy.1, stream);
            let delay = world.delay();
            let lost = world.network.lost_per_mille > 0 && world.rng.per_mille(world.network.lost_per_mille / 8);
            if lost || world.cut.contains(&(from, to)) {
                return world.break_stream(key, from + to - copy.0);
            }
            let Some(connection) = world.connections.get_mut(&key).filter(|c| c.alive) else { return };
            let last = &mut connection.last_at[usize::from(to == copy.0)];
            *last = (world.now + delay).max(*last);
            let at = *last;
            world.enqueue(at, envelope);
        });
    }

    fn filter_or(&mut self, envelope: Envelope, go_on: impl FnOnce(&mut Self, Envelope)) {
        match self.filters.iter().find(|(_, names)| names(&envelope)) {
            Some((Fate::Lose, _)) => {}
            Some((Fate::Hold, _)) => self.held.push(envelope),
            None => go_on(self, envelope),
        }
    }

    /// Both ends hear of it some time later; what was under way is lost.
    fn break_stream(&mut self, key: (usize, BootId, StreamId), primary: usize) {
        let (copy, boot, stream) = key;
        let Some(connection) = self.connections.get_mut(&key).filter(|c| c.alive) else { return };
        connection.alive = false;
        let (a, b) = (self.rng.between(1, 100) * MS, self.rng.between(1, 100) * MS);
        let lost = Envelope { from: primary, to: copy, to_boot: Some(boot), packet: Packet::StreamLost { stream } };
        self.enqueue(self.now + a, lost);
        let packet = Packet::CopyLost { stream, boot };
        self.enqueue(self.now + b, Envelope { from: copy, to: primary, to_boot: None, packet });
    }

    fn break_streams_of(&mut self, index: usize) {
        let keys: Vec<_> = self.connections.iter().filter(|(_, c)| c.alive).map(|(key, _)| *key).collect();
        for key in keys {
            let primaries: Vec<usize> = (0..self.nodes.len())
                .filter(|n| {
                    let to = Holder { member: MemberId(key.0 as u32), boot: key.1 };
                    self.nodes[*n].out.values().any(|out| out.to == to && out.stream == key.2)
                })
                .collect();
            for primary in primaries {
                if key.0 == index || primary == index {
                    self.break_stream(key, primary);
                }
            }
        }
    }

    /// Holds or loses every packet that `names` names, from now on.
    pub fn filter(&mut self, fate: Fate, names: impl Fn(&Envelope) -> bool + 'static) {
        self.filters.push((fate, Box::new(names)));
    }

    /// Takes away every filter; what was held arrives now, in the order in which it was sent.
    pub fn release_held(&mut self) {
        self.filters.clear();
        for envelope in std::mem::take(&mut self.held) {
            self.enqueue(self.now, envelope);
        }
    }

    /// What was held and is named arrives now. The filters stay.
    pub fn release_where(&mut self, names: impl Fn(&Envelope) -> bool) {
        let (released, held) = std::mem::take(&mut self.held).into_iter().partition(|envelope| names(envelope));
        self.held = held;
        let released: Vec<Envelope> = released;
        for envelope in released {
            self.enqueue(self.now, envelope);
        }
    }

    pub fn lose_held(&mut self) {
        self.filters.clear();
        self.held.clear();
    }

    pub fn held(&self) -> usize {
        self.held.len()
    }

    pub fn isolate(&mut self, index: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != index) {
            self.cut.insert((index, other));
            self.cut.insert((other, index));
        }
        self.break_streams_of(index);
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    // --- running ---

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

    /// The process is not there, or is another one: whoever connects is told.
    fn refuse(&mut self, envelope: Envelope) {
        let Envelope { from, to, packet, .. } = envelope;
        match packet {
            Packet::Subscribe { stream, .. } => self.send(to, from, Packet::StreamLost { stream }),
            Packet::Probe => {
                let member = MemberId(to as u32);
                self.send(to, from, Packet::Probed { member, result: Probe::Refused });
            }
            _ => {}
        }
    }

    fn deliver(&mut self, envelope: Envelope) {
        let Envelope { from, to, packet, .. } = envelope;
        let member = MemberId(from as u32);
        match packet {
            Packet::Tick => self.tick(to),
            Packet::LogEnd => {
                let end = Seq(self.nodes[to].log.len() as u64);
                self.input(to, Input::LogEnd(end));
            }
            Packet::Barrier => {
                let end = Seq(self.nodes[to].log.len() as u64);
                self.input(to, Input::Barrier { end });
            }
            Packet::Applied { last } => self.input(to, Input::Applied { last }),
            Packet::Discarded => {
                let node = &mut self.nodes[to];
                node.log.clear();
                node.set = Writes::NONE;
                node.kept_after = 0;
                self.input(to, Input::Discarded);
            }
            Packet::Pump => self.pump(to),
            Packet::Flush => self.flush(to),
            Packet::RoundChecked { round, leadership } => {
                let confirmed = self.leader == Some(to) && self.leadership == leadership;
                let delay = self.delay();
                self.local(to, delay, Packet::RoundResult { round, confirmed });
            }
            Packet::RoundResult { round, confirmed } => {
                let input =
                    if confirmed { LeadInput::QuorumConfirmed { round } } else { LeadInput::QuorumFailed { round } };
                self.lead_input(to, input);
            }
            Packet::LeadRing { index } => {
                let ring = self.rings[index].clone();
                self.nodes[to].known = self.nodes[to].known.max(index);
                self.lead_input(to, LeadInput::Ring(ring));
            }
            Packet::Leading { leadership } => {
                if self.leader == Some(to) && self.leadership == leadership {
                    let ring = self.ring().clone();
                    self.lead_input(to, LeadInput::Ring(ring));
                    self.lead_input(to, LeadInput::Leading);
                }
            }
            Packet::NotLeading => {
                if self.leader != Some(to) {
                    self.lead_input(to, LeadInput::NotLeading);
                }
            }
            Packet::Restart => self.boot_again(to),
            Packet::Learn { index } => {
                let ring = self.rings[index].clone();
                self.nodes[to].known = self.nodes[to].known.max(index);
                if self.nodes[to].data {
                    self.input(to, Input::Ring(ring));
                }
                self.announce(to);
            }
            Packet::LeaseAsk { ask, shard, epoch, holder } => {
                let route = RouteId(from as u64);
                self.lead_input(to, LeadInput::LeaseAsk { route, ask, shard, epoch, holder });
            }
            Packet::LeaseAnswer { ask, granted, prev_over } => {
                self.input(to, Input::LeaseAnswer { ask, granted, prev_over });
            }
            Packet::Propose { command, leader } => {
                if Some(to) == self.leader && (!leader || from == to) {
                    self.commit(&command);
                }
            }
            Packet::Probe => {
                let node = &self.nodes[to];
                let shard_epoch = node.replica.gate_state().epoch;
                let result = Probe::Alive { boot: node.boot, shard_epoch, position: node.replica.position() };
                self.send(to, from, Packet::Probed { member: MemberId(to as u32), result });
            }
            Packet::Probed { member, result } => self.lead_input(to, LeadInput::Probed { member, result }),
            Packet::Subscribe { stream, boot, epoch, last, may_discard } => {
                let from = Holder { member, boot };
                let log_end = Seq(self.nodes[to].log.len() as u64);
                let kept_after = Seq(self.nodes[to].kept_after);
                self.input(to, Input::Subscribe { stream, from, epoch, last, may_discard, kept_after, log_end });
            }
            Packet::Ack { stream, boot, epoch, seq } => {
                self.input(to, Input::Ack { stream, from: Holder { member, boot }, epoch, seq });
            }
            Packet::CopyLost { stream, boot } => {
                let from = Holder { member, boot };
                if self.nodes[to].out.get(&member).is_some_and(|out| out.to == from && out.stream == stream) {
                    self.nodes[to].out.remove(&member);
                }
                self.input(to, Input::CopyLost { stream, from });
            }
            Packet::StreamLost { stream } => self.input(to, Input::StreamLost { stream }),
            Packet::Stream { stream, what } => self.frame(to, stream, what),
        }
    }

    fn tick(&mut self, to: usize) {
        self.local(to, TICK, Packet::Tick);
        if self.nodes[to].data {
            self.input(to, Input::Tick);
            self.heartbeats(to);
            self.flush(to);
        }
        self.lead_input(to, LeadInput::Tick);
        self.announce(to);
    }

    fn announce(&mut self, index: usize) {
        let (boot, known) = (self.nodes[index].boot, self.nodes[index].known);
        let id = MemberId(index as u32);
        let Some(member) = self.rings[known].members.get(&id).filter(|m| m.is_active()) else { return };
        if member.boot() != Some(boot) && self.now >= self.nodes[index].announced_at + 20 * MS {
            self.nodes[index].announced_at = self.now;
            let presence = presence(index, boot);
            let command = Command::Announce { member: id, if_version: member.version, presence };
            self.propose(index, command, false);
        }
    }

    fn propose(&mut self, from: usize, command: Command, leader: bool) {
        let to = if leader { Some(from) } else { self.believed_leader[from] };
        if let Some(to) = to {
            self.send(from, to, Packet::Propose { command, leader });
        }
    }

    fn frame(&mut self, to: usize, stream: StreamId, what: Frame) {
        match what {
            Frame::Accepted { epoch, start } => self.input(to, Input::Accepted { stream, epoch, start }),
            Frame::Refused { reason } => self.input(to, Input::Refused { stream, reason }),
            Frame::Walk { .. } if self.nodes[to].walk_allowed != Some(stream) => {
                self.nodes[to].walk_waiting = Some((stream, what));
            }
            Frame::Walk { epoch, entries, end, history } => {
                let node = &mut self.nodes[to];
                node.set = Writes::NONE;
                entries.iter().for_each(|entry| node.set.insert(entry.id));
                node.log = entries;
                node.kept_after = end.seq.0;
                node.walk_allowed = None;
                self.input(to, Input::WalkDone { stream, epoch, end, history });
            }
            Frame::Records { epoch, first, entries, committed } => {
                let last = Seq(first.0 + entries.len() as u64 - 1);
                let entry_epoch = entries[0].epoch;
                let numbered = entries.into_iter().enumerate();
                self.nodes[to].records = numbered.map(|(n, entry)| (Seq(first.0 + n as u64), entry)).collect();
                self.input(to, Input::Records { stream, epoch, entry_epoch, first, last, committed });
            }
            Frame::Heartbeat { epoch, end, committed } => {
                self.input(to, Input::Heartbeat { stream, epoch, end, committed });
            }
            Frame::Release { epoch, last } => self.input(to, Input::Release { stream, epoch, last }),
        }
    }

    // --- what a member does ---

    pub fn input(&mut self, index: usize, input: Input) {
        let now = self.clock(index);
        let mut outputs = Vec::new();
        self.nodes[index].replica.handle(input, now, &mut outputs);
        for output in outputs {
            self.output(index, output);
        }
    }

    fn output(&mut self, index: usize, output: Output) {
        if self.trace.is_some() {
            self.note(|| format!("      {index}: {output:?}"));
        }
        let boot = self.nodes[index].boot;
        let node_of = |holder: Holder| holder.member.0 as usize;
        match output {
            Output::AskLease { ask, shard, epoch, holder } => {
                if let Some(leader) = self.believed_leader[index] {
                    self.send(index, leader, Packet::LeaseAsk { ask, shard, epoch, holder });
                }
            }
            Output::Propose(command) => self.propose(index, command, false),
            Output::Publish(state) => {
                let before = self.nodes[index].gate.committed();
                let wake = self.nodes[index].gate.publish(&state);
                if wake {
                    let delay = self.rng.below(3) * 100_000;
                    self.local(index, delay, Packet::Flush);
                }
                if state.committed != before {
                    self.heartbeats(index);
                }
            }
            Output::Serve { epoch, start } => {
                assert_eq!(start.seq.0, self.nodes[index].log.len() as u64, "serves from another end than the log's");
                self.nodes[index].log_epoch = epoch;
            }
            Output::Barrier => {
                let delay = self.rng.below(1_000) * 1_000;
                self.local(index, delay, Packet::Barrier);
            }
            Output::OpenStream { stream, to, epoch, start } => {
                let (walk, next) = match start {
                    StreamStart::After(seq) => (false, seq.0 + 1),
                    StreamStart::Walk => (true, 0),
                };
                let out = OutStream { stream, to, epoch, walk, next, release: None };
                self.nodes[index].out.insert(to.member, out);
                self.frame_to(index, to, stream, Frame::Accepted { epoch, start });
                self.local(index, 100_000, Packet::Pump);
            }
            Output::RefuseStream { stream, to, reason } => self.frame_to(index, to, stream, Frame::Refused { reason }),
            Output::CloseStream { stream, to } => {
                if self.nodes[index].out.get(&to.member).is_some_and(|out| out.stream == stream) {
                    self.nodes[index].out.remove(&to.member);
                }
                let packet = Packet::StreamLost { stream };
                self.send_on_stream(index, node_of(to), (node_of(to), to.boot), stream, packet);
            }
            Output::Release { stream, to, epoch, last } => {
                if let Some(out) = self.nodes[index].out.get_mut(&to.member).filter(|out| out.stream == stream) {
                    out.epoch = epoch;
                    out.release = Some((epoch, last));
                }
                self.pump(index);
            }
            Output::Follow { stream, primary, epoch, last, may_discard } => {
                self.nodes[index].walk_allowed = None;
                let connection = Connection { alive: true, last_at: [0; 2] };
                self.connections.insert((index, boot, stream), connection);
                let packet = Packet::Subscribe { stream, boot, epoch, last, may_discard };
                self.send_on_stream(index, node_of(primary), (index, boot), stream, packet);
            }
            Output::Unfollow { stream } => {
                self.nodes[index].walk_allowed = None;
                let primary = (0..self.nodes.len()).find(|n| {
                    let out = self.nodes[*n].out.get(&MemberId(index as u32));
                    out.is_some_and(|out| out.stream == stream && out.to.boot == boot)
                });
                if let Some(primary) = primary {
                    self.send_on_stream(index, primary, (index, boot), stream, Packet::CopyLost { stream, boot });
                }
                self.connections.remove(&(index, boot, stream));
            }
            Output::Walk { stream } => {
                self.nodes[index].walk_allowed = Some(stream);
                if let Some((waiting, frame)) = self.nodes[index].walk_waiting.take()
                    && waiting == stream
                {
                    let envelope = Packet::Stream { stream, what: frame };
                    self.local(index, 1_000, envelope);
                }
            }
            Output::Apply { stream: _, first, last } => {
                let node = &mut self.nodes[index];
                for (seq, entry) in std::mem::take(&mut node.records) {
                    assert!(first <= seq && seq <= last && seq.0 == node.log.len() as u64 + 1, "applied out of order");
                    node.log.push(entry);
                    node.set.insert(entry.id);
                }
                let epoch = node.log.last().map_or(ShardEpoch(0), |entry| entry.epoch);
                let delay = self.rng.below(4) * 50_000;
                self.local(index, delay, Packet::Applied { last: Position { epoch, seq: last } });
            }
            Output::SendAck { stream, to, epoch, seq } => {
                let packet = Packet::Ack { stream, boot, epoch, seq };
                self.send_on_stream(index, node_of(to), (index, boot), stream, packet);
            }
            Output::Discard => {
                let delay = self.rng.below(5) * MS;
                self.local(index, delay, Packet::Discarded);
            }
        }
    }

    fn frame_to(&mut self, from: usize, to: Holder, stream: StreamId, what: Frame) {
        let copy = to.member.0 as usize;
        self.send_on_stream(from, copy, (copy, to.boot), stream, Packet::Stream { stream, what });
    }

    fn heartbeats(&mut self, index: usize) {
        let (end, committed) = (Seq(self.nodes[index].log.len() as u64), self.nodes[index].gate.committed());
        for out in self.nodes[index].out.values().cloned().collect::<Vec<_>>() {
            self.frame_to(index, out.to, out.stream, Frame::Heartbeat { epoch: out.epoch, end, committed });
        }
    }

    /// Sends on each stream what it lacks.
    fn pump(&mut self, index: usize) {
        let committed = self.nodes[index].gate.committed();
        for member in self.nodes[index].out.keys().copied().collect::<Vec<_>>() {
            loop {
                let node = &mut self.nodes[index];
                let Some(out) = node.out.get_mut(&member) else { break };
                let (to, stream, epoch) = (out.to, out.stream, out.epoch);
                let what = if out.walk {
                    out.walk = false;
                    out.next = node.log.len() as u64 + 1;
                    let end = node.log.last().map_or(Position::default(), |entry| Position {
                        epoch: entry.epoch,
                        seq: Seq(node.log.len() as u64),
                    });
                    let history = node.replica.history().clone();
                    Frame::Walk { epoch, entries: node.log.clone(), end, history }
                } else if let Some(entry_epoch) = node.log.get(out.next as usize - 1).map(|entry| entry.epoch) {
                    let rest = &node.log[out.next as usize - 1..];
                    let entries: Vec<_> = rest.iter().copied().take_while(|e| e.epoch == entry_epoch).take(4).collect();
                    let first = Seq(out.next);
                    out.next += entries.len() as u64;
                    Frame::Records { epoch, first, entries, committed }
                } else if let Some((epoch, last)) = out.release.take() {
                    Frame::Release { epoch, last }
                } else {
                    break;
                };
                self.frame_to(index, to, stream, what);
            }
        }
    }

    fn lead_input(&mut self, index: usize, input: LeadInput) {
        let now = self.clock(index);
        let mut outputs = Vec::new();
        self.nodes[index].lead.handle(input, now, &mut outputs);
        for output in outputs {
            match output {
                LeadOutput::ConfirmQuorum { round } => {
                    let (delay, leadership) = (self.delay(), self.leadership);
                    self.local(index, delay, Packet::RoundChecked { round, leadership });
                }
                LeadOutput::Answer { route, ask, granted, prev_over } => {
                    self.send(index, route.0 as usize, Packet::LeaseAnswer { ask, granted, prev_over });
                }
                LeadOutput::Propose(command) => self.propose(index, command, true),
                LeadOutput::Probe { member } => self.send(index, member.0 as usize, Packet::Probe),
            }
        }
    }

    // --- the consensus ---

    /// What the ring says to a command, as if the leader had proposed it this moment.
    pub fn commit(&mut self, command: &Command) -> bool {
        let Ok(next) = self.ring().apply_mutated(command, self.mutations) else { return false };
        if let Command::Shard { change: ShardChange::StartEmpty { .. }, .. } = command {
            self.lose_everything();
        }
        self.note(|| format!("      commit {command:?}"));
        self.rings.push(Arc::new(next));
        let index = self.rings.len() - 1;
        if let Some(leader) = self.leader {
            let delay = self.rng.below(3) * 200_000;
            self.local(leader, delay, Packet::LeadRing { index });
        }
        for to in 0..self.nodes.len() {
            let from = self.leader.unwrap_or(to);
            self.send(from, to, Packet::Learn { index });
        }
        true
    }

    pub fn change(&mut self, change: ShardChange) -> bool {
        let command = Command::on_shard(self.ring(), SHARD, change).unwrap();
        self.commit(&command)
    }

    /// A shard that starts empty may do so only when no in-sync process is left.
    fn lose_everything(&mut self) {
        let left = self.shard().in_sync.iter().find(|(member, boot)| {
            let node = &self.nodes[member.0 as usize];
            node.alive && node.boot == **boot
        });
        if let Some((member, _)) = left {
            let what = format!("started empty while the in-sync copy {member} is there");
            return self.fail(what);
        }
        self.losses += 1;
        self.ledger.observed = Writes::NONE;
        for node in &mut self.nodes {
            node.pending.retain(|pending| pending.wrote.is_some());
        }
    }

    /// Makes `index` the leader. The former hears of it later, the others soon.
    pub fn set_leader(&mut self, index: usize) {
        if let Some(former) = self.leader.filter(|former| *former != index && self.deposed_hears) {
            let delay = self.rng.between(1, 300) * MS;
            self.local(former, delay, Packet::NotLeading);
        }
        self.leadership += 1;
        self.leader = Some(index);
        let leadership = self.leadership;
        self.believed_leader.fill(Some(index));
        let delay = self.delay();
        self.local(index, delay, Packet::Leading { leadership });
    }

    pub fn no_leader(&mut self) {
        if let Some(former) = self.leader.take() {
            let delay = self.rng.between(1, 300) * MS;
            self.local(former, delay, Packet::NotLeading);
        }
        self.leadership += 1;
    }

    // --- processes ---

    pub fn crash(&mut self, index: usize, keeps_disk: bool, back_after: Option<u64>) {
        self.note(|| format!("      crash {index}"));
        self.break_streams_of(index);
        let node = &mut self.nodes[index];
        node.alive = false;
        node.out.clear();
        node.pending.clear();
        node.records.clear();
        node.walk_allowed = None;
        node.walk_waiting = None;
        if !keeps_disk {
            node.log.clear();
            node.set = Writes::NONE;
            node.kept_after = 0;
        }
        if self.leader == Some(index) {
            self.no_leader();
        }
        if let Some(delay) = back_after {
            self.local(index, delay, Packet::Restart);
        }
    }

    fn boot_again(&mut self, index: usize) {
        if self.nodes[index].alive {
            return;
        }
        let boot = BootId(self.nodes[index].boot.0 + 1);
        let mut history = History::new();
        for (n, entry) in self.nodes[index].log.iter().enumerate() {
            if history.last_epoch() < entry.epoch {
                history.begin(entry.epoch, Seq(n as u64 + 1));
            }
        }
        let held = Held { history, end: Seq(self.nodes[index].log.len() as u64) };
        let replica = self.replica(index, boot, held);
        let node = &mut self.nodes[index];
        node.alive = true;
        node.boot = boot;
        node.replica = replica;
        node.gate = Gate::new(self.mutations);
        node.lead = Lead::new(LeadConfig { mutations: self.mutations });
        node.announced_at = 0;
        node.paused_until = 0;
        self.note(|| format!("      restarted {index} as {boot:?}"));
        if let Some(leader) = self.leader {
            let newest = self.rings.len() - 1;
            self.send(leader, index, Packet::Learn { index: newest });
        }
        self.local(index, TICK, Packet::Tick);
    }

    /// The network repeats what a member missed.
    pub fn gossip(&mut self) {
        let newest = self.rings.len() - 1;
        if let Some(leader) = self.leader {
            self.local(leader, 0, Packet::LeadRing { index: newest });
            for to in 0..self.nodes.len() {
                self.send(leader, to, Packet::Learn { index: newest });
            }
        }
    }

    /// A new member of the shard, as an operator makes it.
    pub fn reserve(&mut self) -> Option<usize> {
        let if_next_serial = self.ring().next_serial;
        let wanted =
            ReserveMember { if_next_serial, shard: Some(SHARD), template: String::new(), replaces: None, reason: None };
        if !self.commit(&Command::ReserveMember(wanted)) {
            return None;
        }
        self.add_node(true);
        Some(self.nodes.len() - 1)
    }

    pub fn retire(&mut self, index: usize) -> bool {
        let member = MemberId(index as u32);
        let Some(if_version) = self.ring().members.get(&member).map(|m| m.version) else { return false };
        self.commit(&Command::Retire { member, if_version })
    }

    pub fn holder(&self, index: usize) -> Holder {
        Holder { member: MemberId(index as u32), boot: self.nodes[index].boot }
    }

    /// The log may drop what is older than its last `keep` records.
    pub fn trim(&mut self, index: usize, keep: u64) {
        let node = &mut self.nodes[index];
        node.kept_after = node.kept_after.max((node.log.len() as u64).saturating_sub(keep));
    }

    // --- clients ---

    /// A write at a member. Returns its number if it was executed.
    pub fn write(&mut self, index: usize) -> Option<u16> {
        let now = self.clock(index);
        let (id, before) = (self.next_write, self.ledger.observed);
        if usize::from(id) >= WRITES_MAX || !self.can_run(index) {
            return None;
        }
        let node = &mut self.nodes[index];
        let ticket = node.gate.ticket(Access::Write);
        if node.gate.may_execute(Access::Write, now) != Verdict::Yes {
            return None;
        }
        self.next_write += 1;
        node.log.push(Entry { epoch: node.log_epoch, id });
        node.set.insert(id);
        let after = Seq(node.log.len() as u64);
        node.pending.push(Pending { ticket, after, wrote: Some(id), seen: Writes::NONE, before });
        self.note(|| format!("      write {id} at {index}, seq {after}"));
        let delay = self.rng.below(3) * 50_000;
        self.local(index, delay, Packet::LogEnd);
        self.local(index, delay, Packet::Pump);
        Some(id)
    }

    fn can_run(&self, index: usize) -> bool {
        let node = &self.nodes[index];
        node.alive && node.data && node.paused_until <= self.now
    }

    /// A read at a member of everything, by a thread that may have looked at its clock at `looked_at`.
    pub fn read(&mut self, index: usize, access: Access, looked_at: Mono) -> bool {
        if !self.can_run(index) {
            return false;
        }
        let before = self.ledger.observed;
        let node = &mut self.nodes[index];
        let ticket = node.gate.ticket(access);
        if node.gate.may_execute(access, looked_at) != Verdict::Yes {
            return false;
        }
        let (seen, after) = (node.set, Seq(node.log.len() as u64));
        node.pending.push(Pending { ticket, after, wrote: None, seen, before });
        self.note(|| format!("      read at {index} up to {after}"));
        self.local(index, 0, Packet::Flush);
        true
    }

    /// Lets every withheld reply go that may.
    pub fn flush(&mut self, index: usize) {
        if !self.can_run(index) {
            return;
        }
        let now = self.clock(index);
        let mut kept = Vec::new();
        for pending in std::mem::take(&mut self.nodes[index].pending) {
            match self.nodes[index].gate.answer(&pending.ticket, pending.after, now) {
                Answer::Wait => kept.push(pending),
                Answer::Send => self.answered(index, &pending),
                Answer::Rerun => {
                    assert!(pending.wrote.is_none(), "a write would be executed twice");
                    self.ledger.reruns += 1;
                }
                Answer::Close => {
                    self.ledger.closed += 1;
                    if self.planned {
                        self.fail("planned work closed a client's connection".to_owned());
                    }
                }
            }
        }
        self.nodes[index].pending = kept;
    }

    fn answered(&mut self, index: usize, pending: &Pending) {
        if let Some(id) = pending.wrote {
            self.note(|| format!("      acknowledged {id} at {index}"));
            self.ledger.acknowledged += 1;
            self.ledger.observed.insert(id);
            return;
        }
        self.note(|| format!("      read answered at {index}"));
        self.ledger.reads += 1;
        let of_primary = pending.ticket.kind == TicketKind::Read;
        if of_primary && let Some(missing) = pending.before.missing_in(&pending.seen) {
            self.fail(format!("stale read at {index}: it does not show write {missing}"));
        }
        self.ledger.observed.add(&pending.seen);
    }

    pub fn unanswered(&self) -> usize {
        let running = self.nodes.iter().filter(|node| node.alive);
        running.flat_map(|node| &node.pending).filter(|pending| pending.wrote.is_some()).count()
    }

    /// Whether a member has executed writes of which its clients have not heard.
    pub fn owes_answers(&self, index: usize) -> bool {
        self.nodes[index].pending.iter().any(|pending| pending.wrote.is_some())
    }

    // --- invariants ---

    /// The member that serves by its own gate, now.
    pub fn serving(&self) -> Vec<usize> {
        let can = |index: &usize| {
            let node = &self.nodes[*index];
            node.alive && node.data && node.gate.may_execute(Access::Write, self.clock(*index)) == Verdict::Yes
        };
        (0..self.nodes.len()).filter(can).collect()
    }

    fn check(&mut self) {
        if self.violation.is_some() {
            return;
        }
        let serving = self.serving();
        if serving.len() > 1 {
            return self.fail(format!("two primaries: {serving:?}"));
        }
        let epoch = self.shard().epoch;
        let lacking = self.nodes.iter().enumerate().find_map(|(index, node)| {
            let state = node.replica.gate_state();
            let newest = node.alive && state.phase == Phase::Primary && state.epoch == epoch;
            let missing = self.ledger.observed.missing_in(&node.set).filter(|_| newest)?;
            Some((index, missing))
        });
        if let Some((index, missing)) = lacking {
            return self.fail(format!("lost write {missing}: {index} serves without it"));
        }
        if self.planned {
            let held = self.shard().in_sync.iter().filter(|(member, boot)| {
                let node = &self.nodes[member.0 as usize];
                node.alive && node.boot == **boot && self.ledger.observed.missing_in(&node.set).is_none()
            });
            let (held, wanted) = (held.count(), usize::from(self.ring().settings.copies));
            if held < wanted {
                self.fail(format!("planned work left {held} in-sync copies, {wanted} are wanted"));
            }
        }
    }
}
