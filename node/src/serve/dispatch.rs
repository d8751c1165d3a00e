//! One request: refused, redirected, parked, executed by the engine, or handed to the session's commands.
//!
//! Owns the order of these decisions. Who may serve is never decided here: the gate says whether a command may run, at the moment when
//! the engine holds its lanes, and the ring that is found after that says where else.

use std::cell::Cell;
use std::time::Instant;

use ringmaster_engine::{
    CommandSpec, Ctx, Executed, Flags, Group, Handler, Keys, Located, ReplyBuf, SessionCommand, UnixMs, lookup,
};
use ringmaster_replica::{Access, Mono, TicketKind, Verdict};
use ringmaster_ring::{Seq, Slot};

use super::acl::Acl;
use super::scripts::BUSY;
use super::session::{Again, Call, Outcome, Session, is_immediate, keep, unknown_command};
use super::stats::Counters;
use super::thread::Thread;
use super::{blocked, gate_access, tracking};
use crate::env::{boot_now, wall_now_ms};

const NEEDS_AUTH: &str = "NOAUTH Authentication required.";
pub(super) const CROSS_SLOT: &str = "CROSSSLOT Keys in request don't hash to the same slot";
const TOO_FEW_COPIES: &str = "NOREPLICAS Not enough good replicas to write.";
const NOT_SERVED: &str = "CLUSTERDOWN Hash slot not served";
const NO_RING: &str = "CLUSTERDOWN The cluster is down";
const RETIRED: &str = "CLUSTERDOWN This member is retired";
const READ_ONLY: &str = "READONLY You can't write against a read only replica.";
const STALE: &str = "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.";

/// The keys of most commands.
const ONE_KEY_FIRST: Keys = Keys::Range { first: 1, last: 1, step: 1 };

/// When a run of requests is executed. Read once for several requests; what carries safety is read anew when replies leave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) now: Mono,
    pub(super) wall: UnixMs,
}

impl Moment {
    pub(super) fn read() -> Self {
        Self { now: boot_now(), wall: UnixMs(wall_now_ms()) }
    }

    /// The same run of requests, when its replies leave.
    pub(super) fn later(self) -> Self {
        Self { now: boot_now(), ..self }
    }
}

