//! The leader's rules, one claim each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

#[allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]
mod common;

use std::sync::Arc;

use common::{SHARD, after, announced, at_ms, changed, first, process, ring};
use ringmaster_replica::*;
use ringmaster_ring::*;

/// A primary may be silent for 150 ms.
fn quick() -> Settings {
    Settings { lease_ms: 400, failover_after_ms: 150, ..Settings::default() }
}

/// A leader, with all that it said.
struct Leader {
    lead: Lead,
    said: Vec<LeadOutput>,
    ring: Arc<Ring>,
}

impl Leader {
    /// Begins to lead at 1 s.
    fn of(ring: Arc<Ring>) -> Self {
        let lead = Lead::new(LeadConfig { mutations: Mutations::none() });
        let mut leader = Self { lead, said: Vec::new(), ring: ring.clone() };
        leader.give(LeadInput::Ring(ring), 1_000);
        leader.give(LeadInput::Leading, 1_000);
        leader
    }

    fn give(&mut self, input: LeadInput, ms: u64) -> Vec<LeadOutput> {
        if let LeadInput::Ring(ring) = &input {
            self.ring = ring.clone();
        }
        let mut out = Vec::new();
        self.lead.handle(input, at_ms(ms), &mut out);
        self.said.extend(out.iter().cloned());
        out
    }

    /// Asks for a lease as `holder` and confirms the quorum. Returns (granted, previous over).
    fn lease(&mut self, holder: Holder, ms: u64) -> (bool, bool) {
        let epoch = self.ring.shards[&SHARD].epoch;
        let (route, ask) = (RouteId(ms), AskId(ms));
        let out = self.give(LeadInput::LeaseAsk { route, ask, shard: SHARD, epoch, holder }, ms);
        let round =
            out.iter().find_map(|o| if let LeadOutput::ConfirmQuorum { round } = o { Some(*round) } else { None });
        let answers = self.give(LeadInput::QuorumConfirmed { round: round.unwrap() }, ms);
        let answer = answers.iter().find_map(|output| match output {
            LeadOutput::Answer { granted, prev_over, .. } => Some((*granted, *prev_over)),
            _ => None,
        });
        answer.unwrap()
    }

    /// Ticks every 10 ms; each probe finds what `finds` says. Returns when something was first proposed.
    fn run(&mut self, from_ms: u64, to_ms: u64, finds: impl Fn(MemberId) -> Probe) -> Option<(u64, Command)> {
        let mut proposed = None;
        for ms in (from_ms..to_ms).step_by(10) {
            let mut out = self.give(LeadInput::Tick, ms);
            for output in std::mem::take(&mut out) {
                match output {
                    LeadOutput::Probe { member } => {
                        out.extend(self.give(LeadInput::Probed { member, result: finds(member) }, ms));
                    }
                    other => out.push(other),
                }
            }
            let first =
                out.into_iter().find_map(|o| if let LeadOutput::Propose(command) = o { Some(command) } else { None });
            proposed = proposed.or(first.map(|command| (ms, command)));
        }
        proposed
    }
}

fn alive(holder: Holder, seq: u64) -> Probe {
    let position = Position { epoch: ShardEpoch(1), seq: Seq(seq) };
    Probe::Alive { boot: holder.boot, shard_epoch: ShardEpoch(1), position }
}

fn change_of(proposed: Option<(u64, Command)>) -> (u64, ShardChange) {
    match proposed {
        Some((ms, Command::Shard { change, .. })) => (ms, change),
        other => panic!("no change of a shard: {other:?}"),
    }
}

#[test]
fn a_lease_needs_a_confirmation_that_began_after_the_ask() {
    let mut leader = Leader::of(ring(2, quick()));
    let ask = |n: u64| LeadInput::LeaseAsk {
        route: RouteId(n),
        ask: AskId(n),
        shard: SHARD,
        epoch: ShardEpoch(1),
        holder: first(0),
    };
    let out = leader.give(ask(1), 1_000);
    let [LeadOutput::ConfirmQuorum { round }, ..] = out.as_slice() else { panic!("{out:?}") };
    let (round, out) = (*round, leader.give(ask(2), 1_001));
    assert!(!out.iter().any(|o| matches!(o, LeadOutput::ConfirmQuorum { .. })), "one confirmation at a time");
    let out = leader.give(LeadInput::QuorumConfirmed { round }, 1_002);
    let answered: Vec<_> = out.iter().filter(|o| matches!(o, LeadOutput::Answer { granted: true, .. })).collect();
    assert!(matches!(answered.as_slice(), [LeadOutput::Answer { route: RouteId(1), .. }]), "{out:?}");
    assert!(out.iter().any(|o| matches!(o, LeadOutput::ConfirmQuorum { .. })), "the other has one of its own");
}

