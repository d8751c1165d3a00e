//! The network between machines: connections that behave as TCP's do, as far as a program can tell.
//!
//! Owns every byte under way. In: what processes write, and what the scenario does to links, processes and machines.
//! Out: bytes, in order or never; a reset where a process is gone but its machine answers; silence where the machine
//! or the way to it is gone. A cut stalls what it holds up, as retransmission would, and delivers it when it is healed.
//!
//! Each direction of a connection is a queue of packets with due times. Nothing happens between two ticks: what is due
//! is delivered in [`Net::deliver`], in an order that the seed alone decides.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::trace::Trace;

/// A machine, with one address of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub u32);

impl HostId {
    /// Its address.
    #[must_use]
    pub fn name(self) -> String {
        format!("h{}", self.0)
    }

    /// The host with this address.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        name.strip_prefix('h')?.parse().ok().map(Self)
    }
}

impl std::fmt::Display for HostId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "h{}", self.0)
    }
}

/// One run of a process on a machine: everything of an earlier run is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProcessId(pub u64);

/// How many bytes may be under way, or unread, in one direction of one connection.
const WINDOW_BYTES: usize = 256 << 10;
/// How long after a failed delivery the sender's kernel tries again, in ms.
const RETRANSMIT_MS: std::ops::Range<u64> = 10..60;

/// How long packets take.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// What a packet takes at most when nothing holds it up.
    pub usual_ms_max: u64,
    /// Of 1,000 packets, so many are held up.
    pub slow_per_mille: u32,
    /// By how much at most.
    pub slow_ms_max: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self { usual_ms_max: 1, slow_per_mille: 5, slow_ms_max: 20 }
    }
}

/// The network of one simulated world. Clones are handles on the same one.
#[derive(Clone)]
pub struct Net {
    world: Arc<Mutex<World>>,
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Net").finish_non_exhaustive()
    }
}

struct World {
    now_ms: u64,
    random: StdRng,
    trace: Trace,
    latency: Latency,
    hosts: BTreeMap<HostId, Host>,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    /// When the head of a lane is to be looked at: (due, order of scheduling) to (connection, side that receives).
    due: BTreeMap<(u64, u64), (u64, Side)>,
    next_due: u64,
    /// Directions in which nothing arrives.
    cuts: BTreeSet<(HostId, HostId)>,
    /// Directions in which everything takes longer, in ms.
    delays: BTreeMap<(HostId, HostId), u64>,
    /// Tasks to wake at the next delivery: never from within another process's turn.
    wakes: Vec<Waker>,
}

#[derive(Default)]
struct Host {
    /// Whether its kernel answers.
    is_up: bool,
    process: Option<ProcessId>,
    listeners: BTreeMap<u16, Listening>,
}

#[derive(Default)]
struct Listening {
    /// Connections that came and were not accepted yet.
    backlog: VecDeque<u64>,
    waker: Option<Waker>,
}

/// The side of a connection: who made it, or who accepted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Caller,
    Callee,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Caller => Self::Callee,
            Self::Callee => Self::Caller,
        }
    }
}

struct Connection {
    port: u16,
    caller: End,
    callee: End,
}

/// One side's half of a connection, with the lane that leads to it.
struct End {
    host: HostId,
    /// None before the callee's kernel took the connection.
    process: Option<ProcessId>,
    state: EndState,
    /// On their way to this end, in order, with the time from which each may arrive.
    lane: VecDeque<(u64, Packet)>,
    lane_bytes: usize,
    /// Whether a look at the head of the lane is scheduled.
    scheduled: bool,
    received: VecDeque<u8>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndState {
    /// The caller waits for an answer.
    Opening,
    Open,
    /// The other side sends nothing more.
    Ended,
    /// The other side does not know the connection any more, or refused it.
    Reset,
    /// This side's process dropped it, or died.
    Gone,
}

#[derive(Debug)]
enum Packet {
    Open,
    Opened,
    Data(Vec<u8>),
    End,
    Reset,
}

impl Packet {
    fn trace(&self, trace: &Trace, connection: u64, to: Side) {
        let (kind, bytes) = match self {
            Self::Open => (0, &[][..]),
            Self::Opened => (1, &[][..]),
            Self::Data(bytes) => (2, bytes.as_slice()),
            Self::End => (3, &[][..]),
            Self::Reset => (4, &[][..]),
        };
        let side = if to == Side::Caller { 0 } else { 8 };
        trace.packet(connection, kind | side, bytes);
    }
}

impl Connection {
    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Caller => &mut self.caller,
            Side::Callee => &mut self.callee,
        }
    }

    fn is_over(&self) -> bool {
        let gone = |end: &End| end.state == EndState::Gone;
        gone(&self.caller) && gone(&self.callee)
    }
}

