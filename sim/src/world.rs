//! One run: machines, network, clients, operator, faults and checks, moved on together a millisecond at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, RngCore, SeedableRng};
use ringmaster_node::consensus::{RaftTiming, seed_randomness};
use ringmaster_replica::Mutations;
use ringmaster_ring::{BootId, Holder, MemberId, Ring, ShardId, wanted_voters};

use crate::checks::Checks;
use crate::client::{Client, MEMBERS, Mode, Workload};
use crate::disk::SimDisk;
use crate::env::{Clock, Directory, EnvParts, SimEnv};
use crate::faults::Ending;
use crate::kubernetes::Kubernetes;
use crate::ledger::Counts;
use crate::net::{HostId, Latency, Net, ProcessId};
use crate::operator::Operator;
use crate::panics;
use crate::process::{DRIFT_PPM_BOUND, Machine, MemberSettings, Process, Start, Turns, drop_ring_rules, host_of};
use crate::scenario::{Scenario, Weather};
use crate::trace::Trace;

pub(crate) const CLIENTS_HOST: HostId = HostId(60_000);
/// How long a ring may take to form and to serve.
const FORM_LIMIT_MS: u64 = 10_000;
/// How long everything may take to be whole again once the weather has cleared.
const HEAL_LIMIT_MS: u64 = 30_000;
/// How soon a process that ended itself is started again.
const RESTART_MS: u64 = 200;

/// What a run is asked to do.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub seed: u64,
    /// Print what happens.
    pub prints: bool,
    /// The rules to do without.
    pub mutations: Mutations,
    /// Draw this weather rather than the seed's.
    pub weather: Option<Weather>,
}

impl Options {
    /// A run under every rule.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        Self { seed, prints: false, mutations: Mutations::none(), weather: None }
    }
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    /// Equal for two runs that went the same way.
    pub hash: u64,
    /// Why the run failed; empty for a good one.
    pub violations: Vec<String>,
    pub counts: Counts,
    pub simulated_ms: u64,
    /// How often a shard was declared lost.
    pub losses: u32,
    /// The ring's last epoch.
    pub ring_epoch: u64,
    /// How often a shard changed its primary, by handover or failover.
    pub primaries_changed: u64,
    /// The members of the last ring that were not there at its birth: each replaced another, or one that did.
    pub spares: usize,
}

/// Runs one seed from the birth of the ring to its last read.
///
/// # Errors
/// The operating system gave no runtime.
pub fn run(options: &Options) -> std::io::Result<Report> {
    panics::record();
    seed_randomness(options.seed);
    drop_ring_rules(options.mutations);
    let mut world = World::new(options)?;
    world.live()?;
    Ok(world.into_report(options.seed))
}

/// Everything there is in a run.
pub(crate) struct World {
    pub(crate) now_ms: u64,
    pub(crate) random: StdRng,
    pub(crate) scenario: Scenario,
    pub(crate) net: Net,
    pub(crate) trace: Trace,
    directory: Directory,
    pub(crate) machines: BTreeMap<MemberId, Machine>,
    settings: MemberSettings,
    clients: Turns,
    pub(crate) workload: Arc<Workload>,
    pub(crate) checks: Checks,
    pub(crate) kubernetes: Kubernetes,
    /// One as a rule.
    pub(crate) operators: Vec<Operator>,
    /// What ends when.
    pub(crate) endings: BTreeMap<(u64, u64), Ending>,
    pub(crate) next_ending: u64,
    next_process: u64,
}

impl World {
    fn new(options: &Options) -> std::io::Result<Self> {
        let mut random = StdRng::seed_from_u64(options.seed);
        let mut scenario = Scenario::draw(&mut random);
        if let Some(weather) = options.weather {
            while scenario.weather != weather {
                scenario = Scenario::draw(&mut random);
            }
        }
        let trace = Trace::new(options.prints);
        let slow_per_mille = scenario.slow_packets_per_mille;
        let net = Net::new(random.next_u64(), Latency { slow_per_mille, ..Latency::default() }, trace.clone());
        let directory = Directory::default();
        let workload = Workload::new(Arc::clone(&directory), trace.clone());
        let heartbeat_ms = 40;
        let settings = MemberSettings {
            raft: RaftTiming { heartbeat_ms, election_ms_min: heartbeat_ms * 3, election_ms_max: heartbeat_ms * 5 },
            log_bytes_max: scenario.log_bytes_max,
            sync_bytes_per_second: 0,
            mutations: options.mutations,
        };
        let checks = Checks::new(scenario.weather == Weather::Planned);
        let clients = start_clients(&net, &directory, &workload, scenario.clients, random.next_u64())?;
        let kubernetes = Kubernetes::new(&scenario)?;
        trace.line(format_args!(
            "{:?}: {} shards of {} copies on {} nodes",
            scenario.weather, scenario.shards, scenario.copies, scenario.nodes
        ));
        Ok(Self {
            now_ms: 0,
            random,
            scenario,
            net,
            trace,
            directory,
            machines: BTreeMap::new(),
            settings,
            clients,
            workload,
            checks,
            kubernetes,
            operators: vec![Operator::begins_at(0)],
            endings: BTreeMap::new(),
            next_ending: 0,
            next_process: 1,
        })
    }

