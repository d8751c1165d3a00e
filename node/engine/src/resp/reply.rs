//! Replies: one buffer a connection, into which commands write.

use super::text::push_line;
use super::{write_double, write_int};

/// Which version of RESP a connection has agreed on with HELLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    #[default]
    Resp2,
    Resp3,
}

/// Encoded replies in the order in which they were written.
///
/// It knows the connection's protocol, so that a command states what it means (a map, a set, a double) and the buffer chooses how
/// RESP2 or RESP3 says it.
#[derive(Debug, Default)]
pub struct ReplyBuf {
    bytes: Vec<u8>,
    protocol: Protocol,
}

impl ReplyBuf {
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        Self { bytes: Vec::new(), protocol }
    }

    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Holds for replies written from now on (HELLO answers in the protocol it asks for).
    pub fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes back what was written after the buffer was `len` bytes long.
    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Takes everything out. The protocol stays.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// `+text`. The text must not hold a line end.
    pub fn simple(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    pub fn ok(&mut self) {
        self.bytes.extend_from_slice(b"+OK\r\n");
    }

    /// The same for a text that scripts made ([`text_of`](super::text_of)); line ends in it become spaces.
    pub fn status(&mut self, text: &str) {
        self.bytes.push(b'+');
        push_line(text, &mut self.bytes);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// `-text`. The text begins with its code (`ERR …`, `WRONGTYPE …`); what a client sent is in it by [`text_of`](super::text_of). Line
    /// ends become spaces.
    pub fn error(&mut self, text: &str) {
        self.bytes.push(b'-');
        push_line(text, &mut self.bytes);
        self.bytes.extend_from_slice(b"\r\n");
    }

    pub fn integer(&mut self, value: i64) {
        self.number_line(b':', value);
    }

    /// A count of things, which no real collection makes too large for an `i64`.
    pub fn count(&mut self, value: usize) {
        self.integer(i64::try_from(value).unwrap_or(i64::MAX));
    }

    pub fn bulk(&mut self, bytes: &[u8]) {
        self.header(b'$', bytes.len());
        self.bytes.extend_from_slice(bytes);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// An integer as a bulk string, as GET returns a counter.
    pub fn bulk_integer(&mut self, value: i64) {
        let mut digits = [0; 20];
        let text = write_int(value, &mut digits);
        self.header(b'$', text.len());
        self.bytes.extend_from_slice(text);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// The null bulk string of RESP2, the null of RESP3.
    pub fn null(&mut self) {
        self.bytes.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"$-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// The null array of RESP2, the null of RESP3.
    pub fn null_array(&mut self) {
        self.bytes.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"*-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// `#t` in RESP3, `:1` in RESP2.
    pub fn boolean(&mut self, value: bool) {
        self.bytes.extend_from_slice(match (self.protocol, value) {
            (Protocol::Resp2, true) => b":1\r\n",
            (Protocol::Resp2, false) => b":0\r\n",
            (Protocol::Resp3, true) => b"#t\r\n",
            (Protocol::Resp3, false) => b"#f\r\n",
        });
    }

    /// A double in RESP3, its shortest text as a bulk string in RESP2.
    pub fn double(&mut self, value: f64) {
        let mut text = Vec::with_capacity(24);
        write_double(value, &mut text);
        match self.protocol {
            Protocol::Resp2 => self.bulk(&text),
            Protocol::Resp3 => self.line(b',', &text),
        }
    }

    /// Text with a format (`txt`, `mkd`) in RESP3, a bulk string in RESP2. A format has three letters: what is missing are spaces.
    pub fn verbatim(&mut self, format: impl AsRef<[u8]>, text: &[u8]) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text),
            Protocol::Resp3 => {
                let letters = format.as_ref().iter().copied().chain(std::iter::repeat(b' ')).take(3);
                self.header(b'=', text.len() + 4);
                self.bytes.extend(letters);
                self.bytes.push(b':');
                self.bytes.extend_from_slice(text);
                self.bytes.extend_from_slice(b"\r\n");
            }
        }
    }

    /// An integer of any size, as its decimal text, which must not hold a line end.
    pub fn big_number(&mut self, digits: &[u8]) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(digits),
            Protocol::Resp3 => self.line(b'(', digits),
        }
    }

    /// Begins an array: `len` replies must follow.
    pub fn array(&mut self, len: usize) {
        self.header(b'*', len);
    }

    /// Begins a map: `len` pairs must follow. A flat array in RESP2.
    pub fn map(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.header(b'*', len.saturating_mul(2)),
            Protocol::Resp3 => self.header(b'%', len),
        }
    }

    /// Begins a set: `len` replies must follow. An array in RESP2.
    pub fn set(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.header(b'*', len),
            Protocol::Resp3 => self.header(b'~', len),
        }
    }

    /// Begins an out-of-band message. An array in RESP2, where only a subscribed connection may get one.
    pub fn push(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.header(b'*', len),
            Protocol::Resp3 => self.header(b'>', len),
        }
    }

    /// Appends replies that are encoded already.
    pub fn raw(&mut self, encoded: &[u8]) {
        self.bytes.extend_from_slice(encoded);
    }

    fn header(&mut self, kind: u8, len: usize) {
        self.number_line(kind, i64::try_from(len).unwrap_or(i64::MAX));
    }

    fn number_line(&mut self, kind: u8, value: i64) {
        let mut digits = [0; 20];
        let text = write_int(value, &mut digits);
        self.line(kind, text);
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.bytes.push(kind);
        self.bytes.extend_from_slice(text);
        self.bytes.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(write: impl Fn(&mut ReplyBuf)) -> [String; 2] {
        [Protocol::Resp2, Protocol::Resp3].map(|protocol| {
            let mut reply = ReplyBuf::new(protocol);
            write(&mut reply);
            String::from_utf8(reply.take()).unwrap()
        })
    }

    #[test]
    fn each_kind_is_said_as_each_protocol_says_it() {
        assert_eq!(both(|r| r.null()), ["$-1\r\n", "_\r\n"]);
        assert_eq!(both(|r| r.null_array()), ["*-1\r\n", "_\r\n"]);
        assert_eq!(both(|r| r.boolean(true)), [":1\r\n", "#t\r\n"]);
        assert_eq!(both(|r| r.double(1.5)), ["$3\r\n1.5\r\n", ",1.5\r\n"]);
        assert_eq!(both(|r| r.double(f64::NEG_INFINITY)), ["$4\r\n-inf\r\n", ",-inf\r\n"]);
        assert_eq!(both(|r| r.map(2)), ["*4\r\n", "%2\r\n"]);
        assert_eq!(both(|r| r.set(2)), ["*2\r\n", "~2\r\n"]);
        assert_eq!(both(|r| r.push(2)), ["*2\r\n", ">2\r\n"]);
        assert_eq!(both(|r| r.verbatim("txt", b"hi")), ["$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n"]);
        assert_eq!(both(|r| r.bulk_integer(i64::MIN)), ["$20\r\n-9223372036854775808\r\n"; 2]);
    }

    #[test]
    fn an_error_stays_on_its_line() {
        assert_eq!(both(|r| r.error("ERR a\r\n+OK")), ["-ERR a  +OK\r\n"; 2]);
    }
}
