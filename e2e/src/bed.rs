//! What every claim stands on: the chart installed, ledger pods on every worker, and one preloaded cluster at rest that
//! the claims share. A claim that left something odd behind costs the next one time, not its truth: what cannot be brought
//! to rest is made anew.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::figures::note;
use crate::kubernetes::{Kubernetes, is_ready, node_of};
use crate::settings::{NAMESPACE, OPERATOR_NAMESPACE, RELEASE, Settings};
use crate::tools::{kubectl, node_tool, run, run_with_input, until};

/// Shards and copies of the shared cluster.
pub const SHARDS: u16 = 3;
pub const COPIES: usize = 2;

/// An annotation on the shared cluster: it holds the preloaded keys.
const PRELOADED: &str = "e2e.ringmaster.dev/preloaded";

/// The ground under a claim.
#[derive(Clone, Debug)]
pub struct Bed {
    pub settings: Settings,
    pub kubernetes: Kubernetes,
    /// The shared cluster.
    pub cache: Cache,
}

impl Bed {
    /// Connects, and changes nothing.
    pub async fn connect() -> Result<Self> {
        let kubernetes = Kubernetes::connect().await?;
        let cache = Cache::new(&kubernetes, "sessions");
        Ok(Self { settings: Settings::from_env(), kubernetes, cache })
    }

    /// The chart is installed and its operator runs.
    pub async fn with_operator(&self) -> Result<()> {
        self.revive_nodes().await?;
        self.make_namespace().await?;
        let releases = run("helm", &["-n", OPERATOR_NAMESPACE, "list", "--short"]).await.unwrap_or_default();
        if !releases.lines().any(|line| line == RELEASE) {
            self.install_chart(&self.settings.node_image, &[]).await?;
        }
        self.kubernetes.operator_ready().await
    }

    /// `helm upgrade --install`, with this default image for nodes.
    pub async fn install_chart(&self, node_image: &str, more: &[&str]) -> Result<()> {
        let chart = self.settings.root.join("charts/ringmaster");
        let images =
            [("operator", self.settings.operator_image.as_str()), ("node", node_image)].map(|(part, image)| {
                let (repository, tag) = image.rsplit_once(':').unwrap_or((image, "latest"));
                format!("image.{part}.repository={repository},image.{part}.tag={tag}")
            });
        let images = images.join(",");
        let chart = chart.to_string_lossy().into_owned();
        let mut arguments = vec![
            "upgrade",
            "--install",
            RELEASE,
            &chart,
            "-n",
            OPERATOR_NAMESPACE,
            "--create-namespace",
            "--wait",
            "--timeout",
            "120s",
            "--set",
            &images,
        ];
        arguments.extend(more);
        run("helm", &arguments).await?;
        Ok(())
    }

    /// The shared cluster is whole, at rest and filled; ledgers stand by. `copies` of each of its shards are in sync.
    pub async fn preloaded(&self) -> Result<()> {
        self.with_operator().await?;
        self.make_ledger_pods().await?;
        let mut object = self.cache.object().await?;
        if !object.is_null() && self.cache.settled(Duration::from_secs(90)).await.is_err() {
            eprintln!("    {} does not come to rest: making it anew", self.cache.name);
            self.cache.delete().await?;
            object = Value::Null;
        }
        if object.is_null() {
            let began = Instant::now();
            self.cache.apply(&self.spec()).await?;
            self.cache.settled(Duration::from_secs(180)).await?;
            let ready_s = format!("{:.1} s", began.elapsed().as_secs_f64());
            note(&self.settings, "install", "3 shards x 2 copies, from kubectl apply to Ready", ready_s)?;
        }
        let preloaded = object["metadata"]["annotations"][PRELOADED].as_str().and_then(|keys| keys.parse().ok());
        if preloaded != Some(self.settings.keys) {
            self.preload("load").await?;
            let done = format!("{PRELOADED}={}", self.settings.keys);
            kubectl(&["-n", NAMESPACE, "annotate", "cachecluster", &self.cache.name, &done, "--overwrite"]).await?;
        }
        Ok(())
    }

