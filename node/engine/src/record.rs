//! Records: what a write did to the data, as bytes that a copy can repeat.
//!
//! A record is the whole effect of one command, or of one transaction: a list of [`Change`]s, each of one key and of at most one element
//! of it. It says what came out (`counter is 5`, not `add 1`), so it needs neither the time, nor randomness, nor the command's code of the
//! version that wrote it. Since primaries and copies change data only through [`Change`], they agree by construction.
//!
//! ```text
//! frame   = varint(length of content) content          a length of 0 is a record that changes nothing (see `walk`)
//! content = version:u8 change*                           version 1
//! change  = op:u8 [db:u8 bytes(key)] operands            the key is left out if op's top bit is set: the same as before
//! bytes   = varint(length) byte*
//! ```
//! Integers are little-endian; varint is LEB128.

use crate::stream_change::StreamChange;
use crate::time::UnixMs;

/// The version of the format that this build writes. A reader refuses any other.
const VERSION: u8 = 1;
const SAME_KEY: u8 = 0x80;

/// A change of one key. `apply` in `keyspace` gives each its meaning; all are total on data that primaries wrote.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Change<'a> {
    /// The key becomes this string, whatever it was.
    Put {
        value: &'a [u8],
        expires_at: Option<UnixMs>,
    },
    /// Bytes are written into a string at an offset; a gap before it is filled with zeros. Absent keys begin empty.
    Splice {
        offset: u64,
        bytes: &'a [u8],
    },
    /// The key goes away.
    Del,
    /// The key's expiry becomes this, or it has none any more.
    Expire {
        at: Option<UnixMs>,
    },
    HashSet {
        field: &'a [u8],
        value: &'a [u8],
    },
    /// A collection that loses its last element goes away; so for the other types.
    HashDel {
        field: &'a [u8],
    },
    ZSet {
        member: &'a [u8],
        score: f64,
    },
    ZDel {
        member: &'a [u8],
    },
    SetAdd {
        member: &'a [u8],
    },
    SetDel {
        member: &'a [u8],
    },
    /// An element is put before the one that is `index`th now, or at the end if `index` is the length.
    ListInsert {
        index: u64,
        value: &'a [u8],
    },
    ListReplace {
        index: u64,
        value: &'a [u8],
    },
    /// `count` elements from `index` on go away.
    ListRemove {
        index: u64,
        count: u64,
    },
    Stream(StreamChange<'a>),
}

/// One step of a record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Effect<'a> {
    Keyed {
        db: u8,
        key: &'a [u8],
        change: Change<'a>,
    },
    /// Every key of one database goes away, or of all of them.
    Flush {
        db: Option<u8>,
    },
    /// EVALSHA finds a script; one that does not stay may be forgotten for others.
    Script {
        body: &'a [u8],
        stays: bool,
    },
    /// EVALSHA finds no script.
    FlushScripts,
}

/// Bytes that are no record of this format, or that do not fit the data they should change. The copy has diverged: it must ask for
/// a full sync, and acknowledge nothing before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    #[error("a record ends early")]
    Short,
    #[error("records of version {0} are not known here")]
    Version(u8),
    #[error("a record holds the unknown operation {0}")]
    Operation(u8),
    #[error("a batch from {first} to {last} holds {found} records")]
    Count { first: u64, last: u64, found: u64 },
    #[error("a record does not fit the data it changes")]
    Diverged,
}

mod op {
    pub(super) const PUT: u8 = 1;
    pub(super) const PUT_EXPIRING: u8 = 2;
    pub(super) const SPLICE: u8 = 3;
    pub(super) const DEL: u8 = 4;
    pub(super) const EXPIRE: u8 = 5;
    pub(super) const PERSIST: u8 = 6;
    pub(super) const HASH_SET: u8 = 7;
    pub(super) const HASH_DEL: u8 = 8;
    pub(super) const Z_SET: u8 = 9;
    pub(super) const Z_DEL: u8 = 10;
    pub(super) const SET_ADD: u8 = 11;
    pub(super) const SET_DEL: u8 = 12;
    pub(super) const LIST_INSERT: u8 = 13;
    pub(super) const LIST_REPLACE: u8 = 14;
    pub(super) const LIST_REMOVE: u8 = 15;
    pub(super) const FLUSH_DB: u8 = 16;
    pub(super) const FLUSH_ALL: u8 = 17;
    /// What follows is in `stream_change`.
    pub(super) const STREAM: u8 = 18;
    pub(super) const SCRIPT: u8 = 64;
    pub(super) const SCRIPT_THAT_STAYS: u8 = 65;
    pub(super) const FLUSH_SCRIPTS: u8 = 66;
}

