//! The table: every measure of every server with its spread, and its ratio to Valkey.

use std::fmt::Write as _;

use crate::results::{Measure, Results, Spread};

const OURS: &str = "Ringmaster";
const OURS_IN_SYNC: &str = "Ringmaster, inSync";
const THEIRS: &str = "Valkey";
/// The servers in the order of the columns.
const COLUMNS: [&str; 7] = [OURS, OURS_IN_SYNC, "Its copy", "Before", THEIRS, "Redis", "memcached"];

/// A few lines for the terminal.
pub(crate) fn summary(results: &Results) -> String {
    let mut text = String::new();
    for measure in &results.measures {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}, {} [{}]", measure.table, measure.name, measure.unit);
        for server in COLUMNS {
            let Some(spread) = measure.spread(server) else { continue };
            let ratio =
                measure.ratio(server, THEIRS).map(|ratio| format!("  ×{}", shown(ratio, 2))).unwrap_or_default();
            let _ = writeln!(text, "    {server:20} {}{ratio}", shown(spread, digits(spread)));
        }
    }
    text
}

/// The page for `docs/`.
pub(crate) fn page(all: &[Results]) -> String {
    let mut text = String::from(
        "# Ringmaster beside its peers\n\n\
         `bench/run` wrote this page. Each value is the median over the rounds, with the least and the greatest in brackets. A ratio \
         divides each round of Ringmaster by Valkey's of the same round: below 1, Ringmaster needs less. Goals stand behind the ratios \
         they are for.\n\n![Ratios to Valkey](bench.svg)\n\n",
    );
    if let Some(first) = all.first() {
        let mut versions: Vec<&str> = all.iter().flat_map(|results| &results.versions).map(String::as_str).collect();
        versions.sort_unstable();
        versions.dedup();
        let _ = writeln!(text, "{}; {}; {}.\n", first.machine, first.date, versions.join(", "));
    }
    let mut tables: Vec<&str> = Vec::new();
    for measure in all.iter().flat_map(|results| &results.measures) {
        if !tables.contains(&measure.table.as_str()) {
            tables.push(&measure.table);
        }
    }
    for table in tables {
        let measures = all.iter().flat_map(|results| &results.measures).filter(|measure| measure.table == table);
        write_table(&mut text, table, &measures.collect::<Vec<_>>());
    }
    text.push_str(NOTES);
    text
}

const NOTES: &str = "## How it is measured\n\n\
- All servers of a piece run at once, idle but for the one that is measured; they are measured in turn, for several rounds. The load \
generator checks every reply. It runs on the same machine, so the closed loop's rates are those of a machine shared by two.\n\
- CPU per operation is the time that all threads of the server's process were on a CPU (`/proc/PID/task/*/schedstat`), system calls \
included, by operations: it does not depend on how fast the client is. `P` is how many requests a connection sends at once; there are 50 \
connections.\n\
- Ringmaster is what is shipped (profile `dist`). It runs as one member with `acks: primary`. *inSync* is a primary with one copy on the same machine, `acks: inSync`: the \
primary's process, and its copy's beside it.\n\
- The open loop sends each request when it is due, whatever became of earlier ones, and counts its latency from then.\n\
- Memory is the growth of resident memory, by items, in a process that was just started. A shard without copies keeps no log of recent \
writes; one with copies keeps up to 64 MiB of them (`--log-bytes-max`).\n\
- The noise is what the brackets show; two runs on this machine differ by about as much.\n\n\
## Where a goal is missed\n\n\
What `perf` shows of a member with one thread under these loads:\n\n\
- With one request at a time nearly three quarters of the CPU is the kernel's: a read, a write and a share of an `epoll_wait` for each, \
as with every server here. What the member does itself is a fifth.\n\
- With 16 at a time a third and more is still the kernel's, about 0.2 µs for each request whatever a server makes of it: half of Valkey's \
cost would leave little more than 0.15 µs for all the rest. In that rest no function has more than 5%: taking requests apart, slot and \
hash of the key, one lock of a lane, the lookup, the number in the log, the reply.\n\
- Memory per item is what the allocator's size classes make of one allocation for an entry or a member; lists are packed.\n";

fn write_table(text: &mut String, table: &str, measures: &[&Measure]) {
    let columns: Vec<&str> =
        COLUMNS.into_iter().filter(|server| measures.iter().any(|measure| measure.spread(server).is_some())).collect();
    let _ = writeln!(text, "## {table}\n\n| | {} | ratio to Valkey | goal |", columns.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(columns.len() + 2));
    for measure in measures {
        let _ = write!(text, "| {} [{}] |", measure.name, measure.unit);
        for server in &columns {
            let cell = measure.spread(server).map(|spread| shown(spread, digits(spread))).unwrap_or_default();
            let _ = write!(text, " {cell} |");
        }
        let ratio = measure.ratio(OURS, THEIRS).map(|ratio| shown(ratio, 2)).unwrap_or_default();
        let goal = measure.goal.map(|goal| format!("≤ {goal}")).unwrap_or_default();
        let _ = writeln!(text, " {ratio} | {goal} |");
    }
    text.push('\n');
}

fn digits(spread: Spread) -> usize {
    match spread.median {
        large if large >= 1_000.0 => 0,
        large if large >= 100.0 => 1,
        _ => 2,
    }
}

fn shown(Spread { median, min, max }: Spread, digits: usize) -> String {
    format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
}
