//! One set of permissions: commands, keys, channels and databases. A user has one, and may have more in parentheses.
//!
//! Owns the rules' grammar, which is Valkey's, and their meaning. A rule is applied to what is there; the commands' rules are kept as they were
//! given, without those that later ones make void, to be shown.

use std::collections::{BTreeMap, BTreeSet};

use ringmaster_engine::{ACL_CATEGORIES, CommandSpec, Flags, KeyUse, lookup, matches_glob};

use crate::serve::DATABASES;

use super::catalog::{CommandId, CommandSet};

/// Why a rule is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error("Syntax error")]
    Syntax,
    #[error("Unknown command or category name in ACL")]
    UnknownCommand,
    #[error("Allowing first-arg of a subcommand is not supported")]
    FirstArgOfSubcommand,
    #[error(
        "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. \
         Try 'resetkeys' to start with an empty list of patterns"
    )]
    AfterAllKeys,
    #[error(
        "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any \
         effect. Try 'resetchannels' to start with an empty list of channels"
    )]
    AfterAllChannels,
    #[error("The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters")]
    BadHash,
    #[error("The password you are trying to remove from the user does not exist")]
    NoSuchPassword,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Denied {
    Command {
        name: String,
    },
    Key {
        at: usize,
        key: Vec<u8>,
    },
    Channel {
        at: usize,
        channel: Vec<u8>,
    },
    /// The database asked for, or the command that is about the present one.
    Database {
        object: String,
    },
}

impl Denied {
    /// The further a request comes, the more is said of why it was refused.
    fn progress(&self) -> (u8, usize) {
        match self {
            Self::Database { .. } => (0, 0),
            Self::Command { .. } => (1, 0),
            Self::Key { at, .. } => (2, *at),
            Self::Channel { at, .. } => (3, *at),
        }
    }

    pub(super) fn further(self, other: Self) -> Self {
        if other.progress() > self.progress() { other } else { self }
    }
}

