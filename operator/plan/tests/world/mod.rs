//! A small world for plans to act on: a scheduler, kubelets, members and a ring that follow the rules, in turns of one
//! second. It runs the production `plan` and `Ring::apply`; what members decide is reduced to what a plan can see of it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    dead_code,
    reason = "a test's own world, used in part by each test"
)]

use std::collections::{BTreeMap, BTreeSet};

use ringmaster_plan::crd::{CacheCluster, CacheClusterSpec};
use ringmaster_plan::observed::{Birth, Defaults, Identity, Node, Pod, StatefulSet, Trouble, Workload};
use ringmaster_plan::{Observed, Plan, Step, Timestamp, plan};
use ringmaster_ring::{
    Address, BootId, Command, FeatureLevel, Holder, MemberId, MemberStatus, Position, Presence, Ring, Role,
    ShardChange, ShardId, VoteMove, VoterId, next_vote_move,
};

/// Turns that a spare takes to be in sync.
const SYNC_TURNS: u32 = 3;

#[derive(Debug)]
pub struct World {
    pub cluster: CacheCluster,
    pub identity: Option<Identity>,
    pub birth: Option<Birth>,
    pub nodes: BTreeMap<String, Node>,
    pub workloads: BTreeMap<MemberId, Workload>,
    pub ring: Option<Ring>,
    processes: BTreeMap<MemberId, Process>,
    pub now: Timestamp,
    /// Nodes whose processes answer nobody.
    pub unreachable: BTreeSet<String>,
    /// Nodes that have no room for another pod, which nobody sees but the scheduler.
    pub full: BTreeSet<String>,
    /// Members that must not share a node with another copy.
    own_node_required: BTreeSet<MemberId>,
    /// Pods are refused, as by a quota.
    pub refuses_pods: bool,
    /// Turns that a container takes to be made; none: it never is.
    pub start_turns: Option<u32>,
    /// The Secret with the ring's identity is not there.
    pub hides_identity: bool,
    /// No member answers the operator, while they go on among themselves.
    pub cuts_off_operator: bool,
    /// No handover ends.
    pub holds_handovers: bool,
    /// What the operator brings as its own release.
    pub operator_image: String,
    next_random: u64,
    /// What was done, for people.
    pub log: Vec<String>,
    /// The fewest in-sync copies that a shard had since the ring was formed.
    pub fewest_copies: usize,
    pub formed: u32,
}

#[derive(Clone, Debug)]
struct Process {
    boot: BootId,
    voter: VoterId,
    /// The pod whose disk it runs on.
    pod_uid: String,
    synced_turns: u32,
    knows_ring: bool,
}

impl World {
    pub fn new(spec: CacheClusterSpec, nodes: &[(&str, &str)]) -> Self {
        let mut cluster = CacheCluster::new("sessions", spec);
        cluster.metadata.namespace = Some("default".to_owned());
        cluster.metadata.uid = Some("6f1e5a4c-0000-4000-8000-000000000001".to_owned());
        cluster.metadata.generation = Some(1);
        let nodes = nodes.iter().map(|(name, zone)| {
            let labels = BTreeMap::from([("topology.kubernetes.io/zone".to_owned(), (*zone).to_owned())]);
            ((*name).to_owned(), Node { labels, ready: true, ..Node::default() })
        });
        Self {
            cluster,
            identity: None,
            birth: None,
            nodes: nodes.collect(),
            workloads: BTreeMap::new(),
            ring: None,
            processes: BTreeMap::new(),
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            unreachable: BTreeSet::new(),
            full: BTreeSet::new(),
            own_node_required: BTreeSet::new(),
            refuses_pods: false,
            start_turns: Some(0),
            hides_identity: false,
            cuts_off_operator: false,
            holds_handovers: false,
            operator_image: "ringmaster-node:1".to_owned(),
            next_random: 1,
            log: Vec::new(),
            fewest_copies: usize::MAX,
            formed: 0,
        }
    }

    pub fn observed(&self) -> Observed {
        let hears = |id: MemberId| !self.cuts_off_operator && self.answers(id);
        let statuses = self.processes.keys().filter(|id| hears(**id)).map(|id| (*id, self.status(*id)));
        let somebody_knows = self.processes.iter().any(|(id, process)| process.knows_ring && hears(*id));
        Observed {
            cluster: self.cluster.clone(),
            defaults: Defaults { image: self.operator_image.clone() },
            identity: self.identity.clone().filter(|_| !self.hides_identity),
            birth: self.birth,
            workloads: self.workloads.clone(),
            nodes: self.nodes.clone(),
            statuses: statuses.collect(),
            ring: self.ring.clone().filter(|_| somebody_knows),
        }
    }

