//! Numbers as Redis reads and writes them. Clients compare these texts, so each rule here is one of Redis's own.

/// The decimal text of an integer, written into the end of `room`.
pub(crate) fn write_int(value: i64, room: &mut [u8; 20]) -> &[u8] {
    let mut rest = value.unsigned_abs();
    let mut start = room.len();
    loop {
        start = start.saturating_sub(1);
        if let Some(digit) = room.get_mut(start) {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        }
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        start = start.saturating_sub(1);
        if let Some(sign) = room.get_mut(start) {
            *sign = b'-';
        }
    }
    room.get(start..).unwrap_or_default()
}

/// An integer in its one canonical form: no `+`, no leading zeros, no spaces, no `-0` (Redis: `string2ll`).
#[must_use]
pub fn parse_int(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.split_first()? {
        (b'-', digits) => (true, digits),
        _ => (false, text),
    };
    match digits {
        [] => return None,
        [b'0'] => return (!negative).then_some(0),
        [b'0', ..] => return None,
        _ if digits.len() > 19 => return None,
        _ => {}
    }
    let mut value: u64 = 0;
    for &byte in digits {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
    }
    if negative { 0i64.checked_sub_unsigned(value) } else { i64::try_from(value).ok() }
}

/// A double in any form that `strtod` reads, infinities included, not-a-number excluded.
pub(crate) fn parse_double(text: &[u8]) -> Option<f64> {
    // Up to here a double holds every integer.
    if text.len() <= 15
        && let Some(integer) = parse_int(text)
    {
        return Some(integer as f64);
    }
    let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    // Rust reads "1e999" as infinity; Redis calls that out of range.
    let said_infinity = text.iter().any(|b| matches!(b, b'i' | b'I'));
    (!value.is_nan() && (value.is_finite() || said_infinity)).then_some(value)
}

/// The shortest text that reads back as the same double, laid out as Redis does: integers without a point, and an exponent only
/// where the plain text would be long (`fpconv_dtoa`, grisu2 with its `emit_digits`).
pub fn write_double(value: f64, out: &mut Vec<u8>) {
    if value.is_nan() {
        return out.extend_from_slice(b"nan");
    }
    if value.is_infinite() {
        return out.extend_from_slice(if value > 0.0 { b"inf" } else { b"-inf" });
    }
    if value.is_sign_negative() {
        out.push(b'-');
    }
    if value == 0.0 {
        return out.push(b'0');
    }
    let magnitude = value.abs();
    // Up to 2^62 Redis prints an integral double as an integer (`double2ll`).
    if magnitude <= 4_611_686_018_427_387_904.0 && magnitude.fract() == 0.0 {
        #[allow(clippy::cast_possible_truncation, reason = "integral and at most 2^62")]
        return out.extend_from_slice(write_int(magnitude as i64, &mut [0; 20]));
    }
    // `{:e}` gives the shortest digits as d.ddde±x.
    let scientific = format!("{magnitude:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let digits: Vec<u8> = mantissa.bytes().filter(u8::is_ascii_digit).collect();
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let count = i32::try_from(digits.len()).unwrap_or(1);
    // The value is digits × 10^power.
    let power = exponent - (count - 1);
    if power >= 0 && exponent.abs() < count + 7 {
        out.extend_from_slice(&digits);
        out.extend(std::iter::repeat_n(b'0', usize::try_from(power).unwrap_or(0)));
    } else if power < 0 && (power > -7 || exponent.abs() < 4) {
        match usize::try_from(exponent + 1) {
            Ok(whole) if whole > 0 => {
                let (whole, fraction) = digits.split_at_checked(whole).unwrap_or((&digits, &[]));
                out.extend_from_slice(whole);
                out.push(b'.');
                out.extend_from_slice(fraction);
            }
            _ => {
                out.extend_from_slice(b"0.");
                out.extend(std::iter::repeat_n(b'0', usize::try_from(-exponent - 1).unwrap_or(0)));
                out.extend_from_slice(&digits);
            }
        }
    } else {
        let (first, fraction) = digits.split_at_checked(1).unwrap_or((&digits, &[]));
        out.extend_from_slice(first);
        if !fraction.is_empty() {
            out.push(b'.');
            out.extend_from_slice(fraction);
        }
        out.push(b'e');
        out.push(if exponent < 0 { b'-' } else { b'+' });
        out.extend_from_slice(exponent.abs().to_string().as_bytes());
    }
}

/// How many digits behind the point INCRBYFLOAT keeps (Redis prints `%.17Lf`).
const FRACTION_DIGITS: usize = 17;

/// The sum of two decimal texts as INCRBYFLOAT and HINCRBYFLOAT print it: no exponent, no trailing zeros, 17 digits behind the point.
///
/// Redis adds in 80-bit long doubles, which Rust does not have. Decimal fixed point is at least as exact where both summands are below
/// 10^20; beyond that this adds as doubles. `None`: not a number, or the sum is not finite.
pub(crate) fn fixed_add(a: &[u8], b: &[u8]) -> Option<Vec<u8>> {
    let (exact_a, exact_b) = (parse_double(a)?, parse_double(b)?);
    if let (Some(a), Some(b)) = (parse_fixed(a), parse_fixed(b)) {
        return Some(write_fixed(a + b));
    }
    let sum = exact_a + exact_b;
    sum.is_finite().then(|| {
        let text = format!("{sum:.FRACTION_DIGITS$}");
        trim_zeros(text.into_bytes())
    })
}

fn parse_fixed(text: &[u8]) -> Option<i128> {
    let (negative, rest) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, text),
    };
    let mut parts = rest.splitn(2, |b| matches!(b, b'e' | b'E'));
    let (mantissa, exponent) = (parts.next()?, parts.next());
    let exponent: i32 = match exponent {
        None => 0,
        Some(text) => std::str::from_utf8(text).ok()?.parse().ok()?,
    };
    let mut digits: i128 = 0;
    let mut fraction: Option<i32> = None;
    for &byte in mantissa {
        match byte {
            b'.' if fraction.is_none() => fraction = Some(0),
            b'0'..=b'9' => {
                digits = digits.checked_mul(10)?.checked_add(i128::from(byte - b'0'))?;
                fraction = fraction.map(|n| n + 1);
            }
            _ => return None,
        }
    }
    let shift = exponent.checked_sub(fraction.unwrap_or(0))?.checked_add(FRACTION_DIGITS as i32)?;
    let power = 10i128.checked_pow(shift.unsigned_abs());
    let scaled = if shift >= 0 {
        digits.checked_mul(power?)?
    } else {
        // Round half away from zero, as printf does to the last digit for all that matters here.
        power.map_or(0, |power| (digits + power / 2) / power)
    };
    // Leaves room for a sum of two, and for the factor 10^17.
    (scaled < 10i128.pow(37)).then_some(if negative { -scaled } else { scaled })
}

