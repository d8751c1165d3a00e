//! INFO: one function a section.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use ringmaster_engine::ReplyBuf;

use super::{Call, replication};
use crate::serve::{DATABASES, REDIS_VERSION};

/// Appends a section's lines to the text. Writing to a string does not fail, so what `write!` returns is dropped.
type Section = fn(&Call<'_>, &mut String);

/// The sections in their order, and whether they are shown when none is named.
const SECTIONS: [(&str, &str, bool, Section); 9] = [
    ("server", "Server", true, server),
    ("clients", "Clients", true, clients),
    ("memory", "Memory", true, memory),
    ("persistence", "Persistence", true, persistence),
    ("stats", "Stats", true, stats),
    ("replication", "Replication", true, replication::section),
    ("commandstats", "Commandstats", false, commandstats),
    ("cluster", "Cluster", true, cluster),
    ("keyspace", "Keyspace", true, keyspace),
];

/// `INFO [section…]`, where `all`, `everything` and `default` name several.
pub(super) fn info(call: &Call<'_>, reply: &mut ReplyBuf) {
    let asked: Vec<String> =
        call.args_from(1).iter().map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect();
    let wants = |name: &str, by_default: bool| {
        (asked.is_empty() && by_default)
            || asked.iter().any(|asked| match asked.as_str() {
                "all" | "everything" => true,
                "default" => by_default,
                asked => asked == name,
            })
    };
    let mut text = String::with_capacity(4 << 10);
    for (name, title, by_default, section) in SECTIONS {
        if wants(name, by_default) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            let _ = write!(text, "# {title}\r\n");
            section(call, &mut text);
        }
    }
    reply.verbatim("txt", text.as_bytes());
}

fn server(call: &Call<'_>, out: &mut String) {
    let (shared, config) = (call.shared(), &call.thread.config);
    let uptime_s = shared.uptime_ms() / 1_000;
    let _ = write!(
        out,
        "redis_version:{REDIS_VERSION}\r\nserver_name:ringmaster\r\nringmaster_version:{}\r\nredis_mode:{}\r\nos:{}\r\n\
         arch_bits:{}\r\nprocess_id:{}\r\nrun_id:{}\r\ntcp_port:{}\r\nuptime_in_seconds:{uptime_s}\r\n\
         uptime_in_days:{}\r\nio_threads_active:{}\r\nserver_time_usec:{}\r\n",
        env!("CARGO_PKG_VERSION"),
        if config.cluster_mode { "cluster" } else { "standalone" },
        std::env::consts::OS,
        usize::BITS,
        std::process::id(),
        // As long as Redis's; new at each start of the process.
        format_args!("{:0>40}", shared.holder.boot.to_string()),
        config.client_port,
        uptime_s / 86_400,
        config.threads,
        call.wall.0.saturating_mul(1_000),
    );
}

fn clients(call: &Call<'_>, out: &mut String) {
    let registry = &call.shared().registry;
    let _ = write!(
        out,
        "connected_clients:{}\r\nmaxclients:{}\r\nblocked_clients:{}\r\ntracking_clients:{}\r\npubsub_clients:{}\r\n",
        registry.count(),
        call.thread.config.connections_max,
        registry.blocked(),
        call.shared().tracking.clients(),
        registry.all().iter().filter(|client| client.is_subscriber()).count(),
    );
}

fn memory(call: &Call<'_>, out: &mut String) {
    let engine = &call.shared().engine;
    let (used, limit) = (engine.used_bytes(), engine.maxmemory_bytes());
    let _ = write!(
        out,
        "used_memory:{used}\r\nused_memory_human:{}\r\nused_memory_dataset:{used}\r\nmaxmemory:{limit}\r\n\
         maxmemory_human:{}\r\nmaxmemory_policy:{}\r\n",
        human(used),
        human(limit),
        engine.eviction(),
    );
    if let Some(resident) = resident_bytes() {
        let _ = write!(out, "used_memory_rss:{resident}\r\nused_memory_rss_human:{}\r\n", human(resident));
    }
}

fn persistence(call: &Call<'_>, out: &mut String) {
    // Clients wait for `loading:0` before they send commands: so they do while this member knows no ring.
    let loading = u8::from(call.topology().is_none());
    let _ = write!(
        out,
        "loading:{loading}\r\nasync_loading:0\r\nrdb_changes_since_last_save:0\r\nrdb_bgsave_in_progress:0\r\n\
         rdb_last_bgsave_status:ok\r\naof_enabled:0\r\naof_rewrite_in_progress:0\r\naof_last_write_status:ok\r\n",
    );
}

fn stats(call: &Call<'_>, out: &mut String) {
    let totals = call.shared().stats();
    let rate = call.shared().commands_per_second.load(Ordering::Relaxed);
    let _ = write!(
        out,
        "total_connections_received:{}\r\ntotal_commands_processed:{}\r\ninstantaneous_ops_per_sec:{rate}\r\n\
         total_net_input_bytes:{}\r\ntotal_net_output_bytes:{}\r\nrejected_connections:{}\r\nkeyspace_hits:{}\r\n\
         keyspace_misses:{}\r\nacl_access_denied_auth:{}\r\nmoved_replies:{}\r\nparked_requests:{}\r\nrerun_reads:{}\r\n\
         unanswerable_connections:{}\r\nprotocol_errors:{}\r\nclient_output_buffer_limit_disconnections:{}\r\n",
        totals.connections_accepted,
        totals.commands,
        totals.bytes_read,
        totals.bytes_written,
        totals.connections_refused,
        totals.keyspace_hits,
        totals.keyspace_misses,
        totals.auth_failures,
        totals.moved,
        totals.parked,
        totals.rerun,
        totals.unanswerable,
        totals.protocol_errors,
        totals.slow_readers,
    );
}

fn commandstats(call: &Call<'_>, out: &mut String) {
    for command in call.shared().stats.by_command() {
        let per_call = command.execution_us as f64 / command.calls.max(1) as f64;
        let _ = write!(
            out,
            "cmdstat_{}:calls={},usec={},usec_per_call={per_call:.2},rejected_calls={},failed_calls={}\r\n",
            command.name, command.calls, command.execution_us, command.rejected, command.failed
        );
    }
}

fn cluster(call: &Call<'_>, out: &mut String) {
    let _ = write!(out, "cluster_enabled:{}\r\n", u8::from(call.thread.config.cluster_mode));
}

/// Keys that expire are counted over all databases together: with keys in several, none is said to have any.
fn keyspace(call: &Call<'_>, out: &mut String) {
    let engine = &call.shared().engine;
    let databases = if call.thread.config.cluster_mode { 1 } else { DATABASES };
    let counts: Vec<(u8, u64)> =
        (0..databases).map(|db| (db, engine.dbsize(db))).filter(|(_, keys)| *keys > 0).collect();
    let expires = if counts.len() == 1 { engine.volatile_key_count() } else { 0 };
    for (db, keys) in counts {
        let _ = write!(out, "db{db}:keys={keys},expires={expires},avg_ttl=0\r\n");
    }
}

/// A number of bytes as Redis shortens it.
fn human(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("T", 40), ("G", 30), ("M", 20), ("K", 10)];
    match UNITS.iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => format!("{:.2}{unit}", bytes as f64 / (1u64 << shift) as f64),
        None => format!("{bytes}B"),
    }
}

/// What the process occupies, by the kernel's word.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shortened_as_redis_does() {
        for (bytes, text) in [(0, "0B"), (1_023, "1023B"), (1 << 10, "1.00K"), (1_610_612_736, "1.50G")] {
            assert_eq!(human(bytes), text);
        }
    }
}
