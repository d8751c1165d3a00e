//! The shard's log: every change of its data, numbered in one sequence, kept as long as a budget of bytes allows.
//!
//! Owns the numbers and the bytes of recent records. In: records by effect, appended by [`Engine::execute`](crate::Engine::execute)
//! while it holds the lanes that the record changes, or adopted as a copy received them. Out: [`Batch`]es for copies.
//!
//! A record's number is taken and its bytes are stored under the log's own lock, which is held for a copy of a few bytes and taken last:
//! whoever holds it takes no lane.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::{Bytes, BytesMut};
use ringmaster_ring::{Position, Seq, ShardEpoch};

use crate::record;

/// How much one allocation of the log holds. A reader of much seals what the newest one holds so far, without copying it.
const CHUNK_BYTES: usize = 64 << 10;
/// Nobody seals a shorter run, since it would cost more than it holds: a reader of so little gets a copy, and what is adopted is copied.
const RUN_BYTES_MIN: usize = 4 << 10;
/// A record that would leave much of an allocation empty gets one of its own.
const OWN_RUN_BYTES_MIN: usize = CHUNK_BYTES / 4;
/// What a run is reckoned to cost beside its bytes: its place among the others, and what its allocation takes for itself.
const RUN_OVERHEAD_BYTES: usize = size_of::<Batch>() + 64;
/// How far the marks within the open run are apart at least.
const MARK_BYTES: usize = 1 << 10;

/// A run of consecutive records of one entry epoch, as they travel to a copy.
#[derive(Clone, PartialEq, Eq)]
pub struct Batch {
    /// The epoch in which these records were first appended; a copy's position is (this, `last`) once it has applied them.
    pub entry_epoch: ShardEpoch,
    pub first: Seq,
    pub last: Seq,
    /// Whether records ahead of a walk's cursor were emptied ([`Engine::filter`](crate::Engine::filter)). Such a batch is good for the one
    /// copy that follows that walk, and [`Engine::apply`](crate::Engine::apply) does not keep it for others.
    pub filtered: bool,
    /// The records, one behind another: `record` owns their format.
    pub bytes: Bytes,
}

impl Batch {
    #[must_use]
    pub fn end(&self) -> Position {
        Position { epoch: self.entry_epoch, seq: self.last }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entry_epoch, first, last, filtered, bytes } = self;
        write!(f, "Batch({entry_epoch}:{first}..={last}, {} bytes, filtered: {filtered})", bytes.len())
    }
}

/// The records asked for are no longer kept, or never were: the reader needs a full sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log keeps records after {kept_after} up to {end}, not those after {asked}")]
pub struct Trimmed {
    pub asked: Seq,
    pub kept_after: Seq,
    pub end: Seq,
}

type Listener = Box<dyn Fn(bool) + Send + Sync>;

/// One shard's log. All methods may be called from any thread.
pub struct ShardLog {
    inner: Mutex<Inner>,
    listener: OnceLock<Listener>,
    /// As `inner` has it, for who need not know it at once.
    keeps: AtomicBool,
    log_bytes_max: usize,
}

struct Inner {
    /// The epoch that records appended from now on carry.
    epoch: ShardEpoch,
    end: Position,
    kept_after: Seq,
    /// Whether somebody may want to read records.
    keeps: bool,
    /// Sealed runs, oldest first, consecutive up to the open run.
    sealed: VecDeque<Batch>,
    sealed_bytes: usize,
    /// The open run: records after the last sealed one, all of `open_epoch`.
    open: BytesMut,
    open_first: Seq,
    open_epoch: ShardEpoch,
    /// When the open run is full: as the allocation that it is in, and before it is much of the budget.
    chunk_bytes: usize,
    /// Where in the open run some of its records begin, in order, so that a reader of the newest does not look at all of them.
    marks: Vec<Mark>,
}

/// A record, and where its frame begins in its run.
#[derive(Clone, Copy)]
struct Mark {
    seq: Seq,
    offset: usize,
}

impl ShardLog {
    #[must_use]
    pub(crate) fn new(log_bytes_max: usize) -> Self {
        let inner = Inner {
            epoch: ShardEpoch(0),
            end: Position::default(),
            kept_after: Seq(0),
            keeps: true,
            sealed: VecDeque::new(),
            sealed_bytes: 0,
            open: BytesMut::new(),
            open_first: Seq(1),
            open_epoch: ShardEpoch(0),
            chunk_bytes: CHUNK_BYTES.min(log_bytes_max / 4),
            marks: Vec::new(),
        };
        Self { inner: Mutex::new(inner), listener: OnceLock::new(), keeps: AtomicBool::new(true), log_bytes_max }
    }

