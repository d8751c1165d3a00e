//! Strings.

use super::expiry::{ExpiryOption, ExpiryUnit};
use super::options::{byte_range, int, is};
use super::{CommandError, Outcome};
use crate::engine::Txn;
use crate::keyspace::{Entry, Key, ValueRef};
use crate::record::Change;
use crate::resp::{ReplyBuf, fixed_add, parse_double, parse_int, write_int};
use crate::time::UnixMs;

/// The longest string that APPEND and SETRANGE may make.
pub(super) const STRING_BYTES_MAX: usize = 512 << 20;

pub(crate) fn get(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    reply_string(txn, &key, reply)
}

pub(crate) fn set(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, value, options @ ..] = args else { return Err(CommandError::Syntax) };
    let options = SetOptions::parse(options)?;
    let given = match options.expiry {
        Some(ExpiryOption::Amount(unit, amount)) => Some(unit.positive_instant(amount, txn.now, "set")?),
        _ => None,
    };
    let key = txn.key(key);
    let start = reply.len();
    if options.get {
        reply_string(txn, &key, reply)?;
    }
    let holds = match options.condition {
        None => true,
        Some(Condition::Absent) => txn.peek(&key).is_none(),
        Some(Condition::Present) => txn.peek(&key).is_some(),
        Some(Condition::Equals(expected)) => match txn.peek(&key) {
            None => false,
            Some(entry) => entry.value().with_string(|old| old == expected).ok_or(CommandError::WrongType)?,
        },
    };
    if holds {
        let expires_at = match options.expiry {
            Some(ExpiryOption::Keep) => txn.peek(&key).and_then(|entry| entry.expires_at()),
            _ => given,
        };
        put(txn, &key, value, expires_at);
    }
    match (options.get, holds) {
        (true, _) => debug_assert!(reply.len() > start, "GET has replied"),
        (false, true) => reply.ok(),
        (false, false) => reply.null(),
    }
    Ok(())
}

pub(crate) fn setnx(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, value] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    let absent = txn.peek(&key).is_none();
    if absent {
        put(txn, &key, value, None);
    }
    reply.integer(i64::from(absent));
    Ok(())
}

pub(crate) fn setex(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    set_expiring(txn, args, ExpiryUnit::Seconds, "setex", reply)
}

pub(crate) fn psetex(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    set_expiring(txn, args, ExpiryUnit::Milliseconds, "psetex", reply)
}

fn set_expiring(
    txn: &mut Txn<'_>,
    args: &[&[u8]],
    unit: ExpiryUnit,
    command: &'static str,
    reply: &mut ReplyBuf,
) -> Outcome {
    let [_, key, amount, value] = args else { return Err(CommandError::Syntax) };
    let at = unit.positive_instant(amount, txn.now, command)?;
    let key = txn.key(key);
    put(txn, &key, value, Some(at));
    reply.ok();
    Ok(())
}

pub(crate) fn getset(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, value] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    reply_string(txn, &key, reply)?;
    put(txn, &key, value, None);
    Ok(())
}

pub(crate) fn getdel(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    reply_string(txn, &key, reply)?;
    if txn.peek(&key).is_some() {
        txn.apply(&key, &Change::Del);
    }
    Ok(())
}

pub(crate) fn getex(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, options @ ..] = args else { return Err(CommandError::Syntax) };
    let expiry = match ExpiryOption::parse(options) {
        None if options.is_empty() => None,
        Some((ExpiryOption::Persist, [])) => Some(None),
        Some((ExpiryOption::Amount(unit, amount), [])) => Some(Some(unit.positive_instant(amount, txn.now, "getex")?)),
        _ => return Err(CommandError::Syntax),
    };
    let key = txn.key(key);
    reply_string(txn, &key, reply)?;
    let Some(before) = txn.peek(&key).map(|entry| entry.expires_at()) else { return Ok(()) };
    match expiry {
        Some(Some(at)) if at <= txn.now => txn.apply(&key, &Change::Del),
        Some(at) if at != before => txn.apply(&key, &Change::Expire { at }),
        _ => {}
    }
    Ok(())
}

