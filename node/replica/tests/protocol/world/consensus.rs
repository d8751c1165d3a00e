//! The abstract consensus, the processes, and what an operator does to them.

use std::sync::Arc;

use ringmaster_replica::*;
use ringmaster_ring::*;

use super::{MS, Packet, SHARD, TICK, World};
use crate::ledger::Writes;

impl World {
    /// What the ring says to a command, as if the leader had proposed it this moment.
    pub fn commit(&mut self, command: &Command) -> bool {
        let Ok(next) = self.ring().apply_mutated(command, self.mutations) else { return false };
        if let Command::Shard { change: ShardChange::StartEmpty { .. }, .. } = command {
            self.lose_everything();
        }
        self.note(|| format!("      commit {command:?}"));
        self.rings.push(Arc::new(next));
        let index = self.rings.len() - 1;
        if let Some(leader) = self.leader {
            let delay = self.rng.below(3) * 200_000;
            self.local(leader, delay, Packet::LeadRing { index });
        }
        for to in 0..self.nodes.len() {
            let from = self.leader.unwrap_or(to);
            self.send(from, to, Packet::Learn { index });
        }
        true
    }

    pub fn change(&mut self, change: ShardChange) -> bool {
        let command = Command::on_shard(self.ring(), SHARD, change).unwrap();
        self.commit(&command)
    }

    /// A shard that starts empty may do so only when no in-sync process is left.
    pub(super) fn lose_everything(&mut self) {
        let left = self.shard().in_sync.iter().find(|(member, boot)| {
            let node = &self.nodes[member.0 as usize];
            node.alive && node.boot == **boot
        });
        if let Some((member, _)) = left {
            let what = format!("started empty while the in-sync copy {member} is there");
            return self.fail(what);
        }
        self.losses += 1;
        self.ledger.observed = Writes::NONE;
        for node in &mut self.nodes {
            node.pending.retain(|pending| pending.wrote.is_some());
        }
    }

    /// Makes `index` the leader. The former hears of it later, the others soon.
    pub fn set_leader(&mut self, index: usize) {
        if let Some(former) = self.leader.filter(|former| *former != index && self.deposed_hears) {
            let delay = self.rng.between(1, 300) * MS;
            self.local(former, delay, Packet::NotLeading);
        }
        self.leadership += 1;
        self.leader = Some(index);
        let leadership = self.leadership;
        self.believed_leader.fill(Some(index));
        let delay = self.delay() + self.leading_heard_after;
        self.local(index, delay, Packet::Leading { leadership });
    }

    pub fn no_leader(&mut self) {
        if let Some(former) = self.leader.take() {
            let delay = self.rng.between(1, 300) * MS;
            self.local(former, delay, Packet::NotLeading);
        }
        self.leadership += 1;
    }

    /// Kills a process: its connections break.
    pub fn crash(&mut self, index: usize, keeps_disk: bool, back_after: Option<u64>) {
        self.note(|| format!("      crash {index}"));
        self.break_streams_of(index);
        self.stop(index, keeps_disk, back_after);
    }

    /// Takes away a machine: nobody is told, and its connections fall silent.
    pub fn power_off(&mut self, index: usize, back_after: u64) {
        self.note(|| format!("      power off {index}"));
        self.stop(index, false, Some(back_after));
    }

    fn stop(&mut self, index: usize, keeps_disk: bool, back_after: Option<u64>) {
        let node = &mut self.nodes[index];
        node.alive = false;
        node.out.clear();
        node.pending.clear();
        node.records.clear();
        node.walk_allowed = None;
        node.walk_waiting = None;
        if !keeps_disk {
            node.log.clear();
            node.set = Writes::NONE;
            node.kept_after = 0;
        }
        if self.leader == Some(index) {
            self.no_leader();
        }
        if let Some(delay) = back_after {
            self.local(index, delay, Packet::Restart);
        }
    }

    pub(super) fn boot_again(&mut self, index: usize) {
        if self.nodes[index].alive {
            return;
        }
        let boot = BootId(self.nodes[index].boot.0 + 1);
        let mut history = History::new();
        for (n, entry) in self.nodes[index].log.iter().enumerate() {
            if history.last_epoch() < entry.epoch {
                history.begin(entry.epoch, Seq(n as u64 + 1));
            }
        }
        let held = Held { history, end: Seq(self.nodes[index].log.len() as u64) };
        let replica = self.replica(index, boot, held);
        let node = &mut self.nodes[index];
        node.alive = true;
        node.boot = boot;
        node.replica = replica;
        node.gate = Gate::new(self.mutations);
        node.lead = Lead::new(LeadConfig { mutations: self.mutations });
        node.announced_at = 0;
        node.paused_until = 0;
        self.note(|| format!("      restarted {index} as {boot:?}"));
        if let Some(leader) = self.leader {
            let newest = self.rings.len() - 1;
            self.send(leader, index, Packet::Learn { index: newest });
        }
        self.local(index, TICK, Packet::Tick);
    }

    /// The network repeats what a member missed.
    pub fn gossip(&mut self) {
        let newest = self.rings.len() - 1;
        if let Some(leader) = self.leader {
            self.local(leader, 0, Packet::LeadRing { index: newest });
            for to in 0..self.nodes.len() {
                self.send(leader, to, Packet::Learn { index: newest });
            }
        }
    }

    /// A new member of the shard, as an operator makes it.
    pub fn reserve(&mut self) -> Option<usize> {
        let if_next_serial = self.ring().next_serial;
        let wanted =
            ReserveMember { if_next_serial, shard: Some(SHARD), template: String::new(), replaces: None, reason: None };
        if !self.commit(&Command::ReserveMember(wanted)) {
            return None;
        }
        self.add_node(true);
        Some(self.nodes.len() - 1)
    }

    pub fn retire(&mut self, index: usize) -> bool {
        let member = MemberId(index as u32);
        let Some(if_version) = self.ring().members.get(&member).map(|m| m.version) else { return false };
        self.commit(&Command::Retire { member, if_version })
    }

    pub fn holder(&self, index: usize) -> Holder {
        Holder { member: MemberId(index as u32), boot: self.nodes[index].boot }
    }

    /// The log may drop what is older than its last `keep` records.
    pub fn trim(&mut self, index: usize, keep: u64) {
        let node = &mut self.nodes[index];
        node.kept_after = node.kept_after.max((node.log.len() as u64).saturating_sub(keep));
    }
}
