//! How members talk to each other: one port, authenticated connections, frames, and requests with answers.
//!
//! A connection opens with a handshake that names the cluster, the generation and both processes, and proves that both
//! know the ring's secret. After it the connection is for one [`Purpose`]: requests, Raft's requests, or a shard's
//! stream.

mod frame;
mod handshake;
mod message;
mod pool;
mod server;

pub use frame::{FRAME_BYTES_MAX, FrameError, read_frame, write_frame};
pub use handshake::{HandshakeError, Identity, Peer, Purpose, Secrets, accept, connect};
pub use message::{LeaseAsk, ProbeReport, Proposed, RaftRequest, RaftResponse, Request, Response, RingNews, ToVoter};
pub use pool::{CallError, Pool};
pub use server::{Handler, serve_connection};