pub(crate) fn mget(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, keys @ ..] = args else { return Err(CommandError::Syntax) };
    reply.array(keys.len());
    for key in keys {
        let key = txn.key(key);
        match txn.entry(&key).map(Entry::value) {
            Some(ValueRef::String(bytes)) => reply.bulk(bytes),
            _ => reply.null(),
        }
    }
    Ok(())
}

pub(crate) fn mset(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, pairs @ ..] = args else { return Err(CommandError::Syntax) };
    let (pairs, []) = pairs.as_chunks::<2>() else { return Err(CommandError::Arity("mset")) };
    put_all(txn, pairs);
    reply.ok();
    Ok(())
}

pub(crate) fn msetnx(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, pairs @ ..] = args else { return Err(CommandError::Syntax) };
    let (pairs, []) = pairs.as_chunks::<2>() else { return Err(CommandError::Arity("msetnx")) };
    let all_absent = pairs.iter().all(|[key, _]| txn.peek(&txn.key(key)).is_none());
    if all_absent {
        put_all(txn, pairs);
    }
    reply.integer(i64::from(all_absent));
    Ok(())
}

pub(crate) fn incr(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key] = args else { return Err(CommandError::Syntax) };
    add(txn, key, 1, reply)
}

pub(crate) fn decr(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key] = args else { return Err(CommandError::Syntax) };
    add(txn, key, -1, reply)
}

pub(crate) fn incrby(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, by] = args else { return Err(CommandError::Syntax) };
    add(txn, key, int(by)?, reply)
}

pub(crate) fn decrby(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, by] = args else { return Err(CommandError::Syntax) };
    let by = int(by)?.checked_neg().ok_or(CommandError::DecrementOverflow)?;
    add(txn, key, by, reply)
}

pub(crate) fn incrbyfloat(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, by] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    let (old, expires_at) = match txn.entry(&key) {
        None => (b"0".to_vec(), None),
        Some(entry) => {
            let old = entry.value().with_string(<[u8]>::to_vec).ok_or(CommandError::WrongType)?;
            (old, entry.expires_at())
        }
    };
    if parse_double(&old).is_none() || parse_double(by).is_none() {
        return Err(CommandError::NotFloat);
    }
    let sum = fixed_add(&old, by).ok_or(CommandError::NotFinite)?;
    txn.apply(&key, &Change::Put { value: &sum, expires_at });
    reply.bulk(&sum);
    Ok(())
}

pub(crate) fn append(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, value] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    let len = string_len(txn, &key)?;
    let total = len.checked_add(value.len()).filter(|total| *total <= STRING_BYTES_MAX);
    let total = total.ok_or(CommandError::StringTooLong)?;
    txn.apply(&key, &Change::Splice { offset: len as u64, bytes: value });
    reply.count(total);
    Ok(())
}

pub(crate) fn setrange(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, offset, value] = args else { return Err(CommandError::Syntax) };
    let offset = usize::try_from(int(offset)?).map_err(|_| CommandError::OffsetOutOfRange)?;
    let key = txn.key(key);
    let len = string_len(txn, &key)?;
    if value.is_empty() {
        reply.count(len);
        return Ok(());
    }
    let end = offset.checked_add(value.len()).filter(|end| *end <= STRING_BYTES_MAX);
    let end = end.ok_or(CommandError::StringTooLong)?;
    txn.apply(&key, &Change::Splice { offset: offset as u64, bytes: value });
    reply.count(len.max(end));
    Ok(())
}

