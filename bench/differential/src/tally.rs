//! What was compared and what came of it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::compare::{KNOWN, Verdict, compare, diverges};
use crate::reply::Reply;
use crate::target::{Command, Step, show};

/// How many differences of one command are shown: a few of each say more than many of one.
const SHOWN_OF_EACH: u64 = 25;

#[derive(Default)]
pub struct Tally {
    /// Steps that were compared, and those that followed a known difference that leaves other data behind.
    pub steps: u64,
    pub passed_over: u64,
    /// Keys whose values, expiries and dumps were compared, each as often as it was.
    pub keys: u64,
    pub commands: u64,
    /// Commands that Valkey answered with an error.
    errors: u64,
    pub by_name: BTreeMap<String, u64>,
    pub in_scripts: BTreeMap<String, u64>,
    known: BTreeMap<usize, u64>,
    different: BTreeMap<String, u64>,
    /// What follows in this batch was executed on different data.
    pub diverged: bool,
    shown: usize,
    shown_max: usize,
    /// Prints every command that names this key.
    about: Option<String>,
}

impl Tally {
    /// Prints so many differences, and every command about that key.
    pub fn new(shown_max: usize, about: Option<String>) -> Self {
        Self { shown_max, about, ..Self::default() }
    }

    pub fn has_differences(&self) -> bool {
        !self.different.is_empty()
    }

    /// Whether anything was compared at all.
    pub fn is_empty(&self) -> bool {
        self.steps == 0 || self.commands == 0 || self.keys == 0
    }

    /// Counts a command that has no reply of its own.
    pub fn count(&mut self, name: &str) {
        self.commands += 1;
        *self.by_name.entry(name.to_owned()).or_default() += 1;
    }

    /// Compares what both replied to a command of a step. Says whether that was the same.
    pub fn note(&mut self, where_: &str, step: &Step, command: &Command, valkey: &Reply, ours: &Reply) -> bool {
        let name = String::from_utf8_lossy(&command[0]).to_ascii_uppercase();
        self.count(&name);
        self.errors += u64::from(matches!(valkey, Reply::Error(_)));
        if let Some(about) = &self.about
            && command.iter().any(|word| word == about.as_bytes())
        {
            println!("{where_}: {} -> {valkey}", show(&Step::One(command.clone())));
        }
        match compare(command, valkey, ours) {
            Verdict::Same => true,
            Verdict::Known(at) => {
                *self.known.entry(at).or_default() += 1;
                self.diverged |= diverges(at);
                true
            }
            Verdict::Different => {
                let shown = match step {
                    Step::One(_) => show(step),
                    _ => format!("{}   in {}", show(&Step::One(command.clone())), show(step)),
                };
                self.differs(&name, &format!("{where_}: {shown}\n  Valkey     {valkey}\n  Ringmaster {ours}"));
                false
            }
        }
    }

    pub fn differs(&mut self, name: &str, text: &str) {
        let count = self.different.entry(name.to_owned()).or_default();
        *count += 1;
        if *count <= SHOWN_OF_EACH && self.shown < self.shown_max {
            self.shown += 1;
            println!("{text}");
        }
    }

    pub fn print(&self, elapsed: Duration) {
        let Self { steps, passed_over, keys, commands, errors, by_name, in_scripts, known, different, .. } = self;
        let called: u64 = in_scripts.values().sum();
        println!(
            "{commands} commands of {} kinds compared in {:.0} s; scripts were given {called} more to call",
            by_name.len(),
            elapsed.as_secs_f64()
        );
        println!(
            "{steps} steps, {passed_over} more behind a known difference; {errors} replies were errors; {keys} keys compared"
        );
        for (at, count) in known {
            println!("{count} differ as known: {}", KNOWN[*at].reason);
        }
        for (name, count) in different {
            println!("{count} of {name} differ");
        }
        if different.is_empty() {
            println!("no other difference");
        }
    }
}
