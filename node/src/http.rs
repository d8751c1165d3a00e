//! HTTP: health, readiness, metrics, the ring, this member's status, and authenticated proposals.
//!
//! It runs on a thread of its own, and asks the control plane by messages. What has to look into the data, and so may wait
//! for a command that runs long, is done aside: health is told meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ringmaster_engine::Engine;
use ringmaster_ring::{Applied, Command, Formation, Holder, NotApplied, Ring, RingEpoch, Slot};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::peer::{Proposed, Secrets};
use crate::status::Reporter;

/// How large a request's body may be.
const BODY_BYTES_MAX: usize = 1 << 20;
/// How many requests may wait for the control plane.
pub const ORDERS_MAX: usize = 256;

/// What HTTP asks of the control plane.
#[derive(Debug)]
pub enum HttpOrder {
    Propose(Command, oneshot::Sender<Proposed>),
    Form(Box<Formation>, oneshot::Sender<Result<Proposed, String>>),
    Disband(oneshot::Sender<()>),
}

#[derive(Clone)]
struct Http {
    reporter: Arc<Reporter>,
    secrets: Secrets,
    orders: mpsc::Sender<HttpOrder>,
    /// The last answer of `/readyz`: without a ring leader it keeps its value.
    ready: Arc<AtomicBool>,
    /// One digest of the data at a time: it reads all of it.
    digesting: Arc<Semaphore>,
}

impl Http {
    /// Reads what may have to wait for data, without holding other requests up.
    async fn aside<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reporter) -> T + Send + 'static,
    ) -> Result<T, Response> {
        let reporter = Arc::clone(&self.reporter);
        let read = tokio::task::spawn_blocking(move || read(&reporter)).await;
        read.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response())
    }
}

/// The routes of a member.
pub fn router(reporter: Arc<Reporter>, secrets: Secrets, orders: mpsc::Sender<HttpOrder>) -> Router {
    let http = Http { reporter, secrets, orders, ready: Arc::default(), digesting: Arc::new(Semaphore::new(1)) };
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/ring", get(ring))
        .route("/v1/rings", get(rings))
        .route("/v1/status", get(status))
        .route("/v1/digests", get(digests))
        .route("/v1/propose", post(propose))
        .route("/v1/form", post(form))
        .route("/v1/disband", post(disband))
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(http)
}

/// Ready = offered to clients: in sync by the ring's word, or a witness.
async fn readyz(State(http): State<Http>) -> Response {
    let holder = http.reporter.holder();
    if let Some(ring) = http.reporter.ring() {
        http.ready.store(ring.is_ready(holder), Ordering::Release);
    }
    if http.ready.load(Ordering::Acquire) {
        (StatusCode::OK, "ready\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, why_not_ready(http.reporter.ring().as_deref(), holder)).into_response()
    }
}

fn why_not_ready(ring: Option<&Ring>, holder: Holder) -> String {
    let Some(ring) = ring else { return "not ready: this process knows no ring yet\n".to_owned() };
    match ring.members.get(&holder.member) {
        None => "not ready: the ring does not know this member\n".to_owned(),
        Some(member) if !member.is_active() => "not ready: this member is retired\n".to_owned(),
        Some(member) if member.boot() != Some(holder.boot) => {
            "not ready: this process is not announced yet\n".to_owned()
        }
        Some(_) => "not ready: this copy is not in sync\n".to_owned(),
    }
}

async fn metrics(State(http): State<Http>) -> Result<Response, Response> {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let text = http.aside(Reporter::metrics).await?;
    Ok(([(header::CONTENT_TYPE, content_type)], text).into_response())
}

async fn ring(State(http): State<Http>) -> Response {
    match http.reporter.ring() {
        Some(ring) => Json(&*ring).into_response(),
        None => (StatusCode::NOT_FOUND, "this process knows no ring\n").into_response(),
    }
}

#[derive(Deserialize)]
struct RingsQuery {
    /// The ring's epoch that the asker knows.
    #[serde(default)]
    after: u64,
}

/// The rings of the last commits, for whoever wants to see every one of them. Members without a vote have none.
async fn rings(State(http): State<Http>, Query(query): Query<RingsQuery>) -> Response {
    Json(http.reporter.rings_after(RingEpoch(query.after))).into_response()
}

async fn status(State(http): State<Http>) -> Result<Response, Response> {
    Ok(Json(http.aside(Reporter::status).await?).into_response())
}

#[derive(Deserialize)]
struct DigestsQuery {
    #[serde(default)]
    first: Option<u16>,
    #[serde(default)]
    last: Option<u16>,
}

/// One digest for each slot that has keys, with the log's end before and after: if both are the same, nothing changed
/// meanwhile.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Digests {
    position: String,
    position_after: String,
    digests: std::collections::BTreeMap<u16, String>,
}

