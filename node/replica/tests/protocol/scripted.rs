//! Each rule of the protocol's table, dropped: the shortest failure that it keeps away is found, and with the rule the
//! same schedule does no harm. Members 0, 1 (and 2) hold the shard, 0 serves it, and a witness leads the ring.

use ringmaster_replica::*;
use ringmaster_ring::*;

use crate::world::{Envelope, Fate, Frame, MS, Packet, Setup, World};

/// One schedule.
struct Script {
    rule: Rule,
    data: usize,
    /// What goes wrong without the rule.
    fails_by: &'static str,
    run: fn(&mut World),
}

const SCRIPTS: &[Script] = &[
    Script { rule: Rule::FailoverWaitsForGrants, data: 2, fails_by: "two primaries", run: primary_is_cut_off },
    Script { rule: Rule::LeaseRunsFromAsk, data: 2, fails_by: "two primaries", run: answer_comes_late },
    Script { rule: Rule::LeaseAllowsForDrift, data: 2, fails_by: "two primaries", run: clock_of_primary_is_slow },
    Script { rule: Rule::NoGrantsDuringFailover, data: 2, fails_by: "two primaries", run: primary_back_in_failover },
    Script {
        rule: Rule::NewLeaderWaits,
        data: 2,
        fails_by: "two primaries",
        run: leader_changes_and_primary_is_cut_off,
    },
    Script { rule: Rule::QuorumAfterAsk, data: 2, fails_by: "two primaries", run: deposed_leader_is_asked },
    Script { rule: Rule::RemovalSeenCommitted, data: 2, fails_by: "lost write", run: removal_never_arrives },
    Script { rule: Rule::AdditionNeedsUnion, data: 2, fails_by: "lost write", run: addition_commits_after_a_write },
    Script { rule: Rule::AdditionHasNoTimeout, data: 2, fails_by: "lost write", run: addition_commits_after_a_write },
    Script { rule: Rule::AdditionNeedsMark, data: 2, fails_by: "lost write", run: spare_lags_behind },
    Script { rule: Rule::AdditionNamesBoot, data: 2, fails_by: "lost write", run: spare_restarts_before_its_addition },
    Script { rule: Rule::RolesNameBoot, data: 2, fails_by: "lost write", run: primary_restarts_at_once },
    Script { rule: Rule::AcksNameBoot, data: 2, fails_by: "lost write", run: spare_restarts_after_its_acknowledgement },
    Script { rule: Rule::ChangesAreConditional, data: 2, fails_by: "lost write", run: removal_overtakes_addition },
    Script { rule: Rule::NoDiscardInSet, data: 3, fails_by: "lost write", run: longer_tail_of_former_primary },
    Script { rule: Rule::UnfreezeByCommit, data: 2, fails_by: "two primaries", run: release_comes_late },
    Script { rule: Rule::SuccessorWaits, data: 2, fails_by: "two primaries", run: former_learns_late },
    Script { rule: Rule::OneHandoverAtATime, data: 3, fails_by: "two primaries", run: handovers_in_a_row },
    Script { rule: Rule::PreviousOverMeansAllGrants, data: 2, fails_by: "two primaries", run: former_is_cut_off },
    Script { rule: Rule::ReleaseNeedsTail, data: 2, fails_by: "planned work left 1", run: release_before_the_tail },
    Script { rule: Rule::FormerAnswersByMark, data: 3, fails_by: "lost write", run: successor_dies_after_the_handover },
    Script { rule: Rule::ReadsAreGated, data: 2, fails_by: "lost write", run: read_shows_an_uncommitted_write },
    Script { rule: Rule::LeaseAtFlush, data: 2, fails_by: "stale read", run: thread_sleeps_before_its_reply },
    Script { rule: Rule::RetireCounts, data: 2, fails_by: "planned work left 1", run: one_of_two_is_retired },
    Script { rule: Rule::TailMatchesByEpoch, data: 2, fails_by: "lost write", run: tails_of_equal_length },
];

