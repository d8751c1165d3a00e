//! What DEBUG asks of the data: digests, how a key is stored, and whether every value survives being written and read again.
//!
//! Digests are those of Valkey, so that two servers with the same data say the same, whichever they are. Source: there is no other
//! documentation than the code of `DEBUG DIGEST`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use ringmaster_ring::Slot;
use sha1::{Digest, Sha1};

use super::{Access, Ctx, Engine, Eviction, Executed, Lanes};
use crate::keyspace::{Entry, Key, Lane, ValueRef};
use crate::rdb;
use crate::record::{Change, Effect, RecordWriter, effects};
use crate::resp::ReplyBuf;

const NO_SUCH_KEY: &str = "ERR no such key";
/// What a payload has besides the value.
const FOOTER_BYTES: usize = 11;

/// SHA-1 sums, combined so that order counts ([`Sum::mix`]) or does not ([`Sum::add`]).
#[derive(Clone, Copy, Default)]
struct Sum([u8; 20]);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        let hash: [u8; 20] = Sha1::digest(bytes).into();
        self.0.iter_mut().zip(hash).for_each(|(sum, byte)| *sum ^= byte);
    }

    fn mix(&mut self, bytes: &[u8]) {
        self.add(bytes);
        self.0 = Sha1::digest(self.0).into();
    }

    fn combine(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, byte)| *sum ^= byte);
    }

    fn of(parts: &[&[u8]]) -> Self {
        let mut sum = Self::default();
        parts.iter().for_each(|part| sum.mix(part));
        sum
    }

    fn text(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Adds a value to what is known of its key.
    fn add_value(&mut self, entry: &Entry) {
        let value = entry.value();
        let number: u32 = match value {
            ValueRef::String(_) => 0,
            ValueRef::List(_) => 1,
            ValueRef::Set(_) => 2,
            ValueRef::SortedSet(_) => 3,
            ValueRef::Hash(_) => 4,
            ValueRef::Stream(_) => 6,
        };
        self.mix(&number.to_be_bytes());
        match value {
            ValueRef::String(string) => self.mix(string),
            ValueRef::List(list) => list.range(0, usize::MAX).for_each(|element| self.mix(element)),
            ValueRef::Set(set) => set.iter().for_each(|member| self.add(member)),
            ValueRef::SortedSet(set) => set.iter().for_each(|(member, score)| {
                self.add(&Self::of(&[member, shortest(score).as_bytes()]).0);
            }),
            ValueRef::Hash(hash) => hash.iter().for_each(|(field, value)| self.add(&Self::of(&[field, value]).0)),
            ValueRef::Stream(stream) => {
                for (id, fields) in
                    stream.range(crate::stream_change::StreamId::MIN, crate::stream_change::StreamId::MAX)
                {
                    self.mix(format!("{}.{}", id.ms, id.seq).as_bytes());
                    fields.for_each(|part| self.mix(part));
                }
            }
        }
        if entry.expires_at().is_some() {
            self.add(b"!!expire!!");
        }
    }
}

impl Engine {
    /// `DEBUG DIGEST`: of all databases at one moment.
    pub fn debug_digest(&self, ctx: &Ctx<'_>, reply: &mut ReplyBuf) -> Executed {
        let Some(mut txn) = self.begin_unless_busy(Lanes::all(), ctx) else { return Executed::NotPermitted };
        if !(ctx.permit)(Access::Read) {
            return Executed::NotPermitted;
        }
        let mut databases: BTreeMap<u8, Sum> = BTreeMap::new();
        let visited = txn.visit_lanes(0, |_, lane| {
            for entry in lane.all_entries().filter(|entry| !entry.is_expired(ctx.now)) {
                let mut sum = Sum::of(&[entry.key()]);
                sum.add_value(entry);
                databases.entry(entry.db()).or_default().add(&sum.0);
            }
            ControlFlow::Continue(())
        });
        let mut all = Sum::default();
        for (db, sum) in databases {
            all.mix(&u32::from(db).to_be_bytes());
            all.combine(sum);
        }
        if visited.is_err() {
            return Executed::NotPermitted;
        }
        reply.simple(&all.text());
        self.end(&mut txn)
    }

    /// `DEBUG DIGEST-VALUE key…`: of each value, zeros where there is none.
    pub fn debug_digests_of(&self, keys: &[&[u8]], ctx: &Ctx<'_>, reply: &mut ReplyBuf) -> Executed {
        let Some(mut txn) = self.begin_unless_busy(super::script::lanes_of_keys(keys), ctx) else {
            return Executed::NotPermitted;
        };
        if txn.holds_lanes() && !(ctx.permit)(Access::Read) {
            return Executed::NotPermitted;
        }
        reply.array(keys.len());
        for key in keys {
            let mut sum = Sum::default();
            if let Some(entry) = txn.peek(&txn.key(key)) {
                sum.add_value(entry);
            }
            reply.simple(&sum.text());
        }
        self.end(&mut txn)
    }

