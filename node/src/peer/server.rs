//! The answering side: one task a connection, one task a request.

use std::future::Future;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncWriteExt, split};
use tokio::sync::mpsc;

use super::frame::{read_frame, write_frame};
use super::handshake::Peer;
use crate::env::Env;

/// How many answers may wait to be sent on one connection.
const QUEUE_MAX: usize = 1_024;

/// Answers requests of one kind.
pub trait Handler<Q, A>: Send + Sync + 'static {
    fn handle(&self, from: Peer, request: Q) -> impl Future<Output = A> + Send;
}

/// Answers the requests of an opened connection until it breaks.
pub async fn serve_connection<E, Q, A, H>(env: &E, stream: E::Stream, from: Peer, handler: Arc<H>)
where
    E: Env,
    Q: DeserializeOwned + Send + 'static,
    A: Serialize + Send + 'static,
    H: Handler<Q, A>,
{
    let (mut reading, mut writing) = split(stream);
    let (answers, mut queued) = mpsc::channel::<(u64, Vec<u8>)>(QUEUE_MAX);
    env.spawn(async move {
        while let Some(answer) = queued.recv().await {
            if write_frame(&mut writing, &answer).await.is_err() || writing.flush().await.is_err() {
                return;
            }
        }
    });
    while let Ok((id, bytes)) = read_frame::<(u64, Vec<u8>)>(&mut reading).await {
        let Ok(request) = postcard::from_bytes::<Q>(&bytes) else { return };
        let (handler, answers) = (Arc::clone(&handler), answers.clone());
        env.spawn(async move {
            let answer = handler.handle(from, request).await;
            if let Ok(bytes) = postcard::to_extend(&answer, Vec::new()) {
                // The asker may have gone meanwhile.
                drop(answers.send((id, bytes)).await);
            }
        });
    }
}
