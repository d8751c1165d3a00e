//! A member's rules, one claim each.

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

use common::{SHARD, after, announced, at_ms, changed, first, presence, process, ring};
use ringmaster_replica::*;
use ringmaster_ring::*;

/// One member, with its clock.
struct Member {
    replica: Replica,
    ms: u64,
}

impl Member {
    fn new(me: Holder, held: Held) -> Self {
        let config = ReplicaConfig {
            me: me.member,
            boot: me.boot,
            shard: SHARD,
            drift_ppm: 1_000,
            held,
            mutations: Mutations::none(),
        };
        Self { replica: Replica::new(config), ms: 1_000 }
    }

    fn give(&mut self, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        self.replica.handle(input, at_ms(self.ms), &mut out);
        out
    }

    fn learn(&mut self, ring: &Arc<Ring>) -> Vec<Output> {
        self.give(Input::Ring(ring.clone()))
    }

    /// Lets time pass, a tick every 50 ms, and answers every request for a lease.
    fn live(&mut self, ms: u64) -> Vec<Output> {
        let mut all = Vec::new();
        for _ in 0..ms / 50 {
            self.ms += 50;
            let out = self.give(Input::Tick);
            all.extend(self.grant(&out));
            all.extend(out);
        }
        all
    }

    fn grant(&mut self, out: &[Output]) -> Vec<Output> {
        let asks = out.iter().filter_map(|o| if let Output::AskLease { ask, .. } = o { Some(*ask) } else { None });
        let asks: Vec<AskId> = asks.collect();
        let grant = |ask| Input::LeaseGranted { ask, prev_over: false };
        asks.into_iter().flat_map(|ask| self.give(grant(ask))).collect()
    }

    /// A copy that has nothing asks to follow.
    fn subscribe(&mut self, from: Holder, stream: u64, last: Position, may_discard: bool) -> Vec<Output> {
        self.give(Input::Subscribe {
            stream: StreamId(stream),
            from,
            epoch: ShardEpoch(1),
            last,
            may_discard,
            kept_after: Seq(0),
            log_end: self.replica.position().seq,
        })
    }

    fn ack(&mut self, from: Holder, stream: u64, seq: u64) -> Vec<Output> {
        self.give(Input::Ack { stream: StreamId(stream), from, epoch: ShardEpoch(1), seq: Seq(seq) })
    }

    fn gate(&self) -> GateState {
        self.replica.gate_state()
    }
}

/// The primary of a ring of `members`, with a lease.
fn primary(members: u32) -> (Member, Arc<Ring>) {
    let ring = ring(members, Settings::default());
    let mut member = Member::new(first(0), Held::default());
    let out = member.learn(&ring);
    assert!(matches!(out.as_slice(), [Output::Serve { .. }, ..]), "{out:?}");
    member.grant(&out);
    (member, ring)
}

fn at(epoch: u64, seq: u64) -> Position {
    Position { epoch: ShardEpoch(epoch), seq: Seq(seq) }
}

fn proposed(out: &[Output]) -> Vec<ShardChange> {
    let change = |output: &Output| match output {
        Output::Propose(Command::Shard { change, .. }) => Some(change.clone()),
        _ => None,
    };
    out.iter().filter_map(change).collect()
}

fn follow_of(out: &[Output]) -> (StreamId, Position, bool) {
    let follow = out.iter().find_map(|output| match output {
        Output::Follow { stream, last, may_discard, .. } => Some((*stream, *last, *may_discard)),
        _ => None,
    });
    follow.unwrap_or_else(|| panic!("it follows nobody: {out:?}"))
}

fn has(out: &[Output], wanted: impl Fn(&Output) -> bool) -> bool {
    out.iter().any(wanted)
}

/// A log of epoch 1 up to `seq`.
fn held(seq: u64) -> Held {
    let mut history = History::new();
    history.begin(ShardEpoch(1), Seq(1));
    Held { history, end: Seq(seq) }
}

