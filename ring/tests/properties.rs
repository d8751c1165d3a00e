//! Random commands, many of them stale or absurd: the ring takes them or refuses them, and never breaks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

use std::collections::BTreeMap;

use ringmaster_ring::*;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// Once in `n` times.
    fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn presence(member: u64, boot: u64, level: u32) -> Presence {
    let address = Address { host: format!("10.0.0.{member}"), client_port: 1, peer_port: 2, http_port: 3 };
    Presence { boot: BootId(boot), voter: VoterId(member), address, feature_level: FeatureLevel(level) }
}

fn form(shards: u16, copies: u16) -> Ring {
    let mut members = BTreeMap::new();
    for serial in 0..shards * copies {
        let founder = FoundingMember {
            shard: Some(ShardId(serial % shards)),
            template: String::new(),
            placement: Placement::default(),
            presence: presence(u64::from(serial), 1, 1),
        };
        members.insert(MemberId(u32::from(serial)), founder);
    }
    let ranges = SlotRange::split(shards).into_iter().enumerate();
    Ring::form(&Formation {
        cluster: ClusterUuid(7),
        generation: Generation(1),
        settings: Settings { copies, ..Settings::default() },
        next_serial: MemberId(members.len() as u32),
        members,
        shards: ranges.map(|(shard, range)| (ShardId(shard as u16), vec![range])).collect(),
    })
    .unwrap()
}

fn holder(rng: &mut Rng, ring: &Ring) -> Holder {
    let member = MemberId(rng.below(u64::from(ring.next_serial.0) + 1) as u32);
    let known = ring.members.get(&member).and_then(Member::boot).unwrap_or(BootId(1));
    Holder { member, boot: if rng.once_in(6) { BootId(rng.below(5)) } else { known } }
}

fn version(rng: &mut Rng, now: Version) -> Version {
    if rng.once_in(6) { Version(now.0.saturating_sub(rng.below(3))) } else { now }
}

fn command(rng: &mut Rng, ring: &Ring) -> Command {
    let who = holder(rng, ring);
    let member_version = ring.members.get(&who.member).map_or(Version(1), |m| m.version);
    let if_version = version(rng, member_version);
    match rng.below(20) {
        0 | 1 => Command::ReserveMember(ReserveMember {
            if_next_serial: if rng.once_in(9) { MemberId(0) } else { ring.next_serial },
            shard: (!rng.once_in(9)).then(|| ShardId(rng.below(3) as u16)),
            template: String::new(),
            replaces: rng.once_in(2).then_some(who.member),
            reason: Some(ReplaceReason::NodeCordoned),
        }),
        2..=4 => {
            let level = 1 + rng.below(3) as u32;
            let presence = presence(u64::from(who.member.0), 1 + rng.below(9), level);
            Command::Announce { member: who.member, if_version, presence }
        }
        5 => Command::Leave(who),
        6 => Command::Stay(who),
        7 | 8 => Command::Retire { member: who.member, if_version },
        9 => Command::Forget { member: who.member, if_version },
        10 => Command::Gone(who),
        11 => {
            let settings =
                Settings { copies: rng.below(4) as u16, lease_ms: 400 - rng.below(2) as u32, ..ring.settings.clone() };
            Command::Configure { if_version: version(rng, ring.settings_version), settings }
        }
        12 => Command::RaiseFeatureLevel { to: FeatureLevel(rng.below(4) as u32) },
        _ => {
            let shard = ShardId(rng.below(3) as u16);
            let now = ring.shards.get(&shard);
            let change = match rng.below(8) {
                0..=2 => ShardChange::Add(who),
                3 => ShardChange::Remove(who),
                4 => ShardChange::Handover { to: who },
                5 => ShardChange::HandoverDone { start: Position::default() },
                6 => ShardChange::Failover { to: who, drop_former: rng.once_in(2) },
                _ if rng.once_in(2) => ShardChange::StartEmpty { on: who },
                _ => ShardChange::Recover { on: who, position: Position { epoch: ShardEpoch(1), seq: Seq(5) } },
            };
            let if_version = version(rng, now.map_or(Version(1), |shard| shard.version));
            let if_epoch = now.map_or(ShardEpoch(1), |shard| shard.epoch);
            Command::Shard { shard, if_epoch, if_version, change }
        }
    }
}

