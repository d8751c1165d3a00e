//! The cluster's nodes, pods and processes: what is where, and what happens to it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{EvictParams, ListParams};
use kube::{Api, Client, Config};

use crate::settings::{NAMESPACE, OPERATOR_NAMESPACE, Settings};
use crate::tools::{kubectl, node_tool, until};

/// The way to the API server. Nothing is retried behind the tests' backs.
#[derive(Clone)]
pub struct Kubernetes {
    pub client: Client,
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kubernetes")
    }
}

impl Kubernetes {
    pub async fn connect() -> Result<Self> {
        let mut config = Config::infer().await.context("no usable KUBECONFIG")?;
        config.default_retry = false;
        config.read_timeout = Some(Duration::from_secs(30));
        Ok(Self { client: Client::try_from(config)? })
    }

    #[must_use]
    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    pub async fn workers(&self) -> Result<Vec<String>> {
        let not_control_plane = ListParams::default().labels("!node-role.kubernetes.io/control-plane");
        let nodes = Api::<Node>::all(self.client.clone()).list(&not_control_plane).await?;
        Ok(nodes.into_iter().filter_map(|node| node.metadata.name).collect())
    }

    /// The members' pods of a cluster, by name, as far as they are not on their way out.
    pub async fn members(&self, cluster: &str) -> Result<BTreeMap<String, Pod>> {
        let selector = format!("app.kubernetes.io/component=cache,app.kubernetes.io/instance={cluster}");
        let pods = self.pods().list(&ListParams::default().labels(&selector)).await?;
        Ok(pods.into_iter().filter_map(|pod| Some((pod.metadata.name.clone()?, pod))).collect())
    }

    pub async fn uncordon_all(&self) -> Result<()> {
        for node in self.workers().await? {
            kubectl(&["uncordon", &node]).await?;
        }
        Ok(())
    }

    /// As a person drains a node.
    pub async fn drain(&self, node: &str, timeout_s: u64) -> Result<()> {
        let timeout = format!("--timeout={timeout_s}s");
        kubectl(&["drain", node, "--ignore-daemonsets", "--delete-emptydir-data", &timeout]).await?;
        Ok(())
    }

    /// One eviction, not repeated: whether it was granted, or what refused it.
    pub async fn evict(&self, pod: &str) -> Result<std::result::Result<(), String>> {
        match self.pods().evict(pod, &EvictParams::default()).await {
            Ok(_) => Ok(Ok(())),
            Err(kube::Error::Api(status)) if status.code == 429 => Ok(Err(status.message.clone())),
            Err(error) => Err(error).context(format!("the eviction of {pod}")),
        }
    }

    pub async fn operator_pods(&self) -> Result<Vec<Pod>> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), OPERATOR_NAMESPACE);
        let selector = "app.kubernetes.io/component=operator";
        Ok(pods.list(&ListParams::default().labels(selector)).await?.items)
    }

    /// Waits until the operator runs and is Ready.
    pub async fn operator_ready(&self) -> Result<()> {
        until("the operator", Duration::from_secs(120), || async {
            let pods = self.operator_pods().await?;
            let ready = pods.iter().any(|pod| pod.metadata.deletion_timestamp.is_none() && is_ready(pod));
            Ok(if ready { Ok(()) } else { Err(format!("none of its {} pods is Ready", pods.len())) })
        })
        .await
    }

    /// Sends a signal to the first process of a pod's container, as nobody inside could.
    pub async fn signal(&self, settings: &Settings, pod: &Pod, signal: &str) -> Result<()> {
        let node = node_of(pod).context("the pod has no node")?;
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let find = format!(
            r#"for id in $(ctr -n k8s.io containers list -q \
                'labels."io.kubernetes.pod.name"=={name},labels."io.cri-containerd.kind"==container'); do
                ctr -n k8s.io tasks list | grep "^$id .*RUNNING" | tr -s ' ' | cut -d ' ' -f 2
            done 2>/dev/null"#
        );
        let pid = node_tool(&settings.root, &["sh", node, &find]).await?;
        let pid = pid.trim();
        if pid.parse::<u32>().is_err() {
            bail!("no process of {name} on {node}: {pid}");
        }
        node_tool(&settings.root, &["sh", node, &format!("kill -{signal} {pid}")]).await?;
        Ok(())
    }
}

#[must_use]
pub fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|each| each.type_ == "Ready" && each.status == "True"))
}

#[must_use]
pub fn restarts_of(pod: &Pod) -> i32 {
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    containers.map_or(0, |all| all.iter().map(|container| container.restart_count).sum())
}

/// Which processes run: pod UIDs with their restarts. Equal before and after means that nothing was touched.
#[must_use]
pub fn processes(pods: &BTreeMap<String, Pod>) -> BTreeSet<(String, i32)> {
    pods.values().map(|pod| (pod.metadata.uid.clone().unwrap_or_default(), restarts_of(pod))).collect()
}
