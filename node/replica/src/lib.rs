//! The safety protocol of one shard: in-sync set, leases, failover, handover, reply gating.
//!
//! Owns: every decision that keeps two members from serving one slot and an acknowledged write from being lost. The
//! letter of it is the protocol, model-checked; comments here name its rules by number.
//! In: what happened ([`Input`], [`LeadInput`]) and the time. Out: what to do ([`Output`], [`LeadOutput`]), in order.
//! Pure: no sockets, threads, clock or randomness.
//!
//! | part | runs where |
//! |---|---|
//! | [`Replica`] | one a data member: follows, serves, freezes, hands over |
//! | [`Gate`] | shared with the threads that serve clients: may this command run, may this reply go out |
//! | [`Lead`] | one a voter, at work on the ring's leader: grants leases, replaces the dead |
//! | [`History`] | where each epoch began in a log: whether one log continues another |

mod gate;
mod history;
mod lead;
mod replica;
mod time;
mod wanted;

pub use gate::*;
pub use history::*;
pub use lead::*;
pub use replica::*;
pub use ringmaster_ring::{Mutations, Rule};
pub use time::*;
