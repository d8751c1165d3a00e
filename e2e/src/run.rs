//! A run: ledgers write and the sampler watches while something happens to the cluster, in named phases; afterwards
//! everything is read back and compared. In: a bed. Out: an `Outcome`, which claims judge.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;

use crate::bed::Bed;
use crate::cache::Cache;
use crate::figures::note;
use crate::sampler;
use crate::settings::{NAMESPACE, Settings};
use crate::tools::{run, until};

/// How the aim of writes is shared out: go-redis does the bulk, each with its number of workers.
const WRITERS: [(&str, &[&str], u64, &str); 3] = [
    ("go", &["/clients/bin/ledger"], 85, "40"),
    ("node", &["node", "/clients/node/ledger.mjs"], 10, "8"),
    ("python", &["python3", "/clients/python/ledger.py"], 5, "4"),
];

/// Ledgers and sampler at work.
#[derive(Debug)]
pub struct Run {
    name: String,
    pod: String,
    cache: Cache,
    settings: Settings,
    writers: BTreeMap<&'static str, Program>,
    sampler: Program,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub name: String,
    pub writers: BTreeMap<String, WriterSummary>,
    pub sampled: sampler::Summary,
    /// (slot, copy) pairs whose contents were equal to the primary's at rest.
    pub equal_pairs: u64,
    settings: Settings,
}

#[derive(Clone, Debug, Deserialize)]
pub struct WriterSummary {
    pub acknowledged: u64,
    pub errors: u64,
    pub unknown: u64,
    pub lost: u64,
    pub doubled: u64,
    pub verified: u64,
    pub unverified: u64,
    pub error_texts: BTreeMap<String, u64>,
    pub phases: Vec<PhaseFigures>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct PhaseFigures {
    pub name: String,
    pub seconds: f64,
    pub writes: u64,
    pub reads: u64,
    pub errors: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
    pub gap_ms: f64,
}

impl Run {
    /// Starts all writers and the sampler on a node that is none of `avoided_nodes`, and waits until every writer writes.
    pub async fn start(bed: &Bed, cache: &Cache, name: &str, avoided_nodes: &[&str]) -> Result<Self> {
        let pod = bed.ledger_pod(avoided_nodes).await?;
        let settings = bed.settings.clone();
        let prefix = format!("{name}-{}", std::process::id());
        let mut writers = BTreeMap::new();
        for (writer, command, share, workers) in WRITERS {
            let rate = (settings.writes_per_s * share / 100).to_string();
            let mut words = command.to_vec();
            words.extend(["--host", &cache.name, "--rate", &rate, "--keys-prefix", &prefix, "--workers", workers]);
            writers.insert(writer, Program::start(&settings, name, writer, &pod, &words)?);
        }
        let seed = format!("{}-members:8379", cache.name);
        let sampler =
            Program::start(&settings, name, "sampler", &pod, &["/clients/bin/sampler", "watch", "--seed", &seed])?;
        let started = Self { name: name.to_owned(), pod, cache: cache.clone(), settings, writers, sampler };
        started.writing().await?;
        Ok(started)
    }

    /// Begins a phase with figures of its own.
    pub async fn phase(&mut self, name: &str) -> Result<()> {
        eprintln!("    {}: {name}", self.name);
        for program in self.writers.values_mut().chain([&mut self.sampler]) {
            program.say(&format!("phase {name}\n")).await?;
        }
        Ok(())
    }

    /// A phase in which nothing happens: what stalls are compared with.
    pub async fn control(&mut self) -> Result<()> {
        self.phase("control").await?;
        tokio::time::sleep(Duration::from_secs(self.settings.control_s)).await;
        Ok(())
    }

    /// Waits until every writer had something acknowledged, from now on.
    pub async fn writing(&self) -> Result<()> {
        let seconds = |writer: &Program| writer.lines_of("second").len();
        let before: Vec<usize> = self.writers.values().map(seconds).collect();
        until("all ledgers to write", Duration::from_secs(60), || async {
            for ((name, writer), before) in self.writers.iter().zip(&before) {
                if let Some(failure) = writer.failure() {
                    return Ok(Ok(Err(anyhow::anyhow!("the ledger {name} ended: {failure}"))));
                }
                let news = writer.lines_of("second");
                if !news.iter().skip(*before).any(|second| second["writes"].as_u64() > Some(0)) {
                    return Ok(Err(format!("{name} does not")));
                }
            }
            Ok(Ok(Ok(())))
        })
        .await?
    }

