//! Each file of `cases/` is a claim with a script that shows it. What the planner did is kept beside it, in `.snap`.
//! `RINGMASTER_RECORD=1 cargo test -p ringmaster-plan` records anew: commit a change only if you know what caused it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod world;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use ringmaster_plan::crd::CacheClusterSpec;
use ringmaster_ring::MemberId;
use serde::Deserialize;
use world::World;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    claim: String,
    /// No shard is ever below its copies.
    planned: bool,
    spec: serde_yaml::Value,
    /// Names and zones. Default: four in three zones.
    #[serde(default)]
    nodes: BTreeMap<String, String>,
    script: Vec<Act>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Act {
    /// Until nothing is under way, at most so many turns.
    Settle(u32),
    Turns(u32),
    Cordon(String),
    Uncordon(String),
    Taint(String),
    /// As drain does: asks every member of a node to end.
    DeletePodsOn(String),
    DeletePod(u32),
    KillPod(u32),
    RestartProcess(u32),
    LoseNode(String),
    RefusePods(bool),
    FillNode(String),
    EmptyNode(String),
    /// How many turns a container takes to be made; null: it never is, as where a volume cannot be mounted.
    StartTakes(Option<u32>),
    HoldHandovers(bool),
    /// Somebody deletes the ring's Secret, or restores it.
    HideIdentity(bool),
    /// The operator is replaced by one whose own release is this image.
    UpgradeOperator(String),
    /// The operator's network is cut, or heals: no member answers it, while they serve.
    CutOffOperator(bool),
    RestartEveryProcess,
    KillEveryPod,
    /// Replaces these fields of the specification.
    Spec(serde_yaml::Mapping),
    /// A condition has this status and reason.
    Expect {
        condition: String,
        status: String,
        reason: String,
    },
    ExpectMembers(Vec<u32>),
}

#[test]
fn every_case_goes_as_recorded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert!(!files.is_empty());
    let mut failures = Vec::new();
    for file in files {
        let case: Case = serde_yaml::from_str(&std::fs::read_to_string(&file).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let record = run(&name, &case);
        let snap = file.with_extension("snap");
        if std::env::var_os("RINGMASTER_RECORD").is_some() {
            std::fs::write(&snap, &record).unwrap();
        }
        let present = std::fs::read_to_string(&snap).unwrap_or_default();
        if present != record {
            failures.push(format!("{name} goes otherwise now:\n{record}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

fn run(name: &str, case: &Case) -> String {
    let spec: CacheClusterSpec = serde_yaml::from_value(case.spec.clone()).unwrap();
    let default_nodes = [("node1", "zone-1"), ("node2", "zone-2"), ("node3", "zone-3"), ("node4", "zone-3")];
    let own_nodes: Vec<(&str, &str)> = case.nodes.iter().map(|(name, zone)| (name.as_str(), zone.as_str())).collect();
    let mut world = World::new(spec, if own_nodes.is_empty() { &default_nodes } else { &own_nodes });
    let mut record = format!("{}\n", case.claim);
    for act in &case.script {
        writeln!(record, "\n## {act:?}").unwrap();
        perform(name, &mut world, case, act);
        for line in world.log.drain(..) {
            writeln!(record, "{line}").unwrap();
        }
        let status = world.cluster.status.clone().unwrap_or_default();
        for replacing in &status.replacing {
            writeln!(
                record,
                "-> {} by {:?} ({}) waits for {}",
                replacing.member, replacing.spare, replacing.reason, replacing.waiting_for
            )
            .unwrap();
        }
        for condition in &status.conditions {
            writeln!(record, "   {} {} {}: {}", condition.type_, condition.status, condition.reason, condition.message)
                .unwrap();
        }
    }
    writeln!(record, "\n{}", world.summary()).unwrap();
    if case.planned {
        let copies = case.spec["copies"].as_u64().unwrap() as usize;
        assert!(world.fewest_copies >= copies, "{name}: only {} copies at a time\n{record}", world.fewest_copies);
    }
    record
}

fn perform(name: &str, world: &mut World, case: &Case, act: &Act) {
    match act {
        Act::Settle(turns) => drop(world.settle(*turns)),
        Act::Turns(turns) => (0..*turns).for_each(|_| drop(world.turn(|| true))),
        Act::Cordon(node) => world.cordon(node, true),
        Act::Uncordon(node) => world.cordon(node, false),
        Act::Taint(node) => {
            let taint = ringmaster_plan::observed::Taint {
                key: "karpenter.sh/disrupted".to_owned(),
                effect: "NoSchedule".to_owned(),
                ..Default::default()
            };
            world.nodes.get_mut(node).unwrap().taints.push(taint);
        }
        Act::DeletePodsOn(node) => world.members_on(node).into_iter().for_each(|id| world.delete_pod(id)),
        Act::DeletePod(id) => world.delete_pod(MemberId(*id)),
        Act::KillPod(id) => world.kill_pod(MemberId(*id)),
        Act::RestartProcess(id) => world.restart_process(MemberId(*id)),
        Act::LoseNode(node) => world.lose_node(node),
        Act::RefusePods(refuses) => world.refuses_pods = *refuses,
        Act::StartTakes(turns) => world.start_turns = *turns,
        Act::HideIdentity(hides) => world.hides_identity = *hides,
        Act::FillNode(node) => drop(world.full.insert(node.clone())),
        Act::EmptyNode(node) => drop(world.full.remove(node)),
        Act::CutOffOperator(cut) => world.cuts_off_operator = *cut,
        Act::HoldHandovers(holds) => world.holds_handovers = *holds,
        Act::UpgradeOperator(image) => image.clone_into(&mut world.operator_image),
        Act::RestartEveryProcess => {
            world.workloads.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| world.restart_process(id));
        }
        Act::KillEveryPod => {
            world.workloads.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| world.kill_pod(id))
        }
        Act::Spec(changes) => {
            let mut spec = case.spec.as_mapping().unwrap().clone();
            spec.extend(changes.clone());
            world.cluster.spec = serde_yaml::from_value(spec.into()).unwrap();
            *world.cluster.metadata.generation.as_mut().unwrap() += 1;
        }
        Act::Expect { condition, status, reason } => {
            let conditions = world.cluster.status.clone().unwrap_or_default().conditions;
            let found = conditions.iter().find(|c| c.type_ == *condition).unwrap();
            assert_eq!((&found.status, &found.reason), (status, reason), "{name}: {}", found.message);
        }
        Act::ExpectMembers(members) => {
            let ring = world.ring.as_ref().unwrap();
            let present: Vec<u32> = ring.members.keys().map(|id| id.0).collect();
            assert_eq!(present, *members, "{name}");
        }
    }
}
