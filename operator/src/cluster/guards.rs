//! Services and disruption budgets, kept as they are rendered: compared first, so that a settled cluster costs no
//! writing request. What has their name and belongs to somebody else is left alone.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use ringmaster_plan::names;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::refusals::Refusals;
use super::{ClusterError, within};

/// Applies those objects that differ from what is there. Returns whether that changed any.
pub(super) async fn keep<K>(
    client: &Client,
    owner_uid: &str,
    wanted: &[K],
    present: &[K],
    refusals: &mut Refusals,
) -> bool
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
{
    let mut changed = false;
    for object in wanted {
        match keep_one(client, owner_uid, object, present).await {
            Ok(has_changed) => changed |= has_changed,
            Err(error) => refusals.note(&format!("Keeping {} {}.", K::kind(&()), object.name_any()), error),
        }
    }
    changed
}

async fn keep_one<K>(client: &Client, owner_uid: &str, wanted: &K, listed: &[K]) -> Result<bool, ClusterError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
{
    let name = wanted.name_any();
    let api: Api<K> = Api::namespaced(client.clone(), &wanted.namespace().unwrap_or_default());
    // Listed are those with our labels: another one may have the name.
    let present = match listed.iter().find(|present| present.name_any() == name) {
        Some(present) => Some(present.clone()),
        None => within("get", api.get_opt(&name)).await?,
    };
    let params = match &present {
        Some(present) if !belongs_to(present, owner_uid) => return Err(ClusterError::name_taken(wanted)),
        Some(present) if covers(present, wanted) => return Ok(false),
        Some(_) => PatchParams::apply(names::MANAGER).force(),
        // Not by force: somebody may make one of this name at this moment.
        None => PatchParams::apply(names::MANAGER),
    };
    let after = within("apply", api.patch(&name, &params, &Patch::Apply(wanted))).await?;
    Ok(present.is_none_or(|present| present.resource_version() != after.resource_version()))
}

/// Whether this cluster is the controller of an object. What only names it, or bears its labels, is somebody else's.
pub(super) fn belongs_to(object: &impl Resource, owner_uid: &str) -> bool {
    object.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.uid == owner_uid)
}

/// Whether everything that is wanted is there. What others added, defaults of the API server among it, is theirs.
fn covers<K: Serialize>(present: &K, wanted: &K) -> bool {
    match (serde_json::to_value(present), serde_json::to_value(wanted)) {
        (Ok(present), Ok(wanted)) => contains(&present, &wanted),
        _ => false,
    }
}

fn contains(present: &Value, wanted: &Value) -> bool {
    match (present, wanted) {
        (Value::Object(present), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| present.get(key).is_some_and(|present| contains(present, wanted)))
        }
        // The API server merges lists entry by entry: one that somebody added stays, however often ours are applied.
        (Value::Array(present), Value::Array(wanted)) => {
            wanted.iter().all(|wanted| present.iter().any(|present| contains(present, wanted)))
        }
        (present, wanted) => present == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_of_the_server_and_what_others_added_are_no_drift() {
        let present = json!({"spec": {"ports": [{"port": 1}, {"port": 6379, "nodePort": 0}], "clusterIP": "10.0.0.1"}});
        assert!(contains(&present, &json!({"spec": {"ports": [{"port": 6379}]}})));
    }

    #[test]
    fn a_changed_and_a_missing_entry_are_drift() {
        let present = json!({"spec": {"ports": [{"port": 6379}, {"port": 1}], "minAvailable": 1}});
        assert!(!contains(&present, &json!({"spec": {"minAvailable": 2}})));
        assert!(!contains(&present, &json!({"spec": {"selector": {}}})));
        assert!(!contains(&present, &json!({"spec": {"ports": [{"port": 6379}, {"port": 7379}]}})));
        assert!(!contains(&present, &json!({"spec": {"ports": [{"port": 6379, "name": "redis"}]}})));
    }
}
