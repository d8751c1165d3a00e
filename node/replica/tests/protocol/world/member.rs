//! What a member's shell does: it gives in what came, and does what comes out.

use ringmaster_replica::*;
use ringmaster_ring::*;

use super::{Connection, Envelope, Frame, MS, OutStream, Packet, TICK, World, presence};
use crate::ledger::Writes;

impl World {
    /// The process is not there, or is another one: whoever connects is told.
    pub(super) fn refuse(&mut self, envelope: Envelope) {
        let Envelope { from, to, packet, .. } = envelope;
        match packet {
            Packet::Subscribe { stream, .. } => self.send(to, from, Packet::StreamLost { stream }),
            Packet::Probe => {
                let member = MemberId(to as u32);
                self.send(to, from, Packet::Probed { member, result: Probe::Refused });
            }
            _ => {}
        }
    }

    pub(super) fn deliver(&mut self, envelope: Envelope) {
        let Envelope { from, to, packet, .. } = envelope;
        let member = MemberId(from as u32);
        match packet {
            Packet::Tick => self.tick(to),
            Packet::LogEnd => {
                let end = Seq(self.nodes[to].log.len() as u64);
                self.input(to, Input::LogEnd(end));
            }
            Packet::Barrier => {
                let end = Seq(self.nodes[to].log.len() as u64);
                self.input(to, Input::Barrier { end });
            }
            Packet::Applied { last } => self.input(to, Input::Applied { last }),
            Packet::Discarded => {
                let node = &mut self.nodes[to];
                node.log.clear();
                node.set = Writes::NONE;
                node.kept_after = 0;
                self.input(to, Input::Discarded);
            }
            Packet::Pump => self.pump(to),
            Packet::Flush => self.flush(to),
            Packet::RoundChecked { round, leadership } => {
                let confirmed = self.leader == Some(to) && self.leadership == leadership;
                let delay = self.delay();
                self.local(to, delay, Packet::RoundResult { round, confirmed });
            }
            Packet::RoundResult { round, confirmed } => {
                let input =
                    if confirmed { LeadInput::QuorumConfirmed { round } } else { LeadInput::QuorumFailed { round } };
                self.lead_input(to, input);
            }
            Packet::LeadRing { index } => {
                let ring = self.rings[index].clone();
                self.nodes[to].known = self.nodes[to].known.max(index);
                self.lead_input(to, LeadInput::Ring(ring));
            }
            Packet::Leading { leadership } => {
                if self.leader == Some(to) && self.leadership == leadership {
                    let ring = self.ring().clone();
                    self.lead_input(to, LeadInput::Ring(ring));
                    self.nodes[to].leads_in = leadership;
                    self.lead_input(to, LeadInput::Leading);
                }
            }
            Packet::NotLeading => {
                if self.leader != Some(to) {
                    self.lead_input(to, LeadInput::NotLeading);
                }
            }
            Packet::Restart => self.boot_again(to),
            Packet::Learn { index } => {
                let ring = self.rings[index].clone();
                self.nodes[to].known = self.nodes[to].known.max(index);
                if self.nodes[to].data {
                    self.input(to, Input::Ring(ring));
                }
                self.announce(to);
            }
            Packet::LeaseAsk { ask, shard, epoch, holder } => {
                let route = RouteId(from as u64);
                self.lead_input(to, LeadInput::LeaseAsk { route, ask, shard, epoch, holder });
            }
            Packet::LeaseAnswer { ask, granted, prev_over } => {
                if granted {
                    self.input(to, Input::LeaseGranted { ask, prev_over });
                }
            }
            Packet::Propose { command, leadership } => {
                if Some(to) == self.leader && leadership.is_none_or(|leadership| leadership == self.leadership) {
                    self.commit(&command);
                }
            }
            Packet::Probe => {
                let node = &self.nodes[to];
                let shard_epoch = node.replica.gate_state().epoch;
                let result = Probe::Alive { boot: node.boot, shard_epoch, position: node.replica.position() };
                self.send(to, from, Packet::Probed { member: MemberId(to as u32), result });
            }
            Packet::Probed { member, result } => self.lead_input(to, LeadInput::Probed { member, result }),
            Packet::Subscribe { stream, boot, epoch, last, may_discard } => {
                let from = Holder { member, boot };
                let log_end = Seq(self.nodes[to].log.len() as u64);
                let kept_after = Seq(self.nodes[to].kept_after);
                self.input(to, Input::Subscribe { stream, from, epoch, last, may_discard, kept_after, log_end });
            }
            Packet::Ack { stream, boot, epoch, seq } => {
                self.input(to, Input::Ack { stream, from: Holder { member, boot }, epoch, seq });
            }
            Packet::CopyLost { stream, boot } => {
                let from = Holder { member, boot };
                if self.nodes[to].out.get(&member).is_some_and(|out| out.to == from && out.stream == stream) {
                    self.nodes[to].out.remove(&member);
                }
                self.input(to, Input::CopyLost { stream, from });
            }
            Packet::StreamLost { stream } => self.input(to, Input::StreamLost { stream }),
            Packet::Stream { stream, what } => self.frame(to, stream, what),
        }
    }

