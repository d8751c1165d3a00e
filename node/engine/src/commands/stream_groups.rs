//! Streams: groups of consumers, what is pending for them, and who takes it over.

use super::options::{int, is, reply_help, unknown_subcommand};
use super::stream_options::{id, interval_end, interval_start};
use super::streams::{ReadRequest, begin_stream, begin_streams, change, reply_entry, reply_id};
use super::{CommandError, Outcome};
use crate::engine::Txn;
use crate::keyspace::{Group, Key, Pending, Stream};
use crate::resp::{ReplyBuf, text_of};
use crate::stream_change::{StreamChange, StreamId};

impl Stream {
    /// Whether something was deleted at an id or behind it, so that entries cannot be counted from their number ever added.
    fn has_tombstone_from(&self, from: StreamId) -> bool {
        self.len() > 0 && self.deleted_max != StreamId::MIN && from <= self.deleted_max
    }

    /// How many entries up to an id were ever added, where that can be told.
    fn added_up_to(&self, id: StreamId) -> Option<u64> {
        let len = self.len() as u64;
        match self.first_id() {
            _ if self.added == 0 => Some(0),
            None if id <= self.last_id => Some(self.added),
            _ if id != StreamId::MIN && id < self.deleted_max => None,
            _ if id == self.last_id => Some(self.added),
            _ if id > self.last_id => None,
            // Nothing is missing among the entries that are there.
            Some(first) if self.deleted_max == StreamId::MIN || self.deleted_max < first => match id.cmp(&first) {
                std::cmp::Ordering::Less => Some(self.added - len),
                std::cmp::Ordering::Equal => Some(self.added - len + 1),
                std::cmp::Ordering::Greater => None,
            },
            _ => None,
        }
    }

    /// How many entries a group has still to read, where that can be told.
    pub(super) fn lag(&self, group: &Group) -> Option<i64> {
        if self.added == 0 {
            return Some(0);
        }
        let read = match group.read {
            Some(read) if !self.has_tombstone_from(group.last_id) => Some(read),
            _ => self.added_up_to(group.last_id),
        };
        // It may be told to have read more than there ever was.
        read.map(|read| self.added.cast_signed().saturating_sub(read.cast_signed()))
    }
}

/// The group of a command, or the error that says which is missing.
fn group_of<'t>(
    txn: &'t mut Txn<'_>,
    key: &Key<'_>,
    name: &[u8],
    suffix: &'static str,
) -> Result<(&'t Stream, &'t Group), CommandError> {
    let missing = || {
        let (key, name) = (text_of(key.bytes), text_of(name));
        CommandError::Said(format!("NOGROUP No such key '{key}' or consumer group '{name}'{suffix}"))
    };
    let stream = txn.stream(key)?.ok_or_else(missing)?;
    let group = stream.group(name).ok_or_else(missing)?;
    Ok((stream, group))
}

/// Notes that a consumer asked, and makes it if it is new.
fn see_consumer(
    txn: &mut Txn<'_>,
    key: &Key<'_>,
    group: &[u8],
    consumer: &[u8],
    is_active: bool,
) -> Result<(), CommandError> {
    let now = txn.now.0;
    let known = txn.stream(key)?.and_then(|stream| stream.group(group)?.consumers.get(consumer));
    let active_ms = if is_active { Some(now) } else { known.and_then(|consumer| consumer.active_ms) };
    change(txn, key, StreamChange::Consumer { group, consumer, seen_ms: now, active_ms });
    Ok(())
}

