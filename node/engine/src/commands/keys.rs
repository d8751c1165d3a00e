//! Keys of any type: deleting, expiring, renaming, counting, flushing.

use std::ops::ControlFlow;

use super::expiry::{ExpireConditions, ExpiryUnit};
use super::options::{int, is};
use super::{CommandError, Outcome, glob};
use crate::engine::Txn;
use crate::keyspace::Key;
use crate::record::{Change, Effect, RecordWriter, effects};
use crate::resp::ReplyBuf;
use crate::time::UnixMs;

/// Databases are numbered below this.
const DATABASES: u8 = 16;

pub(crate) fn del(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, keys @ ..] = args else { return Err(CommandError::Syntax) };
    let mut gone = 0;
    for key in keys {
        let key = txn.key(key);
        if txn.peek(&key).is_some() {
            txn.apply(&key, &Change::Del);
            gone += 1;
        }
    }
    reply.integer(gone);
    Ok(())
}

pub(crate) fn exists(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, keys @ ..] = args else { return Err(CommandError::Syntax) };
    reply.count(keys.iter().filter(|key| txn.peek(&txn.key(key)).is_some()).count());
    Ok(())
}

pub(crate) fn touch(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, keys @ ..] = args else { return Err(CommandError::Syntax) };
    let mut touched = 0;
    for key in keys {
        let key = txn.key(key);
        touched += i64::from(txn.entry(&key).is_some());
    }
    reply.integer(touched);
    Ok(())
}

pub(crate) fn type_of(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key] = args else { return Err(CommandError::Syntax) };
    reply.simple(txn.peek(&txn.key(key)).map_or("none", |entry| entry.value().kind().name()));
    Ok(())
}

pub(crate) fn expire(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    expire_at(txn, args, ExpiryUnit::Seconds, "expire", reply)
}

pub(crate) fn pexpire(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    expire_at(txn, args, ExpiryUnit::Milliseconds, "pexpire", reply)
}

pub(crate) fn expireat(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    expire_at(txn, args, ExpiryUnit::UnixSeconds, "expireat", reply)
}

pub(crate) fn pexpireat(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    expire_at(txn, args, ExpiryUnit::UnixMilliseconds, "pexpireat", reply)
}

fn expire_at(
    txn: &mut Txn<'_>,
    args: &[&[u8]],
    unit: ExpiryUnit,
    command: &'static str,
    reply: &mut ReplyBuf,
) -> Outcome {
    let [_, key, amount, options @ ..] = args else { return Err(CommandError::Syntax) };
    let conditions = ExpireConditions::parse(options)?;
    let at = unit.instant(amount, txn.now, command)?;
    let key = txn.key(key);
    let Some(before) = txn.peek(&key).map(|entry| entry.expires_at()) else {
        reply.integer(0);
        return Ok(());
    };
    let holds = conditions.hold(before, at);
    if holds {
        match u64::try_from(at) {
            Ok(at) if at > txn.now.0 => txn.apply(&key, &Change::Expire { at: Some(UnixMs(at)) }),
            _ => txn.apply(&key, &Change::Del),
        }
    }
    reply.integer(i64::from(holds));
    Ok(())
}

pub(crate) fn ttl(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    reply_expiry(txn, args, |at, now| at.saturating_sub(now).saturating_add(500) / 1000, reply)
}

pub(crate) fn pttl(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    reply_expiry(txn, args, |at, now| at.saturating_sub(now), reply)
}

pub(crate) fn expiretime(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    reply_expiry(txn, args, |at, _| at.saturating_add(500) / 1000, reply)
}

pub(crate) fn pexpiretime(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    reply_expiry(txn, args, |at, _| at, reply)
}

/// -2 for no key, -1 for no expiry, else what `show` makes of the expiry and the time.
fn reply_expiry(txn: &Txn<'_>, args: &[&[u8]], show: fn(u64, u64) -> u64, reply: &mut ReplyBuf) -> Outcome {
    let [_, key] = args else { return Err(CommandError::Syntax) };
    reply.integer(match txn.peek(&txn.key(key)).map(|entry| entry.expires_at()) {
        None => -2,
        Some(None) => -1,
        Some(Some(UnixMs(at))) => i64::try_from(show(at, txn.now.0)).unwrap_or(i64::MAX),
    });
    Ok(())
}

pub(crate) fn persist(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    let expires = txn.peek(&key).is_some_and(|entry| entry.expires_at().is_some());
    if expires {
        txn.apply(&key, &Change::Expire { at: None });
    }
    reply.integer(i64::from(expires));
    Ok(())
}

pub(crate) fn rename(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, from, to] = args else { return Err(CommandError::Syntax) };
    if txn.peek(&txn.key(from)).is_none() {
        return Err(CommandError::NoSuchKey);
    }
    if from != to {
        let (from, to) = (txn.key(from), txn.key(to));
        move_value(txn, &from, &to, true);
    }
    reply.ok();
    Ok(())
}

