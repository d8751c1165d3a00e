//! What others have for a connection besides replies: messages of channels it is subscribed to, keys it should forget.
//!
//! Owns the queue between whoever sends and the connection's task, which moves it into its replies ([`Mail::take`]). A connection that does
//! not read is closed before its queue grows beyond a limit: messages are lost with connections, never out of their middle.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use ringmaster_engine::{Protocol, ReplyBuf};

use super::registry::Client;

/// One message, as RESP3 encodes a push; in RESP2 an array of the same content takes its place.
pub(super) type Message = Arc<[u8]>;

#[derive(Debug, Default)]
pub(super) struct Mail {
    queue: Mutex<VecDeque<Message>>,
    /// What is in the queue.
    bytes: AtomicUsize,
}

impl Mail {
    /// Moves what has come into the replies, as pushes.
    pub(super) fn take(&self, reply: &mut ReplyBuf) {
        if self.bytes.load(Ordering::Acquire) == 0 {
            return;
        }
        let messages = std::mem::take(&mut *self.queue.lock());
        for message in messages {
            self.bytes.fetch_sub(message.len(), Ordering::AcqRel);
            write_push(&message, reply);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Encodes a push, for any number of connections.
pub(super) fn encode(write: impl FnOnce(&mut ReplyBuf)) -> Message {
    let mut push = ReplyBuf::new(Protocol::Resp3);
    write(&mut push);
    push.take().into()
}

fn write_push(message: &[u8], reply: &mut ReplyBuf) {
    match (reply.protocol(), message) {
        (Protocol::Resp2, [b'>', rest @ ..]) => {
            reply.raw(b"*");
            reply.raw(rest);
        }
        _ => reply.raw(message),
    }
}

impl Client {
    /// Queues a message for this connection; closes it if more than `bytes_max` would wait. Says whether it took the message.
    pub(super) fn send(&self, message: &Message, bytes_max: usize) -> bool {
        let unsent = self.shown.reply_bytes.load(Ordering::Relaxed).saturating_add(self.mail.bytes());
        if unsent.saturating_add(message.len()) > bytes_max {
            self.ask_to_close();
            return false;
        }
        self.mail.bytes.fetch_add(message.len(), Ordering::AcqRel);
        let mut queue = self.mail.queue.lock();
        let was_empty = queue.is_empty();
        queue.push_back(Arc::clone(message));
        drop(queue);
        if was_empty {
            self.poke();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_is_an_array_where_the_protocol_has_no_pushes() {
        let message = encode(|push| {
            push.push(1);
            push.bulk(b">");
        });
        for (protocol, expected) in [(Protocol::Resp2, "*1\r\n$1\r\n>\r\n"), (Protocol::Resp3, ">1\r\n$1\r\n>\r\n")] {
            let mut reply = ReplyBuf::new(protocol);
            write_push(&message, &mut reply);
            assert_eq!(reply.as_bytes(), expected.as_bytes());
        }
    }
}
