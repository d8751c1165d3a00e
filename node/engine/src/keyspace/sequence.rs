//! A sequence with fast access by rank: a B+-tree whose inner nodes count what is below them.
//!
//! Sorted sets keep one in score order, where [`Sequence::partition_point`] turns a score into a rank. All operations on one element take
//! logarithmic time.

const LEAF_ITEMS_MAX: usize = 64;
/// Leaves that doubled would waste a third of their memory, and leaves that split half of it.
const LEAF_ITEMS_STEP: usize = 8;
const CHILDREN_MAX: usize = 32;

#[derive(Debug)]
pub(crate) struct Sequence<T> {
    root: Node<T>,
    len: usize,
}

#[derive(Debug)]
enum Node<T> {
    Leaf(Vec<T>),
    Inner(Vec<Child<T>>),
}

/// Where in the whole sequence an item comes in. Sequences grow at their ends more often than within: a node there is left full when it
/// splits.
#[derive(Debug, Clone, Copy)]
enum Grows {
    AtStart,
    Within,
    AtEnd,
}

impl Grows {
    /// Where to split a node of this many parts.
    fn split_at(self, parts: usize) -> usize {
        match self {
            Self::AtStart => 1,
            Self::Within => parts / 2,
            Self::AtEnd => parts - 1,
        }
    }
}

#[derive(Debug)]
struct Child<T> {
    /// How many items are below.
    count: usize,
    node: Node<T>,
}

impl<T> Default for Sequence<T> {
    fn default() -> Self {
        Self { root: Node::Leaf(Vec::new()), len: 0 }
    }
}

impl<T> Sequence<T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts an item before the one at `rank`, or at the end.
    pub(crate) fn insert(&mut self, rank: usize, item: T) {
        let rank = rank.min(self.len);
        let grows = match rank {
            0 => Grows::AtStart,
            _ if rank == self.len => Grows::AtEnd,
            _ => Grows::Within,
        };
        self.len += 1;
        if let Some(right) = self.root.insert(rank, item, grows) {
            let left = std::mem::replace(&mut self.root, Node::Inner(Vec::new()));
            self.root = Node::Inner(vec![Child::of(left), Child::of(right)]);
        }
    }

    pub(crate) fn remove(&mut self, rank: usize) -> Option<T> {
        let item = self.root.remove(rank)?;
        self.len -= 1;
        while let Node::Inner(children) = &mut self.root
            && children.len() <= 1
        {
            self.root = children.pop().map_or(Node::Leaf(Vec::new()), |child| child.node);
        }
        Some(item)
    }

    /// How many items hold, given that all that hold come first.
    pub(crate) fn partition_point(&self, holds: impl Fn(&T) -> bool) -> usize {
        let (mut node, mut before) = (&self.root, 0);
        loop {
            match node {
                Node::Leaf(items) => return before + items.partition_point(holds),
                Node::Inner(children) => {
                    let after = children.partition_point(|child| child.node.first().is_some_and(&holds));
                    let at = after.saturating_sub(1);
                    before += children.iter().take(at).map(|child| child.count).sum::<usize>();
                    let Some(child) = children.get(at) else { return before };
                    node = &child.node;
                }
            }
        }
    }

    /// Items from rank `start` up to, not including, `end`.
    pub(crate) fn range(&self, start: usize, end: usize) -> impl Iterator<Item = &T> {
        let mut at = start;
        let end = end.min(self.len);
        std::iter::from_fn(move || {
            let (leaf, offset) = (at < end).then(|| self.root.leaf(at))??;
            let part = leaf.iter().skip(offset).take(end - at);
            at += part.len();
            Some(part)
        })
        .flatten()
    }

    /// The same items, last first.
    pub(crate) fn range_rev(&self, start: usize, end: usize) -> impl Iterator<Item = &T> {
        let mut end = end.min(self.len);
        std::iter::from_fn(move || {
            let (leaf, offset) = (start < end).then(|| self.root.leaf(end - 1))??;
            let first = offset.saturating_sub(end - 1 - start);
            let part = leaf.get(first..=offset)?;
            end -= part.len();
            Some(part.iter().rev())
        })
        .flatten()
    }
}

impl<T> Node<T> {
    fn count(&self) -> usize {
        match self {
            Self::Leaf(items) => items.len(),
            Self::Inner(children) => children.iter().map(|child| child.count).sum(),
        }
    }

    fn first(&self) -> Option<&T> {
        match self {
            Self::Leaf(items) => items.first(),
            Self::Inner(children) => children.first()?.node.first(),
        }
    }

    /// The leaf that holds a rank, and where in it.
    fn leaf(&self, mut rank: usize) -> Option<(&[T], usize)> {
        let mut node = self;
        loop {
            match node {
                Self::Leaf(items) => return (rank < items.len()).then_some((items, rank)),
                Self::Inner(children) => {
                    let (at, inside) = place(children, rank);
                    rank = inside;
                    node = &children.get(at)?.node;
                }
            }
        }
    }

    /// Returns a right neighbour if the node had to split.
    fn insert(&mut self, rank: usize, item: T, grows: Grows) -> Option<Self> {
        match self {
            Self::Leaf(items) => {
                if items.len() == items.capacity() {
                    items.reserve_exact((LEAF_ITEMS_MAX + 1).saturating_sub(items.len()).clamp(1, LEAF_ITEMS_STEP));
                }
                items.insert(rank.min(items.len()), item);
                (items.len() > LEAF_ITEMS_MAX).then(|| {
                    let right = items.split_off(grows.split_at(items.len()));
                    items.shrink_to(items.len() + LEAF_ITEMS_STEP);
                    Self::Leaf(right)
                })
            }
            Self::Inner(children) => {
                // An item that goes between two children goes to the end of the left one.
                let (at, inside) = place_to_insert(children, rank);
                let child = children.get_mut(at)?;
                let split = child.node.insert(inside, item, grows);
                child.count += 1;
                if let Some(right) = split {
                    let right = Child::of(right);
                    child.count -= right.count;
                    children.insert(at + 1, right);
                }
                (children.len() > CHILDREN_MAX).then(|| Self::Inner(children.split_off(grows.split_at(children.len()))))
            }
        }
    }

