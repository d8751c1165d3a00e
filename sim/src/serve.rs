//! A member's serving side: as the production loop does, with frames in the place of RESP on the wire.
//!
//! Requests of a connection are executed in order and answered in order. Whether one may be executed is asked of the
//! gate inside the execution; whether its answer may leave is asked when it leaves.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use ringmaster_engine::{Ctx, Engine, Executed, Protocol, ReplyBuf, UnixMs, lookup};
use ringmaster_node::env::{Env, Listener};
use ringmaster_node::peer::{read_frame, write_frame};
use ringmaster_node::{ClientStats, Sample};
use ringmaster_replica::{Access, Answer, Gate, Mono, Ticket, Verdict};
use ringmaster_ring::{Holder, Ring, Seq, ShardEpoch, ShardId, Slot};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWriteExt, WriteHalf, split};
use tokio::sync::{Notify, mpsc};

use crate::env::SimEnv;
use crate::net::SimStream;
use crate::process::NodeParts;

/// The port on which members serve clients.
pub(crate) const CLIENT_PORT: u16 = 6379;

/// A command from a client. Its first argument is its name, its second its key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ask {
    pub(crate) args: Vec<Vec<u8>>,
}

/// What a client is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Told {
    /// It was executed, and this is its reply.
    Reply(Executing),
    /// Another member serves this key. Nothing was executed.
    Moved { host: String },
    /// Nobody is known to serve this key. Nothing was executed.
    Down,
    /// Too few copies are in sync. Nothing was executed.
    Refused,
}

/// An executed command, with what the ledger wants to know of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Executing {
    pub(crate) bytes: Vec<u8>,
    pub(crate) by: Holder,
    pub(crate) shard: ShardId,
    pub(crate) epoch: ShardEpoch,
    pub(crate) after: Seq,
    pub(crate) wrote: bool,
}

/// What the serving side shares with the rest of its process.
pub(crate) struct Serving {
    pub(crate) env: SimEnv,
    pub(crate) holder: Holder,
    pub(crate) shard: ShardId,
    pub(crate) engine: Arc<Engine>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) ring: Box<dyn Fn() -> Option<Arc<Ring>> + Send + Sync>,
    /// Rung when the gate was published.
    pub(crate) bell: Arc<Notify>,
    pub(crate) node: Arc<NodeParts>,
}

/// What is known of the clients of a process.
#[derive(Debug)]
pub(crate) struct Clients {
    env: SimEnv,
    used_at: Mutex<Option<Mono>>,
}

impl Clients {
    pub(crate) fn new(env: SimEnv) -> Self {
        Self { env, used_at: Mutex::default() }
    }
}

impl ClientStats for Clients {
    fn clients(&self) -> u64 {
        0
    }

    fn last_use_ms(&self) -> Option<u64> {
        let ago = self.env.now().since((*self.used_at.lock())?);
        Some(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX))
    }

    fn samples(&self) -> Vec<Sample> {
        Vec::new()
    }
}

impl Serving {
    /// Serves until the process ends.
    pub(crate) async fn run(self: Arc<Self>) {
        let Ok(mut listener) = self.env.listen(CLIENT_PORT).await else { return };
        while let Ok(stream) = listener.accept().await {
            self.env.spawn(Arc::clone(&self).serve(stream));
        }
    }

    async fn serve(self: Arc<Self>, stream: SimStream) {
        let (mut reading, writing) = split(stream);
        let (heard, mut asks) = mpsc::unbounded_channel();
        self.env.spawn(async move {
            while let Ok(ask) = read_frame::<Ask>(&mut reading).await {
                if heard.send(ask).is_err() {
                    return;
                }
            }
        });
        let mut connection = Connection { node: Arc::clone(&self), writing, queue: VecDeque::new() };
        loop {
            let mut rung = Box::pin(Arc::clone(&self.bell).notified_owned());
            rung.as_mut().enable();
            connection.execute_what_may_run();
            if connection.answer_what_may_leave().await.is_err() {
                return;
            }
            tokio::select! {
                biased;
                ask = asks.recv() => match ask {
                    Some(ask) => {
                        *self.node.clients.used_at.lock() = Some(self.env.now());
                        connection.queue.push_back(Item { ask, state: State::ToRun });
                    }
                    None => return,
                },
                () = rung => {}
            }
        }
    }

