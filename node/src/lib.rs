//! The data node: sockets, threads, disk, Raft transport, HTTP and metrics around the pure crates.
//!
//! Threads: serving threads execute clients' commands where they arrive; the control thread keeps leases, Raft and the
//! ring; the streams thread moves records between members; HTTP, the housekeeper and the graveyard have one each.
//! Decisions are made in `ringmaster-replica` and `ringmaster-ring`; this crate carries them out.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub mod bus;
pub mod consensus;
pub mod control;
pub mod env;
mod http;
mod link;
mod options;
pub mod peer;
mod run;
pub mod serve;
mod status;

pub use options::{Options, OptionsError, Policy};
pub use run::run;
pub use status::{ClientStats, Sample};
