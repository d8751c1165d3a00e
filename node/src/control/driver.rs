//! The replica core's hands: every input goes through [`Driver::handle`], which does at once what the core asks for.
//!
//! The core is behind one lock, and so is the doing: what the core decided is done before anybody else asks it.
//! Serving threads never take that lock; they read the gate.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use ringmaster_engine::{Dropped, Engine};
use ringmaster_replica::{AskId, Gate, History, Input, Mono, Output, Replica, StreamId, SyncState as CoreSync};
use ringmaster_ring::{Address, Command, Holder, MemberId, Position, Ring, Seq, ShardEpoch, ShardId, SyncProgress};
use tokio::sync::{Notify, mpsc, watch};

use super::view::View;
use crate::env::Env;
use crate::link::{CopyFrame, Order};
use crate::serve::Replication;

/// How soon a change to `acks: inSync` is noticed by who tells the core of appends.
const WHILE_NOBODY_WAITS: Duration = Duration::from_millis(20);

/// What the driver hands to the tasks around it.
#[derive(Debug)]
pub enum Errand {
    AskLease { ask: AskId, shard: ShardId, epoch: ShardEpoch, holder: Holder },
    Propose(Command),
}

/// What the driver is made of.
pub struct DriverParts<E: Env> {
    pub env: E,
    pub holder: Holder,
    /// None for a witness.
    pub replica: Option<Replica>,
    pub engine: Arc<Engine>,
    pub gate: Arc<Gate>,
    pub view: View,
    /// Wakes the serving threads that wait for the gate.
    pub wake: Box<dyn Fn() + Send + Sync>,
    pub errands: mpsc::UnboundedSender<Errand>,
    /// Takes data that is no longer used to where its deletion delays nobody.
    pub graveyard: Box<dyn Fn(Dropped) + Send + Sync>,
    /// Ends the process: what it holds is not what it should be, and a new one holds nothing.
    pub fatal: Box<dyn Fn(&str) + Send + Sync>,
}

/// One member's replica core with everything that it moves.
pub struct Driver<E: Env> {
    env: E,
    holder: Holder,
    replica: Mutex<Option<Replica>>,
    engine: Arc<Engine>,
    gate: Arc<Gate>,
    view: View,
    wake: Box<dyn Fn() + Send + Sync>,
    errands: mpsc::UnboundedSender<Errand>,
    graveyard: Box<dyn Fn(Dropped) + Send + Sync>,
    fatal: Box<dyn Fn(&str) + Send + Sync>,
    following: watch::Sender<Option<Following>>,
    /// The streams to copies. One of each is in use, as the core says; others are about to end.
    streams: Mutex<BTreeMap<(Holder, StreamId), mpsc::UnboundedSender<Order>>>,
    /// The stream whose walk may be applied now. Held while a part of it is.
    walking: Mutex<Option<StreamId>>,
    /// Where acknowledgements on the stream from the primary go.
    acks: Mutex<Option<(StreamId, mpsc::UnboundedSender<CopyFrame>)>>,
    appended: Arc<Notify>,
    committed_moved: Arc<Notify>,
    /// Whether the log grew since the core was told.
    log_grew: Arc<AtomicBool>,
    sync: Mutex<Option<SyncState>>,
}

/// A stream that the core wants from a primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Following {
    pub(crate) stream: StreamId,
    pub(crate) primary: Holder,
    pub(crate) epoch: ShardEpoch,
    pub(crate) last: Position,
    pub(crate) may_discard: bool,
}

#[derive(Clone, Copy, Debug)]
struct SyncState {
    started: Mono,
    bytes_done: u64,
    bytes_total: u64,
}

impl<E: Env> std::fmt::Debug for Driver<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("holder", &self.holder).finish_non_exhaustive()
    }
}

impl<E: Env> Driver<E> {
    pub fn new(parts: DriverParts<E>) -> Arc<Self> {
        let DriverParts { env, holder, replica, engine, gate, view, wake, errands, graveyard, fatal } = parts;
        let appended = Arc::new(Notify::new());
        let log_grew = Arc::new(AtomicBool::new(false));
        let (news, grew) = (Arc::clone(&appended), Arc::clone(&log_grew));
        let acks = Arc::clone(&gate);
        engine.log().on_append(Box::new(move |is_kept| {
            grew.store(true, Ordering::Release);
            // Nobody waits for what no copy reads and no reply waits for. Whoever is about to, since that has just changed, is told by the
            // control plane's next tick.
            if is_kept || !acks.acks_at_primary() {
                news.notify_waiters();
            }
        }));
        Arc::new(Self {
            env,
            holder,
            replica: Mutex::new(replica),
            engine,
            gate,
            view,
            wake,
            errands,
            graveyard,
            fatal,
            following: watch::Sender::new(None),
            streams: Mutex::default(),
            walking: Mutex::default(),
            acks: Mutex::default(),
            appended,
            committed_moved: Arc::default(),
            log_grew,
            sync: Mutex::default(),
        })
    }

