//! The newest committed ring that this process knows, from whichever side it came.

use std::sync::Arc;

use parking_lot::Mutex;
use ringmaster_ring::{Generation, MemberId, Ring, RingEpoch};
use tokio::sync::watch;

/// A handle on it; clones share it.
#[derive(Clone, Debug)]
pub struct View {
    ring: Arc<watch::Sender<Option<Arc<Ring>>>>,
    leader: Arc<Mutex<Option<MemberId>>>,
}

impl Default for View {
    fn default() -> Self {
        Self { ring: Arc::new(watch::Sender::new(None)), leader: Arc::default() }
    }
}

impl View {
    /// Takes a committed ring, if it is newer than the one known. Says whether it was.
    pub fn offer(&self, ring: &Arc<Ring>) -> bool {
        self.ring.send_if_modified(|known| {
            let newer = known.as_ref().is_none_or(|known| version(known) < version(ring));
            if newer {
                *known = Some(Arc::clone(ring));
            }
            newer
        })
    }

    #[must_use]
    pub fn ring(&self) -> Option<Arc<Ring>> {
        self.ring.borrow().clone()
    }

    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Ring>>> {
        self.ring.subscribe()
    }

    /// What is known of the ring's age.
    #[must_use]
    pub fn version(&self) -> Option<(Generation, RingEpoch)> {
        self.ring.borrow().as_deref().map(version)
    }

    /// The member that leads the ring, as far as anybody said.
    #[must_use]
    pub fn leader(&self) -> Option<MemberId> {
        *self.leader.lock()
    }

    pub fn set_leader(&self, leader: Option<MemberId>) {
        *self.leader.lock() = leader;
    }
}

fn version(ring: &Ring) -> (Generation, RingEpoch) {
    (ring.generation, ring.epoch)
}
