//! DUMP and RESTORE: a key's value as bytes that other servers and tools read, and back.

use super::options::{int, is};
use super::{CommandError, Outcome};
use crate::engine::Txn;
use crate::keyspace::Usage;
use crate::rdb;
use crate::record::{Change, Effect, RecordWriter, effects};
use crate::resp::ReplyBuf;
use crate::time::UnixMs;

pub(crate) fn dump(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key] = args else { return Err(CommandError::Syntax) };
    match txn.peek(&txn.key(key)) {
        Some(entry) => reply.bulk(&rdb::dump(entry.value())),
        None => reply.null(),
    }
    Ok(())
}

#[derive(Debug, Default)]
struct RestoreOptions {
    replace: bool,
    absolute: bool,
    idle_s: Option<u64>,
    frequency: Option<u8>,
}

impl RestoreOptions {
    fn parse(mut rest: &[&[u8]]) -> Result<Self, CommandError> {
        let mut options = Self::default();
        loop {
            rest = match rest {
                [] => return Ok(options),
                [word, behind @ ..] if is(word, "REPLACE") => {
                    options.replace = true;
                    behind
                }
                [word, behind @ ..] if is(word, "ABSTTL") => {
                    options.absolute = true;
                    behind
                }
                [word, seconds, behind @ ..] if is(word, "IDLETIME") && options.frequency.is_none() => {
                    let wrong = |_| CommandError::Other("ERR Invalid IDLETIME value, must be >= 0");
                    options.idle_s = Some(u64::try_from(int(seconds)?).map_err(wrong)?);
                    behind
                }
                [word, frequency, behind @ ..] if is(word, "FREQ") && options.idle_s.is_none() => {
                    let wrong = |_| CommandError::Other("ERR Invalid FREQ value, must be >= 0 and <= 255");
                    options.frequency = Some(u8::try_from(int(frequency)?).map_err(wrong)?);
                    behind
                }
                _ => return Err(CommandError::Syntax),
            }
        }
    }
}

pub(crate) fn restore(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, ttl, payload, options @ ..] = args else { return Err(CommandError::Syntax) };
    let options = RestoreOptions::parse(options)?;
    let key = txn.key(key);
    let is_there = txn.peek(&key).is_some();
    if is_there && !options.replace {
        return Err(CommandError::Other("BUSYKEY Target key name already exists."));
    }
    let wrong = |_| CommandError::Other("ERR Invalid TTL value, must be >= 0");
    let ttl = u64::try_from(int(ttl)?).map_err(wrong)?;
    // All of it is read before anything is changed.
    let mut description = RecordWriter::default();
    rdb::restore(payload, &mut |change| description.push(&Effect::Keyed { db: key.db, key: key.bytes, change }))
        .map_err(|error| CommandError::Said(error.to_string()))?;
    if is_there {
        txn.apply(&key, &Change::Del);
    }
    let now = txn.now;
    let at = match ttl {
        0 => None,
        _ if options.absolute => Some(UnixMs(ttl)),
        _ => Some(UnixMs(now.0.saturating_add(ttl))),
    };
    if at.is_none_or(|at| at > now) {
        for effect in effects(description.content()) {
            if let Ok(Effect::Keyed { change, .. }) = effect {
                txn.apply(&key, &change);
            }
        }
        if at.is_some() {
            txn.apply(&key, &Change::Expire { at });
        }
        let counts_frequency = txn.eviction(&key).counts_frequency();
        match options {
            RestoreOptions { idle_s: Some(idle_s), .. } if !counts_frequency => {
                txn.set_usage(&key, Usage::idle_since(now, idle_s));
            }
            RestoreOptions { frequency: Some(frequency), .. } if counts_frequency => {
                txn.set_usage(&key, Usage::with_frequency(now, frequency));
            }
            _ => {}
        }
    }
    reply.ok();
    Ok(())
}
