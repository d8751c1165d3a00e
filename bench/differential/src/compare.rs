//! What it means that two replies are the same.
//!
//! Most must be equal to the letter. Some have an order or a choice that no documentation promises, some tell a time; those are compared
//! by what they do promise. Whatever else may differ stands in [`KNOWN`], with its reason.
//!
//! Not sent at all, because it is meant to differ: what tells of memory, of how a value is stored or how long it was idle (MEMORY USAGE,
//! OBJECT ENCODING and IDLETIME); ids that the clock makes (XADD with `*`); and trimming by `~`, which here trims exactly where Valkey keeps
//! whole nodes. PFCOUNT is sent with two keys, for with one Valkey writes its estimate into the value; here it is a read. Sorted sets are asked
//! for members in their order only where all have one score, as the documentation wants it. Scripts are not given commands that choose, or
//! tell a time, or may differ as known: what they make of such a reply could not be compared.

use crate::reply::Reply;
use crate::target::Command;

/// How far apart the clocks of the two sides may have been when they executed a command.
const CLOCK_MS_MAX: i64 = 5_000;

/// A difference that is meant.
pub struct Known {
    pub reason: &'static str,
    /// Whether both sides go on with different data.
    diverges: bool,
    holds: fn(&Command, &Reply, &Reply) -> bool,
}

/// All differences that are meant. Keep the list short.
pub const KNOWN: &[Known] = &[
    Known {
        diverges: false,
        reason: "an error of a script names the script, as documented; Valkey 9.1 leaves a gap there",
        holds: |_, valkey, ours| match (valkey, ours) {
            (Reply::Error(valkey), Reply::Error(ours)) => without_script_id(ours).as_ref() == Some(valkey),
            _ => false,
        },
    },
    Known {
        diverges: false,
        reason: "XREAD from + gives the last entry that there is; Valkey none if the one that was added last is deleted",
        holds: |command, valkey, ours| {
            let asked_for_last = |key: &Reply| {
                let streams = command.iter().position(|word| word.eq_ignore_ascii_case(b"STREAMS")).unwrap_or(0);
                let (keys, ids) = command[streams + 1..].split_at((command.len() - streams) / 2);
                keys.iter().zip(ids).any(|(name, id)| id == b"+" && Some(name.as_slice()) == key.bulk())
            };
            let beside_last = |reply: &Reply| -> Vec<Reply> {
                let run = if matches!(reply, Reply::Map(_)) { 2 } else { 1 };
                let streams = reply.elements().chunks(run);
                let key = |stream: &[Reply]| stream[0].elements().first().unwrap_or(&stream[0]).clone();
                streams.filter(|stream| !asked_for_last(&key(stream))).flatten().cloned().collect()
            };
            name(command) == "XREAD"
                && command.iter().any(|word| word == b"+")
                && valkey.elements().len() < ours.elements().len()
                && beside_last(valkey) == beside_last(ours)
        },
    },
    Known {
        diverges: false,
        reason: "HELP is in our own words",
        holds: |command, _, _| command.get(1).is_some_and(|word| word.eq_ignore_ascii_case(b"HELP")),
    },
    Known {
        diverges: false,
        reason: "ZSCAN writes a score as ZSCORE does, shortest; Valkey with 17 digits if the set is large",
        holds: |command, valkey, ours| name(command) == "ZSCAN" && same_numbers(valkey, ours),
    },
    Known {
        diverges: false,
        reason: "zero has no sign in a sorted set; in Valkey it has one if the set is large, or in the reply that made it",
        holds: |command, valkey, ours| {
            name(command).trim_start_matches('B').starts_with('Z') && same_numbers(valkey, ours)
        },
    },
    Known {
        diverges: true,
        reason: "decimal fractions add up exactly; in Valkey as the machine's long doubles do",
        holds: |command, valkey, ours| {
            let number = |reply: &Reply| -> Option<f64> { std::str::from_utf8(reply.bulk()?).ok()?.parse().ok() };
            let near = |(a, b): (f64, f64)| (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-6);
            let both = number(valkey).zip(number(ours));
            matches!(name(command).as_str(), "INCRBYFLOAT" | "HINCRBYFLOAT") && both.is_some_and(near)
        },
    },
    Known {
        diverges: false,
        reason: "a cursor that no scan gave goes on somewhere else",
        holds: |command, valkey, ours| {
            let at = if name(command) == "SCAN" { 1 } else { 2 };
            let is_one = name(command).ends_with("SCAN") && command.get(at).is_some_and(|cursor| cursor != b"0");
            is_one && matches!((valkey, ours), (Reply::Array(_), Reply::Array(_)))
        },
    },
    Known {
        diverges: true,
        reason: "a list's index beyond 32 bits is out of range; Valkey takes its low bits if the list is small",
        holds: |command, _, ours| {
            let is_far = command.get(2).is_some_and(|index| index.len() > 15);
            let is_none = matches!(ours, Reply::Error(_) | Reply::Null | Reply::NullBulk);
            matches!(name(command).as_str(), "LSET" | "LINDEX") && is_far && is_none
        },
    },
    Known {
        diverges: true,
        reason: "a number in hexadecimal is none",
        holds: |command, _valkey, ours| {
            let is_error = |reply: &Reply| matches!(reply, Reply::Error(_));
            command.iter().any(|word| word.starts_with(b"0x")) && is_error(ours)
        },
    },
    Known {
        diverges: true,
        reason: "a LIMIT from before the first member takes nothing; in Valkey it counts from the end if the set is large",
        holds: |command, _, ours| {
            let limit = command.iter().position(|word| word.eq_ignore_ascii_case(b"LIMIT"));
            let is_negative = limit.and_then(|at| command.get(at + 1)).is_some_and(|offset| offset.starts_with(b"-"));
            is_negative && (*ours == Reply::Integer(0) || *ours == Reply::Array(Vec::new()))
        },
    },
];

