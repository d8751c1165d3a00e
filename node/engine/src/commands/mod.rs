//! What commands do, one file a family.

use crate::engine::{Ctx, Engine, Executed};
use crate::resp::ReplyBuf;

/// A command on the lanes of its keys.
pub type DataFn = fn(&Engine, &[&[u8]], &Ctx<'_>, &mut ReplyBuf) -> Executed;
/// A command over all lanes.
pub type WholeFn = fn(&Engine, &[&[u8]], &Ctx<'_>, &mut ReplyBuf) -> Executed;
