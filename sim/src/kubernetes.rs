//! What an API server would show of the cluster, and what scheduler, StatefulSet controller and kubelets do about it.
//!
//! Owns nodes, StatefulSets and pods; machines and processes follow them. In: the steps of plans, and what people and
//! fate do to pods and nodes. Out: the picture that a plan is made from. Nothing happens at once: each step of a pod's
//! life takes a while that the seed draws.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand::rngs::StdRng;
use ringmaster_plan::crd::CacheCluster;
use ringmaster_plan::observed::{Birth, Defaults, Identity, Node, Pod, StatefulSet, Trouble, Workload};
use ringmaster_plan::{NewMember, Observed, Spec, Timestamp};
use ringmaster_ring::{MemberId, MemberStatus, Ring, ShardId};

use crate::process::Process;
use crate::scenario::Scenario;
use crate::world::World;

const ZONE: &str = "topology.kubernetes.io/zone";
const ZONES: u16 = 3;
/// What the operator waits for is counted in seconds, some in tens of them: here they pass ten times as fast, so that a
/// run need not be as long.
const SECONDS_PASS: u64 = 10;
/// How long each step of a pod's life may take, in ms.
const STEP_MS: std::ops::Range<u64> = 2..60;

/// The API server's memory.
#[derive(Debug)]
pub(crate) struct Kubernetes {
    pub(crate) cluster: CacheCluster,
    pub(crate) identity: Option<Identity>,
    pub(crate) birth: Option<Birth>,
    pub(crate) nodes: BTreeMap<String, Node>,
    pub(crate) workloads: BTreeMap<MemberId, Workload>,
    /// Members that must not share a node with another copy of their shard.
    own_node_required: BTreeSet<MemberId>,
    /// The oldest first.
    cordoned: Vec<String>,
    /// When the next step of a pod's life is done.
    due: BTreeMap<MemberId, u64>,
    next_uid: u64,
}

impl Kubernetes {
    pub(crate) fn new(scenario: &Scenario) -> Result<Self, serde_json::Error> {
        let mut cluster: CacheCluster = serde_json::from_value(serde_json::json!({
            "apiVersion": "cache.ringmaster.dev/v1alpha1",
            "kind": "CacheCluster",
            "metadata": {
                "name": "sim",
                "namespace": "default",
                "uid": format!("{:032x}", crate::process::CLUSTER.0),
                "generation": 1,
            },
            "spec": {
                "shards": scenario.shards,
                "copies": scenario.copies,
                "maintenance": { "lingerSeconds": 1, "repairAfterSeconds": 10, "maxSurge": scenario.surge },
            },
        }))?;
        cluster.spec.image = "sim:1".to_owned();
        let node = |number: u16| {
            let labels = BTreeMap::from([(ZONE.to_owned(), format!("z{}", number % ZONES))]);
            (format!("n{number}"), Node { labels, ready: true, ..Node::default() })
        };
        Ok(Self {
            cluster,
            identity: None,
            birth: None,
            nodes: (0..scenario.nodes).map(node).collect(),
            workloads: BTreeMap::new(),
            own_node_required: BTreeSet::new(),
            cordoned: Vec::new(),
            due: BTreeMap::new(),
            next_uid: 0,
        })
    }

    /// What the operator's host would call the time.
    pub(crate) fn timestamp(now_ms: u64) -> Timestamp {
        let passed = i64::try_from(now_ms.saturating_mul(SECONDS_PASS)).unwrap_or(i64::MAX);
        Timestamp::from_millisecond(1_800_000_000_000_i64.saturating_add(passed)).unwrap_or_default()
    }

    /// The objects as they are now, with what members said before.
    pub(crate) fn observed(&self, statuses: BTreeMap<MemberId, MemberStatus>, ring: Option<Ring>) -> Observed {
        Observed {
            cluster: self.cluster.clone(),
            defaults: Defaults { image: "sim:0".to_owned() },
            identity: self.identity.clone(),
            birth: self.birth,
            workloads: self.workloads.clone(),
            nodes: self.nodes.clone(),
            statuses,
            ring,
        }
    }

    // ---- what the operator does

    /// Creates a member's StatefulSet, unless there is one.
    pub(crate) fn create(&mut self, new: &NewMember, now: Timestamp) {
        let Some(template) = self.template() else { return };
        let uid = self.uid();
        let NewMember { member, shard, generation, own_node_required } = *new;
        let workload = self.workloads.entry(member).or_insert(Workload { generation, shard, set: None, pod: None });
        if workload.set.is_none() {
            workload.set = Some(StatefulSet { uid, template, created_at: now, deleting: false });
            if own_node_required {
                self.own_node_required.insert(member);
            }
        }
    }