    fn moved(&self, ring: &Ring, shard: ShardId) -> Told {
        let primary = ring.shards.get(&shard).map(|shard| shard.primary.member);
        let member = primary.filter(|member| *member != self.holder.member).and_then(|id| ring.members.get(&id));
        match member.and_then(|member| member.present.as_ref()) {
            Some(presence) => Told::Moved { host: presence.address.host.clone() },
            None => Told::Down,
        }
    }

    /// Runs one command, or says why not. None: not now.
    fn execute(&self, ask: &Ask) -> Option<State> {
        let Some(ring) = (self.ring)() else { return Some(State::Told(Told::Down)) };
        let key = ask.args.get(1).map(Vec::as_slice).unwrap_or_default();
        let name = ask.args.first().map(Vec::as_slice).unwrap_or_default();
        let (Some((shard, _)), Some(spec)) = (ring.shard_of_slot(Slot::of_key(key)), lookup(name)) else {
            return Some(State::Told(Told::Down));
        };
        if shard != self.shard {
            return Some(State::Told(self.moved(&ring, shard)));
        }
        let access = if name == b"GET" { Access::Read } else { Access::Write };
        let ticket = self.gate.ticket(access);
        let verdict = Cell::new(Verdict::Park);
        let permit = |_| {
            verdict.set(self.gate.may_execute(access, self.env.now()));
            verdict.get() == Verdict::Yes
        };
        let args: Vec<&[u8]> = ask.args.iter().map(Vec::as_slice).collect();
        let context = Ctx { now: UnixMs(self.env.wall_ms()), db: 0, permit: &permit };
        let mut reply = ReplyBuf::new(Protocol::Resp2);
        match self.engine.execute(spec, &args, &context, &mut reply) {
            Executed::Replied { after, wrote } => {
                let bytes = reply.as_bytes().to_vec();
                let (by, epoch) = (self.holder, ticket.epoch);
                let executing = Executing { bytes, by, shard, epoch, after, wrote };
                Some(State::Held { ticket: ticket.wrote(wrote), executing })
            }
            Executed::NotPermitted => match verdict.get() {
                Verdict::Yes | Verdict::Park => None,
                Verdict::Elsewhere => Some(State::Told(self.moved(&ring, shard))),
                Verdict::Refused => Some(State::Told(Told::Refused)),
            },
        }
    }
}

struct Connection {
    node: Arc<Serving>,
    writing: WriteHalf<SimStream>,
    queue: VecDeque<Item>,
}

struct Item {
    ask: Ask,
    state: State,
}

enum State {
    ToRun,
    /// Executed; the gate says when it may be answered.
    Held {
        ticket: Ticket,
        executing: Executing,
    },
    /// May be answered in its turn.
    Told(Told),
}

/// The connection is over.
struct Over;

impl Connection {
    fn execute_what_may_run(&mut self) {
        for item in &mut self.queue {
            if matches!(item.state, State::ToRun) {
                match self.node.execute(&item.ask) {
                    Some(state) => item.state = state,
                    None => return,
                }
            }
        }
    }

    async fn answer_what_may_leave(&mut self) -> Result<(), Over> {
        while let Some(item) = self.queue.front_mut() {
            let told = match &item.state {
                State::ToRun => return Ok(()),
                State::Told(told) => told.clone(),
                State::Held { ticket, executing } => {
                    match self.node.gate.answer(ticket, executing.after, self.node.env.now()) {
                        Answer::Send => Told::Reply(executing.clone()),
                        Answer::Wait => return Ok(()),
                        Answer::Close => return Err(Over),
                        Answer::Rerun => {
                            item.state = State::ToRun;
                            self.execute_what_may_run();
                            continue;
                        }
                    }
                }
            };
            self.queue.pop_front();
            write_frame(&mut self.writing, &told).await.map_err(|_| Over)?;
            self.writing.flush().await.map_err(|_| Over)?;
        }
        Ok(())
    }
}
