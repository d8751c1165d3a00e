//! One connection's input: what was read and is not done with.
//!
//! Owns the bytes, where the present request begins in them, and what was taken apart of those behind it. Bytes of requests that were executed stay for as long as one of
//! them may have to be executed again; they are named by their offset in the stream of all bytes the peer ever sent.

use std::collections::VecDeque;
use std::ops::Range;

use ringmaster_engine::{Located, ParseLimits, Parsed, ProtocolError, RequestParser};

/// How much is asked of the socket at first, and at most unless a large argument is on its way.
const READ_BYTES_MIN: usize = 4 << 10;
const READ_BYTES_MAX: usize = 64 << 10;
/// A buffer that grew beyond this is given back once it is empty.
const KEPT_BYTES: usize = 16 << 10;
/// Bytes that are done with are dropped from the front of the buffer once there are that many.
const COMPACT_BYTES: usize = 16 << 10;

/// How many requests are taken apart before the first of them is executed.
const AHEAD_MAX: usize = 32;

#[derive(Debug)]
pub(super) struct Input {
    buf: Vec<u8>,
    /// Takes apart what is behind the requests that are ahead.
    parser: RequestParser,
    /// Where the present request begins in `buf`.
    at: usize,
    /// The offset in the stream at which `buf` begins.
    base: u64,
    read_bytes: usize,
    /// Whole requests, the present one first, and how many bytes they are together.
    ahead: VecDeque<Ahead>,
    ahead_bytes: usize,
    /// Arguments of requests that are or were ahead, as ranges of what begins with their request; the present one's begin here.
    ranges: Vec<Range<usize>>,
    ranges_at: usize,
    /// What is behind the requests that are ahead is no request.
    broken: Option<ProtocolError>,
}

/// A request that was taken apart.
#[derive(Debug)]
struct Ahead {
    len: usize,
    /// How many arguments it has; none where the parser still has them, as of the last one.
    args: Option<usize>,
    /// Where its key is, as far as anyone knows what that is.
    located: Option<Located>,
}

impl Input {
    pub(super) fn new() -> Self {
        Self {
            buf: Vec::new(),
            parser: RequestParser::new(),
            at: 0,
            base: 0,
            read_bytes: READ_BYTES_MIN,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            ranges: Vec::new(),
            ranges_at: 0,
            broken: None,
        }
    }

    /// The length of the present request, if [`look_ahead`](Self::look_ahead) found one. Asking again gives the same, until
    /// [`consume`](Self::consume).
    pub(super) fn request(&self) -> Result<Option<usize>, ProtocolError> {
        match (self.ahead.front(), &self.broken) {
            (Some(present), _) => Ok(Some(present.len)),
            (None, Some(error)) => Err(error.clone()),
            (None, None) => Ok(None),
        }
    }

    /// Takes apart what has arrived, if no request is ahead. Says whether it found several.
    pub(super) fn look_ahead(&mut self, limits: &ParseLimits) -> bool {
        if !self.ahead.is_empty() || self.broken.is_some() {
            return false;
        }
        self.ranges.clear();
        self.ranges_at = 0;
        // What is allowed may change with each request of a peer that is not known yet.
        let count_max = if limits.authenticated { AHEAD_MAX } else { 1 };
        while self.ahead.len() < count_max {
            let rest = self.buf.get(self.at.saturating_add(self.ahead_bytes)..).unwrap_or_default();
            match self.parser.advance(rest, limits) {
                Ok(Parsed::Incomplete) => break,
                Ok(Parsed::Complete { consumed }) => {
                    let ranges = self.parser.ranges();
                    self.ranges.extend_from_slice(ranges.unwrap_or_default());
                    self.ahead.push_back(Ahead { len: consumed, args: ranges.map(<[_]>::len), located: None });
                    self.ahead_bytes = self.ahead_bytes.saturating_add(consumed);
                    if ranges.is_none() {
                        break;
                    }
                }
                Err(error) => {
                    self.broken = Some(error);
                    break;
                }
            }
        }
        self.ahead.len() > 1
    }

    /// Has `locate` find out where the first argument behind the name of each request that is ahead is: its key, as a rule.
    pub(super) fn locate_ahead(&mut self, locate: impl Fn(&[u8]) -> Located) {
        let (mut start, mut ranges) = (self.at, self.ranges.get(self.ranges_at..).unwrap_or_default());
        for request in &mut self.ahead {
            let Some((own, behind)) = ranges.split_at_checked(request.args.unwrap_or(0)) else { return };
            let key = own.get(1).and_then(|key| self.buf.get(start..)?.get(key.clone()));
            request.located = key.map(&locate);
            (start, ranges) = (start.saturating_add(request.len), behind);
        }
    }

