//! The judgement on what was sampled. In: rings and statuses with the time at which they were asked for and came. Out: by
//! phase, the fewest copies, and every instant at which two members were surely primary of one shard.

use std::collections::BTreeMap;
use std::time::Duration;

use ringmaster_ring::{BootId, MemberId, MemberStatus, Ring, Role, ShardEpoch, ShardId};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Single findings that are printed and kept; all are counted.
const FINDINGS_MAX: usize = 200;

/// What was seen, and what is wrong with it.
#[derive(Debug)]
pub struct Judge {
    phases: Vec<PhaseSummary>,
    ring_epoch: u64,
    absent: BTreeMap<MemberId, Instant>,
    /// The processes of each member that answered, in their order.
    boots: BTreeMap<MemberId, Vec<BootId>>,
    primaries: Vec<Reign>,
    findings: Vec<String>,
}

/// A member that was primary without a break between two samples: from the first answer to the last question.
#[derive(Debug)]
struct Reign {
    shard: ShardId,
    member: MemberId,
    boot: BootId,
    epoch: ShardEpoch,
    from: Instant,
    until: Instant,
    going_on: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseSummary {
    pub name: String,
    /// Rings looked at, and how many ring epochs came between them unseen.
    pub rings: u64,
    pub epochs_unseen: u64,
    pub statuses: u64,
    /// Answers that are no status or no ring: nothing was learned from them.
    pub unread: u64,
    /// The fewest in-sync copies of any shard, by the ring; of those, the fewest whose process was there.
    pub fewest_in_sync: Option<usize>,
    pub fewest_present: Option<usize>,
    /// Rings in which a shard had fewer than the ring's settings want.
    pub short: u64,
    pub two_primaries: u64,
    /// Writes of the sampler's own that were acknowledged, and the longest from one to the next in one shard.
    pub pulses: u64,
    pub longest_pulse_ms: f64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    pub phases: Vec<PhaseSummary>,
    pub findings: Vec<String>,
}

impl Default for Judge {
    fn default() -> Self {
        Self::new()
    }
}

impl Judge {
    #[must_use]
    pub fn new() -> Self {
        let first = PhaseSummary { name: "all".to_owned(), ..PhaseSummary::default() };
        Self {
            phases: vec![first],
            ring_epoch: 0,
            absent: BTreeMap::new(),
            boots: BTreeMap::new(),
            primaries: Vec::new(),
            findings: Vec::new(),
        }
    }

    pub fn begin_phase(&mut self, name: &str) {
        self.phases.push(PhaseSummary { name: name.to_owned(), ..PhaseSummary::default() });
    }

    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary { phases: self.phases.clone(), findings: self.findings.clone() }
    }

    /// A ring that was the newest for a while, and is not any more. Who was there then is not known.
    pub fn saw_former_ring(&mut self, ring: &Ring) {
        self.note_ring(ring, |_, _| true);
    }

    /// The newest ring, and when it was asked for.
    pub fn saw_ring(&mut self, ring: &Ring, asked: Instant) {
        let gone: Vec<(MemberId, BootId)> = (ring.shards.values())
            .flat_map(|shard| shard.in_sync.iter().map(|(id, boot)| (*id, *boot)))
            .filter(|(id, boot)| self.was_gone(*id, *boot, asked))
            .collect();
        self.note_ring(ring, |id, boot| !gone.contains(&(id, boot)));
    }

    fn note_ring(&mut self, ring: &Ring, is_there: impl Fn(MemberId, BootId) -> bool) {
        let wanted = usize::from(ring.settings.copies);
        let mut fewest_in_sync = usize::MAX;
        let mut fewest_present = usize::MAX;
        let mut short = Vec::new();
        for (shard, state) in &ring.shards {
            let in_sync = state.in_sync.len();
            let present = state.in_sync.iter().filter(|(id, boot)| is_there(**id, **boot)).count();
            fewest_in_sync = fewest_in_sync.min(in_sync);
            fewest_present = fewest_present.min(present);
            if present < wanted {
                let set: Vec<String> = state.in_sync.keys().map(ToString::to_string).collect();
                short.push(format!(
                    "shard {shard} has {in_sync} copies in sync ({}) and {present} of them there, {wanted} are wanted (ring epoch {})",
                    set.join(", "),
                    ring.epoch
                ));
            }
        }
        let unseen = ring.epoch.0.saturating_sub(self.ring_epoch).saturating_sub(1);
        let is_first = self.ring_epoch == 0;
        self.ring_epoch = ring.epoch.0;
        self.count(|phase| {
            phase.rings += 1;
            phase.epochs_unseen += if is_first { 0 } else { unseen };
            phase.fewest_in_sync = Some(phase.fewest_in_sync.unwrap_or(usize::MAX).min(fewest_in_sync));
            phase.fewest_present = Some(phase.fewest_present.unwrap_or(usize::MAX).min(fewest_present));
            phase.short += u64::from(!short.is_empty());
        });
        for finding in short {
            self.find(finding);
        }
    }

