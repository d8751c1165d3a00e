//! Names and labels of everything that belongs to a cluster. The one place where they are spelled.

use std::collections::BTreeMap;

use ringmaster_ring::{Generation, MemberId, ShardId};

pub const LABEL_SHARD: &str = "ringmaster.dev/shard";
pub const LABEL_MEMBER: &str = "ringmaster.dev/member";
pub const LABEL_GENERATION: &str = "ringmaster.dev/generation";
/// The UID of the `CacheCluster`: a namesake made later selects nothing of its predecessor.
pub const LABEL_CLUSTER: &str = "ringmaster.dev/cluster";
pub const ANNOTATION_TEMPLATE: &str = "ringmaster.dev/template";
/// What a member holds: [`HOLDS_DATA`] or, at a witness, [`HOLDS_VOTE`].
pub const LABEL_HOLDS: &str = "ringmaster.dev/holds";
pub const HOLDS_DATA: &str = "data";
pub const HOLDS_VOTE: &str = "vote";
/// The value of [`LABEL_SHARD`] at a witness.
pub const SHARD_OF_WITNESS: &str = "witness";
/// The field manager of everything that the operator applies.
pub const MANAGER: &str = "ringmaster";

pub const CLIENT_PORT: u16 = 6379;
pub const PEER_PORT: u16 = 7379;
pub const HTTP_PORT: u16 = 8379;

/// A member's StatefulSet; its pod adds `-0`.
#[must_use]
pub fn member(cluster: &str, id: MemberId) -> String {
    format!("{cluster}-{id}")
}

#[must_use]
pub fn pod(cluster: &str, id: MemberId) -> String {
    format!("{cluster}-{id}-0")
}

/// The Service that clients use.
#[must_use]
pub fn client_service(cluster: &str) -> String {
    cluster.to_owned()
}

/// The headless Service by which members find each other.
#[must_use]
pub fn member_service(cluster: &str) -> String {
    format!("{cluster}-members")
}

#[must_use]
pub fn disruption_budget(cluster: &str, shard: Option<ShardId>) -> String {
    match shard {
        Some(shard) => format!("{cluster}-shard-{shard}"),
        None => format!("{cluster}-witness"),
    }
}

/// The Secret that holds the identity of a generation of the ring. The cluster's UID is part of its name: a kubelet that
/// knows an immutable Secret from a pod that still ends gives a new pod what it knows, never the namesake made since.
#[must_use]
pub fn identity_secret(cluster: &str, uid: &str, generation: Generation) -> String {
    format!("{cluster}-ring-{}-{generation}", short(uid))
}

/// The Secret that says which member may form a generation of the ring.
#[must_use]
pub fn birth_secret(cluster: &str, uid: &str, generation: Generation) -> String {
    format!("{cluster}-birth-{}-{generation}", short(uid))
}

/// As much of a UID as tells namesakes apart.
fn short(uid: &str) -> &str {
    uid.split('-').next().unwrap_or(uid)
}

/// The labels of every object of a cluster.
#[must_use]
pub fn labels(cluster: &str, uid: &str) -> BTreeMap<String, String> {
    let labels = [
        ("app.kubernetes.io/name", "ringmaster"),
        ("app.kubernetes.io/component", "cache"),
        ("app.kubernetes.io/instance", cluster),
        ("app.kubernetes.io/managed-by", MANAGER),
        (LABEL_CLUSTER, uid),
    ];
    labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// What selects every member of a cluster.
#[must_use]
pub fn selector(uid: &str) -> BTreeMap<String, String> {
    [("app.kubernetes.io/component", "cache"), (LABEL_CLUSTER, uid)]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

/// The value of [`LABEL_SHARD`].
#[must_use]
pub fn shard_label(shard: Option<ShardId>) -> String {
    shard.map_or_else(|| SHARD_OF_WITNESS.to_owned(), |shard| shard.to_string())
}
