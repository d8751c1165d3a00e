//! COMMAND: the table of commands, as clients read it to find keys.

use ringmaster_engine::{
    ReplyBuf, commands, write_command, write_command_count, write_command_docs, write_command_getkeys,
    write_command_info, write_command_list,
};

use super::{Call, glob};

pub(super) fn command(call: &Call<'_>, reply: &mut ReplyBuf) {
    match call.spec.check_subcommand(call.args) {
        Ok(()) => answer(call.args, reply),
        Err(error) => reply.error(&error.to_string()),
    }
}

/// The reply to a request whose subcommand was checked.
pub(super) fn answer(args: &[&[u8]], reply: &mut ReplyBuf) {
    let [_, subcommand, rest @ ..] = args else { return write_command(reply) };
    match subcommand.to_ascii_uppercase().as_slice() {
        b"COUNT" => write_command_count(reply),
        b"DOCS" => write_command_docs(rest, reply),
        b"INFO" => write_command_info(rest, reply),
        b"GETKEYS" => write_command_getkeys(rest, reply),
        b"LIST" => list(rest, reply),
        _ => super::client::write_help(
            "COMMAND",
            &[
                "COUNT",
                "DOCS [<command> ...]",
                "GETKEYS <command> [<arg> ...]",
                "INFO [<command> ...]",
                "LIST [FILTERBY ...]",
            ],
            reply,
        ),
    }
}

/// `COMMAND LIST [FILTERBY (MODULE name | ACLCAT category | PATTERN pattern)]`. There are no modules.
fn list(options: &[&[u8]], reply: &mut ReplyBuf) {
    let names: Vec<&str> = match options {
        [] => return write_command_list(reply),
        [filter, kind, value] if filter.eq_ignore_ascii_case(b"filterby") => match kind.to_ascii_uppercase().as_slice()
        {
            b"MODULE" => Vec::new(),
            b"ACLCAT" => commands()
                .filter(|spec| spec.acl_categories().any(|category| category.as_bytes().eq_ignore_ascii_case(value)))
                .map(|spec| spec.name)
                .collect(),
            b"PATTERN" => {
                commands().map(|spec| spec.name).filter(|name| glob::matches(value, name.as_bytes())).collect()
            }
            _ => return reply.error("ERR syntax error"),
        },
        _ => return reply.error("ERR syntax error"),
    };
    reply.array(names.len());
    names.iter().for_each(|name| reply.bulk(name.as_bytes()));
}
