//! ACL: users and their permissions. What the rules mean is in [`crate::serve::acl`].

use ringmaster_engine::{ACL_CATEGORIES, ReplyBuf, SubcommandError, commands_of_category, lookup};

use super::permission::fully;
use super::{Call, Outcome, parse};
use crate::env::wall_now_ms;
use crate::serve::acl::{Asked, ErrandKind, User, merge_parentheses};

const NO_FILE: &str = "ERR This instance is not configured to use an ACL file. You may want to specify users via the ACL SETUSER command \
                       and then issue a CONFIG REWRITE (assuming you have a configuration file set) in order to store users in the \
                       configuration.";
const SHOWN_BY_DEFAULT: usize = 10;

pub(super) fn acl(call: &mut Call<'_>, reply: &mut ReplyBuf) -> Outcome {
    if let Err(error) = call.spec.check_subcommand(call.args) {
        reply.error(&error.to_string());
        return Outcome::Replied;
    }
    match call.subcommand().as_str() {
        "CAT" => cat(call, reply),
        "DELUSER" => return delete_users(call, reply),
        "DRYRUN" => dry_run(call, reply),
        "GENPASS" => generate_password(call, reply),
        "GETUSER" => match call.shared().acl.user(call.arg(2)) {
            Some(user) => write_user(&user, reply),
            None => reply.null(),
        },
        "LIST" => write_all(&call.shared().acl.describe(), reply),
        "USERS" => {
            let names: Vec<_> = call.shared().acl.all().iter().map(|user| user.name().to_vec()).collect();
            write_all(&names, reply);
        }
        "LOAD" => return file(call, ErrandKind::Load, reply),
        "SAVE" => return file(call, ErrandKind::Save, reply),
        "LOG" => log(call, reply),
        "SETUSER" => set_user(call, reply),
        "WHOAMI" => reply.bulk(call.session.user().name()),
        _ => super::client::write_help("ACL", HELP, reply),
    }
    Outcome::Replied
}

const HELP: &[&str] = &[
    "CAT [<category>]",
    "DELUSER <username> [<username> ...]",
    "DRYRUN <username> <command> [<arg> ...]",
    "GENPASS [<bits>]",
    "GETUSER <username>",
    "LIST",
    "LOAD",
    "LOG [<count>|RESET]",
    "SAVE",
    "SETUSER <username> <rule> [<rule> ...]",
    "USERS",
    "WHOAMI",
];

fn write_all(lines: &[Vec<u8>], reply: &mut ReplyBuf) {
    reply.array(lines.len());
    lines.iter().for_each(|line| reply.bulk(line));
}

/// `ACL CAT [category]`.
fn cat(call: &Call<'_>, reply: &mut ReplyBuf) {
    match call.args_from(2) {
        [] => {
            reply.array(ACL_CATEGORIES.len());
            ACL_CATEGORIES.iter().for_each(|category| reply.bulk(category.as_bytes()));
        }
        [category] => {
            let given = String::from_utf8_lossy(category);
            match commands_of_category(&given.to_ascii_lowercase()) {
                None => reply.error(&format!("ERR Unknown category '{given}'")),
                Some(names) => {
                    reply.array(names.len());
                    names.iter().for_each(|name| reply.bulk(name.as_bytes()));
                }
            }
        }
        _ => wrong_count(call, reply),
    }
}

fn wrong_count(call: &Call<'_>, reply: &mut ReplyBuf) {
    let given = String::from_utf8_lossy(call.arg(1));
    reply.error(&format!("ERR unknown subcommand or wrong number of arguments for '{given}'. Try ACL HELP."));
}

/// `ACL SETUSER name rule…`: all rules, or none.
fn set_user(call: &mut Call<'_>, reply: &mut ReplyBuf) {
    let name = call.arg(2);
    if name.iter().any(|byte| byte.is_ascii_whitespace() || *byte == 0) {
        return reply.error("ERR Usernames can't contain spaces or null characters");
    }
    let rules = match merge_parentheses(call.args_from(3)) {
        Ok(rules) => rules,
        Err(from) => {
            let from = String::from_utf8_lossy(&from).into_owned();
            return reply.error(&format!("ERR Unmatched parenthesis in acl selector starting at '{from}'."));
        }
    };
    let changed = call.shared().acl.change_user(name, |user| {
        rules.iter().try_for_each(|rule| user.apply(rule).map_err(|error| (String::from_utf8_lossy(rule), error)))
    });
    match changed {
        Ok(()) => {
            call.shared().users_changed(None);
            reply.ok();
        }
        Err((rule, error)) => reply.error(&format!("ERR Error in ACL SETUSER modifier '{rule}': {error}")),
    }
}

/// `ACL DELUSER name…`: their connections are closed.
fn delete_users(call: &mut Call<'_>, reply: &mut ReplyBuf) -> Outcome {
    let names = call.args_from(2);
    if names.contains(&crate::serve::acl::DEFAULT) {
        reply.error("ERR The 'default' user cannot be removed");
        return Outcome::Replied;
    }
    let removed = names.iter().filter(|name| call.shared().acl.remove_user(name)).count();
    reply.count(removed);
    let is_mine = names.contains(&call.session.user().name());
    call.shared().users_changed(Some(call.session.client.id));
    if is_mine { Outcome::Last } else { Outcome::Replied }
}

