//! Talks to members over HTTP: what they say of themselves, the ring that they know, and proposals to it.
//!
//! In: an endpoint. Out: an answer within a named time, or an error that says what did and did not happen.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use ringmaster_ring::{Applied, Command, Formation, MemberId, MemberStatus, NotApplied, Rejection, Ring};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How long a member may take to say something of itself.
const READ_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a proposal may take: its member may have to find the ring's leader.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// A ring of 400 members takes a few hundred kilobytes.
const BODY_BYTES_MAX: usize = 8 << 20;
/// How many members are asked at a time.
const ASKED_AT_A_TIME: usize = 32;

/// Where a member answers HTTP: `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Endpoint(pub(crate) String);

impl Endpoint {
    pub(crate) fn new(host: &str, port: u16) -> Self {
        match host.contains(':') {
            true => Self(format!("[{host}]:{port}")),
            false => Self(format!("{host}:{port}")),
        }
    }
}

/// Nothing is known about what the member did.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemberError {
    #[error("{0} did not answer in time")]
    Timeout(String),
    #[error("{endpoint} cannot be reached: {why}")]
    Unreachable { endpoint: String, why: String },
    #[error("{endpoint} answered {status}: {body}")]
    Unexpected { endpoint: String, status: StatusCode, body: String },
}

/// Why a proposal is not known to be applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProposeError {
    /// The ring refused it: nothing was changed.
    #[error("the ring refused: {0}")]
    Rejected(Rejection),
    /// It may be applied, or become applied.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

#[derive(Clone, Debug)]
pub(crate) struct Members {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Members {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(READ_TIMEOUT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(20))
            .pool_max_idle_per_host(1)
            .build(connector);
        Self { client }
    }

    /// Asks all members at once. Those that do not answer are missing from the result.
    pub(crate) async fn statuses(&self, endpoints: &BTreeMap<MemberId, Endpoint>) -> BTreeMap<MemberId, MemberStatus> {
        // Owned by each request: the compiler cannot see that borrowed ones outlive the stream.
        let asked: Vec<(MemberId, Endpoint)> = endpoints.iter().map(|(id, at)| (*id, at.clone())).collect();
        let answers = futures::stream::iter(asked).map(|(id, endpoint)| self.status(id, endpoint));
        answers.buffer_unordered(ASKED_AT_A_TIME).filter_map(std::future::ready).collect().await
    }

    async fn status(&self, id: MemberId, endpoint: Endpoint) -> Option<(MemberId, MemberStatus)> {
        match self.read::<MemberStatus>(&endpoint, "/v1/status").await {
            Ok(Some(status)) if status.member == id => Some((id, status)),
            // Another member has the address by now.
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(member = %id, %error, "no status");
                None
            }
        }
    }

    /// The newest ring of the newest generation, asked of those members that know it best.
    pub(crate) async fn newest_ring(
        &self,
        endpoints: &BTreeMap<MemberId, Endpoint>,
        statuses: &BTreeMap<MemberId, MemberStatus>,
    ) -> Option<Ring> {
        let mut knowing: Vec<_> = statuses
            .iter()
            .filter_map(|(id, status)| status.ring_epoch.map(|epoch| ((status.generation, epoch), *id)))
            .collect();
        knowing.sort_unstable();
        for (_, id) in knowing.into_iter().rev() {
            let Some(endpoint) = endpoints.get(&id) else { continue };
            match self.read::<Ring>(endpoint, "/v1/ring").await {
                Ok(Some(ring)) => return Some(ring),
                Ok(None) => {}
                Err(error) => tracing::debug!(member = %id, %error, "no ring"),
            }
        }
        None
    }

    /// Proposes a change of the ring through any member.
    pub(crate) async fn propose(
        &self,
        endpoint: &Endpoint,
        token: &str,
        command: &Command,
    ) -> Result<Applied, ProposeError> {
        self.ask_for_change(endpoint, "/v1/propose", token, command).await
    }

    /// Asks the founder to form the ring. Asking twice is harmless.
    pub(crate) async fn form(
        &self,
        endpoint: &Endpoint,
        token: &str,
        formation: &Formation,
    ) -> Result<Applied, ProposeError> {
        self.ask_for_change(endpoint, "/v1/form", token, formation).await
    }

    /// Tells a member that its cluster is no more: it need not wait for a replacement when it is asked to end.
    pub(crate) async fn disband(&self, endpoint: &Endpoint, token: &str) -> Result<(), MemberError> {
        let path = "/v1/disband";
        let (status, body) = self.send(endpoint, Method::POST, path, Some(token), Bytes::new(), READ_TIMEOUT).await?;
        if status.is_success() { Ok(()) } else { Err(unexpected(endpoint, status, &body)) }
    }

    async fn ask_for_change(
        &self,
        endpoint: &Endpoint,
        path: &str,
        token: &str,
        what: &impl Serialize,
    ) -> Result<Applied, ProposeError> {
        let unknown = |error: &dyn std::fmt::Display| ProposeError::Unknown(error.to_string());
        let body = serde_json::to_vec(what).map_err(|error| unknown(&error))?;
        let answer = self.send(endpoint, Method::POST, path, Some(token), body.into(), PROPOSE_TIMEOUT).await;
        let (status, body) = answer.map_err(|error| unknown(&error))?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| unknown(&error));
        }
        match serde_json::from_slice::<NotApplied>(&body) {
            Ok(NotApplied { rejection: Some(rejection), .. }) => Err(ProposeError::Rejected(rejection)),
            Ok(NotApplied { rejection: None, message }) => Err(ProposeError::Unknown(message)),
            Err(_) => Err(unknown(&unexpected(endpoint, status, &body))),
        }
    }

    /// None where the member has nothing of the kind yet.
    async fn read<T: DeserializeOwned>(&self, endpoint: &Endpoint, path: &str) -> Result<Option<T>, MemberError> {
        let (status, body) = self.send(endpoint, Method::GET, path, None, Bytes::new(), READ_TIMEOUT).await?;
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::OK => match serde_json::from_slice(&body) {
                Ok(value) => Ok(Some(value)),
                Err(error) => {
                    Err(MemberError::Unreachable { endpoint: endpoint.0.clone(), why: format!("{path}: {error}") })
                }
            },
            _ => Err(unexpected(endpoint, status, &body)),
        }
    }

    async fn send(
        &self,
        endpoint: &Endpoint,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Bytes,
        timeout: Duration,
    ) -> Result<(StatusCode, Bytes), MemberError> {
        let unreachable = |why: String| MemberError::Unreachable { endpoint: endpoint.0.clone(), why };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", endpoint.0))
            .header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).map_err(|error| unreachable(error.to_string()))?;
        let answer = async {
            let response = self.client.request(request).await.map_err(|error| unreachable(error.to_string()))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
            Ok((status, body.map_err(|error| unreachable(error.to_string()))?.to_bytes()))
        };
        match tokio::time::timeout(timeout, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(MemberError::Timeout(endpoint.0.clone())),
        }
    }
}

fn unexpected(endpoint: &Endpoint, status: StatusCode, body: &[u8]) -> MemberError {
    let body = String::from_utf8_lossy(body).chars().take(200).collect();
    MemberError::Unexpected { endpoint: endpoint.0.clone(), status, body }
}
