//! Sorted sets made of several: unions, intersections, differences. Plain sets take part with a score of 1 for each member.

use std::collections::BTreeMap;

use super::options::{int, is};
use super::sorted_set_ranges::store;
use super::sorted_sets::reply_scored;
use super::{CommandError, Outcome};
use crate::engine::Txn;
use crate::keyspace::{Entry, Seed, ValueRef};
use crate::resp::{ReplyBuf, parse_double};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Union,
    Intersection,
    Difference,
}

/// What becomes of the scores of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    /// Infinities that cancel each other out make 0.
    fn of(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Sum => zero_if_nan(a + b),
            Self::Min => {
                if b < a {
                    b
                } else {
                    a
                }
            }
            Self::Max => {
                if b > a {
                    b
                } else {
                    a
                }
            }
        }
    }
}

fn zero_if_nan(score: f64) -> f64 {
    if score.is_nan() { 0.0 } else { score }
}

pub(crate) fn zunion(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    reply_combined(txn, args, Operation::Union, "zunion", reply)
}

pub(crate) fn zinter(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    reply_combined(txn, args, Operation::Intersection, "zinter", reply)
}

pub(crate) fn zdiff(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    reply_combined(txn, args, Operation::Difference, "zdiff", reply)
}

pub(crate) fn zunionstore(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    store_combined(txn, args, Operation::Union, "zunionstore", reply)
}

pub(crate) fn zinterstore(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    store_combined(txn, args, Operation::Intersection, "zinterstore", reply)
}

pub(crate) fn zdiffstore(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    store_combined(txn, args, Operation::Difference, "zdiffstore", reply)
}

fn reply_combined(
    txn: &mut Txn<'_>,
    args: &[&[u8]],
    operation: Operation,
    command: &'static str,
    reply: &mut ReplyBuf,
) -> Outcome {
    let [_, rest @ ..] = args else { return Err(CommandError::Syntax) };
    let request = Request::parse(txn, rest, operation, command, true)?;
    let members = combine(txn, &request)?;
    if request.with_scores {
        reply_scored(members.iter().map(|(m, score)| (m.as_slice(), *score)), members.len(), true, reply);
    } else {
        reply.array(members.len());
        members.iter().for_each(|(member, _)| reply.bulk(member));
    }
    Ok(())
}

fn store_combined(
    txn: &mut Txn<'_>,
    args: &[&[u8]],
    operation: Operation,
    command: &'static str,
    reply: &mut ReplyBuf,
) -> Outcome {
    let [_, to, rest @ ..] = args else { return Err(CommandError::Syntax) };
    let request = Request::parse(txn, rest, operation, command, false)?;
    let members = combine(txn, &request)?;
    let to = txn.key(to);
    store(txn, &to, &members);
    reply.count(members.len());
    Ok(())
}

pub(crate) fn zintercard(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, rest @ ..] = args else { return Err(CommandError::Syntax) };
    let (keys, options) = counted_keys(rest, "zintercard")?;
    check_types(txn, keys)?;
    let mut limit = usize::MAX;
    let mut rest = options;
    loop {
        rest = match rest {
            [] => break,
            [word, number, behind @ ..] if is(word, "LIMIT") => {
                let wrong = || CommandError::Other("ERR LIMIT can't be negative");
                let number = int(number).ok().and_then(|n| usize::try_from(n).ok()).ok_or_else(wrong)?;
                limit = if number == 0 { usize::MAX } else { number };
                behind
            }
            _ => return Err(CommandError::Syntax),
        }
    }
    let weights = vec![1.0; keys.len()];
    let request =
        Request { keys, weights, operation: Operation::Intersection, aggregate: Aggregate::Sum, with_scores: false };
    reply.count(combine(txn, &request)?.len().min(limit));
    Ok(())
}

struct Request<'a, 'b> {
    keys: &'b [&'a [u8]],
    /// One a key.
    weights: Vec<f64>,
    operation: Operation,
    aggregate: Aggregate,
    with_scores: bool,
}

impl<'a, 'b> Request<'a, 'b> {
    /// Reads what follows the name, or the destination.
    fn parse(
        txn: &mut Txn<'_>,
        rest: &'b [&'a [u8]],
        operation: Operation,
        command: &'static str,
        replies: bool,
    ) -> Result<Self, CommandError> {
        let (keys, mut rest) = counted_keys(rest, command)?;
        check_types(txn, keys)?;
        let (mut weights, mut aggregate, mut with_scores) = (vec![1.0; keys.len()], Aggregate::Sum, false);
        let aggregates = operation != Operation::Difference;
        loop {
            rest = match rest {
                [] => return Ok(Self { keys, weights, operation, aggregate, with_scores }),
                [word, behind @ ..] if aggregates && is(word, "WEIGHTS") && behind.len() >= keys.len() => {
                    let (given, behind) = behind.split_at_checked(keys.len()).ok_or(CommandError::Syntax)?;
                    let wrong = CommandError::Other("ERR weight value is not a float");
                    let given: Option<Vec<f64>> = given.iter().map(|text| parse_double(text)).collect();
                    weights = given.ok_or(wrong)?;
                    behind
                }
                [word, kind, behind @ ..] if aggregates && is(word, "AGGREGATE") => {
                    aggregate = match () {
                        () if is(kind, "SUM") => Aggregate::Sum,
                        () if is(kind, "MIN") => Aggregate::Min,
                        () if is(kind, "MAX") => Aggregate::Max,
                        () => return Err(CommandError::Syntax),
                    };
                    behind
                }
                [word, behind @ ..] if replies && is(word, "WITHSCORES") => {
                    with_scores = true;
                    behind
                }
                _ => return Err(CommandError::Syntax),
            }
        }
    }
}

