//! What clients of a single server ask of its process: SHUTDOWN, SAVE and its kin, REPLICAOF. Here most of it is for the operator to do.

use ringmaster_engine::ReplyBuf;

use super::{Call, Outcome};

/// Data is kept by the other copies of the shard, not by files.
const NO_SNAPSHOTS: &str =
    "ERR this member keeps no snapshots on disk: its data is kept by the other copies of its shard";
const NOT_FOR_CLIENTS: &str = "ERR REPLICAOF is not allowed: the operator decides which member copies which. Change 'copies' of the CacheCluster to \
                               have more or fewer copies; cordon or drain a node to move its primaries elsewhere";

pub(super) fn replicaof(reply: &mut ReplyBuf) {
    reply.error(NOT_FOR_CLIENTS);
}

pub(super) fn save(reply: &mut ReplyBuf) {
    reply.error(NO_SNAPSHOTS);
}

/// `BGSAVE [SCHEDULE|CANCEL]`.
pub(super) fn bgsave(call: &Call<'_>, reply: &mut ReplyBuf) {
    match call.args_from(1) {
        [] => reply.error(NO_SNAPSHOTS),
        [option] if option.eq_ignore_ascii_case(b"schedule") => reply.error(NO_SNAPSHOTS),
        [option] if option.eq_ignore_ascii_case(b"cancel") => {
            reply.error("ERR Background saving is currently not in progress or scheduled");
        }
        _ => reply.error("ERR syntax error"),
    }
}

/// `LASTSAVE`: when the process began, as in a server that has saved nothing since.
pub(super) fn lastsave(call: &Call<'_>, reply: &mut ReplyBuf) {
    let started_ms = call.wall.0.saturating_sub(call.shared().uptime_ms());
    reply.integer(i64::try_from(started_ms / 1_000).unwrap_or(i64::MAX));
}

/// `SHUTDOWN [NOSAVE|SAVE] [NOW] [FORCE] [ABORT]`: as SIGTERM. The member asks to be replaced and serves until it is; the client waits, and is
/// disconnected at the end. NOW and FORCE are about copies that lag, which is for the ring to judge.
pub(super) fn shutdown(call: &Call<'_>, reply: &mut ReplyBuf) -> Outcome {
    let (mut save, mut nosave, mut hurried, mut abort) = (false, false, false, false);
    for option in call.args_from(1) {
        match option.to_ascii_uppercase().as_slice() {
            b"SAVE" => save = true,
            b"NOSAVE" => nosave = true,
            b"NOW" | b"FORCE" => hurried = true,
            b"ABORT" => abort = true,
            _ => {
                reply.error("ERR syntax error");
                return Outcome::Replied;
            }
        }
    }
    let shared = call.shared();
    match (save, nosave) {
        _ if abort && (save || nosave || hurried) => reply.error("ERR syntax error"),
        _ if abort && shared.is_leaving() => {
            reply.error("ERR this member has asked to be replaced, which cannot be taken back: another one follows it");
        }
        _ if abort => reply.error("ERR No shutdown in progress."),
        (true, true) => reply.error("ERR syntax error"),
        (true, false) => reply.error(NO_SNAPSHOTS),
        _ if shared.leave() => return Outcome::Parked,
        _ => reply.error("ERR Errors trying to SHUTDOWN. Check logs."),
    }
    Outcome::Replied
}
