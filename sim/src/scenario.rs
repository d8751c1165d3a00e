//! What happens in a run: its members, its clocks, and a list of faults with their times, all drawn from the seed.

use rand::Rng;
use rand::rngs::StdRng;

/// How a run goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Planned work alone: replacements and handovers, under clients. Nobody may notice.
    Planned,
    /// One fault at a time, each over before the next.
    Showers,
    /// Everything at once.
    Storm,
}

/// Which member something happens to, as it is when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Primary {
        shard: u16,
    },
    Copy {
        shard: u16,
    },
    RingLeader,
    /// The n-th of all members, modulo their number.
    Any(u32),
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// kill -9; the process comes back on its disk, or its pod is deleted by force and there is another one.
    Kill { target: Target, back_after_ms: u64, loses_disk: bool },
    /// The machine stops answering, and comes back, or never: then its pod is known to be gone after a while.
    PowerOff { target: Target, back_after_ms: u64, loses_disk: bool },
    /// SIGSTOP, then SIGCONT.
    Stop { target: Target, for_ms: u64 },
    /// No other member hears this one, nor does it hear them; clients may reach it or not.
    Isolate { target: Target, for_ms: u64, from_clients_too: bool },
    /// What one member sends does not reach another.
    CutOneWay { from: Target, to: Target, for_ms: u64 },
    /// What one member sends reaches another late.
    Delay { from: Target, to: Target, ms: u64, for_ms: u64 },
    /// The member's node is cordoned.
    Cordon { target: Target },
    /// The node that was cordoned first takes pods again.
    Uncordon,
    /// `kubectl delete pod`, within its grace period.
    DeletePod { target: Target },
    /// The specification names another image, perhaps one that it named before.
    Roll { image: u32 },
    /// Somebody asks the primary to hand over to a copy.
    Handover { shard: u16 },
}

/// One run's course.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub weather: Weather,
    pub shards: u16,
    pub copies: u16,
    pub clients: u32,
    pub nodes: u16,
    /// How many replacements of a roll may be under way.
    pub surge: u16,
    /// When what happens, in ms after the ring serves.
    pub faults: Vec<(u64, Fault)>,
    /// When the weather clears.
    pub lasts_ms: u64,
    pub log_bytes_max: usize,
    pub slow_syncs_per_mille: u32,
    pub slow_packets_per_mille: u32,
}

impl Scenario {
    /// Draws a scenario.
    #[must_use]
    pub fn draw(random: &mut StdRng) -> Self {
        let weather = match random.gen_range(0..10) {
            0..3 => Weather::Planned,
            3..6 => Weather::Showers,
            _ => Weather::Storm,
        };
        let (shards, copies) = match random.gen_range(0..6) {
            0 | 1 => (1, 2),
            2 | 3 => (1, 3),
            4 => (2, 2),
            _ => (2, 3),
        };
        let lasts_ms = random.gen_range(5_000..9_000);
        let mut faults = Vec::new();
        let mut at_ms = random.gen_range(100..800);
        while at_ms < lasts_ms {
            let fault = draw_fault(random, weather, shards);
            let pause_ms = match weather {
                Weather::Planned => random.gen_range(200..1_500),
                Weather::Showers => fault.lasts_ms() + random.gen_range(1_200..2_500),
                Weather::Storm => random.gen_range(20..900),
            };
            faults.push((at_ms, fault));
            at_ms += pause_ms;
        }
        Self {
            weather,
            shards,
            copies,
            clients: random.gen_range(3..=6),
            nodes: shards * copies + random.gen_range(3..6),
            surge: random.gen_range(1..=2),
            faults,
            lasts_ms,
            log_bytes_max: if random.gen_bool(0.3) { 2 << 10 } else { 1 << 20 },
            slow_syncs_per_mille: if weather == Weather::Planned { 2 } else { random.gen_range(0..30) },
            slow_packets_per_mille: if weather == Weather::Planned { 2 } else { random.gen_range(0..30) },
        }
    }
}

impl Fault {
    fn lasts_ms(&self) -> u64 {
        match *self {
            Self::Kill { back_after_ms, .. } | Self::PowerOff { back_after_ms, .. } => back_after_ms,
            Self::Stop { for_ms, .. }
            | Self::Isolate { for_ms, .. }
            | Self::CutOneWay { for_ms, .. }
            | Self::Delay { for_ms, .. } => for_ms,
            Self::Cordon { .. }
            | Self::Uncordon
            | Self::DeletePod { .. }
            | Self::Roll { .. }
            | Self::Handover { .. } => 0,
        }
    }
}

fn draw_fault(random: &mut StdRng, weather: Weather, shards: u16) -> Fault {
    let target = draw_target(random, shards);
    if weather == Weather::Planned {
        return draw_work(random, target, shards);
    }
    let for_ms = draw_duration(random);
    match random.gen_range(0..100) {
        0..22 => Fault::Kill { target, back_after_ms: for_ms, loses_disk: random.gen_bool(0.3) },
        22..33 => Fault::PowerOff { target, back_after_ms: for_ms, loses_disk: random.gen_bool(0.4) },
        33..48 => Fault::Stop { target, for_ms },
        48..62 => Fault::Isolate { target, for_ms, from_clients_too: random.gen_bool(0.5) },
        62..72 => Fault::CutOneWay { from: target, to: draw_target(random, shards), for_ms },
        72..78 => Fault::Delay { from: target, to: draw_target(random, shards), ms: random.gen_range(5..200), for_ms },
        _ => draw_work(random, target, shards),
    }
}

/// What people do to a cluster that is well.
fn draw_work(random: &mut StdRng, target: Target, shards: u16) -> Fault {
    match random.gen_range(0..20) {
        0..6 => Fault::Cordon { target },
        6..8 => Fault::Uncordon,
        8..12 => Fault::DeletePod { target },
        12..14 => Fault::Roll { image: random.gen_range(1..4) },
        _ => Fault::Handover { shard: random.gen_range(0..shards) },
    }
}

fn draw_target(random: &mut StdRng, shards: u16) -> Target {
    match random.gen_range(0..10) {
        0..4 => Target::Primary { shard: random.gen_range(0..shards) },
        4..6 => Target::Copy { shard: random.gen_range(0..shards) },
        6..8 => Target::RingLeader,
        _ => Target::Any(random.gen_range(0..100)),
    }
}

/// Moments, around the lease and the elections, and long.
fn draw_duration(random: &mut StdRng) -> u64 {
    match random.gen_range(0..3) {
        0 => random.gen_range(1..100),
        1 => random.gen_range(100..700),
        _ => random.gen_range(700..2_500),
    }
}