    fn remove(&mut self, rank: usize) -> Option<T> {
        match self {
            Self::Leaf(items) => (rank < items.len()).then(|| items.remove(rank)),
            Self::Inner(children) => {
                let (at, inside) = place(children, rank);
                let child = children.get_mut(at)?;
                let item = child.node.remove(inside)?;
                child.count -= 1;
                if child.node.is_sparse() {
                    join_neighbours(children, at.saturating_sub(1));
                }
                Some(item)
            }
        }
    }

    /// Whether it is worth looking for a neighbour to join.
    fn is_sparse(&self) -> bool {
        match self {
            Self::Leaf(items) => items.len() < LEAF_ITEMS_MAX / 4,
            Self::Inner(children) => children.len() < CHILDREN_MAX / 4,
        }
    }
}

impl<T> Child<T> {
    fn of(node: Node<T>) -> Self {
        Self { count: node.count(), node }
    }
}

/// Which child holds a rank, and which rank it is there.
fn place<T>(children: &[Child<T>], mut rank: usize) -> (usize, usize) {
    for (at, child) in children.iter().enumerate() {
        if rank < child.count {
            return (at, rank);
        }
        rank -= child.count;
    }
    (children.len(), rank)
}

fn place_to_insert<T>(children: &[Child<T>], mut rank: usize) -> (usize, usize) {
    for (at, child) in children.iter().enumerate() {
        if rank <= child.count {
            return (at, rank);
        }
        rank -= child.count;
    }
    (children.len().saturating_sub(1), rank)
}

/// Joins the child at `at` with the next, dividing them evenly again if they do not fit into one. An empty child goes in any case.
fn join_neighbours<T>(children: &mut Vec<Child<T>>, at: usize) {
    if at + 1 >= children.len() {
        return;
    }
    let right = children.remove(at + 1);
    let Some(left) = children.get_mut(at) else { return };
    let rest = match (&mut left.node, right.node) {
        (Node::Leaf(items), Node::Leaf(more)) => {
            items.extend(more);
            let half = items.len() / 2;
            (items.len() > LEAF_ITEMS_MAX * 3 / 4).then(|| Node::Leaf(items.split_off(half)))
        }
        (Node::Inner(inner), Node::Inner(more)) => {
            inner.extend(more);
            let half = inner.len() / 2;
            (inner.len() > CHILDREN_MAX * 3 / 4).then(|| Node::Inner(inner.split_off(half)))
        }
        // All leaves are equally deep, so neighbours are of one kind.
        (_, other) => Some(other),
    };
    left.count = left.node.count();
    if let Some(rest) = rest {
        children.insert(at + 1, Child::of(rest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(prop::sample::Index),
        Push,
        Remove(prop::sample::Index),
        Range(prop::sample::Index, prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => any::<prop::sample::Index>().prop_map(Step::Insert),
            3 => Just(Step::Push),
            5 => any::<prop::sample::Index>().prop_map(Step::Remove),
            1 => any::<(prop::sample::Index, prop::sample::Index)>().prop_map(|(a, b)| Step::Range(a, b)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn sequence_equals_a_vector(start in 0usize..5000, steps in prop::collection::vec(step(), 0..2500)) {
            let mut sequence = Sequence::default();
            let mut model: Vec<usize> = (0..start).collect();
            model.iter().for_each(|&n| sequence.insert(n, n));
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert(at) => {
                        let at = at.index(model.len() + 1);
                        sequence.insert(at, number);
                        model.insert(at, number);
                    }
                    Step::Push => {
                        sequence.insert(model.len(), number);
                        model.push(number);
                    }
                    Step::Remove(at) => {
                        let expected = (!model.is_empty()).then(|| model.remove(at.index(model.len())));
                        prop_assert_eq!(sequence.remove(at.index(model.len() + 1)), expected);
                    }
                    Step::Range(a, b) => {
                        let (a, b) = (a.index(model.len() + 1), b.index(model.len() + 1));
                        let expected = model.get(a..b).unwrap_or_default();
                        prop_assert!(sequence.range(a, b).eq(expected.iter()));
                        prop_assert!(sequence.range_rev(a, b).eq(expected.iter().rev()));
                    }
                }
                prop_assert_eq!(sequence.len(), model.len());
            }
            prop_assert!(sequence.range(0, usize::MAX).eq(model.iter()));
            for (rank, item) in model.iter().enumerate() {
                prop_assert_eq!(sequence.range(rank, rank + 1).next(), Some(item));
            }
            while !model.is_empty() {
                prop_assert_eq!(sequence.remove(model.len() / 2), Some(model.remove(model.len() / 2)));
            }
            prop_assert!(matches!(sequence.root, Node::Leaf(ref items) if items.is_empty()));
        }

        #[test]
        fn partition_point_is_that_of_a_vector(mut items in prop::collection::vec(0u32..5000, 0..3000), bounds in prop::collection::vec(0u32..5100, 20)) {
            items.sort_unstable();
            let mut sequence = Sequence::default();
            items.iter().enumerate().for_each(|(rank, &item)| sequence.insert(rank, item));
            for bound in bounds {
                prop_assert_eq!(sequence.partition_point(|&n| n < bound), items.partition_point(|&n| n < bound));
            }
        }
    }
}
