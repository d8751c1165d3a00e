//! Strings as arrays of bits, counted from the most significant bit of the first byte.

use super::options::{byte_range, clamped_byte_range, int, is};
use super::strings::STRING_BYTES_MAX;
use super::{CommandError, Outcome};
use crate::engine::Txn;
use crate::keyspace::Key;
use crate::record::Change;
use crate::resp::{ReplyBuf, parse_int};

/// The bytes of a string, none if the key is absent.
pub(super) fn string(txn: &mut Txn<'_>, key: &Key<'_>) -> Result<Vec<u8>, CommandError> {
    match txn.entry(key) {
        None => Ok(Vec::new()),
        Some(entry) => entry.value().with_string(<[u8]>::to_vec).ok_or(CommandError::WrongType),
    }
}

/// As [`string`], without a copy.
fn with_string<R>(txn: &mut Txn<'_>, key: &Key<'_>, read: impl FnOnce(&[u8]) -> R) -> Result<R, CommandError> {
    match txn.entry(key) {
        None => Ok(read(&[])),
        Some(entry) => entry.value().with_string(read).ok_or(CommandError::WrongType),
    }
}

/// Where a bit is. It must be within the longest string.
fn bit_offset(arg: &[u8]) -> Result<usize, CommandError> {
    let wrong = CommandError::Other("ERR bit offset is not an integer or out of range");
    let offset = parse_int(arg).and_then(|offset| usize::try_from(offset).ok());
    offset.filter(|offset| offset / 8 < STRING_BYTES_MAX).ok_or(wrong)
}

fn bit_at(bytes: &[u8], offset: usize) -> u8 {
    bytes.get(offset / 8).map_or(0, |byte| byte >> (7 - offset % 8) & 1)
}

pub(crate) fn getbit(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, offset] = args else { return Err(CommandError::Syntax) };
    let offset = bit_offset(offset)?;
    let key = txn.key(key);
    reply.integer(i64::from(with_string(txn, &key, |bytes| bit_at(bytes, offset))?));
    Ok(())
}

pub(crate) fn setbit(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, offset, bit] = args else { return Err(CommandError::Syntax) };
    let offset = bit_offset(offset)?;
    let wrong = CommandError::Other("ERR bit is not an integer or out of range");
    let bit = parse_int(bit).and_then(|bit| u8::try_from(bit).ok()).filter(|bit| *bit <= 1).ok_or(wrong)?;
    let key = txn.key(key);
    let (old, byte, is_there) = with_string(txn, &key, |bytes| {
        let byte = bytes.get(offset / 8).copied();
        (bit_at(bytes, offset), byte.unwrap_or(0), byte.is_some())
    })?;
    if old != bit || !is_there {
        let mask = 0x80 >> (offset % 8);
        let byte = if bit == 1 { byte | mask } else { byte & !mask };
        txn.apply(&key, &Change::Splice { offset: (offset / 8) as u64, bytes: &[byte] });
    }
    reply.integer(i64::from(old));
    Ok(())
}

/// A stretch of a string in bits, from `start` up to, not including, `end`; `ranks` finds that of the bytes.
fn bit_range(
    ranks: fn(i64, i64, usize) -> std::ops::Range<usize>,
    bytes: &[u8],
    (start, end): (i64, i64),
    in_bits: bool,
) -> std::ops::Range<usize> {
    if in_bits {
        ranks(start, end, bytes.len() * 8)
    } else {
        let range = ranks(start, end, bytes.len());
        range.start * 8..range.end * 8
    }
}

/// Whether a range is said in bits (BIT) or bytes (BYTE).
fn in_bits(word: &[u8]) -> Result<bool, CommandError> {
    match () {
        () if is(word, "BIT") => Ok(true),
        () if is(word, "BYTE") => Ok(false),
        () => Err(CommandError::Syntax),
    }
}

fn count_ones(bytes: &[u8], range: std::ops::Range<usize>) -> usize {
    let (first, last) = (range.start.div_ceil(8), range.end / 8);
    if first >= last {
        return range.filter(|bit| bit_at(bytes, *bit) == 1).count();
    }
    let whole: usize = bytes.get(first..last).unwrap_or_default().iter().map(|byte| byte.count_ones() as usize).sum();
    let edges = (range.start..first * 8).chain(last * 8..range.end);
    whole + edges.filter(|bit| bit_at(bytes, *bit) == 1).count()
}