#[test]
fn a_sole_copy_counts_its_own_log_and_only_under_a_lease() {
    let (mut member, _) = primary(1);
    member.give(Input::LogEnd(Seq(5)));
    assert_eq!(member.gate().committed, Seq(5));
    member.ms += 400;
    member.give(Input::LogEnd(Seq(6)));
    assert_eq!(member.gate().committed, Seq(5), "the lease is over");
}

#[test]
fn what_is_committed_waits_for_every_in_sync_copy() {
    let (mut member, _) = primary(3);
    member.subscribe(first(1), 1, at(0, 0), false);
    member.subscribe(first(2), 1, at(0, 0), false);
    member.give(Input::LogEnd(Seq(4)));
    member.ack(first(1), 1, 4);
    assert_eq!(member.gate().committed, Seq(0));
    member.ack(first(2), 1, 3);
    assert_eq!(member.gate().committed, Seq(3));
    assert_eq!((member.replica.copies_holding(Seq(4)), member.replica.copies_holding(Seq(3))), (1, 2));
}

#[test]
fn an_in_sync_copy_that_is_late_is_taken_out_and_counts_until_the_ring_says_so() {
    let (mut member, ring) = primary(2);
    member.subscribe(first(1), 1, at(0, 0), false);
    member.ack(first(1), 1, 0);
    member.give(Input::LogEnd(Seq(1)));
    let out = member.live(900);
    assert_eq!(proposed(&out), []);
    let out = member.live(200);
    assert!(proposed(&out).contains(&ShardChange::Remove(first(1))));
    assert_eq!(member.gate().committed, Seq(0), "the removal is not seen");
    member.learn(&changed(&ring, ShardChange::Remove(first(1))));
    assert_eq!(member.gate().committed, Seq(1));
}

#[test]
fn a_copy_whose_stream_broke_is_taken_out_unless_it_comes_again_soon() {
    let (mut member, _) = primary(2);
    member.subscribe(first(1), 7, at(0, 0), true);
    member.ack(first(1), 7, 0);
    member.give(Input::CopyLost { stream: StreamId(7), from: first(1) });
    assert!(proposed(&member.live(200)).is_empty(), "it has time to connect anew");
    assert_eq!(proposed(&member.live(100)), vec![ShardChange::Remove(first(1))]);
    let (mut member, _) = primary(2);
    member.subscribe(first(1), 7, at(0, 0), true);
    member.give(Input::CopyLost { stream: StreamId(7), from: first(1) });
    member.subscribe(first(1), 8, at(0, 0), true);
    member.ack(first(1), 8, 0);
    assert!(proposed(&member.live(400)).is_empty(), "it came again");
}

#[test]
fn a_primary_that_a_newer_process_superseded_takes_no_copy_out_and_asks_for_no_lease() {
    let (mut member, ring) = primary(2);
    member.subscribe(first(1), 7, at(0, 0), true);
    member.ack(first(1), 7, 0);
    member.learn(&announced(&ring, process(0, 2), 1));
    // Its copy looks for the newer process.
    member.give(Input::CopyLost { stream: StreamId(7), from: first(1) });
    let out = member.live(2_000);
    assert_eq!(proposed(&out), []);
    assert!(!has(&out, |o| matches!(o, Output::AskLease { .. })));
}

#[test]
fn a_copy_that_restarted_is_taken_out_at_once() {
    let (mut member, ring) = primary(2);
    let out = member.learn(&announced(&ring, process(1, 2), 1));
    assert_eq!(proposed(&out), [ShardChange::Remove(first(1))]);
}

#[test]
fn a_pause_of_the_primary_is_no_lateness_of_its_copies() {
    let (mut member, _) = primary(2);
    member.subscribe(first(1), 1, at(0, 0), false);
    member.ack(first(1), 1, 0);
    member.give(Input::LogEnd(Seq(1)));
    member.ms += 5_000;
    assert_eq!(proposed(&member.give(Input::Tick)), []);
}

