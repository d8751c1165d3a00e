//! Streams: entries in listpacks, each behind a first entry whose fields the others need not repeat; then what the stream remembers and
//! its groups.

use super::compact::{Item, ListpackWriter, listpack, take_array};
use super::{kind, read, write};
use crate::keyspace::{Consumer, Fields, Group, Pending, Stream};
use crate::record::{Change, write_bytes};
use crate::stream_change::{StreamChange, StreamId};

/// How many entries one listpack takes (`stream-node-max-entries`).
const ENTRIES_PER_NODE: usize = 100;
const DELETED: i64 = 1;
const SAME_FIELDS: i64 = 2;
/// How a group says that it does not know how many entries it has read.
const UNKNOWN: u64 = u64::MAX;

pub(super) fn write(stream: &Stream, out: &mut Vec<u8>) {
    let entries: Vec<(StreamId, Fields<'_>)> = stream.range(StreamId::MIN, StreamId::MAX).collect();
    let nodes = entries.chunks(ENTRIES_PER_NODE);
    write::length(nodes.len() as u64, out);
    for node in nodes {
        let Some((first_id, first)) = node.first() else { continue };
        let mut key = Vec::with_capacity(16);
        write_id(*first_id, &mut key);
        write::string(&key, out);
        write::string(&write_node(*first_id, first, node), out);
    }
    let &Stream { last_id, added, deleted_max, .. } = stream;
    write::length(stream.len() as u64, out);
    let first_id = stream.first_id().unwrap_or(StreamId::MIN);
    for number in [last_id.ms, last_id.seq, first_id.ms, first_id.seq, deleted_max.ms, deleted_max.seq, added] {
        write::length(number, out);
    }
    write::length(stream.groups().len() as u64, out);
    for (name, group) in stream.groups() {
        write_group(name, group, out);
    }
}

fn write_node(first_id: StreamId, first: &Fields<'_>, entries: &[(StreamId, Fields<'_>)]) -> Vec<u8> {
    let names = |fields: &Fields<'_>| fields.clone().step_by(2).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let shared = names(first);
    let count = |len: usize| i64::try_from(len).unwrap_or(i64::MAX);
    let mut node = ListpackWriter::new();
    node.push_int(count(entries.len()));
    node.push_int(0);
    node.push_int(count(shared.len()));
    shared.iter().for_each(|name| node.push(name));
    node.push_int(0);
    for (id, fields) in entries {
        let same = fields.clone().step_by(2).eq(shared.iter().map(Vec::as_slice));
        node.push_int(if same { SAME_FIELDS } else { 0 });
        // Ids are written as what they are ahead of the first one; sequences may lie before.
        node.push_int(id.ms.wrapping_sub(first_id.ms).cast_signed());
        node.push_int(id.seq.wrapping_sub(first_id.seq).cast_signed());
        let words = fields.clone().count();
        if same {
            fields.clone().skip(1).step_by(2).for_each(|value| node.push(value));
            node.push_int(count(words / 2 + 3));
        } else {
            node.push_int(count(words / 2));
            fields.clone().for_each(|word| node.push(word));
            node.push_int(count(words + 4));
        }
    }
    node.finish()
}

fn write_group(name: &[u8], group: &Group, out: &mut Vec<u8>) {
    let Group { last_id, read, pending, consumers } = group;
    write::string(name, out);
    for number in [last_id.ms, last_id.seq, read.unwrap_or(UNKNOWN)] {
        write::length(number, out);
    }
    write::length(pending.len() as u64, out);
    for (id, Pending { consumer: _, delivered_ms, deliveries }) in pending {
        write_id(*id, out);
        out.extend_from_slice(&delivered_ms.to_le_bytes());
        write::length(*deliveries, out);
    }
    write::length(consumers.len() as u64, out);
    for (name, Consumer { seen_ms, active_ms, pending }) in consumers {
        write::string(name, out);
        out.extend_from_slice(&seen_ms.to_le_bytes());
        out.extend_from_slice(&active_ms.map_or(-1, u64::cast_signed).to_le_bytes());
        write::length(pending.len() as u64, out);
        pending.iter().for_each(|id| write_id(*id, out));
    }
}

fn write_id(id: StreamId, out: &mut Vec<u8>) {
    out.extend_from_slice(&id.ms.to_be_bytes());
    out.extend_from_slice(&id.seq.to_be_bytes());
}

