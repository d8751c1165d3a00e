//! Reading arguments: numbers, option words, ranks.

use super::CommandError;
use crate::resp::{ReplyBuf, parse_double, parse_int, text_of};

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

/// How many elements to take: whatever else was written is refused as if it were negative.
pub(super) fn positive(arg: &[u8]) -> Result<usize, CommandError> {
    parse_int(arg).and_then(|count| usize::try_from(count).ok()).ok_or(CommandError::NotPositive)
}

/// A count or a rank whose sign says something, so that its negative must be one too.
pub(super) fn random_count(arg: &[u8]) -> Result<i64, CommandError> {
    let out_of_range = CommandError::Other(
        "ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807",
    );
    Some(int(arg)?).filter(|count| *count != i64::MIN).ok_or(out_of_range)
}

/// The same where each element comes with a second one.
pub(super) fn random_pair_count(arg: &[u8]) -> Result<i64, CommandError> {
    let count = random_count(arg)?;
    let halves = -(i64::MAX / 2)..=i64::MAX / 2;
    Some(count).filter(|count| halves.contains(count)).ok_or(CommandError::Other("ERR value is out of range"))
}

/// An unsigned number: cursors and stream ids. What is not written as Redis writes a number is read as by `strtoull`, which allows spaces
/// and a sign in front; a negative number then counts down from 2^64.
pub(super) fn unsigned(arg: &[u8]) -> Option<u64> {
    if let Some(number) = parse_int(arg) {
        return u64::try_from(number).ok();
    }
    let text = arg.trim_ascii_start();
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let number: u64 =
        digits.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(digits).ok()?.parse().ok())??;
    Some(if is_negative { number.wrapping_neg() } else { number })
}

/// The reply to a subcommand that does not exist.
pub(super) fn unknown_subcommand(subcommand: &[u8], command: &'static str) -> CommandError {
    CommandError::UnknownSubcommand { subcommand: text_of(subcommand), command }
}

/// What the HELP of a command with subcommands replies: each line is one, or tells of the one before it.
pub(super) fn reply_help(command: &str, lines: &[&str], reply: &mut ReplyBuf) {
    reply.array(lines.len() + 3);
    reply.simple(&format!("{command} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    lines.iter().for_each(|line| reply.simple(line));
    reply.simple("HELP");
    reply.simple("    Print this help.");
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

/// As [`rank_range`] for the bytes of a string, with its one oddity: an end before the first byte means the first byte, unless `start` is
/// from the end too and behind it.
pub(super) fn byte_range(start: i64, end: i64, len: usize) -> std::ops::Range<usize> {
    if start < 0 && end < 0 && start > end { 0..0 } else { clamped_byte_range(start, end, len) }
}

/// The same without the exception.
pub(super) fn clamped_byte_range(start: i64, end: i64, len: usize) -> std::ops::Range<usize> {
    let first = i64::try_from(len).map_or(i64::MIN, |len| -len);
    rank_range(start, end.max(first), len)
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
    fn unsigned_numbers_are_read_as_by_strtoull() {
        for (text, number) in [
            ("7", Some(7)),
            ("-7", None),
            ("-0", Some(0)),
            ("-07", Some(u64::MAX - 6)),
            ("+7", Some(7)),
            (" 007", Some(7)),
            ("7 ", None),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("", None),
            ("-", None),
            ("0x7", None),
        ] {
            assert_eq!(unsigned(text.as_bytes()), number, "{text:?}");
        }
    }

    #[test]
    fn an_end_before_the_string_is_its_first_byte() {
        assert_eq!(byte_range(0, -11, 5), 0..1);
        assert_eq!(byte_range(-14, -13, 5), 0..1);
        assert_eq!(byte_range(-13, -14, 5), 0..0);
        assert_eq!(byte_range(1, -11, 5), 0..0);
        assert_eq!(byte_range(0, -1, 0), 0..0);
    }
}