/// Whether a known difference leaves both sides with different data.
pub fn diverges(known: usize) -> bool {
    KNOWN.get(known).is_some_and(|known| known.diverges)
}

/// `… script: ID, on …` as Valkey 9.1 has it: `… script: on …`.
fn without_script_id(error: &str) -> Option<String> {
    let (before, after) = error.rsplit_once(" script: ")?;
    let (id, behind) = after.split_once(", ")?;
    let is_id = id.len() == 40 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_id.then(|| format!("{before} script: {behind}"))
}

/// Whether two replies are the same but for how their numbers are written.
fn same_numbers(a: &Reply, b: &Reply) -> bool {
    let number = |reply: &Reply| -> Option<f64> { std::str::from_utf8(reply.bulk()?).ok()?.parse().ok() };
    match (a, b) {
        (Reply::Array(a), Reply::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_numbers(a, b)),
        (Reply::Double(a), Reply::Double(b)) => a == b || a.parse::<f64>().ok() == b.parse::<f64>().ok(),
        _ => a == b || number(a).is_some() && number(a) == number(b),
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Same,
    /// Different as that [`Known`] says.
    Known(usize),
    Different,
}

pub fn compare(command: &Command, valkey: &Reply, ours: &Reply) -> Verdict {
    let (a, b) = (normal(command, valkey.clone()), normal(command, ours.clone()));
    if a == b || near(command, &a, &b) {
        return Verdict::Same;
    }
    match KNOWN.iter().position(|known| (known.holds)(command, &a, &b)) {
        Some(at) => Verdict::Known(at),
        None => Verdict::Different,
    }
}

fn name(command: &Command) -> String {
    String::from_utf8_lossy(command.first().map(Vec::as_slice).unwrap_or_default()).to_ascii_uppercase()
}

/// A reply without what means nothing in it.
fn normal(command: &Command, reply: Reply) -> Reply {
    let mut reply = reply.sorted();
    match name(command).as_str() {
        "SMEMBERS" | "SUNION" | "SINTER" | "SDIFF" | "HKEYS" | "HVALS" | "KEYS" | "SPOP" => reply.sort_runs(1),
        "HGETALL" => reply.sort_runs(2),
        // The count is beyond any collection's size, so all of it comes, in any order.
        "SRANDMEMBER" | "HRANDFIELD" | "ZRANDMEMBER" if command.get(2).is_some_and(|count| count == b"100000") => {
            let flat = command.len() > 3 && reply.elements().iter().all(|element| element.elements().is_empty());
            reply.sort_runs(if flat { 2 } else { 1 });
        }
        "SRANDMEMBER" | "HRANDFIELD" | "ZRANDMEMBER" | "RANDOMKEY" => reply = shape(&reply),
        "SCAN" | "SSCAN" => sort_scanned(&mut reply, 1),
        "HSCAN" => {
            let no_values = command.iter().any(|word| word.eq_ignore_ascii_case(b"NOVALUES"));
            sort_scanned(&mut reply, if no_values { 1 } else { 2 });
        }
        "ZSCAN" => sort_scanned(&mut reply, 2),
        "EVAL" | "EVAL_RO" if command[1].ends_with(b"any order") => reply.sort_all(),
        // Who gets a message first means nothing, nor does the order in which subscriptions end.
        "MESSAGES" => reply.sort_all(),
        "UNSUBSCRIBE" => {
            let names = |reply: &Reply| Reply::Array(reply.elements().iter().take(2).cloned().collect());
            let mut channels = Reply::Array(reply.elements().iter().map(names).collect());
            channels.sort_all();
            let counts = reply.elements().iter().filter_map(|reply| reply.elements().get(2).cloned()).collect();
            reply = Reply::Array(vec![channels, Reply::Array(counts)]);
        }
        "ROLE" => {
            if let Some(offset) = reply.element_mut(1) {
                *offset = Reply::Null;
            }
        }
        "PUBSUB" => reply.sort_runs(1),
        "TIME" => reply = shape(&reply),
        "HELLO" => forget_server(&mut reply),
        "XINFO" => forget_times(&mut reply),
        // How long ago something was delivered.
        "XPENDING" if command.len() > 3 => {
            for at in 0..reply.elements().len() {
                if let Some(idle) = reply.element_mut(at).and_then(|entry| entry.element_mut(2)) {
                    *idle = Reply::Null;
                }
            }
        }
        _ => {}
    }
    reply
}

fn sort_scanned(reply: &mut Reply, run: usize) {
    if let Some(elements) = reply.element_mut(1) {
        elements.sort_runs(run);
    }
}

/// Blanks what HELLO says of the server's own name, version and number of the connection.
fn forget_server(reply: &mut Reply) {
    for at in 1..reply.elements().len() {
        let is_own = matches!(reply.elements()[at - 1].bulk(), Some(b"server" | b"version" | b"id" | b"modules"));
        if let Some(value) = reply.element_mut(at).filter(|_| is_own) {
            *value = Reply::Null;
        }
    }
}

/// Blanks the times within XINFO, and the size of a radix tree that only Valkey has.
fn forget_times(reply: &mut Reply) {
    const TIMES: [&[u8]; 6] =
        [b"idle", b"inactive", b"seen-time", b"active-time", b"radix-tree-keys", b"radix-tree-nodes"];
    let count = reply.elements().len();
    // Pending entries in full: id, consumer, time, deliveries; or without the consumer.
    let is_id = |reply: Option<&Reply>| {
        let text = reply.and_then(Reply::bulk).unwrap_or_default();
        text.first().is_some_and(u8::is_ascii_digit) && text.contains(&b'-')
    };
    if (3..=4).contains(&count) && is_id(reply.elements().first()) && reply.elements()[count - 1].integer().is_some() {
        if let Some(time) = reply.element_mut(count - 2) {
            *time = Reply::Null;
        }
        return;
    }
    for at in 0..count {
        let is_time = at > 0 && reply.elements()[at - 1].bulk().is_some_and(|name| TIMES.contains(&name));
        if let Some(element) = reply.element_mut(at) {
            match element.integer() {
                // Never active is no time.
                Some(time) if is_time && time >= 0 => *element = Reply::Null,
                _ => forget_times(element),
            }
        }
    }
}

/// Only of what kinds and how many parts a reply is: for commands that choose at random.
fn shape(reply: &Reply) -> Reply {
    match reply {
        Reply::Bulk(_) => Reply::Bulk(Vec::new()),
        Reply::Double(_) => Reply::Double(String::new()),
        Reply::Array(of) => Reply::Array(of.iter().map(shape).collect()),
        other => other.clone(),
    }
}

/// Whether two replies tell about the same time.
fn near(command: &Command, a: &Reply, b: &Reply) -> bool {
    let (Some(a), Some(b)) = (a.integer(), b.integer()) else { return false };
    let unit_ms = match name(command).as_str() {
        "TTL" | "EXPIRETIME" => 1000,
        "PTTL" | "PEXPIRETIME" => 1,
        _ => return false,
    };
    a > 0 && b > 0 && (a - b).saturating_mul(unit_ms).abs() <= CLOCK_MS_MAX
}
