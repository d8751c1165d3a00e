//! Kubernetes objects as a plan sees them.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerStatus, Node, Pod, PodCondition};
use kube::ResourceExt;
use ringmaster_plan::{Timestamp, names, observed};
use ringmaster_ring::Generation;

/// States in which a container waits for something that does not come by itself.
const HARMLESS_WAITS: [&str; 2] = ["ContainerCreating", "PodInitializing"];

pub(super) fn labelled(workload: &mut observed::Workload, labels: &BTreeMap<String, String>) {
    let generation = labels.get(names::LABEL_GENERATION).and_then(|text| text.parse().ok());
    workload.generation = generation.unwrap_or(Generation(1));
    workload.shard = labels.get(names::LABEL_SHARD).and_then(|text| text.parse().ok());
}

pub(super) fn stateful_set(set: &StatefulSet) -> observed::StatefulSet {
    observed::StatefulSet {
        uid: set.uid().unwrap_or_default(),
        template: set.annotations().get(names::ANNOTATION_TEMPLATE).cloned().unwrap_or_default(),
        created_at: set.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        deleting: set.metadata.deletion_timestamp.is_some(),
    }
}

pub(crate) fn pod(pod: &Pod) -> observed::Pod {
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let containers = status.container_statuses.unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True");
    observed::Pod {
        uid: pod.uid().unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        deleting: pod.metadata.deletion_timestamp.is_some(),
        restarts: containers.iter().map(|c| u32::try_from(c.restart_count).unwrap_or(0)).sum(),
        ready_since: ready.and_then(|ready| ready.last_transition_time.as_ref()).map(|time| time.0),
        trouble: containers.iter().find_map(stuck_container).or_else(|| unscheduled(&conditions)).or_else(|| {
            // An evicted or rejected pod says so itself.
            let failed = status.phase.as_deref() == Some("Failed");
            failed.then(|| observed::Trouble {
                reason: status.reason.clone().unwrap_or_else(|| "PodFailed".to_owned()),
                message: status.message.clone().unwrap_or_default(),
            })
        }),
    }
}

fn stuck_container(container: &ContainerStatus) -> Option<observed::Trouble> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.clone()?;
    if HARMLESS_WAITS.contains(&reason.as_str()) {
        return None;
    }
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let ended = last.map(|last| format!(" (it ended with status {})", last.exit_code)).unwrap_or_default();
    Some(observed::Trouble { reason, message: format!("{}{ended}", waiting.message.clone().unwrap_or_default()) })
}

fn unscheduled(conditions: &[PodCondition]) -> Option<observed::Trouble> {
    let condition = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
    Some(observed::Trouble {
        reason: condition.reason.clone().unwrap_or_else(|| "Unschedulable".to_owned()),
        message: condition.message.clone().unwrap_or_default(),
    })
}

pub(crate) fn node(node: &Node) -> observed::Node {
    let spec = node.spec.clone().unwrap_or_default();
    let conditions = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let taints = spec.taints.unwrap_or_default().into_iter().map(|taint| observed::Taint {
        key: taint.key,
        value: taint.value.unwrap_or_default(),
        effect: taint.effect,
    });
    observed::Node {
        labels: node.labels().clone(),
        taints: taints.collect(),
        unschedulable: spec.unschedulable.unwrap_or(false),
        ready: conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        deleting: node.metadata.deletion_timestamp.is_some(),
    }
}
