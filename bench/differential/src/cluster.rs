//! A cluster of real processes (`ringmaster playground`: one shard, two copies) whose primary is handed over every second.
//!
//! Owns the processes and the thread that proposes handovers, as an operator would: over HTTP, with the ring's secret.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use ringmaster_engine::Protocol;
use ringmaster_ring::{Command, Holder, Ring, Shard, ShardChange, ShardId};
use serde::Deserialize;

use crate::follower::Follower;

const HAND_OVER_EVERY: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(2);
const START_MAX: Duration = Duration::from_secs(60);
/// How long a handover may take, and copies to be equal once nothing is written.
const SETTLE_MAX: Duration = Duration::from_secs(20);
const SHARD: ShardId = ShardId(0);

pub struct Cluster {
    playground: Child,
    directory: PathBuf,
    members: Members,
    handovers: Arc<Handovers>,
    proposing: Option<JoinHandle<()>>,
    first_epoch: u64,
}

/// What is known of handovers while they happen.
#[derive(Debug, Default)]
pub struct Handovers {
    /// Raised before one is proposed, and once it is over.
    begun: AtomicU64,
    ended: AtomicU64,
    end: AtomicBool,
    /// How long each took, from its proposal until the new primary served.
    took: Mutex<Vec<Duration>>,
    failures: Mutex<Vec<String>>,
}

impl Handovers {
    /// To be taken before something that a handover may come into.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }

    /// Whether one may have come into what began at that mark.
    pub fn came_between(&self, ended_before: u64) -> bool {
        self.begun.load(Ordering::SeqCst) > ended_before
    }
}

