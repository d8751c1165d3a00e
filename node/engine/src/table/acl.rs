//! What access control asks of the table: the categories of commands and of their subcommands, what a request does to each of its keys, and
//! which channels it names.
//!
//! Most of it follows from a command's flags and group; what does not is listed here by name.

use std::ops::Range;

use super::subcommands::CONTAINERS;
use super::{CommandSpec, Flags, Group, Handler, Keys, SessionCommand, commands};

/// Every category, in the order in which `ACL CAT` lists them.
pub const ACL_CATEGORIES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// Commands of other groups that are about the connection.
const CONNECTION: [&str; 5] = ["asking", "command", "readonly", "readwrite", "wait"];

/// Commands for everybody that are listed among the administrators'.
const ADMIN: [&str; 1] = ["lastsave"];

/// Subcommands of commands for everybody that are for administrators.
const ADMIN_SUBCOMMANDS: [(&str, &[&str]); 3] = [
    ("acl", &["deluser", "dryrun", "getuser", "list", "load", "log", "save", "setuser", "users"]),
    ("client", &["kill", "list", "no-evict", "pause", "unblock", "unpause"]),
    (
        "cluster",
        &[
            "addslots",
            "addslotsrange",
            "bumpepoch",
            "count-failure-reports",
            "delslots",
            "delslotsrange",
            "failover",
            "flushslots",
            "forget",
            "meet",
            "replicas",
            "replicate",
            "reset",
            "saveconfig",
            "set-config-epoch",
            "setslot",
            "slaves",
        ],
    ),
];

/// Containers whose HELP keeps the category of their group.
const HELP_IN_GROUP: [&str; 7] = ["client", "command", "object", "script", "xgroup", "xinfo", "function"];

/// What a request does with one of its keys. Neither: it only asks whether or how the key is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyUse {
    pub reads: bool,
    pub writes: bool,
}

const LOOKS: KeyUse = KeyUse { reads: false, writes: false };
const READS: KeyUse = KeyUse { reads: true, writes: false };
const WRITES: KeyUse = KeyUse { reads: false, writes: true };
const BOTH: KeyUse = KeyUse { reads: true, writes: true };

/// The uses of a command's first key (a destination goes first) and of the others, where they do not follow from its flags: what is READONLY reads,
/// what is WRITE writes.
const KEY_USES: &[(KeyUse, KeyUse, &[&str])] = &[
    (
        LOOKS,
        LOOKS,
        &[
            "exists",
            "hexists",
            "hlen",
            "hstrlen",
            "llen",
            "memory",
            "object",
            "scard",
            "sismember",
            "strlen",
            "touch",
            "type",
            "watch",
            "xlen",
            "zcard",
        ],
    ),
    (READS, READS, &["pfcount", "xreadgroup"]),
    (
        BOTH,
        BOTH,
        &[
            "blmpop",
            "blpop",
            "brpop",
            "bzmpop",
            "bzpopmax",
            "bzpopmin",
            "decr",
            "decrby",
            "eval",
            "evalsha",
            "fcall",
            "getdel",
            "getex",
            "getset",
            "hgetdel",
            "hgetex",
            "hincrby",
            "hincrbyfloat",
            "incr",
            "incrby",
            "incrbyfloat",
            "lmpop",
            "lpop",
            "move",
            "rpop",
            "setbit",
            "spop",
            "zincrby",
            "zmpop",
            "zpopmax",
            "zpopmin",
        ],
    ),
    (BOTH, WRITES, &["blmove", "brpoplpush", "lmove", "rename", "renamenx", "rpoplpush", "smove"]),
    (BOTH, READS, &["pfmerge"]),
    (READS, WRITES, &["copy"]),
    (
        WRITES,
        READS,
        &[
            "bitop",
            "geosearchstore",
            "sdiffstore",
            "sinterstore",
            "sunionstore",
            "zdiffstore",
            "zinterstore",
            "zrangestore",
            "zunionstore",
        ],
    ),
];

/// The channels that a request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channels {
    pub args: Range<usize>,
    /// They are patterns, which must be allowed as they are.
    pub are_patterns: bool,
}

