//! Sets, and what is made of several of them.

use super::hashes::RANDOM_COUNT_MAX;
use super::options::{is, positive, random_count};
use super::{CommandError, Outcome};
use crate::engine::Txn;
use crate::keyspace::Rng;
use crate::record::Change;
use crate::resp::{ReplyBuf, parse_int};

pub(crate) fn sadd(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, members @ ..] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    let seed = txn.engine.seed;
    let mut added = 0;
    for member in members {
        if txn.set(&key)?.is_none_or(|set| !set.contains(seed, member)) {
            txn.apply(&key, &Change::SetAdd { member });
            added += 1;
        }
    }
    reply.integer(added);
    Ok(())
}

pub(crate) fn srem(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, members @ ..] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    let seed = txn.engine.seed;
    let mut gone = 0;
    for member in members {
        if txn.set(&key)?.is_some_and(|set| set.contains(seed, member)) {
            txn.apply(&key, &Change::SetDel { member });
            gone += 1;
        }
    }
    reply.integer(gone);
    Ok(())
}

pub(crate) fn smove(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, from, to, member] = args else { return Err(CommandError::Syntax) };
    let (from, to) = (txn.key(from), txn.key(to));
    let seed = txn.engine.seed;
    let Some(source) = txn.set(&from)? else {
        reply.integer(0);
        return Ok(());
    };
    let has = source.contains(seed, member);
    let is_there = txn.set(&to)?.is_some_and(|set| set.contains(seed, member));
    if has && from != to {
        txn.apply(&from, &Change::SetDel { member });
        if !is_there {
            txn.apply(&to, &Change::SetAdd { member });
        }
    }
    reply.integer(i64::from(has));
    Ok(())
}

pub(crate) fn scard(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    reply.count(txn.set(&key)?.map_or(0, |set| set.len()));
    Ok(())
}

pub(crate) fn sismember(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, member] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    let seed = txn.engine.seed;
    reply.integer(i64::from(txn.set(&key)?.is_some_and(|set| set.contains(seed, member))));
    Ok(())
}

pub(crate) fn smismember(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, members @ ..] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    let seed = txn.engine.seed;
    let set = txn.set(&key)?;
    reply.array(members.len());
    members.iter().for_each(|member| reply.integer(i64::from(set.is_some_and(|set| set.contains(seed, member)))));
    Ok(())
}

pub(crate) fn smembers(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    let set = txn.set(&key)?;
    reply.set(set.map_or(0, |set| set.len()));
    set.into_iter().flat_map(|set| set.iter()).for_each(|member| reply.bulk(member));
    Ok(())
}

pub(crate) fn spop(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, options @ ..] = args else { return Err(CommandError::Syntax) };
    let count = match options {
        [] => None,
        [count] => Some(positive(count)?),
        _ => return Err(CommandError::Syntax),
    };
    let key = txn.key(key);
    let mut rng = txn.rng();
    let popped: Vec<Vec<u8>> = match (txn.set(&key)?, count) {
        (None, _) => Vec::new(),
        (Some(set), None) => set.sample(&mut rng).map(<[u8]>::to_vec).into_iter().collect(),
        (Some(set), Some(count)) => {
            choose(set.iter(), set.len(), count, &mut rng).into_iter().map(<[u8]>::to_vec).collect()
        }
    };
    for member in &popped {
        txn.apply(&key, &Change::SetDel { member });
    }
    match (count, popped.first()) {
        (None, None) => reply.null(),
        (None, Some(member)) => reply.bulk(member),
        (Some(_), _) => {
            reply.set(popped.len());
            popped.iter().for_each(|member| reply.bulk(member));
        }
    }
    Ok(())
}

pub(crate) fn srandmember(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, options @ ..] = args else { return Err(CommandError::Syntax) };
    let count = match options {
        [] => None,
        [count] => Some(random_count(count)?),
        _ => return Err(CommandError::Syntax),
    };
    let key = txn.key(key);
    let mut rng = txn.rng();
    let set = txn.set(&key)?;
    let Some(count) = count else {
        match set.and_then(|set| set.sample(&mut rng)) {
            Some(member) => reply.bulk(member),
            None => reply.null(),
        }
        return Ok(());
    };
    let wanted = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    let chosen: Vec<&[u8]> = match set {
        None => Vec::new(),
        Some(set) if count < 0 => (0..wanted.min(RANDOM_COUNT_MAX)).filter_map(|_| set.sample(&mut rng)).collect(),
        Some(set) => choose(set.iter(), set.len(), wanted, &mut rng),
    };
    reply.array(chosen.len());
    chosen.iter().for_each(|member| reply.bulk(member));
    Ok(())
}

