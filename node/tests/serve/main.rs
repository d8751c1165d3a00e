//! The serving side over real sockets, behind a gate and a ring that the tests publish by hand.

mod cluster;
mod gating;
mod harness;
mod limits;
mod session;
mod transactions;
mod wire;
