//! One run: machines, network, clients, operator, faults and checks, moved on together a millisecond at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, RngCore, SeedableRng};
use ringmaster_node::consensus::{Leadership, RaftTiming, seed_randomness};
use ringmaster_replica::Mutations;
use ringmaster_ring::{
    BootId, Command, Formation, FoundingMember, Holder, MemberId, Placement, Ring, Settings, ShardChange, ShardId,
    SlotRange, VoterId, wanted_voters,
};

use crate::checks::Checks;
use crate::client::{Client, MEMBERS, Mode, Workload};
use crate::disk::SimDisk;
use crate::env::{Clock, Directory, EnvParts, SimEnv};
use crate::ledger::Counts;
use crate::net::{HostId, Latency, Net, ProcessId};
use crate::operator::{Step, Wishes, steps};
use crate::panics;
use crate::process::{
    CLUSTER, DRIFT_PPM_BOUND, GENERATION, Machine, MemberSettings, Process, Start, Turns, drop_ring_rules, host_of,
};
use crate::scenario::{Fault, Scenario, Target, Weather};
use crate::trace::Trace;

const CLIENTS_HOST: HostId = HostId(60_000);
/// How long a ring may take to form and to serve.
const FORM_LIMIT_MS: u64 = 10_000;
/// How long everything may take to be whole again once the weather has cleared.
const HEAL_LIMIT_MS: u64 = 30_000;
/// How long the last reads may take.
const SETTLE_LIMIT_MS: u64 = 20_000;
/// How long, after the clients have stopped, copies may take to catch up.
const CATCH_UP_MS: u64 = 2_000;
/// How soon a process that ended itself is started again.
const RESTART_MS: u64 = 200;
/// How often the operator looks, on average.
const OPERATOR_EVERY_MS: u64 = 60;

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

struct World {
    now_ms: u64,
    random: StdRng,
    scenario: Scenario,
    net: Net,
    trace: Trace,
    directory: Directory,
    machines: BTreeMap<MemberId, Machine>,
    settings: MemberSettings,
    clients: Turns,
    workload: Arc<Workload>,
    checks: Checks,
    wishes: Wishes,
    /// What ends when.
    endings: BTreeMap<(u64, u64), Ending>,
    next_ending: u64,
    next_process: u64,
}