pub(crate) fn xgroup(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, subcommand, rest @ ..] = args else { return Err(CommandError::Syntax) };
    let (arity, enough) = match () {
        () if is(subcommand, "HELP") => {
            if !rest.is_empty() {
                return Err(CommandError::Arity("xgroup|help"));
            }
            reply_help("XGROUP", &XGROUP_HELP, reply);
            return Ok(());
        }
        () if is(subcommand, "CREATE") => ("xgroup|create", rest.len() >= 3),
        () if is(subcommand, "SETID") => ("xgroup|setid", rest.len() >= 3),
        () if is(subcommand, "DESTROY") => ("xgroup|destroy", rest.len() == 2),
        () if is(subcommand, "CREATECONSUMER") => ("xgroup|createconsumer", rest.len() == 3),
        () if is(subcommand, "DELCONSUMER") => ("xgroup|delconsumer", rest.len() == 3),
        () => return Err(unknown_subcommand(subcommand, "XGROUP")),
    };
    let [key, name, rest @ ..] = rest else { return Err(CommandError::Arity(arity)) };
    if !enough {
        return Err(CommandError::Arity(arity));
    }
    let is_create = arity == "xgroup|create";
    let options = match rest {
        [_, options @ ..] if is_create || arity == "xgroup|setid" => {
            GroupOptions::parse(options, is_create, subcommand)?
        }
        _ => GroupOptions::default(),
    };
    let key = txn.key(key);
    let stream = txn.stream(&key)?;
    let (exists, last_id) = (stream.is_some(), stream.map_or(StreamId::MIN, |stream| stream.last_id));
    let group = stream.and_then(|stream| stream.group(name));
    if !exists && !options.make {
        return Err(CommandError::Other(
            "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the \
             MKSTREAM option to create an empty stream automatically.",
        ));
    }
    if group.is_none() && !is_create && arity != "xgroup|destroy" {
        let (key, name) = (text_of(key.bytes), text_of(name));
        return Err(CommandError::Said(format!("NOGROUP No such consumer group '{name}' for key name '{key}'")));
    }
    let is_there = group.is_some();
    let consumer = rest.first().copied().unwrap_or_default();
    let known = group.and_then(|group| group.consumers.get(consumer)).map(|consumer| consumer.pending.len());
    match arity {
        "xgroup|create" | "xgroup|setid" => {
            let last_id = if consumer == b"$" { last_id } else { id(consumer, 0)? };
            if is_create && is_there {
                return Err(CommandError::Other("BUSYGROUP Consumer Group name already exists"));
            }
            change(txn, &key, StreamChange::Group { group: name, last_id, read: options.read });
            reply.ok();
        }
        "xgroup|destroy" => {
            if is_there {
                change(txn, &key, StreamChange::GroupDelete { group: name });
            }
            reply.integer(i64::from(is_there));
        }
        "xgroup|createconsumer" => {
            if known.is_none() {
                see_consumer(txn, &key, name, consumer, false)?;
            }
            reply.integer(i64::from(known.is_none()));
        }
        _ => {
            if known.is_some() {
                change(txn, &key, StreamChange::ConsumerDelete { group: name, consumer });
            }
            reply.count(known.unwrap_or(0));
        }
    }
    Ok(())
}

#[derive(Debug, Default)]
struct GroupOptions {
    make: bool,
    read: Option<u64>,
}

impl GroupOptions {
    fn parse(mut rest: &[&[u8]], is_create: bool, subcommand: &[u8]) -> Result<Self, CommandError> {
        let mut options = Self::default();
        loop {
            rest = match rest {
                [] => return Ok(options),
                [word, behind @ ..] if is_create && is(word, "MKSTREAM") => {
                    options.make = true;
                    behind
                }
                [word, number, behind @ ..] if is(word, "ENTRIESREAD") => {
                    options.read = match int(number)? {
                        -1 => None,
                        read => Some(
                            u64::try_from(read)
                                .map_err(|_| CommandError::Other("ERR value for ENTRIESREAD must be positive or -1"))?,
                        ),
                    };
                    behind
                }
                _ => {
                    let subcommand = text_of(subcommand);
                    return Err(CommandError::Said(format!(
                        "ERR unknown subcommand or wrong number of arguments for '{subcommand}'. Try XGROUP HELP."
                    )));
                }
            }
        }
    }
}

const XGROUP_HELP: [&str; 10] = [
    "CREATE <key> <groupname> <id|$> [MKSTREAM] [ENTRIESREAD entries_read]",
    "    Create a new consumer group.",
    "CREATECONSUMER <key> <groupname> <consumer>",
    "    Create a new consumer in the specified group.",
    "DELCONSUMER <key> <groupname> <consumer>",
    "    Remove the specified consumer.",
    "DESTROY <key> <groupname>",
    "    Remove the specified group.",
    "SETID <key> <groupname> <id|$> [ENTRIESREAD entries_read]",
    "    Set the current group ID and entries_read counter.",
];

