//! Requests: arrays of bulk strings, and inline commands for people with a terminal.
//!
//! The parser looks at each byte once, however the bytes arrive in pieces, and copies none but the quoted words of an inline
//! command. Source of the format: the RESP specification (redis.io/docs/reference/protocol-spec); error texts are those of Redis,
//! since clients and test suites match on them.

use std::ops::Range;

/// How large one request may be. Every limit refuses with a [`ProtocolError`], after which the connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseLimits {
    /// The longest single argument.
    pub bulk_bytes_max: usize,
    /// The most arguments of one request, its name included.
    pub args_max: usize,
    /// The longest inline request, and the longest length line of a multibulk one.
    pub inline_bytes_max: usize,
    /// Whether the peer has authenticated. It only chooses the error's text: use [`ParseLimits::unauthenticated`].
    pub authenticated: bool,
}

impl ParseLimits {
    /// For a peer that has authenticated, or need not: 512 MiB an argument, 1,048,576 arguments, 64 KiB inline.
    pub const AUTHENTICATED: Self =
        Self { bulk_bytes_max: 512 << 20, args_max: 1 << 20, inline_bytes_max: 64 << 10, authenticated: true };

    /// For a peer that is still to authenticate: enough for HELLO and AUTH (as Redis: 10 arguments of 16 KiB).
    #[must_use]
    pub const fn unauthenticated(self) -> Self {
        Self { bulk_bytes_max: 16 << 10, args_max: 10, authenticated: false, ..self }
    }
}

impl Default for ParseLimits {
    fn default() -> Self {
        Self::AUTHENTICATED
    }
}

/// What is known about the request at the front of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The request has not arrived in full.
    Incomplete,
    /// The first `consumed` bytes were a request. It has no arguments if it was an empty line or an empty array: ignore it then.
    Complete { consumed: usize },
}

/// The peer does not speak RESP, or goes beyond a limit. Reply `-ERR {self}` and close the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("Protocol error: invalid multibulk length")]
    InvalidMultibulkLength,
    #[error("Protocol error: unauthenticated multibulk length")]
    UnauthenticatedMultibulkLength,
    #[error("Protocol error: invalid bulk length")]
    InvalidBulkLength,
    #[error("Protocol error: unauthenticated bulk length")]
    UnauthenticatedBulkLength,
    #[error("Protocol error: too big mbulk count string")]
    TooBigMultibulkCount,
    #[error("Protocol error: too big bulk count string")]
    TooBigBulkCount,
    #[error("Protocol error: too big inline request")]
    TooBigInline,
    #[error("Protocol error: expected '$', got '{}'", .0.escape_ascii())]
    ExpectedBulk(u8),
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
}

/// Finds the arguments of one request after another in a connection's buffer.
///
/// The buffer given to [`advance`](Self::advance) must always begin with the first byte of the present request; bytes may be added
/// at its end between calls. After [`Parsed::Complete`], read [`args`](Self::args), then drop `consumed` bytes from the front of the
/// buffer and call again: the next call begins a new request.
#[derive(Debug, Default)]
pub struct RequestParser {
    state: State,
    /// Where the next unseen byte is.
    at: usize,
    /// The arguments found so far, as ranges of the buffer, or of `unquoted` for an inline request.
    args: Vec<Range<usize>>,
    unquoted: Vec<u8>,
    inline: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Start,
    Args {
        missing: usize,
    },
    Bulk {
        missing: usize,
        len: usize,
    },
    Done,
}

