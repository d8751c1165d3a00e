//! Glob patterns as KEYS and SCAN read them: `*`, `?`, `[a-z]`, `[^a-z]`, and `\` before any of these.

/// Whether a text matches a pattern, in time proportional to the product of their lengths at most.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    // After a star: the pattern behind it, and the text from which it was last tried.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', behind @ ..] = pattern {
            retry = Some((behind, text));
            pattern = behind;
            continue;
        }
        let step = match (pattern, text) {
            ([], []) => return true,
            (_, []) | ([], _) => None,
            (_, [byte, text_behind @ ..]) => match_one(pattern, *byte).map(|behind| (behind, text_behind)),
        };
        match (step, retry) {
            (Some((pattern_behind, text_behind)), _) => (pattern, text) = (pattern_behind, text_behind),
            (None, Some((behind_star, [_, later @ ..]))) => {
                retry = Some((behind_star, later));
                (pattern, text) = (behind_star, later);
            }
            (None, _) => return false,
        }
    }
}

/// What follows the pattern's first element, if that matches a byte.
fn match_one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [b'?', behind @ ..] => Some(behind),
        [b'[', class @ ..] => match_class(class, byte),
        [b'\\', literal, behind @ ..] | [literal, behind @ ..] => (*literal == byte).then_some(behind),
        [] => None,
    }
}

/// What follows a class, if it holds the byte. A class that is not closed ends with the pattern.
fn match_class(class: &[u8], byte: u8) -> Option<&[u8]> {
    let (negated, mut rest) = match class {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, class),
    };
    let mut found = false;
    loop {
        rest = match rest {
            [] => break,
            [b']', behind @ ..] => {
                rest = behind;
                break;
            }
            [b'\\', literal, behind @ ..] => {
                found |= *literal == byte;
                behind
            }
            [first, b'-', last, behind @ ..] => {
                found |= (*first.min(last)..=*first.max(last)).contains(&byte);
                behind
            }
            [literal, behind @ ..] => {
                found |= *literal == byte;
                behind
            }
        };
    }
    (found != negated).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_those_of_redis() {
        let cases = [
            ("*", "", true),
            ("*", "anything", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h\\*llo", "h*llo", true),
            ("h\\*llo", "hello", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "a1c2b", false),
            ("*a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
            ("user:*:name", "user:7:name", true),
            ("", "", true),
            ("", "a", false),
            ("[abc", "a", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }
}