    /// Gives the core an input, does what it asks for, and returns what is for the caller's stream to do.
    pub fn handle(&self, input: Input) -> Vec<Output> {
        self.handle_with(|| input)
    }

    /// As [`Self::handle`], with an input that is read while nothing else changes.
    fn handle_with(&self, input: impl FnOnce() -> Input) -> Vec<Output> {
        let mut replica = self.replica.lock();
        let Some(core) = replica.as_mut() else { return Vec::new() };
        let mut inputs = VecDeque::from([input()]);
        let mut for_caller = Vec::new();
        let mut outputs = Vec::new();
        let mut wake = false;
        while let Some(input) = inputs.pop_front() {
            core.handle(input, self.env.now(), &mut outputs);
            for output in outputs.drain(..) {
                wake |= self.perform(output, &mut inputs, &mut for_caller);
            }
        }
        drop(replica);
        if wake {
            (self.wake)();
        }
        for_caller
    }

    /// Does one thing. Says whether waiting serving threads have something to look at.
    fn perform(&self, output: Output, inputs: &mut VecDeque<Input>, for_caller: &mut Vec<Output>) -> bool {
        match output {
            Output::Publish(state) => {
                let before = self.gate.committed();
                let wake = self.gate.publish(&state);
                if self.gate.committed() != before {
                    self.committed_moved.notify_waiters();
                }
                return wake;
            }
            Output::Serve { epoch, start } => {
                self.engine.log().begin_epoch(epoch);
                tracing::info!(%epoch, %start, "serving");
            }
            Output::Barrier => inputs.push_back(Input::Barrier { end: self.engine.barrier().seq }),
            Output::Discard => {
                self.walking.lock().take();
                (self.graveyard)(self.engine.clear());
                inputs.push_back(Input::Discarded);
            }
            Output::AskLease { ask, shard, epoch, holder } => self.send(Errand::AskLease { ask, shard, epoch, holder }),
            Output::Propose(command) => self.send(Errand::Propose(command)),
            Output::Follow { stream, primary, epoch, last, may_discard } => {
                self.walking.lock().take();
                self.following.send_replace(Some(Following { stream, primary, epoch, last, may_discard }));
            }
            Output::Unfollow { stream } => {
                self.walking.lock().take_if(|walking| *walking == stream);
                self.following.send_if_modified(|following| {
                    let ends = following.is_some_and(|f| f.stream == stream);
                    following.take_if(|_| ends);
                    ends
                });
            }
            Output::SendAck { stream, epoch, seq, .. } => {
                if let Some((_, acks)) = self.acks.lock().as_ref().filter(|(of, _)| *of == stream) {
                    // The stream may have broken: its successor acknowledges anew.
                    drop(acks.send(CopyFrame::Ack { epoch, seq }));
                }
            }
            Output::OpenStream { stream, to, .. } => {
                self.end_other_streams(to.member, stream);
                self.order(to, stream, output);
            }
            Output::RefuseStream { stream, to, .. }
            | Output::CloseStream { stream, to }
            | Output::Release { stream, to, .. } => self.order(to, stream, output),
            Output::Walk { stream } => {
                *self.walking.lock() = Some(stream);
                for_caller.push(output);
            }
            Output::Apply { .. } => for_caller.push(output),
        }
        false
    }

    fn send(&self, errand: Errand) {
        // The receiver lives as long as the process does.
        drop(self.errands.send(errand));
    }

    fn order(&self, copy: Holder, stream: StreamId, output: Output) {
        if let Some(orders) = self.streams.lock().get(&(copy, stream)) {
            // The stream may have broken: the copy connects anew.
            drop(orders.send(Order::Core(output)));
        }
    }

    fn end_other_streams(&self, copy: MemberId, stays: StreamId) {
        for ((holder, stream), orders) in self.streams.lock().iter() {
            if holder.member == copy && *stream != stays {
                // It may have ended by itself.
                drop(orders.send(Order::Broken));
            }
        }
    }

    // ---- what the streams to copies need

    pub(crate) fn register_stream(&self, copy: Holder, stream: StreamId, orders: mpsc::UnboundedSender<Order>) {
        let mut streams = self.streams.lock();
        streams.insert((copy, stream), orders);
        self.engine.log().keep(true);
    }

    /// A shard of one member has nobody to read its records, until a spare asks for them: then it begins with a full sync in any case.
    pub(crate) fn keep_log_for(&self, ring: &Ring) {
        let shard = ring.members.get(&self.holder.member).and_then(|member| member.shard);
        let alone = ring.settings.copies <= 1 && shard.is_some_and(|shard| ring.members_of(shard).count() <= 1);
        let streams = self.streams.lock();
        self.engine.log().keep(!alone || !streams.is_empty());
    }

    pub(crate) fn unregister_stream(&self, copy: Holder, stream: StreamId) {
        self.streams.lock().remove(&(copy, stream));
        if let Some(ring) = self.view.ring() {
            self.keep_log_for(&ring);
        }
        self.handle(Input::CopyLost { stream, from: copy });
    }

