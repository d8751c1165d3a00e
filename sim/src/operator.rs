//! The operator: the production planner, between eyes that see late and hands that may be gone before they are done.
//!
//! It asks the members, then lists the objects, then plans, then takes one step after the other, with a pause that the
//! seed draws before each: what it acts on may be old. It may be killed between any two effects, and its successor
//! starts from what is there; or it was only slow, and goes on beside its successor.
//! In: members and objects. Out: objects, proposals, the status.

use std::collections::{BTreeMap, VecDeque};

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use ringmaster_plan::crd::CacheClusterStatus;
use ringmaster_plan::{Step, plan};
use ringmaster_ring::{Command, MemberId, MemberStatus, Ring};

use crate::kubernetes::Kubernetes;
use crate::net::HostId;
use crate::process::{Machine, Process, host_of};
use crate::world::World;

pub(crate) const OPERATOR_HOST: HostId = HostId(60_001);
/// Of 1,000 moments between two effects, so many are the operator's last.
const DEATHS_PER_MILLE: u32 = 15;
/// How long it takes until there is another one, in ms.
const SUCCESSOR_MS: std::ops::Range<u64> = 20..800;

/// One process of the operator.
#[derive(Debug)]
pub(crate) struct Operator {
    /// When it does something next.
    at_ms: u64,
    doing: Doing,
    /// Another one has its Lease: it ends when it has done what it was about to do.
    is_deposed: bool,
}

#[derive(Debug)]
enum Doing {
    Ask,
    List { statuses: BTreeMap<MemberId, MemberStatus>, ring: Option<Ring> },
    Act { steps: VecDeque<Step>, status: Box<CacheClusterStatus>, busy: bool },
}

impl Operator {
    pub(crate) fn begins_at(at_ms: u64) -> Self {
        Self { at_ms, doing: Doing::Ask, is_deposed: false }
    }
}

/// Mostly soon, sometimes late, rarely very late.
fn pause_ms(random: &mut StdRng) -> u64 {
    match random.gen_range(0..100) {
        0..88 => random.gen_range(1..12),
        88..98 => random.gen_range(12..150),
        _ => random.gen_range(150..1_500),
    }
}

impl World {
    /// Every operator does what is due.
    pub(crate) fn operate(&mut self) {
        for operator in std::mem::take(&mut self.operators) {
            if operator.at_ms > self.now_ms {
                self.operators.push(operator);
                continue;
            }
            if self.random.gen_range(0..1_000) < DEATHS_PER_MILLE {
                self.end_operator(operator);
                continue;
            }
            let next = self.let_act(operator);
            self.operators.extend(next);
        }
    }

    /// It is killed; or, of every three that go, one does not know that it lost its Lease.
    fn end_operator(&mut self, operator: Operator) {
        if !operator.is_deposed {
            let next_ms = self.now_ms + self.random.gen_range(SUCCESSOR_MS);
            self.operators.push(Operator::begins_at(next_ms));
        }
        if matches!(operator.doing, Doing::Act { .. }) && self.random.gen_bool(0.3) {
            self.trace.line(format_args!("the operator sleeps"));
            let at_ms = self.now_ms + self.random.gen_range(SUCCESSOR_MS);
            self.operators.push(Operator { at_ms, is_deposed: true, ..operator });
        } else {
            self.trace.line(format_args!("the operator dies"));
        }
    }

    /// One thing, and what the operator does then; none if it ends.
    fn let_act(&mut self, operator: Operator) -> Option<Operator> {
        let Operator { at_ms: _, doing, is_deposed } = operator;
        let mut pause_ms = pause_ms(&mut self.random);
        let doing = match doing {
            Doing::Ask => self.ask_members(),
            Doing::List { statuses, ring } => {
                let observed = self.kubernetes.observed(statuses, ring);
                let plan = plan(&observed, Kubernetes::timestamp(self.now_ms));
                let steps = plan.steps.into_iter().map(|note| note.step).collect();
                Doing::Act { steps, status: Box::new(plan.status), busy: plan.busy }
            }
            Doing::Act { mut steps, status, busy } => match steps.pop_front() {
                Some(step) => {
                    self.take(step);
                    Doing::Act { steps, status, busy }
                }
                None => {
                    self.kubernetes.cluster.status = Some(*status);
                    pause_ms += self.random.gen_range(if busy { 10..60 } else { 60..200 });
                    Doing::Ask
                }
            },
        };
        let ends = is_deposed && matches!(doing, Doing::Ask);
        (!ends).then_some(Operator { at_ms: self.now_ms + pause_ms, doing, is_deposed })
    }

    /// Those that answer, and the newest ring that any of them knows.
    fn ask_members(&self) -> Doing {
        let mut statuses = BTreeMap::new();
        let mut newest = None;
        for (member, machine) in &self.machines {
            let Some(process) = self.answering(machine) else { continue };
            let Some(status) = process.status() else { continue };
            let ring = process.ring();
            if ring.as_ref().map(|ring| ring.epoch) > newest.as_ref().map(|ring: &std::sync::Arc<Ring>| ring.epoch) {
                newest = ring;
            }
            statuses.insert(*member, status);
        }
        Doing::List { statuses, ring: newest.map(|ring| Ring::clone(&ring)) }
    }

    /// The process there, if it answers the operator.
    fn answering<'a>(&self, machine: &'a Machine) -> Option<&'a Process> {
        let host = host_of(machine.member);
        let reachable = self.net.reaches(OPERATOR_HOST, host) && self.net.reaches(host, OPERATOR_HOST);
        machine.process.as_ref().filter(|process| reachable && !process.is_stopped())
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::CreateIdentity(identity) => {
                let known = self.kubernetes.identity.as_ref().map(|identity| identity.generation);
                if known < Some(identity.generation) {
                    self.trace.line(format_args!("operator writes {identity:?}"));
                    self.kubernetes.identity = Some(identity);
                    self.kubernetes.birth = None;
                }
            }
            Step::RecordBirth(birth) => {
                self.kubernetes.birth.get_or_insert(birth);
            }
            Step::Form { founder, formation } => {
                let machine = self.machines.get(&founder);
                let process = machine.and_then(|machine| self.answering(machine));
                if let Some((process, control)) = process.and_then(|process| Some((process, process.control()?))) {
                    process.spawn(async move {
                        // Whether it worked is seen in the ring.
                        drop(control.form(*formation).await);
                    });
                }
            }
            Step::Propose(command) => self.propose(command),
            Step::CreateMember(new) => {
                self.trace.line(format_args!("operator creates {}", new.member));
                self.kubernetes.create(&new, Kubernetes::timestamp(self.now_ms));
            }
            Step::DeleteMember { member, uid } => {
                self.trace.line(format_args!("operator deletes {member}"));
                self.kubernetes.delete(member, &uid);
            }
        }
    }

    /// Through some member that knows the ring, who may not get it there.
    pub(crate) fn propose(&mut self, command: Command) {
        let knowing = self.machines.values().filter_map(|machine| self.answering(machine));
        let knowing: Vec<&Process> = knowing.filter(|process| process.ring().is_some()).collect();
        let Some((process, control)) =
            knowing.into_iter().choose(&mut self.random).and_then(|p| Some((p, p.control()?)))
        else {
            return;
        };
        let trace = self.trace.clone();
        process.spawn(async move {
            let proposed = control.propose(command.clone()).await;
            trace.line(format_args!("operator {command:?}: {proposed:?}"));
        });
    }
}
