//! Connections to other members, kept open, with many requests under way on each.

use std::collections::BTreeMap;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
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

/// Connections for one purpose: requests of type `Q`, answers of type `A`.
pub struct Pool<E: Env, Q, A> {
    env: E,
    identity: Identity,
    purpose: Purpose,
    connections: Arc<Mutex<BTreeMap<Address, Arc<Connection<A>>>>>,
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
struct Connection<A> {
    queue: mpsc::Sender<(u64, Vec<u8>)>,
    waiting: Arc<Mutex<Waiting<A>>>,
}

/// The calls without an answer; none once the connection broke.
type Waiting<A> = Option<BTreeMap<u64, oneshot::Sender<A>>>;

impl<E: Env, Q: Serialize, A: DeserializeOwned + Send + 'static> Pool<E, Q, A> {
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
        within(&self.env, limit, self.call_unbounded(address, bytes)).await.unwrap_or(Err(CallError::TimedOut))
    }

    async fn call_unbounded(&self, address: &Address, request: Vec<u8>) -> Result<A, CallError> {
        let connection = match self.open_connection(address) {
            Some(connection) => connection,
            None => self.connect(address).await?,
        };
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

    fn open_connection(&self, address: &Address) -> Option<Arc<Connection<A>>> {
        let connections = self.connections.lock();
        connections.get(address).filter(|c| !c.queue.is_closed() && c.waiting.lock().is_some()).cloned()
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
        let broken = Arc::clone(&waiting);
        self.env.spawn(async move {
            while let Some(first) = queued.recv().await {
                let mut next = Some(first);
                while let Some(frame) = next {
                    if write_frame(&mut writing, &frame).await.is_err() {
                        broken.lock().take();
                        return;
                    }
                    next = queued.try_recv().ok();
                }
                if writing.flush().await.is_err() {
                    broken.lock().take();
                    return;
                }
            }
        });
        let answered = Arc::clone(&waiting);
        self.env.spawn(async move {
            while let Ok((id, bytes)) = read_frame::<(u64, Vec<u8>)>(&mut reading).await {
                let Ok(answer) = postcard::from_bytes(&bytes) else { break };
                let asker = answered.lock().as_mut().and_then(|waiting| waiting.remove(&id));
                if let Some(asker) = asker {
                    // The asker may have given up meanwhile.
                    drop(asker.send(answer));
                }
            }
            answered.lock().take();
        });
        let connection = Arc::new(Connection { queue, waiting });
        self.connections.lock().insert(address.clone(), Arc::clone(&connection));
        Ok(connection)
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