/// The end of a fault.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Start { member: MemberId },
    GoOn { member: MemberId, holder: Holder },
    HealLinks,
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
        trace.line(format_args!(
            "{:?}: {} shards of {} copies, witness {}",
            scenario.weather, scenario.shards, scenario.copies, scenario.witness
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
            wishes: Wishes::default(),
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

    /// Starts the founding members, a little apart, and has one of them form the ring.
    fn form(&mut self) -> std::io::Result<bool> {
        let mut serial = 1;
        for shard in 0..self.scenario.shards {
            for _ in 0..self.scenario.copies {
                self.create(MemberId(serial), Some(ShardId(shard)));
                serial += 1;
            }
        }
        if self.scenario.witness {
            self.create(MemberId(serial), None);
            serial += 1;
        }
        for member in self.machines.keys().copied().collect::<Vec<_>>() {
            self.start(member)?;
            let pause_ms = self.random.gen_range(1..20);
            self.run_until(pause_ms, false, |_| false)?;
        }
        let begun =
            |world: &mut Self| world.machines.values().all(|m| m.process.as_ref().and_then(Process::control).is_some());
        if !self.run_until(FORM_LIMIT_MS, false, begun)? {
            return Ok(false);
        }
        let mut members = BTreeMap::new();
        for (id, machine) in &self.machines {
            let Some(control) = machine.process.as_ref().and_then(Process::control) else { return Ok(false) };
            let founding = FoundingMember {
                shard: machine.shard,
                template: String::new(),
                placement: Placement::default(),
                presence: control.presence(),
            };
            members.insert(*id, founding);
        }
        let ranges = SlotRange::split(self.scenario.shards).into_iter().map(|range| vec![range]);
        let slots = (0..self.scenario.shards).map(ShardId).zip(ranges);
        let formation = Formation {
            cluster: CLUSTER,
            generation: GENERATION,
            settings: Settings { copies: self.scenario.copies, ..Settings::default() },
            members,
            shards: slots.collect(),
            next_serial: MemberId(serial),
        };
        let founder = self.machines.values().find_map(|machine| machine.process.as_ref());
        if let Some((founder, control)) = founder.and_then(|founder| Some((founder, founder.control()?))) {
            founder.spawn(async move {
                // Whether it worked is seen in the ring.
                let _ = control.form(formation).await;
            });
        }
        let serves = |world: &mut Self| world.why_not_whole().is_empty();
        if !self.run_until(FORM_LIMIT_MS, false, serves)? {
            let why = self.why_not_whole();
            self.checks.report(why);
            return Ok(false);
        }
        let settled = |world: &mut Self| world.everybody_knows_the_ring() && world.votes_are_settled();
        if !self.run_until(FORM_LIMIT_MS, false, settled)? {
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

    /// Whether the ring survives the loss of this member's disk: every other vote's disk is there, and there are
    /// enough. More is beyond the fault model: a majority of the votes would be gone for good.
    fn may_lose_disk(&self, member: MemberId) -> bool {
        let Some(ring) = self.checks.newest() else { return false };
        let lost = self.machines.get(&member).and_then(|machine| machine.voter);
        let kept: BTreeSet<VoterId> =
            self.machines.iter().filter(|(id, _)| **id != member).filter_map(|(_, machine)| machine.voter).collect();
        let others = ring.voters.iter().filter(|voter| Some(**voter) != lost);
        ring.voters.len() >= 3 && others.clone().all(|voter| kept.contains(voter))
    }

    fn create(&mut self, member: MemberId, shard: Option<ShardId>) {
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

    fn publish_members(&self) {
        let names = self.machines.values().map(|machine| machine.host.name()).collect();
        self.directory.lock().insert(MEMBERS.to_owned(), names);
    }

    fn start(&mut self, member: MemberId) -> std::io::Result<()> {
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
        if operator_works && self.random.gen_range(0..OPERATOR_EVERY_MS) == 0 {
            self.operate()?;
        }
        Ok(())
    }

    /// Goes on for at most `limit_ms`, until `done` or a violation. Says whether it was done.
    fn run_until(
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

    fn is_broken(&self) -> bool {
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

    // ---- faults

    fn endure(&mut self) -> std::io::Result<()> {
        let began_ms = self.now_ms;
        let faults = std::mem::take(&mut self.scenario.faults);
        for (at_ms, fault) in faults {
            let pause_ms = (began_ms + at_ms).saturating_sub(self.now_ms);
            self.run_until(pause_ms, true, |_| false)?;
            if self.is_broken() {
                return Ok(());
            }
            self.inflict(fault);
        }
        let rest_ms = (began_ms + self.scenario.lasts_ms).saturating_sub(self.now_ms);
        self.run_until(rest_ms, true, |_| false)?;
        Ok(())
    }

    fn inflict(&mut self, fault: Fault) {
        self.trace.line(format_args!("{fault:?}"));
        match fault {
            Fault::Kill { target, back_after_ms, loses_disk } => {
                let Some(member) = self.find(target) else { return };
                let loses_disk = loses_disk && self.may_lose_disk(member);
                if let Some(machine) = self.machines.get_mut(&member).filter(|machine| machine.process.is_some()) {
                    self.trace.line(format_args!("kill {member}"));
                    machine.kill(&self.net);
                    if loses_disk {
                        machine.lose_disk();
                    }
                    self.end_later(back_after_ms, Ending::Start { member });
                }
            }
            Fault::PowerOff { target, back_after_ms, loses_disk } => {
                let Some(member) = self.find(target) else { return };
                let loses_disk = loses_disk && self.may_lose_disk(member);
                if let Some(machine) = self.machines.get_mut(&member).filter(|machine| machine.process.is_some()) {
                    self.trace.line(format_args!("power off {member}"));
                    machine.power_off(&self.net);
                    if loses_disk {
                        machine.lose_disk();
                    }
                    self.end_later(back_after_ms, Ending::Start { member });
                }
            }
            Fault::Destroy { target } => {
                let Some(member) = self.find(target).filter(|member| self.may_lose_disk(*member)) else { return };
                if let Some(mut machine) = self.machines.remove(&member) {
                    self.trace.line(format_args!("destroy {member}"));
                    machine.power_off(&self.net);
                    self.wishes.destroyed.insert(member);
                    self.publish_members();
                }
            }
            Fault::Stop { target, for_ms } => {
                let Some(member) = self.find(target) else { return };
                let process = self.machines.get_mut(&member).and_then(|machine| machine.process.as_mut());
                if let Some(process) = process {
                    self.trace.line(format_args!("stop {member}"));
                    process.stop();
                    let holder = process.holder;
                    self.end_later(for_ms, Ending::GoOn { member, holder });
                }
            }
            Fault::Isolate { target, for_ms, from_clients_too } => {
                let Some(member) = self.find(target) else { return };
                self.trace.line(format_args!("isolate {member}"));
                let mut others: Vec<HostId> = self.machines.values().map(|machine| machine.host).collect();
                if from_clients_too {
                    others.push(CLIENTS_HOST);
                }
                for other in others.into_iter().filter(|other| *other != host_of(member)) {
                    self.net.cut(host_of(member), other);
                    self.net.cut(other, host_of(member));
                }
                self.end_later(for_ms, Ending::HealLinks);
            }
            Fault::CutOneWay { from, to, for_ms } => {
                let (Some(from), Some(to)) = (self.find(from), self.find(to)) else { return };
                self.trace.line(format_args!("cut {from} to {to}"));
                self.net.cut(host_of(from), host_of(to));
                self.end_later(for_ms, Ending::HealLinks);
            }
            Fault::Delay { from, to, ms, for_ms } => {
                let (Some(from), Some(to)) = (self.find(from), self.find(to)) else { return };
                self.trace.line(format_args!("delay {from} to {to}"));
                self.net.delay(host_of(from), host_of(to), ms);
                self.end_later(for_ms, Ending::HealLinks);
            }
            Fault::Drain { target } => {
                let Some(member) = self.find(target) else { return };
                self.trace.line(format_args!("drain {member}"));
                self.wishes.drained.insert(member);
            }
            Fault::Handover { shard } => self.hand_over(ShardId(shard)),
        }
    }

    /// Somebody asks for a handover to some copy that is in sync.
    fn hand_over(&mut self, shard_id: ShardId) {
        let Some(ring) = self.checks.newest().cloned() else { return };
        let Some(shard) = ring.shards.get(&shard_id) else { return };
        let copies: Vec<Holder> = shard
            .in_sync
            .iter()
            .map(|(member, boot)| Holder { member: *member, boot: *boot })
            .filter(|copy| copy.member != shard.primary.member)
            .collect();
        if let Some(to) = copies.choose(&mut self.random).copied() {
            let command = Command::on_shard(&ring, shard_id, ShardChange::Handover { to });
            command.into_iter().for_each(|command| self.propose(command));
        }
    }

    /// The member that a fault is about.
    fn find(&mut self, target: Target) -> Option<MemberId> {
        let ring = self.checks.newest()?;
        let found = match target {
            Target::Primary { shard } => ring.shards.get(&ShardId(shard))?.primary.member,
            Target::Copy { shard } => {
                let shard = ring.shards.get(&ShardId(shard))?;
                *shard.in_sync.keys().find(|member| **member != shard.primary.member)?
            }
            Target::RingLeader => self.ring_leader()?,
            Target::Any(number) => {
                let count = u32::try_from(self.machines.len()).ok()?;
                *self.machines.keys().nth(number.checked_rem(count)? as usize)?
            }
        };
        self.machines.contains_key(&found).then_some(found)
    }

    fn ring_leader(&self) -> Option<MemberId> {
        let leads = |machine: &&Machine| {
            let control = machine.process.as_ref().and_then(Process::control);
            control.is_some_and(|control| matches!(control.consensus().leadership(), Leadership::Leading { .. }))
        };
        self.machines.values().find(leads).map(|machine| machine.member)
    }

    fn end_later(&mut self, after_ms: u64, ending: Ending) {
        self.endings.insert((self.now_ms + after_ms, self.next_ending), ending);
        self.next_ending += 1;
    }

    fn end_faults(&mut self) -> std::io::Result<()> {
        while let Some(entry) = self.endings.first_entry() {
            if entry.key().0 > self.now_ms {
                break;
            }
            let ending = entry.remove();
            self.end_fault(ending)?;
        }
        Ok(())
    }

    fn end_fault(&mut self, ending: Ending) -> std::io::Result<()> {
        match ending {
            Ending::Start { member } => {
                self.start(member)?;
            }
            Ending::GoOn { member, holder } => {
                let process = self.machines.get_mut(&member).and_then(|machine| machine.process.as_mut());
                if let Some(process) = process.filter(|process| process.holder == holder) {
                    self.trace.line(format_args!("go on {member}"));
                    process.go_on();
                }
            }
            Ending::HealLinks => {
                self.trace.line(format_args!("links heal"));
                self.net.heal();
            }
        }
        Ok(())
    }

    /// Ends every fault at once.
    fn clear_up(&mut self) -> std::io::Result<()> {
        self.trace.line(format_args!("the weather clears"));
        for ending in std::mem::take(&mut self.endings).into_values() {
            self.end_fault(ending)?;
        }
        self.net.heal();
        Ok(())
    }

    // ---- the operator

    /// The operator looks once, through whichever member it happens to ask, and does some of what it sees to do.
    fn operate(&mut self) -> std::io::Result<()> {
        let rings: Vec<Arc<Ring>> =
            self.machines.values().filter_map(|m| m.process.as_ref().filter(|p| !p.is_stopped())?.ring()).collect();
        let Some(ring) = rings.choose(&mut self.random).cloned() else { return Ok(()) };
        for step in steps(&ring, &self.machines, &self.wishes) {
            if self.random.gen_bool(0.05) {
                // It was killed here. Its successor looks anew.
                break;
            }
            match step {
                Step::Propose(command) => self.propose(command),
                Step::Create { member, shard } => {
                    self.create(member, shard);
                    self.start(member)?;
                }
                Step::Delete { member } => {
                    // Clients may use it for a while.
                    if self.random.gen_bool(0.1) {
                        self.trace.line(format_args!("delete {member}"));
                        if let Some(mut machine) = self.machines.remove(&member) {
                            machine.kill(&self.net);
                            self.net.host_down(machine.host);
                        }
                        self.wishes.drained.remove(&member);
                        self.wishes.destroyed.remove(&member);
                        self.publish_members();
                    }
                }
            }
        }
        Ok(())
    }

    /// Through some member, who may not get it there.
    fn propose(&mut self, command: Command) {
        let living: Vec<&Process> = self.machines.values().filter_map(|machine| machine.process.as_ref()).collect();
        let Some((process, control)) = living.choose(&mut self.random).and_then(|p| Some((*p, p.control()?))) else {
            return;
        };
        let trace = self.trace.clone();
        process.spawn(async move {
            let proposed = control.propose(command.clone()).await;
            trace.line(format_args!("operator {command:?}: {proposed:?}"));
        });
    }

    // ---- the end

    fn is_whole(&mut self) -> bool {
        self.why_not_whole().is_empty()
    }

    /// What is missing: every shard served, with all its copies, and nothing under way.
    fn why_not_whole(&self) -> String {
        let Some(ring) = self.checks.newest() else { return "there is no ring".to_owned() };
        let mut missing = Vec::new();
        for (id, shard) in &ring.shards {
            if shard.in_sync.len() < usize::from(ring.settings.copies) {
                missing.push(format!("shard {id} has in sync {:?}", shard.in_sync.keys()));
            }
            if shard.pending_from.is_some() {
                missing.push(format!("a handover of shard {id} is under way"));
            }
            let primary = self.machines.get(&shard.primary.member).and_then(|machine| machine.process.as_ref());
            let serves = primary.is_some_and(|process| {
                let (gate, now) = (process.gate(), process.now(self.now_ms));
                process.holder == shard.primary
                    && gate.may_execute(ringmaster_replica::Access::Write, now) == ringmaster_replica::Verdict::Yes
            });
            if !serves {
                missing.push(format!("nobody serves shard {id} in epoch {}", shard.epoch));
            }
        }
        for member in self.wishes.drained.union(&self.wishes.destroyed) {
            if ring.members.get(member).is_some_and(|member| member.is_active()) {
                missing.push(format!("member {member} is not replaced"));
            }
        }
        missing.join("; ")
    }

    /// Clients stop, read everything once, and copies are compared.
    fn settle(&mut self) -> std::io::Result<()> {
        let clients = self.scenario.clients;
        self.workload.set_mode(Mode::Wait);
        if !self.run_until(SETTLE_LIMIT_MS, true, |world| world.workload.resting() == clients)? {
            self.fail("clients still wait for answers");
            return Ok(());
        }
        self.workload.set_mode(Mode::Settle);
        if !self.run_until(SETTLE_LIMIT_MS, true, |world| world.workload.settled() == clients)? {
            self.fail("not every key could be read");
            return Ok(());
        }
        let equal = self.run_until(CATCH_UP_MS, false, |world| world.unlike_copies().is_none())?;
        if let (false, Some(unlike)) = (equal, self.unlike_copies()) {
            self.checks.report(unlike);
        }
        Ok(())
    }

    /// Adds a failure, unless the run has failed already.
    fn fail(&mut self, why: &str) {
        if !self.is_broken() {
            self.checks.report(why.to_owned());
        }
    }

    /// Two in-sync copies that differ, if there are any.
    fn unlike_copies(&self) -> Option<String> {
        let ring = self.checks.newest()?;
        let keys = self.workload.ledger.lock().keys();
        for (id, shard) in &ring.shards {
            let primary = self.machines.get(&shard.primary.member)?.process.as_ref()?;
            for member in shard.in_sync.keys() {
                let Some(copy) = self.machines.get(member).and_then(|machine| machine.process.as_ref()) else {
                    return Some(format!("in-sync copy {member} of shard {id} is not there"));
                };
                let (ours, theirs) = (primary.engine().log().end(), copy.engine().log().end());
                if ours != theirs {
                    return Some(format!("copy {member} of shard {id} ends at {theirs}, its primary at {ours}"));
                }
                for (key, ..) in keys.iter().filter(|(_, shard, _)| shard == id) {
                    let slot = ringmaster_ring::Slot::of_key(key.as_bytes());
                    if primary.engine().slot_digest(slot) != copy.engine().slot_digest(slot) {
                        return Some(format!("slot {slot} of copy {member} of shard {id} differs from its primary's"));
                    }
                }
            }
        }
        None
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
