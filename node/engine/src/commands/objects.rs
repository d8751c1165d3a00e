//! OBJECT and MEMORY: how a key is stored, how it is used, what it costs.

use std::ops::ControlFlow;

use super::options::{int, is, reply_help, unknown_subcommand};
use super::{CommandError, Outcome};
use crate::engine::Txn;
use crate::resp::ReplyBuf;

pub(crate) fn object(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, subcommand, rest @ ..] = args else { return Err(CommandError::Syntax) };
    let arity = match () {
        () if is(subcommand, "HELP") && rest.is_empty() => {
            reply_help("OBJECT", &OBJECT_HELP, reply);
            return Ok(());
        }
        () if is(subcommand, "HELP") => return Err(CommandError::Arity("object|help")),
        () if is(subcommand, "ENCODING") => "object|encoding",
        () if is(subcommand, "FREQ") => "object|freq",
        () if is(subcommand, "IDLETIME") => "object|idletime",
        () if is(subcommand, "REFCOUNT") => "object|refcount",
        () => return Err(unknown_subcommand(subcommand, "OBJECT")),
    };
    let [key] = rest else { return Err(CommandError::Arity(arity)) };
    let key = txn.key(key);
    let counts_frequency = txn.eviction(&key).counts_frequency();
    let now = txn.now;
    let Some(entry) = txn.peek(&key) else {
        reply.null();
        return Ok(());
    };
    match arity {
        "object|encoding" => reply.bulk(entry.value().encoding().as_bytes()),
        "object|freq" if !counts_frequency => return Err(CommandError::Other(NO_FREQUENCY)),
        "object|freq" => reply.integer(i64::from(entry.usage().frequency(now))),
        "object|idletime" if counts_frequency => return Err(CommandError::Other(NO_IDLE_TIME)),
        "object|idletime" => reply.integer(i64::from(entry.usage().idle_s(now))),
        // Nothing is shared between keys.
        _ => reply.integer(1),
    }
    Ok(())
}

const NO_FREQUENCY: &str = "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that \
                            when switching between policies at runtime LRU and LFU data will take some time to adjust.";
const NO_IDLE_TIME: &str = "ERR An LFU maxmemory policy is selected, idle time not tracked. Please note that when \
                            switching between policies at runtime LRU and LFU data will take some time to adjust.";

const OBJECT_HELP: [&str; 8] = [
    "ENCODING <key>",
    "    Return the kind of internal representation used in order to store the value associated with a <key>.",
    "FREQ <key>",
    "    Return the access frequency index of the <key>. The returned integer is proportional to the logarithm of the recent access frequency of the key.",
    "IDLETIME <key>",
    "    Return the idle time of the <key>, that is the approximated number of seconds elapsed since the last access to the key.",
    "REFCOUNT <key>",
    "    Return the number of references of the value associated with the specified <key>.",
];

pub(crate) fn memory(txn: &mut Txn<'_>, args: &[&[u8]], reply: &mut ReplyBuf) -> Outcome {
    let [_, subcommand, rest @ ..] = args else { return Err(CommandError::Syntax) };
    match rest {
        [] if is(subcommand, "HELP") => reply_help("MEMORY", &MEMORY_HELP, reply),
        [] if is(subcommand, "DOCTOR") => {
            reply.verbatim("txt", b"Sam, I can't find any memory issue in your instance.")
        }
        // The allocator gives back of itself what is free.
        [] if is(subcommand, "PURGE") => reply.ok(),
        [] if is(subcommand, "STATS") => return stats(txn, reply),
        [] if is(subcommand, "USAGE") => return Err(CommandError::Arity("memory|usage")),
        [key, options @ ..] if is(subcommand, "USAGE") => {
            match options {
                [] => {}
                // Sizes are kept, not estimated, so there is nothing to sample.
                [word, samples] if is(word, "SAMPLES") => {
                    if int(samples)? < 0 {
                        return Err(CommandError::Syntax);
                    }
                }
                _ => return Err(CommandError::Syntax),
            }
            match txn.peek(&txn.key(key)) {
                Some(entry) => reply.count(entry.bytes()),
                None => reply.null(),
            }
        }
        _ => return Err(unknown_subcommand(subcommand, "MEMORY")),
    }
    Ok(())
}

/// What the engine knows of MEMORY STATS. What the process as a whole occupies is in INFO.
fn stats(txn: &mut Txn<'_>, reply: &mut ReplyBuf) -> Outcome {
    let (mut bytes, mut keys) = (0, 0);
    txn.visit_lanes(0, |_, lane| {
        (bytes, keys) = (bytes + lane.used_bytes() as u64, keys + lane.len() as u64);
        ControlFlow::Continue(())
    })?;
    let fields = [
        ("keys.count", keys),
        ("keys.bytes-per-key", bytes.checked_div(keys).unwrap_or(0)),
        ("dataset.bytes", bytes),
        ("maxmemory", txn.engine.maxmemory_bytes()),
    ];
    reply.map(fields.len());
    for (name, value) in fields {
        reply.bulk(name.as_bytes());
        reply.integer(i64::try_from(value).unwrap_or(i64::MAX));
    }
    Ok(())
}

const MEMORY_HELP: [&str; 8] = [
    "DOCTOR",
    "    Return memory problems reports.",
    "PURGE",
    "    Attempt to purge dirty pages for reclamation by the allocator.",
    "STATS",
    "    Return information about the memory usage of the server.",
    "USAGE <key> [SAMPLES <count>]",
    "    Return memory in bytes used by <key> and its value.",
];
