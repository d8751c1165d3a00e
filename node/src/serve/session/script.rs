//! EVAL and its kin, and SCRIPT: scripts against the data, as one record each.

use std::rc::Rc;

use ringmaster_engine::{
    Access as DataAccess, Called, CommandSpec, Ctx, Flags, Handler, Queued, QueuedScript, ReplyBuf, ScriptCall,
    ScriptId, ScriptTxn, SessionCommand, SubcommandError, lookup, script_id,
};
use ringmaster_replica::Access;
use ringmaster_script::{Host, HostReply, Interpreter, Script};

use super::permission::Rights;
use super::{Call, Outcome, parse};
use crate::serve::acl::Asked;
use crate::serve::dispatch::{self, Moment};
use crate::serve::pubsub::Kind;
use crate::serve::scripts::NotKilled;
use crate::serve::thread::Thread;

const NO_SCRIPT: &str = "NOSCRIPT No matching script.";

/// A request to run a script, with everything found out that can be refused.
struct Wanted<'a> {
    script: Rc<Script>,
    /// EVAL brought a body that is not known yet.
    new_body: Option<&'a [u8]>,
    read_only: bool,
    keys: &'a [&'a [u8]],
    args: &'a [&'a [u8]],
    interpreter: Rc<Interpreter>,
    /// None if its user may do everything.
    rights: Option<Rights>,
}

impl<'a> Wanted<'a> {
    fn find(thread: &Thread, spec: &CommandSpec, args: &'a [&'a [u8]], rights: Option<Rights>) -> Result<Self, String> {
        let Handler::Session(command) = spec.handler else { return Err(NO_SCRIPT.into()) };
        let by_id = matches!(command, SessionCommand::Evalsha | SessionCommand::EvalshaRo);
        let [_, script, count, rest @ ..] = args else { return Err(spec.wrong_arity()) };
        if by_id && script.len() != 40 {
            return Err(NO_SCRIPT.into());
        }
        let count = parse::<i64>(count).ok_or("ERR value is not an integer or out of range")?;
        let count = usize::try_from(count).map_err(|_| "ERR Number of keys can't be negative")?;
        let (keys, args) =
            rest.split_at_checked(count).ok_or("ERR Number of keys can't be greater than number of args")?;
        let interpreter = thread.scripts.interpreter()?;
        let engine = &thread.shared.engine;
        let id = if by_id { parse_id(script).ok_or(NO_SCRIPT)? } else { script_id(script) };
        // A body that does not compile is neither kept nor recorded.
        let (script, new_body) = match interpreter.compiled(&id) {
            Some(known) if by_id => (known, None),
            None if by_id => (interpreter.compile(&id, &engine.script(&id).ok_or(NO_SCRIPT)?)?, None),
            // It may have been compiled for a request that was not permitted then.
            _ => (interpreter.compile(&id, script)?, engine.script(&id).is_none().then_some(*script)),
        };
        let declared = script.declared();
        let reads = spec.flags.has(Flags::READONLY);
        if reads && declared.flags && !declared.no_writes {
            return Err("ERR Can not execute a script with write flag using *_ro command.".into());
        }
        let read_only = reads || declared.no_writes;
        Ok(Self { script, new_body, read_only, keys, args, interpreter, rights })
    }

    fn call(&self) -> ScriptCall<'_> {
        ScriptCall {
            keys: self.keys,
            new_body: self.new_body,
            access: if self.read_only { DataAccess::Read } else { DataAccess::Write },
        }
    }

    fn run(&self, thread: &Thread, txn: &mut ScriptTxn<'_, '_>, published: &mut Published, reply: &mut ReplyBuf) {
        let _timed = thread.scripts.begin();
        published.0.clear();
        let rights = self.rights.as_ref();
        let mut commands = Commands { thread, txn, published, read_only: self.read_only, rights };
        self.interpreter.run(&self.script, (self.keys, self.args), &mut commands, reply);
    }
}

/// What a script has published: it goes out once the script was executed.
#[derive(Debug, Default)]
struct Published(Vec<(Vec<u8>, Vec<u8>)>);

/// The commands that a script calls.
struct Commands<'a, 't, 'e> {
    thread: &'a Thread,
    txn: &'a mut ScriptTxn<'t, 'e>,
    published: &'a mut Published,
    read_only: bool,
    rights: Option<&'a Rights>,
}

