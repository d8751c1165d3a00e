//! A member from start to end: options, threads, signals, and when it may go.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use ringmaster_engine::{Dropped, Engine, EngineConfig};
use ringmaster_replica::{Gate, Held, Lead, LeadConfig, Mutations, Replica, ReplicaConfig};
use ringmaster_ring::{Address, BootId, Holder, Ring};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::bus::{Bus, Inbox, Outgoing};
use crate::consensus::RaftTiming;
use crate::control::{Control, MemberConfig, MemberParts};
use crate::env::{RealDisk, RealEnv, wall_now_ms};
use crate::http::{HttpOrder, ORDERS_MAX, router};
use crate::options::{Options, OptionsError};
use crate::peer::{Identity, Secrets};
use crate::serve::{self, ServeConfig, ServeHandle, Shared, UserFiles};
use crate::status::Reporter;

/// How far two clocks may run apart, in parts per million; leases allow for it.
const DRIFT_PPM: u32 = 1_000;
/// How often expired keys are looked for and memory is brought below its limit.
const HOUSEKEEPING: Duration = Duration::from_millis(50);
/// How many keys one round of housekeeping may take.
const HOUSEKEEPING_KEYS: usize = 10_000;
/// How often a member that was asked to end looks whether it may.
const LEAVE_LOOK: Duration = Duration::from_millis(100);

/// Runs a member until it may end. Exit status: 0 when it ended in good order, 1 when it could not go on, 2 for a wrong
/// option.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let options = match Options::read(args) {
        Ok(options) => options,
        Err(OptionsError::Clap(error)) => error.exit(),
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let filter = match tracing_subscriber::EnvFilter::try_new(&options.log) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("error: --log {}: {error}", options.log);
            return ExitCode::from(2);
        }
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match Member::start(options).and_then(Member::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A member whose threads have begun.
struct Member {
    control_runtime: Runtime,
    control: Arc<Control<RealEnv>>,
    serving: ServeHandle,
    shared: Arc<Shared>,
    orders: mpsc::Receiver<HttpOrder>,
}

impl Member {
    fn start(options: Options) -> anyhow::Result<Self> {
        let secrets = read_secrets(&options)?;
        let boot = BootId(rand::random());
        let holder = Holder { member: options.member, boot };
        let identity = Identity {
            cluster: options.cluster,
            generation: options.generation,
            member: options.member,
            boot,
            secrets: secrets.clone(),
        };
        let disk =
            RealDisk::open(&options.data_dir).with_context(|| format!("--data-dir {}", options.data_dir.display()))?;
        let env = RealEnv::new(&options.bind, disk);
        let engine = Arc::new(Engine::new(EngineConfig {
            hash_seed: rand::random(),
            maxmemory_bytes: options.memory_max,
            eviction: options.policy.into(),
            log_bytes_max: options.log_bytes_max,
            cluster_mode: options.cluster_mode,
        }));
        let gate = Arc::new(Gate::new(Mutations::none()));
        let shared = Shared::new(holder, Arc::clone(&engine), Arc::clone(&gate));
        let wake_shared = Arc::clone(&shared);
        let graveyard = start_graveyard()?;
        let replica = options.shard.map(|shard| {
            Replica::new(ReplicaConfig {
                me: holder.member,
                boot,
                shard,
                drift_ppm: DRIFT_PPM,
                held: Held::default(),
                mutations: Mutations::none(),
            })
        });
        let parts = MemberParts {
            env: env.clone(),
            identity,
            config: member_config(&options),
            engine: Arc::clone(&engine),
            gate: Arc::clone(&gate),
            replica,
            lead: Lead::new(LeadConfig { mutations: Mutations::none() }),
            apply: Ring::apply,
            wake: Box::new(move || wake_shared.wake()),
            graveyard: Box::new(move |dropped| drop(graveyard.send(dropped))),
            fatal: Box::new(|why| {
                tracing::error!(why, "this process cannot go on");
                std::process::exit(1);
            }),
        };
        let control_runtime = Builder::new_current_thread().enable_all().build()?;
        let (control, streams) = control_runtime.block_on(Control::start(parts))?;
        shared.follow_ring(control.view().subscribe());
        let driver = Arc::clone(control.driver());
        shared.report_replication(move || driver.replication());
        let (leaver, asked) = (Arc::downgrade(&control), Arc::downgrade(&control));
        shared.leave_by(
            move || {
                if let Some(control) = leaver.upgrade() {
                    begin_to_leave(&control);
                }
            },
            move || asked.upgrade().is_some_and(|control| control.is_leaving()),
        );
        let (bus, outgoing) = Bus::new();
        shared.send_messages_by(bus);
        let receiver = Arc::clone(&shared);
        let inbox = Inbox::new(move |message| receiver.deliver(&message));
        start_streams(Arc::clone(&control), env, streams, outgoing, inbox)?;
        start_housekeeper(Arc::clone(&control))?;
        // Before the first client comes.
        let mut users = UserFiles::new(options.acl_file.clone(), options.password_file.clone());
        users.read_into(shared.acl()).context("--acl-file, --password-file")?;
        users.keep(Arc::clone(&shared))?;
        let serving = serve::start(serve_config(&options), Arc::clone(&shared))?;
        let (to_control, orders) = mpsc::channel(ORDERS_MAX);
        let clients: Arc<Shared> = Arc::clone(&shared);
        let reporter = Arc::new(Reporter::new(Arc::clone(&control), clients));
        start_http(&options, reporter, secrets, to_control)?;
        tracing::info!(
            member = %options.member,
            %boot,
            voter = %control.consensus().voter(),
            client_port = options.client_port,
            "started"
        );
        Ok(Self { control_runtime, control, serving, shared, orders })
    }

    /// Serves until asked to end, and then until it may.
    fn run(self) -> anyhow::Result<()> {
        let Self { control_runtime, control, serving, shared, mut orders } = self;
        control_runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            loop {
                tokio::select! {
                    biased;
                    Some(order) = orders.recv() => take_order(&control, order),
                    _ = terminate.recv() => begin_to_leave(&control),
                    _ = interrupt.recv() => begin_to_leave(&control),
                    () = tokio::time::sleep(LEAVE_LOOK) => {
                        if control.is_leaving() && control.may_end(shared.last_use_ms()) {
                            break;
                        }
                    }
                }
            }
            anyhow::Ok(())
        })?;
        serving.shutdown();
        control_runtime.block_on(control.stop());
        tracing::info!("ended");
        Ok(())
    }
}