#[test]
fn a_proposal_is_repeated_while_it_is_wanted_and_no_longer() {
    let (mut member, ring) = primary(2);
    let ring = announced(&ring, process(1, 2), 1);
    member.learn(&ring);
    let again = proposed(&member.live(1_000)).len();
    assert!((4..=10).contains(&again), "{again}");
    member.learn(&changed(&ring, ShardChange::Remove(first(1))));
    assert_eq!(proposed(&member.live(1_000)), []);
}

/// A ring in which member 1 is announced and outside the in-sync set.
fn with_spare() -> (Member, Arc<Ring>) {
    let (mut member, ring) = primary(2);
    let ring = changed(&ring, ShardChange::Remove(first(1)));
    member.learn(&ring);
    (member, ring)
}

#[test]
fn a_copy_is_added_once_it_holds_what_was_committed_and_is_needed_from_then_on() {
    let (mut member, ring) = with_spare();
    member.give(Input::LogEnd(Seq(3)));
    assert_eq!(member.gate().committed, Seq(3));
    member.subscribe(first(1), 1, at(0, 0), true);
    assert_eq!(proposed(&member.ack(first(1), 1, 2)), []);
    assert_eq!(proposed(&member.ack(first(1), 1, 3)), [ShardChange::Add(first(1))]);
    member.give(Input::LogEnd(Seq(4)));
    assert_eq!(member.gate().committed, Seq(3), "it may be in the set already");
    member.live(600);
    assert_eq!(member.gate().committed, Seq(3), "time is no outcome");
    let ring = changed(&ring, ShardChange::Remove(first(1)));
    member.learn(&ring);
    assert_eq!(member.gate().committed, Seq(4), "the version passed the addition by");
}

/// Nothing was written since it spoke last, so it still holds all that was committed.
#[test]
fn a_copy_that_was_taken_out_for_its_silence_comes_back_only_once_it_speaks() {
    let (mut member, ring) = primary(2);
    member.subscribe(first(1), 1, at(0, 0), false);
    member.ack(first(1), 1, 0);
    assert!(proposed(&member.live(1_200)).contains(&ShardChange::Remove(first(1))));
    let out = member.learn(&changed(&ring, ShardChange::Remove(first(1))));
    assert_eq!(proposed(&out), []);
    assert_eq!(proposed(&member.live(1_000)), []);
    assert_eq!(proposed(&member.ack(first(1), 1, 0)), [ShardChange::Add(first(1))]);
}

#[test]
fn an_addition_whose_copy_falls_silent_is_withdrawn_on_the_same_version() {
    let (mut member, ring) = with_spare();
    member.subscribe(first(1), 1, at(0, 0), true);
    let added = member.ack(first(1), 1, 0);
    assert_eq!(proposed(&added), [ShardChange::Add(first(1))]);
    let out = member.live(1_500);
    let withdrawal = Command::on_shard(&ring, SHARD, ShardChange::Remove(first(1))).unwrap();
    assert!(has(&out, |o| matches!(o, Output::Propose(command) if *command == withdrawal)), "{out:?}");
}

#[test]
fn an_acknowledgement_of_a_former_stream_counts_for_nothing() {
    let (mut member, _) = with_spare();
    member.give(Input::LogEnd(Seq(3)));
    member.subscribe(first(1), 1, at(0, 0), true);
    member.subscribe(first(1), 2, at(0, 0), true);
    let out = member.ack(first(1), 1, 3);
    assert_eq!(proposed(&out), []);
    assert!(has(&out, |o| matches!(o, Output::CloseStream { stream: StreamId(1), .. })));
    let out = member.subscribe(first(1), 1, at(0, 0), true);
    assert!(has(&out, |o| matches!(o, Output::RefuseStream { stream: StreamId(1), .. })), "it came late");
    assert_eq!(proposed(&member.ack(first(1), 2, 3)), [ShardChange::Add(first(1))]);
}

