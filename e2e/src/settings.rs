//! What the environment says about how much is to be tested, and with which images. `../run` sets all of it.

use std::env;
use std::path::PathBuf;
use std::str::FromStr;

/// The namespace of everything that the tests make; the chart has one of its own.
pub const NAMESPACE: &str = "ringmaster-e2e";
/// The chart's release and its namespace.
pub const RELEASE: &str = "ringmaster";
pub const OPERATOR_NAMESPACE: &str = "ringmaster-system";

/// How much, how long and with what.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Keys that the shared cluster is filled with, and their values' size.
    pub keys: u64,
    pub value_bytes: u64,
    /// Acknowledged writes per second that the ledgers aim at, together.
    pub writes_per_s: u64,
    /// How long a control phase without any event lasts.
    pub control_s: u64,
    /// How long a quiet cluster is watched.
    pub quiet_s: u64,
    pub operator_image: String,
    pub node_image: String,
    /// The same node under another name: a default that differs.
    pub other_node_image: String,
    pub ledger_image: String,
    /// The repository.
    pub root: PathBuf,
    /// Where figures and logs of failures go.
    pub out: PathBuf,
    /// The API server's audit log, where the cluster's maker offers one.
    pub audit_log: Option<PathBuf>,
}

impl Settings {
    #[must_use]
    pub fn from_env() -> Self {
        // Where the tests were compiled may not be where they run: builds of several clones share one target folder.
        let compiled_in = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        let root = PathBuf::from(text("E2E_ROOT", compiled_in));
        Self {
            keys: number("E2E_KEYS", 1_000_000),
            value_bytes: number("E2E_VALUE_BYTES", 300),
            writes_per_s: number("E2E_WRITES_PER_S", 2_500),
            control_s: number("E2E_SECONDS", 20),
            quiet_s: number("E2E_QUIET_SECONDS", 60),
            operator_image: text("E2E_OPERATOR_IMAGE", "localhost/ringmaster:e2e"),
            node_image: text("E2E_NODE_IMAGE", "localhost/ringmaster-node:e2e"),
            other_node_image: text("E2E_OTHER_NODE_IMAGE", "localhost/ringmaster-node:other"),
            ledger_image: text("E2E_LEDGER_IMAGE", "localhost/ringmaster-ledger:e2e"),
            out: root.join("target/e2e/results"),
            root,
            audit_log: env::var_os("RINGMASTER_E2E_AUDIT_LOG").map(PathBuf::from),
        }
    }

    /// So slow that the sync of one of `shards` takes at least six seconds.
    #[must_use]
    pub fn sync_bytes_per_s(&self, shards: u64) -> u64 {
        (self.keys * self.value_bytes / shards / 6).max(64 << 10)
    }
}

fn text(name: &str, otherwise: &str) -> String {
    env::var(name).unwrap_or_else(|_| otherwise.to_owned())
}

fn number<T: FromStr>(name: &str, otherwise: T) -> T {
    env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}
