//! One seed's sequence of steps, from empty databases on: both sides perform the same, and every reply and all that is left is compared.

use std::time::Duration;

use anyhow::Context;
use rand::SeedableRng;
use rand::rngs::StdRng;
use ringmaster_engine::Protocol;

use crate::cluster::Cluster;
use crate::follower::Follower;
use crate::generate::{Generator, OTHER_DATABASE, Setting};
use crate::grammar::{Grammar, Templates};
use crate::node::{Node, wall_clock};
use crate::reply::Reply;
use crate::state;
use crate::tally::Tally;
use crate::target::{Command, Done, Place, Server, Step, Target, command};

/// How many steps go out before their replies are compared.
const BATCH_STEPS: usize = 100;
/// After how many steps all data is compared.
const LOOK_EVERY_STEPS: usize = 5_000;
/// After how many some keys are given this long to live, and then all wait until that is over.
const SHORT_LIVES_EVERY_STEPS: usize = 2_000;
const SHORT_LIFE_MS: u64 = 3;
const SHORT_LIFE_WAIT_MS: u64 = 25;

/// What is compared with Valkey.
#[derive(Clone, Copy)]
pub enum Against<'a> {
    /// A node in this process.
    Node,
    /// One that runs somewhere, with cluster mode off.
    Address(&'a str),
    Cluster(&'a Cluster),
}

pub struct Sequence<'a> {
    seed: u64,
    theirs: Server,
    ours: Ours<'a>,
    generator: Generator<'a>,
    tally: &'a mut Tally,
    /// Steps done.
    done: usize,
    in_cluster: bool,
}

enum Ours<'a> {
    Node(Box<Node>, Server),
    Address(Server),
    Cluster(Follower<'a>),
}

impl Ours<'_> {
    fn target(&mut self) -> &mut dyn Target {
        match self {
            Self::Node(_, server) | Self::Address(server) => server,
            Self::Cluster(follower) => follower,
        }
    }
}

impl<'a> Sequence<'a> {
    pub fn begin(
        seed: u64,
        valkey: &Place,
        against: Against<'a>,
        (grammar, templates): (&'a Grammar, &'a Templates),
        tally: &'a mut Tally,
    ) -> anyhow::Result<Self> {
        let protocol = if seed.is_multiple_of(2) { Protocol::Resp2 } else { Protocol::Resp3 };
        let ours = match against {
            Against::Node => {
                let node = Node::start(seed)?;
                let server = Server::connect(&node.place(), protocol)?;
                Ours::Node(Box::new(node), server)
            }
            Against::Address(address) => Ours::Address(Server::connect(&Place::Tcp(address.to_owned()), protocol)?),
            Against::Cluster(cluster) => Ours::Cluster(cluster.follower(protocol)?),
        };
        let in_cluster = matches!(against, Against::Cluster(_));
        let setting = Setting { in_cluster, protocol, now_ms: wall_clock().0 };
        let generator = Generator::new(grammar, templates, StdRng::seed_from_u64(seed), setting);
        let theirs = Server::connect(valkey, protocol)?;
        let mut sequence = Self { seed, theirs, ours, generator, tally, done: 0, in_cluster };
        sequence.clear()?;
        Ok(sequence)
    }

    pub fn run(mut self, steps: usize) -> anyhow::Result<()> {
        while self.done < steps {
            let batch: Vec<Step> = (0..BATCH_STEPS).map(|_| self.generator.step()).collect();
            if let Ours::Node(node, _) = &self.ours {
                node.keep_house();
            }
            let mut same = self.exchange(&batch)?;
            self.done += batch.len();
            if same && self.done.is_multiple_of(LOOK_EVERY_STEPS) {
                same = self.look()?;
            }
            if self.done.is_multiple_of(SHORT_LIVES_EVERY_STEPS) {
                self.short_lives()?;
            }
            if !same {
                // What follows would only repeat that difference.
                self.clear()?;
            }
        }
        self.look()?;
        if !self.in_cluster {
            self.exchange(&[Step::One(command(&[b"QUIT"]))])?;
        }
        for (name, count) in self.generator.called_in_scripts() {
            *self.tally.in_scripts.entry(name.clone()).or_default() += count;
        }
        Ok(())
    }

