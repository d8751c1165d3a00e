//! The servers under load: how each is started, on which port it answers, and which processes count as it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::client::{Client, Until};
use crate::load::{Dialect, Load};

/// How long a server may take until it serves.
const START_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One member, `acks: primary`.
    Ringmaster,
    /// A primary and a copy, `acks: inSync`.
    RingmasterInSync,
    /// Another build, as [`Kind::Ringmaster`]: to see what a change brought, in pairs.
    Before,
    Valkey,
    Redis,
    Memcached,
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) ringmaster: PathBuf,
    pub(crate) before: Option<PathBuf>,
    pub(crate) valkey: PathBuf,
    pub(crate) redis: PathBuf,
    pub(crate) memcached: PathBuf,
    /// For logs and configuration.
    pub(crate) folder: PathBuf,
}

/// A server that runs. It ends with this.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) port: u16,
    /// The process that clients speak to.
    pub(crate) pid: u32,
    /// The process that holds the copy.
    pub(crate) copy: Option<u32>,
    child: Child,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] =
        [Self::Ringmaster, Self::RingmasterInSync, Self::Before, Self::Valkey, Self::Redis, Self::Memcached];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ringmaster => "Ringmaster",
            Self::RingmasterInSync => "Ringmaster, inSync",
            Self::Before => "Before",
            Self::Valkey => "Valkey",
            Self::Redis => "Redis",
            Self::Memcached => "memcached",
        }
    }

    pub(crate) fn dialect(self) -> Dialect {
        if self == Self::Memcached { Dialect::Memcached } else { Dialect::Resp }
    }
}

impl Programs {
    fn program(&self, kind: Kind) -> anyhow::Result<&Path> {
        let program = match kind {
            Kind::Ringmaster | Kind::RingmasterInSync => Some(&self.ringmaster),
            Kind::Before => self.before.as_ref(),
            Kind::Valkey => Some(&self.valkey),
            Kind::Redis => Some(&self.redis),
            Kind::Memcached => Some(&self.memcached),
        };
        program.map(PathBuf::as_path).with_context(|| format!("no program for {}", kind.name()))
    }

    /// What a server says about its version.
    pub(crate) fn version(&self, kind: Kind) -> anyhow::Result<String> {
        let program = self.program(kind)?;
        let output = Command::new(program).arg("--version").output().with_context(|| program.display().to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let words = text.split_whitespace().map(|word| word.trim_start_matches("v="));
        let version = words.into_iter().find(|word| word.starts_with(|first: char| first.is_ascii_digit()));
        Ok(format!("{} {}", kind.name().split(',').next().unwrap_or_default(), version.unwrap_or("?")))
    }

    pub(crate) fn start(&self, kind: Kind, threads: u16) -> anyhow::Result<Server> {
        let log = fs::File::create(self.folder.join(format!("{}.log", kind.name())))?;
        let port = free_port()?;
        let mut command = Command::new(self.program(kind)?);
        match kind {
            Kind::Ringmaster | Kind::RingmasterInSync | Kind::Before => {
                // Two playgrounds of one user need two places for their sockets.
                let place = self.folder.join(kind.name());
                fs::create_dir_all(&place)?;
                let file = place.join("cluster.yaml");
                fs::write(&file, cluster(kind, threads))?;
                command.arg("playground").arg("--file").arg(file).arg("--port").arg(port.to_string());
                command.env("TMPDIR", &place).env("XDG_RUNTIME_DIR", &place);
            }
            Kind::Valkey | Kind::Redis => {
                let threads = threads.to_string();
                command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--io-threads", &threads]);
                command.arg("--port").arg(port.to_string()).arg("--dir").arg(&self.folder);
            }
            Kind::Memcached => {
                command.args(["-l", "127.0.0.1", "-U", "0", "-m", "4096", "-t", &threads.to_string()]);
                command.args(["-u", &whoami()?, "-p", &port.to_string()]);
            }
        }
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut server = Server { kind, port, pid: child.id(), copy: None, child };
        server.wait_until_it_serves()?;
        Ok(server)
    }
}

impl Server {
    pub(crate) fn client(&self, connections: usize, seed: u64) -> anyhow::Result<Client> {
        Client::connect(self.port, self.kind.dialect(), connections, seed)
    }