impl Cluster {
    pub fn start(program: Option<&Path>) -> anyhow::Result<Self> {
        let program = match program {
            Some(program) => program.to_owned(),
            None => std::env::current_exe()?.with_file_name("ringmaster"),
        };
        let directory = std::env::temp_dir().join(format!("ringmaster-differential-cluster-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let file = directory.join("cluster.yaml");
        let spec = "apiVersion: cache.ringmaster.dev/v1alpha1\nkind: CacheCluster\nmetadata: {name: differential}\n\
                    spec: {shards: 1, copies: 2, memory: {max: 1Gi, policy: noeviction}}\n";
        std::fs::write(&file, spec)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().clamp(10_000, 50_000);
        let mut playground = std::process::Command::new(&program)
            .arg("playground")
            .arg("--file")
            .arg(&file)
            .args(["--port", &port.to_string()])
            .env("TMPDIR", &directory)
            .env("XDG_RUNTIME_DIR", &directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| program.display().to_string())?;
        let mut lines = BufReader::new(playground.stdout.take().context("no output")?).lines();
        let is_ready = lines.by_ref().map_while(Result::ok).any(|line| line.starts_with("Ready: "));
        anyhow::ensure!(is_ready, "the playground ended before it was ready");
        // What it says later is of no interest, but it must be able to say it.
        std::thread::spawn(move || lines.for_each(drop));
        let members = Members::of(playground.id())?;
        let handovers = Arc::<Handovers>::default();
        let mut cluster = Self { playground, directory, members, handovers, proposing: None, first_epoch: 0 };
        let began = Instant::now();
        while cluster.shard()?.in_sync.len() < 2 {
            anyhow::ensure!(began.elapsed() < START_MAX, "no copy comes in sync");
            std::thread::sleep(LOOK_EVERY);
        }
        cluster.first_epoch = cluster.shard()?.epoch.0;
        let (members, handovers) = (cluster.members.clone(), Arc::clone(&cluster.handovers));
        cluster.proposing = Some(std::thread::spawn(move || hand_over_every_second(&members, &handovers)));
        Ok(cluster)
    }

    pub fn follower(&self, protocol: Protocol) -> anyhow::Result<Follower<'_>> {
        let ring = self.members.ring()?;
        let primary = &ring.shards.get(&SHARD).context("no shard")?.primary;
        let present = ring.members.get(&primary.member).and_then(|member| member.present.as_ref());
        let address = &present.context("the primary has no address")?.address;
        Follower::begin(self, format!("{}:{}", address.host, address.client_port), protocol)
    }

    pub fn handovers(&self) -> &Handovers {
        &self.handovers
    }

    /// The slots in which both copies differ, at rest.
    pub fn diverged_slots(&self) -> anyhow::Result<Vec<String>> {
        let began = Instant::now();
        loop {
            let ring = self.members.ring()?;
            let copies = ring.shards.get(&SHARD).context("no shard")?.in_sync.keys();
            let copies: Vec<u16> = copies
                .filter_map(|member| Some(ring.members.get(member)?.present.as_ref()?.address.http_port))
                .collect();
            let held: Vec<Digests> =
                copies.iter().map(|port| read(*port, "/v1/digests")).collect::<anyhow::Result<_>>()?;
            let (Some(first), Some(second)) = (held.first(), held.get(1)) else {
                anyhow::bail!("{} copies are in sync", held.len());
            };
            let diverged: Vec<String> = first
                .digests
                .iter()
                .chain(&second.digests)
                .filter(|(slot, _)| first.digests.get(*slot) != second.digests.get(*slot))
                .map(|(slot, _)| slot.to_string())
                .collect();
            // A copy applies what it holds a moment later; and a handover may be under way.
            if diverged.is_empty() || began.elapsed() > SETTLE_MAX {
                return Ok(diverged);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Ends the handovers, and says how many there were. False if there were none, or if anything else became primary.
    pub fn report(mut self) -> bool {
        self.stop_proposing();
        let took = self.handovers.took.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let failures = self.handovers.failures.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let epochs = self.shard().map(|shard| shard.epoch.0 - self.first_epoch);
        let ms = |took: Option<&Duration>| took.map_or(0, Duration::as_millis);
        println!(
            "{} handovers, of {} to {} ms from proposal to the new primary's word",
            took.len(),
            ms(took.iter().min()),
            ms(took.iter().max())
        );
        failures.iter().for_each(|failure| println!("{failure}"));
        match epochs {
            Ok(epochs) if epochs == took.len() as u64 => !took.is_empty() && failures.is_empty(),
            Ok(epochs) => {
                println!("{epochs} changes of the primary, which no handover was behind");
                false
            }
            Err(error) => {
                println!("{error:#}");
                false
            }
        }
    }

    fn shard(&self) -> anyhow::Result<Shard> {
        self.members.ring()?.shards.get(&SHARD).cloned().context("no shard")
    }

    fn stop_proposing(&mut self) {
        self.handovers.end.store(true, Ordering::SeqCst);
        if let Some(proposing) = self.proposing.take() {
            // It ends by itself, and has noted what failed.
            let _ = proposing.join();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop_proposing();
        // A playground takes its members along when it is asked to end.
        if let Some(pid) = i32::try_from(self.playground.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.playground.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn hand_over_every_second(members: &Members, handovers: &Handovers) {
    let mut next = Instant::now();
    while !handovers.end.load(Ordering::SeqCst) {
        if Instant::now() < next {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        next += HAND_OVER_EVERY;
        let began = Instant::now();
        handovers.begun.fetch_add(1, Ordering::SeqCst);
        let outcome = hand_over(members);
        handovers.ended.fetch_add(1, Ordering::SeqCst);
        match outcome {
            Ok(()) => handovers.took.lock().unwrap_or_else(PoisonError::into_inner).push(began.elapsed()),
            Err(error) => {
                let text = format!("a handover failed: {error:#}");
                handovers.failures.lock().unwrap_or_else(PoisonError::into_inner).push(text);
            }
        }
    }
}

/// Hands the shard to its other copy, and waits until that one serves.
fn hand_over(members: &Members) -> anyhow::Result<()> {
    let ring = members.ring()?;
    let shard = ring.shards.get(&SHARD).context("no shard")?;
    let other = shard.in_sync.iter().find(|(member, _)| **member != shard.primary.member);
    let (&member, &boot) = other.context("no other copy is in sync")?;
    let to = Holder { member, boot };
    let epoch = shard.epoch;
    let command = Command::on_shard(&ring, SHARD, ShardChange::Handover { to }).context("no shard")?;
    members.propose(&command)?;
    let began = Instant::now();
    loop {
        let ring = members.ring()?;
        let shard = ring.shards.get(&SHARD).context("no shard")?;
        if shard.epoch > epoch && shard.pending_from.is_none() {
            return Ok(());
        }
        anyhow::ensure!(began.elapsed() < SETTLE_MAX, "it does not end");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// How to reach the members' HTTP.
#[derive(Clone, Debug)]
struct Members {
    http_ports: Vec<u16>,
    token: String,
}

impl Members {
    /// From the command lines of the playground's processes.
    fn of(playground: u32) -> anyhow::Result<Self> {
        let children = std::fs::read_to_string(format!("/proc/{playground}/task/{playground}/children"))?;
        let mut members = Self { http_ports: Vec::new(), token: String::new() };
        for pid in children.split_whitespace() {
            let line = std::fs::read_to_string(Path::new("/proc").join(pid).join("cmdline")).unwrap_or_default();
            let option = |name: &str| line.split('\0').find_map(|argument| argument.strip_prefix(name));
            if let (Some(port), Some(token)) = (option("--http-port="), option("--token-file=")) {
                members.http_ports.push(port.parse()?);
                members.token = std::fs::read_to_string(token)?.trim().to_owned();
            }
        }
        anyhow::ensure!(!members.http_ports.is_empty(), "the playground has no members");
        Ok(members)
    }

    /// The newest ring that a member knows.
    fn ring(&self) -> anyhow::Result<Ring> {
        let rings = self.http_ports.iter().filter_map(|port| read::<Ring>(*port, "/v1/ring").ok());
        rings.max_by_key(|ring| ring.epoch).context("no member knows the ring")
    }

    fn propose(&self, command: &Command) -> anyhow::Result<()> {
        let port = *self.http_ports.first().context("no members")?;
        let body = serde_json::to_string(command)?;
        let (status, answer) = request(port, "POST", "/v1/propose", Some(&self.token), &body)?;
        anyhow::ensure!(status == 200, "refused with {status}: {answer}");
        Ok(())
    }
}

#[derive(Deserialize)]
struct Digests {
    digests: BTreeMap<u16, String>,
}

fn read<T: for<'a> Deserialize<'a>>(port: u16, path: &str) -> anyhow::Result<T> {
    let (status, body) = request(port, "GET", path, None, "")?;
    anyhow::ensure!(status == 200, "{path} is answered with {status}: {body}");
    Ok(serde_json::from_str(&body)?)
}

/// One request over a connection of its own: status and body.
fn request(port: u16, method: &str, path: &str, token: Option<&str>, body: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(SETTLE_MAX))?;
    let secret = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{secret}Content-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    Ok((status, body.to_owned()))
}