impl Host for Commands<'_, '_, '_> {
    fn call(&mut self, args: &[&[u8]], reply: &mut ReplyBuf) -> HostReply {
        let Some(spec) = args.first().and_then(|name| lookup(name)) else {
            reply.error("ERR Unknown command called from script");
            return HostReply::Replied;
        };
        if !spec.accepts(args.len()) {
            reply.error("ERR Wrong number of args calling command from script");
            return HostReply::Replied;
        }
        match spec.check_subcommand(args) {
            Ok(()) => {}
            Err(error @ SubcommandError::Unknown { .. }) => {
                reply.error(&error.to_string());
                return HostReply::Replied;
            }
            Err(SubcommandError::Arity { .. }) => {
                reply.error("ERR Wrong number of args calling command from script");
                return HostReply::Replied;
            }
        }
        if let Some(rights) = self.rights
            && !spec.flags.has(Flags::NOSCRIPT)
            && let Some(denial) = rights.refusal(&self.thread.shared, &Asked { spec, args, db: self.txn.db() })
        {
            reply.error(&format!("ERR ACL failure in script: {denial}"));
            return HostReply::Replied;
        }
        // Counting may write in the field, and so says the error; telling others is for who may write.
        let may_replicate = matches!(spec.name, "pfcount" | "publish" | "spublish");
        if self.read_only && may_replicate {
            reply.error("ERR Write commands are not allowed from read-only scripts.");
            return HostReply::Replied;
        }
        match spec.handler {
            _ if spec.flags.has(Flags::NOSCRIPT) => reply.error("ERR This Valkey command is not allowed from script"),
            Handler::Data(_) => {
                if self.thread.config.cluster_mode
                    && let Ok(Some(slot)) = dispatch::slot_of(spec, args, true)
                    && !dispatch::is_mine(self.thread, slot)
                {
                    reply.error("ERR Script attempted to access a non local key in a cluster node");
                    return HostReply::Replied;
                }
                let called = self.txn.call(spec, args, reply);
                if self.txn.has_written() {
                    self.thread.scripts.note_write();
                }
                if called == Called::NeedsLanes {
                    return HostReply::Abandon;
                }
            }
            Handler::Session(command) => self.without_data(command, args, reply),
        }
        HostReply::Replied
    }

    fn permits(&mut self, args: &[&[u8]]) -> Option<bool> {
        let spec = args.first().and_then(|name| lookup(name))?;
        Some(self.rights.is_none_or(|rights| rights.permits(&Asked { spec, args, db: self.txn.db() })))
    }

    fn log(&mut self, level: u8, text: &str) {
        match level {
            0 => tracing::debug!(script = text),
            1 | 2 => tracing::info!(script = text),
            _ => tracing::warn!(script = text),
        }
    }
}

impl Commands<'_, '_, '_> {
    fn without_data(&mut self, command: SessionCommand, args: &[&[u8]], reply: &mut ReplyBuf) {
        match (command, args) {
            (SessionCommand::Command, args) => super::command::answer(args, reply),
            (SessionCommand::Ping, [_]) => reply.simple("PONG"),
            (SessionCommand::Ping, [_, text]) => reply.bulk(text),
            (SessionCommand::Publish, [_, channel, payload]) => {
                reply.count(self.thread.shared.pubsub.subscribers(Kind::Channel, channel));
                self.published.0.push((channel.to_vec(), payload.to_vec()));
            }
            (SessionCommand::Select, [_, db]) => match parse::<u8>(db) {
                Some(0) => {
                    self.txn.select(0);
                    reply.ok();
                }
                Some(db) if !self.thread.config.cluster_mode && db < crate::serve::DATABASES => {
                    self.txn.select(db);
                    reply.ok();
                }
                None if parse::<i64>(db).is_none() => reply.error("ERR value is not an integer or out of range"),
                _ => reply.error("ERR DB index is out of range"),
            },
            _ => reply.error("ERR This Valkey command is not allowed from script"),
        }
    }
}

/// `EVAL body count key… arg…`, `EVALSHA id …`, `EVAL_RO`, `EVALSHA_RO`.
pub(super) fn eval(call: &mut Call<'_>, reply: &mut ReplyBuf) -> Outcome {
    let thread = call.thread;
    thread.shared.note_use(call.now);
    let slot = match dispatch::slot_of(call.spec, call.args, thread.config.cluster_mode) {
        Ok(slot) => slot,
        Err(dispatch::CrossSlot) => {
            reply.error(dispatch::CROSS_SLOT);
            return Outcome::Replied;
        }
    };
    if let Some(slot) = slot
        && !dispatch::is_mine(thread, slot)
    {
        return dispatch::redirect(thread, slot, reply);
    }
    let rights = call.session.rights(&thread.shared);
    let wanted = match Wanted::find(thread, call.spec, call.args, rights) {
        Ok(wanted) => wanted,
        Err(error) => {
            reply.error(&error);
            return Outcome::Replied;
        }
    };
    let access = match (call.spec.flags.has(Flags::READONLY), call.session.readonly) {
        (true, true) => Access::CopyRead,
        (true, false) => Access::Read,
        _ if wanted.read_only && wanted.new_body.is_none() => Access::Read,
        _ => Access::Write,
    };
    let mut published = Published::default();
    let moment = Moment { now: call.now, wall: call.wall };
    let first_time = !call.session.is_rerun;
    let engine = &thread.shared.engine;
    let outcome = dispatch::gated(thread, call.session, access, slot, moment, reply, |ctx, reply| {
        let mut script =
            |txn: &mut ScriptTxn<'_, '_>, reply: &mut ReplyBuf| wanted.run(thread, txn, &mut published, reply);
        engine.execute_script(&wanted.call(), ctx, &mut script, reply).into()
    });
    if first_time && matches!(outcome, Outcome::Gated { .. } | Outcome::Replied) {
        for (channel, payload) in published.0 {
            thread.shared.publish(&channel, &payload);
        }
    }
    outcome
}

