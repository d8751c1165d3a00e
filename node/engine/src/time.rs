//! Wall-clock time as data. The engine has no clock: every call that needs the time is given it.

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01 UTC. Expiry is stored as such an instant, never as a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMs(pub u64);
