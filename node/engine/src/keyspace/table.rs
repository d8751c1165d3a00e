//! A hash table in hash order whose growth never stops the world: extendible hashing.
//!
//! A segment holds up to [`SEGMENT_ITEMS_MAX`] items in the order of their hashes and splits in two when it is full, which moves only its own
//! items. A directory, indexed by the top bits of the hash, says which segment holds what; it doubles by copying four bytes a segment.
//! So hash order is the same whatever the table's size: a cursor into it (SCAN's, the slot stream's) stays true under growth and shrinking.
//!
//! A lookup costs what it waits for memory, so it waits seldom: the first segment lies in the table itself, each item keeps 16 bits of
//! its hash with it (its tag), and since hashes are spread evenly, where one stands in its segment can be told from the hash but for a few
//! places. The rest of a hash is reckoned from the item again where it matters, which is not in lookups.
//!
//! Source: Fagin et al., "Extendible Hashing", 1979; the ordered segments as in Dash (Lu et al., 2020), without its stash.

use std::cmp::Ordering;

use super::hash::{Rng, Seed};

const SEGMENT_ITEMS_MAX: usize = 64;
/// Room grows by this many items: a segment that doubled would waste a quarter of its memory.
const SEGMENT_ITEMS_STEP: usize = 8;
/// A segment that all hashes fall into is let grow beyond its size rather than the directory beyond 2^28. With a keyed hash of 64 bits this
/// is never reached.
const DEPTH_MAX: u8 = 28;
/// Segments live in pages, so that a new one never moves the others.
const PAGE_SEGMENTS: usize = 64;

#[derive(Debug)]
pub(crate) struct HashTable<T> {
    /// Segment 0, which begins at hash 0 however often it splits.
    first: Segment<T>,
    /// None while there is one segment.
    more: Option<Box<More<T>>>,
    len: usize,
}

/// What a table of several segments has.
#[derive(Debug)]
struct More<T> {
    /// How many top bits of a hash index the directory.
    depth: u8,
    /// Segment numbers, 2^depth of them.
    directory: Vec<u32>,
    /// Segments from number 1 on.
    pages: Vec<Vec<Segment<T>>>,
}

/// What a table can hold.
pub(crate) trait Element {
    /// Where it stands in hash order.
    fn hash(&self, seed: Seed) -> u64;
    /// 16 bits of its hash, as the table noted them with [`set_tag`](Self::set_tag).
    fn tag(&self) -> u16;
    fn set_tag(&mut self, tag: u16);
}

#[derive(Debug)]
struct Segment<T> {
    /// How many top bits all hashes of this segment share.
    depth: u8,
    /// Those bits, at the top; the others are 0.
    prefix: u64,
    /// In ascending order of their hashes.
    items: Vec<T>,
}

/// Tags begin at a bit that is a multiple of this, so that most splits leave them as they are.
const TAG_STEP: u8 = 8;

fn tag_of(hash: u64, base: u8) -> u16 {
    (hash << base >> 48) as u16
}

impl<T> Default for HashTable<T> {
    fn default() -> Self {
        Self { first: Segment { depth: 0, prefix: 0, items: Vec::new() }, more: None, len: 0 }
    }
}

impl<T: Element> HashTable<T> {
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

    /// About where an item of this hash would be.
    pub(crate) fn place(&self, hash: u64) -> *const T {
        self.segment(self.number_of(hash))
            .map_or(std::ptr::null(), |segment| segment.items.as_ptr().wrapping_add(segment.guess(hash)))
    }

    /// Adds an item. The caller knows that no equal one is there.
    pub(crate) fn insert(&mut self, seed: Seed, hash: u64, item: T) {
        let mut number = self.number_of(hash);
        while self.segment(number).is_some_and(Segment::must_split) {
            self.split(seed, number);
            number = self.number_of(hash);
        }
        if let Some(segment) = self.segment_mut(number) {
            segment.insert(seed, hash, item);
            self.len += 1;
        }
    }

    pub(crate) fn remove(&mut self, seed: Seed, hash: u64, is: impl Fn(&T) -> bool) -> Option<T> {
        let number = self.number_of(hash);
        let segment = self.segment_mut(number)?;
        let at = segment.find(hash, is)?;
        let item = segment.remove(at);
        self.len -= 1;
        if self.len == 0 {
            *self = Self::default();
        } else {
            self.merge(seed, number);
        }
        Some(item)
    }

