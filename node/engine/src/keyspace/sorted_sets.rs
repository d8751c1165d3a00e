//! Sorted sets: members in the order of (score, bytes). Small ones are packed in that order; large ones are a table by member beside a
//! sequence by score, which share each member's bytes.

use std::cmp::Ordering;

use super::hash::{Rng, Seed};
use super::packed::{Item, PACKED_ITEM_BYTES_MAX, PACKED_ITEMS_MAX, Packed, is_same};
use super::sequence::Sequence;
use super::table::{Element, HashTable, in_hash_order};
use super::thin::Thin;

/// What one member of a large sorted set is reckoned to cost beside its bytes.
const MEMBER_OVERHEAD_BYTES: usize = 40;

#[derive(Debug)]
pub(crate) enum SortedSet {
    /// Score, member, score, member, …: a score is the 8 bytes of the double.
    Packed(Packed),
    /// Both are boxed for the sake of the many sorted sets that are packed.
    Indexed { by_member: Box<HashTable<Scored>>, by_score: Box<Sequence<Scored>>, heap_bytes: usize },
}

/// Members with their scores, as they are read.
type Members<'a> = Box<dyn Iterator<Item = (&'a [u8], f64)> + 'a>;
/// The same with their hashes.
type HashedMembers<'a> = Box<dyn Iterator<Item = (u64, (&'a [u8], f64))> + 'a>;

/// A member under its score. The table and the sequence have a handle each.
#[derive(Debug, Clone)]
pub(crate) struct Scored(Thin<f64>);

impl Scored {
    fn new(member: &[u8], score: f64) -> Self {
        Self(Thin::new(score, &[member]))
    }

    fn score(&self) -> f64 {
        self.0.head()
    }

    fn member(&self) -> &[u8] {
        self.0.bytes()
    }

    fn show(&self) -> (&[u8], f64) {
        (self.member(), self.score())
    }
}

impl Element for Scored {
    fn hash(&self, seed: Seed) -> u64 {
        seed.hash(self.member())
    }

    fn tag(&self) -> u16 {
        self.0.tag()
    }

    fn set_tag(&mut self, tag: u16) {
        self.0.set_tag(tag);
    }
}

impl Default for SortedSet {
    fn default() -> Self {
        Self::Packed(Packed::default())
    }
}

