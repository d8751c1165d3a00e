//! Publish and subscribe: who listens to what on this member, and how a message reaches them.
//!
//! Owns the subscriptions of all connections ([`PubSub`]) and each connection's own list of them ([`Subscriptions`]), which ends with it. A
//! message reaches the subscribers on this member at once, and those of other members through the ring's links (`crate::bus`): at
//! most once, and without a promise, as in Redis Cluster.

mod subscriptions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;
use ringmaster_engine::matches_glob;

pub(super) use subscriptions::Subscriptions;

use super::mail::{Message, encode};
use super::registry::Client;

/// What a connection can subscribe to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Channel,
    Pattern,
    /// A channel of one slot: its messages stay within the shard.
    ShardChannel,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::ShardChannel];

    /// What confirms a subscription, and its end.
    pub(super) fn confirmations(self) -> (&'static str, &'static str) {
        match self {
            Self::Channel => ("subscribe", "unsubscribe"),
            Self::Pattern => ("psubscribe", "punsubscribe"),
            Self::ShardChannel => ("ssubscribe", "sunsubscribe"),
        }
    }
}

/// Subscribers by their connection's number.
type Subscribers = BTreeMap<u64, Arc<Client>>;
type Topics = RwLock<BTreeMap<Box<[u8]>, Subscribers>>;

/// Who is subscribed to what on this member.
#[derive(Debug)]
pub(super) struct PubSub {
    channels: Topics,
    patterns: Topics,
    shard_channels: Topics,
    /// A subscriber for whom more than this waits is closed.
    backlog_bytes_max: AtomicUsize,
}

impl Default for PubSub {
    fn default() -> Self {
        Self {
            channels: Topics::default(),
            patterns: Topics::default(),
            shard_channels: Topics::default(),
            backlog_bytes_max: AtomicUsize::new(usize::MAX),
        }
    }
}

impl PubSub {
    pub(super) fn limit(&self, backlog_bytes_max: usize) {
        self.backlog_bytes_max.store(backlog_bytes_max, Ordering::Relaxed);
    }

    pub(super) fn backlog_bytes_max(&self) -> usize {
        self.backlog_bytes_max.load(Ordering::Relaxed)
    }

    /// Sends a message to the subscribers on this member. Returns to how many: who listens in two ways is counted twice and gets it twice.
    pub(super) fn publish(&self, channel: &[u8], payload: &[u8]) -> usize {
        let mut reached = self.send_to(&self.channels, channel, || {
            encode(|push| {
                push.push(3);
                [b"message", channel, payload].iter().for_each(|part| push.bulk(part));
            })
        });
        let patterns = self.patterns.read();
        for (pattern, subscribers) in patterns.iter().filter(|(pattern, _)| matches_glob(pattern, channel)) {
            let message = encode(|push| {
                push.push(4);
                [b"pmessage", pattern.as_ref(), channel, payload].iter().for_each(|part| push.bulk(part));
            });
            reached += self.send_all(subscribers, &message);
        }
        reached
    }

    /// The same for a channel of a shard.
    pub(super) fn publish_in_shard(&self, channel: &[u8], payload: &[u8]) -> usize {
        self.send_to(&self.shard_channels, channel, || {
            encode(|push| {
                push.push(3);
                [b"smessage", channel, payload].iter().for_each(|part| push.bulk(part));
            })
        })
    }

    /// Names with at least one subscriber, which match a pattern if there is one.
    pub(super) fn names(&self, kind: Kind, pattern: Option<&[u8]>) -> Vec<Box<[u8]>> {
        let topics = self.topics(kind).read();
        topics.keys().filter(|name| pattern.is_none_or(|pattern| matches_glob(pattern, name))).cloned().collect()
    }

    pub(super) fn count(&self, kind: Kind) -> usize {
        self.topics(kind).read().len()
    }

    pub(super) fn subscribers(&self, kind: Kind, name: &[u8]) -> usize {
        self.topics(kind).read().get(name).map_or(0, BTreeMap::len)
    }

    fn send_to(&self, topics: &Topics, name: &[u8], message: impl FnOnce() -> Message) -> usize {
        let topics = topics.read();
        match topics.get(name) {
            None => 0,
            Some(subscribers) => self.send_all(subscribers, &message()),
        }
    }

    fn send_all(&self, subscribers: &Subscribers, message: &Message) -> usize {
        let bytes_max = self.backlog_bytes_max();
        subscribers.values().filter(|client| client.send(message, bytes_max)).count()
    }

    fn add(&self, kind: Kind, name: &[u8], client: &Arc<Client>) {
        let mut topics = self.topics(kind).write();
        topics.entry(name.into()).or_default().insert(client.id, Arc::clone(client));
    }

    /// Afterwards nothing more of this name is sent to the client.
    fn remove(&self, kind: Kind, name: &[u8], client: &Client) {
        let mut topics = self.topics(kind).write();
        let Some(subscribers) = topics.get_mut(name) else { return };
        subscribers.remove(&client.id);
        if subscribers.is_empty() {
            topics.remove(name);
        }
    }

    fn topics(&self, kind: Kind) -> &Topics {
        match kind {
            Kind::Channel => &self.channels,
            Kind::Pattern => &self.patterns,
            Kind::ShardChannel => &self.shard_channels,
        }
    }
}
