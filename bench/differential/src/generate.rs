//! Command sequences from a seed: rules of a grammar with weights, scripts, and now and then a command that is spoilt.

use std::collections::BTreeMap;

use rand::Rng;
use rand::rngs::StdRng;
use ringmaster_engine::{Flags, Handler, Keys, Protocol, lookup};

use crate::grammar::{Grammar, Node, Templates};
use crate::scripts::Scripts;
use crate::target::{Command, Step};

/// One in so many commands has an argument too few, too many, or a strange one.
const SPOILT_ONE_IN: u32 = 25;
/// One in so many keys is one of another type.
const STRANGER_ONE_IN: u32 = 30;
/// One in so many steps is a transaction.
const TRANSACTION_ONE_IN: u32 = 40;
/// The same behind WATCH.
const WATCHED_ONE_IN: u32 = 200;
/// One in so many is a command that waits for what another connection brings.
const WAITING_ONE_IN: u32 = 200;
/// One in so many is a conversation over channels.
const CHANNELS_ONE_IN: u32 = 300;
/// One in so many commands is about scripts.
const SCRIPT_ONE_IN: u32 = 10;
/// Some transactions are in another database.
pub const OTHER_DATABASE: &[u8] = b"3";

/// What stands in for an argument of a spoilt command. No small positive numbers: as an expiry they would come true while the two
/// sides run, at not quite the same time.
const STRANGE: [&str; 16] = [
    "",
    "abc",
    "0",
    "-1",
    "-0",
    "+1",
    " 1",
    "01",
    "1.5",
    "1e3",
    "nan",
    "inf",
    "0x10",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551616",
];

/// What there is to know of the servers that commands are made for.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// In a cluster all keys of a step are in one slot, and there is one database.
    pub in_cluster: bool,
    pub protocol: Protocol,
    pub now_ms: u64,
}

pub struct Generator<'g> {
    grammar: &'g Grammar,
    pub(crate) templates: &'g Templates,
    pub(crate) rng: StdRng,
    setting: Setting,
    pub(crate) scripts: Scripts,
    /// How often scripts were given each command to call.
    called: BTreeMap<String, u64>,
    /// A step that the last one makes necessary.
    next: Option<Step>,
    /// How many entries were brought to readers that wait.
    entries: u64,
}

impl<'g> Generator<'g> {
    pub fn new(grammar: &'g Grammar, templates: &'g Templates, rng: StdRng, setting: Setting) -> Self {
        Self {
            grammar,
            templates,
            rng,
            setting,
            scripts: Scripts::default(),
            called: BTreeMap::new(),
            next: None,
            entries: 0,
        }
    }

    pub fn step(&mut self) -> Step {
        if let Some(step) = self.next.take() {
            return step;
        }
        if self.one_in(TRANSACTION_ONE_IN) {
            let count = self.rng.gen_range(1..6);
            let mut commands: Vec<Command> = (0..count).map(|_| self.command()).collect();
            // What ends the transaction, or the conversation, has steps of its own.
            commands.retain(|command| {
                !matches!(command[0].as_slice(), b"RESET" | b"HELLO" | b"AUTH" | b"EXEC" | b"DISCARD")
            });
            if self.one_in(30) {
                let key = self.word("k");
                let choices = [vec![b"MULTI".to_vec()], vec![b"WATCH".to_vec(), key], vec![b"UNWATCH".to_vec()]];
                commands.extend(choices.get(self.rng.gen_range(0..4)).cloned());
            }
            if !self.setting.in_cluster && self.one_in(10) {
                commands.insert(0, vec![b"SELECT".to_vec(), OTHER_DATABASE.to_vec()]);
                commands.push(vec![b"SELECT".to_vec(), b"0".to_vec()]);
            }
            return Step::Transaction(commands);
        }
        if self.one_in(WATCHED_ONE_IN) {
            let keys = (0..self.rng.gen_range(1..3)).map(|_| self.word("k")).collect();
            let keys: Vec<Vec<u8>> = keys;
            let meanwhile = self.one_in(2).then(|| match self.setting.in_cluster {
                false => self.data_command(),
                // Where a handover may break the watch, it must be certain that this does.
                true => vec![b"SET".to_vec(), keys[0].clone(), self.word("v")],
            });
            let commands = (0..self.rng.gen_range(1..4)).map(|_| self.data_command()).collect();
            return Step::Watched { keys, meanwhile, commands };
        }
        if self.one_in(WAITING_ONE_IN) {
            return self.waiting();
        }
        if !self.setting.in_cluster && self.one_in(CHANNELS_ONE_IN) {
            return self.channels();
        }
        let command = self.command();
        if command[0] == b"RESET" {
            // It has put the connection back to RESP2.
            self.next = Some(Step::One(vec![b"HELLO".to_vec(), self.word("protocol")]));
        }
        Step::One(command)
    }

