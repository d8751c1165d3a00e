//! Writing a value, in the plainest form of its type.

use super::{kind, stream};
use crate::keyspace::ValueRef;

pub(super) fn value(value: ValueRef<'_>, out: &mut Vec<u8>) {
    match value {
        ValueRef::String(bytes) => {
            out.push(kind::STRING);
            string(bytes, out);
        }
        ValueRef::List(list) => {
            out.push(kind::LIST);
            length(list.len() as u64, out);
            list.range(0, usize::MAX).for_each(|element| string(element, out));
        }
        ValueRef::Set(set) => {
            out.push(kind::SET);
            length(set.len() as u64, out);
            set.iter().for_each(|member| string(member, out));
        }
        ValueRef::Hash(hash) => {
            out.push(kind::HASH);
            length(hash.len() as u64, out);
            for (field, value) in hash.iter() {
                string(field, out);
                string(value, out);
            }
        }
        ValueRef::SortedSet(set) => {
            out.push(kind::ZSET_2);
            length(set.len() as u64, out);
            // Highest first: whoever reads puts each in front of the others, which takes least time in their structure.
            for (member, score) in set.range(0, usize::MAX, true) {
                string(member, out);
                out.extend_from_slice(&score.to_le_bytes());
            }
        }
        ValueRef::Stream(stream) => {
            out.push(kind::STREAM_LISTPACKS_3);
            stream::write(stream, out);
        }
    }
}

pub(super) fn length(length: u64, out: &mut Vec<u8>) {
    match length {
        0..0x40 => out.push(length as u8),
        0x40..0x4000 => out.extend_from_slice(&[0x40 | (length >> 8) as u8, length as u8]),
        0x4000..=0xffff_ffff => {
            out.push(0x80);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
        _ => {
            out.push(0x81);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
}

pub(super) fn string(bytes: &[u8], out: &mut Vec<u8>) {
    length(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}
