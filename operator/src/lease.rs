//! Leader election by a Lease, for operators that run twice: only its holder acts.
//!
//! Expiry is judged by how long the Lease was *seen* unchanged, never by comparing clocks of two machines. A holder that
//! cannot renew stops leading before anybody else may begin.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, PostParams};
use ringmaster_plan::{Timestamp, names};

const LEASE: Duration = Duration::from_secs(15);
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) struct Elector {
    api: Api<Lease>,
    name: String,
    identity: String,
    /// The Lease as it was seen last, and since when it has not changed.
    seen: Option<(String, Instant)>,
}

#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("no answer in time")]
    Timeout,
}

impl Elector {
    pub(crate) fn new(client: Client, namespace: &str, name: &str, identity: String) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.to_owned(), identity, seen: None }
    }

    /// Returns once this process holds the Lease.
    pub(crate) async fn acquire(&mut self) {
        loop {
            match self.try_hold().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the Lease cannot be asked for"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Renews until it is lost, or was not renewed for the deadline.
    pub(crate) async fn hold(&mut self) {
        let mut renewed = Instant::now();
        loop {
            let deadline = renewed + RENEW_DEADLINE;
            tokio::time::sleep_until((Instant::now() + RETRY).min(deadline).into()).await;
            // Counted from before the request: it may take effect at any time until it is answered.
            let asked = Instant::now();
            // A round is two requests, and ends with the deadline, not after it.
            match tokio::time::timeout_at(deadline.into(), self.try_hold()).await {
                Ok(Ok(true)) => renewed = asked,
                Ok(Ok(false)) => {
                    tracing::error!("another operator holds the Lease");
                    return;
                }
                Ok(Err(error)) => tracing::warn!(%error, "the Lease was not renewed"),
                Err(_) => {
                    tracing::error!("the Lease could not be renewed in time");
                    return;
                }
            }
        }
    }

    /// Gives the Lease back, so that the next operator need not wait for its end.
    pub(crate) async fn release(&mut self) {
        let Ok(Some(mut lease)) = within(self.api.get_opt(&self.name)).await else { return };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&self.identity) {
            spec.holder_identity = None;
            if let Err(error) = within(self.api.replace(&self.name, &params(), &lease)).await {
                tracing::warn!(%error, "the Lease was not released");
            }
        }
    }

    async fn try_hold(&mut self) -> Result<bool, LeaseError> {
        let Some(present) = within(self.api.get_opt(&self.name)).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                spec: Some(self.claim(0)),
            };
            return won(within(self.api.create(&params(), &lease)).await);
        };
        let version = present.metadata.resource_version.clone().unwrap_or_default();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != version) {
            self.seen = Some((version, Instant::now()));
        }
        let spec = present.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().filter(|holder| !holder.is_empty());
        let is_expired = self.seen.as_ref().is_some_and(|(_, since)| since.elapsed() >= LEASE);
        let transitions = spec.lease_transitions.unwrap_or(0);
        let claim = match holder {
            Some(holder) if holder == self.identity => LeaseSpec { renew_time: Some(now()), ..spec },
            Some(_) if !is_expired => return Ok(false),
            Some(_) | None => self.claim(transitions.saturating_add(1)),
        };
        // Replaced on the version that was read: of two who try, one is refused.
        let lease = Lease { metadata: present.metadata, spec: Some(claim) };
        won(within(self.api.replace(&self.name, &params(), &lease)).await)
    }

    fn claim(&self, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
            acquire_time: Some(now()),
            renew_time: Some(now()),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}

fn won(result: Result<Lease, LeaseError>) -> Result<bool, LeaseError> {
    match result {
        Ok(_) => Ok(true),
        Err(LeaseError::Api(kube::Error::Api(status))) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

async fn within<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, LeaseError> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(LeaseError::Timeout),
    }
}

fn params() -> PostParams {
    PostParams { field_manager: Some(names::MANAGER.to_owned()), ..PostParams::default() }
}

fn now() -> MicroTime {
    MicroTime(Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;

    /// Its reads take long, and its writes for ever.
    async fn slow_api_server() -> Client {
        let held = serde_json::json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "lease", "namespace": "here", "resourceVersion": "1"},
            "spec": {"holderIdentity": "me"},
        });
        let read = get(|| async move {
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            axum::Json(held)
        });
        let write = || async { std::future::pending::<()>().await };
        let path = "/apis/coordination.k8s.io/v1/namespaces/here/leases/lease";
        let router = axum::Router::new().route(path, read.put(write));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Client::try_from(kube::Config::new(format!("http://{address}").parse().unwrap())).unwrap()
    }

    /// Another operator may begin once it saw the Lease unchanged for [`LEASE`].
    #[tokio::test]
    async fn a_holder_that_cannot_renew_stops_at_its_deadline() {
        let mut elector = Elector::new(slow_api_server().await, "here", "lease", "me".to_owned());
        let begin = Instant::now();
        elector.hold().await;
        let took = begin.elapsed();
        assert!(took >= RENEW_DEADLINE && took < RENEW_DEADLINE + Duration::from_secs(2), "{took:?}");
    }
}