pub(super) fn read(kind: u8, rest: &mut &[u8], visit: &mut dyn FnMut(Change<'_>)) -> Option<()> {
    let mut visit = |change: StreamChange<'_>| visit(Change::Stream(change));
    let (mut found, mut last) = (0u64, None);
    for _ in 0..read::length(rest)? {
        let key = read::string(rest)?;
        let first_id = read_id(&mut key.as_slice())?;
        let node = read::string(rest)?;
        read_node(first_id, &listpack(&node)?, &mut |id, fields| {
            // In order, and each once.
            if last.is_some_and(|last| id <= last) {
                return None;
            }
            (found, last) = (found + 1, Some(id));
            visit(StreamChange::Add { id, fields });
            Some(())
        })?;
    }
    let len = read::length(rest)?;
    let last_id = read_lengths_id(rest)?;
    let (deleted_max, added) = if kind == kind::STREAM_LISTPACKS {
        (StreamId::MIN, len)
    } else {
        let _first_id = read_lengths_id(rest)?;
        (read_lengths_id(rest)?, read::length(rest)?)
    };
    if len != found || last.is_some_and(|last| last > last_id) {
        return None;
    }
    visit(StreamChange::Meta { last_id, added, deleted_max });
    for _ in 0..read::length(rest)? {
        read_group(kind, rest, &mut visit)?;
    }
    Some(())
}

/// The entries of one listpack.
fn read_node(
    first_id: StreamId,
    items: &[Item<'_>],
    visit: &mut dyn FnMut(StreamId, &[u8]) -> Option<()>,
) -> Option<()> {
    let mut items = items.iter();
    let int = |items: &mut std::slice::Iter<'_, Item<'_>>| items.next()?.int();
    let (_count, _deleted) = (int(&mut items)?, int(&mut items)?);
    let shared_count = usize::try_from(int(&mut items)?).ok()?;
    let shared: Vec<&Item<'_>> = items.by_ref().take(shared_count).collect();
    if shared.len() != shared_count || int(&mut items)? != 0 {
        return None;
    }
    let mut fields = Vec::new();
    while let Some(flags) = items.next() {
        let flags = flags.int()?;
        let (ms, seq) = (int(&mut items)?, int(&mut items)?);
        let id = StreamId {
            ms: first_id.ms.wrapping_add(ms.cast_unsigned()),
            seq: first_id.seq.wrapping_add(seq.cast_unsigned()),
        };
        fields.clear();
        if flags & SAME_FIELDS != 0 {
            for name in &shared {
                name.with_text(|name| write_bytes(name, &mut fields));
                items.next()?.with_text(|value| write_bytes(value, &mut fields));
            }
        } else {
            for _ in 0..int(&mut items)?.checked_mul(2)? {
                items.next()?.with_text(|word| write_bytes(word, &mut fields));
            }
        }
        // How many items the entry had, for whoever reads backwards.
        int(&mut items)?;
        if flags & DELETED == 0 {
            visit(id, &fields)?;
        }
    }
    Some(())
}

fn read_group(kind: u8, rest: &mut &[u8], visit: &mut impl FnMut(StreamChange<'_>)) -> Option<()> {
    let name = read::string(rest)?;
    let group = name.as_slice();
    let last_id = read_lengths_id(rest)?;
    let read = if kind == kind::STREAM_LISTPACKS { UNKNOWN } else { read::length(rest)? };
    visit(StreamChange::Group { group, last_id, read: Some(read).filter(|read| *read != UNKNOWN) });
    let mut pending = std::collections::BTreeMap::new();
    for _ in 0..read::length(rest)? {
        let id = read_id(rest)?;
        let delivered_ms = u64::from_le_bytes(take_array(rest)?);
        pending.insert(id, (delivered_ms, read::length(rest)?));
    }
    for _ in 0..read::length(rest)? {
        let consumer = read::string(rest)?;
        let consumer = consumer.as_slice();
        let seen_ms = u64::from_le_bytes(take_array(rest)?);
        let active_ms = match kind {
            kind::STREAM_LISTPACKS_3 => u64::try_from(i64::from_le_bytes(take_array(rest)?)).ok(),
            _ => Some(seen_ms),
        };
        visit(StreamChange::Consumer { group, consumer, seen_ms, active_ms });
        for _ in 0..read::length(rest)? {
            let id = read_id(rest)?;
            let (delivered_ms, deliveries) = pending.remove(&id)?;
            visit(StreamChange::Pending { group, consumer, id, delivered_ms, deliveries });
        }
    }
    // What is pending is pending for someone.
    pending.is_empty().then_some(())
}

fn read_id(rest: &mut &[u8]) -> Option<StreamId> {
    let ms = u64::from_be_bytes(take_array(rest)?);
    Some(StreamId { ms, seq: u64::from_be_bytes(take_array(rest)?) })
}

fn read_lengths_id(rest: &mut &[u8]) -> Option<StreamId> {
    Some(StreamId { ms: read::length(rest)?, seq: read::length(rest)? })
}