/// What XREADGROUP wants of one stream.
enum Wanted {
    New,
    /// What is pending for the consumer from here on.
    History(StreamId),
}

pub(crate) fn xreadgroup(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let request = ReadRequest::parse(args, true)?;
    let (group, consumer) = request.group.ok_or(CommandError::Syntax)?;
    let mut wanted = Vec::with_capacity(request.keys.len());
    for (key, text) in request.keys.iter().zip(request.ids) {
        let key = txn.key(key);
        group_of(txn, &key, group, " in XREADGROUP with GROUP option")?;
        wanted.push(match *text {
            b">" => Wanted::New,
            b"$" => {
                return Err(CommandError::Other(
                    "ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history of this \
                     consumer by specifying a proper ID, or use the > ID to get new messages. The $ ID would just \
                     return an empty result set.",
                ));
            }
            b"+" => {
                return Err(CommandError::Other(
                    "ERR The + ID is meaningless in the context of XREADGROUP: you want to read the history of this \
                     consumer by specifying a proper ID, or use the > ID to get new messages. The + ID would just \
                     return an empty result set.",
                ));
            }
            text => Wanted::History(id(text, 0)?.next().unwrap_or(StreamId::MAX)),
        });
    }
    // How many streams have something is known at the end: one may be named twice.
    let (mut served, mut streams) = (0, ReplyBuf::new(reply.protocol()));
    for (name, wanted) in request.keys.iter().zip(wanted) {
        let key = txn.key(name);
        let (stream, found) = group_of(txn, &key, group, "")?;
        let has_new = stream.last_entry_id().is_some_and(|last| last > found.last_id);
        let is_new = matches!(wanted, Wanted::New);
        // Who acknowledges nothing does not count as active.
        see_consumer(txn, &key, group, consumer, is_new && has_new && !request.noack)?;
        if is_new && !has_new {
            continue;
        }
        served += 1;
        begin_stream(name, &mut streams);
        match wanted {
            Wanted::New => deliver(txn, &key, (group, consumer), &request, &mut streams)?,
            Wanted::History(from) => {
                deliver_again(txn, &key, (group, consumer), from, request.count, &mut streams)?;
            }
        }
    }
    if served == 0 {
        reply.null_array();
        txn.wait = request.wait(args, request.ids.iter().map(|id| id.to_vec()).collect());
    } else {
        begin_streams(served, reply);
        reply.raw(streams.as_bytes());
    }
    Ok(())
}

/// Gives a consumer what its group has not seen yet.
fn deliver(
    txn: &mut Txn<'_>,
    key: &Key<'_>,
    (name, consumer): (&[u8], &[u8]),
    request: &ReadRequest<'_, '_>,
    reply: &mut ReplyBuf,
) -> Outcome {
    let now = txn.now.0;
    let (stream, group) = group_of(txn, key, name, "")?;
    let from = group.last_id.next().unwrap_or(StreamId::MAX);
    let entries: Vec<_> = stream.range(from, StreamId::MAX).take(request.count).collect();
    let (mut last_id, mut read) = (group.last_id, group.read);
    reply.array(entries.len());
    let mut ids = Vec::with_capacity(entries.len());
    for (id, fields) in entries {
        read = match read {
            // From before the first entry on, the number that it was told says nothing.
            Some(read) if stream.first_id() <= Some(last_id) && !stream.has_tombstone_from(last_id) => Some(read + 1),
            _ if stream.added > 0 => stream.added_up_to(id),
            read => read,
        };
        last_id = id;
        ids.push(id);
        reply_entry(id, fields, reply);
    }
    change(txn, key, StreamChange::Group { group: name, last_id, read });
    if !request.noack {
        for id in ids {
            change(txn, key, StreamChange::Pending { group: name, consumer, id, delivered_ms: now, deliveries: 1 });
        }
    }
    Ok(())
}

