//! The `CacheCluster` resource as users write it. Every rule that the API server can check stands here with a message
//! that says what to write instead; `spec` checks the same again for objects that came before a rule.

#![allow(unreachable_pub, reason = "the derive repeats the type inside a function")]

mod status;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeAffinity, Toleration};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use status::*;

/// A sharded, replicated cache.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "cache.ringmaster.dev",
    version = "v1alpha1",
    kind = "CacheCluster",
    plural = "cacheclusters",
    shortname = "cc",
    category = "all",
    namespaced,
    status = "CacheClusterStatus",
    derive = "PartialEq",
    doc = "A sharded, replicated cache whose members are replaced before they are removed.",
    printcolumn(name = "Shards", type_ = "string", json_path = ".status.shards.summary"),
    printcolumn(name = "Copies", type_ = "string", json_path = ".status.copies.summary"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "State", type_ = "string", json_path = r#".status.conditions[?(@.type=="Progressing")].reason"#),
    printcolumn(name = "Message", type_ = "string", json_path = r#".status.conditions[?(@.type=="Progressing")].message"#, priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be at most 40 lower-case letters, digits and '-', begin with a letter and not end with '-': Services and pods are named after it"),
    validation = Rule::new("self.spec.shards * self.spec.copies <= 400")
        .message("shards times copies must be at most 400"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.consistency) || !has(self.consistency.minInSync) || self.consistency.minInSync <= self.copies")
        .message("consistency.minInSync must not be above copies: no write would ever be accepted"),
    validation = Rule::new("!has(self.clusterMode) || self.clusterMode || self.shards == 1")
        .message("clusterMode: false needs shards: 1, because clients that do not speak the cluster protocol see one shard"),
)]
pub struct CacheClusterSpec {
    /// How many parts the keys are split into. It cannot be changed yet.
    #[x_kube(
        validation = Rule::new("self >= 1 && self <= 200").message("shards must lie between 1 and 200, for example 3"),
        validation = Rule::new("self == oldSelf").message("shards cannot be changed yet: make a second CacheCluster with the number you want and move over"),
    )]
    pub shards: i32,
    /// How many members hold each shard, the primary included.
    #[x_kube(validation = Rule::new("self >= 1 && self <= 5").message("copies must lie between 1 and 5, the primary included; 2 survives the loss of a member"))]
    pub copies: i32,
    /// The node's image. Empty: the image that came with the operator when the cluster was made, for as long as the cluster
    /// lives. A change replaces every member, one after the other.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[x_kube(validation = Rule::new("self.size() <= 512 && !self.contains(' ')").message("image must be an image reference such as registry.example/ringmaster-node:1.2.3"))]
    pub image: String,
    /// A change replaces every member, one after the other.
    #[serde(default)]
    pub memory: Memory,
    /// A change replaces every member, one after the other.
    #[serde(default)]
    pub resources: Resources,
    /// Threads of a member that serve clients; 0 leaves it at the image's default, one. A change replaces every member.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 64").message("threads must lie between 0 (the default) and 64"))]
    pub threads: i32,
    /// What an answer means. A change replaces no member.
    #[serde(default)]
    pub consistency: Consistency,
    #[serde(default)]
    pub storage: Storage,
    /// Where members may stand. A change replaces every member, one after the other.
    #[serde(default)]
    pub placement: PlacementRules,
    /// How members are replaced. A change replaces none.
    #[serde(default)]
    pub maintenance: Maintenance,
    /// Naming another Secret or key replaces every member.
    #[serde(default)]
    pub auth: Auth,
    /// Whether clients speak the Redis Cluster protocol. False: one shard, any client. A change replaces every member.
    #[serde(default = "yes")]
    pub cluster_mode: bool,
}

fn yes() -> bool {
    true
}

/// A rule that the API server checks. (The derive's own notation does not know structs that are defaulted as a whole.)
fn cel(rule: &str, message: &str) -> serde_json::Value {
    serde_json::json!([{ "rule": rule, "message": message }])
}

#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// What keys and values may take. The container's limit follows from it and the named buffers.
    #[schemars(extend("x-kubernetes-validations" = cel("self.size() <= 32 && isQuantity(self) && quantity(self).compareTo(quantity('16Mi')) >= 0", "memory.max must be a quantity of at least 16Mi, for example 1Gi")))]
    #[schemars(length(max = 32))]
    pub max: String,
    pub policy: EvictionPolicy,
}

impl Default for Memory {
    fn default() -> Self {
        Self { max: "1Gi".to_owned(), policy: EvictionPolicy::AllkeysLru }
    }
}

/// Which keys go when the memory is full.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvictionPolicy {
    Noeviction,
    AllkeysLru,
    AllkeysLfu,
    AllkeysRandom,
    VolatileLru,
    VolatileLfu,
    VolatileRandom,
    VolatileTtl,
}