    /// A member's own word, when it was asked for and when it came.
    pub fn saw_member(&mut self, status: &MemberStatus, asked: Instant, came: Instant) {
        self.absent.remove(&status.member);
        let boots = self.boots.entry(status.member).or_default();
        if boots.last() != Some(&status.presence.boot) {
            boots.push(status.presence.boot);
        }
        self.count(|phase| phase.statuses += 1);
        let Some(shard) = status.shard else { return };
        let boot = status.presence.boot;
        let epoch = status.position.epoch;
        let reigning = self.primaries.iter_mut().find(|reign| reign.member == status.member && reign.going_on);
        match reigning {
            Some(reign) if status.role == Role::Primary && reign.boot == boot && reign.epoch == epoch => {
                reign.until = reign.until.max(asked);
            }
            other => {
                if let Some(reign) = other {
                    reign.going_on = false;
                }
                if status.role == Role::Primary {
                    let member = status.member;
                    self.primaries.push(Reign { shard, member, boot, epoch, from: came, until: came, going_on: true });
                }
            }
        }
        self.seek_two_primaries(shard);
    }

    /// An answer that cannot be read.
    pub fn could_not_read(&mut self, what: &str, error: &serde_json::Error) {
        self.count(|phase| phase.unread += 1);
        self.find(format!("{what} cannot be read: {error}"));
    }

    /// A write to a shard was acknowledged so long after the one before.
    pub fn felt_pulse(&mut self, since_last: Duration) {
        self.count(|phase| {
            phase.pulses += 1;
            phase.longest_pulse_ms = phase.longest_pulse_ms.max(since_last.as_secs_f64() * 1_000.0);
        });
    }

    /// Nothing listens at a member's address any more.
    pub fn missed_member(&mut self, member: MemberId, now: Instant) {
        self.absent.entry(member).or_insert(now);
    }

    /// Whether this process was known to be gone before `asked`. One that never answered is not known to be gone.
    fn was_gone(&self, member: MemberId, boot: BootId, asked: Instant) -> bool {
        let Some(boots) = self.boots.get(&member) else { return false };
        let absent = self.absent.get(&member).is_some_and(|since| *since < asked);
        match boots.iter().rposition(|seen| *seen == boot) {
            // Another process answers in its place, or nobody does.
            Some(at) => at.saturating_add(1) < boots.len() || absent,
            None => false,
        }
    }

    fn seek_two_primaries(&mut self, shard: ShardId) {
        let reigns: Vec<&Reign> = self.primaries.iter().filter(|reign| reign.shard == shard).collect();
        let Some(newest) = reigns.iter().max_by_key(|reign| reign.until) else { return };
        let both = reigns
            .iter()
            .find(|other| other.member != newest.member && other.from.max(newest.from) < other.until.min(newest.until));
        let found = both.map(|other| {
            format!(
                "shard {shard}: {} (epoch {}) and {} (epoch {}) were both primary for {} ms",
                other.member,
                other.epoch,
                newest.member,
                newest.epoch,
                (other.until.min(newest.until) - other.from.max(newest.from)).as_millis()
            )
        });
        if let Some(found) = found {
            self.count(|phase| phase.two_primaries += 1);
            self.find(found);
        }
        // What ended long ago overlaps nothing that comes.
        self.primaries.retain(|reign| reign.going_on || reign.until.elapsed().as_secs() < 30);
    }

    fn count(&mut self, change: impl Fn(&mut PhaseSummary)) {
        if let Some(phase) = self.phases.last_mut() {
            change(phase);
        }
    }

    fn find(&mut self, finding: String) {
        if self.findings.len() < FINDINGS_MAX {
            println!("{}", serde_json::json!({ "kind": "finding", "text": finding }));
            self.findings.push(finding);
        }
    }
}

#[cfg(test)]
mod tests {
    use ringmaster_ring::{
        Address, BootId, ClusterUuid, FeatureLevel, Formation, FoundingMember, Generation, Placement, Position,
        Presence, RingEpoch, Seq, Settings, SlotRange, VoterId,
    };

    use super::*;