    /// What the shared cluster is made from.
    #[must_use]
    pub fn spec(&self) -> Value {
        json!({
            "shards": SHARDS,
            "copies": COPIES,
            "memory": { "max": "768Mi", "policy": "noeviction" },
            "resources": { "requests": { "cpu": "300m" } },
            "maintenance": {
                "repairAfterSeconds": 20,
                "lingerSeconds": 5,
                "syncBytesPerSecond": self.settings.sync_bytes_per_s(u64::from(SHARDS)).to_string(),
            },
        })
    }

    /// Fills the shared cluster, or ("check") compares every key of it with what was written.
    pub async fn preload(&self, what: &str) -> Result<()> {
        let (keys, bytes) = (self.settings.keys.to_string(), self.settings.value_bytes.to_string());
        let pod = self.ledger_pod(&[]).await?;
        let output = run(
            "kubectl",
            &[
                "-n",
                NAMESPACE,
                "exec",
                &pod,
                "--",
                "/clients/bin/preload",
                what,
                "--host",
                &self.cache.name,
                "--keys",
                &keys,
                "--value-bytes",
                &bytes,
            ],
        )
        .await
        .with_context(|| format!("preload {what}"))?;
        note(&self.settings, "preload", what, output.trim())
    }

    /// A pod that ledgers can run in, on a worker that is none of these.
    pub async fn ledger_pod(&self, avoided_nodes: &[&str]) -> Result<String> {
        let pods = self.ledger_pods().await?;
        let usable =
            pods.iter().find(|pod| is_ready(pod) && node_of(pod).is_some_and(|node| !avoided_nodes.contains(&node)));
        usable.and_then(|pod| pod.metadata.name.clone()).context("no ledger pod runs on any other node")
    }

