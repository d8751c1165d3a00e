//! The replies of `COMMAND` and its subcommands, written from the table.

use super::{Arity, CommandSpec, Flags, Keys, KeysError, commands, lookup};
use crate::resp::ReplyBuf;

/// `COMMAND`: the details of every command.
pub fn write_command(reply: &mut ReplyBuf) {
    reply.array(commands().len());
    commands().for_each(|spec| write_details(spec, reply));
}

pub fn write_command_count(reply: &mut ReplyBuf) {
    reply.count(commands().len());
}

/// `COMMAND LIST`, without its filters.
pub fn write_command_list(reply: &mut ReplyBuf) {
    reply.array(commands().len());
    commands().for_each(|spec| reply.bulk(spec.name.as_bytes()));
}

/// `COMMAND INFO name…`: null for each name that is none; all commands if no name is given.
pub fn write_command_info(names: &[&[u8]], reply: &mut ReplyBuf) {
    if names.is_empty() {
        return write_command(reply);
    }
    reply.array(names.len());
    for name in names {
        match lookup(name) {
            Some(spec) => write_details(spec, reply),
            None => reply.null_array(),
        }
    }
}

/// `COMMAND DOCS name…`: unknown names are left out; all commands if no name is given.
pub fn write_command_docs(names: &[&[u8]], reply: &mut ReplyBuf) {
    let asked: Vec<&CommandSpec> = match names {
        [] => commands().collect(),
        _ => names.iter().filter_map(|name| lookup(name)).collect(),
    };
    reply.map(asked.len());
    for spec in asked {
        reply.bulk(spec.name.as_bytes());
        let fields = [
            ("summary", spec.summary),
            ("since", spec.since),
            ("group", spec.group.name()),
            ("complexity", spec.complexity),
        ];
        reply.map(fields.len());
        for (name, text) in fields {
            reply.bulk(name.as_bytes());
            reply.bulk(text.as_bytes());
        }
    }
}

/// `COMMAND GETKEYS name arg…`, given what follows `GETKEYS`.
pub fn write_command_getkeys(request: &[&[u8]], reply: &mut ReplyBuf) {
    let Some(spec) = request.first().and_then(|name| lookup(name)) else {
        return reply.error("ERR Invalid command specified");
    };
    if spec.keys == Keys::None {
        return reply.error(&KeysError::NoKeys.to_string());
    }
    if !spec.accepts(request.len()) {
        return reply.error("ERR Invalid number of arguments specified for command");
    }
    let runs_a_script = spec.flags.has(Flags::SCRIPT);
    match spec.keys_of(request).map(Iterator::collect::<Vec<_>>) {
        // It may have none, and says itself what is wrong with their number.
        Err(_) if runs_a_script => reply.array(0),
        Err(error) => reply.error(&error.to_string()),
        Ok(keys) if keys.is_empty() && !runs_a_script && matches!(spec.keys, Keys::Counted { .. }) => {
            reply.error(&KeysError::Arguments.to_string());
        }
        Ok(keys) => {
            reply.array(keys.len());
            keys.iter().for_each(|key| reply.bulk(key));
        }
    }
}

/// One command as `COMMAND` describes it: name, arity, flags, key positions, ACL categories, tips, key specifications, subcommands.
fn write_details(spec: &CommandSpec, reply: &mut ReplyBuf) {
    reply.array(10);
    reply.bulk(spec.name.as_bytes());
    let arity = match spec.arity {
        Arity::Exactly(count) => i64::try_from(count).unwrap_or(i64::MAX),
        Arity::AtLeast(count) => -i64::try_from(count).unwrap_or(i64::MAX),
    };
    reply.integer(arity);
    let movable = matches!(spec.keys, Keys::Counted { .. } | Keys::Streams);
    let flags: Vec<&str> = spec.flags.names().chain(movable.then_some("movablekeys")).collect();
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.simple(flag));
    let (first, last, step) = match spec.keys {
        Keys::None | Keys::Counted { also: 0, .. } | Keys::Streams => (0, 0, 0),
        Keys::Subcommand => (2, 2, 1),
        Keys::Counted { also, .. } => (also, 1, 1),
        Keys::Range { first, last, step } => (first, last, step),
    };
    reply.count(first);
    reply.integer(i64::try_from(last).unwrap_or(-1));
    reply.count(step);
    let categories: Vec<&str> = spec.acl_categories().collect();
    reply.set(categories.len());
    categories.iter().for_each(|category| reply.simple(&format!("@{category}")));
    reply.array(0);
    write_key_specifications(spec, reply);
    reply.array(0);
}

fn write_key_specifications(spec: &CommandSpec, reply: &mut ReplyBuf) {
    let access = if spec.flags.has(Flags::WRITE) { "RW" } else { "RO" };
    // Where the keys begin: how that is found, and its parameters.
    let search = |kind: &str, parameters: &[(&str, Parameter<'_>)], reply: &mut ReplyBuf| {
        reply.map(3);
        reply.bulk(b"flags");
        reply.set(1);
        reply.simple(access);
        reply.bulk(b"begin_search");
        write_search(kind, parameters, reply);
        reply.bulk(b"find_keys");
    };
    let begin = |index: usize, reply: &mut ReplyBuf| {
        let index = i64::try_from(index).unwrap_or(i64::MAX);
        search("index", &[("index", Parameter::Number(index))], reply);
    };
    let range = |last: isize, step: usize, limit: i64, reply: &mut ReplyBuf| {
        let number = |value: isize| Parameter::Number(i64::try_from(value).unwrap_or(-1));
        let step = isize::try_from(step).unwrap_or(isize::MAX);
        let limit = Parameter::Number(limit);
        write_search("range", &[("lastkey", number(last)), ("keystep", number(step)), ("limit", limit)], reply);
    };
    match spec.keys {
        Keys::None => reply.array(0),
        Keys::Range { first, last, step } => {
            reply.array(1);
            begin(first, reply);
            // The protocol counts the last key from the first, unless it counts from the end.
            let from_first = isize::try_from(first).unwrap_or(0);
            range(if last < 0 { last } else { last - from_first }, step, 0, reply);
        }
        Keys::Subcommand => {
            reply.array(1);
            begin(2, reply);
            range(0, 1, 0, reply);
        }
        Keys::Streams => {
            reply.array(1);
            let keyword = ("keyword", Parameter::Word(b"STREAMS"));
            search("keyword", &[keyword, ("startfrom", Parameter::Number(1))], reply);
            // The last of them is half way to the end.
            range(-1, 1, 2, reply);
        }
        Keys::Counted { count_at, also } => {
            reply.array(if also > 0 { 2 } else { 1 });
            if also > 0 {
                begin(also, reply);
                range(0, 1, 0, reply);
            }
            begin(count_at, reply);
            let numbers = [("keynumidx", 0), ("firstkey", 1), ("keystep", 1)];
            write_search("keynum", &numbers.map(|(name, value)| (name, Parameter::Number(value))), reply);
        }
    }
}

/// A parameter of how keys are found.
#[derive(Clone, Copy)]
enum Parameter<'a> {
    Number(i64),
    Word(&'a [u8]),
}

fn write_search(kind: &str, parameters: &[(&str, Parameter<'_>)], reply: &mut ReplyBuf) {
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(kind.as_bytes());
    reply.bulk(b"spec");
    reply.map(parameters.len());
    for (name, value) in parameters {
        reply.bulk(name.as_bytes());
        match value {
            Parameter::Number(number) => reply.integer(*number),
            Parameter::Word(word) => reply.bulk(word),
        }
    }
}
