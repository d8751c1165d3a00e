//! Frames: a length (u32, little endian), then that many bytes of postcard.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// No frame is longer. The longest are parts of a shard's stream.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error("a frame of {bytes} bytes is longer than {FRAME_BYTES_MAX}")]
    TooLong { bytes: usize },
    #[error("a frame does not decode")]
    Malformed(#[from] postcard::Error),
}

/// Writes one frame. The caller flushes.
///
/// # Errors
/// The connection broke, or the message is too long: nothing of it was sent.
pub async fn write_frame(to: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> Result<(), FrameError> {
    let mut bytes = postcard::to_extend(message, vec![0; 4])?;
    let length = bytes.len() - 4;
    let prefix = u32::try_from(length).ok().filter(|_| length <= FRAME_BYTES_MAX);
    let prefix = prefix.ok_or(FrameError::TooLong { bytes: length })?;
    if let Some(head) = bytes.first_chunk_mut::<4>() {
        *head = prefix.to_le_bytes();
    }
    to.write_all(&bytes).await?;
    Ok(())
}

/// Reads one frame.
///
/// # Errors
/// The connection broke or ended, or what came is no frame of this kind: the connection is of no further use.
pub async fn read_frame<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> Result<T, FrameError> {
    let mut prefix = [0; 4];
    from.read_exact(&mut prefix).await?;
    let length = u32::from_le_bytes(prefix) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong { bytes: length });
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await?;
    Ok(postcard::from_bytes(&bytes)?)
}
