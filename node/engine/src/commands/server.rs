//! Commands that touch no data and need nothing but their arguments and the time.

use super::{CommandError, Outcome};
use crate::engine::Txn;
use crate::resp::ReplyBuf;

pub(crate) fn echo(_: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, message] = args else { return Err(CommandError::Syntax) };
    reply.bulk(message);
    Ok(())
}

/// Seconds and microseconds; the clock that the engine is given has milliseconds.
pub(crate) fn time(txn: &mut Txn<'_>, _: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    reply.array(2);
    reply.bulk((txn.now.0 / 1000).to_string().as_bytes());
    reply.bulk((txn.now.0 % 1000 * 1000).to_string().as_bytes());
    Ok(())
}
