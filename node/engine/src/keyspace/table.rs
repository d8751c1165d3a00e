//! A hash table in hash order whose growth never stops the world: extendible hashing.
//!
//! A segment holds up to [`SEGMENT_ITEMS_MAX`] items in the order of their hashes and splits in two when it is full, which moves only its own
//! items. A directory, indexed by the top bits of the hash, says which segment holds what; it doubles by copying four bytes a segment.
//! So hash order is the same whatever the table's size: a cursor into it (SCAN's, the slot stream's) stays true under growth and shrinking.
//!
//! Source: Fagin et al., "Extendible Hashing", 1979; the ordered segments as in Dash (Lu et al., 2020), without its stash.

use super::hash::Rng;

const SEGMENT_ITEMS_MAX: usize = 32;
/// Room grows by this many items: a segment that doubled would waste a quarter of its memory.
const SEGMENT_ITEMS_STEP: usize = 4;
/// A segment that all hashes fall into is let grow beyond its size rather than the directory beyond 2^28. With a keyed hash of 64 bits this
/// is never reached.
const DEPTH_MAX: u8 = 28;
/// Segments live in pages, so that a new one never moves the others.
const PAGE_SEGMENTS: usize = 64;

#[derive(Debug)]
pub(crate) struct HashTable<T> {
    /// How many top bits of a hash index the directory.
    depth: u8,
    /// Segment numbers, 2^depth of them; empty while there is one segment or none.
    directory: Vec<u32>,
    pages: Vec<Vec<Segment<T>>>,
    segments: usize,
    len: usize,
}

#[derive(Debug)]
struct Segment<T> {
    /// How many top bits all hashes of this segment share.
    depth: u8,
    /// Those bits, at the top; the others are 0.
    prefix: u64,
    /// In ascending order, parallel to `items`.
    hashes: Vec<u64>,
    items: Vec<T>,
}

impl<T> Default for HashTable<T> {
    fn default() -> Self {
        Self { depth: 0, directory: Vec::new(), pages: Vec::new(), segments: 0, len: 0 }
    }
}

