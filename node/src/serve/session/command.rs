//! COMMAND: the table of commands, as clients read it to find keys.

use ringmaster_engine::{
    ReplyBuf, commands, write_command, write_command_count, write_command_docs, write_command_getkeys,
    write_command_info, write_command_list,
};

use super::{Call, glob};

pub(super) fn command(call: &Call<'_>, reply: &mut ReplyBuf) {
    if call.args.len() == 1 {
        return write_command(reply);
    }
    match call.subcommand().as_str() {
        "COUNT" if call.takes(2..=2, reply) => write_command_count(reply),
        "DOCS" => write_command_docs(call.args_from(2), reply),
        "INFO" => write_command_info(call.args_from(2), reply),
        "GETKEYS" if call.takes(3..=usize::MAX, reply) => write_command_getkeys(call.args_from(2), reply),
        "LIST" => list(call, reply),
        "HELP" => super::client::write_help(
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
        "COUNT" | "GETKEYS" => {}
        _ => call.unknown_subcommand(reply),
    }
}

/// `COMMAND LIST [FILTERBY (MODULE name | ACLCAT category | PATTERN pattern)]`. There are no modules.
fn list(call: &Call<'_>, reply: &mut ReplyBuf) {
    let names: Vec<&str> = match call.args_from(2) {
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
