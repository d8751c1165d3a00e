//! What can change in a stream, and how a record says it.

use std::fmt;

use crate::record::{BadRecord, take_bytes, take_u8, take_varint, write_bytes, write_varint};

/// The place of an entry in its stream: milliseconds, and a number among the entries of that millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct StreamId {
    pub(crate) ms: u64,
    pub(crate) seq: u64,
}

impl StreamId {
    pub(crate) const MIN: Self = Self { ms: 0, seq: 0 };
    pub(crate) const MAX: Self = Self { ms: u64::MAX, seq: u64::MAX };

    pub(crate) fn next(self) -> Option<Self> {
        match self.seq.checked_add(1) {
            Some(seq) => Some(Self { seq, ..self }),
            None => Some(Self { ms: self.ms.checked_add(1)?, seq: 0 }),
        }
    }

    pub(crate) fn previous(self) -> Option<Self> {
        match self.seq.checked_sub(1) {
            Some(seq) => Some(Self { seq, ..self }),
            None => Some(Self { ms: self.ms.checked_sub(1)?, seq: u64::MAX }),
        }
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// A change of one stream. Absent streams begin empty, and a stream that has become empty stays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum StreamChange<'a> {
    /// An entry comes in, and the stream has had one more; `fields` are names and values in turn, each behind its length. It becomes the
    /// stream's last id if it is behind that.
    Add {
        id: StreamId,
        fields: &'a [u8],
    },
    /// An entry goes away, which leaves a tombstone.
    Delete {
        id: StreamId,
    },
    /// Every entry before this one goes away, without one.
    Trim {
        before: StreamId,
    },
    /// What the stream remembers of entries that are gone.
    Meta {
        last_id: StreamId,
        added: u64,
        deleted_max: StreamId,
    },
    /// A group is made, or its place in the stream changed.
    Group {
        group: &'a [u8],
        last_id: StreamId,
        read: Option<u64>,
    },
    GroupDelete {
        group: &'a [u8],
    },
    /// A consumer is made, or was seen.
    Consumer {
        group: &'a [u8],
        consumer: &'a [u8],
        seen_ms: u64,
        active_ms: Option<u64>,
    },
    /// A consumer goes, with what is pending for it.
    ConsumerDelete {
        group: &'a [u8],
        consumer: &'a [u8],
    },
    /// An entry is pending for a consumer that is there, and for no other any more.
    Pending {
        group: &'a [u8],
        consumer: &'a [u8],
        id: StreamId,
        delivered_ms: u64,
        deliveries: u64,
    },
    PendingDelete {
        group: &'a [u8],
        id: StreamId,
    },
}

impl<'a> StreamChange<'a> {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Add { id, fields } => {
                out.push(1);
                write_id(id, out);
                write_bytes(fields, out);
            }
            Self::Delete { id } => {
                out.push(2);
                write_id(id, out);
            }
            Self::Trim { before } => {
                out.push(3);
                write_id(before, out);
            }
            Self::Meta { last_id, added, deleted_max } => {
                out.push(4);
                write_id(last_id, out);
                write_varint(added, out);
                write_id(deleted_max, out);
            }
            Self::Group { group, last_id, read } => {
                out.push(5);
                write_bytes(group, out);
                write_id(last_id, out);
                write_option(read, out);
            }
            Self::GroupDelete { group } => {
                out.push(6);
                write_bytes(group, out);
            }
            Self::Consumer { group, consumer, seen_ms, active_ms } => {
                out.push(7);
                write_bytes(group, out);
                write_bytes(consumer, out);
                write_varint(seen_ms, out);
                write_option(active_ms, out);
            }
            Self::ConsumerDelete { group, consumer } => {
                out.push(8);
                write_bytes(group, out);
                write_bytes(consumer, out);
            }
            Self::Pending { group, consumer, id, delivered_ms, deliveries } => {
                out.push(9);
                write_bytes(group, out);
                write_bytes(consumer, out);
                write_id(id, out);
                write_varint(delivered_ms, out);
                write_varint(deliveries, out);
            }
            Self::PendingDelete { group, id } => {
                out.push(10);
                write_bytes(group, out);
                write_id(id, out);
            }
        }
    }

    /// `None` if the bytes end early.
    pub(crate) fn read(rest: &mut &'a [u8]) -> Option<Result<Self, BadRecord>> {
        Some(Ok(match take_u8(rest)? {
            1 => Self::Add { id: take_id(rest)?, fields: take_bytes(rest)? },
            2 => Self::Delete { id: take_id(rest)? },
            3 => Self::Trim { before: take_id(rest)? },
            4 => Self::Meta { last_id: take_id(rest)?, added: take_varint(rest)?, deleted_max: take_id(rest)? },
            5 => Self::Group { group: take_bytes(rest)?, last_id: take_id(rest)?, read: take_option(rest)? },
            6 => Self::GroupDelete { group: take_bytes(rest)? },
            7 => Self::Consumer {
                group: take_bytes(rest)?,
                consumer: take_bytes(rest)?,
                seen_ms: take_varint(rest)?,
                active_ms: take_option(rest)?,
            },
            8 => Self::ConsumerDelete { group: take_bytes(rest)?, consumer: take_bytes(rest)? },
            9 => Self::Pending {
                group: take_bytes(rest)?,
                consumer: take_bytes(rest)?,
                id: take_id(rest)?,
                delivered_ms: take_varint(rest)?,
                deliveries: take_varint(rest)?,
            },
            10 => Self::PendingDelete { group: take_bytes(rest)?, id: take_id(rest)? },
            other => return Some(Err(BadRecord::Operation(other))),
        }))
    }

    /// Whether a receiver that holds the entries before this millisecond, and nothing else of the stream, must be told.
    pub(crate) fn is_before(&self, ms: u64) -> bool {
        match self {
            Self::Add { id, .. } | Self::Delete { id } => id.ms < ms,
            Self::Trim { .. } => ms > 0,
            Self::Meta { .. }
            | Self::Group { .. }
            | Self::GroupDelete { .. }
            | Self::Consumer { .. }
            | Self::ConsumerDelete { .. }
            | Self::Pending { .. }
            | Self::PendingDelete { .. } => false,
        }
    }
}