    pub(crate) fn acknowledged(&self, stream: StreamId, from: Holder, epoch: ShardEpoch, seq: Seq) {
        self.tell_log_end();
        self.handle(Input::Ack { stream, from, epoch, seq });
    }

    /// Tells the core how far the serving threads have come, if they have.
    pub fn tell_log_end(&self) {
        if self.log_grew.swap(false, Ordering::AcqRel) {
            self.handle_with(|| Input::LogEnd(self.engine.log().end().seq));
        }
    }

    /// Completes after the next append. What was appended before the call is there already.
    pub(crate) fn log_news(&self) -> impl Future<Output = ()> + Send + use<E> {
        news_of(&self.appended)
    }

    /// Completes when more counts as committed than at the time of the call.
    pub(crate) fn committed_news(&self) -> impl Future<Output = ()> + Send + use<E> {
        news_of(&self.committed_moved)
    }

    /// Tells the core of every append as it comes, if replies wait for what it makes of that; otherwise the control plane's tick does.
    /// Runs on the thread of the streams.
    pub async fn watch_log(self: Arc<Self>) {
        loop {
            if self.gate.acks_at_primary() {
                // To be woken by each write would cost a serving thread more than most writes do.
                self.env.sleep(WHILE_NOBODY_WAITS).await;
                continue;
            }
            let news = self.log_news();
            self.tell_log_end();
            news.await;
        }
    }

    pub(crate) fn committed(&self) -> Seq {
        self.gate.committed()
    }

    /// Where each epoch began in the log.
    pub(crate) fn history(&self) -> History {
        self.inspect(|replica| replica.history().clone()).unwrap_or_default()
    }

    // ---- what the stream from the primary needs

    pub(crate) fn following(&self) -> watch::Receiver<Option<Following>> {
        self.following.subscribe()
    }

    /// Applies a part of a walk, unless the core has ended that walk meanwhile.
    pub(crate) fn while_walking<T>(&self, stream: StreamId, apply: impl FnOnce(&Engine) -> T) -> Option<T> {
        let walking = self.walking.lock();
        (*walking == Some(stream)).then(|| apply(&self.engine))
    }

    /// Ends the process.
    pub(crate) fn fail(&self, why: &str) {
        (self.fatal)(why);
    }

    pub(crate) fn forget_acks(&self, stream: StreamId) {
        self.acks.lock().take_if(|(of, _)| *of == stream);
    }

    pub(crate) fn acks_go_to(&self, stream: StreamId, acks: mpsc::UnboundedSender<CopyFrame>) {
        *self.acks.lock() = Some((stream, acks));
    }

    /// Where a process listens, by the ring's word.
    pub(crate) fn address_of(&self, holder: Holder) -> Option<Address> {
        self.view.ring()?.members.get(&holder.member)?.present.as_ref().map(|presence| presence.address.clone())
    }

    pub(crate) fn begin_sync(&self, bytes_total: u64) {
        *self.sync.lock() = Some(SyncState { started: self.env.now(), bytes_done: 0, bytes_total });
    }

    pub(crate) fn note_synced(&self, bytes: usize) {
        if let Some(sync) = self.sync.lock().as_mut() {
            sync.bytes_done = sync.bytes_done.saturating_add(bytes as u64);
        }
    }

    pub(crate) fn end_sync(&self) {
        *self.sync.lock() = None;
    }

    // ---- what everybody may know

    pub fn env(&self) -> &E {
        &self.env
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    pub fn holder(&self) -> Holder {
        self.holder
    }

    /// Reads from the core; none at a witness. Short: everything waits meanwhile.
    pub fn inspect<T>(&self, read: impl FnOnce(&Replica) -> T) -> Option<T> {
        self.replica.lock().as_ref().map(read)
    }

    /// How far the full sync is that this member receives.
    pub fn sync_progress(&self) -> Option<SyncProgress> {
        let sync = (*self.sync.lock())?;
        let elapsed_ms = self.env.now().since(sync.started).as_millis().max(1);
        let rate = u128::from(sync.bytes_done) * 1_000 / elapsed_ms;
        Some(SyncProgress {
            bytes_done: sync.bytes_done,
            bytes_total: sync.bytes_total,
            bytes_per_second: u64::try_from(rate).unwrap_or(u64::MAX),
        })
    }

    /// What clients are told of replication.
    pub fn replication(&self) -> Replication {
        self.tell_log_end();
        let of_shard = self.inspect(|replica| (replica.copies(), replica.sync_state() == CoreSync::Following));
        let (copies, linked) = of_shard.unwrap_or_default();
        Replication { copies, sync: self.sync_progress(), linked }
    }

    pub fn ring(&self) -> Option<Arc<Ring>> {
        self.view.ring()
    }
}

/// Completes at the next notification after the call.
fn news_of(notify: &Arc<Notify>) -> impl Future<Output = ()> + Send + use<> {
    let mut news = Box::pin(Arc::clone(notify).notified_owned());
    news.as_mut().enable();
    news
}
