//! Numbers for all commands and subcommands, and sets of them.

use std::sync::LazyLock;

use ringmaster_engine::{CommandSpec, commands, lookup};

use crate::serve::stats::row_of;

/// A command, or a subcommand of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CommandId(u16);

struct Entry {
    spec: &'static CommandSpec,
    subcommand: Option<&'static str>,
}

/// Commands in the order of the table, each with its subcommands behind it.
struct Catalog {
    entries: Vec<Entry>,
    /// By row of the table.
    of_rows: Vec<CommandId>,
}

static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    let mut catalog = Catalog { entries: Vec::new(), of_rows: Vec::new() };
    for spec in commands() {
        catalog.of_rows.push(CommandId(u16::try_from(catalog.entries.len()).unwrap_or(u16::MAX)));
        catalog.entries.push(Entry { spec, subcommand: None });
        catalog.entries.extend(spec.subcommands().map(|subcommand| Entry { spec, subcommand: Some(subcommand) }));
    }
    catalog
});

impl CommandId {
    /// What a request asks for: the subcommand, where it is known.
    pub(super) fn of_request(spec: &'static CommandSpec, args: &[&[u8]]) -> Self {
        let command = Self::of_command(spec);
        let Some(given) = args.get(1) else { return command };
        command
            .subcommands()
            .find(|id| id.subcommand().is_some_and(|name| given.eq_ignore_ascii_case(name.as_bytes())))
            .unwrap_or(command)
    }

    fn of_command(spec: &'static CommandSpec) -> Self {
        CATALOG.of_rows.get(row_of(spec)).copied().unwrap_or(Self(u16::MAX))
    }

    /// `get` or `config|get`, in any case.
    pub(super) fn find(name: &str) -> Option<Self> {
        let Some((container, subcommand)) = name.split_once('|') else {
            return lookup(name.as_bytes()).map(Self::of_command);
        };
        let container = Self::of_command(lookup(container.as_bytes())?);
        container.subcommands().find(|id| id.subcommand().is_some_and(|name| name.eq_ignore_ascii_case(subcommand)))
    }

    fn subcommand(self) -> Option<&'static str> {
        CATALOG.entries.get(usize::from(self.0)).and_then(|entry| entry.subcommand)
    }

    /// None for a subcommand.
    pub(super) fn subcommands(self) -> impl Iterator<Item = Self> {
        let behind = self.0.saturating_add(1)..u16::try_from(CATALOG.entries.len()).unwrap_or(u16::MAX);
        let is_command = self.subcommand().is_none();
        behind.map(Self).take_while(move |id| is_command && id.subcommand().is_some())
    }

    pub(super) fn has_subcommands(self) -> bool {
        self.subcommands().next().is_some()
    }

    /// As rules and errors name it.
    pub(super) fn name(self) -> String {
        match CATALOG.entries.get(usize::from(self.0)) {
            Some(Entry { spec, subcommand: Some(subcommand) }) => format!("{}|{subcommand}", spec.name),
            Some(Entry { spec, subcommand: None }) => spec.name.to_owned(),
            None => String::new(),
        }
    }

    fn is_of_category(self, category: &str) -> bool {
        match CATALOG.entries.get(usize::from(self.0)) {
            Some(Entry { spec, subcommand: Some(subcommand) }) => {
                spec.subcommand_categories(subcommand).any(|of| of == category)
            }
            Some(Entry { spec, subcommand: None }) => spec.acl_categories().any(|of| of == category),
            None => false,
        }
    }
}

/// A set of commands and subcommands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CommandSet {
    words: Box<[u64]>,
}

impl CommandSet {
    pub(super) fn none() -> Self {
        Self { words: vec![0; CATALOG.entries.len().div_ceil(64)].into() }
    }

    pub(super) fn all() -> Self {
        Self { words: vec![u64::MAX; CATALOG.entries.len().div_ceil(64)].into() }
    }

    pub(super) fn has(&self, id: CommandId) -> bool {
        self.words.get(usize::from(id.0 / 64)).is_some_and(|word| word >> (id.0 % 64) & 1 == 1)
    }

    fn set(&mut self, id: CommandId, on: bool) {
        if let Some(word) = self.words.get_mut(usize::from(id.0 / 64)) {
            let bit = 1 << (id.0 % 64);
            *word = if on { *word | bit } else { *word & !bit };
        }
    }

    /// A command with all its subcommands, or a subcommand.
    pub(super) fn set_all_of(&mut self, id: CommandId, on: bool) {
        self.set(id, on);
        id.subcommands().for_each(|id| self.set(id, on));
    }

    pub(super) fn set_category(&mut self, category: &str, on: bool) {
        let count = u16::try_from(CATALOG.entries.len()).unwrap_or(u16::MAX);
        (0..count).map(CommandId).filter(|id| id.is_of_category(category)).for_each(|id| self.set(id, on));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_by_its_subcommand() {
        let named = |words: &str| {
            let args: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
            CommandId::of_request(lookup(args[0]).unwrap(), &args).name()
        };
        assert_eq!(named("CONFIG get x"), "config|get");
        assert_eq!(named("config nosuch"), "config");
        assert_eq!(named("GET help"), "get");
        assert_eq!(named("zunionstore"), "zunionstore");
        assert_eq!(CommandId::find("Config|GET").unwrap().name(), "config|get");
        assert_eq!(CommandId::find("config|nosuch"), None);
        assert_eq!(CommandId::find("get|get"), None);
    }

    #[test]
    fn a_container_is_set_with_its_subcommands() {
        let (config, get, set) = ("config", "config|get", "config|set");
        let id = |name| CommandId::find(name).unwrap();
        let mut commands = CommandSet::none();
        commands.set_all_of(id(config), true);
        commands.set_all_of(id(get), false);
        assert!(commands.has(id(set)) && !commands.has(id(get)) && !commands.has(id("client|list")));
        commands.set_category("connection", true);
        assert!(commands.has(id("client|id")) && commands.has(id("ping")) && !commands.has(id("get")));
    }
}
