//! The seeds that every change has to pass.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use ringmaster_sim::scenario::Weather;
use ringmaster_sim::world::{Options, Report, run};

fn run_seed(seed: u64) -> Report {
    let report = run(&Options::of_seed(seed)).expect("a runtime");
    let Report { violations, .. } = &report;
    assert!(violations.is_empty(), "{violations:#?}\ncargo run --release -p ringmaster-sim -- --seed {seed} --trace");
    report
}

#[test]
fn thirty_seeds_hold_every_invariant() {
    let reports: Vec<Report> = (0..30).map(run_seed).collect();
    let writes: u64 = reports.iter().map(|report| report.counts.writes).sum();
    assert!(writes > 10_000, "only {writes} writes were acknowledged: the simulation has come to prove little");
}

#[test]
fn seeds_that_once_failed_pass() {
    for line in include_str!("../seeds.txt").lines() {
        let seed = line.split('#').next().unwrap_or_default().trim();
        if !seed.is_empty() {
            run_seed(seed.parse().expect("a seed at the beginning of the line"));
        }
    }
}

#[test]
fn planned_work_is_noticed_by_no_client() {
    let (mut writes, mut primaries_changed, mut spares) = (0, 0, 0);
    for seed in 1_000..1_008 {
        let options = Options { weather: Some(Weather::Planned), ..Options::of_seed(seed) };
        let report = run(&options).expect("a runtime");
        assert!(report.violations.is_empty(), "seed {seed}: {:#?}", report.violations);
        assert_eq!((report.counts.unknown, report.counts.errors, report.losses), (0, 0, 0), "seed {seed}");
        writes += report.counts.writes;
        primaries_changed += report.primaries_changed;
        spares += report.spares;
    }
    assert!(
        writes > 4_000 && primaries_changed >= 8 && spares >= 4,
        "{writes} {primaries_changed} {spares}: too little happened"
    );
}
