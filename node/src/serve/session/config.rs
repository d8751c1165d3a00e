//! CONFIG: what clients and tools look up, read-only but for what a running member may change.

use ringmaster_engine::ReplyBuf;

use super::{Call, glob};
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
        "HELP" => super::client::write_help("CONFIG", &["GET <pattern>", "RESETSTAT", "REWRITE"], reply),
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

/// A cluster's settings are in its `CacheCluster`: one member must not differ from the others.
fn set(call: &Call<'_>, reply: &mut ReplyBuf) {
    let pairs = call.args_from(2);
    if !pairs.len().is_multiple_of(2) {
        return reply.error("ERR wrong number of arguments for 'config|set' command");
    }
    let Some(given) = pairs.first().map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()) else { return };
    if parameters(call).iter().any(|(name, _)| *name == given) {
        return reply.error(&format!(
            "ERR CONFIG SET failed (possibly related to argument '{given}') - change the cluster's specification instead"
        ));
    }
    reply.error(&format!("ERR Unknown option or number of arguments for CONFIG SET - '{given}'"));
}

/// What is true of this member, under the names of Redis.
fn parameters(call: &Call<'_>) -> Vec<(&'static str, String)> {
    let config = &call.thread.config;
    let yes_no = |holds: bool| if holds { "yes" } else { "no" }.to_owned();
    vec![
        ("appendonly", yes_no(false)),
        ("bind", config.bind.clone()),
        ("cluster-enabled", yes_no(config.cluster_mode)),
        ("cluster-require-full-coverage", yes_no(false)),
        ("databases", if config.cluster_mode { "1".to_owned() } else { DATABASES.to_string() }),
        ("maxclients", config.connections_max.to_string()),
        ("maxmemory", call.shared().engine.maxmemory_bytes().to_string()),
        ("maxmemory-policy", call.shared().engine.eviction().name().to_owned()),
        ("notify-keyspace-events", String::new()),
        ("port", config.client_port.to_string()),
        ("proto-max-bulk-len", config.argument_bytes_max.to_string()),
        ("save", String::new()),
        ("tcp-keepalive", config.keepalive_s.to_string()),
        ("timeout", (config.idle_ms_max / 1_000).to_string()),
    ]
}