#[test]
fn each_dropped_rule_fails_and_no_schedule_fails_with_all_rules() {
    for rule in Rule::ALL {
        let script = SCRIPTS.iter().find(|script| script.rule == rule);
        let script = script.unwrap_or_else(|| panic!("{rule:?} has no schedule"));
        let with = play(script, Mutations::none());
        assert_eq!(with.violation, None, "{rule:?} holds, and yet:\n{}", told(&with));
        let without = play(script, Mutations::only(rule));
        let failure = without.violation.clone().unwrap_or_default();
        assert!(failure.starts_with(script.fails_by), "without {rule:?}: {failure:?}\n{}", told(&without));
    }
}

/// A voter that was deposed and elected again before it heard of either still acts on what it knew.
#[test]
fn a_decision_of_an_earlier_leadership_changes_nothing_in_a_later_one() {
    let setup = Setup {
        data: 2,
        copies: 2,
        witnesses: 2,
        mutations: Mutations::none(),
        drift_ppm: 1_000,
        failover_after_ms: 150,
        seed: 1,
    };
    let mut world = World::new(&setup);
    world.run_ms(500);
    // 3 leads and loses sight of 0; then 2 leads, unknown to 3, and gives 0 its leases.
    world.cut.extend([(0, 3), (3, 0)]);
    world.deposed_hears = false;
    world.set_leader(2);
    world.run_ms(600);
    assert_eq!(world.serving(), [0]);
    // 3 leads again, and hears of it only later.
    world.leading_heard_after = 300 * MS;
    world.set_leader(3);
    for _ in 0..1_500 {
        world.run_ms(1);
        assert_eq!(world.violation, None, "{}", told(&world));
        let epoch = world.shard().epoch;
        assert!(world.serving() != [0] || epoch == ShardEpoch(1), "promoted while the primary had its lease");
    }
    assert_eq!(world.serving(), [1], "the new leadership fails over by itself: {}", told(&world));
}

fn play(script: &Script, mutations: Mutations) -> World {
    let drift_ppm = 200_000;
    let setup =
        Setup { data: script.data, copies: 2, witnesses: 2, mutations, drift_ppm, failover_after_ms: 150, seed: 1 };
    let mut world = World::new(&setup);
    world.run_ms(500);
    assert_eq!(world.serving(), [0], "at the start of {:?}: {}", script.rule, told(&world));
    (script.run)(&mut world);
    world
}

fn told(world: &World) -> String {
    world.trace.iter().flatten().map(|line| format!("{line}\n")).collect()
}

// --- what filters name ---

fn frames(from: usize, to: usize) -> impl Fn(&Envelope) -> bool + 'static {
    move |e| e.from == from && e.to == to && matches!(e.packet, Packet::Stream { .. })
}

fn records(from: usize, to: usize) -> impl Fn(&Envelope) -> bool + 'static {
    move |e| e.from == from && e.to == to && matches!(e.packet, Packet::Stream { what: Frame::Records { .. }, .. })
}

fn learn(to: usize) -> impl Fn(&Envelope) -> bool + 'static {
    move |e| e.to == to && matches!(e.packet, Packet::Learn { .. })
}

fn probe(to: usize) -> impl Fn(&Envelope) -> bool + 'static {
    move |e| e.to == to && matches!(e.packet, Packet::Probe)
}

fn addition(e: &Envelope) -> bool {
    matches!(&e.packet, Packet::Propose { command: Command::Shard { change: ShardChange::Add(_), .. }, .. })
}

fn removal(e: &Envelope) -> bool {
    matches!(&e.packet, Packet::Propose { command: Command::Shard { change: ShardChange::Remove(_), .. }, .. })
}

fn run_until_serves(world: &mut World, index: usize) {
    for _ in 0..3_000 {
        if world.serving().contains(&index) || world.violation.is_some() {
            return;
        }
        world.run_ms(1);
    }
}

fn hand_over_to(world: &mut World, index: usize) {
    let to = world.holder(index);
    world.change(ShardChange::Handover { to });
}

/// Crashes the primary for good and keeps the leader from finding `hidden`, so that the other in-sync copy is promoted.
fn promote_other_than(world: &mut World, primary: usize, hidden: usize) {
    world.crash(primary, false, None);
    world.filter(Fate::Lose, probe(hidden));
    world.run_ms(2_000);
}

// --- the schedules ---

fn primary_is_cut_off(world: &mut World) {
    world.isolate(0);
    world.run_ms(1_000);
}

