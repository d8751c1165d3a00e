//! The two texts that commands are made from: rules of commands (`grammar.txt`) and templates of scripts (`scripts.txt`).
//!
//! In `grammar.txt` a line is a rule: `$name` stands for a drawn word, `( a | b | )` for one of several, `< a >` for one to four times
//! what is within; `\` before a word takes it as it is. In `scripts.txt` a line is a template of Lua, and `$name` stands for a line of the
//! section of that name, or for a drawn word.
//!
//! In both `# name` begins a section, `N%` before a line is how often it comes compared with others, 10 unless said; lines with
//! `@alone` are left out where the server is one of a cluster.

use std::collections::BTreeMap;

/// Lines with how often each comes.
#[derive(Debug)]
pub struct Weighted<T> {
    /// Where each one's share ends, and the line.
    lines: Vec<(u32, T)>,
}

impl<T> Default for Weighted<T> {
    fn default() -> Self {
        Self { lines: Vec::new() }
    }
}

impl<T> Weighted<T> {
    fn push(&mut self, weight: u32, line: T) {
        let before = self.total();
        self.lines.push((before + weight, line));
    }

    /// What [`Self::pick`] is to be given a number below.
    pub fn total(&self) -> u32 {
        self.lines.last().map_or(0, |(end, _)| *end)
    }

    pub fn pick(&self, at: u32) -> &T {
        &self.lines[self.lines.partition_point(|(end, _)| *end <= at)].1
    }

    pub fn first(&self) -> &T {
        &self.lines[0].1
    }

    fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

/// The rules of commands.
#[derive(Debug)]
pub struct Grammar {
    pub rules: Weighted<Vec<Node>>,
}

#[derive(Clone, Debug)]
pub enum Node {
    Word(String),
    Drawn(String),
    OneOf(Vec<Vec<Node>>),
    Some(Vec<Node>),
}

impl Grammar {
    /// `only` are the sections to take, separated by commas, beside `keys`.
    pub fn parse(text: &str, only: Option<&str>, in_cluster: bool) -> anyhow::Result<Self> {
        let mut rules = Weighted::default();
        for line in lines(text, in_cluster)? {
            let is_wanted = only.is_none_or(|only| only.split(',').any(|one| line.section.starts_with(one)));
            if is_wanted || line.section == "keys" {
                rules.push(line.weight, sequence(&mut line.text.split_ascii_whitespace().peekable()));
            }
        }
        anyhow::ensure!(!rules.is_empty(), "the grammar has no such section");
        Ok(Self { rules })
    }
}

/// The templates of scripts, by section.
#[derive(Debug)]
pub struct Templates(BTreeMap<String, Weighted<String>>);

impl Templates {
    pub fn parse(text: &str, in_cluster: bool) -> anyhow::Result<Self> {
        let mut sections: BTreeMap<String, Weighted<String>> = BTreeMap::new();
        for line in lines(text, in_cluster)? {
            sections.entry(line.section.to_owned()).or_default().push(line.weight, line.text.to_owned());
        }
        Ok(Self(sections))
    }

    pub fn section(&self, name: &str) -> Option<&Weighted<String>> {
        self.0.get(name)
    }
}

struct Line<'a> {
    section: &'a str,
    weight: u32,
    text: &'a str,
}

fn lines(text: &str, in_cluster: bool) -> anyhow::Result<Vec<Line<'_>>> {
    let mut lines = Vec::new();
    let mut section = "";
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(name) = line.strip_prefix("# ") {
            section = name.trim();
            continue;
        }
        let (weight, line) = match line.split_once("% ") {
            Some((weight, line)) if weight.bytes().all(|digit| digit.is_ascii_digit()) => (weight.parse()?, line),
            _ => (10, line),
        };
        match line.strip_prefix("@alone ") {
            Some(_) if in_cluster => {}
            Some(text) => lines.push(Line { section, weight, text }),
            None => lines.push(Line { section, weight, text: line }),
        }
    }
    Ok(lines)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_as_often_as_they_say() {
        let grammar = Grammar::parse("# keys\n1% A $k\n9% @alone ( B | C D )\n", None, false).unwrap();
        assert_eq!(grammar.rules.total(), 10);
        assert!(matches!(&grammar.rules.pick(0)[0], Node::Word(word) if word == "A"));
        assert!(matches!(&grammar.rules.pick(1)[0], Node::OneOf(choices) if choices.len() == 2));
        assert_eq!(Grammar::parse("# keys\n1% A $k\n9% @alone B\n", None, true).unwrap().rules.total(), 1);
    }
}
