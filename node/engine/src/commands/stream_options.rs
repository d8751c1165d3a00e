//! Reading the arguments of stream commands: ids, intervals, and how a stream is to be trimmed.

use super::CommandError;
use super::options::{int, is, unsigned};
use crate::keyspace::Stream;
use crate::stream_change::StreamId;

const INVALID_ID: CommandError = CommandError::Other("ERR Invalid stream ID specified as stream command argument");
/// How many entries one approximate trimming takes away, unless LIMIT says otherwise.
const APPROXIMATE_LIMIT: usize = 10_000;

/// An id, `MS-SEQ` or `MS`; a missing number is `seq`.
pub(super) fn id(arg: &[u8], seq: u64) -> Result<StreamId, CommandError> {
    let number = |text: &[u8]| if text.is_empty() { None } else { unsigned(text) };
    let parsed = match arg.iter().position(|byte| *byte == b'-') {
        None => number(arg).map(|ms| StreamId { ms, seq }),
        Some(at) => {
            let (ms, rest) = arg.split_at(at);
            number(ms).zip(number(rest.get(1..).unwrap_or_default())).map(|(ms, seq)| StreamId { ms, seq })
        }
    };
    parsed.ok_or(INVALID_ID)
}

/// The same, where `-` and `+` are the lowest and the highest of all.
pub(super) fn id_or_end(arg: &[u8], seq: u64) -> Result<StreamId, CommandError> {
    match arg {
        b"-" => Ok(StreamId::MIN),
        b"+" => Ok(StreamId::MAX),
        _ => id(arg, seq),
    }
}

/// Where an interval begins; `(` leaves the id itself out.
pub(super) fn interval_start(arg: &[u8]) -> Result<StreamId, CommandError> {
    match arg {
        [b'(', text @ ..] if !text.is_empty() => {
            id(text, 0)?.next().ok_or(CommandError::Other("ERR invalid start ID for the interval"))
        }
        _ => id_or_end(arg, 0),
    }
}

pub(super) fn interval_end(arg: &[u8]) -> Result<StreamId, CommandError> {
    match arg {
        [b'(', text @ ..] if !text.is_empty() => {
            id(text, u64::MAX)?.previous().ok_or(CommandError::Other("ERR invalid end ID for the interval"))
        }
        _ => id_or_end(arg, u64::MAX),
    }
}

/// The id that a new entry is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NewId {
    /// `*`
    Auto,
    /// `MS-*`
    AutoSeq(u64),
    Given(StreamId),
}

impl NewId {
    fn parse(arg: &[u8]) -> Result<Self, CommandError> {
        match arg {
            b"*" => Ok(Self::Auto),
            [ms @ .., b'-', b'*'] if !ms.is_empty() => unsigned(ms).map(Self::AutoSeq).ok_or(INVALID_ID),
            _ => id(arg, 0).map(Self::Given),
        }
    }

    /// `None` if there is no such id behind the last one.
    pub(super) fn resolve(self, last: StreamId, now_ms: u64) -> Option<StreamId> {
        let chosen = match self {
            Self::Auto if now_ms > last.ms => StreamId { ms: now_ms, seq: 0 },
            Self::Auto => last.next()?,
            Self::AutoSeq(ms) if ms == last.ms => StreamId { ms, seq: last.seq.checked_add(1)? },
            Self::AutoSeq(ms) => StreamId { ms, seq: 0 },
            Self::Given(id) => id,
        };
        (chosen > last).then_some(chosen)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Threshold {
    EntriesMax(usize),
    IdMin(StreamId),
}

/// MAXLEN or MINID. The entries are not in nodes here, so `~` trims as exactly as `=`, only no more than its limit at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trim {
    threshold: Threshold,
    limit: usize,
}

impl Trim {
    /// The first entry that stays, and how many go; `None` if none goes.
    pub(super) fn plan(&self, stream: &Stream) -> Option<(StreamId, usize)> {
        let ids = || stream.range(StreamId::MIN, StreamId::MAX).map(|(id, _)| id);
        let gone = match self.threshold {
            Threshold::EntriesMax(max) => stream.len().saturating_sub(max).min(self.limit),
            Threshold::IdMin(min) => ids().take_while(|id| *id < min).take(self.limit).count(),
        };
        if gone == 0 {
            return None;
        }
        // All of them go if none stays.
        let first_kept = ids().nth(gone).or_else(|| stream.last_entry_id().and_then(StreamId::next));
        Some((first_kept.unwrap_or(StreamId::MAX), gone))
    }
}

/// What stands before the id of XADD, or behind the key of XTRIM.
#[derive(Debug)]
pub(super) struct AddOrTrim<'a, 'b> {
    pub(super) trim: Option<Trim>,
    pub(super) make: bool,
    pub(super) id: NewId,
    /// What follows the id.
    pub(super) rest: &'b [&'a [u8]],
}