    /// Empties the server, as far as its protocol has a way.
    pub(crate) fn flush(&self) -> anyhow::Result<()> {
        let command: &[u8] = match self.kind.dialect() {
            Dialect::Resp => b"FLUSHALL\r\n",
            Dialect::Memcached => b"flush_all\r\n",
        };
        let reply = ask(self.port, command)?;
        anyhow::ensure!(reply.contains("OK"), "{} does not flush: {reply}", self.kind.name());
        Ok(())
    }

    /// Returns what the server says, which has the script's name in it.
    pub(crate) fn load_script(&self, script: &str) -> anyhow::Result<String> {
        ask(self.port, format!("SCRIPT LOAD \"{script}\"\r\n").as_bytes())
    }

    fn wait_until_it_serves(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            match self.try_it() {
                Ok(()) => return Ok(()),
                Err(error) if began.elapsed() > START_MAX => {
                    return Err(error.context(format!("{} does not serve", self.kind.name())));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("{} ended with {status}", self.kind.name());
            }
        }
    }

    fn try_it(&mut self) -> anyhow::Result<()> {
        if matches!(self.kind, Kind::Ringmaster | Kind::RingmasterInSync | Kind::Before) {
            let members = members_of(self.child.id())?;
            let primary = members.iter().find(|(_, port)| {
                let said = ask(*port, b"SET begun yes\r\n");
                said.is_ok_and(|reply| reply.starts_with("+OK"))
            });
            let &(pid, port) = primary.context("no primary yet")?;
            if self.kind == Kind::RingmasterInSync {
                let &(copy, _) = members.iter().find(|(other, _)| *other != pid).context("no copy yet")?;
                let info = ask(port, b"INFO replication\r\n")?;
                anyhow::ensure!(info.contains("state=online"), "no copy in sync yet");
                self.copy = Some(copy);
            }
            (self.pid, self.port) = (pid, port);
        }
        let mut client = Client::connect(self.port, self.kind.dialect(), 1, 1)?;
        client.closed(Load::Set, 1, Until::Count(1)).map(drop)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A playground takes its members and its folder along when it is asked to end.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            // It may have ended already.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(10) {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn cluster(kind: Kind, threads: u16) -> String {
    let (copies, acks) = if kind == Kind::RingmasterInSync { (2, "inSync") } else { (1, "primary") };
    format!(
        "apiVersion: cache.ringmaster.dev/v1alpha1\nkind: CacheCluster\nmetadata: {{name: bench}}\nspec:\n  shards: 1\n  \
         copies: {copies}\n  threads: {threads}\n  memory: {{max: 8Gi, policy: noeviction}}\n  consistency: {{acks: {acks}}}\n"
    )
}

/// The members of a playground: their processes, and their ports for clients.
fn members_of(playground: u32) -> anyhow::Result<Vec<(u32, u16)>> {
    let children = fs::read_to_string(format!("/proc/{playground}/task/{playground}/children"))?;
    let pids = children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok());
    let members = pids.filter_map(|pid| {
        let line = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("cmdline")).ok()?;
        let port = line.split('\0').find_map(|argument| argument.strip_prefix("--client-port="))?;
        Some((pid, port.parse().ok()?))
    });
    Ok(members.collect())
}

/// Sends one line and returns what comes back first.
fn ask(port: u16, line: &[u8]) -> anyhow::Result<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(line)?;
    let mut reply = vec![0; 8 << 10];
    let count = stream.read(&mut reply)?;
    Ok(String::from_utf8_lossy(reply.get(..count).unwrap_or_default()).into_owned())
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().clamp(10_000, 50_000))
}

fn whoami() -> anyhow::Result<String> {
    let output = Command::new("id").arg("-un").output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
