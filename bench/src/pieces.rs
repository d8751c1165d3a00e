//! The pieces of the benchmark: each starts the servers it compares, measures them in turn for some rounds, and ends them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::accounts::{cpu_ns, rss_bytes};
use crate::client::{Done, Until};
use crate::load::{KEYS, LIMITER, LIMITER_SHA, Load};
use crate::results::Measure;
use crate::servers::{Kind, Programs, Server};

const CONNECTIONS: usize = 50;
/// How many items a server is given, and forgets again, before its memory is measured: code and buffers are there then.
const WARM_UP_ITEMS: u64 = 1_000;
const OPEN_RATES: [u64; 2] = [5_000, 20_000];

pub(crate) const PIECES: [&str; 7] =
    ["cpu-p1", "cpu-p16", "threads", "latency", "memory-strings", "memory-hashes", "memory-elements"];

/// How thoroughly to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    /// How long one measurement takes.
    pub(crate) span: Duration,
    pub(crate) items: u64,
}

pub(crate) struct Bench<'a> {
    pub(crate) programs: &'a Programs,
    pub(crate) kinds: &'a [Kind],
    /// What the names of the loads to measure begin with; all without a name.
    pub(crate) loads: &'a [String],
    pub(crate) effort: Effort,
}

/// One measured value a server and round.
type Rounds = BTreeMap<String, Vec<f64>>;

