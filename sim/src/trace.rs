//! What happened, as one number and, where somebody wants to read it, as lines.
//!
//! In: every fault, every ring, every answer to a client, and every packet that a process sends, with its time. Out: a
//! hash that is equal for two runs exactly if they went the same way, bit for bit, and the lines on standard output.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A handle on one run's trace.
#[derive(Clone, Debug)]
pub struct Trace {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    hash: AtomicU64,
    now_ms: AtomicU64,
    prints: bool,
}

impl Trace {
    /// With `prints`, every line goes to standard output at once.
    #[must_use]
    pub fn new(prints: bool) -> Self {
        Self { shared: Arc::new(Shared { hash: AtomicU64::new(0), now_ms: AtomicU64::new(0), prints }) }
    }

    /// The simulated time from now on.
    pub fn at(&self, now_ms: u64) {
        self.shared.now_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Something worth a line.
    pub fn line(&self, line: fmt::Arguments<'_>) {
        let text = line.to_string();
        self.mix(self.shared.now_ms.load(Ordering::Relaxed));
        for byte in text.bytes() {
            self.mix(u64::from(byte));
        }
        if self.shared.prints {
            println!("{:>7} ms  {text}", self.shared.now_ms.load(Ordering::Relaxed));
        }
    }

    /// A packet that was sent. Not worth a line: there are thousands a second.
    pub(crate) fn packet(&self, connection: u64, kind: u8, bytes: &[u8]) {
        self.mix(self.shared.now_ms.load(Ordering::Relaxed));
        self.mix(connection);
        self.mix(u64::from(kind));
        self.mix(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            self.mix(u64::from_le_bytes(word));
        }
    }

    /// Whether lines are printed.
    #[must_use]
    pub fn prints(&self) -> bool {
        self.shared.prints
    }

    /// The hash of all that happened so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.shared.hash.load(Ordering::Relaxed)
    }

    fn mix(&self, value: u64) {
        let hash = self.shared.hash.load(Ordering::Relaxed);
        let mixed = (hash.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.shared.hash.store(mixed, Ordering::Relaxed);
    }
}
