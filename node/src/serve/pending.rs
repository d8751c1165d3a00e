//! One connection's replies: in order, and each held back until it may be given.
//!
//! Owns the bytes of all replies that were not written yet, and what each waits for. In: replies as commands encode them. Out: a run
//! of bytes for the socket. The rule of PROTOCOL that carries the weight stands here: whether a reply may leave is asked of the
//! gate when it leaves, not when it was made.
//!
//! ```text
//! buf:  written │ ready to be written │ held[0] │ held[1] │ …
//! ```

use std::collections::VecDeque;
use std::rc::Rc;

use ringmaster_engine::{Protocol, ReplyBuf};
use ringmaster_replica::{Answer, Gate, Mono, Ticket};
use ringmaster_ring::Seq;

use super::session::Transaction;

/// Written bytes are dropped from the front of the buffer once there are that many of them.
const COMPACT_BYTES: usize = 64 << 10;
/// A buffer that grew beyond this is given back once it is empty.
const KEPT_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Replies {
    buf: ReplyBuf,
    /// How much of the buffer's front is on its way already.
    written: usize,
    /// How much of the buffer's front may leave.
    ready: usize,
    held: VecDeque<Held>,
}

/// A reply, or several in a row, that may not leave yet.
#[derive(Debug)]
struct Held {
    bytes: usize,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    /// It may leave once all before it did.
    Order,
    /// The gate says when.
    Gate { ticket: Ticket, after: Seq, source: Option<Source> },
    /// There is no reply: its source is to be executed again.
    Void { source: Source },
}

/// What a reply was made from, if that can be executed again, in this database.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// The request that begins at this offset of the connection's input.
    Request {
        offset: u64,
        db: u8,
    },
    Transaction {
        transaction: Rc<Transaction>,
        db: u8,
    },
}

/// What became of the replies at the front.
#[derive(Clone, Debug)]
pub(super) enum Settled {
    /// No reply is held.
    All,
    /// The gate has not said yet.
    Waiting(Ticket, Seq),
    /// The front reply is void: execute its source again, and hand the reply to [`Replies::replace_front`].
    Void(Source),
    /// The front reply can never be given: close the connection.
    Unanswerable,
}

impl Replies {
    pub(super) fn new() -> Self {
        Self { buf: ReplyBuf::new(Protocol::Resp2), written: 0, ready: 0, held: VecDeque::new() }
    }

    /// Where the next reply is to be written. Say what it is with one of the `hold_` methods.
    pub(super) fn buf(&mut self) -> &mut ReplyBuf {
        &mut self.buf
    }

    /// How long the buffer is before a reply is written to it.
    pub(super) fn mark(&self) -> usize {
        self.buf.len()
    }

    /// What was written since `mark` may leave when its turn comes.
    pub(super) fn hold_for_order(&mut self, mark: usize) {
        let bytes = self.buf.len().saturating_sub(mark);
        match self.held.back_mut() {
            None => self.ready = self.buf.len(),
            Some(Held { bytes: last, cause: Cause::Order }) => *last = last.saturating_add(bytes),
            Some(_) => self.held.push_back(Held { bytes, cause: Cause::Order }),
        }
    }

    /// What was written since `mark` may leave when the gate says so and its turn comes.
    pub(super) fn hold_for_gate(&mut self, mark: usize, ticket: Ticket, after: Seq, source: Option<Source>) {
        let bytes = self.buf.len().saturating_sub(mark);
        self.held.push_back(Held { bytes, cause: Cause::Gate { ticket, after, source } });
    }

    /// Lets go of every reply at the front that the gate lets go of now.
    pub(super) fn settle(&mut self, gate: &Gate, now: Mono) -> Settled {
        if self.held.is_empty() {
            return Settled::All;
        }
        let look = gate.look(now);
        while let Some(front) = self.held.front_mut() {
            match &mut front.cause {
                Cause::Order => {}
                Cause::Void { source } => return Settled::Void(source.clone()),
                Cause::Gate { ticket, after, source } => match look.answer(ticket, *after) {
                    Answer::Send => {}
                    Answer::Wait => return Settled::Waiting(*ticket, *after),
                    Answer::Close => return Settled::Unanswerable,
                    Answer::Rerun => {
                        let Some(source) = source.take() else { return Settled::Unanswerable };
                        front.cause = Cause::Void { source: source.clone() };
                        return Settled::Void(source);
                    }
                },
            }
            self.ready = self.ready.saturating_add(front.bytes);
            self.held.pop_front();
        }
        Settled::All
    }

    /// Puts another reply in the place of the front one. Without a ticket it may leave at once.
    pub(super) fn replace_front(&mut self, reply: &[u8], ticket: Option<(Ticket, Seq)>) {
        let Some(front) = self.held.front_mut() else { return };
        let source = match std::mem::replace(&mut front.cause, Cause::Order) {
            Cause::Void { source } => Some(source),
            Cause::Gate { source, .. } => source,
            Cause::Order => None,
        };
        let (start, end) = (self.ready, self.ready.saturating_add(front.bytes));
        front.bytes = reply.len();
        if let Some((ticket, after)) = ticket {
            front.cause = Cause::Gate { ticket, after, source };
        }
        let mut bytes = self.buf.take();
        if end <= bytes.len() {
            bytes.splice(start..end, reply.iter().copied());
        }
        self.buf.raw(&bytes);
    }

    /// What may be written to the socket now.
    pub(super) fn writable(&self) -> &[u8] {
        self.buf.as_bytes().get(self.written..self.ready).unwrap_or_default()
    }

    /// So many of the writable bytes are written.
    pub(super) fn advance(&mut self, count: usize) {
        self.written = self.written.saturating_add(count).min(self.ready);
        if self.written == self.buf.len() {
            if self.written > KEPT_BYTES {
                drop(self.buf.take());
            } else {
                self.buf.clear();
            }
            (self.written, self.ready) = (0, 0);
        } else if self.written >= COMPACT_BYTES && self.written.saturating_mul(2) >= self.buf.len() {
            let bytes = self.buf.take();
            self.buf.raw(bytes.get(self.written..).unwrap_or_default());
            self.ready = self.ready.saturating_sub(self.written);
            self.written = 0;
        }
    }

    /// Bytes that were not written yet, held or not.
    pub(super) fn bytes(&self) -> usize {
        self.buf.len().saturating_sub(self.written)
    }

    /// How many replies are held.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// From where on the input must be kept, because requests in it may have to be executed again.
    pub(super) fn input_kept_from(&self) -> Option<u64> {
        self.held.iter().find_map(|held| match held.cause {
            Cause::Gate { source: Some(Source::Request { offset, .. }), .. }
            | Cause::Void { source: Source::Request { offset, .. } } => Some(offset),
            Cause::Gate { .. } | Cause::Void { .. } | Cause::Order => None,
        })
    }
}