    fn live(&mut self) -> std::io::Result<()> {
        if !self.form()? {
            self.checks.report("the ring did not form".to_owned());
            return Ok(());
        }
        self.workload.set_mode(Mode::Work);
        self.endure()?;
        if self.is_broken() {
            return Ok(());
        }
        self.clear_up()?;
        let whole = self.run_until(HEAL_LIMIT_MS, true, Self::is_whole)?;
        if !whole && !self.is_broken() {
            let why = self.why_not_whole();
            self.checks.report(format!("not whole {HEAL_LIMIT_MS} ms after the last fault: {why}"));
        }
        self.settle()
    }

    // ---- birth

    /// There is a resource and nothing else: the operator makes the members, and has one of them form the ring.
    fn form(&mut self) -> std::io::Result<bool> {
        let serves = |world: &mut Self| world.why_not_whole().is_empty();
        if !self.run_until(FORM_LIMIT_MS, true, serves)? {
            let why = self.why_not_whole();
            self.checks.report(why);
            return Ok(false);
        }
        let settled = |world: &mut Self| world.everybody_knows_the_ring() && world.votes_are_settled();
        if !self.run_until(FORM_LIMIT_MS, true, settled)? {
            self.fail("votes do not settle");
            return Ok(false);
        }
        if let Some(ring) = self.checks.newest() {
            self.workload.set_ring(Arc::clone(ring));
        }
        self.trace.line(format_args!("the ring serves"));
        Ok(true)
    }

    fn everybody_knows_the_ring(&self) -> bool {
        self.machines.values().all(|machine| machine.process.as_ref().is_some_and(|process| process.ring().is_some()))
    }

    /// Whether the votes are where the ring wants them.
    fn votes_are_settled(&self) -> bool {
        self.checks.newest().is_some_and(|ring| ring.voters == wanted_voters(ring))
    }

    pub(crate) fn create(&mut self, member: MemberId, shard: Option<ShardId>) {
        let drift = i64::from(DRIFT_PPM_BOUND) / 2;
        let clock = Clock {
            offset_ns: self.random.gen_range(1..1_000_000_000_000),
            drift_ppm: self.random.gen_range(-drift..=drift),
            wall_ms: 1_800_000_000_000 + self.random.gen_range(0..2_000),
        };
        let disk = SimDisk::new(self.random.next_u64(), self.scenario.slow_syncs_per_mille);
        let host = host_of(member);
        self.machines
            .insert(member, Machine { host, member, shard, clock, disk, process: None, voter: None, is_down: false });
        self.publish_members();
    }

    /// The machine is gone, with everything on it.
    pub(crate) fn remove_machine(&mut self, member: MemberId) {
        if let Some(mut machine) = self.machines.remove(&member) {
            machine.kill(&self.net);
            self.net.host_down(machine.host);
            self.publish_members();
        }
    }

    pub(crate) fn publish_members(&self) {
        let names = self.machines.values().map(|machine| machine.host.name()).collect();
        self.directory.lock().insert(MEMBERS.to_owned(), names);
    }

    pub(crate) fn start(&mut self, member: MemberId) -> std::io::Result<()> {
        let Some(machine) = self.machines.get_mut(&member) else { return Ok(()) };
        if machine.process.is_some() {
            return Ok(());
        }
        let process = ProcessId(self.next_process);
        self.next_process += 1;
        let boot = BootId(self.random.next_u64());
        self.trace.line(format_args!("start {member} as {boot}"));
        machine.start(Start {
            net: self.net.clone(),
            directory: Arc::clone(&self.directory),
            now_ms: self.now_ms,
            process,
            boot,
            seed: self.random.next_u64(),
            settings: self.settings.clone(),
        })
    }

    // ---- time

    /// One millisecond.
    fn step(&mut self, operator_works: bool) -> std::io::Result<()> {
        self.trace.at(self.now_ms);
        self.net.deliver(self.now_ms);
        self.end_faults()?;
        let mut order: Vec<Option<MemberId>> = self.machines.keys().map(|id| Some(*id)).collect();
        order.push(None);
        order.shuffle(&mut self.random);
        let next_ms = self.now_ms + 1;
        for turn in order {
            match turn {
                None => self.clients.run_until(next_ms),
                Some(member) => {
                    let machine = self.machines.get_mut(&member);
                    machine.into_iter().for_each(|machine| machine.run_until(next_ms));
                }
            }
            for panic in panics::take() {
                self.checks.report(format!("panic on machine {turn:?}: {panic}"));
            }
        }
        self.now_ms = next_ms;
        self.bury_the_failed();
        let known = self.checks.newest().map(|ring| ring.epoch);
        self.checks.look(&self.machines, &mut self.workload.ledger.lock(), self.now_ms);
        if let Some(ring) = self.checks.newest().filter(|ring| Some(ring.epoch) != known) {
            self.trace.line(format_args!("{}", in_short(ring)));
        }
        if operator_works {
            self.operate();
        }
        self.tend_pods()
    }

