//! Streams: entries. Groups of consumers are in `stream_groups`, XINFO is in `stream_info`.
//!
//! Where XREAD and XREADGROUP find nothing they reply null and say what BLOCK waits for.

use std::time::Duration;

use super::options::{int, is};
use super::stream_options::{AddOrTrim, Trim, id, interval_end, interval_start};
use super::{CommandError, Outcome};
use crate::engine::{Txn, Wait};
use crate::keyspace::{Fields, Key, Kind};
use crate::record::{Change, write_bytes};
use crate::resp::ReplyBuf;
use crate::stream_change::{StreamChange, StreamId};

pub(crate) fn xadd(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, rest @ ..] = args else { return Err(CommandError::Syntax) };
    let options = AddOrTrim::parse(rest, true)?;
    if options.rest.is_empty() || !options.rest.len().is_multiple_of(2) {
        return Err(CommandError::Arity("xadd"));
    }
    if options.id == super::stream_options::NewId::Given(StreamId::MIN) {
        return Err(CommandError::Other("ERR The ID specified in XADD must be greater than 0-0"));
    }
    let key = txn.key(key);
    let now_ms = txn.now.0;
    let stream = txn.stream(&key)?;
    if stream.is_none() && !options.make {
        reply.null();
        return Ok(());
    }
    let last = stream.map_or(StreamId::MIN, |stream| stream.last_id);
    if last == StreamId::MAX {
        return Err(CommandError::Other("ERR The stream has exhausted the last possible ID, unable to add more items"));
    }
    let id = options.id.resolve(last, now_ms).ok_or(CommandError::Other(
        "ERR The ID specified in XADD is equal or smaller than the target stream top item",
    ))?;
    let mut fields = Vec::with_capacity(options.rest.iter().map(|word| word.len() + 2).sum());
    options.rest.iter().for_each(|word| write_bytes(word, &mut fields));
    change(txn, &key, StreamChange::Add { id, fields: &fields });
    if let Some(by) = options.trim {
        trim(txn, &key, &by)?;
    }
    reply_id(id, reply);
    Ok(())
}

pub(crate) fn xtrim(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, rest @ ..] = args else { return Err(CommandError::Syntax) };
    let options = AddOrTrim::parse(rest, false)?;
    let key = txn.key(key);
    let gone = match options.trim {
        Some(by) => trim(txn, &key, &by)?,
        None => 0,
    };
    reply.count(gone);
    Ok(())
}

fn trim(txn: &mut Txn<'_>, key: &Key<'_>, by: &Trim) -> Result<usize, CommandError> {
    let Some((before, gone)) = txn.stream(key)?.and_then(|stream| by.plan(stream)) else { return Ok(0) };
    change(txn, key, StreamChange::Trim { before });
    Ok(gone)
}

pub(crate) fn xlen(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    reply.count(txn.stream(&key)?.map_or(0, |stream| stream.len()));
    Ok(())
}

pub(crate) fn xdel(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, ids @ ..] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    if txn.stream(&key)?.is_none() {
        reply.integer(0);
        return Ok(());
    }
    let ids: Vec<StreamId> = ids.iter().map(|text| id(text, 0)).collect::<Result<_, _>>()?;
    let mut gone = 0;
    for id in ids {
        if txn.stream(&key)?.is_some_and(|stream| stream.contains(id)) {
            change(txn, &key, StreamChange::Delete { id });
            gone += 1;
        }
    }
    reply.integer(gone);
    Ok(())
}

pub(crate) fn xsetid(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, last, options @ ..] = args else { return Err(CommandError::Syntax) };
    let last_id = id(last, 0)?;
    let (mut added, mut deleted_max, mut rest) = (None, None, options);
    loop {
        rest = match rest {
            [] => break,
            [word, value, behind @ ..] if is(word, "ENTRIESADDED") => {
                let negative = |_| CommandError::Other("ERR entries_added must be positive");
                added = Some(u64::try_from(int(value)?).map_err(negative)?);
                behind
            }
            [word, value, behind @ ..] if is(word, "MAXDELETEDID") => {
                let deleted = id(value, 0)?;
                if last_id < deleted {
                    return Err(CommandError::Other(
                        "ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id",
                    ));
                }
                deleted_max = Some(deleted);
                behind
            }
            _ => return Err(CommandError::Syntax),
        }
    }
    let key = txn.key(key);
    let stream = txn.stream(&key)?.ok_or(CommandError::NoSuchKey)?;
    if last_id < stream.deleted_max {
        return Err(CommandError::Other("ERR The ID specified in XSETID is smaller than current max_deleted_entry_id"));
    }
    if stream.last_entry_id().is_some_and(|entry| last_id < entry) {
        return Err(CommandError::Other("ERR The ID specified in XSETID is smaller than the target stream top item"));
    }
    if added.is_some_and(|added| stream.len() as u64 > added) {
        return Err(CommandError::Other(
            "ERR The entries_added specified in XSETID is smaller than the target stream length",
        ));
    }
    let (added, kept) = (added.unwrap_or(stream.added), stream.deleted_max);
    let deleted_max = deleted_max.filter(|deleted| *deleted != StreamId::MIN).unwrap_or(kept);
    change(txn, &key, StreamChange::Meta { last_id, added, deleted_max });
    reply.ok();
    Ok(())
}

