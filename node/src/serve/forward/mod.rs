//! A connection whose requests the primary executes, with cluster mode off: clients that do not speak cluster may connect to any
//! member, and stay connected while the primary changes.
//!
//! Owns the client's socket from the first request that this member may not execute until its end, and a socket to the primary. In:
//! the client's requests. Out: the primary's replies, as they come. Requests are kept until their replies are given: a member
//! that is no longer the primary says MOVED to the first request that it has not executed, and executes none after it; from there on
//! they are sent to the next primary. What the client has agreed on goes ahead of them, and a transaction as a whole. If a primary is
//! gone without a word, what became of its requests is not known, and the client's connection is closed.
//!
//! ```text
//! input:  sent, and in MULTI answered with QUEUED │ sent │ not yet sent │ incomplete
//!         └──────────── `sent[..answered]`        └──── `sent[..]` ────┘
//! ```

mod frames;
mod requests;
mod upstream;

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ringmaster_engine::{ParseLimits, lookup};
use ringmaster_ring::{Holder, Ring};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Sleep;

use super::input::Input;
use super::registry::{Client, Registration};
use super::thread::Thread;
use super::topology::Topology;
use crate::env::boot_now;
pub(super) use requests::Requests;
use upstream::{Arrived, Upstream};

/// How many requests may be under way.
const SENT_MAX: usize = 4_096;
/// How much of the client's requests is read while earlier ones have no reply yet.
const READ_AHEAD_BYTES_MAX: usize = 1 << 20;
/// How long to wait before a primary is tried again: it is not there yet, or does not know it yet.
const RETRY: Duration = Duration::from_millis(5);
/// How long a former primary may owe replies: one that lives says at once what it has not executed.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a connection is made of when it begins to be forwarded. Its first request is the present one of the input.
pub(super) struct Parts {
    pub(super) thread: Rc<Thread>,
    pub(super) stream: TcpStream,
    pub(super) registration: Registration,
    pub(super) input: Input,
    pub(super) limits: ParseLimits,
    pub(super) carried: Carried,
}

/// What the client has agreed on with this member, and the next one must know.
#[derive(Clone, Debug)]
pub(super) struct Carried {
    /// What is said first.
    pub(super) greeting: Requests,
    /// What CLIENT REPLY is told behind it, if not every reply is wanted.
    pub(super) last: Option<&'static [u8]>,
    pub(super) db: u8,
    /// A transaction that was begun here. Its replies have been given.
    pub(super) begun: Requests,
    /// It can be carried once, and not on from there.
    pub(super) is_bound: bool,
}

/// Forwards until either side ends it.
pub(super) async fn run(parts: Parts) {
    let Parts { thread, stream, registration, input, limits, carried } = parts;
    let (in_transaction, opaque) = (carried.begun.replies() > 0, carried.is_bound);
    thread.counters.forwarded().add(1);
    let mut forward = Forward {
        client: Arc::clone(&registration.client),
        thread,
        stream,
        input,
        limits,
        carried,
        to_client: Vec::new(),
        sent: VecDeque::new(),
        answered: 0,
        unsent: 0,
        in_transaction,
        watches: false,
        opaque,
        ending: false,
        upstream: None,
        patience: None,
    };
    let mut rings = forward.thread.shared.rings.get().cloned();
    while forward.turn().is_continue() {
        let event = tokio::select! {
            () = asked_to_close(&registration.client) => return,
            () = patience_ends(&mut forward.patience) => return,
            () = ring_changes(&mut rings) => Event::Looked,
            ready = forward.stream.readable(), if forward.may_read() => Event::FromClient(ready),
            ready = forward.stream.writable(), if !forward.to_client.is_empty() => Event::Ready(ready),
            arrived = upstream::event(&mut forward.upstream, forward.to_client.len()) => Event::Upstream(arrived),
        };
        let goes_on = match event {
            Event::Looked | Event::Ready(Ok(())) => ControlFlow::Continue(()),
            Event::Ready(Err(_)) | Event::FromClient(Err(_)) => ControlFlow::Break(()),
            Event::FromClient(Ok(())) => forward.read(),
            Event::Upstream(arrived) => forward.take(arrived),
        };
        if goes_on.is_break() {
            // What is due to the client is given as far as its socket takes it at once.
            let _ = forward.write();
            return;
        }
    }
}

enum Event {
    Looked,
    FromClient(io::Result<()>),
    Ready(io::Result<()>),
    Upstream(Arrived),
}

struct Forward {
    client: Arc<Client>,
    thread: Rc<Thread>,
    stream: TcpStream,
    input: Input,
    limits: ParseLimits,
    carried: Carried,
    to_client: Vec<u8>,
    /// Requests whose replies have not been given; of a transaction all, until it is executed.
    sent: VecDeque<Request>,
    /// How many of them, from the first, have been answered with QUEUED and the like.
    answered: usize,
    /// From which of them on they are to be sent to this primary.
    unsent: usize,
    in_transaction: bool,
    watches: bool,
    /// Replies cannot be counted any more, or the primary keeps something that cannot be carried to another.
    opaque: bool,
    /// Nothing more is read.
    ending: bool,
    upstream: Option<Upstream>,
    /// When a former primary that still owes replies is given up.
    patience: Option<Pin<Box<Sleep>>>,
}