async fn digests(State(http): State<Http>, Query(query): Query<DigestsQuery>) -> Result<Response, Response> {
    let Ok(_one) = http.digesting.acquire().await else { return Err(unknown("this member is ending")) };
    let digests = http.aside(move |reporter| digests_of(reporter.engine(), &query)).await?;
    Ok(Json(digests).into_response())
}

fn digests_of(engine: &Engine, query: &DigestsQuery) -> Digests {
    let before = engine.log().end();
    let slots = Slot::all().filter(|slot| {
        query.first.is_none_or(|first| slot.number() >= first) && query.last.is_none_or(|last| slot.number() <= last)
    });
    let digests = slots
        .filter(|slot| engine.count_keys_in_slot(*slot) > 0)
        .map(|slot| (slot.number(), format!("{:016x}", engine.slot_digest(slot))))
        .collect();
    let after = engine.log().end();
    Digests { position: before.to_string(), position_after: after.to_string(), digests }
}

async fn propose(State(http): State<Http>, headers: HeaderMap, Json(command): Json<Command>) -> Response {
    if let Some(refused) = refuse_stranger(&http, &headers) {
        return refused;
    }
    let (answered, answer) = oneshot::channel();
    if http.orders.send(HttpOrder::Propose(command, answered)).await.is_err() {
        return unknown("this member is ending");
    }
    match answer.await {
        Ok(proposed) => proposed_response(&proposed),
        Err(_) => unknown("this member is ending"),
    }
}

async fn form(State(http): State<Http>, headers: HeaderMap, Json(formation): Json<Formation>) -> Response {
    if let Some(refused) = refuse_stranger(&http, &headers) {
        return refused;
    }
    let (answered, answer) = oneshot::channel();
    if http.orders.send(HttpOrder::Form(Box::new(formation), answered)).await.is_err() {
        return unknown("this member is ending");
    }
    match answer.await {
        Ok(Ok(proposed)) => proposed_response(&proposed),
        Ok(Err(why)) => (StatusCode::CONFLICT, Json(NotApplied { rejection: None, message: why })).into_response(),
        Err(_) => unknown("this member is ending"),
    }
}

async fn disband(State(http): State<Http>, headers: HeaderMap) -> Response {
    if let Some(refused) = refuse_stranger(&http, &headers) {
        return refused;
    }
    let (answered, answer) = oneshot::channel();
    if http.orders.send(HttpOrder::Disband(answered)).await.is_err() || answer.await.is_err() {
        return unknown("this member is ending");
    }
    StatusCode::NO_CONTENT.into_response()
}

fn proposed_response(proposed: &Proposed) -> Response {
    match proposed {
        Proposed::Applied(ring_epoch) => Json(Applied { ring_epoch: *ring_epoch }).into_response(),
        Proposed::Rejected(rejection) => {
            let body = NotApplied { message: rejection.to_string(), rejection: Some(rejection.clone()) };
            (StatusCode::CONFLICT, Json(body)).into_response()
        }
        Proposed::Unknown => unknown("no leader of the ring answered in time; it may or may not have been applied"),
    }
}

fn unknown(message: &str) -> Response {
    let body = NotApplied { rejection: None, message: message.to_owned() };
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

fn refuse_stranger(http: &Http, headers: &HeaderMap) -> Option<Response> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = given.and_then(|value| value.strip_prefix("Bearer "));
    if token.is_some_and(|token| http.secrets.accept(token.trim().as_bytes())) {
        return None;
    }
    let message = "proposals need the ring's secret: `Authorization: Bearer TOKEN`\n";
    Some((StatusCode::UNAUTHORIZED, message).into_response())
}
