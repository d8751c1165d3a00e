//! The protocol as a whole: members, a leader and a network under a seed, and the shortest failure of each rule that is
//! dropped. `RINGMASTER_SEED=n cargo test -p ringmaster-replica --test protocol` replays one seed, with `TRACE=1` and
//! `-- --nocapture` it says what happened; `RINGMASTER_SEEDS=n` runs that many.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod ledger;
mod random;
mod rng;
mod scripted;
mod world;
