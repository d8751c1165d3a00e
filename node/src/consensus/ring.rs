//! The face of the consensus: propose, read, lead, and move votes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::error::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Config, Raft, RaftMetrics, ServerState, SnapshotPolicy, Vote};
use parking_lot::Mutex;
use ringmaster_replica::Mono;
use ringmaster_ring::{Address, Command, Ring, RingEpoch, VoteMove, VoterId};
use tokio::sync::watch;

use super::log::{Store, StoreError, StoreIdentity};
use super::network::{Found, LastHeard, Network};
use super::recent::RecentRings;
use super::state::{ApplyFn, StateMachine};
use super::{Proposal, RaftNode, Types};
use crate::env::Env;
use crate::peer::{Identity, Pool, Proposed, Purpose, RaftRequest, RaftResponse, ToVoter};

/// How long a voter may be silent before it counts as such for the moving of votes.
const VOTER_SILENT_AFTER: Duration = Duration::from_secs(2);
/// How long a voter may take to say that it still follows.
const CONFIRM_LIMIT: Duration = Duration::from_millis(200);
/// How long a proposal waits for its commit.
const PROPOSAL_LIMIT: Duration = Duration::from_secs(3);
/// How often the leader looks how far a voter to be has come.
const CATCH_UP_LOOK: Duration = Duration::from_millis(10);

/// Raft's clock, in ms. An election begins when no heartbeat came for about twice the election timeout.
#[derive(Clone, Copy, Debug)]
pub struct RaftTiming {
    pub heartbeat_ms: u64,
    pub election_ms_min: u64,
    pub election_ms_max: u64,
}

impl RaftTiming {
    /// Raft waits for the maximum and then for a random time between both: five to six heartbeats without a leader,
    /// which is less than what is left of a lease when a leader goes.
    #[must_use]
    pub fn with_heartbeat(heartbeat_ms: u64) -> Self {
        Self { heartbeat_ms, election_ms_min: heartbeat_ms * 2, election_ms_max: heartbeat_ms * 3 }
    }
}

impl Default for RaftTiming {
    fn default() -> Self {
        Self::with_heartbeat(40)
    }
}

/// Whether this process leads the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// It leads, and has applied an entry of this term.
    Leading {
        term: u64,
    },
    NotLeading {
        leader: Option<VoterId>,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the timing is not usable: {0}")]
    Timing(String),
    #[error("Raft stopped: {0}")]
    Stopped(String),
    #[error("this process does not lead the ring")]
    NotLeader,
    #[error("the ring is being formed by another voter")]
    NotFounder,
}

/// One voter, or a process that may become one.
#[derive(Clone)]
pub struct Consensus<E: Env> {
    env: E,
    raft: Raft<Types>,
    voter: VoterId,
    ring: watch::Receiver<Option<Arc<Ring>>>,
    recent: RecentRings,
    store: Store<E::Disk>,
    network: Network<E>,
    last_heard: LastHeard,
    found: Found,
    /// For the newest term that this process led: the end of its log when it first saw itself leading. A leader that
    /// restarts in its own term leads at once, on a ring that may lack what it committed.
    led_from: Arc<Mutex<Option<(u64, u64)>>>,
    /// A restarted voter forgot what it promised since its last heartbeat: until then it answers nobody.
    silent_until: Mono,
}

/// A majority of every configuration: while the membership changes there are two.
fn is_quorum(configurations: &[BTreeSet<u64>], confirmed: &BTreeSet<u64>) -> bool {
    configurations.iter().all(|voters| voters.intersection(confirmed).count() * 2 > voters.len())
}

impl<E: Env> std::fmt::Debug for Consensus<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consensus").field("voter", &self.voter).finish_non_exhaustive()
    }
}

