//! Being a copy: applying what a primary sends.

use std::sync::atomic::Ordering;

use ringmaster_ring::{Position, Seq, Slot};

use super::{Cause, Changed, Engine, HeldLane, What};
use crate::keyspace::{Key, LANE_COUNT, lane_of};
use crate::log::Batch;
use crate::record::{self, BadRecord, Effect};
use crate::time::UnixMs;

impl Engine {
    /// Applies what a primary sent, in order, and adopts it into the log. The batch must follow on the log's end.
    ///
    /// Whoever reads meanwhile sees the data after some whole number of records. On an error some of the batch may have been applied and the
    /// log's end did not move: the copy must be made anew.
    pub fn apply(&self, batch: &Batch) -> Result<(), BadRecord> {
        let Batch { first, last, ref bytes, .. } = *batch;
        let (mut rest, mut found) = (&bytes[..], 0);
        while let Some((_, behind)) = record::split_frame(rest) {
            (rest, found) = (behind, found + 1);
        }
        if !rest.is_empty() {
            return Err(BadRecord::Short);
        }
        if first.0.checked_add(found) != last.0.checked_add(1) {
            return Err(BadRecord::Count { first: first.0, last: last.0, found });
        }
        let (mut rest, mut seq) = (&bytes[..], first);
        while let Some((content, behind)) = record::split_frame(rest) {
            self.apply_content(content, seq)?;
            (rest, seq) = (behind, seq.next());
        }
        self.log.adopt(batch);
        Ok(())
    }

    /// Applies a chunk that [`walk`](Self::walk) wrote.
    pub fn apply_walk(&self, chunk: &[u8]) -> Result<(), BadRecord> {
        self.apply_content(chunk, Seq(0))
    }

    /// Ends a walk: the data is everything up to `end`, and so is what any read of it waits for.
    pub fn finish_walk(&self, end: Position) {
        for number in 0..LANE_COUNT {
            if let Some(mut lane) = self.hold(number) {
                lane.last_seq = end.seq;
            }
        }
        self.log.reset(end);
    }

    /// Applies one record's effects while it holds every lane that they touch. They are read twice, and never kept: one record may hold
    /// millions.
    fn apply_content(&self, content: &[u8], seq: Seq) -> Result<(), BadRecord> {
        let now = UnixMs(self.now_ms.load(Ordering::Relaxed));
        let mut lanes: Vec<HeldLane<'_>> =
            lanes_of(content)?.into_iter().filter_map(|number| self.hold(number)).collect();
        for effect in record::effects(content) {
            match effect? {
                Effect::Flush { db } => {
                    lanes.iter_mut().for_each(|lane| lane.flush(db, now));
                    if self.observed.is_on() {
                        let (db, cause) = (db.unwrap_or(u8::MAX), Cause::Primary);
                        self.observed.tell(&Changed { db, key: None, cause, what: What::Other, is_gone: true });
                    }
                }
                Effect::Script { body, stays } => self.scripts.insert(body, stays),
                Effect::FlushScripts => self.scripts.clear(),
                Effect::Keyed { db, key, change } => {
                    let key = Key::new(self.seed, db, key);
                    let at = lanes.binary_search_by_key(&lane_of(key.slot), |lane| lane.number);
                    let lane = at.ok().and_then(|at| lanes.get_mut(at)).ok_or(BadRecord::Diverged)?;
                    lane.apply(&key, &change, now)?;
                    if self.observed.is_on() {
                        let is_gone = lane.entry(&key).is_none();
                        let (db, key, what) = (key.db, Some(key.bytes), What::of(&change));
                        self.observed.tell(&Changed { db, key, cause: Cause::Primary, what, is_gone });
                    }
                }
            }
        }
        lanes.iter_mut().for_each(|lane| {
            lane.last_seq = lane.last_seq.max(seq);
            // Nobody is served at a copy.
            lane.waiting.forget_touched();
        });
        Ok(())
    }

    /// The log's end while a lane is held: what the lane shows is everything up to there that concerns it.
    pub(crate) fn end_of_log(&self) -> Position {
        self.log.end()
    }
}

/// The lanes that a record's effects touch, in ascending order. Nothing of a record that does not decode is applied.
fn lanes_of(content: &[u8]) -> Result<Vec<usize>, BadRecord> {
    let mut numbers = Vec::new();
    for effect in record::effects(content) {
        let number = match effect? {
            Effect::Flush { .. } => {
                numbers.extend(0..LANE_COUNT);
                continue;
            }
            // A walk of this member begins in this lane, and there takes all bodies with it.
            Effect::Script { .. } | Effect::FlushScripts => 0,
            Effect::Keyed { key, .. } => lane_of(Slot::of_key(key)),
        };
        // Effects of one lane come one behind another.
        if numbers.last() != Some(&number) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}
