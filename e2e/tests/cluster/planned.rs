//! Planned work: drains, rolls, deletions within the grace period, an operator killed in their middle. No client may
//! notice any of it, and no shard may ever be short of a copy.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ringmaster_e2e::bed::{Bed, COPIES};
use ringmaster_e2e::cache::Cache;
use ringmaster_e2e::figures::note;
use ringmaster_e2e::kubernetes::{node_of, processes};
use ringmaster_e2e::run::{Outcome, Run};
use ringmaster_e2e::settings::NAMESPACE;
use ringmaster_e2e::tools::{kubectl, run as run_command, until};
use serde_json::json;

use crate::claim;

/// A drain waits for a limited sync of each member, and for the linger.
const DRAIN_S: u64 = 240;
const SETTLES: Duration = Duration::from_secs(240);

#[test]
fn a_drain_of_each_node_in_turn_is_not_noticed() {
    claim("a_drain_of_each_node_in_turn_is_not_noticed", |bed| async move {
        bed.preloaded().await?;
        let mut run = Run::start(&bed, &bed.cache, "drain-each", &[]).await?;
        run.control().await?;
        // A drain starts and ends pods, and the nodes share this machine with the members.
        run.phase("other pods").await?;
        bed.start_and_end_other_pods().await?;
        for node in bed.kubernetes.workers().await? {
            let phase = format!("drain {node}");
            run.phase(&phase).await?;
            let began = Instant::now();
            bed.kubernetes.drain(&node, DRAIN_S).await?;
            note(&bed.settings, "drain-each", &phase, format!("took {} s", began.elapsed().as_secs()))?;
            node_has_no_member(&bed, &node).await?;
            bed.kubernetes.uncordon_all().await?;
            bed.cache.settled(SETTLES).await?;
        }
        judge(&bed, run).await
    });
}

#[test]
fn two_nodes_with_both_copies_of_a_shard_are_drained_at_once() {
    claim("two_nodes_with_both_copies_of_a_shard_are_drained_at_once", |bed| async move {
        bed.preloaded().await?;
        let (primary, copy) = bed.cache.primary_and_copy(0).await?;
        let nodes = [node_under(&bed, primary).await?, node_under(&bed, copy).await?];
        let mut run = Run::start(&bed, &bed.cache, "drain-both", &[]).await?;
        run.control().await?;
        run.phase("drain both").await?;
        let began = Instant::now();
        let [first, second] = &nodes;
        tokio::try_join!(bed.kubernetes.drain(first, DRAIN_S), bed.kubernetes.drain(second, DRAIN_S))?;
        note(&bed.settings, "drain-both", "both drains", format!("took {} s", began.elapsed().as_secs()))?;
        for node in &nodes {
            node_has_no_member(&bed, node).await?;
        }
        bed.kubernetes.uncordon_all().await?;
        bed.cache.settled(SETTLES).await?;
        judge(&bed, run).await
    });
}

#[test]
fn a_roll_of_every_member_is_not_noticed() {
    claim("a_roll_of_every_member_is_not_noticed", |bed| async move {
        bed.preloaded().await?;
        let before: BTreeSet<String> = bed.cache.pods().await?.into_keys().collect();
        let mut run = Run::start(&bed, &bed.cache, "roll", &[]).await?;
        run.control().await?;
        run.phase("roll").await?;
        let began = Instant::now();
        let cpu = format!("{}m", 301 + std::process::id() % 40);
        bed.cache.patch(&json!({ "resources": { "requests": { "cpu": cpu } } })).await?;
        bed.cache.settled(Duration::from_secs(480)).await?;
        note(&bed.settings, "roll", "all members", format!("took {} s", began.elapsed().as_secs()))?;
        let after: BTreeSet<String> = bed.cache.pods().await?.into_keys().collect();
        ensure!(before.is_disjoint(&after), "some members were not replaced: {before:?} -> {after:?}");
        judge(&bed, run).await
    });
}

#[test]
fn a_deleted_pod_serves_until_it_is_replaced() {
    claim("a_deleted_pod_serves_until_it_is_replaced", |bed| async move {
        bed.preloaded().await?;
        let (primary, _) = bed.cache.primary_and_copy(0).await?;
        let pod = bed.cache.pod_name(primary);
        let mut run = Run::start(&bed, &bed.cache, "delete-pod", &[]).await?;
        run.control().await?;
        run.phase("delete").await?;
        let began = Instant::now();
        kubectl(&["-n", NAMESPACE, "delete", "pod", &pod, "--timeout=240s"]).await?;
        note(&bed.settings, "delete-pod", "kubectl delete pod", format!("took {} s", began.elapsed().as_secs()))?;
        bed.cache.settled(SETTLES).await?;
        judge(&bed, run).await
    });
}

#[test]
fn an_operator_killed_in_a_drain_goes_on() {
    claim("an_operator_killed_in_a_drain_goes_on", |bed| async move {
        bed.needs_nodes_at_hand()?;
        bed.preloaded().await?;
        let operator = bed.kubernetes.operator_pods().await?.into_iter().next().context("no operator")?;
        let operator_node = node_of(&operator).unwrap_or_default().to_owned();
        let node = node_with_a_primary_but_not(&bed, &operator_node).await?;
        let mut run = Run::start(&bed, &bed.cache, "kill-operator", &[]).await?;
        run.control().await?;
        run.phase("drain, operator killed").await?;
        let began = Instant::now();
        let (drained, killed) = tokio::join!(bed.kubernetes.drain(&node, DRAIN_S), async {
            a_spare_is_on_its_way(&bed.cache).await?;
            bed.kubernetes.signal(&bed.settings, &operator, "KILL").await
        });
        killed?;
        drained?;
        note(&bed.settings, "kill-operator", "drain", format!("took {} s", began.elapsed().as_secs()))?;
        bed.kubernetes.uncordon_all().await?;
        bed.kubernetes.operator_ready().await?;
        bed.cache.settled(SETTLES).await?;
        judge(&bed, run).await
    });
}

