//! `sampler watch` looks at a ring's members many times a second until its standard input ends; a line `phase NAME` begins
//! a phase. `sampler digests` compares the contents of all copies at rest. Output: JSON lines, the last one the verdict.

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use ringmaster_e2e::sampler::{Judge, compare_digests, lock, watch};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    what: What,
    /// HOST:PORT of any member's HTTP, or of a name of several.
    #[arg(long, global = true, default_value = "127.0.0.1:8379")]
    seed: String,
}

#[derive(Subcommand)]
enum What {
    Watch {
        #[arg(long, default_value_t = 50)]
        period_ms: u64,
    },
    Digests,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    let verdict = match options.what {
        What::Watch { period_ms } => watch_ring(&options.seed, Duration::from_millis(period_ms)).await,
        What::Digests => compare(&options.seed).await,
    };
    match verdict {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{}", json!({ "kind": "failed", "error": format!("{error:#}") }));
            ExitCode::FAILURE
        }
    }
}

async fn watch_ring(seed: &str, period: Duration) -> Result<()> {
    let judge = Arc::new(Mutex::new(Judge::new()));
    println!("{}", json!({ "kind": "started" }));
    let stopped = follow_phases(Arc::clone(&judge));
    watch(seed, period, Arc::clone(&judge), stopped).await?;
    let summary = lock(&judge).summary();
    println!("{}", json!({ "kind": "summary", "phases": summary.phases, "findings": summary.findings }));
    Ok(())
}

async fn follow_phases(judge: Arc<Mutex<Judge>>) {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(name) = line.strip_prefix("phase ") {
            lock(&judge).begin_phase(name.trim());
        }
    }
}

async fn compare(seed: &str) -> Result<()> {
    let pairs = compare_digests(seed).await?;
    println!("{}", json!({ "kind": "digests", "pairs": pairs }));
    Ok(())
}