fn answer_comes_late(world: &mut World) {
    world.filter(Fate::Hold, |e| e.to == 0 && matches!(e.packet, Packet::LeaseAnswer { .. }));
    world.run_ms(101);
    world.isolate(0);
    run_until_serves(world, 1);
    world.release_held();
    world.run_ms(1);
}

fn clock_of_primary_is_slow(world: &mut World) {
    world.set_clock_rate_ppm(0, -150_000);
    world.run_ms(500);
    world.isolate(0);
    world.run_ms(1_000);
}

fn primary_back_in_failover(world: &mut World) {
    world.filter(Fate::Hold, |e| matches!(e.packet, Packet::Propose { leadership: Some(_), .. }));
    world.filter(Fate::Hold, learn(0));
    // What the primary makes of the streams that broke would change the shard's version.
    world.filter(Fate::Lose, removal);
    world.isolate(0);
    while world.held() == 0 {
        world.run_ms(1);
    }
    world.heal();
    world.run_ms(150);
    world.release_where(|e| matches!(e.packet, Packet::Propose { .. }));
    world.run_ms(200);
}

fn leader_changes_and_primary_is_cut_off(world: &mut World) {
    world.isolate(0);
    world.set_leader(2);
    world.run_ms(1_000);
}

fn deposed_leader_is_asked(world: &mut World) {
    world.deposed_hears = false;
    world.set_leader(2);
    world.believed_leader[0] = Some(3);
    world.isolate(0);
    world.cut.retain(|pair| *pair != (0, 3) && *pair != (3, 0));
    world.run_ms(1_500);
}

fn removal_never_arrives(world: &mut World) {
    world.filter(Fate::Lose, removal);
    world.filter(Fate::Lose, frames(0, 1));
    world.write(0);
    world.run_ms(1_500);
    world.crash(0, false, None);
    world.run_ms(2_000);
}

fn addition_commits_after_a_write(world: &mut World) {
    world.filter(Fate::Hold, addition);
    let spare = world.reserve().unwrap();
    world.run_ms(300);
    world.filter(Fate::Hold, frames(0, spare));
    world.write(0);
    world.run_ms(300);
    world.release_where(addition);
    world.run_ms(5);
    promote_other_than(world, 0, 1);
}

fn spare_lags_behind(world: &mut World) {
    world.write(0);
    world.run_ms(100);
    let spare = world.nodes.len();
    world.filter(Fate::Hold, records(0, spare));
    world.reserve().unwrap();
    world.run_ms(500);
    promote_other_than(world, 0, 1);
}

fn spare_restarts_before_its_addition(world: &mut World) {
    world.filter(Fate::Hold, addition);
    let spare = world.reserve().unwrap();
    world.run_ms(300);
    world.write(0);
    world.run_ms(100);
    world.filter(Fate::Hold, |e| matches!(e.packet, Packet::Subscribe { .. }));
    world.filter(Fate::Lose, removal);
    world.crash(spare, false, Some(MS));
    world.run_ms(200);
    world.release_where(addition);
    world.run_ms(5);
    promote_other_than(world, 0, 1);
}

fn primary_restarts_at_once(world: &mut World) {
    world.filter(Fate::Lose, |e| matches!(e.packet, Packet::Propose { command: Command::Announce { .. }, .. }));
    world.write(0);
    world.run_ms(100);
    world.crash(0, false, Some(MS));
    world.run_ms(1_500);
}

fn spare_restarts_after_its_acknowledgement(world: &mut World) {
    world.filter(Fate::Lose, addition);
    let spare = world.reserve().unwrap();
    world.run_ms(300);
    world.write(0);
    world.run_ms(100);
    world.lose_held();
    world.filter(Fate::Lose, removal);
    world.filter(Fate::Hold, |e| matches!(e.packet, Packet::Subscribe { .. }));
    world.crash(spare, false, Some(MS));
    world.run_ms(500);
    promote_other_than(world, 0, 1);
}