    fn status(member: u32, role: Role, epoch: u64) -> MemberStatus {
        MemberStatus {
            cluster: ClusterUuid(1),
            generation: Generation(1),
            member: MemberId(member),
            shard: Some(ShardId(0)),
            presence: Presence {
                boot: BootId(member.into()),
                voter: VoterId(member.into()),
                address: Address { host: "h".into(), client_port: 1, peer_port: 2, http_port: 3 },
                feature_level: FeatureLevel(1),
            },
            ring_epoch: Some(RingEpoch(1)),
            ring_leader: None,
            role,
            in_sync: true,
            position: Position { epoch: ShardEpoch(epoch), seq: Seq(0) },
            lag_records: 0,
            sync: None,
            copies: Vec::new(),
            keys: 0,
            used_bytes: 0,
            clients: 0,
            last_client_use_ms: None,
            terminating: false,
        }
    }

    #[test]
    fn two_primaries_at_one_instant_are_found() {
        let mut judge = Judge::new();
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        judge.saw_member(&status(1, Role::Primary, 1), at(0), at(1));
        judge.saw_member(&status(2, Role::Primary, 2), at(10), at(11));
        judge.saw_member(&status(1, Role::Primary, 1), at(50), at(51));
        judge.saw_member(&status(2, Role::Primary, 2), at(60), at(61));
        assert!(judge.summary().phases.iter().map(|phase| phase.two_primaries).sum::<u64>() > 0);
    }

    fn ring(epoch: u64, in_sync: &[u32]) -> Ring {
        let founder = |member: u32| FoundingMember {
            shard: Some(ShardId(0)),
            template: String::new(),
            placement: Placement::default(),
            presence: status(member, Role::Copy, 1).presence,
        };
        let formation = Formation {
            cluster: ClusterUuid(1),
            generation: Generation(1),
            settings: Settings { copies: 2, ..Settings::default() },
            members: in_sync.iter().map(|member| (MemberId(*member), founder(*member))).collect(),
            shards: BTreeMap::from([(ShardId(0), SlotRange::split(1))]),
            next_serial: MemberId(9),
        };
        Ring { epoch: RingEpoch(epoch), ..Ring::form(&formation).unwrap() }
    }

    fn fewest(judge: &Judge) -> (Option<usize>, Option<usize>) {
        let summary = judge.summary();
        (summary.phases[0].fewest_in_sync, summary.phases[0].fewest_present)
    }

    #[test]
    fn a_ring_with_a_copy_too_few_is_a_finding_however_short_it_lasted() {
        let mut judge = Judge::new();
        judge.saw_ring(&ring(1, &[1, 2]), Instant::now());
        assert!(judge.summary().findings.is_empty());
        judge.saw_former_ring(&ring(2, &[1]));
        judge.saw_ring(&ring(3, &[1, 2]), Instant::now());
        assert_eq!(fewest(&judge), (Some(1), Some(1)));
        assert_eq!((judge.summary().findings.len(), judge.summary().phases[0].epochs_unseen), (1, 0));
        judge.saw_ring(&ring(6, &[1, 2]), Instant::now());
        assert_eq!(judge.summary().phases[0].epochs_unseen, 2);
    }

    #[test]
    fn a_copy_whose_process_is_not_there_does_not_count() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let both_seen = || {
            let mut judge = Judge::new();
            judge.saw_member(&status(1, Role::Primary, 1), at(0), at(1));
            judge.saw_member(&status(2, Role::Copy, 1), at(0), at(1));
            judge.saw_ring(&ring(1, &[1, 2]), at(10));
            assert_eq!(fewest(&judge), (Some(2), Some(2)));
            judge
        };
        let mut judge = both_seen();
        judge.missed_member(MemberId(2), at(20));
        judge.saw_ring(&ring(1, &[1, 2]), at(30));
        assert_eq!(fewest(&judge), (Some(2), Some(1)), "nothing listens at its address");
        let mut judge = both_seen();
        let mut restarted = status(2, Role::Idle, 1);
        restarted.presence.boot = BootId(77);
        judge.saw_member(&restarted, at(20), at(21));
        judge.saw_ring(&ring(1, &[1, 2]), at(30));
        assert_eq!(fewest(&judge), (Some(2), Some(1)), "another process answers in its place");
    }

    #[test]
    fn a_handover_between_two_samples_is_no_finding() {
        let mut judge = Judge::new();
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        judge.saw_member(&status(1, Role::Primary, 1), at(0), at(1));
        judge.saw_member(&status(1, Role::Primary, 1), at(50), at(51));
        judge.saw_member(&status(2, Role::Primary, 2), at(52), at(53));
        judge.saw_member(&status(1, Role::Copy, 2), at(100), at(101));
        judge.saw_member(&status(2, Role::Primary, 2), at(102), at(103));
        assert_eq!(judge.summary().phases.iter().map(|phase| phase.two_primaries).sum::<u64>(), 0);
    }
}
