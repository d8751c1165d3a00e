//! Commands about a connection, the ring or the process: those that the engine's table leaves to the shell.
//!
//! Owns what a connection remembers ([`Session`]) and one function a command, a file a family. In: a request's arguments and the
//! thread it arrived on. Out: a reply in the buffer and what is to become of it ([`Outcome`]).

mod acl;
mod client;
mod cluster;
mod command;
mod config;
mod debug;
mod glob;
mod hello;
mod info;
mod permission;
mod process;
mod pubsub;
mod replication;
mod script;
mod shards;
mod slowlog;
mod tracking;
mod transaction;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ringmaster_engine::{CommandSpec, Protocol, ReplyBuf, SessionCommand, UnixMs, text_of};
use ringmaster_replica::{Mono, Ticket};
use ringmaster_ring::Seq;

use permission::Identity;
pub(super) use replication::copies_holding;
pub(super) use transaction::{Transaction, execute as execute_transaction, is_immediate, keep};

use super::Shared;
use super::acl::{Acl, Errand};
use super::blocked::Blocked;
use super::forward::{Carried, Requests};
use super::pubsub::{Kind, Subscriptions};
use super::registry::{Client, Names};
use super::thread::Thread;
use super::topology::Topology;

/// What is to become of a request and its reply.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The reply is written; it leaves in its turn.
    Replied,
    /// The reply is written; it leaves in its turn once the gate lets it. If nothing was changed, `again` says what to execute once more
    /// should the reply become void.
    Gated { ticket: Ticket, after: Seq, again: Option<Again> },
    /// Nothing was done: try again when the gate or the ring has changed.
    Parked,
    /// The reply is written; nothing more is read from this connection.
    Last,
    /// WAIT: the reply is written when enough copies hold what this connection wrote.
    Awaiting { copies: usize, until: Option<Mono> },
    /// With cluster mode off, nothing was done: another member is the primary, and is to execute it.
    Forward,
    /// There is no data for the request yet. (None on the way there, before the wait is known.)
    Blocked(Option<Box<Blocked>>),
}

/// What a reply was made from.
#[derive(Clone, Debug)]
pub(super) enum Again {
    /// The request, whose bytes are in the connection's input.
    Request,
    Transaction(Rc<Transaction>),
}

/// Which replies a client wants (CLIENT REPLY).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum ReplyMode {
    #[default]
    On,
    Off,
    /// Not the reply to the next request; this one was CLIENT REPLY SKIP itself.
    SkipNext,
    Skip,
}

/// What one connection has agreed on.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Arc<Client>,
    identity: Identity,
    /// What the present request waits for, if it is about the ACL file.
    errand: Option<Arc<Errand>>,
    /// The client is another member, which forwards requests: it is told where the primary is.
    pub(super) is_forwarded: bool,
    pub(super) db: u8,
    /// The client accepts reads from a copy.
    pub(super) readonly: bool,
    pub(super) reply_mode: ReplyMode,
    /// Whether the present request may wait for data: not in its last attempt.
    pub(super) may_wait: bool,
    /// The last record that this connection's commands wrote.
    pub(super) wrote: Seq,
    subscriptions: Option<Box<Subscriptions>>,
    tracked: Option<Box<tracking::Tracked>>,
    /// Until when CLIENT PAUSE holds the present request back, in ms after the start.
    pub(super) paused_until_ms: u64,
    /// The present request was executed before, and its first reply could not be given.
    pub(super) is_rerun: bool,
    /// The present command is one of a transaction: its reply is a part of another.
    in_transaction: bool,
    /// What a transaction publishes once it is executed.
    unpublished: Vec<(Vec<u8>, Vec<u8>)>,
    /// What MULTI keeps for EXEC.
    transaction: Option<Box<Transaction>>,
    watched: transaction::Watched,
}

/// One session command, being executed.
pub(super) struct Call<'a> {
    pub(super) thread: &'a Thread,
    pub(super) session: &'a mut Session,
    pub(super) spec: &'static CommandSpec,
    pub(super) args: &'a [&'a [u8]],
    pub(super) now: Mono,
    pub(super) wall: UnixMs,
}

impl Session {
    pub(super) fn new(client: Arc<Client>, acl: &Acl) -> Self {
        Self {
            client,
            identity: Identity::new(acl),
            errand: None,
            is_forwarded: false,
            db: 0,
            readonly: false,
            reply_mode: ReplyMode::On,
            may_wait: true,
            wrote: Seq(0),
            subscriptions: None,
            tracked: None,
            paused_until_ms: 0,
            is_rerun: false,
            in_transaction: false,
            unpublished: Vec::new(),
            transaction: None,
            watched: transaction::Watched::default(),
        }
    }

    fn set_readonly(&mut self, readonly: bool) {
        self.readonly = readonly;
        self.client.shown.readonly.store(readonly, Ordering::Relaxed);
    }

    fn set_db(&mut self, db: u8) {
        self.db = db;
        self.client.shown.db.store(db, Ordering::Relaxed);
    }