impl<'a, 'b> AddOrTrim<'a, 'b> {
    pub(super) fn parse(mut rest: &'b [&'a [u8]], is_add: bool) -> Result<Self, CommandError> {
        let (mut threshold, mut approximate, mut limit, mut make) = (None, false, None, true);
        let mut id = NewId::Auto;
        while let [word, behind @ ..] = rest {
            let is_threshold = is(word, "MAXLEN") || is(word, "MINID");
            rest = match behind {
                _ if is_add && *word == b"*" => {
                    rest = behind;
                    break;
                }
                [_, ..] if is_threshold => {
                    if threshold.is_some() {
                        return Err(CommandError::Other(
                            "ERR syntax error, MAXLEN and MINID options at the same time are not compatible",
                        ));
                    }
                    let (sign, behind) = match behind {
                        [sign, behind @ ..] if !behind.is_empty() && matches!(*sign, b"~" | b"=") => (*sign, behind),
                        _ => (&b""[..], behind),
                    };
                    approximate = sign == b"~";
                    let [value, behind @ ..] = behind else { return Err(CommandError::Syntax) };
                    threshold = Some(if is(word, "MAXLEN") {
                        let negative = |_| CommandError::Other("ERR The MAXLEN argument must be >= 0.");
                        Threshold::EntriesMax(usize::try_from(int(value)?).map_err(negative)?)
                    } else {
                        Threshold::IdMin(self::id(value, 0)?)
                    });
                    behind
                }
                [value, behind @ ..] if is(word, "LIMIT") => {
                    let negative = |_| CommandError::Other("ERR The LIMIT argument must be >= 0.");
                    limit = Some(usize::try_from(int(value)?).map_err(negative)?);
                    behind
                }
                _ if is_add && is(word, "NOMKSTREAM") => {
                    make = false;
                    behind
                }
                _ if is_add => {
                    id = NewId::parse(word)?;
                    rest = behind;
                    break;
                }
                _ => return Err(CommandError::Syntax),
            };
        }
        if limit.is_some() && threshold.is_none() {
            return Err(CommandError::Other(
                "ERR syntax error, LIMIT cannot be used without specifying a trimming strategy",
            ));
        }
        if !is_add && threshold.is_none() {
            return Err(CommandError::Other("ERR syntax error, XTRIM must be called with a trimming strategy"));
        }
        if limit.is_some() && !approximate {
            return Err(CommandError::Other("ERR syntax error, LIMIT cannot be used without the special ~ option"));
        }
        let limit = match limit {
            Some(0) => usize::MAX,
            Some(limit) => limit,
            None if approximate => APPROXIMATE_LIMIT,
            None => usize::MAX,
        };
        Ok(Self { trim: threshold.map(|threshold| Trim { threshold, limit }), make, id, rest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_the_field_reads_them() {
        let of = |ms, seq| Ok(StreamId { ms, seq });
        assert_eq!(id(b"5-3", 9), of(5, 3));
        assert_eq!(id(b"5", 9), of(5, 9));
        assert_eq!(id_or_end(b"+", 0), Ok(StreamId::MAX));
        for wrong in ["", "-", "+", "5-", "-5", "a-1", "1-2-3", "1-*", "18446744073709551616"] {
            assert_eq!(id(wrong.as_bytes(), 0), Err(INVALID_ID), "{wrong}");
        }
        assert_eq!(interval_start(b"(5-3"), of(5, 4));
        assert_eq!(interval_end(b"(5-0"), of(4, u64::MAX));
        assert!(interval_end(b"(0-0").is_err());
        assert!(interval_start(b"(-").is_err());
    }

    #[test]
    fn a_new_id_is_behind_the_last() {
        let last = StreamId { ms: 7, seq: 3 };
        assert_eq!(NewId::Auto.resolve(last, 9), Some(StreamId { ms: 9, seq: 0 }));
        assert_eq!(NewId::Auto.resolve(last, 5), Some(StreamId { ms: 7, seq: 4 }));
        assert_eq!(NewId::AutoSeq(7).resolve(last, 0), Some(StreamId { ms: 7, seq: 4 }));
        assert_eq!(NewId::AutoSeq(6).resolve(last, 0), None);
        assert_eq!(NewId::Given(last).resolve(last, 0), None);
        assert_eq!(NewId::Auto.resolve(StreamId::MAX, 0), None);
    }
}
