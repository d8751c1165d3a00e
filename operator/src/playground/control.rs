//! How one `ringmaster playground` command talks to the playground that runs: a line over a socket of the same user.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How long the playground may take for an answer, and the other side for its line.
const TIMEOUT: Duration = Duration::from_secs(5);
const LINE_BYTES_MAX: u64 = 256;
/// How many orders may wait.
const WAITING_MAX: usize = 16;
/// How long to wait when nobody can be let in, for want of file descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Cordon(String),
    Uncordon(String),
    Status,
}

impl Order {
    fn to_line(&self) -> String {
        match self {
            Self::Cordon(node) => format!("cordon {node}\n"),
            Self::Uncordon(node) => format!("uncordon {node}\n"),
            Self::Status => "status\n".to_owned(),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        match (words.next()?, words.next()) {
            ("cordon", Some(node)) => Some(Self::Cordon(node.to_owned())),
            ("uncordon", Some(node)) => Some(Self::Uncordon(node.to_owned())),
            ("status", None) => Some(Self::Status),
            _ => None,
        }
    }
}

/// The socket of the playground; it goes with this.
pub(super) struct Orders {
    /// Each was read by a task of its own, so that whoever waits for the next one may give up waiting at any time.
    asked: mpsc::Receiver<Asked>,
    accepting: JoinHandle<()>,
    path: PathBuf,
}

impl Drop for Orders {
    fn drop(&mut self) {
        self.accepting.abort();
        drop(std::fs::remove_file(&self.path));
    }
}

/// An order, and where its answer goes.
pub(super) struct Asked {
    order: Order,
    stream: UnixStream,
}

impl Asked {
    pub(super) fn order(&self) -> &Order {
        &self.order
    }

    /// `+` and what was done, or `-` and why not. Whoever asked may have left.
    pub(super) async fn answer(mut self, answer: Result<String, String>) {
        let text = answer.map_or_else(|why| format!("-{why}"), |text| format!("+{text}"));
        drop(tokio::time::timeout(TIMEOUT, self.stream.write_all(text.as_bytes())).await);
    }
}

/// Where a playground of this user listens.
fn path() -> PathBuf {
    let folder = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    folder.join(format!("ringmaster-playground-{}.sock", rustix::process::getuid().as_raw()))
}

pub(super) fn listen() -> anyhow::Result<Orders> {
    let path = path();
    if std::os::unix::net::UnixStream::connect(&path).is_ok() {
        anyhow::bail!("a playground runs already ({})", path.display());
    }
    // Left by one that was killed.
    match std::fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).context(path.display().to_string()),
    }
    let listener = UnixListener::bind(&path).with_context(|| path.display().to_string())?;
    let (asks, asked) = mpsc::channel(WAITING_MAX);
    let accepting = tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let asks = asks.clone();
            tokio::spawn(async move {
                if let Some(asked) = read(stream).await {
                    // The playground may be ending.
                    drop(asks.send(asked).await);
                }
            });
        }
    });
    Ok(Orders { asked, accepting, path })
}

/// What somebody asks; none where it is no order.
async fn read(stream: UnixStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream.take(LINE_BYTES_MAX));
    let mut line = String::new();
    tokio::time::timeout(TIMEOUT, reader.read_line(&mut line)).await.ok()?.ok()?;
    Some(Asked { order: Order::parse(&line)?, stream: reader.into_inner().into_inner() })
}

impl Orders {
    /// The next order; none once there can be no more.
    pub(super) async fn next(&mut self) -> Option<Asked> {
        self.asked.recv().await
    }
}

/// Asks the playground that runs.
pub(super) async fn ask(order: &Order) -> anyhow::Result<String> {
    let mut stream =
        UnixStream::connect(path()).await.context("no playground runs: start one with `ringmaster playground`")?;
    let mut answer = String::new();
    let talk = async {
        stream.write_all(order.to_line().as_bytes()).await?;
        stream.read_to_string(&mut answer).await
    };
    tokio::time::timeout(TIMEOUT, talk).await.context("the playground does not answer")??;
    match answer.split_at_checked(1) {
        Some(("+", text)) => Ok(text.to_owned()),
        Some((_, why)) => anyhow::bail!("{why}"),
        None => anyhow::bail!("the playground ended"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_survive_their_line() {
        for order in [Order::Cordon("node1".to_owned()), Order::Uncordon("node2".to_owned()), Order::Status] {
            assert_eq!(Order::parse(&order.to_line()), Some(order));
        }
        assert_eq!(Order::parse("uncordon"), None);
    }
}
