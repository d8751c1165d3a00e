//! What goes wrong, or is done on purpose, and how it ends: the scenario's faults, inflicted on members as they are then.

use std::collections::BTreeSet;

use rand::seq::SliceRandom;
use ringmaster_node::consensus::Leadership;
use ringmaster_ring::{Command, Holder, MemberId, ShardChange, ShardId, VoterId};

use crate::net::HostId;
use crate::operator::OPERATOR_HOST;
use crate::process::{Machine, Process, host_of};
use crate::scenario::{Fault, Target};
use crate::world::{CLIENTS_HOST, World};

/// The end of a fault.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// The process is started again, on its disk.
    Start {
        member: MemberId,
    },
    /// The machine is gone for good, and everybody knows: its pod is no more.
    PodIsCollected {
        member: MemberId,
    },
    GoOn {
        member: MemberId,
        holder: Holder,
    },
    HealLinks,
}

impl World {
    pub(crate) fn endure(&mut self) -> std::io::Result<()> {
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
                        // Its pod is deleted by force: the next one stands elsewhere, on an empty disk.
                        self.remove_machine(member);
                        self.kubernetes.lose_pod(member);
                    } else {
                        self.end_later(back_after_ms, Ending::Start { member });
                    }
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
                        self.end_later(back_after_ms, Ending::PodIsCollected { member });
                    } else {
                        self.end_later(back_after_ms, Ending::Start { member });
                    }
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
                    others.extend([CLIENTS_HOST, OPERATOR_HOST]);
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
            Fault::Cordon { target } => {
                let Some(member) = self.find(target) else { return };
                let Some(node) = self.kubernetes.node_of(member).map(str::to_owned) else { return };
                self.trace.line(format_args!("cordon {node}, where {member} is"));
                self.kubernetes.cordon(&node);
            }
            Fault::Uncordon => self.kubernetes.uncordon_oldest(),
            Fault::DeletePod { target } => {
                let Some(member) = self.find(target) else { return };
                self.trace.line(format_args!("delete the pod of {member}"));
                self.kubernetes.delete_pod(member);
            }
            Fault::Roll { image } => self.kubernetes.roll(image),
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

    pub(crate) fn end_later(&mut self, after_ms: u64, ending: Ending) {
        self.endings.insert((self.now_ms + after_ms, self.next_ending), ending);
        self.next_ending += 1;
    }

    pub(crate) fn end_faults(&mut self) -> std::io::Result<()> {
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
                self.kubernetes.note_restart(member);
                self.start(member)?;
            }
            Ending::PodIsCollected { member } => {
                // Unless it has gone by other ways, and another one stands on another machine.
                if self.machines.get(&member).is_some_and(|machine| machine.is_down) {
                    self.trace.line(format_args!("the pod of {member} is collected"));
                    self.remove_machine(member);
                    self.kubernetes.lose_pod(member);
                }
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
    pub(crate) fn clear_up(&mut self) -> std::io::Result<()> {
        self.trace.line(format_args!("the weather clears"));
        for ending in std::mem::take(&mut self.endings).into_values() {
            self.end_fault(ending)?;
        }
        self.net.heal();
        Ok(())
    }

    /// Whether the ring survives the loss of this member's disk: every other vote's disk is there, and there are
    /// enough. More is beyond the fault model: a majority of the votes would be gone for good.
    pub(crate) fn may_lose_disk(&self, member: MemberId) -> bool {
        let Some(ring) = self.checks.newest() else { return false };
        let lost = self.machines.get(&member).and_then(|machine| machine.voter);
        let kept: BTreeSet<VoterId> =
            self.machines.iter().filter(|(id, _)| **id != member).filter_map(|(_, machine)| machine.voter).collect();
        let others = ring.voters.iter().filter(|voter| Some(**voter) != lost);
        ring.voters.len() >= 3 && others.clone().all(|voter| kept.contains(voter))
    }
}
