//! Values as DUMP writes them and RESTORE reads them: the field's RDB format, so that other servers and tools can read ours and we theirs.
//!
//! ```text
//! payload = type:u8 value version:u16 crc:u64        the checksum (CRC-64/Jones) is over all before it; integers are little-endian
//! ```
//! Written is the plainest form of each type, which every version since Redis 5 reads, under the lowest version number that knows it.
//! Read is every form that Redis up to 7.2 and Valkey up to 9.1 write: plain, ziplists, zipmaps, intsets, listpacks, quicklists, streams of all
//! three kinds, compressed strings. What cannot be held here, fields of hashes with an expiry of their own, is refused.
//!
//! Source: the format is documented by its code alone (`rdb.c`, `listpack.c`, `ziplist.c`, `t_stream.c`).

mod compact;
mod read;
mod stream;
mod write;

use crate::keyspace::ValueRef;
use crate::record::Change;

/// The version that first had everything written here, but for streams, and the one that first had those in their present form.
const VERSION_WRITTEN: u16 = 9;
const VERSION_WRITTEN_STREAM: u16 = 11;
/// Valkey 9's.
const VERSION_MAX: u16 = 80;
const FOOTER_BYTES: usize = 10;

/// Why a payload is refused. The texts are those of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadPayload {
    #[error("ERR DUMP payload version or checksum are wrong")]
    Frame,
    #[error("ERR Bad data format")]
    Format,
}

