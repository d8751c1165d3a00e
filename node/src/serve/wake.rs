//! How connections that wait for the gate learn that it has changed.
//!
//! Owns the way from the control threads, which publish the gate, to the connections that wait for it: [`WakeHub::wake`] wakes the
//! serving threads that have waiting connections, and no other; there, [`Waiters`] wakes those connections whose answer is due.
//!
//! No change is missed: a connection first notes that it waits and then looks at the gate once more; whoever publishes first
//! changes the gate and then looks who waits. Of the two, at least one sees the other.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};

use ringmaster_replica::{Answer, Gate, Mono, Ticket};
use ringmaster_ring::Seq;
use tokio::sync::Notify;

use super::registry::Client;

/// The serving threads, as those see them who publish the gate.
#[derive(Debug, Default)]
pub(super) struct WakeHub {
    /// None before the serving threads begin.
    threads: OnceLock<Vec<Arc<ThreadBell>>>,
}

/// One serving thread's bell.
#[derive(Debug, Default)]
pub(super) struct ThreadBell {
    has_waiters: AtomicBool,
    rung: Notify,
}

impl WakeHub {
    /// The bells of that many serving threads, made at the first call.
    pub(super) fn bells(&self, threads: usize) -> &[Arc<ThreadBell>] {
        self.threads.get_or_init(|| (0..threads).map(|_| Arc::default()).collect())
    }

    /// To be called after the gate was published. Costs a load a thread where nobody waits.
    pub(super) fn wake(&self) {
        fence(Ordering::SeqCst);
        for thread in self.threads.get().into_iter().flatten() {
            if thread.has_waiters.load(Ordering::Relaxed) {
                thread.rung.notify_one();
            }
        }
    }
}

/// The connections of one thread that wait for the gate.
#[derive(Debug)]
pub(super) struct Waiters {
    bell: Arc<ThreadBell>,
    waiting: RefCell<Vec<Rc<Waiter>>>,
}

/// One connection's part in waiting.
#[derive(Debug)]
pub(super) struct Waiter {
    client: Arc<Client>,
    until: Cell<Until>,
    listed: Cell<bool>,
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    /// Nothing: it is awake, or waits for its socket alone.
    Awake,
    /// For the gate to say of its oldest held reply anything but "wait".
    Answered(Ticket, Seq),
    /// For any change.
    Changed,
}

impl Waiter {
    pub(super) fn new(client: Arc<Client>) -> Rc<Self> {
        Rc::new(Self { client, until: Cell::new(Until::Awake), listed: Cell::new(false) })
    }

    pub(super) fn is_waiting(&self) -> bool {
        !matches!(self.until.get(), Until::Awake)
    }

    /// It waits no longer.
    pub(super) fn stop(&self) {
        self.until.set(Until::Awake);
    }
}

impl Waiters {
    pub(super) fn new(bell: Arc<ThreadBell>) -> Self {
        Self { bell, waiting: RefCell::new(Vec::new()) }
    }

    /// Notes that a connection waits from now on. It must look at the gate once more before it sleeps.
    pub(super) fn wait(&self, waiter: &Rc<Waiter>, until: Until) {
        waiter.until.set(until);
        if !waiter.listed.replace(true) {
            self.waiting.borrow_mut().push(Rc::clone(waiter));
        }
        self.bell.has_waiters.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Hands the bell's ringing on to the connections, for as long as the thread lives.
    pub(super) async fn listen(&self, gate: &Gate, now: impl Fn() -> Mono) {
        loop {
            self.bell.rung.notified().await;
            self.look(gate, now());
        }
    }

    /// Wakes the connections whose wait is over, and forgets those that wait no more.
    fn look(&self, gate: &Gate, now: Mono) {
        let mut waiting = self.waiting.borrow_mut();
        let look = gate.look(now);
        waiting.retain(|waiter| {
            let over = match waiter.until.get() {
                Until::Awake => {
                    waiter.listed.set(false);
                    return false;
                }
                Until::Changed => true,
                Until::Answered(ticket, after) => !matches!(look.answer(&ticket, after), Answer::Wait),
            };
            if over {
                waiter.stop();
                waiter.listed.set(false);
                waiter.client.wake();
            }
            !over
        });
        if waiting.is_empty() {
            self.bell.has_waiters.store(false, Ordering::Relaxed);
        }
    }
}
