//! Services and disruption budgets, kept as they are rendered: compared first, so that a settled cluster costs no
//! writing request.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use ringmaster_plan::names;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{ClusterError, within};

/// Applies those objects that differ from what is there. Returns how many did.
pub(super) async fn keep<K>(client: &Client, wanted: &[K], present: &[K]) -> Result<usize, ClusterError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
{
    let mut applied = 0;
    for object in wanted {
        let name = object.name_any();
        let is_kept = present.iter().any(|present| present.name_any() == name && covers(present, object));
        if !is_kept {
            let api: Api<K> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
            let params = PatchParams::apply(names::MANAGER).force();
            within("apply", api.patch(&name, &params, &Patch::Apply(object))).await?;
            applied += 1;
        }
    }
    Ok(applied)
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
        (Value::Array(present), Value::Array(wanted)) => {
            present.len() == wanted.len()
                && present.iter().zip(wanted).all(|(present, wanted)| contains(present, wanted))
        }
        (present, wanted) => present == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_of_the_server_are_no_drift() {
        let present = json!({"spec": {"ports": [{"port": 6379, "nodePort": 0}], "clusterIP": "10.0.0.1"}});
        assert!(contains(&present, &json!({"spec": {"ports": [{"port": 6379}]}})));
    }

    #[test]
    fn a_changed_a_missing_and_a_superfluous_entry_are_drift() {
        let present = json!({"spec": {"ports": [{"port": 6379}, {"port": 1}], "minAvailable": 1}});
        assert!(!contains(&present, &json!({"spec": {"minAvailable": 2}})));
        assert!(!contains(&present, &json!({"spec": {"selector": {}}})));
        assert!(!contains(&present, &json!({"spec": {"ports": [{"port": 6379}]}})));
    }
}
