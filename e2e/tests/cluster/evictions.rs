//! Evictions, one at a time and not repeated: the disruption budget refuses what would cost a copy.

use std::time::Duration;

use anyhow::{Result, ensure};
use ringmaster_e2e::bed::COPIES;
use ringmaster_e2e::figures::note;
use ringmaster_e2e::kubernetes::node_of;
use ringmaster_e2e::tools::{kubectl, until};
use ringmaster_ring::ShardId;

use crate::claim;

#[test]
fn an_eviction_is_refused_until_the_spare_is_in_sync() {
    claim("an_eviction_is_refused_until_the_spare_is_in_sync", |bed| async move {
        bed.preloaded().await?;
        let (_, copy) = bed.cache.primary_and_copy(1).await?;
        let pod = bed.cache.pod(copy).await?;
        let (name, node) = (bed.cache.pod_name(copy), node_of(&pod).unwrap_or_default().to_owned());
        let refused = bed.kubernetes.evict(&name).await?;
        ensure!(refused.is_err(), "{name} was evicted while nothing could replace it");
        kubectl(&["cordon", &node]).await?;
        until(&format!("the eviction of {name}"), Duration::from_secs(120), || {
            let (bed, name) = (bed.clone(), name.clone());
            async move {
                let others = in_sync_others(&bed, copy).await?;
                Ok(match bed.kubernetes.evict(&name).await? {
                    Ok(()) => {
                        ensure_spared(others, &name)?;
                        Ok(())
                    }
                    Err(why) => Err(why),
                })
            }
        })
        .await?;
        note(&bed.settings, "evictions", "refused at first, granted with a spare in sync", "yes")?;
        bed.kubernetes.uncordon_all().await?;
        bed.cache.settled(Duration::from_secs(120)).await
    });
}

/// How many copies of shard 1 are in sync without this member, just before an eviction is tried.
async fn in_sync_others(bed: &ringmaster_e2e::bed::Bed, member: ringmaster_ring::MemberId) -> Result<usize> {
    let ring = bed.cache.ring().await?;
    Ok(ring.shards.get(&ShardId(1)).map_or(0, |shard| shard.in_sync.keys().filter(|id| **id != member).count()))
}

fn ensure_spared(others: usize, pod: &str) -> Result<()> {
    // The set may have grown between the look and the eviction, by the spare alone.
    ensure!(others + 1 >= COPIES, "{pod} was evicted while {others} other copies were in sync");
    Ok(())
}
