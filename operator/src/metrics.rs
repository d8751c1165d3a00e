//! What the operator counts, and where it can be asked: `/metrics`, `/livez`, `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: String,
}

#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    reconciliations: Family<Kind, Counter>,
    steps: Family<Kind, Counter>,
    leads: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("ringmaster_operator");
        let reconciliations = Family::<Kind, Counter>::default();
        let steps = Family::<Kind, Counter>::default();
        let leads = Gauge::default();
        registry.register("reconciliations", "Clusters looked at, by outcome", reconciliations.clone());
        registry.register("steps", "Steps tried, by kind", steps.clone());
        registry.register("leads", "Whether this operator holds the Lease", leads.clone());
        Self { registry, reconciliations, steps, leads }
    }

    pub(crate) fn reconciled(&self, outcome: &str) {
        self.reconciliations.get_or_create(&Kind { kind: outcome.to_owned() }).inc();
    }

    pub(crate) fn step(&self, kind: &str) {
        self.steps.get_or_create(&Kind { kind: kind.to_owned() }).inc();
    }

    pub(crate) fn leads(&self, leads: bool) {
        self.leads.set(i64::from(leads));
    }
}

/// Serves until the process ends. An operator that waits for the Lease is ready, too.
pub(crate) async fn serve(address: SocketAddr, metrics: Arc<Metrics>) -> std::io::Result<()> {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(|| async { "ok\n" }))
        .route("/metrics", get(text))
        .with_state(metrics);
    let listener = tokio::net::TcpListener::bind(address).await?;
    axum::serve(listener, router).await
}

async fn text(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    let mut text = String::new();
    match encode(&mut text, &metrics.registry) {
        Ok(()) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
            text,
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
