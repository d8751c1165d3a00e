//! The serving side over real sockets, behind a gate and a ring that the tests publish by hand.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod acl;
mod admin;
mod blocking;
mod cluster;
mod forwarding;
mod gating;
mod harness;
mod limits;
mod pubsub;
mod scripts;
mod session;
mod tracking;
mod transactions;
mod wire;
