//! DEBUG: what tests of clients ask for. Off unless the member was started with `--enable-debug-command`.

use std::net::IpAddr;
use std::time::Duration;

use ringmaster_engine::{Ctx, ReplyBuf};
use ringmaster_replica::Access;
use ringmaster_ring::Slot;

use super::{Call, Outcome, parse};
use crate::serve::DebugCommand;
use crate::serve::dispatch::{self, Gated, Moment};

const NOT_ALLOWED: &str = "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run it from a local \
                           connection, otherwise you need to set this option in the configuration file, and then restart the server.";
/// Whoever sleeps longer is no test any more.
const SLEEP_MAX: Duration = Duration::from_secs(600);

pub(super) fn debug(call: &mut Call<'_>, reply: &mut ReplyBuf) -> Outcome {
    let allowed = match call.thread.config.debug_command {
        DebugCommand::Yes => true,
        DebugCommand::No => false,
        DebugCommand::Local => is_local(call.session.client.addr.ip()),
    };
    if !allowed {
        reply.error(NOT_ALLOWED);
        return Outcome::Replied;
    }
    if call.session.in_transaction
        && matches!(call.subcommand().as_str(), "DIGEST" | "DIGEST-VALUE" | "OBJECT" | "RELOAD")
    {
        reply.error("ERR this subcommand of DEBUG is not allowed inside a transaction");
        return Outcome::Replied;
    }
    let engine = &call.thread.shared.engine;
    match (call.subcommand().as_str(), call.args_from(2)) {
        ("DIGEST", []) => return on_data(call, &[], reply, |ctx, reply| engine.debug_digest(ctx, reply).into()),
        ("DIGEST-VALUE", keys) => {
            return on_data(call, keys, reply, |ctx, reply| engine.debug_digests_of(keys, ctx, reply).into());
        }
        ("OBJECT", [key, fast @ ..]) if fast.len() <= 1 => {
            let fast = fast.first().is_some_and(|word| word.eq_ignore_ascii_case(b"fast"));
            return on_data(call, &[key], reply, |ctx, reply| engine.debug_object(key, fast, ctx, reply).into());
        }
        ("RELOAD", options) => {
            let known =
                |option: &&[u8]| [&b"merge"[..], b"noflush", b"nosave"].iter().any(|o| option.eq_ignore_ascii_case(o));
            if options.iter().all(known) {
                return on_data(call, &[], reply, |ctx, reply| engine.debug_reload(ctx, reply).into());
            }
            reply.error("ERR DEBUG RELOAD only supports the MERGE, NOFLUSH and NOSAVE options.");
        }
        ("SET-ACTIVE-EXPIRE", [on]) => {
            engine.set_active_expiry(parse::<i64>(on).unwrap_or(0) != 0);
            reply.ok();
        }
        ("SLEEP", [seconds]) => {
            let seconds = parse::<f64>(seconds).filter(|seconds| seconds.is_finite() && *seconds > 0.0).unwrap_or(0.0);
            // It is this thread that is to stand still, and everybody who is connected to it.
            std::thread::sleep(Duration::from_secs_f64(seconds.min(SLEEP_MAX.as_secs_f64())));
            reply.ok();
        }
        ("HELP", []) => super::client::write_help("DEBUG", HELP, reply),
        _ => {
            let given = String::from_utf8_lossy(call.arg(1));
            reply.error(&format!("ERR unknown subcommand or wrong number of arguments for '{given}'. Try DEBUG HELP."));
        }
    }
    Outcome::Replied
}

const HELP: &[&str] = &[
    "DIGEST",
    "DIGEST-VALUE <key> [<key> ...]",
    "OBJECT <key> [FAST]",
    "RELOAD [MERGE] [NOFLUSH] [NOSAVE]",
    "SET-ACTIVE-EXPIRE <0|1>",
    "SLEEP <seconds>",
];

fn is_local(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Reads data under the gate, like any read.
fn on_data(
    call: &mut Call<'_>,
    keys: &[&[u8]],
    reply: &mut ReplyBuf,
    execute: impl FnOnce(&Ctx<'_>, &mut ReplyBuf) -> Gated,
) -> Outcome {
    let moment = Moment { now: call.now, wall: call.wall };
    let thread = call.thread;
    if thread.config.cluster_mode
        && let Some(slot) = keys.iter().map(|key| Slot::of_key(key)).find(|slot| !dispatch::is_mine(thread, *slot))
    {
        return dispatch::redirect(thread, slot, reply);
    }
    let access = if thread.config.cluster_mode { Access::CopyRead } else { Access::Read };
    match dispatch::gated(thread, call.session, access, None, moment, reply, execute) {
        // It cannot be executed again from its request, since it is no command on data. It has changed nothing, and says what was so.
        Outcome::Gated { ticket, after, .. } => Outcome::Gated { ticket, after, again: None },
        outcome => outcome,
    }
}