    /// Items in hash order, from the hash on.
    pub(crate) fn iter_from(&self, seed: Seed, hash: u64) -> impl Iterator<Item = (u64, &T)> {
        let items =
            self.segments_from(hash).flat_map(|segment| &segment.items).map(move |item| (item.hash(seed), item));
        items.skip_while(move |(at, _)| *at < hash)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.segments_from(0).flat_map(|segment| &segment.items)
    }

    /// Segments in hash order, from that of the hash on.
    fn segments_from(&self, hash: u64) -> impl Iterator<Item = &Segment<T>> {
        let mut next = Some(hash);
        std::iter::from_fn(move || {
            let segment = self.segment(self.number_of(next?))?;
            next = segment.end();
            Some(segment)
        })
    }

    /// Visits at least `count` items from the hash on, if there are so many, and whole runs of equal top 39 bits. Returns where to go on.
    ///
    /// 39 bits, so that a cursor of theirs and of the slot's 14 fits the 53 bits of a JavaScript number.
    pub(crate) fn scan(&self, seed: Seed, from: u64, count: usize, mut visit: impl FnMut(&T)) -> Option<u64> {
        let mut run_end = None;
        for (visited, (hash, item)) in self.iter_from(seed, from).enumerate() {
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
            let depth = self.depth();
            let place = prefix.checked_shr(64 - u32::from(depth)).unwrap_or(0);
            let first_place = place.trailing_zeros() >= u32::from(depth - segment.depth);
            let places = SEGMENT_ITEMS_MAX.max(segment.items.len());
            if let (true, Some(item)) = (first_place, segment.items.get(rng.below(places))) {
                return Some(item);
            }
        }
    }

    fn depth(&self) -> u8 {
        self.more.as_ref().map_or(0, |more| more.depth)
    }

    fn number_of(&self, hash: u64) -> usize {
        let Some(more) = &self.more else { return 0 };
        let place = hash.checked_shr(64 - u32::from(more.depth)).unwrap_or(0);
        more.directory.get(place as usize).map_or(0, |&number| number as usize)
    }

    fn segment(&self, number: usize) -> Option<&Segment<T>> {
        let Some(number) = number.checked_sub(1) else { return Some(&self.first) };
        self.more.as_ref()?.pages.get(number / PAGE_SEGMENTS)?.get(number % PAGE_SEGMENTS)
    }

    fn segment_mut(&mut self, number: usize) -> Option<&mut Segment<T>> {
        let Some(number) = number.checked_sub(1) else { return Some(&mut self.first) };
        self.more.as_mut()?.pages.get_mut(number / PAGE_SEGMENTS)?.get_mut(number % PAGE_SEGMENTS)
    }

    /// Divides a segment by one more bit of the hash, doubling the directory first if that bit is not in it.
    fn split(&mut self, seed: Seed, number: usize) {
        let Some(low) = self.segment_mut(number) else { return };
        let high = low.split(seed);
        let (prefix, depth) = (high.prefix, high.depth);
        let more = self.more.get_or_insert_with(|| Box::new(More { depth: 0, directory: vec![0], pages: Vec::new() }));
        if depth > more.depth {
            more.directory = more.directory.iter().flat_map(|&number| [number, number]).collect();
            more.depth += 1;
        }
        let high_number = more.push_segment(high);
        more.name(prefix, depth, high_number);
    }

    /// Joins a segment with its other half if both fit easily into one.
    fn merge(&mut self, seed: Seed, number: usize) {
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
        let Some(removed) = self.more.as_mut().and_then(|more| more.take_segment(high)) else { return };
        // Taking one out may have moved the other into its place.
        let low = self.number_of(prefix & !half);
        if let Some(low) = self.segment_mut(low) {
            low.items.extend(removed.items);
            low.set_depth(seed, depth - 1);
        }
        if let Some(more) = &mut self.more {
            more.name(prefix & !half, depth - 1, low);
        }
        self.halve_directory(low);
    }

