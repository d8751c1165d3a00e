//! A shard's stream, from its primary to each copy: a walk over the data where the copy needs one, then the log.
//!
//! The copy connects and says where it stands; the primary answers with what it will send. Which of both is right to
//! accept is decided by the replica core; this module moves bytes.

mod follower;
mod frame;
mod limiter;
mod sender;

pub use follower::follow;
pub(crate) use frame::CopyFrame;
pub use limiter::Bandwidth;
pub(crate) use sender::Order;
pub use sender::serve_stream;
