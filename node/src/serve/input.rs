//! One connection's input: what was read and is not done with.
//!
//! Owns the bytes and where the present request begins in them. Bytes of requests that were executed stay for as long as one of
//! them may have to be executed again; they are named by their offset in the stream of all bytes the peer ever sent.

use ringmaster_engine::{ParseLimits, Parsed, ProtocolError, RequestParser};

/// How much is asked of the socket at first, and at most unless a large argument is on its way.
const READ_BYTES_MIN: usize = 4 << 10;
const READ_BYTES_MAX: usize = 64 << 10;
/// A buffer that grew beyond this is given back once it is empty.
const KEPT_BYTES: usize = 16 << 10;
/// Bytes that are done with are dropped from the front of the buffer once there are that many.
const COMPACT_BYTES: usize = 16 << 10;

#[derive(Debug)]
pub(super) struct Input {
    buf: Vec<u8>,
    parser: RequestParser,
    /// Where the present request begins in `buf`.
    at: usize,
    /// The offset in the stream at which `buf` begins.
    base: u64,
    read_bytes: usize,
}

impl Input {
    pub(super) fn new() -> Self {
        Self { buf: Vec::new(), parser: RequestParser::new(), at: 0, base: 0, read_bytes: READ_BYTES_MIN }
    }

    /// The length of the present request, if all of it is there. Asking again gives the same, until [`consume`](Self::consume).
    pub(super) fn request(&mut self, limits: &ParseLimits) -> Result<Option<usize>, ProtocolError> {
        let rest = self.buf.get(self.at..).unwrap_or_default();
        match self.parser.advance(rest, limits)? {
            Parsed::Complete { consumed } => Ok(Some(consumed)),
            Parsed::Incomplete => Ok(None),
        }
    }

    /// The arguments of the request that [`request`](Self::request) found.
    pub(super) fn args(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.parser.args(self.buf.get(self.at..).unwrap_or_default())
    }

    /// Where the present request begins in the stream.
    pub(super) fn offset(&self) -> u64 {
        self.base.saturating_add(self.at as u64)
    }

    /// The request at an offset of the stream that was not forgotten yet is the present one again.
    pub(super) fn rewind(&mut self, offset: u64) {
        self.at = usize::try_from(offset.saturating_sub(self.base)).unwrap_or(self.at).min(self.at);
        self.parser = RequestParser::new();
    }

    /// The present request is done with; the next one begins behind it.
    pub(super) fn consume(&mut self, len: usize) {
        self.at = self.at.saturating_add(len).min(self.buf.len());
    }

    /// The bytes from an offset of the stream on that was not forgotten yet.
    pub(super) fn kept_from(&self, offset: u64) -> Option<&[u8]> {
        let start = usize::try_from(offset.checked_sub(self.base)?).ok()?;
        self.buf.get(start..)
    }

    /// Forgets what is before the present request and before `kept_from`.
    pub(super) fn forget(&mut self, kept_from: Option<u64>) {
        let kept = kept_from.and_then(|offset| usize::try_from(offset.saturating_sub(self.base)).ok());
        let done = kept.map_or(self.at, |kept| kept.min(self.at));
        if done == 0 {
            return;
        }
        if done == self.buf.len() {
            if self.buf.capacity() > KEPT_BYTES {
                self.buf = Vec::new();
            } else {
                self.buf.clear();
            }
        } else if done >= COMPACT_BYTES || done.saturating_mul(2) >= self.buf.len() {
            self.buf.drain(..done);
        } else {
            return;
        }
        self.base = self.base.saturating_add(done as u64);
        self.at = self.at.saturating_sub(done);
    }

    /// Bytes that were read and belong to no request that was taken yet.
    pub(super) fn unparsed(&self) -> usize {
        self.buf.len().saturating_sub(self.at)
    }

    /// All bytes that are kept.
    pub(super) fn bytes(&self) -> usize {
        self.buf.len()
    }

    /// The buffer, with room behind what it holds for the next read: more after reads that filled theirs, and at once as much as a
    /// large argument still lacks, within what a peer has shown it sends.
    pub(super) fn room(&mut self) -> &mut Vec<u8> {
        let wanted = self.parser.bytes_wanted().unwrap_or(0).saturating_add(self.at).saturating_sub(self.buf.len());
        // A length is only a claim: reserve no more than doubles what arrived.
        let claimed = wanted.min(self.buf.len().max(READ_BYTES_MAX));
        let room = self.read_bytes.max(claimed);
        if self.buf.capacity().saturating_sub(self.buf.len()) < self.read_bytes {
            self.buf.reserve(room);
        }
        &mut self.buf
    }

    /// So many bytes were read into the room.
    pub(super) fn note_read(&mut self, count: usize) {
        if count >= self.read_bytes {
            self.read_bytes = self.read_bytes.saturating_mul(2).min(READ_BYTES_MAX);
        } else if count < self.read_bytes / 8 {
            self.read_bytes = (self.read_bytes / 2).max(READ_BYTES_MIN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(input: &mut Input) -> Option<Vec<Vec<u8>>> {
        let len = input.request(&ParseLimits::default()).unwrap()?;
        let args = input.args().map(<[u8]>::to_vec).collect();
        input.consume(len);
        Some(args)
    }

    #[test]
    fn requests_stay_readable_by_their_offset_until_they_are_forgotten() {
        let mut input = Input::new();
        input.room().extend_from_slice(b"PING a\r\nPING b\r\nPING");
        assert_eq!(take(&mut input).unwrap()[1], b"a");
        let second = input.offset();
        assert_eq!(take(&mut input).unwrap()[1], b"b");
        assert_eq!(take(&mut input), None);
        input.forget(Some(second));
        assert!(input.kept_from(second).unwrap().starts_with(b"PING b\r\n"));
        input.room().extend_from_slice(b" c\r\n");
        assert_eq!(take(&mut input).unwrap()[1], b"c");
        assert!(input.kept_from(second).unwrap().starts_with(b"PING b\r\n"));
        input.forget(None);
        assert_eq!((input.bytes(), input.offset()), (0, 24));
    }

    #[test]
    fn the_present_request_is_found_as_often_as_it_is_asked_for() {
        let mut input = Input::new();
        input.room().extend_from_slice(b"*1\r\n$4\r\nPING\r\n");
        assert_eq!(input.request(&ParseLimits::default()), Ok(Some(14)));
        assert_eq!(input.request(&ParseLimits::default()), Ok(Some(14)));
    }
}