/// Room for the length of any content, in front of it.
const FRAME_BYTES_MAX: usize = 10;

/// Collects the effects of one command. Keeps its allocation from record to record.
#[derive(Debug, Default)]
pub(crate) struct RecordWriter {
    /// Room for the frame, then the content; empty while there is none.
    bytes: Vec<u8>,
    /// Where the key of the last change is within `bytes`, and its database.
    last_key: Option<(u8, std::ops::Range<usize>)>,
}

impl RecordWriter {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What was pushed, without its frame.
    pub(crate) fn content(&self) -> &[u8] {
        self.bytes.get(FRAME_BYTES_MAX..).unwrap_or_default()
    }

    /// Forgets what was pushed.
    #[cold]
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn push(&mut self, effect: &Effect<'_>) {
        if self.bytes.is_empty() {
            self.bytes.extend_from_slice(&[0; FRAME_BYTES_MAX]);
            self.bytes.push(VERSION);
        }
        match *effect {
            Effect::Flush { db: Some(db) } => self.bytes.extend_from_slice(&[op::FLUSH_DB, db]),
            Effect::Flush { db: None } => self.bytes.push(op::FLUSH_ALL),
            Effect::Script { body, stays } => {
                self.bytes.push(if stays { op::SCRIPT_THAT_STAYS } else { op::SCRIPT });
                write_bytes(body, &mut self.bytes);
            }
            Effect::FlushScripts => self.bytes.push(op::FLUSH_SCRIPTS),
            Effect::Keyed { db, key, change } => self.push_change(db, key, &change),
        }
    }

    /// Frames the record, gives it to `sink`, and is empty again.
    pub(crate) fn finish<R>(&mut self, sink: impl FnOnce(&[u8]) -> R) -> R {
        if self.bytes.is_empty() {
            self.bytes.extend_from_slice(&[0; FRAME_BYTES_MAX]);
        }
        let mut length = [0; FRAME_BYTES_MAX];
        let length = varint(self.content().len() as u64, &mut length);
        let start = FRAME_BYTES_MAX - length.len();
        if let Some(place) = self.bytes.get_mut(start..FRAME_BYTES_MAX) {
            place.copy_from_slice(length);
        }
        let result = sink(self.bytes.get(start..).unwrap_or_default());
        self.bytes.clear();
        self.bytes.shrink_to(4096);
        self.last_key = None;
        result
    }

    fn push_change(&mut self, db: u8, key: &[u8], change: &Change<'_>) {
        let same = self
            .last_key
            .as_ref()
            .is_some_and(|(last_db, range)| *last_db == db && self.bytes.get(range.clone()) == Some(key));
        let out = &mut self.bytes;
        let op = match change {
            Change::Put { expires_at: None, .. } => op::PUT,
            Change::Put { expires_at: Some(_), .. } => op::PUT_EXPIRING,
            Change::Splice { .. } => op::SPLICE,
            Change::Del => op::DEL,
            Change::Expire { at: Some(_) } => op::EXPIRE,
            Change::Expire { at: None } => op::PERSIST,
            Change::HashSet { .. } => op::HASH_SET,
            Change::HashDel { .. } => op::HASH_DEL,
            Change::ZSet { .. } => op::Z_SET,
            Change::ZDel { .. } => op::Z_DEL,
            Change::SetAdd { .. } => op::SET_ADD,
            Change::SetDel { .. } => op::SET_DEL,
            Change::ListInsert { .. } => op::LIST_INSERT,
            Change::ListReplace { .. } => op::LIST_REPLACE,
            Change::ListRemove { .. } => op::LIST_REMOVE,
            Change::Stream(_) => op::STREAM,
        };
        if same {
            out.push(op | SAME_KEY);
        } else {
            out.extend_from_slice(&[op, db]);
            write_bytes(key, out);
            self.last_key = Some((db, out.len() - key.len()..out.len()));
        }
        match *change {
            Change::Put { value, expires_at } => {
                if let Some(UnixMs(at)) = expires_at {
                    write_varint(at, out);
                }
                write_bytes(value, out);
            }
            Change::Splice { offset, bytes } => {
                write_varint(offset, out);
                write_bytes(bytes, out);
            }
            Change::Del | Change::Expire { at: None } => {}
            Change::Expire { at: Some(UnixMs(at)) } => write_varint(at, out),
            Change::HashSet { field, value } => {
                write_bytes(field, out);
                write_bytes(value, out);
            }
            Change::ZSet { member, score } => {
                out.extend_from_slice(&score.to_le_bytes());
                write_bytes(member, out);
            }
            Change::HashDel { field: bytes }
            | Change::ZDel { member: bytes }
            | Change::SetAdd { member: bytes }
            | Change::SetDel { member: bytes } => write_bytes(bytes, out),
            Change::ListInsert { index, value } | Change::ListReplace { index, value } => {
                write_varint(index, out);
                write_bytes(value, out);
            }
            Change::ListRemove { index, count } => {
                write_varint(index, out);
                write_varint(count, out);
            }
            Change::Stream(change) => change.write(out),
        }
    }
}

