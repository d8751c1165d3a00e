//! What scheduler, StatefulSet controller and kubelet do on Kubernetes, for processes on loopback: places members,
//! starts them, starts them again when they end, and asks them to end when they are deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use ringmaster_plan::observed::{Node, Pod, StatefulSet, Trouble, Workload};
use ringmaster_plan::{NewMember, Spec, Timestamp, build};
use ringmaster_ring::{Generation, Holder, MemberId, MemberStatus, Ring, ShardId};
use tokio::process::{Child, Command};

use crate::members::Endpoint;

const HOST: &str = "127.0.0.1";
/// How long an ended process waits before it is started again.
const RESTART_AFTER: Duration = Duration::from_secs(1);

pub(super) struct Kubelet {
    folder: PathBuf,
    token_file: PathBuf,
    /// Where the search for free ports begins.
    port: u16,
    members: BTreeMap<MemberId, Member>,
    next_uid: u64,
}

struct Member {
    set: Option<StatefulSet>,
    shard: Option<ShardId>,
    generation: Generation,
    arguments: Vec<String>,
    pod: Option<PodOf>,
}

struct PodOf {
    seen: Pod,
    ports: Ports,
    process: Option<Child>,
    ended_at: Option<Instant>,
    asked_to_end: bool,
}

#[derive(Clone, Copy)]
struct Ports {
    client: u16,
    peer: u16,
    http: u16,
}

impl Kubelet {
    pub(super) fn new(folder: PathBuf, token_file: PathBuf, port: u16) -> Self {
        Self { folder, token_file, port, members: BTreeMap::new(), next_uid: 0 }
    }

    pub(super) fn create(&mut self, spec: &Spec, new: &NewMember, now: Timestamp) {
        let uid = self.uid();
        let set = StatefulSet { uid, template: spec.template.0.clone(), created_at: now, deleting: false };
        let arguments = self.arguments(spec, new);
        let NewMember { member, shard, generation, own_node_required: _ } = *new;
        self.members.entry(member).or_insert(Member { set: Some(set), shard, generation, arguments, pod: None });
    }

    pub(super) fn delete(&mut self, id: MemberId, uid: &str) {
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.set.as_ref().is_some_and(|set| set.uid == uid) {
            member.set = None;
        }
    }

    pub(super) fn endpoints(&self) -> BTreeMap<MemberId, Endpoint> {
        let with_pod = self.members.iter().filter_map(|(id, member)| member.pod.as_ref().map(|pod| (*id, pod.ports)));
        with_pod.map(|(id, ports)| (id, Endpoint::new(HOST, ports.http))).collect()
    }

    pub(super) fn workloads(&self) -> BTreeMap<MemberId, Workload> {
        let seen = self.members.iter().map(|(id, member)| {
            let workload = Workload {
                generation: member.generation,
                shard: member.shard,
                set: member.set.clone(),
                pod: member.pod.as_ref().map(|pod| pod.seen.clone()),
            };
            (*id, workload)
        });
        seen.collect()
    }

    pub(super) fn process(&self, is_it: impl Fn(MemberId) -> bool) -> Option<(u32, u16)> {
        let (_, member) = self.members.iter().find(|(id, _)| is_it(**id))?;
        let pod = member.pod.as_ref()?;
        Some((pod.process.as_ref()?.id()?, pod.ports.client))
    }

    /// Brings what runs towards what should run.
    pub(super) async fn tend(&mut self, nodes: &BTreeMap<String, Node>) {
        for id in self.members.keys().copied().collect::<Vec<_>>() {
            self.reap(id);
            self.place(id, nodes);
            self.start(id);
            self.ask_to_end(id);
        }
        let folder = &self.folder;
        self.members.retain(|id, member| {
            let stays = member.set.is_some() || member.pod.is_some();
            if !stays {
                // It holds a log of the ring at most: its data went with the process.
                drop(std::fs::remove_dir_all(folder.join(id.to_string())));
            }
            stays
        });
    }

    /// Readiness, as the probe would see it.
    pub(super) fn note_readiness(&mut self, statuses: &BTreeMap<MemberId, MemberStatus>, ring: Option<&Ring>) {
        for (id, member) in &mut self.members {
            let Some(pod) = &mut member.pod else { continue };
            let holder = statuses.get(id).map(|status| Holder { member: *id, boot: status.presence.boot });
            let is_ready = holder.zip(ring).is_some_and(|(holder, ring)| ring.is_ready(holder));
            pod.seen.ready_since = is_ready.then(|| pod.seen.ready_since.unwrap_or_else(Timestamp::now));
        }
    }

    /// Ends everything at once.
    pub(super) async fn end(&mut self) {
        let pods = self.members.values_mut().filter_map(|member| member.pod.as_mut());
        for process in pods.filter_map(|pod| pod.process.as_mut()) {
            // Killing fails only where the process has ended, and then there is nothing to wait for either.
            drop(process.start_kill());
            drop(process.wait().await);
        }
        self.members.clear();
    }

