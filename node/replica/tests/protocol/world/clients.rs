//! What clients do and are told, and what must therefore hold at every step.

use ringmaster_replica::*;
use ringmaster_ring::*;

use super::{Entry, Packet, Pending, World};
use crate::ledger::{WRITES_MAX, Writes};

impl World {
    /// A write at a member. Returns its number if it was executed.
    pub fn write(&mut self, index: usize) -> Option<u16> {
        let now = self.clock(index);
        let (id, before) = (self.next_write, self.ledger.observed);
        if usize::from(id) >= WRITES_MAX || !self.can_run(index) {
            return None;
        }
        let node = &mut self.nodes[index];
        let ticket = node.gate.ticket(Access::Write);
        if node.gate.may_execute(Access::Write, now) != Verdict::Yes {
            return None;
        }
        self.next_write += 1;
        node.log.push(Entry { epoch: node.log_epoch, id });
        node.set.insert(id);
        let after = Seq(node.log.len() as u64);
        node.pending.push(Pending { ticket, after, wrote: Some(id), seen: Writes::NONE, before });
        self.note(|| format!("      write {id} at {index}, seq {after}"));
        let delay = self.rng.below(3) * 50_000;
        self.local(index, delay, Packet::LogEnd);
        self.local(index, delay, Packet::Pump);
        Some(id)
    }

    pub(super) fn can_run(&self, index: usize) -> bool {
        let node = &self.nodes[index];
        node.alive && node.data && node.paused_until <= self.now
    }

    /// A read at a member of everything, by a thread that may have looked at its clock at `looked_at`.
    pub fn read(&mut self, index: usize, access: Access, looked_at: Mono) -> bool {
        if !self.can_run(index) {
            return false;
        }
        let before = self.ledger.observed;
        let node = &mut self.nodes[index];
        let ticket = node.gate.ticket(access);
        if node.gate.may_execute(access, looked_at) != Verdict::Yes {
            return false;
        }
        let (seen, after) = (node.set, Seq(node.log.len() as u64));
        node.pending.push(Pending { ticket, after, wrote: None, seen, before });
        self.note(|| format!("      read at {index} up to {after}"));
        self.local(index, 0, Packet::Flush);
        true
    }

    /// Lets every withheld reply go that may.
    pub fn flush(&mut self, index: usize) {
        if !self.can_run(index) {
            return;
        }
        let now = self.clock(index);
        let mut kept = Vec::new();
        for pending in std::mem::take(&mut self.nodes[index].pending) {
            match self.nodes[index].gate.answer(&pending.ticket, pending.after, now) {
                Answer::Wait => kept.push(pending),
                Answer::Send => self.answered(index, &pending),
                Answer::Rerun => {
                    assert!(pending.wrote.is_none(), "a write would be executed twice");
                    self.ledger.reruns += 1;
                }
                Answer::Close => {
                    self.ledger.closed += 1;
                    if self.planned {
                        self.fail("planned work closed a client's connection".to_owned());
                    }
                }
            }
        }
        self.nodes[index].pending = kept;
    }

    pub(super) fn answered(&mut self, index: usize, pending: &Pending) {
        if let Some(id) = pending.wrote {
            self.note(|| format!("      acknowledged {id} at {index}"));
            self.ledger.acknowledged += 1;
            self.ledger.observed.insert(id);
            return;
        }
        self.note(|| format!("      read answered at {index}"));
        self.ledger.reads += 1;
        let of_primary = pending.ticket.kind == TicketKind::Read;
        if of_primary && let Some(missing) = pending.before.missing_in(&pending.seen) {
            self.fail(format!("stale read at {index}: it does not show write {missing}"));
        }
        self.ledger.observed.add(&pending.seen);
    }

    pub fn unanswered(&self) -> usize {
        let running = self.nodes.iter().filter(|node| node.alive);
        running.flat_map(|node| &node.pending).filter(|pending| pending.wrote.is_some()).count()
    }

    /// The member that serves by its own gate, now.
    pub fn serving(&self) -> Vec<usize> {
        let can = |index: &usize| {
            let node = &self.nodes[*index];
            node.alive && node.data && node.gate.may_execute(Access::Write, self.clock(*index)) == Verdict::Yes
        };
        (0..self.nodes.len()).filter(can).collect()
    }

    pub(super) fn check(&mut self) {
        if self.violation.is_some() {
            return;
        }
        let serving = self.serving();
        if serving.len() > 1 {
            return self.fail(format!("two primaries: {serving:?}"));
        }
        let epoch = self.shard().epoch;
        let lacking = self.nodes.iter().enumerate().find_map(|(index, node)| {
            let state = node.replica.gate_state();
            let newest = node.alive && state.phase == Phase::Primary && state.epoch == epoch;
            let missing = self.ledger.observed.missing_in(&node.set).filter(|_| newest)?;
            Some((index, missing))
        });
        if let Some((index, missing)) = lacking {
            return self.fail(format!("lost write {missing}: {index} serves without it"));
        }
        if self.planned {
            let held = self.shard().in_sync.iter().filter(|(member, boot)| {
                let node = &self.nodes[member.0 as usize];
                node.alive && node.boot == **boot && self.ledger.observed.missing_in(&node.set).is_none()
            });
            let (held, wanted) = (held.count(), usize::from(self.ring().settings.copies));
            if held < wanted {
                self.fail(format!("planned work left {held} in-sync copies, {wanted} are wanted"));
            }
        }
    }
}
