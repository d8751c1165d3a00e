//! Claims about a cluster that is served, drained, rolled and killed on a real Kubernetes. Run by `e2e/run`, one at a time:
//! they share one preloaded cluster, and each puts it back to rest before it begins.

// A test ends by a panic, also in the one function that all of them share.
#![allow(clippy::panic, clippy::indexing_slicing)]

mod crashes;
mod evictions;
mod install;
mod operator;
mod planned;
mod specs;

use std::io::Write;

use anyhow::Result;
use ringmaster_e2e::bed::{Bed, SKIPPED};

/// Tests one claim. A failure shows what a person would look at first.
fn claim<F>(name: &str, body: impl FnOnce(Bed) -> F)
where
    F: Future<Output = Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
    let began = std::time::Instant::now();
    let verdict = runtime.block_on(async {
        let bed = Bed::connect().await?;
        eprintln!("--> {name}");
        let verdict = body(bed.clone()).await;
        if let Err(error) = &verdict
            && !error.to_string().starts_with(SKIPPED)
        {
            eprintln!("    {name} failed: {error:#}");
            bed.describe_failure(name).await.ok();
        }
        verdict
    });
    match verdict {
        Ok(()) => eprintln!("    {name} holds ({} s)", began.elapsed().as_secs()),
        Err(error) if error.to_string().starts_with(SKIPPED) => {
            eprintln!("    {error}");
            // `run` counts these lines: the test harness knows no skipping from within.
            writeln!(std::io::stdout(), "SKIPPED {name}").ok();
        }
        Err(error) => panic!("{name}: {error:#}"),
    }
}
