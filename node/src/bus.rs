//! The ring's message bus: what PUBLISH says at one member reaches the subscribers of all.
//!
//! Owns the way from serving threads to other members. In: messages ([`Bus::send`], which never waits). Out: the same messages, delivered at each
//! other member that the ring knows. At most once, as in Redis Cluster: what does not fit its queue, or is on a connection that breaks, is
//! lost, and counted. The connections have a purpose of their own, so that nothing of the protocol waits behind them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use ringmaster_ring::{Address, MemberId, Ring};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::control::View;
use crate::env::Env;
use crate::peer::{Handler, Identity, Peer, Pool, Purpose};

/// How many messages may wait for the streams' thread to hand them on.
const OUTGOING_MAX: usize = 16 << 10;
/// How many messages, and bytes of them, may wait for one member.
const QUEUE_MAX: usize = 16 << 10;
const QUEUE_BYTES_MAX: usize = 32 << 20;
/// How many messages, and about how many bytes of them, go in one frame.
const BATCH_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 1 << 20;
/// How long a member may take to accept a batch.
const CALL_LIMIT: Duration = Duration::from_secs(2);

/// A message for the subscribers of a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub scope: Scope,
    pub channel: Vec<u8>,
    pub payload: Vec<u8>,
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// The members of the sender's shard.
    Shard,
    Ring,
}

impl Message {
    fn bytes(&self) -> usize {
        self.channel.len().saturating_add(self.payload.len())
    }
}

/// Where serving threads put their messages.
#[derive(Clone, Debug)]
pub struct Bus {
    outgoing: mpsc::Sender<Arc<Message>>,
    dropped: Arc<AtomicU64>,
}

impl Bus {
    /// A bus, and what [`run`] needs of it.
    #[must_use]
    pub fn new() -> (Self, Outgoing) {
        let (outgoing, queued) = mpsc::channel(OUTGOING_MAX);
        let dropped = Arc::<AtomicU64>::default();
        (Self { outgoing, dropped: Arc::clone(&dropped) }, Outgoing { queued, dropped })
    }

    /// Sends a message to other members, unless too many wait already.
    pub fn send(&self, message: Message) {
        if self.outgoing.try_send(Arc::new(message)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many messages some member did not get.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// What serving threads have sent.
#[derive(Debug)]
pub struct Outgoing {
    queued: mpsc::Receiver<Arc<Message>>,
    dropped: Arc<AtomicU64>,
}

/// Hands messages on to the other members for as long as there is somebody who sends.
pub async fn run<E: Env>(env: E, identity: Identity, view: View, outgoing: Outgoing) {
    let Outgoing { mut queued, dropped } = outgoing;
    let me = identity.member;
    let pool = Pool::new(env.clone(), identity, Purpose::Messages);
    let mut members: BTreeMap<MemberId, Link> = BTreeMap::new();
    while let Some(message) = queued.recv().await {
        let Some(ring) = view.ring() else { continue };
        members.retain(|member, link| ring.members.contains_key(member) && !link.queue.is_closed());
        for (member, address) in receivers(&ring, me, message.scope) {
            let link = members.entry(member).or_insert_with(|| Link::open(&env, &pool, Arc::clone(&dropped)));
            link.send(address, Arc::clone(&message), &dropped);
        }
    }
}

/// The other members that a message is for, where the ring knows their address.
fn receivers(ring: &Ring, me: MemberId, scope: Scope) -> Vec<(MemberId, Address)> {
    let my_shard = ring.members.get(&me).and_then(|member| member.shard);
    let members = ring
        .members
        .iter()
        .filter(|(id, member)| **id != me && (scope == Scope::Ring || my_shard.is_some() && member.shard == my_shard));
    members.filter_map(|(id, member)| Some((*id, member.present.as_ref()?.address.clone()))).collect()
}

/// The way to one member: a queue, and the task that empties it.
struct Link {
    queue: mpsc::Sender<(Address, Arc<Message>)>,
    bytes: Arc<AtomicUsize>,
}

type Links<E> = Pool<E, Vec<Message>, ()>;

impl Link {
    fn open<E: Env>(env: &E, pool: &Links<E>, dropped: Arc<AtomicU64>) -> Self {
        let (queue, queued) = mpsc::channel(QUEUE_MAX);
        let bytes = Arc::<AtomicUsize>::default();
        env.spawn(empty(pool.clone(), queued, Arc::clone(&bytes), dropped));
        Self { queue, bytes }
    }

    fn send(&self, to: Address, message: Arc<Message>, dropped: &AtomicU64) {
        let size = message.bytes();
        let fits = self.bytes.load(Ordering::Relaxed).saturating_add(size) <= QUEUE_BYTES_MAX;
        if fits && self.queue.try_send((to, message)).is_ok() {
            self.bytes.fetch_add(size, Ordering::Relaxed);
        } else {
            dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sends what is queued, in batches, one after another: a member gets the messages of another in their order.
async fn empty<E: Env>(
    pool: Links<E>,
    mut queued: mpsc::Receiver<(Address, Arc<Message>)>,
    bytes: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
) {
    while let Some((address, first)) = queued.recv().await {
        let mut size = first.bytes();
        let mut batch = vec![Message::clone(&first)];
        while batch.len() < BATCH_MAX && size < BATCH_BYTES_MAX {
            let Ok((_, next)) = queued.try_recv() else { break };
            size = size.saturating_add(next.bytes());
            batch.push(Message::clone(&next));
        }
        bytes.fetch_sub(size, Ordering::Relaxed);
        if let Err(error) = pool.call(&address, &batch, CALL_LIMIT).await {
            dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
            tracing::debug!(%error, ?address, count = batch.len(), "messages are lost");
        }
    }
}

/// Delivers what other members send.
pub struct Inbox(Box<dyn Fn(Message) + Send + Sync>);

impl Inbox {
    pub fn new(deliver: impl Fn(Message) + Send + Sync + 'static) -> Self {
        Self(Box::new(deliver))
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inbox")
    }
}

impl Handler<Vec<Message>, ()> for Inbox {
    async fn handle(&self, _from: Peer, messages: Vec<Message>) {
        messages.into_iter().for_each(|message| (self.0)(message));
    }
}