/// Executes or refuses the request in `args`, which is not empty. `located` is where its first argument is, if that is a key.
pub(super) fn request(
    thread: &Thread,
    session: &mut Session,
    (args, located): (&[&[u8]], Option<Located>),
    moment: Moment,
    reply: &mut ReplyBuf,
) -> Outcome {
    let counters = &thread.counters;
    let Some(spec) = args.first().and_then(|name| lookup(name)) else {
        session.refuse_transaction();
        counters.commands().add(1);
        reply.error(&unknown_command(args));
        return Outcome::Replied;
    };
    if let Some(refusal) = refusal(spec, session, &thread.shared.acl, args) {
        return refused(thread, session, spec, &refusal, reply);
    }
    if !session.is_unrestricted(&thread.shared.acl)
        && let Some(denial) = session.denial(&thread.shared, spec, args)
    {
        return refused_for_rights(thread, session, spec, &denial, reply);
    }
    if session.is_confined(reply.protocol()) && !is_allowed_to_subscribers(spec) {
        counters.commands().add(1);
        reply.error(&format!(
            "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
            spec.name
        ));
        return Outcome::Replied;
    }
    let now_ms = || thread.shared.ms_of(moment.now);
    if let Some(until_ms) = thread.shared.pause.holds(spec, session.queues_writes(spec), now_ms) {
        session.paused_until_ms = until_ms;
        return Outcome::Parked;
    }
    if session.is_queueing() && !is_immediate(spec) {
        counters.commands().add(1);
        return keep(thread, session, spec, args, moment, reply);
    }
    let mark = reply.len();
    let counted = counters.of_command(spec);
    // Of the others a look at the clock would be a good part.
    let may_be_slow = !spec.flags.has(Flags::FAST) && spec.group != Group::String;
    let timed = (may_be_slow || counted.is_some_and(|command| command.is_sampled())).then(Instant::now);
    if thread.shared.tracking.is_active() {
        tracking::set_actor(session.client.id);
        if session.is_tracked() {
            session.note_reads(thread, spec, args, reply.protocol());
        }
    }
    let outcome = match spec.handler {
        Handler::Session(command) => {
            let Moment { now, wall } = moment;
            Call { thread, session: &mut *session, spec, args, now, wall }.run(command, reply)
        }
        Handler::Data(_) => data(thread, session, spec, (args, located), moment, reply),
    };
    if matches!(outcome, Outcome::Parked) {
        // It will come again; then it counts.
        return outcome;
    }
    if session.is_tracked() && !matches!(spec.handler, Handler::Session(SessionCommand::Client)) {
        session.end_caching();
    }
    session.client.note_command(spec, thread.shared.ms_of(moment.now));
    counters.commands().add(1);
    if let Some(command) = counted {
        command.calls.add(1);
        if let Some(began) = timed {
            let took = began.elapsed();
            command.sample(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
            let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            if may_be_slow && thread.shared.slow_log.wants(took_us) {
                note_slow(thread, session, args, took_us, moment);
            }
        }
        if reply.as_bytes().get(mark) == Some(&b'-') {
            command.failed.add(1);
        }
    }
    outcome
}

/// Not executed, whoever serves. What the client began by MULTI will not be executed.
#[cold]
fn refused(
    thread: &Thread,
    session: &mut Session,
    spec: &'static CommandSpec,
    error: &str,
    reply: &mut ReplyBuf,
) -> Outcome {
    session.refuse_transaction();
    thread.counters.commands().add(1);
    if let Some(command) = thread.counters.of_command(spec) {
        command.rejected.add(1);
    }
    reply.error(error);
    Outcome::Replied
}

/// The user may not do this.
#[cold]
fn refused_for_rights(
    thread: &Thread,
    session: &mut Session,
    spec: &'static CommandSpec,
    denial: &str,
    reply: &mut ReplyBuf,
) -> Outcome {
    if matches!(spec.handler, Handler::Session(SessionCommand::Exec)) {
        session.abort_transaction();
        let error = format!("EXECABORT Transaction discarded because of: NOPERM {denial}");
        return refused(thread, session, spec, &error, reply);
    }
    refused(thread, session, spec, &format!("NOPERM {denial}"), reply)
}

#[cold]
fn note_slow(thread: &Thread, session: &Session, args: &[&[u8]], took_us: u64, moment: Moment) {
    let (addr, name) = (session.client.addr.to_string(), session.client.names.lock().name.clone());
    thread.shared.slow_log.add(moment.wall.0 / 1_000, took_us, args, addr, name);
}

fn is_allowed_to_subscribers(spec: &CommandSpec) -> bool {
    use SessionCommand::{
        Ping, Psubscribe, Punsubscribe, Quit, Reset, Ssubscribe, Subscribe, Sunsubscribe, Unsubscribe,
    };
    matches!(
        spec.handler,
        Handler::Session(
            Psubscribe | Punsubscribe | Ssubscribe | Subscribe | Sunsubscribe | Unsubscribe | Ping | Quit | Reset
        )
    )
}

/// Why a request is not executed whoever serves.
fn refusal(spec: &CommandSpec, session: &Session, acl: &Acl, args: &[&[u8]]) -> Option<String> {
    if !spec.accepts(args.len()) {
        return Some(spec.wrong_arity());
    }
    let must_authenticate = !session.has_authenticated() && !spec.flags.has(Flags::NO_AUTH);
    (must_authenticate && !session.is_authenticated(acl)).then(|| NEEDS_AUTH.to_owned())
}

/// Executes a command on data, or says who would. Also what a request goes through that is executed again.
pub(super) fn data(
    thread: &Thread,
    session: &mut Session,
    spec: &'static CommandSpec,
    (args, located): (&[&[u8]], Option<Located>),
    moment: Moment,
    reply: &mut ReplyBuf,
) -> Outcome {
    let shared = &thread.shared;
    shared.note_use(moment.now);
    let cluster_mode = thread.config.cluster_mode;
    let Some(access) = access_of(spec, session, cluster_mode) else {
        // It touches no data: any member may answer.
        let ctx = Ctx { now: moment.wall, db: session.db, permit: &|_| true };
        let _nothing_to_wait_for = shared.engine.execute(spec, args, &ctx, reply);
        return Outcome::Replied;
    };
    let slot = match located {
        Some(located) if cluster_mode && spec.keys == ONE_KEY_FIRST => Ok(Some(located.slot())),
        _ => slot_of(spec, args, cluster_mode),
    };
    let slot = match slot {
        Ok(slot) => slot,
        Err(CrossSlot) => {
            reply.error(CROSS_SLOT);
            return Outcome::Replied;
        }
    };
    if let Some(slot) = slot
        && !is_mine(thread, slot)
    {
        return redirect(thread, slot, reply);
    }
    // Those who wait are served by who writes, so a copy can only say what there is.
    let may_wait = || shared.gate.may_execute(Access::Write, moment.now) != Verdict::Elsewhere;
    if spec.flags.has(Flags::BLOCKING) && session.may_wait && (access == Access::Write || may_wait()) {
        return blocked::execute(thread, session, spec, args, (access, slot), moment, reply);
    }
    let mark = reply.len();
    let engine = &shared.engine;
    let outcome = gated(thread, session, access, slot, moment, reply, |ctx, reply| {
        engine.execute_at(slot, located, spec, args, ctx, reply).into()
    });
    let waited_in_vain = !session.may_wait && spec.flags.has(Flags::BLOCKING);
    if waited_in_vain && reply.as_bytes().get(mark..) == Some(b"$-1\r\n") {
        // Told alike by all who waited, also by those who say it otherwise where they do not wait.
        reply.truncate(mark);
        reply.null_array();
    }
    if access != Access::Write && matches!(outcome, Outcome::Gated { .. }) {
        count_lookup(&thread.counters, reply.as_bytes().get(mark..).unwrap_or_default());
    }
    outcome
}

/// What came of an execution under the gate.
#[derive(Clone, Copy, Debug)]
pub(super) enum Gated {
    Replied {
        after: Seq,
        wrote: bool,
    },
    NotPermitted,
    /// It waits for data, as the caller knows.
    Waiting,
}

impl From<Executed> for Gated {
    fn from(executed: Executed) -> Self {
        match executed {
            Executed::Replied { after, wrote } => Self::Replied { after, wrote },
            Executed::NotPermitted => Self::NotPermitted,
        }
    }
}

/// Has the engine execute something under the gate.
pub(super) fn gated(
    thread: &Thread,
    session: &mut Session,
    access: Access,
    slot: Option<Slot>,
    moment: Moment,
    reply: &mut ReplyBuf,
    execute: impl FnOnce(&Ctx<'_>, &mut ReplyBuf) -> Gated,
) -> Outcome {
    gated_with_session(thread, session, access, slot, moment, reply, |ctx, _, reply| execute(ctx, reply))
}

/// The same for what also changes the session.
pub(super) fn gated_with_session(
    thread: &Thread,
    session: &mut Session,
    access: Access,
    slot: Option<Slot>,
    moment: Moment,
    reply: &mut ReplyBuf,
    execute: impl FnOnce(&Ctx<'_>, &mut Session, &mut ReplyBuf) -> Gated,
) -> Outcome {
    let gate = &thread.shared.gate;
    let ticket = gate.ticket(access);
    let verdict = Cell::new(None);
    let permit = |asked: ringmaster_engine::Access| {
        // What a command does is known to the engine; that a copy may answer a read, to the session.
        let asked = match gate_access(asked) {
            Access::Read if access == Access::CopyRead => Access::CopyRead,
            asked => asked,
        };
        let said = gate.may_execute(asked, moment.now);
        verdict.set(Some(said));
        said == Verdict::Yes
    };
    let mark = reply.len();
    let ctx = Ctx { now: moment.wall, db: session.db, permit: &permit };
    match execute(&ctx, session, reply) {
        // It was refused for its form, before it looked at any data.
        Gated::Replied { .. } if verdict.get().is_none() => Outcome::Replied,
        Gated::Waiting => Outcome::Blocked(None),
        Gated::Replied { after, wrote } => {
            if wrote {
                session.wrote = after;
            }
            let ticket = ticket.wrote(wrote);
            let again = (ticket.kind != TicketKind::Write).then_some(Again::Request);
            Outcome::Gated { ticket, after, again }
        }
        Gated::NotPermitted => {
            reply.truncate(mark);
            match verdict.get() {
                Some(Verdict::Refused) => reply.error(TOO_FEW_COPIES),
                Some(Verdict::Elsewhere) => return elsewhere(thread, session, slot, access, reply),
                // Permitted, and yet not done: a script that takes long holds its lanes.
                Some(Verdict::Yes) | None if thread.shared.scripts.are_busy() => reply.error(BUSY),
                Some(Verdict::Park | Verdict::Yes) | None => return Outcome::Parked,
            }
            Outcome::Replied
        }
    }
}

/// Whether this member holds the shard of a slot, by the ring.
pub(super) fn is_mine(thread: &Thread, slot: Slot) -> bool {
    thread.rings.is_mine(slot)
}

/// What a command wants of the gate; nothing, if it neither reads nor writes data.
pub(super) fn access_of(spec: &CommandSpec, session: &Session, cluster_mode: bool) -> Option<Access> {
    let may_write = spec.flags.has(Flags::SCRIPT) && !spec.flags.has(Flags::READONLY);
    if spec.flags.has(Flags::WRITE) || may_write {
        return Some(Access::Write);
    }
    // Cluster clients ask for stale reads, and mean the member that they connected to with questions about all keys. Others do not know
    // that there are several members.
    let at_copies = cluster_mode && (session.readonly || spec.keys == Keys::None);
    spec.flags.has(Flags::READONLY).then_some(if at_copies { Access::CopyRead } else { Access::Read })
}

/// The keys of one request are in different slots.
pub(super) struct CrossSlot;

/// The one slot of a request's keys. None without keys, where slots do not matter, and where the keys cannot be found: the engine then
/// says why.
pub(super) fn slot_of(spec: &CommandSpec, args: &[&[u8]], cluster_mode: bool) -> Result<Option<Slot>, CrossSlot> {
    if !cluster_mode || spec.keys == Keys::None {
        return Ok(None);
    }
    let Ok(mut keys) = spec.keys_of(args) else { return Ok(None) };
    let Some(first) = keys.next() else { return Ok(None) };
    let slot = Slot::of_key(first);
    if keys.all(|key| Slot::of_key(key) == slot) { Ok(Some(slot)) } else { Err(CrossSlot) }
}

/// The gate has sent a request elsewhere.
pub(super) fn elsewhere(
    thread: &Thread,
    session: &Session,
    slot: Option<Slot>,
    access: Access,
    reply: &mut ReplyBuf,
) -> Outcome {
    if let Some(slot) = slot {
        return redirect(thread, slot, reply);
    }
    let topology = thread.rings.newest();
    if topology.as_ref().is_some_and(|t| t.my_shard().is_some_and(|(_, shard)| shard.primary == thread.shared.holder)) {
        // The ring is ahead of the gate, which is about to follow.
        return Outcome::Parked;
    }
    if !thread.config.cluster_mode && topology.is_some() {
        if !session.is_forwarded {
            return Outcome::Forward;
        }
        // Nothing of what follows is executed either: the other member sends all of it to the primary, by its own ring.
        reply.error("MOVED 0 :0");
        return Outcome::Last;
    }
    let error = match topology {
        None => NO_RING,
        Some(topology) if topology.is_retired() => RETIRED,
        Some(_) if access == Access::Write => READ_ONLY,
        Some(_) => STALE,
    };
    reply.error(error);
    Outcome::Replied
}

/// MOVED to the slot's primary, by a ring that is at least as new as the gate that sent the request away.
pub(super) fn redirect(thread: &Thread, slot: Slot, reply: &mut ReplyBuf) -> Outcome {
    let Some(topology) = thread.rings.newest() else {
        reply.error(NO_RING);
        return Outcome::Replied;
    };
    let Some(owner) = topology.owner_of(slot) else {
        reply.error(NOT_SERVED);
        return Outcome::Replied;
    };
    let me = thread.shared.holder;
    match &owner.endpoint {
        // The ring is ahead of the gate, which is about to follow.
        _ if owner.primary == me => return Outcome::Parked,
        // The ring still names a former process of this member.
        _ if owner.primary.member == me.member => reply.error(NOT_SERVED),
        None => reply.error(NOT_SERVED),
        Some(endpoint) => {
            thread.counters.moved().add(1);
            reply.error(&format!("MOVED {slot} {endpoint}"));
        }
    }
    Outcome::Replied
}

/// Counts a read as a hit or a miss, by its reply: nulls and empty collections are misses, errors are neither.
fn count_lookup(counters: &Counters, reply: &[u8]) {
    match reply {
        [b'-', ..] => {}
        b"$-1\r\n" | b"_\r\n" | b"*-1\r\n" | b"*0\r\n" | b"%0\r\n" | b"~0\r\n" => counters.keyspace_misses().add(1),
        _ => counters.keyspace_hits().add(1),
    }
}
