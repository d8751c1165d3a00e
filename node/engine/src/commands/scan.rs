//! SCAN and its kin.
//!
//! A cursor is a place in hash order: of SCAN, the slot's 14 bits over the top 39 bits of the hash; of the others, those 39 bits. So a cursor
//! stays true whatever the tables do meanwhile, and fits a JavaScript number. 0 begins and ends.

use std::ops::ControlFlow;

use ringmaster_ring::{SLOT_COUNT, Slot};

use super::options::{int, is, unsigned};
use super::{CommandError, Outcome, glob};
use crate::engine::Txn;
use crate::keyspace::{Kind, LANE_COUNT, SCAN_SHIFT, SLOTS_PER_LANE, lane_of};
use crate::resp::{ReplyBuf, text_of, write_double};

const PREFIX_BITS: u32 = u64::BITS - SCAN_SHIFT;
const COUNT_DEFAULT: usize = 10;

pub(crate) fn scan(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, cursor, options @ ..] = args else { return Err(CommandError::Syntax) };
    let cursor = parse_cursor(cursor)?;
    let options = ScanOptions::parse(options, ScanOf::Keys)?;
    let slot = u16::try_from(cursor >> PREFIX_BITS).ok().and_then(Slot::new);
    let (db, now, seed) = (txn.db, txn.now, txn.engine.seed);
    let mut found: Vec<Box<[u8]>> = Vec::new();
    let mut next = 0;
    if let Some(first) = slot {
        let (mut number, mut from) = (first.number(), cursor << SCAN_SHIFT);
        let mut left = options.count;
        txn.visit_lanes(lane_of(first), |lane_number, lane| {
            let lane_end = ((lane_number + 1).min(LANE_COUNT) * SLOTS_PER_LANE) as u16;
            while number < lane_end {
                let entries = Slot::new(number).and_then(|slot| lane.entries(slot));
                let stopped = entries.filter(|entries| !entries.is_empty()).and_then(|entries| {
                    entries.scan(seed, from, left, |entry| {
                        left = left.saturating_sub(1);
                        let wanted = entry.db() == db
                            && !entry.is_expired(now)
                            && options.kind.is_none_or(|kind| entry.value().kind() == kind)
                            && options.matches(entry.key());
                        if wanted {
                            found.push(entry.key().into());
                        }
                    })
                });
                if let Some(hash) = stopped {
                    next = u64::from(number) << PREFIX_BITS | hash >> SCAN_SHIFT;
                    return ControlFlow::Break(());
                }
                (number, from) = (number + 1, 0);
                if left == 0 && number < SLOT_COUNT {
                    next = u64::from(number) << PREFIX_BITS;
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
    }
    reply.array(2);
    reply.bulk(next.to_string().as_bytes());
    reply.array(found.len());
    found.iter().for_each(|key| reply.bulk(key));
    Ok(())
}

pub(crate) fn hscan(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, cursor, options @ ..] = args else { return Err(CommandError::Syntax) };
    let from = parse_cursor(cursor)? << SCAN_SHIFT;
    let (key, seed) = (txn.key(key), txn.engine.seed);
    let mut bytes = Vec::new();
    let Some(hash) = txn.hash(&key)? else { return reply_elements(None, &[], reply) };
    let options = ScanOptions::parse(options, ScanOf::Fields)?;
    let next = hash.scan(seed, from, options.count, |field, value| {
        if options.matches(field) {
            bytes.push(field.to_vec());
            if !options.no_values {
                bytes.push(value.to_vec());
            }
        }
    });
    reply_elements(next, &bytes, reply)
}

pub(crate) fn sscan(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, cursor, options @ ..] = args else { return Err(CommandError::Syntax) };
    let from = parse_cursor(cursor)? << SCAN_SHIFT;
    let (key, seed) = (txn.key(key), txn.engine.seed);
    let mut bytes = Vec::new();
    let Some(set) = txn.set(&key)? else { return reply_elements(None, &[], reply) };
    let options = ScanOptions::parse(options, ScanOf::Members)?;
    let next = set.scan(seed, from, options.count, |member| {
        if options.matches(member) {
            bytes.push(member.to_vec());
        }
    });
    reply_elements(next, &bytes, reply)
}

pub(crate) fn zscan(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, cursor, options @ ..] = args else { return Err(CommandError::Syntax) };
    let from = parse_cursor(cursor)? << SCAN_SHIFT;
    let (key, seed) = (txn.key(key), txn.engine.seed);
    let mut bytes = Vec::new();
    let Some(set) = txn.sorted_set(&key)? else { return reply_elements(None, &[], reply) };
    let options = ScanOptions::parse(options, ScanOf::Members)?;
    let next = set.scan(seed, from, options.count, |member, score| {
        if options.matches(member) {
            let mut text = Vec::new();
            write_double(score, &mut text);
            bytes.extend([member.to_vec(), text]);
        }
    });
    reply_elements(next, &bytes, reply)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ScanOf {
    Keys,
    Fields,
    Members,
}

struct ScanOptions<'a> {
    pattern: Option<&'a [u8]>,
    count: usize,
    kind: Option<Kind>,
    no_values: bool,
}

impl<'a> ScanOptions<'a> {
    fn parse(mut rest: &[&'a [u8]], of: ScanOf) -> Result<Self, CommandError> {
        let mut options = Self { pattern: None, count: COUNT_DEFAULT, kind: None, no_values: false };
        loop {
            rest = match rest {
                [] => return Ok(options),
                [word, value, behind @ ..] if is(word, "MATCH") => {
                    options.pattern = Some(value);
                    behind
                }
                [word, value, behind @ ..] if is(word, "COUNT") => {
                    let count = int(value)?;
                    options.count = usize::try_from(count).ok().filter(|&n| n > 0).ok_or(CommandError::Syntax)?;
                    behind
                }
                [word, value, behind @ ..] if is(word, "TYPE") && of == ScanOf::Keys => {
                    let kind = Kind::ALL.into_iter().find(|kind| is(value, kind.name()));
                    let unknown = || CommandError::UnknownType(text_of(value));
                    options.kind = Some(kind.ok_or_else(unknown)?);
                    behind
                }
                [word, behind @ ..] if is(word, "NOVALUES") && of == ScanOf::Fields => {
                    options.no_values = true;
                    behind
                }
                _ => return Err(CommandError::Syntax),
            }
        }
    }

    fn matches(&self, text: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob::matches(pattern, text))
    }
}

fn parse_cursor(arg: &[u8]) -> Result<u64, CommandError> {
    unsigned(arg).ok_or(CommandError::InvalidCursor)
}

fn reply_elements(next: Option<u64>, elements: &[Vec<u8>], reply: &mut ReplyBuf) -> Outcome {
    reply.array(2);
    reply.bulk((next.unwrap_or(0) >> SCAN_SHIFT).to_string().as_bytes());
    reply.array(elements.len());
    elements.iter().for_each(|element| reply.bulk(element));
    Ok(())
}
