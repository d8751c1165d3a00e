//! A serving node in this process, and a client that sees every byte.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringmaster_engine::{Engine, EngineConfig};
use ringmaster_node::ClientStats;
use ringmaster_node::env::boot_now;
use ringmaster_node::serve::{ServeConfig, ServeHandle, Shared, start};
use ringmaster_replica::{Gate, GateState, Mono, Mutations, Phase};
use ringmaster_ring::{
    Address, BootId, ClusterUuid, FeatureLevel, Formation, FoundingMember, Generation, Holder, MemberId, MemberState,
    Placement, Presence, Ring, RingEpoch, Seq, Settings, ShardEpoch, ShardId, SlotRange, VoterId,
};
use tokio::sync::watch;

/// Long enough that what should come has come.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough that what should not come would have come.
pub const SILENCE: Duration = Duration::from_millis(150);
/// The member under test: the first of two in shard 0. Shard 1 has one member, 3.
pub const ME: Holder = Holder { member: MemberId(1), boot: BootId(101) };
pub const OTHER: Holder = Holder { member: MemberId(2), boot: BootId(102) };

pub struct Node {
    pub handle: Option<ServeHandle>,
    pub shared: Arc<Shared>,
    pub engine: Arc<Engine>,
    gate: Arc<Gate>,
    pub state: GateState,
    rings: watch::Sender<Option<Arc<Ring>>>,
    pub ring: Ring,
}

impl Node {
    /// A primary with a lease without an end, whose writes count as committed at once.
    pub fn primary() -> Self {
        Self::with(|_| {})
    }

    pub fn with(configure: impl FnOnce(&mut ServeConfig)) -> Self {
        Self::with_first_ring(configure, |_| {})
    }

    /// One that begins with a ring that was changed so.
    pub fn with_first_ring(configure: impl FnOnce(&mut ServeConfig), change: impl FnOnce(&mut Ring)) -> Self {
        Self::of(ME, configure, change)
    }

    /// One that is another member.
    pub fn of(me: Holder, configure: impl FnOnce(&mut ServeConfig), change: impl FnOnce(&mut Ring)) -> Self {
        let mut config = ServeConfig { client_port: 0, threads: 2, ..ServeConfig::default() };
        configure(&mut config);
        let engine =
            Arc::new(Engine::new(EngineConfig { cluster_mode: config.cluster_mode, ..EngineConfig::default() }));
        let gate = Arc::new(Gate::new(Mutations::none()));
        let shared = Shared::new(me, Arc::clone(&engine), Arc::clone(&gate));
        let rings = watch::Sender::new(None);
        shared.follow_ring(rings.subscribe());
        let handle = start(config, Arc::clone(&shared)).unwrap();
        let state = GateState {
            phase: Phase::Primary,
            epoch: ShardEpoch(1),
            lease_until: Mono(u64::MAX),
            committed: Seq(u64::MAX),
            fresh_until: Mono(u64::MAX),
            ..GateState::default()
        };
        engine.log().begin_epoch(state.epoch);
        let ring = ring(handle.port());
        let mut node = Self { handle: Some(handle), shared, engine, gate, state, rings, ring };
        node.publish_ring(change);
        node.publish(|_| {});
        node
    }

    /// Changes the gate, and wakes those who wait for it, as the control side does.
    pub fn publish(&mut self, change: impl FnOnce(&mut GateState)) {
        change(&mut self.state);
        if self.gate.publish(&self.state) {
            self.shared.wake();
        }
    }

    pub fn publish_ring(&mut self, change: impl FnOnce(&mut Ring)) {
        change(&mut self.ring);
        self.ring.epoch = RingEpoch(self.ring.epoch.0 + 1);
        self.rings.send_replace(Some(Arc::new(self.ring.clone())));
    }

    pub fn forget_ring(&mut self) {
        self.rings.send_replace(None);
    }

    /// The ring's word that the other member of the shard is the primary now.
    pub fn hand_over_in_ring(&mut self) {
        self.publish_ring(|ring| {
            let shard = ring.shards.get_mut(&ShardId(0)).unwrap();
            shard.epoch = shard.epoch.next();
            shard.pending_from = Some(ME);
            shard.primary = OTHER;
        });
    }

    /// The same, and this member has become a copy.
    pub fn hand_over(&mut self) {
        self.hand_over_in_ring();
        self.publish(|state| {
            state.phase = Phase::Copy;
            state.epoch = state.epoch.next();
        });
    }

    pub fn retire_me(&mut self) {
        self.publish_ring(|ring| {
            ring.members.get_mut(&ME.member).unwrap().state = MemberState::Retired;
            ring.shards.get_mut(&ShardId(0)).unwrap().in_sync.remove(&ME.member);
        });
        self.publish(|state| state.phase = Phase::Retired);
    }

    /// A lease that ends so soon from now.
    pub fn lease_for(&mut self, lease: Duration) {
        self.publish(|state| state.lease_until = boot_now().plus(lease));
    }

