//! The end of a run: whether everything is whole again, whether the ledger adds up, and whether copies are equal.

use crate::client::Mode;
use crate::world::World;

/// How long the last reads may take.
const SETTLE_LIMIT_MS: u64 = 20_000;
/// How long, after the clients have stopped, copies may take to catch up.
const CATCH_UP_MS: u64 = 2_000;

impl World {
    pub(crate) fn is_whole(&mut self) -> bool {
        self.why_not_whole().is_empty()
    }

    /// What is missing: every shard served, with all its copies, and nothing under way.
    pub(crate) fn why_not_whole(&self) -> String {
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
        for (id, member) in ring.members.iter().filter(|(_, member)| member.is_active()) {
            if ring.spare_of(*id).is_some() {
                missing.push(format!("member {id} is being replaced"));
            }
            if let Some(why) = self.kubernetes.unsettled(*id, &member.template) {
                missing.push(format!("member {id} {why}"));
            }
        }
        missing.join("; ")
    }

    /// Clients stop, read everything once, and copies are compared.
    pub(crate) fn settle(&mut self) -> std::io::Result<()> {
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
}
