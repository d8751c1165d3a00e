//! What the status says of steps that were refused.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod world;

use ringmaster_plan::{Obstacle, plan, plan_refused};
use world::World;

const NODES: [(&str, &str); 4] = [("node1", "zone-1"), ("node2", "zone-2"), ("node3", "zone-3"), ("node4", "zone-3")];

fn forbidden() -> Vec<Obstacle> {
    vec![Obstacle { reason: "Forbidden".to_owned(), message: "not done: exceeded quota".to_owned() }]
}

#[test]
fn a_refused_step_is_told_in_the_conditions_and_changes_no_step() {
    let mut world = World::new(serde_yaml::from_str("{shards: 1, copies: 3}").unwrap(), &NODES);
    world.settle(60);
    world.cordon("node1", true);
    let seen = world.observed();
    let refused = plan_refused(&seen, forbidden(), world.now);
    assert_eq!(refused.steps, plan(&seen, world.now).steps);
    for (kind, status) in [("Progressing", "False"), ("Degraded", "True"), ("Ready", "True")] {
        let condition = refused.status.conditions.iter().find(|condition| condition.type_ == kind).unwrap();
        assert_eq!(condition.status, status, "{condition:?}");
        assert!(kind == "Ready" || condition.reason == "Forbidden" && condition.message.contains("exceeded quota"));
    }
}

/// Or a cluster that waits for a quota would have its status written at each look.
#[test]
fn the_same_refusal_leaves_the_status_as_it_is() {
    let mut world = World::new(serde_yaml::from_str("{shards: 1, copies: 3}").unwrap(), &NODES);
    world.settle(60);
    world.cordon("node1", true);
    let mut seen = world.observed();
    let first = plan_refused(&seen, forbidden(), world.now).status;
    seen.cluster.status = Some(first.clone());
    let later = ringmaster_plan::Timestamp::from_second(world.now.as_second() + 100).unwrap();
    assert_eq!(plan_refused(&seen, forbidden(), later).status, first);
}