fn write_fixed(value: i128) -> Vec<u8> {
    let unit = 10u128.pow(FRACTION_DIGITS as u32);
    let (whole, fraction) = (value.unsigned_abs() / unit, value.unsigned_abs() % unit);
    let sign = if value < 0 { "-" } else { "" };
    trim_zeros(format!("{sign}{whole}.{fraction:0>FRACTION_DIGITS$}").into_bytes())
}

fn trim_zeros(mut text: Vec<u8>) -> Vec<u8> {
    if text.contains(&b'.') {
        while text.last() == Some(&b'0') {
            text.pop();
        }
        if text.last() == Some(&b'.') {
            text.pop();
        }
    }
    if text == b"-0" { b"0".to_vec() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn double(value: f64) -> String {
        let mut out = Vec::new();
        write_double(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn doubles_read_as_redis_prints_them() {
        let cases = [
            (3.0, "3"),
            (-3.0, "-3"),
            (0.1, "0.1"),
            (1.5e10, "15000000000"),
            (1e18, "1000000000000000000"),
            (1e20, "1e+20"),
            (1e21, "1e+21"),
            (1.0e-5, "0.00001"),
            (1e-7, "1e-7"),
            (2.71, "2.71"),
            (1.7976931348623157e308, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
            (-0.0, "-0"),
            (123456.789, "123456.789"),
        ];
        for (value, text) in cases {
            assert_eq!(double(value), text);
        }
    }

    #[test]
    fn float_increments_do_not_show_binary_fractions() {
        let sum = |a: &str, b: &str| fixed_add(a.as_bytes(), b.as_bytes()).map(|s| String::from_utf8(s).unwrap());
        assert_eq!(sum("10.50", "0.1").as_deref(), Some("10.6"));
        assert_eq!(sum("0.1", "0.2").as_deref(), Some("0.3"));
        assert_eq!(sum("5.0e3", "2.0e2").as_deref(), Some("5200"));
        assert_eq!(sum("10.6", "-5").as_deref(), Some("5.6"));
        assert_eq!(sum("1", "-1").as_deref(), Some("0"));
        assert_eq!(sum("3", "1e-20").as_deref(), Some("3"));
        assert_eq!(sum("1e300", "1"), Some(format!("{:.0}", 1e300)));
        assert_eq!(sum("abc", "1"), None);
        assert_eq!(sum("1e308", "1e308"), None);
    }

    proptest! {
        #[test]
        fn integers_survive_their_text(value: i64) {
            let mut room = [0; 20];
            let text = write_int(value, &mut room);
            prop_assert_eq!(text.to_vec(), value.to_string().into_bytes());
            prop_assert_eq!(parse_int(text), Some(value));
        }

        #[test]
        fn doubles_survive_their_text(value: f64) {
            prop_assume!(!value.is_nan());
            let text = double(value);
            prop_assert_eq!(parse_double(text.as_bytes()), Some(value), "{}", text);
        }
    }

    #[test]
    fn only_canonical_integers_are_integers() {
        for text in ["", "-", "+1", "01", "-0", " 1", "1 ", "1.0", "9223372036854775808", "-9223372036854775809"] {
            assert_eq!(parse_int(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse_int(b"-9223372036854775808"), Some(i64::MIN));
    }
}
