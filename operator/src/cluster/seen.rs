//! Kubernetes objects as a plan sees them.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerStatus, Node, Pod, PodCondition};
use kube::ResourceExt;
use ringmaster_plan::{Timestamp, names, observed};
use ringmaster_ring::Generation;

/// States in which a container waits for what comes by itself, if not for too long.
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
    let scheduled = conditions.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "True");
    // A node that has not seen the pod yet says nothing of its containers.
    let is_made = !containers.is_empty() && !containers.iter().all(is_being_made);
    observed::Pod {
        uid: pod.uid().unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        deleting: pod.metadata.deletion_timestamp.is_some(),
        restarts: containers.iter().map(|c| u32::try_from(c.restart_count).unwrap_or(0)).sum(),
        ready_since: ready.and_then(|ready| ready.last_transition_time.as_ref()).map(|time| time.0),
        starting_since: scheduled
            .filter(|_| !is_made)
            .and_then(|scheduled| scheduled.last_transition_time.as_ref())
            .map(|time| time.0),
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

fn is_being_made(container: &ContainerStatus) -> bool {
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    waiting.is_some_and(|waiting| waiting.reason.as_deref().is_none_or(|reason| HARMLESS_WAITS.contains(&reason)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn placed(containers: serde_json::Value) -> observed::Pod {
        let conditions =
            json!([{"type": "PodScheduled", "status": "True", "lastTransitionTime": "2027-01-15T08:00:00Z"}]);
        let status = json!({"conditions": conditions, "containerStatuses": containers});
        pod(&serde_json::from_value(json!({"metadata": {}, "spec": {"containers": []}, "status": status})).unwrap())
    }

    fn container(state: serde_json::Value) -> serde_json::Value {
        json!([{"name": "node", "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": state}])
    }

    #[test]
    fn a_container_that_is_not_made_yet_has_been_starting_since_its_pod_was_placed() {
        let since = Some("2027-01-15T08:00:00Z".parse().unwrap());
        assert_eq!(placed(json!([])).starting_since, since);
        let creating = placed(container(json!({"waiting": {"reason": "ContainerCreating"}})));
        assert_eq!((creating.starting_since, creating.trouble), (since, None));
    }

    #[test]
    fn a_container_that_runs_or_was_refused_is_not_starting() {
        assert_eq!(placed(container(json!({"running": {}}))).starting_since, None);
        let refused = placed(container(json!({"waiting": {"reason": "ImagePullBackOff"}})));
        assert_eq!((refused.starting_since, refused.trouble.unwrap().reason), (None, "ImagePullBackOff".to_owned()));
    }
}
