//! The Redis serialisation protocol, versions 2 and 3: requests in, replies out.
//!
//! Owns the wire format and its limits, and nothing of what a command means. In: bytes as they arrive. Out: the ranges of a
//! request's arguments ([`RequestParser`]), or the bytes of a reply ([`ReplyBuf`]).

mod number;
mod reply;
mod request;
mod text;

pub(crate) use number::{fixed_add, parse_double, write_int};
pub use number::{parse_int, write_double};
pub use reply::{Protocol, ReplyBuf};
pub use request::{ParseLimits, Parsed, ProtocolError, RequestParser};
pub use text::text_of;
