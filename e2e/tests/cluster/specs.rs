//! Specs that cannot be: refused where `kubectl apply` shows why, or, when only the cluster can know, without any harm.

use std::time::Duration;

use anyhow::{Result, ensure};
use ringmaster_e2e::bed::COPIES;
use ringmaster_e2e::cache::Cache;
use ringmaster_e2e::figures::note;
use ringmaster_e2e::kubernetes::processes;
use ringmaster_e2e::run::Run;
use ringmaster_e2e::tools::until;
use serde_json::{Value, json};

use crate::claim;

#[test]
fn a_wrong_spec_is_refused_with_a_message_that_says_what_to_write() {
    claim("a_wrong_spec_is_refused_with_a_message_that_says_what_to_write", |bed| async move {
        bed.preloaded().await?;
        let wrong: [(&str, Value, &str); 10] = [
            ("w", json!({ "shards": 0, "copies": 2 }), "shards must lie between 1 and 200"),
            ("w", json!({ "shards": 3, "copies": 0 }), "copies must lie between 1 and 5"),
            ("w", json!({ "shards": 3, "copies": 9 }), "copies must lie between 1 and 5"),
            ("w", json!({ "shards": 3, "copies": 2, "memory": { "policy": "random" } }), "allkeys-lru"),
            ("w", json!({ "shards": 3, "copies": 2, "memory": { "max": "a lot" } }), "memory.max must be a quantity"),
            ("w", json!({ "shards": 3, "copies": 2, "memory": { "max": "1Mi" } }), "at least 16Mi"),
            (
                "w",
                json!({ "shards": 3, "copies": 2, "consistency": { "minInSync": 3 } }),
                "minInSync must not be above copies",
            ),
            ("w", json!({ "shards": 3, "copies": 2, "clusterMode": false }), "clusterMode: false needs shards: 1"),
            ("w", json!({ "shards": 3, "copies": 2, "maintenance": { "maxSurge": 0 } }), "maxSurge must lie between 1"),
            (
                "a-name-that-is-much-too-long-for-the-services-and-pods-that-follow-from-it",
                json!({ "shards": 3, "copies": 2 }),
                "metadata.name must be at most 40",
            ),
        ];
        for (name, spec, message) in &wrong {
            refused(&Cache::new(&bed.kubernetes, name), spec, message).await?;
        }
        let mut more_shards = bed.spec();
        more_shards["shards"] = json!(4);
        refused(&bed.cache, &more_shards, "shards cannot be changed yet").await?;
        note(&bed.settings, "specs", "wrong specs refused with their message", wrong.len() + 1)
    });
}

async fn refused(cache: &Cache, spec: &Value, message: &str) -> Result<()> {
    let Err(error) = cache.apply(spec).await else { anyhow::bail!("{spec} was accepted") };
    let said = format!("{error:#}");
    ensure!(said.contains(message), "{spec} was refused without '{message}':\n{said}");
    Ok(())
}

#[test]
fn an_image_that_cannot_be_pulled_harms_nothing_and_can_be_taken_back() {
    claim("an_image_that_cannot_be_pulled_harms_nothing_and_can_be_taken_back", |bed| async move {
        bed.preloaded().await?;
        let before = processes(&bed.cache.pods().await?);
        let mut run = Run::start(&bed, &bed.cache, "bad-image", &[]).await?;
        run.control().await?;
        run.phase("bad image").await?;
        bed.cache.patch(&json!({ "image": "localhost/nowhere/ringmaster-node:missing" })).await?;
        let said = until("a condition that names the image", Duration::from_secs(90), || async {
            let object = bed.cache.object().await?;
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let said = conditions.iter().find(|condition| {
                ["reason", "message"]
                    .iter()
                    .any(|field| condition[field].as_str().is_some_and(|text| text.contains("Image")))
            });
            Ok(said
                .map(|c| format!("{}={} {}: {}", c["type"], c["status"], c["reason"], c["message"]))
                .ok_or_else(|| format!("conditions: {conditions:?}")))
        })
        .await?;
        note(&bed.settings, "bad-image", "condition", said)?;
        run.writing().await?;
        run.phase("reverted").await?;
        bed.cache.patch(&json!({ "image": null })).await?;
        bed.cache.settled(Duration::from_secs(120)).await?;
        let after = processes(&bed.cache.pods().await?);
        ensure!(before == after, "members were touched: {before:?} -> {after:?}");
        run.finish().await?.must_be_flawless(COPIES)
    });
}
