//! Why a command was refused. The texts are those of Redis: clients and test suites match on them.

/// A command's refusal. It did nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommandError {
    /// Not a reply: the execution's permit was refused while it went over lanes.
    #[error("not permitted")]
    NotPermitted,
    #[error("ERR wrong number of arguments for '{0}' command")]
    Arity(&'static str),
    #[error("ERR '{0}' is executed by the connection that it concerns")]
    NotData(&'static str),
    #[error("OOM command not allowed when used memory > 'maxmemory'.")]
    OutOfMemory,
    #[error("WRONGTYPE Operation against a key holding the wrong kind of value")]
    WrongType,
    #[error("ERR syntax error")]
    Syntax,
    #[error("ERR value is not an integer or out of range")]
    NotInteger,
    #[error("ERR value is not a valid float")]
    NotFloat,
    #[error("ERR min or max is not a float")]
    NotFloatRange,
    #[error("ERR min or max not valid string range item")]
    NotLexRange,
    #[error("ERR hash value is not an integer")]
    HashNotInteger,
    #[error("ERR hash value is not a float")]
    HashNotFloat,
    #[error("ERR increment or decrement would overflow")]
    Overflow,
    #[error("ERR decrement would overflow")]
    DecrementOverflow,
    #[error("ERR increment would produce NaN or Infinity")]
    NotFinite,
    #[error("ERR resulting score is not a number (NaN)")]
    ScoreNotNumber,
    #[error("ERR no such key")]
    NoSuchKey,
    #[error("ERR index out of range")]
    IndexOutOfRange,
    #[error("ERR timeout is not a float or out of range")]
    BadTimeout,
    #[error("ERR timeout is negative")]
    NegativeTimeout,
    #[error("ERR timeout is out of range")]
    TimeoutOutOfRange,
    #[error("ERR value is out of range, must be positive")]
    NotPositive,
    #[error("ERR offset is out of range")]
    OffsetOutOfRange,
    #[error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")]
    StringTooLong,
    #[error("ERR invalid expire time in '{0}' command")]
    InvalidExpire(&'static str),
    #[error("ERR invalid cursor")]
    InvalidCursor,
    #[error("ERR unknown type name '{0}'")]
    UnknownType(String),
    #[error("ERR Unsupported option {0}")]
    UnsupportedOption(String),
    #[error("ERR unknown subcommand '{subcommand}'. Try {command} HELP.")]
    UnknownSubcommand { subcommand: String, command: &'static str },
    /// One that a single command gives, with what it was given.
    #[error("{0}")]
    Said(String),
    /// One that a single command gives.
    #[error("{0}")]
    Other(&'static str),
}