pub(crate) fn bitcount(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, options @ ..] = args else { return Err(CommandError::Syntax) };
    let (start, end, in_bits) = match options {
        [] => (0, -1, false),
        [start] => (int(start)?, -1, false),
        [start, end] => (int(start)?, int(end)?, false),
        [start, end, unit] => (int(start)?, int(end)?, in_bits(unit)?),
        _ => return Err(CommandError::Syntax),
    };
    let key = txn.key(key);
    reply
        .count(with_string(txn, &key, |bytes| count_ones(bytes, bit_range(byte_range, bytes, (start, end), in_bits)))?);
    Ok(())
}

pub(crate) fn bitpos(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, bit, options @ ..] = args else { return Err(CommandError::Syntax) };
    let bit = int(bit)?;
    let bit = u8::try_from(bit).ok().filter(|bit| *bit <= 1);
    let bit = bit.ok_or(CommandError::Other("ERR The bit argument must be 1 or 0."))?;
    let (start, end, in_bits) = match options {
        [] => (0, None, false),
        [start] => (int(start)?, None, false),
        [start, end] => (int(start)?, Some(int(end)?), false),
        [start, end, unit] => (int(start)?, Some(int(end)?), in_bits(unit)?),
        _ => return Err(CommandError::Syntax),
    };
    let key = txn.key(key);
    let is_absent = txn.entry(&key).is_none();
    let found = with_string(txn, &key, |bytes| {
        let range = bit_range(clamped_byte_range, bytes, (start, end.unwrap_or(-1)), in_bits);
        let skipped = if bit == 0 { 0xff } else { 0 };
        let (is_empty, after) = (range.is_empty(), range.end);
        let mut at = range.start;
        while at < range.end {
            // A whole byte that cannot hold it is passed over at once.
            if at.is_multiple_of(8) && at + 8 <= range.end && bytes.get(at / 8) == Some(&skipped) {
                at += 8;
            } else if bit_at(bytes, at) == bit {
                return Some(at);
            } else {
                at += 1;
            }
        }
        // Without an end, zeros go on for ever.
        (bit == 0 && end.is_none() && !is_empty).then_some(after)
    })?;
    reply.integer(match found {
        _ if is_absent => -i64::from(bit),
        Some(at) => i64::try_from(at).unwrap_or(i64::MAX),
        None => -1,
    });
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Combination {
    And,
    Or,
    Xor,
    Not,
}

pub(crate) fn bitop(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, operation, to, keys @ ..] = args else { return Err(CommandError::Syntax) };
    let operation = match () {
        () if is(operation, "AND") => Combination::And,
        () if is(operation, "OR") => Combination::Or,
        () if is(operation, "XOR") => Combination::Xor,
        () if is(operation, "NOT") => Combination::Not,
        () => return Err(CommandError::Syntax),
    };
    if operation == Combination::Not && keys.len() != 1 {
        return Err(CommandError::Other("ERR BITOP NOT must be called with a single source key."));
    }
    let sources: Vec<Vec<u8>> =
        keys.iter().map(|key| string(txn, &txn.key(key))).collect::<Result<_, CommandError>>()?;
    let len = sources.iter().map(Vec::len).max().unwrap_or(0);
    let result: Vec<u8> = (0..len)
        .map(|at| {
            let mut bytes = sources.iter().map(|source| source.get(at).copied().unwrap_or(0));
            let first = bytes.next().unwrap_or(0);
            match operation {
                Combination::And => bytes.fold(first, |a, b| a & b),
                Combination::Or => bytes.fold(first, |a, b| a | b),
                Combination::Xor => bytes.fold(first, |a, b| a ^ b),
                Combination::Not => !first,
            }
        })
        .collect();
    let to = txn.key(to);
    if len > 0 {
        txn.apply(&to, &Change::Put { value: &result, expires_at: None });
    } else if txn.peek(&to).is_some() {
        txn.apply(&to, &Change::Del);
    }
    reply.count(len);
    Ok(())
}

/// An integer of some bits within a string, as BITFIELD names it: `i16`, `u5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    signed: bool,
    bits: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Get,
    Set(i64),
    Increment(i64),
}

