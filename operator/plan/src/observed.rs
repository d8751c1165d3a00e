//! The picture of the world that a plan is made from: what the API server, or the playground's process table, and the
//! members said. Every part is what one source says at one time; nothing here is derived.

mod affinity;

use std::collections::BTreeMap;

use ringmaster_ring::{ClusterUuid, Generation, MemberId, MemberStatus, Ring, ShardId, VoterId};
use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::crd::CacheCluster;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    pub cluster: CacheCluster,
    pub defaults: Defaults,
    /// Of the newest generation that has one.
    pub identity: Option<Identity>,
    /// Of the same generation.
    pub birth: Option<Birth>,
    /// What exists for each member beside its place in the ring. Listed **after** [`Observed::ring`] and
    /// [`Observed::statuses`] were read: a boot that the ring knows had its pod before, so that no pod means "gone".
    pub workloads: BTreeMap<MemberId, Workload>,
    pub nodes: BTreeMap<String, Node>,
    /// What those members said that answered.
    pub statuses: BTreeMap<MemberId, MemberStatus>,
    /// The newest ring of the newest generation that any member knows.
    pub ring: Option<Ring>,
}

/// What the operator brings where a user names nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Defaults {
    /// The image for clusters that are made now. Present ones keep theirs.
    pub image: String,
}

/// What is fixed before a generation of the ring has its first member. Written once, never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    pub uuid: ClusterUuid,
    pub generation: Generation,
    /// Members of this generation have this serial or a greater one.
    pub first_serial: MemberId,
    /// The image in force where the resource names none.
    pub image: String,
}

/// Who alone may form a generation of the ring. Written once, before anybody is asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Birth {
    pub generation: Generation,
    pub founder: MemberId,
    /// The founder's data directory: a process on another one forms nothing.
    pub voter: VoterId,
}

/// A member's StatefulSet and pod, or its process in the playground. Either may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Workload {
    pub generation: Generation,
    pub shard: Option<ShardId>,
    pub set: Option<StatefulSet>,
    pub pod: Option<Pod>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatefulSet {
    pub uid: String,
    pub template: String,
    pub created_at: Timestamp,
    pub deleting: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    pub uid: String,
    /// None until it is scheduled.
    pub node: Option<String>,
    pub deleting: bool,
    pub restarts: u32,
    /// Since when it has been ready; none while it is not.
    pub ready_since: Option<Timestamp>,
    /// Since when it has had a node while its container is not made yet; none once it is.
    #[serde(default)]
    pub starting_since: Option<Timestamp>,
    /// What keeps it from starting.
    pub trouble: Option<Trouble>,
}

impl Pod {
    /// One that was created just now.
    #[must_use]
    pub fn created(uid: String) -> Self {
        Self { uid, node: None, deleting: false, restarts: 0, ready_since: None, starting_since: None, trouble: None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trouble {
    /// One CamelCase word, as Kubernetes says it: `Unschedulable`, `ImagePullBackOff`, …
    pub reason: String,
    pub message: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    /// Cordoned.
    pub unschedulable: bool,
    pub ready: bool,
    pub deleting: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: String,
}

/// Taints by which autoscalers and people say that a node is about to go.
pub const REMOVAL_TAINTS: [&str; 5] = [
    "ToBeDeletedByClusterAutoscaler",
    "karpenter.sh/disrupted",
    "node.kubernetes.io/out-of-service",
    "node.cloudprovider.kubernetes.io/shutdown",
    "cloud.google.com/impending-node-termination",
];

impl Node {
    /// Why members should leave it, if they should.
    #[must_use]
    pub fn leaving(&self) -> Option<&str> {
        let tainted = self.taints.iter().map(|t| t.key.as_str()).find(|key| REMOVAL_TAINTS.contains(key));
        match (self.unschedulable, self.deleting) {
            (true, _) => Some("cordoned"),
            (false, true) => Some("being deleted"),
            (false, false) => tainted,
        }
    }

    /// Whether a member with these rules could be placed on it, the node of this name, as far as the rules say: whether it
    /// has room is the scheduler's to know.
    #[must_use]
    pub fn admits(&self, name: &str, rules: &crate::crd::PlacementRules) -> bool {
        let is_required = rules.node_affinity.as_ref();
        let fits = is_required.is_none_or(|affinity| affinity::admits(affinity, name, &self.labels));
        let selected = rules.node_selector.iter().all(|(key, value)| self.labels.get(key) == Some(value));
        let tolerated = self.taints.iter().filter(|taint| taint.effect != "PreferNoSchedule").all(|taint| {
            rules.tolerations.iter().any(|toleration| {
                let key = toleration.key.as_deref().is_none_or(|key| key.is_empty() || key == taint.key);
                let exists = toleration.operator.as_deref() == Some("Exists");
                let value = exists || toleration.value.as_deref().unwrap_or_default() == taint.value;
                let effect = toleration.effect.as_deref().is_none_or(|e| e.is_empty() || e == taint.effect);
                key && value && effect
            })
        });
        self.ready && self.leaving().is_none() && selected && fits && tolerated
    }

    /// Its value of the label that copies are spread by; empty where it has none.
    #[must_use]
    pub fn zone(&self, rules: &crate::crd::PlacementRules) -> &str {
        self.labels.get(&rules.spread).map_or("", String::as_str)
    }
}
