//! A serving node in this process: the threads, connections and sessions of `ringmaster-node`, without a ring around them.
//!
//! Beside it, a copy that applies its log: whatever a command did must have become a record.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use ringmaster_engine::{Engine, EngineConfig, UnixMs};
use ringmaster_node::serve::{ServeConfig, ServeHandle, Shared, start};
use ringmaster_replica::{Gate, GateState, Mono, Mutations, Phase};
use ringmaster_ring::{
    Address, BootId, ClusterUuid, FeatureLevel, Formation, FoundingMember, Generation, Holder, MemberId, Placement,
    Presence, Ring, Seq, Settings, ShardEpoch, ShardId, Slot, SlotRange, VoterId,
};
use tokio::sync::watch;

use crate::target::Place;

const ME: Holder = Holder { member: MemberId(1), boot: BootId(1) };

pub struct Node {
    engine: Arc<Engine>,
    copy: Engine,
    handle: Option<ServeHandle>,
    /// For as long as it lives the serving side has a ring.
    _rings: watch::Sender<Option<Arc<Ring>>>,
}

impl Node {
    /// A primary whose lease has no end and whose writes count as kept at once, with cluster mode off.
    pub fn start(seed: u64) -> anyhow::Result<Self> {
        let config = |seed| EngineConfig { hash_seed: [seed, 7], cluster_mode: false, ..EngineConfig::default() };
        let (engine, copy) = (Arc::new(Engine::new(config(seed))), Engine::new(config(!seed)));
        let gate = Arc::new(Gate::new(Mutations::none()));
        let shared = Shared::new(ME, Arc::clone(&engine), Arc::clone(&gate));
        let rings = watch::Sender::new(None);
        shared.follow_ring(rings.subscribe());
        let serve = ServeConfig { client_port: 0, cluster_mode: false, ..ServeConfig::default() };
        let handle = start(serve, Arc::clone(&shared))?;
        rings.send_replace(Some(Arc::new(ring(handle.port())?)));
        engine.log().begin_epoch(ShardEpoch(1));
        let state = GateState {
            phase: Phase::Primary,
            epoch: ShardEpoch(1),
            lease_until: Mono(u64::MAX),
            committed: Seq(u64::MAX),
            fresh_until: Mono(u64::MAX),
            ..GateState::default()
        };
        if gate.publish(&state) {
            shared.wake();
        }
        Ok(Self { engine, copy, handle: Some(handle), _rings: rings })
    }

    pub fn place(&self) -> Place {
        Place::Tcp(format!("127.0.0.1:{}", self.handle.as_ref().map_or(0, ServeHandle::port)))
    }

    /// Deletes what has expired, as a node's housekeeper does.
    pub fn keep_house(&self) {
        self.engine.expire_cycle(wall_clock(), usize::MAX, &|_| true);
    }

    /// The slots whose copy differs from the primary.
    pub fn diverged_slots(&self) -> anyhow::Result<Vec<String>> {
        while let Some(batch) = self.engine.log().read_after(self.copy.log().end().seq, 1 << 20)? {
            self.copy.apply(&batch)?;
        }
        let diverged = Slot::all().filter(|slot| self.engine.slot_digest(*slot) != self.copy.slot_digest(*slot));
        Ok(diverged
            .map(|slot| {
                let keys = self.engine.keys_in_slot(slot, 3);
                let keys: Vec<String> = keys.iter().map(|key| key.escape_ascii().to_string()).collect();
                format!("{slot} ({})", keys.join(" "))
            })
            .collect())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.shutdown();
        }
    }
}

/// One member, which holds all slots.
fn ring(port: u16) -> anyhow::Result<Ring> {
    let presence = Presence {
        boot: ME.boot,
        voter: VoterId(1),
        address: Address { host: "127.0.0.1".into(), client_port: port, peer_port: 1, http_port: 2 },
        feature_level: FeatureLevel(1),
    };
    let founding =
        FoundingMember { shard: Some(ShardId(0)), template: String::new(), placement: Placement::default(), presence };
    let ranges = SlotRange::split(1).into_iter().map(|range| (ShardId(0), vec![range])).collect();
    Ring::form(&Formation {
        cluster: ClusterUuid(1),
        generation: Generation(1),
        settings: Settings::default(),
        members: BTreeMap::from([(ME.member, founding)]),
        shards: ranges,
        next_serial: MemberId(2),
    })
    .ok()
    .context("no ring of one member")
}

pub fn wall_clock() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(u64::try_from(since.as_millis()).unwrap_or(0))
}
