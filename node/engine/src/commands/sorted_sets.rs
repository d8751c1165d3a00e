//! Sorted sets: members one by one. Ranges are in `sorted_set_ranges`.

use super::options::{float, is, positive, random_count, random_pair_count};
use super::{CommandError, Outcome};
use crate::engine::Txn;
use crate::keyspace::Key;
use crate::record::Change;
use crate::resp::{Protocol, ReplyBuf};

#[derive(Debug, Default)]
struct AddOptions {
    only_new: bool,
    only_present: bool,
    only_greater: bool,
    only_less: bool,
    count_changes: bool,
    increment: bool,
}

impl AddOptions {
    /// Reads options up to the first word that is none.
    fn parse<'a, 'b>(mut rest: &'b [&'a [u8]]) -> Result<(Self, &'b [&'a [u8]]), CommandError> {
        let mut options = Self::default();
        while let [word, behind @ ..] = rest {
            match () {
                () if is(word, "NX") => options.only_new = true,
                () if is(word, "XX") => options.only_present = true,
                () if is(word, "GT") => options.only_greater = true,
                () if is(word, "LT") => options.only_less = true,
                () if is(word, "CH") => options.count_changes = true,
                () if is(word, "INCR") => options.increment = true,
                () => break,
            }
            rest = behind;
        }
        // Whatever is wrong with the options, a score without a member is worse.
        if rest.is_empty() || !rest.len().is_multiple_of(2) {
            return Err(CommandError::Syntax);
        }
        let Self { only_new, only_present, only_greater, only_less, .. } = options;
        if only_new && only_present {
            return Err(CommandError::Other("ERR XX and NX options at the same time are not compatible"));
        }
        if (only_greater && only_less) || (only_new && (only_greater || only_less)) {
            return Err(CommandError::Other("ERR GT, LT, and/or NX options at the same time are not compatible"));
        }
        Ok((options, rest))
    }

    /// The score that a member gets, given its old one; `None` leaves it as it is.
    fn score(&self, old: Option<f64>, given: f64) -> Result<Option<f64>, CommandError> {
        let score = match old {
            Some(old) if self.increment => old + given,
            _ => given,
        };
        if score.is_nan() {
            return Err(CommandError::ScoreNotNumber);
        }
        let allowed = match old {
            None => !self.only_present,
            Some(old) => !(self.only_new || self.only_greater && score <= old || self.only_less && score >= old),
        };
        Ok(allowed.then_some(score))
    }
}

pub(crate) fn zadd(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, rest @ ..] = args else { return Err(CommandError::Syntax) };
    let (options, pairs) = AddOptions::parse(rest)?;
    let (pairs, []) = pairs.as_chunks::<2>() else { return Err(CommandError::Syntax) };
    if options.increment && pairs.len() > 1 {
        return Err(CommandError::Other("ERR INCR option supports a single increment-element pair"));
    }
    // Nothing is changed unless all of them are numbers.
    if let [_, others @ ..] = pairs {
        others.iter().try_for_each(|[score, _]| float(score).map(drop))?;
    }
    let key = txn.key(key);
    let (mut added, mut updated, mut last) = (0, 0, None);
    for [score, member] in pairs {
        let given = float(score)?;
        let old = score_of(txn, &key, member)?;
        last = options.score(old, given)?;
        if let Some(score) = last
            && old != last
        {
            txn.apply(&key, &Change::ZSet { member, score });
            added += i64::from(old.is_none());
            updated += i64::from(old.is_some());
        }
    }
    match (options.increment, last) {
        (true, Some(score)) => reply.double(score),
        (true, None) => reply.null(),
        (false, _) => reply.integer(if options.count_changes { added + updated } else { added }),
    }
    Ok(())
}

pub(crate) fn zincrby(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, by, member] = args else { return Err(CommandError::Syntax) };
    let by = float(by)?;
    let key = txn.key(key);
    let old = score_of(txn, &key, member)?;
    let score = old.unwrap_or(0.0) + by;
    if score.is_nan() {
        return Err(CommandError::ScoreNotNumber);
    }
    if old != Some(score) {
        txn.apply(&key, &Change::ZSet { member, score });
    }
    reply.double(score);
    Ok(())
}

pub(crate) fn zrem(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, members @ ..] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    let mut gone = 0;
    for member in members {
        if score_of(txn, &key, member)?.is_some() {
            txn.apply(&key, &Change::ZDel { member });
            gone += 1;
        }
    }
    reply.integer(gone);
    Ok(())
}

pub(crate) fn zcard(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    reply.count(txn.sorted_set(&key)?.map_or(0, |set| set.len()));
    Ok(())
}

pub(crate) fn zscore(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, member] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    match score_of(txn, &key, member)? {
        Some(score) => reply.double(score),
        None => reply.null(),
    }
    Ok(())
}

pub(crate) fn zmscore(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, members @ ..] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    txn.sorted_set(&key)?;
    reply.array(members.len());
    for member in members {
        match score_of(txn, &key, member)? {
            Some(score) => reply.double(score),
            None => reply.null(),
        }
    }
    Ok(())
}

