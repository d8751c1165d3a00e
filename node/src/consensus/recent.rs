//! The rings that this voter applied lately, one for each commit. Who watches only the newest ring may miss those that
//! did not last; an auditor wants to see all of them.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use ringmaster_ring::{Ring, RingEpoch};

/// How many are kept.
const RECENT_RINGS_MAX: usize = 128;

/// Shared between the state machine, which writes, and whoever reports.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecentRings(Arc<Mutex<VecDeque<Arc<Ring>>>>);

impl RecentRings {
    pub(super) fn push(&self, ring: Arc<Ring>) {
        let mut rings = self.0.lock();
        if rings.len() == RECENT_RINGS_MAX {
            rings.pop_front();
        }
        rings.push_back(ring);
    }

    /// Those above an epoch, in their order.
    pub(super) fn after(&self, epoch: RingEpoch) -> Vec<Arc<Ring>> {
        self.0.lock().iter().filter(|ring| ring.epoch > epoch).cloned().collect()
    }
}
