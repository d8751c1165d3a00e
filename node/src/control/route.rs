//! The way to the ring's leader: the one who is known, else any voter, who knows better.

use std::sync::Arc;
use std::time::Duration;

use ringmaster_ring::{Command, MemberId, Ring, RingEpoch};

use super::Control;
use crate::consensus::{ConsensusError, Leadership};
use crate::env::Env;
use crate::peer::{Proposed, Request, Response};

/// How long a request to the ring's leader may take.
const CALL_LIMIT: Duration = Duration::from_millis(500);
/// How long a proposal looks for a leader.
const PROPOSAL_LIMIT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(20);

impl<E: Env> Control<E> {
    /// Whether this process leads the ring now, by its own belief.
    pub(super) fn leads(&self) -> bool {
        matches!(self.consensus.leadership(), Leadership::Leading { .. })
    }

    /// The member that leads the ring, as far as this one knows.
    pub fn ring_leader(&self) -> Option<MemberId> {
        match self.consensus.leadership() {
            Leadership::Leading { .. } => Some(self.identity.member),
            Leadership::NotLeading { leader: Some(voter) } => {
                let ring = self.view.ring()?;
                ring.member_of_voter(voter).map(|(id, _)| id).or_else(|| self.view.leader())
            }
            Leadership::NotLeading { leader: None } => self.view.leader(),
        }
    }

    /// The rings above an epoch that this process applied as a voter.
    pub fn rings_after(&self, epoch: RingEpoch) -> Vec<Arc<Ring>> {
        self.consensus.rings_after(epoch)
    }

    /// Whether somebody leads the ring, as far as this process's Raft or anybody else said lately.
    pub(super) fn ring_leader_is_known(&self) -> bool {
        match self.consensus.leadership() {
            Leadership::Leading { .. } => true,
            Leadership::NotLeading { leader } => {
                let votes = self.view.ring().is_some_and(|ring| ring.voters.contains(&self.consensus.voter()));
                if votes { leader.is_some() } else { self.view.leader().is_some() }
            }
        }
    }

    /// Proposes a command once: its proposer proposes again what is still wanted.
    pub(super) async fn propose_once(&self, command: Command) -> Option<Proposed> {
        if self.leads() {
            return self.consensus.propose(command).await.ok();
        }
        match self.ask_leader(&Request::Propose(command)).await {
            Some(Response::Proposed(proposed)) => Some(proposed),
            _ => None,
        }
    }

    /// Sends a request to the ring's leader, wherever it is. None when nobody answered as such.
    pub(super) async fn ask_leader(&self, request: &Request) -> Option<Response> {
        let mut refused = None;
        for member in self.leader_candidates() {
            let Some(address) = self.address_of(member) else { continue };
            match self.peers.call(&address, request, CALL_LIMIT).await {
                Ok(Response::NotLeader) => {}
                // A leader that was deposed and does not know it refuses too.
                Ok(answer @ Response::Lease { granted: false, .. }) => refused = Some(answer),
                Ok(answer) => {
                    self.view.set_leader(Some(member));
                    return Some(answer);
                }
                // It may have done what was asked. Asking another is harmless: commands name the versions that they
                // were decided on, and an ask for a lease changes nothing but a time.
                Err(_) => {
                    if self.view.leader() == Some(member) {
                        self.view.set_leader(None);
                    }
                }
            }
        }
        refused
    }

    /// Who may lead, the likeliest first. This process is asked by other means.
    fn leader_candidates(&self) -> Vec<MemberId> {
        let mut candidates: Vec<MemberId> = self.ring_leader().into_iter().collect();
        if let Some(ring) = self.view.ring() {
            let voters = ring.voters.iter().filter_map(|voter| ring.member_of_voter(*voter)).map(|(id, _)| id);
            candidates.extend(voters);
        }
        let mut seen = std::collections::BTreeSet::from([self.identity.member]);
        candidates.retain(|member| seen.insert(*member));
        candidates
    }

    /// Proposes a command, here or at whoever leads the ring. Repeated until somebody answers: commands name the
    /// versions they were decided on, and so take effect once.
    pub async fn propose(self: &Arc<Self>, command: Command) -> Proposed {
        let until = self.env.now().plus(PROPOSAL_LIMIT);
        let mut tried = false;
        while self.env.now() < until {
            if self.leads() {
                match self.consensus.propose(command.clone()).await {
                    Ok(Proposed::Unknown) => return Proposed::Unknown,
                    Ok(proposed) => return self.unless_repeated(proposed, tried),
                    Err(ConsensusError::NotLeader) => {}
                    Err(_) => tried = true,
                }
            } else {
                match self.ask_leader(&Request::Propose(command.clone())).await {
                    Some(Response::Proposed(Proposed::Unknown)) => return Proposed::Unknown,
                    Some(Response::Proposed(proposed)) => return self.unless_repeated(proposed, tried),
                    _ => tried = true,
                }
            }
            self.env.sleep(RETRY).await;
        }
        Proposed::Unknown
    }

    /// A rejection of the second attempt may be due to the first having been applied.
    fn unless_repeated(&self, proposed: Proposed, tried: bool) -> Proposed {
        match proposed {
            Proposed::Rejected(_) if tried => Proposed::Unknown,
            other => other,
        }
    }
}
