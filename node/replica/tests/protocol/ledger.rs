//! What clients were told, and what must therefore be true.

/// How many writes a run may have.
pub const WRITES_MAX: usize = 1_024;

/// A set of writes, by number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Writes([u64; WRITES_MAX / 64]);

impl Writes {
    pub const NONE: Self = Self([0; WRITES_MAX / 64]);

    pub fn insert(&mut self, id: u16) {
        self.0[usize::from(id) / 64] |= 1 << (id % 64);
    }

    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine |= theirs;
        }
    }

    /// The first write of this set that `other` lacks.
    pub fn missing_in(&self, other: &Self) -> Option<usize> {
        let pairs = self.0.iter().zip(other.0).enumerate();
        pairs
            .filter_map(|(word, (mine, theirs))| {
                let lacking = mine & !theirs;
                (lacking != 0).then(|| word * 64 + lacking.trailing_zeros() as usize)
            })
            .next()
    }
}

/// Everything that some client has been told: acknowledged writes, and writes that a read showed.
#[derive(Clone)]
pub struct Ledger {
    pub observed: Writes,
    pub acknowledged: usize,
    pub reads: usize,
    pub reruns: usize,
    /// Replies withheld for good, with the connection closed.
    pub closed: usize,
}

impl Ledger {
    pub fn new() -> Self {
        Self { observed: Writes::NONE, acknowledged: 0, reads: 0, reruns: 0, closed: 0 }
    }
}