    fn set_protocol(&mut self, protocol: Protocol, reply: &mut ReplyBuf) {
        reply.set_protocol(protocol);
        let number = match protocol {
            Protocol::Resp2 => 2,
            Protocol::Resp3 => 3,
        };
        self.client.shown.resp.store(number, Ordering::Relaxed);
    }

    /// What another member must know to execute this client's requests from now on. None if it cannot be told: what is watched here has
    /// not been watched there, and whom a redirected invalidation goes to is connected to this member.
    pub(super) fn carry(&self, protocol: Protocol) -> Option<Carried> {
        let mut greeting = Requests::default();
        if let Some((user, password)) = self.credentials() {
            greeting.add(&[b"AUTH", user, password]);
        }
        if protocol == Protocol::Resp3 {
            greeting.add(&[b"HELLO", b"3"]);
        }
        let mut is_bound = self.reply_mode != ReplyMode::On;
        if let Some(tracked) = &self.tracked {
            greeting.append(tracked.as_requests()?);
            is_bound = true;
        }
        for kind in Kind::ALL {
            for name in self.subscriptions.iter().flat_map(|subscriptions| subscriptions.names(kind)) {
                // It is confirmed by a message, which is no reply.
                greeting.add_unanswered(&[kind.confirmations().0.as_bytes(), &name]);
                is_bound = true;
            }
        }
        let last = match self.reply_mode {
            ReplyMode::On => None,
            ReplyMode::Off => Some(&b"OFF"[..]),
            ReplyMode::Skip | ReplyMode::SkipNext => Some(&b"SKIP"[..]),
        };
        let begun = self.transaction.as_ref().map(|transaction| transaction.as_requests()).unwrap_or_default();
        (!self.watches()).then_some(Carried { greeting, last, db: self.db, begun, is_bound })
    }

    /// RESET: as if it had just connected.
    fn reset(&mut self, acl: &Acl, reply: &mut ReplyBuf) {
        drop(self.discard());
        self.subscriptions = None;
        self.tracked = None;
        self.set_protocol(Protocol::Resp2, reply);
        self.set_db(0);
        self.set_readonly(false);
        self.log_out(acl);
        self.reply_mode = ReplyMode::On;
        self.client.names.lock().name.clear();
    }
}

impl<'a> Call<'a> {
    /// Executes the command.
    pub(super) fn run(mut self, command: SessionCommand, reply: &mut ReplyBuf) -> Outcome {
        match command {
            SessionCommand::Acl => return acl::acl(&mut self, reply),
            SessionCommand::Asking if !self.thread.config.cluster_mode => reply.error(cluster::CLUSTER_MODE_OFF),
            SessionCommand::Asking => reply.ok(),
            SessionCommand::Auth => hello::auth(&mut self, reply),
            SessionCommand::Bgsave => process::bgsave(&self, reply),
            SessionCommand::Client => return client::client(&mut self, reply),
            SessionCommand::Cluster => cluster::cluster(&self, reply),
            SessionCommand::Command => command::command(&self, reply),
            SessionCommand::Config => config::config(&self, reply),
            SessionCommand::Debug => return debug::debug(&mut self, reply),
            SessionCommand::Eval | SessionCommand::EvalRo | SessionCommand::Evalsha | SessionCommand::EvalshaRo => {
                return script::eval(&mut self, reply);
            }
            SessionCommand::Hello => hello::hello(&mut self, reply),
            SessionCommand::Info => info::info(&self, reply),
            SessionCommand::Lastsave => process::lastsave(&self, reply),
            SessionCommand::Ping => ping(self.args, self.session.is_confined(reply.protocol()), reply),
            SessionCommand::Psubscribe => return pubsub::subscribe(&mut self, Kind::Pattern, reply),
            SessionCommand::Publish => pubsub::publish(&mut self, reply),
            SessionCommand::Pubsub => pubsub::pubsub(&self, reply),
            SessionCommand::Punsubscribe => pubsub::unsubscribe(&mut self, Kind::Pattern, reply),
            SessionCommand::Quit => {
                reply.ok();
                return Outcome::Last;
            }
            // It says what it already is: who reads from this member may read from a copy.
            SessionCommand::Readonly | SessionCommand::Readwrite if !self.thread.config.cluster_mode => reply.ok(),
            SessionCommand::Readonly => {
                self.session.set_readonly(true);
                reply.ok();
            }
            SessionCommand::Readwrite => {
                self.session.set_readonly(false);
                reply.ok();
            }
            SessionCommand::Replicaof | SessionCommand::Slaveof => process::replicaof(reply),
            SessionCommand::Reset => {
                self.session.reset(&self.shared().acl, reply);
                reply.simple("RESET");
            }
            SessionCommand::Role => replication::role(&self, reply),
            SessionCommand::Save => process::save(reply),
            SessionCommand::Script => return script::script(&mut self, reply),
            SessionCommand::Select => self.select(reply),
            SessionCommand::Shutdown => return process::shutdown(&self, reply),
            SessionCommand::Slowlog => slowlog::slowlog(&self, reply),
            SessionCommand::Spublish => return pubsub::publish_in_shard(&mut self, reply),
            SessionCommand::Ssubscribe => return pubsub::subscribe(&mut self, Kind::ShardChannel, reply),
            SessionCommand::Subscribe => return pubsub::subscribe(&mut self, Kind::Channel, reply),
            SessionCommand::Sunsubscribe => pubsub::unsubscribe(&mut self, Kind::ShardChannel, reply),
            SessionCommand::Unsubscribe => pubsub::unsubscribe(&mut self, Kind::Channel, reply),
            SessionCommand::Wait => return replication::wait(&self, reply),
            SessionCommand::Discard => transaction::discard(&mut self, reply),
            SessionCommand::Exec => return transaction::exec(&mut self, reply),
            SessionCommand::Multi => transaction::multi(&mut self, reply),
            SessionCommand::Unwatch => transaction::unwatch(&mut self, reply),
            SessionCommand::Watch => return transaction::watch(&mut self, reply),
        }
        Outcome::Replied
    }

