//! The compact forms of small collections: listpacks and what came before them. Each is one string of bytes that holds a series of items.

/// An item: bytes as they are, or an integer that stands for its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item<'a> {
    Bytes(&'a [u8]),
    Int(i64),
}

impl Item<'_> {
    pub(super) fn with_text<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        match self {
            Self::Bytes(bytes) => read(bytes),
            Self::Int(int) => read(crate::resp::write_int(*int, &mut [0; 20])),
        }
    }

    pub(super) fn int(&self) -> Option<i64> {
        match self {
            Self::Bytes(bytes) => crate::resp::parse_int(bytes),
            Self::Int(int) => Some(*int),
        }
    }
}

pub(super) fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, behind) = rest.split_at_checked(len)?;
    *rest = behind;
    Some(taken)
}

pub(super) fn take_array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*taken)
}

/// A little-endian integer of so many bytes.
fn take_int(rest: &mut &[u8], len: usize) -> Option<i64> {
    let bytes = take(rest, len)?;
    let raw = bytes.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    let shift = 64 - 8 * len as u32;
    Some((raw << shift).cast_signed() >> shift)
}

/// The items of a listpack: a header of 6 bytes, items each with its length behind it, an end of 0xff.
pub(super) fn listpack(bytes: &[u8]) -> Option<Vec<Item<'_>>> {
    let (mut rest, mut items) = (bytes, Vec::new());
    let [a, b, c, d, _, _] = take_array::<6>(&mut rest)?;
    if u32::from_le_bytes([a, b, c, d]) as usize != bytes.len() {
        return None;
    }
    loop {
        let before = rest.len();
        let [first] = take_array::<1>(&mut rest)?;
        let item = match first {
            0xff => return rest.is_empty().then_some(items),
            _ if first & 0x80 == 0 => Item::Int(i64::from(first)),
            _ if first & 0xc0 == 0x80 => Item::Bytes(take(&mut rest, usize::from(first & 0x3f))?),
            _ if first & 0xe0 == 0xc0 => {
                let [second] = take_array::<1>(&mut rest)?;
                let raw = i64::from(first & 0x1f) << 8 | i64::from(second);
                Item::Int(if raw >= 1 << 12 { raw - (1 << 13) } else { raw })
            }
            _ if first & 0xf0 == 0xe0 => {
                let [second] = take_array::<1>(&mut rest)?;
                Item::Bytes(take(&mut rest, usize::from(first & 0x0f) << 8 | usize::from(second))?)
            }
            0xf0 => {
                let len = u32::from_le_bytes(take_array(&mut rest)?) as usize;
                Item::Bytes(take(&mut rest, len)?)
            }
            0xf1 => Item::Int(take_int(&mut rest, 2)?),
            0xf2 => Item::Int(take_int(&mut rest, 3)?),
            0xf3 => Item::Int(take_int(&mut rest, 4)?),
            0xf4 => Item::Int(take_int(&mut rest, 8)?),
            _ => return None,
        };
        let len = before - rest.len();
        take(&mut rest, back_length_bytes(len))?;
        items.push(item);
    }
}

/// How many bytes say, behind an item of a listpack, how long it is.
fn back_length_bytes(len: usize) -> usize {
    match len {
        0..=127 => 1,
        128..16_383 => 2,
        16_383..2_097_151 => 3,
        2_097_151..268_435_455 => 4,
        _ => 5,
    }
}

/// Writes a listpack, item by item.
#[derive(Debug)]
pub(super) struct ListpackWriter {
    bytes: Vec<u8>,
    count: usize,
}

impl ListpackWriter {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; 6], count: 0 }
    }

    pub(super) fn push(&mut self, item: &[u8]) {
        if let Some(int) = if item.len() <= 20 { crate::resp::parse_int(item) } else { None } {
            return self.push_int(int);
        }
        let start = self.bytes.len();
        match item.len() {
            len @ 0..64 => self.bytes.push(0x80 | len as u8),
            len @ 64..4096 => self.bytes.extend_from_slice(&[0xe0 | (len >> 8) as u8, len as u8]),
            len => {
                self.bytes.push(0xf0);
                self.bytes.extend_from_slice(&(len as u32).to_le_bytes());
            }
        }
        self.bytes.extend_from_slice(item);
        self.end_item(start);
    }

    pub(super) fn push_int(&mut self, int: i64) {
        let start = self.bytes.len();
        let wide = |out: &mut Vec<u8>, tag: u8, len: usize| {
            out.push(tag);
            out.extend(int.to_le_bytes().into_iter().take(len));
        };
        match int {
            0..128 => self.bytes.push(int as u8),
            -4096..4096 => self.bytes.extend_from_slice(&[0xc0 | (int >> 8) as u8 & 0x1f, int as u8]),
            -0x8000..0x8000 => wide(&mut self.bytes, 0xf1, 2),
            -0x80_0000..0x80_0000 => wide(&mut self.bytes, 0xf2, 3),
            -0x8000_0000..0x8000_0000 => wide(&mut self.bytes, 0xf3, 4),
            _ => wide(&mut self.bytes, 0xf4, 8),
        }
        self.end_item(start);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.push(0xff);
        let total = (self.bytes.len() as u32).to_le_bytes();
        // More items than the header can say are counted by whoever reads.
        let count = u16::try_from(self.count).unwrap_or(u16::MAX).to_le_bytes();
        let header = total.into_iter().chain(count);
        self.bytes.iter_mut().zip(header).for_each(|(byte, value)| *byte = value);
        self.bytes
    }

    /// Behind an item goes its length, 7 bits a byte, to be read backwards.
    fn end_item(&mut self, start: usize) {
        let len = self.bytes.len() - start;
        let bytes = back_length_bytes(len);
        for at in (0..bytes).rev() {
            let more = if at + 1 == bytes { 0 } else { 0x80 };
            self.bytes.push((len >> (7 * at)) as u8 & 0x7f | more);
        }
        self.count += 1;
    }
}

