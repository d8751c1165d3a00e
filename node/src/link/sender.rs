//! The primary's side of a stream: one task reads the copy's acknowledgements, one sends.
//!
//! A copy that needs everything gets the walk with the log between its chunks: before a chunk that was read at log
//! position `at` goes everything up to `at`, without the records that are ahead of the walk; so the copy needs no other
//! buffer, and the log must only be kept as far back as the stream is behind.

use std::sync::Arc;
use std::time::Duration;

use ringmaster_engine::{Batch, Cursor, Trimmed, WalkError};
use ringmaster_replica::{Input, Output, StreamId, StreamStart};
use ringmaster_ring::{Holder, MemberId, Position, Seq, ShardEpoch};
use tokio::io::{AsyncWriteExt, BufWriter, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;

use super::frame::{CopyFrame, PrimaryFrame, write_with_payload};
use super::limiter::Bandwidth;
use crate::control::Driver;
use crate::env::{Env, within};
use crate::peer::{FrameError, Peer, read_frame};

/// How many bytes of records go into one frame.
const RECORDS_BYTES_MAX: usize = 256 << 10;
/// How many bytes of a walk go into one frame.
const WALK_BYTES_MAX: usize = 128 << 10;
/// How often a stream with nothing to say says so.
const HEARTBEAT: Duration = Duration::from_millis(50);
/// How long a copy may take to say where it stands.
const SUBSCRIBE_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Trimmed(#[from] Trimmed),
    #[error("a record of ours does not decode")]
    BadRecord(#[from] ringmaster_engine::BadRecord),
    #[error("the walk cannot go on")]
    Walk(#[from] WalkError),
    #[error("the role ended")]
    Closed,
}

/// Serves a copy that connected, until either side ends the stream.
pub async fn serve_stream<E: Env>(driver: Arc<Driver<E>>, bandwidth: Bandwidth, stream: E::Stream, peer: Peer) {
    let env = driver.env().clone();
    let (mut reading, writing) = split(stream);
    let first = within(&env, SUBSCRIBE_LIMIT, read_frame::<CopyFrame>(&mut reading)).await;
    let Some(Ok(CopyFrame::Subscribe { stream: id, from, epoch, last, may_discard })) = first else { return };
    if (from.member, from.boot) != (peer.member, peer.boot) {
        return;
    }
    let (commands, orders) = mpsc::unbounded_channel();
    driver.register_stream(from, id, commands);
    driver.tell_log_end();
    let log = driver.engine().log();
    let (kept_after, log_end) = (log.kept_after(), log.end().seq);
    driver.handle(Input::Subscribe { stream: id, from, epoch, last, may_discard, kept_after, log_end });
    let mut sender = Sender {
        driver: Arc::clone(&driver),
        bandwidth,
        to: BufWriter::with_capacity(64 << 10, writing),
        orders,
        copy: from.member,
        epoch,
        sent: Seq(0),
        told_committed: Seq(0),
    };
    // Whichever side ends first ends the connection, so that the copy learns of it at once.
    let reason = tokio::select! {
        biased;
        broken = read_acknowledgements(&driver, &mut reading, id, from) => broken.to_string(),
        ended = sender.run() => ended.err().map(|error| error.to_string()).unwrap_or_default(),
    };
    tracing::debug!(copy = %from.member, reason, "stream ended");
    driver.unregister_stream(from, id);
}

/// Takes acknowledgements until the copy breaks the stream.
async fn read_acknowledgements<E: Env>(
    driver: &Driver<E>,
    reading: &mut ReadHalf<E::Stream>,
    stream: StreamId,
    from: Holder,
) -> Ended {
    loop {
        match read_frame::<CopyFrame>(reading).await {
            Ok(CopyFrame::Ack { epoch, seq }) => driver.acknowledged(stream, from, epoch, seq),
            Ok(CopyFrame::Subscribe { .. }) => return Ended::Closed,
            Err(error) => return error.into(),
        }
    }
}

/// What a stream's task is told by others.
#[derive(Debug)]
pub(crate) enum Order {
    /// What the replica core decided about this stream.
    Core(Output),
    Broken,
}

struct Sender<E: Env> {
    driver: Arc<Driver<E>>,
    bandwidth: Bandwidth,
    to: BufWriter<WriteHalf<E::Stream>>,
    orders: mpsc::UnboundedReceiver<Order>,
    copy: MemberId,
    /// The shard epoch under which this stream's frames go.
    epoch: ShardEpoch,
    sent: Seq,
    told_committed: Seq,
}

impl<E: Env> Sender<E> {
    async fn run(&mut self) -> Result<(), Ended> {
        let start = loop {
            match self.orders.recv().await.ok_or(Ended::Closed)? {
                Order::Core(Output::OpenStream { epoch, start, .. }) => {
                    self.epoch = epoch;
                    break start;
                }
                Order::Core(Output::RefuseStream { reason, .. }) => {
                    self.send(&PrimaryFrame::Refused { reason }, &[]).await?;
                    self.to.flush().await.map_err(FrameError::from)?;
                    return Ok(());
                }
                Order::Core(_) => {}
                Order::Broken => return Err(Ended::Closed),
            }
        };
        let bytes_total = self.driver.engine().used_bytes();
        let accepted = PrimaryFrame::Accepted { epoch: self.epoch, start, bytes_total };
        self.send(&accepted, &[]).await?;
        match start {
            StreamStart::After(seq) => self.sent = seq,
            StreamStart::Walk => self.walk().await?,
        }
        self.follow_log().await
    }

    /// Sends all data, with the changes of what was sent already.
    async fn walk(&mut self) -> Result<(), Ended> {
        let engine = Arc::clone(self.driver.engine());
        let mut cursor = Cursor::start();
        let mut chunk = Vec::new();
        self.sent = engine.log().end().seq;
        let mut heartbeat_at = self.driver.env().now();
        while !cursor.is_end() {
            self.obey_pending().await?;
            if self.driver.env().now() >= heartbeat_at {
                self.heartbeat().await?;
                heartbeat_at = self.driver.env().now().plus(HEARTBEAT);
            }
            chunk.clear();
            let walked = engine.walk(&cursor, self.sent, WALK_BYTES_MAX, &mut chunk)?;
            self.send_log_through(walked.at.seq, Some(&mut cursor)).await?;
            cursor = walked.next;
            if !chunk.is_empty() {
                self.send(&PrimaryFrame::Walk { epoch: self.epoch, next: cursor }, &chunk).await?;
                // Acknowledgements and the records of other streams go between two chunks.
                tokio::task::yield_now().await;
                let pause = self.bandwidth.book(chunk.len(), self.driver.env().now());
                self.drain_log_for(pause, &mut cursor).await?;
            }
        }
        let end = engine.log().end();
        self.send_log_through(end.seq, None).await?;
        let history = self.driver.history();
        self.send(&PrimaryFrame::WalkDone { epoch: self.epoch, end, history }, &[]).await?;
        self.to.flush().await.map_err(FrameError::from)?;
        Ok(())
    }

    /// Waits as the bandwidth limit demands, and keeps the log going out meanwhile.
    async fn drain_log_for(&mut self, pause: Duration, cursor: &mut Cursor) -> Result<(), Ended> {
        let env = self.driver.env().clone();
        let until = env.now().plus(pause);
        while env.now() < until {
            self.obey_pending().await?;
            let end = self.driver.engine().log().end().seq;
            self.send_log_through(end, Some(&mut *cursor)).await?;
            self.heartbeat().await?;
            env.sleep(until.since(env.now()).min(HEARTBEAT / 5)).await;
        }
        Ok(())
    }

    async fn follow_log(&mut self) -> Result<(), Ended> {
        let env = self.driver.env().clone();
        loop {
            let news = self.driver.log_news();
            let moved = self.driver.committed_news();
            self.obey_pending().await?;
            let end = self.driver.engine().log().end().seq;
            self.send_log_through(end, None).await?;
            self.to.flush().await.map_err(FrameError::from)?;
            let committed = self.driver.committed();
            tokio::select! {
                biased;
                order = self.orders.recv() => self.obey(order.unwrap_or(Order::Broken)).await?,
                () = news => {}
                // What is said of it waits a moment for a record that goes anyway.
                () = moved, if committed == self.told_committed => {}
                () = env.sleep(if committed > self.told_committed { HEARTBEAT / 25 } else { HEARTBEAT }) => {
                    self.heartbeat().await?;
                }
            }
        }
    }

    async fn heartbeat(&mut self) -> Result<(), Ended> {
        let committed = self.driver.committed();
        let end = self.driver.engine().log().end().seq;
        self.told_committed = committed;
        self.send(&PrimaryFrame::Heartbeat { epoch: self.epoch, end, committed }, &[]).await?;
        self.to.flush().await.map_err(FrameError::from)?;
        Ok(())
    }

    async fn obey_pending(&mut self) -> Result<(), Ended> {
        while let Ok(order) = self.orders.try_recv() {
            self.obey(order).await?;
        }
        Ok(())
    }

    async fn obey(&mut self, order: Order) -> Result<(), Ended> {
        match order {
            Order::Core(Output::Release { epoch, last, .. }) => self.release(epoch, last).await,
            Order::Core(Output::CloseStream { .. }) | Order::Broken => Err(Ended::Closed),
            Order::Core(_) => Ok(()),
        }
    }

    /// Sends the rest under the successor's epoch, then the release.
    async fn release(&mut self, epoch: ShardEpoch, last: Position) -> Result<(), Ended> {
        self.epoch = epoch;
        self.send_log_through(last.seq, None).await?;
        self.send(&PrimaryFrame::Release { epoch, last }, &[]).await?;
        self.to.flush().await.map_err(FrameError::from)?;
        tracing::info!(to = %self.copy, %epoch, %last, "released");
        Ok(())
    }

    async fn send_log_through(&mut self, through: Seq, mut ahead_of: Option<&mut Cursor>) -> Result<(), Ended> {
        let engine = Arc::clone(self.driver.engine());
        while let Some(batch) = engine.log().read_through(self.sent, through, RECORDS_BYTES_MAX)? {
            let batch = match &mut ahead_of {
                Some(cursor) => engine.filter(&batch, cursor)?,
                None => batch,
            };
            self.send_batch(&batch).await?;
        }
        Ok(())
    }

    async fn send_batch(&mut self, batch: &Batch) -> Result<(), Ended> {
        let committed = self.driver.committed();
        let frame = PrimaryFrame::Records {
            epoch: self.epoch,
            entry_epoch: batch.entry_epoch,
            first: batch.first,
            last: batch.last,
            committed,
            filtered: batch.filtered,
        };
        self.send(&frame, &batch.bytes).await?;
        self.sent = batch.last;
        self.told_committed = committed;
        Ok(())
    }

    async fn send(&mut self, frame: &PrimaryFrame, payload: &[u8]) -> Result<(), Ended> {
        write_with_payload(&mut self.to, frame, payload).await?;
        Ok(())
    }
}