    /// Waits until that many clients are connected: the node learns of each a moment after the client.
    pub fn wait_for_clients(&self, count: u64) {
        let began = Instant::now();
        while self.shared.clients() != count {
            assert!(began.elapsed() < PATIENCE, "{} clients instead of {count}", self.shared.clients());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn port(&self) -> u16 {
        self.handle.as_ref().unwrap().port()
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.port())
    }

    pub fn redis(&self) -> redis::Connection {
        redis::Client::open(format!("redis://127.0.0.1:{}/", self.port())).unwrap().get_connection().unwrap()
    }
}

/// Two shards: 0 with members 1 and 2, 1 with member 3. Each shard's first member is its primary.
fn ring(port: u16) -> Ring {
    let presence = |member: u32, client_port| Presence {
        boot: BootId(100 + u64::from(member)),
        voter: VoterId(u64::from(member)),
        address: Address { host: "127.0.0.1".into(), client_port, peer_port: 1, http_port: 2 },
        feature_level: FeatureLevel(1),
    };
    let member = |member: u32, shard: u16, client_port| {
        let founding = FoundingMember {
            shard: Some(ShardId(shard)),
            template: String::new(),
            placement: Placement::default(),
            presence: presence(member, client_port),
        };
        (MemberId(member), founding)
    };
    let shards: BTreeMap<_, _> = SlotRange::split(2)
        .into_iter()
        .enumerate()
        .map(|(shard, range)| (ShardId(shard as u16), vec![range]))
        .collect();
    Ring::form(&Formation {
        cluster: ClusterUuid(0xabc),
        generation: Generation(1),
        settings: Settings::default(),
        members: BTreeMap::from([member(1, 0, port), member(2, 0, 7002), member(3, 1, 7003)]),
        shards,
        next_serial: MemberId(4),
    })
    .unwrap()
}

/// A client that sends what it is told and reads replies as they are encoded.
pub struct Client {
    pub stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    pub fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, read: Vec::new() }
    }

    /// Sends one request of words.
    pub fn send(&mut self, words: &str) -> &mut Self {
        let args: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        self.send_args(&args)
    }

    pub fn send_args(&mut self, args: &[&[u8]]) -> &mut Self {
        let mut wire = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            wire.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            wire.extend_from_slice(arg);
            wire.extend_from_slice(b"\r\n");
        }
        self.send_bytes(&wire)
    }

    pub fn send_bytes(&mut self, wire: &[u8]) -> &mut Self {
        self.stream.write_all(wire).unwrap();
        self
    }

    /// One reply: nested ones in brackets, `nil` for nulls, errors with their `-`.
    pub fn reply(&mut self) -> String {
        let deadline = Instant::now() + PATIENCE;
        self.reply_until(deadline).expect("a reply in time")
    }

    /// A reply, if one comes within so long.
    pub fn reply_within(&mut self, limit: Duration) -> Option<String> {
        self.reply_until(Instant::now() + limit)
    }

    pub fn ask(&mut self, words: &str) -> String {
        self.send(words).reply()
    }

    pub fn expect_silence(&mut self) {
        let early = self.reply_until(Instant::now() + SILENCE);
        assert_eq!(early, None, "no reply was due");
    }

    /// Whether the node closes the connection; replies before that are dropped.
    pub fn expect_closed(&mut self) {
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
        }
    }

    fn reply_until(&mut self, deadline: Instant) -> Option<String> {
        loop {
            if let Some((text, used)) = parse(&self.read) {
                self.read.drain(..used);
                return Some(text);
            }
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            self.stream.set_read_timeout(Some(left)).unwrap();
            let mut room = [0; 64 << 10];
            match self.stream.read(&mut room) {
                Ok(0) => panic!("the connection was closed"),
                Ok(count) => self.read.extend_from_slice(&room[..count]),
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// One encoded value at the front of the bytes as text, and its length.
fn parse(bytes: &[u8]) -> Option<(String, usize)> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let line = String::from_utf8_lossy(&bytes[1..end]).into_owned();
    let mut used = end + 2;
    let text = match bytes[0] {
        b'+' | b':' | b',' | b'#' | b'(' => line,
        b'-' => format!("-{line}"),
        b'_' => "nil".into(),
        b'$' | b'=' if line == "-1" => "nil".into(),
        b'$' | b'=' => {
            let len: usize = line.parse().unwrap();
            let body = bytes.get(used..used + len)?;
            bytes.get(used + len..used + len + 2)?;
            used += len + 2;
            String::from_utf8_lossy(body).into_owned()
        }
        b'*' if line == "-1" => "nil".into(),
        kind @ (b'*' | b'~' | b'>' | b'%') => {
            let count = line.parse::<usize>().unwrap() * if kind == b'%' { 2 } else { 1 };
            let mut parts = Vec::new();
            for _ in 0..count {
                let (part, len) = parse(&bytes[used..])?;
                parts.push(part);
                used += len;
            }
            format!("[{}]", parts.join(" "))
        }
        other => panic!("{:?} begins no reply", char::from(other)),
    };
    Some((text, used))
}