impl<T> HashTable<T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn get(&self, hash: u64, is: impl Fn(&T) -> bool) -> Option<&T> {
        let segment = self.segment(self.number_of(hash))?;
        segment.items.get(segment.find(hash, is)?)
    }

    pub(crate) fn get_mut(&mut self, hash: u64, is: impl Fn(&T) -> bool) -> Option<&mut T> {
        let number = self.number_of(hash);
        let segment = self.segment_mut(number)?;
        let at = segment.find(hash, is)?;
        segment.items.get_mut(at)
    }

    /// Adds an item. The caller knows that no equal one is there.
    pub(crate) fn insert(&mut self, hash: u64, item: T) -> &mut T {
        if self.segments == 0 {
            self.push_segment(Segment { depth: 0, prefix: 0, hashes: Vec::new(), items: Vec::new() });
        }
        let mut number = self.number_of(hash);
        while self.segment(number).is_some_and(Segment::must_split) {
            self.split(number);
            number = self.number_of(hash);
        }
        self.len += 1;
        let page = self.pages.get_mut(number / PAGE_SEGMENTS);
        #[allow(
            clippy::expect_used,
            reason = "the directory names only segments that are there; the tests compare with a model"
        )]
        let segment =
            page.and_then(|page| page.get_mut(number % PAGE_SEGMENTS)).expect("the directory names a segment");
        let at = segment.insert(hash, item);
        #[allow(clippy::indexing_slicing, reason = "it was inserted there on the line above")]
        &mut segment.items[at]
    }

    pub(crate) fn remove(&mut self, hash: u64, is: impl Fn(&T) -> bool) -> Option<T> {
        let number = self.number_of(hash);
        let segment = self.segment_mut(number)?;
        let at = segment.find(hash, is)?;
        let item = segment.remove(at);
        self.len -= 1;
        if self.len == 0 {
            *self = Self::default();
        } else {
            self.merge(number);
        }
        Some(item)
    }

    /// Items in hash order, from the hash on.
    pub(crate) fn iter_from(&self, hash: u64) -> impl Iterator<Item = (u64, &T)> {
        let mut next = (self.segments > 0).then_some(hash);
        std::iter::from_fn(move || {
            let from = next?;
            let segment = self.segment(self.number_of(from))?;
            next = segment.end();
            let start = segment.hashes.partition_point(|&h| h < from);
            Some(segment.hashes.iter().copied().zip(segment.items.iter()).skip(start))
        })
        .flatten()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.iter_from(0).map(|(_, item)| item)
    }

    /// Visits at least `count` items from the hash on, if there are so many, and whole runs of equal top 39 bits. Returns where to go on.
    ///
    /// 39 bits, so that a cursor of theirs and of the slot's 14 fits the 53 bits of a JavaScript number.
    pub(crate) fn scan(&self, from: u64, count: usize, mut visit: impl FnMut(&T)) -> Option<u64> {
        let mut run_end = None;
        for (visited, (hash, item)) in self.iter_from(from).enumerate() {
            let run = hash >> SCAN_SHIFT;
            if visited >= count && run_end != Some(run) {
                return Some(run << SCAN_SHIFT);
            }
            run_end = Some(run);
            visit(item);
        }
        None
    }

    /// Any item, each as likely as any other.
    pub(crate) fn sample(&self, rng: &mut Rng) -> Option<&T> {
        if self.len == 0 {
            return None;
        }
        loop {
            let prefix = rng.next();
            let segment = self.segment(self.number_of(prefix))?;
            // A segment that several places of the directory name is taken at the first of them only, and an item only if its place
            // is filled: otherwise items of sparse segments would come up more often.
            let place = prefix.checked_shr(64 - u32::from(self.depth)).unwrap_or(0);
            let first_place = place.trailing_zeros() >= u32::from(self.depth - segment.depth);
            let places = SEGMENT_ITEMS_MAX.max(segment.items.len());
            if let (true, Some(item)) = (first_place, segment.items.get(rng.below(places))) {
                return Some(item);
            }
        }
    }

    fn number_of(&self, hash: u64) -> usize {
        let place = hash.checked_shr(64 - u32::from(self.depth)).unwrap_or(0);
        self.directory.get(place as usize).map_or(0, |&number| number as usize)
    }

    fn segment(&self, number: usize) -> Option<&Segment<T>> {
        self.pages.get(number / PAGE_SEGMENTS)?.get(number % PAGE_SEGMENTS)
    }

    fn segment_mut(&mut self, number: usize) -> Option<&mut Segment<T>> {
        self.pages.get_mut(number / PAGE_SEGMENTS)?.get_mut(number % PAGE_SEGMENTS)
    }

    fn push_segment(&mut self, segment: Segment<T>) -> usize {
        let number = self.segments;
        if number.is_multiple_of(PAGE_SEGMENTS) {
            self.pages.push(Vec::new());
        }
        if let Some(page) = self.pages.last_mut() {
            page.push(segment);
        }
        self.segments += 1;
        number
    }

    /// Divides a segment by one more bit of the hash, doubling the directory first if that bit is not in it.
    fn split(&mut self, number: usize) {
        let Some(depth) = self.segment(number).map(|segment| segment.depth) else { return };
        if depth == self.depth {
            self.directory = match self.directory.as_slice() {
                [] => vec![0; 2],
                directory => directory.iter().flat_map(|&number| [number, number]).collect(),
            };
            self.depth += 1;
        }
        let Some(low) = self.segment_mut(number) else { return };
        let high = low.split();
        let prefix = high.prefix;
        let high_number = self.push_segment(high);
        self.name(prefix, depth + 1, high_number);
    }

    /// Makes every place of the directory that belongs to a prefix name one segment.
    fn name(&mut self, prefix: u64, depth: u8, number: usize) {
        let first = prefix.checked_shr(64 - u32::from(self.depth)).unwrap_or(0) as usize;
        let places = 1usize << (self.depth - depth);
        let Ok(number) = u32::try_from(number) else { return };
        for place in self.directory.iter_mut().skip(first).take(places) {
            *place = number;
        }
    }

    /// Joins a segment with its other half if both fit easily into one.
    fn merge(&mut self, number: usize) {
        let Some(segment) = self.segment(number) else { return };
        let (depth, prefix) = (segment.depth, segment.prefix);
        if depth == 0 || segment.items.len() > SEGMENT_ITEMS_MAX / 4 {
            return;
        }
        let half = 1u64 << (64 - u32::from(depth));
        let (low, high) = (self.number_of(prefix & !half), self.number_of(prefix | half));
        let fits = |a: &Segment<T>, b: &Segment<T>| {
            a.depth == b.depth && a.items.len() + b.items.len() <= SEGMENT_ITEMS_MAX / 2
        };
        if !matches!((self.segment(low), self.segment(high)), (Some(a), Some(b)) if fits(a, b)) {
            return;
        }
        let Some(removed) = self.take_segment(high) else { return };
        // Taking one out may have moved the other into its place.
        let low = self.number_of(prefix & !half);
        if let Some(low) = self.segment_mut(low) {
            low.depth = depth - 1;
            low.hashes.extend(removed.hashes);
            low.items.extend(removed.items);
        }
        self.name(prefix & !half, depth - 1, low);
        self.halve_directory(low);
    }

    /// Removes a segment; the last one takes its number.
    fn take_segment(&mut self, number: usize) -> Option<Segment<T>> {
        let last = self.pages.last_mut()?.pop()?;
        self.segments -= 1;
        if self.segments.is_multiple_of(PAGE_SEGMENTS) {
            self.pages.pop();
        }
        if number == self.segments {
            return Some(last);
        }
        self.name(last.prefix, last.depth, number);
        let place = self.segment_mut(number)?;
        Some(std::mem::replace(place, last))
    }

    /// Halves the directory while no segment needs its last bit. `merged` was just made: if a segment is still as deep as the directory, it
    /// is rarely far away, so looking usually ends at once.
    fn halve_directory(&mut self, merged: usize) {
        if self.segment(merged).is_some_and(|segment| segment.depth + 1 < self.depth)
            || self.len * 4 > self.directory.len()
        {
            return;
        }
        while self.depth > 0 && self.pages.iter().flatten().all(|segment| segment.depth < self.depth) {
            self.depth -= 1;
            self.directory = match self.depth {
                0 => Vec::new(),
                _ => self.directory.iter().copied().step_by(2).collect(),
            };
        }
    }
}

