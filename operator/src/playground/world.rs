//! The playground's world: pretend nodes, the processes on them, and the steps of plans done to them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use rand::Rng;
use ringmaster_plan::crd::{CacheCluster, CacheClusterStatus};
use ringmaster_plan::observed::{Birth, Defaults, Identity, Node};
use ringmaster_plan::{NewMember, Observed, Spec, Step, Timestamp, names};
use ringmaster_ring::{MemberId, MemberStatus, Ring};

use super::kubelet::Kubelet;
use crate::members::{Endpoint, Members};

/// Stands for the program that runs the playground.
pub(super) const IMAGE: &str = "this-program";
const NODES: [(&str, &str); 4] = [("node1", "zone-1"), ("node2", "zone-2"), ("node3", "zone-3"), ("node4", "zone-3")];

pub(super) struct World {
    cluster: CacheCluster,
    identity: Option<Identity>,
    birth: Option<Birth>,
    token: String,
    nodes: BTreeMap<String, Node>,
    kubelet: Kubelet,
    members: Members,
    /// What was observed last.
    statuses: BTreeMap<MemberId, MemberStatus>,
    ring: Option<Ring>,
    folder: PathBuf,
}

impl World {
    pub(super) fn new(mut cluster: CacheCluster, port: u16) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("ringmaster-playground-{}", std::process::id()));
        private_folder(&folder)?;
        let token: [u8; 32] = rand::thread_rng().r#gen();
        let token: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
        let token_file = folder.join("token");
        std::fs::write(&token_file, &token).with_context(|| token_file.display().to_string())?;
        if cluster.spec.auth.password_secret.take().is_some() {
            eprintln!("There are no Secrets here: the playground asks for no password.");
        }
        let nodes = NODES.iter().map(|(name, zone)| {
            let labels = BTreeMap::from([(cluster.spec.placement.spread.clone(), (*zone).to_owned())]);
            ((*name).to_owned(), Node { labels, ready: true, ..Node::default() })
        });
        Ok(Self {
            identity: None,
            birth: None,
            token,
            nodes: nodes.collect(),
            kubelet: Kubelet::new(folder.clone(), token_file, port),
            members: Members::new(),
            statuses: BTreeMap::new(),
            ring: None,
            folder,
            cluster,
        })
    }

    /// The members first, the processes after them, as on Kubernetes.
    pub(super) async fn observe(&mut self) -> Observed {
        let endpoints = self.kubelet.endpoints();
        self.statuses = self.members.statuses(&endpoints).await;
        self.ring = self.members.newest_ring(&endpoints, &self.statuses).await;
        self.kubelet.tend(&self.nodes).await;
        self.kubelet.note_readiness(&self.statuses, self.ring.as_ref());
        Observed {
            cluster: self.cluster.clone(),
            defaults: Defaults { image: IMAGE.to_owned() },
            identity: self.identity.clone(),
            birth: self.birth,
            workloads: self.kubelet.workloads(),
            nodes: self.nodes.clone(),
            statuses: self.statuses.clone(),
            ring: self.ring.clone(),
        }
    }

    pub(super) async fn take(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::CreateIdentity(identity) => {
                if self.identity.as_ref().is_none_or(|present| present.generation < identity.generation) {
                    self.identity = Some(identity.clone());
                    self.birth = None;
                }
            }
            Step::RecordBirth(birth) => {
                self.birth.get_or_insert(*birth);
            }
            Step::CreateMember(new) => self.create(new)?,
            Step::DeleteMember { member, uid } => self.kubelet.delete(*member, uid),
            Step::Form { founder, formation } => {
                let endpoints = self.kubelet.endpoints();
                let endpoint = endpoints.get(founder).context("the founder has no address")?;
                self.members.form(endpoint, &self.token, formation).await?;
            }
            Step::Propose(command) => {
                let endpoint = self.leader().context("no member knows the ring")?;
                self.members.propose(&endpoint, &self.token, command).await?;
            }
        }
        Ok(())
    }

    pub(super) fn cordon(&mut self, name: &str, cordoned: bool) -> Result<(), String> {
        let known: Vec<String> = self.nodes.keys().cloned().collect();
        let node = self.nodes.get_mut(name).ok_or(format!("there is no {name}, only {}", known.join(", ")))?;
        node.unschedulable = cordoned;
        Ok(())
    }

    pub(super) fn is_cordoned(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|node| node.unschedulable)
    }

    pub(super) fn show_status(&mut self, status: CacheClusterStatus) {
        self.cluster.status = Some(status);
    }

    pub(super) fn status(&self) -> CacheClusterStatus {
        self.cluster.status.clone().unwrap_or_default()
    }

    pub(super) fn member_status(&self, name: &str) -> Option<&MemberStatus> {
        let cluster = self.cluster.metadata.name.as_deref().unwrap_or_default();
        self.statuses.iter().find(|(id, _)| names::member(cluster, **id) == name).map(|(_, status)| status)
    }

    /// What it does in the consensus that holds the ring.
    pub(super) fn part_in_ring(&self, name: &str) -> &'static str {
        let (Some(ring), Some(status)) = (&self.ring, self.member_status(name)) else { return "" };
        let leader = self.statuses.values().filter_map(|status| status.ring_epoch.zip(status.ring_leader)).max();
        match ring.voters.contains(&status.presence.voter) {
            true if leader.is_some_and(|(_, leader)| leader == status.member) => "leads",
            true => "votes",
            false => "",
        }
    }

    /// Process id and port for clients.
    pub(super) fn process(&self, name: &str) -> Option<(u32, u16)> {
        let cluster = self.cluster.metadata.name.as_deref().unwrap_or_default();
        self.kubelet.process(|id| names::member(cluster, id) == name)
    }

    /// Where clients may begin: a member that is ready and not about to go.
    pub(super) fn entrance(&self) -> Option<u16> {
        let ring = self.ring.as_ref()?;
        let lasting = ring.members.iter().filter(|(id, member)| {
            member.is_active() && member.shard.is_some() && !member.leaving && ring.spare_of(**id).is_none()
        });
        let holds = lasting.filter(|(id, member)| {
            member.boot().is_some_and(|boot| ring.is_ready(ringmaster_ring::Holder { member: **id, boot }))
        });
        holds.filter_map(|(_, member)| member.present.as_ref()).map(|present| present.address.client_port).next()
    }

    /// Ends every process and removes what was written.
    pub(super) async fn end(mut self) {
        self.kubelet.end().await;
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            eprintln!("{}: {error}", self.folder.display());
        }
    }

    fn create(&mut self, new: &NewMember) -> anyhow::Result<()> {
        let image = self.identity.as_ref().map_or(IMAGE, |identity| identity.image.as_str());
        let spec = Spec::of(&self.cluster, image).map_err(|_| anyhow::anyhow!("the specification is not usable"))?;
        self.kubelet.create(&spec, new, Timestamp::now());
        Ok(())
    }

    fn leader(&self) -> Option<Endpoint> {
        let endpoints = self.kubelet.endpoints();
        let leader = self.statuses.values().find_map(|status| status.ring_leader);
        let knowing = self.statuses.iter().filter(|(_, status)| status.ring_epoch.is_some()).map(|(id, _)| *id);
        leader.into_iter().chain(knowing).find_map(|member| endpoints.get(&member).cloned())
    }
}

/// The ring's secret is in it.
fn private_folder(folder: &std::path::Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().mode(0o700).recursive(false).create(folder);
    made.with_context(|| folder.display().to_string())
}
