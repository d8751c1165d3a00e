//! What a member answers to its peers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ringmaster_ring::{Generation, MemberId, RingEpoch};

use super::Control;
use crate::consensus::{Consensus, ConsensusError};
use crate::env::Env;
use crate::peer::{
    CallError, Handler, Peer, ProbeReport, Proposed, RaftResponse, Request, Response, RingNews, ToVoter,
};

/// How long a probed member may take to answer.
const PROBE_LIMIT: Duration = Duration::from_millis(100);

impl<E: Env> Handler<Request, Response> for Control<E> {
    async fn handle(&self, from: Peer, request: Request) -> Response {
        match request {
            Request::News(news) => {
                self.view.offer(&news.ring);
                if news.leader.is_some() {
                    self.view.set_leader(news.leader);
                }
                Response::Done
            }
            Request::Pull { known } => Response::News(self.news_since(known)),
            Request::Propose(command) => match self.consensus.propose(command).await {
                Ok(proposed) => Response::Proposed(proposed),
                Err(ConsensusError::NotLeader) => Response::NotLeader,
                Err(_) => Response::Proposed(Proposed::Unknown),
            },
            Request::AskLease(ask) if ask.holder.member == from.member && ask.holder.boot == from.boot => {
                self.answer_lease(ask).await.unwrap_or(Response::NotLeader)
            }
            Request::AskLease(_) => Response::NotLeader,
            Request::Identify => Response::Identified(self.presence()),
            Request::Probe => Response::Probed(self.own_report()),
            Request::ProbeFor { member } => Response::Probed(self.probe(member).await),
            Request::Disband => {
                self.disbanded.store(true, Ordering::Release);
                Response::Done
            }
        }
    }
}

impl<E: Env> Control<E> {
    fn news_since(&self, known: Option<(Generation, RingEpoch)>) -> Option<RingNews> {
        let ring = self.view.ring()?;
        let newer = known.is_none_or(|known| known < (ring.generation, ring.epoch));
        newer.then(|| RingNews { ring, leader: self.ring_leader() })
    }

    fn own_report(&self) -> ProbeReport {
        self.driver.tell_log_end();
        let of_shard = self.driver.inspect(|replica| (replica.gate_state().epoch, replica.position()));
        let (shard_epoch, position) = of_shard.unwrap_or_default();
        ProbeReport::Alive { boot: self.identity.boot, shard_epoch, position }
    }

    /// Asks a member how it is.
    pub(super) async fn probe(&self, member: MemberId) -> ProbeReport {
        if member == self.identity.member {
            return self.own_report();
        }
        let Some(address) = self.address_of(member) else { return ProbeReport::Silent };
        match self.peers.call(&address, &Request::Probe, PROBE_LIMIT).await {
            Ok(Response::Probed(report)) => report,
            Err(CallError::Refused) => ProbeReport::Refused,
            _ => ProbeReport::Silent,
        }
    }

    /// Asks another member to probe one.
    pub(super) async fn probe_through(&self, other: MemberId, member: MemberId) -> ProbeReport {
        let Some(address) = self.address_of(other) else { return ProbeReport::Silent };
        match self.peers.call(&address, &Request::ProbeFor { member }, PROBE_LIMIT * 2).await {
            Ok(Response::Probed(report)) => report,
            _ => ProbeReport::Silent,
        }
    }
}

/// Answers Raft's messages.
pub(super) struct RaftHandler<E: Env>(pub(super) Consensus<E>);

impl<E: Env> Handler<ToVoter, RaftResponse> for RaftHandler<E> {
    async fn handle(&self, _from: Peer, request: ToVoter) -> RaftResponse {
        self.0.serve(request).await
    }
}