#[test]
fn an_upgrade_of_the_operator_touches_no_member() {
    claim("an_upgrade_of_the_operator_touches_no_member", |bed| async move {
        bed.preloaded().await?;
        let before = processes(&bed.cache.pods().await?);
        let mut run = Run::start(&bed, &bed.cache, "upgrade", &[]).await?;
        run.control().await?;
        run.phase("upgrade").await?;
        // Another default image for nodes, and another pod of the operator.
        let other = bed.settings.other_node_image.clone();
        bed.install_chart(&other, &["--set-string", "podAnnotations.e2e=upgraded"]).await?;
        bed.kubernetes.operator_ready().await?;
        // A cluster made by the new operator has the new default: it is at work.
        let probe = Cache::new(&bed.kubernetes, "probe");
        probe.apply(&json!({ "shards": 1, "copies": 1, "memory": { "max": "64Mi" } })).await?;
        probe.settled(Duration::from_secs(120)).await?;
        let images: BTreeSet<String> = images(&probe).await?;
        probe.delete().await?;
        ensure!(images == BTreeSet::from([other]), "the new operator makes members of {images:?}");
        bed.cache.settled(SETTLES).await?;
        let after = processes(&bed.cache.pods().await?);
        ensure!(before == after, "members were touched: {before:?} -> {after:?}");
        let judged = judge(&bed, run).await;
        bed.install_chart(&bed.settings.node_image.clone(), &[]).await?;
        judged
    });
}

#[test]
fn a_drain_with_single_copies_loses_no_key() {
    claim("a_drain_with_single_copies_loses_no_key", |bed| async move {
        bed.preloaded().await?;
        let single = Cache::new(&bed.kubernetes, "single");
        single
            .apply(&json!({
                "shards": 2, "copies": 1, "memory": { "max": "128Mi", "policy": "noeviction" },
                "maintenance": { "lingerSeconds": 5 },
            }))
            .await?;
        single.settled(Duration::from_secs(120)).await?;
        let pod = single.pods().await?.into_values().next().context("no member")?;
        let node = node_of(&pod).context("no node")?.to_owned();
        let keys = ["--host", "single", "--keys", "50000"];
        let ledger = bed.ledger_pod(&[]).await?;
        let preload = |what: &'static str| {
            let mut words = vec!["-n", NAMESPACE, "exec", &ledger, "--", "/clients/bin/preload", what];
            words.extend(keys);
            async move { run_command("kubectl", &words).await }
        };
        preload("load").await?;
        let mut run = Run::start(&bed, &single, "single-copies", &[]).await?;
        run.control().await?;
        run.phase("drain").await?;
        let began = Instant::now();
        bed.kubernetes.drain(&node, DRAIN_S).await?;
        note(&bed.settings, "single-copies", "drain", format!("took {} s", began.elapsed().as_secs()))?;
        bed.kubernetes.uncordon_all().await?;
        single.settled(SETTLES).await?;
        run.finish().await?.must_be_flawless(1)?;
        preload("check").await?;
        single.delete().await
    });
}

/// What all of these claims end with.
async fn judge(bed: &Bed, run: Run) -> Result<()> {
    let outcome: Outcome = run.finish().await?;
    outcome.must_be_flawless(COPIES)?;
    bed.preload("check").await
}

async fn a_spare_is_on_its_way(cache: &Cache) -> Result<()> {
    until("a spare that syncs", Duration::from_secs(60), || async {
        let object = cache.object().await?;
        let spares = object["status"]["members"].as_array().into_iter().flatten();
        let syncing = spares.filter(|member| member["state"] == "Syncing").count();
        Ok(if syncing > 0 { Ok(()) } else { Err(format!("replacing: {}", object["status"]["replacing"])) })
    })
    .await
}

async fn node_under(bed: &Bed, member: ringmaster_ring::MemberId) -> Result<String> {
    let pod = bed.cache.pod(member).await?;
    Ok(node_of(&pod).context("a member without a node")?.to_owned())
}

async fn node_with_a_primary_but_not(bed: &Bed, avoided: &str) -> Result<String> {
    let ring = bed.cache.ring().await?;
    for shard in ring.shards.values() {
        let node = node_under(bed, shard.primary.member).await?;
        if node != avoided {
            return Ok(node);
        }
    }
    anyhow::bail!("all primaries stand on {avoided}")
}

async fn node_has_no_member(bed: &Bed, node: &str) -> Result<()> {
    let pods = bed.cache.pods().await?;
    let left: Vec<&String> = pods.iter().filter(|(_, pod)| node_of(pod) == Some(node)).map(|(name, _)| name).collect();
    ensure!(left.is_empty(), "{left:?} are still on the drained {node}");
    Ok(())
}

async fn images(cache: &Cache) -> Result<BTreeSet<String>> {
    let pods = cache.pods().await?;
    let containers = pods.values().filter_map(|pod| pod.spec.as_ref()).flat_map(|spec| &spec.containers);
    Ok(containers.filter_map(|container| container.image.clone()).collect())
}
