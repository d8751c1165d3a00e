//! What happened, as one number and, where somebody wants to read it, as lines.
//!
//! In: every packet that arrives, every fault, every answer to a client. Out: a hash that is equal for two runs exactly
//! if they went the same way, and the lines on standard output.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::net::HostId;

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

    /// A packet arrived: its kind and its contents.
    pub(crate) fn packet(&self, now_ms: u64, from: HostId, to: HostId, packet: &(u8, &[u8])) {
        let (kind, bytes) = *packet;
        self.mix(now_ms << 32 | u64::from(from.0) << 16 | u64::from(to.0));
        self.mix(u64::from(kind) << 56 | bytes.len() as u64);
        let mut words = bytes.chunks_exact(8);
        for word in words.by_ref() {
            self.mix(word.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
        }
        for byte in words.remainder() {
            self.mix(u64::from(*byte));
        }
    }

    /// Something worth a line.
    pub fn line(&self, line: fmt::Arguments<'_>) {
        let text = line.to_string();
        for byte in text.bytes() {
            self.mix(u64::from(byte));
        }
        if self.shared.prints {
            println!("{:>7} ms  {text}", self.shared.now_ms.load(Ordering::Relaxed));
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
