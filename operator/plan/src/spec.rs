//! Parse, don't validate: a `CacheCluster` becomes a [`Spec`], the only form of it that anything else reads.

use ringmaster_ring::{Acks, ClusterUuid, OnDataLoss, Settings, ShardId};

use crate::crd::{self, CacheCluster, OnCordon};
use crate::{Bytes, TemplateHash, names};

/// What a user asked for, with every default filled in and every number in its type.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub uuid: ClusterUuid,
    pub observed_generation: i64,
    pub shards: u16,
    pub copies: u16,
    pub image: String,
    pub template: TemplateHash,
    pub memory_max: Bytes,
    pub policy: crd::EvictionPolicy,
    pub cpu_request: Option<String>,
    pub cpu_limit: Option<String>,
    /// None: the node decides.
    pub threads: Option<u16>,
    pub min_in_sync: u16,
    pub acks: Acks,
    pub on_data_loss: OnDataLoss,
    pub copy_lag_ms_max: u32,
    pub placement: crd::PlacementRules,
    pub on_cordon: OnCordon,
    pub surge_max: usize,
    pub repair_after_s: u32,
    pub linger_s: u32,
    pub sync_bytes_per_second: Option<Bytes>,
    pub password: Option<crd::SecretKey>,
    pub cluster_mode: bool,
}

/// Something in the resource that the operator cannot act on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Problem {
    pub field: &'static str,
    pub why: String,
}

/// The greatest number of members that a cluster may ask for.
pub const MEMBERS_MAX: i32 = 400;
/// Names of pods and Services add a suffix to the cluster's, within 63 characters.
pub const NAME_LENGTH_MAX: usize = 40;

impl Spec {
    /// Reads a resource. `image` is what is in force where the resource names none.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn of(cluster: &CacheCluster, image: &str) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut no = |field: &'static str, why: &str| problems.push(Problem { field, why: why.to_owned() });
        let meta = &cluster.metadata;
        let spec = &cluster.spec;
        let name = meta.name.clone().unwrap_or_default();
        let uid = meta.uid.clone().unwrap_or_default();
        let uuid = parse_uid(&uid);
        if uuid.is_none() {
            no("metadata.uid", "is no UUID");
        }
        let is_label = name.starts_with(|c: char| c.is_ascii_lowercase())
            && !name.ends_with('-')
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if name.len() > NAME_LENGTH_MAX || !is_label {
            no("metadata.name", "must be at most 40 lower-case letters, digits and '-', and begin with a letter");
        }
        if !(1..=200).contains(&spec.shards) {
            no("spec.shards", "must lie between 1 and 200");
        }
        if !(1..=5).contains(&spec.copies) {
            no("spec.copies", "must lie between 1 and 5, the primary included");
        }
        if spec.shards.saturating_mul(spec.copies) > MEMBERS_MAX {
            no("spec.shards", "times spec.copies must be at most 400");
        }
        if !spec.cluster_mode && spec.shards != 1 {
            no("spec.clusterMode", "false needs shards: 1");
        }
        let consistency = &spec.consistency;
        if !(1..=spec.copies.max(1)).contains(&consistency.min_in_sync) {
            no("spec.consistency.minInSync", "must lie between 1 and copies");
        }
        let maintenance = &spec.maintenance;
        if maintenance.max_surge < 1 {
            no("spec.maintenance.maxSurge", "must be at least 1");
        }
        let memory_max = Bytes::parse(&spec.memory.max).ok().filter(|max| *max >= Bytes(16 << 20));
        if memory_max.is_none() {
            no("spec.memory.max", "must be a quantity of at least 16Mi, for example 1Gi");
        }
        let sync_limit = Some(maintenance.sync_bytes_per_second.as_str()).filter(|limit| !limit.is_empty());
        let sync_bytes_per_second = sync_limit.map(Bytes::parse).transpose();
        if sync_bytes_per_second.is_err() {
            no("spec.maintenance.syncBytesPerSecond", "must be empty or a quantity such as 50Mi");
        }
        let image = Some(spec.image.as_str()).filter(|own| !own.is_empty()).unwrap_or(image);
        if image.is_empty() {
            no("spec.image", "is empty, and the operator was started without a default: name one");
        }
        let (Some(uuid), Some(memory_max), Ok(sync_bytes_per_second), true) =
            (uuid, memory_max, sync_bytes_per_second, problems.is_empty())
        else {
            return Err(problems);
        };
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Ok(Self {
            name,
            namespace: meta.namespace.clone().unwrap_or_default(),
            uid,
            uuid,
            observed_generation: meta.generation.unwrap_or_default(),
            shards: narrow(spec.shards),
            copies: narrow(spec.copies),
            image: image.to_owned(),
            template: TemplateHash::of(spec, image),
            memory_max,
            policy: spec.memory.policy,
            cpu_request: some(&spec.resources.requests.cpu),
            cpu_limit: some(&spec.resources.limits.cpu),
            threads: Some(narrow(spec.threads)).filter(|threads| *threads > 0),
            min_in_sync: narrow(consistency.min_in_sync),
            acks: match consistency.acks {
                crd::Acks::InSync => Acks::InSync,
                crd::Acks::Primary => Acks::Primary,
            },
            on_data_loss: match consistency.on_data_loss {
                crd::OnDataLoss::Wait => OnDataLoss::Wait,
                crd::OnDataLoss::StartEmpty => OnDataLoss::StartEmpty,
            },
            copy_lag_ms_max: u32::try_from(consistency.copy_lag_ms).unwrap_or(1_000).max(1),
            placement: spec.placement.clone(),
            on_cordon: maintenance.on_cordon,
            surge_max: usize::from(narrow(maintenance.max_surge)),
            repair_after_s: u32::try_from(maintenance.repair_after_seconds).unwrap_or(1).max(1),
            linger_s: u32::try_from(maintenance.linger_seconds).unwrap_or(0),
            sync_bytes_per_second,
            password: spec.auth.password_secret.clone(),
            cluster_mode: spec.cluster_mode,
        })
    }

    pub fn shard_ids(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.shards).map(ShardId)
    }

    /// Two members that hold data cannot tell who of them is cut off: they get a third vote.
    #[must_use]
    pub fn wants_witness(&self) -> bool {
        u32::from(self.shards) * u32::from(self.copies) == 2
    }

    /// The ring's settings, but for what `present` says that users have no word in. Copies stay as they are: when they
    /// change is a decision of its own.
    #[must_use]
    pub fn settings(&self, present: &Settings) -> Settings {
        Settings {
            copies: present.copies,
            min_in_sync: self.min_in_sync.min(present.copies),
            acks: self.acks,
            on_data_loss: self.on_data_loss,
            copy_lag_ms_max: self.copy_lag_ms_max,
            linger_s: self.linger_s,
            ..present.clone()
        }
    }

    #[must_use]
    pub fn member_name(&self, member: ringmaster_ring::MemberId) -> String {
        names::member(&self.name, member)
    }
}

/// A UID as Kubernetes writes it: a UUID with or without hyphens.
#[must_use]
pub fn parse_uid(uid: &str) -> Option<ClusterUuid> {
    let digits: String = uid.chars().filter(|c| *c != '-').collect();
    if digits.len() == 32 { digits.parse().ok() } else { None }
}

fn narrow(number: i32) -> u16 {
    u16::try_from(number.max(0)).unwrap_or(u16::MAX)
}
