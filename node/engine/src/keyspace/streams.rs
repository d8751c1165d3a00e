//! Streams: entries in the order of their ids, and the groups of consumers that read them.
//!
//! Everything that a stream remembers is changed through [`StreamChange`], and can be described as a series of these.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::value::digest_of;
use crate::record::take_bytes;
use crate::stream_change::{StreamChange, StreamId};

/// What an entry, a pending entry, a consumer and a group are reckoned to cost beside their bytes.
const ENTRY_OVERHEAD_BYTES: usize = 56;
const PENDING_OVERHEAD_BYTES: usize = 96;
const CONSUMER_OVERHEAD_BYTES: usize = 96;
const GROUP_OVERHEAD_BYTES: usize = 160;

#[derive(Debug, Default)]
pub(crate) struct Stream {
    entries: BTreeMap<StreamId, Box<[u8]>>,
    pub(crate) last_id: StreamId,
    /// How many entries were ever added.
    pub(crate) added: u64,
    /// The highest id that was deleted, other than by trimming.
    pub(crate) deleted_max: StreamId,
    groups: BTreeMap<Box<[u8]>, Group>,
    heap_bytes: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Group {
    /// The last entry that was delivered.
    pub(crate) last_id: StreamId,
    /// How many entries up to there were ever added, if that is known.
    pub(crate) read: Option<u64>,
    pub(crate) pending: BTreeMap<StreamId, Pending>,
    pub(crate) consumers: BTreeMap<Arc<[u8]>, Consumer>,
}

/// An entry that was delivered and not acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    pub(crate) consumer: Arc<[u8]>,
    pub(crate) delivered_ms: u64,
    pub(crate) deliveries: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Consumer {
    /// When it last asked, and when it last got something.
    pub(crate) seen_ms: u64,
    pub(crate) active_ms: Option<u64>,
    pub(crate) pending: BTreeSet<StreamId>,
}

/// The names and values of an entry, in turn.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = &'a [u8];
    fn next(&mut self) -> Option<&'a [u8]> {
        take_bytes(&mut self.0)
    }
}

impl Stream {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.heap_bytes
    }

    pub(crate) fn contains(&self, id: StreamId) -> bool {
        self.entries.contains_key(&id)
    }

    /// The entries from one id to another, both included.
    pub(crate) fn range(
        &self,
        from: StreamId,
        to: StreamId,
    ) -> impl DoubleEndedIterator<Item = (StreamId, Fields<'_>)> {
        let entries = (from <= to).then(|| self.entries.range(from..=to)).into_iter().flatten();
        entries.map(|(id, fields)| (*id, Fields(fields)))
    }

    pub(crate) fn first_id(&self) -> Option<StreamId> {
        self.entries.first_key_value().map(|(id, _)| *id)
    }

    /// The last entry that is there, which [`last_id`](Self::last_id) need not be.
    pub(crate) fn last_entry_id(&self) -> Option<StreamId> {
        self.entries.last_key_value().map(|(id, _)| *id)
    }

    pub(crate) fn groups(&self) -> impl ExactSizeIterator<Item = (&[u8], &Group)> {
        self.groups.iter().map(|(name, group)| (&**name, group))
    }

    pub(crate) fn group(&self, name: &[u8]) -> Option<&Group> {
        self.groups.get(name)
    }

    /// `None` if the change does not fit.
    pub(crate) fn apply(&mut self, change: &StreamChange<'_>) -> Option<()> {
        match *change {
            StreamChange::Add { id, fields } => {
                self.heap_bytes += fields.len() + ENTRY_OVERHEAD_BYTES;
                if let Some(old) = self.entries.insert(id, fields.into()) {
                    self.heap_bytes -= old.len() + ENTRY_OVERHEAD_BYTES;
                }
                self.last_id = self.last_id.max(id);
                self.added += 1;
            }
            StreamChange::Delete { id } => {
                let fields = self.entries.remove(&id)?;
                self.heap_bytes -= fields.len() + ENTRY_OVERHEAD_BYTES;
                self.deleted_max = self.deleted_max.max(id);
            }
            StreamChange::Trim { before } => {
                while let Some(entry) = self.entries.first_entry().filter(|entry| *entry.key() < before) {
                    self.heap_bytes -= entry.remove().len() + ENTRY_OVERHEAD_BYTES;
                }
            }
            StreamChange::Meta { last_id, added, deleted_max } => {
                (self.last_id, self.added, self.deleted_max) = (last_id, added, deleted_max);
            }
            StreamChange::Group { group, last_id, read } => {
                if !self.groups.contains_key(group) {
                    self.heap_bytes += group.len() + GROUP_OVERHEAD_BYTES;
                }
                let group = self.groups.entry(group.into()).or_default();
                (group.last_id, group.read) = (last_id, read);
            }
            StreamChange::GroupDelete { group: name } => {
                let group = self.groups.remove(name)?;
                self.heap_bytes -= name.len() + GROUP_OVERHEAD_BYTES + group.heap_bytes();
            }
            StreamChange::Consumer { group, .. }
            | StreamChange::ConsumerDelete { group, .. }
            | StreamChange::Pending { group, .. }
            | StreamChange::PendingDelete { group, .. } => {
                let group = self.groups.get_mut(group)?;
                let delta = group.apply(change)?;
                self.heap_bytes = self.heap_bytes.checked_add_signed(delta)?;
            }
        }
        Some(())
    }

    /// The changes that would make the entries from a millisecond on, and whether to stop after each.
    pub(crate) fn describe_entries(&self, from_ms: u64) -> impl Iterator<Item = (u64, StreamChange<'_>)> {
        let from = StreamId { ms: from_ms, seq: 0 };
        self.entries.range(from..).map(|(id, fields)| (id.ms, StreamChange::Add { id: *id, fields }))
    }

    /// The changes that would make all the rest, once the entries are there.
    pub(crate) fn describe_rest<'s>(&'s self, mut visit: impl FnMut(StreamChange<'s>)) {
        let Self { last_id, added, deleted_max, .. } = *self;
        visit(StreamChange::Meta { last_id, added, deleted_max });
        for (name, group) in &self.groups {
            let Group { last_id, read, pending, consumers } = group;
            visit(StreamChange::Group { group: name, last_id: *last_id, read: *read });
            for (consumer, Consumer { seen_ms, active_ms, pending: _ }) in consumers {
                visit(StreamChange::Consumer { group: name, consumer, seen_ms: *seen_ms, active_ms: *active_ms });
            }
            for (&id, Pending { consumer, delivered_ms, deliveries }) in pending {
                let (delivered_ms, deliveries) = (*delivered_ms, *deliveries);
                visit(StreamChange::Pending { group: name, consumer, id, delivered_ms, deliveries });
            }
        }
    }

    pub(crate) fn digest(&self) -> u64 {
        let mut sum = 0u64;
        for (id, fields) in &self.entries {
            sum = sum.wrapping_add(digest_of(6, &[&id.ms.to_le_bytes(), &id.seq.to_le_bytes(), fields]));
        }
        let mut text = Vec::new();
        self.describe_rest(|change| {
            text.clear();
            change.write(&mut text);
            sum = sum.wrapping_add(digest_of(7, &[&text]));
        });
        sum
    }
}

