//! The operator itself: silent when there is nothing to do, and no matter when it restarts.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ringmaster_e2e::cache::Cache;
use ringmaster_e2e::figures::note;
use ringmaster_e2e::kubernetes::processes;
use ringmaster_e2e::settings::{NAMESPACE, OPERATOR_NAMESPACE};
use ringmaster_e2e::tools::kubectl;
use serde_json::{Value, json};

use crate::claim;

#[test]
fn a_quiet_cluster_costs_no_writing_request() {
    claim("a_quiet_cluster_costs_no_writing_request", |bed| async move {
        bed.needs_nodes_at_hand()?;
        let log = bed.settings.audit_log.clone().context("no audit log")?;
        bed.preloaded().await?;
        bed.cache.settled(Duration::from_secs(60)).await?;
        let from = std::fs::metadata(&log)?.len();
        // This is the length of the observation, not a wait for something.
        tokio::time::sleep(Duration::from_secs(bed.settings.quiet_s)).await;
        let (renewals, others) = writing_requests(&log, from)?;
        note(
            &bed.settings,
            "quiet",
            &format!("writing requests of the operator in {} s", bed.settings.quiet_s),
            format!("{} and {renewals} renewals of its Lease", others.len()),
        )?;
        ensure!(others.is_empty(), "the operator wrote: {others:#?}");
        ensure!(renewals > 0, "not even the Lease was renewed: the log or its reading is wrong");
        Ok(())
    });
}

#[test]
fn a_restart_of_the_operator_restarts_no_member() {
    claim("a_restart_of_the_operator_restarts_no_member", |bed| async move {
        bed.preloaded().await?;
        let before = processes(&bed.cache.pods().await?);
        let old = bed.kubernetes.operator_pods().await?;
        kubectl(&["-n", OPERATOR_NAMESPACE, "rollout", "restart", "deployment"]).await?;
        kubectl(&["-n", OPERATOR_NAMESPACE, "rollout", "status", "deployment", "--timeout=120s"]).await?;
        let new = bed.kubernetes.operator_pods().await?;
        ensure!(new.iter().any(|pod| !old.iter().any(|o| o.metadata.uid == pod.metadata.uid)), "nothing restarted");
        // The new one must have led and looked: a harmless change of the spec is observed by nobody else.
        let linger = 5 + std::process::id() % 3;
        bed.cache.patch(&json!({ "maintenance": { "lingerSeconds": linger } })).await?;
        bed.cache.settled(Duration::from_secs(90)).await?;
        let after = processes(&bed.cache.pods().await?);
        ensure!(before == after, "members were touched: {before:?} -> {after:?}");
        Ok(())
    });
}

#[test]
fn a_deleted_cluster_leaves_at_once_and_a_namesake_forms() {
    claim("a_deleted_cluster_leaves_at_once_and_a_namesake_forms", |bed| async move {
        bed.with_operator().await?;
        let cache = Cache::new(&bed.kubernetes, "namesake");
        let spec = json!({ "shards": 1, "copies": 2, "memory": { "max": "64Mi" } });
        cache.apply(&spec).await?;
        cache.settled(Duration::from_secs(120)).await?;
        let first = cache.ring().await?.cluster;
        // Made again at once, while pods of the first one still end.
        let began = Instant::now();
        kubectl(&["-n", NAMESPACE, "delete", "cachecluster", &cache.name, "--wait"]).await?;
        cache.apply(&spec).await?;
        cache.settled(Duration::from_secs(90)).await?;
        let after = format!("{:.1} s", began.elapsed().as_secs_f64());
        note(&bed.settings, "namesake", "deleted, made again, Ready after", after)?;
        ensure!(cache.ring().await?.cluster != first, "the namesake has its predecessor's ring");
        cache.delete().await
    });
}

/// What the operator's ServiceAccount wrote after this offset of the audit log: renewals of its Lease, and all else.
fn writing_requests(log: &Path, from: u64) -> Result<(usize, Vec<String>)> {
    let user = format!("system:serviceaccount:{OPERATOR_NAMESPACE}:");
    let mut file = File::open(log)?;
    file.seek(SeekFrom::Start(from))?;
    let (mut renewals, mut others) = (0, Vec::new());
    for line in BufReader::new(file).lines() {
        let Ok(event) = serde_json::from_str::<Value>(&line?) else { continue };
        let by_operator = event["user"]["username"].as_str().is_some_and(|name| name.starts_with(&user));
        let writes =
            matches!(event["verb"].as_str(), Some("create" | "update" | "patch" | "delete" | "deletecollection"));
        if !by_operator || !writes || event["stage"] != "ResponseComplete" {
            continue;
        }
        if event["objectRef"]["resource"] == "leases" {
            renewals += 1;
        } else {
            others.push(format!("{} {} -> {}", event["verb"], event["requestURI"], event["responseStatus"]["code"]));
        }
    }
    Ok((renewals, others))
}