/// A request under way.
struct Request {
    offset: u64,
    len: usize,
    meaning: Meaning,
}

/// What a request means for those after it, once it was answered.
enum Meaning {
    Nothing,
    Begins,
    Ends,
    Watches,
    Unwatches,
    Selects(u8),
    /// It is a part of the next greeting.
    Agrees(Requests),
}

impl Forward {
    /// Does all that can be done without waiting. Breaks if the connection is to end.
    fn turn(&mut self) -> ControlFlow<()> {
        self.take_requests();
        let topology = self.thread.rings.newest();
        let primary = topology.as_deref().and_then(primary_of);
        let is_quiet = self.sent.is_empty() && !self.watches && !self.in_transaction;
        let moved_on =
            |upstream: &Upstream| primary.as_ref().is_some_and(|(holder, ..)| Some(*holder) != upstream.holder);
        if self.upstream.as_ref().is_some_and(moved_on) {
            if self.unsent > self.answered {
                self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(PATIENCE)));
            } else {
                self.leave_primary()?;
            }
        } else {
            self.patience = None;
        }
        self.write()?;
        let done = is_quiet && self.to_client.is_empty();
        if done && (self.ending || self.input.unparsed() == 0 && topology.is_some_and(|t| t.is_retired())) {
            // Between two requests: the client connects again, to a member that stays.
            return ControlFlow::Break(());
        }
        if self.upstream.is_none() && !self.sent.is_empty() {
            self.upstream = Some(Upstream::dial(primary, &self.carried, self.answered));
            self.unsent = 0;
            self.patience = None;
        }
        self.send()
    }

    /// The next request goes to the next primary; nothing is owed by this one. Breaks if it keeps what cannot be carried on: then the
    /// client connects again, and agrees on everything anew.
    fn leave_primary(&mut self) -> ControlFlow<()> {
        let keeps = self.watches || self.opaque && self.upstream.as_ref().is_some_and(Upstream::is_greeted);
        self.upstream = None;
        if keeps { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn take_requests(&mut self) {
        while !self.ending && self.sent.len() < SENT_MAX {
            self.input.look_ahead(&self.limits);
            match self.input.request() {
                Ok(None) => break,
                Ok(Some(len)) => {
                    let meaning = self.meaning();
                    if let Some(meaning) = meaning {
                        self.sent.push_back(Request { offset: self.input.offset(), len, meaning });
                    }
                    self.input.consume(len);
                }
                Err(_) => {
                    // What follows cannot be told apart; what came before is answered.
                    self.thread.counters.protocol_errors().add(1);
                    self.ending = true;
                }
            }
        }
        self.input.forget(self.sent.front().map(|request| request.offset));
    }

    /// What the present request means. None for an empty line, which gets no reply.
    fn meaning(&mut self) -> Option<Meaning> {
        // HELLO has the most that matter.
        let args: Vec<&[u8]> = self.input.args().take(7).collect();
        let name = args.first()?.to_ascii_lowercase();
        let shared = &self.thread.shared;
        shared.note_use(boot_now());
        if let Some(spec) = lookup(&name) {
            self.client.note_command(spec, shared.now_ms());
        }
        let number = |index: usize| args.get(index).and_then(|arg| std::str::from_utf8(arg).ok()?.parse::<u8>().ok());
        let meaning = match name.as_slice() {
            b"multi" => Meaning::Begins,
            b"exec" | b"discard" => Meaning::Ends,
            b"watch" => Meaning::Watches,
            b"unwatch" => Meaning::Unwatches,
            b"select" => number(1).map_or(Meaning::Nothing, Meaning::Selects),
            b"hello" | b"auth" => {
                let mut request = Requests::default();
                request.add(&args);
                Meaning::Agrees(request)
            }
            b"client" => {
                let changes = |sub: &&[u8]| sub.eq_ignore_ascii_case(b"reply") || sub.eq_ignore_ascii_case(b"tracking");
                self.opaque |= args.get(1).is_some_and(changes);
                Meaning::Nothing
            }
            b"reset" | b"quit" | b"subscribe" | b"psubscribe" | b"ssubscribe" | b"unsubscribe" | b"punsubscribe"
            | b"sunsubscribe" => {
                self.opaque = true;
                Meaning::Nothing
            }
            _ => Meaning::Nothing,
        };
        Some(meaning)
    }

    /// Whether more of the client's requests may be taken.
    fn may_read(&self) -> bool {
        let has_room = self.to_client.len() < self.thread.config.reply_backlog_bytes_max && self.sent.len() < SENT_MAX;
        !self.ending && has_room && (self.sent.is_empty() || self.input.bytes() < READ_AHEAD_BYTES_MAX)
    }

    fn read(&mut self) -> ControlFlow<()> {
        match self.stream.try_read_buf(self.input.room()) {
            Ok(0) => return ControlFlow::Break(()),
            Ok(count) => {
                self.input.note_read(count);
                self.thread.counters.bytes_read().add(count as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return ControlFlow::Break(()),
        }
        if self.input.unparsed() > self.thread.config.query_buffer_bytes_max {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// Gives the client what it takes.
    fn write(&mut self) -> ControlFlow<()> {
        while !self.to_client.is_empty() {
            match self.stream.try_write(&self.to_client) {
                Ok(count) => {
                    self.to_client.drain(..count);
                    self.thread.counters.bytes_written().add(count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return ControlFlow::Break(()),
            }
        }
        ControlFlow::Continue(())
    }

    /// Gives the primary what it takes of the requests that it has not been given.
    fn send(&mut self) -> ControlFlow<()> {
        let Some(requests) = self.upstream.as_mut().and_then(Upstream::requests) else {
            return ControlFlow::Continue(());
        };
        while let Some(request) = self.sent.get(self.unsent) {
            let Some(bytes) = self.input.kept_from(request.offset).and_then(|kept| kept.get(..request.len)) else {
                return ControlFlow::Break(());
            };
            requests.extend_from_slice(bytes);
            self.unsent = self.unsent.saturating_add(1);
        }
        if self.opaque {
            // What was sent cannot be sent again, so none of it is kept.
            self.sent.clear();
            (self.answered, self.unsent) = (0, 0);
        }
        ControlFlow::Continue(())
    }

    /// Takes what came of the primary.
    fn take(&mut self, arrived: Arrived) -> ControlFlow<()> {
        match arrived {
            Arrived::Nothing => {}
            Arrived::NotThere => self.upstream = None,
            // What became of the requests that it has not answered is not known.
            Arrived::Gone if self.unsent > self.answered => return ControlFlow::Break(()),
            Arrived::Gone => return self.leave_primary(),
            Arrived::Bytes => return self.take_replies(),
        }
        ControlFlow::Continue(())
    }

    fn take_replies(&mut self) -> ControlFlow<()> {
        loop {
            let Some(upstream) = &mut self.upstream else { return ControlFlow::Continue(()) };
            match upstream.reply(&mut self.to_client) {
                Ok(None) => return ControlFlow::Continue(()),
                Ok(Some(upstream::Reply::Given { is_error })) => self.note_reply(is_error),
                Ok(Some(upstream::Reply::Moved)) => {
                    self.leave_primary()?;
                }
                Err(error) => {
                    tracing::warn!(%error, "the primary of what this member forwards");
                    return ControlFlow::Break(());
                }
            }
        }
    }

    /// The oldest request without a reply has been given one.
    fn note_reply(&mut self, is_error: bool) {
        let Some(request) = self.sent.get_mut(self.answered) else { return };
        let meaning = std::mem::replace(&mut request.meaning, Meaning::Nothing);
        let mut ends = false;
        match meaning {
            _ if is_error && !matches!(meaning, Meaning::Ends) => {}
            Meaning::Begins => {
                // Should it be sent again, it means the same.
                self.in_transaction = true;
            }
            Meaning::Ends => {
                ends = true;
                self.watches = false;
            }
            Meaning::Watches => self.watches = true,
            Meaning::Unwatches => self.watches &= self.in_transaction,
            Meaning::Selects(_) | Meaning::Agrees(_) if self.in_transaction => {
                self.opaque = true;
            }
            Meaning::Selects(db) => self.carried.db = db,
            Meaning::Agrees(request) => self.carried.greeting.append(request),
            Meaning::Nothing => {}
        }
        if self.in_transaction && !ends {
            self.answered = self.answered.saturating_add(1);
            return;
        }
        self.sent.drain(..=self.answered);
        self.unsent = self.unsent.saturating_sub(self.answered.saturating_add(1));
        self.answered = 0;
        self.in_transaction = false;
        self.carried.begun = Requests::default();
    }
}

/// Who is the primary of the one shard, and where.
fn primary_of(topology: &Topology) -> Option<(Holder, String, u16)> {
    let shard = topology.ring.shards.values().next()?;
    let address = &topology.ring.members.get(&shard.primary.member)?.present.as_ref()?.address;
    Some((shard.primary, address.host.clone(), address.client_port))
}

async fn asked_to_close(client: &Client) {
    std::future::poll_fn(|cx| {
        client.register(cx.waker());
        if client.is_to_close() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

async fn patience_ends(patience: &mut Option<Pin<Box<Sleep>>>) {
    match patience {
        Some(patience) => patience.await,
        None => std::future::pending().await,
    }
}

async fn ring_changes(rings: &mut Option<watch::Receiver<Option<Arc<Ring>>>>) {
    let ended = match rings {
        Some(rings) => rings.changed().await.is_err(),
        None => std::future::pending().await,
    };
    if ended {
        // What it said last holds.
        *rings = None;
    }
}