    /// Starts and ends pods that have nothing to do with the cache, one on each of two nodes at a time: what their
    /// starting alone does to the requests of others on this machine.
    pub async fn start_and_end_other_pods(&self) -> Result<()> {
        for node in self.kubernetes.workers().await?.iter().take(2) {
            let name = format!("other-on-{node}");
            let mut spec = self.restricted_pod("other");
            spec["nodeName"] = json!(node);
            let manifest = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": name, "namespace": NAMESPACE, "labels": { "app": "other" } },
                "spec": spec,
            });
            run_with_input("kubectl", &["apply", "-f", "-"], &manifest.to_string()).await?;
            let pod = format!("pod/{name}");
            kubectl(&["-n", NAMESPACE, "wait", "--for=condition=Ready", "--timeout=60s", &pod]).await?;
            kubectl(&["-n", NAMESPACE, "delete", &pod, "--wait", "--timeout=60s"]).await?;
        }
        Ok(())
    }

    async fn ledger_pods(&self) -> Result<Vec<Pod>> {
        Ok(self.kubernetes.pods().list(&ListParams::default().labels("app=ledger")).await?.items)
    }

    /// Nodes that a claim killed, froze or cordoned are back.
    async fn revive_nodes(&self) -> Result<()> {
        let text = kubectl(&["get", "nodes", "-o", "json"]).await?;
        let nodes: Value = serde_json::from_str(&text)?;
        for node in nodes["items"].as_array().into_iter().flatten() {
            let name = node["metadata"]["name"].as_str().unwrap_or_default();
            let ready = node["status"]["conditions"].as_array().into_iter().flatten();
            if !ready.clone().any(|condition| condition["type"] == "Ready" && condition["status"] == "True") {
                eprintln!("    {name} is not Ready: starting it");
                node_tool(&self.settings.root, &["start", name]).await?;
            }
            if node["spec"]["unschedulable"] == true {
                kubectl(&["uncordon", name]).await?;
            }
        }
        Ok(())
    }

    async fn make_namespace(&self) -> Result<()> {
        let manifest = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": NAMESPACE, "labels": { "pod-security.kubernetes.io/enforce": "restricted" } },
        });
        run_with_input("kubectl", &["apply", "-f", "-"], &manifest.to_string()).await?;
        Ok(())
    }

    /// One pod a worker, of a DaemonSet: a drain leaves those where they are.
    async fn make_ledger_pods(&self) -> Result<()> {
        let manifest = json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": { "name": "ledger", "namespace": NAMESPACE },
            "spec": {
                "selector": { "matchLabels": { "app": "ledger" } },
                "template": {
                    "metadata": { "labels": { "app": "ledger" } },
                    "spec": self.restricted_pod("ledger"),
                },
            },
        });
        run_with_input("kubectl", &["apply", "-f", "-"], &manifest.to_string()).await?;
        let workers = self.kubernetes.workers().await?.len();
        until("the ledger pods", Duration::from_secs(90), || async {
            let ready = self.ledger_pods().await?.iter().filter(|pod| is_ready(pod)).count();
            Ok(if ready == workers { Ok(()) } else { Err(format!("{ready} of {workers} are Ready")) })
        })
        .await
    }

    /// The specification of a pod of the ledgers' image, as the namespace demands it. Without a share of the CPU it would
    /// measure how it is starved itself.
    fn restricted_pod(&self, container: &str) -> Value {
        json!({
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": [{
                "name": container, "image": self.settings.ledger_image, "imagePullPolicy": "IfNotPresent",
                "resources": { "requests": { "cpu": "300m" } },
                "securityContext": {
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
                },
            }],
        })
    }

    /// What a person would want to see of a claim that failed. Written to a file, its end also to the terminal.
    pub async fn describe_failure(&self, claim: &str) -> Result<()> {
        let mut report = String::new();
        let namespaced: [&[&str]; 6] = [
            &["-n", NAMESPACE, "get", "pods", "-o", "wide"],
            &["-n", NAMESPACE, "describe", "cacheclusters"],
            &["-n", NAMESPACE, "get", "statefulsets,poddisruptionbudgets"],
            &["get", "nodes"],
            &["-n", OPERATOR_NAMESPACE, "get", "pods", "-o", "wide"],
            &["-n", OPERATOR_NAMESPACE, "logs", "-l", "app.kubernetes.io/component=operator", "--tail=60"],
        ];
        for arguments in namespaced {
            let shown = kubectl(arguments).await.unwrap_or_else(|error| format!("{error:#}"));
            report += &format!("--- kubectl {}\n{shown}\n", arguments.join(" "));
        }
        match self.cache.ring().await {
            Ok(ring) => report += &format!("--- ring\n{}\n", serde_json::to_string_pretty(&ring)?),
            Err(error) => report += &format!("--- no ring: {error:#}\n"),
        }
        for pod in self.cache.pods().await.unwrap_or_default().keys() {
            let logs = kubectl(&["-n", NAMESPACE, "logs", pod, "--tail=200"]).await;
            report += &format!("--- logs of {pod}\n{}\n", logs.unwrap_or_else(|error| format!("{error:#}")));
        }
        std::fs::create_dir_all(&self.settings.out)?;
        let path = self.settings.out.join(format!("failed-{claim}.txt"));
        std::fs::write(&path, &report)?;
        let head: Vec<&str> = report.lines().take(25).collect();
        eprintln!("{}\n... the whole report: {}", head.join("\n"), path.display());
        Ok(())
    }

    /// Skips a claim that needs what only clusters of e2e/cluster offer.
    pub fn needs_nodes_at_hand(&self) -> Result<()> {
        if self.settings.audit_log.is_none() {
            bail!("{SKIPPED}: only on a cluster that e2e/cluster made");
        }
        Ok(())
    }
}

/// How an error that is no failure begins.
pub const SKIPPED: &str = "skipped";