impl<E: Env> Consensus<E> {
    /// Opens the store and joins in, silently until somebody gives this process a vote.
    ///
    /// # Errors
    /// The store cannot be used, or belongs to another ring: nothing was changed.
    pub async fn open(env: E, identity: &Identity, timing: RaftTiming, apply: ApplyFn) -> Result<Self, ConsensusError> {
        let fresh =
            StoreIdentity { cluster: identity.cluster, generation: identity.generation, voter: VoterId(env.random()) };
        let store = Store::open(env.disk().clone(), fresh).await?;
        let voter = store.identity().voter;
        let was_voter = !store.is_blank();
        let recent = RecentRings::default();
        let (state, ring) = StateMachine::open(store.clone(), recent.clone(), apply)?;
        let config = Config {
            cluster_name: identity.cluster.to_string(),
            heartbeat_interval: timing.heartbeat_ms,
            election_timeout_min: timing.election_ms_min,
            election_timeout_max: timing.election_ms_max,
            max_payload_entries: 8,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(200),
            max_in_snapshot_log_to_keep: 50,
            replication_lag_threshold: 300,
            install_snapshot_timeout: 500,
            ..Config::default()
        };
        let config = config.validate().map_err(|error| ConsensusError::Timing(error.to_string()))?;
        let last_heard = LastHeard::default();
        let found = Found::default();
        let network = Network {
            env: env.clone(),
            pool: Pool::new(env.clone(), identity.clone(), Purpose::Raft),
            ring: ring.clone(),
            last_heard: Arc::clone(&last_heard),
            found: Arc::clone(&found),
        };
        let (kept_store, kept_network) = (store.clone(), network.clone());
        let raft = Raft::new(voter.0, Arc::new(config), network, store, state)
            .await
            .map_err(|error| ConsensusError::Stopped(error.to_string()))?;
        let silence = if was_voter { Duration::from_millis(timing.election_ms_max) } else { Duration::ZERO };
        let silent_until = env.now().plus(silence);
        Ok(Self {
            env,
            raft,
            voter,
            ring,
            recent,
            store: kept_store,
            network: kept_network,
            last_heard,
            found,
            led_from: Arc::default(),
            silent_until,
        })
    }

    #[must_use]
    pub fn voter(&self) -> VoterId {
        self.voter
    }

    /// The ring as this voter has applied it.
    #[must_use]
    pub fn ring(&self) -> watch::Receiver<Option<Arc<Ring>>> {
        self.ring.clone()
    }

    /// The rings above an epoch that this voter applied, one for each commit, as far back as they are kept.
    #[must_use]
    pub fn rings_after(&self, epoch: RingEpoch) -> Vec<Arc<Ring>> {
        self.recent.after(epoch)
    }