    /// Halves the directory while no segment needs its last bit. `merged` was just made: if a segment is still as deep as the directory, it
    /// is rarely far away, so looking usually ends at once.
    fn halve_directory(&mut self, merged: usize) {
        let first_depth = self.first.depth;
        let merged_depth = self.segment(merged).map_or(0, |segment| segment.depth);
        let Some(more) = &mut self.more else { return };
        if merged_depth + 1 < more.depth || self.len * 4 > more.directory.len() {
            return;
        }
        while more.depth > 0
            && first_depth < more.depth
            && more.pages.iter().flatten().all(|segment| segment.depth < more.depth)
        {
            more.depth -= 1;
            more.directory = more.directory.iter().copied().step_by(2).collect();
        }
        if more.depth == 0 {
            self.more = None;
        }
    }
}

impl<T> More<T> {
    fn push_segment(&mut self, segment: Segment<T>) -> usize {
        match self.pages.last_mut() {
            Some(page) if page.len() < PAGE_SEGMENTS => page.push(segment),
            _ => self.pages.push(vec![segment]),
        }
        self.segments()
    }

    /// How many segments are in pages, which is also the last one's number.
    fn segments(&self) -> usize {
        let full = self.pages.len().saturating_sub(1) * PAGE_SEGMENTS;
        full + self.pages.last().map_or(0, Vec::len)
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

    /// Removes a segment other than the first; the last one takes its number.
    fn take_segment(&mut self, number: usize) -> Option<Segment<T>> {
        let last_number = self.segments();
        let page = self.pages.last_mut()?;
        let last = page.pop()?;
        if page.is_empty() {
            self.pages.pop();
        }
        if number == last_number {
            return Some(last);
        }
        self.name(last.prefix, last.depth, number);
        let at = number.checked_sub(1)?;
        let place = self.pages.get_mut(at / PAGE_SEGMENTS)?.get_mut(at % PAGE_SEGMENTS)?;
        Some(std::mem::replace(place, last))
    }
}

/// How many low bits of a hash a SCAN cursor leaves out.
pub(crate) const SCAN_SHIFT: u32 = 25;

impl<T: Element> Segment<T> {
    fn base(&self) -> u8 {
        self.depth / TAG_STEP * TAG_STEP
    }

    /// Where the first item is that is not before a hash, given how to tell that of one whose tag is the hash's.
    fn place_of(&self, hash: u64, is_before: impl Fn(&T) -> bool) -> usize {
        let items = self.items.as_slice();
        let tag = tag_of(hash, self.base());
        let is_before = |item: &T| match item.tag().cmp(&tag) {
            Ordering::Less => true,
            Ordering::Equal => is_before(item),
            Ordering::Greater => false,
        };
        let mut at = self.guess(hash);
        while let Some(before) = at.checked_sub(1)
            && items.get(before).is_some_and(|item| !is_before(item))
        {
            at = before;
        }
        while items.get(at).is_some_and(&is_before) {
            at += 1;
        }
        at
    }

    /// Where it would be if hashes were spread quite evenly: the hash within the segment's range, as a fraction of it, of its items.
    fn guess(&self, hash: u64) -> usize {
        let within = hash << self.depth;
        ((u128::from(within) * self.items.len() as u128) >> 64) as usize
    }

    fn find(&self, hash: u64, is: impl Fn(&T) -> bool) -> Option<usize> {
        let (first, tag) = (self.place_of(hash, |_| false), tag_of(hash, self.base()));
        let alike = self.items.iter().skip(first).take_while(|item| item.tag() == tag);
        alike.enumerate().find(|(_, item)| is(item)).map(|(offset, _)| first + offset)
    }

    fn must_split(&self) -> bool {
        self.items.len() >= SEGMENT_ITEMS_MAX && self.depth < DEPTH_MAX
    }

    fn insert(&mut self, seed: Seed, hash: u64, mut item: T) {
        if self.items.len() == self.items.capacity() {
            self.items.reserve_exact(SEGMENT_ITEMS_STEP);
        }
        let at = self.place_of(hash, |other| other.hash(seed) < hash);
        item.set_tag(tag_of(hash, self.base()));
        self.items.insert(at, item);
    }

