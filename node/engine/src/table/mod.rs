//! The table of commands: the one source of dispatch, of arity and key checks, of `COMMAND` and of the reference in the docs.
//!
//! Owns what is known about each command without executing it. In: a name. Out: its [`CommandSpec`]. Commands that act on data carry
//! their function; those that act on a connection, the ring or the process carry a [`SessionCommand`], which the node's shell executes.

mod acl;
mod reply;
mod rows;
mod subcommands;

use std::fmt;
use std::ops::Range;
use std::sync::LazyLock;

use crate::commands::DataCommand;

pub use acl::{ACL_CATEGORIES, Channels, KeyUse, commands_of_category};
pub use reply::{
    write_command, write_command_count, write_command_docs, write_command_getkeys, write_command_info,
    write_command_list,
};
pub use subcommands::SubcommandError;

/// All that is known about one command.
#[derive(Debug)]
pub struct CommandSpec {
    /// In lower case.
    pub name: &'static str,
    pub arity: Arity,
    pub flags: Flags,
    pub keys: Keys,
    /// Further ACL categories; those that follow from the flags are added by [`CommandSpec::acl_categories`].
    pub group: Group,
    pub since: &'static str,
    pub complexity: &'static str,
    pub summary: &'static str,
    pub handler: Handler,
}

/// Who executes a command, and how.
#[derive(Clone, Copy, Debug)]
pub enum Handler {
    /// [`Engine::execute`](crate::Engine::execute): on the lanes of its keys, or over all lanes if it has none.
    Data(DataCommand),
    /// The node's shell.
    Session(SessionCommand),
}

/// The commands that are about a connection, the ring or the process rather than about data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionCommand {
    Acl,
    Asking,
    Auth,
    Bgsave,
    Client,
    Cluster,
    Command,
    Config,
    Debug,
    Discard,
    Eval,
    EvalRo,
    Evalsha,
    EvalshaRo,
    Exec,
    Hello,
    Info,
    Lastsave,
    Multi,
    Ping,
    Psubscribe,
    Publish,
    Pubsub,
    Punsubscribe,
    Quit,
    Readonly,
    Readwrite,
    Replicaof,
    Reset,
    Role,
    Save,
    Script,
    Select,
    Shutdown,
    Slaveof,
    Slowlog,
    Spublish,
    Ssubscribe,
    Subscribe,
    Sunsubscribe,
    Unsubscribe,
    Unwatch,
    Wait,
    Watch,
}

/// How many arguments a command takes, its name included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    Exactly(usize),
    AtLeast(usize),
}

impl Arity {
    fn accepts(self, args: usize) -> bool {
        match self {
            Self::Exactly(count) => args == count,
            Self::AtLeast(count) => args >= count,
        }
    }
}

/// Where a command's keys are among its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    None,
    /// From `first` to `last` in steps; a negative `last` counts from the end, -1 being the last argument.
    Range {
        first: usize,
        last: isize,
        step: usize,
    },
    /// The argument at `count_at` says how many keys follow it; `also` is one more key (a destination), or 0.
    Counted {
        count_at: usize,
        also: usize,
    },
    /// The argument behind a subcommand, where there is one: `OBJECT HELP` has none.
    Subcommand,
    /// The first half of what follows the word STREAMS; the second half are ids.
    Streams,
}

/// What a family of commands is called in `COMMAND DOCS`, and which ACL category it makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Cluster,
    Connection,
    Generic,
    Hash,
    HyperLogLog,
    Bitmap,
    List,
    PubSub,
    Scripting,
    Server,
    Set,
    SortedSet,
    Stream,
    String,
    Transactions,
}

/// A set of properties of a command.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u32);

impl Flags {
    pub const NONE: Self = Self(0);
    /// May change data.
    pub const WRITE: Self = Self(1);
    /// Reads data and changes none.
    pub const READONLY: Self = Self(1 << 1);
    /// May use more memory: refused when there is none left.
    pub const DENYOOM: Self = Self(1 << 2);
    /// Constant or logarithmic time.
    pub const FAST: Self = Self(1 << 3);
    pub const ADMIN: Self = Self(1 << 4);
    pub const NOSCRIPT: Self = Self(1 << 5);
    /// May be used before AUTH.
    pub const NO_AUTH: Self = Self(1 << 6);
    /// Served while the member is loading or not in sync.
    pub const LOADING: Self = Self(1 << 7);
    pub const STALE: Self = Self(1 << 8);
    /// Not queued by MULTI.
    pub const NO_MULTI: Self = Self(1 << 9);
    /// ACL category `dangerous`.
    pub const DANGEROUS: Self = Self(1 << 10);
    /// ACL category `keyspace`.
    pub const KEYSPACE: Self = Self(1 << 11);