impl End {
    fn new(host: HostId, process: Option<ProcessId>, state: EndState) -> Self {
        Self {
            host,
            process,
            state,
            lane: VecDeque::new(),
            lane_bytes: 0,
            scheduled: false,
            received: VecDeque::new(),
            reader: None,
            writer: None,
        }
    }

    fn backlog_bytes(&self) -> usize {
        self.lane_bytes + self.received.len()
    }
}

impl Net {
    #[must_use]
    pub fn new(seed: u64, latency: Latency, trace: Trace) -> Self {
        let world = World {
            now_ms: 0,
            random: StdRng::seed_from_u64(seed),
            trace,
            latency,
            hosts: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_connection: 0,
            due: BTreeMap::new(),
            next_due: 0,
            cuts: BTreeSet::new(),
            delays: BTreeMap::new(),
            wakes: Vec::new(),
        };
        Self { world: Arc::new(Mutex::new(world)) }
    }

    // ---- what the scenario does

    /// Delivers what is due at `now_ms`, and wakes whom it concerns.
    pub fn deliver(&self, now_ms: u64) {
        let wakes = {
            let mut world = self.world.lock();
            world.now_ms = now_ms;
            while let Some(entry) = world.due.first_entry() {
                if entry.key().0 > now_ms {
                    break;
                }
                let (id, side) = entry.remove();
                world.arrive(id, side);
            }
            std::mem::take(&mut world.wakes)
        };
        for waker in wakes {
            waker.wake();
        }
    }

    /// Switches a machine on.
    pub fn host_up(&self, host: HostId) {
        self.world.lock().hosts.entry(host).or_default().is_up = true;
    }

    /// A process begins on a machine that is up.
    pub fn process_started(&self, host: HostId, process: ProcessId) {
        let mut world = self.world.lock();
        let host = world.hosts.entry(host).or_default();
        host.process = Some(process);
        host.listeners.clear();
    }

    /// The process on a machine dies; the kernel resets its connections.
    pub fn process_died(&self, host: HostId) {
        self.world.lock().kill(host, true);
    }

    /// A machine stops answering, and its process with it.
    pub fn host_down(&self, host: HostId) {
        let mut world = self.world.lock();
        world.kill(host, false);
        world.hosts.entry(host).or_default().is_up = false;
    }

    /// Nothing arrives at `to` from `from` until the cut is healed.
    pub fn cut(&self, from: HostId, to: HostId) {
        self.world.lock().cuts.insert((from, to));
    }

    /// Everything from `from` to `to` takes `ms` longer; 0 for no longer than usual.
    pub fn delay(&self, from: HostId, to: HostId, ms: u64) {
        self.world.lock().delays.insert((from, to), ms);
    }

    /// Takes back every cut and delay.
    pub fn heal(&self) {
        let mut world = self.world.lock();
        world.cuts.clear();
        world.delays.clear();
    }

    /// Whether packets from one host arrive at the other.
    #[must_use]
    pub fn reaches(&self, from: HostId, to: HostId) -> bool {
        !self.world.lock().cuts.contains(&(from, to))
    }

    /// The machines whose kernel answers.
    #[must_use]
    pub fn hosts_up(&self) -> Vec<HostId> {
        self.world.lock().hosts.iter().filter(|(_, host)| host.is_up).map(|(id, _)| *id).collect()
    }

    // ---- what processes do

    /// # Errors
    /// The port is taken.
    pub(crate) fn listen(&self, host: HostId, process: ProcessId, port: u16) -> io::Result<SimListener> {
        let mut world = self.world.lock();
        let state = world.hosts.entry(host).or_default();
        if state.process != Some(process) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if state.listeners.contains_key(&port) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        state.listeners.insert(port, Listening::default());
        Ok(SimListener { net: self.clone(), host, process, port })
    }

    pub(crate) fn connect(&self, from: HostId, process: ProcessId, to: HostId, port: u16) -> Connecting {
        let mut world = self.world.lock();
        let id = world.next_connection;
        world.next_connection += 1;
        let caller = End::new(from, Some(process), EndState::Opening);
        let callee = End::new(to, None, EndState::Opening);
        world.connections.insert(id, Connection { port, caller, callee });
        world.send(id, Side::Callee, Packet::Open);
        Connecting { stream: Some(SimStream { net: self.clone(), process, id, side: Side::Caller }) }
    }
}

