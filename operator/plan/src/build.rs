//! How a cluster looks as Kubernetes objects. Leaves that compute: a [`Spec`] in, an object out, the same each time.
//!
//! Services and disruption budgets are kept as rendered here. A member's StatefulSet is written once.

mod arguments;
mod budgets;
mod services;
mod stateful_set;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::{Spec, names};

pub use arguments::member_arguments;
pub use budgets::budgets;
pub use services::services;
pub use stateful_set::{MemberMemory, stateful_set};

/// Metadata of an object that goes when its cluster goes.
#[must_use]
pub fn owned(spec: &Spec, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(spec.namespace.clone()),
        labels: Some(names::labels(&spec.name, &spec.uid)),
        owner_references: Some(vec![OwnerReference {
            api_version: "cache.ringmaster.dev/v1alpha1".to_owned(),
            kind: "CacheCluster".to_owned(),
            name: spec.name.clone(),
            uid: spec.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}
