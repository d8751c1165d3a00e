//! MULTI, EXEC, DISCARD, WATCH: requests that are kept and then executed as one.
//!
//! Owns the queue. In cluster mode all its keys are in one slot. A transaction whose member loses its role before EXEC is redirected as
//! a whole; one that only read is executed again from its queue, like any read.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use ringmaster_engine::{
    CommandSpec, Flags, Handler, Parts, Queued, QueuedScript, ReplyBuf, SessionCommand, Watch, lookup,
};
use ringmaster_replica::{Access, Verdict};
use ringmaster_ring::{Seq, ShardEpoch, Slot};

use super::{Again, Call, Outcome, Session, parse};
use crate::serve::acl::Asked;
use crate::serve::dispatch::{self, Moment};
use crate::serve::forward::Requests;
use crate::serve::thread::Thread;

const ABORTED: &str = "EXECABORT Transaction discarded because of previous errors.";
const TOO_LONG: &str = "ERR the transaction is longer than a client may keep here";

/// What EXEC will execute.
#[derive(Debug, Default)]
pub(in crate::serve) struct Transaction {
    commands: Vec<Kept>,
    watches: Vec<Watch>,
    /// The slot of the keys so far, and whether a key was in another one.
    slot: Option<Slot>,
    crosses_slots: bool,
    /// A request was refused instead of being kept: EXEC will refuse the rest.
    refused: bool,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    spec: &'static CommandSpec,
    args: Vec<Vec<u8>>,
}

/// What a connection watches.
#[derive(Debug, Default)]
pub(super) struct Watched {
    keys: Vec<Watch>,
    /// The epoch in which it began: what happened in others was not seen.
    epoch: ShardEpoch,
}

impl Session {
    /// Whether requests are kept until EXEC.
    pub(in crate::serve) fn is_queueing(&self) -> bool {
        self.transaction.is_some()
    }

    /// Whether a command is EXEC of a transaction that may write.
    pub(in crate::serve) fn queues_writes(&self, spec: &CommandSpec) -> bool {
        let writes = |kept: &Kept| {
            kept.spec.flags.has(Flags::WRITE)
                || kept.spec.flags.has(Flags::SCRIPT)
                || kept.spec.flags.has(Flags::PUBSUB)
        };
        matches!(spec.handler, Handler::Session(SessionCommand::Exec))
            && self.transaction.as_ref().is_some_and(|transaction| transaction.commands.iter().any(writes))
    }

    /// EXEC itself may not be executed.
    pub(in crate::serve) fn abort_transaction(&mut self) {
        drop(self.discard());
    }

    /// EXEC will refuse what is kept, because a request could not be.
    pub(in crate::serve) fn refuse_transaction(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.refused = true;
        }
    }

    pub(super) fn watches(&self) -> bool {
        !self.watched.keys.is_empty()
    }

    /// Neither keeps nor watches anything any more.
    pub(super) fn discard(&mut self) -> Option<Box<Transaction>> {
        self.watched = Watched::default();
        self.client.shown.watched.store(0, Ordering::Relaxed);
        self.client.shown.multi.store(-1, Ordering::Relaxed);
        self.transaction.take()
    }
}

