//! Where replies begin and end in what another member sends, without a look at what they say.
//!
//! In: bytes, cut anywhere. Out: pieces of replies, each as soon as its bytes are there, so that a large value is never held whole.

/// A place between two replies, or within one.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Values that the present reply still lacks; 0 between replies.
    missing: u64,
    /// Bytes that the present string still lacks, its end of line included.
    string_bytes: u64,
}

/// Bytes that belong to one reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) len: usize,
    /// The reply begins here; with a whole line at least.
    pub(super) begins: bool,
    pub(super) ends: bool,
}

/// What came is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a member sent what is no reply")]
pub(super) struct NoReply;

impl Frames {
    /// The piece with which these bytes begin; none if more of them must come first.
    pub(super) fn next(&mut self, bytes: &[u8]) -> Result<Option<Piece>, NoReply> {
        if self.string_bytes > 0 {
            let len = usize::try_from(self.string_bytes).unwrap_or(usize::MAX).min(bytes.len());
            if len == 0 {
                return Ok(None);
            }
            self.string_bytes = self.string_bytes.saturating_sub(len as u64);
            if self.string_bytes == 0 {
                self.missing = self.missing.saturating_sub(1);
            }
            return Ok(Some(Piece { len, begins: false, ends: self.missing == 0 }));
        }
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let Some((kind, line)) = bytes.get(..end).and_then(<[u8]>::split_first) else { return Err(NoReply) };
        let begins = self.missing == 0;
        let others = if begins { 0 } else { self.missing.saturating_sub(1) };
        let parts = |each: u64| Ok(others.saturating_add(length(line)?.unwrap_or(0).saturating_mul(each)));
        self.missing = match kind {
            b'$' | b'=' | b'!' => match length(line)? {
                Some(len) => {
                    self.string_bytes = len.saturating_add(2);
                    others.saturating_add(1)
                }
                None => others,
            },
            b'*' | b'~' | b'>' => parts(1)?,
            b'%' => parts(2)?,
            // It goes before the value that it says something of.
            b'|' => parts(2)?.saturating_add(1),
            b'+' | b'-' | b':' | b',' | b'#' | b'(' | b'_' => others,
            _ => return Err(NoReply),
        };
        Ok(Some(Piece { len: end.saturating_add(1), begins, ends: self.missing == 0 }))
    }
}

/// The number on a line; none for a null.
fn length(line: &[u8]) -> Result<Option<u64>, NoReply> {
    let text = line.strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok()).ok_or(NoReply)?;
    let number: i64 = text.parse().map_err(|_| NoReply)?;
    Ok(u64::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The replies in these bytes, if no more than `cut` of them are seen at a time.
    fn replies(wire: &[u8], cut: usize) -> Vec<Vec<u8>> {
        let (mut frames, mut all, mut at, mut seen) = (Frames::default(), Vec::new(), 0, 0);
        while seen < wire.len() {
            seen = (seen + cut).min(wire.len());
            while let Some(piece) = frames.next(&wire[at..seen]).unwrap() {
                if piece.begins {
                    all.push(Vec::new());
                }
                all.last_mut().unwrap().extend_from_slice(&wire[at..at + piece.len]);
                at += piece.len;
                assert_eq!(piece.ends, frames.missing == 0);
            }
        }
        assert_eq!((at, frames.missing), (wire.len(), 0), "nothing is left over");
        all
    }

    #[test]
    fn replies_are_told_apart_however_they_are_cut() {
        let all: [&[u8]; 14] = [
            b"+OK\r\n",
            b"-ERR no\r\n",
            b":7\r\n",
            b"$5\r\nab\r\nc\r\n",
            b"$0\r\n\r\n",
            b"$-1\r\n",
            b"*-1\r\n",
            b"*0\r\n",
            b"*3\r\n:1\r\n*2\r\n$1\r\na\r\n_\r\n+b\r\n",
            b"%2\r\n+a\r\n:1\r\n+b\r\n~1\r\n#t\r\n",
            b">2\r\n+push\r\n,1.5\r\n",
            b"|1\r\n+ttl\r\n:3\r\n$2\r\nhi\r\n",
            b"=7\r\ntxt:abc\r\n",
            b"(123\r\n",
        ];
        let wire = all.concat();
        for cut in [1, 2, 3, 7, wire.len()] {
            assert_eq!(replies(&wire, cut), all.map(<[u8]>::to_vec), "{cut} at a time");
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for wire in [&b"hello\r\n"[..], b"$x\r\n", b"\n", b"*1\n"] {
            assert_eq!(Frames::default().next(wire), Err(NoReply));
        }
    }
}
