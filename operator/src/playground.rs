//! `ringmaster playground`: the same planner and the same node, with processes on loopback instead of pods.
//!
//! In: a `CacheCluster`. Out: a cache at `127.0.0.1:PORT`, and a live table of its members. Another `ringmaster
//! playground` command cordons a pretend node, and its members are replaced before they go.
//! It leaves nothing behind: processes end with it, and so does its folder.

mod control;
mod kubelet;
mod table;
mod world;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use ringmaster_plan::crd::CacheCluster;
use ringmaster_plan::{Timestamp, plan};

use control::Order;
use world::World;

/// What runs without a file: small, and soon done with members that were retired.
const DEFAULT_CLUSTER: &str = "
apiVersion: cache.ringmaster.dev/v1alpha1
kind: CacheCluster
metadata: {name: playground}
spec:
  shards: 3
  copies: 2
  memory: {max: 256Mi}
  maintenance: {lingerSeconds: 2, repairAfterSeconds: 10}
";

/// How often the world is looked at while something is under way, and otherwise.
const WHILE_BUSY: Duration = Duration::from_millis(100);
const SETTLED: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct Playground {
    /// The CacheCluster to run. Default: 3 shards with 2 copies each.
    #[arg(long, short)]
    file: Option<PathBuf>,
    /// Ports for clients follow this one where they are free.
    #[arg(long, default_value_t = 7_000)]
    port: u16,
    #[command(subcommand)]
    order: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Cordon a pretend node of the playground that runs: its members are replaced.
    Cordon { node: String },
    /// Let members onto the node again.
    Uncordon { node: String },
    /// Show the members of the playground that runs.
    Status,
}

pub(crate) fn run(options: Playground) -> anyhow::Result<()> {
    // One thread: the members' processes are bound to the life of the thread that starts them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let order = match options.order {
        None => return runtime.block_on(play(options.file, options.port)),
        Some(Command::Cordon { node }) => Order::Cordon(node),
        Some(Command::Uncordon { node }) => Order::Uncordon(node),
        Some(Command::Status) => Order::Status,
    };
    print!("{}", runtime.block_on(control::ask(&order))?);
    Ok(())
}

/// A member's process: the node itself, ending when its playground does.
pub(crate) fn node(args: Vec<OsString>) -> ExitCode {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    let bound = set_parent_process_death_signal(Some(Signal::KILL));
    // The playground may have ended before the line above.
    let is_orphan = getppid().is_none_or(|parent| parent.is_init());
    if bound.is_err() || (is_orphan && std::process::id() != 1) {
        return ExitCode::FAILURE;
    }
    ringmaster_node::run(std::iter::once(OsString::from("ringmaster-node")).chain(args))
}

async fn play(file: Option<PathBuf>, port: u16) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let cluster = read(file)?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut orders = control::listen()?;
    let mut world = World::new(cluster, port)?;
    let mut display = table::Display::new(std::io::stdout().is_terminal());
    loop {
        let observed = world.observe().await;
        let plan = plan(&observed, Timestamp::now());
        for note in &plan.steps {
            match world.take(&note.step).await {
                Ok(()) => display.note(&note.why),
                Err(error) => display.note(&format!("{} (not yet: {error:#})", note.why)),
            }
        }
        world.show_status(plan.status);
        display.draw(&world);
        let pause = if plan.busy { WHILE_BUSY } else { SETTLED };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            order = orders.next() => answer(order, &mut world, &mut display).await,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
    }
    display.end();
    world.end().await;
    Ok(())
}

async fn answer(asked: Option<control::Asked>, world: &mut World, display: &mut table::Display) {
    let Some(asked) = asked else { return };
    let text = match asked.order() {
        Order::Status => table::status(world),
        Order::Cordon(node) => cordon(world, display, node, true),
        Order::Uncordon(node) => cordon(world, display, node, false),
    };
    asked.answer(text).await;
}

fn cordon(world: &mut World, display: &mut table::Display, node: &str, cordoned: bool) -> Result<String, String> {
    world.cordon(node, cordoned)?;
    let said = if cordoned { format!("{node} is cordoned.\n") } else { format!("{node} takes members again.\n") };
    display.note(said.trim_end());
    Ok(said)
}

fn read(file: Option<PathBuf>) -> anyhow::Result<CacheCluster> {
    let (text, name) = match &file {
        None => (DEFAULT_CLUSTER.to_owned(), String::new()),
        Some(path) => {
            (std::fs::read_to_string(path).with_context(|| path.display().to_string())?, path.display().to_string())
        }
    };
    let mut cluster: CacheCluster = serde_yaml::from_str(&text).context(name)?;
    let random: u128 = rand::random();
    cluster.metadata.uid = Some(format!("{random:032x}"));
    cluster.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    cluster.metadata.generation = Some(1);
    cluster.status = None;
    if let Err(problems) = ringmaster_plan::Spec::of(&cluster, world::IMAGE) {
        let list: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::bail!("{}", list.join("; "));
    }
    Ok(cluster)
}
