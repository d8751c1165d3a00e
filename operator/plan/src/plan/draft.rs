//! The plan as it is being made: steps, what is waited for, and what is wrong.

use std::collections::BTreeSet;

use ringmaster_ring::{Command, MemberId, ReserveMember, Ring, ShardId};

use super::{Note, Step};

#[derive(Debug)]
pub(super) struct Draft {
    pub(super) steps: Vec<Note>,
    /// Shards, and None for the witness, of which a step of the ring is planned: the next one would name old versions.
    touched: BTreeSet<Option<ShardId>>,
    next_serial: MemberId,
    /// Members that are to go without a replacement: spares taken back, and copies beyond what is wanted.
    pub(super) dismissed: BTreeSet<MemberId>,
    /// Members for which no better place was found.
    pub(super) sought_in_vain: BTreeSet<MemberId>,
    pub(super) replacing: Vec<Replacing>,
    /// What keeps a step from being taken that only time or a person can remove.
    pub(super) obstacles: Vec<Obstacle>,
    /// What is under way without being a replacement.
    pub(super) doing: Vec<String>,
    /// What is left over, and goes by itself or not at all: nothing to look after every second.
    pub(super) leftovers: Vec<String>,
}

/// A replacement that is under way or due.
#[derive(Clone, Debug)]
pub(super) struct Replacing {
    pub(super) member: MemberId,
    pub(super) spare: Option<MemberId>,
    pub(super) reason: String,
    pub(super) waiting_for: String,
}

/// What keeps a step from being taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// One CamelCase word, as conditions have it.
    pub reason: String,
    pub message: String,
}

impl Draft {
    pub(super) fn new(ring: Option<&Ring>) -> Self {
        Self {
            steps: Vec::new(),
            touched: BTreeSet::new(),
            next_serial: ring.map_or(MemberId(1), |ring| ring.next_serial),
            dismissed: BTreeSet::new(),
            sought_in_vain: BTreeSet::new(),
            replacing: Vec::new(),
            obstacles: Vec::new(),
            doing: Vec::new(),
            leftovers: Vec::new(),
        }
    }

    pub(super) fn step(&mut self, step: Step, why: impl Into<String>) {
        self.steps.push(Note { step, why: why.into() });
    }

    /// Proposes a change of one shard or of one of its members; the next one of that shard waits for the outcome.
    pub(super) fn propose_on(&mut self, shard: Option<ShardId>, command: Command, why: impl Into<String>) {
        if self.touched.insert(shard) {
            self.step(Step::Propose(command), why);
        }
    }

    pub(super) fn reserve(&mut self, wanted: ReserveMember, why: impl Into<String>) {
        let wanted = ReserveMember { if_next_serial: self.next_serial, ..wanted };
        self.next_serial = self.next_serial.next();
        self.step(Step::Propose(Command::ReserveMember(wanted)), why);
    }

    pub(super) fn obstacle(&mut self, reason: impl Into<String>, message: impl Into<String>) {
        self.obstacles.push(Obstacle { reason: reason.into(), message: message.into() });
    }

    pub(super) fn is_busy(&self) -> bool {
        !(self.steps.is_empty() && self.replacing.is_empty() && self.doing.is_empty())
    }
}