    /// Deletes a member's StatefulSet, if it still has this UID.
    pub(crate) fn delete(&mut self, member: MemberId, uid: &str) {
        if let Some(workload) = self.workloads.get_mut(&member)
            && workload.set.as_ref().is_some_and(|set| set.uid == uid)
        {
            workload.set = None;
        }
    }

    // ---- what people do

    /// At most two nodes are cordoned at a time: there is room for every member elsewhere.
    pub(crate) fn cordon(&mut self, name: &str) {
        if self.cordoned.iter().any(|cordoned| cordoned == name) {
            return;
        }
        if self.cordoned.len() >= 2 {
            self.uncordon_oldest();
        }
        if let Some(node) = self.nodes.get_mut(name) {
            node.unschedulable = true;
            self.cordoned.push(name.to_owned());
        }
    }

    pub(crate) fn uncordon_oldest(&mut self) {
        if self.cordoned.is_empty() {
            return;
        }
        let name = self.cordoned.remove(0);
        if let Some(node) = self.nodes.get_mut(&name) {
            node.unschedulable = false;
        }
    }

    /// `kubectl delete pod`: it ends when it may.
    pub(crate) fn delete_pod(&mut self, member: MemberId) {
        if let Some(pod) = self.pod_mut(member) {
            pod.deleting = true;
        }
    }

    /// Another image.
    pub(crate) fn roll(&mut self, image: u32) {
        self.cluster.spec.image = format!("sim:{image}");
        let generation = self.cluster.metadata.generation.unwrap_or_default();
        self.cluster.metadata.generation = Some(generation + 1);
    }

    // ---- what fate does

    /// The pod object is gone, and its disk with it.
    pub(crate) fn lose_pod(&mut self, member: MemberId) {
        if let Some(workload) = self.workloads.get_mut(&member) {
            workload.pod = None;
        }
    }

    pub(crate) fn note_restart(&mut self, member: MemberId) {
        if let Some(pod) = self.pod_mut(member) {
            pod.restarts += 1;
            pod.ready_since = None;
        }
    }

    pub(crate) fn node_of(&self, member: MemberId) -> Option<&str> {
        self.workloads.get(&member)?.pod.as_ref()?.node.as_deref()
    }

    /// Why this member cannot be called settled, if it cannot.
    pub(crate) fn unsettled(&self, member: MemberId, made_from: &str) -> Option<&'static str> {
        let Some(pod) = self.workloads.get(&member).and_then(|workload| workload.pod.as_ref()) else {
            return Some("has no pod");
        };
        let node = pod.node.as_ref().and_then(|node| self.nodes.get(node));
        match node {
            _ if pod.deleting => Some("was asked to end"),
            None => Some("is not scheduled"),
            Some(node) if node.leaving().is_some() => Some("stands on a cordoned node"),
            Some(_) if self.template().is_some_and(|template| template != made_from) => Some("is outdated"),
            Some(_) => None,
        }
    }

    fn template(&self) -> Option<String> {
        let image = self.identity.as_ref().map_or("sim:0", |identity| identity.image.as_str());
        Some(Spec::of(&self.cluster, image).ok()?.template.0)
    }

    fn pod_mut(&mut self, member: MemberId) -> Option<&mut Pod> {
        self.workloads.get_mut(&member)?.pod.as_mut()
    }

    fn uid(&mut self) -> String {
        self.next_uid += 1;
        self.next_uid.to_string()
    }

    /// Whether a step that began when it was first asked for is done.
    fn is_done(&mut self, member: MemberId, now_ms: u64, random: &mut StdRng) -> bool {
        let due = *self.due.entry(member).or_insert_with(|| now_ms + random.gen_range(STEP_MS));
        let done = due <= now_ms;
        if done {
            self.due.remove(&member);
        }
        done
    }

    /// Another node than the other copies of its shard have, another zone if there is one, the emptiest of those.
    fn best_node(&self, member: MemberId) -> Option<String> {
        let shard = self.workloads.get(&member)?.shard;
        let copies = self.workloads.iter().filter(|(other, workload)| **other != member && workload.shard == shard);
        let copies: Vec<&str> = copies.filter_map(|(other, _)| self.node_of(*other)).collect();
        let zone = |name: &str| self.nodes.get(name).and_then(|node| node.labels.get(ZONE));
        let alone = self.own_node_required.contains(&member);
        let fitting = self.nodes.iter().filter(|(name, node)| {
            node.ready && node.leaving().is_none() && !(alone && copies.contains(&name.as_str()))
        });
        let best = fitting.min_by_key(|(name, _)| {
            let in_zone = copies.iter().filter(|copy| zone(copy) == zone(name)).count();
            let pods = self.workloads.keys().filter(|other| self.node_of(**other) == Some(name)).count();
            (copies.contains(&name.as_str()), in_zone, pods)
        });
        best.map(|(name, _)| name.clone())
    }
}