    pub(super) fn tick(&mut self, to: usize) {
        self.local(to, TICK, Packet::Tick);
        if self.nodes[to].data {
            self.input(to, Input::Tick);
            self.heartbeats(to);
            self.flush(to);
        }
        self.lead_input(to, LeadInput::Tick);
        self.announce(to);
    }

    pub(super) fn announce(&mut self, index: usize) {
        let (boot, known) = (self.nodes[index].boot, self.nodes[index].known);
        let id = MemberId(index as u32);
        let Some(member) = self.rings[known].members.get(&id).filter(|m| m.is_active()) else { return };
        if member.boot() != Some(boot) && self.now >= self.nodes[index].announced_at + 20 * MS {
            self.nodes[index].announced_at = self.now;
            let presence = presence(index, boot);
            let command = Command::Announce { member: id, if_version: member.version, presence };
            self.propose(index, command);
        }
    }

    pub(super) fn propose(&mut self, from: usize, command: Command) {
        if let Some(to) = self.believed_leader[from] {
            self.send(from, to, Packet::Propose { command, leadership: None });
        }
    }

    pub(super) fn frame(&mut self, to: usize, stream: StreamId, what: Frame) {
        match what {
            Frame::Accepted { epoch, start } => self.input(to, Input::Accepted { stream, epoch, start }),
            Frame::Refused { reason } => self.input(to, Input::Refused { stream, reason }),
            Frame::Walk { .. } if self.nodes[to].walk_allowed != Some(stream) => {
                self.nodes[to].walk_waiting = Some((stream, what));
            }
            Frame::Walk { epoch, entries, end, history } => {
                let node = &mut self.nodes[to];
                node.set = Writes::NONE;
                entries.iter().for_each(|entry| node.set.insert(entry.id));
                node.log = entries;
                node.kept_after = end.seq.0;
                node.walk_allowed = None;
                self.input(to, Input::WalkDone { stream, epoch, end, history });
            }
            Frame::Records { epoch, first, entries, committed } => {
                let last = Seq(first.0 + entries.len() as u64 - 1);
                let entry_epoch = entries[0].epoch;
                let numbered = entries.into_iter().enumerate();
                self.nodes[to].records = numbered.map(|(n, entry)| (Seq(first.0 + n as u64), entry)).collect();
                self.input(to, Input::Records { stream, epoch, entry_epoch, first, last, committed });
            }
            Frame::Heartbeat { epoch, end, committed } => {
                self.input(to, Input::Heartbeat { stream, epoch, end, committed });
            }
            Frame::Release { epoch, last } => self.input(to, Input::Release { stream, epoch, last }),
        }
    }