#[test]
fn only_the_present_primary_in_its_present_process_gets_a_lease() {
    let mut leader = Leader::of(ring(2, quick()));
    assert!(leader.lease(first(0), 1_010).0);
    assert!(!leader.lease(first(1), 1_020).0, "a copy");
    assert!(!leader.lease(process(0, 2), 1_030).0, "another process of the primary");
}

#[test]
fn a_failed_confirmation_and_a_lost_leadership_grant_nothing() {
    let mut leader = Leader::of(ring(2, quick()));
    let ask =
        LeadInput::LeaseAsk { route: RouteId(1), ask: AskId(1), shard: SHARD, epoch: ShardEpoch(1), holder: first(0) };
    leader.give(ask.clone(), 1_000);
    leader.give(LeadInput::QuorumFailed { round: RoundId(1) }, 1_001);
    leader.give(ask.clone(), 1_002);
    leader.give(LeadInput::NotLeading, 1_003);
    leader.give(LeadInput::QuorumConfirmed { round: RoundId(2) }, 1_004);
    leader.give(ask, 1_005);
    let answers = leader.said.iter().filter(|o| matches!(o, LeadOutput::Answer { .. })).count();
    assert_eq!(answers, 3, "each is told");
    assert!(!leader.said.iter().any(|o| matches!(o, LeadOutput::Answer { granted: true, .. })));
}

#[test]
fn a_new_leader_renews_the_primary_and_promotes_nobody_before_one_lease() {
    let mut leader = Leader::of(ring(2, quick()));
    assert_eq!(leader.lease(first(0), 1_010), (true, false));
    assert!(leader.lead.is_waiting(at_ms(1_399)) && !leader.lead.is_waiting(at_ms(1_400)));
    let mut leader = Leader::of(ring(2, quick()));
    let finds = |member: MemberId| if member == MemberId(0) { Probe::Refused } else { alive(first(1), 3) };
    let (ms, change) = change_of(leader.run(1_000, 2_000, finds));
    assert_eq!(ms, 1_400);
    assert_eq!(change, ShardChange::Failover { to: first(1), drop_former: true });
}

#[test]
fn a_failover_waits_for_the_grant_of_the_dead_and_takes_the_most_advanced() {
    let mut leader = Leader::of(ring(3, quick()));
    assert!(leader.lease(first(0), 2_000).0);
    let finds = |member: MemberId| match member.0 {
        0 => Probe::Refused,
        n => alive(first(n), u64::from(n) * 10),
    };
    let (ms, change) = change_of(leader.run(2_010, 3_000, finds));
    assert_eq!(ms, 2_400, "at the end of the grant, and not later");
    assert_eq!(change, ShardChange::Failover { to: first(2), drop_former: true });
    assert!(!leader.lease(first(0), 2_990).0, "no lease from the proposal to its outcome");
}

#[test]
fn a_primary_that_keeps_asking_for_its_lease_stays_whatever_probes_say() {
    let mut leader = Leader::of(ring(2, quick()));
    let mut ms = 2_000;
    while ms < 4_000 {
        leader.lease(first(0), ms);
        let proposed = leader
            .run(ms + 10, ms + 50, |member| if member == MemberId(0) { Probe::Refused } else { alive(first(1), 1) });
        assert_eq!(proposed, None, "at {ms}");
        ms += 50;
    }
}

#[test]
fn a_primary_that_answers_and_yet_asks_for_no_lease_is_replaced_and_stays_a_copy() {
    let mut leader = Leader::of(ring(2, quick()));
    leader.lease(first(0), 2_000);
    let (ms, change) = change_of(leader.run(2_010, 4_000, |member| alive(first(member.0), 1)));
    assert!((2_900..3_100).contains(&ms), "{ms}");
    assert_eq!(change, ShardChange::Failover { to: first(1), drop_former: false });
}

#[test]
fn a_restarted_primary_is_replaced_as_soon_as_its_grant_is_over() {
    let before = ring(2, quick());
    let mut leader = Leader::of(before.clone());
    leader.lease(first(0), 2_000);
    leader.give(LeadInput::Ring(announced(&before, process(0, 2), 1)), 2_020);
    let finds = |member: MemberId| alive(if member == MemberId(0) { process(0, 2) } else { first(1) }, 1);
    let (ms, change) = change_of(leader.run(2_030, 3_000, finds));
    assert_eq!((ms, change), (2_400, ShardChange::Failover { to: first(1), drop_former: true }));
}