fn removal_overtakes_addition(world: &mut World) {
    world.filter(Fate::Hold, |e| addition(e) || removal(e));
    let spare = world.reserve().unwrap();
    world.run_ms(300);
    world.filter(Fate::Lose, |e| e.from == 1 && matches!(e.packet, Packet::Ack { .. }));
    world.write(0);
    world.run_ms(1_300);
    world.filter(Fate::Hold, frames(0, spare));
    world.write(0);
    world.run_ms(50);
    world.release_where(removal);
    world.run_ms(50);
    world.release_where(addition);
    world.run_ms(5);
    world.crash(0, false, None);
    world.run_ms(2_000);
}

fn longer_tail_of_former_primary(world: &mut World) {
    world.write(0);
    world.run_ms(100);
    // Another write reaches 2 and not 1. 1 is promoted, although 0 is there: it gets no lease.
    world.filter(Fate::Hold, frames(0, 1));
    world.filter(Fate::Lose, |e| e.from == 0 && matches!(e.packet, Packet::LeaseAsk { .. } | Packet::Propose { .. }));
    world.filter(Fate::Lose, probe(2));
    world.write(0);
    world.filter(Fate::Hold, |e| matches!(e.packet, Packet::Stream { what: Frame::Walk { .. }, .. }));
    run_until_serves(world, 1);
    world.run_ms(300);
    world.crash(1, false, None);
    world.run_ms(2_000);
}

fn release_comes_late(world: &mut World) {
    world.filter(Fate::Hold, |e| matches!(e.packet, Packet::Stream { what: Frame::Release { .. }, .. }));
    hand_over_to(world, 1);
    world.run_ms(180);
    world.release_held();
    world.run_ms(50);
}

fn former_learns_late(world: &mut World) {
    world.filter(Fate::Hold, learn(0));
    hand_over_to(world, 1);
    world.run_ms(100);
    world.release_held();
    world.run_ms(300);
    assert!(world.violation.is_some() || world.serving() == [1]);
}

fn handovers_in_a_row(world: &mut World) {
    world.filter(Fate::Hold, learn(0));
    world.filter(Fate::Hold, learn(1));
    hand_over_to(world, 1);
    hand_over_to(world, 2);
    world.release_where(learn(1));
    world.run_ms(200);
}

fn former_is_cut_off(world: &mut World) {
    world.filter(Fate::Lose, learn(0));
    hand_over_to(world, 1);
    world.isolate(0);
    world.run_ms(1_000);
    assert!(world.violation.is_some() || world.serving() == [1]);
}

fn release_before_the_tail(world: &mut World) {
    world.planned = true;
    world.filter(Fate::Hold, records(0, 1));
    world.write(0);
    world.run_ms(10);
    hand_over_to(world, 1);
    world.run_ms(600);
    world.release_held();
    world.run_ms(500);
    assert!(world.violation.is_some() || (world.serving() == [1] && world.unanswered() == 0));
}

fn successor_dies_after_the_handover(world: &mut World) {
    world.filter(Fate::Hold, frames(0, 2));
    world.filter(Fate::Hold, frames(1, 2));
    world.write(0);
    world.run_ms(20);
    hand_over_to(world, 1);
    world.run_ms(300);
    promote_other_than(world, 1, 0);
}

fn read_shows_an_uncommitted_write(world: &mut World) {
    world.filter(Fate::Hold, records(0, 1));
    world.write(0);
    let now = world.clock(0);
    world.read(0, Access::Read, now);
    world.run_ms(20);
    world.crash(0, false, None);
    world.run_ms(2_000);
}

fn thread_sleeps_before_its_reply(world: &mut World) {
    let looked_at = world.clock(0);
    world.isolate(0);
    run_until_serves(world, 1);
    world.write(1);
    world.run_ms(100);
    assert_eq!(world.ledger.acknowledged, 1);
    assert!(world.read(0, Access::Read, looked_at), "the thread had looked at the lease before");
    world.run_ms(50);
}

fn one_of_two_is_retired(world: &mut World) {
    world.planned = true;
    world.retire(1);
    world.run_ms(100);
}

fn tails_of_equal_length(world: &mut World) {
    world.filter(Fate::Hold, frames(0, 1));
    world.write(0);
    world.run_ms(10);
    world.isolate(0);
    run_until_serves(world, 1);
    world.lose_held();
    world.write(1);
    world.run_ms(50);
    world.heal();
    world.gossip();
    world.run_ms(1_000);
    world.crash(1, false, None);
    world.run_ms(2_000);
}