/// What one step may never do, whatever the command.
fn check_step(before: &Ring, command: &Command, after: &Ring) {
    assert_eq!(after.epoch, before.epoch.next());
    assert!(after.feature_level >= before.feature_level && after.next_serial >= before.next_serial);
    assert_eq!(after.settings.lease_ms, before.settings.lease_ms, "leases of two lengths may run at once");
    for (id, then) in &before.shards {
        let now = &after.shards[id];
        if now != then {
            assert!(now.version > then.version, "shard {id} changed under one version by {command:?}");
        }
        assert!(now.epoch >= then.epoch);
        assert!(now.losses >= then.losses);
        if now.primary != then.primary || now.pending_from > then.pending_from {
            assert!(now.epoch > then.epoch, "another primary in one epoch by {command:?}");
        }
        check_copies(*id, before, command, after);
    }
    for (id, then) in &before.members {
        match after.members.get(id) {
            Some(now) => {
                assert!(now == then || now.version > then.version, "member {id} changed under one version");
                assert!(then.is_active() || !now.is_active(), "member {id} came back from retirement");
                assert_eq!(now.shard, then.shard);
            }
            None => assert!(!then.is_active(), "member {id} was forgotten while it was active"),
        }
    }
}

/// Who may leave the in-sync set, and by what.
fn check_copies(id: ShardId, before: &Ring, command: &Command, after: &Ring) {
    let (then, now) = (&before.shards[&id], &after.shards[&id]);
    let gone: Vec<_> = then.in_sync.iter().filter(|(member, boot)| now.in_sync.get(member) != Some(*boot)).collect();
    match command {
        _ if gone.is_empty() => {}
        Command::Retire { .. } => {
            let lives = |(member, boot): &(&MemberId, &BootId)| !after.members[*member].is_superseded(**boot);
            let living = now.in_sync.iter().filter(lives).count();
            assert!(living >= usize::from(after.settings.copies), "retired below the copies");
            assert_eq!(then.primary, now.primary);
        }
        Command::Shard { change, .. } => match change {
            ShardChange::Remove(copy) => {
                assert!(gone == [(&copy.member, &copy.boot)]);
                let lives = |(member, boot): (&MemberId, &BootId)| !after.members[member].is_superseded(*boot);
                assert!(now.in_sync.iter().any(lives), "what is kept came to rest on processes that are no more");
            }
            ShardChange::Failover { .. } => assert!(gone == [(&then.primary.member, &then.primary.boot)]),
            ShardChange::StartEmpty { .. } | ShardChange::Recover { .. } => {
                for (member, boot) in gone {
                    assert!(before.members[member].is_superseded(*boot), "a copy that may exist was given up");
                }
                assert_eq!(now.losses, then.losses + 1);
            }
            // A newer process of a copy takes the place of the one that is no more.
            ShardChange::Add(copy) => assert!(gone.iter().all(|(member, _)| **member == copy.member)),
            other => panic!("{other:?} took a copy away"),
        },
        other => panic!("{other:?} took a copy away"),
    }
    for (member, boot) in now.in_sync.iter().filter(|(member, boot)| then.in_sync.get(member) != Some(*boot)) {
        let announced = before.members[member].boot();
        assert_eq!(announced, Some(*boot), "a process that nobody announced is in sync by {command:?}");
    }
}