    fn remove(&mut self, at: usize) -> T {
        let item = self.items.remove(at);
        if self.items.capacity() - self.items.len() > 2 * SEGMENT_ITEMS_STEP {
            self.items.shrink_to(self.items.len() + SEGMENT_ITEMS_STEP);
        }
        item
    }

    /// Takes the upper half of the segment's hash range out.
    fn split(&mut self, seed: Seed) -> Self {
        let depth = self.depth + 1;
        let prefix = self.prefix | 1 << (64 - u32::from(depth));
        let at = self.place_of(prefix, |item| item.hash(seed) < prefix);
        let mut high = Self { depth: self.depth, prefix, items: self.items.split_off(at) };
        self.items.shrink_to(at + SEGMENT_ITEMS_STEP);
        self.set_depth(seed, depth);
        high.set_depth(seed, depth);
        high
    }

    fn set_depth(&mut self, seed: Seed, depth: u8) {
        let base = self.base();
        self.depth = depth;
        if self.base() != base {
            let base = self.base();
            self.items.iter_mut().for_each(|item| item.set_tag(tag_of(item.hash(seed), base)));
        }
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

    const SEED: Seed = Seed([1, 2]);

    /// A number with the tag that a table noted of it.
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Tagged(u16, u16);

    impl Element for Tagged {
        fn hash(&self, _: Seed) -> u64 {
            hash_of(self.0)
        }

        fn tag(&self) -> u16 {
            self.1
        }

        fn set_tag(&mut self, tag: u16) {
            self.1 = tag;
        }
    }

    proptest! {
        #[test]
        fn table_equals_an_ordered_map(steps in prop::collection::vec((0u16..700, prop::bool::weighted(0.6)), 0..3000)) {
            let mut table = HashTable::default();
            let mut model = BTreeMap::new();
            for (number, add) in steps {
                let hash = hash_of(number);
                let found = table.get(hash, |n: &Tagged| n.0 == number).map(|n| n.0);
                prop_assert_eq!(found, model.get(&(hash, number)).copied());
                if add && found.is_none() {
                    table.insert(SEED, hash, Tagged(number, 0));
                    model.insert((hash, number), number);
                } else if !add {
                    let removed = table.remove(SEED, hash, |n| n.0 == number).map(|n| n.0);
                    prop_assert_eq!(removed, model.remove(&(hash, number)));
                }
                prop_assert_eq!(table.len(), model.len());
            }
            let order: Vec<u64> = table.iter_from(SEED, 0).map(|(hash, _)| hash).collect();
            let expected: Vec<u64> = model.keys().map(|(hash, _)| *hash).collect();
            prop_assert_eq!(order, expected);
            for (_, number) in model.keys() {
                prop_assert!(table.get(hash_of(*number), |n| n.0 == *number).is_some());
            }
            for (_, number) in model.into_keys() {
                prop_assert!(table.remove(SEED, hash_of(number), |n| n.0 == number).is_some());
            }
            prop_assert!(table.more.is_none() && table.first.items.is_empty());
        }

        #[test]
        fn scan_meets_what_was_there_throughout(steps in prop::collection::vec((0u16..400, any::<bool>(), 0usize..5), 1..600)) {
            let mut table = HashTable::default();
            for number in 400..500u16 {
                table.insert(SEED, hash_of(number), Tagged(number, 0));
            }
            let (mut met, mut cursor) = (Vec::new(), Some(0));
            for (number, add, count) in steps {
                let hash = hash_of(number);
                match (add, table.get(hash, |n| n.0 == number).is_some()) {
                    (true, false) => table.insert(SEED, hash, Tagged(number, 0)),
                    (false, true) => drop(table.remove(SEED, hash, |n| n.0 == number)),
                    _ => {}
                }
                if let Some(from) = cursor {
                    cursor = table.scan(SEED, from, count, |n| met.push(n.0));
                }
            }
            while let Some(from) = cursor {
                cursor = table.scan(SEED, from, 10, |n| met.push(n.0));
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
            table.insert(SEED, hash_of(number), Tagged(number, 0));
        }
        let mut times = [0u32; 300];
        for _ in 0..300_000 {
            times[usize::from(table.sample(&mut rng).unwrap().0)] += 1;
        }
        let (fewest, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        assert!(*fewest > 850 && *most < 1160, "{fewest} to {most}, expected about 1000");
    }
}