    /// How often scripts were given each command to call.
    pub fn called_in_scripts(&self) -> &BTreeMap<String, u64> {
        &self.called
    }

    pub(crate) fn called(&mut self, command: &Command) {
        *self.called.entry(String::from_utf8_lossy(&command[0]).to_ascii_uppercase()).or_default() += 1;
    }

    fn command(&mut self) -> Command {
        if self.one_in(SCRIPT_ONE_IN) { self.script_command() } else { self.plain_command() }
    }

    /// A command that is about data.
    fn data_command(&mut self) -> Command {
        loop {
            let command = self.plain_command();
            if lookup(&command[0]).is_some_and(|spec| matches!(spec.handler, Handler::Data(_))) {
                return command;
            }
        }
    }

    /// A command that waits for data, and one that brings some.
    fn waiting(&mut self) -> Step {
        if self.one_in(4) {
            return self.waiting_reader();
        }
        let of_lists = self.rng.gen_range(0..5) < 3;
        let kind = if of_lists { "l" } else { "z" };
        let (first, second) = (self.word(kind), self.word(kind));
        let keys = [first.clone(), second.clone()];
        let brought = if self.one_in(4) { second.clone() } else { first.clone() };
        let timeout = if self.setting.in_cluster { "20" } else { "2" };
        let mut text = |choices: &[&str]| choices[self.rng.gen_range(0..choices.len())].as_bytes().to_vec();
        let (left, right) = (text(&["LEFT", "RIGHT"]), text(&["LEFT", "RIGHT"]));
        let (low, pop, push) = (text(&["MIN", "MAX"]), text(&["BLPOP", "BRPOP"]), text(&["LPUSH", "RPUSH"]));
        let take = text(&["BZPOPMIN", "BZPOPMAX"]);
        let word = |text: &str| text.as_bytes().to_vec();
        // Only one key of those that move something has what it waits for.
        let (command, key) = match (of_lists, self.rng.gen_range(0..5)) {
            (true, 0) => (vec![word("BLMOVE"), first.clone(), second, left, right, word(timeout)], first),
            (true, 1) => (vec![word("BRPOPLPUSH"), first.clone(), second, word(timeout)], first),
            (true, 2) => {
                let options = [left, word("COUNT"), word("2")];
                ([vec![word("BLMPOP"), word(timeout), word("2"), first, second], options.to_vec()].concat(), brought)
            }
            (true, _) => (vec![pop, first, second, word(timeout)], brought),
            (false, 0) => (vec![word("BZMPOP"), word(timeout), word("2"), first, second, low], brought),
            (false, _) => (vec![take, first, second, word(timeout)], brought),
        };
        let then = match of_lists {
            true => vec![push, key, self.word("m"), self.word("m")],
            false => vec![word("ZADD"), key, self.word("n"), self.word("m"), word("7"), self.word("m")],
        };
        let step = Step::Waiting { command, then };
        if !self.setting.in_cluster {
            return step;
        }
        // A handover may have it come after what it waits for: the same comes of it if there was nothing before.
        self.next = Some(step);
        Step::One([vec![word("DEL")], keys.to_vec()].concat())
    }

