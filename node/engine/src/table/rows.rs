//! The rows of the table, sorted by name.

use super::{Arity, CommandSpec, Flags, Group, Handler, Keys, SessionCommand};

pub(super) static ROWS: &[CommandSpec] = &[CommandSpec {
    name: "ping",
    arity: Arity::AtLeast(1),
    flags: Flags(Flags::FAST.0 | Flags::LOADING.0 | Flags::STALE.0),
    keys: Keys::None,
    group: Group::Connection,
    since: "1.0.0",
    complexity: "O(1)",
    summary: "Returns the server's liveliness response.",
    handler: Handler::Session(SessionCommand::Ping),
}];
