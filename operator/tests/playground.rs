//! The playground as a user runs it: real processes, an ordinary cluster client, and what people and kernels do to it.
//! Each claim is checked on acknowledged writes: what a client was told is kept is there in the end.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use redis::Commands;
use redis::cluster::{ClusterClient, ClusterConnection};

/// Long, because a test machine may do much else: what takes time is noted by other tests.
const PATIENCE: Duration = Duration::from_secs(120);

/// One playground at a time: what is measured is not who gets the processor.
static ALONE: Mutex<()> = Mutex::new(());
static NEXT_PORT: AtomicU16 = AtomicU16::new(21_000);

struct Playground {
    process: Child,
    scratch: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    name: String,
    shard: String,
    role: String,
    state: String,
    leads: bool,
    port: u16,
    pid: i32,
    node: String,
}

impl Playground {
    fn start() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let base = NEXT_PORT.fetch_add(100, Ordering::Relaxed);
        let scratch = std::env::temp_dir().join(format!("ringmaster-test-{}-{base}", std::process::id()));
        std::fs::create_dir_all(&scratch).unwrap();
        let mut process = command(&scratch).args(["--port", &base.to_string()]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = lines.find_map(|line| line.unwrap().strip_prefix("Ready: 127.0.0.1:").map(str::to_owned));
        assert!(ready.is_some(), "the playground ended before it was ready");
        // What it says later is of no interest, but it must be able to say it.
        thread::spawn(move || lines.for_each(drop));
        Self { process, scratch, _alone: alone }
    }

    /// Begins at any member: the first one may have been replaced.
    fn client(&self) -> ClusterConnection {
        let ports = self.members().into_iter().filter(|member| member.port > 0).map(|member| member.port);
        let client = ClusterClient::builder(ports.map(|port| format!("redis://127.0.0.1:{port}")))
            .connection_timeout(Duration::from_secs(2))
            .response_timeout(Duration::from_secs(10))
            .retries(20)
            .build()
            .unwrap();
        client.get_connection().unwrap()
    }

