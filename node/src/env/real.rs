//! The real outside: tokio's sockets, the kernel's clocks, and a directory.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use ringmaster_replica::Mono;
use rustix::time::{ClockId, clock_gettime};
use tokio::net::{TcpListener, TcpStream};

use super::{Disk, Env, Listener};

/// Production: one per process, used from the threads of the control plane.
#[derive(Clone, Debug)]
pub struct RealEnv {
    bind: Arc<str>,
    disk: RealDisk,
}

impl RealEnv {
    /// `bind` is the address on which [`Env::listen`] listens.
    #[must_use]
    pub fn new(bind: &str, disk: RealDisk) -> Self {
        Self { bind: bind.into(), disk }
    }
}

/// CLOCK_BOOTTIME: it counts through a suspended machine, so that a lease cannot outlive one.
#[must_use]
pub fn boot_now() -> Mono {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    Mono(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// Milliseconds since 1970.
#[must_use]
pub fn wall_now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Env for RealEnv {
    type Stream = TcpStream;
    type Listener = TcpListener;
    type Disk = RealDisk;

    fn now(&self) -> Mono {
        boot_now()
    }

    fn wall_ms(&self) -> u64 {
        wall_now_ms()
    }

    fn random(&self) -> u64 {
        rand::random()
    }

    fn disk(&self) -> &RealDisk {
        &self.disk
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(duration)
    }

    async fn listen(&self, port: u16) -> io::Result<TcpListener> {
        TcpListener::bind((&*self.bind, port)).await
    }

    async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn adopt(&self, stream: TcpStream) -> io::Result<TcpStream> {
        TcpStream::from_std(stream.into_std()?)
    }

    async fn resolve(&self, host: &str) -> io::Result<Vec<String>> {
        let found = tokio::net::lookup_host((host, 0)).await?;
        let mut addresses: Vec<String> = found.map(|address| address.ip().to_string()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        Ok(addresses)
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&mut self) -> io::Result<TcpStream> {
        let (stream, _) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// A directory. Each operation runs on a thread for blocking work.
#[derive(Clone, Debug)]
pub struct RealDisk {
    directory: Arc<Path>,
    /// Files open for appending.
    open: Arc<Mutex<BTreeMap<String, Arc<File>>>>,
}

impl RealDisk {
    /// Opens the directory, and makes it where it is missing.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        Ok(Self { directory: directory.into(), open: Arc::default() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn append_now(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let file = self.open.lock().get(name).cloned();
        let file = match file {
            Some(file) => file,
            None => {
                let file = Arc::new(OpenOptions::new().create(true).append(true).open(self.path(name))?);
                sync_directory(&self.directory)?;
                self.open.lock().insert(name.to_owned(), Arc::clone(&file));
                file
            }
        };
        (&*file).write_all(bytes)?;
        file.sync_data()
    }

    fn replace_now(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.path(&format!("{name}.new"));
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        self.open.lock().remove(name);
        fs::rename(&temporary, self.path(name))?;
        sync_directory(&self.directory)
    }
}

impl Disk for RealDisk {
    async fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let path = self.path(name);
        blocking(move || match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }

    async fn replace(&self, name: &str, bytes: Vec<u8>) -> io::Result<()> {
        let (disk, name) = (self.clone(), name.to_owned());
        blocking(move || disk.replace_now(&name, &bytes)).await
    }

    async fn append(&self, name: &str, bytes: Vec<u8>) -> io::Result<()> {
        let (disk, name) = (self.clone(), name.to_owned());
        blocking(move || disk.append_now(&name, &bytes)).await
    }
}

/// A rename is durable once its directory is.
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(stopped) => Err(io::Error::other(stopped)),
    }
}