/// Gives a consumer what it had already, and did not acknowledge. Of an entry that was deleted meanwhile it gets the id.
fn deliver_again(
    txn: &mut Txn<'_>,
    key: &Key<'_>,
    (name, consumer): (&[u8], &[u8]),
    from: StreamId,
    count: usize,
    reply: &mut ReplyBuf,
) -> Outcome {
    let now = txn.now.0;
    let (stream, group) = group_of(txn, key, name, "")?;
    let pending = group.consumers.get(consumer).map(|consumer| &consumer.pending);
    let ids: Vec<StreamId> =
        pending.into_iter().flat_map(|pending| pending.range(from..)).take(count).copied().collect();
    reply.array(ids.len());
    let mut again = Vec::with_capacity(ids.len());
    for id in ids {
        match stream.range(id, id).next() {
            Some((id, fields)) => {
                reply_entry(id, fields, reply);
                again.push((id, group.pending.get(&id).map_or(1, |pending| pending.deliveries + 1)));
            }
            None => {
                reply.array(2);
                reply_id(id, reply);
                reply.null_array();
            }
        }
    }
    for (id, deliveries) in again {
        change(txn, key, StreamChange::Pending { group: name, consumer, id, delivered_ms: now, deliveries });
    }
    Ok(())
}

pub(crate) fn xack(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, name, ids @ ..] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    if txn.stream(&key)?.and_then(|stream| stream.group(name)).is_none() {
        reply.integer(0);
        return Ok(());
    }
    let ids: Vec<StreamId> = ids.iter().map(|text| id(text, 0)).collect::<Result<_, _>>()?;
    let mut acknowledged = 0;
    for id in ids {
        let group = txn.stream(&key)?.and_then(|stream| stream.group(name));
        if group.is_some_and(|group| group.pending.contains_key(&id)) {
            change(txn, &key, StreamChange::PendingDelete { group: name, id });
            acknowledged += 1;
        }
    }
    reply.integer(acknowledged);
    Ok(())
}

pub(crate) fn xpending(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, name, rest @ ..] = args else { return Err(CommandError::Syntax) };
    let (idle, rest) = match rest {
        [] => (0, None),
        // Words behind the consumer are not looked at, as in Valkey.
        _ if !(3..=6).contains(&rest.len()) => return Err(CommandError::Syntax),
        [word, idle, behind @ ..] if is(word, "IDLE") => (int(idle)?, Some(behind)),
        _ => (0, Some(rest)),
    };
    let listing = match rest {
        None => None,
        Some([from, to, count, consumer @ ..]) => {
            let count = usize::try_from(int(count)?).unwrap_or(0);
            let (from, to) = (interval_start(from)?, interval_end(to)?);
            Some((u64::try_from(idle).unwrap_or(0), from, to, count, consumer.first()))
        }
        Some(_) => return Err(CommandError::Syntax),
    };
    let key = txn.key(key);
    let now = txn.now.0;
    let (_, group) = group_of(txn, &key, name, "")?;
    let Some((idle_ms_min, from, to, count, consumer)) = listing else {
        reply_pending_summary(group, reply);
        return Ok(());
    };
    let of_consumer = |pending: &Pending| consumer.is_none_or(|consumer| *pending.consumer == **consumer);
    let range = (from <= to).then(|| group.pending.range(from..=to)).into_iter().flatten();
    let found: Vec<(&StreamId, &Pending)> = range
        .filter(|(_, pending)| of_consumer(pending) && now.saturating_sub(pending.delivered_ms) >= idle_ms_min)
        .take(count)
        .collect();
    reply.array(found.len());
    for (id, pending) in found {
        reply.array(4);
        reply_id(*id, reply);
        reply.bulk(&pending.consumer);
        reply.integer(i64::try_from(now.saturating_sub(pending.delivered_ms)).unwrap_or(i64::MAX));
        reply.integer(i64::try_from(pending.deliveries).unwrap_or(i64::MAX));
    }
    Ok(())
}

