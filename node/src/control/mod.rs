//! The control plane of a member: it learns the ring, keeps its leases, answers peers, and leads the ring where it is
//! the leader. Everything safe is decided in `ringmaster-replica` and `ringmaster-ring`; these tasks carry messages.
//!
//! In: peers' requests, the committed ring, time. Out: peers' answers, proposals, the replica core's errands.

mod driver;
mod errands;
mod handler;
mod leader;
mod membership;
mod route;
mod view;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use ringmaster_engine::{Dropped, Engine};
use ringmaster_replica::{Gate, Input, Lead, Replica};
use ringmaster_ring::{Address, Command, FeatureLevel, Formation, Holder, MemberId, Presence, Rejection, ShardId};
use tokio::sync::{mpsc, watch};

use crate::bus::{self, Inbox, Outgoing};
use crate::consensus::{Consensus, ConsensusError, RaftTiming};
use crate::env::{Env, Listener};
use crate::link::{Bandwidth, follow, serve_stream};
use crate::peer::{Identity, Peer, Pool, Proposed, Purpose, Request, Response, accept, serve_connection};

pub(crate) use driver::Following;
pub use driver::{Driver, DriverParts, Errand};
pub use view::View;

/// What this build can do. The ring goes by the lowest that its members announce.
pub const FEATURE_LEVEL: FeatureLevel = FeatureLevel(1);

/// How often the cores hear the time.
const TICK: Duration = Duration::from_millis(20);

/// What a member needs to know before it starts.
#[derive(Clone, Debug)]
pub struct MemberConfig {
    /// None for a witness.
    pub shard: Option<ShardId>,
    pub address: Address,
    /// Where other members may be found before the ring is known: host (or DNS name) and peer port.
    pub seeds: Vec<(String, u16)>,
    pub zone: String,
    pub node: String,
    pub raft: RaftTiming,
    pub sync_bytes_per_second: u64,
}

/// The parts that differ between production and simulation.
pub struct MemberParts<E: Env> {
    pub env: E,
    pub identity: Identity,
    pub config: MemberConfig,
    pub engine: Arc<Engine>,
    pub gate: Arc<Gate>,
    /// None for a witness.
    pub replica: Option<Replica>,
    pub lead: Lead,
    pub apply: crate::consensus::ApplyFn,
    pub wake: Box<dyn Fn() + Send + Sync>,
    pub graveyard: Box<dyn Fn(Dropped) + Send + Sync>,
    /// Ends the process: it cannot go on, and a new one holds nothing wrong.
    pub fatal: Box<dyn Fn(&str) + Send + Sync>,
}

/// A running member's control plane. Everything in it is shared by its tasks.
pub struct Control<E: Env> {
    env: E,
    identity: Identity,
    config: MemberConfig,
    view: View,
    driver: Arc<Driver<E>>,
    consensus: Consensus<E>,
    peers: Pool<E, Request, Response>,
    leader: leader::LeaderDuty,
    /// The process was asked to end.
    leaving: watch::Sender<bool>,
    /// The cluster is being deleted: nobody waits for a replacement.
    disbanded: AtomicBool,
    /// The ring once knew this very process.
    was_announced: AtomicBool,
    is_stopping: AtomicBool,
    /// Where connections with messages go; nowhere, if this process delivers none.
    message_connections: OnceLock<mpsc::UnboundedSender<AcceptedStream<E>>>,
    myself: Weak<Self>,
}

/// A stream that was accepted on the control thread, on its way to the streams' thread.
pub type AcceptedStream<E> = (<E as Env>::Stream, Peer);

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(transparent)]
    Consensus(#[from] ConsensusError),
    #[error("cannot listen on peer port {port}: {error}")]
    Listen { port: u16, error: std::io::Error },
}

impl<E: Env> std::fmt::Debug for Control<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("member", &self.identity.member).finish_non_exhaustive()
    }
}

