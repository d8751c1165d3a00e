//! SLOWLOG: the commands that took longer than a limit. Commands of constant or logarithmic time are not timed, since a look at the clock costs
//! them more than they do.

use ringmaster_engine::ReplyBuf;

use super::{Call, parse};

pub(super) fn slowlog(call: &Call<'_>, reply: &mut ReplyBuf) {
    let log = &call.shared().slow_log;
    match call.subcommand().as_str() {
        "GET" if call.takes(2..=3, reply) => {
            let count = match call.args.get(2) {
                None => 10,
                Some(count) => match parse::<i64>(count) {
                    Some(-1) => usize::MAX,
                    Some(count) if count >= 0 => usize::try_from(count).unwrap_or(usize::MAX),
                    _ => return reply.error("ERR count should be greater than or equal to -1"),
                },
            };
            let entries = log.newest(count);
            reply.array(entries.len());
            for entry in entries {
                reply.array(6);
                [entry.id, entry.unix_s, entry.took_us].iter().for_each(|number| {
                    reply.integer(i64::try_from(*number).unwrap_or(i64::MAX));
                });
                reply.array(entry.args.len());
                entry.args.iter().for_each(|arg| reply.bulk(arg));
                reply.bulk(entry.addr.as_bytes());
                reply.bulk(entry.name.as_bytes());
            }
        }
        "LEN" if call.takes(2..=2, reply) => reply.count(log.len()),
        "RESET" if call.takes(2..=2, reply) => {
            log.reset();
            reply.ok();
        }
        "HELP" => super::client::write_help("SLOWLOG", &["GET [<count>]", "LEN", "RESET"], reply),
        "GET" | "LEN" | "RESET" => {}
        _ => call.unknown_subcommand(reply),
    }
}