/// A command of a transaction that runs a script, or is about scripts; what it publishes is added to what the transaction does.
pub(super) fn run_queued(
    thread: &Thread,
    queued: &Queued<'_>,
    script: QueuedScript<'_, '_>,
    rights: Option<Rights>,
    unpublished: &mut Vec<(Vec<u8>, Vec<u8>)>,
    reply: &mut ReplyBuf,
) {
    if !queued.spec.flags.has(Flags::SCRIPT) {
        match answer_or_change(thread, queued.args, reply) {
            Some(Change::Load { body, .. }) => script.load(body),
            Some(Change::Flush) => script.flush(),
            None => {}
        }
        return;
    }
    let wanted = match Wanted::find(thread, queued.spec, queued.args, rights) {
        Ok(wanted) => wanted,
        Err(error) => return reply.error(&error),
    };
    let mut published = Published::default();
    let mut run = |txn: &mut ScriptTxn<'_, '_>, reply: &mut ReplyBuf| wanted.run(thread, txn, &mut published, reply);
    script.run(&wanted.call(), &mut run, reply);
    unpublished.append(&mut published.0);
}

/// `SCRIPT LOAD|EXISTS|FLUSH|KILL`.
pub(super) fn script(call: &mut Call<'_>, reply: &mut ReplyBuf) -> Outcome {
    if let Err(error) = call.spec.check_subcommand(call.args) {
        reply.error(&error.to_string());
        return Outcome::Replied;
    }
    let mark = reply.len();
    let Some(wanted) = answer_or_change(call.thread, call.args, reply) else { return Outcome::Replied };
    // Whether it is done is not known yet.
    reply.truncate(mark);
    let thread = call.thread;
    let engine = &thread.shared.engine;
    change(call, reply, |ctx, reply| match wanted {
        Change::Load { id, body } => {
            reply.bulk(hex(&id).as_bytes());
            engine.load_script(body, ctx).into()
        }
        Change::Flush => {
            reply.ok();
            engine.flush_scripts(ctx).into()
        }
    })
}

/// What SCRIPT does to the bodies that are known.
enum Change<'a> {
    Load { id: ScriptId, body: &'a [u8] },
    Flush,
}

/// Writes the reply to SCRIPT, and says what is to be changed, if anything is.
fn answer_or_change<'a>(thread: &Thread, args: &'a [&'a [u8]], reply: &mut ReplyBuf) -> Option<Change<'a>> {
    let [_, subcommand, rest @ ..] = args else { return None };
    match (subcommand.to_ascii_uppercase().as_slice(), rest) {
        (b"LOAD", [body]) => {
            let id = script_id(body);
            let compiled = thread.scripts.interpreter().and_then(|interpreter| interpreter.compile(&id, body));
            if let Err(error) = compiled {
                reply.error(&error);
                return None;
            }
            reply.bulk(hex(&id).as_bytes());
            return Some(Change::Load { id, body });
        }
        (b"EXISTS", asked) => {
            reply.array(asked.len());
            for id in asked {
                let known = parse_id(id).is_some_and(|id| thread.shared.engine.script(&id).is_some());
                reply.integer(known.into());
            }
        }
        (b"FLUSH", rest) => {
            let is_mode = |mode: &[u8]| mode.eq_ignore_ascii_case(b"sync") || mode.eq_ignore_ascii_case(b"async");
            if matches!(rest, []) || matches!(rest, [mode] if is_mode(mode)) {
                reply.ok();
                return Some(Change::Flush);
            }
            reply.error("ERR SCRIPT FLUSH only support SYNC|ASYNC option");
        }
        (b"KILL", _) => match thread.shared.scripts.kill() {
            Ok(()) => reply.ok(),
            Err(NotKilled::NoneRuns) => reply.error("NOTBUSY No scripts in execution right now."),
            Err(NotKilled::HasWritten) => reply.error(
                "UNKILLABLE Sorry the script already executed write commands against the dataset. You can either wait \
                 the script termination or kill the server in a hard way using the SHUTDOWN NOSAVE command.",
            ),
        },
        _ => super::client::write_help(
            "SCRIPT",
            &["EXISTS <sha1> [<sha1> ...]", "FLUSH [ASYNC|SYNC]", "KILL", "LOAD <script>"],
            reply,
        ),
    }
    None
}

/// Changes the scripts that are known: a write like any other.
fn change(
    call: &mut Call<'_>,
    reply: &mut ReplyBuf,
    execute: impl FnOnce(&Ctx<'_>, &mut ReplyBuf) -> dispatch::Gated,
) -> Outcome {
    let moment = Moment { now: call.now, wall: call.wall };
    dispatch::gated(call.thread, call.session, Access::Write, None, moment, reply, execute)
}

fn parse_id(hex: &[u8]) -> Option<ScriptId> {
    let (pairs, []) = hex.as_chunks::<2>() else { return None };
    let mut id = ScriptId::default();
    if pairs.len() != id.len() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    for (byte, [high, low]) in id.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(id)
}

fn hex(id: &ScriptId) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
