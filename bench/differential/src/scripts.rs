//! Scripts from a seed: bodies from templates (`scripts.txt`), and the commands that bring, name and forget them.

use rand::Rng;
use ringmaster_engine::script_id;

use crate::generate::Generator;
use crate::target::Command;

/// Templates nested deeper take the first line of their section.
const DEPTH_MAX: usize = 5;
/// How many scripts EVALSHA may name: of those that EVAL brought Valkey keeps 500.
const REMEMBERED_MAX: usize = 40;
const BROUGHT_MAX: usize = 300;
/// One in so many keys of a script is not declared.
const UNDECLARED_ONE_IN: u32 = 15;

/// What the servers know of scripts, as far as the generator needs it.
#[derive(Debug, Default)]
pub struct Scripts {
    /// Bodies with the keys and arguments that they were made for, the newest last.
    remembered: Vec<Script>,
    /// How many were brought since all were forgotten.
    brought: usize,
}

#[derive(Clone, Debug, Default)]
struct Script {
    body: String,
    keys: Vec<Vec<u8>>,
    args: Vec<Vec<u8>>,
}

impl Generator<'_> {
    /// A command that runs a script, or is about scripts.
    pub(crate) fn script_command(&mut self) -> Command {
        if self.scripts.brought > BROUGHT_MAX || self.one_in(200) {
            self.scripts = Scripts::default();
            return match self.rng.gen_range(0..3) {
                0 => words(&["SCRIPT", "FLUSH", "ASYNC"]),
                1 => words(&["SCRIPT", "FLUSH", "SYNC"]),
                _ => words(&["SCRIPT", "FLUSH"]),
            };
        }
        match self.rng.gen_range(0..40) {
            0 => {
                let script = self.remember();
                [words(&["SCRIPT", "LOAD"]), vec![script.body.into()]].concat()
            }
            1 => {
                let ids = (0..self.rng.gen_range(1..4)).map(|_| self.id()).collect();
                [words(&["SCRIPT", "EXISTS"]), ids].concat()
            }
            2 => match self.rng.gen_range(0..6) {
                0 => words(&["SCRIPT", "KILL"]),
                1 => words(&["SCRIPT", "NOTHING"]),
                2 => words(&["SCRIPT", "FLUSH", "WHAT"]),
                3 => words(&["SCRIPT", "LOAD"]),
                4 => words(&["SCRIPT", "EXISTS"]),
                _ => words(&["SCRIPT", "HELP"]),
            },
            3..10 => {
                let name = if self.one_in(6) { "EVALSHA_RO" } else { "EVALSHA" };
                let id = self.id();
                let script = self.remembered().unwrap_or_default();
                let keys = script.keys.iter().map(|key| if self.one_in(2) { self.word("k") } else { key.clone() });
                let keys = keys.collect();
                self.evaluate(name, id, keys, script.args)
            }
            10 => {
                let Script { body, keys, args } = self.script();
                self.evaluate("EVAL_RO", body.into(), keys, args)
            }
            _ => {
                let Script { body, keys, args } = if self.one_in(2) { self.remember() } else { self.script() };
                self.evaluate("EVAL", body.into(), keys, args)
            }
        }
    }

    fn evaluate(&mut self, name: &str, script: Vec<u8>, keys: Vec<Vec<u8>>, args: Vec<Vec<u8>>) -> Command {
        let count = match self.rng.gen_range(0..200) {
            0 => "-1".to_owned(),
            1 => "many".to_owned(),
            2 => (keys.len() + args.len() + 1).to_string(),
            // An argument more is a key, or a key is an argument.
            3 if !self.is_in_cluster() => (keys.len() + args.len()).to_string(),
            _ => keys.len().to_string(),
        };
        [vec![name.into(), script, count.into()], keys, args].concat()
    }

    /// The name of a script that is known, as a rule.
    fn id(&mut self) -> Vec<u8> {
        let Some(script) = self.remembered().filter(|_| !self.one_in(12)) else {
            return match self.rng.gen_range(0..3) {
                0 => b"short".to_vec(),
                1 => vec![b'g'; 40],
                _ => vec![b'0'; 40],
            };
        };
        let id: String = script_id(script.body.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        if self.one_in(8) { id.to_ascii_uppercase().into() } else { id.into() }
    }

    fn remembered(&mut self) -> Option<Script> {
        let count = self.scripts.remembered.len();
        (count > 0).then(|| self.scripts.remembered[self.rng.gen_range(0..count)].clone())
    }

    fn remember(&mut self) -> Script {
        let script = self.script();
        // What comes in any order is compared by what its body says, and EVALSHA has none.
        // One that promises to write nothing is known only where it ran.
        let stays_behind = self.is_in_cluster() && script.body.contains("no-writes");
        if !script.body.contains("any order") && !stays_behind {
            self.scripts.remembered.push(script.clone());
        }
        if self.scripts.remembered.len() > REMEMBERED_MAX {
            self.scripts.remembered.remove(0);
        }
        script
    }

    fn script(&mut self) -> Script {
        self.scripts.brought += 1;
        loop {
            let mut script = Script::default();
            let body = self.template("body", 0, &mut script).unwrap_or_default();
            script.body = body.replace(" @n ", "\n");
            // In which order a table's fields come is Lua's own business, and in a text it cannot be told from what is meant.
            let has_order = ["cjson.encode", "cmsgpack.pack"].iter().any(|text| script.body.contains(text));
            if has_order && script.body.contains("{format = ") {
                continue;
            }
            // The same of streams in a map that a client of RESP2 gets as a list.
            if script.body.contains("setresp(3)") && script.body.contains("'XREAD") {
                script.body.push_str(" -- any order");
            }
            return script;
        }
    }

    /// A line of a section, with what its `$name`s stand for.
    fn template(&mut self, section: &str, depth: usize, script: &mut Script) -> Option<String> {
        let lines = self.templates.section(section)?;
        let line = if depth > DEPTH_MAX { lines.first() } else { lines.pick(self.rng.gen_range(0..lines.total())) };
        let mut text = String::new();
        let mut rest = line.as_str();
        while let Some((before, after)) = rest.split_once('$') {
            text.push_str(before);
            let end = after.find(|letter: char| !letter.is_ascii_lowercase()).unwrap_or(after.len());
            let (name, behind) = after.split_at(end);
            match self.template(name, depth + 1, script) {
                Some(part) => text.push_str(&part),
                None => text.push_str(&self.lua_word(name, script)),
            }
            rest = behind;
        }
        text.push_str(rest);
        Some(text)
    }

    fn lua_word(&mut self, name: &str, script: &mut Script) -> String {
        match name {
            "call" => {
                let mut command = self.plain_command();
                while !is_the_same_every_time(&command) || !self.may_be_called(&command) {
                    command = self.plain_command();
                }
                self.called(&command);
                self.arguments(&command, script)
            }
            "unordered" => {
                let name = ["SMEMBERS", "SUNION", "SINTER", "SDIFF", "HGETALL", "HKEYS", "HVALS"];
                let name = name[self.rng.gen_range(0..name.len())];
                let kind = if name.starts_with('S') { "t" } else { "h" };
                let command = vec![name.as_bytes().to_vec(), self.word(kind)];
                self.called(&command);
                self.arguments(&command, script)
            }
            "key" => {
                let key = self.word("k");
                self.argument(&key, script)
            }
            "skey" => {
                let key = self.word("s");
                self.argument(&key, script)
            }
            "arg" => {
                script.args.push(self.word("m"));
                String::new()
            }
            "small" => self.rng.gen_range(0..9).to_string(),
            "string" => {
                let text = self.word("v");
                if self.one_in(3) {
                    script.args.push(text);
                    format!("ARGV[{}]", script.args.len())
                } else {
                    literal(&text)
                }
            }
            "number" => {
                let rng = &mut self.rng;
                match rng.gen_range(0..14) {
                    0 => format!("{}", rng.gen_range(-1e6..1e6)),
                    1 => format!("{}.5", rng.gen_range(-9..9)),
                    2 => format!("{}e{}", rng.gen_range(-9..9), rng.gen_range(-30..40)),
                    3 => format!("{}", rng.gen_range(-(1i64 << 54)..1i64 << 54)),
                    4 => format!("2^{}", rng.gen_range(0..70)),
                    5 => format!("-2^{}", rng.gen_range(0..70)),
                    6 => format!("0x{:x}", rng.gen_range(0..1u32 << 31)),
                    7 => format!("{}/{}", rng.gen_range(-9..9), rng.gen_range(1..9)),
                    _ => rng.gen_range(-9..20).to_string(),
                }
            }
            other => unreachable!("the templates name ${other}"),
        }
    }

    /// A command's words as arguments of a call in Lua.
    fn arguments(&mut self, command: &Command, script: &mut Script) -> String {
        let mut words = vec![literal(&command[0])];
        words.extend(command[1..].iter().map(|word| self.argument(word, script)));
        words.join(", ")
    }

    fn argument(&mut self, word: &[u8], script: &mut Script) -> String {
        if self.is_key(word) && !self.one_in(UNDECLARED_ONE_IN) {
            let known = script.keys.iter().position(|key| key == word);
            let at = known.unwrap_or_else(|| {
                script.keys.push(word.to_vec());
                script.keys.len() - 1
            });
            return format!("KEYS[{}]", at + 1);
        }
        let number = std::str::from_utf8(word).ok().and_then(|text| text.parse::<i64>().ok());
        match self.rng.gen_range(0..3) {
            0 if number.is_some_and(|number| number.to_string().as_bytes() == word && number.abs() < 1 << 53) => {
                String::from_utf8_lossy(word).into_owned()
            }
            1 => {
                script.args.push(word.to_vec());
                format!("ARGV[{}]", script.args.len())
            }
            _ => literal(word),
        }
    }
}

