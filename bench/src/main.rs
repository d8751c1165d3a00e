//! `ringmaster-bench`: the same loads on Ringmaster, Valkey, Redis and memcached, in turn and for several rounds.
//!
//! In: paths of the servers' programs (`bench/run` finds them) and which pieces to run. Out: the raw values of each piece as JSON in a
//! folder, and from all that are there a table and a picture. Compared are ratios of rounds that ran beside each other: the absolute
//! figures are this machine's.
//!
//! ```text
//! pieces ─ servers (start, find the process) ─ client (loads, replies checked) ─ accounts (CPU, RSS)
//!    └── results ─ report (markdown) ─ picture (SVG)
//! ```

mod accounts;
mod client;
mod load;
mod picture;
mod pieces;
mod report;
mod results;
mod servers;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use pieces::{Bench, Effort, PIECES};
use results::Results;
use servers::{Kind, Programs};

/// Measures Ringmaster beside its peers.
#[derive(Debug, Parser)]
struct Options {
    /// Which pieces to run; all without a name, none with `report`.
    pieces: Vec<String>,
    /// Shorter and fewer rounds: for a look, not for the record.
    #[arg(long)]
    quick: bool,
    #[arg(long)]
    rounds: Option<usize>,
    /// How long one measurement takes.
    #[arg(long)]
    span_ms: Option<u64>,
    /// Only servers of these names, for a look at some of them.
    #[arg(long)]
    only: Vec<String>,
    /// Only loads whose names begin with one of these, for a look at some of them.
    #[arg(long)]
    load: Vec<String>,
    #[arg(long)]
    ringmaster: PathBuf,
    /// Another build of the same, measured beside it: for a look at what a change brought.
    #[arg(long)]
    before: Option<PathBuf>,
    #[arg(long)]
    valkey: PathBuf,
    #[arg(long)]
    redis: PathBuf,
    #[arg(long)]
    memcached: PathBuf,
    /// For raw results and logs.
    #[arg(long)]
    folder: PathBuf,
    /// For the table and the picture.
    #[arg(long)]
    docs: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    fs::create_dir_all(&options.folder)?;
    let Options { ringmaster, before, valkey, redis, memcached, folder, .. } = &options;
    let programs = Programs {
        ringmaster: ringmaster.clone(),
        before: before.clone(),
        valkey: valkey.clone(),
        redis: redis.clone(),
        memcached: memcached.clone(),
        folder: folder.clone(),
    };
    let kinds: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| *kind != Kind::Before || options.before.is_some())
        .filter(|kind| options.only.is_empty() || options.only.iter().any(|name| kind.name() == name))
        .collect();
    let effort = Effort {
        rounds: options.rounds.unwrap_or(if options.quick { 2 } else { 5 }),
        span: Duration::from_millis(options.span_ms.unwrap_or(if options.quick { 500 } else { 1_500 })),
        items: if options.quick { 200_000 } else { 1_000_000 },
    };
    let bench = Bench { programs: &programs, kinds: &kinds, loads: &options.load, effort };
    let wanted: Vec<&str> = match options.pieces.as_slice() {
        [] => PIECES.to_vec(),
        names => names.iter().map(String::as_str).filter(|name| *name != "report").collect(),
    };
    let is_whole = options.only.is_empty() && options.load.is_empty() && options.before.is_none();
    let recorded = !options.quick && is_whole;
    for piece in wanted {
        let measures = bench.run(piece)?;
        let mut versions = kinds.iter().map(|kind| programs.version(*kind)).collect::<anyhow::Result<Vec<_>>>()?;
        versions.dedup();
        let results = Results { machine: machine(), date: today(), versions, measures };
        print!("{}", report::summary(&results));
        if recorded {
            results.write(&folder.join(format!("{piece}.json")))?;
        }
    }
    if recorded {
        let all: Vec<Results> =
            PIECES.iter().filter_map(|piece| Results::read(&folder.join(format!("{piece}.json")))).collect();
        fs::write(options.docs.join("bench.md"), report::page(&all))?;
        fs::write(options.docs.join("bench.svg"), picture::ratios(&all))?;
    }
    Ok(())
}

/// What the figures were found on.
fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1)).unwrap_or("CPU");
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.split('-').next().unwrap_or_default().trim();
    format!("{count} virtual CPUs ({model}), Linux {kernel}")
}

fn today() -> String {
    let output = std::process::Command::new("date").arg("+%F").output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
