//! Decides *when* a cluster is looked at: at changes of its objects and of what matters about nodes, soon while
//! something is under way, and now and then in any case. What is done then is `cluster`'s.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::controller::{Action, Config as ControllerConfig};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, watcher};
use kube::runtime::{Controller, PredicateConfig, WatchStreamExt, reflector};
use kube::{Client, Resource, ResourceExt};
use ringmaster_plan::crd::CacheCluster;
use ringmaster_plan::names;
use ringmaster_plan::observed::Defaults;

use crate::cluster::{self, ClusterError, Context, Outcome, Tokens};
use crate::lease::Elector;
use crate::members::Members;
use crate::metrics::{self, Metrics};

/// The next look when something was changed: the step that follows may be due.
const SOON: Duration = Duration::from_millis(200);
/// The next look while something is under way.
const WHILE_BUSY: Duration = Duration::from_secs(1);
/// The next look at a settled cluster.
const IN_ANY_CASE: Duration = Duration::from_secs(30);
/// The next look after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(2);
/// Events that come within this time lead to one look.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Clusters looked at at the same time.
const CONCURRENCY: u16 = 8;

/// How to run.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// None: every namespace.
    pub(crate) namespace: Option<String>,
    /// Where the Lease is kept.
    pub(crate) lease_namespace: String,
    pub(crate) identity: String,
    pub(crate) listen: SocketAddr,
    pub(crate) defaults: Defaults,
}

type Trigger = PartialObjectMeta<CacheCluster>;

/// Runs until the process is asked to end, or the Lease is lost.
pub(crate) async fn run(client: Client, options: Options) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::new());
    let serve = tokio::spawn(metrics::serve(options.listen, metrics.clone()));
    let mut elector =
        Elector::new(client.clone(), &options.lease_namespace, "ringmaster-operator", options.identity.clone());
    let mut ended = std::pin::pin!(asked_to_end());
    tokio::select! {
        () = elector.acquire() => {}
        end = &mut ended => return end,
    }
    tracing::info!(identity = %options.identity, "leads");
    metrics.leads(true);
    let context = Context {
        client: client.clone(),
        members: Members::new(),
        recorder: Recorder::new(
            client.clone(),
            Reporter { controller: names::MANAGER.to_owned(), instance: Some(options.identity.clone()) },
        ),
        metrics: metrics.clone(),
        defaults: options.defaults.clone(),
        tokens: Tokens::default(),
    };
    let result = tokio::select! {
        () = control(client, &options, context) => Err(anyhow::anyhow!("the watches ended")),
        // Whoever holds the Lease may act by now, so nothing more is done: the process ends.
        () = elector.hold() => Err(anyhow::anyhow!("the Lease is lost")),
        end = &mut ended => end,
        served = serve => Err(anyhow::anyhow!("{}: {served:?}", options.listen)),
    };
    metrics.leads(false);
    elector.release().await;
    result
}