    /// Makes this process the only voter of a new ring. Repeating it is harmless.
    ///
    /// # Errors
    /// Raft stopped.
    pub async fn found(&self, address: &Address) -> Result<(), ConsensusError> {
        let node = RaftNode { host: address.host.clone(), peer_port: address.peer_port };
        match self.raft.initialize(BTreeMap::from([(self.voter.0, node)])).await {
            Ok(()) | Err(RaftError::APIError(openraft::error::InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(ConsensusError::Stopped(error.to_string())),
        }
    }

    /// Proposes a command, where this process leads.
    ///
    /// # Errors
    /// [`ConsensusError::NotLeader`]: the command will not be applied. Otherwise it is unknown whether it will.
    pub async fn propose(&self, command: Command) -> Result<Proposed, ConsensusError> {
        self.propose_in(None, command).await
    }

    /// Proposes what this process decided as leader of `term`: in another term it is rejected.
    ///
    /// # Errors
    /// As [`Self::propose`].
    pub async fn propose_as_leader(&self, term: u64, command: Command) -> Result<Proposed, ConsensusError> {
        self.propose_in(Some(term), command).await
    }

    async fn propose_in(&self, if_term: Option<u64>, command: Command) -> Result<Proposed, ConsensusError> {
        let writing = self.raft.client_write(Proposal { command, if_term });
        match crate::env::within(&self.env, PROPOSAL_LIMIT, writing).await {
            None => Ok(Proposed::Unknown),
            Some(Ok(written)) => Ok(match written.data.0 {
                Ok(epoch) => Proposed::Applied(epoch),
                Err(rejection) => Proposed::Rejected(rejection),
            }),
            Some(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Err(ConsensusError::NotLeader),
            Some(Err(error)) => Err(ConsensusError::Stopped(error.to_string())),
        }
    }

    /// Returns once a quorum has said, after this call began, that it still follows this leader of `term`: a leader of a
    /// later term that there may be by then has been elected after the call began.
    ///
    /// Raft's own heartbeats would say the same, but no voter answers them while it waits for its disk.
    ///
    /// # Errors
    /// No quorum said so in time: this process may not lead any more.
    pub async fn confirm_quorum(&self, term: u64) -> Result<(), ConsensusError> {
        let leads = || self.leadership() == Leadership::Leading { term } && self.follows(self.voter, term);
        if !leads() {
            return Err(ConsensusError::NotLeader);
        }
        let membership = self.raft.metrics().borrow().membership_config.membership().clone();
        let others = membership.nodes().filter(|(id, _)| VoterId(**id) != self.voter);
        let mut answers: FuturesUnordered<_> = others
            .map(|(id, node)| self.network.other(VoterId(*id), node).confirms(self.voter, term, CONFIRM_LIMIT))
            .collect();
        let mut confirmed = BTreeSet::from([self.voter.0]);
        while !is_quorum(membership.get_joint_config(), &confirmed) {
            let answer = answers.next().await.ok_or(ConsensusError::NotLeader)?;
            confirmed.extend(answer.map(|voter| voter.0));
        }
        if leads() { Ok(()) } else { Err(ConsensusError::NotLeader) }
    }

    /// Whether this voter gave its last vote to this leader of this term.
    fn follows(&self, leader: VoterId, term: u64) -> bool {
        let last = |vote: Vote<u64>| (VoterId(vote.leader_id.node_id), vote.leader_id.term);
        self.store.vote().map(last) == Some((leader, term))
    }

    /// Answers another voter.
    pub async fn serve(&self, request: ToVoter) -> RaftResponse {
        let ToVoter { voter, request } = request;
        if voter != self.voter || self.env.now() < self.silent_until {
            return RaftResponse::Unavailable;
        }
        let answer = match request {
            RaftRequest::Append(request) => self.raft.append_entries(request).await.ok().map(RaftResponse::Append),
            RaftRequest::Vote(request) => self.raft.vote(request).await.ok().map(RaftResponse::Vote),
            RaftRequest::Snapshot(request) => {
                self.raft.install_snapshot(request).await.ok().map(RaftResponse::Snapshot)
            }
            RaftRequest::Confirm { leader, term } => self.follows(leader, term).then_some(RaftResponse::Confirmed),
        };
        answer.unwrap_or(RaftResponse::Unavailable)
    }

    #[must_use]
    pub fn leadership(&self) -> Leadership {
        self.leadership_of(&self.raft.metrics().borrow())
    }

    /// Waits until leadership is other than `known`. None once Raft has ended, as it does when its log cannot be written.
    ///
    /// For one caller alone: a watch wakes several in an order that no seed decides, and a simulation replays.
    pub async fn leadership_changed(&self, known: Leadership) -> Option<Leadership> {
        let mut metrics = self.raft.metrics();
        loop {
            let now = {
                let metrics = metrics.borrow_and_update();
                metrics.running_state.as_ref().ok()?;
                self.leadership_of(&metrics)
            };
            if now != known {
                return Some(now);
            }
            metrics.changed().await.ok()?;
        }
    }

    /// Whether a voter answered lately. This process did.
    #[must_use]
    pub fn is_alive(&self, voter: VoterId) -> bool {
        let heard = self.last_heard.lock().get(&voter).copied();
        voter == self.voter || heard.is_some_and(|at| self.env.now() < at.plus(VOTER_SILENT_AFTER))
    }

    /// Moves one vote, where this process leads.
    ///
    /// # Errors
    /// The membership was not changed, or it is unknown whether it was: what the ring's `voters` say counts.
    pub async fn move_vote(&self, step: VoteMove, address: &Address) -> Result<(), ConsensusError> {
        let (mut voters, mut learners): (BTreeSet<u64>, BTreeSet<u64>) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let membership = metrics.membership_config.membership();
            (membership.voter_ids().collect(), membership.learner_ids().collect())
        };
        let stopped = |error: &dyn std::fmt::Display| ConsensusError::Stopped(error.to_string());
        if let VoteMove::Give { to, .. } = step {
            learners.remove(&to.0);
        }
        if !learners.is_empty() {
            // One that went away while it caught up would be sent the log for ever.
            let forget = self.raft.change_membership(ChangeMembers::RemoveNodes(learners), false);
            forget.await.map_err(|e| stopped(&e))?;
        }
        match step {
            VoteMove::Give { to, from } => {
                let node = RaftNode { host: address.host.clone(), peer_port: address.peer_port };
                let added = self.raft.add_learner(to.0, node, false).await.map_err(|e| stopped(&e))?;
                self.until_it_holds(to, added.log_id.index).await?;
                voters.insert(to.0);
                if let Some(from) = from {
                    voters.remove(&from.0);
                }
            }
            VoteMove::Take { from } => {
                voters.remove(&from.0);
            }
        }
        let change = self.raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), false);
        change.await.map(|_| ()).map_err(|e| stopped(&e))
    }

