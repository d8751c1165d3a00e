//! What an engine does of itself: expiring and evicting, as records, and letting data go.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use ringmaster_ring::Position;

use super::{Access, Cause, Changed, Dropped, Engine, Eviction, HeldLane, Permit, Txn, What};
use crate::commands::CommandError;
use crate::keyspace::{Garbage, Key, LANE_COUNT};
use crate::record::{Change, Effect, RecordWriter};
use crate::table::CommandSpec;
use crate::time::UnixMs;

/// How many keys one write evicts at most before it goes on: it pays for itself, and the background evictor for the rest.
const EVICTIONS_PER_WRITE_MAX: usize = 16;
/// How many other lanes a write tries for something to evict when its own has nothing.
const LANES_TRIED_MAX: usize = 8;
/// With a policy that evicts, writes may go beyond the limit by this part of it while the evictor catches up.
const OVERSHOOT_DIVISOR: u64 = 16;

impl Engine {
    /// Deletes expired keys, looking at no more than about `budget` keys, as records; primaries only. Returns how many went.
    ///
    /// Call it often with a small budget. It returns fewer than there are if the budget ends, and goes on from there.
    pub fn expire_cycle(&self, now: UnixMs, budget: usize, permit: Permit<'_>) -> usize {
        self.set_now(now);
        if !self.expires_actively.load(Ordering::Relaxed) {
            return 0;
        }
        let (mut left, mut gone) = (budget, 0);
        for _ in 0..LANE_COUNT {
            if left == 0 {
                break;
            }
            let number = self.expire_lane.fetch_add(1, Ordering::Relaxed) % LANE_COUNT;
            let Some(mut lane) = self.hold(number) else { continue };
            if !lane.may_have_expired(now) {
                continue;
            }
            if !permit(Access::Write) {
                break;
            }
            let expired = lane.find_expired(now, &mut left);
            gone += expired.len();
            self.delete(&mut lane, &expired, Cause::Expired, now);
        }
        if gone > 0 {
            self.log.notify();
        }
        gone
    }

    /// Whether [`Self::expire_cycle`] does anything: `DEBUG SET-ACTIVE-EXPIRE`.
    pub fn set_active_expiry(&self, on: bool) {
        self.expires_actively.store(on, Ordering::Relaxed);
    }

    /// Evicts at most about `budget` keys while memory is over its limit, as records; primaries only. Returns how many went.
    pub fn evict_cycle(&self, now: UnixMs, budget: usize, permit: Permit<'_>) -> usize {
        let (mut gone, mut fruitless) = (0, 0);
        while gone < budget && fruitless < LANE_COUNT && self.is_over_limit() {
            let number = self.evict_lane.fetch_add(1, Ordering::Relaxed) % LANE_COUNT;
            let Some(mut lane) = self.hold(number) else { continue };
            if !permit(Access::Write) {
                break;
            }
            if self.evict_one(&mut lane, now, None) {
                (gone, fruitless) = (gone + 1, 0);
            } else {
                fruitless += 1;
            }
        }
        if gone > 0 {
            self.log.notify();
        }
        gone
    }

    /// Discards all data without a record, and the log. Its end is then position 0:0: call [`ShardLog::reset`](crate::ShardLog::reset) if it
    /// is another.
    pub fn clear(&self) -> Dropped {
        let mut lanes: Vec<HeldLane<'_>> = (0..LANE_COUNT).filter_map(|number| self.hold(number)).collect();
        self.scripts.clear();
        let now = UnixMs(self.now_ms.load(Ordering::Relaxed));
        let mut garbage = Garbage::default();
        for lane in &mut lanes {
            lane.flush(None, now);
            lane.last_seq = Position::default().seq;
            garbage.append(std::mem::take(&mut lane.garbage));
        }
        self.log.reset(Position::default());
        Dropped { garbage }
    }

    /// Large values and flushed tables that commands took out since the last call.
    pub fn take_dropped(&self) -> Dropped {
        let garbage = std::mem::take(&mut *self.garbage.lock().unwrap_or_else(PoisonError::into_inner));
        Dropped { garbage }
    }

    /// Changes the limit (0 for none) and the policy.
    pub fn set_maxmemory(&self, maxmemory_bytes: u64, eviction: Eviction) {
        self.maxmemory_bytes.store(maxmemory_bytes, Ordering::Relaxed);
        for mut lane in (0..LANE_COUNT).filter_map(|number| self.hold(number)) {
            lane.eviction = eviction;
        }
    }

    /// 0 for no limit.
    pub fn maxmemory_bytes(&self) -> u64 {
        self.maxmemory_bytes.load(Ordering::Relaxed)
    }

