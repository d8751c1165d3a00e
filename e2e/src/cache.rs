//! One CacheCluster as its user sees it: applied by kubectl, read by its status and its ring.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use ringmaster_ring::{MemberId, MemberStatus, Ring, ShardId};
use serde_json::Value;

use crate::kubernetes::{Kubernetes, is_ready};
use crate::settings::NAMESPACE;
use crate::tools::{kubectl, run_with_input, until};

/// A cluster by its name.
#[derive(Clone, Debug)]
pub struct Cache {
    pub name: String,
    kubernetes: Kubernetes,
}

impl Cache {
    #[must_use]
    pub fn new(kubernetes: &Kubernetes, name: &str) -> Self {
        Self { name: name.to_owned(), kubernetes: kubernetes.clone() }
    }

    /// Applies a manifest of it.
    pub async fn apply(&self, spec: &Value) -> Result<()> {
        let manifest = serde_json::json!({
            "apiVersion": "cache.ringmaster.dev/v1alpha1",
            "kind": "CacheCluster",
            "metadata": { "name": self.name, "namespace": NAMESPACE },
            "spec": spec,
        });
        run_with_input("kubectl", &["apply", "-f", "-"], &manifest.to_string()).await?;
        Ok(())
    }

    /// Changes its spec by a merge patch.
    pub async fn patch(&self, spec: &Value) -> Result<()> {
        let patch = serde_json::json!({ "spec": spec }).to_string();
        kubectl(&["-n", NAMESPACE, "patch", "cachecluster", &self.name, "--type=merge", "-p", &patch]).await?;
        Ok(())
    }

    pub async fn delete(&self) -> Result<()> {
        kubectl(&["-n", NAMESPACE, "delete", "cachecluster", &self.name, "--ignore-not-found", "--wait"]).await?;
        until(&format!("the pods of {} to end", self.name), Duration::from_secs(60), || async {
            let pods = self.pods().await?;
            Ok(if pods.is_empty() { Ok(()) } else { Err(format!("{:?} are left", pods.keys())) })
        })
        .await
    }

    /// The whole object, or null.
    pub async fn object(&self) -> Result<Value> {
        let text =
            kubectl(&["-n", NAMESPACE, "get", "cachecluster", &self.name, "--ignore-not-found", "-o", "json"]).await?;
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        Ok(serde_json::from_str(&text)?)
    }

    pub async fn pods(&self) -> Result<BTreeMap<String, Pod>> {
        self.kubernetes.members(&self.name).await
    }

    /// Waits until all that was asked for is there: spec observed, every shard at its copies, nothing being replaced, no
    /// pod but those of members.
    pub async fn settled(&self, patience: Duration) -> Result<()> {
        until(&format!("{} to settle", self.name), patience, || async {
            let object = self.object().await?;
            if let Some(why) = unsettled(&object) {
                return Ok(Err(why));
            }
            let pods = self.pods().await?;
            let members = object["status"]["members"].as_array().map_or(0, Vec::len);
            if pods.len() != members || !pods.values().all(is_ready) {
                let ready = pods.values().filter(|pod| is_ready(pod)).count();
                return Ok(Err(format!("{members} members, {} pods, {ready} of them Ready", pods.len())));
            }
            Ok(Ok(()))
        })
        .await
    }

    /// Waits until a condition has a status, and gives its reason and message.
    pub async fn condition(&self, kind: &str, status: &str, patience: Duration) -> Result<(String, String)> {
        until(&format!("condition {kind}={status} of {}", self.name), patience, || async {
            let object = self.object().await?;
            Ok(match condition(&object, kind) {
                Some(found) if found["status"] == status => {
                    Ok((text(&found["reason"]).to_owned(), text(&found["message"]).to_owned()))
                }
                other => Err(format!("it is {}", other.unwrap_or(&Value::Null))),
            })
        })
        .await
    }

    /// The ring as the first member that answers knows it.
    pub async fn ring(&self) -> Result<Ring> {
        let mut last = anyhow::anyhow!("{} has no pods", self.name);
        for pod in self.pods().await?.keys() {
            match self.ask(pod, "v1/ring").await {
                Ok(body) => return serde_json::from_str(&body).context("the ring cannot be read"),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub async fn status_of(&self, pod: &str) -> Result<MemberStatus> {
        serde_json::from_str(&self.ask(pod, "v1/status").await?).context("a status cannot be read")
    }

    async fn ask(&self, pod: &str, path: &str) -> Result<String> {
        let url = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}:8379/proxy/{path}");
        // A frozen member never answers; another one is asked then.
        kubectl(&["get", "--raw", &url, "--request-timeout=2s"]).await
    }

    /// The pod of a member.
    #[must_use]
    pub fn pod_name(&self, member: MemberId) -> String {
        format!("{}-{member}-0", self.name)
    }

    pub async fn pod(&self, member: MemberId) -> Result<Pod> {
        let name = self.pod_name(member);
        self.kubernetes.pods().get(&name).await.with_context(|| format!("pod {name}"))
    }

    /// The member that leads the ring, as its members say.
    pub async fn ring_leader(&self) -> Result<MemberId> {
        for pod in self.pods().await?.keys() {
            if let Ok(status) = self.status_of(pod).await
                && let Some(leader) = status.ring_leader
            {
                return Ok(leader);
            }
        }
        anyhow::bail!("no member of {} knows a leader of the ring", self.name)
    }

    /// The primary of a shard and one of its copies.
    pub async fn primary_and_copy(&self, shard: u16) -> Result<(MemberId, MemberId)> {
        let ring = self.ring().await?;
        let state = ring.shards.get(&ShardId(shard)).with_context(|| format!("no shard {shard}"))?;
        let primary = state.primary.member;
        let copy =
            state.in_sync.keys().find(|id| **id != primary).with_context(|| format!("shard {shard} has no copy"))?;
        Ok((primary, *copy))
    }
}

/// What is still missing, by the status alone.
fn unsettled(object: &Value) -> Option<String> {
    let status = &object["status"];
    if status["observedGeneration"] != object["metadata"]["generation"] {
        return Some(format!("its status is of generation {}", status["observedGeneration"]));
    }
    for kind in ["Ready", "Redundant"] {
        match condition(object, kind) {
            Some(condition) if condition["status"] == "True" => {}
            other => return Some(format!("{kind} is {}", other.unwrap_or(&Value::Null))),
        }
    }
    if let Some(replacing) = status["replacing"].as_array()
        && !replacing.is_empty()
    {
        return Some(format!("replacing {}", status["replacing"]));
    }
    let count = |of: &str, what: &str| status[of][what].as_i64().unwrap_or(-1);
    if count("copies", "fewest") < object["spec"]["copies"].as_i64().unwrap_or(i64::MAX) {
        return Some(format!("copies: {}", status["copies"]));
    }
    let members = status["members"].as_array();
    let odd = members.into_iter().flatten().find(|member| member["state"] != "InSync");
    odd.map(|member| format!("member {member}"))
}

#[must_use]
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