#[test]
fn an_in_sync_copy_with_a_tail_of_its_own_leaves_before_it_discards() {
    let (mut member, ring) = primary(2);
    let out = member.subscribe(first(1), 1, at(1, 7), false);
    assert!(has(&out, |o| matches!(o, Output::RefuseStream { reason: RefuseReason::MustLeave, .. })), "{out:?}");
    assert_eq!(proposed(&out), [ShardChange::Remove(first(1))]);
    member.learn(&changed(&ring, ShardChange::Remove(first(1))));
    let out = member.subscribe(first(1), 2, at(1, 7), true);
    assert!(has(&out, |o| matches!(o, Output::OpenStream { start: StreamStart::Walk, .. })), "{out:?}");
}

#[test]
fn a_copy_keeps_its_data_until_it_has_seen_itself_outside_the_set() {
    let ring = ring(2, Settings::default());
    let mut member = Member::new(first(1), held(7));
    let (stream, last, may_discard) = follow_of(&member.learn(&ring));
    assert_eq!((last, may_discard), (at(1, 7), false));
    let walk = |stream| Input::Accepted { stream, epoch: ShardEpoch(1), start: StreamStart::Walk };
    let out = member.give(walk(stream));
    assert!(!has(&out, |o| matches!(o, Output::Discard)) && has(&out, |o| matches!(o, Output::Unfollow { .. })));
    let (stream, _, may_discard) = follow_of(&member.learn(&changed(&ring, ShardChange::Remove(first(1)))));
    assert!(may_discard);
    let out = member.give(walk(stream));
    assert!(matches!(out.as_slice(), [.., Output::Publish(GateState { lineage: 1, .. }), Output::Discard]), "{out:?}");
    assert!(!has(&out, |o| matches!(o, Output::Walk { .. })), "nothing is applied to data that is being dropped");
    assert!(has(&member.give(Input::Discarded), |o| matches!(o, Output::Walk { .. })));
}

#[test]
fn a_walk_acknowledges_nothing_until_it_is_done_and_begins_anew_when_it_breaks() {
    let ring = changed(&ring(2, Settings::default()), ShardChange::Remove(first(1)));
    let mut member = Member::new(first(1), Held::default());
    let (stream, ..) = follow_of(&member.learn(&ring));
    let out = member.give(Input::Accepted { stream, epoch: ShardEpoch(1), start: StreamStart::Walk });
    assert!(has(&out, |o| matches!(o, Output::Walk { .. })));
    let beat = |stream| Input::Heartbeat { stream, epoch: ShardEpoch(1), end: Seq(9), committed: Seq(9) };
    assert!(member.give(beat(stream)).is_empty());
    let out = member.give(Input::StreamLost { stream });
    assert!(has(&out, |o| matches!(o, Output::Discard)), "{out:?}");
    member.give(Input::Discarded);
    let (stream, last, _) = follow_of(&member.live(50));
    assert_eq!(last, at(0, 0));
    member.give(Input::Accepted { stream, epoch: ShardEpoch(1), start: StreamStart::Walk });
    let Held { history, end: _ } = held(9);
    let out = member.give(Input::WalkDone { stream, epoch: ShardEpoch(1), end: at(1, 9), history });
    assert!(has(&out, |o| matches!(o, Output::SendAck { seq: Seq(9), .. })), "{out:?}");
    assert_eq!(member.replica.position(), at(1, 9));
}

