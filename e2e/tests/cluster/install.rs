//! From nothing to a served cluster.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use ringmaster_e2e::bed::{Bed, COPIES, SHARDS};
use ringmaster_e2e::kubernetes::node_of;
use ringmaster_e2e::run::Run;

use crate::claim;

#[test]
fn a_cluster_becomes_ready_and_serves_ordinary_clients() {
    claim("a_cluster_becomes_ready_and_serves_ordinary_clients", |bed| async move {
        bed.preloaded().await?;
        copies_stand_on_different_nodes(&bed).await?;
        let mut run = Run::start(&bed, &bed.cache, "install", &[]).await?;
        run.control().await?;
        let outcome = run.finish().await?;
        outcome.must_be_flawless(COPIES)?;
        let wanted = bed.settings.writes_per_s as f64 * 0.8;
        let reached = outcome.writes_per_s("control");
        ensure!(reached >= wanted, "{reached:.0} writes/s of {wanted:.0}");
        bed.preload("check").await
    });
}

async fn copies_stand_on_different_nodes(bed: &Bed) -> Result<()> {
    let (ring, pods) = (bed.cache.ring().await?, bed.cache.pods().await?);
    ensure!(ring.shards.len() == usize::from(SHARDS), "{} shards", ring.shards.len());
    for (id, shard) in &ring.shards {
        let nodes: BTreeSet<_> =
            shard.in_sync.keys().filter_map(|member| node_of(pods.get(&bed.cache.pod_name(*member))?)).collect();
        ensure!(nodes.len() == COPIES, "the {} copies of shard {id} stand on {nodes:?}", shard.in_sync.len());
    }
    Ok(())
}