impl World {
    /// Puts a packet on the lane that leads to `to`.
    fn send(&mut self, id: u64, to: Side, packet: Packet) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        packet.trace(&self.trace, id, to);
        let from_host = connection.end(to.other()).host;
        let end = connection.end(to);
        let Latency { usual_ms_max, slow_per_mille, slow_ms_max } = self.latency;
        let mut took = self.random.gen_range(1..=usual_ms_max.max(1));
        if self.random.gen_range(0..1_000) < slow_per_mille {
            took += self.random.gen_range(0..=slow_ms_max);
        }
        took += self.delays.get(&(from_host, end.host)).copied().unwrap_or(0);
        let last = end.lane.back().map_or(0, |(due, _)| *due);
        let due = (self.now_ms + took).max(last);
        if let Packet::Data(bytes) = &packet {
            end.lane_bytes += bytes.len();
        }
        end.lane.push_back((due, packet));
        if !end.scheduled {
            end.scheduled = true;
            self.due.insert((due, self.next_due), (id, to));
            self.next_due += 1;
        }
    }

    /// Looks at the head of the lane that leads to `side`.
    fn arrive(&mut self, id: u64, side: Side) {
        let now = self.now_ms;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let from = connection.end(side.other()).host;
        let port = connection.port;
        let end = connection.end(side);
        end.scheduled = false;
        let host = self.hosts.entry(end.host).or_default();
        if self.cuts.contains(&(from, end.host)) || !host.is_up {
            let again = now + self.random.gen_range(RETRANSMIT_MS);
            end.scheduled = true;
            self.due.insert((again, self.next_due), (id, side));
            self.next_due += 1;
            return;
        }
        let mut replies = Vec::new();
        while let Some((due, packet)) = end.lane.pop_front() {
            if due > now {
                end.lane.push_front((due, packet));
                end.scheduled = true;
                self.due.insert((due, self.next_due), (id, side));
                self.next_due += 1;
                break;
            }
            match packet {
                Packet::Open => match host.listeners.get_mut(&port).filter(|_| host.process.is_some()) {
                    Some(listening) => {
                        end.state = EndState::Open;
                        end.process = host.process;
                        listening.backlog.push_back(id);
                        self.wakes.extend(listening.waker.take());
                        replies.push(Packet::Opened);
                    }
                    None => {
                        end.state = EndState::Gone;
                        replies.push(Packet::Reset);
                    }
                },
                Packet::Opened if end.state == EndState::Opening => end.state = EndState::Open,
                Packet::Opened if end.state == EndState::Gone => replies.push(Packet::Reset),
                Packet::Opened => {}
                Packet::Data(bytes) => {
                    end.lane_bytes -= bytes.len();
                    match end.state {
                        EndState::Gone => replies.push(Packet::Reset),
                        _ => end.received.extend(bytes),
                    }
                }
                Packet::End if end.state == EndState::Open => end.state = EndState::Ended,
                Packet::End => {}
                Packet::Reset if end.state != EndState::Gone => {
                    end.state = EndState::Reset;
                    end.received.clear();
                }
                Packet::Reset => {}
            }
            self.wakes.extend(end.reader.take());
            self.wakes.extend(end.writer.take());
        }
        let other_gone = connection.end(side.other()).state == EndState::Gone;
        for reply in replies {
            // A reset ends what the other side had under way as well; one is enough.
            if !(other_gone && matches!(reply, Packet::Reset)) {
                self.send(id, side.other(), reply);
            }
        }
        self.forget_if_over(id);
    }

    fn forget_if_over(&mut self, id: u64) {
        if self.connections.get(&id).is_some_and(Connection::is_over) {
            self.connections.remove(&id);
        }
    }

    fn kill(&mut self, host: HostId, kernel_lives: bool) {
        let state = self.hosts.entry(host).or_default();
        let Some(process) = state.process.take() else { return };
        state.listeners.clear();
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            for side in [Side::Caller, Side::Callee] {
                let Some(connection) = self.connections.get_mut(&id) else { continue };
                let end = connection.end(side);
                if end.process != Some(process) || end.host != host || end.state == EndState::Gone {
                    continue;
                }
                end.state = EndState::Gone;
                end.received.clear();
                (end.reader, end.writer) = (None, None);
                if kernel_lives {
                    // What was handed to the kernel may go out before the reset, or not.
                    if self.random.gen_bool(0.5) {
                        let lane = connection.end(side.other());
                        lane.lane.retain(|(_, packet)| !matches!(packet, Packet::Data(_)));
                        lane.lane_bytes = 0;
                    }
                    self.send(id, side.other(), Packet::Reset);
                } else {
                    let lane = connection.end(side.other());
                    lane.lane.clear();
                    lane.lane_bytes = 0;
                }
            }
            self.forget_if_over(id);
        }
    }

    /// The process of this end let go of it.
    fn close(&mut self, process: ProcessId, id: u64, side: Side) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let end = connection.end(side);
        if end.process != Some(process) || end.state == EndState::Gone {
            return;
        }
        let was = std::mem::replace(&mut end.state, EndState::Gone);
        let unread = !end.received.is_empty();
        end.received.clear();
        (end.reader, end.writer) = (None, None);
        match was {
            EndState::Open | EndState::Ended if unread => self.send(id, side.other(), Packet::Reset),
            EndState::Open | EndState::Ended => self.send(id, side.other(), Packet::End),
            EndState::Opening => {
                // Nobody learns that it was wanted, unless the answer was on its way already.
                let callee = connection.end(side.other());
                if callee.state == EndState::Opening {
                    self.connections.remove(&id);
                    return;
                }
                self.send(id, side.other(), Packet::Reset);
            }
            EndState::Reset | EndState::Gone => {}
        }
        self.forget_if_over(id);
    }
}

