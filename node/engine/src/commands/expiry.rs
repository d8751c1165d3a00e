//! Expiries as commands give them: an amount in one of four units, as an argument or as an option, and the conditions it may hang on.

use super::CommandError;
use super::options::{int, is};
use crate::resp::text_of;
use crate::time::UnixMs;

/// Which way an expiry is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExpiryUnit {
    Seconds,
    Milliseconds,
    UnixSeconds,
    UnixMilliseconds,
}

impl ExpiryUnit {
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

/// What an option of SET or GETEX says about the expiry. An amount is read once all options have been, as their order is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExpiryOption<'a> {
    /// SET's KEEPTTL.
    Keep,
    /// GETEX's PERSIST.
    Persist,
    Amount(ExpiryUnit, &'a [u8]),
}

impl<'a> ExpiryOption<'a> {
    /// Reads an option at the front of `words`, and gives what is behind it; `None` if there is another word, or no amount.
    pub(super) fn parse<'b>(words: &'b [&'a [u8]]) -> Option<(Self, &'b [&'a [u8]])> {
        let (word, behind) = words.split_first()?;
        let unit = match () {
            () if is(word, "KEEPTTL") => return Some((Self::Keep, behind)),
            () if is(word, "PERSIST") => return Some((Self::Persist, behind)),
            () if is(word, "EX") => ExpiryUnit::Seconds,
            () if is(word, "PX") => ExpiryUnit::Milliseconds,
            () if is(word, "EXAT") => ExpiryUnit::UnixSeconds,
            () if is(word, "PXAT") => ExpiryUnit::UnixMilliseconds,
            () => return None,
        };
        let (amount, behind) = behind.split_first()?;
        Some((Self::Amount(unit, amount), behind))
    }
}

/// The conditions of EXPIRE and its kin.
#[derive(Debug, Default)]
pub(super) struct ExpireConditions {
    without: bool,
    with: bool,
    later: bool,
    earlier: bool,
}

impl ExpireConditions {
    pub(super) fn parse(options: &[&[u8]]) -> Result<Self, CommandError> {
        let mut conditions = Self::default();
        for word in options {
            match () {
                () if is(word, "NX") => conditions.without = true,
                () if is(word, "XX") => conditions.with = true,
                () if is(word, "GT") => conditions.later = true,
                () if is(word, "LT") => conditions.earlier = true,
                () => return Err(CommandError::UnsupportedOption(text_of(word))),
            }
        }
        let Self { without, with, later, earlier } = conditions;
        if without && (with || later || earlier) {
            return Err(CommandError::Other("ERR NX and XX, GT or LT options at the same time are not compatible"));
        }
        if later && earlier {
            return Err(CommandError::Other("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(conditions)
    }

    /// A key without expiry counts as one that expires last of all.
    pub(super) fn hold(&self, before: Option<UnixMs>, at: i64) -> bool {
        let before = before.map(|UnixMs(before)| i64::try_from(before).unwrap_or(i64::MAX));
        !(self.without && before.is_some()
            || self.with && before.is_none()
            || self.later && before.is_none_or(|before| at <= before)
            || self.earlier && before.is_some_and(|before| at >= before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_that_do_not_fit_are_refused() {
        let now = UnixMs(1000);
        assert_eq!(ExpiryUnit::Seconds.instant(b"-5", now, "expire"), Ok(-4000));
        assert!(ExpiryUnit::Seconds.instant(b"9223372036854775807", now, "expire").is_err());
        assert!(ExpiryUnit::Milliseconds.instant(b"9223372036854775807", now, "expire").is_err());
        assert!(ExpiryUnit::UnixMilliseconds.instant(b"9223372036854775807", now, "expire").is_ok());
    }

    #[test]
    fn an_option_without_its_amount_is_none() {
        let words: [&[u8]; 3] = [b"px", b"10", b"NX"];
        let expected: (_, &[&[u8]]) = (ExpiryOption::Amount(ExpiryUnit::Milliseconds, b"10"), &[b"NX"]);
        assert_eq!(ExpiryOption::parse(&words), Some(expected));
        assert_eq!(ExpiryOption::parse(&[b"EX"]), None);
        assert_eq!(ExpiryOption::parse(&[b"NX"]), None);
    }
}