    /// `DEBUG OBJECT key [FAST]`: as `fast`, without the length of its dump.
    pub fn debug_object(&self, key: &[u8], fast: bool, ctx: &Ctx<'_>, reply: &mut ReplyBuf) -> Executed {
        let Some(mut txn) = self.begin_unless_busy(super::script::lanes_of_keys(&[key]), ctx) else {
            return Executed::NotPermitted;
        };
        if !(ctx.permit)(Access::Read) {
            return Executed::NotPermitted;
        }
        match txn.peek(&txn.key(key)) {
            None => reply.error(NO_SUCH_KEY),
            Some(entry) => {
                let value = entry.value();
                let length = match fast {
                    true => String::new(),
                    false => format!(" serializedlength:{}", rdb::dump(value).len().saturating_sub(FOOTER_BYTES)),
                };
                // Where it is tells nobody anything, so it is not told.
                reply.simple(&format!(
                    "Value at:0x0 refcount:1 encoding:{}{length} lru:0 lru_seconds_idle:{}",
                    value.encoding(),
                    entry.usage().idle_s(ctx.now)
                ));
            }
        }
        self.end(&mut txn)
    }

    /// `DEBUG RELOAD`: writes every value as DUMP does and reads it again, as RESTORE does, into a keyspace of its own. The data stays.
    pub fn debug_reload(&self, ctx: &Ctx<'_>, reply: &mut ReplyBuf) -> Executed {
        let Some(mut txn) = self.begin_unless_busy(Lanes::None, ctx) else { return Executed::NotPermitted };
        let mut other = None;
        let visited = txn.visit_lanes(0, |number, lane| {
            let mut scratch = Lane::new(self.seed, Eviction::NoEviction, number);
            other = lane.all_entries().find(|entry| !self.survives(entry, &mut scratch, ctx)).map(|e| e.key().to_vec());
            if other.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if visited.is_err() {
            return Executed::NotPermitted;
        }
        match other {
            None => reply.ok(),
            Some(key) => {
                let key = String::from_utf8_lossy(&key).into_owned();
                reply.error(&format!("ERR the value of '{key}' is another one once it was written and read again"));
            }
        }
        self.end(&mut txn)
    }

    /// Whether a value is the same once it was written and read again.
    fn survives(&self, entry: &Entry, scratch: &mut Lane, ctx: &Ctx<'_>) -> bool {
        let key = Key { slot: Slot::of_key(entry.key()), ..Key::new(self.seed, entry.db(), entry.key()) };
        let mut description = RecordWriter::default();
        let payload = rdb::dump(entry.value());
        let read = rdb::restore(&payload, &mut |change| {
            description.push(&Effect::Keyed { db: key.db, key: key.bytes, change });
        });
        let applied = effects(description.content()).all(|effect| match effect {
            Ok(Effect::Keyed { change, .. }) => scratch.apply(&key, &change, ctx.now).is_ok(),
            _ => false,
        });
        let same = scratch.entry(&key).is_some_and(|other| other.value().digest() == entry.value().digest());
        let removed = scratch.apply(&key, &Change::Del, ctx.now).is_ok();
        read.is_ok() && applied && same && removed
    }
}

/// A score as Valkey 9 writes it here: the fewest digits that mean it, with an exponent where that is much shorter.
fn shortest(number: f64) -> String {
    let scientific = format!("{:e}", number.abs());
    let sign = if number.is_sign_negative() { "-" } else { "" };
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return format!("{sign}{scientific}") };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    let count = i32::try_from(digits.len()).unwrap_or(0);
    // How many zeros follow the last digit; if negative, how many digits are behind the point.
    let zeros = exponent - (count - 1);
    let magnitude = exponent.abs();
    let text = match usize::try_from(zeros) {
        Ok(zeros) if magnitude < count + 7 => format!("{digits}{}", "0".repeat(zeros)),
        Err(_) if zeros > -7 || magnitude < 4 => match usize::try_from(count + zeros) {
            Ok(whole) if whole > 0 => {
                let (whole, behind) = digits.split_at_checked(whole).unwrap_or((&digits, ""));
                format!("{whole}.{behind}")
            }
            _ => format!("0.{}{digits}", "0".repeat((count + zeros).unsigned_abs() as usize)),
        },
        _ => format!("{mantissa}e{}{magnitude}", if exponent < 0 { '-' } else { '+' }),
    };
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_written_as_in_valkey() {
        for (number, text) in [
            (1.0, "1"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (1e300, "1e+300"),
            (3.012345678901, "3.012345678901"),
            (1e20, "1e+20"),
            (1e5, "100000"),
            (1e8, "1e+8"),
            (123_456_789.125, "123456789.125"),
            (0.00001, "0.00001"),
            (5e-324, "5e-324"),
            (1_234_567_890_123_456_789.0, "1234567890123456800"),
            (0.0, "0"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(shortest(number), text);
        }
    }
}
