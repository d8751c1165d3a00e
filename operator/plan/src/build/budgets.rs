//! One disruption budget a shard, never one a role: the first gate before a copy is taken away. (The ring is the second.)

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use ringmaster_ring::ShardId;

use super::owned;
use crate::plan::Guards;
use crate::{Spec, names};

#[must_use]
pub fn budgets(spec: &Spec, guards: Guards) -> Vec<PodDisruptionBudget> {
    let shards = spec.shard_ids().map(|shard| budget(spec, Some(shard), guards.copies));
    let witness = guards.witness.then(|| budget(spec, None, 1));
    shards.chain(witness).collect()
}

fn budget(spec: &Spec, shard: Option<ShardId>, ready: u16) -> PodDisruptionBudget {
    let mut selector = names::selector(&spec.uid);
    selector.insert(names::LABEL_SHARD.to_owned(), names::shard_label(shard));
    PodDisruptionBudget {
        metadata: owned(spec, names::disruption_budget(&spec.name, shard)),
        spec: Some(PodDisruptionBudgetSpec {
            // A number, not a share: shares count what the controllers want, and each of ours wants one pod.
            min_available: Some(IntOrString::Int(i32::from(ready))),
            selector: Some(LabelSelector { match_labels: Some(selector), ..LabelSelector::default() }),
            // A spare or a retired member is not ready: it may go, unless the shard is short of copies.
            unhealthy_pod_eviction_policy: Some("IfHealthyBudget".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