    /// The last appended or adopted record: its sequence, and the epoch it was appended in.
    pub fn end(&self) -> Position {
        self.lock().end
    }

    /// From now on appended records carry this epoch. The end stays what it is until the next append.
    pub fn begin_epoch(&self, epoch: ShardEpoch) {
        self.lock().epoch = epoch;
    }

    /// Records above this sequence can be read.
    pub fn kept_after(&self) -> Seq {
        self.lock().kept_after
    }

    /// Says whether records are kept for readers, as they are at first. If not they are only numbered, and a reader needs a full sync.
    pub fn keep(&self, keeps: bool) {
        let mut inner = self.lock();
        inner.keeps = keeps;
        self.keeps.store(keeps, Ordering::Relaxed);
        if !keeps {
            let end = inner.end;
            inner.restart(end);
            inner.sealed = VecDeque::new();
            inner.open = BytesMut::new();
        }
    }

    /// The records that follow `after`, about `bytes_max` of them but at least one; `None` if there is none yet.
    ///
    /// A batch never spans two entry epochs: call again for the rest.
    pub fn read_after(&self, after: Seq, bytes_max: usize) -> Result<Option<Batch>, Trimmed> {
        self.read_through(after, Seq(u64::MAX), bytes_max)
    }

    /// As [`read_after`](Self::read_after), but nothing beyond `through`: what goes before a walk's chunk taken at `through`.
    pub fn read_through(&self, after: Seq, through: Seq, bytes_max: usize) -> Result<Option<Batch>, Trimmed> {
        let mut inner = self.lock();
        if after < inner.kept_after || after > inner.end.seq {
            return Err(Trimmed { asked: after, kept_after: inner.kept_after, end: inner.end.seq });
        }
        let first = after.next();
        if first > inner.end.seq || first > through {
            return Ok(None);
        }
        if first >= inner.open_first {
            let from = inner.mark_of(first);
            if inner.open.len() - from.offset < RUN_BYTES_MIN {
                return Ok(Some(inner.copy_open(from, first, through, bytes_max)));
            }
            inner.seal();
        }
        let at = inner.sealed.partition_point(|run| run.last < first);
        let Some(run) = inner.sealed.get(at) else { return Ok(None) };
        Ok(Some(cut(run, first, through, bytes_max)))
    }

    /// Stores records that a copy received, under the numbers and the epoch that they came with.
    pub fn adopt(&self, batch: &Batch) {
        let mut inner = self.lock();
        if !inner.keeps || batch.filtered || batch.first != inner.end.seq.next() {
            // Records are missing below or within: nothing before the batch's end can be handed on.
            inner.restart(batch.end());
            return;
        }
        if batch.bytes.len() < RUN_BYTES_MIN {
            inner.extend(&batch.bytes, batch.end());
        } else {
            inner.push(batch.clone());
        }
        inner.trim(self.log_bytes_max);
    }

    /// Forgets every record and goes on behind `end`: after a full sync, or when data was discarded.
    pub fn reset(&self, end: Position) {
        self.lock().restart(end);
    }

    /// Names what is called after an append, outside of every lock, on the thread that executed: it must only wake others. It is told
    /// whether records are kept, so that somebody may want this one. Later calls change nothing.
    pub fn on_append(&self, wake: Listener) {
        let _first_wins = self.listener.set(wake);
    }

    /// Gives the record in `framed` (complete with its frame) the next number. Called while the lanes it changes are held.
    pub(crate) fn append(&self, framed: &[u8]) -> Seq {
        let mut inner = self.lock();
        let epoch = inner.epoch;
        let seq = inner.end.seq.next();
        if !inner.keeps {
            inner.end = Position { epoch, seq };
            (inner.kept_after, inner.open_first) = (seq, seq.next());
            return seq;
        }
        if framed.len() < OWN_RUN_BYTES_MIN {
            inner.extend(framed, Position { epoch, seq });
        } else {
            let bytes = Bytes::copy_from_slice(framed);
            inner.push(Batch { entry_epoch: epoch, first: seq, last: seq, filtered: false, bytes });
        }
        inner.trim(self.log_bytes_max);
        inner.end.seq
    }

