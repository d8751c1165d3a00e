//! Lists.

use super::options::{int, is, positive, random_count, rank_range};
use super::{CommandError, Outcome};
use crate::engine::Txn;
use crate::keyspace::Key;
use crate::record::Change;
use crate::resp::ReplyBuf;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Left,
    Right,
}

impl End {
    fn parse(word: &[u8]) -> Result<Self, CommandError> {
        match () {
            () if is(word, "LEFT") => Ok(Self::Left),
            () if is(word, "RIGHT") => Ok(Self::Right),
            () => Err(CommandError::Syntax),
        }
    }
}

pub(crate) fn lpush(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    push(txn, args, End::Left, false, reply)
}

pub(crate) fn rpush(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    push(txn, args, End::Right, false, reply)
}

pub(crate) fn lpushx(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    push(txn, args, End::Left, true, reply)
}

pub(crate) fn rpushx(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    push(txn, args, End::Right, true, reply)
}

fn push(txn: &mut Txn<'_>, args: &[&[u8]], end: End, only_present: bool, reply: &mut ReplyBuf) -> Outcome {
    let [_, key, values @ ..] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    let Some(len) = txn.list(&key)?.map(|list| list.len()).or((!only_present).then_some(0)) else {
        reply.integer(0);
        return Ok(());
    };
    for (value, len) in values.iter().zip(len..) {
        push_one(txn, &key, end, len, value);
    }
    reply.count(len + values.len());
    Ok(())
}

pub(crate) fn lpop(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    pop(txn, args, End::Left, reply)
}

pub(crate) fn rpop(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    pop(txn, args, End::Right, reply)
}

fn pop(txn: &mut Txn<'_>, args: &[&[u8]], end: End, reply: &mut ReplyBuf) -> Outcome {
    let [_, key, options @ ..] = args else { return Err(CommandError::Syntax) };
    let count = match options {
        [] => None,
        [count] => Some(positive(count)?),
        _ => return Err(CommandError::Arity(if end == End::Left { "lpop" } else { "rpop" })),
    };
    let key = txn.key(key);
    let Some(list) = txn.list(&key)? else {
        match count {
            None => reply.null(),
            Some(_) => reply.null_array(),
        }
        return Ok(());
    };
    let len = list.len();
    let taken = count.unwrap_or(1).min(len);
    if count.is_some() {
        reply.array(taken);
    }
    let from = match end {
        End::Left => {
            list.range(0, taken).for_each(|value| reply.bulk(value));
            0
        }
        End::Right => {
            list.range_rev(len - taken, len).for_each(|value| reply.bulk(value));
            len - taken
        }
    };
    remove(txn, &key, from, taken);
    Ok(())
}

pub(crate) fn llen(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    reply.count(txn.list(&key)?.map_or(0, |list| list.len()));
    Ok(())
}

pub(crate) fn lrange(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, start, end] = args else { return Err(CommandError::Syntax) };
    let (start, end) = (int(start)?, int(end)?);
    let key = txn.key(key);
    let list = txn.list(&key)?;
    let range = rank_range(start, end, list.map_or(0, |list| list.len()));
    reply.array(range.len());
    list.into_iter().flat_map(|list| list.range(range.start, range.end)).for_each(|value| reply.bulk(value));
    Ok(())
}

pub(crate) fn lindex(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, index] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    let Some(list) = txn.list(&key)? else {
        reply.null();
        return Ok(());
    };
    let index = int(index)?;
    match from_start(index, list.len()).and_then(|index| list.get(index)) {
        Some(value) => reply.bulk(value),
        None => reply.null(),
    }
    Ok(())
}

pub(crate) fn lset(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, index, value] = args else { return Err(CommandError::Syntax) };
    let index = int(index)?;
    let key = txn.key(key);
    let len = txn.list(&key)?.ok_or(CommandError::NoSuchKey)?.len();
    let index = from_start(index, len).filter(|&index| index < len).ok_or(CommandError::IndexOutOfRange)?;
    txn.apply(&key, &Change::ListReplace { index: index as u64, value });
    reply.ok();
    Ok(())
}

pub(crate) fn linsert(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, place, pivot, value] = args else { return Err(CommandError::Syntax) };
    let behind = match () {
        () if is(place, "BEFORE") => 0,
        () if is(place, "AFTER") => 1,
        () => return Err(CommandError::Syntax),
    };
    let key = txn.key(key);
    let Some(list) = txn.list(&key)? else {
        reply.integer(0);
        return Ok(());
    };
    let (len, found) = (list.len(), list.range(0, usize::MAX).position(|element| element == *pivot));
    match found {
        None => reply.integer(-1),
        Some(at) => {
            txn.apply(&key, &Change::ListInsert { index: (at + behind) as u64, value });
            reply.count(len + 1);
        }
    }
    Ok(())
}