#[derive(Clone, Copy, Debug)]
struct FieldStep {
    field: Field,
    offset: usize,
    action: Action,
    overflow: Overflow,
}

impl Field {
    fn parse(text: &[u8]) -> Result<Self, CommandError> {
        let wrong = CommandError::Other(
            "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.",
        );
        let (signed, bits) = match text {
            [b'i', bits @ ..] => (true, bits),
            [b'u', bits @ ..] => (false, bits),
            _ => return Err(wrong),
        };
        let bits = parse_int(bits).and_then(|bits| usize::try_from(bits).ok());
        let bits = bits.filter(|bits| (1..=if signed { 64 } else { 63 }).contains(bits)).ok_or(wrong)?;
        Ok(Self { signed, bits })
    }

    /// `#n` is the `n`th field of this width.
    fn offset(self, text: &[u8]) -> Result<usize, CommandError> {
        let wrong = || CommandError::Other("ERR bit offset is not an integer or out of range");
        let (text, factor) = match text {
            [b'#', number @ ..] => (number, self.bits),
            _ => (text, 1),
        };
        let offset = parse_int(text).and_then(|offset| usize::try_from(offset).ok()).ok_or_else(wrong)?;
        let offset = offset.checked_mul(factor).filter(|offset| offset / 8 < STRING_BYTES_MAX);
        offset.ok_or_else(wrong)
    }

    fn range(self) -> (i128, i128) {
        let half = 1i128 << (self.bits - 1);
        if self.signed { (-half, half - 1) } else { (0, 2 * half - 1) }
    }

    fn read(self, bytes: &[u8], offset: usize) -> i64 {
        let raw = (offset..offset + self.bits).fold(0u64, |value, bit| value << 1 | u64::from(bit_at(bytes, bit)));
        self.wrap(i128::from(raw))
    }

    /// The low bits of a number, as this field understands them.
    fn wrap(self, value: i128) -> i64 {
        let shift = 64 - self.bits;
        #[allow(clippy::cast_possible_truncation, reason = "the low bits are what is asked for")]
        let low = (value as u64) << shift;
        if self.signed { low.cast_signed() >> shift } else { (low >> shift).cast_signed() }
    }

    /// What becomes of a number that should be stored: nothing, if it does not fit and must.
    fn fit(self, value: i128, overflow: Overflow) -> Option<i64> {
        let (min, max) = self.range();
        if (min..=max).contains(&value) {
            return i64::try_from(value).ok();
        }
        match overflow {
            Overflow::Wrap => Some(self.wrap(value)),
            Overflow::Saturate => i64::try_from(value.clamp(min, max)).ok(),
            Overflow::Fail => None,
        }
    }

    /// The bytes around the field with this value in it, and where they begin.
    fn write(self, bytes: &[u8], offset: usize, value: i64) -> (usize, Vec<u8>) {
        let (first, end) = (offset / 8, (offset + self.bits).div_ceil(8));
        let mut part: Vec<u8> = (first..end).map(|at| bytes.get(at).copied().unwrap_or(0)).collect();
        for bit in 0..self.bits {
            let at = offset + bit - first * 8;
            let mask = 0x80 >> (at % 8);
            if let Some(byte) = part.get_mut(at / 8) {
                let one = value >> (self.bits - 1 - bit) & 1 == 1;
                *byte = if one { *byte | mask } else { *byte & !mask };
            }
        }
        (first, part)
    }
}

pub(crate) fn bitfield(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, rest @ ..] = args else { return Err(CommandError::Syntax) };
    let steps = field_steps(rest)?;
    run_fields(txn, key, &steps, reply)
}

pub(crate) fn bitfield_ro(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, key, rest @ ..] = args else { return Err(CommandError::Syntax) };
    let steps = field_steps(rest)?;
    if steps.iter().any(|step| step.action != Action::Get) {
        return Err(CommandError::Other("ERR BITFIELD_RO only supports the GET subcommand"));
    }
    run_fields(txn, key, &steps, reply)
}

