//! HyperLogLog in the byte layout of the field, so that a value may come from, and go to, any Redis or Valkey.
//!
//! ```text
//! value  = "HYLL" encoding:u8 0 0 0 cardinality:u64 registers      encoding 0 is dense, 1 sparse; a cardinality with its top bit
//!                                                                  set is out of date
//! dense  = 16384 registers of 6 bits, the first in the low bits of the first byte
//! sparse = ( 00nnnnnn             n+1 registers of 0
//!          | 01nnnnnn nnnnnnnn    n+1 registers of 0
//!          | 1vvvvvnn )*          n+1 registers of v+1
//! ```
//! Source: the layout and the way in which runs are split and joined are those of `hyperloglog.c`, so that the same additions give the
//! same bytes; the estimate is Otmar Ertl's ("New cardinality estimation algorithms for HyperLogLog sketches", 2017).

const MAGIC: &[u8; 4] = b"HYLL";
const HEADER_BYTES: usize = 16;
const INDEX_BITS: u32 = 14;
/// How many bits of a hash are left for a register's rank.
const RANK_BITS: usize = 64 - INDEX_BITS as usize;
const REGISTERS: usize = 1 << INDEX_BITS;
const REGISTER_BITS: usize = 6;
const DENSE_BYTES: usize = HEADER_BYTES + REGISTERS * REGISTER_BITS / 8;
/// A sparse value beyond this becomes dense (`hll-sparse-max-bytes`).
const SPARSE_BYTES_MAX: usize = 3000;
/// The highest rank that the sparse form can hold.
const SPARSE_RANK_MAX: u8 = 32;
const SHORT_ZEROS_MAX: usize = 64;
const VALUES_MAX: usize = 4;
const HASH_SEED: u64 = 0xadc8_3b19;

/// Bytes that begin like a HyperLogLog and are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Corrupt;

/// A value, owned while it is changed.
#[derive(Clone, Debug)]
pub(crate) struct HyperLogLog {
    bytes: Vec<u8>,
}

impl Default for HyperLogLog {
    fn default() -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&[1, 0, 0, 0]);
        bytes.extend_from_slice(&0u64.to_le_bytes());
        push_zeros(REGISTERS, &mut bytes);
        Self { bytes }
    }
}

impl HyperLogLog {
    /// `None` if these bytes are another kind of string.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        let fits = bytes.len() >= HEADER_BYTES
            && bytes.starts_with(MAGIC)
            && match bytes.get(MAGIC.len())? {
                0 => bytes.len() == DENSE_BYTES,
                1 => true,
                _ => false,
            };
        fits.then_some(Self { bytes })
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn is_dense(&self) -> bool {
        self.bytes.get(MAGIC.len()) == Some(&0)
    }

    /// Returns whether the estimate may have changed.
    pub(crate) fn add(&mut self, element: &[u8]) -> Result<bool, Corrupt> {
        let hash = murmur64(element);
        let index = hash as usize & (REGISTERS - 1);
        let rank = (hash >> INDEX_BITS | 1 << RANK_BITS).trailing_zeros() as u8 + 1;
        self.raise(index, rank)
    }

    /// Takes over what another counted, as the highest of each register.
    pub(crate) fn merge(&mut self, registers: &Registers) -> Result<(), Corrupt> {
        for (index, &rank) in registers.0.iter().enumerate().filter(|(_, rank)| **rank > 0) {
            self.raise(index, rank)?;
        }
        self.note_change();
        Ok(())
    }

    /// The estimate that is kept in the header is no longer true.
    pub(crate) fn note_change(&mut self) {
        if let Some(top) = self.bytes.get_mut(HEADER_BYTES - 1) {
            *top |= 0x80;
        }
    }

    pub(crate) fn make_dense(&mut self) -> Result<(), Corrupt> {
        if self.is_dense() {
            return Ok(());
        }
        let mut registers = Registers::default();
        registers.raise_all(self)?;
        self.bytes.truncate(HEADER_BYTES);
        self.bytes.resize(DENSE_BYTES, 0);
        if let Some(encoding) = self.bytes.get_mut(MAGIC.len()) {
            *encoding = 0;
        }
        for (index, &rank) in registers.0.iter().enumerate().filter(|(_, rank)| **rank > 0) {
            self.raise_dense(index, rank);
        }
        Ok(())
    }

    fn raise(&mut self, index: usize, rank: u8) -> Result<bool, Corrupt> {
        if self.is_dense() {
            return Ok(self.raise_dense(index, rank));
        }
        match self.raise_sparse(index, rank)? {
            Some(raised) => Ok(raised),
            None => {
                self.make_dense()?;
                Ok(self.raise_dense(index, rank))
            }
        }
    }

