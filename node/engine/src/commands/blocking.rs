//! Commands that wait for data: BLPOP and its kin. Each does what its plain form does with the first of its keys that has something;
//! if none has, it says what it waits for and what the reply would be if it did not.

use std::time::Duration;

use super::options::{int, is};
use super::{CommandError, Outcome, lists, sorted_sets};
use crate::engine::{Txn, Wait};
use crate::keyspace::Kind;
use crate::resp::{ReplyBuf, parse_double};

pub(crate) fn blpop(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    pop_element(txn, args, lists::lpop, reply)
}

pub(crate) fn brpop(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    pop_element(txn, args, lists::rpop, reply)
}

/// `key… timeout`: the key and its element.
fn pop_element(txn: &mut Txn<'_>, args: &[&[u8]], pop: super::DataFn, reply: &mut ReplyBuf) -> Outcome {
    let [name, keys @ .., timeout] = args else { return Err(CommandError::Syntax) };
    let timeout = self::timeout(timeout)?;
    for bytes in keys {
        let key = txn.key(bytes);
        if txn.list(&key)?.is_some() {
            reply.array(2);
            reply.bulk(bytes);
            return pop(txn, &[name, bytes], reply);
        }
    }
    reply.null_array();
    txn.wait = Some(Wait { kind: Kind::List, keys: 1..args.len() - 1, timeout, instead: None });
    Ok(())
}

/// `source destination LEFT|RIGHT LEFT|RIGHT timeout`.
pub(crate) fn blmove(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [plain @ .., timeout] = args else { return Err(CommandError::Syntax) };
    let [_, _, _, ends @ ..] = plain else { return Err(CommandError::Syntax) };
    if ends.iter().any(|end| !is(end, "LEFT") && !is(end, "RIGHT")) {
        return Err(CommandError::Syntax);
    }
    move_element(txn, plain, timeout, lists::lmove, reply)
}

/// `source destination timeout`.
pub(crate) fn brpoplpush(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [plain @ .., timeout] = args else { return Err(CommandError::Syntax) };
    move_element(txn, plain, timeout, lists::rpoplpush, reply)
}

fn move_element(
    txn: &mut Txn<'_>,
    plain: &[&[u8]],
    timeout: &[u8],
    run: super::DataFn,
    reply: &mut ReplyBuf,
) -> Outcome {
    let timeout = self::timeout(timeout)?;
    let [_, source, ..] = plain else { return Err(CommandError::Syntax) };
    let key = txn.key(source);
    if txn.list(&key)?.is_some() {
        return run(txn, plain, reply);
    }
    reply.null();
    txn.wait = Some(Wait { kind: Kind::List, keys: 1..2, timeout, instead: None });
    Ok(())
}

pub(crate) fn bzpopmin(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    pop_member(txn, args, false, reply)
}

pub(crate) fn bzpopmax(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    pop_member(txn, args, true, reply)
}

/// `key… timeout`: the key, the member and its score.
fn pop_member(txn: &mut Txn<'_>, args: &[&[u8]], highest: bool, reply: &mut ReplyBuf) -> Outcome {
    let [_, keys @ .., timeout] = args else { return Err(CommandError::Syntax) };
    let timeout = self::timeout(timeout)?;
    for bytes in keys {
        let key = txn.key(bytes);
        if txn.sorted_set(&key)?.is_some()
            && let Some((member, score)) = sorted_sets::take(txn, &key, 1, highest)?.pop()
        {
            reply.array(3);
            reply.bulk(bytes);
            reply.bulk(&member);
            reply.double(score);
            return Ok(());
        }
    }
    reply.null_array();
    txn.wait = Some(Wait { kind: Kind::SortedSet, keys: 1..args.len() - 1, timeout, instead: None });
    Ok(())
}

/// `timeout count key… LEFT|RIGHT [COUNT count]`.
pub(crate) fn blmpop(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, timeout, rest @ ..] = args else { return Err(CommandError::Syntax) };
    pop_many(txn, rest, 3, Some(timeout), Kind::List, reply)
}

/// `count key… LEFT|RIGHT [COUNT count]`.
pub(crate) fn lmpop(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    pop_many(txn, args.get(1..).unwrap_or_default(), 2, None, Kind::List, reply)
}