pub(crate) fn getrange(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, start, end] = args else { return Err(CommandError::Syntax) };
    let (start, end) = (int(start)?, int(end)?);
    let key = txn.key(key);
    let Some(entry) = txn.entry(&key) else {
        reply.bulk(b"");
        return Ok(());
    };
    let part = |bytes: &[u8]| reply.bulk(bytes.get(byte_range(start, end, bytes.len())).unwrap_or_default());
    entry.value().with_string(part).ok_or(CommandError::WrongType)
}

pub(crate) fn strlen(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    reply.count(string_len(txn, &key)?);
    Ok(())
}

#[derive(Debug, Default)]
struct SetOptions<'a> {
    condition: Option<Condition<'a>>,
    expiry: Option<ExpiryOption<'a>>,
    get: bool,
}

#[derive(Debug)]
enum Condition<'a> {
    Absent,
    Present,
    Equals(&'a [u8]),
}

impl<'a> SetOptions<'a> {
    fn parse(mut rest: &[&'a [u8]]) -> Result<Self, CommandError> {
        let mut options = Self::default();
        while let [word, behind @ ..] = rest {
            let condition = match behind {
                _ if is(word, "NX") => Some((Condition::Absent, behind)),
                _ if is(word, "XX") => Some((Condition::Present, behind)),
                [expected, behind @ ..] if is(word, "IFEQ") => Some((Condition::Equals(expected), behind)),
                _ => None,
            };
            rest = if let Some((condition, behind)) = condition {
                if options.condition.replace(condition).is_some() {
                    return Err(CommandError::Syntax);
                }
                behind
            } else if is(word, "GET") {
                options.get = true;
                behind
            } else {
                let (expiry, behind) = ExpiryOption::parse(rest).ok_or(CommandError::Syntax)?;
                if expiry == ExpiryOption::Persist || options.expiry.replace(expiry).is_some() {
                    return Err(CommandError::Syntax);
                }
                behind
            };
        }
        Ok(options)
    }
}

/// Sets a string; one that has expired already deletes the key instead.
fn put(txn: &mut Txn<'_>, key: &Key<'_>, value: &[u8], expires_at: Option<UnixMs>) {
    match expires_at {
        Some(at) if at <= txn.now => {
            if txn.peek(key).is_some() {
                txn.apply(key, &Change::Del);
            }
        }
        _ => txn.apply(key, &Change::Put { value, expires_at }),
    }
}

fn put_all(txn: &mut Txn<'_>, pairs: &[[&[u8]; 2]]) {
    for [key, value] in pairs {
        let key = txn.key(key);
        put(txn, &key, value, None);
    }
}

fn add(txn: &mut Txn<'_>, key: &[u8], by: i64, reply: &mut ReplyBuf) -> Outcome {
    let key = txn.key(key);
    let (old, expires_at) = match txn.entry(&key) {
        None => (0, None),
        Some(entry) => {
            let old = match entry.value() {
                ValueRef::String(bytes) => parse_int(bytes).ok_or(CommandError::NotInteger)?,
                _ => return Err(CommandError::WrongType),
            };
            (old, entry.expires_at())
        }
    };
    let sum = old.checked_add(by).ok_or(CommandError::Overflow)?;
    let mut digits = [0; 20];
    txn.apply(&key, &Change::Put { value: write_int(sum, &mut digits), expires_at });
    reply.integer(sum);
    Ok(())
}

/// Replies with a string, or null if the key is absent.
fn reply_string(txn: &mut Txn<'_>, key: &Key<'_>, reply: &mut ReplyBuf) -> Outcome {
    match txn.entry(key).map(Entry::value) {
        None => reply.null(),
        Some(ValueRef::String(bytes)) => reply.bulk(bytes),
        Some(_) => return Err(CommandError::WrongType),
    }
    Ok(())
}

fn string_len(txn: &mut Txn<'_>, key: &Key<'_>) -> Result<usize, CommandError> {
    match txn.entry(key) {
        None => Ok(0),
        Some(entry) => entry.value().with_string(<[u8]>::len).ok_or(CommandError::WrongType),
    }
}