/// Whether both servers give a command the same reply to the letter: neither a choice nor an order nor a time.
fn is_the_same_every_time(command: &Command) -> bool {
    const NOT_THESE: [&str; 37] = [
        "SRANDMEMBER",
        "HRANDFIELD",
        "ZRANDMEMBER",
        "RANDOMKEY",
        "SPOP",
        "KEYS",
        "SMEMBERS",
        "SUNION",
        "SINTER",
        "SDIFF",
        "HGETALL",
        "HKEYS",
        "HVALS",
        "SCAN",
        "SSCAN",
        "HSCAN",
        "ZSCAN",
        "TTL",
        "PTTL",
        "EXPIRETIME",
        "PEXPIRETIME",
        "XINFO",
        "XPENDING",
        "OBJECT",
        "MEMORY",
        "FLUSHALL",
        "TIME",
        "INCRBYFLOAT",
        "HINCRBYFLOAT",
        "WAIT",
        // Not to be called by scripts here.
        "CLUSTER",
        "READONLY",
        "READWRITE",
        "ASKING",
        "SLOWLOG",
        "PUBSUB",
        "ROLE",
    ];
    let name = command[0].to_ascii_uppercase();
    let is_far = |word: &Vec<u8>| word.len() > 15;
    let has_limit = command.iter().any(|word| word.eq_ignore_ascii_case(b"LIMIT"));
    let is_other = NOT_THESE.iter().any(|other| other.as_bytes() == name)
        // What is documented as different would be hidden in the script's reply.
        || command.iter().any(|word| word.starts_with(b"0x") || word == b"-0")
        || (matches!(name.as_slice(), b"LSET" | b"LINDEX") && command.get(2).is_some_and(is_far))
        || (name.starts_with(b"Z") && has_limit)
        || (name == b"XREAD" && command.iter().any(|word| word == b"+"))
        || command.iter().any(|word| word.eq_ignore_ascii_case(b"HELP"));
    !is_other
}

/// A string of Lua.
fn literal(bytes: &[u8]) -> String {
    let mut text = String::from("'");
    for &byte in bytes {
        match byte {
            b'\'' | b'\\' => text.extend(['\\', char::from(byte)]),
            // Not one that begins a name of a template or of a line's end.
            b' '..=b'~' if byte != b'$' && byte != b'@' => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\{byte:03}")),
        }
    }
    text.push('\'');
    text
}

fn words(words: &[&str]) -> Command {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}
