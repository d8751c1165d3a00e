//! Seeded simulation of a whole cluster in one process.
//!
//! Owns the world around the production crates: clocks, network, disks, machines, pods and clients, all drawn from one
//! seed. The members are the production control plane (`ringmaster-node` with openraft), replica core and engine,
//! through the node's `Env`; the operator is the production planner. In: a seed. Out: a [`world::Report`], with every violation of the system's
//! invariants and a hash of its course that is equal for two runs of the same seed.
//!
//! Each process has a tokio runtime of its own with a paused clock. The world moves all of them on by one millisecond
//! after the other, in an order that the seed draws, so that a process can be killed with all that runs in it, or
//! stopped while its machine's clock goes on.

mod checks;
pub mod client;
pub mod disk;
pub mod env;
mod faults;
mod kubernetes;
pub mod ledger;
pub mod net;
mod operator;
mod panics;
pub mod process;
mod rest;
pub mod scenario;
mod serve;
pub mod trace;
pub mod world;
