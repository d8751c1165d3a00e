//! Reading a value: each type in all its forms becomes the changes that make it.

use super::compact::{Item, intset, listpack, take, take_array, ziplist, zipmap};
use super::{kind, stream};
use crate::record::Change;

/// No string is longer, whatever a payload says.
const STRING_BYTES_MAX: usize = 512 << 20;

/// `None` if these bytes are no value, or not only one.
pub(super) fn value(body: &[u8], visit: &mut dyn FnMut(Change<'_>)) -> Option<()> {
    let mut rest = body;
    let [kind] = take_array::<1>(&mut rest)?;
    let rest = &mut rest;
    match kind {
        kind::STRING => visit(Change::Put { value: &string(rest)?, expires_at: None }),
        kind::LIST | kind::LIST_QUICKLIST | kind::LIST_QUICKLIST_2 => list(kind, rest, visit)?,
        kind::LIST_ZIPLIST => push_items(&mut 0, &ziplist(&string(rest)?)?, visit),
        kind::SET => {
            for _ in 0..count(rest)? {
                visit(Change::SetAdd { member: &string(rest)? });
            }
        }
        kind::SET_INTSET => add_items(&intset(&string(rest)?)?, visit),
        kind::SET_LISTPACK => add_items(&listpack(&string(rest)?)?, visit),
        kind::HASH | kind::HASH_2 => {
            for _ in 0..count(rest)? {
                let (field, value) = (string(rest)?, string(rest)?);
                if kind == kind::HASH_2 && i64::from_le_bytes(take_array(rest)?) != -1 {
                    return None;
                }
                visit(Change::HashSet { field: &field, value: &value });
            }
        }
        kind::HASH_ZIPMAP => set_items(&zipmap(&string(rest)?)?, visit)?,
        kind::HASH_ZIPLIST => set_items(&ziplist(&string(rest)?)?, visit)?,
        kind::HASH_LISTPACK => set_items(&listpack(&string(rest)?)?, visit)?,
        kind::ZSET | kind::ZSET_2 => {
            for _ in 0..count(rest)? {
                let member = string(rest)?;
                let score = if kind == kind::ZSET { text_score(rest)? } else { f64::from_le_bytes(take_array(rest)?) };
                score_member(&member, score, visit)?;
            }
        }
        kind::ZSET_ZIPLIST => score_items(&ziplist(&string(rest)?)?, visit)?,
        kind::ZSET_LISTPACK => score_items(&listpack(&string(rest)?)?, visit)?,
        kind::STREAM_LISTPACKS | kind::STREAM_LISTPACKS_2 | kind::STREAM_LISTPACKS_3 => {
            stream::read(kind, rest, visit)?;
        }
        _ => return None,
    }
    rest.is_empty().then_some(())
}

/// How many elements a collection has. None has none.
fn count(rest: &mut &[u8]) -> Option<u64> {
    length(rest).filter(|count| *count > 0)
}

fn list(kind: u8, rest: &mut &[u8], visit: &mut dyn FnMut(Change<'_>)) -> Option<()> {
    /// A node of a quicklist that is one large element.
    const PLAIN: u64 = 1;
    let mut index = 0;
    for _ in 0..count(rest)? {
        let is_plain = match kind {
            kind::LIST => true,
            kind::LIST_QUICKLIST_2 => length(rest)? == PLAIN,
            _ => false,
        };
        let node = string(rest)?;
        match kind {
            _ if is_plain => push_items(&mut index, &[Item::Bytes(&node)], visit),
            kind::LIST_QUICKLIST_2 => push_items(&mut index, &listpack(&node)?, visit),
            _ => push_items(&mut index, &ziplist(&node)?, visit),
        }
    }
    (index > 0).then_some(())
}

fn push_items(index: &mut u64, items: &[Item<'_>], visit: &mut dyn FnMut(Change<'_>)) {
    for item in items {
        item.with_text(|value| visit(Change::ListInsert { index: *index, value }));
        *index += 1;
    }
}

fn add_items(items: &[Item<'_>], visit: &mut dyn FnMut(Change<'_>)) {
    items.iter().for_each(|item| item.with_text(|member| visit(Change::SetAdd { member })));
}

fn set_items(items: &[Item<'_>], visit: &mut dyn FnMut(Change<'_>)) -> Option<()> {
    let (pairs, []) = items.as_chunks::<2>() else { return None };
    for [field, value] in pairs {
        field.with_text(|field| value.with_text(|value| visit(Change::HashSet { field, value })));
    }
    (!pairs.is_empty()).then_some(())
}

fn score_items(items: &[Item<'_>], visit: &mut dyn FnMut(Change<'_>)) -> Option<()> {
    let (pairs, []) = items.as_chunks::<2>() else { return None };
    for [member, score] in pairs {
        let score = match score {
            Item::Int(int) => *int as f64,
            Item::Bytes(text) => crate::resp::parse_double(text)?,
        };
        member.with_text(|member| score_member(member, score, visit))?;
    }
    (!pairs.is_empty()).then_some(())
}

fn score_member(member: &[u8], score: f64, visit: &mut dyn FnMut(Change<'_>)) -> Option<()> {
    if score.is_nan() {
        return None;
    }
    visit(Change::ZSet { member, score });
    Some(())
}

/// A score as text behind its length, where three lengths mean what has no text.
fn text_score(rest: &mut &[u8]) -> Option<f64> {
    match take_array::<1>(rest)? {
        [253] => None,
        [254] => Some(f64::INFINITY),
        [255] => Some(f64::NEG_INFINITY),
        [len] => crate::resp::parse_double(take(rest, usize::from(len))?),
    }
}

/// A length, or how a string is encoded instead.
enum Length {
    Plain(u64),
    Encoded(u8),
}

fn length_or_encoding(rest: &mut &[u8]) -> Option<Length> {
    let [first] = take_array::<1>(rest)?;
    Some(match first {
        0..0x40 => Length::Plain(u64::from(first)),
        0x40..0x80 => {
            let [second] = take_array::<1>(rest)?;
            Length::Plain(u64::from(first & 0x3f) << 8 | u64::from(second))
        }
        0x80 => Length::Plain(u64::from(u32::from_be_bytes(take_array(rest)?))),
        0x81 => Length::Plain(u64::from_be_bytes(take_array(rest)?)),
        0xc0.. => Length::Encoded(first & 0x3f),
        _ => return None,
    })
}

pub(super) fn length(rest: &mut &[u8]) -> Option<u64> {
    match length_or_encoding(rest)? {
        Length::Plain(length) => Some(length),
        Length::Encoded(_) => None,
    }
}

/// A string: plain, an integer, or compressed.
pub(super) fn string(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let int = match length_or_encoding(rest)? {
        Length::Plain(len) => return take(rest, usize::try_from(len).ok()?).map(<[u8]>::to_vec),
        Length::Encoded(0) => i64::from(i8::from_le_bytes(take_array(rest)?)),
        Length::Encoded(1) => i64::from(i16::from_le_bytes(take_array(rest)?)),
        Length::Encoded(2) => i64::from(i32::from_le_bytes(take_array(rest)?)),
        Length::Encoded(3) => {
            let (packed, len) = (length(rest)?, length(rest)?);
            return decompress(take(rest, usize::try_from(packed).ok()?)?, usize::try_from(len).ok()?);
        }
        Length::Encoded(_) => return None,
    };
    Some(int.to_string().into_bytes())
}

/// LZF: runs of literals, and copies of what was just written. `None` if that is not `len` bytes.
fn decompress(mut packed: &[u8], len: usize) -> Option<Vec<u8>> {
    if len > STRING_BYTES_MAX {
        return None;
    }
    let mut out = Vec::new();
    while !packed.is_empty() {
        let [control] = take_array::<1>(&mut packed)?;
        if control < 32 {
            out.extend_from_slice(take(&mut packed, usize::from(control) + 1)?);
        } else {
            let mut count = usize::from(control >> 5);
            if count == 7 {
                count += usize::from(take_array::<1>(&mut packed)?[0]);
            }
            let [low] = take_array::<1>(&mut packed)?;
            let back = (usize::from(control & 0x1f) << 8 | usize::from(low)) + 1;
            let from = out.len().checked_sub(back)?;
            // What is copied may overlap what is written.
            for at in from..from + count + 2 {
                let byte = *out.get(at)?;
                out.push(byte);
            }
        }
        if out.len() > len {
            return None;
        }
    }
    (out.len() == len).then_some(out)
}
