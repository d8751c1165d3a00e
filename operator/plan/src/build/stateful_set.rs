//! A member as a StatefulSet of one replica. It is written once: what is rendered here for a present member is never
//! applied again, and a change reaches it as a new member.
//!
//! **The rule**: the image is pinned, this program is not. A cluster keeps the image that it was born with, and the next
//! operator renders the StatefulSets of its spares. So whatever is rendered for a spec must start under every image since
//! the first release: an argument, a path, a port or a variable that a later image brings may be rendered only where the
//! spec names a field that came with it, and none that the first image needs may go. `tests/golden/` keeps what the first
//! release renders; a change of it breaks the next spare of every cluster that has an older image.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, HTTPGetAction,
    KeyToPath, ObjectFieldSelector, PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec, PodTemplateSpec,
    Probe, ResourceRequirements, SeccompProfile, SecretVolumeSource, SecurityContext, TopologySpreadConstraint, Volume,
    VolumeMount, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{member_arguments, owned};
use crate::plan::NewMember;
use crate::{Bytes, Spec, names};

/// The user and group of the image.
const USER: i64 = 65_532;
/// How long a member that was asked to end may wait for its replacement.
const GRACE_S: i64 = 600;

/// What a container's memory limit is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberMemory {
    /// `memory.max`: keys and values.
    pub data: Bytes,
    /// A copy evicts nothing by itself and has to hold what its primary holds at any time.
    pub copy_headroom: Bytes,
    /// The log of writes that copies and spares follow.
    pub log: Bytes,
    /// What clients have not read yet.
    pub client_buffers: Bytes,
    /// The program, its threads and the ring.
    pub process: Bytes,
}

impl MemberMemory {
    #[must_use]
    pub fn of(data: Bytes) -> Self {
        Self {
            data,
            copy_headroom: Bytes(data.0 / 4),
            log: Bytes(64 << 20),
            client_buffers: Bytes(64 << 20),
            process: Bytes(128 << 20),
        }
    }

    #[must_use]
    pub fn limit(self) -> Bytes {
        let Self { data, copy_headroom, log, client_buffers, process } = self;
        let parts = [data, copy_headroom, log, client_buffers, process];
        Bytes(parts.iter().fold(0, |sum, part| part.0.saturating_add(sum))).round_up_to_mebibytes()
    }
}

