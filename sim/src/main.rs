//! Runs seeds of the simulation: many, to look for failures, or one, to look at it.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Context as _;
use clap::Parser;
use ringmaster_replica::{Mutations, Rule};
use ringmaster_sim::world::{Options, Report, run};

/// Seeded simulation of a Ringmaster cluster. Every failure prints the command that repeats it.
#[derive(Debug, Parser)]
#[command(name = "ringmaster-sim", version)]
struct Arguments {
    /// Seeds to run: FIRST..END.
    #[arg(long, default_value = "0..100", value_parser = parse_seeds, conflicts_with = "seed")]
    seeds: (u64, u64),
    /// One seed to run.
    #[arg(long)]
    seed: Option<u64>,
    /// Print what happens.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// A rule of the protocol to do without, by its name in the code.
    #[arg(long, value_parser = parse_rule)]
    without: Option<Rule>,
    /// Threads; each runs whole seeds.
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// Go on after a failure.
    #[arg(long)]
    keep_going: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mutations = arguments.without.map_or(Mutations::none(), Mutations::only);
    let (first, end) = arguments.seed.map_or(arguments.seeds, |seed| (seed, seed + 1));
    let next = AtomicU64::new(first);
    let stop = AtomicBool::new(false);
    let sum = Mutex::new(Sum::default());
    let began = Instant::now();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..arguments.threads.max(1))
            .map(|_| {
                scope.spawn(|| -> anyhow::Result<()> {
                    while !stop.load(Ordering::Relaxed) {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= end {
                            break;
                        }
                        let options = Options { seed, prints: arguments.trace, mutations, weather: None };
                        let report = run(&options).with_context(|| format!("seed {seed}"))?;
                        let failed = !report.violations.is_empty();
                        tell(&report, arguments.without, arguments.seed.is_some());
                        if let Ok(mut sum) = sum.lock() {
                            sum.add(&report);
                            if sum.runs % 100 == 0 {
                                eprintln!("{} runs in {:.0} s", sum.runs, began.elapsed().as_secs_f32());
                            }
                        }
                        if failed && !arguments.keep_going {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(_) => Err(anyhow::anyhow!("a thread panicked")),
        })
    })?;
    let sum = sum.into_inner().unwrap_or_default();
    let Sum { runs, failed, writes, reads, unknown, losses, simulated_ms } = sum;
    println!(
        "{runs} runs, {failed} failed, in {:.1} s: {} s simulated, {writes} writes and {reads} reads acknowledged, \
         {unknown} writes of unknown outcome, {losses} declared losses",
        began.elapsed().as_secs_f32(),
        simulated_ms / 1_000,
    );
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Debug, Default)]
struct Sum {
    runs: u64,
    failed: u64,
    writes: u64,
    reads: u64,
    unknown: u64,
    losses: u64,
    simulated_ms: u64,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.failed += u64::from(!report.violations.is_empty());
        self.writes += report.counts.writes;
        self.reads += report.counts.reads;
        self.unknown += report.counts.unknown;
        self.losses += u64::from(report.losses);
        self.simulated_ms += report.simulated_ms;
    }
}

/// Says of a failure what it was and how to see it again, and of a single run which way it went.
fn tell(report: &Report, without: Option<Rule>, alone: bool) {
    if alone {
        println!("seed {} went the way {:016x}", report.seed, report.hash);
    }
    if report.violations.is_empty() {
        return;
    }
    println!("seed {} failed after {} ms:", report.seed, report.simulated_ms);
    for violation in report.violations.iter().take(5) {
        println!("  {violation}");
    }
    let without = without.map_or_else(String::new, |rule| format!(" --without {rule:?}"));
    println!("  cargo run --release -p ringmaster-sim -- --seed {}{without} --trace", report.seed);
}

fn parse_seeds(text: &str) -> Result<(u64, u64), String> {
    let (first, end) = text.split_once("..").ok_or("expected FIRST..END")?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text} is no number"));
    Ok((number(first)?, number(end)?))
}

fn parse_rule(text: &str) -> Result<Rule, String> {
    let found = Rule::ALL.into_iter().find(|rule| format!("{rule:?}") == text);
    found.ok_or_else(|| {
        let names: Vec<String> = Rule::ALL.iter().map(|rule| format!("{rule:?}")).collect();
        format!("no such rule; there are {}", names.join(", "))
    })
}