fn reply_pending_summary(group: &Group, reply: &mut ReplyBuf) {
    reply.array(4);
    reply.count(group.pending.len());
    let (Some((first, _)), Some((last, _))) = (group.pending.first_key_value(), group.pending.last_key_value()) else {
        reply.null();
        reply.null();
        return reply.null_array();
    };
    reply_id(*first, reply);
    reply_id(*last, reply);
    let busy: Vec<_> = group.consumers.iter().filter(|(_, consumer)| !consumer.pending.is_empty()).collect();
    reply.array(busy.len());
    for (name, consumer) in busy {
        reply.array(2);
        reply.bulk(name);
        reply.bulk(consumer.pending.len().to_string().as_bytes());
    }
}

/// How XCLAIM hands entries over.
#[derive(Debug)]
struct ClaimOptions {
    delivered_ms: u64,
    deliveries: Option<u64>,
    force: bool,
    only_ids: bool,
    last_id: StreamId,
}

impl ClaimOptions {
    fn parse(mut rest: &[&[u8]], now: u64) -> Result<Self, CommandError> {
        let mut options =
            Self { delivered_ms: now, deliveries: None, force: false, only_ids: false, last_id: StreamId::MIN };
        let number = |text: &[u8], name: &str| {
            int(text).map_err(|_| CommandError::Said(format!("ERR Invalid {name} option argument for XCLAIM")))
        };
        // What lies ahead, or before 1970, means now.
        let past = |ms: i64| u64::try_from(ms).ok().filter(|ms| *ms <= now).unwrap_or(now);
        loop {
            rest = match rest {
                [] => return Ok(options),
                [word, behind @ ..] if is(word, "FORCE") => {
                    options.force = true;
                    behind
                }
                [word, behind @ ..] if is(word, "JUSTID") => {
                    options.only_ids = true;
                    behind
                }
                [word, ms, behind @ ..] if is(word, "IDLE") => {
                    let now = i64::try_from(now).unwrap_or(i64::MAX);
                    options.delivered_ms = past(now.saturating_sub(number(ms, "IDLE")?));
                    behind
                }
                [word, ms, behind @ ..] if is(word, "TIME") => {
                    options.delivered_ms = past(number(ms, "TIME")?);
                    behind
                }
                [word, count, behind @ ..] if is(word, "RETRYCOUNT") => {
                    options.deliveries = u64::try_from(number(count, "RETRYCOUNT")?).ok();
                    behind
                }
                [word, text, behind @ ..] if is(word, "LASTID") => {
                    options.last_id = id(text, 0)?;
                    behind
                }
                [word, ..] => {
                    let word = text_of(word);
                    return Err(CommandError::Said(format!("ERR Unrecognized XCLAIM option '{word}'")));
                }
            }
        }
    }
}

pub(crate) fn xclaim(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, name, consumer, idle, rest @ ..] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    let now = txn.now.0;
    group_of(txn, &key, name, "")?;
    let wrong = CommandError::Other("ERR Invalid min-idle-time argument for XCLAIM");
    let idle_ms_min = u64::try_from(int(idle).map_err(|_| wrong)?).unwrap_or(0);
    let is_id = |text: &&&[u8]| id(text, 0).is_ok();
    let (ids, options) = rest.split_at_checked(rest.iter().take_while(is_id).count()).ok_or(CommandError::Syntax)?;
    let ids: Vec<StreamId> = ids.iter().map(|text| id(text, 0)).collect::<Result<_, _>>()?;
    let options = ClaimOptions::parse(options, now)?;
    let (_, group) = group_of(txn, &key, name, "")?;
    if options.last_id > group.last_id {
        let read = group.read;
        change(txn, &key, StreamChange::Group { group: name, last_id: options.last_id, read });
    }
    see_consumer(txn, &key, name, consumer, false)?;
    let mut claimed = Vec::new();
    for id in ids {
        let (stream, group) = group_of(txn, &key, name, "")?;
        let pending = group.pending.get(&id);
        if !stream.contains(id) {
            if pending.is_some() {
                change(txn, &key, StreamChange::PendingDelete { group: name, id });
            }
            continue;
        }
        let deliveries = match pending {
            None if options.force => 0,
            None => continue,
            Some(pending) if now.saturating_sub(pending.delivered_ms) < idle_ms_min => continue,
            Some(pending) => pending.deliveries,
        };
        let deliveries = options.deliveries.unwrap_or(deliveries + u64::from(!options.only_ids));
        let delivered_ms = options.delivered_ms;
        change(txn, &key, StreamChange::Pending { group: name, consumer, id, delivered_ms, deliveries });
        claimed.push(id);
    }
    if !claimed.is_empty() {
        see_consumer(txn, &key, name, consumer, true)?;
    }
    reply_claimed(txn, &key, &claimed, options.only_ids, reply)
}

