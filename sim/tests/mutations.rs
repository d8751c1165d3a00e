//! Rules that are dropped, to show that the simulation would notice.
//!
//! Every rule of the protocol's table has its shortest failure as a script in `node/replica/tests/protocol/scripted.rs`:
//! that level finds all of them, each without and none with its rule. The simulation drops rules in whole clusters under
//! ordinary bad weather. It finds here those that such weather meets often; the others need a coincidence of a few
//! milliseconds (an answer that comes a whole lease late, a clock at the edge of its bound, a thread that sleeps between
//! a check and its reply) that the scripts arrange.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use ringmaster_replica::{Mutations, Rule};
use ringmaster_sim::world::{Options, run};

/// How many seeds may be needed.
const SEEDS: u64 = 60;

/// Runs seeds without the rule until one loses what was promised; with the rule that seed must be a good one.
fn is_found_without(rule: Rule) -> bool {
    let violations = |seed, mutations| {
        let options = Options { mutations, ..Options::of_seed(seed) };
        run(&options).expect("a runtime").violations
    };
    let found = (0..SEEDS).find(|seed| violations(*seed, Mutations::only(rule)).iter().any(|text| is_unsafe(text)));
    if let Some(seed) = found {
        let with_rule = violations(seed, Mutations::none());
        assert!(with_rule.is_empty(), "seed {seed} is no good with the rule either: {with_rule:#?}");
    }
    found.is_some()
}

/// Two that serve, or a reply that cannot be: not merely a run that came to a stop.
fn is_unsafe(violation: &str) -> bool {
    ["serve", "answered by"].iter().any(|sign| violation.contains(sign))
}

#[test]
fn roles_that_name_no_boot_are_noticed() {
    assert!(is_found_without(Rule::RolesNameBoot));
}

#[test]
fn reads_that_are_not_gated_are_noticed() {
    assert!(is_found_without(Rule::ReadsAreGated));
}