#[test]
fn records_are_applied_in_order_and_acknowledged_once_they_are() {
    let mut member = Member::new(first(1), Held::default());
    let (stream, ..) = follow_of(&member.learn(&ring(2, Settings::default())));
    member.give(Input::Accepted { stream, epoch: ShardEpoch(1), start: StreamStart::After(Seq(0)) });
    let records = |first: u64, last: u64| Input::Records {
        stream,
        epoch: ShardEpoch(1),
        entry_epoch: ShardEpoch(1),
        first: Seq(first),
        last: Seq(last),
        committed: Seq(1),
    };
    let out = member.give(records(1, 2));
    assert!(matches!(out.as_slice(), [Output::Apply { first: Seq(1), last: Seq(2), .. }]), "{out:?}");
    let out = member.give(Input::Applied { last: at(1, 2) });
    assert!(has(&out, |o| matches!(o, Output::SendAck { seq: Seq(2), .. })));
    assert_eq!(member.gate().copy_mark, Seq(1), "READONLY reads show what is committed");
    let out = member.give(records(4, 4));
    assert!(has(&out, |o| matches!(o, Output::Unfollow { .. })) && !has(&out, |o| matches!(o, Output::Apply { .. })));
}

#[test]
fn a_handover_freezes_drains_and_only_then_releases() {
    let (mut member, ring) = primary(2);
    member.subscribe(first(1), 1, at(0, 0), false);
    let out = member.learn(&changed(&ring, ShardChange::Handover { to: first(1) }));
    assert!(
        matches!(out.as_slice(), [Output::Publish(GateState { phase: Phase::Frozen, .. }), Output::Barrier]),
        "{out:?}"
    );
    let out = member.give(Input::Barrier { end: Seq(3) });
    let last = at(1, 3);
    assert!(has(&out, |o| matches!(o, Output::Release { epoch: ShardEpoch(2), last: l, .. } if *l == last)), "{out:?}");
    let (_, position, _) = follow_of(&out);
    assert_eq!(position, last, "it follows its successor with all that it executed");
    assert_eq!(member.gate().phase, Phase::Frozen, "until the successor says that it serves");
}

#[test]
fn a_successor_serves_on_the_release_once_it_holds_the_last_record() {
    let before = ring(2, Settings::default());
    let mut member = Member::new(first(1), Held::default());
    let (stream, ..) = follow_of(&member.learn(&before));
    member.give(Input::Accepted { stream, epoch: ShardEpoch(1), start: StreamStart::After(Seq(0)) });
    // The release overtakes the ring.
    member.give(Input::Release { stream, epoch: ShardEpoch(2), last: at(1, 1) });
    let out = member.learn(&changed(&before, ShardChange::Handover { to: first(1) }));
    assert!(!has(&out, |o| matches!(o, Output::Serve { .. })), "the last record is missing");
    assert_eq!(member.gate().phase, Phase::Pending);
    member.give(Input::Records {
        stream,
        epoch: ShardEpoch(2),
        entry_epoch: ShardEpoch(1),
        first: Seq(1),
        last: Seq(1),
        committed: Seq(0),
    });
    let out = member.give(Input::Applied { last: at(1, 1) });
    let start = at(1, 1);
    assert!(has(&out, |o| matches!(o, Output::Serve { epoch: ShardEpoch(2), start: s } if *s == start)), "{out:?}");
    assert_eq!(proposed(&out), [], "its former primary first has to hear what was kept");
    let out = member.grant(&out);
    assert_eq!(proposed(&out), []);
    member.give(Input::Subscribe {
        stream: StreamId(1),
        from: first(0),
        epoch: ShardEpoch(2),
        last: at(1, 1),
        may_discard: false,
        kept_after: Seq(0),
        log_end: Seq(1),
    });
    let out = member.give(Input::Ack { stream: StreamId(1), from: first(0), epoch: ShardEpoch(2), seq: Seq(1) });
    assert_eq!(member.gate().committed, Seq(1));
    assert_eq!(proposed(&out), [ShardChange::HandoverDone { start: at(1, 1) }]);
}

/// A primary of three copies that handed over to member 1, asked it for a stream, and heard nothing since.
fn handed_over(records: u64) -> (Member, Arc<Ring>, StreamId) {
    let settings = Settings { copies: 2, ..Settings::default() };
    let before = ring(3, settings);
    let mut member = Member::new(first(0), Held::default());
    let out = member.learn(&before);
    member.grant(&out);
    member.subscribe(first(1), 1, at(0, 0), false);
    let handover = changed(&before, ShardChange::Handover { to: first(1) });
    member.learn(&handover);
    let (stream, ..) = follow_of(&member.give(Input::Barrier { end: Seq(records) }));
    (member, handover, stream)
}

