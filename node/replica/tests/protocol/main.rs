//! The protocol as a whole: members, a leader and a network under a seed, and the shortest failure of each rule that is
//! dropped. `RINGMASTER_SEED=n cargo test -p ringmaster-replica --test protocol` replays one seed, with `TRACE=1` and
//! `-- --nocapture` it says what happened; `RINGMASTER_SEEDS=n` runs that many.

mod ledger;
mod random;
mod rng;
mod scripted;
mod world;
