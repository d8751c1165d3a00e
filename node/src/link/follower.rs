//! The copy's side of a stream: connect to the primary that the replica core names, apply what it sends, acknowledge.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ringmaster_engine::Batch;
use ringmaster_replica::{Input, Output, StreamStart};
use ringmaster_ring::{Holder, Position, ShardEpoch};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;

use super::frame::{CopyFrame, PrimaryFrame, read_with_payload};
use crate::control::Driver;
use crate::env::{Env, within};
use crate::peer::{FrameError, HandshakeError, Identity, Peer, Purpose, connect, write_frame};

/// How long a primary may be silent before the copy makes a new connection.
const SILENCE_MAX: Duration = Duration::from_secs(2);
const RETRY_FIRST: Duration = Duration::from_millis(5);
const RETRY_LAST: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("no connection: {0}")]
    Connect(std::io::Error),
    #[error("it was silent for too long")]
    Silent,
    #[error("the process there is another one")]
    WrongPeer,
    #[error("its address is not known")]
    NoAddress,
    #[error("what it sent cannot be applied: {0}")]
    BadRecord(#[from] ringmaster_engine::BadRecord),
    #[error("the replica core dropped the stream")]
    Dropped,
    #[error("it refused: {0:?}")]
    Refused(ringmaster_replica::RefuseReason),
}

/// Follows whichever primary the replica core names, for as long as the process lives.
pub async fn follow<E: Env>(driver: Arc<Driver<E>>, identity: Identity) {
    let env = driver.env().clone();
    let mut following = driver.following();
    let mut retry = RETRY_FIRST;
    loop {
        let Some((primary, epoch)) = *following.borrow_and_update() else {
            if following.changed().await.is_err() {
                return;
            }
            continue;
        };
        let session = Session { driver: Arc::clone(&driver), primary, epoch };
        let started = env.now();
        let broken = tokio::select! {
            biased;
            // The core named another primary, or none.
            changed = following.changed() => match changed {
                Ok(()) => None,
                Err(_) => return,
            },
            broken = session.run(&identity) => Some(broken),
        };
        driver.end_sync();
        let Some(broken) = broken else {
            retry = RETRY_FIRST;
            continue;
        };
        if env.now().since(started) > SILENCE_MAX {
            retry = RETRY_FIRST;
        }
        tracing::debug!(primary = %primary.member, %epoch, %broken, "stream broke");
        tokio::select! {
            biased;
            _ = following.changed() => retry = RETRY_FIRST,
            () = env.sleep(retry) => retry = (retry * 2).min(RETRY_LAST),
        }
    }
}

/// One connection to one primary.
struct Session<E: Env> {
    driver: Arc<Driver<E>>,
    primary: Holder,
    epoch: ShardEpoch,
}

impl<E: Env> Session<E> {
    /// Runs until the stream breaks, and says why it did.
    async fn run(&self, identity: &Identity) -> Broken {
        match self.try_run(identity).await {
            Ok(never) => match never {},
            Err(broken) => broken,
        }
    }

    async fn try_run(&self, identity: &Identity) -> Result<std::convert::Infallible, Broken> {
        let env = self.driver.env();
        let address = self.driver.address_of(self.primary).ok_or(Broken::NoAddress)?;
        let connecting = env.connect(&address.host, address.peer_port);
        let stream = within(env, SILENCE_MAX, connecting).await.ok_or(Broken::Silent)?;
        let mut stream = stream.map_err(Broken::Connect)?;
        let peer = connect(env, &mut stream, identity, Purpose::Stream).await?;
        if peer != (Peer { member: self.primary.member, boot: self.primary.boot }) {
            return Err(Broken::WrongPeer);
        }
        let (mut reading, writing) = split(stream);
        let (say, said) = mpsc::unbounded_channel();
        env.spawn(write_frames(writing, said));
        let (last, may_discard) = self.driver.subscription(self.epoch);
        let from = self.driver.holder();
        self.say(&say, CopyFrame::Subscribe { from, epoch: self.epoch, last, may_discard });
        match self.read(&mut reading).await?.0 {
            PrimaryFrame::Accepted { epoch, start, bytes_total } => {
                let walks = start == StreamStart::Walk;
                let outputs = self.driver.handle(Input::Accepted { from: self.primary, epoch, start });
                if drops(&outputs) {
                    return Err(Broken::Dropped);
                }
                if walks {
                    tracing::info!(primary = %self.primary.member, bytes_total, "full sync begins");
                    self.driver.begin_sync(bytes_total);
                    self.receive_walk(&mut reading).await?;
                }
            }
            PrimaryFrame::Refused { reason } => {
                self.driver.handle(Input::Refused { from: self.primary, reason });
                return Err(Broken::Refused(reason));
            }
            _ => return Err(Broken::Dropped),
        }
        self.driver.acks_go_to(say.clone());
        loop {
            let (frame, payload) = self.read(&mut reading).await?;
            self.receive(frame, payload, &say)?;
        }
    }

