//! What is rendered for Kubernetes.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use ringmaster_plan::crd::CacheCluster;
use ringmaster_plan::{Guards, NewMember, Spec, build, names};
use ringmaster_ring::{Generation, MemberId, ShardId};
use serde_json::{Value, json};

fn spec(yaml: &str) -> Spec {
    let mut cluster = CacheCluster::new("sessions", serde_yaml::from_str(yaml).unwrap());
    cluster.metadata.namespace = Some("shop".to_owned());
    cluster.metadata.uid = Some("6f1e5a4c-0000-4000-8000-000000000001".to_owned());
    Spec::of(&cluster, "ringmaster-node:1").unwrap()
}

fn new_member(shard: Option<u16>) -> NewMember {
    NewMember { member: MemberId(7), shard: shard.map(ShardId), generation: Generation(1), own_node_required: true }
}

fn stateful_set(yaml: &str, shard: Option<u16>) -> Value {
    serde_json::to_value(build::stateful_set(&spec(yaml), &new_member(shard))).unwrap()
}

#[test]
fn there_is_one_budget_a_shard_and_none_by_role() {
    let budgets = build::budgets(&spec("{shards: 3, copies: 2}"), Guards { copies: 2, witness: false });
    assert_eq!(budgets.len(), 3);
    for (shard, budget) in budgets.iter().enumerate() {
        let spec = serde_json::to_value(budget.spec.as_ref().unwrap()).unwrap();
        assert_eq!(spec["minAvailable"], json!(2));
        assert_eq!(spec["unhealthyPodEvictionPolicy"], json!("IfHealthyBudget"));
        assert_eq!(spec["selector"]["matchLabels"][names::LABEL_SHARD], json!(shard.to_string()));
    }
}

#[test]
fn a_budget_selects_the_pods_of_its_shard() {
    let budgets = build::budgets(&spec("{shards: 1, copies: 2}"), Guards { copies: 2, witness: true });
    for (budget, shard) in budgets.iter().zip([Some(0), None]) {
        let selector = budget.spec.as_ref().unwrap().selector.as_ref().unwrap().match_labels.as_ref().unwrap();
        let set = build::stateful_set(&spec("{shards: 1, copies: 2}"), &new_member(shard));
        let labels = set.spec.unwrap().template.metadata.unwrap().labels.unwrap();
        assert!(selector.iter().all(|(key, value)| labels.get(key) == Some(value)), "{selector:?} {labels:?}");
    }
}

#[test]
fn clients_reach_members_that_are_ready_and_members_reach_all() {
    let [clients, members] = build::services(&spec("{shards: 1, copies: 2}"));
    let (clients, members) = (clients.spec.unwrap(), members.spec.unwrap());
    assert_eq!(clients.selector.unwrap().get(names::LABEL_HOLDS).map(String::as_str), Some(names::HOLDS_DATA));
    assert_eq!(clients.publish_not_ready_addresses, None);
    assert_eq!((members.publish_not_ready_addresses, members.cluster_ip.as_deref()), (Some(true), Some("None")));
}

/// The restricted profile of the pod security standards, and no way to the API server.
#[test]
fn members_are_confined() {
    let pod = &stateful_set("{shards: 1, copies: 2}", Some(0))["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], json!(false));
    assert_eq!(pod["securityContext"]["runAsNonRoot"], json!(true));
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], json!("RuntimeDefault"));
    let container = &pod["containers"][0]["securityContext"];
    assert_eq!(container["readOnlyRootFilesystem"], json!(true));
    assert_eq!(container["allowPrivilegeEscalation"], json!(false));
    assert_eq!(container["capabilities"]["drop"], json!(["ALL"]));
}

#[test]
fn a_member_that_was_asked_to_end_has_time_to_be_replaced() {
    let pod = &stateful_set("{shards: 1, copies: 2}", Some(0))["spec"]["template"]["spec"];
    assert_eq!(pod["terminationGracePeriodSeconds"], json!(600));
}

#[test]
fn the_memory_limit_holds_the_data_and_the_named_buffers() {
    let container = &stateful_set("{shards: 1, copies: 2, memory: {max: 1Gi}}", Some(0))["spec"]["template"]["spec"]["containers"]
        [0];
    assert_eq!(container["resources"]["limits"]["memory"], json!("1536Mi"));
    assert!(container["args"].as_array().unwrap().contains(&json!("--memory-max=1073741824")));
}

#[test]
fn a_witness_holds_no_data() {
    let set = stateful_set("{shards: 1, copies: 2, memory: {max: 1Gi}}", None);
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["resources"]["limits"]["memory"], json!("256Mi"));
    assert!(container["args"].as_array().unwrap().iter().all(|arg| !arg.as_str().unwrap().starts_with("--shard")));
    assert_eq!(set["metadata"]["labels"][names::LABEL_SHARD], json!("witness"));
}

#[test]
fn a_changed_template_is_a_new_member_and_never_an_update() {
    let set = stateful_set("{shards: 1, copies: 2}", Some(0));
    assert_eq!(set["spec"]["updateStrategy"]["type"], json!("OnDelete"));
    assert_eq!(set["spec"]["replicas"], json!(1));
    assert!(set["metadata"]["annotations"][names::ANNOTATION_TEMPLATE].is_string());
}

#[test]
fn the_password_comes_from_the_secret_that_the_user_names() {
    let set = stateful_set("{shards: 1, copies: 2, auth: {passwordSecret: {name: mine, key: word}}}", Some(0));
    let pod = &set["spec"]["template"]["spec"];
    let volume = pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == "auth").unwrap().clone();
    assert_eq!(volume["secret"]["secretName"], json!("mine"));
    assert_eq!(volume["secret"]["items"][0], json!({"key": "word", "path": "password"}));
    let arguments = pod["containers"][0]["args"].as_array().unwrap();
    assert!(arguments.contains(&json!("--password-file=/etc/ringmaster/auth/password")));
}

#[test]
fn a_specification_that_makes_no_sense_names_its_field() {
    for (yaml, field) in [
        ("{shards: 0, copies: 2}", "spec.shards"),
        ("{shards: 1, copies: 9}", "spec.copies"),
        ("{shards: 2, copies: 2, clusterMode: false}", "spec.clusterMode"),
        ("{shards: 1, copies: 2, memory: {max: lots}}", "spec.memory.max"),
        ("{shards: 1, copies: 2, consistency: {minInSync: 3}}", "spec.consistency.minInSync"),
        ("{shards: 1, copies: 2, maintenance: {syncBytesPerSecond: fast}}", "spec.maintenance.syncBytesPerSecond"),
    ] {
        let mut cluster = CacheCluster::new("sessions", serde_yaml::from_str(yaml).unwrap());
        cluster.metadata.uid = Some("6f1e5a4c-0000-4000-8000-000000000001".to_owned());
        let problems = Spec::of(&cluster, "image").unwrap_err();
        assert!(problems.iter().any(|problem| problem.field == field), "{yaml}: {problems:?}");
    }
}

/// See the rule in `build/stateful_set.rs`. `RINGMASTER_RECORD=1` records anew: that is right only where images of every
/// release start with what is recorded then.
#[test]
fn an_image_of_any_release_is_started_as_the_first_was() {
    for (name, shard) in [("copy", Some(0)), ("witness", None)] {
        let made = serde_yaml::to_string(&stateful_set("{shards: 1, copies: 2}", shard)).unwrap();
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.yaml"));
        if std::env::var_os("RINGMASTER_RECORD").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &made).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), made, "{name} is started otherwise now");
    }
}