/// The items of a ziplist: a header of 10 bytes, items each behind the length of the one before, an end of 0xff.
pub(super) fn ziplist(bytes: &[u8]) -> Option<Vec<Item<'_>>> {
    let (mut rest, mut items) = (bytes, Vec::new());
    take(&mut rest, 10)?;
    loop {
        let [before] = take_array::<1>(&mut rest)?;
        match before {
            0xff => return rest.is_empty().then_some(items),
            0xfe => drop(take(&mut rest, 4)?),
            _ => {}
        }
        let [first] = take_array::<1>(&mut rest)?;
        items.push(match first {
            0..0x40 => Item::Bytes(take(&mut rest, usize::from(first))?),
            0x40..0x80 => {
                let [second] = take_array::<1>(&mut rest)?;
                Item::Bytes(take(&mut rest, usize::from(first & 0x3f) << 8 | usize::from(second))?)
            }
            0x80 => {
                let len = u32::from_be_bytes(take_array(&mut rest)?) as usize;
                Item::Bytes(take(&mut rest, len)?)
            }
            0xc0 => Item::Int(take_int(&mut rest, 2)?),
            0xd0 => Item::Int(take_int(&mut rest, 4)?),
            0xe0 => Item::Int(take_int(&mut rest, 8)?),
            0xf0 => Item::Int(take_int(&mut rest, 3)?),
            0xfe => Item::Int(take_int(&mut rest, 1)?),
            0xf1..=0xfd => Item::Int(i64::from(first & 0x0f) - 1),
            _ => return None,
        });
    }
}

/// The items of an intset: how wide each is, how many there are, and they.
pub(super) fn intset(bytes: &[u8]) -> Option<Vec<Item<'static>>> {
    let mut rest = bytes;
    let width = u32::from_le_bytes(take_array(&mut rest)?) as usize;
    let count = u32::from_le_bytes(take_array(&mut rest)?) as usize;
    if !matches!(width, 2 | 4 | 8) || rest.len() != count.checked_mul(width)? {
        return None;
    }
    (0..count).map(|_| take_int(&mut rest, width).map(Item::Int)).collect()
}

/// The items of a zipmap, names and values in turn: how many pairs, each item behind its length, values with some room behind them.
pub(super) fn zipmap(bytes: &[u8]) -> Option<Vec<Item<'_>>> {
    let (mut rest, mut items) = (bytes, Vec::new());
    take(&mut rest, 1)?;
    loop {
        let [first] = take_array::<1>(&mut rest)?;
        let len = match first {
            0xff => return (rest.is_empty() && items.len().is_multiple_of(2)).then_some(items),
            0xfe => u32::from_le_bytes(take_array(&mut rest)?) as usize,
            len => usize::from(len),
        };
        let is_value = !items.len().is_multiple_of(2);
        let room = if is_value { usize::from(take_array::<1>(&mut rest)?[0]) } else { 0 };
        items.push(Item::Bytes(take(&mut rest, len)?));
        take(&mut rest, room)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_listpack_holds_what_was_written(
            ints in prop::collection::vec(prop_oneof![any::<i64>(), -5000i64..5000, -40_000i64..40_000, Just(i64::MIN)], 0..40),
            lens in prop::collection::vec(prop_oneof![0usize..70, Just(130), Just(4095), Just(4096), Just(20_000)], 0..6),
        ) {
            let mut writer = ListpackWriter::new();
            ints.iter().for_each(|int| writer.push(int.to_string().as_bytes()));
            let strings: Vec<Vec<u8>> = lens.iter().map(|len| vec![b'x'; *len]).collect();
            strings.iter().for_each(|string| writer.push(string));
            let bytes = writer.finish();
            let items = listpack(&bytes).unwrap();
            let expected = ints.iter().map(|int| Item::Int(*int)).chain(strings.iter().map(|string| Item::Bytes(string)));
            prop_assert!(items.into_iter().eq(expected));
        }
    }
}
