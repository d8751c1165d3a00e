//! What decides that a member is outdated: a hash of what the user asked for, pinned at the member's creation.
//!
//! Only what differs from the defaults of the first release goes in. A field that a later release adds, with a default,
//! so changes no hash of a cluster that does not use it, and neither does anything that the operator itself adds to a
//! pod: upgrading the operator restarts no data.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::Bytes;
use crate::crd::CacheClusterSpec;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TemplateHash(pub String);

impl fmt::Display for TemplateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TemplateHash {
    /// The hash of the parts of `spec` that a member is made from, with the image that is in force.
    #[must_use]
    pub fn of(spec: &CacheClusterSpec, image: &str) -> Self {
        let wanted = parts(spec, image);
        let first_defaults = first_defaults();
        let differing: Map<String, Value> =
            wanted.into_iter().filter(|(key, value)| first_defaults.get(key) != Some(value)).collect();
        // serde_json's map is ordered by key, so the text is canonical.
        let digest = Sha256::digest(Value::Object(differing).to_string());
        Self(digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect())
    }
}

/// Flat, so that each part is compared with its default by itself. Destructured, so that a new field of the resource
/// has to be placed on one side or the other.
fn parts(spec: &CacheClusterSpec, image: &str) -> Map<String, Value> {
    let CacheClusterSpec {
        shards: _,
        copies: _,
        image: _,
        memory,
        resources,
        threads,
        consistency: _,
        storage,
        placement,
        // How fast members send is no reason to send everything once more: those that are made from now on are told.
        maintenance: _,
        auth,
        cluster_mode,
    } = spec;
    let value = json!({
        "image": image,
        "memory.max": canonical(&memory.max),
        "memory.policy": memory.policy,
        "resources.requests.cpu": resources.requests.cpu,
        "resources.limits.cpu": resources.limits.cpu,
        "threads": threads,
        "storage.type": storage.r#type,
        "placement.spread": placement.spread,
        "placement.nodeSelector": placement.node_selector,
        "placement.tolerations": placement.tolerations,
        "placement.nodeAffinity": placement.node_affinity,
        "auth.passwordSecret": auth.password_secret,
        "clusterMode": cluster_mode,
    });
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The same amount is the same template, however it is written.
fn canonical(quantity: &str) -> String {
    Bytes::parse(quantity).map_or_else(|_| quantity.to_owned(), |bytes| bytes.to_string())
}

/// The defaults of v1alpha1 as first released. Frozen: a changed default is not entered here.
fn first_defaults() -> Map<String, Value> {
    let value = json!({
        "memory.max": "1Gi",
        "memory.policy": "allkeys-lru",
        "resources.requests.cpu": "",
        "resources.limits.cpu": "",
        "threads": 0,
        "storage.type": "Memory",
        "placement.spread": "topology.kubernetes.io/zone",
        "placement.nodeSelector": {},
        "placement.tolerations": [],
        "placement.nodeAffinity": null,
        "auth.passwordSecret": null,
        "clusterMode": true,
    });
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(yaml: &str) -> CacheClusterSpec {
        serde_yaml::from_str(yaml).unwrap()
    }

    #[test]
    fn a_default_written_out_is_the_same_template() {
        let short = spec("{shards: 3, copies: 2}");
        let long =
            spec("{shards: 3, copies: 2, memory: {max: 1Gi, policy: allkeys-lru}, clusterMode: true, threads: 0}");
        assert_eq!(TemplateHash::of(&short, "a"), TemplateHash::of(&long, "a"));
    }

    /// A change of this hash restarts every cluster in the world once the operator is upgraded.
    #[test]
    fn the_hash_of_a_given_spec_never_changes() {
        let defaults = TemplateHash::of(&spec("{shards: 3, copies: 2}"), "ringmaster-node:1");
        assert_eq!(defaults.0, "91c6aaa5fd");
        let tuned =
            spec("{shards: 3, copies: 2, memory: {max: 2Gi, policy: noeviction}, resources: {requests: {cpu: 500m}}}");
        assert_eq!(TemplateHash::of(&tuned, "ringmaster-node:1").0, "98c076514a");
    }

    #[test]
    fn what_members_are_made_from_changes_the_hash_and_the_rest_does_not() {
        let base = TemplateHash::of(&spec("{shards: 3, copies: 2}"), "a");
        assert_ne!(base, TemplateHash::of(&spec("{shards: 3, copies: 2}"), "b"));
        assert_ne!(base, TemplateHash::of(&spec("{shards: 3, copies: 2, resources: {requests: {cpu: 500m}}}"), "a"));
        let same =
            spec("{shards: 3, copies: 3, maintenance: {maxSurge: 3, lingerSeconds: 1}, consistency: {minInSync: 2}}");
        assert_eq!(base, TemplateHash::of(&same, "a"));
        let slower = spec("{shards: 3, copies: 2, maintenance: {syncBytesPerSecond: 50Mi}}");
        assert_eq!(base, TemplateHash::of(&slower, "a"));
        let in_mebibytes = spec("{shards: 3, copies: 2, memory: {max: 1024Mi}}");
        assert_eq!(base, TemplateHash::of(&in_mebibytes, "a"));
    }
}