impl Group {
    fn heap_bytes(&self) -> usize {
        let consumers = self.consumers.keys().map(|name| name.len() + CONSUMER_OVERHEAD_BYTES).sum::<usize>();
        consumers + self.pending.len() * PENDING_OVERHEAD_BYTES
    }

    /// Returns by how much the group grew.
    fn apply(&mut self, change: &StreamChange<'_>) -> Option<isize> {
        let pending_bytes = PENDING_OVERHEAD_BYTES.cast_signed();
        match *change {
            StreamChange::Consumer { consumer, seen_ms, active_ms, .. } => {
                let grown = if self.consumers.contains_key(consumer) {
                    0
                } else {
                    (consumer.len() + CONSUMER_OVERHEAD_BYTES).cast_signed()
                };
                let consumer = self.consumers.entry(consumer.into()).or_default();
                (consumer.seen_ms, consumer.active_ms) = (seen_ms, active_ms);
                Some(grown)
            }
            StreamChange::ConsumerDelete { consumer: name, .. } => {
                let consumer = self.consumers.remove(name)?;
                consumer.pending.iter().for_each(|id| drop(self.pending.remove(id)));
                let gone = name.len() + CONSUMER_OVERHEAD_BYTES + consumer.pending.len() * PENDING_OVERHEAD_BYTES;
                Some(-gone.cast_signed())
            }
            StreamChange::Pending { consumer, id, delivered_ms, deliveries, .. } => {
                let (name, _) = self.consumers.get_key_value(consumer)?;
                let consumer = Arc::clone(name);
                let old =
                    self.pending.insert(id, Pending { consumer: Arc::clone(&consumer), delivered_ms, deliveries });
                if let Some(owner) = old.as_ref().and_then(|old| self.consumers.get_mut(&old.consumer)) {
                    owner.pending.remove(&id);
                }
                self.consumers.get_mut(&consumer)?.pending.insert(id);
                Some(if old.is_none() { pending_bytes } else { 0 })
            }
            StreamChange::PendingDelete { id, .. } => {
                let old = self.pending.remove(&id)?;
                self.consumers.get_mut(&old.consumer)?.pending.remove(&id);
                Some(-pending_bytes)
            }
            _ => None,
        }
    }
}
