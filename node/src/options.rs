//! The node's flags: each is also an environment variable and a key of the configuration file.
//!
//! Order of precedence: flag, environment variable `RINGMASTER_…`, configuration file, default. A wrong one ends the
//! process with status 2 and a message that names the option.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::serve::DebugCommand;
use clap::{Parser, ValueEnum};
use ringmaster_engine::Eviction;
use ringmaster_ring::{ClusterUuid, Generation, MemberId, ShardId};

/// A member of a Ringmaster cache cluster: serves Redis clients, and copies its shard to and from its peers.
#[derive(Clone, Debug, Parser)]
#[command(name = "ringmaster-node", version)]
pub struct Options {
    /// A file of lines `option = value`, options as here without the dashes.
    #[arg(long, env = "RINGMASTER_CONFIG")]
    pub config: Option<PathBuf>,
    /// Serial of this member in the ring.
    #[arg(long, env = "RINGMASTER_MEMBER")]
    pub member: MemberId,
    /// Shard of which this member holds a copy; absent for a witness.
    #[arg(long, env = "RINGMASTER_SHARD")]
    pub shard: Option<ShardId>,
    /// UUID of the cluster: 32 hexadecimal digits, dashes allowed.
    #[arg(long, env = "RINGMASTER_CLUSTER", value_parser = parse_uuid)]
    pub cluster: ClusterUuid,
    /// Generation of the cluster's ring.
    #[arg(long, env = "RINGMASTER_GENERATION", default_value = "1")]
    pub generation: Generation,
    /// File with the ring's secrets, one a line: the first is used, all are accepted.
    #[arg(long, env = "RINGMASTER_TOKEN_FILE")]
    pub token_file: PathBuf,
    /// File with the clients' passwords, one a line: all are accepted. Absent: no password is asked.
    #[arg(long, env = "RINGMASTER_PASSWORD_FILE")]
    pub password_file: Option<PathBuf>,
    /// File with users and what each may do, lines as ACL LIST shows them. Passwords of the default user in it give way to those of
    /// --password-file.
    #[arg(long, env = "RINGMASTER_ACL_FILE")]
    pub acl_file: Option<PathBuf>,
    /// Directory for the ring's log. It must not be shared.
    #[arg(long, env = "RINGMASTER_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Address to listen on.
    #[arg(long, env = "RINGMASTER_BIND", default_value = "0.0.0.0")]
    pub bind: String,
    /// Address under which clients and peers reach this member.
    #[arg(long, env = "RINGMASTER_ANNOUNCE_HOST", default_value = "127.0.0.1")]
    pub announce_host: String,
    /// Port for clients.
    #[arg(long, env = "RINGMASTER_CLIENT_PORT", default_value_t = 6379)]
    pub client_port: u16,
    /// Port for other members.
    #[arg(long, env = "RINGMASTER_PEER_PORT", default_value_t = 7379)]
    pub peer_port: u16,
    /// Port for health, metrics and proposals over HTTP.
    #[arg(long, env = "RINGMASTER_HTTP_PORT", default_value_t = 8379)]
    pub http_port: u16,
    /// Where other members may be found: HOST:PEER_PORT, separated by commas; a DNS name stands for all its addresses.
    #[arg(long, env = "RINGMASTER_SEEDS", value_delimiter = ',', value_parser = parse_seed)]
    pub seeds: Vec<(String, u16)>,
    /// Memory for data in bytes; 0 for no limit.
    #[arg(long, env = "RINGMASTER_MEMORY_MAX", default_value_t = 0)]
    pub memory_max: u64,
    /// What is evicted when memory is full.
    #[arg(long, env = "RINGMASTER_POLICY", value_enum, default_value_t = Policy::Noeviction)]
    pub policy: Policy,
    /// Bytes of recent writes kept for copies that were away for a moment.
    #[arg(long, env = "RINGMASTER_LOG_BYTES_MAX", default_value_t = 64 << 20)]
    pub log_bytes_max: usize,
    /// Bytes per second that full syncs from this member may take together; 0 for no limit.
    #[arg(long, env = "RINGMASTER_SYNC_BYTES_PER_SECOND", default_value_t = 0)]
    pub sync_bytes_per_second: u64,
    /// Name of the machine that this member runs on.
    #[arg(long, env = "RINGMASTER_NODE_NAME", default_value = "")]
    pub node_name: String,
    /// Zone of the machine that this member runs on.
    #[arg(long, env = "RINGMASTER_ZONE", default_value = "")]
    pub zone: String,
    /// Whether clients see Redis Cluster.
    #[arg(long, env = "RINGMASTER_CLUSTER_MODE", default_value_t = true, action = clap::ArgAction::Set)]
    pub cluster_mode: bool,
    /// Who may use DEBUG: nobody, clients that connect from this machine, or all.
    #[arg(long, env = "RINGMASTER_ENABLE_DEBUG_COMMAND", value_enum, default_value_t = DebugCommand::No)]
    pub enable_debug_command: DebugCommand,
    /// Threads that serve clients.
    #[arg(long, env = "RINGMASTER_THREADS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub threads: u16,
    /// Most clients at a time.
    #[arg(long, env = "RINGMASTER_CONNECTIONS_MAX", default_value_t = 10_000)]
    pub connections_max: usize,
    /// Heartbeat interval of the ring's consensus in ms; an election follows after several were missed.
    #[arg(long, env = "RINGMASTER_HEARTBEAT_MS", default_value_t = 40, value_parser = clap::value_parser!(u64).range(5..=10_000))]
    pub heartbeat_ms: u64,
    /// What is logged: off, error, warn, info, debug or trace, also by module.
    #[arg(long, env = "RINGMASTER_LOG", default_value = "info")]
    pub log: String,
}

