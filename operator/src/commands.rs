//! The commands that talk to Kubernetes, beside the controller's own.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use kube::core::CustomResourceExt;
use kube::{Client, Config};
use ringmaster_plan::Timestamp;
use ringmaster_plan::crd::{CacheCluster, CacheClusterStatus};
use ringmaster_plan::observed::Defaults;
use tracing_subscriber::EnvFilter;

use crate::members::Members;
use crate::{cluster, controller};

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The node's image for clusters that name none and are made from now on.
    #[arg(long, env = "RINGMASTER_NODE_IMAGE", default_value = "")]
    node_image: String,
    /// Look after this namespace only. Default: all.
    #[arg(long, env = "RINGMASTER_NAMESPACE")]
    namespace: Option<String>,
    /// Where the Lease is kept.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    lease_namespace: String,
    /// By which name this process holds the Lease.
    #[arg(long, env = "POD_NAME", default_value = "ringmaster")]
    identity: String,
    /// Where metrics and health are served.
    #[arg(long, env = "RINGMASTER_LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// What is logged, as `info` or `ringmaster=debug,info`.
    #[arg(long, env = "RINGMASTER_LOG", default_value = "info")]
    log: String,
}

#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The CacheCluster's name.
    name: String,
    /// Its namespace. Default: that of the current context.
    #[arg(long, short)]
    namespace: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    target: Target,
    /// Plan as if this CacheCluster were applied.
    #[arg(long, short)]
    file: Option<PathBuf>,
}

pub(crate) fn run(options: Run) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(&options.log)?)
        .with_target(false)
        .with_ansi(std::io::stdout().is_terminal())
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let Run { node_image, namespace, lease_namespace, identity, listen, log: _ } = options;
    runtime.block_on(async {
        let client = client().await?;
        controller::check_resource(&client, namespace.as_deref()).await?;
        let defaults = Defaults { image: node_image };
        // Two processes of one name must not take each other for themselves.
        let identity = format!("{identity}-{:08x}", rand::random::<u32>());
        controller::run(client, controller::Options { namespace, lease_namespace, identity, listen, defaults }).await
    })
}

pub(crate) fn plan(options: &Plan) -> anyhow::Result<()> {
    blocking(async {
        let client = client().await?;
        let mut cluster = read(&client, &options.target).await?;
        if let Some(path) = &options.file {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let wanted: CacheCluster = serde_yaml::from_str(&text).with_context(|| path.display().to_string())?;
            cluster.spec = wanted.spec;
        }
        let defaults = Defaults { image: OPERATORS_IMAGE.to_owned() };
        let sight = cluster::observe(&client, &Members::new(), cluster, defaults).await?;
        print!("{}", planned(&ringmaster_plan::plan(&sight.observed, Timestamp::now())));
        Ok(())
    })
}

/// Stands for the image that the operator brings, which is not known here: nothing is made from it.
const OPERATORS_IMAGE: &str = "the operator's own image";

/// What would be done, and what keeps the rest from being done: a specification that is not usable among it.
fn planned(plan: &ringmaster_plan::Plan) -> String {
    let mut text = String::new();
    if plan.steps.is_empty() {
        text.push_str("Nothing would be done now.\n");
    }
    for note in &plan.steps {
        text.push_str(&format!("{:<18} {}\n", cluster::kind(&note.step), note.why));
    }
    let is_settled = |reason: &str| ["Settled", "Working", "Replacing"].contains(&reason);
    for condition in plan.status.conditions.iter().filter(|c| c.type_ == "Progressing" && !is_settled(&c.reason)) {
        text.push_str(&format!("{}: {}\n", condition.reason, condition.message));
    }
    text + &waiting(&plan.status)
}

pub(crate) fn status(target: &Target) -> anyhow::Result<()> {
    blocking(async {
        let client = client().await?;
        let cluster = read(&client, target).await?;
        let status = cluster.status.unwrap_or_default();
        println!(
            "shards serving {}, copies {}, image {}\n",
            status.shards.summary, status.copies.summary, status.image
        );
        println!("{:<24} {:<6} {:<8} {:<10} {:<14} NODE", "MEMBER", "SHARD", "ROLE", "STATE", "ZONE");
        for member in &status.members {
            let shard = member.shard.map(|shard| shard.to_string()).unwrap_or_default();
            let (role, state) = (format!("{:?}", member.role), format!("{:?}", member.state));
            println!("{:<24} {shard:<6} {role:<8} {state:<10} {:<14} {}", member.name, member.zone, member.node);
        }
        println!("{}", waiting(&status));
        for condition in &status.conditions {
            println!("{:<12} {:<6} {}: {}", condition.type_, condition.status, condition.reason, condition.message);
        }
        Ok(())
    })
}

pub(crate) fn crd() -> anyhow::Result<()> {
    print!("{}", serde_yaml::to_string(&CacheCluster::crd())?);
    Ok(())
}

fn waiting(status: &CacheClusterStatus) -> String {
    let lines = status.replacing.iter().map(|replacement| {
        let spare = Some(replacement.spare.as_str()).filter(|spare| !spare.is_empty()).unwrap_or("no spare yet");
        let (member, reason, waiting_for) = (&replacement.member, &replacement.reason, &replacement.waiting_for);
        format!("replacing {member} ({reason}) by {spare}: waits for {waiting_for}\n")
    });
    lines.collect()
}

async fn client() -> anyhow::Result<Client> {
    let mut config = Config::infer().await?;
    // Every look begins anew within a second or two: hidden retries would only make it late.
    config.default_retry = false;
    // Watches end after less than five minutes by themselves; one that is silent for longer is a dead connection.
    config.read_timeout = Some(std::time::Duration::from_secs(300));
    Ok(Client::try_from(config)?)
}

async fn read(client: &Client, target: &Target) -> anyhow::Result<CacheCluster> {
    let namespace = target.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let found = cluster::read(client, &namespace, &target.name).await?;
    found.ok_or_else(|| anyhow::anyhow!("there is no CacheCluster {} in namespace {namespace}", target.name))
}

fn blocking(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringmaster_plan::Observed;

    fn plan_of(spec: &str) -> String {
        let mut cluster = CacheCluster::new("sessions", serde_yaml::from_str(spec).unwrap());
        cluster.metadata.uid = Some("6f1e5a4c-0000-4000-8000-000000000001".to_owned());
        let observed = Observed {
            cluster,
            defaults: Defaults { image: OPERATORS_IMAGE.to_owned() },
            identity: None,
            birth: None,
            workloads: Default::default(),
            nodes: Default::default(),
            statuses: Default::default(),
            ring: None,
        };
        planned(&ringmaster_plan::plan(&observed, Timestamp::UNIX_EPOCH))
    }

    #[test]
    fn a_plan_for_a_cluster_that_is_not_born_says_how_it_begins() {
        assert_eq!(plan_of("{shards: 1, copies: 2}"), "IdentityWritten    Writing down the identity of the ring.\n");
    }

    #[test]
    fn a_plan_for_a_specification_that_is_not_usable_says_what_is_wrong_with_it() {
        let text = plan_of("{shards: 0, copies: 2}");
        assert!(text.contains("InvalidSpec: spec.shards: must lie between 1 and 200"), "{text}");
    }
}