impl RequestParser {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads on. An error is final: the stream has lost its framing.
    pub fn advance(&mut self, buf: &[u8], limits: &ParseLimits) -> Result<Parsed, ProtocolError> {
        if self.state == State::Done {
            self.state = State::Start;
            self.at = 0;
            self.args.clear();
            self.unquoted.clear();
            self.inline = false;
        }
        loop {
            match self.state {
                State::Start => match buf.first() {
                    None => return Ok(Parsed::Incomplete),
                    Some(b'*') => {
                        let missing = match self.short_length(buf, limits.args_max) {
                            Some(missing) => missing,
                            None => {
                                let too_big = ProtocolError::TooBigMultibulkCount;
                                let line = self.line(buf, limits, too_big)?;
                                let Some(line) = line else { return Ok(Parsed::Incomplete) };
                                multibulk_length(line, limits)?
                            }
                        };
                        self.args.reserve(missing.min(64));
                        self.state = State::Args { missing };
                    }
                    Some(_) => return self.inline(buf, limits),
                },
                State::Args { missing: 0 } => return Ok(self.complete()),
                State::Args { missing } => {
                    match buf.get(self.at) {
                        None => return Ok(Parsed::Incomplete),
                        Some(b'$') => {}
                        Some(&other) => return Err(ProtocolError::ExpectedBulk(other)),
                    }
                    let len = match self.short_length(buf, limits.bulk_bytes_max) {
                        Some(len) => len,
                        None => {
                            let line = self.line(buf, limits, ProtocolError::TooBigBulkCount)?;
                            let Some(line) = line else { return Ok(Parsed::Incomplete) };
                            bulk_length(line, limits)?
                        }
                    };
                    self.state = State::Bulk { missing, len };
                }
                State::Bulk { missing, len } => {
                    let end = self.at.saturating_add(len);
                    if buf.len() < end.saturating_add(2) {
                        return Ok(Parsed::Incomplete);
                    }
                    self.args.push(self.at..end);
                    self.at = end.saturating_add(2);
                    self.state = State::Args { missing: missing.saturating_sub(1) };
                }
                State::Done => return Ok(Parsed::Incomplete),
            }
        }
    }

    /// The arguments of the request that [`advance`](Self::advance) completed, in the buffer that it was given then.
    pub fn args<'a>(&'a self, buf: &'a [u8]) -> impl ExactSizeIterator<Item = &'a [u8]> + 'a {
        let source = if self.inline { self.unquoted.as_slice() } else { buf };
        self.args.iter().map(move |range| source.get(range.clone()).unwrap_or_default())
    }

    /// The same as ranges of the buffer; none of an inline request, whose words are not as they came.
    #[must_use]
    pub fn ranges(&self) -> Option<&[Range<usize>]> {
        (!self.inline).then_some(&self.args)
    }

    /// How long the buffer must at least grow before [`advance`](Self::advance) can find more, if that is known: to reserve room
    /// for a large argument at once.
    #[must_use]
    pub fn bytes_wanted(&self) -> Option<usize> {
        match self.state {
            State::Bulk { len, .. } => Some(self.at.saturating_add(len).saturating_add(2)),
            _ => None,
        }
    }

    fn complete(&mut self) -> Parsed {
        self.state = State::Done;
        Parsed::Complete { consumed: self.at }
    }

    /// The length in a whole line that begins at `self.at`, if it is one of the usual: short, canonical and within its limit; then moves
    /// behind it. Whatever is wrong or missing is for [`line`](Self::line) to find out.
    fn short_length(&mut self, buf: &[u8], max: usize) -> Option<usize> {
        const DIGITS_MAX: usize = 6;
        let rest = buf.get(self.at..)?;
        let mut value = 0;
        for (index, &byte) in rest.iter().enumerate().skip(1).take(DIGITS_MAX + 1) {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                let is_whole = byte == b'\r' && index > 1 && rest.len() > index + 1 && value <= max;
                return is_whole.then(|| {
                    self.at = self.at.saturating_add(index + 2);
                    value
                });
            }
            if value == 0 && index > 1 {
                // A leading zero.
                return None;
            }
            value = value * 10 + usize::from(digit);
        }
        None
    }

    /// The rest of a `*…\r\n` or `$…\r\n` line that begins at `self.at`, without its first byte; moves behind it.
    fn line<'a>(
        &mut self,
        buf: &'a [u8],
        limits: &ParseLimits,
        too_big: ProtocolError,
    ) -> Result<Option<&'a [u8]>, ProtocolError> {
        let rest = buf.get(self.at.saturating_add(1)..).unwrap_or_default();
        // A length has at most 20 digits, so this looks at a few bytes again at most.
        let Some(end) = rest.iter().take(limits.inline_bytes_max).position(|&b| b == b'\r') else {
            return if rest.len() >= limits.inline_bytes_max { Err(too_big) } else { Ok(None) };
        };
        if rest.len() < end.saturating_add(2) {
            return Ok(None);
        }
        self.at = self.at.saturating_add(end).saturating_add(3);
        Ok(rest.get(..end))
    }

    fn inline(&mut self, buf: &[u8], limits: &ParseLimits) -> Result<Parsed, ProtocolError> {
        let rest = buf.get(self.at..).unwrap_or_default();
        let Some(newline) = rest.iter().position(|&b| b == b'\n') else {
            if buf.len() > limits.inline_bytes_max {
                return Err(ProtocolError::TooBigInline);
            }
            self.at = buf.len();
            return Ok(Parsed::Incomplete);
        };
        let end = self.at.saturating_add(newline);
        if end > limits.inline_bytes_max {
            return Err(ProtocolError::TooBigInline);
        }
        let line = buf.get(..end).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.inline = true;
        split_words(line, &mut self.unquoted, &mut self.args)?;
        self.at = end.saturating_add(1);
        Ok(self.complete())
    }
}

