//! Requests as a client sends them, and how many replies there are to them.

#[derive(Clone, Debug, Default)]
pub(in crate::serve) struct Requests {
    wire: Vec<u8>,
    replies: usize,
}

impl Requests {
    pub(in crate::serve) fn add(&mut self, args: &[&[u8]]) {
        self.add_unanswered(args);
        self.replies = self.replies.saturating_add(1);
    }

    /// One that gets no reply.
    pub(in crate::serve) fn add_unanswered(&mut self, args: &[&[u8]]) {
        self.wire.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
        for arg in args {
            self.wire.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            self.wire.extend_from_slice(arg);
            self.wire.extend_from_slice(b"\r\n");
        }
    }

    pub(in crate::serve) fn append(&mut self, others: Self) {
        self.wire.extend_from_slice(&others.wire);
        self.replies = self.replies.saturating_add(others.replies);
    }

    pub(super) fn wire(&self) -> &[u8] {
        &self.wire
    }

    pub(super) fn replies(&self) -> usize {
        self.replies
    }
}