    /// May keep a connection waiting.
    pub const BLOCKING: Self = Self(1 << 12);
    /// Runs a script, which may write unless it is READONLY.
    pub const SCRIPT: Self = Self(1 << 14);
    /// About channels and their messages.
    pub const PUBSUB: Self = Self(1 << 13);

    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

impl Flags {
    const NAMES: [(Self, &'static str); 12] = [
        (Self::WRITE, "write"),
        (Self::READONLY, "readonly"),
        (Self::DENYOOM, "denyoom"),
        (Self::ADMIN, "admin"),
        (Self::PUBSUB, "pubsub"),
        (Self::NOSCRIPT, "noscript"),
        (Self::LOADING, "loading"),
        (Self::STALE, "stale"),
        (Self::FAST, "fast"),
        (Self::NO_AUTH, "no_auth"),
        (Self::BLOCKING, "blocking"),
        (Self::NO_MULTI, "no_multi"),
    ];

    /// The names that `COMMAND INFO` shows.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(flag, _)| self.has(*flag)).map(|(_, name)| name)
    }
}

/// A request whose keys cannot be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    #[error("ERR The command has no key arguments")]
    NoKeys,
    #[error("ERR Invalid arguments specified for command")]
    Arguments,
}

impl CommandSpec {
    /// Whether a request of this many arguments, its name included, may be executed. If not, reply [`wrong_arity`](Self::wrong_arity).
    #[must_use]
    pub fn accepts(&self, args: usize) -> bool {
        self.arity.accepts(args)
    }

    /// The error line for a request that has too few or too many arguments.
    #[must_use]
    pub fn wrong_arity(&self) -> String {
        format!("ERR wrong number of arguments for '{}' command", self.name)
    }

    /// The keys of a request. Empty for a command without keys.
    pub fn keys_of<'a, 'b>(
        &self,
        args: &'b [&'a [u8]],
    ) -> Result<impl Iterator<Item = &'a [u8]> + use<'a, 'b>, KeysError> {
        let (also, range, step) = self.key_positions(args)?;
        let also = also.and_then(|at| args.get(at));
        Ok(also.into_iter().chain(args.get(range).unwrap_or_default().iter().step_by(step)).copied())
    }

    /// A single further key, the range that holds the others, and the step between them.
    fn key_positions(&self, args: &[&[u8]]) -> Result<(Option<usize>, Range<usize>, usize), KeysError> {
        match self.keys {
            Keys::None => Ok((None, 0..0, 1)),
            Keys::Range { first, last, step } => {
                let last = if last < 0 { args.len().checked_add_signed(last) } else { usize::try_from(last).ok() };
                match last {
                    Some(last) if first <= last && last < args.len() => Ok((None, first..last.saturating_add(1), step)),
                    _ => Err(KeysError::Arguments),
                }
            }
            Keys::Counted { count_at, also } => {
                let count = args.get(count_at).and_then(|text| crate::resp::parse_int(text));
                let count = count.and_then(|count| usize::try_from(count).ok()).ok_or(KeysError::Arguments)?;
                let first = count_at.saturating_add(1);
                let end = first.checked_add(count).filter(|&end| end <= args.len()).ok_or(KeysError::Arguments)?;
                Ok(((also > 0).then_some(also), first..end, 1))
            }
            Keys::Subcommand => Ok((None, 2..args.len().clamp(2, 3), 1)),
            Keys::Streams => stream_keys(args).map(|range| (None, range, 1)).ok_or(KeysError::Arguments),
        }
    }
}

/// Where the keys of XREAD and XREADGROUP are. An option's value is skipped, so that a group may be called "streams".
fn stream_keys(args: &[&[u8]]) -> Option<Range<usize>> {
    let mut at = 1;
    loop {
        let word = args.get(at)?;
        at = match () {
            () if word.eq_ignore_ascii_case(b"STREAMS") => break,
            () if word.eq_ignore_ascii_case(b"NOACK") => at.checked_add(1)?,
            () if word.eq_ignore_ascii_case(b"GROUP") => at.checked_add(3)?,
            () if word.eq_ignore_ascii_case(b"COUNT") || word.eq_ignore_ascii_case(b"BLOCK") => at.checked_add(2)?,
            () => return None,
        };
    }
    let first = at.checked_add(1)?;
    let count = args.len().checked_sub(first).filter(|count| *count > 0 && count.is_multiple_of(2))? / 2;
    Some(first..first.checked_add(count)?)
}