/// What is next in the life of a member's pod.
enum Next {
    MakePod,
    Schedule,
    Start(Option<ShardId>),
    AskToEnd,
    /// Its process has ended, or may.
    End,
}

impl World {
    /// Brings what runs towards what the objects say.
    pub(crate) fn tend_pods(&mut self) -> std::io::Result<()> {
        for member in self.kubernetes.workloads.keys().copied().collect::<Vec<_>>() {
            if let Some(next) = self.next_of_pod(member) {
                self.advance_pod(member, next)?;
            }
        }
        self.kubernetes.workloads.retain(|_, workload| workload.set.is_some() || workload.pod.is_some());
        self.note_readiness();
        Ok(())
    }

    fn next_of_pod(&mut self, member: MemberId) -> Option<Next> {
        let workload = self.kubernetes.workloads.get_mut(&member)?;
        let (has_set, shard) = (workload.set.is_some(), workload.shard);
        let Some(pod) = &mut workload.pod else { return has_set.then_some(Next::MakePod) };
        pod.deleting |= !has_set;
        let (is_deleting, is_scheduled) = (pod.deleting, pod.node.is_some());
        let machine = self.machines.get(&member);
        if !is_deleting {
            return match (is_scheduled, machine) {
                (false, _) => Some(Next::Schedule),
                (true, None) => Some(Next::Start(shard)),
                (true, Some(_)) => None,
            };
        }
        let Some(machine) = machine else { return Some(Next::End) };
        match &machine.process {
            // That the ring does not survive the loss of this disk is beyond the fault model: somebody deletes later.
            Some(process) if process.may_end() && process.ring().is_some() => Some(Next::End),
            Some(process) if process.may_end() => self.may_lose_disk(member).then_some(Next::End),
            Some(_) => Some(Next::AskToEnd),
            // A kubelet that does not answer removes nothing.
            None if machine.is_down => None,
            None => self.may_lose_disk(member).then_some(Next::End),
        }
    }

    fn advance_pod(&mut self, member: MemberId, next: Next) -> std::io::Result<()> {
        // The signal needs no time; whoever has it already takes no notice of another.
        let takes_time = !matches!(next, Next::AskToEnd);
        if takes_time && !self.kubernetes.is_done(member, self.now_ms, &mut self.random) {
            return Ok(());
        }
        match next {
            Next::MakePod => {
                let uid = self.kubernetes.uid();
                let pod = Pod::created(uid);
                if let Some(workload) = self.kubernetes.workloads.get_mut(&member) {
                    workload.pod = Some(pod);
                }
            }
            Next::Schedule => {
                let node = self.kubernetes.best_node(member);
                let trouble = Trouble { reason: "Unschedulable".to_owned(), message: "no node fits".to_owned() };
                if let Some(pod) = self.kubernetes.pod_mut(member) {
                    pod.trouble = node.is_none().then_some(trouble);
                    pod.node = node;
                }
            }
            Next::Start(shard) => {
                self.create(member, shard);
                self.start(member)?;
            }
            Next::End => {
                self.trace.line(format_args!("the pod of {member} is gone"));
                self.remove_machine(member);
                self.kubernetes.lose_pod(member);
            }
            Next::AskToEnd => {
                let process = self.machines.get(&member).and_then(|machine| machine.process.as_ref());
                process.into_iter().for_each(Process::ask_to_end);
            }
        }
        Ok(())
    }

    /// As the members' own probes would say.
    fn note_readiness(&mut self) {
        let now = Kubernetes::timestamp(self.now_ms);
        for (member, workload) in &mut self.kubernetes.workloads {
            let Some(pod) = &mut workload.pod else { continue };
            let process = self.machines.get(member).and_then(|machine| machine.process.as_ref());
            let is_ready =
                process.is_some_and(|process| process.ring().is_some_and(|ring| ring.is_ready(process.holder)));
            pod.ready_since = is_ready.then(|| pod.ready_since.unwrap_or(now));
        }
    }
}