    fn order(&self, words: &[&str]) -> String {
        let output = command(&self.scratch).args(words).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Those lines of the table that are members in the ring.
    fn members(&self) -> Vec<Member> {
        let table = self.order(&["status"]);
        let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        let members = rows.filter(|words| words.len() >= 8 && words[0].starts_with("playground-"));
        members
            .map(|words| {
                let offset = usize::from(["leads", "votes"].contains(&words[4]));
                Member {
                    name: words[0].to_owned(),
                    shard: words[1].to_owned(),
                    role: words[2].to_owned(),
                    state: words[3].to_owned(),
                    leads: words[4] == "leads",
                    port: words[4 + offset].parse().unwrap_or(0),
                    pid: words[5 + offset].parse().unwrap_or(0),
                    node: words[words.len() - 1].to_owned(),
                }
            })
            .collect()
    }

    fn wait(&self, what: &str, holds: impl Fn(&[Member]) -> bool) -> Vec<Member> {
        let begin = Instant::now();
        loop {
            let members = self.members();
            if holds(&members) {
                return members;
            }
            assert!(begin.elapsed() < PATIENCE, "waited in vain for {what}:\n{}", self.order(&["status"]));
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn wait_for_every_copy(&self) {
        self.wait("every copy in sync", |members| {
            (0..3).all(|shard| {
                let copies = members.iter().filter(|m| m.shard == shard.to_string() && m.state == "InSync");
                copies.count() == 2
            })
        });
    }

    fn ends_without_a_trace(mut self) {
        let pids: Vec<i32> = self.members().iter().map(|member| member.pid).collect();
        signal(i32::try_from(self.process.id()).unwrap(), "INT");
        assert!(self.process.wait().unwrap().success());
        for pid in pids {
            assert!(!PathBuf::from(format!("/proc/{pid}")).exists(), "process {pid} is left");
        }
        let left: Vec<_> = std::fs::read_dir(&self.scratch).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?} is left");
        std::fs::remove_dir(&self.scratch).unwrap();
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn command(scratch: &PathBuf) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmaster"));
    command.arg("playground").env("TMPDIR", scratch).env("XDG_RUNTIME_DIR", scratch).stdin(Stdio::null());
    command
}

fn signal(pid: i32, name: &str) {
    assert!(pid > 0);
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

/// Writes until it is stopped: keys that are set once, so that a client's own repetition does no harm.
struct Ledger {
    stop: Arc<AtomicBool>,
    writer: thread::JoinHandle<(BTreeMap<String, u64>, Vec<String>)>,
}

impl Ledger {
    fn begin(playground: &Playground) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let mut client = playground.client();
        let writer = thread::spawn(move || {
            let (mut acknowledged, mut errors) = (BTreeMap::new(), Vec::new());
            for number in 0_u64.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let key = format!("ledger-{number}");
                match client.set::<_, _, ()>(&key, number) {
                    Ok(()) => drop(acknowledged.insert(key, number)),
                    Err(error) => errors.push(error.to_string()),
                }
                thread::sleep(Duration::from_millis(1));
            }
            (acknowledged, errors)
        });
        Self { stop, writer }
    }

    /// Everything that was acknowledged is there. Returns how much that was, and the errors that the client could not hide.
    fn verify(self, playground: &Playground) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let (acknowledged, errors) = self.writer.join().unwrap();
        let mut client = playground.client();
        for (key, value) in &acknowledged {
            let found: Option<u64> = client.get(key).unwrap();
            assert_eq!(found, Some(*value), "{key} was acknowledged");
        }
        assert!(!acknowledged.is_empty());
        (acknowledged.len(), errors)
    }
}

#[test]
fn members_of_a_cordoned_node_are_replaced_under_writes_without_an_error() {
    let playground = Playground::start();
    let ledger = Ledger::begin(&playground);
    playground.order(&["cordon", "node1"]);
    playground.wait("node1 to be empty", |members| members.iter().all(|member| member.node != "(cordoned)"));
    playground.wait_for_every_copy();
    let (count, errors) = ledger.verify(&playground);
    assert!(errors.is_empty(), "{errors:?} in {count} writes");
    playground.ends_without_a_trace();
}

#[test]
fn a_killed_primary_loses_no_acknowledged_write() {
    kill(|members| members.iter().find(|member| member.role == "Primary" && !member.leads));
}

#[test]
fn a_killed_copy_loses_no_acknowledged_write() {
    kill(|members| members.iter().find(|member| member.role == "Copy" && !member.leads));
}

#[test]
fn a_killed_ring_leader_loses_no_acknowledged_write() {
    kill(|members| members.iter().find(|member| member.leads));
}

#[test]
fn a_stopped_primary_is_replaced_and_comes_back_as_a_copy() {
    stop(|members| members.iter().find(|member| member.role == "Primary" && !member.leads));
}

#[test]
fn a_stopped_copy_holds_nothing_up_for_long() {
    stop(|members| members.iter().find(|member| member.role == "Copy" && !member.leads));
}

#[test]
fn a_stopped_ring_leader_is_replaced() {
    stop(|members| members.iter().find(|member| member.leads));
}

/// kill -9 in the middle of writes.
fn kill(victim: impl Fn(&[Member]) -> Option<&Member>) {
    let playground = Playground::start();
    let members = playground.wait("a victim", |members| victim(members).is_some());
    let pid = victim(&members).unwrap().pid;
    let ledger = Ledger::begin(&playground);
    thread::sleep(Duration::from_millis(500));
    signal(pid, "KILL");
    playground.wait("the process to be seen gone", |members| members.iter().all(|member| member.pid != pid));
    playground.wait_for_every_copy();
    let _hidden_or_not = ledger.verify(&playground);
    playground.ends_without_a_trace();
}

/// SIGSTOP for longer than any lease, then SIGCONT: it must not act on what it believed before.
fn stop(victim: impl Fn(&[Member]) -> Option<&Member>) {
    let playground = Playground::start();
    let members = playground.wait("a victim", |members| victim(members).is_some());
    let pid = victim(&members).unwrap().pid;
    let ledger = Ledger::begin(&playground);
    thread::sleep(Duration::from_millis(500));
    signal(pid, "STOP");
    thread::sleep(Duration::from_secs(3));
    signal(pid, "CONT");
    playground.wait_for_every_copy();
    let _hidden_or_not = ledger.verify(&playground);
    playground.ends_without_a_trace();
}

#[test]
fn the_newest_files_of_a_user_come_first() {
    let playground = Playground::start();
    let mut client = playground.client();
    for (time, file) in [(1, "a"), (2, "b"), (3, "c"), (4, "a")] {
        let _: () = client.zadd("recent:{ann}", file, time).unwrap();
    }
    // Only the newest two are kept.
    let _: () = redis::cmd("ZREMRANGEBYRANK").arg("recent:{ann}").arg(0).arg(-3).query(&mut client).unwrap();
    let newest: Vec<(String, f64)> = client.zrevrange_withscores("recent:{ann}", 0, -1).unwrap();
    assert_eq!(newest, [("a".to_owned(), 4.0), ("c".to_owned(), 3.0)]);
    playground.ends_without_a_trace();
}

#[test]
fn a_session_is_read_extended_and_forgotten() {
    let playground = Playground::start();
    let mut client = playground.client();
    let _: () = client.hset_multiple("session:1", &[("user", "ann"), ("cart", "3")]).unwrap();
    let _: () = client.pexpire("session:1", 60_000).unwrap();
    let cart: i64 = client.hincr("session:1", "cart", 1).unwrap();
    let all: BTreeMap<String, String> = client.hgetall("session:1").unwrap();
    let left_ms: i64 = client.pttl("session:1").unwrap();
    assert_eq!((cart, all["user"].as_str(), all["cart"].as_str()), (4, "ann", "4"));
    assert!((1..=60_000).contains(&left_ms));
    let _: () = client.pexpire("session:1", 1).unwrap();
    let begin = Instant::now();
    while client.exists::<_, bool>("session:1").unwrap() {
        assert!(begin.elapsed() < PATIENCE, "the session does not expire");
        thread::sleep(Duration::from_millis(5));
    }
    playground.ends_without_a_trace();
}