    /// A reader of a stream that waits for its next entry. The stream is of its own, so that there is one to come.
    fn waiting_reader(&mut self) -> Step {
        let word = |text: &str| text.as_bytes().to_vec();
        let number = self.rng.gen_range(0..2);
        let (key, other) = (self.key("w", number), self.key("w", 9));
        let (block, streams) = (word(if self.setting.in_cluster { "20000" } else { "2000" }), word("STREAMS"));
        // Ids that only go up. After a handover `$` would mean another end.
        let end = format!("{}-5", 1_000 + self.entries).into();
        let end = if self.setting.in_cluster || self.one_in(2) { end } else { word("$") };
        self.entries += 1;
        let id = format!("{}-1", 1_000 + self.entries);
        let command = match self.rng.gen_range(0..3) {
            0 => vec![word("XREAD"), word("BLOCK"), block, streams, key.clone(), end],
            1 => vec![word("XREAD"), word("BLOCK"), block, streams, other, key.clone(), word("0"), end],
            _ => vec![word("XREAD"), word("BLOCK"), block, word("COUNT"), word("1"), streams, key.clone(), end],
        };
        Step::Waiting { command, then: vec![word("XADD"), key, id.into(), self.word("m"), self.word("v")] }
    }

    fn channels(&mut self) -> Step {
        let rng = &mut self.rng;
        let mut draw = |choices: &[&str]| choices[rng.gen_range(0..choices.len())].as_bytes().to_vec();
        const CHANNELS: [&str; 3] = ["c0", "c1", "c2"];
        const PATTERNS: [&str; 5] = ["c*", "?1", "c[02]", "nothing", "*"];
        let mut subscriptions: Vec<Command> = Vec::new();
        while subscriptions.len() < 3 {
            let name = draw(&["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"]);
            let names: &[&str] = if name == b"PSUBSCRIBE" { &PATTERNS } else { &CHANNELS };
            subscriptions.push(vec![name, draw(names), draw(names)]);
        }
        let mut meanwhile: Vec<Command> = Vec::new();
        while meanwhile.len() < 6 {
            meanwhile.push(match draw(&["PUBLISH", "SPUBLISH", "PUBSUB"]) {
                name if name == b"PUBSUB" => {
                    match draw(&["CHANNELS", "NUMSUB", "NUMPAT", "SHARDCHANNELS", "SHARDNUMSUB"]) {
                        word if word == b"NUMPAT" => vec![name, word],
                        word if word.ends_with(b"NUMSUB") => vec![name, word, draw(&CHANNELS), draw(&CHANNELS)],
                        word => vec![name, word, draw(&PATTERNS)],
                    }
                }
                name => vec![name, draw(&CHANNELS), draw(&["", "message", "other"])],
            });
        }
        Step::Channels { subscriptions, meanwhile }
    }

    /// A command that is no script.
    pub(crate) fn plain_command(&mut self) -> Command {
        let rules = &self.grammar.rules;
        let rule = rules.pick(self.rng.gen_range(0..rules.total()));
        let mut command = Vec::new();
        self.expand(rule, &mut command);
        // Spoilt, a score could get into a set that is to have only one, and a choice become random.
        let one_score = command[0] == b"ZADD" && command[1].get(self.key_prefix().len()) == Some(&b'y');
        // These would change how the connection or the server goes on.
        const NEVER: [&[u8]; 12] = [
            b"EXEC", b"COMMAND", b"SPOP", b"PFCOUNT", b"SELECT", b"HELLO", b"CLIENT", b"CONFIG", b"WAIT", b"XREAD",
            b"ROLE", b"SLOWLOG",
        ];
        // Nor may one wait that would wait for ever.
        let waits = lookup(&command[0]).is_some_and(|spec| spec.flags.has(Flags::BLOCKING));
        if !one_score && !waits && !NEVER.contains(&command[0].as_slice()) && self.one_in(SPOILT_ONE_IN) {
            let whole = command.clone();
            self.spoil(&mut command);
            if self.setting.in_cluster && !self.is_in_one_slot(&command) {
                return whole;
            }
        }
        command
    }

    /// Whether a script may call it anywhere: in a cluster one that has written does not get at all keys.
    pub(crate) fn may_be_called(&self, command: &Command) -> bool {
        let all_keys =
            lookup(&command[0]).is_some_and(|spec| spec.keys == Keys::None && matches!(spec.handler, Handler::Data(_)));
        !(self.setting.in_cluster && all_keys)
    }

    pub(crate) fn is_in_cluster(&self) -> bool {
        self.setting.in_cluster
    }

    fn is_in_one_slot(&self, command: &Command) -> bool {
        let args: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
        let keys = lookup(&command[0]).and_then(|spec| spec.keys_of(&args).ok()).map(Iterator::collect::<Vec<_>>);
        keys.unwrap_or_default().iter().all(|key| key.starts_with(self.key_prefix().as_bytes()))
    }