    fn raise_dense(&mut self, index: usize, rank: u8) -> bool {
        let registers = self.bytes.get_mut(HEADER_BYTES..).unwrap_or_default();
        if dense_register(registers, index) >= rank {
            return false;
        }
        let (at, shift) = (index * REGISTER_BITS / 8, index * REGISTER_BITS % 8);
        let mask = u16::from((1u8 << REGISTER_BITS) - 1) << shift;
        let value = u16::from(rank) << shift;
        for (byte, (mask, value)) in
            registers.iter_mut().skip(at).zip(mask.to_le_bytes().into_iter().zip(value.to_le_bytes()))
        {
            *byte = *byte & !mask | value;
        }
        true
    }

    /// `None`: the sparse form cannot hold this, and nothing was done.
    fn raise_sparse(&mut self, index: usize, rank: u8) -> Result<Option<bool>, Corrupt> {
        if rank > SPARSE_RANK_MAX {
            return Ok(None);
        }
        let (mut at, mut first, mut before) = (HEADER_BYTES, 0, None);
        let run = loop {
            let run = Run::read(self.bytes.get(at..).unwrap_or_default()).ok_or(Corrupt)?;
            if index < first + run.count {
                break run;
            }
            before = Some(at);
            (at, first) = (at + run.bytes, first + run.count);
        };
        if run.rank >= rank {
            return Ok(Some(false));
        }
        let (ahead, behind) = (index - first, first + run.count - 1 - index);
        let mut runs = Vec::with_capacity(5);
        push_run(run.rank, ahead, &mut runs);
        push_run(rank, 1, &mut runs);
        push_run(run.rank, behind, &mut runs);
        if runs.len() > run.bytes && self.bytes.len() + runs.len() - run.bytes > SPARSE_BYTES_MAX {
            return Ok(None);
        }
        self.bytes.splice(at..at + run.bytes, runs);
        self.join_runs(before.unwrap_or(HEADER_BYTES));
        Ok(Some(true))
    }

    /// Joins neighbouring runs of the same rank among the few that a change can have made.
    fn join_runs(&mut self, mut at: usize) {
        for _ in 0..5 {
            let Some(run) = self.bytes.get(at..).and_then(Run::read) else { return };
            let next = self.bytes.get(at + run.bytes..).and_then(Run::read);
            match next {
                Some(next) if run.rank > 0 && next.rank == run.rank && run.count + next.count <= VALUES_MAX => {
                    let mut joined = Vec::with_capacity(1);
                    push_run(run.rank, run.count + next.count, &mut joined);
                    self.bytes.splice(at..at + run.bytes + next.bytes, joined);
                }
                _ => at += run.bytes,
            }
        }
    }
}

/// A run of the sparse form.
#[derive(Clone, Copy, Debug)]
struct Run {
    rank: u8,
    count: usize,
    bytes: usize,
}

impl Run {
    fn read(bytes: &[u8]) -> Option<Self> {
        match *bytes {
            [first, ..] if first & 0x80 != 0 => {
                Some(Self { rank: (first >> 2 & 0x1f) + 1, count: usize::from(first & 3) + 1, bytes: 1 })
            }
            [first, second, ..] if first & 0x40 != 0 => {
                Some(Self { rank: 0, count: (usize::from(first & 0x3f) << 8 | usize::from(second)) + 1, bytes: 2 })
            }
            [first, ..] if first & 0x40 == 0 => Some(Self { rank: 0, count: usize::from(first) + 1, bytes: 1 }),
            _ => None,
        }
    }
}

fn push_run(rank: u8, count: usize, out: &mut Vec<u8>) {
    match (rank, count) {
        (_, 0) => {}
        (0, _) => push_zeros(count, out),
        _ => out.push(0x80 | (rank - 1) << 2 | (count - 1) as u8),
    }
}

fn push_zeros(count: usize, out: &mut Vec<u8>) {
    let less = count - 1;
    if count > SHORT_ZEROS_MAX {
        out.extend_from_slice(&[0x40 | (less >> 8) as u8, less as u8]);
    } else {
        out.push(less as u8);
    }
}

fn dense_register(registers: &[u8], index: usize) -> u8 {
    let (at, shift) = (index * REGISTER_BITS / 8, index * REGISTER_BITS % 8);
    let byte = |at: usize| u16::from(registers.get(at).copied().unwrap_or(0));
    ((byte(at) | byte(at + 1) << 8) >> shift) as u8 & ((1 << REGISTER_BITS) - 1)
}