pub(crate) fn xrange(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    range(txn, args, false, reply)
}

pub(crate) fn xrevrange(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    range(txn, args, true, reply)
}

fn range(txn: &mut Txn<'_>, args: &[&[u8]], reverse: bool, reply: &mut ReplyBuf) -> Outcome {
    let [_, key, first, last, options @ ..] = args else { return Err(CommandError::Syntax) };
    let (from, to) = if reverse { (last, first) } else { (first, last) };
    let (from, to) = (interval_start(from)?, interval_end(to)?);
    let (mut count, mut rest) = (usize::MAX, options);
    loop {
        rest = match rest {
            [] => break,
            [word, number, behind @ ..] if is(word, "COUNT") => {
                count = usize::try_from(int(number)?).unwrap_or(0);
                behind
            }
            _ => return Err(CommandError::Syntax),
        }
    }
    let key = txn.key(key);
    let Some(stream) = txn.stream(&key)? else {
        reply.array(0);
        return Ok(());
    };
    if count == 0 {
        reply.null_array();
        return Ok(());
    }
    let entries = stream.range(from, to);
    let entries: Vec<_> = if reverse { entries.rev().take(count).collect() } else { entries.take(count).collect() };
    reply.array(entries.len());
    entries.into_iter().for_each(|(id, fields)| reply_entry(id, fields, reply));
    Ok(())
}

/// What XREAD and XREADGROUP have in common.
#[derive(Debug)]
pub(super) struct ReadRequest<'a, 'b> {
    pub(super) count: usize,
    /// How long to wait where there is nothing yet: None for not at all, no duration for ever.
    block: Option<Option<Duration>>,
    /// Group and consumer.
    pub(super) group: Option<(&'a [u8], &'a [u8])>,
    pub(super) noack: bool,
    pub(super) keys: &'b [&'a [u8]],
    /// One a key.
    pub(super) ids: &'b [&'a [u8]],
}

impl<'a, 'b> ReadRequest<'a, 'b> {
    pub(super) fn parse(args: &'b [&'a [u8]], of_group: bool) -> Result<Self, CommandError> {
        let (mut count, mut block, mut group, mut noack) = (usize::MAX, None, None, false);
        let mut rest = args.get(1..).unwrap_or_default();
        let streams = loop {
            rest = match rest {
                [word, ms, behind @ ..] if is(word, "BLOCK") => {
                    let wrong = CommandError::Other("ERR timeout is not an integer or out of range");
                    let Ok(ms) = u64::try_from(int(ms).map_err(|_| wrong)?) else {
                        return Err(CommandError::Other("ERR timeout is negative"));
                    };
                    block = Some((ms > 0).then(|| Duration::from_millis(ms)));
                    behind
                }
                [word, number, behind @ ..] if is(word, "COUNT") => {
                    count = usize::try_from(int(number)?).ok().filter(|count| *count > 0).unwrap_or(usize::MAX);
                    behind
                }
                [word, behind @ ..] if is(word, "STREAMS") && !behind.is_empty() => break behind,
                [word, group_name, consumer, behind @ ..] if is(word, "GROUP") => {
                    if !of_group {
                        return Err(CommandError::Other(
                            "ERR The GROUP option is only supported by XREADGROUP. You called XREAD instead.",
                        ));
                    }
                    group = Some((*group_name, *consumer));
                    behind
                }
                [word, behind @ ..] if is(word, "NOACK") => {
                    if !of_group {
                        return Err(CommandError::Other(
                            "ERR The NOACK option is only supported by XREADGROUP. You called XREAD instead.",
                        ));
                    }
                    noack = true;
                    behind
                }
                _ => return Err(CommandError::Syntax),
            };
        };
        if !streams.len().is_multiple_of(2) {
            return Err(CommandError::Other(if of_group {
                "ERR Unbalanced 'xreadgroup' list of streams: for each stream key an ID or '>' must be specified."
            } else {
                "ERR Unbalanced 'xread' list of streams: for each stream key an ID or '$' must be specified."
            }));
        }
        if of_group && group.is_none() {
            return Err(CommandError::Other("ERR Missing GROUP option for XREADGROUP"));
        }
        let (keys, ids) = streams.split_at_checked(streams.len() / 2).ok_or(CommandError::Syntax)?;
        Ok(Self { count, block, group, noack, keys, ids })
    }

    /// What to wait for where there is nothing yet. `ids` stand for those of the request.
    pub(super) fn wait(&self, args: &[&[u8]], ids: Vec<Vec<u8>>) -> Option<Wait> {
        let end = args.len() - self.ids.len();
        let before = args.get(..end).unwrap_or_default().iter().map(|arg| arg.to_vec());
        Some(Wait {
            kind: Kind::Stream,
            keys: end - self.keys.len()..end,
            timeout: self.block?,
            instead: Some(before.chain(ids).collect()),
        })
    }
}

