//! The pulse of each shard: one small write after the other, a few milliseconds apart, to whoever is its primary, and how
//! long it was from one acknowledgement to the next. No client library's pauses and retries are in that figure: it is the
//! time for which the shard itself took no writes.
//!
//! In: the rings as they are learned. Out: to the judge, each acknowledged write and how long it came after the last.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ringmaster_ring::{Address, Ring, ShardId, Slot};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::judge::Judge;
use super::lock;

/// How long after an answer the next write goes.
const PAUSE: Duration = Duration::from_millis(5);
/// How long an answer is waited for where nobody says that somebody else is the primary now.
const PATIENCE: Duration = Duration::from_millis(1_000);
/// How long it is waited for where the ring names another.
const PATIENCE_WITH_FORMER: Duration = Duration::from_millis(50);
/// How soon a write that failed is tried again.
const AGAIN: Duration = Duration::from_millis(2);

/// Beats for one shard until it is dropped.
pub(super) async fn beat(shard: ShardId, mut rings: watch::Receiver<Ring>, judge: Arc<Mutex<Judge>>) {
    let Some(request) = request_for(&rings.borrow(), shard) else { return };
    let mut pulse = Pulse { shard, request, connection: None, moved_to: None };
    let mut acknowledged: Option<Instant> = None;
    loop {
        match pulse.write(&mut rings).await {
            Ok(()) => {
                let now = Instant::now();
                if let Some(last) = acknowledged.replace(now) {
                    lock(&judge).felt_pulse(now - last);
                }
                sleep(PAUSE).await;
            }
            Err(_) => {
                pulse.connection = None;
                sleep(AGAIN).await;
            }
        }
    }
}

/// A write to a key of the shard, as it is sent.
fn request_for(ring: &Ring, shard: ShardId) -> Option<Vec<u8>> {
    let slots = &ring.shards.get(&shard)?.slots;
    let key = (0..).map(|n: u32| format!("pulse:{n}")).find(|key| {
        let slot = Slot::of_key(key.as_bytes());
        slots.iter().any(|range| range.contains(slot))
    })?;
    Some(format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n$1\r\n1\r\n", key.len()).into_bytes())
}

struct Pulse {
    shard: ShardId,
    request: Vec<u8>,
    connection: Option<(Address, TcpStream)>,
    /// Where the last answer sent it.
    moved_to: Option<Address>,
}

impl Pulse {
    async fn write(&mut self, rings: &mut watch::Receiver<Ring>) -> Result<()> {
        let named = primary_of(&rings.borrow_and_update(), self.shard).context("no primary has an address")?;
        let to = self.moved_to.take().unwrap_or_else(|| named.clone());
        let mut stream = match self.connection.take() {
            Some((address, stream)) if address == to => stream,
            _ => {
                let target = (to.host.as_str(), to.client_port);
                let stream = timeout(PATIENCE, TcpStream::connect(target)).await??;
                stream.set_nodelay(true)?;
                stream
            }
        };
        stream.write_all(&self.request).await?;
        let answer = tokio::select! {
            answer = read_line(&mut stream) => answer?,
            () = sleep(PATIENCE) => bail!("no answer"),
            () = until_another_is_named(rings, self.shard, &named) => bail!("another is the primary now"),
        };
        if let Some(moved) = answer.strip_prefix("-MOVED ") {
            let (host, port) =
                moved.rsplit(' ').next().and_then(|to| to.rsplit_once(':')).context("MOVED to nowhere")?;
            self.moved_to = Some(Address { host: host.to_owned(), client_port: port.parse()?, ..to });
            bail!("moved");
        }
        if answer != "+OK" {
            bail!("{answer}");
        }
        self.connection = Some((to, stream));
        Ok(())
    }
}

fn primary_of(ring: &Ring, shard: ShardId) -> Option<Address> {
    let primary = ring.shards.get(&shard)?.primary.member;
    Some(ring.members.get(&primary)?.present.as_ref()?.address.clone())
}

/// The answer of a member that is the primary no more may still come, and often does.
async fn until_another_is_named(rings: &mut watch::Receiver<Ring>, shard: ShardId, named: &Address) {
    while rings.changed().await.is_ok() {
        if primary_of(&rings.borrow_and_update(), shard).as_ref() != Some(named) {
            return sleep(PATIENCE_WITH_FORMER).await;
        }
    }
    std::future::pending().await
}

async fn read_line(stream: &mut TcpStream) -> Result<String> {
    let mut line = Vec::new();
    let mut room = [0; 256];
    loop {
        let count = stream.read(&mut room).await?;
        if count == 0 {
            bail!("the connection ended");
        }
        line.extend_from_slice(room.get(..count).unwrap_or_default());
        if let Some(line) = line.strip_suffix(b"\r\n") {
            return Ok(String::from_utf8_lossy(line).into_owned());
        }
    }
}
