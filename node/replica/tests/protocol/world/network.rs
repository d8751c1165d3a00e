//! Delays, losses, cuts, and streams that keep their order until they break.

use ringmaster_replica::*;
use ringmaster_ring::*;

use super::{Envelope, Fate, MS, Network, Packet, Queued, World};
use std::cmp::Reverse;

impl World {
    pub(super) fn enqueue(&mut self, at: u64, envelope: Envelope) {
        self.order += 1;
        self.queue.push(Reverse(Queued { at, order: self.order, envelope }));
    }

    /// Something that happens inside a member after `delay`, if it is still the same process.
    pub(super) fn local(&mut self, index: usize, delay: u64, packet: Packet) {
        let to_boot = match packet {
            Packet::Restart => None,
            _ => Some(self.nodes[index].boot),
        };
        self.enqueue(self.now + delay, Envelope { from: index, to: index, to_boot, packet });
    }

    pub(super) fn delay(&mut self) -> u64 {
        let Network { delay_us: (low, high), slow_per_mille, slow_ms, .. } = self.network;
        if self.rng.per_mille(slow_per_mille) {
            self.rng.between(slow_ms.0, slow_ms.1) * MS
        } else {
            self.rng.between(low, high) * 1_000
        }
    }

    /// Sends between members. Packets outside streams may overtake each other and get lost.
    pub(super) fn send(&mut self, from: usize, to: usize, packet: Packet) {
        let to_boot = None;
        self.filter_or(Envelope { from, to, to_boot, packet }, |world, envelope| {
            let lost = world.rng.per_mille(world.network.lost_per_mille);
            if lost || world.cut.contains(&(from, to)) {
                return;
            }
            let at = world.now + world.delay();
            world.enqueue(at, envelope);
        });
    }

    /// Sends on a stream of the copy `(copy, boot)`: in order, until it breaks.
    pub(super) fn send_on_stream(
        &mut self,
        from: usize,
        to: usize,
        copy: (usize, BootId),
        stream: StreamId,
        packet: Packet,
    ) {
        let to_boot = (to == copy.0).then_some(copy.1);
        self.filter_or(Envelope { from, to, to_boot, packet }, |world, envelope| {
            let key = (copy.0, copy.1, stream);
            let delay = world.delay();
            let lost = world.network.lost_per_mille > 0 && world.rng.per_mille(world.network.lost_per_mille / 8);
            if lost || world.cut.contains(&(from, to)) {
                return world.break_stream(key, from + to - copy.0);
            }
            let Some(connection) = world.connections.get_mut(&key).filter(|c| c.alive) else { return };
            let last = &mut connection.last_at[usize::from(to == copy.0)];
            *last = (world.now + delay).max(*last);
            let at = *last;
            world.enqueue(at, envelope);
        });
    }

    pub(super) fn filter_or(&mut self, envelope: Envelope, go_on: impl FnOnce(&mut Self, Envelope)) {
        match self.filters.iter().find(|(_, names)| names(&envelope)) {
            Some((Fate::Lose, _)) => {}
            Some((Fate::Hold, _)) => self.held.push(envelope),
            None => go_on(self, envelope),
        }
    }

    /// Both ends hear of it some time later; what was under way is lost.
    pub(super) fn break_stream(&mut self, key: (usize, BootId, StreamId), primary: usize) {
        let (copy, boot, stream) = key;
        let Some(connection) = self.connections.get_mut(&key).filter(|c| c.alive) else { return };
        connection.alive = false;
        let (a, b) = (self.rng.between(1, 100) * MS, self.rng.between(1, 100) * MS);
        let lost = Envelope { from: primary, to: copy, to_boot: Some(boot), packet: Packet::StreamLost { stream } };
        self.enqueue(self.now + a, lost);
        let packet = Packet::CopyLost { stream, boot };
        self.enqueue(self.now + b, Envelope { from: copy, to: primary, to_boot: None, packet });
    }

    pub(super) fn break_streams_of(&mut self, index: usize) {
        let keys: Vec<_> = self.connections.iter().filter(|(_, c)| c.alive).map(|(key, _)| *key).collect();
        for key in keys {
            let primaries: Vec<usize> = (0..self.nodes.len())
                .filter(|n| {
                    let to = Holder { member: MemberId(key.0 as u32), boot: key.1 };
                    self.nodes[*n].out.values().any(|out| out.to == to && out.stream == key.2)
                })
                .collect();
            for primary in primaries {
                if key.0 == index || primary == index {
                    self.break_stream(key, primary);
                }
            }
        }
    }

    /// Holds or loses every packet that `names` names, from now on.
    pub fn filter(&mut self, fate: Fate, names: impl Fn(&Envelope) -> bool + 'static) {
        self.filters.push((fate, Box::new(names)));
    }

    /// Takes away every filter; what was held arrives now, in the order in which it was sent.
    pub fn release_held(&mut self) {
        self.filters.clear();
        for envelope in std::mem::take(&mut self.held) {
            self.enqueue(self.now, envelope);
        }
    }

    /// What was held and is named arrives now. The filters stay.
    pub fn release_where(&mut self, names: impl Fn(&Envelope) -> bool) {
        let (released, held) = std::mem::take(&mut self.held).into_iter().partition(|envelope| names(envelope));
        self.held = held;
        let released: Vec<Envelope> = released;
        for envelope in released {
            self.enqueue(self.now, envelope);
        }
    }

    pub fn lose_held(&mut self) {
        self.filters.clear();
        self.held.clear();
    }

    pub fn held(&self) -> usize {
        self.held.len()
    }

    pub fn isolate(&mut self, index: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != index) {
            self.cut.insert((index, other));
            self.cut.insert((other, index));
        }
        self.break_streams_of(index);
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }
}
