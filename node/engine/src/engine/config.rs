//! What an engine is made with.

use std::fmt;
use std::str::FromStr;

/// The settings of an engine. Memory and its policy can be changed later with [`Engine::set_maxmemory`](crate::Engine::set_maxmemory).
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Keys the hash of every table, so that clients cannot make keys collide. Members between which a walk may be resumed share it.
    pub hash_seed: [u64; 2],
    /// 0 for no limit.
    pub maxmemory_bytes: u64,
    pub eviction: Eviction,
    /// How many bytes of records are kept for copies to read.
    pub log_bytes_max: usize,
    /// With it off, the keys of one command may be in several slots. The engine executes either; the shell checks slots.
    pub cluster_mode: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            hash_seed: [0; 2],
            maxmemory_bytes: 0,
            eviction: Eviction::NoEviction,
            log_bytes_max: 64 << 20,
            cluster_mode: true,
        }
    }
}

/// What goes when `maxmemory` is reached: Redis's `maxmemory-policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Eviction {
    #[default]
    NoEviction,
    AllKeysLru,
    AllKeysLfu,
    AllKeysRandom,
    VolatileLru,
    VolatileLfu,
    VolatileRandom,
    VolatileTtl,
}

impl Eviction {
    pub const ALL: [Self; 8] = [
        Self::NoEviction,
        Self::AllKeysLru,
        Self::AllKeysLfu,
        Self::AllKeysRandom,
        Self::VolatileLru,
        Self::VolatileLfu,
        Self::VolatileRandom,
        Self::VolatileTtl,
    ];

    /// The name that `CONFIG GET maxmemory-policy` shows.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoEviction => "noeviction",
            Self::AllKeysLru => "allkeys-lru",
            Self::AllKeysLfu => "allkeys-lfu",
            Self::AllKeysRandom => "allkeys-random",
            Self::VolatileLru => "volatile-lru",
            Self::VolatileLfu => "volatile-lfu",
            Self::VolatileRandom => "volatile-random",
            Self::VolatileTtl => "volatile-ttl",
        }
    }
}

impl fmt::Display for Eviction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no eviction policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown eviction policy '{0}'")]
pub struct UnknownEviction(pub String);

impl FromStr for Eviction {
    type Err = UnknownEviction;
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|policy| policy.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| UnknownEviction(name.to_owned()))
    }
}