    /// Takes the walk and the records between its parts. None of it is acknowledged before all of it is there.
    async fn receive_walk(&self, reading: &mut ReadHalf<E::Stream>) -> Result<(), Broken> {
        let engine = self.driver.engine();
        loop {
            let (frame, payload) = self.read(reading).await?;
            self.driver.note_synced(payload.len());
            match frame {
                PrimaryFrame::Walk { .. } => engine.apply_walk(&payload)?,
                PrimaryFrame::Records { entry_epoch, first, last, filtered, .. } => {
                    engine.apply(&Batch { entry_epoch, first, last, filtered, bytes: payload })?;
                }
                PrimaryFrame::WalkDone { epoch, end, history } => {
                    engine.log().reset(end);
                    let done = Input::WalkDone { from: self.primary, epoch, end, history };
                    let outputs = self.driver.handle(done);
                    self.driver.end_sync();
                    tracing::info!(primary = %self.primary.member, %end, "full sync is complete");
                    return if drops(&outputs) { Err(Broken::Dropped) } else { Ok(()) };
                }
                PrimaryFrame::Heartbeat { .. } => {}
                _ => return Err(Broken::Dropped),
            }
        }
    }

    fn receive(
        &self,
        frame: PrimaryFrame,
        payload: Bytes,
        say: &mpsc::UnboundedSender<CopyFrame>,
    ) -> Result<(), Broken> {
        let from = self.primary;
        let outputs = match frame {
            PrimaryFrame::Records { epoch, entry_epoch, first, last, committed, filtered } => {
                let outputs =
                    self.driver.handle(Input::Records { from, epoch, entry_epoch, first, last, committed });
                if outputs.iter().any(|output| matches!(output, Output::Apply { .. })) {
                    let batch = Batch { entry_epoch, first, last, filtered, bytes: payload };
                    self.driver.engine().apply(&batch)?;
                    self.driver.handle(Input::Applied { last: Position { epoch: entry_epoch, seq: last } })
                } else {
                    outputs
                }
            }
            PrimaryFrame::Heartbeat { epoch, end, committed } => {
                self.driver.handle(Input::Heartbeat { from, epoch, end, committed })
            }
            PrimaryFrame::Release { epoch, last } => self.driver.handle(Input::Release { from, epoch, last }),
            PrimaryFrame::Accepted { .. }
            | PrimaryFrame::Refused { .. }
            | PrimaryFrame::Walk { .. }
            | PrimaryFrame::WalkDone { .. } => return Err(Broken::Dropped),
        };
        for output in outputs {
            match output {
                Output::DropStream => return Err(Broken::Dropped),
                Output::Resume { after } => self.say(say, CopyFrame::Resume { after }),
                _ => {}
            }
        }
        Ok(())
    }

    async fn read(&self, reading: &mut ReadHalf<E::Stream>) -> Result<(PrimaryFrame, Bytes), Broken> {
        let frame = within(self.driver.env(), SILENCE_MAX, read_with_payload(reading)).await;
        Ok(frame.ok_or(Broken::Silent)??)
    }

    fn say(&self, say: &mpsc::UnboundedSender<CopyFrame>, frame: CopyFrame) {
        // The writer ends with the connection, and the reader then too.
        drop(say.send(frame));
    }
}

async fn write_frames<S>(mut writing: WriteHalf<S>, mut said: mpsc::UnboundedReceiver<CopyFrame>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin,
{
    while let Some(mut frame) = said.recv().await {
        // Of several acknowledgements the last says it all.
        while let CopyFrame::Ack { .. } = frame {
            match said.try_recv() {
                Ok(next @ CopyFrame::Ack { .. }) => frame = next,
                Ok(other) => {
                    if write_frame(&mut writing, &frame).await.is_err() {
                        return;
                    }
                    frame = other;
                }
                Err(_) => break,
            }
        }
        if write_frame(&mut writing, &frame).await.is_err() || writing.flush().await.is_err() {
            return;
        }
    }
}

fn drops(outputs: &[Output]) -> bool {
    outputs.iter().any(|output| matches!(output, Output::DropStream))
}