#[test]
fn a_former_primary_that_is_retired_at_once_answers_what_the_handover_kept() {
    let (mut member, handover, _) = handed_over(3);
    assert_eq!(member.gate().copy_mark, Seq(0));
    let done = changed(&handover, ShardChange::HandoverDone { start: at(1, 3) });
    let retired =
        after(&done, &Command::Retire { member: MemberId(0), if_version: done.members[&MemberId(0)].version });
    // The ring in between never reached it.
    let out = member.learn(&retired);
    assert!(has(&out, |o| matches!(o, Output::Discard)));
    member.give(Input::Discarded);
    let GateState { phase, lineage, copy_mark, .. } = member.gate();
    assert_eq!((phase, lineage, copy_mark), (Phase::Retired, 0, Seq(3)));
}

#[test]
fn a_former_primary_that_follows_already_learns_from_the_ring_what_was_kept() {
    let (mut member, handover, stream) = handed_over(3);
    let start = StreamStart::After(Seq(3));
    member.give(Input::Accepted { stream, epoch: ShardEpoch(2), start });
    assert_eq!((member.gate().phase, member.gate().copy_mark), (Phase::Copy, Seq(0)));
    member.learn(&changed(&handover, ShardChange::HandoverDone { start: at(1, 3) }));
    assert_eq!(member.gate().copy_mark, Seq(3));
}

#[test]
fn a_former_primary_answers_nothing_that_its_successor_does_not_hold() {
    let (mut member, handover, _) = handed_over(3);
    // The successor waited for the end of the lease, and began without the last records.
    let done = changed(&handover, ShardChange::HandoverDone { start: at(1, 2) });
    member.learn(&done);
    assert_eq!(member.gate().copy_mark, Seq(2));
    let (mut member, handover, _) = handed_over(3);
    member.learn(&changed(&handover, ShardChange::HandoverDone { start: at(0, 2) }));
    assert_eq!(member.gate().copy_mark, Seq(0), "another log than the one here");
}

#[test]
fn copies_that_come_before_the_successor_serves_are_accepted_when_it_does() {
    let before = ring(3, Settings::default());
    let mut member = Member::new(first(1), Held::default());
    let (stream, ..) = follow_of(&member.learn(&before));
    member.give(Input::Accepted { stream, epoch: ShardEpoch(1), start: StreamStart::After(Seq(0)) });
    member.learn(&changed(&before, ShardChange::Handover { to: first(1) }));
    let out = member.give(Input::Subscribe {
        stream: StreamId(7),
        from: first(2),
        epoch: ShardEpoch(2),
        last: at(0, 0),
        may_discard: false,
        kept_after: Seq(0),
        log_end: Seq(0),
    });
    assert!(!has(&out, |o| matches!(o, Output::OpenStream { .. } | Output::RefuseStream { .. })), "{out:?}");
    let out = member.give(Input::Release { stream, epoch: ShardEpoch(2), last: at(0, 0) });
    assert!(has(&out, |o| matches!(o, Output::OpenStream { stream: StreamId(7), .. })), "{out:?}");
}

#[test]
fn a_restarted_process_holds_no_role_and_parks_what_others_may_serve_soon() {
    let ring = ring(2, Settings::default());
    let mut member = Member::new(process(0, 2), held(5));
    let out = member.learn(&ring);
    assert!(!has(&out, |o| matches!(o, Output::Serve { .. } | Output::AskLease { .. })), "{out:?}");
    assert_eq!(member.gate().phase, Phase::Pending);
}

