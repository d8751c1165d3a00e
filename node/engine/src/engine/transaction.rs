//! What a transaction is made of: the commands that were queued, what executes those that are not on data alone, and the keys that were
//! watched. [`Engine::execute_transaction_with`] executes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Engine, ScriptCall, ScriptFn, Txn};
use crate::record::Effect;
use crate::resp::ReplyBuf;
use crate::table::{CommandSpec, Handler, SessionCommand};
use crate::time::UnixMs;

/// One command of a transaction.
#[derive(Clone, Copy, Debug)]
pub struct Queued<'a> {
    pub spec: &'static CommandSpec,
    pub args: &'a [&'a [u8]],
}

impl Queued<'_> {
    /// Whether it is one of those that bring scripts or forget them: `SCRIPT LOAD`, `SCRIPT FLUSH`.
    #[must_use]
    pub fn changes_scripts(&self) -> bool {
        self.is_about_scripts()
            && self
                .args
                .get(1)
                .is_some_and(|what| what.eq_ignore_ascii_case(b"load") || what.eq_ignore_ascii_case(b"flush"))
    }

    pub(super) fn is_about_scripts(&self) -> bool {
        matches!(self.spec.handler, Handler::Session(SessionCommand::Script))
    }
}

/// Executes the session commands of a transaction: writes one reply, and returns the database if it changed that (SELECT). It is called
/// while lanes are held, so it must neither block nor ask the engine for one.
pub type SessionFn<'a> = &'a mut dyn FnMut(&Queued<'_>, &mut ReplyBuf) -> Option<u8>;

/// Executes one command of a transaction that runs a script, by [`QueuedScript::run`], or is about scripts: writes one reply.
pub type QueuedScriptFn<'a> = &'a mut dyn FnMut(QueuedScript<'_, '_>, &Queued<'_>, &mut ReplyBuf);

/// What executes those commands of a transaction that are not on data alone.
pub struct Parts<'a> {
    pub session: SessionFn<'a>,
    pub script: Option<QueuedScriptFn<'a>>,
}

/// The data that a script of a transaction works on: the lanes of all keys of the transaction.
pub struct QueuedScript<'t, 'e> {
    pub(super) engine: &'e Engine,
    pub(super) txn: &'t mut Txn<'e>,
}

impl QueuedScript<'_, '_> {
    /// Runs a script. It gets no more lanes than it has: a command elsewhere is an error.
    pub fn run(self, call: &ScriptCall<'_>, script: ScriptFn<'_>, reply: &mut ReplyBuf) {
        let start = reply.len();
        if !self.engine.run_script(self.txn, call, !self.engine.cluster_mode, script, reply) {
            reply.truncate(start);
            reply.error("ERR a script in a transaction must declare its keys");
        }
    }

    /// Keeps a body, as [`Engine::load_script`] does.
    pub fn load(self, body: &[u8]) {
        self.engine.scripts.insert(body, true);
        self.txn.note(&Effect::Script { body, stays: true });
    }

    /// Forgets all bodies, as [`Engine::flush_scripts`] does.
    pub fn flush(self) {
        self.engine.scripts.clear();
        self.txn.note(&Effect::FlushScripts);
    }
}

/// Knows whether a key has changed since [`Engine::watch`].
#[derive(Clone, Debug)]
pub struct Watch {
    pub(super) changed: Arc<AtomicBool>,
    pub(super) expires_at: Option<UnixMs>,
}

impl Watch {
    /// That it has expired meanwhile is a change, too, whether it was taken out or not.
    #[must_use]
    pub fn has_changed(&self, now: UnixMs) -> bool {
        self.changed.load(Ordering::Acquire) || self.expires_at.is_some_and(|at| at <= now)
    }
}
