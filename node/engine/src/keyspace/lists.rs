//! Lists: elements by position, packed into blocks (`list_block`), and those into groups that know how many elements they have.
//!
//! To find a position takes a look at each group and at each block of one: a few hundred for a million short elements.

use std::collections::VecDeque;

use super::list_block::Block;

/// So many blocks fill the queue of a group exactly.
const GROUP_BLOCKS_MAX: usize = 128;
/// What an element is reckoned to take beside its bytes where lists are told apart by their size, as clients see it.
const ELEMENT_OVERHEAD_BYTES: usize = 24;

#[derive(Debug, Default)]
pub(crate) struct List {
    /// None is empty, and neither is a block of one.
    groups: Vec<Group>,
    len: usize,
    /// The sum of the elements.
    bytes: usize,
    heap_bytes: usize,
}

#[derive(Debug, Default)]
struct Group {
    len: usize,
    blocks: VecDeque<Block>,
}

/// Where an element is, or where one is to be.
#[derive(Clone, Copy, Debug)]
struct Place {
    group: usize,
    block: usize,
    index: usize,
}

impl List {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.heap_bytes
    }

    /// How large it is, by its elements alone.
    pub(crate) fn reckoned_bytes(&self) -> usize {
        self.bytes + self.len * ELEMENT_OVERHEAD_BYTES
    }

    pub(crate) fn get(&self, index: usize) -> Option<&[u8]> {
        let place = self.place(index)?;
        self.block(place)?.get(place.index)
    }

    /// Puts an element before the one that is `index`th now, or at the end.
    pub(crate) fn insert(&mut self, index: usize, value: &[u8]) {
        let place = match self.place(index) {
            Some(place) => place,
            None => self.end(),
        };
        self.len += 1;
        self.bytes += value.len();
        let place = self.make_room(place, value);
        self.change(place, |block| block.insert(place.index, value));
    }

    pub(crate) fn replace(&mut self, index: usize, value: &[u8]) -> bool {
        let Some(place) = self.place(index) else { return false };
        let Some(before) = self.get(index).map(<[u8]>::len) else { return false };
        self.bytes = self.bytes + value.len() - before;
        self.change(place, |block| block.replace(place.index, value));
        self.split_large(place);
        true
    }

    /// Takes out `count` elements from `index` on. Says whether they were there.
    pub(crate) fn remove(&mut self, index: usize, count: usize) -> bool {
        let there = index.checked_add(count).is_some_and(|end| end <= self.len);
        let mut missing = if there { count } else { 0 };
        while missing > 0
            && let Some(place) = self.place(index)
        {
            missing -= self.remove_in_block(place, missing);
        }
        there
    }

    /// Elements from `start` up to, not including, `end`.
    pub(crate) fn range(&self, start: usize, end: usize) -> impl Iterator<Item = &[u8]> {
        let count = end.min(self.len).saturating_sub(start);
        let found = self.place(start).into_iter().flat_map(move |Place { group, block, index }| {
            let groups = self.groups.get(group..).unwrap_or_default().iter();
            groups.flat_map(|group| &group.blocks).skip(block).flat_map(Block::iter).skip(index)
        });
        found.take(count)
    }

    /// The same elements, last first.
    pub(crate) fn range_rev(&self, start: usize, end: usize) -> impl Iterator<Item = &[u8]> {
        let end = end.min(self.len);
        let last = end.checked_sub(1).and_then(|last| self.place(last));
        let found = last.into_iter().flat_map(move |Place { group, block, index }| {
            let groups = self.groups.get(..=group).unwrap_or_default();
            let (blocks, elements) = groups
                .last()
                .map_or((0, 0), |group| (group.blocks.len(), group.blocks.get(block).map_or(0, Block::len)));
            let blocks_behind = blocks.saturating_sub(block + 1);
            let blocks = groups.iter().rev().flat_map(|group| group.blocks.iter().rev()).skip(blocks_behind);
            blocks.flat_map(Block::iter_rev).skip(elements.saturating_sub(index + 1))
        });
        found.take(end.saturating_sub(start))
    }

    /// Where an element is. Looked for from the nearer end.
    fn place(&self, index: usize) -> Option<Place> {
        if index >= self.len {
            return None;
        }
        let (group, in_group) = if index < self.len / 2 {
            find(self.groups.iter().map(|group| group.len), index)?
        } else {
            let (group, behind) = find(self.groups.iter().rev().map(|group| group.len), self.len - 1 - index)?;
            let group = self.groups.len() - 1 - group;
            (group, self.groups.get(group)?.len - 1 - behind)
        };
        let Group { len, blocks } = self.groups.get(group)?;
        let (block, index) = if in_group < len / 2 {
            find(blocks.iter().map(Block::len), in_group)?
        } else {
            let (block, behind) = find(blocks.iter().rev().map(Block::len), len - 1 - in_group)?;
            let block = blocks.len() - 1 - block;
            (block, blocks.get(block)?.len() - 1 - behind)
        };
        Some(Place { group, block, index })
    }

    /// Where an element at the end is to be.
    fn end(&mut self) -> Place {
        if self.groups.is_empty() {
            // Most lists are short.
            let group = Group { len: 0, blocks: VecDeque::with_capacity(1) };
            self.heap_bytes += group.heap_bytes();
            self.groups.reserve_exact(1);
            self.groups.push(group);
        }
        let group = self.groups.len() - 1;
        let blocks = self.groups.last().map_or(0, |group| group.blocks.len());
        let last = self.groups.last().and_then(|group| group.blocks.back());
        Place { group, block: blocks.saturating_sub(1), index: last.map_or(0, Block::len) }
    }

    /// Has room for a value where it is to be, which may be another place then.
    fn make_room(&mut self, place: Place, value: &[u8]) -> Place {
        let Place { group, block, index } = place;
        let Some(blocks) = self.groups.get_mut(group).map(|group| &mut group.blocks) else { return place };
        let Some(present) = blocks.get_mut(block) else { return self.insert_block(place, Block::default()) };
        if present.has_room_for(value) {
            return place;
        }
        let len = present.len();
        if index == 0 {
            // The end of the block before it is the same place.
            if let Some(before) = block.checked_sub(1)
                && let Some(other) = blocks.get(before).filter(|other| other.has_room_for(value))
            {
                return Place { group, block: before, index: other.len() };
            }
            return self.insert_block(place, Block::default());
        }
        let behind = Place { group, block: block + 1, index: 0 };
        if index == len {
            return self.insert_block(behind, Block::default());
        }
        let Some((left, right)) = self.split(place, index) else { return place };
        if self.block(left).is_some_and(|block| block.has_room_for(value)) {
            return Place { index, ..left };
        }
        self.insert_block(right, Block::default())
    }

    fn block(&self, place: Place) -> Option<&Block> {
        self.groups.get(place.group)?.blocks.get(place.block)
    }

    /// Divides a block before one of its elements. Returns where its parts begin.
    fn split(&mut self, place: Place, at: usize) -> Option<(Place, Place)> {
        let Place { group, block, .. } = place;
        let parted = self.groups.get_mut(group)?;
        let present = parted.blocks.get_mut(block)?;
        let before = present.heap_bytes();
        let right = present.split_off(at);
        self.heap_bytes = self.heap_bytes + present.heap_bytes() - before;
        parted.len -= right.len();
        let right = self.insert_block(Place { group, block: block + 1, index: 0 }, right);
        // Both may be in another group now.
        let left = match right.block.checked_sub(1) {
            Some(block) => Place { group: right.group, block, index: 0 },
            None => Place { group, block, index: 0 },
        };
        Some((left, right))
    }

    /// Puts a block before the one at a place, and returns where it begins.
    fn insert_block(&mut self, place: Place, new: Block) -> Place {
        let Place { group: mut at, mut block, .. } = place;
        let Some(group) = self.groups.get_mut(at) else { return place };
        if group.blocks.len() >= GROUP_BLOCKS_MAX {
            // Lists grow at their ends more often than within: a group there is left full.
            let kept = match block {
                0 => 0,
                _ if block == group.blocks.len() => block,
                _ => group.blocks.len() / 2,
            };
            let before = group.heap_bytes();
            let right = group.split_off(kept);
            // An empty one is about to get its block.
            self.heap_bytes = self.heap_bytes + group.heap_bytes() + right.heap_bytes() - before;
            self.groups.insert(at + 1, right);
            if block > kept || kept == block && block > 0 {
                (at, block) = (at + 1, block - kept);
            }
        }
        let Some(group) = self.groups.get_mut(at) else { return place };
        let before = group.heap_bytes();
        group.len += new.len();
        self.heap_bytes += new.heap_bytes();
        group.blocks.insert(block, new);
        self.heap_bytes = self.heap_bytes + group.heap_bytes() - before;
        Place { group: at, block, index: 0 }
    }

    /// An element that became long gets a block of its own, so that others do not move with it.
    fn split_large(&mut self, place: Place) {
        let mut left = place;
        for at in [place.index + 1, place.index] {
            let Some(block) = self.block(left).filter(|block| !block.has_room_for(&[])) else { return };
            if (1..block.len()).contains(&at)
                && let Some((rest, _)) = self.split(left, at)
            {
                left = rest;
            }
        }
    }

    /// Takes out at most `count` elements of one block from a place on. Returns how many.
    fn remove_in_block(&mut self, place: Place, count: usize) -> usize {
        let Place { group: at, block, index } = place;
        let Some(present) = self.block(place) else { return count };
        let end = present.len().min(index.saturating_add(count));
        let removed = end - index;
        let bytes: usize = present.iter().skip(index).take(removed).map(<[u8]>::len).sum();
        self.len -= removed;
        self.bytes -= bytes;
        self.change(place, |block| block.remove(index..end));
        let Some(group) = self.groups.get_mut(at) else { return removed };
        let before = group.heap_bytes();
        // Those that became short join their neighbours.
        let mut gone = (group.blocks.get(block).is_some_and(|block| block.len() == 0)).then_some(block);
        for left in [block.checked_sub(1), Some(block)].into_iter().flatten() {
            if gone.is_none() && group.join(left, &mut self.heap_bytes) {
                gone = Some(left + 1);
            }
        }
        if let Some(block) = gone.and_then(|gone| group.blocks.remove(gone)) {
            self.heap_bytes -= block.heap_bytes();
        }
        self.heap_bytes = self.heap_bytes + group.heap_bytes() - before;
        if group.blocks.is_empty() {
            self.heap_bytes -= group.heap_bytes();
            self.groups.remove(at);
        }
        removed
    }

    /// Changes a block, and keeps the accounts but for the elements' bytes.
    fn change(&mut self, place: Place, change: impl FnOnce(&mut Block)) {
        let Some(group) = self.groups.get_mut(place.group) else { return };
        let Some(block) = group.blocks.get_mut(place.block) else { return };
        let (heap_bytes, len) = (block.heap_bytes(), block.len());
        change(block);
        self.heap_bytes = self.heap_bytes + block.heap_bytes() - heap_bytes;
        group.len = group.len + block.len() - len;
    }
}

