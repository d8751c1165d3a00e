//! Raft's messages over the members' connections.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use parking_lot::Mutex;
use ringmaster_replica::Mono;
use ringmaster_ring::{Address, Ring, VoterId};
use tokio::sync::watch;

use super::{
    AppendRequest, AppendResponse, RaftNode, SnapshotRequest, SnapshotResponse, Types, VoteRequest, VoteResponse,
};
use crate::env::Env;
use crate::peer::{Pool, RaftRequest, RaftResponse, ToVoter};

/// When each voter last answered this process.
pub(crate) type LastHeard = Arc<Mutex<BTreeMap<VoterId, Mono>>>;

/// Where voters were found that the ring's address does not lead to any more: each boot may have another one.
pub(crate) type Found = Arc<Mutex<BTreeMap<VoterId, Address>>>;

pub(crate) type RaftPool<E> = Pool<E, ToVoter, RaftResponse>;

/// Makes the connections to other voters.
#[derive(Clone)]
pub(crate) struct Network<E: Env> {
    pub(crate) env: E,
    pub(crate) pool: RaftPool<E>,
    pub(crate) ring: watch::Receiver<Option<Arc<Ring>>>,
    pub(crate) last_heard: LastHeard,
    pub(crate) found: Found,
}

/// One voter, seen from this one.
pub(crate) struct OtherVoter<E: Env> {
    env: E,
    pool: RaftPool<E>,
    ring: watch::Receiver<Option<Arc<Ring>>>,
    last_heard: LastHeard,
    found: Found,
    voter: VoterId,
    node: RaftNode,
}

impl<E: Env> RaftNetworkFactory<Types> for Network<E> {
    type Network = OtherVoter<E>;

    async fn new_client(&mut self, target: u64, node: &RaftNode) -> OtherVoter<E> {
        self.other(VoterId(target), node)
    }
}

impl<E: Env> Network<E> {
    pub(crate) fn other(&self, voter: VoterId, node: &RaftNode) -> OtherVoter<E> {
        OtherVoter {
            env: self.env.clone(),
            pool: self.pool.clone(),
            ring: self.ring.clone(),
            last_heard: Arc::clone(&self.last_heard),
            found: Arc::clone(&self.found),
            voter,
            node: node.clone(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the voter sent an answer of another kind, or takes no part now")]
struct NoAnswer;

impl<E: Env> OtherVoter<E> {
    /// Whether it says, after this call, that it still follows this leader.
    pub(crate) async fn confirms(self, leader: VoterId, term: u64, limit: Duration) -> Option<VoterId> {
        let request = RaftRequest::Confirm { leader, term };
        let confirmed: Result<(), RPCError<u64, RaftNode, RaftError<u64>>> =
            self.ask(request, limit, |answer| matches!(answer, RaftResponse::Confirmed).then_some(())).await;
        confirmed.ok().map(|()| self.voter)
    }

    /// Where it was found last, else the ring's address: each boot announces its own. The membership's is from when
    /// the voter got its vote.
    fn address(&self) -> Address {
        if let Some(found) = self.found.lock().get(&self.voter) {
            return found.clone();
        }
        let ring = self.ring.borrow();
        let announced = ring.as_ref().and_then(|ring| ring.member_of_voter(self.voter)?.1.present.clone());
        announced.map(|presence| presence.address).unwrap_or_else(|| Address {
            host: self.node.host.clone(),
            client_port: 0,
            peer_port: self.node.peer_port,
            http_port: 0,
        })
    }

    async fn ask<T, X: std::error::Error>(
        &self,
        request: RaftRequest,
        limit: Duration,
        pick: impl FnOnce(RaftResponse) -> Option<T>,
    ) -> Result<T, RPCError<u64, RaftNode, X>> {
        // `Unreachable` would make Raft wait half a second before it tries again.
        let request = ToVoter { voter: self.voter, request };
        let answer = self.pool.call(&self.address(), &request, limit).await;
        let answer = answer.map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
        let picked = pick(answer).ok_or_else(|| RPCError::Network(NetworkError::new(&NoAnswer)))?;
        self.last_heard.lock().insert(self.voter, self.env.now());
        Ok(picked)
    }
}

impl<E: Env> RaftNetwork<Types> for OtherVoter<E> {
    async fn append_entries(
        &mut self,
        request: AppendRequest,
        option: RPCOption,
    ) -> Result<AppendResponse, RPCError<u64, RaftNode, RaftError<u64>>> {
        self.ask(RaftRequest::Append(request), option.hard_ttl(), |answer| match answer {
            RaftResponse::Append(answer) => Some(answer),
            _ => None,
        })
        .await
    }

    async fn install_snapshot(
        &mut self,
        request: SnapshotRequest,
        option: RPCOption,
    ) -> Result<SnapshotResponse, RPCError<u64, RaftNode, RaftError<u64, InstallSnapshotError>>> {
        self.ask(RaftRequest::Snapshot(request), option.hard_ttl(), |answer| match answer {
            RaftResponse::Snapshot(answer) => Some(answer),
            _ => None,
        })
        .await
    }

    async fn vote(
        &mut self,
        request: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, RPCError<u64, RaftNode, RaftError<u64>>> {
        self.ask(RaftRequest::Vote(request), option.hard_ttl(), |answer| match answer {
            RaftResponse::Vote(answer) => Some(answer),
            _ => None,
        })
        .await
    }
}
