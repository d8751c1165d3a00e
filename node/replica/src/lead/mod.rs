//! The work of the ring's leader: it grants leases, and replaces primaries that are gone.

mod io;

use ringmaster_ring::Mutations;

use crate::Mono;

pub use io::*;

/// What a [`Lead`] is told at its start.
#[derive(Clone, Copy, Debug)]
pub struct LeadConfig {
    pub mutations: Mutations,
}

/// One voter's part in leases and failover. Idle unless it leads.
#[derive(Debug)]
pub struct Lead {
    _config: LeadConfig,
}

impl Lead {
    #[must_use]
    pub fn new(config: LeadConfig) -> Self {
        Self { _config: config }
    }

    /// Takes in what happened at `now`, and appends to `out` what is to be done.
    pub fn handle(&mut self, _input: LeadInput, _now: Mono, _out: &mut Vec<LeadOutput>) {}
}