impl Group {
    /// What it takes beside its blocks' elements.
    fn heap_bytes(&self) -> usize {
        size_of::<Self>() + self.blocks.capacity() * size_of::<Block>()
    }

    /// Keeps the first blocks, and returns a group of the others.
    fn split_off(&mut self, kept: usize) -> Self {
        let blocks = self.blocks.split_off(kept);
        let len = blocks.iter().map(Block::len).sum();
        self.len -= len;
        Self { len, blocks }
    }

    /// Has a block take in the next one, if both are short. That is empty then.
    fn join(&mut self, left: usize, heap_bytes: &mut usize) -> bool {
        if left + 1 >= self.blocks.len() {
            return false;
        }
        let mut pair = self.blocks.range_mut(left..left + 2);
        let (Some(left), Some(right)) = (pair.next(), pair.next()) else { return false };
        let before = left.heap_bytes() + right.heap_bytes();
        let joined = left.absorb(right);
        *heap_bytes = *heap_bytes + left.heap_bytes() + right.heap_bytes() - before;
        joined
    }
}

/// Which of some parts of these lengths holds an index, and which one it is there.
fn find(lens: impl Iterator<Item = usize>, mut index: usize) -> Option<(usize, usize)> {
    for (at, len) in lens.enumerate() {
        if index < len {
            return Some((at, index));
        }
        index -= len;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::Index;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(Index, Vec<u8>),
        Push(bool, Vec<u8>, usize),
        Replace(Index, Vec<u8>),
        Remove(Index, usize),
        Range(Index, Index),
    }

    fn element() -> impl Strategy<Value = Vec<u8>> {
        let filled = |len: std::ops::Range<usize>| (any::<u8>(), len).prop_map(|(byte, len)| vec![byte; len]);
        prop_oneof![6 => filled(0..40), 3 => filled(100..300), 1 => filled(1_900..2_300)]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (any::<Index>(), element()).prop_map(|(at, value)| Step::Insert(at, value)),
            3 => (any::<bool>(), element(), 1usize..600).prop_map(|(end, value, count)| Step::Push(end, value, count)),
            2 => (any::<Index>(), element()).prop_map(|(at, value)| Step::Replace(at, value)),
            4 => (any::<Index>(), prop_oneof![4 => 1usize..4, 1 => 1usize..2_000]).prop_map(|(at, count)| Step::Remove(at, count)),
            2 => (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Step::Range(a, b)),
        ]
    }

    fn check(list: &List) {
        let of_blocks = |group: &Group| group.blocks.iter().map(|block| block.heap_bytes()).sum::<usize>();
        assert_eq!(
            list.heap_bytes,
            list.groups.iter().map(|group| group.heap_bytes() + of_blocks(group)).sum::<usize>()
        );
        for group in &list.groups {
            assert_eq!(group.len, group.blocks.iter().map(Block::len).sum::<usize>());
            assert!(!group.blocks.is_empty() && group.blocks.len() <= GROUP_BLOCKS_MAX);
            assert!(group.blocks.iter().all(|block| block.len() == block.iter().count() && block.len() > 0));
        }
        assert_eq!(list.len, list.groups.iter().map(|group| group.len).sum::<usize>());
        assert_eq!(list.bytes, list.range(0, usize::MAX).map(<[u8]>::len).sum::<usize>());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_list_equals_a_vector(steps in prop::collection::vec(step(), 0..120), start in 0usize..40_000) {
            let mut list = List::default();
            let mut model: Vec<Vec<u8>> = (0..start).map(|n| n.to_string().into_bytes()).collect();
            model.iter().enumerate().for_each(|(at, value)| list.insert(at, value));
            for step in steps {
                match step {
                    Step::Insert(at, value) => {
                        let at = at.index(model.len() + 1);
                        list.insert(at, &value);
                        model.insert(at, value);
                    }
                    Step::Push(at_end, value, count) => for _ in 0..count {
                        let at = if at_end { model.len() } else { 0 };
                        list.insert(at, &value);
                        model.insert(at, value.clone());
                    },
                    Step::Replace(at, value) => {
                        let at = at.index(model.len() + 1);
                        prop_assert_eq!(list.replace(at, &value), at < model.len());
                        model.iter_mut().skip(at).take(1).for_each(|element| *element = value.clone());
                    }
                    Step::Remove(at, count) => {
                        let at = at.index(model.len() + 1);
                        let there = at + count <= model.len();
                        prop_assert_eq!(list.remove(at, count), there);
                        if there {
                            model.drain(at..at + count);
                        }
                    }
                    Step::Range(a, b) => {
                        let (a, b) = (a.index(model.len() + 1), b.index(model.len() + 1));
                        let expected = model.get(a..b).unwrap_or_default();
                        prop_assert!(list.range(a, b).eq(expected.iter()));
                        prop_assert!(list.range_rev(a, b).eq(expected.iter().rev()));
                        prop_assert_eq!(list.get(a), model.get(a).map(Vec::as_slice));
                    }
                }
                prop_assert_eq!(list.len(), model.len());
                check(&list);
            }
            prop_assert!(list.range(0, usize::MAX).eq(model.iter()));
            prop_assert!(list.remove(0, model.len()));
            check(&list);
            prop_assert!(list.groups.is_empty());
        }
    }

    #[test]
    fn an_element_costs_little_beside_its_bytes() {
        let mut list = List::default();
        (0..100_000).for_each(|n: usize| list.insert(n, format!("element-{n:08}").as_bytes()));
        assert!(list.heap_bytes() < 100_000 * 18, "{} bytes each", list.heap_bytes() as f64 / 1e5);
    }
}
