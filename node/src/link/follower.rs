//! The copy's side of a stream: connect to the primary that the replica core names, apply what it sends, acknowledge.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ringmaster_engine::Batch;
use ringmaster_replica::{Input, Output, StreamStart};
use ringmaster_ring::{Position, Seq};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;

use super::frame::{CopyFrame, PIECE_BYTES, PrimaryFrame, read_head, read_piece};
use crate::control::{Driver, Following};
use crate::env::{Env, within};
use crate::peer::{FrameError, HandshakeError, Identity, Peer, Purpose, connect, write_frame};

/// How long a primary may be silent before the copy makes a new connection.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// How long making a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);

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
    #[error("it sent what the replica core does not take now")]
    NotTaken,
    #[error("it refused: {0:?}")]
    Refused(ringmaster_replica::RefuseReason),
}

/// Opens each stream that the replica core asks for, and tells it how the stream ended.
pub async fn follow<E: Env>(driver: Arc<Driver<E>>, identity: Identity) {
    let mut wanted = driver.following();
    loop {
        let Some(following) = *wanted.borrow_and_update() else {
            if wanted.changed().await.is_err() {
                return;
            }
            continue;
        };
        let session = Session { driver: Arc::clone(&driver), following };
        let ended = tokio::select! {
            biased;
            // The core wants another stream, or none.
            changed = wanted.changed() => match changed {
                Ok(()) => None,
                Err(_) => return,
            },
            broken = session.run(&identity) => Some(broken),
        };
        driver.end_sync();
        driver.forget_acks(following.stream);
        if let Some(Broken::BadRecord(error)) = &ended {
            driver.fail(&format!("what the primary sent cannot be applied: {error}"));
        }
        if let Some(broken) = ended {
            let Following { stream, primary, epoch, .. } = following;
            tracing::debug!(primary = %primary.member, %epoch, %broken, "the stream ended");
            driver.handle(match broken {
                Broken::Refused(reason) => Input::Refused { stream, reason },
                _ => Input::StreamLost { stream },
            });
            // The next one is another stream.
            if wanted.borrow().as_ref().is_some_and(|now| now.stream == stream) && wanted.changed().await.is_err() {
                return;
            }
        }
    }
}

