//! The replica core's errands: leases and proposals, each a task of its own, none of which waits for another.

use std::sync::Arc;
use std::time::Duration;

use ringmaster_replica::Input;
use tokio::sync::mpsc;

use super::{Control, Errand};
use crate::env::Env;
use crate::peer::{LeaseAsk, Request, Response};

/// How often one request for a lease is sent, and the pause between. Together less than the core waits before the next.
const LEASE_TRIES: usize = 4;
const LEASE_PAUSE: Duration = Duration::from_millis(5);

impl<E: Env> Control<E> {
    pub(super) async fn run_errands(self: Arc<Self>, mut due: mpsc::UnboundedReceiver<Errand>) {
        while let Some(errand) = due.recv().await {
            let control = Arc::clone(&self);
            self.env.spawn(async move {
                match errand {
                    Errand::Propose(command) => {
                        // What came of it shows in the ring; an answer alone would not be an outcome.
                        let proposed = control.propose_once(command.clone()).await;
                        tracing::info!(?command, ?proposed, "proposed");
                    }
                    Errand::AskLease { ask, shard, epoch, holder } => {
                        if let Some(prev_over) = control.ask_for_lease(LeaseAsk { shard, epoch, holder }).await {
                            control.driver.handle(Input::LeaseGranted { ask, prev_over });
                        }
                    }
                }
            });
        }
    }

    /// Asks the ring's leader, and again at once where nobody leads at the moment or the leader has not caught up: clients
    /// wait. A lease runs from when its request was made, so what comes late is only shorter. Says whether all former
    /// leases are over; none if none was granted, and then the core asks anew.
    async fn ask_for_lease(self: &Arc<Self>, request: LeaseAsk) -> Option<bool> {
        for _ in 0..LEASE_TRIES {
            let answer = if self.leads() {
                self.answer_lease(request).await
            } else {
                self.ask_leader(&Request::AskLease(request)).await
            };
            if let Some(Response::Lease { granted: true, prev_over }) = answer {
                return Some(prev_over);
            }
            self.env.sleep(LEASE_PAUSE).await;
        }
        None
    }
}
