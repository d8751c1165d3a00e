//! Crashes: processes and nodes that end or freeze without a word. Clients may see errors; what they were acknowledged
//! stays, and the copies come back by themselves.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ringmaster_e2e::bed::{Bed, COPIES};
use ringmaster_e2e::figures::note;
use ringmaster_e2e::kubernetes::node_of;
use ringmaster_e2e::run::Run;
use ringmaster_e2e::settings::NAMESPACE;
use ringmaster_e2e::tools::{kubectl, node_tool, until};
use ringmaster_ring::{MemberId, ShardId};

use crate::claim;

#[test]
fn a_killed_primary_loses_nothing_acknowledged() {
    claim("a_killed_primary_loses_nothing_acknowledged", |bed| async move {
        bed.needs_nodes_at_hand()?;
        bed.preloaded().await?;
        let leader = bed.cache.ring_leader().await?;
        let ring = bed.cache.ring().await?;
        let victim = ring.shards.values().map(|shard| shard.primary.member).find(|primary| *primary != leader);
        let victim = victim.context("every primary leads the ring")?;
        kill(&bed, "kill-primary", victim).await
    });
}

#[test]
fn a_killed_leader_of_the_ring_loses_nothing_acknowledged() {
    claim("a_killed_leader_of_the_ring_loses_nothing_acknowledged", |bed| async move {
        bed.needs_nodes_at_hand()?;
        bed.preloaded().await?;
        let leader = bed.cache.ring_leader().await?;
        kill(&bed, "kill-leader", leader).await
    });
}

async fn kill(bed: &Bed, name: &str, victim: MemberId) -> Result<()> {
    let pod = bed.cache.pod(victim).await?;
    let node = node_of(&pod).unwrap_or_default().to_owned();
    let mut run = Run::start(bed, &bed.cache, name, &[&node]).await?;
    run.control().await?;
    run.phase("crash").await?;
    let began = Instant::now();
    bed.kubernetes.signal(&bed.settings, &pod, "KILL").await?;
    end(bed, run, name, began).await
}

#[test]
fn a_primary_deleted_by_force_loses_nothing_acknowledged() {
    claim("a_primary_deleted_by_force_loses_nothing_acknowledged", |bed| async move {
        bed.preloaded().await?;
        let (primary, _) = bed.cache.primary_and_copy(1).await?;
        let mut run = Run::start(&bed, &bed.cache, "force-delete", &[]).await?;
        run.control().await?;
        run.phase("crash").await?;
        let began = Instant::now();
        let pod = bed.cache.pod_name(primary);
        kubectl(&["-n", NAMESPACE, "delete", "pod", &pod, "--force", "--grace-period=0"]).await?;
        end(&bed, run, "force-delete", began).await
    });
}

#[test]
fn a_lost_node_loses_nothing_acknowledged() {
    claim("a_lost_node_loses_nothing_acknowledged", |bed| async move {
        bed.needs_nodes_at_hand()?;
        bed.preloaded().await?;
        let operators = bed.kubernetes.operator_pods().await?;
        let with_operator: Vec<&str> = operators.iter().filter_map(node_of).collect();
        let ring = bed.cache.ring().await?;
        let mut lost = None;
        for shard in ring.shards.values() {
            let node = node_of(&bed.cache.pod(shard.primary.member).await?).unwrap_or_default().to_owned();
            if !with_operator.contains(&node.as_str()) {
                lost = Some(node);
            }
        }
        let node = lost.context("all primaries stand beside the operator")?;
        let mut run = Run::start(&bed, &bed.cache, "lose-node", &[&node]).await?;
        run.control().await?;
        run.phase("crash").await?;
        let began = Instant::now();
        node_tool(&bed.settings.root, &["kill", &node]).await?;
        run.writing().await?;
        copies_restored(&bed).await?;
        note(&bed.settings, "lose-node", "copies restored after", format!("{} s", began.elapsed().as_secs()))?;
        run.phase("node returns").await?;
        node_tool(&bed.settings.root, &["start", &node]).await?;
        end(&bed, run, "lose-node", began).await
    });
}

#[test]
fn a_frozen_copy_holds_writes_up_for_its_lag_alone() {
    claim("a_frozen_copy_holds_writes_up_for_its_lag_alone", |bed| async move {
        bed.needs_nodes_at_hand()?;
        bed.preloaded().await?;
        let leader = bed.cache.ring_leader().await?;
        let ring = bed.cache.ring().await?;
        let mut copies = ring.shards.iter().filter_map(|(id, shard)| {
            let copy = shard.in_sync.keys().find(|copy| **copy != shard.primary.member && **copy != leader)?;
            Some((*id, *copy))
        });
        let (shard, copy) = copies.next_back().context("every copy leads the ring")?;
        let pod = bed.cache.pod(copy).await?;
        let node = node_of(&pod).unwrap_or_default().to_owned();
        let mut run = Run::start(&bed, &bed.cache, "freeze-copy", &[&node]).await?;
        run.control().await?;
        run.phase("freeze").await?;
        bed.kubernetes.signal(&bed.settings, &pod, "STOP").await?;
        let left = out_of_sync(&bed, shard, copy).await;
        let writing = run.writing().await;
        run.phase("thaw").await?;
        bed.kubernetes.signal(&bed.settings, &pod, "CONT").await?;
        left?;
        writing?;
        bed.cache.settled(Duration::from_secs(240)).await?;
        let outcome = run.finish().await?;
        outcome.must_have_kept_all()?;
        let stall_ms = outcome.longest_stall_ms("freeze");
        let lag_ms_max = f64::from(ring.settings.copy_lag_ms_max);
        ensure!(stall_ms <= lag_ms_max + 500.0, "writes waited {stall_ms} ms for a copy that may lag {lag_ms_max} ms");
        bed.preload("check").await
    });
}

async fn end(bed: &Bed, run: Run, name: &str, began: Instant) -> Result<()> {
    run.writing().await?;
    copies_restored(bed).await?;
    note(&bed.settings, name, "copies whole after", format!("{} s", began.elapsed().as_secs()))?;
    bed.cache.settled(Duration::from_secs(240)).await?;
    let outcome = run.finish().await?;
    outcome.must_have_kept_all()?;
    let stall =
        format!("{:.0} ms (control: {:.0} ms)", outcome.longest_stall_ms("crash"), outcome.longest_stall_ms("control"));
    note(&bed.settings, name, "longest wait of a request", stall)?;
    bed.preload("check").await
}

/// Every shard has its copies again, and the victim's boot is not among them by mistake: the ring says so.
async fn copies_restored(bed: &Bed) -> Result<()> {
    until("every shard to have its copies again", Duration::from_secs(240), || async {
        let ring = bed.cache.ring().await?;
        let short = ring.shards.iter().find(|(_, shard)| shard.in_sync.len() < COPIES);
        Ok(short.map_or(Ok(()), |(id, shard)| Err(format!("shard {id} has {:?}", shard.in_sync.keys()))))
    })
    .await
}

async fn out_of_sync(bed: &Bed, shard: ShardId, copy: MemberId) -> Result<()> {
    until(&format!("member {copy} to leave the in-sync set"), Duration::from_secs(30), || async {
        let ring = bed.cache.ring().await?;
        let inside = ring.shards.get(&shard).is_some_and(|shard| shard.in_sync.contains_key(&copy));
        Ok(if inside { Err("it is in it".to_owned()) } else { Ok(()) })
    })
    .await
}