fn field_steps(mut rest: &[&[u8]]) -> Result<Vec<FieldStep>, CommandError> {
    let (mut steps, mut overflow) = (Vec::new(), Overflow::Wrap);
    loop {
        let (action, behind) = match rest {
            [] => return Ok(steps),
            [word, kind, behind @ ..] if is(word, "OVERFLOW") => {
                overflow = match () {
                    () if is(kind, "WRAP") => Overflow::Wrap,
                    () if is(kind, "SAT") => Overflow::Saturate,
                    () if is(kind, "FAIL") => Overflow::Fail,
                    () => return Err(CommandError::Other("ERR Invalid OVERFLOW type specified")),
                };
                rest = behind;
                continue;
            }
            [word, _, _, behind @ ..] if is(word, "GET") => (None, behind),
            [word, _, _, value, behind @ ..] if is(word, "SET") => (Some((false, value)), behind),
            [word, _, _, value, behind @ ..] if is(word, "INCRBY") => (Some((true, value)), behind),
            _ => return Err(CommandError::Syntax),
        };
        let [_, field, offset, ..] = rest else { return Err(CommandError::Syntax) };
        let field = Field::parse(field)?;
        let offset = field.offset(offset)?;
        let action = match action {
            None => Action::Get,
            Some((true, value)) => Action::Increment(int(value)?),
            Some((false, value)) => Action::Set(int(value)?),
        };
        steps.push(FieldStep { field, offset, action, overflow });
        rest = behind;
    }
}

fn run_fields(txn: &mut Txn<'_>, key: &[u8], steps: &[FieldStep], reply: &mut ReplyBuf) -> Outcome {
    let key = txn.key(key);
    with_string(txn, &key, |_| ())?;
    // A write makes the string long enough for all writes, even one that overflows and fails.
    let writes = steps.iter().filter(|step| step.action != Action::Get);
    let len = writes.map(|step| (step.offset + step.field.bits).div_ceil(8)).max().unwrap_or(0);
    if len > STRING_BYTES_MAX {
        return Err(CommandError::Other("ERR bit offset is not an integer or out of range"));
    }
    if len > 0 && with_string(txn, &key, <[u8]>::len)? < len {
        txn.apply(&key, &Change::Splice { offset: len as u64 - 1, bytes: &[0] });
    }
    reply.array(steps.len());
    for FieldStep { field, offset, action, overflow } in steps.iter().copied() {
        let old = with_string(txn, &key, |bytes| field.read(bytes, offset))?;
        let (new, shown) = match action {
            Action::Get => (None, Some(old)),
            Action::Set(value) => {
                // A negative number for an unsigned field is taken for the large one of the same bits.
                let wide = if field.signed { i128::from(value) } else { i128::from(value.cast_unsigned()) };
                let new = field.fit(wide, overflow);
                (new, new.map(|_| old))
            }
            Action::Increment(by) => {
                let new = field.fit(i128::from(old) + i128::from(by), overflow);
                (new, new)
            }
        };
        if let Some(new) = new {
            let (first, part) = with_string(txn, &key, |bytes| field.write(bytes, offset, new))?;
            txn.apply(&key, &Change::Splice { offset: first as u64, bytes: &part });
        }
        match shown {
            Some(value) => reply.integer(value),
            None => reply.null(),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ones_are_counted_as_if_one_by_one(bytes: Vec<u8>, start in -90i64..90, end in -90i64..90, in_bits: bool) {
            let range = bit_range(byte_range, &bytes, (start, end), in_bits);
            let expected = range.clone().filter(|bit| bit_at(&bytes, *bit) == 1).count();
            prop_assert_eq!(count_ones(&bytes, range), expected);
        }

        #[test]
        fn a_field_reads_back_what_was_written(bytes: Vec<u8>, offset in 0usize..200, bits in 1usize..=64, value: i64) {
            for signed in [false, true] {
                let field = Field { signed, bits: if signed { bits } else { bits.min(63) } };
                let value = field.wrap(i128::from(value));
                let (first, part) = field.write(&bytes, offset, value);
                let mut whole = bytes.clone();
                whole.resize(whole.len().max(first + part.len()), 0);
                let before = whole.clone();
                whole[first..first + part.len()].copy_from_slice(&part);
                prop_assert_eq!(field.read(&whole, offset), value);
                for bit in (0..whole.len() * 8).filter(|bit| !(offset..offset + field.bits).contains(bit)) {
                    prop_assert_eq!(bit_at(&whole, bit), bit_at(&before, bit), "bit {} is another's", bit);
                }
            }
        }
    }
}