#[test]
fn a_shard_whose_only_copy_restarted_starts_empty_unless_its_owner_wants_to_wait() {
    for on_data_loss in [OnDataLoss::StartEmpty, OnDataLoss::Wait] {
        let settings = Settings { copies: 1, on_data_loss, ..quick() };
        let before = ring(1, settings);
        let mut leader = Leader::of(before.clone());
        leader.lease(first(0), 2_000);
        leader.give(LeadInput::Ring(announced(&before, process(0, 2), 1)), 2_010);
        let proposed = leader.run(2_020, 3_000, |_| alive(process(0, 2), 0));
        match on_data_loss {
            OnDataLoss::StartEmpty => {
                let (ms, change) = change_of(proposed);
                assert_eq!((ms, change), (2_400, ShardChange::StartEmpty { on: process(0, 2) }));
            }
            OnDataLoss::Wait => assert_eq!(proposed, None),
        }
    }
}

#[test]
fn an_empty_start_on_a_process_that_is_no_more_is_given_up_for_another() {
    let before = ring(1, Settings { copies: 1, ..quick() });
    let mut leader = Leader::of(before.clone());
    let second = announced(&before, process(0, 2), 1);
    leader.give(LeadInput::Ring(second.clone()), 2_000);
    assert!(leader.run(2_010, 2_500, |_| alive(process(0, 2), 0)).is_some());
    leader.give(LeadInput::Ring(announced(&second, process(0, 3), 1)), 2_500);
    let (_, change) = change_of(leader.run(2_510, 3_000, |_| alive(process(0, 3), 0)));
    assert_eq!(change, ShardChange::StartEmpty { on: process(0, 3) });
}

#[test]
fn a_handover_whose_successor_dies_goes_back_to_who_handed_over() {
    let before = ring(3, quick());
    let mut leader = Leader::of(before.clone());
    leader.lease(first(0), 2_000);
    leader.give(LeadInput::Ring(changed(&before, ShardChange::Handover { to: first(1) })), 2_010);
    let finds = |member: MemberId| match member.0 {
        1 => Probe::Refused,
        2 => alive(first(2), 99),
        n => alive(first(n), 7),
    };
    let (ms, change) = change_of(leader.run(2_020, 3_000, finds));
    assert_eq!((ms, change), (2_400, ShardChange::Failover { to: first(0), drop_former: true }));
}

#[test]
fn a_successor_hears_that_the_former_lease_is_over_when_it_is() {
    let before = ring(2, quick());
    let mut leader = Leader::of(before.clone());
    leader.lease(first(0), 2_000);
    leader.give(LeadInput::Ring(changed(&before, ShardChange::Handover { to: first(1) })), 2_010);
    assert_eq!(leader.lease(first(1), 2_399), (true, false));
    assert!(!leader.lease(first(0), 2_399).0, "the former gets nothing after the commit");
    assert_eq!(leader.lease(first(1), 2_400), (true, true));
}

#[test]
fn a_pause_of_the_leader_is_no_silence_of_the_primaries() {
    let mut leader = Leader::of(ring(2, quick()));
    leader.lease(first(0), 2_000);
    let out = leader.give(LeadInput::Tick, 5_000);
    assert!(!out.iter().any(|o| matches!(o, LeadOutput::Propose(_))), "{out:?}");
    assert_eq!(leader.run(5_010, 5_100, |member| alive(first(member.0), 1)), None);
}

#[test]
fn the_feature_level_rises_once_every_member_supports_it() {
    let mut ring = ring(2, quick());
    let mut leader = Leader::of(ring.clone());
    ring = announced(&ring, process(0, 2), 3);
    assert!(!leader.give(LeadInput::Ring(ring.clone()), 1_010).iter().any(|o| matches!(o, LeadOutput::Propose(_))));
    ring = announced(&ring, process(1, 2), 2);
    let out = leader.give(LeadInput::Ring(ring.clone()), 1_020);
    let raise = Command::RaiseFeatureLevel { to: FeatureLevel(2) };
    assert!(out.iter().any(|o| matches!(o, LeadOutput::Propose(command) if *command == raise)), "{out:?}");
    let ring = after(&ring, &raise);
    assert_eq!(ring.feature_level, FeatureLevel(2));
}