impl Bench<'_> {
    pub(crate) fn run(&self, piece: &str) -> anyhow::Result<Vec<Measure>> {
        match piece {
            "cpu-p1" => self.cpu(1, &[Load::Set, Load::Get]),
            "cpu-p16" => {
                self.cpu(16, &[Load::Set, Load::Get, Load::Incr, Load::Hset, Load::Lpush, Load::Zadd, Load::Limit])
            }
            "threads" => self.threads(),
            "latency" => self.latency(),
            "memory-strings" => self.memory(&[&[Load::FillString], &[Load::FillStringTtl]]),
            "memory-hashes" => self.memory(&[&[Load::FillHash], &[Load::FillHash, Load::ExpireHash]]),
            "memory-elements" => self.memory(&[&[Load::FillSortedSet], &[Load::FillSet], &[Load::FillList]]),
            other => anyhow::bail!("there is no {other}, only {}", PIECES.join(", ")),
        }
    }

    /// Server CPU per operation, with one thread and every connection `depth` requests deep.
    fn cpu(&self, depth: usize, loads: &[Load]) -> anyhow::Result<Vec<Measure>> {
        let servers = self.start(1)?;
        let mut measures = Vec::new();
        for &load in loads.iter().filter(|load| self.measures(**load)) {
            let (mut costs, mut rates, mut copies) = (Rounds::new(), Rounds::new(), Rounds::new());
            for round in 0..self.effort.rounds {
                for server in servers.iter().filter(|server| load.is_known_to(server.kind.dialect())) {
                    self.prepare(server, load, depth)?;
                    let mut client = server.client(CONNECTIONS, seed(round))?;
                    let copy_before = server.copy.map(cpu_ns).transpose()?;
                    let before = cpu_ns(server.pid)?;
                    let Done { operations, elapsed } = client.closed(load, depth, Until::Time(self.effort.span))?;
                    let cost = per(cpu_ns(server.pid)? - before, operations) / 1e3;
                    note(&mut costs, server.kind.name(), cost);
                    note(&mut rates, server.kind.name(), operations as f64 / elapsed.as_secs_f64());
                    if let (Some(pid), Some(before)) = (server.copy, copy_before) {
                        note(&mut copies, "Its copy", per(cpu_ns(pid)? - before, operations) / 1e3);
                    }
                    eprintln!("{} P={depth} {}: {cost:.3} µs", load.name(), server.kind.name());
                }
            }
            costs.append(&mut copies);
            let name = format!("{} P={depth}", load.name());
            let goal = match (depth, load) {
                (1, _) => 0.9,
                (_, Load::Limit) => 1.0,
                (_, Load::Set | Load::Get) => 0.5,
                _ => 0.6,
            };
            measures.push(measure("CPU per operation", &name, "µs", Some(goal), costs));
            measures.push(measure("Rate in a closed loop", &name, "a second", None, rates));
        }
        Ok(measures)
    }

    /// Throughput of servers with one thread and with two.
    fn threads(&self) -> anyhow::Result<Vec<Measure>> {
        let mut measures = Vec::new();
        for threads in [1, 2] {
            let servers = self.start(threads)?;
            for load in [Load::Set, Load::Get].into_iter().filter(|load| self.measures(*load)) {
                let (mut rates, mut costs) = (Rounds::new(), Rounds::new());
                for round in 0..self.effort.rounds {
                    for server in &servers {
                        self.prepare(server, load, 16)?;
                        let before = cpu_ns(server.pid)?;
                        let done = both(server, load, round, self.effort.span)?;
                        let cost = per(cpu_ns(server.pid)? - before, done.operations) / 1e3;
                        note(&mut costs, server.kind.name(), cost);
                        note(&mut rates, server.kind.name(), done.operations as f64 / done.elapsed.as_secs_f64());
                    }
                }
                let name = format!("{} P=16, {threads} thread{}", load.name(), if threads == 1 { "" } else { "s" });
                measures.push(measure("Throughput by threads", &name, "a second", None, rates));
                measures.push(measure("CPU per operation by threads", &name, "µs", None, costs));
            }
        }
        Ok(measures)
    }

    /// Latency at fixed rates, and at half of what Valkey reaches at most.
    fn latency(&self) -> anyhow::Result<Vec<Measure>> {
        let servers = self.start(1)?;
        let mut measures = Vec::new();
        for load in [Load::Get, Load::Set].into_iter().filter(|load| self.measures(*load)) {
            let mut rates: Vec<(String, u64)> =
                OPEN_RATES.iter().map(|rate| (format!("{rate} a second"), *rate)).collect();
            if let Some(valkey) = servers.iter().find(|server| server.kind == Kind::Valkey) {
                self.prepare(valkey, load, 1)?;
                let done = valkey.client(CONNECTIONS, 1)?.closed(load, 1, Until::Time(self.effort.span))?;
                let half = (done.operations as f64 / done.elapsed.as_secs_f64() / 2.0) as u64;
                rates.push((format!("half of Valkey's top rate ({half} a second)"), half));
            }
            for (rate_name, rate) in rates {
                let quantiles = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];
                let mut found = quantiles.map(|_| Rounds::new());
                for round in 0..self.effort.rounds {
                    for server in &servers {
                        self.prepare(server, load, 1)?;
                        let mut client = server.client(CONNECTIONS, seed(round))?;
                        client.open(load, rate, self.effort.span / 10)?;
                        let mut latencies = client.open(load, rate, self.effort.span)?;
                        latencies.sort_unstable();
                        for ((_, quantile), rounds) in quantiles.iter().zip(&mut found) {
                            let at = (latencies.len() as f64 * quantile) as usize;
                            let ns = latencies.get(at.min(latencies.len() - 1)).copied().unwrap_or(0);
                            note(rounds, server.kind.name(), ns as f64 / 1e3);
                        }
                    }
                }
                for ((quantile, _), rounds) in quantiles.into_iter().zip(found) {
                    let name = format!("{} {quantile}, {rate_name}", load.name());
                    let goal = (quantile == "p99.9" && rate_name.starts_with("half")).then_some(1.0);
                    measures.push(measure("Latency in an open loop", &name, "µs", goal, rounds));
                }
                eprintln!("{} at {rate_name}: done", load.name());
            }
        }
        Ok(measures)
    }

    /// Growth of resident memory per item, in servers that were just started. Whatever they take for it counts.
    fn memory(&self, fills: &[&[Load]]) -> anyhow::Result<Vec<Measure>> {
        let mut measures = Vec::new();
        for fill in fills {
            let Some(&last) = fill.last().filter(|load| self.measures(**load)) else { continue };
            let mut bytes = Rounds::new();
            for _round in 0..self.effort.rounds {
                for &kind in self.kinds.iter().filter(|kind| **kind != Kind::RingmasterInSync) {
                    if !fill.iter().all(|load| load.is_known_to(kind.dialect())) {
                        continue;
                    }
                    let server = self.programs.start(kind, 1)?;
                    let mut client = server.client(4, 1)?;
                    // A key was set to find out whether it serves.
                    server.flush()?;
                    for &load in *fill {
                        client.closed(load, 64, Until::Count(WARM_UP_ITEMS))?;
                    }
                    server.flush()?;
                    std::thread::sleep(Duration::from_millis(300));
                    let before = rss_bytes(server.pid)?;
                    for &load in *fill {
                        client.closed(load, 64, Until::Count(self.effort.items))?;
                    }
                    // Tables that grow step by step come to rest.
                    std::thread::sleep(Duration::from_millis(500));
                    let grown = rss_bytes(server.pid)?.saturating_sub(before);
                    note(&mut bytes, kind.name(), per(grown, self.effort.items));
                    eprintln!("{}, {}: {:.1} bytes", last.name(), kind.name(), per(grown, self.effort.items));
                }
            }
            let goal = match last {
                Load::FillString => Some(0.85),
                Load::FillHash => Some(0.75),
                Load::FillSortedSet => Some(0.6),
                _ => None,
            };
            let name = format!("{} {}", self.effort.items, last.name());
            measures.push(measure("Memory per item", &name, "bytes", goal, bytes));
        }
        Ok(measures)
    }

    fn measures(&self, load: Load) -> bool {
        self.loads.is_empty() || self.loads.iter().any(|name| load.name().starts_with(name.as_str()))
    }

    fn start(&self, threads: u16) -> anyhow::Result<Vec<Server>> {
        self.kinds.iter().map(|kind| self.programs.start(*kind, threads)).collect()
    }

    /// Brings a server into the state in which a load is measured, and warms it up.
    fn prepare(&self, server: &Server, load: Load, depth: usize) -> anyhow::Result<()> {
        server.flush()?;
        if load == Load::Limit {
            let sha = server.load_script(LIMITER)?;
            anyhow::ensure!(sha.contains(LIMITER_SHA), "{} names the script {sha}", server.kind.name());
        }
        let mut client = server.client(CONNECTIONS, 7)?;
        if matches!(load, Load::Get | Load::Set) {
            client.closed(Load::FillString, 16, Until::Count(KEYS))?;
        }
        client.closed(load, depth, Until::Time(self.effort.span / 10)).map(drop)
    }
}

