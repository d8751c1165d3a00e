//! Evictions, one at a time and not repeated: the disruption budget refuses what would cost a copy.

use std::time::Duration;

use anyhow::{Result, ensure};
use ringmaster_e2e::bed::{Bed, COPIES};
use ringmaster_e2e::figures::note;
use ringmaster_e2e::kubernetes::node_of;
use ringmaster_e2e::run::Run;
use ringmaster_e2e::tools::{kubectl, until};
use ringmaster_ring::{MemberId, ShardId};

use crate::claim;

#[test]
fn an_eviction_is_refused_until_the_spare_is_in_sync() {
    claim("an_eviction_is_refused_until_the_spare_is_in_sync", |bed| async move {
        bed.preloaded().await?;
        let (_, copy) = bed.cache.primary_and_copy(1).await?;
        let pod = bed.cache.pod(copy).await?;
        let (name, node) = (bed.cache.pod_name(copy), node_of(&pod).unwrap_or_default().to_owned());
        let mut run = Run::start(&bed, &bed.cache, "eviction", &[]).await?;
        run.control().await?;
        run.phase("eviction").await?;
        let refused = bed.kubernetes.evict(&name).await?;
        ensure!(refused.is_err(), "{name} was evicted while nothing could replace it");
        kubectl(&["cordon", &node]).await?;
        until(&format!("the eviction of {name}"), Duration::from_secs(120), || bed.kubernetes.evict(&name)).await?;
        // Whoever is evicted keeps serving until it is retired: what the budget let through shows in who else is there.
        let others = in_sync_others(&bed, copy).await?;
        ensure!(others >= COPIES, "{name} was evicted while {others} other copies were in sync");
        note(&bed.settings, "evictions", "refused at first, granted with a spare in sync", "yes")?;
        bed.kubernetes.uncordon_all().await?;
        bed.cache.settled(Duration::from_secs(120)).await?;
        run.finish().await?.must_be_flawless(COPIES)
    });
}

/// How many copies of shard 1 are in sync without this member.
async fn in_sync_others(bed: &Bed, member: MemberId) -> Result<usize> {
    let ring = bed.cache.ring().await?;
    Ok(ring.shards.get(&ShardId(1)).map_or(0, |shard| shard.in_sync.keys().filter(|id| **id != member).count()))
}