    /// Calls the listener. Called after an append, once no lane is held any more.
    pub(crate) fn notify(&self) {
        if let Some(wake) = self.listener.get() {
            wake(self.keeps.load(Ordering::Relaxed));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics with the lock held, and the process ends on a panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ShardLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        write!(f, "ShardLog(after {} up to {})", inner.kept_after, inner.end)
    }
}

impl Inner {
    /// Puts records, which end at `end`, into the open run.
    fn extend(&mut self, records: &[u8], end: Position) {
        let room = self.open.capacity().min(self.chunk_bytes).saturating_sub(self.open.len());
        if end.epoch != self.open_epoch || records.len() > room {
            self.seal();
            self.open_epoch = end.epoch;
        }
        if records.len() > self.open.capacity() {
            self.open.reserve(self.chunk_bytes.max(records.len()));
        }
        self.open.extend_from_slice(records);
        self.end = end;
    }

    /// Puts a run behind all others.
    fn push(&mut self, run: Batch) {
        self.seal();
        self.end = run.end();
        self.open_first = run.last.next();
        self.sealed_bytes += run.bytes.len();
        self.sealed.push_back(run);
    }

    /// The last mark at or before a record of the open run.
    fn mark_of(&self, seq: Seq) -> Mark {
        let after = self.marks.partition_point(|mark| mark.seq <= seq);
        let mark = after.checked_sub(1).and_then(|at| self.marks.get(at));
        mark.copied().unwrap_or(Mark { seq: self.open_first, offset: 0 })
    }

    /// Records of the open run, which goes on.
    fn copy_open(&mut self, from: Mark, first: Seq, through: Seq, bytes_max: usize) -> Batch {
        let (last, range) = find(&self.open, from, first, through, bytes_max);
        let bytes = Bytes::copy_from_slice(self.open.get(range.clone()).unwrap_or_default());
        // Readers of the newest records go on where they ended.
        if range.end >= self.marks.last().map_or(0, |mark| mark.offset) + MARK_BYTES {
            self.marks.push(Mark { seq: last.next(), offset: range.end });
        }
        Batch { entry_epoch: self.open_epoch, first, last, filtered: false, bytes }
    }

    /// Makes a run of the open one. Its bytes stay where they are; the rest of the allocation takes the next records.
    fn seal(&mut self) {
        if !self.open.is_empty() {
            let bytes = self.open.split().freeze();
            self.sealed_bytes += bytes.len();
            let (entry_epoch, first, last) = (self.open_epoch, self.open_first, self.end.seq);
            self.sealed.push_back(Batch { entry_epoch, first, last, filtered: false, bytes });
        }
        self.open_first = self.end.seq.next();
        self.marks.clear();
    }

    /// What the log is reckoned to hold.
    fn bytes(&self) -> usize {
        self.sealed_bytes + self.sealed.len() * RUN_OVERHEAD_BYTES + self.open.len()
    }

    /// Drops the oldest runs until the rest fits the budget. The open run always stays.
    fn trim(&mut self, bytes_max: usize) {
        while self.bytes() > bytes_max {
            let Some(oldest) = self.sealed.pop_front() else { return };
            self.sealed_bytes -= oldest.bytes.len();
            self.kept_after = oldest.last;
        }
    }

