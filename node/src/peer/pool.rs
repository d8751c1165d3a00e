//! Connections to other members, kept open, with many requests under way on each.

use std::collections::BTreeMap;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::Shared;
use parking_lot::Mutex;
use ringmaster_replica::Mono;
use ringmaster_ring::Address;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncWriteExt, split};
use tokio::sync::{mpsc, oneshot};

use super::frame::{FrameError, read_frame, write_frame};
use super::handshake::{HandshakeError, Identity, Purpose, connect};
use crate::env::{Env, within};

/// How many requests may wait to be sent to one member.
const QUEUE_MAX: usize = 1_024;
/// How long making a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// A connection on which calls wait and nothing came for so long leads nowhere.
const SILENCE_MAX: Duration = Duration::from_millis(400);

#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nothing listens at its address.
    #[error("its host refuses the connection")]
    Refused,
    /// Whether it did what was asked is unknown.
    #[error("no answer in time")]
    TimedOut,
    #[error("the connection broke before an answer came")]
    Broken,
    #[error("no connection: {0}")]
    Connect(io::Error),
    #[error("the handshake failed: {0}")]
    Handshake(#[from] HandshakeError),
    #[error("the request is not encodable: {0}")]
    Encode(#[from] FrameError),
}

impl CallError {
    /// The same for another call that waited for the same connection.
    fn again(&self) -> Self {
        match self {
            Self::Refused => Self::Refused,
            Self::TimedOut => Self::TimedOut,
            Self::Broken => Self::Broken,
            Self::Connect(error) => Self::Connect(io::Error::new(error.kind(), error.to_string())),
            other => Self::Connect(io::Error::other(other.to_string())),
        }
    }
}

/// Connections for one purpose: requests of type `Q`, answers of type `A`.
pub struct Pool<E: Env, Q, A> {
    env: E,
    identity: Identity,
    purpose: Purpose,
    connections: Arc<Mutex<BTreeMap<Address, Slot<A>>>>,
    next_id: Arc<AtomicU64>,
    asks: PhantomData<fn(Q)>,
}

impl<E: Env, Q, A> Clone for Pool<E, Q, A> {
    fn clone(&self) -> Self {
        Self {
            env: self.env.clone(),
            identity: self.identity.clone(),
            purpose: self.purpose,
            connections: Arc::clone(&self.connections),
            next_id: Arc::clone(&self.next_id),
            asks: PhantomData,
        }
    }
}

impl<E: Env, Q, A> std::fmt::Debug for Pool<E, Q, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("purpose", &self.purpose).finish_non_exhaustive()
    }
}

/// A connection is found by its address; a broken one is replaced at the next call.
enum Slot<A> {
    /// It is being made. Calls wait for it, and may give up without ending it. They go on in the order in which they
    /// came, so that a simulation replays.
    Connecting(Shared<oneshot::Receiver<Made<A>>>),
    Open(Arc<Connection<A>>),
}

/// What came of making a connection.
type Made<A> = Result<Arc<Connection<A>>, Arc<CallError>>;

struct Connection<A> {
    queue: mpsc::Sender<(u64, Vec<u8>)>,
    waiting: Arc<Mutex<Waiting<A>>>,
    /// Since when calls have timed out and nothing came.
    stalled_at: Arc<Mutex<Option<Mono>>>,
}

impl<A> Connection<A> {
    fn is_open(&self) -> bool {
        !self.queue.is_closed() && self.waiting.lock().is_some()
    }

    /// A call timed out. Calls that wait on a connection that leads nowhere fail, and the next one connects anew: after
    /// a cut the system may take minutes to try an old connection again.
    fn timed_out(&self, now: Mono) {
        let stalled_at = *self.stalled_at.lock().get_or_insert(now);
        if now.since(stalled_at) >= SILENCE_MAX {
            self.waiting.lock().take();
        }
    }
}

/// The calls without an answer; none once the connection broke.
type Waiting<A> = Option<BTreeMap<u64, oneshot::Sender<A>>>;

impl<E: Env, Q: Serialize + 'static, A: DeserializeOwned + Send + 'static> Pool<E, Q, A> {
    #[must_use]
    pub fn new(env: E, identity: Identity, purpose: Purpose) -> Self {
        let (connections, next_id) = (Arc::default(), Arc::default());
        Self { env, identity, purpose, connections, next_id, asks: PhantomData }
    }

