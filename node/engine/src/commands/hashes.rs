//! Hashes.

use super::options::{int, is, random_count, random_pair_count};
use super::{CommandError, Outcome};
use crate::engine::Txn;
use crate::record::Change;
use crate::resp::{Protocol, ReplyBuf, fixed_add, parse_double, parse_int, write_int};

pub(crate) fn hset(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let added = set_fields(txn, args, "hset")?;
    reply.integer(added);
    Ok(())
}

pub(crate) fn hmset(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    set_fields(txn, args, "hmset")?;
    reply.ok();
    Ok(())
}

/// Returns how many fields were not there before.
fn set_fields(txn: &mut Txn<'_>, args: &[&[u8]], command: &'static str) -> Result<i64, CommandError> {
    let [_, key, pairs @ ..] = args else { return Err(CommandError::Syntax) };
    let (pairs, []) = pairs.as_chunks::<2>() else { return Err(CommandError::Arity(command)) };
    let key = txn.key(key);
    let seed = txn.engine.seed;
    txn.hash(&key)?;
    let mut added = 0;
    for [field, value] in pairs {
        let is_new = txn.hash(&key)?.is_none_or(|hash| hash.get(seed, field).is_none());
        txn.apply(&key, &Change::HashSet { field, value });
        added += i64::from(is_new);
    }
    Ok(added)
}

pub(crate) fn hsetnx(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, field, value] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    let seed = txn.engine.seed;
    let is_new = txn.hash(&key)?.is_none_or(|hash| hash.get(seed, field).is_none());
    if is_new {
        txn.apply(&key, &Change::HashSet { field, value });
    }
    reply.integer(i64::from(is_new));
    Ok(())
}

pub(crate) fn hget(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, field] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    let seed = txn.engine.seed;
    match txn.hash(&key)?.and_then(|hash| hash.get(seed, field)) {
        Some(value) => reply.bulk(value),
        None => reply.null(),
    }
    Ok(())
}

pub(crate) fn hmget(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, fields @ ..] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    let seed = txn.engine.seed;
    let hash = txn.hash(&key)?;
    reply.array(fields.len());
    for field in fields {
        match hash.and_then(|hash| hash.get(seed, field)) {
            Some(value) => reply.bulk(value),
            None => reply.null(),
        }
    }
    Ok(())
}

pub(crate) fn hgetall(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    let hash = txn.hash(&key)?;
    reply.map(hash.map_or(0, |hash| hash.len()));
    for (field, value) in hash.into_iter().flat_map(|hash| hash.iter()) {
        reply.bulk(field);
        reply.bulk(value);
    }
    Ok(())
}

pub(crate) fn hkeys(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    let hash = txn.hash(&key)?;
    reply.array(hash.map_or(0, |hash| hash.len()));
    hash.into_iter().flat_map(|hash| hash.iter()).for_each(|(field, _)| reply.bulk(field));
    Ok(())
}

pub(crate) fn hvals(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    let hash = txn.hash(&key)?;
    reply.array(hash.map_or(0, |hash| hash.len()));
    hash.into_iter().flat_map(|hash| hash.iter()).for_each(|(_, value)| reply.bulk(value));
    Ok(())
}

pub(crate) fn hdel(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, fields @ ..] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    let seed = txn.engine.seed;
    let mut gone = 0;
    for field in fields {
        if txn.hash(&key)?.is_some_and(|hash| hash.get(seed, field).is_some()) {
            txn.apply(&key, &Change::HashDel { field });
            gone += 1;
        }
    }
    reply.integer(gone);
    Ok(())
}

pub(crate) fn hexists(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, field] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    let seed = txn.engine.seed;
    reply.integer(i64::from(txn.hash(&key)?.is_some_and(|hash| hash.get(seed, field).is_some())));
    Ok(())
}

pub(crate) fn hlen(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    reply.count(txn.hash(&key)?.map_or(0, |hash| hash.len()));
    Ok(())
}

pub(crate) fn hstrlen(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, field] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    let seed = txn.engine.seed;
    reply.count(txn.hash(&key)?.and_then(|hash| hash.get(seed, field)).map_or(0, <[u8]>::len));
    Ok(())
}

pub(crate) fn hincrby(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, field, by] = args else { return Err(CommandError::Syntax) };
    let by = int(by)?;
    let key = txn.key(key);
    let seed = txn.engine.seed;
    let old = match txn.hash(&key)?.and_then(|hash| hash.get(seed, field)) {
        None => 0,
        Some(text) => parse_int(text).ok_or(CommandError::HashNotInteger)?,
    };
    let sum = old.checked_add(by).ok_or(CommandError::Overflow)?;
    txn.apply(&key, &Change::HashSet { field, value: write_int(sum, &mut [0; 20]) });
    reply.integer(sum);
    Ok(())
}

pub(crate) fn hincrbyfloat(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, field, by] = args else { return Err(CommandError::Syntax) };
    if parse_double(by).is_none() {
        return Err(CommandError::NotFloat);
    }
    let key = txn.key(key);
    let seed = txn.engine.seed;
    let old = txn.hash(&key)?.and_then(|hash| hash.get(seed, field)).unwrap_or(b"0");
    if parse_double(old).is_none() {
        return Err(CommandError::HashNotFloat);
    }
    let sum = fixed_add(old, by).ok_or(CommandError::NotFinite)?;
    txn.apply(&key, &Change::HashSet { field, value: &sum });
    reply.bulk(&sum);
    Ok(())
}

pub(crate) fn hrandfield(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, options @ ..] = args else { return Err(CommandError::Syntax) };
    let (count, with_values) = match options {
        [] => (None, false),
        [count] => (Some(random_count(count)?), false),
        [count, word] if is(word, "WITHVALUES") => (Some(random_pair_count(count)?), true),
        _ => return Err(CommandError::Syntax),
    };
    let key = txn.key(key);
    let mut rng = txn.rng();
    let hash = txn.hash(&key)?;
    let Some(count) = count else {
        match hash.and_then(|hash| hash.sample(&mut rng)) {
            Some((field, _)) => reply.bulk(field),
            None => reply.null(),
        }
        return Ok(());
    };
    let Some(hash) = hash else {
        reply.array(0);
        return Ok(());
    };
    let wanted = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    let chosen: Vec<(&[u8], &[u8])> = if count < 0 {
        // The count comes from the client: no more than fits a reply.
        (0..wanted.min(RANDOM_COUNT_MAX)).filter_map(|_| hash.sample(&mut rng)).collect()
    } else {
        super::sets::choose(hash.iter(), hash.len(), wanted, &mut rng)
    };
    let nested = with_values && reply.protocol() == Protocol::Resp3;
    reply.array(if with_values && !nested { chosen.len() * 2 } else { chosen.len() });
    for (field, value) in chosen {
        if nested {
            reply.array(2);
        }
        reply.bulk(field);
        if with_values {
            reply.bulk(value);
        }
    }
    Ok(())
}

/// How many elements a command gives that may give the same one several times.
pub(super) const RANDOM_COUNT_MAX: usize = 1 << 20;
