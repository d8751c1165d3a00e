//! Streams: XINFO.

use super::options::{int, is, reply_help, unknown_subcommand};
use super::streams::{reply_entry, reply_id};
use super::{CommandError, Outcome};
use crate::engine::Txn;
use crate::keyspace::{Consumer, Group, Pending, Stream};
use crate::resp::{ReplyBuf, text_of};
use crate::stream_change::StreamId;

/// The field's tools expect a radix tree whose leaves hold so many entries; its size is what one would have.
const ENTRIES_PER_LEAF: usize = 100;
/// How many entries FULL shows unless told.
const FULL_COUNT_DEFAULT: usize = 10;

pub(crate) fn xinfo(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, subcommand, rest @ ..] = args else { return Err(CommandError::Syntax) };
    let now = txn.now.0;
    match () {
        () if is(subcommand, "HELP") => {
            if !rest.is_empty() {
                return Err(CommandError::Arity("xinfo|help"));
            }
            reply_help("XINFO", &XINFO_HELP, reply);
        }
        () if is(subcommand, "STREAM") => {
            let [key, options @ ..] = rest else { return Err(CommandError::Arity("xinfo|stream")) };
            let key = txn.key(key);
            let stream = txn.stream(&key)?.ok_or(CommandError::NoSuchKey)?;
            match options {
                [] => brief(stream, reply),
                [word] if is(word, "FULL") => full(stream, FULL_COUNT_DEFAULT, reply),
                [word, count, number] if is(word, "FULL") && is(count, "COUNT") => {
                    let count = match int(number)? {
                        0 => usize::MAX,
                        count => usize::try_from(count).unwrap_or(FULL_COUNT_DEFAULT),
                    };
                    full(stream, count, reply);
                }
                _ => {
                    return Err(CommandError::Said(
                        "ERR unknown subcommand or wrong number of arguments for 'STREAM'. Try XINFO HELP.".to_owned(),
                    ));
                }
            }
        }
        () if is(subcommand, "GROUPS") => {
            let [key] = rest else { return Err(CommandError::Arity("xinfo|groups")) };
            let key = txn.key(key);
            groups(txn.stream(&key)?.ok_or(CommandError::NoSuchKey)?, reply);
        }
        () if is(subcommand, "CONSUMERS") => {
            let [key, name] = rest else { return Err(CommandError::Arity("xinfo|consumers")) };
            let key = txn.key(key);
            let stream = txn.stream(&key)?.ok_or(CommandError::NoSuchKey)?;
            let missing = || {
                let (key, name) = (text_of(key.bytes), text_of(name));
                CommandError::Said(format!("NOGROUP No such consumer group '{name}' for key name '{key}'"))
            };
            consumers(stream.group(name).ok_or_else(missing)?, now, reply);
        }
        () => return Err(unknown_subcommand(subcommand, "XINFO")),
    }
    Ok(())
}

const XINFO_HELP: [&str; 6] = [
    "CONSUMERS <key> <groupname>",
    "    Show consumers of <groupname>.",
    "GROUPS <key>",
    "    Show the stream consumer groups.",
    "STREAM <key> [FULL [COUNT <count>]]",
    "    Show information about the stream.",
];

fn unsigned(value: u64, reply: &mut ReplyBuf) {
    reply.integer(i64::try_from(value).unwrap_or(i64::MAX));
}

fn count_or_null(value: Option<u64>, reply: &mut ReplyBuf) {
    match value {
        Some(value) => unsigned(value, reply),
        None => reply.null(),
    }
}

/// The seven fields that both forms of XINFO STREAM begin with.
fn head(stream: &Stream, reply: &mut ReplyBuf) {
    let leaves = stream.len().div_ceil(ENTRIES_PER_LEAF);
    reply.bulk(b"length");
    reply.count(stream.len());
    reply.bulk(b"radix-tree-keys");
    reply.count(leaves);
    reply.bulk(b"radix-tree-nodes");
    reply.count(leaves + 1);
    reply.bulk(b"last-generated-id");
    reply_id(stream.last_id, reply);
    reply.bulk(b"max-deleted-entry-id");
    reply_id(stream.deleted_max, reply);
    reply.bulk(b"entries-added");
    unsigned(stream.added, reply);
    reply.bulk(b"recorded-first-entry-id");
    reply_id(stream.first_id().unwrap_or(StreamId::MIN), reply);
}

