//! The way to the primary: dialled, greeted, and then a stream of requests and replies.
//!
//! Owns the socket. In: requests. Out: replies, of which those are left out that the client has been given before.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use ringmaster_ring::Holder;
use tokio::net::TcpStream;

use super::frames::{Frames, NoReply};
use super::{Carried, RETRY, Requests};

/// How long a member may take to accept.
const DIAL_LIMIT: Duration = Duration::from_secs(1);
/// How much is read at a time, and kept for a client that takes none of it.
const READ_BYTES: usize = 64 << 10;
const KEPT_BYTES_MAX: usize = 1 << 20;

pub(super) struct Upstream {
    /// Whom it leads to; nobody, if there is no primary.
    pub(super) holder: Option<Holder>,
    state: State,
    unwritten: Vec<u8>,
    unread: Vec<u8>,
    frames: Frames,
    frame: Frame,
    /// Replies to the greeting that have not come.
    greetings: usize,
    /// Replies that the client has been given already.
    known: usize,
    begun: Requests,
}

enum State {
    Dialling(Pin<Box<dyn Future<Output = io::Result<TcpStream>>>>),
    There(TcpStream),
}

/// What the present reply is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Frame {
    Greeting,
    Known,
    /// A message, which is no reply.
    Push,
    /// A message that is not for the client.
    Echo,
    Reply {
        is_error: bool,
    },
}

/// What happened on the way to the primary.
pub(super) enum Arrived {
    Nothing,
    Bytes,
    /// It could not be reached, and was sent nothing.
    NotThere,
    Gone,
}

/// A reply that has come in full.
pub(super) enum Reply {
    Given {
        is_error: bool,
    },
    /// Another member is the primary; this request and those after it were not executed.
    Moved,
}

impl Upstream {
    /// Begins to connect to the primary, if there is one. So many replies to what is sent first have been given already.
    pub(super) fn dial(primary: Option<(Holder, String, u16)>, carried: &Carried, answered: usize) -> Self {
        let holder = primary.as_ref().map(|(holder, ..)| *holder);
        let dialling = async move {
            // Also the pause between two attempts.
            tokio::time::sleep(RETRY).await;
            let (_, host, port) = primary.ok_or(io::ErrorKind::NotConnected)?;
            let stream = tokio::time::timeout(DIAL_LIMIT, TcpStream::connect((host.as_str(), port))).await??;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let greeting = greeting(carried);
        Self {
            holder,
            state: State::Dialling(Box::pin(dialling)),
            unwritten: greeting.wire().to_vec(),
            unread: Vec::new(),
            frames: Frames::default(),
            frame: Frame::Greeting,
            greetings: greeting.replies(),
            known: carried.begun.replies().saturating_add(answered),
            begun: carried.begun.clone(),
        }
    }

    /// Whether it knows what the client has agreed on.
    pub(super) fn is_greeted(&self) -> bool {
        self.greetings == 0
    }

    /// Where requests go, once it has been greeted.
    pub(super) fn requests(&mut self) -> Option<&mut Vec<u8>> {
        self.is_greeted().then_some(&mut self.unwritten)
    }

    /// Takes the next reply from what was read, and hands what the client is to see of it on.
    pub(super) fn reply(&mut self, to_client: &mut Vec<u8>) -> Result<Option<Reply>, Broken> {
        let mut at = 0;
        let outcome = loop {
            let rest = self.unread.get(at..).unwrap_or_default();
            let Some(piece) = self.frames.next(rest)? else { break None };
            let bytes = rest.get(..piece.len).unwrap_or_default();
            if piece.begins {
                self.frame = match bytes.first() {
                    // What confirms a subscription anew, the client has been told before.
                    Some(b'>') if self.greetings > 0 => Frame::Echo,
                    Some(b'>') => Frame::Push,
                    first if self.greetings > 0 => {
                        if first == Some(&b'-') {
                            return Err(Broken::Greeting(String::from_utf8_lossy(bytes).trim_end().to_owned()));
                        }
                        Frame::Greeting
                    }
                    _ if bytes.starts_with(b"-MOVED ") => break Some(Reply::Moved),
                    _ if self.known > 0 => Frame::Known,
                    first => Frame::Reply { is_error: first == Some(&b'-') },
                };
            }
            if matches!(self.frame, Frame::Push | Frame::Reply { .. }) {
                to_client.extend_from_slice(bytes);
            }
            at = at.saturating_add(piece.len);
            if !piece.ends {
                continue;
            }
            match self.frame {
                Frame::Greeting => {
                    self.greetings = self.greetings.saturating_sub(1);
                    if self.greetings == 0 {
                        self.unwritten.extend_from_slice(self.begun.wire());
                    }
                }
                Frame::Known => self.known = self.known.saturating_sub(1),
                Frame::Echo | Frame::Push => {}
                Frame::Reply { is_error } => break Some(Reply::Given { is_error }),
            }
        };
        self.unread.drain(..at);
        Ok(outcome)
    }
}

/// The primary does not speak as members do.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("it refuses the greeting: {0}")]
    Greeting(String),
    #[error(transparent)]
    NoReply(#[from] NoReply),
}

/// What is said first.
fn greeting(carried: &Carried) -> Requests {
    let mut greeting = carried.greeting.clone();
    if carried.db > 0 {
        greeting.add(&[b"SELECT", carried.db.to_string().as_bytes()]);
    }
    greeting.add(&[b"CLIENT", b"FORWARDED"]);
    if let Some(last) = carried.last {
        greeting.add_unanswered(&[b"CLIENT", b"REPLY", last]);
    }
    greeting
}

/// Waits for whatever happens next on the way to the primary, and does it. So many bytes wait for the client.
pub(super) async fn event(upstream: &mut Option<Upstream>, waiting_bytes: usize) -> Arrived {
    let Some(upstream) = upstream else { return std::future::pending().await };
    let stream = match &mut upstream.state {
        State::There(stream) => stream,
        State::Dialling(dialling) => {
            return match dialling.await {
                Ok(stream) => {
                    upstream.state = State::There(stream);
                    Arrived::Nothing
                }
                Err(_) => Arrived::NotThere,
            };
        }
    };
    let may_read = waiting_bytes < KEPT_BYTES_MAX;
    tokio::select! {
        ready = stream.readable(), if may_read => {
            if ready.is_err() {
                return Arrived::Gone;
            }
            upstream.unread.reserve(READ_BYTES);
            match stream.try_read_buf(&mut upstream.unread) {
                Ok(0) => Arrived::Gone,
                Ok(_) => Arrived::Bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Arrived::Nothing,
                Err(_) => Arrived::Gone,
            }
        }
        ready = stream.writable(), if !upstream.unwritten.is_empty() => {
            if ready.is_err() {
                return Arrived::Gone;
            }
            match stream.try_write(&upstream.unwritten) {
                Ok(count) => {
                    upstream.unwritten.drain(..count);
                    Arrived::Nothing
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Arrived::Nothing,
                Err(_) => Arrived::Gone,
            }
        }
        else => std::future::pending().await,
    }
}
