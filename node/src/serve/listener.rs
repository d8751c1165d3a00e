//! The serving threads: each has a listener of its own on the same port, and keeps the connections that the kernel gives it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use ringmaster_replica::Mono;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio::task::{spawn_local, yield_now};

use super::connection::Connection;
use super::scripts::ScriptRunner;
use super::thread::Thread;
use super::topology::Rings;
use super::wake::Waiters;
use super::{ServeConfig, Shared};
use crate::env::boot_now;

/// How many connections may wait in the kernel to be accepted.
const BACKLOG: u32 = 1_024;
/// How many connections a thread takes in before it serves those that it has.
const ACCEPTS_A_TURN: u32 = 16;
/// How long a process that has just started waits for the ring before it tells clients that it knows none.
const RING_LIMIT: Duration = Duration::from_secs(3);
/// How long a thread waits when it cannot accept, for want of file descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// How often connections are looked through for idle and stalled ones.
const SWEEP: Duration = Duration::from_secs(1);
/// How long connections have at a shutdown to send the replies that they may send.
const SHUTDOWN_LIMIT: Duration = Duration::from_millis(200);

/// Clients cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{0:?} is not an IP address to listen on")]
    Bind(String),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot start a serving thread")]
    Thread(#[from] io::Error),
    #[error("a serving thread ended before it listened")]
    Ended,
}

/// The serving threads, running.
#[derive(Debug)]
pub struct ServeHandle {
    shared: Arc<Shared>,
    port: u16,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

/// Begins to serve: returns once every thread listens.
pub fn start(config: ServeConfig, shared: Arc<Shared>) -> Result<ServeHandle, ServeError> {
    let ip: IpAddr = config.bind.parse().map_err(|_| ServeError::Bind(config.bind.clone()))?;
    shared.scripts.configure(config.busy_reply_threshold_ms, config.script_memory_bytes_max);
    shared.pubsub.limit(config.subscriber_backlog_bytes_max);
    shared.passwords.replace(config.passwords.iter().map(String::as_str));
    let count = config.threads.max(1);
    let config = Arc::new(config);
    let (stop, stopped) = watch::channel(false);
    let mut handle =
        ServeHandle { shared: Arc::clone(&shared), port: config.client_port, stop, threads: Vec::with_capacity(count) };
    let parts = shared.stats.of_threads(count).iter().zip(shared.hub.bells(count));
    for (number, (counters, bell)) in parts.enumerate() {
        let address = SocketAddr::new(ip, handle.port);
        let seed = ThreadSeed {
            number,
            address,
            config: Arc::clone(&config),
            shared: Arc::clone(&shared),
            counters: Arc::clone(counters),
            bell: Arc::clone(bell),
            stopped: stopped.clone(),
        };
        let (report, reported) = mpsc::channel();
        let thread = std::thread::Builder::new().name(format!("serve-{number}")).spawn(move || seed.run(&report))?;
        handle.threads.push(thread);
        let port = reported.recv().map_err(|_| ServeError::Ended)?;
        // All threads listen on the port that the first one was given.
        handle.port = port.map_err(|source| ServeError::Listen { address, source })?;
    }
    Ok(handle)
}

impl ServeHandle {
    /// The port that is listened on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes the connections that have sent no command for so long. Returns how many.
    pub fn close_idle(&self, older_than: Duration) -> usize {
        let (now_ms, limit_ms) = (self.shared.now_ms(), u64::try_from(older_than.as_millis()).unwrap_or(u64::MAX));
        let idle = self.shared.registry.all().into_iter().filter(|client| client.idle_ms(now_ms) >= limit_ms);
        idle.map(|client| client.ask_to_close()).count()
    }

    /// Accepts nothing more, gives connections a moment to send the replies that may leave, and ends the threads.
    pub fn shutdown(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a serving thread panicked");
            }
        }
    }
}