fn brief(stream: &Stream, reply: &mut ReplyBuf) {
    reply.map(10);
    head(stream, reply);
    reply.bulk(b"groups");
    reply.count(stream.groups().len());
    let mut entries = stream.range(StreamId::MIN, StreamId::MAX);
    let first = entries.next();
    let last = stream.range(StreamId::MIN, StreamId::MAX).next_back();
    for (name, entry) in [("first-entry", first), ("last-entry", last)] {
        reply.bulk(name.as_bytes());
        match entry {
            Some((id, fields)) => reply_entry(id, fields, reply),
            None => reply.null(),
        }
    }
}

fn full(stream: &Stream, count: usize, reply: &mut ReplyBuf) {
    reply.map(9);
    head(stream, reply);
    reply.bulk(b"entries");
    let entries: Vec<_> = stream.range(StreamId::MIN, StreamId::MAX).take(count).collect();
    reply.array(entries.len());
    entries.into_iter().for_each(|(id, fields)| reply_entry(id, fields, reply));
    reply.bulk(b"groups");
    reply.array(stream.groups().len());
    for (name, group) in stream.groups() {
        let Group { last_id, read, pending, consumers } = group;
        reply.map(7);
        reply.bulk(b"name");
        reply.bulk(name);
        reply.bulk(b"last-delivered-id");
        reply_id(*last_id, reply);
        reply.bulk(b"entries-read");
        count_or_null(*read, reply);
        reply.bulk(b"lag");
        match stream.lag(group) {
            Some(lag) => reply.integer(lag),
            None => reply.null(),
        }
        reply.bulk(b"pel-count");
        reply.count(pending.len());
        reply.bulk(b"pending");
        reply.array(pending.len().min(count));
        for (id, Pending { consumer, delivered_ms, deliveries }) in pending.iter().take(count) {
            reply.array(4);
            reply_id(*id, reply);
            reply.bulk(consumer);
            unsigned(*delivered_ms, reply);
            unsigned(*deliveries, reply);
        }
        reply.bulk(b"consumers");
        reply.array(consumers.len());
        for (name, consumer) in consumers {
            full_consumer(name, consumer, group, count, reply);
        }
    }
}

fn full_consumer(name: &[u8], consumer: &Consumer, group: &Group, count: usize, reply: &mut ReplyBuf) {
    let Consumer { seen_ms, active_ms, pending } = consumer;
    reply.map(5);
    reply.bulk(b"name");
    reply.bulk(name);
    reply.bulk(b"seen-time");
    unsigned(*seen_ms, reply);
    reply.bulk(b"active-time");
    reply.integer(active_ms.map_or(-1, |ms| i64::try_from(ms).unwrap_or(i64::MAX)));
    reply.bulk(b"pel-count");
    reply.count(pending.len());
    reply.bulk(b"pending");
    reply.array(pending.len().min(count));
    for id in pending.iter().take(count) {
        let (delivered_ms, deliveries) =
            group.pending.get(id).map_or((0, 0), |pending| (pending.delivered_ms, pending.deliveries));
        reply.array(3);
        reply_id(*id, reply);
        unsigned(delivered_ms, reply);
        unsigned(deliveries, reply);
    }
}

fn groups(stream: &Stream, reply: &mut ReplyBuf) {
    reply.array(stream.groups().len());
    for (name, group) in stream.groups() {
        reply.map(6);
        reply.bulk(b"name");
        reply.bulk(name);
        reply.bulk(b"consumers");
        reply.count(group.consumers.len());
        reply.bulk(b"pending");
        reply.count(group.pending.len());
        reply.bulk(b"last-delivered-id");
        reply_id(group.last_id, reply);
        reply.bulk(b"entries-read");
        count_or_null(group.read, reply);
        reply.bulk(b"lag");
        match stream.lag(group) {
            Some(lag) => reply.integer(lag),
            None => reply.null(),
        }
    }
}

fn consumers(group: &Group, now: u64, reply: &mut ReplyBuf) {
    reply.array(group.consumers.len());
    for (name, consumer) in &group.consumers {
        reply.map(4);
        reply.bulk(b"name");
        reply.bulk(name);
        reply.bulk(b"pending");
        reply.count(consumer.pending.len());
        reply.bulk(b"idle");
        unsigned(now.saturating_sub(consumer.seen_ms), reply);
        reply.bulk(b"inactive");
        let inactive = consumer.active_ms.map(|active| now.saturating_sub(active));
        reply.integer(inactive.map_or(-1, |ms| i64::try_from(ms).unwrap_or(i64::MAX)));
    }
}