    pub fn input(&mut self, index: usize, input: Input) {
        let now = self.clock(index);
        let mut outputs = Vec::new();
        self.nodes[index].replica.handle(input, now, &mut outputs);
        for output in outputs {
            self.output(index, output);
        }
    }

    pub(super) fn output(&mut self, index: usize, output: Output) {
        if self.trace.is_some() {
            self.note(|| format!("      {index}: {output:?}"));
        }
        let boot = self.nodes[index].boot;
        let node_of = |holder: Holder| holder.member.0 as usize;
        match output {
            Output::AskLease { ask, shard, epoch, holder } => {
                if let Some(leader) = self.believed_leader[index] {
                    self.send(index, leader, Packet::LeaseAsk { ask, shard, epoch, holder });
                }
            }
            Output::Propose(command) => self.propose(index, command),
            Output::Publish(state) => {
                let before = self.nodes[index].gate.committed();
                let wake = self.nodes[index].gate.publish(&state);
                if wake {
                    let delay = self.rng.below(3) * 100_000;
                    self.local(index, delay, Packet::Flush);
                }
                if state.committed != before {
                    self.heartbeats(index);
                }
            }
            Output::Serve { epoch, start } => {
                assert_eq!(start.seq.0, self.nodes[index].log.len() as u64, "serves from another end than the log's");
                self.nodes[index].log_epoch = epoch;
            }
            Output::Barrier => {
                let delay = self.rng.below(1_000) * 1_000;
                self.local(index, delay, Packet::Barrier);
            }
            Output::OpenStream { stream, to, epoch, start } => {
                let (walk, next) = match start {
                    StreamStart::After(seq) => (false, seq.0 + 1),
                    StreamStart::Walk => (true, 0),
                };
                let out = OutStream { stream, to, epoch, walk, next, release: None };
                self.nodes[index].out.insert(to.member, out);
                self.frame_to(index, to, stream, Frame::Accepted { epoch, start });
                self.local(index, 100_000, Packet::Pump);
            }
            Output::RefuseStream { stream, to, reason } => self.frame_to(index, to, stream, Frame::Refused { reason }),
            Output::CloseStream { stream, to } => {
                if self.nodes[index].out.get(&to.member).is_some_and(|out| out.stream == stream) {
                    self.nodes[index].out.remove(&to.member);
                }
                let packet = Packet::StreamLost { stream };
                self.send_on_stream(index, node_of(to), (node_of(to), to.boot), stream, packet);
            }
            Output::Release { stream, to, epoch, last } => {
                if let Some(out) = self.nodes[index].out.get_mut(&to.member).filter(|out| out.stream == stream) {
                    out.epoch = epoch;
                    out.release = Some((epoch, last));
                }
                self.pump(index);
            }
            Output::Follow { stream, primary, epoch, last, may_discard } => {
                self.nodes[index].walk_allowed = None;
                let connection = Connection { alive: true, last_at: [0; 2] };
                self.connections.insert((index, boot, stream), connection);
                let packet = Packet::Subscribe { stream, boot, epoch, last, may_discard };
                self.send_on_stream(index, node_of(primary), (index, boot), stream, packet);
            }
            Output::Unfollow { stream } => {
                self.nodes[index].walk_allowed = None;
                let primary = (0..self.nodes.len()).find(|n| {
                    let out = self.nodes[*n].out.get(&MemberId(index as u32));
                    out.is_some_and(|out| out.stream == stream && out.to.boot == boot)
                });
                if let Some(primary) = primary {
                    self.send_on_stream(index, primary, (index, boot), stream, Packet::CopyLost { stream, boot });
                }
                self.connections.remove(&(index, boot, stream));
            }
            Output::Walk { stream } => {
                self.nodes[index].walk_allowed = Some(stream);
                if let Some((waiting, frame)) = self.nodes[index].walk_waiting.take()
                    && waiting == stream
                {
                    let envelope = Packet::Stream { stream, what: frame };
                    self.local(index, 1_000, envelope);
                }
            }
            Output::Apply { stream: _, first, last } => {
                let node = &mut self.nodes[index];
                for (seq, entry) in std::mem::take(&mut node.records) {
                    assert!(first <= seq && seq <= last && seq.0 == node.log.len() as u64 + 1, "applied out of order");
                    node.log.push(entry);
                    node.set.insert(entry.id);
                }
                let epoch = node.log.last().map_or(ShardEpoch(0), |entry| entry.epoch);
                let delay = self.rng.below(4) * 50_000;
                self.local(index, delay, Packet::Applied { last: Position { epoch, seq: last } });
            }
            Output::SendAck { stream, to, epoch, seq } => {
                let packet = Packet::Ack { stream, boot, epoch, seq };
                self.send_on_stream(index, node_of(to), (index, boot), stream, packet);
            }
            Output::Discard => {
                let delay = self.rng.below(5) * MS;
                self.local(index, delay, Packet::Discarded);
            }
        }
    }