    fn restart(&mut self, end: Position) {
        self.sealed.clear();
        self.sealed_bytes = 0;
        self.open.clear();
        self.end = end;
        self.kept_after = end.seq;
        self.open_first = end.seq.next();
        self.marks.clear();
    }
}

/// The part of a run from `first` on, up to `through` and to about `bytes_max`.
fn cut(run: &Batch, first: Seq, through: Seq, bytes_max: usize) -> Batch {
    if first == run.first && run.last <= through && run.bytes.len() <= bytes_max {
        return run.clone();
    }
    let (last, range) = find(&run.bytes, Mark { seq: run.first, offset: 0 }, first, through, bytes_max);
    Batch { entry_epoch: run.entry_epoch, first, last, filtered: false, bytes: run.bytes.slice(range) }
}

/// Where in the bytes of a run the records from `first` on are, up to `through` and to about `bytes_max`, and the last of them. Looks from
/// the mark on, which is at or before `first`.
fn find(run: &[u8], from: Mark, first: Seq, through: Seq, bytes_max: usize) -> (Seq, Range<usize>) {
    let Mark { mut seq, offset } = from;
    let (mut start, mut end, mut last) = (offset, offset, seq);
    let mut rest = run.get(offset..).unwrap_or_default();
    while let Some((_, behind)) = record::split_frame(rest) {
        let record_end = run.len() - behind.len();
        if seq < first {
            start = record_end;
        } else if seq > through || (seq > first && record_end - start > bytes_max) {
            break;
        } else {
            last = seq;
        }
        end = record_end;
        seq = seq.next();
        rest = behind;
    }
    (last, start..end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        record::write_frame(content, &mut bytes);
        bytes
    }

    fn records(batch: &Batch) -> Vec<Vec<u8>> {
        let (mut found, mut rest) = (Vec::new(), &batch.bytes[..]);
        while let Some((content, behind)) = record::split_frame(rest) {
            found.push(content.to_vec());
            rest = behind;
        }
        assert!(rest.is_empty());
        assert_eq!(found.len() as u64, batch.last.0 - batch.first.0 + 1);
        found
    }

    /// Mostly short, some long enough for what is done to long ones.
    fn content() -> impl Strategy<Value = Vec<u8>> {
        let filled = |len: std::ops::Range<usize>| (any::<u8>(), len).prop_map(|(byte, len)| vec![byte; len]);
        prop_oneof![
            9 => prop::collection::vec(any::<u8>(), 0..20),
            6 => filled(100..900),
            1 => filled(RUN_BYTES_MIN - 10..RUN_BYTES_MIN + 10),
            1 => filled(OWN_RUN_BYTES_MIN - 10..2 * OWN_RUN_BYTES_MIN),
        ]
    }

    #[derive(Clone, Debug)]
    enum Step {
        Append(Vec<u8>),
        Epoch,
        Read { back: u64, bytes_max: usize, through: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        let bytes_max = prop_oneof![0usize..60, 0usize..10_000];
        prop_oneof![
            12 => content().prop_map(Step::Append),
            1 => Just(Step::Epoch),
            8 => (0u64..30, bytes_max, 0u64..40).prop_map(|(back, bytes_max, through)| Step::Read { back, bytes_max, through }),
        ]
    }

    proptest! {
        #[test]
        fn readers_find_every_record_once_in_order_with_its_epoch(
            log_bytes_max in prop_oneof![Just(200), Just(20_000), Just(1 << 20)],
            steps in prop::collection::vec(step(), 0..120),
        ) {
            let log = ShardLog::new(log_bytes_max);
            let mut model: Vec<(ShardEpoch, Vec<u8>)> = Vec::new();
            let mut epoch = ShardEpoch(0);
            for step in steps {
                match step {
                    Step::Append(content) => {
                        let seq = log.append(&framed(&content));
                        model.push((epoch, content));
                        prop_assert_eq!(seq.0, model.len() as u64);
                        prop_assert_eq!(log.end(), Position { epoch, seq });
                    }
                    Step::Epoch => {
                        epoch = epoch.next();
                        log.begin_epoch(epoch);
                    }
                    Step::Read { back, bytes_max, through } => {
                        let after = Seq((model.len() as u64).saturating_sub(back));
                        let through = Seq(after.0 + through);
                        match log.read_through(after, through, bytes_max) {
                            Err(trimmed) => prop_assert!(after < trimmed.kept_after),
                            Ok(None) => prop_assert!(after.0 == model.len() as u64 || through == after),
                            Ok(Some(batch)) => {
                                prop_assert_eq!(batch.first, after.next());
                                prop_assert!(batch.last <= through);
                                for (offset, content) in records(&batch).into_iter().enumerate() {
                                    let (entry_epoch, expected) = &model[after.0 as usize + offset];
                                    prop_assert_eq!((*entry_epoch, &content), (batch.entry_epoch, expected));
                                }
                            }
                        }
                    }
                }
            }
        }

        #[test]
        fn a_copy_that_adopts_can_hand_on_what_it_got(
            contents in prop::collection::vec(content(), 1..40),
            bytes_max in prop_oneof![Just(10), Just(3000), Just(100_000)],
            written_at_once in 1usize..20,
        ) {
            let (primary, copy) = (ShardLog::new(1 << 20), ShardLog::new(1 << 20));
            for some in contents.chunks(written_at_once) {
                for content in some {
                    primary.append(&framed(content));
                }
                while let Some(batch) = primary.read_after(copy.end().seq, bytes_max).unwrap() {
                    copy.adopt(&batch);
                }
            }
            prop_assert_eq!(copy.end(), primary.end());
            let mut all = Vec::new();
            let mut after = Seq(0);
            while let Some(batch) = copy.read_after(after, 100).unwrap() {
                all.extend(records(&batch));
                after = batch.last;
            }
            prop_assert_eq!(all, contents);
        }
    }

    #[test]
    fn records_that_are_read_one_by_one_cost_little_more_than_their_bytes() {
        let budget = 1 << 20;
        let (primary, copy) = (ShardLog::new(budget), ShardLog::new(budget));
        let (content, count) = (framed(&[7; 24]), 100_000);
        for _ in 0..count {
            let seq = primary.append(&content);
            let batch = primary.read_after(copy.end().seq, CHUNK_BYTES).unwrap().unwrap();
            assert_eq!((batch.first, batch.last, &batch.bytes[..]), (seq, seq, &content[..]));
            copy.adopt(&batch);
        }
        for log in [&primary, &copy] {
            let inner = log.lock();
            let kept = usize::try_from(count - inner.kept_after.0).unwrap() * content.len();
            assert!(inner.bytes() <= budget && kept > budget * 9 / 10, "{kept} of {} bytes", inner.bytes());
            assert!(inner.sealed.len() <= budget / CHUNK_BYTES, "{} runs", inner.sealed.len());
            assert!(inner.sealed.iter().all(|run| run.bytes.len() > CHUNK_BYTES / 2));
            assert!(inner.marks.len() <= CHUNK_BYTES / MARK_BYTES, "{} marks", inner.marks.len());
        }
    }

    #[test]
    fn a_small_budget_is_kept_too() {
        let log = ShardLog::new(2 << 10);
        for _ in 0..1000 {
            let seq = log.append(&framed(&[7; 24]));
            assert_eq!(log.read_after(Seq(seq.0 - 1), 100).unwrap().unwrap().last, seq);
        }
        let kept = (1000 - log.kept_after().0) * 25;
        assert!((1 << 10..2 << 10).contains(&kept), "{kept} bytes");
    }

    #[test]
    fn the_budget_counts_what_each_run_costs() {
        let log = ShardLog::new(1 << 20);
        for epoch in 0..100_000 {
            log.begin_epoch(ShardEpoch(epoch));
            log.append(&framed(b"a run of its own"));
        }
        let inner = log.lock();
        assert!(inner.sealed.len() * RUN_OVERHEAD_BYTES <= 1 << 20, "{} runs", inner.sealed.len());
    }

    #[test]
    fn records_that_nobody_may_want_are_numbered_and_not_kept() {
        let log = ShardLog::new(1000);
        log.append(&framed(b"kept"));
        log.keep(false);
        assert_eq!(log.append(&framed(b"not kept")), Seq(2));
        assert_eq!((log.end().seq, log.kept_after()), (Seq(2), Seq(2)));
        assert!(log.read_after(Seq(0), 100).is_err() && log.read_after(Seq(1), 100).is_err());
        log.keep(true);
        log.append(&framed(b"kept again"));
        assert!(log.read_after(Seq(1), 100).is_err());
        assert_eq!(records(&log.read_after(Seq(2), 100).unwrap().unwrap()), [b"kept again"]);
    }

    #[test]
    fn a_gap_is_never_papered_over() {
        let log = ShardLog::new(1000);
        let batch = |first, last, filtered| Batch {
            entry_epoch: ShardEpoch(1),
            first: Seq(first),
            last: Seq(last),
            filtered,
            bytes: framed(b"x").into(),
        };
        log.adopt(&batch(1, 1, false));
        assert_eq!(log.kept_after(), Seq(0));
        log.adopt(&batch(2, 2, true));
        assert_eq!((log.end().seq, log.kept_after()), (Seq(2), Seq(2)));
        log.adopt(&batch(9, 9, false));
        assert_eq!((log.end().seq, log.kept_after()), (Seq(9), Seq(9)));
        assert!(log.read_after(Seq(5), 100).is_err());
        assert!(log.read_after(Seq(10), 100).is_err());
    }
}
