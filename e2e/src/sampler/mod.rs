//! The sampler: watches a ring from outside through a whole run, and says afterwards whether any shard was ever short of
//! copies or had two primaries. It trusts the ring for who is in sync, and its own eyes for whether that process is there.
//!
//! In: a name under which some member answers, phases on standard input. Out: lines of JSON, and a summary.

mod digests;
mod http;
mod judge;
mod pulse;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ringmaster_ring::{Address, MemberId, MemberStatus, Ring, RingEpoch, ShardId};
use tokio::sync::watch;
use tokio::time::Instant;

pub use digests::compare_digests;
pub use http::{Http, Missed};
pub use judge::{Judge, PhaseSummary, Summary};

/// How long an answer may take before the member counts as silent.
const PATIENCE: Duration = Duration::from_millis(1_000);
/// How long the rings of one voter are waited for: the others have the same.
const RINGS_PATIENCE: Duration = Duration::from_millis(300);

/// Watches until `stopped` resolves; `judge` holds what was seen.
pub async fn watch(
    seed: &str,
    period: Duration,
    judge: Arc<Mutex<Judge>>,
    stopped: impl Future<Output = ()>,
) -> Result<()> {
    let first = find_ring(seed).await?;
    let shards: Vec<ShardId> = first.shards.keys().copied().collect();
    let rings = watch::Sender::new(first.clone());
    let pulses = shards.into_iter().map(|shard| pulse::beat(shard, rings.subscribe(), Arc::clone(&judge)));
    let pulses = futures::future::join_all(pulses);
    let mut watched = Watched { judge, period, members: BTreeMap::new(), rings };
    watched.follow(&first);
    tokio::select! {
        () = stopped => {}
        () = watched.follow_rings(first) => {}
        _ = pulses => bail!("no shard of the ring has slots"),
    }
    Ok(())
}

/// The ring as any member behind `seed` knows it.
pub async fn find_ring(seed: &str) -> Result<Ring> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let missed = match ask_seed(seed).await {
            Ok(ring) => return Ok(ring),
            Err(missed) => missed,
        };
        if Instant::now() > deadline {
            return Err(missed.context(format!("no member behind {seed} gives a ring")));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn ask_seed(seed: &str) -> Result<Ring> {
    let mut last = anyhow::anyhow!("the name has no addresses");
    for address in tokio::net::lookup_host(seed).await.with_context(|| format!("cannot resolve {seed}"))? {
        match Http::new(&address.ip().to_string(), address.port()).get("/v1/ring", PATIENCE).await {
            Ok(body) => return serde_json::from_slice(&body).context("a member's ring cannot be read"),
            Err(missed) => last = anyhow::anyhow!("{address}: {missed:?}"),
        }
    }
    Err(last)
}

struct Watched {
    judge: Arc<Mutex<Judge>>,
    period: Duration,
    /// The members under watch, by the address at which they are watched.
    members: BTreeMap<MemberId, (Address, tokio::task::AbortHandle)>,
    /// The newest ring, for the pulses.
    rings: watch::Sender<Ring>,
}

impl Watched {
    /// Asks all voters for the rings that were committed since the last question: none of them is missed, however short it
    /// lasted.
    async fn follow_rings(&mut self, first: Ring) {
        let mut askers: BTreeMap<Address, Http> = BTreeMap::new();
        let mut newest = first;
        loop {
            let voters = addresses_of_voters(&newest);
            askers.retain(|address, _| voters.contains(address));
            for address in voters {
                askers.entry(address).or_insert_with_key(|address| Http::new(&address.host, address.http_port));
            }
            let path = format!("/v1/rings?after={}", newest.epoch);
            let asked = Instant::now();
            let answers = askers.values_mut().map(|http| http.get(&path, RINGS_PATIENCE));
            let answers = futures::future::join_all(answers).await;
            let heard = answers.iter().any(Result::is_ok);
            let mut rings: BTreeMap<RingEpoch, Ring> = BTreeMap::new();
            for body in answers.into_iter().flatten() {
                match serde_json::from_slice::<Vec<Ring>>(&body) {
                    Ok(all) => rings.extend(all.into_iter().map(|ring| (ring.epoch, ring))),
                    Err(error) => lock(&self.judge).could_not_read("a list of rings", &error),
                }
            }
            let last = rings.pop_last().map(|(_, ring)| ring);
            for ring in rings.values() {
                lock(&self.judge).saw_former_ring(ring);
            }
            if let Some(ring) = last {
                self.follow(&ring);
                self.rings.send_replace(ring.clone());
                newest = ring;
            }
            if heard {
                lock(&self.judge).saw_ring(&newest, asked);
            }
            tokio::time::sleep(self.period).await;
        }
    }

    /// Watches exactly the members of this ring, each at its newest address.
    fn follow(&mut self, ring: &Ring) {
        let addresses: BTreeMap<MemberId, Address> = ring
            .members
            .iter()
            .filter_map(|(id, member)| Some((*id, member.present.as_ref()?.address.clone())))
            .collect();
        self.members.retain(|id, (address, task)| {
            let kept = addresses.get(id) == Some(address);
            if !kept {
                task.abort();
            }
            kept
        });
        for (id, address) in addresses {
            if !self.members.contains_key(&id) {
                let task = tokio::spawn(follow_member(id, address.clone(), self.period, Arc::clone(&self.judge)));
                self.members.insert(id, (address, task.abort_handle()));
            }
        }
    }
}

fn addresses_of_voters(ring: &Ring) -> Vec<Address> {
    let present = ring.members.values().filter_map(|member| member.present.as_ref());
    present.filter(|present| ring.voters.contains(&present.voter)).map(|present| present.address.clone()).collect()
}

async fn follow_member(id: MemberId, address: Address, period: Duration, judge: Arc<Mutex<Judge>>) {
    let mut http = Http::new(&address.host, address.http_port);
    loop {
        let asked = Instant::now();
        match http.get("/v1/status", PATIENCE).await {
            Ok(body) => match serde_json::from_slice::<MemberStatus>(&body) {
                Ok(status) => lock(&judge).saw_member(&status, asked, Instant::now()),
                Err(error) => lock(&judge).could_not_read("a status", &error),
            },
            Err(Missed::Absent(_)) => lock(&judge).missed_member(id, Instant::now()),
            Err(Missed::Silent(_)) => {}
        }
        tokio::time::sleep(period).await;
    }
}

/// A judge is whole even if a task died while it held the lock: each note is one step.
pub fn lock(judge: &Mutex<Judge>) -> std::sync::MutexGuard<'_, Judge> {
    judge.lock().unwrap_or_else(PoisonError::into_inner)
}