/// What a member's container asks for. Memory follows from `memory.max`.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    #[serde(skip_serializing_if = "Cpu::is_empty")]
    pub requests: Cpu,
    #[serde(skip_serializing_if = "Cpu::is_empty")]
    pub limits: Cpu,
}

#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cpu {
    #[schemars(extend("x-kubernetes-validations" = cel("self == '' || (self.size() <= 32 && isQuantity(self) && quantity(self).isGreaterThan(quantity('0')))", "cpu must be a quantity such as 500m or 2")))]
    #[schemars(length(max = 32))]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cpu: String,
}

impl Cpu {
    fn is_empty(&self) -> bool {
        self.cpu.is_empty()
    }
}

#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Consistency {
    /// When a command is answered: once every in-sync copy holds it, or once the primary has executed it.
    pub acks: Acks,
    /// Below this many in-sync copies, the primary included, writes are refused.
    #[schemars(extend("x-kubernetes-validations" = cel("self >= 1 && self <= 5", "consistency.minInSync must lie between 1 and copies")))]
    pub min_in_sync: i32,
    /// How long a copy may leave a write unacknowledged before it is put out of sync.
    #[schemars(extend("x-kubernetes-validations" = cel("self >= 50 && self <= 60000", "consistency.copyLagMs must lie between 50 and 60000")))]
    pub copy_lag_ms: i32,
    /// What a shard does that has no in-sync copy left. StartEmpty by default, because members keep their data in memory.
    pub on_data_loss: OnDataLoss,
}

impl Default for Consistency {
    fn default() -> Self {
        Self { acks: Acks::InSync, min_in_sync: 1, copy_lag_ms: 1_000, on_data_loss: OnDataLoss::StartEmpty }
    }
}

#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Acks {
    InSync,
    Primary,
}

#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnDataLoss {
    Wait,
    StartEmpty,
}

#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Storage {
    pub r#type: StorageType,
}

impl Default for Storage {
    fn default() -> Self {
        Self { r#type: StorageType::Memory }
    }
}

#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StorageType {
    /// Data lives in the process; the ring's own state in an emptyDir.
    Memory,
}

#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PlacementRules {
    /// The node label over whose values the copies of a shard are spread where that is possible.
    #[schemars(extend("x-kubernetes-validations" = cel("self.size() >= 1 && self.size() <= 253", "placement.spread must be a node label, for example topology.kubernetes.io/zone")))]
    pub spread: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_affinity: Option<NodeAffinity>,
}

impl Default for PlacementRules {
    fn default() -> Self {
        Self {
            spread: "topology.kubernetes.io/zone".to_owned(),
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            node_affinity: None,
        }
    }
}

#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Maintenance {
    /// Whether members leave a node that is cordoned or tainted for removal.
    pub on_cordon: OnCordon,
    /// How many members a roll replaces at a time.
    #[schemars(extend("x-kubernetes-validations" = cel("self >= 1 && self <= 20", "maintenance.maxSurge must lie between 1 and 20")))]
    pub max_surge: i32,
    /// How long a lost member may take to come back before another one is made.
    #[schemars(extend("x-kubernetes-validations" = cel("self >= 1 && self <= 86400", "maintenance.repairAfterSeconds must lie between 1 and 86400")))]
    pub repair_after_seconds: i32,
    /// How long a retired member goes on redirecting clients after the last one used it.
    #[schemars(extend("x-kubernetes-validations" = cel("self >= 0 && self <= 3600", "maintenance.lingerSeconds must lie between 0 and 3600")))]
    pub linger_seconds: i32,
    /// The most that a member sends to one spare. Empty: no limit. Members that are made from now on heed a change.
    #[schemars(extend("x-kubernetes-validations" = cel("self == '' || (self.size() <= 32 && isQuantity(self) && quantity(self).compareTo(quantity('64Ki')) >= 0)", "maintenance.syncBytesPerSecond must be empty or a quantity of at least 64Ki, for example 50Mi")))]
    #[schemars(length(max = 32))]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sync_bytes_per_second: String,
}

impl Default for Maintenance {
    fn default() -> Self {
        Self {
            on_cordon: OnCordon::Replace,
            max_surge: 1,
            repair_after_seconds: 60,
            linger_seconds: 60,
            sync_bytes_per_second: String::new(),
        }
    }
}

#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnCordon {
    Replace,
    Ignore,
}

#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Auth {
    /// The Secret with the password that clients give. Absent: no password. One password a line, all of them valid: to
    /// exchange one, add the new line, wait two minutes, move the clients over, and take the old line away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_secret: Option<SecretKey>,
}

#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    #[schemars(extend("x-kubernetes-validations" = cel("self.size() >= 1 && self.size() <= 253", "auth.passwordSecret.name must name a Secret of this namespace")))]
    pub name: String,
    #[serde(default = "password_key")]
    #[schemars(extend("x-kubernetes-validations" = cel("self.size() >= 1 && self.size() <= 253", "auth.passwordSecret.key must name a key of that Secret, for example password")))]
    pub key: String,
}

fn password_key() -> String {
    "password".to_owned()
}