type Words<'a, 'b> = &'b [&'a [u8]];

/// The keys behind their number, and what follows them.
fn counted_keys<'a, 'b>(
    rest: &'b [&'a [u8]],
    command: &'static str,
) -> Result<(Words<'a, 'b>, Words<'a, 'b>), CommandError> {
    let (count, rest) = rest.split_first().ok_or(CommandError::Syntax)?;
    let count = usize::try_from(int(count)?).ok().filter(|count| *count > 0);
    let none = || CommandError::Said(format!("ERR at least 1 input key is needed for '{command}' command"));
    rest.split_at_checked(count.ok_or_else(none)?).ok_or(CommandError::Syntax)
}

/// Every key must hold a sorted set or a set; this is found out before the options are read.
fn check_types(txn: &mut Txn<'_>, keys: &[&[u8]]) -> Result<(), CommandError> {
    for key in keys {
        let key = txn.key(key);
        match txn.entry(&key).map(Entry::value) {
            None | Some(ValueRef::Set(_) | ValueRef::SortedSet(_)) => {}
            Some(_) => return Err(CommandError::WrongType),
        }
    }
    Ok(())
}

/// The members of one key with their scores.
struct Source<'a> {
    value: Option<ValueRef<'a>>,
    weight: f64,
}

impl<'a> Source<'a> {
    fn len(&self) -> usize {
        match self.value {
            Some(ValueRef::Set(set)) => set.len(),
            Some(ValueRef::SortedSet(set)) => set.len(),
            _ => 0,
        }
    }

    fn weighted(&self, score: f64) -> f64 {
        zero_if_nan(self.weight * score)
    }

    /// A member's score times the weight, which may be no number.
    fn score(&self, seed: Seed, member: &[u8]) -> Option<f64> {
        let score = match self.value? {
            ValueRef::Set(set) => set.contains(seed, member).then_some(1.0),
            ValueRef::SortedSet(set) => set.score(seed, member),
            _ => None,
        };
        score.map(|score| self.weight * score)
    }

    fn iter(&self) -> Box<dyn Iterator<Item = (&'a [u8], f64)> + '_> {
        match self.value {
            Some(ValueRef::Set(set)) => Box::new(set.iter().map(|member| (member, self.weighted(1.0)))),
            Some(ValueRef::SortedSet(set)) => {
                Box::new(set.iter().map(|(member, score)| (member, self.weighted(score))))
            }
            _ => Box::new(std::iter::empty()),
        }
    }
}

/// The resulting members in the order of (score, member).
fn combine(txn: &Txn<'_>, request: &Request<'_, '_>) -> Result<Vec<(Vec<u8>, f64)>, CommandError> {
    let seed = txn.engine.seed;
    let sources = request.keys.iter().zip(&request.weights);
    let mut sources: Vec<Source<'_>> = sources
        .map(|(key, weight)| Source { value: txn.peek(&txn.key(key)).map(Entry::value), weight: *weight })
        .collect();
    if request.operation != Operation::Difference {
        // Smallest first, as in Valkey: doubles do not add up to the same in every order.
        sources.sort_by_key(Source::len);
    }
    let Some((first, others)) = sources.split_first() else { return Ok(Vec::new()) };
    let aggregate = request.aggregate;
    let mut members: Vec<(Vec<u8>, f64)> = match request.operation {
        Operation::Union => {
            let mut union = BTreeMap::<&[u8], f64>::new();
            for (member, score) in sources.iter().flat_map(Source::iter) {
                union.entry(member).and_modify(|sum| *sum = aggregate.of(*sum, score)).or_insert(score);
            }
            union.into_iter().map(|(member, score)| (member.to_vec(), score)).collect()
        }
        Operation::Intersection => first
            .iter()
            .filter_map(|(member, score)| {
                let all = others.iter().try_fold(score, |sum, other| {
                    // The same key may be named twice.
                    Some(aggregate.of(sum, other.score(seed, member)?))
                })?;
                Some((member.to_vec(), all))
            })
            .collect(),
        Operation::Difference => first
            .iter()
            .filter(|(member, _)| others.iter().all(|other| other.score(seed, member).is_none()))
            .map(|(member, score)| (member.to_vec(), score))
            .collect(),
    };
    members.sort_by(|a, b| a.1.partial_cmp(&b.1).unwrap_or(std::cmp::Ordering::Equal).then_with(|| a.0.cmp(&b.0)));
    Ok(members)
}