impl Transaction {
    /// MULTI and what was kept since.
    pub(super) fn as_requests(&self) -> Requests {
        let mut requests = Requests::default();
        requests.add(&[b"MULTI"]);
        for kept in &self.commands {
            requests.add(&kept.args.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
        requests
    }
}

/// Whether MULTI executes this command at once instead of keeping it.
pub(in crate::serve) fn is_immediate(spec: &CommandSpec) -> bool {
    use SessionCommand::{Discard, Exec, Multi, Quit, Reset, Watch};
    matches!(spec.handler, Handler::Session(Discard | Exec | Multi | Quit | Reset | Watch))
}

/// Keeps a request until EXEC.
pub(in crate::serve) fn keep(
    thread: &Thread,
    session: &mut Session,
    spec: &'static CommandSpec,
    args: &[&[u8]],
    moment: Moment,
    reply: &mut ReplyBuf,
) -> Outcome {
    let error = match refusal(thread, session, spec, args, moment, reply) {
        ControlFlow::Continue(slot) => {
            let Some(transaction) = &mut session.transaction else { return Outcome::Replied };
            transaction.bytes = transaction.bytes.saturating_add(args.iter().map(|arg| arg.len()).sum());
            if transaction.bytes <= thread.config.query_buffer_bytes_max {
                transaction.crosses_slots |=
                    slot.is_some_and(|slot| transaction.slot.is_some_and(|other| other != slot));
                transaction.slot = transaction.slot.or(slot);
                transaction.commands.push(Kept { spec, args: args.iter().map(|arg| arg.to_vec()).collect() });
                let count = i64::try_from(transaction.commands.len()).unwrap_or(i64::MAX);
                session.client.shown.multi.store(count, Ordering::Relaxed);
                reply.simple("QUEUED");
                return Outcome::Replied;
            }
            Some(TOO_LONG)
        }
        ControlFlow::Break(error) => error,
    };
    if let Some(error) = error {
        reply.error(error);
    }
    session.refuse_transaction();
    Outcome::Replied
}

/// Why a request cannot be kept: an error, or none if one is in the reply already. Otherwise the slot of its keys.
fn refusal(
    thread: &Thread,
    session: &Session,
    spec: &'static CommandSpec,
    args: &[&[u8]],
    moment: Moment,
    reply: &mut ReplyBuf,
) -> ControlFlow<Option<&'static str>, Option<Slot>> {
    if spec.flags.has(Flags::NO_MULTI) {
        reply.error(&not_in_a_transaction(spec));
        return ControlFlow::Break(None);
    }
    if let Err(error) = spec.check_subcommand(args) {
        reply.error(&error.to_string());
        return ControlFlow::Break(None);
    }
    // Its effect on the replies to what is kept could not be told.
    if let [_, subcommand, ..] = args
        && spec.name == "client"
        && subcommand.eq_ignore_ascii_case(b"reply")
    {
        reply.error("ERR Command 'client|reply' not allowed inside a transaction");
        return ControlFlow::Break(None);
    }
    let Ok(slot) = dispatch::slot_of(spec, args, thread.config.cluster_mode) else {
        return ControlFlow::Break(Some(dispatch::CROSS_SLOT));
    };
    let (Some(at), Some(access)) = (slot, dispatch::access_of(spec, session, thread.config.cluster_mode)) else {
        return ControlFlow::Continue(slot);
    };
    // Only a hint, given early: EXEC asks again. A role that is about to change is waited for there.
    let served_here =
        dispatch::is_mine(thread, at) && thread.shared.gate.may_execute(access, moment.now) != Verdict::Elsewhere;
    if !served_here && !matches!(dispatch::redirect(thread, at, reply), Outcome::Parked) {
        return ControlFlow::Break(None);
    }
    ControlFlow::Continue(slot)
}

fn not_in_a_transaction(spec: &CommandSpec) -> String {
    format!("ERR Command '{}' not allowed inside a transaction", spec.name)
}

pub(super) fn multi(call: &mut Call<'_>, reply: &mut ReplyBuf) {
    if call.session.is_queueing() {
        call.session.refuse_transaction();
        return reply.error(&not_in_a_transaction(call.spec));
    }
    call.session.transaction = Some(Box::default());
    call.session.client.shown.multi.store(0, Ordering::Relaxed);
    reply.ok();
}

pub(super) fn discard(call: &mut Call<'_>, reply: &mut ReplyBuf) {
    if !call.session.is_queueing() {
        return reply.error("ERR DISCARD without MULTI");
    }
    drop(call.session.discard());
    reply.ok();
}

/// `WATCH key…`.
pub(super) fn watch(call: &mut Call<'_>, reply: &mut ReplyBuf) -> Outcome {
    if call.session.is_queueing() {
        call.session.refuse_transaction();
        reply.error(&not_in_a_transaction(call.spec));
        return Outcome::Replied;
    }
    let thread = call.thread;
    let slot = match dispatch::slot_of(call.spec, call.args, thread.config.cluster_mode) {
        Ok(slot) => slot,
        Err(dispatch::CrossSlot) => {
            reply.error(dispatch::CROSS_SLOT);
            return Outcome::Replied;
        }
    };
    if let Some(slot) = slot {
        let verdict = thread.shared.gate.may_execute(Access::Read, call.now);
        if !dispatch::is_mine(thread, slot) || verdict == Verdict::Elsewhere {
            return dispatch::redirect(thread, slot, reply);
        }
        if verdict == Verdict::Park {
            return Outcome::Parked;
        }
    } else {
        match thread.shared.gate.may_execute(Access::Read, call.now) {
            Verdict::Elsewhere => return dispatch::elsewhere(thread, call.session, None, Access::Read, reply),
            Verdict::Park => return Outcome::Parked,
            Verdict::Yes | Verdict::Refused => {}
        }
    }
    // Before the keys are watched: if the epoch changes in between, EXEC fails rather than succeeds.
    let epoch = thread.shared.gate.ticket(Access::Read).epoch;
    let db = call.session.db;
    let watched = &mut call.session.watched;
    if watched.keys.is_empty() {
        watched.epoch = epoch;
    }
    watched.keys.extend(call.args.iter().skip(1).map(|key| thread.shared.engine.watch(db, key, call.wall)));
    call.session.client.shown.watched.store(watched.keys.len(), Ordering::Relaxed);
    reply.ok();
    Outcome::Replied
}

pub(super) fn unwatch(call: &mut Call<'_>, reply: &mut ReplyBuf) {
    call.session.watched = Watched::default();
    call.session.client.shown.watched.store(0, Ordering::Relaxed);
    reply.ok();
}

/// `EXEC`. What was kept and watched is gone afterwards, unless the request is parked.
pub(super) fn exec(call: &mut Call<'_>, reply: &mut ReplyBuf) -> Outcome {
    let Some(transaction) = &call.session.transaction else {
        reply.error("ERR EXEC without MULTI");
        return Outcome::Replied;
    };
    let watches_epoch = (!call.session.watched.keys.is_empty()).then_some(call.session.watched.epoch);
    let epoch = call.thread.shared.gate.ticket(Access::Read).epoch;
    if transaction.refused || transaction.crosses_slots {
        reply.error(if transaction.refused { ABORTED } else { dispatch::CROSS_SLOT });
        drop(call.session.discard());
        return Outcome::Replied;
    }
    if watches_epoch.is_some_and(|watched| watched != epoch) {
        // The role went and came back: whether a watched key changed meanwhile is not known.
        reply.null_array();
        drop(call.session.discard());
        return Outcome::Replied;
    }
    let Some(mut transaction) = call.session.transaction.take() else { return Outcome::Replied };
    transaction.watches.append(&mut call.session.watched.keys);
    let transaction: Rc<Transaction> = Rc::from(transaction);
    let moment = Moment { now: call.now, wall: call.wall };
    let outcome = execute(call.thread, call.session, &transaction, true, moment, reply);
    match outcome {
        Outcome::Parked | Outcome::Forward => {
            // Nobody else holds it: it was only lent.
            if let Ok(mut transaction) = Rc::try_unwrap(transaction) {
                call.session.watched.keys.append(&mut transaction.watches);
                call.session.transaction = Some(Box::new(transaction));
            }
        }
        _ => drop(call.session.discard()),
    }
    outcome
}

/// Executes a transaction, for the first time or again.
pub(in crate::serve) fn execute(
    thread: &Thread,
    session: &mut Session,
    transaction: &Rc<Transaction>,
    first_time: bool,
    moment: Moment,
    reply: &mut ReplyBuf,
) -> Outcome {
    let cluster_mode = thread.config.cluster_mode;
    let args: Vec<Vec<&[u8]>> =
        transaction.commands.iter().map(|kept| kept.args.iter().map(Vec::as_slice).collect()).collect();
    let mut queued: Vec<Queued<'_>> =
        transaction.commands.iter().zip(&args).map(|(kept, args)| Queued { spec: kept.spec, args }).collect();
    let accesses = queued.iter().filter_map(|queued| match queued.changes_scripts() {
        true => Some(Access::Write),
        false => dispatch::access_of(queued.spec, session, cluster_mode),
    });
    // The strictest of all: a transaction that writes is at a primary or nowhere.
    let access = accesses.fold(Access::CopyRead, |strictest, access| match (strictest, access) {
        (Access::Write, _) | (_, Access::Write) => Access::Write,
        (Access::Read, _) | (_, Access::Read) => Access::Read,
        (Access::CopyRead, Access::CopyRead) => Access::CopyRead,
    });
    if let Some(slot) = transaction.slot
        && !dispatch::is_mine(thread, slot)
    {
        return dispatch::redirect(thread, slot, reply);
    }
    if session.is_tracked() {
        for Queued { spec, args } in &queued {
            session.note_reads(thread, spec, args, reply.protocol());
        }
    }
    let denials = deny(thread, session, &mut queued);
    let rights = session.rights(&thread.shared);
    let mut found = find_beforehand(thread, session, &queued, denials, moment, reply).into_iter();
    session.unpublished.clear();
    let engine = &thread.shared.engine;
    let mark = reply.len();
    let outcome = dispatch::gated_with_session(
        thread,
        session,
        access,
        transaction.slot,
        moment,
        reply,
        |ctx, session, reply| {
            session.in_transaction = true;
            let session = RefCell::new(session);
            let mut session_fn = |queued: &Queued<'_>, reply: &mut ReplyBuf| {
                let session = &mut **session.borrow_mut();
                match found.next()? {
                    Some(answer) => reply.raw(&answer),
                    None => run(thread, session, queued, moment, reply),
                }
                Some(session.db)
            };
            let mut script_fn = |script: QueuedScript<'_, '_>, queued: &Queued<'_>, reply: &mut ReplyBuf| {
                let unpublished = &mut session.borrow_mut().unpublished;
                super::script::run_queued(thread, queued, script, rights.clone(), unpublished, reply);
            };
            let mut parts = Parts { session: &mut session_fn, script: Some(&mut script_fn) };
            let executed = engine.execute_transaction_with(&queued, &transaction.watches, ctx, &mut parts, reply);
            session.into_inner().in_transaction = false;
            executed.into()
        },
    );
    let unpublished = std::mem::take(&mut session.unpublished);
    let replied = reply.as_bytes().get(mark..).unwrap_or_default();
    if first_time && replied.starts_with(b"*") && !replied.starts_with(b"*-1") {
        for (channel, payload) in unpublished {
            thread.shared.publish(&channel, &payload);
        }
    }
    match outcome {
        Outcome::Gated { ticket, after, again: Some(Again::Request) } => {
            Outcome::Gated { ticket, after, again: Some(Again::Transaction(Rc::clone(transaction))) }
        }
        outcome => outcome,
    }
}