pub(crate) fn lrem(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, count, value] = args else { return Err(CommandError::Syntax) };
    let count = int(count)?;
    let wanted = if count == 0 { usize::MAX } else { usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX) };
    let key = txn.key(key);
    let found: Vec<usize> = match txn.list(&key)? {
        None => Vec::new(),
        Some(list) if count >= 0 => {
            let equal = list.range(0, usize::MAX).enumerate().filter(|(_, element)| element == value);
            equal.map(|(index, _)| index).take(wanted).collect()
        }
        Some(list) => {
            let last = list.len() - 1;
            let equal = list.range_rev(0, usize::MAX).enumerate().filter(|(_, element)| element == value);
            let mut found: Vec<usize> = equal.map(|(from_end, _)| last - from_end).take(wanted).collect();
            found.reverse();
            found
        }
    };
    // Last first, so that the others keep their places.
    for &index in found.iter().rev() {
        remove(txn, &key, index, 1);
    }
    reply.count(found.len());
    Ok(())
}

pub(crate) fn ltrim(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, start, end] = args else { return Err(CommandError::Syntax) };
    let (start, end) = (int(start)?, int(end)?);
    let key = txn.key(key);
    if let Some(len) = txn.list(&key)?.map(|list| list.len()) {
        let kept = rank_range(start, end, len);
        if kept.is_empty() {
            txn.apply(&key, &Change::Del);
        } else {
            remove(txn, &key, kept.end, len - kept.end);
            remove(txn, &key, 0, kept.start);
        }
    }
    reply.ok();
    Ok(())
}

pub(crate) fn lpos(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, value, options @ ..] = args else { return Err(CommandError::Syntax) };
    let (mut rank, mut count, mut compared_max, mut rest) = (1, None, usize::MAX, options);
    loop {
        rest = match rest {
            [] => break,
            [word, number, behind @ ..] if is(word, "RANK") => {
                rank = random_count(number)?;
                if rank == 0 {
                    return Err(CommandError::Other(
                        "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... \
                         or use negative to start from the end of the list",
                    ));
                }
                behind
            }
            [word, number, behind @ ..] if is(word, "COUNT") => {
                let negative = |_| CommandError::Other("ERR COUNT can't be negative");
                count = Some(positive(number).map_err(negative)?);
                behind
            }
            [word, number, behind @ ..] if is(word, "MAXLEN") => {
                let negative = |_| CommandError::Other("ERR MAXLEN can't be negative");
                compared_max = match positive(number).map_err(negative)? {
                    0 => usize::MAX,
                    max => max,
                };
                behind
            }
            _ => return Err(CommandError::Syntax),
        }
    }
    let key = txn.key(key);
    let wanted = match count {
        None => 1,
        Some(0) => usize::MAX,
        Some(count) => count,
    };
    let skipped = usize::try_from(rank.unsigned_abs()).unwrap_or(usize::MAX) - 1;
    let found: Vec<usize> = match txn.list(&key)? {
        None => Vec::new(),
        Some(list) if rank > 0 => {
            let compared = list.range(0, compared_max).enumerate();
            compared.filter(|(_, element)| element == value).map(|(at, _)| at).skip(skipped).take(wanted).collect()
        }
        Some(list) => {
            let last = list.len() - 1;
            let compared = list.range_rev(0, usize::MAX).take(compared_max).enumerate();
            let equal = compared.filter(|(_, element)| element == value).map(|(from_end, _)| last - from_end);
            equal.skip(skipped).take(wanted).collect()
        }
    };
    match (count, found.first()) {
        (None, None) => reply.null(),
        (None, Some(&first)) => reply.count(first),
        (Some(_), _) => {
            reply.array(found.len());
            found.iter().for_each(|&at| reply.count(at));
        }
    }
    Ok(())
}

pub(crate) fn lmove(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, from, to, from_end, to_end] = args else { return Err(CommandError::Syntax) };
    move_element(txn, (from, End::parse(from_end)?), (to, End::parse(to_end)?), reply)
}

pub(crate) fn rpoplpush(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, from, to] = args else { return Err(CommandError::Syntax) };
    move_element(txn, (from, End::Right), (to, End::Left), reply)
}

fn move_element(
    txn: &mut Txn<'_>,
    (from, from_end): (&[u8], End),
    (to, to_end): (&[u8], End),
    reply: &mut ReplyBuf,
) -> Outcome {
    let (from, to) = (txn.key(from), txn.key(to));
    let Some(list) = txn.list(&from)? else {
        reply.null();
        return Ok(());
    };
    let at = if from_end == End::Left { 0 } else { list.len() - 1 };
    let value = list.get(at).unwrap_or_default().to_vec();
    txn.list(&to)?;
    remove(txn, &from, at, 1);
    let len = txn.list(&to)?.map_or(0, |list| list.len());
    push_one(txn, &to, to_end, len, &value);
    reply.bulk(&value);
    Ok(())
}

fn push_one(txn: &mut Txn<'_>, key: &Key<'_>, end: End, len: usize, value: &[u8]) {
    let index = if end == End::Left { 0 } else { len as u64 };
    txn.apply(key, &Change::ListInsert { index, value });
}

fn remove(txn: &mut Txn<'_>, key: &Key<'_>, index: usize, count: usize) {
    if count > 0 {
        txn.apply(key, &Change::ListRemove { index: index as u64, count: count as u64 });
    }
}

/// A position that may be given from the end, as one from the start; `None` if it is before the start.
fn from_start(index: i64, len: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add(i64::try_from(len).ok()?)? } else { index };
    usize::try_from(index).ok()
}
