//! Command sequences from a seed: a grammar of commands (`grammar.txt`) with weights, and now and then a command that is spoilt.
//!
//! In the grammar `$name` stands for a drawn word (see [`Generator::word`]), `( a | b | )` for one of several, `< a >` for one to four
//! times what is within; `\` before a word takes it as it is; `N%` before a line is how often it comes compared with others, 10 unless said.

use rand::Rng;
use rand::rngs::StdRng;

use crate::target::{Command, Step};

/// One in so many commands has an argument too few, too many, or a strange one.
const SPOILT_ONE_IN: u32 = 25;
/// One in so many keys is one of another type.
const STRANGER_ONE_IN: u32 = 30;
/// One in so many steps is a transaction.
const TRANSACTION_ONE_IN: u32 = 40;

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

pub struct Grammar {
    /// Where each rule's share of the weights ends, and the rule.
    rules: Vec<(u32, Vec<Node>)>,
}

#[derive(Clone, Debug)]
enum Node {
    Word(String),
    Drawn(String),
    OneOf(Vec<Vec<Node>>),
    Some(Vec<Node>),
}

impl Grammar {
    /// Panics on a text that is none: it is ours.
    pub fn parse(text: &str, only: Option<&str>) -> anyhow::Result<Self> {
        let mut rules: Vec<(u32, Vec<Node>)> = Vec::new();
        let mut family = "";
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if let Some(name) = line.strip_prefix('#') {
                family = name.trim();
                continue;
            }
            if only.is_some_and(|only| !only.split(',').any(|one| family.starts_with(one)) && family != "keys") {
                continue;
            }
            let (weight, rule) = match line.split_once("% ") {
                Some((weight, rule)) => (weight.parse()?, rule),
                None => (10, line),
            };
            let mut words = rule.split_ascii_whitespace().peekable();
            let before = rules.last().map_or(0, |(end, _)| *end);
            rules.push((before + weight, sequence(&mut words)));
        }
        anyhow::ensure!(!rules.is_empty(), "the grammar has no such family");
        Ok(Self { rules })
    }
}

fn sequence<'a>(words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> Vec<Node> {
    let mut nodes = Vec::new();
    while let Some(word) = words.next_if(|word| !matches!(*word, ")" | "|" | ">")) {
        nodes.push(match word {
            "(" => {
                let mut choices = vec![sequence(words)];
                while words.next_if_eq(&"|").is_some() {
                    choices.push(sequence(words));
                }
                words.next();
                Node::OneOf(choices)
            }
            "<" => {
                let repeated = sequence(words);
                words.next();
                Node::Some(repeated)
            }
            _ => match (word.strip_prefix('$'), word.strip_prefix('\\')) {
                (Some(name), _) => Node::Drawn(name.to_owned()),
                (None, literal) => Node::Word(literal.unwrap_or(word).to_owned()),
            },
        });
    }
    nodes
}

pub struct Generator<'g> {
    grammar: &'g Grammar,
    rng: StdRng,
    /// Put before every key, so that all are in one slot of a cluster.
    key_prefix: &'static str,
    now_ms: u64,
}

impl<'g> Generator<'g> {
    pub fn new(grammar: &'g Grammar, rng: StdRng, key_prefix: &'static str, now_ms: u64) -> Self {
        Self { grammar, rng, key_prefix, now_ms }
    }

    pub fn step(&mut self) -> Step {
        if self.one_in(TRANSACTION_ONE_IN) {
            let count = self.rng.gen_range(1..6);
            return Step::Transaction((0..count).map(|_| self.command()).collect());
        }
        Step::One(self.command())
    }

    fn command(&mut self) -> Command {
        let grammar = self.grammar;
        let total = grammar.rules.last().map_or(1, |(end, _)| *end);
        let at = self.rng.gen_range(0..total);
        let (_, rule) = &grammar.rules[grammar.rules.partition_point(|(end, _)| *end <= at)];
        let mut command = Vec::new();
        self.expand(rule, &mut command);
        // Spoilt, a score could get into a set that is to have only one, and a choice become random.
        let may_be_spoilt = !(command[0] == b"ZADD" && command[1].get(self.key_prefix.len()) == Some(&b'y'));
        let may_be_spoilt =
            may_be_spoilt && command[0] != b"COMMAND" && command[0] != b"SPOP" && command[0] != b"PFCOUNT";
        if may_be_spoilt && self.one_in(SPOILT_ONE_IN) {
            self.spoil(&mut command);
        }
        command
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
    fn word(&mut self, name: &str) -> Vec<u8> {
        let rng = &mut self.rng;
        let text = match name {
            // Keys: one letter a type, k for any.
            "s" | "h" | "l" | "t" | "z" | "x" | "b" | "p" | "k" => {
                let mut kind = name;
                if kind == "k" || rng.gen_ratio(1, STRANGER_ONE_IN) {
                    kind = ["s", "h", "l", "t", "z", "x", "b", "p"][rng.gen_range(0..8)];
                }
                let prefix = self.key_prefix;
                format!("{prefix}{kind}{}", rng.gen_range(0..5))
            }
            // Sorted sets whose members all have one score, without which a range of members means nothing.
            "y" => format!("{}y{}", self.key_prefix, rng.gen_range(0..3)),
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
            "unix" => (self.now_ms / 1000 + rng.gen_range(1_000..1_000_000)).to_string(),
            "unixms" => (self.now_ms + rng.gen_range(1_000_000..1_000_000_000)).to_string(),
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
            "group" => format!("g{}", rng.gen_range(0..3)),
            "consumer" => format!("c{}", rng.gen_range(0..3)),
            other => unreachable!("the grammar names ${other}"),
        };
        text.into_bytes()
    }

    fn one_in(&mut self, count: u32) -> bool {
        self.rng.gen_ratio(1, count)
    }
}