impl CommandSpec {
    /// The ACL categories of the command, without their `@`. A container has few of its own: see [`Self::subcommand_categories`].
    pub fn acl_categories(&self) -> impl Iterator<Item = &'static str> {
        let flags = self.flags;
        let is_container = self.is_container();
        let runs_scripts = flags.has(Flags::SCRIPT);
        let is_about_connection = CONNECTION.contains(&self.name);
        let by_flag = [
            (!is_container && flags.has(Flags::WRITE), "write"),
            (!is_container && flags.has(Flags::READONLY) && !runs_scripts, "read"),
            (flags.has(Flags::FAST), "fast"),
            (!flags.has(Flags::FAST), "slow"),
            (!is_container && (flags.has(Flags::ADMIN) || ADMIN.contains(&self.name)), "admin"),
            (!is_container && (flags.has(Flags::ADMIN) || flags.has(Flags::DANGEROUS)), "dangerous"),
            (!is_container && flags.has(Flags::KEYSPACE), "keyspace"),
            (flags.has(Flags::BLOCKING), "blocking"),
            (is_about_connection, "connection"),
        ];
        let group = if is_container || is_about_connection { None } else { self.group.acl_category() };
        group.into_iter().chain(by_flag.into_iter().filter(|(holds, _)| *holds).map(|(_, name)| name))
    }

    /// The ACL categories of one of the command's subcommands.
    pub fn subcommand_categories(&self, subcommand: &str) -> impl Iterator<Item = &'static str> {
        let (flags, is_help) = (self.flags, subcommand == "help");
        let listed = ADMIN_SUBCOMMANDS.iter().find(|(container, _)| *container == self.name);
        let is_admin = match listed {
            Some((_, subcommands)) => subcommands.contains(&subcommand),
            None => flags.has(Flags::ADMIN) && !is_help,
        };
        let group = match self.group.acl_category() {
            _ if CONNECTION.contains(&self.name) => Some("connection"),
            group if !is_help || HELP_IN_GROUP.contains(&self.name) => group,
            _ => None,
        };
        let by_flag = [
            (flags.has(Flags::WRITE) && !is_help, "write"),
            (flags.has(Flags::READONLY) && !is_help, "read"),
            (is_admin, "admin"),
            (true, "slow"),
            (is_admin, "dangerous"),
        ];
        group.into_iter().chain(by_flag.into_iter().filter(|(holds, _)| *holds).map(|(_, name)| name))
    }

    /// The names of the command's subcommands, if each request has one.
    pub fn subcommands(&self) -> impl Iterator<Item = &'static str> {
        let found = CONTAINERS.iter().find(|(container, _)| *container == self.name);
        found.into_iter().flat_map(|(_, subcommands)| subcommands.iter().map(|(name, _)| *name))
    }

    fn is_container(&self) -> bool {
        CONTAINERS.iter().any(|(container, _)| *container == self.name)
    }

    /// The keys of a request, and what it does with each. Empty where the keys cannot be found: then it will be refused for that.
    pub fn key_uses<'a, 'b>(&self, args: &'b [&'a [u8]]) -> impl Iterator<Item = (&'a [u8], KeyUse)> + use<'a, 'b> {
        let (first, others) = self.uses(args);
        let keys = if self.channels(args).is_some() { None } else { self.keys_of(args).ok() };
        let uses = std::iter::once(first).chain(std::iter::repeat(others));
        keys.into_iter().flatten().zip(uses)
    }

    fn uses(&self, args: &[&[u8]]) -> (KeyUse, KeyUse) {
        match self.name {
            "set" => {
                let gets = args.iter().skip(3).any(|arg| arg.eq_ignore_ascii_case(b"get"));
                return if gets { (BOTH, BOTH) } else { (WRITES, WRITES) };
            }
            "bitfield" => return if only_gets(args) { (READS, READS) } else { (BOTH, BOTH) },
            _ => {}
        }
        let listed = KEY_USES.iter().find(|(_, _, names)| names.contains(&self.name));
        match listed {
            Some((first, others, _)) => (*first, *others),
            None if self.flags.has(Flags::WRITE) => (WRITES, WRITES),
            None => (READS, READS),
        }
    }

    /// The channels that a request wants to hear or to be heard on. Who ends a subscription needs no permission.
    #[must_use]
    pub fn channels(&self, args: &[&[u8]]) -> Option<Channels> {
        let Handler::Session(command) = self.handler else { return None };
        let (args, are_patterns) = match command {
            SessionCommand::Publish | SessionCommand::Spublish => (1..2, false),
            SessionCommand::Subscribe | SessionCommand::Ssubscribe => (1..args.len(), false),
            SessionCommand::Psubscribe => (1..args.len(), true),
            SessionCommand::Unsubscribe | SessionCommand::Sunsubscribe | SessionCommand::Punsubscribe => (0..0, false),
            _ => return None,
        };
        Some(Channels { args, are_patterns })
    }

    /// Whether the command is about what is in a database, rather than about the connection or the process.
    #[must_use]
    pub fn is_about_data(&self) -> bool {
        let has_keys = self.keys != Keys::None && self.group != Group::PubSub;
        has_keys || [Flags::READONLY, Flags::WRITE, Flags::KEYSPACE].into_iter().any(|flag| self.flags.has(flag))
    }
}

