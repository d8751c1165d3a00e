//! Random schedules: planned work, in which nothing may go wrong, and faults of every kind.

use ringmaster_replica::*;
use ringmaster_ring::*;

use crate::world::{MS, Network, Setup, World};

const SLICE_MS: u64 = 20;
const SLICES: u64 = 150;
/// Far more than any run needs.
const COMMITS_MAX: usize = 400;

/// One run with everything that may go wrong: crashes with and without disk, cuts, delays, losses, pauses, drift.
fn faulty(seed: u64, mutations: Mutations) -> World {
    let mut choice = crate::rng::Rng::new(seed ^ 0xFA);
    let setup = Setup {
        data: choice.between(1, 4) as usize,
        copies: choice.between(1, 3) as u16,
        witnesses: 2,
        mutations,
        drift_ppm: 20_000,
        failover_after_ms: if choice.per_mille(700) { 150 } else { 500 },
        seed,
    };
    let mut world = World::new(&setup);
    for index in 0..world.nodes.len() {
        let rate = world.rng.between(0, 18_000) as i64 - 9_000;
        world.set_clock_rate_ppm(index, rate);
    }
    world.network = Network {
        delay_us: (100, choice.between(500, 5_000)),
        slow_per_mille: choice.between(0, 40),
        slow_ms: (5, choice.between(20, 700)),
        lost_per_mille: choice.between(0, 30),
    };
    let (rough, crashes) = (choice.between(2, 25), choice.between(0, 15));
    for _ in 0..SLICES {
        if world.violation.is_some() {
            return world;
        }
        fault(&mut world, rough, crashes);
        operate(&mut world, 30);
        clients(&mut world);
        world.run_ms(SLICE_MS);
    }
    world
}

fn fault(world: &mut World, rough: u64, crashes: u64) {
    let count = world.nodes.len() as u64;
    let victim = world.rng.below(count) as usize;
    if world.rng.per_mille(crashes) {
        let (disk, back_ms) = (world.rng.per_mille(300), world.rng.between(1, 900));
        if world.nodes[victim].alive {
            world.crash(victim, disk, Some(back_ms * MS));
        }
    }
    if world.rng.per_mille(crashes / 3) && world.nodes[victim].alive {
        let back_ms = world.rng.between(1, 3_000);
        world.power_off(victim, back_ms * MS);
    }
    if world.rng.per_mille(rough) {
        world.isolate(victim);
    }
    if world.rng.per_mille(rough) {
        let other = world.rng.below(count) as usize;
        world.cut.insert((victim, other));
    }
    if world.rng.per_mille(60) {
        world.heal();
        world.gossip();
    }
    if world.rng.per_mille(rough) {
        let ms = world.rng.between(20, 900);
        world.nodes[victim].paused_until = world.now + ms * MS;
    }
    if world.rng.per_mille(rough) {
        world.no_leader();
    }
    if world.leader.is_none() && world.rng.per_mille(250) && world.nodes[victim].alive {
        world.set_leader(victim);
    }
    if world.rng.per_mille(20) {
        let keep = world.rng.below(5);
        world.trim(victim, keep);
    }
}

/// What an operator does: handovers, spares, retirements.
fn operate(world: &mut World, per_mille: u64) {
    let shard = world.shard().clone();
    if world.rng.per_mille(per_mille) {
        let candidates: Vec<Holder> =
            shard.in_sync.iter().map(|(member, boot)| Holder { member: *member, boot: *boot }).collect();
        if let Some(to) = world.rng.pick(&candidates) {
            world.change(ShardChange::Handover { to });
        }
    }
    let copies = usize::from(world.ring().settings.copies);
    let active = world.ring().members_of(ShardId(0)).count();
    if active < copies + 1 && world.nodes.len() < 9 && world.rng.per_mille(per_mille) {
        world.reserve();
    }
    if shard.in_sync.len() > copies && world.rng.per_mille(per_mille) {
        let candidates: Vec<MemberId> = shard.in_sync.keys().copied().collect();
        if let Some(member) = world.rng.pick(&candidates) {
            world.retire(member.0 as usize);
        }
    }
}

fn clients(world: &mut World) {
    for _ in 0..world.rng.below(4) {
        let at = world.rng.below(world.nodes.len() as u64) as usize;
        let at = world.serving().first().copied().filter(|_| world.rng.per_mille(900)).unwrap_or(at);
        if world.rng.per_mille(500) {
            world.write(at);
        } else {
            let looked_at = Mono(world.clock(at).0 - world.rng.below(2) * world.rng.below(MS));
            let access = if world.rng.per_mille(500) { Access::Read } else { Access::CopyRead };
            world.read(at, access, looked_at);
        }
    }
}

