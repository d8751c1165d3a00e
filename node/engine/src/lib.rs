//! The data engine: RESP, commands, keyspace in lanes, the shard log and the slot stream.
//!
//! Owns: what clients read and write. In: requests as bytes ([`RequestParser`]), executed by [`Engine::execute`] with the time and a
//! permit; on copies, records ([`Engine::apply`]). Out: encoded replies ([`ReplyBuf`]), records in one sequence a shard ([`ShardLog`]),
//! and the slot stream that makes a copy ([`Engine::walk`]).
//!
//! Pure: no thread, socket, file or clock; the time, the hash seed and the right to execute come in as arguments. The locks in here are
//! those of the data: one a lane, one for the log, always taken in that order.
//!
//! ```text
//! bytes ─ RequestParser ─ lookup ─ Engine::execute ─┬─ ReplyBuf
//!                                    │ lanes held   └─ ShardLog ─ Batch ─▶ Engine::apply (copies)
//!                                 keyspace ─ Engine::walk ─ chunk ──────▶ Engine::apply_walk
//! ```

mod commands;
mod engine;
mod hyperloglog;
mod keyspace;
mod log;
mod rdb;
mod record;
mod resp;
mod stream_change;
mod table;
mod time;
mod walk;

pub use commands::{DataCommand, matches_glob};
pub use engine::{
    Access, Attempt, Called, Cause, Changed, Ctx, Dropped, Engine, EngineConfig, Eviction, Executed, Located, Parts,
    Permit, Queued, QueuedScript, QueuedScriptFn, ScriptCall, ScriptFn, ScriptId, ScriptTxn, Served, SessionFn,
    UnknownEviction, Waiter, Watch, What, script_id,
};
pub use log::{Batch, ShardLog, Trimmed};
pub use record::BadRecord;
pub use resp::{
    ParseLimits, Parsed, Protocol, ProtocolError, ReplyBuf, RequestParser, parse_int, text_of, write_double,
};
pub use table::{
    ACL_CATEGORIES, Arity, Channels, CommandSpec, Flags, Group, Handler, KeyUse, Keys, KeysError, SessionCommand,
    SubcommandError, commands, commands_of_category, lookup, write_command, write_command_count, write_command_docs,
    write_command_getkeys, write_command_info, write_command_list,
};
pub use time::UnixMs;
pub use walk::{Cursor, WalkError, Walked};