#[must_use]
pub fn stateful_set(spec: &Spec, new: &NewMember) -> StatefulSet {
    let name = spec.member_name(new.member);
    let mut metadata = owned(spec, name);
    let mut labels = metadata.labels.clone().unwrap_or_default();
    labels.extend(labels_of(new));
    metadata.labels = Some(labels.clone());
    metadata.annotations = Some(BTreeMap::from([(names::ANNOTATION_TEMPLATE.to_owned(), spec.template.0.clone())]));
    let mut selector = names::selector(&spec.uid);
    selector.insert(names::LABEL_MEMBER.to_owned(), new.member.to_string());
    StatefulSet {
        metadata,
        spec: Some(StatefulSetSpec {
            replicas: Some(1),
            service_name: Some(names::member_service(&spec.name)),
            selector: LabelSelector { match_labels: Some(selector), ..LabelSelector::default() },
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            revision_history_limit: Some(1),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
                spec: Some(pod(spec, new)),
            },
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

fn labels_of(new: &NewMember) -> BTreeMap<String, String> {
    let holds = if new.shard.is_some() { names::HOLDS_DATA } else { names::HOLDS_VOTE };
    [
        (names::LABEL_MEMBER, new.member.to_string()),
        (names::LABEL_SHARD, names::shard_label(new.shard)),
        (names::LABEL_GENERATION, new.generation.to_string()),
        (names::LABEL_HOLDS, holds.to_owned()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

fn pod(spec: &Spec, new: &NewMember) -> PodSpec {
    let placement = &spec.placement;
    PodSpec {
        containers: vec![container(spec, new)],
        volumes: Some(volumes(spec, new)),
        affinity: Some(affinity(spec, new)),
        topology_spread_constraints: Some(vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: placement.spread.clone(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(peers(spec, new)),
            ..TopologySpreadConstraint::default()
        }]),
        node_selector: Some(placement.node_selector.clone()).filter(|selector| !selector.is_empty()),
        tolerations: Some(placement.tolerations.clone()).filter(|tolerations| !tolerations.is_empty()),
        termination_grace_period_seconds: Some(GRACE_S),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
            ..PodSecurityContext::default()
        }),
        ..PodSpec::default()
    }
}

/// The pods that a member should keep away from: the other copies of its shard. A witness keeps away from everybody.
/// Members of a lost generation hold nothing, and go once the next one has its ring: they must not keep it from nodes.
fn peers(spec: &Spec, new: &NewMember) -> LabelSelector {
    let mut labels = names::selector(&spec.uid);
    if new.shard.is_some() {
        labels.insert(names::LABEL_SHARD.to_owned(), names::shard_label(new.shard));
        labels.insert(names::LABEL_GENERATION.to_owned(), new.generation.to_string());
    }
    LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }
}

fn affinity(spec: &Spec, new: &NewMember) -> Affinity {
    let on_one_node = |labels: LabelSelector| PodAffinityTerm {
        topology_key: "kubernetes.io/hostname".to_owned(),
        label_selector: Some(labels),
        ..PodAffinityTerm::default()
    };
    let weighted = |weight, term| WeightedPodAffinityTerm { weight, pod_affinity_term: term };
    let everybody = LabelSelector { match_labels: Some(names::selector(&spec.uid)), ..LabelSelector::default() };
    let of_shard = on_one_node(peers(spec, new));
    let mut preferred = vec![weighted(10, on_one_node(everybody))];
    let mut required = None;
    if new.own_node_required && new.shard.is_some() {
        required = Some(vec![of_shard]);
    } else {
        preferred.push(weighted(100, of_shard));
    }
    Affinity {
        node_affinity: spec.placement.node_affinity.clone(),
        pod_anti_affinity: Some(PodAntiAffinity {
            required_during_scheduling_ignored_during_execution: required,
            preferred_during_scheduling_ignored_during_execution: Some(preferred),
        }),
        pod_affinity: None,
    }
}

fn container(spec: &Spec, new: &NewMember) -> Container {
    let ports = [("redis", names::CLIENT_PORT), ("peer", names::PEER_PORT), ("http", names::HTTP_PORT)];
    Container {
        name: "node".to_owned(),
        image: Some(spec.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(arguments(spec, new)),
        env: Some(vec![
            from_pod("RINGMASTER_ANNOUNCE_HOST", "status.podIP"),
            from_pod("RINGMASTER_NODE_NAME", "spec.nodeName"),
        ]),
        ports: Some(
            ports
                .map(|(name, number)| ContainerPort {
                    name: Some(name.to_owned()),
                    container_port: i32::from(number),
                    protocol: Some("TCP".to_owned()),
                    ..ContainerPort::default()
                })
                .to_vec(),
        ),
        resources: Some(resources(spec, new)),
        volume_mounts: Some(volume_mounts(spec)),
        liveness_probe: Some(Probe { failure_threshold: Some(6), ..probe("/livez", 10, 5) }),
        readiness_probe: Some(Probe { failure_threshold: Some(2), ..probe("/readyz", 1, 1) }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

fn arguments(spec: &Spec, new: &NewMember) -> Vec<String> {
    let seeds = format!("{}.{}.svc:{}", names::member_service(&spec.name), spec.namespace, names::PEER_PORT);
    let mut arguments = member_arguments(spec, new);
    arguments.extend([
        "--token-file=/etc/ringmaster/ring/token".to_owned(),
        "--data-dir=/data".to_owned(),
        "--bind=0.0.0.0".to_owned(),
        format!("--client-port={}", names::CLIENT_PORT),
        format!("--peer-port={}", names::PEER_PORT),
        format!("--http-port={}", names::HTTP_PORT),
        format!("--seeds={seeds}"),
    ]);
    if spec.password.is_some() {
        arguments.push("--password-file=/etc/ringmaster/auth/password".to_owned());
    }
    arguments
}

fn resources(spec: &Spec, new: &NewMember) -> ResourceRequirements {
    // A witness holds the ring alone.
    let data = if new.shard.is_some() { spec.memory_max } else { Bytes(0) };
    let memory = MemberMemory::of(data).limit().to_string();
    let with_cpu = |cpu: &Option<String>| {
        let memory = ("memory".to_owned(), Quantity(memory.clone()));
        let cpu = cpu.as_ref().map(|cpu| ("cpu".to_owned(), Quantity(cpu.clone())));
        std::iter::once(memory).chain(cpu).collect::<BTreeMap<_, _>>()
    };
    ResourceRequirements {
        requests: Some(with_cpu(&spec.cpu_request)),
        limits: Some(with_cpu(&spec.cpu_limit)),
        claims: None,
    }
}

fn volumes(spec: &Spec, new: &NewMember) -> Vec<Volume> {
    let secret = |name: &str, secret: String, key: &str, path: &str| Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret),
            default_mode: Some(0o440),
            items: Some(vec![KeyToPath { key: key.to_owned(), path: path.to_owned(), mode: None }]),
            optional: None,
        }),
        ..Volume::default()
    };
    let data =
        Volume { name: "data".to_owned(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() };
    let token = secret("ring", names::identity_secret(&spec.name, &spec.uid, new.generation), "token", "token");
    let password = spec.password.as_ref().map(|from| secret("auth", from.name.clone(), &from.key, "password"));
    [data, token].into_iter().chain(password).collect()
}

fn volume_mounts(spec: &Spec) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let password = spec.password.as_ref().map(|_| mount("auth", "/etc/ringmaster/auth", true));
    [mount("data", "/data", false), mount("ring", "/etc/ringmaster/ring", true)].into_iter().chain(password).collect()
}

fn probe(path: &str, period_s: i32, timeout_s: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("http".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_s),
        timeout_seconds: Some(timeout_s),
        ..Probe::default()
    }
}

fn from_pod(name: &str, field: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: field.to_owned(), api_version: None }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}