fn begin_to_leave(control: &Control<RealEnv>) {
    if !control.is_leaving() {
        tracing::info!("asked to end: serving on until this member is replaced");
    }
    control.leave();
}

fn take_order(control: &Arc<Control<RealEnv>>, order: HttpOrder) {
    let control = Arc::clone(control);
    tokio::spawn(async move {
        // Whoever asked may have gone.
        match order {
            HttpOrder::Propose(command, answer) => drop(answer.send(control.propose(command).await)),
            HttpOrder::Form(formation, answer) => {
                let formed = control.form(*formation).await.map_err(|error| error.to_string());
                drop(answer.send(formed));
            }
            HttpOrder::Disband(answer) => {
                control.disband().await;
                let _ = answer.send(());
            }
        }
    });
}

fn read_secrets(options: &Options) -> anyhow::Result<Secrets> {
    let path = options.token_file.display();
    let text = std::fs::read_to_string(&options.token_file).with_context(|| format!("--token-file {path}"))?;
    Secrets::parse(&text).with_context(|| format!("--token-file {path}: it holds no secret"))
}

fn member_config(options: &Options) -> MemberConfig {
    let heartbeat_ms = options.heartbeat_ms;
    MemberConfig {
        shard: options.shard,
        address: Address {
            host: options.announce_host.clone(),
            client_port: options.client_port,
            peer_port: options.peer_port,
            http_port: options.http_port,
        },
        seeds: options.seeds.clone(),
        zone: options.zone.clone(),
        node: options.node_name.clone(),
        raft: RaftTiming::with_heartbeat(heartbeat_ms),
        sync_bytes_per_second: options.sync_bytes_per_second,
    }
}

fn serve_config(options: &Options) -> ServeConfig {
    ServeConfig {
        bind: options.bind.clone(),
        client_port: options.client_port,
        threads: usize::from(options.threads),
        connections_max: options.connections_max,
        cluster_mode: options.cluster_mode,
        debug_command: options.enable_debug_command,
        ..ServeConfig::default()
    }
}

fn start_streams(
    control: Arc<Control<RealEnv>>,
    env: RealEnv,
    streams: mpsc::UnboundedReceiver<crate::control::AcceptedStream<RealEnv>>,
    outgoing: Outgoing,
    inbox: Inbox,
) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("streams".into()).spawn(move || {
        let messages = Arc::clone(&control).run_messages(env.clone(), outgoing, inbox);
        runtime.block_on(async { tokio::join!(control.run_streams(env, streams), messages) })
    })?;
    Ok(())
}

fn start_http(
    options: &Options,
    reporter: Arc<Reporter>,
    secrets: Secrets,
    orders: mpsc::Sender<HttpOrder>,
) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let address = (options.bind.clone(), options.http_port);
    let listening = tokio::net::TcpListener::bind((&*address.0, address.1));
    let listener = runtime.block_on(listening).with_context(|| format!("--http-port {}", options.http_port))?;
    let routes = router(reporter, secrets, orders);
    thread::Builder::new().name("http".into()).spawn(move || {
        if let Err(error) = runtime.block_on(async { axum::serve(listener, routes).await }) {
            tracing::error!(%error, "HTTP ended");
        }
    })?;
    Ok(())
}

/// Drops what would take long to drop.
fn start_graveyard() -> anyhow::Result<Sender<Dropped>> {
    let (bury, buried) = channel::<Dropped>();
    thread::Builder::new().name("graveyard".into()).spawn(move || buried.into_iter().for_each(drop))?;
    Ok(bury)
}

/// Expires and evicts, where this member may: only a primary with a lease does.
fn start_housekeeper(control: Arc<Control<RealEnv>>) -> anyhow::Result<()> {
    thread::Builder::new().name("housekeeper".into()).spawn(move || {
        let driver = Arc::clone(control.driver());
        let gate = Arc::clone(driver.gate());
        loop {
            thread::sleep(HOUSEKEEPING);
            let now = ringmaster_engine::UnixMs(wall_now_ms());
            let permit = |access| serve::permits(&gate, access, crate::env::boot_now());
            driver.engine().expire_cycle(now, HOUSEKEEPING_KEYS, &permit);
            driver.engine().evict_cycle(now, HOUSEKEEPING_KEYS, &permit);
            drop(driver.engine().take_dropped());
        }
    })?;
    Ok(())
}