/// Checks what was kept once more, where its user may not do everything: users may have changed since. What is not permitted any more
/// is made a command that is not about data; its replies are returned, by place.
fn deny<'a>(thread: &Thread, session: &mut Session, queued: &mut [Queued<'a>]) -> BTreeMap<usize, String> {
    let mut denials = BTreeMap::new();
    if session.is_unrestricted(&thread.shared.acl) {
        return denials;
    }
    let Some(nothing) = lookup(b"ping") else { return denials };
    let mut db = session.db;
    for (at, queued) in queued.iter_mut().enumerate() {
        let Queued { spec, args } = *queued;
        if let Some(denial) = session.late_denial(&thread.shared, &Asked { spec, args, db }) {
            denials.insert(at, denial);
            queued.spec = nothing;
        } else if matches!(spec.handler, Handler::Session(SessionCommand::Select)) {
            db = args.get(1).and_then(|db| parse(db)).unwrap_or(db);
        }
    }
    denials
}

/// Whether a command does something that must not happen if the transaction is not executed, and never asks the engine for lanes: it
/// runs while the transaction holds some. All others are answered beforehand.
fn runs_at_its_turn(command: SessionCommand, args: &[&[u8]]) -> bool {
    use SessionCommand::{
        Client, Psubscribe, Publish, Punsubscribe, Select, Spublish, Ssubscribe, Subscribe, Sunsubscribe, Unsubscribe,
    };
    match command {
        // To be told of changes one has to wait until nobody is in a lane.
        Client => !args.get(1).is_some_and(|what| what.eq_ignore_ascii_case(b"tracking")),
        Psubscribe | Publish | Punsubscribe | Select | Spublish | Ssubscribe | Subscribe | Sunsubscribe
        | Unsubscribe => true,
        _ => false,
    }
}