/// `timeout count key… MIN|MAX [COUNT count]`.
pub(crate) fn bzmpop(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, timeout, rest @ ..] = args else { return Err(CommandError::Syntax) };
    pop_many(txn, rest, 3, Some(timeout), Kind::SortedSet, reply)
}

/// `count key… MIN|MAX [COUNT count]`.
pub(crate) fn zmpop(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    pop_many(txn, args.get(1..).unwrap_or_default(), 2, None, Kind::SortedSet, reply)
}

/// Pops several elements of the first key that has any. `first_key` is that key's place among all arguments; a request that may wait
/// comes with its timeout.
fn pop_many(
    txn: &mut Txn<'_>,
    args: &[&[u8]],
    first_key: usize,
    timeout: Option<&[u8]>,
    kind: Kind,
    reply: &mut ReplyBuf,
) -> Outcome {
    let positive = |arg: &[u8], error: &'static str| {
        let count = int(arg).ok().and_then(|count| usize::try_from(count).ok()).filter(|&count| count > 0);
        count.ok_or(CommandError::Other(error))
    };
    let [count, rest @ ..] = args else { return Err(CommandError::Syntax) };
    let key_count = positive(count, "ERR numkeys should be greater than 0")?;
    let (keys, options) = rest.split_at_checked(key_count).ok_or(CommandError::Syntax)?;
    let [end, options @ ..] = options else { return Err(CommandError::Syntax) };
    let (first, last) = if kind == Kind::List { ("LEFT", "RIGHT") } else { ("MIN", "MAX") };
    let from_last = is(end, last);
    if !from_last && !is(end, first) {
        return Err(CommandError::Syntax);
    }
    let (wanted, rest) = match options {
        [word, count, rest @ ..] if is(word, "COUNT") => (positive(count, "ERR count should be greater than 0")?, rest),
        rest => (1, rest),
    };
    if !rest.is_empty() {
        return Err(CommandError::Syntax);
    }
    let may_wait = timeout.map(self::timeout).transpose()?;
    for bytes in keys {
        let key = txn.key(bytes);
        if kind == Kind::List {
            if txn.list(&key)?.is_none() {
                continue;
            }
            reply.array(2);
            reply.bulk(bytes);
            let wanted = wanted.to_string();
            let pop = if from_last { lists::rpop } else { lists::lpop };
            return pop(txn, &[b"lpop", bytes, wanted.as_bytes()], reply);
        }
        if txn.sorted_set(&key)?.is_none() {
            continue;
        }
        let popped = sorted_sets::take(txn, &key, wanted, from_last)?;
        reply.array(2);
        reply.bulk(bytes);
        reply.array(popped.len());
        for (member, score) in popped {
            reply.array(2);
            reply.bulk(&member);
            reply.double(score);
        }
        return Ok(());
    }
    reply.null_array();
    if let Some(timeout) = may_wait {
        txn.wait = Some(Wait { kind, keys: first_key..first_key + key_count, timeout, instead: None });
    }
    Ok(())
}

/// A timeout in seconds, with a fraction; 0 for none. Never ends early: it is rounded up to milliseconds.
fn timeout(arg: &[u8]) -> Result<Option<Duration>, CommandError> {
    let seconds = parse_double(arg).filter(|seconds| !seconds.is_nan()).ok_or(CommandError::BadTimeout)?;
    if seconds < 0.0 {
        return Err(CommandError::NegativeTimeout);
    }
    let ms = (seconds * 1000.0).ceil();
    // As many as an instant of the wall clock in ms leaves room for.
    if ms > i64::MAX as f64 / 2.0 {
        return Err(CommandError::TimeoutOutOfRange);
    }
    Ok((ms > 0.0).then(|| Duration::from_millis(ms as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_seconds_with_a_fraction_and_zero_is_none() {
        assert_eq!(timeout(b"0"), Ok(None));
        assert_eq!(timeout(b"0.0001"), Ok(Some(Duration::from_millis(1))));
        assert_eq!(timeout(b"1.5"), Ok(Some(Duration::from_millis(1500))));
        assert_eq!(timeout(b"-1"), Err(CommandError::NegativeTimeout));
        assert_eq!(timeout(b"x"), Err(CommandError::BadTimeout));
        assert_eq!(timeout(b"1e300"), Err(CommandError::TimeoutOutOfRange));
    }
}