    fn shared(&self) -> &'a Shared {
        &self.thread.shared
    }

    fn topology(&self) -> Option<Rc<Topology>> {
        self.thread.rings.newest()
    }

    /// The argument at `index`; empty where there is none.
    fn arg(&self, index: usize) -> &'a [u8] {
        self.args.get(index).copied().unwrap_or_default()
    }

    /// The arguments from `index` on.
    fn args_from(&self, index: usize) -> &'a [&'a [u8]] {
        self.args.get(index..).unwrap_or_default()
    }

    /// The subcommand in capitals.
    fn subcommand(&self) -> String {
        String::from_utf8_lossy(self.arg(1)).to_ascii_uppercase()
    }

    fn unknown_subcommand(&self, reply: &mut ReplyBuf) {
        let given = text_of(self.arg(1).get(..128).unwrap_or(self.arg(1)));
        let container = self.spec.name.to_ascii_uppercase();
        reply.error(&format!("ERR unknown subcommand '{given}'. Try {container} HELP."));
    }

    /// Whether a subcommand has as many arguments as it takes, its own name and the container's included; if not, says so.
    fn takes(&self, count: std::ops::RangeInclusive<usize>, reply: &mut ReplyBuf) -> bool {
        let fits = count.contains(&self.args.len());
        if !fits {
            let sub = String::from_utf8_lossy(self.arg(1)).to_ascii_lowercase();
            reply.error(&format!("ERR wrong number of arguments for '{}|{sub}' command", self.spec.name));
        }
        fits
    }

    fn select(&mut self, reply: &mut ReplyBuf) {
        let cluster_mode = self.thread.config.cluster_mode;
        match parse::<i64>(self.arg(1)) {
            None => reply.error("ERR value is not an integer or out of range"),
            Some(0) => {
                self.session.set_db(0);
                reply.ok();
            }
            Some(_) if cluster_mode => reply.error("ERR SELECT is not allowed in cluster mode"),
            Some(db) => match u8::try_from(db).ok().filter(|&db| db < super::DATABASES) {
                Some(db) => {
                    self.session.set_db(db);
                    reply.ok();
                }
                None => reply.error("ERR DB index is out of range"),
            },
        }
    }
}

/// To a confined connection it looks like a message.
fn ping(args: &[&[u8]], confined: bool, reply: &mut ReplyBuf) {
    match args {
        [_] | [_, _] if confined => {
            reply.array(2);
            reply.bulk(b"pong");
            reply.bulk(args.get(1).copied().unwrap_or_default());
        }
        [_] => reply.simple("PONG"),
        [_, message] => reply.bulk(message),
        _ => reply.error("ERR wrong number of arguments for 'ping' command"),
    }
}

/// The error for a name that is no command, as Redis words it.
pub(super) fn unknown_command(args: &[&[u8]]) -> String {
    const SHOWN_BYTES_MAX: usize = 128;
    let start = |arg: &[u8], bytes_max: usize| arg.iter().copied().take(bytes_max).collect::<Vec<u8>>();
    let name = args.first().map(|name| text_of(&start(name, SHOWN_BYTES_MAX))).unwrap_or_default();
    let mut text = format!("ERR unknown command '{name}', with args beginning with: ");
    let mut left = SHOWN_BYTES_MAX;
    for arg in args.iter().skip(1) {
        if left == 0 {
            break;
        }
        let shown = start(arg, left);
        left = left.saturating_sub(shown.iter().take_while(|byte| **byte != 0).count() + "'' ".len());
        text.push_str(&format!("'{}' ", text_of(&shown)));
    }
    text
}

/// A number in an argument.
fn parse<T: std::str::FromStr>(arg: &[u8]) -> Option<T> {
    std::str::from_utf8(arg).ok()?.parse().ok()
}

/// A name that a client gives itself may hold no spaces or control characters, since CLIENT LIST would not be readable.
fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

fn set_name(session: &Session, name: &[u8], reply: &mut ReplyBuf) -> bool {
    let plain = is_plain(name);
    if plain {
        let Names { name: kept, .. } = &mut *session.client.names.lock();
        *kept = String::from_utf8_lossy(name).into_owned();
    } else {
        reply.error("ERR Client names cannot contain spaces, newlines or special characters.");
    }
    plain
}