    /// Has both sides perform the same and compares. Returns whether all was the same.
    fn exchange(&mut self, steps: &[Step]) -> anyhow::Result<bool> {
        let where_ = |whose| format!("{whose}, seed {}, from step {}", self.seed, self.done);
        let theirs = self.theirs.perform(steps).with_context(|| where_("Valkey"))?;
        let ours = self.ours.target().perform(steps).with_context(|| where_("Ringmaster"))?;
        let mut same = true;
        for (offset, (step, (theirs, ours))) in steps.iter().zip(theirs.iter().zip(&ours)).enumerate() {
            if std::mem::take(&mut self.tally.diverged) {
                self.tally.passed_over += (steps.len() - offset) as u64;
                return Ok(false);
            }
            self.tally.steps += 1;
            let where_ = format!("seed {}, step {}", self.seed, self.done + offset);
            same &= compare_step(self.tally, &where_, step, theirs, ours)?;
        }
        Ok(same && !std::mem::take(&mut self.tally.diverged))
    }

    fn ask_both(&mut self, commands: Vec<Command>) -> anyhow::Result<bool> {
        self.exchange(&commands.into_iter().map(Step::One).collect::<Vec<_>>())
    }

    /// Keys that expire while both sides look away.
    fn short_lives(&mut self) -> anyhow::Result<()> {
        let keys: Vec<Vec<u8>> =
            ["s", "h", "l", "t", "z", "x", "b", "p"].map(|kind| self.generator.key(kind, 0)).into();
        let life = SHORT_LIFE_MS.to_string();
        self.ask_both(keys.iter().map(|key| command(&[b"PEXPIRE", key, life.as_bytes()])).collect())?;
        std::thread::sleep(Duration::from_millis(SHORT_LIFE_WAIT_MS));
        // Whoever deletes what has expired when it is asked for does so now.
        self.ask_both(keys.iter().map(|key| command(&[b"EXISTS", key])).collect())?;
        Ok(())
    }

    /// Compares all that both sides hold.
    fn look(&mut self) -> anyhow::Result<bool> {
        let mut same = self.look_at_database()?;
        if !self.in_cluster {
            self.ask_both(vec![command(&[b"SELECT", OTHER_DATABASE])])?;
            same &= self.look_at_database()?;
            self.ask_both(vec![command(&[b"SELECT", b"0"])])?;
        }
        let lagging = match &mut self.ours {
            Ours::Node(node, _) => node.diverged_slots()?,
            Ours::Address(_) => Vec::new(),
            Ours::Cluster(follower) => follower.diverged_slots()?,
        };
        if !lagging.is_empty() {
            self.differs("copy", &format!("the copy differs in slots {}", lagging.join(", ")));
        }
        Ok(same && lagging.is_empty())
    }

    fn look_at_database(&mut self) -> anyhow::Result<bool> {
        let (theirs, ours) = (state::keys(&mut self.theirs)?, state::keys(self.ours.target())?);
        let mut same = theirs == ours;
        if !same {
            let only = |from: &[(Vec<u8>, String)], other: &[(Vec<u8>, String)]| {
                let only = from.iter().filter(|key| !other.contains(key));
                only.map(|(key, kind)| format!("{}:{kind}", key.escape_ascii())).collect::<Vec<_>>().join(" ")
            };
            let (a, b) = (only(&theirs, &ours), only(&ours, &theirs));
            self.differs("keys", &format!("only Valkey has {a:?}, only Ringmaster has {b:?}"));
        }
        self.tally.keys += theirs.len() as u64;
        same &= self.ask_both(state::questions_about(&theirs))?;
        same &= self.restore_crosswise(&theirs)?;
        Ok(same)
    }

    /// Has each side restore what the other dumped, and compares what comes of it with what was there.
    fn restore_crosswise(&mut self, keys: &[(Vec<u8>, String)]) -> anyhow::Result<bool> {
        let dumps: Vec<Command> = keys.iter().map(|(key, _)| command(&[b"DUMP", key])).collect();
        let (from_theirs, from_ours) = (self.theirs.ask(&dumps)?, self.ours.target().ask(&dumps)?);
        let restores = |dumps: &[Reply]| -> Vec<Command> {
            let pairs = keys.iter().zip(dumps);
            pairs.map(|((key, _), dump)| command(&[b"RESTORE", key, b"0", dump.text(), b"REPLACE"])).collect()
        };
        let by_theirs = self.theirs.ask(&restores(&from_ours))?;
        let by_ours = self.ours.target().ask(&restores(&from_theirs))?;
        let mut same = true;
        for (whose, replies) in [("Valkey", by_theirs), ("Ringmaster", by_ours)] {
            for ((key, kind), reply) in keys.iter().zip(&replies) {
                self.tally.count("RESTORE");
                if *reply != Reply::Simple("OK".to_owned()) {
                    let key = key.escape_ascii();
                    self.differs("RESTORE", &format!("{whose} restores {kind} {key} with {reply}"));
                    same = false;
                }
            }
        }
        Ok(self.ask_both(state::questions_about(keys))? && same)
    }

