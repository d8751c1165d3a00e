//! Drives Ringmaster and a real Valkey with the same commands, and compares every reply and what is left in the end.
//!
//! In: seeds, a Valkey (`bench/peers valkey` brings one), and either the engine in this process or a node's address. Out: each
//! difference with the seed and the number of the command, so that the seed replays it; figures; exit code 1 if anything differed.
//!
//! A seed is one sequence: it begins with empty databases, RESP2 on even seeds and RESP3 on odd ones.

#![allow(clippy::indexing_slicing, reason = "a test tool ends where its claim does")]

mod compare;
mod generate;
mod reply;
mod state;
mod table;
mod target;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use rand::SeedableRng;
use rand::rngs::StdRng;
use ringmaster_engine::Protocol;

use compare::{KNOWN, Verdict, compare, diverges};
use generate::{Generator, Grammar};
use reply::Reply;
use target::{Command, InProcess, Server, Step, Target, show, wall_clock};

/// How many steps go out before their replies are compared.
const BATCH_STEPS: usize = 100;
/// Some keys are given this long to live, and then all wait until that is over.
const SHORT_LIFE_MS: u64 = 3;
const SHORT_LIFE_WAIT_MS: u64 = 25;

#[derive(Parser)]
#[command(about = "Compares Ringmaster's replies with Valkey's")]
struct Options {
    /// Which sequences, as FIRST..END.
    #[arg(long, default_value = "0..50", value_parser = seeds)]
    seeds: Range<u64>,
    /// How many steps a sequence has. A transaction is one.
    #[arg(long, default_value_t = 20_000)]
    steps: usize,
    /// The Valkey to compare with: its program. Without it, `bench/peers valkey` is asked.
    #[arg(long)]
    valkey: Option<PathBuf>,
    /// A node of Ringmaster, HOST:PORT. Without it, the engine in this process.
    #[arg(long)]
    ringmaster: Option<String>,
    /// Only these families of the grammar, separated by commas, beside `keys`.
    #[arg(long)]
    only: Option<String>,
    /// Prints every step that names this key, with Valkey's reply: how a difference came about.
    #[arg(long)]
    about: Option<String>,
    /// Compares the tables of commands instead.
    #[arg(long)]
    table: bool,
    /// How many differences to print.
    #[arg(long, default_value_t = 20)]
    show: usize,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let (first, end) = text.split_once("..").ok_or("FIRST..END")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
    Ok(number(first)?..number(end)?)
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let valkey = Valkey::start(options.valkey.as_deref())?;
    if options.table {
        let lines = table::differences(&mut valkey.connect()?)?;
        lines.iter().for_each(|line| println!("{line}"));
        anyhow::ensure!(lines.is_empty(), "{} differences", lines.len());
        return Ok(());
    }
    let grammar = Grammar::parse(include_str!("grammar.txt"), options.only.as_deref())?;
    let mut tally = Tally { shown_max: options.show, about: options.about.clone(), ..Tally::default() };
    let began = Instant::now();
    for seed in options.seeds.clone() {
        sequence(seed, &options, &valkey, &grammar, &mut tally)?;
    }
    tally.print(began.elapsed());
    drop(valkey);
    if !tally.different.is_empty() {
        std::process::exit(1);
    }
    Ok(())
}

/// A Valkey of our own, gone when this is dropped.
struct Valkey {
    child: Child,
    directory: PathBuf,
}

