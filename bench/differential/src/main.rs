//! Drives Ringmaster and a real Valkey with the same commands, and compares every reply and what is left in the end.
//!
//! In: seeds, a Valkey (`bench/peers valkey` brings one), and what stands against it: a serving node in this process, a node's address, or
//! a cluster of processes that hands its primary over every second. Out: each difference with the seed and the number of the command, so
//! that the seed replays it; figures; exit code 1 if anything differed or if a command was left out.
//!
//! A seed is one sequence: it begins with empty databases, RESP2 on even seeds and RESP3 on odd ones.
//!
//! ```text
//! grammar ─┬─ generate ─ sequence ─┬─ Valkey ─────────────────────┬─ compare ─ tally
//! scripts ─┘                       └─ node, address or cluster ───┘
//! ```

#![allow(clippy::indexing_slicing, reason = "a test tool ends where its claim does")]

mod cluster;
mod compare;
mod coverage;
mod follower;
mod generate;
mod grammar;
mod node;
mod reply;
mod scripts;
mod sequence;
mod state;
mod table;
mod tally;
mod target;
mod valkey;

use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use ringmaster_engine::Protocol;

use cluster::Cluster;
use grammar::{Grammar, Templates};
use sequence::{Against, Sequence};
use tally::Tally;
use target::Server;
use valkey::Valkey;

#[derive(Parser)]
#[command(about = "Compares Ringmaster's replies with Valkey's")]
struct Options {
    /// Which sequences, as FIRST..END.
    #[arg(long, default_value = "0..50", value_parser = seeds)]
    seeds: Range<u64>,
    /// How many steps a sequence has. A transaction is one.
    #[arg(long, default_value_t = 20_000)]
    steps: usize,
    /// The Valkey to compare with: its program. Without it, `bench/peers valkey` is asked.
    #[arg(long)]
    valkey: Option<PathBuf>,
    /// A node of Ringmaster, HOST:PORT, with cluster mode off. Without it, a node in this process.
    #[arg(long, conflicts_with = "cluster")]
    ringmaster: Option<String>,
    /// A cluster of processes, one shard with two copies, whose primary is handed over every second.
    #[arg(long)]
    cluster: bool,
    /// The program that runs the cluster: `ringmaster`. Without it, the one beside this program.
    #[arg(long, requires = "cluster")]
    program: Option<PathBuf>,
    /// Only these sections of the grammar, separated by commas, beside `keys`.
    #[arg(long)]
    only: Option<String>,
    /// Prints every step that names this key, with Valkey's reply: how a difference came about.
    #[arg(long)]
    about: Option<String>,
    /// Compares the tables of commands instead.
    #[arg(long)]
    table: bool,
    /// How many differences to print.
    #[arg(long, default_value_t = 20)]
    show: usize,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let (first, end) = text.split_once("..").ok_or("FIRST..END")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
    Ok(number(first)?..number(end)?)
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let valkey = Valkey::start(options.valkey.as_deref())?;
    let mut asked = Server::connect(&valkey.place(), Protocol::Resp2)?;
    if options.table {
        let lines = table::differences(&mut asked)?;
        lines.iter().for_each(|line| println!("{line}"));
        anyhow::ensure!(lines.is_empty(), "{} differences", lines.len());
        return Ok(());
    }
    let grammar = Grammar::parse(include_str!("grammar.txt"), options.only.as_deref(), options.cluster)?;
    let templates = Templates::parse(include_str!("scripts.txt"), options.cluster)?;
    let cluster = options.cluster.then(|| Cluster::start(options.program.as_deref())).transpose()?;
    let mut tally = Tally::new(options.show, options.about.clone());
    let began = Instant::now();
    for seed in options.seeds.clone() {
        let against = match (&cluster, &options.ringmaster) {
            (Some(cluster), _) => Against::Cluster(cluster),
            (None, Some(address)) => Against::Address(address),
            (None, None) => Against::Node,
        };
        Sequence::begin(seed, &valkey.place(), against, (&grammar, &templates), &mut tally)?.run(options.steps)?;
    }
    tally.print(began.elapsed());
    let mut failed = tally.has_differences() || tally.is_empty();
    if let Some(cluster) = cluster {
        failed |= !cluster.report();
    } else {
        let missing = coverage::report(&mut asked, &tally.by_name, &tally.in_scripts)?;
        failed |= !missing.is_empty() && options.only.is_none();
        missing.iter().for_each(|name| println!("{name} was never compared"));
    }
    drop(valkey);
    if failed {
        std::process::exit(1);
    }
    Ok(())
}