#[test]
fn no_sequence_of_commands_breaks_an_invariant() {
    let (mut taken, mut refused) = (BTreeMap::<String, u32>::new(), 0);
    for seed in 0..150 {
        let mut rng = Rng(seed);
        let mut ring = form(1 + (seed % 2) as u16, 1 + (seed % 3) as u16);
        ring.check().unwrap();
        for step in 0..300 {
            let command = command(&mut rng, &ring);
            match ring.apply(&command) {
                Ok(next) => {
                    next.check().unwrap_or_else(|broken| panic!("seed {seed} step {step}: {command:?}: {broken}"));
                    check_step(&ring, &command, &next);
                    ring = next;
                    let kind = match &command {
                        Command::Shard { change, .. } => format!("{change:?}"),
                        other => format!("{other:?}"),
                    };
                    *taken.entry(kind.split([' ', '(']).next().unwrap_or_default().to_owned()).or_default() += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    println!("{taken:?}, {refused} refused");
    for kind in ["Add", "Remove", "Handover", "HandoverDone", "Failover", "StartEmpty", "Recover", "Retire", "Forget"] {
        assert!(taken.get(kind).is_some_and(|n| *n > 10), "{kind} was hardly ever taken: {taken:?}");
    }
}

#[test]
fn a_command_gives_the_same_document_everywhere() {
    let mut rng = Rng(3);
    let mut ring = form(2, 2);
    for _ in 0..500 {
        let command = command(&mut rng, &ring);
        assert_eq!(ring.apply(&command), ring.apply(&command));
        ring = ring.apply(&command).unwrap_or(ring);
    }
}

#[test]
fn another_process_of_the_primary_cannot_be_added_beside_it() {
    let ring = form(1, 2);
    let version = ring.members[&MemberId(0)].version;
    let restarted = Command::Announce { member: MemberId(0), if_version: version, presence: presence(0, 2, 1) };
    let ring = ring.apply(&restarted).unwrap();
    let copy = Holder { member: MemberId(0), boot: BootId(2) };
    let add = Command::on_shard(&ring, ShardId(0), ShardChange::Add(copy)).unwrap();
    assert_eq!(ring.apply(&add), Err(Rejection::IsPrimary { member: MemberId(0) }));
}

/// A ring in which member 1 is being replaced, with the spare.
fn with_spare() -> (Ring, Holder) {
    let mut ring = form(1, 3);
    let spare = ring.next_serial;
    let reserve = ReserveMember {
        if_next_serial: spare,
        shard: Some(ShardId(0)),
        template: String::new(),
        replaces: Some(MemberId(1)),
        reason: Some(ReplaceReason::NodeCordoned),
    };
    ring = ring.apply(&Command::ReserveMember(reserve)).unwrap();
    let presence = presence(u64::from(spare.0), 1, 1);
    let boot = presence.boot;
    ring = ring.apply(&Command::Announce { member: spare, if_version: Version(1), presence }).unwrap();
    (ring, Holder { member: spare, boot })
}

/// Where it does not matter who leads.
const NO_LEADER: VoterId = VoterId(u64::MAX);

fn voter_of(ring: &Ring, member: MemberId) -> VoterId {
    ring.members[&member].voter().unwrap()
}

#[test]
fn the_vote_of_a_spare_that_is_gone_returns_to_the_member_that_it_was_to_replace() {
    let (mut ring, spare) = with_spare();
    let (voter, replaced) = (voter_of(&ring, spare.member), voter_of(&ring, MemberId(1)));
    let wanted = wanted_voters(&ring);
    assert!(wanted.contains(&voter) && !wanted.contains(&replaced), "the spare votes in its place");
    ring = ring.with_voters(wanted).apply(&Command::Gone(spare)).unwrap();
    assert!(!wanted_voters(&ring).contains(&voter));
    let back = VoteMove::Give { to: replaced, from: Some(voter) };
    assert_eq!(next_vote_move(&ring, NO_LEADER, |alive| alive != voter), Some(back));
}

#[test]
fn a_spare_that_is_asked_to_end_gets_the_vote_only_if_it_serves_already() {
    let (ring, spare) = with_spare();
    let (voter, replaced) = (voter_of(&ring, spare.member), voter_of(&ring, MemberId(1)));
    let leaving = ring.apply(&Command::Leave(spare)).unwrap();
    assert!(!wanted_voters(&leaving).contains(&voter), "it is taken back");
    let change = |ring: &Ring, change| ring.apply(&Command::on_shard(ring, ShardId(0), change).unwrap()).unwrap();
    let serving = change(&change(&leaving, ShardChange::Add(spare)), ShardChange::Handover { to: spare });
    let wanted = wanted_voters(&serving);
    assert!(!wanted.contains(&replaced), "the member that it replaced can be retired");
    assert!(wanted.contains(&voter));
}

#[test]
fn a_process_that_cannot_read_what_the_others_send_is_not_let_in() {
    let mut ring = form(1, 2);
    for member in 0..2 {
        let if_version = ring.members[&MemberId(member)].version;
        let presence = presence(u64::from(member), 2, 2);
        ring = ring.apply(&Command::Announce { member: MemberId(member), if_version, presence }).unwrap();
    }
    ring = ring.apply(&Command::RaiseFeatureLevel { to: FeatureLevel(2) }).unwrap();
    let if_version = ring.members[&MemberId(0)].version;
    let older = Command::Announce { member: MemberId(0), if_version, presence: presence(0, 3, 1) };
    assert_eq!(ring.apply(&older), Err(Rejection::FeatureUnsupported { level: FeatureLevel(2) }));
}

#[test]
fn a_shard_starts_empty_only_when_every_in_sync_process_is_proven_gone() {
    let mut ring = form(1, 2);
    let on = Holder { member: MemberId(0), boot: BootId(2) };
    let if_version = ring.members[&MemberId(0)].version;
    let announce = Command::Announce { member: MemberId(0), if_version, presence: presence(0, 2, 1) };
    ring = ring.apply(&announce).unwrap();
    let start = |ring: &Ring| Command::on_shard(ring, ShardId(0), ShardChange::StartEmpty { on }).unwrap();
    assert_eq!(ring.apply(&start(&ring)), Err(Rejection::CopyMayExist { shard: ShardId(0), member: MemberId(1) }));
    ring = ring.apply(&Command::Gone(Holder { member: MemberId(1), boot: BootId(1) })).unwrap();
    ring = ring.apply(&start(&ring)).unwrap();
    let shard = &ring.shards[&ShardId(0)];
    assert_eq!((shard.primary, shard.losses, shard.recovered_at), (on, 1, Some(Position::default())));
}

/// A ring of two shards or three, each voter on a node of its own, with the voters that it wants.
fn with_settled_voters(shards: u16, copies: u16) -> Ring {
    let ring = form(shards, copies);
    let voters = wanted_voters(&ring);
    ring.with_voters(voters)
}

/// The member comes back on an empty disk: another boot, and another voter.
fn lose_disk(ring: &Ring, voter: VoterId) -> Ring {
    let (member, present) = ring.member_of_voter(voter).unwrap();
    let mut presence = present.present.clone().unwrap();
    presence.boot = BootId(presence.boot.0 + 1);
    presence.voter = VoterId(voter.0 + 1_000);
    ring.apply(&Command::Announce { member, if_version: present.version, presence }).unwrap()
}

fn after(ring: &Ring, step: VoteMove) -> Ring {
    let mut voters = ring.voters.clone();
    match step {
        VoteMove::Give { to, from } => {
            assert!(voters.insert(to), "{to} votes already");
            assert!(from.is_none_or(|from| voters.remove(&from)), "{from:?} has no vote");
        }
        VoteMove::Take { from } => assert!(voters.remove(&from), "{from} has no vote"),
    }
    ring.with_voters(voters)
}

/// Moves votes until none moves any more.
fn settle_votes(mut ring: Ring, is_alive: impl Fn(VoterId) -> bool) -> Ring {
    for _ in 0..20 {
        let Some(step) = next_vote_move(&ring, NO_LEADER, &is_alive) else { return ring };
        ring = after(&ring, step);
    }
    panic!("votes move for ever: {:?}", ring.voters);
}

#[test]
fn of_several_votes_that_have_to_go_the_leaders_goes_last() {
    let settled = with_settled_voters(4, 2);
    let leader = *settled.voters.first().unwrap();
    let leaving: Vec<MemberId> =
        settled.voters.iter().take(2).map(|voter| settled.member_of_voter(*voter).unwrap().0).collect();
    let mut ring = leaving.iter().fold(settled, |ring, member| {
        let boot = ring.members[member].boot().unwrap();
        ring.apply(&Command::Leave(Holder { member: *member, boot })).unwrap()
    });
    let mut gone = Vec::new();
    while let Some(step) = next_vote_move(&ring, leader, |_| true) {
        if let VoteMove::Give { from: Some(from), .. } | VoteMove::Take { from } = step {
            gone.push(from);
        }
        ring = after(&ring, step);
    }
    assert!(gone.len() > 1 && gone.last() == Some(&leader), "{gone:?}, and {leader} leads");
}

#[test]
fn two_voters_that_lose_their_disks_at_once_get_their_votes_back() {
    let mut ring = with_settled_voters(3, 2);
    assert_eq!(ring.voters.len(), 5);
    let lost: Vec<VoterId> = ring.voters.iter().copied().take(2).collect();
    for voter in &lost {
        ring = lose_disk(&ring, *voter);
    }
    let ring = settle_votes(ring, |voter| !lost.contains(&voter));
    assert_eq!(ring.voters.len(), 5);
    assert!(lost.iter().all(|voter| !ring.voters.contains(voter)), "{:?} still votes", ring.voters);
}

#[test]
fn a_lost_vote_moves_although_another_voter_is_silent_for_a_while() {
    let mut ring = with_settled_voters(3, 2);
    let [lost, paused] = [0, 1].map(|nth| *ring.voters.iter().nth(nth).unwrap());
    ring = lose_disk(&ring, lost);
    let ring = settle_votes(ring, |voter| voter != lost && voter != paused);
    assert!(!ring.voters.contains(&lost) && ring.voters.contains(&paused), "{:?}", ring.voters);
}

#[test]
fn no_vote_moves_once_the_majority_is_silent_or_while_a_wanted_voter_is() {
    let ring = with_settled_voters(3, 1);
    let lost: Vec<VoterId> = ring.voters.iter().copied().take(2).collect();
    let without_majority = lost.iter().fold(ring.clone(), |ring, voter| lose_disk(&ring, *voter));
    assert_eq!(next_vote_move(&without_majority, NO_LEADER, |voter| !lost.contains(&voter)), None);
    assert_eq!(next_vote_move(&ring, NO_LEADER, |voter| voter != lost[0]), None);
}

/// Whoever is silent, and whatever became of the disks: a step while voters are silent takes the vote of a silent one,
/// gives one to nobody who is silent, and leaves a majority that answers.
#[test]
fn no_vote_move_makes_a_quorum_harder_to_reach() {
    let mut moved_with_silent = 0;
    for seed in 0..4_000 {
        let mut rng = Rng(seed);
        let mut ring = with_settled_voters(1 + rng.below(3) as u16, 1 + rng.below(3) as u16);
        for voter in ring.voters.clone() {
            if rng.once_in(3) {
                ring = lose_disk(&ring, voter);
            }
        }
        let dead: Vec<VoterId> = ring.voters.iter().copied().filter(|v| ring.member_of_voter(*v).is_none()).collect();
        let paused: Vec<VoterId> = ring.voters.iter().copied().filter(|_| rng.once_in(5)).collect();
        let is_alive = |voter: VoterId| !dead.contains(&voter) && !paused.contains(&voter);
        let silent = |ring: &Ring| ring.voters.iter().filter(|voter| !is_alive(**voter)).count();
        for _ in 0..10 {
            let Some(step) = next_vote_move(&ring, NO_LEADER, is_alive) else { break };
            let next = after(&ring, step);
            if silent(&ring) > 0 {
                assert!(silent(&next) < silent(&ring), "seed {seed}: {step:?}");
                moved_with_silent += 1;
            }
            assert!(silent(&next) * 2 < next.voters.len(), "seed {seed}: {step:?} leaves no majority");
            ring = next;
        }
    }
    assert!(moved_with_silent > 100, "{moved_with_silent}");
}
