//! Lists: elements by position. A sequence from the first element on; its leaves are what packing is to the other types.

use super::sequence::Sequence;

/// What one element is reckoned to cost beside its bytes.
const ELEMENT_OVERHEAD_BYTES: usize = 24;

#[derive(Debug, Default)]
pub(crate) struct List {
    elements: Sequence<Box<[u8]>>,
    heap_bytes: usize,
}

impl List {
    pub(crate) fn len(&self) -> usize {
        self.elements.len()
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.heap_bytes
    }

    pub(crate) fn get(&self, index: usize) -> Option<&[u8]> {
        self.elements.get(index).map(|element| &**element)
    }

    pub(crate) fn insert(&mut self, index: usize, value: &[u8]) {
        self.heap_bytes += value.len() + ELEMENT_OVERHEAD_BYTES;
        self.elements.insert(index, value.into());
    }

    pub(crate) fn replace(&mut self, index: usize, value: &[u8]) -> bool {
        let Some(element) = self.elements.get_mut(index) else { return false };
        self.heap_bytes = self.heap_bytes + value.len() - element.len();
        *element = value.into();
        true
    }

    pub(crate) fn remove(&mut self, index: usize) -> Option<Box<[u8]>> {
        let element = self.elements.remove(index)?;
        self.heap_bytes -= element.len() + ELEMENT_OVERHEAD_BYTES;
        Some(element)
    }

    pub(crate) fn range(&self, start: usize, end: usize) -> impl Iterator<Item = &[u8]> {
        self.elements.range(start, end).map(|element| &**element)
    }

    pub(crate) fn range_rev(&self, start: usize, end: usize) -> impl Iterator<Item = &[u8]> {
        self.elements.range_rev(start, end).map(|element| &**element)
    }
}