    /// What [`locate_ahead`](Self::locate_ahead) found.
    pub(super) fn located_ahead(&self) -> impl Iterator<Item = Located> {
        self.ahead.iter().filter_map(|request| request.located)
    }

    /// The same of the present request.
    pub(super) fn located(&self) -> Option<Located> {
        self.ahead.front()?.located
    }

    /// The arguments of the request that [`request`](Self::request) found.
    pub(super) fn args(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let rest = self.buf.get(self.at..).unwrap_or_default();
        let held = self.ahead.front().and_then(|present| present.args);
        let (count, words) = match held {
            Some(count) => (count, None),
            None => (self.parser.args(rest).len(), Some(self.parser.args(rest))),
        };
        let mut words = words.into_iter().flatten();
        let mut ranges = self.ranges.get(self.ranges_at..).unwrap_or_default().iter();
        (0..count).map(move |_| match held {
            Some(_) => ranges.next().and_then(|range| rest.get(range.clone())).unwrap_or_default(),
            None => words.next().unwrap_or_default(),
        })
    }

    /// Where the present request begins in the stream.
    pub(super) fn offset(&self) -> u64 {
        self.base.saturating_add(self.at as u64)
    }

    /// The request at an offset of the stream that was not forgotten yet is the present one again.
    pub(super) fn rewind(&mut self, offset: u64) {
        self.at = usize::try_from(offset.saturating_sub(self.base)).unwrap_or(self.at).min(self.at);
        // What was taken apart was what is behind the former one.
        self.parser = RequestParser::new();
        (self.ahead, self.ahead_bytes, self.broken) = (VecDeque::new(), 0, None);
    }

    /// The present request is done with; the next one begins behind it.
    pub(super) fn consume(&mut self, len: usize) {
        self.at = self.at.saturating_add(len).min(self.buf.len());
        if let Some(present) = self.ahead.pop_front() {
            self.ahead_bytes = self.ahead_bytes.saturating_sub(present.len);
            self.ranges_at = self.ranges_at.saturating_add(present.args.unwrap_or(0));
        }
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
        let behind = self.at.saturating_add(self.ahead_bytes);
        let wanted = self.parser.bytes_wanted().unwrap_or(0).saturating_add(behind).saturating_sub(self.buf.len());
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
    use ringmaster_engine::{Engine, EngineConfig};

    use super::*;

    fn take(input: &mut Input) -> Option<Vec<Vec<u8>>> {
        input.look_ahead(&ParseLimits::default());
        let len = input.request().unwrap()?;
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
        for _ in 0..2 {
            input.look_ahead(&ParseLimits::default());
            assert_eq!(input.request(), Ok(Some(14)));
        }
    }

    #[test]
    fn requests_are_taken_apart_ahead_and_an_error_has_its_turn() {
        let mut input = Input::new();
        input.room().extend_from_slice(
            b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$2\r\nbc\r\n*x\r\n",
        );
        assert!(input.look_ahead(&ParseLimits::default()));
        let engine = Engine::new(EngineConfig::default());
        input.locate_ahead(|key| engine.locate(0, key));
        assert_eq!(input.located_ahead().collect::<Vec<_>>(), [engine.locate(0, b"a"), engine.locate(0, b"bc")]);
        assert_eq!(input.located(), Some(engine.locate(0, b"a")));
        let names: Vec<Vec<Vec<u8>>> = (0..3).map(|_| take(&mut input).unwrap()).collect();
        assert_eq!(
            names,
            [vec![b"GET".to_vec(), b"a".to_vec()], vec![b"PING".to_vec()], vec![b"GET".to_vec(), b"bc".to_vec()]]
        );
        assert!(!input.look_ahead(&ParseLimits::default()));
        assert_eq!(input.request(), Err(ProtocolError::InvalidMultibulkLength));
    }

    #[test]
    fn after_a_rewind_the_same_requests_come_again() {
        let mut input = Input::new();
        input.room().extend_from_slice(b"PING a\r\nPING b\r\nPING c\r\nPING");
        let first = input.offset();
        for _ in 0..2 {
            assert_eq!(take(&mut input).unwrap()[1], b"a");
            assert_eq!(take(&mut input).unwrap()[1], b"b");
            input.rewind(first);
        }
        let all: Vec<_> = std::iter::from_fn(|| take(&mut input)).map(|args| args[1].clone()).collect();
        assert_eq!(all, [b"a", b"b", b"c"]);
    }

    #[test]
    fn a_peer_that_is_not_known_is_looked_at_one_request_at_a_time() {
        let mut input = Input::new();
        input.room().extend_from_slice(b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n");
        assert!(!input.look_ahead(&ParseLimits::default().unauthenticated()));
        assert_eq!(input.request(), Ok(Some(14)));
    }
}