#[test]
fn a_retired_member_stops_and_then_drops_its_data() {
    let mut member = Member::new(first(1), held(5));
    let before = ring(2, Settings { copies: 1, ..Settings::default() });
    member.learn(&before);
    let version = before.members[&MemberId(1)].version;
    let out = member.learn(&after(&before, &Command::Retire { member: MemberId(1), if_version: version }));
    assert!(matches!(
        out.as_slice(),
        [.., Output::Publish(GateState { phase: Phase::Retired, lineage: 0, .. }), Output::Discard]
    ));
    assert!(member.give(Input::Discarded).is_empty());
    assert!(member.live(1_000).is_empty(), "it asks for nothing any more");
}

#[test]
fn a_shard_that_starts_empty_drops_what_its_new_primary_still_held() {
    let before = ring(1, Settings { copies: 1, ..Settings::default() });
    let restarted = process(0, 2);
    let empty = changed(&announced(&before, restarted, 1), ShardChange::StartEmpty { on: restarted });
    let mut member = Member::new(restarted, held(5));
    let out = member.learn(&empty);
    assert!(
        has(&out, |o| matches!(o, Output::Discard)) && !has(&out, |o| matches!(o, Output::Serve { .. })),
        "{out:?}"
    );
    let out = member.give(Input::Discarded);
    assert!(
        has(&out, |o| matches!(o, Output::Serve { epoch: ShardEpoch(2), start } if start.seq == Seq(0))),
        "{out:?}"
    );
}

#[test]
fn a_recovered_shard_serves_what_its_disk_held_and_nothing_else() {
    let before = ring(1, Settings { copies: 1, ..Settings::default() });
    let on = process(0, 2);
    let recovered = changed(&announced(&before, on, 1), ShardChange::Recover { on, position: at(1, 5) });
    let mut member = Member::new(on, held(5));
    let serves = |out: &[Output]| has(out, |o| matches!(o, Output::Serve { .. }));
    assert!(serves(&member.learn(&recovered)));
    let mut other = Member::new(on, held(6));
    assert!(!serves(&other.learn(&recovered)), "that is not what was agreed on");
}

#[test]
fn too_few_copies_refuse_writes() {
    let settings = Settings { min_in_sync: 2, ..Settings::default() };
    let ring = ring(2, settings);
    let mut member = Member::new(first(0), Held::default());
    member.learn(&ring);
    assert!(!member.gate().writes_refused);
    member.learn(&changed(&ring, ShardChange::Remove(first(1))));
    assert!(member.gate().writes_refused);
}

#[test]
fn a_process_that_was_asked_to_end_says_so_until_the_ring_knows() {
    let (mut member, ring) = primary(2);
    let wanted = Command::Leave(first(0));
    assert!(has(&member.give(Input::Leave), |o| matches!(o, Output::Propose(command) if *command == wanted)));
    assert!(has(&member.live(200), |o| matches!(o, Output::Propose(command) if *command == wanted)));
    member.learn(&after(&ring, &wanted));
    assert!(!has(&member.live(500), |o| matches!(o, Output::Propose(_))));
    let withdrawn = Command::Stay(first(0));
    assert!(has(&member.give(Input::Stay), |o| matches!(o, Output::Propose(command) if *command == withdrawn)));
}

#[test]
fn a_spare_that_the_primary_does_not_know_yet_is_kept_waiting_and_not_refused() {
    let (mut member, ring) = primary(1);
    let spare = first(1);
    let subscribe = |member: &mut Member| member.subscribe(spare, 1, at(0, 0), true);
    assert!(!has(&subscribe(&mut member), |o| matches!(o, Output::RefuseStream { .. })));
    let reserve = ReserveMember {
        if_next_serial: MemberId(1),
        shard: Some(SHARD),
        template: String::new(),
        replaces: None,
        reason: None,
    };
    let ring = after(&ring, &Command::ReserveMember(reserve));
    let announce = Command::Announce { member: spare.member, if_version: Version(1), presence: presence(spare, 1) };
    member.learn(&ring);
    let out = member.learn(&after(&ring, &announce));
    assert!(has(&out, |o| matches!(o, Output::OpenStream { .. })), "{out:?}");
}
