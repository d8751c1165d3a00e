//! Reads everything that a plan is made from: members first, objects after them.

use std::collections::BTreeMap;
use std::str::FromStr;

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, Pod, Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, ListParams, ObjectList};
use kube::{Client, ResourceExt};
use ringmaster_plan::Observed;
use ringmaster_plan::crd::CacheCluster;
use ringmaster_plan::names;
use ringmaster_plan::observed::{Birth, Defaults, Identity, Workload};
use ringmaster_ring::{Generation, MemberId};

use super::{ClusterError, seen, within};
use crate::members::{Endpoint, Members};

/// What was observed, and the handles with which to act on it.
pub(crate) struct Sight {
    pub(crate) observed: Observed,
    pub(crate) endpoints: BTreeMap<MemberId, Endpoint>,
    /// The secret of the newest generation.
    pub(crate) token: Option<String>,
    pub(crate) services: Vec<Service>,
    pub(crate) budgets: Vec<PodDisruptionBudget>,
}

pub(crate) async fn observe(
    client: &Client,
    members: &Members,
    cluster: CacheCluster,
    defaults: Defaults,
) -> Result<Sight, ClusterError> {
    let namespace = cluster.namespace().unwrap_or_default();
    let name = cluster.name_any();
    let uid = cluster.uid().unwrap_or_default();
    let selector: Vec<String> = names::selector(&uid).iter().map(|(key, value)| format!("{key}={value}")).collect();
    let params = ListParams::default().labels(&selector.join(","));
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &namespace);
    let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), &namespace);
    let nodes: Api<Node> = Api::all(client.clone());

    let (mine, all) = (params, ListParams::default());
    let endpoints = endpoints(&within("list pods", pods.list(&mine)).await?);
    let statuses = members.statuses(&endpoints).await;
    let ring = members.newest_ring(&endpoints, &statuses).await;
    // Listed again: a boot that the ring knows had its pod before, so a pod that is missing now is gone.
    let (pods, sets, nodes) = tokio::try_join!(
        within("list pods", pods.list(&mine)),
        within("list statefulsets", sets.list(&mine)),
        within("list nodes", nodes.list(&all)),
    )?;
    let (services, budgets, identity) = tokio::try_join!(
        within("list services", services.list(&mine)),
        within("list poddisruptionbudgets", budgets.list(&mine)),
        newest_identity(client, &namespace, &name, &uid),
    )?;
    let (identity, token) = identity.map_or((None, None), |(identity, token)| (Some(identity), Some(token)));
    let birth = match (&identity, &ring) {
        (Some(identity), None) => birth(client, &namespace, &name, &uid, identity.generation).await?,
        _ => None,
    };
    let observed = Observed {
        cluster,
        defaults,
        identity,
        birth,
        workloads: workloads(&pods, &sets),
        nodes: nodes.iter().map(|node| (node.name_any(), seen::node(node))).collect(),
        statuses,
        ring,
    };
    Ok(Sight { observed, endpoints, token, services: services.items, budgets: budgets.items })
}

fn endpoints(pods: &ObjectList<Pod>) -> BTreeMap<MemberId, Endpoint> {
    let with_address = pods.iter().filter_map(|pod| {
        let id = member_of(pod.labels())?;
        let address = pod.status.as_ref()?.pod_ip.as_deref()?;
        Some((id, Endpoint::new(address, names::HTTP_PORT)))
    });
    with_address.collect()
}

fn workloads(pods: &ObjectList<Pod>, sets: &ObjectList<StatefulSet>) -> BTreeMap<MemberId, Workload> {
    let mut workloads: BTreeMap<MemberId, Workload> = BTreeMap::new();
    for set in sets {
        let Some(id) = member_of(set.labels()) else { continue };
        let workload = workloads.entry(id).or_default();
        seen::labelled(workload, set.labels());
        workload.set = Some(seen::stateful_set(set));
    }
    for pod in pods {
        let Some(id) = member_of(pod.labels()) else { continue };
        let workload = workloads.entry(id).or_default();
        seen::labelled(workload, pod.labels());
        workload.pod = Some(seen::pod(pod));
    }
    workloads
}

fn member_of(labels: &BTreeMap<String, String>) -> Option<MemberId> {
    labels.get(names::LABEL_MEMBER)?.parse().ok()
}

/// Secrets may be read by name only, so the generations are tried one after the other.
async fn newest_identity(
    client: &Client,
    namespace: &str,
    name: &str,
    uid: &str,
) -> Result<Option<(Identity, String)>, ClusterError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut newest = None;
    let mut generation = Generation(1);
    loop {
        let secret_name = names::identity_secret(name, uid, generation);
        let Some(secret) = within("get secret", secrets.get_opt(&secret_name)).await? else { return Ok(newest) };
        let Some(found) = identity_of(&secret) else {
            return Err(ClusterError::Undecodable { name: secret_name, why: "a key is missing or wrong".to_owned() });
        };
        newest = Some(found);
        generation = generation.next();
    }
}

fn identity_of(secret: &Secret) -> Option<(Identity, String)> {
    let data = secret.data.as_ref()?;
    let identity = Identity {
        uuid: field(data, "uuid")?,
        generation: field(data, "generation")?,
        first_serial: field(data, "firstSerial")?,
        image: field(data, "image")?,
    };
    Some((identity, field(data, "token")?))
}

async fn birth(
    client: &Client,
    namespace: &str,
    name: &str,
    uid: &str,
    generation: Generation,
) -> Result<Option<Birth>, ClusterError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret_name = names::birth_secret(name, uid, generation);
    let Some(secret) = within("get secret", secrets.get_opt(&secret_name)).await? else { return Ok(None) };
    let birth = secret.data.as_ref().and_then(|data| {
        Some(Birth {
            generation: field(data, "generation")?,
            founder: field(data, "founder")?,
            voter: field(data, "voter")?,
        })
    });
    // A record that cannot be read is not "no record".
    birth.map(Some).ok_or(ClusterError::Undecodable { name: secret_name, why: "a key is missing or wrong".to_owned() })
}

fn field<T: FromStr>(data: &BTreeMap<String, ByteString>, key: &str) -> Option<T> {
    std::str::from_utf8(&data.get(key)?.0).ok()?.trim().parse().ok()
}