    /// Stops the load, reads everything back, compares the copies.
    pub async fn finish(self) -> Result<Outcome> {
        let mut summaries = BTreeMap::new();
        let mut ending = Vec::new();
        for (writer, program) in self.writers {
            ending.push((writer, tokio::spawn(program.finish())));
        }
        for (writer, end) in ending {
            let summary = end.await?.with_context(|| format!("the ledger {writer}"))?;
            summaries.insert(writer.to_owned(), serde_json::from_value(summary)?);
        }
        let sampled = serde_json::from_value(self.sampler.finish().await.context("the sampler")?)?;
        let seed = format!("{}-members:8379", self.cache.name);
        let arguments = ["-n", NAMESPACE, "exec", &self.pod, "--", "/clients/bin/sampler", "digests", "--seed", &seed];
        let compared = run("kubectl", &arguments).await.context("the comparison of copies at rest")?;
        let compared: Value = serde_json::from_str(compared.trim())?;
        let equal_pairs = compared["pairs"].as_u64().unwrap_or(0);
        let outcome = Outcome { name: self.name, writers: summaries, sampled, equal_pairs, settings: self.settings };
        outcome.note_figures()?;
        Ok(outcome)
    }
}

impl Outcome {
    /// Nothing that a client could notice, never a copy too few, never two writers.
    pub fn must_be_flawless(&self, copies: usize) -> Result<()> {
        self.must_have_kept_all()?;
        for (writer, summary) in &self.writers {
            ensure!(summary.doubled == 0, "{writer}: {} doubled effects", summary.doubled);
            ensure!(
                summary.errors == 0,
                "{writer}: {} errors reached the application: {:?}",
                summary.errors,
                summary.error_texts
            );
        }
        // Before the first phase the sampler may not have looked yet.
        for phase in self.sampled.phases.iter().skip(1) {
            ensure!(phase.statuses > 0, "phase {}: no member gave its status", phase.name);
            let (Some(in_sync), Some(present)) = (phase.fewest_in_sync, phase.fewest_present) else {
                bail!("phase {}: the sampler saw no ring", phase.name);
            };
            ensure!(phase.epochs_unseen == 0, "phase {}: {} rings were not seen", phase.name, phase.epochs_unseen);
            ensure!(
                in_sync >= copies && present >= copies,
                "phase {}: {in_sync} copies in sync, {present} of them there: {:?}",
                phase.name,
                self.sampled.findings
            );
        }
        Ok(())
    }

    /// Whatever happened: no acknowledged write is lost, never two writers, and the copies are equal at rest.
    pub fn must_have_kept_all(&self) -> Result<()> {
        for (writer, summary) in &self.writers {
            ensure!(summary.lost == 0, "{writer}: {} acknowledged writes lost", summary.lost);
            ensure!(summary.unverified == 0, "{writer}: {} could not be read back", summary.unverified);
            // Its client repeats nothing by itself.
            ensure!(summary.doubled == 0 || writer != "python", "{writer}: {} doubled effects", summary.doubled);
            ensure!(summary.acknowledged > 0 && summary.verified > 0, "{writer} wrote nothing: {summary:?}");
        }
        let two: u64 = self.sampled.phases.iter().map(|phase| phase.two_primaries).sum();
        ensure!(two == 0, "two primaries at a time: {:?}", self.sampled.findings);
        ensure!(self.sampled.phases.iter().any(|phase| phase.rings > 0), "the sampler saw nothing");
        ensure!(self.sampled.phases.iter().any(|phase| phase.pulses > 0), "the sampler could not write");
        let unread: u64 = self.sampled.phases.iter().map(|phase| phase.unread).sum();
        ensure!(unread == 0, "{unread} answers of members could not be read: {:?}", self.sampled.findings);
        // Single copies have nothing to be compared with.
        let copied = self.sampled.phases.iter().any(|phase| phase.fewest_in_sync > Some(1));
        ensure!(self.equal_pairs > 0 || !copied, "no contents were compared");
        Ok(())
    }

    /// The longest that one request took in a phase, over all writers.
    #[must_use]
    pub fn longest_stall_ms(&self, phase: &str) -> f64 {
        self.phases(phase).map(|(_, figures)| figures.max_ms).fold(0.0, f64::max)
    }

    #[must_use]
    pub fn writes_per_s(&self, phase: &str) -> f64 {
        self.phases(phase).map(|(_, figures)| figures.writes as f64 / figures.seconds.max(0.001)).sum()
    }

    fn phases<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, &'a PhaseFigures)> {
        self.writers.iter().flat_map(move |(writer, summary)| {
            summary.phases.iter().filter(move |phase| phase.name == name).map(move |phase| (writer.as_str(), phase))
        })
    }