/// The effects of one record's content, in order. Ends after the first error.
pub(crate) fn effects(content: &[u8]) -> Effects<'_> {
    let mut rest = content;
    let bad = match take_u8(&mut rest) {
        None | Some(VERSION) => None,
        Some(other) => Some(BadRecord::Version(other)),
    };
    Effects { rest, last_key: None, bad }
}

#[derive(Debug)]
pub(crate) struct Effects<'a> {
    rest: &'a [u8],
    last_key: Option<(u8, &'a [u8])>,
    bad: Option<BadRecord>,
}

impl<'a> Iterator for Effects<'a> {
    type Item = Result<Effect<'a>, BadRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = match self.bad.take() {
            Some(bad) => Err(bad),
            None if self.rest.is_empty() => return None,
            None => self.read(),
        };
        if result.is_err() {
            self.rest = &[];
        }
        Some(result)
    }
}

impl<'a> Effects<'a> {
    fn read(&mut self) -> Result<Effect<'a>, BadRecord> {
        let rest = &mut self.rest;
        let tagged = take_u8(rest).ok_or(BadRecord::Short)?;
        match tagged {
            op::FLUSH_ALL => return Ok(Effect::Flush { db: None }),
            op::SCRIPT | op::SCRIPT_THAT_STAYS => {
                let body = take_bytes(rest).ok_or(BadRecord::Short)?;
                return Ok(Effect::Script { body, stays: tagged == op::SCRIPT_THAT_STAYS });
            }
            op::FLUSH_SCRIPTS => return Ok(Effect::FlushScripts),
            op::FLUSH_DB => return Ok(Effect::Flush { db: Some(take_u8(rest).ok_or(BadRecord::Short)?) }),
            _ => {}
        }
        let (db, key) = if tagged & SAME_KEY == 0 {
            (take_u8(rest).ok_or(BadRecord::Short)?, take_bytes(rest).ok_or(BadRecord::Short)?)
        } else {
            self.last_key.ok_or(BadRecord::Short)?
        };
        self.last_key = Some((db, key));
        let change = read_change(tagged & !SAME_KEY, rest)?.ok_or(BadRecord::Short)?;
        Ok(Effect::Keyed { db, key, change })
    }
}

fn read_change<'a>(op: u8, rest: &mut &'a [u8]) -> Result<Option<Change<'a>>, BadRecord> {
    let change = || {
        Some(Ok(match op {
            op::PUT => Change::Put { value: take_bytes(rest)?, expires_at: None },
            op::PUT_EXPIRING => {
                let expires_at = Some(UnixMs(take_varint(rest)?));
                Change::Put { value: take_bytes(rest)?, expires_at }
            }
            op::SPLICE => Change::Splice { offset: take_varint(rest)?, bytes: take_bytes(rest)? },
            op::DEL => Change::Del,
            op::EXPIRE => Change::Expire { at: Some(UnixMs(take_varint(rest)?)) },
            op::PERSIST => Change::Expire { at: None },
            op::HASH_SET => Change::HashSet { field: take_bytes(rest)?, value: take_bytes(rest)? },
            op::HASH_DEL => Change::HashDel { field: take_bytes(rest)? },
            op::Z_SET => Change::ZSet { score: f64::from_bits(take_u64(rest)?), member: take_bytes(rest)? },
            op::Z_DEL => Change::ZDel { member: take_bytes(rest)? },
            op::SET_ADD => Change::SetAdd { member: take_bytes(rest)? },
            op::SET_DEL => Change::SetDel { member: take_bytes(rest)? },
            op::LIST_INSERT => Change::ListInsert { index: take_varint(rest)?, value: take_bytes(rest)? },
            op::LIST_REPLACE => Change::ListReplace { index: take_varint(rest)?, value: take_bytes(rest)? },
            op::LIST_REMOVE => Change::ListRemove { index: take_varint(rest)?, count: take_varint(rest)? },
            op::STREAM => match StreamChange::read(rest)? {
                Ok(change) => Change::Stream(change),
                Err(error) => return Some(Err(error)),
            },
            other => return Some(Err(BadRecord::Operation(other))),
        }))
    };
    let mut change = change;
    change().transpose()
}