/// Whether BITFIELD changes nothing.
fn only_gets(args: &[&[u8]]) -> bool {
    let mut rest = args.get(2..).unwrap_or_default();
    loop {
        rest = match rest {
            [] => return true,
            [word, _, _, rest @ ..] if word.eq_ignore_ascii_case(b"get") => rest,
            [word, _, rest @ ..] if word.eq_ignore_ascii_case(b"overflow") => rest,
            _ => return false,
        };
    }
}

/// Every command and subcommand of a category, subcommands as `config|get`. None if there is no such category.
#[must_use]
pub fn commands_of_category(category: &str) -> Option<Vec<String>> {
    if !ACL_CATEGORIES.contains(&category) {
        return None;
    }
    let mut names = Vec::new();
    for spec in commands() {
        if spec.acl_categories().any(|of| of == category) {
            names.push(spec.name.to_owned());
        }
        for subcommand in spec.subcommands() {
            if spec.subcommand_categories(subcommand).any(|of| of == category) {
                names.push(format!("{}|{subcommand}", spec.name));
            }
        }
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::table::lookup;

    /// Lines `name|subcommand category…`, as Valkey 9.1 says in `COMMAND INFO`.
    const CATEGORIES_OF_VALKEY: &str = include_str!("valkey_categories.txt");

    #[test]
    fn commands_are_in_the_categories_that_valkey_has_them_in() {
        let mut seen = 0;
        for line in CATEGORIES_OF_VALKEY.lines() {
            let (name, expected) = line.split_once(' ').unwrap();
            let expected: BTreeSet<&str> = expected.split(' ').collect();
            let (container, subcommand) = name.split_once('|').unwrap_or((name, ""));
            let Some(spec) = lookup(container.as_bytes()) else { continue };
            let categories: BTreeSet<&str> = if subcommand.is_empty() {
                spec.acl_categories().collect()
            } else if spec.subcommands().any(|known| known == subcommand) {
                spec.subcommand_categories(subcommand).collect()
            } else {
                continue;
            };
            assert_eq!(categories, expected, "{name}");
            assert!(categories.iter().all(|category| ACL_CATEGORIES.contains(category)));
            seen += 1;
        }
        assert!(seen > commands().len(), "{seen} commands and subcommands");
    }

    #[test]
    fn every_key_has_its_use() {
        let uses = |words: &str| {
            let args: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
            let uses = lookup(args[0]).unwrap().key_uses(&args);
            let letter = |KeyUse { reads, writes }| match (reads, writes) {
                (true, true) => "RW",
                (true, false) => "R",
                (false, true) => "W",
                (false, false) => "-",
            };
            uses.map(|(key, of)| format!("{}:{}", String::from_utf8_lossy(key), letter(of)))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(uses("get a"), "a:R");
        assert_eq!(uses("set a 1"), "a:W");
        assert_eq!(uses("set a 1 GET"), "a:RW");
        assert_eq!(uses("strlen a"), "a:-");
        assert_eq!(uses("object encoding a"), "a:-");
        assert_eq!(uses("copy a b"), "a:R b:W");
        assert_eq!(uses("rename a b"), "a:RW b:W");
        assert_eq!(uses("zunionstore to 2 a b"), "to:W a:R b:R");
        assert_eq!(uses("bitop and to a b"), "to:W a:R b:R");
        assert_eq!(uses("bitfield a get u8 0 overflow wrap"), "a:R");
        assert_eq!(uses("bitfield a get u8 0 set u8 0 1"), "a:RW");
        assert_eq!(uses("eval x 2 a b"), "a:RW b:RW");
        assert_eq!(uses("eval_ro x 1 a"), "a:R");
        assert_eq!(uses("xreadgroup group g c streams a 0"), "a:R");
        assert_eq!(uses("ssubscribe a"), "", "a channel is no key");
        for (_, _, names) in KEY_USES {
            assert!(names.is_sorted(), "{names:?}");
        }
    }
}