impl Valkey {
    fn start(program: Option<&Path>) -> anyhow::Result<Self> {
        let program = match program {
            Some(program) => program.to_owned(),
            None => {
                let peers = concat!(env!("CARGO_MANIFEST_DIR"), "/../peers");
                let output = std::process::Command::new(peers).arg("valkey").stderr(Stdio::inherit()).output()?;
                let path = String::from_utf8(output.stdout)?;
                PathBuf::from(path.lines().last().context("bench/peers brought no Valkey")?)
            }
        };
        let directory = std::env::temp_dir().join(format!("ringmaster-differential-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let child = std::process::Command::new(program)
            .args(["--port", "0", "--unixsocket", "valkey.sock", "--save", "", "--appendonly", "no"])
            .args(["--enable-debug-command", "yes", "--dir"])
            .arg(&directory)
            .current_dir(&directory)
            .stdout(Stdio::null())
            .spawn()?;
        let valkey = Self { child, directory };
        let deadline = Instant::now() + Duration::from_secs(10);
        while valkey.connect().is_err() {
            anyhow::ensure!(Instant::now() < deadline, "Valkey does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(valkey)
    }

    fn connect(&self) -> anyhow::Result<Server> {
        Server::connect_unix(&self.directory.join("valkey.sock"))
    }
}

impl Drop for Valkey {
    fn drop(&mut self) {
        // Best effort: it has nothing to lose.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

enum Ours {
    Engine(Box<InProcess>),
    Node(Server),
}

impl Ours {
    fn target(&mut self) -> &mut dyn Target {
        match self {
            Self::Engine(engine) => &mut **engine,
            Self::Node(server) => server,
        }
    }
}

/// One seed's sequence, from empty databases on.
fn sequence(seed: u64, options: &Options, valkey: &Valkey, grammar: &Grammar, tally: &mut Tally) -> anyhow::Result<()> {
    let protocol = if seed.is_multiple_of(2) { Protocol::Resp2 } else { Protocol::Resp3 };
    let mut theirs = valkey.connect()?;
    theirs.hello(protocol)?;
    let mut ours = match &options.ringmaster {
        None => Ours::Engine(Box::new(InProcess::new(seed, protocol))),
        Some(address) => {
            let mut server = Server::connect_tcp(address)?;
            server.hello(protocol)?;
            Ours::Node(server)
        }
    };
    clear(&mut theirs, ours.target())?;
    // In a cluster all keys of a step must be in one slot.
    let key_prefix = if options.ringmaster.is_some() { "{k}" } else { "" };
    let mut generator = Generator::new(grammar, StdRng::seed_from_u64(seed), key_prefix, wall_clock().0);
    let mut done = 0;
    while done < options.steps {
        let steps: Vec<Step> = (0..BATCH_STEPS).map(|_| generator.step()).collect();
        let same = exchange(seed, done, &steps, &mut theirs, ours.target(), tally)?;
        done += steps.len();
        let same = same && (done % 5_000 != 0 || end(seed, done, &mut theirs, &mut ours, tally)?);
        if done % 2_000 == 0 {
            short_lives(seed, done, key_prefix, &mut theirs, ours.target(), tally)?;
        }
        if !same {
            // What follows would only repeat that difference.
            clear(&mut theirs, ours.target())?;
        }
    }
    end(seed, done, &mut theirs, &mut ours, tally)?;
    Ok(())
}

/// Sends both sides the same and compares. Returns whether all was the same.
fn exchange(
    seed: u64,
    number: usize,
    steps: &[Step],
    theirs: &mut dyn Target,
    ours: &mut dyn Target,
    tally: &mut Tally,
) -> anyhow::Result<bool> {
    let (a, b) = (theirs.perform(steps)?, ours.perform(steps)?);
    let mut same = true;
    for (offset, (step, (a, b))) in steps.iter().zip(a.iter().zip(&b)).enumerate() {
        if std::mem::take(&mut tally.diverged) {
            return Ok(false);
        }
        let where_ = format!("seed {seed}, step {}", number + offset);
        match step {
            Step::One(command) => same &= tally.note(&where_, step, command, a, b),
            Step::Transaction(commands)
                if a.elements().len() == commands.len() && b.elements().len() == commands.len() =>
            {
                for (command, (a, b)) in commands.iter().zip(a.elements().iter().zip(b.elements())) {
                    same &= tally.note(&where_, step, command, a, b);
                }
            }
            Step::Transaction(commands) => {
                let names = commands.iter().filter_map(|command| command.first().cloned());
                let exec: Command = std::iter::once(b"EXEC".to_vec()).chain(names).collect();
                same &= tally.note(&where_, step, &exec, a, b);
            }
        }
    }
    Ok(same && !std::mem::take(&mut tally.diverged))
}

/// Keys that expire while both sides look away.
fn short_lives(
    seed: u64,
    number: usize,
    prefix: &str,
    theirs: &mut dyn Target,
    ours: &mut dyn Target,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let steps: Vec<Step> = ["s", "h", "l", "t", "z", "x", "b", "p"]
        .iter()
        .map(|kind| {
            let command = format!("PEXPIRE {prefix}{kind}0 {SHORT_LIFE_MS}");
            Step::One(command.split(' ').map(|word| word.as_bytes().to_vec()).collect())
        })
        .collect();
    exchange(seed, number, &steps, theirs, ours, tally)?;
    std::thread::sleep(Duration::from_millis(SHORT_LIFE_WAIT_MS));
    // Whoever deletes what has expired when it is asked for does so now.
    let ask = steps.iter().map(|step| match step {
        Step::One(command) => Step::One(vec![b"EXISTS".to_vec(), command[1].clone()]),
        Step::Transaction(_) => step.clone(),
    });
    exchange(seed, number, &ask.collect::<Vec<_>>(), theirs, ours, tally)?;
    Ok(())
}

/// Compares all that both sides hold.
fn end(seed: u64, number: usize, theirs: &mut Server, ours: &mut Ours, tally: &mut Tally) -> anyhow::Result<bool> {
    let (a, b) = (state::keys(theirs)?, state::keys(ours.target())?);
    let mut same = true;
    if a != b {
        let only = |from: &[(Vec<u8>, String)], other: &[(Vec<u8>, String)]| {
            let only = from.iter().filter(|key| !other.contains(key));
            only.map(|(key, kind)| format!("{}:{kind}", key.escape_ascii())).collect::<Vec<_>>().join(" ")
        };
        tally.differs(
            "keys",
            &format!(
                "seed {seed}, after {number}: only Valkey has {:?}, only Ringmaster has {:?}",
                only(&a, &b),
                only(&b, &a)
            ),
        );
        same = false;
    }
    let questions: Vec<Step> = state::questions_about(&a).into_iter().map(Step::One).collect();
    same &= exchange(seed, number, &questions, theirs, ours.target(), tally)?;
    same &= restore_crosswise(seed, number, &a, theirs, ours.target(), tally)?;
    if let Ours::Engine(engine) = ours {
        let diverged = engine.diverged_slots()?;
        if !diverged.is_empty() {
            tally.differs(
                "copy",
                &format!("seed {seed}, after {number}: the copy differs in slots {}", diverged.join(", ")),
            );
            same = false;
        }
    }
    Ok(same)
}

/// Has each side restore what the other dumped, and compares what comes of it with what was there.
fn restore_crosswise(
    seed: u64,
    number: usize,
    keys: &[(Vec<u8>, String)],
    theirs: &mut dyn Target,
    ours: &mut dyn Target,
    tally: &mut Tally,
) -> anyhow::Result<bool> {
    let dumps: Vec<Step> = keys.iter().map(|(key, _)| Step::One(vec![b"DUMP".to_vec(), key.clone()])).collect();
    let (from_theirs, from_ours) = (theirs.perform(&dumps)?, ours.perform(&dumps)?);
    let into = |dumps: &[Reply], target: &mut dyn Target| -> anyhow::Result<Vec<Reply>> {
        let restores = keys.iter().zip(dumps).map(|((key, _), dump)| {
            let payload = dump.bulk().unwrap_or_default().to_vec();
            let ttl = vec![b"0".to_vec(), payload, b"REPLACE".to_vec()];
            Step::One([vec![b"RESTORE".to_vec(), key.clone()], ttl].concat())
        });
        target.perform(&restores.collect::<Vec<_>>())
    };
    let mut same = true;
    for (whose, replies) in [("Valkey", into(&from_ours, theirs)?), ("Ringmaster", into(&from_theirs, ours)?)] {
        for ((key, kind), reply) in keys.iter().zip(&replies) {
            tally.commands += 1;
            if *reply != Reply::Simple("OK".to_owned()) {
                let key = key.escape_ascii();
                tally.differs(
                    "RESTORE",
                    &format!("seed {seed}, after {number}: {whose} restores {kind} {key} with {reply}"),
                );
                same = false;
            }
        }
    }
    let questions: Vec<Step> = state::questions_about(keys).into_iter().map(Step::One).collect();
    Ok(exchange(seed, number, &questions, theirs, ours, tally)? && same)
}

fn clear(theirs: &mut dyn Target, ours: &mut dyn Target) -> anyhow::Result<()> {
    let flush = [Step::One(vec![b"FLUSHALL".to_vec()])];
    theirs.perform(&flush)?;
    ours.perform(&flush)?;
    Ok(())
}

#[derive(Default)]
struct Tally {
    commands: u64,
    by_name: BTreeMap<String, u64>,
    known: BTreeMap<usize, u64>,
    different: BTreeMap<String, u64>,
    /// What follows in this batch was executed on different data.
    diverged: bool,
    shown: usize,
    shown_max: usize,
    about: Option<String>,
}

impl Tally {
    fn note(&mut self, where_: &str, step: &Step, command: &Command, valkey: &Reply, ours: &Reply) -> bool {
        self.commands += 1;
        if let Some(about) = &self.about
            && command.iter().any(|word| word == about.as_bytes())
        {
            println!("{where_}: {} -> {valkey}", show(&Step::One(command.clone())));
        }
        let name = String::from_utf8_lossy(&command[0]).to_ascii_uppercase();
        *self.by_name.entry(name.clone()).or_default() += 1;
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
                    Step::Transaction(_) => format!("{}   in {}", show(&Step::One(command.clone())), show(step)),
                };
                let text = format!("{where_}: {shown}\n  Valkey     {valkey}\n  Ringmaster {ours}");
                self.differs(&name, &text);
                false
            }
        }
    }

    fn differs(&mut self, name: &str, text: &str) {
        let count = self.different.entry(name.to_owned()).or_default();
        *count += 1;
        // A few of each kind say more than many of one.
        if *count <= 3 && self.shown < self.shown_max {
            self.shown += 1;
            println!("{text}");
        }
    }

    fn print(&self, elapsed: Duration) {
        let Self { commands, by_name, known, different, diverged: _, shown: _, shown_max: _, about: _ } = self;
        println!("{commands} commands of {} kinds compared in {:.0} s", by_name.len(), elapsed.as_secs_f64());
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
