//! Patterns as Redis matches them (`stringmatchlen`): `*`, `?`, `[a-z]`, `[^a]`, `\` before a literal. Letters match in any case.

/// Whether `text` matches `pattern`. Time is at most the product of their lengths.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    // Where to go on with one more byte given to the last star.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some((b'*', rest)) = pattern.split_first() {
            retry = Some((rest, text));
            pattern = rest;
            continue;
        }
        let step = match text.split_first() {
            None if pattern.is_empty() => return true,
            None => None,
            Some((&byte, rest)) => one(pattern, byte).map(|pattern| (pattern, rest)),
        };
        match (step, &mut retry) {
            (Some(step), _) => (pattern, text) = step,
            (None, Some((after_star, from))) => {
                let Some((_, rest)) = from.split_first() else { return false };
                *from = rest;
                (pattern, text) = (*after_star, rest);
            }
            (None, None) => return false,
        }
    }
}

/// What remains of the pattern once its first element has matched `byte`.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let byte = byte.to_ascii_lowercase();
    let (&first, rest) = pattern.split_first()?;
    match first {
        b'?' => Some(rest),
        b'[' => class(rest, byte),
        b'\\' if !rest.is_empty() => rest.split_first().filter(|(b, _)| b.eq_ignore_ascii_case(&byte)).map(|(_, r)| r),
        _ => first.eq_ignore_ascii_case(&byte).then_some(rest),
    }
}

/// What follows a `[…]`, whose inside begins here, if it matches.
fn class(inside: &[u8], byte: u8) -> Option<&[u8]> {
    let (negated, mut rest) = match inside.split_first() {
        Some((b'^', rest)) => (true, rest),
        _ => (false, inside),
    };
    let mut found = false;
    loop {
        rest = match rest {
            [] => break,
            [b']', after @ ..] => {
                rest = after;
                break;
            }
            [b'\\', literal, after @ ..] => {
                found |= literal.eq_ignore_ascii_case(&byte);
                after
            }
            [low, b'-', high, after @ ..] => {
                let (low, high) = (low.to_ascii_lowercase(), high.to_ascii_lowercase());
                found |= (low.min(high)..=low.max(high)).contains(&byte);
                after
            }
            [literal, after @ ..] => {
                found |= literal.eq_ignore_ascii_case(&byte);
                after
            }
        };
    }
    (found != negated).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_redis_matches_them() {
        let yes = [
            ("*", ""),
            ("*", "abc"),
            ("a*c", "abbc"),
            ("h?llo", "hello"),
            ("h[ae]llo", "hallo"),
            ("h[^e]llo", "hallo"),
        ];
        for (pattern, text) in yes {
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        let yes =
            [("[a-c]x", "bx"), ("\\*", "*"), ("MAX*", "maxmemory"), ("*mem*pol*", "maxmemory-policy"), ("a**b", "ab")];
        for (pattern, text) in yes {
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        for (pattern, text) in
            [("", "a"), ("a", ""), ("a*c", "abd"), ("h[^e]llo", "hello"), ("[a-c]x", "dx"), ("\\*", "a")]
        {
            assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_do_not_take_exponential_time() {
        assert!(!matches(&b"*a".repeat(30), &b"a".repeat(29)));
        assert!(!matches(&[b"*a".repeat(100).as_slice(), b"b"].concat(), &b"a".repeat(5_000)));
    }
}
