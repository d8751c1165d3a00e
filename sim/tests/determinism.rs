//! The same seed goes the same way, to the last answer and its millisecond, in this process and in any other.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::process::Command;

use ringmaster_sim::world::{Options, run};

const SEEDS: [u64; 4] = [2, 9, 17, 41];

fn hash_here(seed: u64) -> u64 {
    run(&Options::of_seed(seed)).expect("a runtime").hash
}

#[test]
fn the_same_seed_goes_the_same_way() {
    for seed in SEEDS {
        assert_eq!(hash_here(seed), hash_here(seed), "seed {seed}");
    }
}

#[test]
fn another_process_goes_the_same_way() {
    for seed in SEEDS {
        let output = Command::new(env!("CARGO_BIN_EXE_ringmaster-sim"))
            .args(["--seed", &seed.to_string()])
            .output()
            .expect("the simulation's binary");
        let text = String::from_utf8(output.stdout).expect("text");
        let expected = format!("seed {seed} went the way {:016x}", hash_here(seed));
        assert!(text.contains(&expected), "expected {expected:?} in:\n{text}");
    }
}

#[test]
fn different_seeds_go_different_ways() {
    assert_ne!(hash_here(2), hash_here(9));
}