    fn differs(&mut self, name: &str, text: &str) {
        let text = format!("seed {}, after {}: {text}", self.seed, self.done);
        self.tally.differs(name, &text);
    }

    fn clear(&mut self) -> anyhow::Result<()> {
        let empty = [command(&[b"FLUSHALL"]), command(&[b"SCRIPT", b"FLUSH"])];
        self.theirs.ask(&empty)?;
        self.ours.target().ask(&empty)?;
        Ok(())
    }
}

/// Compares what came of one step. Says whether that was the same.
fn compare_step(tally: &mut Tally, where_: &str, step: &Step, theirs: &Done, ours: &Done) -> anyhow::Result<bool> {
    Ok(match (step, theirs, ours) {
        (Step::One(command), Done::One(a), Done::One(b)) => tally.note(where_, step, command, a, b),
        (
            Step::Transaction(commands),
            Done::Transaction { refused: refused_a, exec: a },
            Done::Transaction { refused: refused_b, exec: b },
        ) => {
            tally.count("MULTI");
            let mut same = compare_exec(tally, (where_, step), commands, a, b);
            if same && !tally.diverged {
                let refused = |replies: &[Reply]| Reply::Array(replies.to_vec());
                same = tally.note(where_, step, &queued(commands), &refused(refused_a), &refused(refused_b));
            }
            same
        }
        (
            Step::Watched { meanwhile, commands, .. },
            Done::Watched { meanwhile: meanwhile_a, exec: a },
            Done::Watched { meanwhile: meanwhile_b, exec: b },
        ) => {
            tally.count("WATCH");
            tally.count("MULTI");
            let mut same = true;
            if let (Some(command), Some(a), Some(b)) = (meanwhile, meanwhile_a, meanwhile_b) {
                same &= tally.note(where_, step, command, a, b);
            }
            same & compare_exec(tally, (where_, step), commands, a, b)
        }
        (
            Step::Waiting { command, then },
            Done::Waiting { command: command_a, then: then_a },
            Done::Waiting { command: command_b, then: then_b },
        ) => tally.note(where_, step, then, then_a, then_b) & tally.note(where_, step, command, command_a, command_b),
        (Step::Channels { subscriptions, meanwhile }, Done::Channels { .. }, Done::Channels { .. }) => {
            let [a, b] = [theirs, ours].map(|done| match done.clone() {
                Done::Channels { subscribed, meanwhile, messages, unsubscribed } => {
                    (Reply::Array(subscribed), meanwhile, Reply::Array(messages), Reply::Array(unsubscribed))
                }
                _ => (Reply::Null, Vec::new(), Reply::Null, Reply::Null),
            });
            for other in &subscriptions[1..] {
                tally.count(&String::from_utf8_lossy(&other[0]));
            }
            let mut same = tally.note(where_, step, &subscriptions[0], &a.0, &b.0);
            for (command, (a, b)) in meanwhile.iter().zip(a.1.iter().zip(&b.1)) {
                same &= tally.note(where_, step, command, a, b);
            }
            for (name, a, b) in [("MESSAGES", a.2, b.2), ("UNSUBSCRIBE", a.3, b.3)] {
                same &= tally.note(where_, step, &vec![name.into()], &a, &b);
            }
            for name in ["PUNSUBSCRIBE", "SUNSUBSCRIBE"] {
                tally.count(name);
            }
            same
        }
        _ => anyhow::bail!("{where_}: a step became {theirs:?} and {ours:?}"),
    })
}

fn compare_exec(tally: &mut Tally, (where_, step): (&str, &Step), commands: &[Command], a: &Reply, b: &Reply) -> bool {
    if a.elements().len() != commands.len() || b.elements().len() != commands.len() {
        return tally.note(where_, step, &queued(commands), a, b);
    }
    tally.count("EXEC");
    let mut same = true;
    for (command, (a, b)) in commands.iter().zip(a.elements().iter().zip(b.elements())) {
        same &= tally.note(where_, step, command, a, b);
    }
    same
}

/// EXEC, with the names of what it executes.
fn queued(commands: &[Command]) -> Command {
    let names = commands.iter().filter_map(|command| command.first().cloned());
    std::iter::once(b"EXEC".to_vec()).chain(names).collect()
}