/// For each command that is neither about data nor about scripts its reply, if that has to be known before lanes are taken.
fn find_beforehand(
    thread: &Thread,
    session: &mut Session,
    queued: &[Queued<'_>],
    mut denials: BTreeMap<usize, String>,
    moment: Moment,
    reply: &ReplyBuf,
) -> Vec<Option<Vec<u8>>> {
    let mut found = Vec::new();
    for (at, queued) in queued.iter().enumerate() {
        let Handler::Session(command) = queued.spec.handler else { continue };
        if queued.spec.flags.has(Flags::SCRIPT) || command == SessionCommand::Script {
            continue;
        }
        let mut answer = ReplyBuf::new(reply.protocol());
        if let Some(denial) = denials.remove(&at) {
            answer.error(&denial);
            found.push(Some(answer.take()));
        } else if runs_at_its_turn(command, queued.args) {
            found.push(None);
        } else {
            session.in_transaction = true;
            run(thread, session, queued, moment, &mut answer);
            session.in_transaction = false;
            found.push(Some(answer.take()));
        }
    }
    found
}

/// Executes a command of a transaction that is neither about data nor about scripts.
fn run(
    thread: &Thread,
    session: &mut Session,
    &Queued { spec, args }: &Queued<'_>,
    Moment { now, wall }: Moment,
    reply: &mut ReplyBuf,
) {
    let Handler::Session(command) = spec.handler else { return };
    let outcome = Call { thread, session: &mut *session, spec, args, now, wall }.run(command, reply);
    if matches!(outcome, Outcome::Awaiting { .. }) {
        // WAIT does not wait in a transaction.
        reply.count(super::copies_holding(thread, Seq(session.wrote.0)));
    }
}
