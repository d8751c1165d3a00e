//! Bytes of clients within texts: an error repeats what it refuses, and that need not be UTF-8.
//!
//! A byte that is no part of a character is kept as one of 128 characters that Unicode leaves to whoever wants them, and becomes a byte again
//! where the text is written. Where those characters themselves come from a client, their bytes are kept like that.

/// The character that stands for byte 0; those of 128 to 255 are used.
const STAND_IN: u32 = 0xf700;

/// What a client sent, as a part of an error: up to the first zero, where texts end in Redis.
#[must_use]
pub fn text_of(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let mut text = String::with_capacity(end);
    for chunk in bytes.get(..end).unwrap_or_default().utf8_chunks() {
        for letter in chunk.valid().chars() {
            match byte_of(letter) {
                None => text.push(letter),
                Some(_) => keep(letter.encode_utf8(&mut [0; 4]).as_bytes(), &mut text),
            }
        }
        keep(chunk.invalid(), &mut text);
    }
    text
}

/// Writes a text on one line: line ends in it become spaces.
pub(super) fn push_line(text: &str, out: &mut Vec<u8>) {
    let start = out.len();
    if text.is_ascii() {
        out.extend_from_slice(text.as_bytes());
    } else {
        for letter in text.chars() {
            match byte_of(letter) {
                Some(byte) => out.push(byte),
                None => out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
    for byte in out.get_mut(start..).unwrap_or_default() {
        if matches!(byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
}

fn keep(bytes: &[u8], text: &mut String) {
    text.extend(bytes.iter().filter_map(|byte| char::from_u32(STAND_IN + u32::from(*byte))));
}

fn byte_of(letter: char) -> Option<u8> {
    u8::try_from(u32::from(letter).checked_sub(STAND_IN)?).ok().filter(|byte| !byte.is_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_a_client_sent_comes_back_byte_by_byte(bytes in prop::collection::vec(1u8.., 0..20)) {
            let mut line = Vec::new();
            push_line(&text_of(&bytes), &mut line);
            let on_one_line: Vec<u8> = bytes.iter().map(|b| if b"\r\n".contains(b) { b' ' } else { *b }).collect();
            prop_assert_eq!(line, on_one_line);
        }
    }

    #[test]
    fn a_stand_in_that_a_client_sent_comes_back_as_itself() {
        let (sent, mut line) = ("\u{f7bb}\u{f6ff}é", Vec::new());
        push_line(&text_of(sent.as_bytes()), &mut line);
        assert_eq!(line, sent.as_bytes());
    }

    #[test]
    fn a_text_ends_with_its_first_zero() {
        assert_eq!(text_of(b"a\0b"), "a");
    }
}
