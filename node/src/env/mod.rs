//! Everything that the node takes from outside: clocks, randomness, network, disk and tasks.
//!
//! Owns the trait [`Env`]; `real` implements it for production, the simulator implements it under a seed. No other
//! module of the control plane opens a socket or a file, reads a clock or draws a random number.

mod real;

use std::future::Future;
use std::io;
use std::time::Duration;

use ringmaster_replica::Mono;
use tokio::io::{AsyncRead, AsyncWrite};

pub use real::{RealDisk, RealEnv, boot_now, wall_now_ms};

/// The outside of one process. Cloning gives another handle on the same process.
pub trait Env: Clone + Send + Sync + 'static {
    /// A reliable ordered connection, as TCP's.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;
    type Listener: Listener<Stream = Self::Stream>;
    type Disk: Disk;

    /// Monotonic time that also counts while the machine sleeps.
    fn now(&self) -> Mono;
    /// Milliseconds since 1970, as good as the machine's clock.
    fn wall_ms(&self) -> u64;
    fn random(&self) -> u64;
    fn disk(&self) -> &Self::Disk;
    /// Runs a task until it ends or the process does.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static);
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send;
    fn listen(&self, port: u16) -> impl Future<Output = io::Result<Self::Listener>> + Send;
    fn connect(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Self::Stream>> + Send;
    /// Takes a connection over to the thread of the caller.
    ///
    /// # Errors
    /// The connection is lost.
    fn adopt(&self, stream: Self::Stream) -> io::Result<Self::Stream>;
    /// The addresses behind a DNS name; the name itself where it is an address.
    fn resolve(&self, host: &str) -> impl Future<Output = io::Result<Vec<String>>> + Send;
}

pub trait Listener: Send + 'static {
    type Stream;
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// A few small named files that survive the process and, unless the disk is lost, the machine.
pub trait Disk: Clone + Send + Sync + 'static {
    fn read(&self, name: &str) -> impl Future<Output = io::Result<Option<Vec<u8>>>> + Send;
    /// Replaces the whole file: afterwards it is durable, and a crash leaves either the old or the new one.
    fn replace(&self, name: &str, bytes: Vec<u8>) -> impl Future<Output = io::Result<()>> + Send;
    /// Appends: afterwards it is durable, and a crash meanwhile may leave a part of it.
    fn append(&self, name: &str, bytes: Vec<u8>) -> impl Future<Output = io::Result<()>> + Send;
}

/// `future`, or `None` once `limit` has passed by the clock of `env`.
pub async fn within<E: Env, T>(env: &E, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        value = future => Some(value),
        () = env.sleep(limit) => None,
    }
}
