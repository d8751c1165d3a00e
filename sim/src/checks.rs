//! What must hold at every instant, whatever the scenario does.
//!
//! In: the processes as they are after each millisecond, and the rings that they know. Out: violations, each a sentence.
//! Nothing here trusts what a member says of itself where it can be seen: who may serve is asked of the gate and the
//! clock that its serving threads would ask.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringmaster_replica::{Access, Verdict};
use ringmaster_ring::{Holder, MemberId, Ring, RingEpoch, ShardEpoch, ShardId};

use crate::ledger::Ledger;
use crate::process::Machine;

/// How many ring documents are kept for comparison.
const RINGS_KEPT: usize = 512;

/// The checks of one run, with what they remember.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// Only planned work happens: no shard may ever be short of a copy, and no client may see an error.
    planned_only: bool,
    /// Every ring, with the member that knew it first.
    rings: BTreeMap<RingEpoch, (MemberId, Arc<Ring>)>,
    /// Two rings of one epoch that differ.
    unlike: Option<(Arc<Ring>, Arc<Ring>)>,
    newest: Option<Arc<Ring>>,
    /// What each member knew when it was last looked at.
    known: BTreeMap<MemberId, Arc<Ring>>,
    /// Who serves in each epoch, by the ring.
    primaries: BTreeMap<(ShardId, ShardEpoch), Holder>,
    errors_seen: u64,
    violations: Vec<String>,
}

impl Checks {
    #[must_use]
    pub(crate) fn new(planned_only: bool) -> Self {
        Self { planned_only, ..Self::default() }
    }

    /// The newest committed ring that anybody knew.
    #[must_use]
    pub(crate) fn newest(&self) -> Option<&Arc<Ring>> {
        self.newest.as_ref()
    }

    /// Two rings of one epoch that differ, if any were found.
    #[must_use]
    pub(crate) fn unlike(&self) -> Option<&(Arc<Ring>, Arc<Ring>)> {
        self.unlike.as_ref()
    }

    /// What was found so far.
    #[must_use]
    pub(crate) fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Adds a violation that others found.
    pub(crate) fn report(&mut self, violation: String) {
        self.violations.push(violation);
    }

    /// Looks at everything once.
    pub(crate) fn look(&mut self, machines: &BTreeMap<MemberId, Machine>, ledger: &mut Ledger, now_ms: u64) {
        for (member, machine) in machines {
            let ring = machine.process.as_ref().and_then(crate::process::Process::ring);
            match ring {
                Some(ring) if !self.known.get(member).is_some_and(|known| Arc::ptr_eq(known, &ring)) => {
                    self.known.insert(*member, Arc::clone(&ring));
                    self.learn(*member, &ring, machines, ledger);
                }
                Some(_) => {}
                None => drop(self.known.remove(member)),
            }
        }
        self.look_who_serves(machines, now_ms);
        self.violations.extend(ledger.take_violations());
        let errors = ledger.counts().errors;
        if self.planned_only && errors > self.errors_seen {
            self.violations.push("a client saw an error in planned work".to_owned());
        }
        self.errors_seen = errors;
    }

    /// Somebody knows a ring that it did not know before.
    fn learn(
        &mut self,
        member: MemberId,
        ring: &Arc<Ring>,
        machines: &BTreeMap<MemberId, Machine>,
        ledger: &mut Ledger,
    ) {
        if let Some((first, seen)) = self.rings.get(&ring.epoch) {
            if !Arc::ptr_eq(seen, ring) && **seen != **ring {
                let epoch = ring.epoch;
                self.violations.push(format!("members {first} and {member} know different rings as epoch {epoch}"));
                self.unlike = Some((Arc::clone(seen), Arc::clone(ring)));
            }
            return;
        }
        self.rings.insert(ring.epoch, (member, Arc::clone(ring)));
        if let Err(broken) = ring.check() {
            self.violations
                .push(format!("ring {}, as member {member} knows it, cannot come to be: {broken}", ring.epoch));
        }
        while self.rings.len() > RINGS_KEPT {
            self.rings.pop_first();
        }
        for (id, shard) in &ring.shards {
            let named = *self.primaries.entry((*id, shard.epoch)).or_insert(shard.primary);
            if named != shard.primary {
                self.violations.push(format!("shard {id} has two primaries in epoch {}", shard.epoch));
            }
        }
        if self.newest.as_ref().is_none_or(|newest| newest.epoch < ring.epoch) {
            let before = self.newest.replace(Arc::clone(ring));
            self.compare(before.as_deref(), ring, machines, ledger);
        }
    }

    fn compare(
        &mut self,
        before: Option<&Ring>,
        ring: &Ring,
        machines: &BTreeMap<MemberId, Machine>,
        ledger: &mut Ledger,
    ) {
        for (id, shard) in &ring.shards {
            let wanted = usize::from(ring.settings.copies);
            if self.planned_only && shard.in_sync.len() < wanted {
                self.violations.push(format!("shard {id} has {} in-sync copies of {wanted}", shard.in_sync.len()));
            }
            let Some(former) = before.and_then(|before| before.shards.get(id)) else { continue };
            if former.losses == shard.losses {
                continue;
            }
            for (member, boot) in &former.in_sync {
                let holder = Holder { member: *member, boot: *boot };
                let process = machines.get(member).and_then(|machine| machine.process.as_ref());
                if process.is_some_and(|process| process.holder == holder) {
                    self.violations
                        .push(format!("shard {id} was declared lost while {holder:?} was alive and in sync"));
                }
            }
            ledger.shard_lost(*id);
        }
    }

    /// At most one process may serve a shard, and only one that the ring names.
    fn look_who_serves(&mut self, machines: &BTreeMap<MemberId, Machine>, now_ms: u64) {
        let mut serving: BTreeMap<ShardId, Holder> = BTreeMap::new();
        for machine in machines.values() {
            let (Some(process), Some(shard)) = (&machine.process, machine.shard) else { continue };
            let (gate, now) = (process.gate(), process.now(now_ms));
            let may = |access| gate.may_execute(access, now) == Verdict::Yes;
            if !may(Access::Write) && !may(Access::Read) {
                continue;
            }
            let epoch = gate.ticket(Access::Write).epoch;
            match self.primaries.get(&(shard, epoch)) {
                Some(named) if *named == process.holder => {}
                Some(named) => self.violations.push(format!(
                    "{:?} serves shard {shard} in epoch {epoch}, which the ring gave to {named:?}",
                    process.holder
                )),
                None => self
                    .violations
                    .push(format!("{:?} serves shard {shard} in epoch {epoch}, which no ring knows", process.holder)),
            }
            if let Some(other) = serving.insert(shard, process.holder) {
                self.violations.push(format!("{other:?} and {:?} both serve shard {shard}", process.holder));
            }
        }
    }
}