    /// One turn: plan, take the steps that `takes` admits, show the status, and let a second pass.
    pub fn turn(&mut self, mut takes: impl FnMut() -> bool) -> Plan {
        let plan = plan(&self.observed(), self.now);
        for note in &plan.steps {
            if takes() {
                match self.take(&note.step) {
                    Ok(()) => self.log.push(note.why.clone()),
                    Err(refusal) => self.log.push(format!("{} -- refused: {refusal}", note.why)),
                }
            }
        }
        self.cluster.status = Some(plan.status.clone());
        self.pass();
        plan
    }

    /// Turns until nothing is under way.
    pub fn settle(&mut self, turns_max: u32) -> Plan {
        for _ in 0..turns_max {
            let plan = self.turn(|| true);
            if !plan.busy {
                return plan;
            }
        }
        let plan = plan(&self.observed(), self.now);
        panic!("not settled after {turns_max} turns: {:#?}\n{}", plan.status, self.log.join("\n"));
    }

    pub fn take(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::CreateIdentity(identity) => {
                let is_next = self.identity.as_ref().is_none_or(|present| present.generation < identity.generation);
                if is_next {
                    self.identity = Some(identity.clone());
                    self.birth = None;
                }
            }
            Step::RecordBirth(birth) => {
                self.birth.get_or_insert(*birth);
            }
            Step::Form { founder, formation } => {
                let knows = self.processes.get(founder).is_some_and(|process| process.knows_ring);
                if !knows {
                    let mut ring = Ring::form(formation).map_err(|rejection| rejection.to_string())?;
                    let voter = self.processes[founder].voter;
                    ring = ring.with_voters(BTreeSet::from([voter]));
                    self.ring = Some(ring);
                    self.formed += 1;
                }
            }
            Step::Propose(command) => {
                let ring = self.ring.as_ref().ok_or("no ring")?;
                self.ring = Some(ring.apply(command).map_err(|rejection| rejection.to_string())?);
            }
            Step::CreateMember(new) => {
                let random = self.random();
                let template = {
                    let image = &self.identity.as_ref().unwrap().image;
                    ringmaster_plan::Spec::of(&self.cluster, image).unwrap().template.0
                };
                if new.own_node_required {
                    self.own_node_required.insert(new.member);
                }
                let workload = self.workloads.entry(new.member).or_default();
                if workload.set.is_none() {
                    workload.generation = new.generation;
                    workload.shard = new.shard;
                    workload.set = Some(StatefulSet {
                        uid: format!("set-{random}"),
                        template,
                        created_at: self.now,
                        deleting: false,
                    });
                }
            }
            Step::DeleteMember { member, uid } => {
                if let Some(workload) = self.workloads.get_mut(member)
                    && workload.set.as_ref().is_some_and(|set| set.uid == *uid)
                {
                    workload.set = None;
                    self.delete_pod(*member);
                }
            }
        }
        Ok(())
    }

    pub fn cordon(&mut self, node: &str, cordoned: bool) {
        self.nodes.get_mut(node).unwrap().unschedulable = cordoned;
    }

    /// As `kubectl delete pod`: it goes on until the ring releases it.
    pub fn delete_pod(&mut self, id: MemberId) {
        if let Some(pod) = self.workloads.get_mut(&id).and_then(|workload| workload.pod.as_mut()) {
            pod.deleting = true;
        }
    }

    /// As `kubectl delete pod --force`: process and disk are gone at once.
    pub fn kill_pod(&mut self, id: MemberId) {
        self.processes.remove(&id);
        if let Some(workload) = self.workloads.get_mut(&id) {
            workload.pod = None;
        }
    }

    /// The process ends and is started again on the same disk.
    pub fn restart_process(&mut self, id: MemberId) {
        let boot = BootId(self.random());
        if let Some(process) = self.processes.get_mut(&id) {
            process.boot = boot;
            process.knows_ring = false;
        }
        if let Some(pod) = self.workloads.get_mut(&id).and_then(|workload| workload.pod.as_mut()) {
            pod.restarts += 1;
            pod.ready_since = None;
        }
    }

    pub fn lose_node(&mut self, node: &str) {
        self.nodes.get_mut(node).unwrap().ready = false;
        self.unreachable.insert(node.to_owned());
    }

    pub fn members_on(&self, node: &str) -> Vec<MemberId> {
        let on_node = |w: &Workload| w.pod.as_ref().is_some_and(|pod| pod.node.as_deref() == Some(node));
        self.workloads.iter().filter(|(_, w)| on_node(w)).map(|(id, _)| *id).collect()
    }

    fn random(&mut self) -> u64 {
        self.next_random += 1;
        self.next_random
    }

    fn node_of(&self, id: MemberId) -> Option<&str> {
        self.workloads.get(&id)?.pod.as_ref()?.node.as_deref()
    }

    fn answers(&self, id: MemberId) -> bool {
        self.processes.contains_key(&id) && self.node_of(id).is_some_and(|node| !self.unreachable.contains(node))
    }

    fn status(&self, id: MemberId) -> MemberStatus {
        let process = &self.processes[&id];
        let ring = self.ring.as_ref().filter(|_| process.knows_ring);
        let holder = Holder { member: id, boot: process.boot };
        let shard = self.workloads[&id].shard;
        let is_primary = ring.is_some_and(|ring| ring.shards.values().any(|s| s.primary == holder));
        let retired = ring.and_then(|ring| ring.members.get(&id)).is_some_and(|member| !member.is_active());
        MemberStatus {
            cluster: self.identity.as_ref().unwrap().uuid,
            generation: self.workloads[&id].generation,
            member: id,
            shard,
            presence: presence(id, process),
            ring_epoch: ring.map(|ring| ring.epoch),
            ring_leader: None,
            role: match (retired, is_primary, shard) {
                (true, _, _) => Role::Retired,
                (false, true, _) => Role::Primary,
                (false, false, None) => Role::Witness,
                (false, false, Some(_)) => Role::Copy,
            },
            in_sync: ring.is_some_and(|ring| ring.is_ready(holder)),
            position: Position::default(),
            lag_records: 0,
            sync: None,
            copies: Vec::new(),
            keys: 0,
            used_bytes: 0,
            clients: 0,
            last_client_use_ms: None,
            terminating: self.workloads[&id].pod.as_ref().is_some_and(|pod| pod.deleting),
        }
    }

    /// A second of everybody else's work.
    fn pass(&mut self) {
        self.now = Timestamp::from_second(self.now.as_second() + 1).unwrap();
        self.schedule();
        self.start_processes();
        self.move_ring();
        self.end_released();
        self.workloads.retain(|_, workload| workload.set.is_some() || workload.pod.is_some());
        let ready: Vec<MemberId> = self.workloads.keys().copied().filter(|id| self.is_ready(*id)).collect();
        for (id, workload) in &mut self.workloads {
            let Some(pod) = &mut workload.pod else { continue };
            pod.ready_since = ready.contains(id).then(|| pod.ready_since.unwrap_or(self.now));
        }
        if let Some(ring) = &self.ring {
            self.fewest_copies = self.fewest_copies.min(ring.fewest_copies());
        }
    }

    fn is_ready(&self, id: MemberId) -> bool {
        self.answers(id)
            && self
                .ring
                .as_ref()
                .is_some_and(|ring| ring.is_ready(Holder { member: id, boot: self.processes[&id].boot }))
    }

    fn schedule(&mut self) {
        let pending: Vec<MemberId> =
            self.workloads.iter().filter(|(_, w)| w.set.is_some()).map(|(id, _)| *id).collect();
        for id in pending {
            if self.workloads[&id].pod.is_none() && !self.refuses_pods {
                let uid = format!("pod-{}", self.random());
                let workload = self.workloads.get_mut(&id).unwrap();
                workload.pod = Some(Pod::created(uid));
            }
            if self.workloads[&id].pod.as_ref().is_some_and(|pod| pod.node.is_none()) {
                let node = self.best_node(id);
                let pod = self.workloads.get_mut(&id).unwrap().pod.as_mut().unwrap();
                pod.trouble = node.is_none().then(|| Trouble {
                    reason: "Unschedulable".to_owned(),
                    message: "0 nodes are available".to_owned(),
                });
                pod.starting_since = node.is_some().then_some(self.now);
                pod.node = node;
            }
        }
    }

    /// A node that its rules admit; another one than the other copies of its shard have, in another zone if possible, the emptiest of those.
    fn best_node(&self, id: MemberId) -> Option<String> {
        let Workload { shard, generation, .. } = self.workloads[&id];
        let peers: Vec<&str> = self
            .workloads
            .iter()
            .filter(|(other, w)| **other != id && w.shard == shard && w.generation == generation)
            .filter_map(|(other, _)| self.node_of(*other))
            .collect();
        let zone = |node: &str| self.nodes[node].labels["topology.kubernetes.io/zone"].clone();
        let rules = &self.cluster.spec.placement;
        let fitting = self.nodes.iter().filter(|(name, node)| {
            let is_shared = self.own_node_required.contains(&id) && shard.is_some() && peers.contains(&name.as_str());
            node.admits(name, rules) && !self.full.contains(*name) && !is_shared
        });
        let best = fitting.min_by_key(|(name, _)| {
            let in_zone = peers.iter().filter(|peer| zone(peer) == zone(name)).count();
            (peers.contains(&name.as_str()), in_zone, self.members_on(name).len())
        });
        best.map(|(name, _)| name.clone())
    }

    fn start_processes(&mut self) {
        let bad_image = self.cluster.spec.image.contains("bad");
        for id in self.workloads.keys().copied().collect::<Vec<_>>() {
            let Some(pod) = self.workloads[&id].pod.clone() else { continue };
            let is_up = self.processes.get(&id).is_some_and(|process| process.pod_uid == pod.uid);
            if is_up || pod.node.is_none() || pod.deleting {
                continue;
            }
            if bad_image {
                let trouble = Trouble { reason: "ImagePullBackOff".to_owned(), message: "no such image".to_owned() };
                self.workloads.get_mut(&id).unwrap().pod.as_mut().unwrap().trouble = Some(trouble);
                continue;
            }
            let waited_s = pod.starting_since.map_or(0, |since| self.now.as_second() - since.as_second());
            if self.start_turns.is_none_or(|turns| waited_s < i64::from(turns)) {
                continue;
            }
            self.workloads.get_mut(&id).unwrap().pod.as_mut().unwrap().starting_since = None;
            let (boot, voter) = (BootId(self.random()), VoterId(self.random()));
            let process = Process { boot, voter, pod_uid: pod.uid, synced_turns: 0, knows_ring: false };
            self.processes.insert(id, process);
        }
    }

    /// What members and the ring's leader do by themselves.
    fn move_ring(&mut self) {
        let Some(mut ring) = self.ring.clone() else { return };
        let voters_alive = ring.voters.iter().filter(|voter| self.is_voter_alive(**voter)).count();
        if voters_alive * 2 <= ring.voters.len() {
            return;
        }
        for id in self.processes.keys().copied().filter(|id| self.answers(*id)).collect::<Vec<_>>() {
            let Some(member) = ring.members.get(&id) else { continue };
            let process = self.processes.get_mut(&id).unwrap();
            process.knows_ring = true;
            let holder = Holder { member: id, boot: process.boot };
            if member.is_active() && member.boot() != Some(process.boot) {
                let announce =
                    Command::Announce { member: id, if_version: member.version, presence: presence(id, process) };
                ring = ring.apply(&announce).unwrap();
                process.synced_turns = 0;
            }
            let is_asked = self.workloads[&id].pod.as_ref().is_some_and(|pod| pod.deleting);
            if is_asked && ring.members[&id].is_active() && !ring.members[&id].leaving {
                ring = ring.apply(&Command::Leave(holder)).unwrap();
            }
        }
        for shard in ring.shards.keys().copied().collect::<Vec<_>>() {
            ring = self.move_shard(ring, shard);
        }
        let alive: BTreeSet<VoterId> =
            ring.members.values().filter_map(|m| m.voter()).filter(|v| self.is_voter_alive(*v)).collect();
        match next_vote_move(&ring, VoterId(0), |voter| alive.contains(&voter)) {
            Some(VoteMove::Give { to, from }) => {
                let voters = ring.voters.iter().copied().filter(|voter| Some(*voter) != from).chain([to]).collect();
                ring = ring.with_voters(voters);
            }
            Some(VoteMove::Take { from }) => {
                let voters = ring.voters.iter().copied().filter(|voter| *voter != from).collect();
                ring = ring.with_voters(voters);
            }
            None => {}
        }
        self.ring = Some(ring);
    }

    fn move_shard(&mut self, mut ring: Ring, id: ShardId) -> Ring {
        let propose = |ring: &Ring, change| ring.apply(&Command::on_shard(ring, id, change).unwrap());
        let shard = ring.shards[&id].clone();
        if shard.pending_from.is_some() && !self.holds_handovers {
            ring = propose(&ring, ShardChange::HandoverDone { start: Position::default() }).unwrap();
        }
        let lives = |world: &Self, holder: Holder| {
            world.answers(holder.member) && world.processes[&holder.member].boot == holder.boot
        };
        if !lives(self, shard.primary) {
            let next = shard.in_sync.iter().map(|(member, boot)| Holder { member: *member, boot: *boot });
            if let Some(to) = next.into_iter().find(|holder| *holder != shard.primary && lives(self, *holder)) {
                ring = propose(&ring, ShardChange::Failover { to, drop_former: true }).unwrap();
                return ring;
            }
            let survivor = ring.members_of(id).map(|(member, _)| member).find(|member| self.answers(*member));
            if let Some(on) = survivor {
                let on = Holder { member: on, boot: self.processes[&on].boot };
                ring = propose(&ring, ShardChange::StartEmpty { on }).unwrap_or(ring);
            }
            return ring;
        }
        for (member, boot) in ring.shards[&id].in_sync.clone() {
            let copy = Holder { member, boot };
            if !lives(self, copy) && copy != ring.shards[&id].primary {
                ring = propose(&ring, ShardChange::Remove(copy)).unwrap();
            }
        }
        for (member, _) in ring.clone().members_of(id) {
            let Some(process) = self.processes.get(&member).cloned() else { continue };
            let copy = Holder { member, boot: process.boot };
            if !self.answers(member) || ring.shards[&id].holds(copy) {
                continue;
            }
            self.processes.get_mut(&member).unwrap().synced_turns += 1;
            if process.synced_turns >= SYNC_TURNS {
                if ring.shards[&id].in_sync.contains_key(&member) {
                    let former = Holder { member, boot: ring.shards[&id].in_sync[&member] };
                    ring = propose(&ring, ShardChange::Remove(former)).unwrap();
                }
                ring = propose(&ring, ShardChange::Add(copy)).unwrap();
            }
        }
        ring
    }

    fn is_voter_alive(&self, voter: VoterId) -> bool {
        self.processes.iter().any(|(id, process)| process.voter == voter && self.answers(*id))
    }

    /// Pods that were asked to end do so once the ring has released them.
    fn end_released(&mut self) {
        for id in self.workloads.keys().copied().collect::<Vec<_>>() {
            let Some(pod) = self.workloads[&id].pod.as_ref().filter(|pod| pod.deleting) else { continue };
            let is_held =
                self.ring.as_ref().is_some_and(|ring| ring.members.get(&id).is_some_and(|member| member.is_active()));
            let runs = self.processes.get(&id).is_some_and(|process| process.pod_uid == pod.uid);
            let is_lost = pod.node.as_ref().is_some_and(|node| self.unreachable.contains(node));
            if (!is_held || !runs) && !is_lost {
                self.kill_pod(id);
            }
        }
    }

    /// A summary that a person can check.
    pub fn summary(&self) -> String {
        let Some(ring) = &self.ring else { return "no ring".to_owned() };
        let mut lines = Vec::new();
        for (id, shard) in &ring.shards {
            let copies: Vec<String> = shard
                .in_sync
                .keys()
                .map(|member| {
                    let star = if shard.primary.member == *member { "*" } else { "" };
                    format!("{member}{star}@{}", self.node_of(*member).unwrap_or("-"))
                })
                .collect();
            lines.push(format!("shard {id}: {}", copies.join(" ")));
        }
        let others = ring.members.iter().filter(|(_, m)| m.shard.is_none() || !m.is_active());
        for (id, member) in others {
            lines.push(format!("{id}: {:?}, shard {:?}", member.state, member.shard));
        }
        lines.push(format!("voters: {}, copies wanted: {}", ring.voters.len(), ring.settings.copies));
        lines.join("\n")
    }
}

fn presence(id: MemberId, process: &Process) -> Presence {
    Presence {
        boot: process.boot,
        voter: process.voter,
        address: Address { host: format!("10.0.0.{id}"), client_port: 6379, peer_port: 7379, http_port: 8379 },
        feature_level: FeatureLevel(1),
    }
}