    pub(super) fn frame_to(&mut self, from: usize, to: Holder, stream: StreamId, what: Frame) {
        let copy = to.member.0 as usize;
        self.send_on_stream(from, copy, (copy, to.boot), stream, Packet::Stream { stream, what });
    }

    pub(super) fn heartbeats(&mut self, index: usize) {
        let (end, committed) = (Seq(self.nodes[index].log.len() as u64), self.nodes[index].gate.committed());
        for out in self.nodes[index].out.values().cloned().collect::<Vec<_>>() {
            self.frame_to(index, out.to, out.stream, Frame::Heartbeat { epoch: out.epoch, end, committed });
        }
    }

    /// Sends on each stream what it lacks.
    pub(super) fn pump(&mut self, index: usize) {
        let committed = self.nodes[index].gate.committed();
        for member in self.nodes[index].out.keys().copied().collect::<Vec<_>>() {
            loop {
                let node = &mut self.nodes[index];
                let Some(out) = node.out.get_mut(&member) else { break };
                let (to, stream, epoch) = (out.to, out.stream, out.epoch);
                let what = if out.walk {
                    out.walk = false;
                    out.next = node.log.len() as u64 + 1;
                    let end = node.log.last().map_or(Position::default(), |entry| Position {
                        epoch: entry.epoch,
                        seq: Seq(node.log.len() as u64),
                    });
                    let history = node.replica.history().clone();
                    Frame::Walk { epoch, entries: node.log.clone(), end, history }
                } else if let Some(entry_epoch) = node.log.get(out.next as usize - 1).map(|entry| entry.epoch) {
                    let rest = &node.log[out.next as usize - 1..];
                    let entries: Vec<_> = rest.iter().copied().take_while(|e| e.epoch == entry_epoch).take(4).collect();
                    let first = Seq(out.next);
                    out.next += entries.len() as u64;
                    Frame::Records { epoch, first, entries, committed }
                } else if let Some((epoch, last)) = out.release.take() {
                    Frame::Release { epoch, last }
                } else {
                    break;
                };
                self.frame_to(index, to, stream, what);
            }
        }
    }

    pub(super) fn lead_input(&mut self, index: usize, input: LeadInput) {
        let now = self.clock(index);
        let mut outputs = Vec::new();
        self.nodes[index].lead.handle(input, now, &mut outputs);
        for output in outputs {
            match output {
                LeadOutput::ConfirmQuorum { round } => {
                    let (delay, leadership) = (self.delay(), self.nodes[index].leads_in);
                    self.local(index, delay, Packet::RoundChecked { round, leadership });
                }
                LeadOutput::Answer { route, ask, granted, prev_over } => {
                    self.send(index, route.0 as usize, Packet::LeaseAnswer { ask, granted, prev_over });
                }
                LeadOutput::Propose(command) => {
                    let leadership = Some(self.nodes[index].leads_in);
                    self.send(index, index, Packet::Propose { command, leadership });
                }
                LeadOutput::Probe { member } => self.send(index, member.0 as usize, Packet::Probe),
            }
        }
    }
}
