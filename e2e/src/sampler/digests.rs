//! The comparison of contents at rest: per slot, a digest of what the primary holds and of what each in-sync copy holds.
//! In: a ring whose clients are silent. Out: the slots compared, or the first difference.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ringmaster_ring::{MemberId, Ring, Shard};
use serde::Deserialize;
use tokio::time::Instant;

use super::{Http, find_ring};

/// Digests of a whole member take their time.
const PATIENCE: Duration = Duration::from_secs(30);
/// Expiry and the last records may still change something for a while.
const REST: Duration = Duration::from_secs(60);

/// Two members hold different data at the same position.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Differs(String);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Digests {
    position: String,
    position_after: String,
    digests: BTreeMap<u16, String>,
}

/// Compares all shards of the ring behind `seed`. Returns how many (slot, copy) pairs were equal.
pub async fn compare_digests(seed: &str) -> Result<usize> {
    let deadline = Instant::now() + REST;
    let mut differed = false;
    loop {
        let ring = find_ring(seed).await?;
        match compare(&ring).await {
            Ok(pairs) => return Ok(pairs),
            // At the same position nothing is on its way that could mend it; only a record in the middle of being
            // applied looks like that, and not twice.
            Err(error) if Instant::now() > deadline || (differed && error.is::<Differs>()) => return Err(error),
            Err(error) if error.is::<Differs>() => differed = true,
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}

async fn compare(ring: &Ring) -> Result<usize> {
    let mut pairs = 0;
    for (id, shard) in &ring.shards {
        pairs += compare_shard(ring, shard).await.with_context(|| format!("shard {id}"))?;
    }
    Ok(pairs)
}

async fn compare_shard(ring: &Ring, shard: &Shard) -> Result<usize> {
    let primary = digests(ring, shard.primary.member).await?;
    let mut pairs = 0;
    for copy in shard.in_sync.keys().filter(|id| **id != shard.primary.member) {
        let held = digests(ring, *copy).await?;
        if held.position != primary.position {
            bail!("member {copy} is at {}, its primary at {}: not at rest", held.position, primary.position);
        }
        if held.digests.len() != primary.digests.len() {
            bail!(Differs(format!(
                "member {copy} has {} slots with keys, its primary {}",
                held.digests.len(),
                primary.digests.len()
            )));
        }
        for (slot, digest) in &primary.digests {
            if held.digests.get(slot) != Some(digest) {
                let at = &primary.position;
                bail!(Differs(format!("slot {slot} of member {copy} differs from its primary's at {at}")));
            }
            pairs += 1;
        }
    }
    Ok(pairs)
}

async fn digests(ring: &Ring, member: MemberId) -> Result<Digests> {
    let address = ring.members.get(&member).and_then(|member| member.present.as_ref()).map(|present| &present.address);
    let address = address.with_context(|| format!("member {member} is in sync and has no address"))?;
    let body = Http::new(&address.host, address.http_port).get("/v1/digests", PATIENCE).await;
    let body = body.map_err(|missed| anyhow::anyhow!("member {member}: {missed:?}"))?;
    let digests: Digests = serde_json::from_slice(&body).context("digests cannot be read")?;
    if digests.position != digests.position_after {
        bail!("member {member} changed while its digests were made");
    }
    Ok(digests)
}
