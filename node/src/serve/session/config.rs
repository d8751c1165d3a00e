//! CONFIG: what clients and tools look up, read-only but for what a running member may change.

use std::sync::atomic::Ordering::Relaxed;

use ringmaster_engine::{ReplyBuf, text_of};

use super::{Call, glob, parse};
use crate::serve::DATABASES;

pub(super) fn config(call: &Call<'_>, reply: &mut ReplyBuf) {
    match call.subcommand().as_str() {
        "GET" if call.takes(3..=usize::MAX, reply) => get(call, reply),
        "SET" if call.takes(4..=usize::MAX, reply) => set(call, reply),
        "RESETSTAT" if call.takes(2..=2, reply) => {
            call.shared().stats.reset();
            reply.ok();
        }
        "REWRITE" if call.takes(2..=2, reply) => reply.error("ERR The server is running without a config file"),
        "HELP" => super::client::write_help(
            "CONFIG",
            &["GET <pattern>", "SET <directive> <value>", "RESETSTAT", "REWRITE"],
            reply,
        ),
        "GET" | "SET" | "RESETSTAT" | "REWRITE" => {}
        _ => call.unknown_subcommand(reply),
    }
}

/// Every parameter whose name matches one of the patterns, once.
fn get(call: &Call<'_>, reply: &mut ReplyBuf) {
    let patterns = call.args_from(2);
    let asked = |name: &str| patterns.iter().any(|pattern| glob::matches(pattern, name.as_bytes()));
    let found: Vec<_> = parameters(call).into_iter().filter(|(name, _)| asked(name)).collect();
    reply.map(found.len());
    for (name, value) in found {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
}

/// What only this process is concerned with changes at once. A cluster's other settings are in its `CacheCluster`: one member must not differ
/// from the others.
fn set(call: &Call<'_>, reply: &mut ReplyBuf) {
    let (pairs, []) = call.args_from(2).as_chunks::<2>() else {
        return reply.error("ERR wrong number of arguments for 'config|set' command");
    };
    for [name, value] in pairs {
        let given = text_of(name).to_ascii_lowercase();
        let refused = |why: &str| format!("ERR CONFIG SET failed (possibly related to argument '{given}') - {why}");
        match change(call, &given, value) {
            Some(true) => {}
            Some(false) => return reply.error(&refused("argument couldn't be parsed into what it is to be")),
            None if parameters(call).iter().any(|(known, _)| *known == given) => {
                return reply.error(&refused("change the cluster's specification instead"));
            }
            None => {
                return reply.error(&format!("ERR Unknown option or number of arguments for CONFIG SET - '{given}'"));
            }
        }
    }
    reply.ok();
}

/// Whether the value fits; none for a setting that does not change here.
fn change(call: &Call<'_>, name: &str, value: &[u8]) -> Option<bool> {
    let shared = call.shared();
    Some(match name {
        "slowlog-log-slower-than" => put(parse::<i64>(value), |us| shared.slow_log.slower_than_us.store(us, Relaxed)),
        "slowlog-max-len" => put(parse::<usize>(value), |len| shared.slow_log.len_max.store(len, Relaxed)),
        "busy-reply-threshold" | "lua-time-limit" => {
            put(parse::<u64>(value), |ms| shared.scripts.threshold_ms().store(ms, Relaxed))
        }
        "tracking-table-max-keys" => put(parse::<usize>(value), |keys| {
            shared.tracking.keys_max.store(if keys == 0 { usize::MAX } else { keys }, Relaxed);
        }),
        "notify-keyspace-events" => {
            let known = shared.notifications.set(value);
            shared.observe();
            known
        }
        _ => return None,
    })
}

fn put<T>(value: Option<T>, store: impl FnOnce(T)) -> bool {
    value.map(store).is_some()
}

/// What is true of this member, under the names of Redis.
fn parameters(call: &Call<'_>) -> Vec<(&'static str, String)> {
    let (config, shared) = (&call.thread.config, call.shared());
    let threshold_ms = shared.scripts.threshold_ms().load(Relaxed);
    let yes_no = |holds: bool| if holds { "yes" } else { "no" }.to_owned();
    vec![
        ("appendonly", yes_no(false)),
        ("bind", config.bind.clone()),
        ("busy-reply-threshold", threshold_ms.to_string()),
        (
            "client-output-buffer-limit",
            format!(
                "normal {} 0 0 slave 0 0 0 pubsub {} {} {}",
                config.output_buffer_bytes_max,
                config.subscriber_backlog_bytes_max,
                config.subscriber_backlog_soft_bytes_max,
                config.subscriber_backlog_soft_s,
            ),
        ),
        ("cluster-enabled", yes_no(config.cluster_mode)),
        ("cluster-require-full-coverage", yes_no(false)),
        ("databases", if config.cluster_mode { "1".to_owned() } else { DATABASES.to_string() }),
        ("client-query-buffer-limit", config.query_buffer_bytes_max.to_string()),
        ("enable-debug-command", config.debug_command.name().to_owned()),
        ("lua-time-limit", threshold_ms.to_string()),
        ("maxclients", config.connections_max.to_string()),
        ("maxmemory", call.shared().engine.maxmemory_bytes().to_string()),
        ("maxmemory-policy", call.shared().engine.eviction().name().to_owned()),
        ("notify-keyspace-events", shared.notifications.letters()),
        ("port", config.client_port.to_string()),
        ("proto-max-bulk-len", config.argument_bytes_max.to_string()),
        ("save", String::new()),
        ("slowlog-log-slower-than", shared.slow_log.slower_than_us.load(Relaxed).to_string()),
        ("slowlog-max-len", shared.slow_log.len_max.load(Relaxed).to_string()),
        ("tcp-keepalive", config.keepalive_s.to_string()),
        ("tracking-table-max-keys", shared.tracking.keys_max.load(Relaxed).to_string()),
        ("timeout", (config.idle_ms_max / 1_000).to_string()),
    ]
}
