//! What this member reports of itself: status as JSON, metrics for Prometheus. It reads, and changes nothing.

use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use ringmaster_engine::Engine;
use ringmaster_ring::{Holder, MemberStatus, Position, Ring, RingEpoch, Role};

use crate::control::Control;
use crate::env::{Env, RealEnv};

/// What the serving side knows of its clients.
pub trait ClientStats: Send + Sync {
    /// How many are connected.
    fn clients(&self) -> u64;
    /// How long ago a client last sent a command, in ms.
    fn last_use_ms(&self) -> Option<u64>;
    /// Its counters and gauges.
    fn samples(&self) -> Vec<Sample>;
}

/// One metric of one member.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Without the prefix `ringmaster_`, and without `_total`.
    pub name: &'static str,
    pub help: &'static str,
    pub value: SampleValue,
}

#[derive(Clone, Copy, Debug)]
pub enum SampleValue {
    /// Only grows while the process lives.
    Counter(u64),
    Gauge(f64),
}

pub struct Reporter {
    control: Arc<Control<RealEnv>>,
    clients: Arc<dyn ClientStats>,
}

impl std::fmt::Debug for Reporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reporter").finish_non_exhaustive()
    }
}

impl Reporter {
    pub fn new(control: Arc<Control<RealEnv>>, clients: Arc<dyn ClientStats>) -> Self {
        Self { control, clients }
    }

    pub fn holder(&self) -> Holder {
        self.control.driver().holder()
    }

    pub fn ring(&self) -> Option<Arc<Ring>> {
        self.control.view().ring()
    }

    pub fn rings_after(&self, epoch: RingEpoch) -> Vec<Arc<Ring>> {
        self.control.rings_after(epoch)
    }

    pub fn engine(&self) -> &Arc<Engine> {
        self.control.driver().engine()
    }

    pub fn status(&self) -> MemberStatus {
        self.control.status(&*self.clients)
    }

    /// Metrics in the OpenMetrics text format.
    pub fn metrics(&self) -> String {
        let status = self.status();
        let mut samples = vec![
            gauge("keys", "Keys held", status.keys as f64),
            gauge("used_bytes", "Memory that the data occupies", status.used_bytes as f64),
            gauge("clients", "Clients connected", status.clients as f64),
            gauge("in_sync", "1 if the ring has this process in sync", one_if(status.in_sync)),
            gauge("primary", "1 if it serves its shard", one_if(status.role == Role::Primary)),
            gauge("lag_records", "Records behind the primary", status.lag_records as f64),
            gauge("sequence", "Sequence of the last record held", status.position.seq.0 as f64),
            gauge("shard_epoch", "Shard epoch of the last record held", status.position.epoch.0 as f64),
            gauge("ring_epoch", "Newest ring known", status.ring_epoch.map_or(0.0, |epoch| epoch.0 as f64)),
            gauge("ring_leader", "1 if this member leads the ring", one_if(status.ring_leader == Some(status.member))),
        ];
        samples.extend(self.clients.samples());
        let mut registry = Registry::with_prefix("ringmaster");
        for Sample { name, help, value } in samples {
            match value {
                SampleValue::Counter(value) => registry.register(name, help, ConstCounter::new(value)),
                SampleValue::Gauge(value) => registry.register(name, help, ConstGauge::new(value)),
            }
        }
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &registry) {
            tracing::error!(%error, "metrics could not be encoded");
        }
        text
    }
}

impl<E: Env> Control<E> {
    /// What this member says of itself.
    pub fn status(&self, clients: &dyn ClientStats) -> MemberStatus {
        let (driver, ring) = (self.driver(), self.view().ring());
        driver.tell_log_end();
        let identity = self.identity();
        let shard = self.config().shard;
        let of_shard =
            driver.inspect(|replica| (replica.role(), replica.position(), replica.lag_records(), replica.copies()));
        let holder = driver.holder();
        let of_witness = || (witness_role(ring.as_deref(), holder), Position::default(), 0, Vec::new());
        let (role, position, lag_records, copies) = of_shard.unwrap_or_else(of_witness);
        MemberStatus {
            cluster: identity.cluster,
            generation: identity.generation,
            member: identity.member,
            shard,
            presence: self.presence(),
            ring_epoch: ring.as_ref().map(|ring| ring.epoch),
            ring_leader: self.ring_leader(),
            role,
            in_sync: ring.as_ref().is_some_and(|ring| shard.is_some() && ring.is_ready(holder)),
            position,
            lag_records,
            sync: driver.sync_progress(),
            copies,
            keys: driver.engine().key_count(),
            used_bytes: driver.engine().used_bytes(),
            clients: clients.clients(),
            last_client_use_ms: clients.last_use_ms(),
            terminating: self.is_leaving(),
        }
    }
}

fn witness_role(ring: Option<&Ring>, holder: Holder) -> Role {
    let member = ring.and_then(|ring| ring.members.get(&holder.member));
    match member {
        None => Role::Idle,
        Some(member) if member.is_active() => Role::Witness,
        Some(_) => Role::Retired,
    }
}

fn one_if(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

fn gauge(name: &'static str, help: &'static str, value: f64) -> Sample {
    Sample { name, help, value: SampleValue::Gauge(value) }
}
