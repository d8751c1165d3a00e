//! One `CacheCluster` on Kubernetes: seen, planned for, acted on. The whole of the operator on one screen.

mod act;
mod deletion;
mod guards;
mod observe;
mod refusals;
mod seen;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use kube::api::{Api, DynamicObject};
use kube::core::{ApiResource, Resource};
use kube::runtime::events::Recorder;
use kube::{Client, ResourceExt};
use ringmaster_plan::Timestamp;
use ringmaster_plan::crd::CacheCluster;
use ringmaster_plan::observed::Defaults;

use crate::members::Members;
use crate::metrics::Metrics;

pub(crate) use act::{Outcome, kind};
pub(crate) use deletion::{Tokens, disband};
pub(crate) use observe::{Sight, observe};
pub(crate) use seen::{node, pod};

/// What reconciling needs beside the cluster itself.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) members: Members,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) defaults: Defaults,
    pub(crate) tokens: Tokens,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    #[error("the API server did not answer in time to: {0}")]
    Timeout(&'static str),
    #[error("{name} cannot be read: {why}")]
    Undecodable { name: String, why: String },
    #[error("there is a {kind} {name} that is not this cluster's: delete it, or name the CacheCluster otherwise")]
    NameTaken { kind: String, name: String },
}

impl ClusterError {
    fn name_taken<K: Resource<DynamicType = ()>>(object: &K) -> Self {
        Self::NameTaken { kind: K::kind(&()).into_owned(), name: object.name_any() }
    }

    /// As a metric's label.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Api(_) => "api",
            Self::Timeout(_) => "timeout",
            Self::Undecodable { .. } => "undecodable",
            Self::NameTaken { .. } => "name_taken",
        }
    }
}

/// Does what is to be done about a cluster at present.
pub(crate) async fn reconcile(context: &Context, namespace: &str, name: &str) -> Result<Outcome, ClusterError> {
    let Some(cluster) = read(&context.client, namespace, name).await? else {
        disband(context, namespace, name, None).await?;
        return Ok(Outcome::default());
    };
    let uid = cluster.metadata.uid.clone().unwrap_or_default();
    let is_going = cluster.metadata.deletion_timestamp.is_some();
    let sight = observe(&context.client, &context.members, cluster, context.defaults.clone()).await?;
    if let (Some(identity), Some(token)) = (&sight.observed.identity, &sight.token) {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let origin = deletion::Origin { namespace, name, uid: uid.clone(), generation: identity.generation };
        context.tokens.remember(origin, token);
    }
    if is_going || sight.observed.ring.is_none() {
        // Members of a former cluster of this name hold on to its names.
        disband(context, namespace, name, Some(uid.as_str()).filter(|_| !is_going)).await?;
    }
    let now = Timestamp::now();
    let plan = ringmaster_plan::plan(&sight.observed, now);
    act::act(context, &sight, &plan, now).await
}

/// Read without its type first: one object that cannot be decoded must not hide the others.
pub(crate) async fn read(client: &Client, namespace: &str, name: &str) -> Result<Option<CacheCluster>, ClusterError> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<CacheCluster>(&()));
    let Some(object) = within("get CacheCluster", api.get_opt(name)).await? else { return Ok(None) };
    let undecodable =
        |error: serde_json::Error| ClusterError::Undecodable { name: name.to_owned(), why: error.to_string() };
    let value = serde_json::to_value(object).map_err(undecodable)?;
    serde_json::from_value(value).map(Some).map_err(undecodable)
}

/// How long one request to the API server may take.
const REQUEST_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

pub(crate) async fn within<T>(
    what: &'static str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ClusterError> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(ClusterError::Timeout(what)),
    }
}

/// What events are about.
pub(crate) fn reference(cluster: &CacheCluster) -> k8s_openapi::api::core::v1::ObjectReference {
    cluster.object_ref(&())
}