/// A load from two threads of clients at once.
fn both(server: &Server, load: Load, round: usize, span: Duration) -> anyhow::Result<Done> {
    let mut clients = [server.client(CONNECTIONS / 2, seed(round))?, server.client(CONNECTIONS / 2, seed(round) + 2)?];
    let done = std::thread::scope(|scope| {
        let running = clients.each_mut().map(|client| scope.spawn(|| client.closed(load, 16, Until::Time(span))));
        running.map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a client panicked"))))
    });
    let [first, second] = done;
    let (first, second) = (first?, second?);
    Ok(Done { operations: first.operations + second.operations, elapsed: first.elapsed.max(second.elapsed) })
}

fn measure(table: &str, name: &str, unit: &str, goal: Option<f64>, rounds: Rounds) -> Measure {
    Measure { table: table.to_owned(), name: name.to_owned(), unit: unit.to_owned(), goal, rounds }
}

fn note(rounds: &mut Rounds, server: &str, value: f64) {
    rounds.entry(server.to_owned()).or_default().push(value);
}

fn per(sum: u64, count: u64) -> f64 {
    sum as f64 / count.max(1) as f64
}

fn seed(round: usize) -> u64 {
    0x9e37_79b9_7f4a_7c15 ^ ((round as u64 + 1) << 20)
}
