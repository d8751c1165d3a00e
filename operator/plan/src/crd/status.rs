//! What the operator reports about a cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CacheClusterStatus {
    pub observed_generation: i64,
    /// Ready, Progressing, Redundant, Degraded, DataLost.
    pub conditions: Vec<Condition>,
    /// The image that members are made from.
    pub image: String,
    /// How often the ring of this cluster was formed. Above 1, all data was lost once.
    pub ring_generation: u32,
    pub copies: CopyCount,
    pub shards: ShardCount,
    pub members: Vec<MemberReport>,
    pub replacing: Vec<ReplacementReport>,
}

#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CopyCount {
    pub wanted: i32,
    /// The fewest in-sync copies that a shard has.
    pub fewest: i32,
    /// Both, for people: `2/2`.
    pub summary: String,
}

#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ShardCount {
    pub wanted: i32,
    pub serving: i32,
    /// Both, for people: `3/3`.
    pub summary: String,
}

#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberReport {
    pub name: String,
    /// Absent for a witness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<i32>,
    pub role: MemberRole,
    pub state: MemberCondition,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Records behind the primary, while it is not in sync. What an in-sync member lacks is on its way.
    pub lag: i64,
    /// Since when it has not been in sync, or could not be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent_since: Option<Time>,
    /// A copy of its shard stands on the same node or, though others are free, in the same zone.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub misplaced: String,
    /// When a better place was last sought for it in vain. It is sought again after ten minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement_tried: Option<Time>,
}

#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberRole {
    Primary,
    Copy,
    Spare,
    Witness,
    Retired,
    /// It is not in the ring yet.
    Founder,
}

#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberCondition {
    /// Made, and not heard of yet.
    Starting,
    /// Receives its shard's data.
    Syncing,
    InSync,
    /// Asked to end, and serving until its replacement has taken over.
    Leaving,
    /// Neither in sync nor reachable.
    Absent,
    /// Waits until its last client has left.
    Lingering,
}

#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplacementReport {
    pub member: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub spare: String,
    pub reason: String,
    pub waiting_for: String,
}