pub(crate) fn xread(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let request = ReadRequest::parse(args, false)?;
    let mut from = Vec::with_capacity(request.keys.len());
    // The same ids, where `$` is the end as it is now.
    let mut ids: Vec<Vec<u8>> = Vec::new();
    for (key, text) in request.keys.iter().zip(request.ids) {
        let key = txn.key(key);
        let stream = txn.stream(&key)?;
        let behind = match *text {
            b"$" => {
                let last = stream.map_or(StreamId::MIN, |stream| stream.last_id);
                ids.push(last.to_string().into());
                last.next()
            }
            // The last entry that there is.
            b"+" => Some(stream.and_then(|stream| stream.last_entry_id()).unwrap_or(StreamId::MIN)),
            b">" => {
                return Err(CommandError::Other(
                    "ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> option.",
                ));
            }
            text => id(text, 0)?.next(),
        };
        if *text != b"$" {
            ids.push(text.to_vec());
        }
        let is_served = stream.and_then(|stream| stream.last_entry_id());
        from.push(behind.filter(|behind| is_served.is_some_and(|last| last >= *behind)));
    }
    let served = from.iter().flatten().count();
    if served == 0 {
        reply.null_array();
        txn.wait = request.wait(args, ids);
        return Ok(());
    }
    begin_streams(served, reply);
    for (name, from) in request.keys.iter().zip(from) {
        let Some(from) = from else { continue };
        let key = txn.key(name);
        let stream = txn.stream(&key)?;
        let entries: Vec<_> =
            stream.into_iter().flat_map(|stream| stream.range(from, StreamId::MAX)).take(request.count).collect();
        begin_stream(name, reply);
        reply.array(entries.len());
        entries.into_iter().for_each(|(id, fields)| reply_entry(id, fields, reply));
    }
    Ok(())
}

/// Begins the reply of XREAD: a map from streams to entries in RESP3, pairs in RESP2.
pub(super) fn begin_streams(count: usize, reply: &mut ReplyBuf) {
    match reply.protocol() {
        crate::resp::Protocol::Resp2 => reply.array(count),
        crate::resp::Protocol::Resp3 => reply.map(count),
    }
}

/// Begins one stream of it; its entries follow as an array.
pub(super) fn begin_stream(name: &[u8], reply: &mut ReplyBuf) {
    if reply.protocol() == crate::resp::Protocol::Resp2 {
        reply.array(2);
    }
    reply.bulk(name);
}

pub(super) fn reply_id(id: StreamId, reply: &mut ReplyBuf) {
    reply.bulk(id.to_string().as_bytes());
}

pub(super) fn reply_entry(id: StreamId, fields: Fields<'_>, reply: &mut ReplyBuf) {
    reply.array(2);
    reply_id(id, reply);
    reply.array(fields.clone().count());
    fields.for_each(|word| reply.bulk(word));
}

pub(super) fn change(txn: &mut Txn<'_>, key: &Key<'_>, change: StreamChange<'_>) {
    txn.apply(key, &Change::Stream(change));
}
