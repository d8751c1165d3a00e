//! What the connections of one serving thread have in common.

use std::sync::Arc;

use super::scripts::ScriptRunner;
use super::stats::Counters;
use super::topology::Rings;
use super::wake::Waiters;
use super::{ServeConfig, Shared};

#[derive(Debug)]
pub(super) struct Thread {
    pub(super) shared: Arc<Shared>,
    pub(super) config: Arc<ServeConfig>,
    pub(super) counters: Arc<Counters>,
    pub(super) rings: Rings,
    pub(super) waiters: Waiters,
    pub(super) scripts: ScriptRunner,
}