    /// Goes on for at most `limit_ms`, until `done` or a violation. Says whether it was done.
    pub(crate) fn run_until(
        &mut self,
        limit_ms: u64,
        operator_works: bool,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> std::io::Result<bool> {
        let until_ms = self.now_ms + limit_ms;
        while self.now_ms < until_ms && !self.is_broken() {
            self.step(operator_works)?;
            if self.now_ms.is_multiple_of(8) && done(self) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) fn is_broken(&self) -> bool {
        !self.checks.violations().is_empty()
    }

    /// A process that found that it cannot go on has ended; something starts it again, as a kubelet would.
    fn bury_the_failed(&mut self) {
        for (member, machine) in &mut self.machines {
            if let Some(why) = machine.process.as_ref().and_then(Process::failure) {
                self.trace.line(format_args!("{member} ended itself: {why}"));
                machine.kill(&self.net);
                self.endings.insert((self.now_ms + RESTART_MS, self.next_ending), Ending::Start { member: *member });
                self.next_ending += 1;
            }
        }
    }

    /// Adds a failure, unless the run has failed already.
    pub(crate) fn fail(&mut self, why: &str) {
        if !self.is_broken() {
            self.checks.report(why.to_owned());
        }
    }

    /// Prints how everybody stands.
    fn describe(&self) {
        if let Some((one, other)) = self.checks.unlike() {
            self.trace.line(format_args!("one: {one:#?}\nother: {other:#?}"));
        }
        if let Some(ring) = self.checks.newest() {
            self.trace.line(format_args!("{ring:#?}"));
        }
        for (member, machine) in &self.machines {
            let Some(process) = &machine.process else {
                self.trace.line(format_args!("member {member}: no process"));
                continue;
            };
            let known = process.ring().map(|ring| ring.epoch);
            let gate = process.gate();
            let may = gate.may_execute(ringmaster_replica::Access::Write, process.now(self.now_ms));
            let leadership = process.control().map(|control| control.consensus().leadership());
            self.trace.line(format_args!("member {member}: ring {known:?}, writes {may:?}, {leadership:?}"));
            if let Some(control) = process.control() {
                let told = control.driver().inspect(|replica| format!("{replica:?}"));
                self.trace.line(format_args!("    {}", told.unwrap_or_default()));
            }
        }
    }

    fn into_report(self, seed: u64) -> Report {
        let ring = self.checks.newest();
        for violation in self.checks.violations() {
            self.trace.line(format_args!("VIOLATION: {violation}"));
        }
        if self.is_broken() && self.trace.prints() {
            self.describe();
        }
        Report {
            seed,
            hash: self.trace.hash(),
            violations: self.checks.violations().to_vec(),
            counts: self.workload.ledger.lock().counts(),
            simulated_ms: self.now_ms,
            losses: ring.map_or(0, |ring| ring.shards.values().map(|shard| shard.losses).sum()),
            ring_epoch: ring.map_or(0, |ring| ring.epoch.0),
            primaries_changed: ring.map_or(0, |ring| ring.shards.values().map(|s| s.epoch.0.saturating_sub(1)).sum()),
            spares: ring.map_or(0, |ring| ring.members.values().filter(|m| m.replaces.is_some()).count()),
        }
    }
}

/// A ring in one line.
fn in_short(ring: &Ring) -> String {
    let mut text = format!("ring {}: votes", ring.epoch);
    for voter in &ring.voters {
        match ring.member_of_voter(*voter) {
            Some((member, _)) => text.push_str(&format!(" {member}")),
            None => text.push_str(" (gone)"),
        }
    }
    for (id, shard) in &ring.shards {
        let in_sync: Vec<String> = shard.in_sync.keys().map(ToString::to_string).collect();
        let Holder { member, boot } = shard.primary;
        text.push_str(&format!(", shard {id} epoch {} by {member}@{boot}, in sync {}", shard.epoch, in_sync.join(" ")));
        if let Some(from) = shard.pending_from {
            text.push_str(&format!(", from {}", from.member));
        }
    }
    text
}

fn start_clients(
    net: &Net,
    directory: &Directory,
    workload: &Arc<Workload>,
    clients: u32,
    seed: u64,
) -> std::io::Result<Turns> {
    let turns = Turns::new(0)?;
    let process = ProcessId(0);
    net.host_up(CLIENTS_HOST);
    net.process_started(CLIENTS_HOST, process);
    for number in 0..clients {
        let parts = EnvParts {
            net: net.clone(),
            host: CLIENTS_HOST,
            process,
            disk: SimDisk::new(0, 0),
            clock: Clock { offset_ns: 0, drift_ppm: 0, wall_ms: 1_800_000_000_000 },
            directory: Arc::clone(directory),
            true_ms: 0,
            seed: seed.wrapping_add(u64::from(number)),
        };
        let env = turns.enter(|| SimEnv::new(parts));
        turns.spawn(Client::new(env, Arc::clone(workload), number, clients).run());
    }
    Ok(turns)
}