/// A value with its type in front and its footer behind.
pub(crate) fn dump(value: ValueRef<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    write::value(value, &mut out);
    let version = if matches!(value, ValueRef::Stream(_)) { VERSION_WRITTEN_STREAM } else { VERSION_WRITTEN };
    out.extend_from_slice(&version.to_le_bytes());
    let crc = crc64(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// Tells the changes that make the value, none of which is an expiry. After an error some of them may have been told.
pub(crate) fn restore(payload: &[u8], visit: &mut dyn FnMut(Change<'_>)) -> Result<(), BadPayload> {
    let at = payload.len().checked_sub(FOOTER_BYTES).ok_or(BadPayload::Frame)?;
    let (body, footer) = payload.split_at_checked(at).ok_or(BadPayload::Frame)?;
    let (version, crc) = footer.split_first_chunk::<2>().ok_or(BadPayload::Frame)?;
    let checked = payload.get(..at + 2).unwrap_or_default();
    if u16::from_le_bytes(*version) > VERSION_MAX || crc64(checked).to_le_bytes() != *crc {
        return Err(BadPayload::Frame);
    }
    read::value(body, visit).ok_or(BadPayload::Format)
}

/// The types that a value may be of.
mod kind {
    pub(super) const STRING: u8 = 0;
    pub(super) const LIST: u8 = 1;
    pub(super) const SET: u8 = 2;
    pub(super) const ZSET: u8 = 3;
    pub(super) const HASH: u8 = 4;
    pub(super) const ZSET_2: u8 = 5;
    pub(super) const HASH_ZIPMAP: u8 = 9;
    pub(super) const LIST_ZIPLIST: u8 = 10;
    pub(super) const SET_INTSET: u8 = 11;
    pub(super) const ZSET_ZIPLIST: u8 = 12;
    pub(super) const HASH_ZIPLIST: u8 = 13;
    pub(super) const LIST_QUICKLIST: u8 = 14;
    pub(super) const STREAM_LISTPACKS: u8 = 15;
    pub(super) const HASH_LISTPACK: u8 = 16;
    pub(super) const ZSET_LISTPACK: u8 = 17;
    pub(super) const LIST_QUICKLIST_2: u8 = 18;
    pub(super) const STREAM_LISTPACKS_2: u8 = 19;
    pub(super) const SET_LISTPACK: u8 = 20;
    pub(super) const STREAM_LISTPACKS_3: u8 = 21;
    /// Valkey 9's, where each field may have an expiry.
    pub(super) const HASH_2: u8 = 22;
}

/// CRC-64 with Jones's polynomial, reflected.
fn crc64(bytes: &[u8]) -> u64 {
    const POLYNOMIAL: u64 = 0x95ac_9329_ac4b_c9b5;
    const TABLE: [u64; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut crc = byte as u64;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
                bit += 1;
            }
            #[allow(clippy::indexing_slicing, reason = "worked out when this is compiled")]
            {
                table[byte] = crc;
            }
            byte += 1;
        }
        table
    };
    bytes.iter().fold(0, |crc, byte| {
        let index = usize::from((crc as u8) ^ byte);
        TABLE.get(index).copied().unwrap_or(0) ^ crc >> 8
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Effect, RecordWriter, effects};
    use proptest::prelude::*;

    #[test]
    fn the_checksum_is_that_of_the_field() {
        assert_eq!(crc64(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }

    /// What a payload with this body, and a right footer, restores to: its changes as text.
    fn restored(body: &[u8]) -> Result<Vec<String>, BadPayload> {
        let mut payload = body.to_vec();
        payload.extend_from_slice(&11u16.to_le_bytes());
        let crc = crc64(&payload);
        payload.extend_from_slice(&crc.to_le_bytes());
        let mut writer = RecordWriter::default();
        restore(&payload, &mut |change| writer.push(&Effect::Keyed { db: 0, key: b"", change }))?;
        Ok(effects(writer.content())
            .map(|effect| match effect.unwrap() {
                Effect::Keyed { change: Change::Put { value, .. }, .. } => format!("put {}", value.escape_ascii()),
                Effect::Keyed { change: Change::SetAdd { member }, .. } => format!("add {}", member.escape_ascii()),
                Effect::Keyed { change: Change::ListInsert { index, value }, .. } => {
                    format!("insert {index} {}", value.escape_ascii())
                }
                Effect::Keyed { change: Change::HashSet { field, value }, .. } => {
                    format!("set {} {}", field.escape_ascii(), value.escape_ascii())
                }
                Effect::Keyed { change: Change::ZSet { member, score }, .. } => {
                    format!("score {} {score}", member.escape_ascii())
                }
                other => format!("{other:?}"),
            })
            .collect())
    }

    #[test]
    fn forms_that_are_no_longer_written_are_read() {
        // From servers of their time: a ziplist of 1, "two" and -300; a zipmap of a=1, bc=22; an intset of -1 and 70000; an LZF string.
        let ziplist = b"\x0a\x16\x16\0\0\0\x12\0\0\0\x03\0\0\xf2\x02\x03two\x05\xc0\xd4\xfe\xff";
        assert_eq!(restored(ziplist).unwrap(), ["insert 0 1", "insert 1 two", "insert 2 -300"]);
        let zipmap = b"\x09\x0f\x02\x01a\x01\x001\x02bc\x02\x0122x\xff";
        assert_eq!(restored(zipmap).unwrap(), ["set a 1", "set bc 22"]);
        let intset = b"\x0b\x10\x04\0\0\0\x02\0\0\0\xff\xff\xff\xff\x70\x11\x01\0";
        assert_eq!(restored(intset).unwrap(), ["add -1", "add 70000"]);
        let lzf = b"\0\xc3\x05\x0a\0a\xe0\0\0";
        assert_eq!(restored(lzf).unwrap(), ["put aaaaaaaaaa"]);
        let scores = b"\x03\x02\x01a\xfe\x01b\x031.5";
        assert_eq!(restored(scores).unwrap(), ["score a inf", "score b 1.5"]);
        assert_eq!(restored(b"\0\xc1\x39\x30").unwrap(), ["put 12345"]);
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_read(kind in 0u8..24, body in prop::collection::vec(any::<u8>(), 0..120)) {
            let whole: Vec<u8> = std::iter::once(kind).chain(body).collect();
            let _ = restored(&whole);
        }
    }
}
