//! A request that waits for data, from the side of its connection: when it began, how it ends.
//!
//! Owns the waiter in the engine for as long as the wait lasts ([`Blocked`]). A wait ends by being served, at its time, by CLIENT UNBLOCK,
//! or at the loss of the role; in the last three cases nothing was executed, so the request can still be executed or redirected.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use ringmaster_engine::{Attempt, CommandSpec, Executed, ReplyBuf, Served, Waiter};
use ringmaster_replica::{Access, Mono, Ticket, Verdict};
use ringmaster_ring::Slot;

use super::Shared;
use super::dispatch::{self, Gated, Moment};
use super::registry::Client;
use super::session::{Outcome, Session};
use super::thread::Thread;

pub(super) const UNBLOCKED_BY_CLIENT: &str = "UNBLOCKED client unblocked via CLIENT UNBLOCK";

/// A wait, withdrawn when it is dropped.
#[derive(Debug)]
pub(super) struct Blocked {
    shared: Arc<Shared>,
    client: Arc<Client>,
    waiter: Arc<Waiter>,
    /// Taken before it began to wait.
    pub(super) ticket: Ticket,
    slot: Option<Slot>,
    /// None if it waits for ever.
    pub(super) deadline: Option<Mono>,
}

/// How a wait stands.
#[derive(Debug)]
pub(super) enum Standing {
    Waits,
    Served(Served),
    /// Its time is over, or CLIENT UNBLOCK said so: what the request replies without waiting is its reply.
    TimeOver,
    /// CLIENT UNBLOCK … ERROR.
    Unblocked,
    /// Another member serves its keys.
    Elsewhere,
    /// The data was exchanged for other data: whatever it waited for is to be looked for again.
    Again,
}

/// Executes a command that may wait.
pub(super) fn execute(
    thread: &Thread,
    session: &mut Session,
    spec: &'static CommandSpec,
    args: &[&[u8]],
    (access, slot): (Access, Option<Slot>),
    moment: Moment,
    reply: &mut ReplyBuf,
) -> Outcome {
    let shared = &thread.shared;
    let client = Arc::clone(&session.client);
    // Before the role is asked for: from here on its loss is heard of.
    client.listen_to_role();
    let ticket = shared.gate.ticket(access);
    let (protocol, db) = (reply.protocol(), session.db);
    let mut waiter = None;
    let mut timeout = None;
    let gated = dispatch::gated(thread, session, access, slot, moment, reply, |ctx, reply| {
        let attempt = shared.engine.execute_or_wait(spec, args, ctx, reply, |args| {
            let woken = Arc::clone(&client);
            waiter.insert(Waiter::new(spec, args, db, protocol, move || woken.poke())).clone()
        });
        match attempt {
            Attempt::Done(Executed::Replied { after, wrote }) => Gated::Replied { after, wrote },
            Attempt::Done(Executed::NotPermitted) => Gated::NotPermitted,
            Attempt::Waiting { timeout: given } => {
                timeout = given;
                Gated::Waiting
            }
        }
    });
    match (gated, waiter) {
        (Outcome::Blocked(None), Some(waiter)) => {
            client.block.begin();
            let deadline = timeout.map(|timeout| moment.now.plus(timeout));
            Outcome::Blocked(Some(Box::new(Blocked {
                shared: Arc::clone(shared),
                client,
                waiter,
                ticket,
                slot,
                deadline,
            })))
        }
        (outcome, _) => outcome,
    }
}

impl Blocked {
    /// Looks at everything that can end a wait. Whatever ends it but being served, it is withdrawn then.
    pub(super) fn look(&self, now: Mono) -> Standing {
        if let Some(served) = self.waiter.take() {
            return Standing::Served(served);
        }
        let gate = &self.shared.gate;
        let standing = match self.client.block.wish() {
            Some(Wish::Timeout) => Standing::TimeOver,
            Some(Wish::Error) => Standing::Unblocked,
            None if gate.may_execute(Access::Write, now) == Verdict::Elsewhere => Standing::Elsewhere,
            None if gate.ticket(Access::Write).lineage != self.ticket.lineage => Standing::Again,
            None if self.deadline.is_some_and(|deadline| now >= deadline) => Standing::TimeOver,
            None => return Standing::Waits,
        };
        // It may have been served up to now.
        match self.shared.engine.withdraw(&self.waiter) {
            Some(served) => Standing::Served(served),
            None => standing,
        }
    }

    /// The reply where another member serves the keys: cluster clients are sent there, since nothing was executed; the requests of others
    /// are to be looked at again, and forwarded.
    pub(super) fn redirect(&self, thread: &Thread, reply: &mut ReplyBuf) -> Outcome {
        self.slot.map_or(Outcome::Parked, |slot| dispatch::redirect(thread, slot, reply))
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        self.client.block.end();
        // Whoever drops it has taken what it was served with, or is gone.
        drop(self.shared.engine.withdraw(&self.waiter));
    }
}

/// Whether a client waits for data, and what CLIENT UNBLOCK wishes of it. Its connection begins and ends the wait; others wish.
#[derive(Debug, Default)]
pub(super) struct Block(AtomicU8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Timeout,
    Error,
}

impl Block {
    const NONE: u8 = 0;
    const WAITS: u8 = 1;
    const TIMEOUT: u8 = 2;
    const ERROR: u8 = 3;

    pub(super) fn begin(&self) {
        self.0.store(Self::WAITS, Ordering::Release);
    }

    pub(super) fn end(&self) {
        self.0.store(Self::NONE, Ordering::Release);
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.0.load(Ordering::Acquire) != Self::NONE
    }

    /// Wishes for the end of a wait. Says whether there is one that nobody wished to end before.
    pub(super) fn unblock(&self, wish: Wish) -> bool {
        let wish = if wish == Wish::Timeout { Self::TIMEOUT } else { Self::ERROR };
        self.0.compare_exchange(Self::WAITS, wish, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    pub(super) fn wish(&self) -> Option<Wish> {
        match self.0.load(Ordering::Acquire) {
            Self::TIMEOUT => Some(Wish::Timeout),
            Self::ERROR => Some(Wish::Error),
            _ => None,
        }
    }
}