    fn note_figures(&self) -> Result<()> {
        let total = |count: fn(&WriterSummary) -> u64| self.writers.values().map(count).sum::<u64>();
        let line = format!(
            "{} acknowledged, {} lost, {} doubled, {} errors, {} unknown, {} read back, {} (slot, copy) pairs equal",
            total(|s| s.acknowledged),
            total(|s| s.lost),
            total(|s| s.doubled),
            total(|s| s.errors),
            total(|s| s.unknown),
            total(|s| s.verified),
            self.equal_pairs,
        );
        note(&self.settings, &self.name, "ledger", line)?;
        let names: Vec<String> = self.sampled.phases.iter().map(|phase| phase.name.clone()).collect();
        for (name, sampled) in names.iter().zip(&self.sampled.phases).skip(1) {
            let slowest = |of: fn(&PhaseFigures) -> f64| self.phases(name).map(|(_, f)| of(f)).fold(0.0, f64::max);
            let line = format!(
                "{:.0} writes/s, p50 {:.1} p99 {:.1} p99.9 {:.1} longest {:.1} ms, longest gap of a counter {:.0} ms; a shard took no write for {:.0} ms at most ({} tried); fewest copies {} ({} rings, {} epochs unseen)",
                self.writes_per_s(name),
                slowest(|f| f.p50_ms),
                slowest(|f| f.p99_ms),
                slowest(|f| f.p999_ms),
                slowest(|f| f.max_ms),
                slowest(|f| f.gap_ms),
                sampled.longest_pulse_ms,
                sampled.pulses,
                sampled.fewest_present.map_or("?".to_owned(), |fewest| fewest.to_string()),
                sampled.rings,
                sampled.epochs_unseen,
            );
            note(&self.settings, &self.name, name, line)?;
        }
        Ok(())
    }
}

/// A program in a ledger pod, its standard input, and the lines that it printed so far (also kept in a file).
#[derive(Debug)]
struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Arc<Mutex<Vec<Value>>>,
    /// The file with its error output.
    errors: PathBuf,
    reading: JoinHandle<()>,
}

impl Program {
    fn start(settings: &Settings, run: &str, name: &str, pod: &str, command: &[&str]) -> Result<Self> {
        std::fs::create_dir_all(&settings.out)?;
        let errors = settings.out.join(format!("{run}-{name}.err"));
        let mut kept = File::create(settings.out.join(format!("{run}-{name}.jsonl")))?;
        let mut child = Command::new("kubectl")
            // Its WebSockets give a stream up that has no pong for a minute, which a starved machine may owe it.
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false")
            .args(["-n", NAMESPACE, "exec", "-i", pod, "--"])
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors)?)
            .kill_on_drop(true)
            .spawn()
            .context("kubectl cannot be started")?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("no output")?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let reading = tokio::spawn({
            let lines = Arc::clone(&lines);
            async move {
                let mut reader = BufReader::new(stdout).lines();
                while let Ok(Some(line)) = reader.next_line().await {
                    writeln!(kept, "{line}").ok();
                    if let Ok(value) = serde_json::from_str::<Value>(&line) {
                        lines.lock().unwrap_or_else(PoisonError::into_inner).push(value);
                    }
                }
            }
        });
        Ok(Self { child, stdin, lines, errors, reading })
    }

    async fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("it was stopped")?;
        stdin.write_all(line.as_bytes()).await?;
        Ok(stdin.flush().await?)
    }

    fn lines_of(&self, kind: &str) -> Vec<Value> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|line| line["kind"] == kind).cloned().collect()
    }

    /// What it said last, if it ended by itself.
    fn failure(&self) -> Option<String> {
        let last = || self.lines.lock().unwrap_or_else(PoisonError::into_inner).last().map(ToString::to_string);
        let errors = || std::fs::read_to_string(&self.errors).ok().filter(|text| !text.is_empty());
        self.reading.is_finished().then(|| errors().or_else(last).unwrap_or_else(|| "it said nothing".to_owned()))
    }

    /// Ends its input, waits for its end, gives its summary.
    async fn finish(mut self) -> Result<Value> {
        drop(self.stdin.take());
        let ended = tokio::time::timeout(Duration::from_secs(180), self.child.wait()).await;
        ended.context("it does not end")??;
        self.reading.await.ok();
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let summary = lines.iter().rev().find(|line| line["kind"] == "summary");
        summary.cloned().with_context(|| format!("it gave no summary; its last line: {:?}", lines.last()))
    }
}