/// How many low bits of a hash a SCAN cursor leaves out.
pub(crate) const SCAN_SHIFT: u32 = 25;

impl<T> Segment<T> {
    fn find(&self, hash: u64, is: impl Fn(&T) -> bool) -> Option<usize> {
        let first = self.hashes.partition_point(|&h| h < hash);
        let equal = self.hashes.iter().zip(&self.items).skip(first).take_while(|(h, _)| **h == hash);
        equal.enumerate().find(|(_, (_, item))| is(item)).map(|(offset, _)| first + offset)
    }

    fn must_split(&self) -> bool {
        self.items.len() >= SEGMENT_ITEMS_MAX && self.depth < DEPTH_MAX
    }

    fn insert(&mut self, hash: u64, item: T) -> usize {
        if self.items.len() == self.items.capacity() {
            self.hashes.reserve_exact(SEGMENT_ITEMS_STEP);
            self.items.reserve_exact(SEGMENT_ITEMS_STEP);
        }
        let at = self.hashes.partition_point(|&h| h < hash);
        self.hashes.insert(at, hash);
        self.items.insert(at, item);
        at
    }

    fn remove(&mut self, at: usize) -> T {
        self.hashes.remove(at);
        let item = self.items.remove(at);
        if self.items.capacity() - self.items.len() > 2 * SEGMENT_ITEMS_STEP {
            self.hashes.shrink_to(self.items.len() + SEGMENT_ITEMS_STEP);
            self.items.shrink_to(self.items.len() + SEGMENT_ITEMS_STEP);
        }
        item
    }