pub(crate) fn zrank(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    reply_rank(txn, args, false, reply)
}

pub(crate) fn zrevrank(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    reply_rank(txn, args, true, reply)
}

fn reply_rank(txn: &mut Txn<'_>, args: &[&[u8]], reverse: bool, reply: &mut ReplyBuf) -> Outcome {
    let [_, key, member, options @ ..] = args else { return Err(CommandError::Syntax) };
    let with_score = match options {
        [] => false,
        [word] if is(word, "WITHSCORE") => true,
        [_] => return Err(CommandError::Syntax),
        _ => return Err(CommandError::Arity(if reverse { "zrevrank" } else { "zrank" })),
    };
    let key = txn.key(key);
    let seed = txn.engine.seed;
    let set = txn.sorted_set(&key)?;
    let found = set.and_then(|set| {
        let (rank, score) = set.rank(seed, member)?;
        Some((if reverse { set.len() - 1 - rank } else { rank }, score))
    });
    match (found, with_score) {
        (None, false) => reply.null(),
        (None, true) => reply.null_array(),
        (Some((rank, _)), false) => reply.count(rank),
        (Some((rank, score)), true) => {
            reply.array(2);
            reply.count(rank);
            reply.double(score);
        }
    }
    Ok(())
}

pub(crate) fn zpopmin(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    pop(txn, args, false, reply)
}

pub(crate) fn zpopmax(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    pop(txn, args, true, reply)
}

fn pop(txn: &mut Txn<'_>, args: &[&[u8]], highest: bool, reply: &mut ReplyBuf) -> Outcome {
    let [_, key, options @ ..] = args else { return Err(CommandError::Syntax) };
    let count = match options {
        [] => None,
        [count] => Some(positive(count)?),
        _ => return Err(CommandError::Syntax),
    };
    let key = txn.key(key);
    let popped = take(txn, &key, count.unwrap_or(1), highest)?;
    // One pair stands alone if no count was given; RESP3 nests pairs if one was.
    reply_scored(
        popped.iter().map(|(member, score)| (member.as_slice(), *score)),
        popped.len(),
        count.is_some(),
        reply,
    );
    Ok(())
}

/// Takes out up to `count` members, the lowest first or the highest first.
pub(super) fn take(
    txn: &mut Txn<'_>,
    key: &Key<'_>,
    count: usize,
    highest: bool,
) -> Result<Vec<(Vec<u8>, f64)>, CommandError> {
    let popped: Vec<(Vec<u8>, f64)> = match txn.sorted_set(key)? {
        None => Vec::new(),
        Some(set) => {
            let wanted = count.min(set.len());
            let range = if highest { set.len() - wanted..set.len() } else { 0..wanted };
            set.range(range.start, range.end, highest).map(|(member, score)| (member.to_vec(), score)).collect()
        }
    };
    for (member, _) in &popped {
        txn.apply(key, &Change::ZDel { member });
    }
    Ok(popped)
}

/// Members with their scores: flat, or as pairs if `nest` and the protocol is RESP3.
pub(super) fn reply_scored<'a>(
    scored: impl Iterator<Item = (&'a [u8], f64)>,
    len: usize,
    nest: bool,
    reply: &mut ReplyBuf,
) {
    let nested = nest && reply.protocol() == Protocol::Resp3;
    reply.array(if nested { len } else { len * 2 });
    for (member, score) in scored {
        if nested {
            reply.array(2);
        }
        reply.bulk(member);
        reply.double(score);
    }
}

pub(crate) fn zrandmember(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, options @ ..] = args else { return Err(CommandError::Syntax) };
    let (count, with_scores) = match options {
        [] => (None, false),
        [count] => (Some(random_count(count)?), false),
        [count, word] if is(word, "WITHSCORES") => (Some(random_pair_count(count)?), true),
        _ => return Err(CommandError::Syntax),
    };
    let key = txn.key(key);
    let mut rng = txn.rng();
    let set = txn.sorted_set(&key)?;
    let Some(count) = count else {
        match set.and_then(|set| set.sample(&mut rng)) {
            Some((member, _)) => reply.bulk(member),
            None => reply.null(),
        }
        return Ok(());
    };
    let Some(set) = set else {
        reply.array(0);
        return Ok(());
    };
    let wanted = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    let chosen: Vec<(&[u8], f64)> = if count < 0 {
        let wanted = wanted.min(super::hashes::RANDOM_COUNT_MAX);
        (0..wanted).filter_map(|_| set.sample(&mut rng)).collect()
    } else {
        super::sets::choose(set.iter(), set.len(), wanted, &mut rng)
    };
    if with_scores {
        reply_scored(chosen.iter().copied(), chosen.len(), true, reply);
    } else {
        reply.array(chosen.len());
        chosen.iter().for_each(|(member, _)| reply.bulk(member));
    }
    Ok(())
}

fn score_of(txn: &mut Txn<'_>, key: &Key<'_>, member: &[u8]) -> Result<Option<f64>, CommandError> {
    let seed = txn.engine.seed;
    Ok(txn.sorted_set(key)?.and_then(|set| set.score(seed, member)))
}
