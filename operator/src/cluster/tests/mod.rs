//! A cluster looked at again and again, beside an API server that refuses, keeps what others made, and counts writes.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod api;

use std::sync::Arc;

use axum::http::Method;
use kube::runtime::events::{Recorder, Reporter};
use ringmaster_plan::observed::Defaults;
use serde_json::{Value, json};

use super::{Context, Outcome, Tokens, reconcile};
use crate::members::Members;
use crate::metrics::Metrics;
use api::FakeApi;

const CLUSTER: &str = "/apis/cache.ringmaster.dev/v1alpha1/namespaces/shop/cacheclusters/sessions";
const SERVICE: &str = "/api/v1/namespaces/shop/services/sessions";
const SETS: &str = "/apis/apps/v1/namespaces/shop/statefulsets";

async fn bed() -> (FakeApi, Context) {
    let api = FakeApi::default();
    let metadata = json!({
        "name": "sessions", "namespace": "shop", "uid": "6f1e5a4c-0000-4000-8000-000000000001", "generation": 1,
    });
    api.put(
        CLUSTER,
        json!({
            "apiVersion": "cache.ringmaster.dev/v1alpha1", "kind": "CacheCluster",
            "metadata": metadata, "spec": {"shards": 1, "copies": 2},
        }),
    );
    let client = api.client().await;
    let context = Context {
        client: client.clone(),
        members: Members::new(),
        recorder: Recorder::new(client, Reporter { controller: "ringmaster".to_owned(), instance: None }),
        metrics: Arc::new(Metrics::new()),
        defaults: Defaults { image: "ringmaster-node:1".to_owned() },
        tokens: Tokens::default(),
    };
    (api, context)
}

async fn look(context: &Context) -> Outcome {
    reconcile(context, "shop", "sessions").await.unwrap()
}

fn condition(api: &FakeApi, kind: &str) -> (String, String, String) {
    let cluster = api.object(CLUSTER);
    let found = cluster["status"]["conditions"].as_array().unwrap().iter().find(|found| found["type"] == kind).cloned();
    let text = |key: &str| found.as_ref().unwrap()[key].as_str().unwrap().to_owned();
    (text("status"), text("reason"), text("message"))
}

#[tokio::test]
async fn a_look_that_finds_nothing_new_writes_nothing() {
    let (api, context) = bed().await;
    for _ in 0..3 {
        look(&context).await;
    }
    // Two copies and a witness were made; none of them runs yet.
    assert!((1..=3).all(|member| api.object(&format!("{SETS}/sessions-{member}")).is_object()));
    api.take_writes();
    let outcome = look(&context).await;
    assert_eq!(api.take_writes(), Vec::<String>::new());
    assert!(!outcome.changed && outcome.failed.is_none());
}

#[tokio::test]
async fn a_refused_step_keeps_no_other_from_being_taken_and_is_told_once() {
    let (api, context) = bed().await;
    look(&context).await;
    api.refuse(Method::POST, "statefulsets");
    let outcome = look(&context).await;
    assert_eq!(outcome.failed, Some("api"));
    for (kind, status) in [("Progressing", "False"), ("Degraded", "True")] {
        let (is, reason, message) = condition(&api, kind);
        assert_eq!((is.as_str(), reason.as_str()), (status, "Forbidden"));
        assert!(message.contains("Creating sessions-1") && message.contains("exceeded quota: small"), "{message}");
    }
    api.take_writes();
    look(&context).await;
    assert_eq!(api.take_writes(), Vec::<String>::new(), "what was told is told again");
    api.refuse_nothing();
    look(&context).await;
    assert!(api.object(&format!("{SETS}/sessions-1")).is_object());
    assert_eq!(condition(&api, "Progressing").0, "True");
}

#[tokio::test]
async fn a_refused_guard_keeps_no_member_from_being_made() {
    let (api, context) = bed().await;
    api.refuse(Method::PATCH, "poddisruptionbudgets");
    look(&context).await;
    look(&context).await;
    assert!(api.object(&format!("{SETS}/sessions-1")).is_object());
    assert_eq!(condition(&api, "Degraded").1, "Forbidden");
}

#[tokio::test]
async fn a_service_of_somebody_else_is_left_alone() {
    let (api, context) = bed().await;
    let theirs = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "sessions", "namespace": "shop"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    });
    api.put(SERVICE, theirs);
    let before = api.object(SERVICE);
    look(&context).await;
    look(&context).await;
    assert_eq!(api.object(SERVICE), before);
    let (_, reason, message) = condition(&api, "Degraded");
    assert_eq!(reason, "NameTaken");
    assert!(message.contains("Service sessions"), "{message}");
    // The rest goes on.
    assert!(api.object(&format!("{SETS}/sessions-1")).is_object());
}

#[tokio::test]
async fn a_stateful_set_of_somebody_else_is_no_member() {
    let (api, context) = bed().await;
    let owner = json!([{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "another", "controller": true}]);
    let metadata = json!({"name": "sessions-2", "namespace": "shop", "ownerReferences": owner});
    api.put(&format!("{SETS}/sessions-2"), json!({"metadata": metadata}));
    look(&context).await;
    look(&context).await;
    assert_eq!(condition(&api, "Progressing").1, "NameTaken");
    assert!(api.object(&format!("{SETS}/sessions-3")).is_object());
}

#[tokio::test]
async fn what_is_ours_and_was_changed_is_put_right() {
    let (api, context) = bed().await;
    look(&context).await;
    api.change(SERVICE, |service| {
        service["spec"]["selector"]["app.kubernetes.io/component"] = json!("other");
        service["metadata"]["labels"] = Value::Null;
    });
    assert!(look(&context).await.changed);
    let service = api.object(SERVICE);
    assert_eq!(service["spec"]["selector"]["app.kubernetes.io/component"], json!("cache"));
    assert!(service["metadata"]["labels"].is_object());
}

#[tokio::test]
async fn a_port_that_somebody_added_to_our_service_stays_and_costs_no_request() {
    let (api, context) = bed().await;
    for _ in 0..3 {
        look(&context).await;
    }
    api.change(SERVICE, |service| {
        let ports = service["spec"]["ports"].as_array_mut().unwrap();
        ports.insert(0, json!({"name": "metrics", "port": 9121}));
    });
    api.take_writes();
    let outcome = look(&context).await;
    assert_eq!((outcome.changed, api.take_writes()), (false, Vec::new()));
    assert_eq!(api.object(SERVICE)["spec"]["ports"].as_array().unwrap().len(), 2);
}