fn multibulk_length(line: &[u8], limits: &ParseLimits) -> Result<usize, ProtocolError> {
    let length = super::parse_int(line).ok_or(ProtocolError::InvalidMultibulkLength)?;
    let length = usize::try_from(length.max(0)).map_err(|_| ProtocolError::InvalidMultibulkLength)?;
    match length {
        _ if length <= limits.args_max => Ok(length),
        _ if limits.authenticated => Err(ProtocolError::InvalidMultibulkLength),
        _ => Err(ProtocolError::UnauthenticatedMultibulkLength),
    }
}

fn bulk_length(line: &[u8], limits: &ParseLimits) -> Result<usize, ProtocolError> {
    let length = super::parse_int(line).ok_or(ProtocolError::InvalidBulkLength)?;
    let length = usize::try_from(length).map_err(|_| ProtocolError::InvalidBulkLength)?;
    match length {
        _ if length <= limits.bulk_bytes_max => Ok(length),
        _ if limits.authenticated => Err(ProtocolError::InvalidBulkLength),
        _ => Err(ProtocolError::UnauthenticatedBulkLength),
    }
}

/// Splits an inline request into words as a shell would: `"…"` with `\n \r \t \b \a \xHH` escapes, `'…'` with `\'` only.
fn split_words(line: &[u8], out: &mut Vec<u8>, words: &mut Vec<Range<usize>>) -> Result<(), ProtocolError> {
    let mut bytes = line.iter().copied().peekable();
    loop {
        while bytes.next_if(|b| b.is_ascii_whitespace() || *b == 0x0b).is_some() {}
        if bytes.peek().is_none() {
            return Ok(());
        }
        let start = out.len();
        while let Some(byte) = bytes.next() {
            match byte {
                b'"' => double_quoted(&mut bytes, out)?,
                b'\'' => single_quoted(&mut bytes, out)?,
                _ if byte.is_ascii_whitespace() || byte == 0 => break,
                _ => {
                    out.push(byte);
                    continue;
                }
            }
            // A closing quote must be followed by a space or the end.
            match bytes.peek() {
                None => break,
                Some(b) if b.is_ascii_whitespace() => break,
                Some(_) => return Err(ProtocolError::UnbalancedQuotes),
            }
        }
        words.push(start..out.len());
    }
}

fn double_quoted(bytes: &mut impl Iterator<Item = u8>, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
    loop {
        match bytes.next().ok_or(ProtocolError::UnbalancedQuotes)? {
            b'"' => return Ok(()),
            b'\\' => match bytes.next().ok_or(ProtocolError::UnbalancedQuotes)? {
                b'n' => out.push(b'\n'),
                b'r' => out.push(b'\r'),
                b't' => out.push(b'\t'),
                b'b' => out.push(0x08),
                b'a' => out.push(0x07),
                b'x' => {
                    let mut digit = || {
                        let digit = char::from(bytes.next().ok_or(ProtocolError::UnbalancedQuotes)?);
                        digit.to_digit(16).ok_or(ProtocolError::UnbalancedQuotes)
                    };
                    let byte = digit()? * 16 + digit()?;
                    out.push(u8::try_from(byte).unwrap_or(b'?'));
                }
                other => out.push(other),
            },
            other => out.push(other),
        }
    }
}

