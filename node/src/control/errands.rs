//! The replica core's errands: leases and proposals, each a task of its own, none of which waits for another.

use std::sync::Arc;

use ringmaster_replica::Input;
use tokio::sync::mpsc;

use super::{Control, Errand};
use crate::env::Env;
use crate::peer::{LeaseAsk, Request, Response};

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
                        let request = LeaseAsk { shard, epoch, holder };
                        let answer = if control.leads() {
                            control.answer_lease(request).await
                        } else {
                            control.ask_leader(&Request::AskLease(request)).await
                        };
                        if let Some(Response::Lease { granted, prev_over }) = answer {
                            control.driver.handle(Input::LeaseAnswer { ask, granted, prev_over });
                        }
                    }
                }
            });
        }
    }
}