impl<E: Env> Control<E> {
    /// Opens the consensus, listens, and starts the control plane's tasks on the current runtime. Streams are handed to
    /// the returned receiver: see [`Control::run_streams`].
    ///
    /// # Errors
    /// The data directory or the port cannot be used. Nothing is running afterwards.
    pub async fn start(
        parts: MemberParts<E>,
    ) -> Result<(Arc<Self>, mpsc::UnboundedReceiver<AcceptedStream<E>>), ControlError> {
        let MemberParts { env, identity, config, engine, gate, replica, lead, apply, wake, graveyard, fatal } = parts;
        let port = config.address.peer_port;
        let listener = env.listen(port).await.map_err(|error| ControlError::Listen { port, error })?;
        let consensus = Consensus::open(env.clone(), &identity, config.raft, apply).await?;
        let (errands, errands_due) = mpsc::unbounded_channel();
        let view = View::default();
        let driver = Driver::new(DriverParts {
            env: env.clone(),
            holder: Holder { member: identity.member, boot: identity.boot },
            replica,
            engine,
            gate,
            view: view.clone(),
            wake,
            errands,
            graveyard,
            fatal,
        });
        let control = Arc::new_cyclic(|myself| Self {
            peers: Pool::new(env.clone(), identity.clone(), Purpose::Requests),
            leader: leader::LeaderDuty::new(lead),
            leaving: watch::Sender::new(false),
            disbanded: AtomicBool::new(false),
            was_announced: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            message_connections: OnceLock::new(),
            myself: Weak::clone(myself),
            env: env.clone(),
            identity,
            config,
            view,
            driver,
            consensus,
        });
        let (streams, accepted_streams) = mpsc::unbounded_channel();
        env.spawn(Arc::clone(&control).accept_peers(listener, streams));
        env.spawn(Arc::clone(&control).run_errands(errands_due));
        env.spawn(Arc::clone(&control).watch_consensus());
        env.spawn(Arc::clone(&control).watch_view());
        env.spawn(Arc::clone(&control).watch_leadership());
        env.spawn(Arc::clone(&control).take_part());
        env.spawn(Arc::clone(&control).move_votes());
        env.spawn(Arc::clone(&control).tick());
        Ok((control, accepted_streams))
    }

    /// Runs the streams of this member's shard. In production this has a thread of its own, so that a full sync delays
    /// no lease.
    pub async fn run_streams(self: Arc<Self>, env: E, mut accepted: mpsc::UnboundedReceiver<AcceptedStream<E>>) {
        env.spawn(follow(Arc::clone(&self.driver), self.identity.clone()));
        env.spawn(Arc::clone(&self.driver).watch_log());
        let bandwidth = Bandwidth::new(self.config.sync_bytes_per_second);
        while let Some((stream, peer)) = accepted.recv().await {
            match env.adopt(stream) {
                Ok(stream) => env.spawn(serve_stream(Arc::clone(&self.driver), bandwidth.clone(), stream, peer)),
                Err(error) => tracing::warn!(%error, "a stream could not be taken over"),
            }
        }
    }

    /// Carries what clients publish, both ways, on the caller's thread. To be called once.
    pub async fn run_messages(self: Arc<Self>, env: E, outgoing: Outgoing, inbox: Inbox) {
        let (connections, mut accepted) = mpsc::unbounded_channel();
        let _once = self.message_connections.set(connections);
        env.spawn(bus::run(env.clone(), self.identity.clone(), self.view.clone(), outgoing));
        let inbox = Arc::new(inbox);
        while let Some((stream, peer)) = accepted.recv().await {
            let (env, inbox) = (env.clone(), Arc::clone(&inbox));
            match env.adopt(stream) {
                Ok(stream) => env.clone().spawn(async move { serve_connection(&env, stream, peer, inbox).await }),
                Err(error) => tracing::warn!(%error, "a connection could not be taken over"),
            }
        }
    }