/// Without further faults the shard serves again, and the copies that are there come back into the set.
fn recovers(world: &mut World) -> Result<(), String> {
    world.heal();
    world.network = Network::calm();
    for index in 0..world.nodes.len() {
        world.nodes[index].paused_until = 0;
        if !world.nodes[index].alive {
            world.crash(index, true, Some(MS));
        }
    }
    if world.leader.is_none() {
        world.run_ms(50);
        world.set_leader(0);
    }
    for _ in 0..150 {
        world.gossip();
        world.run_ms(100);
        if let Some(violation) = &world.violation {
            return Err(violation.clone());
        }
        let serving = world.serving();
        let active: Vec<MemberId> = world.ring().members_of(ShardId(0)).map(|(id, _)| id).collect();
        let in_sync = active.iter().all(|id| world.shard().holds(world.holder(id.0 as usize)));
        if let ([primary], true) = (serving.as_slice(), in_sync) {
            let before = world.ledger.acknowledged;
            let written = world.write(*primary).is_some();
            world.run_ms(100);
            if written && world.ledger.acknowledged > before && world.unanswered() == 0 {
                return Ok(());
            }
        }
    }
    let state: Vec<_> = world.nodes.iter().map(|n| (n.alive, n.replica.gate_state(), n.replica.sync_state())).collect();
    Err(format!("does not recover: {:?} {state:?} unanswered {}", world.shard(), world.unanswered()))
}

/// One run of planned work alone.
fn planned(seed: u64) -> World {
    let mut choice = crate::rng::Rng::new(seed ^ 0x91);
    let copies = choice.between(1, 3);
    let setup = Setup {
        data: copies as usize,
        copies: copies as u16,
        witnesses: 2,
        mutations: Mutations::none(),
        drift_ppm: 20_000,
        failover_after_ms: if choice.per_mille(700) { 150 } else { 500 },
        seed,
    };
    let mut world = World::new(&setup);
    world.network =
        Network { delay_us: (100, choice.between(200, 8_000)), slow_per_mille: 0, slow_ms: (0, 0), lost_per_mille: 0 };
    world.run_ms(300);
    world.planned = true;
    for _ in 0..SLICES {
        if world.violation.is_some() {
            return world;
        }
        operate(&mut world, 120);
        if world.rng.per_mille(10) {
            let leader = world.rng.below(world.nodes.len() as u64) as usize;
            world.set_leader(leader);
        }
        clients(&mut world);
        world.run_ms(SLICE_MS);
    }
    world
}

fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match (number("RINGMASTER_SEED"), number("RINGMASTER_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, seeds) => 0..seeds.unwrap_or(default),
    }
}

fn report(world: &World) {
    for line in world.trace.iter().flatten() {
        println!("{line}");
    }
}

fn judge(seed: u64, world: &mut World, test: &str) {
    let outcome = match world.violation.clone() {
        Some(violation) => Err(violation),
        None => recovers(world),
    };
    if let Err(what) = outcome {
        report(world);
        panic!(
            "seed {seed}: {what}\nreplay: RINGMASTER_SEED={seed} cargo test -p ringmaster-replica --test protocol {test}"
        );
    }
}

#[test]
fn no_fault_loses_a_write_or_makes_two_primaries_and_every_shard_recovers() {
    let (mut acknowledged, mut reads, mut epochs, mut steps, mut losses) = (0, 0, 0, 0, 0);
    let mut commits = 0;
    for seed in seeds(400) {
        let mut world = faulty(seed, Mutations::none());
        judge(seed, &mut world, "no_fault");
        acknowledged += world.ledger.acknowledged;
        reads += world.ledger.reads;
        epochs += world.shard().epoch.0;
        // Members that are added and removed in turn without end would show here.
        commits = commits.max(world.rings.len());
        steps += world.steps;
        losses += world.losses;
    }
    println!("{steps} steps, {acknowledged} writes, {reads} reads, {epochs} epochs, {losses} whole losses");
    println!("at most {commits} commits in a run");
    assert!(commits < COMMITS_MAX, "{commits} commits in one run of a few seconds");
    assert!(acknowledged > 0 && reads > 0, "a run in which nobody is served shows nothing");
}

#[test]
fn planned_work_keeps_every_copy_and_answers_every_write() {
    let (mut acknowledged, mut handovers) = (0, 0);
    for seed in seeds(200) {
        let mut world = planned(seed);
        judge(seed, &mut world, "planned_work");
        assert_eq!(world.ledger.closed, 0, "seed {seed}");
        acknowledged += world.ledger.acknowledged;
        handovers += world.shard().epoch.0 - 1;
    }
    println!("{acknowledged} writes, {handovers} handovers");
    assert!(acknowledged > 0 && (handovers > 0 || seeds(2).end != 200));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..20 {
        let (a, b) = (faulty(seed, Mutations::none()), faulty(seed, Mutations::none()));
        assert_eq!((a.hash, a.steps), (b.hash, b.steps), "seed {seed}");
    }
}
