//! What travels on a stream. A frame's payload, if it has one, follows as raw bytes, so that records are not copied.

use bytes::BytesMut;
use ringmaster_engine::Cursor;
use ringmaster_replica::{History, RefuseReason, StreamId, StreamStart};
use ringmaster_ring::{Holder, Position, Seq, ShardEpoch};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::peer::{FrameError, read_frame, write_frame};

/// From a copy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum CopyFrame {
    /// The first frame: where the copy stands.
    Subscribe { stream: StreamId, from: Holder, epoch: ShardEpoch, last: Position, may_discard: bool },
    /// It holds everything up to `seq`, in this epoch.
    Ack { epoch: ShardEpoch, seq: Seq },
}

/// From a primary.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum PrimaryFrame {
    Accepted {
        epoch: ShardEpoch,
        start: StreamStart,
        bytes_total: u64,
    },
    Refused {
        reason: RefuseReason,
    },
    /// Records `first..=last`; the payload holds them.
    Records {
        epoch: ShardEpoch,
        entry_epoch: ShardEpoch,
        first: Seq,
        last: Seq,
        committed: Seq,
        filtered: bool,
    },
    Heartbeat {
        epoch: ShardEpoch,
        end: Seq,
        committed: Seq,
    },
    /// Entries of the walk, up to `next`; the payload holds them.
    Walk {
        epoch: ShardEpoch,
        next: Cursor,
    },
    /// The walk is complete: the copy holds everything up to `end`.
    WalkDone {
        epoch: ShardEpoch,
        end: Position,
        history: History,
    },
    /// The primary of the epoch before will execute nothing more; `last` is the last that it did.
    Release {
        epoch: ShardEpoch,
        last: Position,
    },
}

/// No payload is longer: the longest are single records of the longest values.
const PAYLOAD_BYTES_MAX: usize = 2 << 30;
/// How much of a payload is read at a time.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

pub(crate) async fn write_with_payload(
    to: &mut (impl AsyncWrite + Unpin),
    frame: &PrimaryFrame,
    payload: &[u8],
) -> Result<(), FrameError> {
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= PAYLOAD_BYTES_MAX);
    let length = length.ok_or(FrameError::TooLong { bytes: payload.len() })?;
    write_frame(to, &(frame, length)).await?;
    to.write_all(payload).await?;
    Ok(())
}

/// Reads a frame, and how long the payload is that follows it.
pub(crate) async fn read_head(from: &mut (impl AsyncRead + Unpin)) -> Result<(PrimaryFrame, usize), FrameError> {
    let (frame, length): (PrimaryFrame, u32) = read_frame(from).await?;
    let length = length as usize;
    if length > PAYLOAD_BYTES_MAX {
        return Err(FrameError::TooLong { bytes: length });
    }
    Ok((frame, length))
}

/// Reads the next piece of a payload of `length` bytes.
pub(crate) async fn read_piece(
    from: &mut (impl AsyncRead + Unpin),
    payload: &mut BytesMut,
    length: usize,
) -> Result<(), FrameError> {
    let start = payload.len();
    payload.resize(length.min(start + PIECE_BYTES), 0);
    let piece = payload.get_mut(start..).unwrap_or_default();
    from.read_exact(piece).await?;
    Ok(())
}