fn write_id(id: StreamId, out: &mut Vec<u8>) {
    write_varint(id.ms, out);
    write_varint(id.seq, out);
}

fn take_id(rest: &mut &[u8]) -> Option<StreamId> {
    Some(StreamId { ms: take_varint(rest)?, seq: take_varint(rest)? })
}

fn write_option(value: Option<u64>, out: &mut Vec<u8>) {
    match value {
        None => out.push(0),
        Some(value) => {
            out.push(1);
            write_varint(value, out);
        }
    }
}

fn take_option(rest: &mut &[u8]) -> Option<Option<u64>> {
    match take_u8(rest)? {
        0 => Some(None),
        _ => take_varint(rest).map(Some),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn stream_change() -> impl Strategy<Value = StreamChange<'static>> {
        let id = || (any::<u64>(), any::<u64>()).prop_map(|(ms, seq)| StreamId { ms, seq });
        let name = || prop_oneof![Just(&b""[..]), Just(&b"name"[..])];
        prop_oneof![
            (id(), name()).prop_map(|(id, fields)| StreamChange::Add { id, fields }),
            id().prop_map(|id| StreamChange::Delete { id }),
            id().prop_map(|before| StreamChange::Trim { before }),
            (id(), any::<u64>(), id()).prop_map(|(last_id, added, deleted_max)| StreamChange::Meta {
                last_id,
                added,
                deleted_max
            }),
            (name(), id(), any::<Option<u64>>()).prop_map(|(group, last_id, read)| StreamChange::Group {
                group,
                last_id,
                read
            }),
            name().prop_map(|group| StreamChange::GroupDelete { group }),
            (name(), name(), any::<u64>(), any::<Option<u64>>()).prop_map(|(group, consumer, seen_ms, active_ms)| {
                StreamChange::Consumer { group, consumer, seen_ms, active_ms }
            }),
            (name(), name()).prop_map(|(group, consumer)| StreamChange::ConsumerDelete { group, consumer }),
            (name(), name(), id(), any::<u64>(), any::<u64>()).prop_map(
                |(group, consumer, id, delivered_ms, deliveries)| {
                    StreamChange::Pending { group, consumer, id, delivered_ms, deliveries }
                }
            ),
            (name(), id()).prop_map(|(group, id)| StreamChange::PendingDelete { group, id }),
        ]
    }

    proptest! {
        #[test]
        fn ids_count_up_and_down(ms: u64, seq: u64) {
            let id = StreamId { ms, seq };
            if let Some(next) = id.next() {
                prop_assert!(next > id);
                prop_assert_eq!(next.previous(), Some(id));
            }
        }
    }
}
