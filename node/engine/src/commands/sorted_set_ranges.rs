//! Sorted sets: ranges by rank, by score and by member. Each becomes a range of ranks first.

use std::ops::Range;

use super::options::{int, is, rank_range};
use super::sorted_sets::reply_scored;
use super::{CommandError, Outcome};
use crate::engine::Txn;
use crate::keyspace::{Key, SortedSet};
use crate::record::Change;
use crate::resp::{ReplyBuf, parse_double};

/// A stretch of a sorted set, as a command gives it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stretch<'a> {
    Ranks(i64, i64),
    Scores(ScoreBound, ScoreBound),
    Members(MemberBound<'a>, MemberBound<'a>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct ScoreBound {
    score: f64,
    exclusive: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum MemberBound<'a> {
    BeforeAll,
    Including(&'a [u8]),
    Excluding(&'a [u8]),
    AfterAll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Member,
}

impl<'a> Stretch<'a> {
    fn parse(by: By, low: &'a [u8], high: &'a [u8]) -> Result<Self, CommandError> {
        Ok(match by {
            By::Rank => Self::Ranks(int(low)?, int(high)?),
            By::Score => Self::Scores(ScoreBound::parse(low)?, ScoreBound::parse(high)?),
            By::Member => Self::Members(MemberBound::parse(low)?, MemberBound::parse(high)?),
        })
    }

    /// The ranks of what lies in the stretch. Ranks given by the client count from the end if `reverse`.
    fn ranks(&self, set: &SortedSet, reverse: bool) -> Range<usize> {
        let (start, end) = match *self {
            Self::Ranks(start, end) => {
                let range = rank_range(start, end, set.len());
                return if reverse { set.len() - range.end..set.len() - range.start } else { range };
            }
            Self::Scores(low, high) => (
                set.partition_point(|score, _| if low.exclusive { score <= low.score } else { score < low.score }),
                set.partition_point(|score, _| if high.exclusive { score < high.score } else { score <= high.score }),
            ),
            Self::Members(low, high) => (
                set.partition_point(|_, member| match low {
                    MemberBound::BeforeAll => false,
                    MemberBound::Including(bound) => member < bound,
                    MemberBound::Excluding(bound) => member <= bound,
                    MemberBound::AfterAll => true,
                }),
                set.partition_point(|_, member| match high {
                    MemberBound::BeforeAll => false,
                    MemberBound::Including(bound) => member <= bound,
                    MemberBound::Excluding(bound) => member < bound,
                    MemberBound::AfterAll => true,
                }),
            ),
        };
        start..end.max(start)
    }
}

impl ScoreBound {
    fn parse(text: &[u8]) -> Result<Self, CommandError> {
        let (exclusive, number) = match text {
            [b'(', number @ ..] => (true, number),
            _ => (false, text),
        };
        // No number at all is 0, as for `strtod`.
        let score = if number.is_empty() { Some(0.0) } else { parse_double(number) };
        let score = score.ok_or(CommandError::NotFloatRange)?;
        Ok(Self { score, exclusive })
    }
}

impl<'a> MemberBound<'a> {
    fn parse(text: &'a [u8]) -> Result<Self, CommandError> {
        match text {
            b"-" => Ok(Self::BeforeAll),
            b"+" => Ok(Self::AfterAll),
            [b'[', member @ ..] => Ok(Self::Including(member)),
            [b'(', member @ ..] => Ok(Self::Excluding(member)),
            _ => Err(CommandError::NotLexRange),
        }
    }
}

pub(crate) fn zrange(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, low, high, options @ ..] = args else { return Err(CommandError::Syntax) };
    let options = RangeOptions::parse(options, OptionsOf::Zrange)?;
    reply_range(txn, key, (low, high), &options, reply)
}

pub(crate) fn zrangestore(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, to, from, first, last, options @ ..] = args else { return Err(CommandError::Syntax) };
    let options = RangeOptions::parse(options, OptionsOf::Zrangestore)?;
    let stretch = options.stretch(first, last)?;
    let (from, to) = (txn.key(from), txn.key(to));
    let members: Vec<(Vec<u8>, f64)> = match txn.sorted_set(&from)? {
        None => Vec::new(),
        Some(set) => {
            let ranks = options.cut(stretch.ranks(set, options.reverse));
            set.range(ranks.start, ranks.end, false).map(|(member, score)| (member.to_vec(), score)).collect()
        }
    };
    store(txn, &to, &members);
    reply.count(members.len());
    Ok(())
}

/// Makes a key hold these members and nothing else.
pub(super) fn store(txn: &mut Txn<'_>, to: &Key<'_>, members: &[(Vec<u8>, f64)]) {
    if txn.peek(to).is_some() {
        txn.apply(to, &Change::Del);
    }
    for (member, score) in members {
        txn.apply(to, &Change::ZSet { member, score: *score });
    }
}

pub(crate) fn zrevrange(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    range_of(txn, args, By::Rank, true, reply)
}

pub(crate) fn zrangebyscore(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    range_of(txn, args, By::Score, false, reply)
}

pub(crate) fn zrevrangebyscore(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    range_of(txn, args, By::Score, true, reply)
}

pub(crate) fn zrangebylex(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    range_of(txn, args, By::Member, false, reply)
}

pub(crate) fn zrevrangebylex(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    range_of(txn, args, By::Member, true, reply)
}

/// One of the older commands, whose name says what ZRANGE's options say.
fn range_of(txn: &mut Txn<'_>, args: &[&[u8]], by: By, reverse: bool, reply: &mut ReplyBuf) -> Outcome {
    let [_, key, low, high, options @ ..] = args else { return Err(CommandError::Syntax) };
    let options = RangeOptions { reverse, ..RangeOptions::parse(options, OptionsOf::Older(by))? };
    reply_range(txn, key, (low, high), &options, reply)
}

#[derive(Debug)]
struct RangeOptions {
    by: By,
    reverse: bool,
    /// Offset and count; a negative count means all.
    limit: Option<(i64, i64)>,
    with_scores: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum OptionsOf {
    Zrange,
    Zrangestore,
    Older(By),
}

impl RangeOptions {
    fn parse(mut rest: &[&[u8]], of: OptionsOf) -> Result<Self, CommandError> {
        let (by, is_older) = if let OptionsOf::Older(by) = of { (by, true) } else { (By::Rank, false) };
        let mut options = Self { by, reverse: false, limit: None, with_scores: false };
        loop {
            rest = match rest {
                [] => break,
                [word, behind @ ..] if of != OptionsOf::Zrangestore && is(word, "WITHSCORES") => {
                    options.with_scores = true;
                    behind
                }
                [word, offset, count, behind @ ..] if is(word, "LIMIT") => {
                    options.limit = Some((int(offset)?, int(count)?));
                    behind
                }
                [word, behind @ ..] if !is_older && is(word, "REV") => {
                    options.reverse = true;
                    behind
                }
                [word, behind @ ..] if !is_older && is(word, "BYSCORE") => {
                    options.by = By::Score;
                    behind
                }
                [word, behind @ ..] if !is_older && is(word, "BYLEX") => {
                    options.by = By::Member;
                    behind
                }
                _ => return Err(CommandError::Syntax),
            }
        }
        // All that there are is no limit, as in Valkey, wherever it begins.
        if options.by == By::Rank && options.limit.take().is_some_and(|(_, count)| count != -1) {
            return Err(CommandError::Other(
                "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX",
            ));
        }
        if options.with_scores && options.by == By::Member {
            return Err(if is_older {
                CommandError::Syntax
            } else {
                CommandError::Other("ERR syntax error, WITHSCORES not supported in combination with BYLEX")
            });
        }
        Ok(options)
    }

    /// Backwards, scores and members are given highest first; ranks are not.
    fn stretch<'a>(&self, first: &'a [u8], last: &'a [u8]) -> Result<Stretch<'a>, CommandError> {
        let swapped = self.reverse && self.by != By::Rank;
        let (low, high) = if swapped { (last, first) } else { (first, last) };
        Stretch::parse(self.by, low, high)
    }

    /// Cuts a range of ranks to the limit, which counts from the end that the reply begins with.
    fn cut(&self, ranks: Range<usize>) -> Range<usize> {
        let Some((offset, count)) = self.limit else { return ranks };
        let Ok(offset) = usize::try_from(offset) else { return 0..0 };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let Range { start, end } = ranks;
        let skipped = offset.min(end - start);
        let taken = count.min(end - start - skipped);
        if self.reverse { end - skipped - taken..end - skipped } else { start + skipped..start + skipped + taken }
    }
}

fn reply_range(
    txn: &mut Txn<'_>,
    key: &[u8],
    (first, last): (&[u8], &[u8]),
    options: &RangeOptions,
    reply: &mut ReplyBuf,
) -> Outcome {
    let stretch = options.stretch(first, last)?;
    let key = txn.key(key);
    let Some(set) = txn.sorted_set(&key)? else {
        reply.array(0);
        return Ok(());
    };
    let ranks = options.cut(stretch.ranks(set, options.reverse));
    let members = set.range(ranks.start, ranks.end, options.reverse);
    if options.with_scores {
        reply_scored(members, ranks.len(), true, reply);
    } else {
        reply.array(ranks.len());
        members.for_each(|(member, _)| reply.bulk(member));
    }
    Ok(())
}

pub(crate) fn zcount(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    count(txn, args, By::Score, reply)
}

pub(crate) fn zlexcount(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    count(txn, args, By::Member, reply)
}

fn count(txn: &mut Txn<'_>, args: &[&[u8]], by: By, reply: &mut ReplyBuf) -> Outcome {
    let [_, key, low, high] = args else { return Err(CommandError::Syntax) };
    let stretch = Stretch::parse(by, low, high)?;
    let key = txn.key(key);
    reply.count(txn.sorted_set(&key)?.map_or(0, |set| stretch.ranks(set, false).len()));
    Ok(())
}

pub(crate) fn zremrangebyrank(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    remove(txn, args, By::Rank, reply)
}

pub(crate) fn zremrangebyscore(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    remove(txn, args, By::Score, reply)
}

pub(crate) fn zremrangebylex(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    remove(txn, args, By::Member, reply)
}

fn remove(txn: &mut Txn<'_>, args: &[&[u8]], by: By, reply: &mut ReplyBuf) -> Outcome {
    let [_, key, low, high] = args else { return Err(CommandError::Syntax) };
    let stretch = Stretch::parse(by, low, high)?;
    let key = txn.key(key);
    let doomed: Vec<Vec<u8>> = match txn.sorted_set(&key)? {
        None => Vec::new(),
        Some(set) => {
            let ranks = stretch.ranks(set, false);
            set.range(ranks.start, ranks.end, false).map(|(member, _)| member.to_vec()).collect()
        }
    };
    for member in &doomed {
        txn.apply(&key, &Change::ZDel { member });
    }
    reply.count(doomed.len());
    Ok(())
}