fn single_quoted(
    bytes: &mut std::iter::Peekable<impl Iterator<Item = u8>>,
    out: &mut Vec<u8>,
) -> Result<(), ProtocolError> {
    loop {
        match bytes.next().ok_or(ProtocolError::UnbalancedQuotes)? {
            b'\'' => return Ok(()),
            b'\\' if bytes.peek() == Some(&b'\'') => {
                bytes.next();
                out.push(b'\'');
            }
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse_all(wire: &[u8], chunk: usize) -> Result<Vec<Vec<Vec<u8>>>, ProtocolError> {
        let (mut parser, mut buf, mut requests) = (RequestParser::new(), Vec::new(), Vec::new());
        for piece in wire.chunks(chunk) {
            buf.extend_from_slice(piece);
            while let Parsed::Complete { consumed } = parser.advance(&buf, &ParseLimits::default())? {
                requests.push(parser.args(&buf).map(<[u8]>::to_vec).collect());
                buf.drain(..consumed);
            }
        }
        Ok(requests)
    }

    fn encode(requests: &[Vec<Vec<u8>>]) -> Vec<u8> {
        let mut wire = Vec::new();
        for args in requests {
            wire.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
            for arg in args {
                wire.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
                wire.extend_from_slice(arg);
                wire.extend_from_slice(b"\r\n");
            }
        }
        wire
    }

    proptest! {
        #[test]
        fn requests_survive_the_wire_however_they_are_cut(
            requests in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6), 0..6),
            chunk in 1usize..50,
        ) {
            let wire = encode(&requests);
            prop_assert_eq!(parse_all(&wire, wire.len().max(1)).unwrap(), requests.clone());
            prop_assert_eq!(parse_all(&wire, chunk).unwrap(), requests.clone());
            prop_assert_eq!(parse_all(&wire, 1).unwrap(), requests);
        }

        #[test]
        fn garbage_never_panics_and_reads_the_same_byte_by_byte(wire in prop::collection::vec(
            prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), Just(b'"'), Just(b'\\'), Just(b'1'), any::<u8>()], 0..80)
        ) {
            prop_assert_eq!(parse_all(&wire, wire.len().max(1)), parse_all(&wire, 1));
        }
    }

    #[test]
    fn inline_requests_are_split_as_a_shell_would() {
        let words = parse_all(b"SET key \"a b\\x41\\n\" 'it\\'s'\r\n\r\nPING\n", 1000).unwrap();
        let expected: Vec<Vec<&[u8]>> = vec![vec![b"SET", b"key", b"a bA\n", b"it's"], vec![], vec![b"PING"]];
        assert_eq!(words, expected);
    }

    #[test]
    fn each_breach_has_its_own_error() {
        let cases: [(&[u8], &str); 7] = [
            (b"*1048577\r\n", "Protocol error: invalid multibulk length"),
            (b"*abc\r\n", "Protocol error: invalid multibulk length"),
            (b"*1\r\n$-1\r\n", "Protocol error: invalid bulk length"),
            (b"*1\r\n$536870913\r\n", "Protocol error: invalid bulk length"),
            (b"*1\r\n+OK\r\n", "Protocol error: expected '$', got '+'"),
            (b"GET \"a\r\n", "Protocol error: unbalanced quotes in request"),
            (b"GET \"a\"b\r\n", "Protocol error: unbalanced quotes in request"),
        ];
        for (wire, message) in cases {
            assert_eq!(parse_all(wire, 1000).unwrap_err().to_string(), message);
        }
        let long = vec![b'a'; (64 << 10) + 1];
        assert_eq!(parse_all(&long, 1 << 20).unwrap_err(), ProtocolError::TooBigInline);
    }

    #[test]
    fn a_peer_that_has_not_authenticated_gets_small_limits() {
        let limits = ParseLimits::default().unauthenticated();
        let refused = |wire: &[u8]| RequestParser::new().advance(wire, &limits).unwrap_err();
        assert_eq!(refused(b"*11\r\n"), ProtocolError::UnauthenticatedMultibulkLength);
        assert_eq!(refused(b"*1\r\n$16385\r\n"), ProtocolError::UnauthenticatedBulkLength);
    }
}