#[cfg(test)]
pub(crate) fn write_frame(content: &[u8], out: &mut Vec<u8>) {
    write_bytes(content, out);
}

/// The first record's content and what is behind its frame; `None` at the end, or if the frame is cut off.
pub(crate) fn split_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = bytes;
    let content = take_bytes(&mut rest)?;
    Some((content, rest))
}

pub(crate) fn write_varint(value: u64, out: &mut Vec<u8>) {
    match value {
        small @ 0..0x80 => out.push(small as u8),
        _ => out.extend_from_slice(varint(value, &mut [0; FRAME_BYTES_MAX])),
    }
}

/// The varint of a value, written into the beginning of `room`.
fn varint(mut value: u64, room: &mut [u8; FRAME_BYTES_MAX]) -> &[u8] {
    let mut len = 0;
    for place in room.iter_mut() {
        len += 1;
        *place = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            break;
        }
        *place |= 0x80;
    }
    room.get(..len).unwrap_or_default()
}

pub(crate) fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

pub(crate) fn take_u8(rest: &mut &[u8]) -> Option<u8> {
    let (&first, behind) = rest.split_first()?;
    *rest = behind;
    Some(first)
}

pub(crate) fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    let (bytes, behind) = rest.split_first_chunk::<8>()?;
    *rest = behind;
    Some(u64::from_le_bytes(*bytes))
}

pub(crate) fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take_u8(rest)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

pub(crate) fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_varint(rest)?).ok()?;
    let (bytes, behind) = rest.split_at_checked(len)?;
    *rest = behind;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes() -> impl Strategy<Value = &'static [u8]> {
        prop_oneof![Just(&b""[..]), Just(&b"a"[..]), Just(&b"some key"[..]), Just(&[0xff; 200][..])]
    }

    fn change() -> impl Strategy<Value = Change<'static>> {
        let at = prop::option::of(any::<u64>().prop_map(UnixMs));
        prop_oneof![
            (bytes(), at.clone()).prop_map(|(value, expires_at)| Change::Put { value, expires_at }),
            (any::<u64>(), bytes()).prop_map(|(offset, bytes)| Change::Splice { offset, bytes }),
            Just(Change::Del),
            at.prop_map(|at| Change::Expire { at }),
            (bytes(), bytes()).prop_map(|(field, value)| Change::HashSet { field, value }),
            bytes().prop_map(|field| Change::HashDel { field }),
            (bytes(), -1e9f64..1e9).prop_map(|(member, score)| Change::ZSet { member, score }),
            bytes().prop_map(|member| Change::ZDel { member }),
            bytes().prop_map(|member| Change::SetAdd { member }),
            bytes().prop_map(|member| Change::SetDel { member }),
            (any::<u64>(), bytes()).prop_map(|(index, value)| Change::ListInsert { index, value }),
            (any::<u64>(), bytes()).prop_map(|(index, value)| Change::ListReplace { index, value }),
            (any::<u64>(), any::<u64>()).prop_map(|(index, count)| Change::ListRemove { index, count }),
            crate::stream_change::tests::stream_change().prop_map(Change::Stream),
        ]
    }

    fn effect() -> impl Strategy<Value = Effect<'static>> {
        prop_oneof![
            9 => (0u8..3, bytes(), change()).prop_map(|(db, key, change)| Effect::Keyed { db, key, change }),
            1 => prop::option::of(any::<u8>()).prop_map(|db| Effect::Flush { db }),
        ]
    }

    proptest! {
        #[test]
        fn effects_survive_their_record(expected in prop::collection::vec(effect(), 0..12)) {
            let mut writer = RecordWriter::default();
            expected.iter().for_each(|effect| writer.push(effect));
            let framed = writer.finish(<[u8]>::to_vec);
            prop_assert!(writer.is_empty());
            let (content, rest) = split_frame(&framed).unwrap();
            prop_assert!(rest.is_empty());
            let found: Result<Vec<_>, _> = effects(content).collect();
            prop_assert_eq!(found.unwrap(), expected);
        }

        #[test]
        fn garbage_is_an_error_and_no_panic(content in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = effects(&content).count();
            let mut versioned = vec![VERSION];
            versioned.extend(content);
            let _ = effects(&versioned).count();
        }
    }

    #[test]
    fn a_record_of_a_later_version_is_refused_whole() {
        let found: Vec<_> = effects(&[9, op::FLUSH_ALL]).collect();
        assert_eq!(found, [Err(BadRecord::Version(9))]);
    }
}