    /// Waits until a voter to be holds the log up to `index`: a vote of one that holds nothing counts for no commit.
    ///
    /// Not left to Raft, which would take one that lacks few entries for good enough, and which would wait on the watch
    /// on which others wait: those are woken in an order that no seed decides.
    async fn until_it_holds(&self, voter: VoterId, index: u64) -> Result<(), ConsensusError> {
        loop {
            let held = {
                let metrics = self.raft.metrics();
                let metrics = metrics.borrow();
                let followers = metrics.replication.as_ref().ok_or(ConsensusError::NotLeader)?;
                followers.get(&voter.0).copied().flatten()
            };
            if held.is_some_and(|held| held.index >= index) {
                return Ok(());
            }
            self.env.sleep(CATCH_UP_LOOK).await;
        }
    }

    /// Whether this process may call elections. One whose vote was taken does not hear of it, and would go on.
    pub fn set_electable(&self, electable: bool) {
        self.raft.runtime_config().elect(electable);
    }

    /// Says where a voter listens now. None: where the ring says.
    pub fn found_at(&self, voter: VoterId, address: Option<Address>) {
        let mut found = self.found.lock();
        match address {
            Some(address) => found.insert(voter, address),
            None => found.remove(&voter),
        };
    }

    /// A leader has applied what was in its log when it began to lead.
    fn leadership_of(&self, metrics: &RaftMetrics<u64, RaftNode>) -> Leadership {
        let term = metrics.current_term;
        if metrics.state != ServerState::Leader {
            let leader = metrics.current_leader.filter(|leader| *leader != metrics.id);
            return Leadership::NotLeading { leader: leader.map(VoterId) };
        }
        let end = metrics.last_log_index.unwrap_or(0);
        let mut led_from = self.led_from.lock();
        let from = match *led_from {
            Some((led, from)) if led == term => from,
            _ => led_from.insert((term, end)).1,
        };
        match metrics.last_applied {
            Some(applied) if applied.leader_id.term == term && applied.index >= from => Leadership::Leading { term },
            _ => Leadership::NotLeading { leader: None },
        }
    }

    /// Ends Raft's tasks. The store stays as it is.
    pub async fn stop(&self) {
        // It ends with an error only where a task had ended already.
        drop(self.raft.shutdown().await);
    }
}