    /// Takes the upper half of the segment's hash range out.
    fn split(&mut self) -> Self {
        self.depth += 1;
        let prefix = self.prefix | 1 << (64 - u32::from(self.depth));
        let at = self.hashes.partition_point(|&h| h < prefix);
        let high =
            Self { depth: self.depth, prefix, hashes: self.hashes.split_off(at), items: self.items.split_off(at) };
        self.hashes.shrink_to(at + SEGMENT_ITEMS_STEP);
        self.items.shrink_to(at + SEGMENT_ITEMS_STEP);
        high
    }

    /// The first hash behind this segment, if there is one.
    fn end(&self) -> Option<u64> {
        let width = 1u64.checked_shl(64 - u32::from(self.depth))?;
        self.prefix.checked_add(width)
    }
}

/// What a table would give, for a few elements that are in none.
pub(crate) fn in_hash_order<T>(from: u64, elements: impl Iterator<Item = (u64, T)>) -> impl Iterator<Item = (u64, T)> {
    let mut elements: Vec<(u64, T)> = elements.filter(|(hash, _)| *hash >= from).collect();
    elements.sort_by_key(|(hash, _)| *hash);
    elements.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Hashes that crowd together as well as spread out, so that segments split deeply and unevenly.
    fn hash_of(number: u16) -> u64 {
        let spread = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if number.is_multiple_of(3) { spread >> 8 } else { spread }
    }

    proptest! {
        #[test]
        fn table_equals_an_ordered_map(steps in prop::collection::vec((0u16..700, prop::bool::weighted(0.6)), 0..3000)) {
            let mut table = HashTable::default();
            let mut model = BTreeMap::new();
            for (number, add) in steps {
                let hash = hash_of(number);
                let found = table.get(hash, |&n: &u16| n == number).copied();
                prop_assert_eq!(found, model.get(&(hash, number)).copied());
                if add && found.is_none() {
                    table.insert(hash, number);
                    model.insert((hash, number), number);
                } else if !add {
                    let removed = table.remove(hash, |&n| n == number);
                    prop_assert_eq!(removed, model.remove(&(hash, number)));
                }
                prop_assert_eq!(table.len(), model.len());
            }
            let order: Vec<u64> = table.iter_from(0).map(|(hash, _)| hash).collect();
            let expected: Vec<u64> = model.keys().map(|(hash, _)| *hash).collect();
            prop_assert_eq!(order, expected);
            for (_, number) in model.keys() {
                prop_assert!(table.get(hash_of(*number), |n| n == number).is_some());
            }
            for (_, number) in model.into_keys() {
                prop_assert!(table.remove(hash_of(number), |n| *n == number).is_some());
            }
            prop_assert!(table.pages.is_empty() && table.directory.is_empty());
        }

        #[test]
        fn scan_meets_what_was_there_throughout(steps in prop::collection::vec((0u16..400, any::<bool>(), 0usize..5), 1..600)) {
            let mut table = HashTable::default();
            for number in 400..500u16 {
                table.insert(hash_of(number), number);
            }
            let (mut met, mut cursor) = (Vec::new(), Some(0));
            for (number, add, count) in steps {
                let hash = hash_of(number);
                match (add, table.get(hash, |n| *n == number).is_some()) {
                    (true, false) => drop(table.insert(hash, number)),
                    (false, true) => drop(table.remove(hash, |n| *n == number)),
                    _ => {}
                }
                if let Some(from) = cursor {
                    cursor = table.scan(from, count, |n| met.push(*n));
                }
            }
            while let Some(from) = cursor {
                cursor = table.scan(from, 10, |n| met.push(*n));
            }
            for number in 400..500 {
                prop_assert_eq!(met.iter().filter(|n| **n == number).count(), 1);
            }
        }
    }

    #[test]
    fn sampling_favours_nobody() {
        let (mut table, mut rng) = (HashTable::default(), super::Rng::new(5));
        for number in 0..300u16 {
            table.insert(hash_of(number), number);
        }
        let mut times = [0u32; 300];
        for _ in 0..300_000 {
            times[usize::from(*table.sample(&mut rng).unwrap())] += 1;
        }
        let (fewest, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        assert!(*fewest > 850 && *most < 1160, "{fewest} to {most}, expected about 1000");
    }
}