impl SortedSet {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.len() / 2,
            Self::Indexed { by_score, .. } => by_score.len(),
        }
    }

    pub(crate) fn is_packed(&self) -> bool {
        matches!(self, Self::Packed(_))
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.heap_bytes(),
            Self::Indexed { heap_bytes, .. } => *heap_bytes,
        }
    }

    pub(crate) fn score(&self, seed: Seed, member: &[u8]) -> Option<f64> {
        match self {
            Self::Packed(packed) => pairs(packed).find(|(_, m)| is_same(m.bytes, member)).map(|(score, _)| read(score)),
            Self::Indexed { by_member, .. } => {
                by_member.get(seed.hash(member), |scored| scored.member() == member).map(Scored::score)
            }
        }
    }

    /// Adds a member or moves it to another score.
    pub(crate) fn set(&mut self, seed: Seed, member: &[u8], score: f64) {
        // Zero has one sign here.
        let score = score + 0.0;
        if let Self::Packed(packed) = self {
            if set_packed(packed, member, score) {
                return;
            }
            self.unpack(seed);
        }
        self.remove(seed, member);
        let Self::Indexed { by_member, by_score, heap_bytes } = self else { return };
        let scored = Scored::new(member, score);
        *heap_bytes += member.len() + MEMBER_OVERHEAD_BYTES;
        let rank = by_score.partition_point(|other| order((other.score(), other.member()), (score, member)).is_lt());
        by_member.insert(seed, seed.hash(member), scored.clone());
        by_score.insert(rank, scored);
    }

    pub(crate) fn remove(&mut self, seed: Seed, member: &[u8]) -> bool {
        match self {
            Self::Packed(packed) => {
                let span = pairs(packed).find(|(_, m)| is_same(m.bytes, member)).map(|(score, m)| score.span_to(&m));
                span.map(|span| packed.remove(span, 2)).is_some()
            }
            Self::Indexed { by_member, by_score, heap_bytes } => {
                let Some(found) = by_member.remove(seed, seed.hash(member), |scored| scored.member() == member) else {
                    return false;
                };
                let rank = by_score
                    .partition_point(|other| order((other.score(), other.member()), (found.score(), member)).is_lt());
                by_score.remove(rank);
                *heap_bytes -= member.len() + MEMBER_OVERHEAD_BYTES;
                true
            }
        }
    }

    /// How many members hold, given that all that hold come first.
    pub(crate) fn partition_point(&self, holds: impl Fn(f64, &[u8]) -> bool) -> usize {
        match self {
            Self::Packed(packed) => pairs(packed).take_while(|(score, m)| holds(read(*score), m.bytes)).count(),
            Self::Indexed { by_score, .. } => by_score.partition_point(|scored| holds(scored.score(), scored.member())),
        }
    }

    /// The rank of a member, from the lowest score.
    pub(crate) fn rank(&self, seed: Seed, member: &[u8]) -> Option<(usize, f64)> {
        let score = self.score(seed, member)?;
        Some((self.partition_point(|s, m| order((s, m), (score, member)).is_lt()), score))
    }

    /// Members with their scores, from rank `start` up to, not including, `end`; last first if `reverse`.
    pub(crate) fn range(&self, start: usize, end: usize, reverse: bool) -> Members<'_> {
        match self {
            Self::Packed(packed) => {
                let count = end.saturating_sub(start);
                let part = pairs(packed).skip(start).take(count).map(|(score, m)| (m.bytes, read(score)));
                if reverse { Box::new(part.collect::<Vec<_>>().into_iter().rev()) } else { Box::new(part) }
            }
            Self::Indexed { by_score, .. } => {
                if reverse {
                    Box::new(by_score.range_rev(start, end).map(Scored::show))
                } else {
                    Box::new(by_score.range(start, end).map(Scored::show))
                }
            }
        }
    }

    /// Members with their scores, in some order.
    pub(crate) fn iter(&self) -> Members<'_> {
        self.range(0, usize::MAX, false)
    }

    /// As [`HashTable::scan`]; a packed set is visited at once.
    pub(crate) fn scan(&self, seed: Seed, from: u64, count: usize, mut visit: impl FnMut(&[u8], f64)) -> Option<u64> {
        match self {
            Self::Packed(_) => {
                self.iter().for_each(|(member, score)| visit(member, score));
                None
            }
            Self::Indexed { by_member, .. } => {
                by_member.scan(seed, from, count, |scored| visit(scored.member(), scored.score()))
            }
        }
    }

    /// Any member, each as likely as any other.
    pub(crate) fn sample(&self, rng: &mut Rng) -> Option<(&[u8], f64)> {
        let rank = rng.below(self.len());
        self.range(rank, rank.saturating_add(1), false).next()
    }

    /// Members with their hashes and scores, in hash order from a hash on.
    pub(crate) fn iter_from(&self, seed: Seed, from: u64) -> HashedMembers<'_> {
        match self {
            Self::Packed(_) => Box::new(in_hash_order(from, self.iter().map(move |pair| (seed.hash(pair.0), pair)))),
            Self::Indexed { by_member, .. } => {
                Box::new(by_member.iter_from(seed, from).map(|(hash, scored)| (hash, scored.show())))
            }
        }
    }

    fn unpack(&mut self, seed: Seed) {
        let (mut by_member, mut by_score, mut heap_bytes) =
            (Box::<HashTable<_>>::default(), Box::<Sequence<_>>::default(), 0);
        for (member, score) in self.iter() {
            let scored = Scored::new(member, score);
            heap_bytes += member.len() + MEMBER_OVERHEAD_BYTES;
            by_member.insert(seed, seed.hash(member), scored.clone());
            by_score.insert(by_score.len(), scored);
        }
        *self = Self::Indexed { by_member, by_score, heap_bytes };
    }
}

/// Adds or moves a member, unless the set is to be packed no more.
fn set_packed(packed: &mut Packed, member: &[u8], score: f64) -> bool {
    let (mut present, mut behind) = (None, None);
    for (s, m) in pairs(packed) {
        if present.is_none() && is_same(m.bytes, member) {
            present = Some(s.span_to(&m));
        } else if behind.is_none() && order((read(s), m.bytes), (score, member)).is_gt() {
            behind = Some(s.span());
        }
        if present.is_some() && behind.is_some() {
            break;
        }
    }
    if present.is_none() && packed.len() >= 2 * PACKED_ITEMS_MAX || member.len() > PACKED_ITEM_BYTES_MAX {
        return false;
    }
    // What goes last goes first, so that the other's place stays what it is.
    match (present, behind) {
        (Some(present), Some(behind)) if present.is_before(behind) => {
            packed.insert(Some(behind), [&score.to_le_bytes(), member]);
            packed.remove(present, 2);
        }
        (present, behind) => {
            if let Some(present) = present {
                packed.remove(present, 2);
            }
            packed.insert(behind, [&score.to_le_bytes(), member]);
        }
    }
    true
}

/// The order of a sorted set. No score is not-a-number, and -0 equals 0.
fn order(a: (f64, &[u8]), b: (f64, &[u8])) -> Ordering {
    a.0.partial_cmp(&b.0).unwrap_or(Ordering::Equal).then_with(|| a.1.cmp(b.1))
}

fn pairs(packed: &Packed) -> impl Iterator<Item = (Item<'_>, Item<'_>)> {
    let mut items = packed.items();
    std::iter::from_fn(move || Some((items.next()?, items.next()?)))
}

fn read(score: Item<'_>) -> f64 {
    score.bytes.first_chunk().map_or(0.0, |bytes| f64::from_le_bytes(*bytes))
}