/// `wanted` of `len` elements, each subset as likely as any other: every element is taken with the probability that is then due.
pub(super) fn choose<T>(elements: impl Iterator<Item = T>, len: usize, wanted: usize, rng: &mut Rng) -> Vec<T> {
    let mut missing = wanted.min(len);
    let mut chosen = Vec::with_capacity(missing);
    for (element, left) in elements.zip((1..=len).rev()) {
        if rng.below(left) < missing {
            chosen.push(element);
            missing -= 1;
        }
    }
    chosen
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Union,
    Intersection,
    Difference,
}

pub(crate) fn sunion(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    reply_combined(txn, args, Operation::Union, reply)
}

pub(crate) fn sinter(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    reply_combined(txn, args, Operation::Intersection, reply)
}

pub(crate) fn sdiff(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    reply_combined(txn, args, Operation::Difference, reply)
}

fn reply_combined(txn: &mut Txn<'_>, args: &[&[u8]], operation: Operation, reply: &mut ReplyBuf) -> Outcome {
    let [_, keys @ ..] = args else { return Err(CommandError::Syntax) };
    let members = combine(txn, keys, operation)?;
    reply.set(members.len());
    members.iter().for_each(|member| reply.bulk(member));
    Ok(())
}

pub(crate) fn sunionstore(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    store_combined(txn, args, Operation::Union, reply)
}

pub(crate) fn sinterstore(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    store_combined(txn, args, Operation::Intersection, reply)
}

pub(crate) fn sdiffstore(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    store_combined(txn, args, Operation::Difference, reply)
}

fn store_combined(txn: &mut Txn<'_>, args: &[&[u8]], operation: Operation, reply: &mut ReplyBuf) -> Outcome {
    let [_, to, keys @ ..] = args else { return Err(CommandError::Syntax) };
    let members = combine(txn, keys, operation)?;
    let to = txn.key(to);
    if txn.peek(&to).is_some() {
        txn.apply(&to, &Change::Del);
    }
    for member in &members {
        txn.apply(&to, &Change::SetAdd { member });
    }
    reply.count(members.len());
    Ok(())
}

pub(crate) fn sintercard(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, count, rest @ ..] = args else { return Err(CommandError::Syntax) };
    let count = parse_int(count).and_then(|count| usize::try_from(count).ok()).filter(|&count| count > 0);
    let count = count.ok_or(CommandError::Other("ERR numkeys should be greater than 0"))?;
    let more = CommandError::Other("ERR Number of keys can't be greater than number of args");
    let (keys, options) = rest.split_at_checked(count).ok_or(more)?;
    let limit = match options {
        [] => 0,
        [word, limit] if is(word, "LIMIT") => {
            let negative = |_| CommandError::Other("ERR LIMIT can't be negative");
            positive(limit).map_err(negative)?
        }
        _ => return Err(CommandError::Syntax),
    };
    let common = combine(txn, keys, Operation::Intersection)?.len();
    reply.count(if limit == 0 { common } else { common.min(limit) });
    Ok(())
}

fn combine(txn: &mut Txn<'_>, keys: &[&[u8]], operation: Operation) -> Result<Vec<Vec<u8>>, CommandError> {
    let seed = txn.engine.seed;
    // A key of another type is an error even where it could not matter.
    for key in keys {
        let key = txn.key(key);
        txn.set(&key)?;
    }
    let mut members: Vec<Vec<u8>> = Vec::new();
    for (number, key) in keys.iter().enumerate() {
        let key = txn.key(key);
        let set = txn.set(&key)?;
        let has = |member: &[u8]| set.is_some_and(|set| set.contains(seed, member));
        match operation {
            Operation::Union => members.extend(set.into_iter().flat_map(|set| set.iter()).map(<[u8]>::to_vec)),
            _ if number == 0 => members = set.into_iter().flat_map(|set| set.iter()).map(<[u8]>::to_vec).collect(),
            Operation::Intersection => members.retain(|member| has(member)),
            Operation::Difference => members.retain(|member| !has(member)),
        }
    }
    if operation == Operation::Union {
        members.sort_unstable();
        members.dedup();
    }
    Ok(members)
}
