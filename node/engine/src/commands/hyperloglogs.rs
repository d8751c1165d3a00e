//! HyperLogLogs: counting different elements in 12 KB at most. They are strings to all other commands.

use super::bits::string;
use super::{CommandError, Outcome};
use crate::engine::Txn;
use crate::hyperloglog::{Corrupt, HyperLogLog, Registers};
use crate::keyspace::Key;
use crate::record::Change;
use crate::resp::ReplyBuf;

/// Differences of a value that are closer than this are recorded as one.
const GAP_BYTES_MAX: usize = 8;

impl From<Corrupt> for CommandError {
    fn from(_: Corrupt) -> Self {
        Self::Other("INVALIDOBJ Corrupted HLL object detected")
    }
}

pub(crate) fn pfadd(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, elements @ ..] = args else { return Err(CommandError::Syntax) };
    let key = txn.key(key);
    let before = read(txn, &key)?;
    let mut after = before.clone().unwrap_or_default();
    let mut changed = before.is_none();
    let added: Result<(), Corrupt> = elements.iter().try_for_each(|element| {
        changed |= after.add(element)?;
        Ok(())
    });
    // What was added before damage was noticed stays, as in Valkey.
    if changed {
        after.note_change();
        write(txn, &key, before.as_ref(), &after);
    }
    added?;
    reply.integer(i64::from(changed));
    Ok(())
}

/// The estimate is worked out anew each time: a read must not write it into the value, as copies serve reads too.
pub(crate) fn pfcount(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, keys @ ..] = args else { return Err(CommandError::Syntax) };
    let mut registers = Registers::default();
    for key in keys {
        let key = txn.key(key);
        if let Some(value) = read(txn, &key)? {
            registers.raise_all(&value)?;
        }
    }
    reply.integer(i64::try_from(registers.estimate()).unwrap_or(i64::MAX));
    Ok(())
}

pub(crate) fn pfmerge(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, keys @ ..] = args else { return Err(CommandError::Syntax) };
    let (mut registers, mut any_dense) = (Registers::default(), false);
    for key in keys {
        let key = txn.key(key);
        if let Some(value) = read(txn, &key)? {
            any_dense |= value.is_dense();
            registers.raise_all(&value)?;
        }
    }
    let [to, ..] = keys else { return Err(CommandError::Syntax) };
    let to = txn.key(to);
    let before = read(txn, &to)?;
    let mut after = before.clone().unwrap_or_default();
    if any_dense {
        after.make_dense()?;
    }
    after.merge(&registers)?;
    write(txn, &to, before.as_ref(), &after);
    reply.ok();
    Ok(())
}

fn read(txn: &mut Txn<'_>, key: &Key<'_>) -> Result<Option<HyperLogLog>, CommandError> {
    if txn.entry(key).is_none() {
        return Ok(None);
    }
    let wrong = CommandError::Other("WRONGTYPE Key is not a valid HyperLogLog string value.");
    HyperLogLog::from_bytes(string(txn, key)?).map(Some).ok_or(wrong)
}

/// Records only the bytes that differ where the length did not change: a dense value has 12 KB.
fn write(txn: &mut Txn<'_>, key: &Key<'_>, before: Option<&HyperLogLog>, after: &HyperLogLog) {
    let after = after.as_bytes();
    let before = before.map(HyperLogLog::as_bytes).filter(|before| before.len() == after.len());
    let Some(before) = before else {
        let expires_at = txn.peek(key).and_then(|entry| entry.expires_at());
        return txn.apply(key, &Change::Put { value: after, expires_at });
    };
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for (at, _) in before.iter().zip(after).enumerate().filter(|(_, (a, b))| a != b) {
        match runs.last_mut() {
            Some(run) if at - run.end <= GAP_BYTES_MAX => run.end = at + 1,
            _ => runs.push(at..at + 1),
        }
    }
    for run in runs {
        let offset = run.start as u64;
        txn.apply(key, &Change::Splice { offset, bytes: after.get(run).unwrap_or_default() });
    }
}