/// `ACL GETUSER name`.
fn write_user(user: &User, reply: &mut ReplyBuf) {
    let shown = user.shown();
    reply.map(7);
    reply.bulk(b"flags");
    reply.set(shown.flags.len());
    shown.flags.iter().for_each(|flag| reply.bulk(flag.as_bytes()));
    reply.bulk(b"passwords");
    reply.array(shown.passwords.len());
    shown.passwords.iter().for_each(|password| reply.bulk(password.as_bytes()));
    let mut selectors = shown.selectors.iter();
    if let Some(root) = selectors.next() {
        root.iter().for_each(|(field, value)| {
            reply.bulk(field.as_bytes());
            reply.bulk(value);
        });
    }
    reply.bulk(b"selectors");
    reply.array(selectors.len());
    for selector in selectors {
        reply.map(selector.len());
        for (field, value) in selector {
            reply.bulk(field.as_bytes());
            reply.bulk(value);
        }
    }
}

/// `ACL DRYRUN name command arg…`.
fn dry_run(call: &Call<'_>, reply: &mut ReplyBuf) {
    let Some(user) = call.shared().acl.user(call.arg(2)) else {
        return reply.error(&format!("ERR User '{}' not found", String::from_utf8_lossy(call.arg(2))));
    };
    let args = call.args_from(3);
    let Some(spec) = args.first().and_then(|name| lookup(name)) else {
        return reply.error(&format!("ERR Command '{}' not found", String::from_utf8_lossy(call.arg(3))));
    };
    if !spec.accepts(args.len()) {
        return reply.error(&spec.wrong_arity());
    }
    match spec.check_subcommand(args) {
        Ok(()) => {}
        Err(SubcommandError::Unknown { given, .. }) => {
            return reply.error(&format!("ERR Command '{}' not found", [spec.name, &given].join("|")));
        }
        Err(error @ SubcommandError::Arity { .. }) => return reply.error(&error.to_string()),
    }
    match user.check(&Asked { spec, args, db: call.session.db }) {
        Ok(()) => reply.ok(),
        Err(denied) => reply.bulk(fully(&denied, &user).as_bytes()),
    }
}

/// `ACL GENPASS [bits]`: in hexadecimal digits, of which each has four.
fn generate_password(call: &Call<'_>, reply: &mut ReplyBuf) {
    let bits = match call.args_from(2) {
        [] => 256,
        [bits] => match parse::<i64>(bits) {
            None => return reply.error("ERR value is not an integer or out of range"),
            Some(bits) => match usize::try_from(bits).ok().filter(|bits| (1..=4_096).contains(bits)) {
                Some(bits) => bits,
                None => {
                    return reply.error(
                        "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096",
                    );
                }
            },
        },
        _ => return wrong_count(call, reply),
    };
    let mut random = vec![0; bits.div_ceil(8)];
    rand::RngCore::fill_bytes(&mut rand::thread_rng(), &mut random);
    let mut digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.truncate(bits.div_ceil(4));
    reply.bulk(digits.as_bytes());
}

/// `ACL LOG [count|RESET]`.
fn log(call: &Call<'_>, reply: &mut ReplyBuf) {
    let count = match call.args_from(2) {
        [] => SHOWN_BY_DEFAULT,
        [reset] if reset.eq_ignore_ascii_case(b"reset") => {
            call.shared().acl.reset_log();
            return reply.ok();
        }
        [count] => match parse::<i64>(count) {
            Some(count) => usize::try_from(count).unwrap_or(0),
            None => return reply.error("ERR value is not an integer or out of range"),
        },
        _ => return wrong_count(call, reply),
    };
    let entries = call.shared().acl.newest_refusals(count);
    let now_ms = wall_now_ms();
    reply.array(entries.len());
    for entry in entries {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let text = |reply: &mut ReplyBuf, field: &str, value: &[u8]| {
            reply.bulk(field.as_bytes());
            reply.bulk(value);
        };
        reply.map(10);
        reply.bulk(b"count");
        reply.integer(number(entry.count));
        text(reply, "reason", entry.reason.as_bytes());
        text(reply, "context", entry.context.name().as_bytes());
        text(reply, "object", &entry.object);
        text(reply, "username", &entry.user);
        reply.bulk(b"age-seconds");
        reply.double(now_ms.saturating_sub(entry.updated_ms) as f64 / 1_000.0);
        text(reply, "client-info", entry.client.as_bytes());
        reply.bulk(b"entry-id");
        reply.integer(number(entry.id));
        reply.bulk(b"timestamp-created");
        reply.integer(number(entry.created_ms));
        reply.bulk(b"timestamp-last-updated");
        reply.integer(number(entry.updated_ms));
    }
}

/// `ACL LOAD`, `ACL SAVE`: another thread does it, while the request waits.
fn file(call: &mut Call<'_>, kind: ErrandKind, reply: &mut ReplyBuf) -> Outcome {
    if call.session.in_transaction {
        reply.error(&format!(
            "ERR Command 'acl|{}' not allowed inside a transaction",
            call.subcommand().to_ascii_lowercase()
        ));
        return Outcome::Replied;
    }
    let errand = match call.session.errand.take() {
        Some(errand) => errand,
        None => match call.shared().acl.run_errand(kind) {
            Some(errand) => errand,
            None => {
                reply.error(NO_FILE);
                return Outcome::Replied;
            }
        },
    };
    match errand.take_outcome() {
        None => {
            call.session.errand = Some(errand);
            return Outcome::Parked;
        }
        Some(Ok(())) => reply.ok(),
        Some(Err(error)) => reply.error(&format!("ERR {error}")),
    }
    Outcome::Replied
}
