//! The keyed hash of every table: SipHash-1-3 (Aumasson and Bernstein), which a client that does not know the seed cannot make collide.

/// The seed of an engine's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Seed(pub(crate) [u64; 2]);

impl Seed {
    /// Where an element, or a key of database 0, stands in hash order.
    pub(crate) fn hash(self, bytes: &[u8]) -> u64 {
        sip::<1, 3>(self.0, bytes)
    }

    /// Where a key stands in hash order: the same name in two databases stands in two places.
    pub(crate) fn hash_key(self, db: u8, key: &[u8]) -> u64 {
        let [k0, k1] = self.0;
        sip::<1, 3>([k0, k1 ^ u64::from(db)], key)
    }
}

/// SipHash with `C` rounds a word and `D` at the end.
fn sip<const C: usize, const D: usize>([k0, k1]: [u64; 2], bytes: &[u8]) -> u64 {
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        absorb::<C>(&mut v, u64::from_le_bytes(*word));
    }
    let last = rest.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    absorb::<C>(&mut v, last | (bytes.len() as u64) << 56);
    let [_, _, v2, _] = &mut v;
    *v2 ^= 0xff;
    for _ in 0..D {
        round(&mut v);
    }
    let [v0, v1, v2, v3] = v;
    v0 ^ v1 ^ v2 ^ v3
}

fn absorb<const C: usize>(v: &mut [u64; 4], word: u64) {
    let [_, _, _, v3] = v;
    *v3 ^= word;
    for _ in 0..C {
        round(v);
    }
    let [v0, _, _, _] = v;
    *v0 ^= word;
}

fn round([v0, v1, v2, v3]: &mut [u64; 4]) {
    *v0 = v0.wrapping_add(*v1);
    *v1 = v1.rotate_left(13) ^ *v0;
    *v0 = v0.rotate_left(32);
    *v2 = v2.wrapping_add(*v3);
    *v3 = v3.rotate_left(16) ^ *v2;
    *v0 = v0.wrapping_add(*v3);
    *v3 = v3.rotate_left(21) ^ *v0;
    *v2 = v2.wrapping_add(*v1);
    *v1 = v1.rotate_left(17) ^ *v2;
    *v2 = v2.rotate_left(32);
}

/// A small generator for sampling: xorshift64*. Not for secrets.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, or 0 if there is none.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::Hasher as _;

    #[test]
    #[allow(deprecated, reason = "the standard library's SipHash-2-4 is the reference here")]
    fn two_four_rounds_give_what_the_standard_library_gives() {
        let bytes: Vec<u8> = (0..100).collect();
        for len in 0..bytes.len() {
            let mut reference = std::hash::SipHasher::new_with_keys(7, 1 << 60);
            reference.write(&bytes[..len]);
            assert_eq!(sip::<2, 4>([7, 1 << 60], &bytes[..len]), reference.finish(), "{len}");
        }
    }
}