async fn asked_to_end() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn control(client: Client, options: &Options, context: Context) {
    let of_cluster = watcher::Config::default().labels("app.kubernetes.io/component=cache");
    let namespace = options.namespace.as_deref();
    let (clusters_store, writer) = reflector::store();
    // Only the metadata of clusters: one that cannot be decoded must not stop the watch of all.
    let clusters = watcher(scoped::<Trigger>(&client, namespace), watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .touched_objects();
    let sets = watcher(scoped::<PartialObjectMeta<StatefulSet>>(&client, namespace), of_cluster.clone());
    let services = watcher(scoped::<PartialObjectMeta<Service>>(&client, namespace), of_cluster.clone());
    let budgets = watcher(scoped::<PartialObjectMeta<PodDisruptionBudget>>(&client, namespace), of_cluster.clone());
    let pods = watcher(scoped::<Pod>(&client, namespace), of_cluster)
        .default_backoff()
        .touched_objects()
        .predicate_filter(what_matters_of_pods, PredicateConfig::default());
    let nodes = watcher(Api::<Node>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .touched_objects()
        .predicate_filter(what_matters_of_nodes, PredicateConfig::default())
        .filter_map(|node| std::future::ready(node.ok().map(drop)));
    let context = Arc::new(context);
    Controller::for_stream(clusters, clusters_store)
        .with_config(ControllerConfig::default().debounce(DEBOUNCE).concurrency(CONCURRENCY))
        .owns_stream(sets.default_backoff().touched_objects())
        .owns_stream(services.default_backoff().touched_objects())
        .owns_stream(budgets.default_backoff().touched_objects())
        .watches_stream(pods, |pod| cluster_of(&pod))
        .reconcile_all_on(nodes)
        .run(reconcile, after_failure, context.clone())
        .for_each(|result| {
            match result {
                // A failure was said where it happened.
                Ok(_) | Err(kube::runtime::controller::Error::ReconcilerFailed(..)) => {}
                // Members outlive their cluster, and are told that they need not wait.
                Err(kube::runtime::controller::Error::ObjectNotFound(gone)) => {
                    let context = context.clone();
                    tokio::spawn(async move {
                        let namespace = gone.namespace.unwrap_or_default();
                        if let Err(error) = cluster::reconcile(&context, &namespace, &gone.name).await {
                            tracing::warn!(cluster = %gone.name, %namespace, %error, "members of a deleted cluster");
                        }
                    });
                }
                Err(error) => tracing::warn!(%error, "watching"),
            }
            std::future::ready(())
        })
        .await;
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

async fn reconcile(cluster: Arc<Trigger>, context: Arc<Context>) -> Result<Action, ClusterError> {
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let outcome = cluster::reconcile(&context, &namespace, &name).await?;
    context.metrics.reconciled(outcome.failed.unwrap_or("ok"));
    Ok(match outcome {
        Outcome { changed: true, .. } => Action::requeue(SOON),
        Outcome { failed: Some(_), .. } => Action::requeue(AFTER_FAILURE),
        Outcome { busy: true, .. } => Action::requeue(WHILE_BUSY),
        Outcome { .. } => Action::requeue(IN_ANY_CASE),
    })
}

fn after_failure(cluster: Arc<Trigger>, error: &ClusterError, context: Arc<Context>) -> Action {
    context.metrics.reconciled(error.kind());
    tracing::warn!(cluster = %cluster.name_any(), namespace = ?cluster.namespace(), %error, "will be tried again");
    match error {
        // Only a change of the resource helps; it wakes us up.
        ClusterError::Undecodable { .. } => Action::requeue(IN_ANY_CASE),
        ClusterError::Api(_) | ClusterError::Timeout(_) | ClusterError::NameTaken { .. } => {
            Action::requeue(AFTER_FAILURE)
        }
    }
}

fn cluster_of(pod: &Pod) -> Option<ObjectRef<Trigger>> {
    let name = pod.labels().get("app.kubernetes.io/instance")?;
    Some(ObjectRef::new(name).within(&pod.namespace()?))
}

/// Kubelets write a node every few seconds. What a plan depends on changes rarely.
fn what_matters_of_nodes(node: &Node) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    format!("{:?}", cluster::node(node)).hash(&mut hasher);
    Some(hasher.finish())
}

fn what_matters_of_pods(pod: &Pod) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    format!("{:?}", cluster::pod(pod)).hash(&mut hasher);
    pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()).hash(&mut hasher);
    Some(hasher.finish())
}

/// Whether the API server knows `CacheCluster`s: said at the start rather than found out from a watch that fails.
pub(crate) async fn check_resource(client: &Client, namespace: Option<&str>) -> anyhow::Result<()> {
    let api = scoped::<CacheCluster>(client, namespace);
    let listed = api.list_metadata(&kube::api::ListParams::default().limit(1)).await;
    listed.map(drop).map_err(|error| anyhow::anyhow!("CacheClusters cannot be listed (is the CRD installed?): {error}"))
}