    pub(crate) fn is_key(&self, word: &[u8]) -> bool {
        word.strip_prefix(self.key_prefix().as_bytes()).is_some_and(|word| {
            matches!(word, [b's' | b'h' | b'l' | b't' | b'z' | b'x' | b'b' | b'p' | b'y', b'0'..=b'9'])
        })
    }

    /// A key of that kind.
    pub fn key(&self, kind: &str, number: u32) -> Vec<u8> {
        format!("{}{kind}{number}", self.key_prefix()).into()
    }

    /// Put before every key, so that all are in one slot of a cluster.
    fn key_prefix(&self) -> &'static str {
        if self.setting.in_cluster { "{k}" } else { "" }
    }

    fn expand(&mut self, nodes: &[Node], out: &mut Command) {
        for node in nodes {
            match node {
                Node::Word(word) => out.push(word.as_bytes().to_vec()),
                Node::Drawn(name) => {
                    let word = self.word(name);
                    out.push(word);
                }
                Node::OneOf(choices) => {
                    let choice = self.rng.gen_range(0..choices.len());
                    self.expand(&choices[choice], out);
                }
                Node::Some(repeated) => {
                    for _ in 0..self.rng.gen_range(1..5) {
                        self.expand(repeated, out);
                    }
                }
            }
        }
    }

    fn spoil(&mut self, command: &mut Command) {
        let at = self.rng.gen_range(0..command.len());
        match self.rng.gen_range(0..4) {
            0 if command.len() > 1 && at > 0 => drop(command.remove(at)),
            1 => command.push(STRANGE[self.rng.gen_range(0..STRANGE.len())].into()),
            2 if at > 0 => command[at] = command[at].to_ascii_uppercase(),
            _ if at > 0 => command[at] = STRANGE[self.rng.gen_range(0..STRANGE.len())].into(),
            _ => {}
        }
    }

    /// What a `$name` of the grammar stands for.
    pub(crate) fn word(&mut self, name: &str) -> Vec<u8> {
        let prefix = self.key_prefix();
        let Setting { now_ms, protocol, .. } = self.setting;
        let rng = &mut self.rng;
        let text = match name {
            // Keys: one letter a type, k for any.
            "s" | "h" | "l" | "t" | "z" | "x" | "b" | "p" | "k" => {
                let mut kind = name;
                if kind == "k" || rng.gen_ratio(1, STRANGER_ONE_IN) {
                    kind = ["s", "h", "l", "t", "z", "x", "b", "p"][rng.gen_range(0..8)];
                }
                format!("{prefix}{kind}{}", rng.gen_range(0..5))
            }
            // A key that nothing is ever written to.
            "none" => format!("{prefix}none"),
            // Sorted sets whose members all have one score, without which a range of members means nothing.
            "y" => format!("{prefix}y{}", rng.gen_range(0..3)),
            "v" => match rng.gen_range(0..12) {
                0..3 => rng.gen_range(-20i64..20).to_string(),
                3 => rng.gen_range(i64::MIN..i64::MAX).to_string(),
                // A fraction that binary has too: others add up to what the machine's long double makes of them.
                4 => format!("{}.{}", rng.gen_range(-9..9), ["5", "25", "125", "750"][rng.gen_range(0..4)]),
                5 => String::new(),
                6 => "x".repeat(rng.gen_range(40..90)),
                7 => return (0..rng.gen_range(1..12)).map(|_| rng.r#gen()).collect(),
                _ => format!("value:{}", rng.gen_range(0..50)),
            },
            // A member, field or element: few, so that they meet again.
            "m" => match rng.gen_range(0..10) {
                0 => rng.gen_range(-5..300).to_string(),
                1 => format!("member-{}", rng.gen_range(0..300)),
                2 => "y".repeat(rng.gen_range(60..70)),
                _ => format!("m{}", rng.gen_range(0..12)),
            },
            // Many at once, so that collections leave their compact form.
            "hundred" => return format!("member-{}", rng.gen_range(0..2000)).into_bytes(),
            "i" => match rng.gen_range(0..8) {
                0 => rng.gen_range(i64::MIN..i64::MAX).to_string(),
                _ => rng.gen_range(-30..30).to_string(),
            },
            "n" => rng.gen_range(0..12).to_string(),
            "count" => rng.gen_range(1..12).to_string(),
            "rank" => rng.gen_range(-15..15).to_string(),
            "f" | "score" => match rng.gen_range(0..16) {
                0 => "inf".to_owned(),
                1 => "-inf".to_owned(),
                2 => format!("{}e{}", rng.gen_range(1..99), rng.gen_range(-12..12)),
                3 => format!("{:.3}", rng.gen_range(-100.0..100.0)),
                4 => rng.gen_range(-1e9..1e9).to_string(),
                _ => rng.gen_range(-9..9).to_string(),
            },
            // A float whose sums are the same in any arithmetic that is at least as exact as a double's.
            "decimal" => match rng.gen_range(0..4) {
                0 => rng.gen_range(-1000..1000).to_string(),
                1 => format!("{}.5", rng.gen_range(-1000..1000)),
                2 => format!("{}.25", rng.gen_range(-1000..1000)),
                _ => format!("{}e{}", rng.gen_range(1..10), rng.gen_range(0..4)),
            },
            "min" | "max" => {
                let score = rng.gen_range(-9..9);
                match rng.gen_range(0..8) {
                    0 => "-inf".to_owned(),
                    1 => "+inf".to_owned(),
                    2 | 3 => format!("({score}"),
                    _ => score.to_string(),
                }
            }
            "lexmin" | "lexmax" => match rng.gen_range(0..6) {
                0 => "-".to_owned(),
                1 => "+".to_owned(),
                2 => format!("(m{}", rng.gen_range(0..12)),
                _ => format!("[m{}", rng.gen_range(0..12)),
            },
            // Far enough away, and never twice the same.
            "seconds" => rng.gen_range(1_000..1_000_000).to_string(),
            "millis" => rng.gen_range(1_000_000..1_000_000_000).to_string(),
            "unix" => (now_ms / 1000 + rng.gen_range(1_000..1_000_000)).to_string(),
            "unixms" => (now_ms + rng.gen_range(1_000_000..1_000_000_000)).to_string(),
            "past" => rng.gen_range(1..1_000_000).to_string(),
            "pattern" => ["*", "m*", "?1", "m[0-4]", "m[^1-5]*", "\\m1", "nothing", "s?", "*1*", "[z-a]?"]
                [rng.gen_range(0..10)]
            .to_owned(),
            "bit" => match rng.gen_range(0..6) {
                0 => rng.gen_range(0..4000).to_string(),
                _ => rng.gen_range(0..100).to_string(),
            },
            "type" => format!("{}{}", ["i", "u"][rng.gen_range(0..2)], rng.gen_range(1..64)),
            "offset" => match rng.gen_range(0..3) {
                0 => format!("#{}", rng.gen_range(0..12)),
                _ => rng.gen_range(0..120).to_string(),
            },
            "element" => format!("e{}", rng.gen_range(0..5000)),
            // Stream ids that mostly go up, so that additions succeed.
            "id" => match rng.gen_range(0..6) {
                0 => format!("{}-*", rng.gen_range(1..60)),
                1 => rng.gen_range(1..60).to_string(),
                _ => format!("{}-{}", rng.gen_range(0..60), rng.gen_range(0..6)),
            },
            "anyid" => format!("{}-{}", rng.gen_range(0..60), rng.gen_range(0..6)),
            "from" => match rng.gen_range(0..6) {
                0 => "-".to_owned(),
                1 => format!("({}-{}", rng.gen_range(0..60), rng.gen_range(0..6)),
                2 => rng.gen_range(0..60).to_string(),
                _ => format!("{}-{}", rng.gen_range(0..60), rng.gen_range(0..6)),
            },
            "to" => match rng.gen_range(0..4) {
                0 => "+".to_owned(),
                1 => format!("({}-{}", rng.gen_range(0..60), rng.gen_range(0..6)),
                _ => rng.gen_range(0..70).to_string(),
            },
            "protocol" => if protocol == Protocol::Resp3 { "3" } else { "2" }.to_owned(),
            "group" => format!("g{}", rng.gen_range(0..3)),
            "consumer" => format!("c{}", rng.gen_range(0..3)),
            other => unreachable!("the grammar names ${other}"),
        };
        text.into_bytes()
    }

    pub(crate) fn one_in(&mut self, count: u32) -> bool {
        self.rng.gen_ratio(1, count)
    }
}
