//! A cluster that is deleted need not wait for replacements: its members are told that they may leave at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use ringmaster_plan::names;
use ringmaster_ring::Generation;

use super::{ClusterError, Context, within};
use crate::members::Endpoint;

/// The tokens of the clusters seen last. A cache: Kubernetes deletes a cluster's Secrets at the same time as its members.
/// Without it a deletion takes the members' grace period.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tokens(Arc<Mutex<BTreeMap<Origin, String>>>);

/// Whose token it is: each generation of a ring has its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) generation: Generation,
}

impl Tokens {
    pub(super) fn remember(&self, origin: Origin, token: &str) {
        let mut tokens = self.tokens();
        let known = tokens.entry(origin).or_default();
        if known != token {
            token.clone_into(known);
        }
    }

    fn recall(&self, origin: &Origin) -> Option<String> {
        self.tokens().get(origin).cloned()
    }

    /// Forgets the clusters that had this name and of which no pod is left.
    fn forget(&self, namespace: &str, name: &str, is_left: impl Fn(&str) -> bool) {
        self.tokens().retain(|origin, _| origin.namespace != namespace || origin.name != name || is_left(&origin.uid));
    }

    fn tokens(&self) -> MutexGuard<'_, BTreeMap<Origin, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    let is_left = |uid: &str| {
        living == Some(uid) || pods.iter().any(|pod| pod.labels().get(names::LABEL_CLUSTER).is_some_and(|of| of == uid))
    };
    context.tokens.forget(namespace, name, is_left);
    for pod in &pods {
        let Some(uid) = pod.labels().get(names::LABEL_CLUSTER).filter(|uid| living != Some(uid)) else { continue };
        let Some(address) = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()) else { continue };
        let generation = pod.labels().get(names::LABEL_GENERATION).and_then(|text| text.parse().ok());
        let origin = Origin {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.clone(),
            generation: generation.unwrap_or(Generation(1)),
        };
        let token = match context.tokens.recall(&origin) {
            Some(token) => Some(token),
            None => read_token(context, &origin).await?,
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

async fn read_token(context: &Context, origin: &Origin) -> Result<Option<String>, ClusterError> {
    let Origin { namespace, name, uid, generation } = origin;
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    let secret_name = names::identity_secret(name, uid, *generation);
    let secret = within("get secret", secrets.get_opt(&secret_name)).await?;
    let token = secret.and_then(|secret| secret.data?.remove("token"));
    Ok(token.and_then(|token| String::from_utf8(token.0).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(name: &str, uid: &str, generation: u32) -> Origin {
        let (namespace, name, uid) = ("shop".to_owned(), name.to_owned(), uid.to_owned());
        Origin { namespace, name, uid, generation: Generation(generation) }
    }

    #[test]
    fn each_generation_has_its_token_and_a_cluster_without_pods_is_forgotten() {
        let tokens = Tokens::default();
        tokens.remember(origin("sessions", "old", 1), "first");
        tokens.remember(origin("sessions", "old", 2), "second");
        tokens.remember(origin("sessions", "new", 1), "third");
        tokens.remember(origin("other", "o", 1), "fourth");
        assert_eq!(tokens.recall(&origin("sessions", "old", 1)).as_deref(), Some("first"));
        tokens.forget("shop", "sessions", |uid| uid == "new");
        assert_eq!(tokens.recall(&origin("sessions", "old", 2)), None);
        assert_eq!(tokens.recall(&origin("sessions", "new", 1)).as_deref(), Some("third"));
        assert_eq!(tokens.recall(&origin("other", "o", 1)).as_deref(), Some("fourth"));
    }
}