pub(crate) fn renamenx(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, from, to] = args else { return Err(CommandError::Syntax) };
    if txn.peek(&txn.key(from)).is_none() {
        return Err(CommandError::NoSuchKey);
    }
    let (from, to) = (txn.key(from), txn.key(to));
    let free = txn.peek(&to).is_none();
    if free {
        move_value(txn, &from, &to, true);
    }
    reply.integer(i64::from(free));
    Ok(())
}

pub(crate) fn copy(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, from, to, options @ ..] = args else { return Err(CommandError::Syntax) };
    let (mut replace, mut db, mut rest) = (false, txn.db, options);
    loop {
        rest = match rest {
            [] => break,
            [word, behind @ ..] if is(word, "REPLACE") => {
                replace = true;
                behind
            }
            [word, number, behind @ ..] if is(word, "DB") => {
                let number = u8::try_from(int(number)?).ok().filter(|db| *db < DATABASES);
                db = number.ok_or(CommandError::Other("ERR DB index is out of range"))?;
                behind
            }
            _ => return Err(CommandError::Syntax),
        }
    }
    if from == to && db == txn.db {
        return Err(CommandError::Other("ERR source and destination objects are the same"));
    }
    let (from, to) = (txn.key(from), txn.key_in(db, to));
    let may = txn.peek(&from).is_some() && (replace || txn.peek(&to).is_none());
    if may {
        move_value(txn, &from, &to, false);
    }
    reply.integer(i64::from(may));
    Ok(())
}

/// Makes `to` what `from` is, and deletes `from` if asked. The record holds the whole value: the log's filter may let one key pass and not the
/// other, so a copy cannot be told to rename.
fn move_value(txn: &mut Txn<'_>, from: &Key<'_>, to: &Key<'_>, delete: bool) {
    let mut description = RecordWriter::default();
    if let Some(entry) = txn.peek(from) {
        entry.describe(|change| description.push(&Effect::Keyed { db: to.db, key: to.bytes, change }));
    }
    if delete {
        txn.apply(from, &Change::Del);
    }
    if txn.peek(to).is_some() {
        txn.apply(to, &Change::Del);
    }
    for effect in effects(description.content()) {
        if let Ok(Effect::Keyed { change, .. }) = effect {
            txn.apply(to, &change);
        }
    }
}

pub(crate) fn keys(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, pattern] = args else { return Err(CommandError::Syntax) };
    let (db, now) = (txn.db, txn.now);
    let mut found: Vec<Vec<u8>> = Vec::new();
    txn.visit_lanes(0, |_, lane| {
        let entries = lane.all_entries().filter(|entry| entry.db() == db && !entry.is_expired(now));
        found.extend(entries.filter(|entry| glob::matches(pattern, entry.key())).map(|entry| entry.key().to_vec()));
        ControlFlow::Continue(())
    })?;
    reply.array(found.len());
    found.iter().for_each(|key| reply.bulk(key));
    Ok(())
}

pub(crate) fn dbsize(txn: &mut Txn<'_>, _: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let (db, mut keys) = (txn.db, 0);
    txn.visit_lanes(0, |_, lane| {
        keys += lane.len_of_db(db);
        ControlFlow::Continue(())
    })?;
    reply.count(keys);
    Ok(())
}

/// How often RANDOMKEY draws before it takes the first key that it finds: other databases' keys and expired ones do not count.
const RANDOM_KEY_DRAWS: usize = 100;

pub(crate) fn randomkey(txn: &mut Txn<'_>, _: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let (db, now) = (txn.db, txn.now);
    let mut rng = txn.rng();
    let mut counts = Vec::new();
    txn.visit_lanes(0, |_, lane| {
        counts.push(lane.len_of_db(db));
        ControlFlow::Continue(())
    })?;
    let mut rank = rng.below(counts.iter().sum());
    let chosen = counts.iter().position(|&count| {
        let here = rank < count;
        rank = rank.saturating_sub(count);
        here
    });
    let mut found = None;
    if let Some(chosen) = chosen {
        // From the chosen lane on: it may have been emptied since it was counted.
        txn.visit_lanes(chosen, |_, lane| {
            let fits = |entry: &&crate::keyspace::Entry| entry.db() == db && !entry.is_expired(now);
            let drawn = (0..RANDOM_KEY_DRAWS).filter_map(|_| lane.sample(&mut rng)).find(fits);
            found = drawn.or_else(|| lane.all_entries().find(fits)).map(|entry| entry.key().to_vec());
            if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
    }
    match found {
        Some(key) => reply.bulk(&key),
        None => reply.null(),
    }
    Ok(())
}

pub(crate) fn flushdb(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let db = txn.db;
    flush(txn, args, Some(db), reply)
}

pub(crate) fn flushall(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    flush(txn, args, None, reply)
}

/// SYNC and ASYNC are the same here: tables are taken out at once and dropped by another thread.
fn flush(txn: &mut Txn<'_>, args: &[&[u8]], db: Option<u8>, reply: &mut ReplyBuf) -> Outcome {
    match args {
        [_] => {}
        [_, word] if is(word, "SYNC") || is(word, "ASYNC") => {}
        _ => return Err(CommandError::Syntax),
    }
    txn.flush(db);
    reply.ok();
    Ok(())
}
