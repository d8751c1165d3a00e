//! Which subcommands a command has, and how many arguments each takes: what can be said of a request before it is executed.

use super::{Arity, CommandSpec};
use crate::resp::text_of;

const fn exactly(name: &'static str, count: usize) -> (&'static str, Arity) {
    (name, Arity::Exactly(count))
}

const fn at_least(name: &'static str, count: usize) -> (&'static str, Arity) {
    (name, Arity::AtLeast(count))
}

type Subcommands = &'static [(&'static str, Arity)];

/// The commands of which each request has a subcommand, both in lower case; arguments are counted from the command's name.
pub(super) const CONTAINERS: &[(&str, Subcommands)] = &[
    (
        "acl",
        &[
            at_least("cat", 2),
            at_least("deluser", 3),
            at_least("dryrun", 4),
            at_least("genpass", 2),
            exactly("getuser", 3),
            exactly("help", 2),
            exactly("list", 2),
            exactly("load", 2),
            at_least("log", 2),
            exactly("save", 2),
            at_least("setuser", 3),
            exactly("users", 2),
            exactly("whoami", 2),
        ],
    ),
    (
        "client",
        &[
            exactly("caching", 3),
            exactly("getname", 2),
            exactly("getredir", 2),
            exactly("help", 2),
            exactly("id", 2),
            exactly("info", 2),
            at_least("kill", 3),
            at_least("list", 2),
            exactly("no-evict", 3),
            exactly("no-touch", 3),
            at_least("pause", 3),
            exactly("reply", 3),
            exactly("setinfo", 4),
            exactly("setname", 3),
            at_least("tracking", 3),
            exactly("trackinginfo", 2),
            at_least("unblock", 3),
            exactly("unpause", 2),
        ],
    ),
    (
        "cluster",
        &[
            at_least("addslots", 3),
            at_least("addslotsrange", 4),
            exactly("bumpepoch", 2),
            exactly("count-failure-reports", 3),
            exactly("countkeysinslot", 3),
            at_least("delslots", 3),
            at_least("delslotsrange", 4),
            at_least("failover", 2),
            exactly("flushslots", 2),
            exactly("forget", 3),
            exactly("getkeysinslot", 4),
            exactly("help", 2),
            exactly("info", 2),
            exactly("keyslot", 3),
            exactly("links", 2),
            at_least("meet", 4),
            exactly("myid", 2),
            exactly("myshardid", 2),
            exactly("nodes", 2),
            exactly("replicas", 3),
            exactly("replicate", 3),
            at_least("reset", 2),
            exactly("saveconfig", 2),
            exactly("set-config-epoch", 3),
            at_least("setslot", 4),
            exactly("shards", 2),
            exactly("slaves", 3),
            exactly("slots", 2),
        ],
    ),
    (
        "command",
        &[
            exactly("count", 2),
            at_least("docs", 2),
            at_least("getkeys", 3),
            exactly("help", 2),
            at_least("info", 2),
            at_least("list", 2),
        ],
    ),
    (
        "config",
        &[at_least("get", 3), exactly("help", 2), exactly("resetstat", 2), exactly("rewrite", 2), at_least("set", 4)],
    ),
    ("memory", &[exactly("help", 2), at_least("usage", 3)]),
    (
        "object",
        &[
            exactly("encoding", 3),
            exactly("freq", 3),
            exactly("help", 2),
            exactly("idletime", 3),
            exactly("refcount", 3),
        ],
    ),
    (
        "pubsub",
        &[
            at_least("channels", 2),
            exactly("help", 2),
            exactly("numpat", 2),
            at_least("numsub", 2),
            at_least("shardchannels", 2),
            at_least("shardnumsub", 2),
        ],
    ),
    (
        "script",
        &[at_least("exists", 3), at_least("flush", 2), exactly("help", 2), exactly("kill", 2), exactly("load", 3)],
    ),
    ("slowlog", &[at_least("get", 2), exactly("help", 2), exactly("len", 2), exactly("reset", 2)]),
    (
        "xgroup",
        &[
            at_least("create", 5),
            exactly("createconsumer", 5),
            exactly("delconsumer", 5),
            exactly("destroy", 4),
            exactly("help", 2),
            at_least("setid", 5),
        ],
    ),
    ("xinfo", &[exactly("consumers", 4), exactly("groups", 3), exactly("help", 2), at_least("stream", 3)]),
];

/// What is wrong with the subcommand of a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubcommandError {
    #[error("ERR unknown subcommand '{given}'. Try {container} HELP.")]
    Unknown { given: String, container: String },
    #[error("ERR wrong number of arguments for '{container}|{subcommand}' command")]
    Arity { container: &'static str, subcommand: &'static str },
}

impl CommandSpec {
    /// Whether a request has one of the command's subcommands and as many arguments as that takes, where it must have one at all.
    ///
    /// # Errors
    /// What the reply says.
    pub fn check_subcommand(&self, args: &[&[u8]]) -> Result<(), SubcommandError> {
        let Some((_, subcommands)) = CONTAINERS.iter().find(|(container, _)| *container == self.name) else {
            return Ok(());
        };
        // COMMAND alone is a request, too.
        let Some(given) = args.get(1) else { return Ok(()) };
        match subcommands.iter().find(|(name, _)| given.eq_ignore_ascii_case(name.as_bytes())) {
            None => Err(SubcommandError::Unknown {
                given: text_of(given.get(..128).unwrap_or(given)),
                container: self.name.to_ascii_uppercase(),
            }),
            Some((_, arity)) if arity.accepts(args.len()) => Ok(()),
            Some((subcommand, _)) => Err(SubcommandError::Arity { container: self.name, subcommand }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::lookup;

    #[test]
    fn a_request_is_refused_for_its_subcommand_before_it_is_executed() {
        let check = |words: &str| {
            let args: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
            lookup(args[0]).unwrap().check_subcommand(&args).map_err(|error| error.to_string())
        };
        assert_eq!(check("XGROUP CREATE k g $"), Ok(()));
        assert_eq!(check("GET k"), Ok(()));
        assert_eq!(check("COMMAND"), Ok(()));
        assert_eq!(
            check("xgroup Destroy k"),
            Err("ERR wrong number of arguments for 'xgroup|destroy' command".to_owned())
        );
        assert_eq!(check("OBJECT what k"), Err("ERR unknown subcommand 'what'. Try OBJECT HELP.".to_owned()));
        assert!(CONTAINERS.iter().all(|(container, _)| lookup(container.as_bytes()).is_some()));
    }
}