    /// Asks the process at `address`. Cancelling the call leaves the connection whole.
    ///
    /// # Errors
    /// No answer came within `limit`; [`CallError::Refused`] says that nothing listens there.
    pub async fn call(&self, address: &Address, request: &Q, limit: Duration) -> Result<A, CallError> {
        let bytes = postcard::to_extend(request, Vec::new()).map_err(FrameError::from)?;
        let began = self.env.now();
        let connection = within(&self.env, limit, self.connection(address)).await.ok_or(CallError::TimedOut)??;
        let left = limit.saturating_sub(self.env.now().since(began));
        match within(&self.env, left, self.ask(&connection, bytes)).await {
            Some(answer) => answer,
            None => {
                connection.timed_out(self.env.now());
                Err(CallError::TimedOut)
            }
        }
    }

    async fn ask(&self, connection: &Connection<A>, request: Vec<u8>) -> Result<A, CallError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (answered, answer) = oneshot::channel();
        match connection.waiting.lock().as_mut() {
            Some(waiting) => waiting.insert(id, answered),
            None => return Err(CallError::Broken),
        };
        let _forget = ForgetOnDrop { id, waiting: &connection.waiting };
        connection.queue.send((id, request)).await.map_err(|_| CallError::Broken)?;
        answer.await.map_err(|_| CallError::Broken)
    }

    /// The open connection to `address`, or the one that is being made, or a new one.
    async fn connection(&self, address: &Address) -> Result<Arc<Connection<A>>, CallError> {
        let made = {
            let mut connections = self.connections.lock();
            match connections.get(address) {
                Some(Slot::Open(connection)) if connection.is_open() => return Ok(Arc::clone(connection)),
                Some(Slot::Connecting(made)) if made.peek().is_none() => made.clone(),
                _ => {
                    let (making, made) = oneshot::channel();
                    let made = made.shared();
                    connections.insert(address.clone(), Slot::Connecting(made.clone()));
                    self.env.spawn(self.clone().make_connection(address.clone(), making));
                    made
                }
            }
        };
        match made.await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(error.again()),
            Err(_) => Err(CallError::Broken),
        }
    }

    async fn make_connection(self, address: Address, making: oneshot::Sender<Made<A>>) {
        let made = self.connect(&address).await;
        let mut connections = self.connections.lock();
        match &made {
            Ok(connection) => drop(connections.insert(address, Slot::Open(Arc::clone(connection)))),
            Err(_) => drop(connections.remove(&address)),
        }
        drop(connections);
        // Every call may have given up meanwhile.
        drop(making.send(made.map_err(Arc::new)));
    }

    async fn connect(&self, address: &Address) -> Result<Arc<Connection<A>>, CallError> {
        let connecting = self.env.connect(&address.host, address.peer_port);
        let stream = within(&self.env, CONNECT_LIMIT, connecting).await.ok_or(CallError::TimedOut)?;
        let mut stream = stream.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => CallError::Refused,
            _ => CallError::Connect(error),
        })?;
        connect(&self.env, &mut stream, &self.identity, self.purpose).await?;
        let (mut reading, mut writing) = split(stream);
        let (queue, mut queued) = mpsc::channel::<(u64, Vec<u8>)>(QUEUE_MAX);
        let waiting: Arc<Mutex<Waiting<A>>> = Arc::new(Mutex::new(Some(BTreeMap::new())));
        let stalled_at: Arc<Mutex<Option<Mono>>> = Arc::default();
        let (asking, stalled) = (Arc::clone(&waiting), Arc::clone(&stalled_at));
        // One task, so that both halves of the connection end together.
        self.env.spawn(async move {
            let write = async {
                while let Some(first) = queued.recv().await {
                    let mut next = Some(first);
                    while let Some(frame) = next {
                        write_frame(&mut writing, &frame).await?;
                        next = queued.try_recv().ok();
                    }
                    writing.flush().await.map_err(FrameError::from)?;
                }
                Ok::<(), FrameError>(())
            };
            let read = async {
                while let Ok((id, bytes)) = read_frame::<(u64, Vec<u8>)>(&mut reading).await {
                    let Ok(answer) = postcard::from_bytes(&bytes) else { break };
                    stalled.lock().take();
                    let asker = match asking.lock().as_mut() {
                        Some(waiting) => waiting.remove(&id),
                        // Somebody gave this connection up.
                        None => break,
                    };
                    if let Some(asker) = asker {
                        // The asker may have given up meanwhile.
                        drop(asker.send(answer));
                    }
                }
            };
            tokio::select! {
                biased;
                () = read => {}
                _ = write => {}
            }
            asking.lock().take();
        });
        Ok(Arc::new(Connection { queue, waiting, stalled_at }))
    }
}

struct ForgetOnDrop<'a, A> {
    id: u64,
    waiting: &'a Mutex<Waiting<A>>,
}

impl<A> Drop for ForgetOnDrop<'_, A> {
    fn drop(&mut self) {
        if let Some(waiting) = self.waiting.lock().as_mut() {
            waiting.remove(&self.id);
        }
    }
}