fn reply_claimed(txn: &mut Txn<'_>, key: &Key<'_>, ids: &[StreamId], only_ids: bool, reply: &mut ReplyBuf) -> Outcome {
    let stream = txn.stream(key)?;
    reply.array(ids.len());
    for &id in ids {
        match stream.and_then(|stream| stream.range(id, id).next()) {
            Some((id, fields)) if !only_ids => reply_entry(id, fields, reply),
            _ => reply_id(id, reply),
        }
    }
    Ok(())
}

/// XAUTOCLAIM looks at so many pending entries for one that it may claim.
const LOOKED_AT_PER_CLAIM: usize = 10;
const AUTOCLAIM_COUNT_DEFAULT: usize = 100;

pub(crate) fn xautoclaim(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, name, consumer, idle, start, options @ ..] = args else { return Err(CommandError::Syntax) };
    let wrong = CommandError::Other("ERR Invalid min-idle-time argument for XAUTOCLAIM");
    let idle_ms_min = u64::try_from(int(idle).map_err(|_| wrong)?).unwrap_or(0);
    let start = interval_start(start)?;
    let (mut count, mut only_ids, mut rest) = (AUTOCLAIM_COUNT_DEFAULT, false, options);
    loop {
        rest = match rest {
            [] => break,
            [word, number, behind @ ..] if is(word, "COUNT") => {
                let wrong = || CommandError::Other("ERR COUNT must be > 0");
                let number = int(number).ok().and_then(|number| usize::try_from(number).ok());
                count = number.filter(|count| (1..=usize::MAX >> 5).contains(count)).ok_or_else(wrong)?;
                behind
            }
            [word, behind @ ..] if is(word, "JUSTID") => {
                only_ids = true;
                behind
            }
            _ => return Err(CommandError::Syntax),
        }
    }
    let key = txn.key(key);
    let now = txn.now.0;
    group_of(txn, &key, name, "")?;
    see_consumer(txn, &key, name, consumer, false)?;
    let (stream, group) = group_of(txn, &key, name, "")?;
    let (mut claimed, mut deleted) = (Vec::new(), Vec::new());
    let mut left = count.saturating_mul(LOOKED_AT_PER_CLAIM);
    let mut pending = group.pending.range(start..);
    let next = loop {
        let Some((&id, pending)) = pending.next() else { break StreamId::MIN };
        if left == 0 || claimed.len() + deleted.len() == count {
            break id;
        }
        left -= 1;
        if !stream.contains(id) {
            deleted.push(id);
        } else if now.saturating_sub(pending.delivered_ms) >= idle_ms_min {
            claimed.push((id, pending.deliveries + u64::from(!only_ids)));
        }
    };
    for &id in &deleted {
        change(txn, &key, StreamChange::PendingDelete { group: name, id });
    }
    for &(id, deliveries) in &claimed {
        change(txn, &key, StreamChange::Pending { group: name, consumer, id, delivered_ms: now, deliveries });
    }
    if !claimed.is_empty() {
        see_consumer(txn, &key, name, consumer, true)?;
    }
    reply.array(3);
    reply_id(next, reply);
    let claimed: Vec<StreamId> = claimed.into_iter().map(|(id, _)| id).collect();
    reply_claimed(txn, &key, &claimed, only_ids, reply)?;
    reply.array(deleted.len());
    deleted.into_iter().for_each(|id| reply_id(id, reply));
    Ok(())
}
