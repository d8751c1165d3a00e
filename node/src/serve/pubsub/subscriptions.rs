//! What one connection is subscribed to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Kind, PubSub};
use crate::serve::registry::Client;

/// One connection's subscriptions. They end when this is dropped.
#[derive(Debug)]
pub(in crate::serve) struct Subscriptions {
    client: Arc<Client>,
    all: Arc<PubSub>,
    mine: BTreeSet<(Kind, Box<[u8]>)>,
}

impl Subscriptions {
    pub(in crate::serve) fn new(client: Arc<Client>, all: Arc<PubSub>) -> Self {
        Self { client, all, mine: BTreeSet::new() }
    }

    pub(in crate::serve) fn is_empty(&self) -> bool {
        self.mine.is_empty()
    }

    /// How many a confirmation of this kind counts: channels and patterns together, or channels of the shard.
    pub(in crate::serve) fn count(&self, kind: Kind) -> usize {
        let sharded = kind == Kind::ShardChannel;
        self.mine.iter().filter(|(kind, _)| (*kind == Kind::ShardChannel) == sharded).count()
    }

    pub(in crate::serve) fn names(&self, kind: Kind) -> Vec<Box<[u8]>> {
        self.mine.iter().filter(|(other, _)| *other == kind).map(|(_, name)| name.clone()).collect()
    }

    pub(in crate::serve) fn add(&mut self, kind: Kind, name: &[u8]) {
        if self.mine.insert((kind, name.into())) {
            self.all.add(kind, name, &self.client);
            self.show(kind);
        }
    }

    pub(in crate::serve) fn remove(&mut self, kind: Kind, name: &[u8]) {
        if self.mine.remove(&(kind, name.into())) {
            self.all.remove(kind, name, &self.client);
            self.show(kind);
        }
    }

    fn show(&self, kind: Kind) {
        let count = self.mine.iter().filter(|(other, _)| *other == kind).count();
        let shown = &self.client.shown;
        let place = match kind {
            Kind::Channel => &shown.channels,
            Kind::Pattern => &shown.patterns,
            Kind::ShardChannel => &shown.shard_channels,
        };
        place.store(count, Ordering::Relaxed);
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        for (kind, name) in std::mem::take(&mut self.mine) {
            self.all.remove(kind, &name, &self.client);
            self.show(kind);
        }
    }
}