    async fn accept_peers(
        self: Arc<Self>,
        mut listener: E::Listener,
        streams: mpsc::UnboundedSender<AcceptedStream<E>>,
    ) {
        let raft = Arc::new(handler::RaftHandler(self.consensus.clone()));
        loop {
            let mut stream = match listener.accept().await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a peer's connection could not be accepted");
                    self.env.sleep(TICK).await;
                    continue;
                }
            };
            let (control, streams, raft) = (Arc::clone(&self), streams.clone(), Arc::clone(&raft));
            self.env.spawn(async move {
                let env = control.env.clone();
                match accept(&env, &mut stream, &control.identity).await {
                    Ok((peer, Purpose::Requests)) => serve_connection(&env, stream, peer, control).await,
                    Ok((peer, Purpose::Raft)) => serve_connection(&env, stream, peer, raft).await,
                    // Its receiver ends with the process.
                    Ok((peer, Purpose::Stream)) => drop(streams.send((stream, peer))),
                    Ok((peer, Purpose::Messages)) => {
                        if let Some(receiver) = control.message_connections.get() {
                            drop(receiver.send((stream, peer)));
                        }
                    }
                    Err(error) => tracing::debug!(%error, "a connection was refused"),
                }
            });
        }
    }

    /// The consensus applies a ring: that is news for this member, and for the duty of leading.
    async fn watch_consensus(self: Arc<Self>) {
        let mut rings = self.consensus.ring();
        loop {
            let ring = rings.borrow_and_update().clone();
            if let Some(ring) = ring {
                self.view.offer(&ring);
                self.lead_with_ring(ring);
            }
            if rings.changed().await.is_err() {
                return;
            }
        }
    }

    /// The newest ring goes to the replica core.
    async fn watch_view(self: Arc<Self>) {
        let mut rings = self.view.subscribe();
        loop {
            let ring = rings.borrow_and_update().clone();
            if let Some(ring) = ring {
                self.note_announced(&ring);
                self.consensus.set_electable(ring.voters.is_empty() || ring.voters.contains(&self.consensus.voter()));
                self.driver.keep_log_for(&ring);
                self.driver.handle(Input::Ring(ring));
            }
            if rings.changed().await.is_err() {
                return;
            }
        }
    }

    /// Ends the consensus in good order.
    pub async fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.consensus.stop().await;
    }

    async fn tick(self: Arc<Self>) {
        loop {
            self.env.sleep(TICK).await;
            self.driver.tell_log_end();
            self.driver.handle(Input::Tick);
            self.lead_tick();
        }
    }

    /// Forms the ring, as its founder. Repeating it with the same formation is harmless.
    ///
    /// # Errors
    /// The ring refused it, or the consensus did not answer.
    pub async fn form(self: &Arc<Self>, formation: Formation) -> Result<Proposed, ConsensusError> {
        let mine = formation.members.get(&self.identity.member).map(|m| (m.presence.voter, m.presence.boot));
        if mine != Some((self.consensus.voter(), self.identity.boot)) || formation.cluster != self.identity.cluster {
            return Err(ConsensusError::NotFounder);
        }
        self.consensus.found(&self.config.address).await?;
        let command = Command::Form(Box::new(formation));
        for _ in 0..100 {
            match self.consensus.propose(command.clone()).await {
                // It has just become a voter, and may not lead yet.
                Err(ConsensusError::NotLeader) => self.env.sleep(TICK).await,
                Ok(Proposed::Rejected(Rejection::AlreadyFormed)) => break,
                other => return other,
            }
        }
        match self.view.version() {
            Some((_, epoch)) => Ok(Proposed::Applied(epoch)),
            None => Ok(Proposed::Unknown),
        }
    }

    /// Asks to be replaced, and keeps asking until the ring knows. The member serves on.
    pub fn leave(&self) {
        if !self.leaving.send_replace(true) {
            self.driver.handle(Input::Leave);
        }
    }

    /// Nobody needs to wait for a replacement any more: the cluster is being deleted.
    pub async fn disband(self: &Arc<Self>) {
        if self.disbanded.swap(true, Ordering::AcqRel) {
            return;
        }
        let Some(ring) = self.view.ring() else { return };
        for (id, member) in &ring.members {
            if let (true, Some(presence)) = (*id != self.identity.member, &member.present) {
                let (control, address) = (Arc::clone(self), presence.address.clone());
                self.env.spawn(async move {
                    let told = control.peers.call(&address, &Request::Disband, Duration::from_secs(2)).await;
                    if let Err(error) = told {
                        tracing::info!(%error, "a member was not told of the end");
                    }
                });
            }
        }
    }

    /// Whether nobody needs this member any more: the ring never knew it or has forgotten it, its cluster is being
    /// deleted, or it is retired and its clients, the last of which was heard `last_use_ms` ago, have gone.
    pub fn may_end(&self, last_use_ms: Option<u64>) -> bool {
        let Some(ring) = self.view.ring() else { return true };
        if self.is_disbanded() {
            return true;
        }
        match ring.members.get(&self.identity.member) {
            None => true,
            Some(member) if member.is_active() => false,
            Some(_) => last_use_ms.is_none_or(|ago| ago >= u64::from(ring.settings.linger_s) * 1_000),
        }
    }

    pub fn is_disbanded(&self) -> bool {
        self.disbanded.load(Ordering::Acquire)
    }

    pub fn is_leaving(&self) -> bool {
        *self.leaving.borrow()
    }

    pub fn driver(&self) -> &Arc<Driver<E>> {
        &self.driver
    }

    pub fn view(&self) -> &View {
        &self.view
    }

    pub fn consensus(&self) -> &Consensus<E> {
        &self.consensus
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn config(&self) -> &MemberConfig {
        &self.config
    }

    /// What this process announces.
    pub fn presence(&self) -> Presence {
        Presence {
            boot: self.identity.boot,
            voter: self.consensus.voter(),
            address: self.config.address.clone(),
            feature_level: FEATURE_LEVEL,
        }
    }

    /// The address of a member, by the newest ring.
    fn address_of(&self, member: MemberId) -> Option<Address> {
        self.view.ring()?.members.get(&member)?.present.as_ref().map(|presence| presence.address.clone())
    }
}
