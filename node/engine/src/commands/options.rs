//! Reading arguments: numbers, option words, expiries.

use super::CommandError;
use crate::resp::{parse_double, parse_int};
use crate::time::UnixMs;

pub(super) fn int(arg: &[u8]) -> Result<i64, CommandError> {
    parse_int(arg).ok_or(CommandError::NotInteger)
}

pub(super) fn float(arg: &[u8]) -> Result<f64, CommandError> {
    parse_double(arg).ok_or(CommandError::NotFloat)
}

/// Whether an argument is an option's word, in any case.
pub(super) fn is(arg: &[u8], word: &str) -> bool {
    arg.eq_ignore_ascii_case(word.as_bytes())
}

/// Which way an expiry is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExpiryUnit {
    Seconds,
    Milliseconds,
    UnixSeconds,
    UnixMilliseconds,
}

impl ExpiryUnit {
    /// The unit that an option of SET or GETEX names.
    pub(super) fn of_option(arg: &[u8]) -> Option<Self> {
        let words = [
            ("EX", Self::Seconds),
            ("PX", Self::Milliseconds),
            ("EXAT", Self::UnixSeconds),
            ("PXAT", Self::UnixMilliseconds),
        ];
        words.into_iter().find(|(word, _)| is(arg, word)).map(|(_, unit)| unit)
    }

    /// The instant that an amount means, in milliseconds; it may be in the past, or before 1970. Errors name the command.
    pub(super) fn instant(self, arg: &[u8], now: UnixMs, command: &'static str) -> Result<i64, CommandError> {
        let amount = int(arg)?;
        let ms = match self {
            Self::Seconds | Self::UnixSeconds => amount.checked_mul(1000),
            Self::Milliseconds | Self::UnixMilliseconds => Some(amount),
        };
        let base = match self {
            Self::Seconds | Self::Milliseconds => i64::try_from(now.0).unwrap_or(i64::MAX),
            Self::UnixSeconds | Self::UnixMilliseconds => 0,
        };
        ms.and_then(|ms| ms.checked_add(base)).ok_or(CommandError::InvalidExpire(command))
    }

    /// The same where the amount must be positive.
    pub(super) fn positive_instant(
        self,
        arg: &[u8],
        now: UnixMs,
        command: &'static str,
    ) -> Result<UnixMs, CommandError> {
        if int(arg)? <= 0 {
            return Err(CommandError::InvalidExpire(command));
        }
        let ms = self.instant(arg, now, command)?;
        Ok(UnixMs(u64::try_from(ms).unwrap_or(0)))
    }
}

/// The part of a sequence of `len` elements that `start` and `end`, both included and negative from the end, name: as a half-open range.
pub(super) fn rank_range(start: i64, end: i64, len: usize) -> std::ops::Range<usize> {
    let len = i64::try_from(len).unwrap_or(i64::MAX);
    let from_end = |rank: i64| if rank < 0 { rank.saturating_add(len) } else { rank };
    let (start, end) = (from_end(start).max(0), from_end(end).min(len.saturating_sub(1)));
    if start > end {
        return 0..0;
    }
    usize::try_from(start).unwrap_or(0)..usize::try_from(end).map_or(0, |end| end.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_from_either_end() {
        assert_eq!(rank_range(0, -1, 5), 0..5);
        assert_eq!(rank_range(-3, -2, 5), 2..4);
        assert_eq!(rank_range(-100, 100, 5), 0..5);
        assert_eq!(rank_range(5, 10, 5), 0..0);
        assert_eq!(rank_range(3, 1, 5), 0..0);
        assert_eq!(rank_range(0, -6, 5), 0..0);
        assert_eq!(rank_range(0, -1, 0), 0..0);
        assert_eq!(rank_range(i64::MIN, i64::MAX, 5), 0..5);
    }

    #[test]
    fn instants_that_do_not_fit_are_refused() {
        let now = UnixMs(1000);
        assert_eq!(ExpiryUnit::Seconds.instant(b"-5", now, "expire"), Ok(-4000));
        assert!(ExpiryUnit::Seconds.instant(b"9223372036854775807", now, "expire").is_err());
        assert!(ExpiryUnit::Milliseconds.instant(b"9223372036854775807", now, "expire").is_err());
        assert!(ExpiryUnit::UnixMilliseconds.instant(b"9223372036854775807", now, "expire").is_ok());
    }
}