/// A port on which a process accepts connections.
#[derive(Debug)]
pub struct SimListener {
    net: Net,
    host: HostId,
    process: ProcessId,
    port: u16,
}

impl SimListener {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<SimStream>> {
        let mut world = self.net.world.lock();
        let host = world.hosts.entry(self.host).or_default();
        let listening = host.listeners.get_mut(&self.port).filter(|_| host.process == Some(self.process));
        let Some(listening) = listening else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        match listening.backlog.pop_front() {
            Some(id) => {
                let (net, process) = (self.net.clone(), self.process);
                Poll::Ready(Ok(SimStream { net, process, id, side: Side::Callee }))
            }
            None => {
                listening.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl ringmaster_node::env::Listener for SimListener {
    type Stream = SimStream;

    async fn accept(&mut self) -> io::Result<SimStream> {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }
}

/// A connection that is being made.
pub(crate) struct Connecting {
    stream: Option<SimStream>,
}

impl Future for Connecting {
    type Output = io::Result<SimStream>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(stream) = self.stream.take() else { return Poll::Pending };
        let state = {
            let mut world = stream.net.world.lock();
            let end = world.connections.get_mut(&stream.id).map(|connection| connection.end(stream.side));
            end.map(|end| {
                end.reader = Some(cx.waker().clone());
                end.state
            })
        };
        match state {
            Some(EndState::Opening) => {
                self.stream = Some(stream);
                Poll::Pending
            }
            Some(EndState::Open | EndState::Ended) => Poll::Ready(Ok(stream)),
            Some(EndState::Reset) => Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into())),
            Some(EndState::Gone) | None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct SimStream {
    net: Net,
    process: ProcessId,
    id: u64,
    side: Side,
}

impl SimStream {
    /// Whether the other side is still there, as far as this side heard.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let mut world = self.net.world.lock();
        world.connections.get_mut(&self.id).is_some_and(|c| c.end(self.side).state == EndState::Open)
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.net.world.lock().close(self.process, self.id, self.side);
    }
}

impl AsyncRead for SimStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut world = self.net.world.lock();
        let world = &mut *world;
        let Some(connection) = world.connections.get_mut(&self.id) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        let end = connection.end(self.side);
        if !end.received.is_empty() {
            let (front, _) = end.received.as_slices();
            let count = front.len().min(buf.remaining());
            buf.put_slice(front.get(..count).unwrap_or_default());
            end.received.drain(..count);
            world.wakes.extend(connection.end(self.side.other()).writer.take());
            return Poll::Ready(Ok(()));
        }
        match end.state {
            EndState::Ended => Poll::Ready(Ok(())),
            EndState::Reset | EndState::Gone => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            EndState::Opening | EndState::Open => {
                end.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut world = self.net.world.lock();
        let Some(connection) = world.connections.get_mut(&self.id) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        if matches!(connection.end(self.side).state, EndState::Reset | EndState::Gone) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW_BYTES.saturating_sub(connection.end(self.side.other()).backlog_bytes());
        if room == 0 {
            connection.end(self.side).writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = bytes.len().min(room);
        let sent = bytes.get(..count).unwrap_or_default().to_vec();
        world.send(self.id, self.side.other(), Packet::Data(sent));
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut world = self.net.world.lock();
        world.send(self.id, self.side.other(), Packet::End);
        Poll::Ready(Ok(()))
    }
}