/// One stream from one primary.
struct Session<E: Env> {
    driver: Arc<Driver<E>>,
    following: Following,
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
        let Following { stream: id, primary, epoch, last, may_discard } = self.following;
        let env = self.driver.env();
        let address = self.driver.address_of(primary).ok_or(Broken::NoAddress)?;
        let connecting = env.connect(&address.host, address.peer_port);
        let stream = within(env, CONNECT_LIMIT, connecting).await.ok_or(Broken::Silent)?;
        let mut stream = stream.map_err(Broken::Connect)?;
        let peer = connect(env, &mut stream, identity, Purpose::Stream).await?;
        if peer != (Peer { member: primary.member, boot: primary.boot }) {
            return Err(Broken::WrongPeer);
        }
        let (mut reading, writing) = split(stream);
        let (say, said) = mpsc::unbounded_channel();
        env.spawn(write_frames(writing, said));
        let from = self.driver.holder();
        // The writer ends with the connection, and the reader then too.
        drop(say.send(CopyFrame::Subscribe { stream: id, from, epoch, last, may_discard }));
        self.driver.acks_go_to(id, say);
        match self.read(&mut reading).await?.0 {
            PrimaryFrame::Accepted { epoch, start, bytes_total } => {
                let outputs = self.driver.handle(Input::Accepted { stream: id, epoch, start });
                if start == StreamStart::Walk {
                    if !outputs.iter().any(|output| matches!(output, Output::Walk { stream } if *stream == id)) {
                        return Err(Broken::NotTaken);
                    }
                    tracing::info!(primary = %primary.member, bytes_total, "full sync begins");
                    self.driver.begin_sync(bytes_total);
                    self.receive_walk(&mut reading).await?;
                }
            }
            PrimaryFrame::Refused { reason } => return Err(Broken::Refused(reason)),
            _ => return Err(Broken::NotTaken),
        }
        loop {
            let (frame, payload) = self.read(&mut reading).await?;
            self.receive(frame, payload)?;
        }
    }

    /// Takes the walk and the records between its parts. None of it is acknowledged before all of it is there.
    async fn receive_walk(&self, reading: &mut ReadHalf<E::Stream>) -> Result<(), Broken> {
        let Following { stream, primary, .. } = self.following;
        let driver = &self.driver;
        loop {
            let (frame, payload) = self.read(reading).await?;
            self.driver.note_synced(payload.len());
            match frame {
                PrimaryFrame::Walk { .. } => {
                    driver.while_walking(stream, |engine| engine.apply_walk(&payload)).ok_or(Broken::NotTaken)??;
                }
                PrimaryFrame::Records { entry_epoch, first, last, filtered, .. } => {
                    let batch = Batch { entry_epoch, first, last, filtered, bytes: payload };
                    driver.while_walking(stream, |engine| engine.apply(&batch)).ok_or(Broken::NotTaken)??;
                }
                PrimaryFrame::WalkDone { epoch, end, history } => {
                    driver.while_walking(stream, |engine| engine.finish_walk(end)).ok_or(Broken::NotTaken)?;
                    self.driver.handle(Input::WalkDone { stream, epoch, end, history });
                    self.driver.end_sync();
                    tracing::info!(primary = %primary.member, %end, "full sync is complete");
                    return Ok(());
                }
                PrimaryFrame::Heartbeat { epoch, end, committed } => {
                    self.driver.handle(Input::Heartbeat { stream, epoch, end, committed });
                }
                PrimaryFrame::Accepted { .. } | PrimaryFrame::Refused { .. } | PrimaryFrame::Release { .. } => {
                    return Err(Broken::NotTaken);
                }
            }
        }
    }

    fn receive(&self, frame: PrimaryFrame, payload: Bytes) -> Result<(), Broken> {
        let stream = self.following.stream;
        match frame {
            PrimaryFrame::Records { epoch, entry_epoch, first, last, committed, filtered } => {
                let input = Input::Records { stream, epoch, entry_epoch, first, last, committed };
                let outputs = self.driver.handle(input);
                if !outputs.iter().any(|output| matches!(output, Output::Apply { .. })) {
                    return Err(Broken::NotTaken);
                }
                self.driver.engine().apply(&Batch { entry_epoch, first, last, filtered, bytes: payload })?;
                self.driver.handle(Input::Applied { last: Position { epoch: entry_epoch, seq: last } });
            }
            PrimaryFrame::Heartbeat { epoch, end, committed } => {
                self.driver.handle(Input::Heartbeat { stream, epoch, end, committed });
            }
            PrimaryFrame::Release { epoch, last } => {
                self.driver.handle(Input::Release { stream, epoch, last });
            }
            PrimaryFrame::Accepted { .. }
            | PrimaryFrame::Refused { .. }
            | PrimaryFrame::Walk { .. }
            | PrimaryFrame::WalkDone { .. } => return Err(Broken::NotTaken),
        }
        Ok(())
    }

    async fn read(&self, reading: &mut ReadHalf<E::Stream>) -> Result<(PrimaryFrame, Bytes), Broken> {
        let (frame, length) = self.unless_silent(read_head(reading)).await?;
        let mut payload = BytesMut::with_capacity(length.min(PIECE_BYTES));
        while payload.len() < length {
            // A long payload takes its time: silence is when not even a piece of it comes.
            self.unless_silent(read_piece(reading, &mut payload, length)).await?;
            if payload.len() < length {
                self.still_there(&frame);
            }
        }
        Ok((frame, payload.freeze()))
    }

    /// Tells the core that the primary is there, though nothing of its is complete.
    fn still_there(&self, frame: &PrimaryFrame) {
        if let PrimaryFrame::Records { epoch, .. } | PrimaryFrame::Walk { epoch, .. } = *frame {
            let stream = self.following.stream;
            self.driver.handle(Input::Heartbeat { stream, epoch, end: Seq(0), committed: Seq(0) });
        }
    }

    async fn unless_silent<T>(&self, reading: impl Future<Output = Result<T, FrameError>>) -> Result<T, Broken> {
        Ok(within(self.driver.env(), SILENCE_MAX, reading).await.ok_or(Broken::Silent)??)
    }
}

/// Writes what the copy says. Of several acknowledgements that wait, the last says it all.
async fn write_frames<S>(mut writing: WriteHalf<S>, mut said: mpsc::UnboundedReceiver<CopyFrame>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    while let Some(mut frame) = said.recv().await {
        while let (CopyFrame::Ack { .. }, Ok(newer)) = (&frame, said.try_recv()) {
            frame = newer;
        }
        if write_frame(&mut writing, &frame).await.is_err() || writing.flush().await.is_err() {
            return;
        }
    }
}