/// Redis's `maxmemory-policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Policy {
    Noeviction,
    AllkeysLru,
    AllkeysLfu,
    AllkeysRandom,
    VolatileLru,
    VolatileLfu,
    VolatileRandom,
    VolatileTtl,
}

impl From<Policy> for Eviction {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Noeviction => Self::NoEviction,
            Policy::AllkeysLru => Self::AllKeysLru,
            Policy::AllkeysLfu => Self::AllKeysLfu,
            Policy::AllkeysRandom => Self::AllKeysRandom,
            Policy::VolatileLru => Self::VolatileLru,
            Policy::VolatileLfu => Self::VolatileLfu,
            Policy::VolatileRandom => Self::VolatileRandom,
            Policy::VolatileTtl => Self::VolatileTtl,
        }
    }
}

/// Why the options are not usable. The text names the option.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    #[error(transparent)]
    Clap(#[from] clap::Error),
    #[error("--config {path}: {error}")]
    ConfigFile { path: PathBuf, error: std::io::Error },
    #[error("--config {path}, line {line}: {why}")]
    ConfigLine { path: PathBuf, line: usize, why: String },
}

impl Options {
    /// Reads flags, environment and configuration file.
    ///
    /// # Errors
    /// An option is unknown, missing or wrong; also when help or the version was asked for.
    pub fn read(args: impl Iterator<Item = OsString>) -> Result<Self, OptionsError> {
        let args: Vec<OsString> = args.collect();
        match config_path(&args) {
            None => Ok(Self::try_parse_from(args)?),
            Some(path) => {
                let text = std::fs::read_to_string(&path)
                    .map_err(|error| OptionsError::ConfigFile { path: path.clone(), error })?;
                Ok(Self::try_parse_from(with_config(args, &path, &text)?)?)
            }
        }
    }
}

/// The configuration file, before the other options can be parsed: they may be in it.
fn config_path(args: &[OsString]) -> Option<PathBuf> {
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.to_str() {
            Some("--config") => return rest.next().map(PathBuf::from),
            Some(text) => {
                if let Some(path) = text.strip_prefix("--config=") {
                    return Some(path.into());
                }
            }
            None => {}
        }
    }
    std::env::var_os("RINGMASTER_CONFIG").map(PathBuf::from)
}

/// The arguments, with those lines of the file that neither a flag nor the environment overrides.
fn with_config(args: Vec<OsString>, path: &std::path::Path, text: &str) -> Result<Vec<OsString>, OptionsError> {
    let mut lines = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why: &str| OptionsError::ConfigLine { path: path.into(), line: index + 1, why: why.to_owned() };
        let (option, value) = line.split_once('=').ok_or_else(|| wrong("expected `option = value`"))?;
        let option = option.trim().to_owned();
        if lines.insert(option.clone(), value.trim().to_owned()).is_some() {
            return Err(wrong(&format!("{option} is given twice")));
        }
    }
    let is_given = |option: &str| {
        let (flag, with_value) = (format!("--{option}"), format!("--{option}="));
        let variable = format!("RINGMASTER_{}", option.to_uppercase().replace('-', "_"));
        let on_line = args.iter().filter_map(|a| a.to_str()).any(|a| a == flag || a.starts_with(&with_value));
        on_line || std::env::var_os(variable).is_some()
    };
    let from_file = lines.iter().filter(|(option, _)| !is_given(option));
    let from_file: Vec<OsString> = from_file.map(|(option, value)| format!("--{option}={value}").into()).collect();
    let mut all = args;
    all.extend(from_file);
    Ok(all)
}

fn parse_uuid(text: &str) -> Result<ClusterUuid, String> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 {
        return Err(format!("expected 32 hexadecimal digits, found {}", digits.len()));
    }
    digits.parse().map_err(|error| format!("{error}"))
}

fn parse_seed(text: &str) -> Result<(String, u16), String> {
    let (host, port) = text.rsplit_once(':').ok_or("expected HOST:PORT")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = port.parse().map_err(|_| format!("{port} is no port"))?;
    if host.is_empty() { Err("the host is missing".to_owned()) } else { Ok((host.to_owned(), port)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(extra: &[&str]) -> Result<Options, OptionsError> {
        let needed = [
            "ringmaster-node",
            "--member=3",
            "--cluster=00000000-0000-0000-0000-0000000000ff",
            "--token-file=/token",
            "--data-dir=/data",
        ];
        Options::read(needed.iter().chain(extra).map(OsString::from))
    }

    #[test]
    fn wrong_values_name_their_option() {
        for (wrong, named) in [
            ("--shard=x", "--shard"),
            ("--policy=lru", "--policy"),
            ("--threads=0", "--threads"),
            ("--seeds=host", "--seeds"),
            ("--no-such-option=1", "--no-such-option"),
        ] {
            let message = read(&[wrong]).unwrap_err().to_string();
            assert!(message.contains(named), "{wrong}: {message}");
        }
    }

    #[test]
    fn the_file_fills_in_what_flags_leave_open() {
        let directory = std::env::temp_dir().join(format!("ringmaster-options-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join("node.conf");
        std::fs::write(&file, "# limits\nmemory-max = 1024\nthreads = 4\n").unwrap();
        let config = format!("--config={}", file.display());
        let options = read(&[&config, "--threads=2"]).unwrap();
        assert_eq!((options.memory_max, options.threads), (1024, 2));
        std::fs::write(&file, "memory-max\n").unwrap();
        let message = read(&[&config]).unwrap_err().to_string();
        assert!(message.contains("line 1"), "{message}");
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