    fn reap(&mut self, id: MemberId) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(pod) = &mut member.pod else { return };
        let Some(process) = &mut pod.process else { return };
        let Ok(Some(status)) = process.try_wait() else { return };
        pod.process = None;
        pod.ended_at = Some(Instant::now());
        if member.set.is_none() {
            member.pod = None;
        } else {
            let log = self.folder.join(id.to_string()).join("log");
            let message = format!("it ended with {status}, see {}", log.display());
            pod.seen.trouble = (!status.success()).then(|| Trouble { reason: "CrashLoopBackOff".to_owned(), message });
        }
    }

    /// As the scheduler would with the rules that members are made with: another node than the other copies, another
    /// zone if there is one, and the emptiest of those.
    fn place(&mut self, id: MemberId, nodes: &BTreeMap<String, Node>) {
        let is_new = self.members.get(&id).is_some_and(|member| member.set.is_some() && member.pod.is_none());
        if !is_new {
            return;
        }
        let shard = self.members.get(&id).and_then(|member| member.shard);
        let node_of = |member: &Member| member.pod.as_ref().and_then(|pod| pod.seen.node.clone());
        let copies = self.members.iter().filter(|(other, member)| **other != id && member.shard == shard);
        let copies: Vec<String> = copies.filter_map(|(_, member)| node_of(member)).collect();
        let taken: Vec<String> = self.members.values().filter_map(node_of).collect();
        let zone = |node: &str| nodes.get(node).map(|node| node.labels.clone());
        let fitting = nodes.iter().filter(|(_, node)| node.ready && node.leaving().is_none());
        let best = fitting.min_by_key(|(name, _)| {
            let in_zone = copies.iter().filter(|copy| zone(copy) == zone(name)).count();
            (copies.contains(name), in_zone, taken.iter().filter(|taken| taken == name).count())
        });
        let Some((node, _)) = best else { return };
        let Some(ports) = self.free_ports() else { return };
        let seen = Pod { node: Some(node.clone()), ..Pod::created(self.uid()) };
        if let Some(member) = self.members.get_mut(&id) {
            member.pod = Some(PodOf { seen, ports, process: None, ended_at: None, asked_to_end: false });
        }
    }

    fn start(&mut self, id: MemberId) {
        let seeds: Vec<String> = self
            .members
            .values()
            .filter_map(|member| member.pod.as_ref())
            .map(|pod| format!("{HOST}:{}", pod.ports.peer))
            .collect();
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(pod) = &mut member.pod else { return };
        let waits = pod.ended_at.is_some_and(|at| at.elapsed() < RESTART_AFTER);
        if pod.process.is_some() || member.set.is_none() || waits {
            return;
        }
        let directory = self.folder.join(id.to_string());
        let node = pod.seen.node.clone().unwrap_or_default();
        match spawn(&directory, &member.arguments, pod.ports, &seeds.join(","), &node) {
            Ok(process) => {
                pod.seen.restarts += u32::from(pod.ended_at.is_some());
                pod.process = Some(process);
                pod.seen.trouble = None;
            }
            Err(error) => {
                pod.ended_at = Some(Instant::now());
                pod.seen.trouble = Some(Trouble { reason: "CannotStart".to_owned(), message: error.to_string() });
            }
        }
    }

    /// Once, as the kubelet does when a pod is deleted.
    fn ask_to_end(&mut self, id: MemberId) {
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.set.is_some() {
            return;
        }
        let Some(pod) = &mut member.pod else { return };
        pod.seen.deleting = true;
        let running = pod.process.as_ref().and_then(Child::id).and_then(|id| i32::try_from(id).ok());
        match running.and_then(rustix::process::Pid::from_raw) {
            Some(pid) if !pod.asked_to_end => {
                pod.asked_to_end = rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok();
            }
            Some(_) => {}
            None => member.pod = None,
        }
    }

    fn arguments(&self, spec: &Spec, new: &NewMember) -> Vec<String> {
        let mut arguments = build::member_arguments(spec, new);
        arguments.extend([
            format!("--token-file={}", self.token_file.display()),
            format!("--bind={HOST}"),
            format!("--announce-host={HOST}"),
        ]);
        arguments
    }

    fn uid(&mut self) -> String {
        self.next_uid += 1;
        self.next_uid.to_string()
    }

    /// The first three ports of a row of their own that nobody uses.
    fn free_ports(&self) -> Option<Ports> {
        let pods = self.members.values().filter_map(|member| member.pod.as_ref());
        let taken: BTreeSet<u16> = pods.flat_map(|pod| [pod.ports.client, pod.ports.peer, pod.ports.http]).collect();
        let is_free = |port: &u16| !taken.contains(port) && TcpListener::bind((HOST, *port)).is_ok();
        let next = |begin: u16| (begin.saturating_add(1)..begin.saturating_add(1_000)).find(is_free);
        Some(Ports {
            client: next(self.port)?,
            peer: next(self.port.saturating_add(1_000))?,
            http: next(self.port.saturating_add(2_000))?,
        })
    }
}

fn spawn(
    directory: &Path,
    arguments: &[String],
    ports: Ports,
    seeds: &str,
    node: &str,
) -> Result<Child, std::io::Error> {
    let data = directory.join("data");
    std::fs::create_dir_all(&data)?;
    let log = std::fs::File::options().create(true).append(true).open(directory.join("log"))?;
    Command::new(std::env::current_exe()?)
        .arg("node")
        .args(arguments)
        .arg(format!("--data-dir={}", data.display()))
        .arg(format!("--client-port={}", ports.client))
        .arg(format!("--peer-port={}", ports.peer))
        .arg(format!("--http-port={}", ports.http))
        .arg(format!("--seeds={seeds}"))
        .arg(format!("--node-name={node}"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C is for the playground: a member that gets it would ask to be replaced.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}
