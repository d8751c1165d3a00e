//! Taking part: find the ring, announce this process, hear of newer rings, and leave in good order.

use std::sync::Arc;
use std::time::Duration;

use ringmaster_ring::{Address, Command, Holder, Placement, Ring};

use super::Control;
use crate::env::Env;
use crate::peer::{Request, Response};

/// How often a process that holds no announced place in the ring looks for one.
const SEEK_EVERY: Duration = Duration::from_millis(100);
/// How often a member asks somebody for a newer ring, in case that it missed one.
const PULL_EVERY: Duration = Duration::from_millis(500);
/// How long nobody may answer, or lead, before the seeds are asked where the others are.
const CUT_OFF_AFTER: Duration = Duration::from_secs(2);
/// How long a peer may take to answer.
const PULL_LIMIT: Duration = Duration::from_secs(1);

impl<E: Env> Control<E> {
    /// Looks for the ring until it knows it, announces itself until the ring says so, then keeps up to date.
    pub(super) async fn take_part(self: Arc<Self>) {
        let mut turn = 0usize;
        // When somebody answered, and somebody led, last.
        let mut connected_at = self.env.now();
        let mut answered = true;
        loop {
            if answered && self.ring_leader_is_known() {
                connected_at = self.env.now();
            } else if self.env.now().since(connected_at) > CUT_OFF_AFTER {
                self.look_for_voters().await;
                self.pull_from_seeds().await;
            }
            let ring = self.view.ring();
            match ring {
                None => {
                    self.pull_from_seeds().await;
                    self.env.sleep(SEEK_EVERY).await;
                }
                Some(ring) => {
                    let settled = self.announce(&ring).await;
                    answered = self.pull_from_ring(&ring, turn).await;
                    turn = turn.wrapping_add(1);
                    self.env.sleep(if settled { PULL_EVERY } else { SEEK_EVERY }).await;
                }
            }
        }
    }

    /// Proposes what the ring does not know of this process yet. Says whether there was nothing to propose.
    async fn announce(self: &Arc<Self>, ring: &Ring) -> bool {
        let id = self.identity.member;
        let Some(member) = ring.members.get(&id).filter(|member| member.is_active()) else { return true };
        let presence = self.presence();
        if member.present.as_ref() != Some(&presence) {
            if self.is_superseded(ring) {
                return true;
            }
            let announce = Command::Announce { member: id, if_version: member.version, presence };
            let proposed = self.propose(announce).await;
            tracing::info!(?proposed, "announced");
            return false;
        }
        let placement = Placement { zone: self.config.zone.clone(), node: self.config.node.clone() };
        if !self.config.zone.is_empty() && member.placement != placement {
            self.propose(Command::Place { member: id, placement }).await;
            return false;
        }
        if self.is_leaving() && !member.leaving && member.shard.is_none() {
            let proposed = self.propose(Command::Leave(Holder { member: id, boot: self.identity.boot })).await;
            tracing::info!(?proposed, "asked to be replaced");
            return false;
        }
        true
    }

    /// Whether a later process of this member announced itself: this one holds nothing any more, and says nothing.
    fn is_superseded(&self, ring: &Ring) -> bool {
        self.was_announced.load(std::sync::atomic::Ordering::Acquire)
            && ring.members.get(&self.identity.member).and_then(|m| m.boot()) != Some(self.identity.boot)
    }

    /// Without a leader no new address can be committed, and the known ones may all be wrong, as after a power cut that
    /// gave every member another address. Who listens where the seeds lead?
    async fn look_for_voters(&self) {
        let Some(ring) = self.view.ring() else { return };
        for (host, port) in &self.config.seeds {
            for host in self.env.resolve(host).await.unwrap_or_default() {
                let address = Address { host, client_port: 0, peer_port: *port, http_port: 0 };
                if self.is_own(&address) {
                    continue;
                }
                let answer = self.peers.call(&address, &Request::Identify, PULL_LIMIT).await;
                let Ok(Response::Identified(presence)) = answer else { continue };
                let known = ring.member_of_voter(presence.voter).and_then(|(_, member)| member.present.as_ref());
                let is_elsewhere = known.is_none_or(|known| known.address != presence.address);
                self.consensus.found_at(presence.voter, is_elsewhere.then_some(presence.address));
            }
        }
    }

    async fn pull_from_seeds(&self) {
        for (host, port) in &self.config.seeds {
            let found = self.env.resolve(host).await.unwrap_or_default();
            for host in found {
                let address = Address { host, client_port: 0, peer_port: *port, http_port: 0 };
                if self.is_own(&address) {
                    continue;
                }
                if self.pull_from(&address).await == Some(true) {
                    return;
                }
            }
        }
    }

    fn is_own(&self, address: &Address) -> bool {
        address.host == self.config.address.host && address.peer_port == self.config.address.peer_port
    }

    /// Asks one member after the other, one each turn. Says whether it answered, or there is none to ask.
    async fn pull_from_ring(&self, ring: &Ring, turn: usize) -> bool {
        let others: Vec<&Address> = ring
            .members
            .values()
            .filter_map(|member| member.present.as_ref())
            .map(|presence| &presence.address)
            .filter(|address| !self.is_own(address))
            .collect();
        let next = turn.checked_rem(others.len()).and_then(|index| others.get(index));
        match next {
            Some(address) => self.pull_from(address).await.is_some(),
            None => true,
        }
    }

    /// Asks for a newer ring. None where nobody answered, else whether there was one.
    async fn pull_from(&self, address: &Address) -> Option<bool> {
        let request = Request::Pull { known: self.view.version() };
        let Ok(Response::News(news)) = self.peers.call(address, &request, PULL_LIMIT).await else { return None };
        let Some(news) = news else { return Some(false) };
        let newer = self.view.offer(&news.ring);
        if newer && news.leader.is_some() {
            self.view.set_leader(news.leader);
        }
        Some(newer)
    }

    /// Remembers that the ring once knew this very process.
    pub(super) fn note_announced(&self, ring: &Ring) {
        if ring.members.get(&self.identity.member).and_then(|m| m.boot()) == Some(self.identity.boot) {
            self.was_announced.store(true, std::sync::atomic::Ordering::Release);
        }
    }
}