/// Registers of one value or of several, a byte each.
pub(crate) struct Registers(Vec<u8>);

impl Default for Registers {
    fn default() -> Self {
        Self(vec![0; REGISTERS])
    }
}

impl Registers {
    pub(crate) fn raise_all(&mut self, by: &HyperLogLog) -> Result<(), Corrupt> {
        let bytes = by.bytes.get(HEADER_BYTES..).unwrap_or_default();
        if by.is_dense() {
            for (index, register) in self.0.iter_mut().enumerate() {
                *register = (*register).max(dense_register(bytes, index));
            }
            return Ok(());
        }
        let (mut rest, mut registers) = (bytes, self.0.iter_mut());
        while !rest.is_empty() {
            let run = Run::read(rest).ok_or(Corrupt)?;
            for _ in 0..run.count {
                let register = registers.next().ok_or(Corrupt)?;
                *register = (*register).max(run.rank);
            }
            rest = rest.get(run.bytes..).unwrap_or_default();
        }
        // All registers are told, or the value is cut off.
        if registers.next().is_some() { Err(Corrupt) } else { Ok(()) }
    }

    /// How many different elements were added, by estimate: within 0.81% as a rule.
    pub(crate) fn estimate(&self) -> u64 {
        const ALPHA: f64 = 0.721_347_520_444_481_7;
        let mut counts = [0.0f64; RANK_BITS + 2];
        for &rank in &self.0 {
            if let Some(count) = counts.get_mut(usize::from(rank)) {
                *count += 1.0;
            }
        }
        let m = REGISTERS as f64;
        let [zeros, middle @ .., full] = counts;
        let mut z = m * tau((m - full) / m);
        for count in middle.iter().rev() {
            z = (z + count) * 0.5;
        }
        z += m * sigma(zeros / m);
        (ALPHA * m * m / z).round() as u64
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x).powi(2) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

/// Austin Appleby's MurmurHash64A, which every HyperLogLog of this layout uses.
fn murmur64(bytes: &[u8]) -> u64 {
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    const R: u32 = 47;
    let mut hash = HASH_SEED ^ (bytes.len() as u64).wrapping_mul(M);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let mut word = u64::from_le_bytes(*word).wrapping_mul(M);
        word ^= word >> R;
        hash = (hash ^ word.wrapping_mul(M)).wrapping_mul(M);
    }
    if !rest.is_empty() {
        let last = rest.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        hash = (hash ^ last).wrapping_mul(M);
    }
    hash ^= hash >> R;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> R
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn estimate(of: &HyperLogLog) -> u64 {
        let mut registers = Registers::default();
        registers.raise_all(of).unwrap();
        registers.estimate()
    }

    #[test]
    fn the_estimate_is_within_two_percent() {
        let mut value = HyperLogLog::default();
        for number in 0..200_000u64 {
            value.add(&number.to_le_bytes()).unwrap();
            if [10, 100, 1000, 10_000, 199_999].contains(&number) {
                let (estimate, truth) = (estimate(&value) as f64, (number + 1) as f64);
                assert!((estimate - truth).abs() / truth < 0.02, "{estimate} for {truth}");
            }
        }
        assert!(value.is_dense());
    }

    proptest! {
        #[test]
        fn sparse_and_dense_count_the_same(numbers in prop::collection::vec(0u32..5000, 0..1500)) {
            let (mut sparse, mut dense) = (HyperLogLog::default(), HyperLogLog::default());
            dense.make_dense().unwrap();
            for number in &numbers {
                let raised = sparse.add(&number.to_le_bytes()).unwrap();
                prop_assert_eq!(raised, dense.add(&number.to_le_bytes()).unwrap());
            }
            prop_assert_eq!(estimate(&sparse), estimate(&dense));
            sparse.make_dense().unwrap();
            prop_assert_eq!(sparse.as_bytes(), dense.as_bytes());
        }

        #[test]
        fn garbage_is_refused_or_read_but_never_trusted(bytes in prop::collection::vec(any::<u8>(), 0..40), index in 0usize..REGISTERS) {
            let mut whole = HyperLogLog::default().bytes;
            whole.truncate(HEADER_BYTES);
            whole.extend(bytes);
            if let Some(mut value) = HyperLogLog::from_bytes(whole) {
                let _ = Registers::default().raise_all(&value);
                let _ = value.raise(index, 7);
            }
        }
    }
}