/// A request, as far as permission goes.
#[derive(Clone, Copy, Debug)]
pub(in crate::serve) struct Asked<'a> {
    pub(in crate::serve) spec: &'static CommandSpec,
    pub(in crate::serve) args: &'a [&'a [u8]],
    pub(in crate::serve) db: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selector {
    commands: CommandSet,
    /// Also those that are not yet known.
    all_commands: bool,
    /// What `commands` came from, behind +@all or -@all.
    command_rules: Vec<CommandRule>,
    /// Commands that are allowed with these first arguments.
    first_args: BTreeMap<CommandId, Vec<Box<[u8]>>>,
    all_keys: bool,
    keys: Vec<KeyPattern>,
    all_channels: bool,
    channels: Vec<Box<[u8]>>,
    /// None for all.
    databases: Option<BTreeSet<u32>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct CommandRule {
    allows: bool,
    /// `get`, `config|get`, `select|0` or `@read`.
    what: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct KeyPattern {
    pattern: Box<[u8]>,
    reads: bool,
    writes: bool,
}

impl Selector {
    /// It permits nothing, in any database.
    pub(super) fn nothing() -> Self {
        Self {
            commands: CommandSet::none(),
            all_commands: false,
            command_rules: Vec::new(),
            first_args: BTreeMap::new(),
            all_keys: false,
            keys: Vec::new(),
            all_channels: false,
            channels: Vec::new(),
            databases: None,
        }
    }

    pub(super) fn everything() -> Self {
        Self { commands: CommandSet::all(), all_commands: true, all_keys: true, all_channels: true, ..Self::nothing() }
    }

    pub(super) fn permits_everything(&self) -> bool {
        *self == Self::everything()
    }

    /// Applies one rule. On an error nothing has changed.
    pub(super) fn apply(&mut self, rule: &[u8]) -> Result<(), RuleError> {
        match rule.to_ascii_lowercase().as_slice() {
            b"allkeys" | b"~*" => (self.all_keys, self.keys) = (true, Vec::new()),
            b"resetkeys" => (self.all_keys, self.keys) = (false, Vec::new()),
            b"allchannels" | b"&*" => (self.all_channels, self.channels) = (true, Vec::new()),
            b"resetchannels" => (self.all_channels, self.channels) = (false, Vec::new()),
            b"allcommands" | b"+@all" => self.set_all_commands(true),
            b"nocommands" | b"-@all" => self.set_all_commands(false),
            b"alldbs" => self.databases = None,
            b"resetdbs" => self.databases = Some(BTreeSet::new()),
            _ => return self.apply_particular(rule),
        }
        Ok(())
    }

    fn apply_particular(&mut self, rule: &[u8]) -> Result<(), RuleError> {
        if let Some(ids) = strip_word(rule, b"db=") {
            self.databases = Some(parse_databases(ids).ok_or(RuleError::Syntax)?);
            return Ok(());
        }
        match rule {
            [b'~', pattern @ ..] => self.add_keys(KeyPattern { pattern: pattern.into(), reads: true, writes: true }),
            [b'%', rest @ ..] if self.all_keys && !rest.is_empty() => Err(RuleError::AfterAllKeys),
            [b'%', rest @ ..] => self.add_keys(parse_key_pattern(rest).ok_or(RuleError::Syntax)?),
            [b'&', pattern @ ..] => self.add_channels(pattern),
            [sign @ (b'+' | b'-'), what @ ..] => {
                let what = std::str::from_utf8(what).map_err(|_| RuleError::UnknownCommand)?;
                self.apply_command_rule(*sign == b'+', &what.to_ascii_lowercase())
            }
            _ => Err(RuleError::Syntax),
        }
    }

    fn set_all_commands(&mut self, all: bool) {
        self.commands = if all { CommandSet::all() } else { CommandSet::none() };
        self.all_commands = all;
        self.command_rules.clear();
        self.first_args.clear();
    }

    fn add_keys(&mut self, added: KeyPattern) -> Result<(), RuleError> {
        if self.all_keys {
            return Err(RuleError::AfterAllKeys);
        }
        if has_blank(&added.pattern) {
            return Err(RuleError::Syntax);
        }
        match self.keys.iter_mut().find(|known| known.pattern == added.pattern) {
            Some(known) => (known.reads, known.writes) = (known.reads || added.reads, known.writes || added.writes),
            None => self.keys.push(added),
        }
        Ok(())
    }

    fn add_channels(&mut self, pattern: &[u8]) -> Result<(), RuleError> {
        if self.all_channels {
            return Err(RuleError::AfterAllChannels);
        }
        if has_blank(pattern) {
            return Err(RuleError::Syntax);
        }
        if !self.channels.iter().any(|known| **known == *pattern) {
            self.channels.push(pattern.into());
        }
        Ok(())
    }

    fn apply_command_rule(&mut self, allows: bool, what: &str) -> Result<(), RuleError> {
        if let Some(category) = what.strip_prefix('@') {
            if !ACL_CATEGORIES.contains(&category) {
                return Err(RuleError::UnknownCommand);
            }
            self.commands.set_category(category, allows);
        } else if let Some(id) = CommandId::find(what) {
            self.commands.set_all_of(id, allows);
            self.first_args.remove(&id);
        } else {
            self.allow_first_arg(allows, what)?;
        }
        self.keep_rule(CommandRule { allows, what: what.to_owned() });
        Ok(())
    }

    /// `+select|0`: the command with this first argument only.
    fn allow_first_arg(&mut self, allows: bool, what: &str) -> Result<(), RuleError> {
        let (command, first) = what.split_once('|').ok_or(RuleError::UnknownCommand)?;
        let id =
            lookup(command.as_bytes()).and_then(|spec| CommandId::find(spec.name)).ok_or(RuleError::UnknownCommand)?;
        if let Some((subcommand, _)) = first.split_once('|')
            && CommandId::find(&format!("{command}|{subcommand}")).is_some()
        {
            return Err(RuleError::FirstArgOfSubcommand);
        }
        match (allows, first) {
            (true, "") => Err(RuleError::Syntax),
            (true, first) if !first.contains('|') && !id.has_subcommands() => {
                let known = self.first_args.entry(id).or_default();
                if !known.iter().any(|other| **other == *first.as_bytes()) {
                    known.push(first.as_bytes().into());
                }
                Ok(())
            }
            _ => Err(RuleError::UnknownCommand),
        }
    }

    /// Keeps a rule, in place of those that it makes void: an equal one, and for a command those about parts of it.
    fn keep_rule(&mut self, rule: CommandRule) {
        let parts = format!("{}|", rule.what);
        self.command_rules.retain(|other| other.what != rule.what && !other.what.starts_with(&parts));
        self.command_rules.push(rule);
    }

    /// Whether it permits all of a request.
    pub(super) fn check(&self, asked: &Asked<'_>) -> Result<(), Denied> {
        self.check_database(asked)?;
        let Asked { spec, args, .. } = *asked;
        let id = CommandId::of_request(spec, args);
        let allowed = self.all_commands && self.command_rules.is_empty()
            || spec.flags.has(Flags::NO_AUTH)
            || self.commands.has(id)
            || self.allows_first_arg(id, args);
        if !allowed {
            return Err(Denied::Command { name: id.name() });
        }
        for (at, (key, used)) in spec.key_uses(args).enumerate() {
            if !self.permits_key(key, used) {
                return Err(Denied::Key { at, key: key.to_vec() });
            }
        }
        if let Some(channels) = spec.channels(args) {
            for (at, channel) in args.get(channels.args).unwrap_or_default().iter().enumerate() {
                if !self.permits_channel(channel, channels.are_patterns) {
                    return Err(Denied::Channel { at, channel: channel.to_vec() });
                }
            }
        }
        Ok(())
    }

    fn allows_first_arg(&self, id: CommandId, args: &[&[u8]]) -> bool {
        let Some(allowed) = self.first_args.get(&id) else { return false };
        args.get(1).is_some_and(|given| allowed.iter().any(|first| first.eq_ignore_ascii_case(given)))
    }

    fn permits_key(&self, key: &[u8], used: KeyUse) -> bool {
        self.all_keys
            || self.keys.iter().any(|known| {
                let permitted = (known.reads || !used.reads) && (known.writes || !used.writes);
                permitted && matches_glob(&known.pattern, key)
            })
    }

    /// Whether a channel may be heard and published to; a pattern, whether it is among the permitted ones itself.
    pub(super) fn permits_channel(&self, channel: &[u8], is_pattern: bool) -> bool {
        self.all_channels
            || self
                .channels
                .iter()
                .any(|known| if is_pattern { **known == *channel } else { matches_glob(known, channel) })
    }

    fn check_database(&self, asked: &Asked<'_>) -> Result<(), Denied> {
        let Some(databases) = &self.databases else { return Ok(()) };
        let Asked { spec, args, db } = *asked;
        let denied = |object: String| Err(Denied::Database { object });
        if spec.name == "flushall" {
            return denied(spec.name.to_owned());
        }
        if spec.is_about_data() && !databases.contains(&u32::from(db)) {
            return denied(spec.name.to_owned());
        }
        match databases_named(spec, args).find(|db| !databases.contains(db)) {
            Some(db) => denied(db.to_string()),
            None => Ok(()),
        }
    }

    /// The rules that make it what it is.
    pub(super) fn describe(&self) -> Vec<u8> {
        let mut parts = self.describe_keys();
        match &self.all_channels {
            true => parts.push(b"&*".to_vec()),
            false => {
                parts.push(b"resetchannels".to_vec());
                parts.extend(self.describe_channels());
            }
        }
        match &self.databases {
            None => {}
            Some(_) => parts.push(self.describe_databases().into_bytes()),
        }
        parts.push(self.describe_commands().into_bytes());
        parts.join(&b' ')
    }

    pub(super) fn describe_keys(&self) -> Vec<Vec<u8>> {
        if self.all_keys {
            return vec![b"~*".to_vec()];
        }
        let describe = |known: &KeyPattern| {
            let sign: &[u8] = match (known.reads, known.writes) {
                (true, false) => b"%R~",
                (false, true) => b"%W~",
                _ => b"~",
            };
            [sign, &known.pattern].concat()
        };
        self.keys.iter().map(describe).collect()
    }

    pub(super) fn describe_channels(&self) -> Vec<Vec<u8>> {
        if self.all_channels {
            return vec![b"&*".to_vec()];
        }
        self.channels.iter().map(|pattern| [b"&", &**pattern].concat()).collect()
    }

    pub(super) fn describe_databases(&self) -> String {
        match &self.databases {
            None => "alldbs".to_owned(),
            Some(none) if none.is_empty() => "resetdbs".to_owned(),
            Some(some) => format!("db={}", some.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
        }
    }

    pub(super) fn describe_commands(&self) -> String {
        let mut text = if self.all_commands { "+@all".to_owned() } else { "-@all".to_owned() };
        for CommandRule { allows, what } in &self.command_rules {
            text.push_str(if *allows { " +" } else { " -" });
            text.push_str(what);
        }
        text
    }
}

/// What follows a word, in any case.
fn strip_word<'a>(text: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    text.split_at_checked(word.len()).filter(|(start, _)| start.eq_ignore_ascii_case(word)).map(|(_, rest)| rest)
}

fn parse_databases(ids: &[u8]) -> Option<BTreeSet<u32>> {
    let is_number = |id: &&[u8]| !id.is_empty() && id.iter().all(u8::is_ascii_digit);
    ids.split(|byte| *byte == b',')
        .map(|id| Some(id).filter(is_number).and_then(|id| std::str::from_utf8(id).ok()?.parse().ok()))
        .collect()
}

/// `R~…`, `W~…`, `RW~…`, in any case.
fn parse_key_pattern(text: &[u8]) -> Option<KeyPattern> {
    let tilde = text.iter().position(|byte| *byte == b'~')?;
    let (letters, pattern) = text.split_at_checked(tilde)?;
    let letters = letters.to_ascii_uppercase();
    if letters.is_empty() || letters.iter().any(|letter| !matches!(letter, b'R' | b'W')) {
        return None;
    }
    let (reads, writes) = (letters.contains(&b'R'), letters.contains(&b'W'));
    Some(KeyPattern { pattern: pattern.get(1..)?.into(), reads, writes })
}

/// Rules are separated by blanks where they are kept.
fn has_blank(text: &[u8]) -> bool {
    text.iter().any(|byte| byte.is_ascii_whitespace() || *byte == 0)
}

/// The databases that a request names. What names none will be refused for that.
fn databases_named<'a>(spec: &CommandSpec, args: &'a [&'a [u8]]) -> impl Iterator<Item = u32> + use<'a> {
    let range = match spec.name {
        "select" => 1..2,
        "swapdb" => 1..3,
        "move" => 2..3,
        "copy" => {
            let word = args.iter().skip(3).position(|arg| arg.eq_ignore_ascii_case(b"db"));
            word.map_or(0..0, |at| at.saturating_add(4)..at.saturating_add(5))
        }
        _ => 0..0,
    };
    let number = |arg: &&[u8]| std::str::from_utf8(arg).ok()?.parse().ok().filter(|db| *db < u32::from(DATABASES));
    args.get(range).unwrap_or_default().iter().filter_map(number)
}