impl Group {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Connection => "connection",
            Self::Generic => "generic",
            Self::Hash => "hash",
            Self::HyperLogLog => "hyperloglog",
            Self::Bitmap => "bitmap",
            Self::List => "list",
            Self::PubSub => "pubsub",
            Self::Scripting => "scripting",
            Self::Server => "server",
            Self::Set => "set",
            Self::SortedSet => "sorted-set",
            Self::Stream => "stream",
            Self::String => "string",
            Self::Transactions => "transactions",
        }
    }

    fn acl_category(self) -> Option<&'static str> {
        match self {
            Self::Generic => Some("keyspace"),
            Self::SortedSet => Some("sortedset"),
            Self::Transactions => Some("transaction"),
            Self::Cluster | Self::Server => None,
            Self::Bitmap
            | Self::Connection
            | Self::Hash
            | Self::HyperLogLog
            | Self::List
            | Self::PubSub
            | Self::Scripting
            | Self::Set
            | Self::Stream
            | Self::String => Some(self.name()),
        }
    }
}

/// Every command, by name.
pub fn commands() -> impl ExactSizeIterator<Item = &'static CommandSpec> {
    rows::ROWS.iter()
}

/// Finds a command, whatever the case of its letters.
#[must_use]
pub fn lookup(name: &[u8]) -> Option<&'static CommandSpec> {
    let mut at = name_hash(name);
    loop {
        let index = INDEX.get(at & (INDEX_SIZE - 1)).copied().flatten()?;
        let spec = rows::ROWS.get(usize::from(index))?;
        if spec.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some(spec);
        }
        at = at.wrapping_add(1);
    }
}

/// A power of two, several times the number of commands: most names are found at the first try.
const INDEX_SIZE: usize = 1024;

static INDEX: LazyLock<Vec<Option<u16>>> = LazyLock::new(|| {
    let mut index = vec![None; INDEX_SIZE];
    for (number, spec) in rows::ROWS.iter().enumerate() {
        let mut at = name_hash(spec.name.as_bytes());
        while let Some(Some(_)) = index.get(at & (INDEX_SIZE - 1)) {
            at = at.wrapping_add(1);
        }
        if let Some(place) = index.get_mut(at & (INDEX_SIZE - 1)) {
            *place = u16::try_from(number).ok();
        }
    }
    index
});

/// FNV-1a of the name in lower case. Names are few and ours, so nobody can make them collide.
fn name_hash(name: &[u8]) -> usize {
    let hash = name.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ (hash >> 32)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_under_any_case() {
        for spec in commands() {
            assert_eq!(lookup(spec.name.as_bytes()).map(|s| s.name), Some(spec.name));
            assert_eq!(lookup(spec.name.to_ascii_uppercase().as_bytes()).map(|s| s.name), Some(spec.name));
        }
        assert!(lookup(b"nosuch").is_none());
        assert!(lookup(b"").is_none());
    }

    #[test]
    fn the_table_is_sorted_and_consistent() {
        let names: Vec<_> = commands().map(|spec| spec.name).collect();
        assert!(names.is_sorted_by(|a, b| a < b), "sorted, no name twice");
        assert!(names.len() * 4 <= INDEX_SIZE, "the index is to stay sparse");
        for spec in commands() {
            let (write, read) = (spec.flags.has(Flags::WRITE), spec.flags.has(Flags::READONLY));
            assert!(!(write && read), "{} cannot be both", spec.name);
            assert!(!spec.flags.has(Flags::DENYOOM) || write, "{}: only writes need memory", spec.name);
            if matches!(spec.handler, Handler::Data(_)) && spec.keys != Keys::None {
                assert!(write || read, "{} touches keys", spec.name);
            }
        }
    }

    #[test]
    fn keys_are_found_where_the_table_says() {
        let keys = |args: &[&'static str]| {
            let args: Vec<&[u8]> = args.iter().map(|a| a.as_bytes()).collect();
            let spec = lookup(args[0]).unwrap();
            spec.keys_of(&args).map(|k| k.map(|k| String::from_utf8(k.to_vec()).unwrap()).collect::<Vec<_>>())
        };
        assert_eq!(keys(&["get", "a"]).unwrap(), ["a"]);
        assert_eq!(keys(&["mset", "a", "1", "b", "2"]).unwrap(), ["a", "b"]);
        assert_eq!(keys(&["del", "a", "b", "c"]).unwrap(), ["a", "b", "c"]);
        assert_eq!(keys(&["rename", "a", "b"]).unwrap(), ["a", "b"]);
        assert!(keys(&["dbsize"]).unwrap().is_empty());
        assert_eq!(keys(&["get"]), Err(KeysError::Arguments));
        assert_eq!(keys(&["zunionstore", "to", "2", "a", "b", "WEIGHTS", "1", "2"]).unwrap(), ["to", "a", "b"]);
        assert_eq!(keys(&["object", "encoding", "a"]).unwrap(), ["a"]);
        assert!(keys(&["object", "help"]).unwrap().is_empty());
    }
}