    pub fn eviction(&self) -> Eviction {
        self.hold(0).map_or(Eviction::NoEviction, |lane| lane.eviction)
    }

    /// Tells the time to an engine that executes nothing: a copy notes with it when keys came in, which eviction asks after a failover.
    pub fn set_now(&self, now: UnixMs) {
        // The line is shared by all threads: it is written once a millisecond at most.
        if self.now_ms.load(Ordering::Relaxed) < now.0 {
            self.now_ms.fetch_max(now.0, Ordering::Relaxed);
        }
    }

    /// Evicts before a write that needs memory, or refuses it.
    pub(super) fn make_room(&self, txn: &mut Txn<'_>, spec: &CommandSpec, args: &[&[u8]]) -> Result<(), CommandError> {
        if !self.is_over_limit() {
            return Ok(());
        }
        // A key that is being written is a poor choice.
        let spared = spec.keys_of(args).ok().and_then(|mut keys| keys.next()).map(|key| txn.key(key));
        self.evict_for(txn, spared.as_ref())
    }

    /// The same before a script. In the middle of one nothing is evicted: its record is not written yet.
    pub(super) fn make_room_for_script(&self, txn: &mut Txn<'_>) -> Result<(), CommandError> {
        if !self.is_over_limit() {
            return Ok(());
        }
        if txn.has_changed() || !txn.holds_lanes() {
            return Err(CommandError::OutOfMemory);
        }
        self.evict_for(txn, None)
    }

    fn evict_for(&self, txn: &mut Txn<'_>, spared: Option<&Key<'_>>) -> Result<(), CommandError> {
        let held = txn.held_numbers();
        let now = txn.now;
        for eviction in 0..EVICTIONS_PER_WRITE_MAX {
            if !self.is_over_limit() {
                break;
            }
            let own = held.get(eviction % held.len().max(1)).and_then(|&number| txn.held_mut(number));
            let evicted =
                own.is_some_and(|lane| self.evict_one(lane, now, spared)) || self.evict_elsewhere(&held, now, txn);
            if !evicted {
                break;
            }
            txn.appended = true;
        }
        let limit = self.maxmemory_bytes();
        let tolerated = match txn.held_mut(held.first().copied().unwrap_or(0)).map(|lane| lane.eviction) {
            None | Some(Eviction::NoEviction) => limit,
            Some(_) => limit.saturating_add(limit / OVERSHOOT_DIVISOR),
        };
        if self.used_bytes() > tolerated { Err(CommandError::OutOfMemory) } else { Ok(()) }
    }

    /// Evicts one key of a lane that nobody holds at the moment.
    fn evict_elsewhere(&self, held: &[usize], now: UnixMs, txn: &Txn<'_>) -> bool {
        for _ in 0..LANES_TRIED_MAX {
            let number = self.evict_lane.fetch_add(1, Ordering::Relaxed) % LANE_COUNT;
            // Locks of the standard library must not be tried by their holder.
            if held.contains(&number) {
                continue;
            }
            if let Some(mut lane) = self.try_hold(number)
                && txn.permits_write()
                && self.evict_one(&mut lane, now, None)
            {
                return true;
            }
        }
        false
    }

    fn evict_one(&self, lane: &mut HeldLane<'_>, now: UnixMs, spared: Option<&Key<'_>>) -> bool {
        match lane.find_victim(now, spared) {
            None => false,
            Some(victim) => {
                self.delete(lane, &[victim], Cause::Evicted, now);
                true
            }
        }
    }

    /// Deletes keys of a lane, as one record of its own.
    fn delete(&self, lane: &mut HeldLane<'_>, keys: &[(u8, Box<[u8]>)], cause: Cause, now: UnixMs) {
        // What somebody else has not committed yet stays where it is.
        let mut record =
            if lane.record.is_empty() { std::mem::take(&mut lane.record) } else { RecordWriter::default() };
        for (db, bytes) in keys {
            let key = Key::new(self.seed, *db, bytes);
            if self.observed.is_on() {
                let changed = Changed { db: *db, key: Some(bytes), cause, what: What::Del, is_gone: true };
                self.observed.tell(&changed);
            }
            if lane.apply(&key, &Change::Del, now).is_ok() {
                record.push(&Effect::Keyed { db: *db, key: bytes, change: Change::Del });
            }
        }
        if !record.is_empty() {
            lane.last_seq = record.finish(|framed| self.log.append(framed));
        }
        if lane.record.is_empty() {
            lane.record = record;
        }
        lane.settle();
    }

    fn is_over_limit(&self) -> bool {
        let limit = self.maxmemory_bytes();
        limit > 0 && self.used_bytes() > limit
    }
}