impl Drop for ServeHandle {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a serving thread is made of, on its way there.
struct ThreadSeed {
    number: usize,
    address: SocketAddr,
    config: Arc<ServeConfig>,
    shared: Arc<Shared>,
    counters: Arc<super::stats::Counters>,
    bell: Arc<super::wake::ThreadBell>,
    stopped: watch::Receiver<bool>,
}

impl ThreadSeed {
    /// The thread's life. Says first which port it listens on, or why it cannot.
    fn run(self, report: &mpsc::Sender<io::Result<u16>>) {
        let Self { number, address, config, shared, counters, bell, mut stopped } = self;
        let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(error) => return drop(report.send(Err(error))),
        };
        // TcpListener registers with the runtime that is entered.
        let entered = runtime.enter();
        let listener = match listen(address).and_then(|listener| listener.local_addr().map(|at| (listener, at.port())))
        {
            Ok((listener, port)) => {
                drop(report.send(Ok(port)));
                listener
            }
            Err(error) => return drop(report.send(Err(error))),
        };
        drop(entered);
        // Without rings there is nothing to serve, and clients are told so.
        let rings = shared.rings.get().cloned().unwrap_or_else(|| watch::channel(None).1);
        let thread = Rc::new(Thread {
            rings: Rings::new(shared.holder, rings),
            waiters: Waiters::new(bell),
            scripts: ScriptRunner::new(Arc::clone(&shared)),
            shared,
            config,
            counters,
        });
        runtime.block_on(async {
            let waker = Rc::clone(&thread);
            spawn_local(async move { waker.waiters.listen(&waker.shared.gate, boot_now).await });
            if number == 0 {
                spawn_local(sweep(Rc::clone(&thread)));
            }
            tokio::select! {
                () = async {
                    until_the_ring_is_known(&thread).await;
                    accept_all(&thread, &listener).await;
                } => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
            drop(listener);
            // What may leave leaves; what is held or parked is closed with its connection.
            if thread.shared.registry.count() > 0 {
                tokio::time::sleep(SHUTDOWN_LIMIT).await;
            }
        });
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A process that has just started answers nobody for the moment that it needs to hear of the ring: a client that was told
/// that the cluster is down may stay away for long. Its connection waits in the backlog.
async fn until_the_ring_is_known(thread: &Rc<Thread>) {
    let Some(mut rings) = thread.shared.rings.get().cloned() else { return };
    let known = async {
        while thread.rings.newest().is_none() {
            if rings.changed().await.is_err() {
                return;
            }
        }
    };
    // None in time: then clients are told so.
    drop(tokio::time::timeout(RING_LIMIT, known).await);
}

async fn accept_all(thread: &Rc<Thread>, listener: &TcpListener) {
    let mut accepted_in_turn = 0;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => take_in(thread, stream, peer),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        accepted_in_turn += 1;
        if accepted_in_turn == ACCEPTS_A_TURN {
            // A storm of connections must not starve those that are there.
            accepted_in_turn = 0;
            yield_now().await;
        }
    }
}

fn take_in(thread: &Rc<Thread>, stream: TcpStream, peer: SocketAddr) {
    let Ok(local) = stream.local_addr() else { return };
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(thread.config.keepalive_s))
        .with_interval(Duration::from_secs((thread.config.keepalive_s / 3).max(1)));
    // A connection without these options works as well, only slower.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    let shared = &thread.shared;
    match shared.registry.admit(peer, local, shared.now_ms(), thread.config.connections_max) {
        Some(registration) => {
            thread.counters.connections_accepted().add(1);
            let connection = Connection::new(Rc::clone(thread), stream, registration);
            spawn_local(connection.run());
        }
        None => {
            thread.counters.connections_refused().add(1);
            spawn_local(async move {
                // The peer may have gone already. One small write into an empty socket buffer does not wait.
                if stream.writable().await.is_ok() {
                    let _ = stream.try_write(b"-ERR max number of clients reached\r\n");
                }
            });
        }
    }
}

/// Closes idle and stalled connections, and reckons the commands a second.
async fn sweep(thread: Rc<Thread>) {
    let shared = &thread.shared;
    let (mut before, mut commands_before): (Mono, u64) = (boot_now(), shared.stats().commands);
    loop {
        tokio::time::sleep(SWEEP).await;
        let (now, commands) = (boot_now(), shared.stats().commands);
        let elapsed_ms = u64::try_from(now.since(before).as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = commands.saturating_sub(commands_before).saturating_mul(1_000) / elapsed_ms;
        shared.commands_per_second.store(rate, std::sync::atomic::Ordering::Relaxed);
        (before, commands_before) = (now, commands);
        let now_ms = shared.ms_of(now);
        let idle_ms_max = thread.config.idle_ms_max;
        for client in shared.registry.all() {
            if idle_ms_max > 0 && client.idle_ms(now_ms) > idle_ms_max {
                client.ask_to_close();
            }
            if client.stalled_ms(now_ms) > thread.config.write_stall_ms_max {
                thread.counters.slow_readers().add(1);
                client.ask_to_close();
            }
        }
    }
}
