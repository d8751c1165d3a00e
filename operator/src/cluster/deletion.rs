//! A cluster that is deleted need not wait for replacements: its members are told that they may leave at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use ringmaster_plan::names;
use ringmaster_ring::Generation;

use super::{ClusterError, Context, within};
use crate::members::Endpoint;

/// The tokens of the clusters seen last, by UID. A cache: Kubernetes deletes a cluster's Secrets at the same time as its
/// members. Without it a deletion takes the members' grace period.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tokens(Arc<Mutex<BTreeMap<String, String>>>);

impl Tokens {
    pub(crate) fn remember(&self, uid: &str, token: Option<&str>) {
        let Some(token) = token else { return };
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = tokens.entry(uid.to_owned()).or_default();
        if known != token {
            token.clone_into(known);
        }
    }

    fn recall(&self, uid: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned()
    }
}

/// Tells all pods of clusters that had this name, but for those of the one that has it now.
pub(crate) async fn disband(
    context: &Context,
    namespace: &str,
    name: &str,
    living: Option<&str>,
) -> Result<(), ClusterError> {
    let selector = format!(
        "app.kubernetes.io/component=cache,app.kubernetes.io/managed-by={},app.kubernetes.io/instance={name}",
        names::MANAGER
    );
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let pods = within("list pods", pods.list(&ListParams::default().labels(&selector))).await?;
    for pod in &pods {
        let Some(uid) = pod.labels().get(names::LABEL_CLUSTER).filter(|uid| living != Some(uid)) else { continue };
        let Some(address) = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()) else { continue };
        let token = match context.tokens.recall(uid) {
            Some(token) => Some(token),
            None => read_token(context, namespace, name, uid).await?,
        };
        let Some(token) = token else {
            tracing::warn!(pod = %pod.name_any(), %namespace, "its cluster's Secret is gone: it ends after its grace period");
            continue;
        };
        match context.members.disband(&Endpoint::new(address, names::HTTP_PORT), &token).await {
            Ok(()) => tracing::info!(pod = %pod.name_any(), %namespace, "may leave at once"),
            Err(error) => tracing::debug!(pod = %pod.name_any(), %namespace, %error, "not told to leave"),
        }
    }
    Ok(())
}

async fn read_token(context: &Context, namespace: &str, name: &str, uid: &str) -> Result<Option<String>, ClusterError> {
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    let secret_name = names::identity_secret(name, uid, Generation(1));
    let secret = within("get secret", secrets.get_opt(&secret_name)).await?;
    let token = secret.and_then(|secret| secret.data?.remove("token"));
    Ok(token.and_then(|token| String::from_utf8(token.0).ok()))
}
