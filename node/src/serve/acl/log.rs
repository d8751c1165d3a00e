//! What was refused lately: ACL LOG.

use std::collections::VecDeque;

const ENTRIES_MAX: usize = 128;
/// What is refused again within so long is counted, not listed again.
const SAME_WITHIN_MS: u64 = 60_000;

/// Where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Context {
    TopLevel,
    Multi,
    Script,
}

impl Context {
    pub(in crate::serve) fn name(self) -> &'static str {
        match self {
            Self::TopLevel => "toplevel",
            Self::Multi => "multi",
            Self::Script => "lua",
        }
    }
}

/// One refusal, or several that were alike.
#[derive(Clone, Debug)]
pub(in crate::serve) struct Entry {
    pub(in crate::serve) count: u64,
    pub(in crate::serve) reason: &'static str,
    pub(in crate::serve) context: Context,
    pub(in crate::serve) object: Vec<u8>,
    pub(in crate::serve) user: Vec<u8>,
    /// The client as CLIENT LIST shows it, when it was last refused.
    pub(in crate::serve) client: String,
    pub(in crate::serve) id: u64,
    pub(in crate::serve) created_ms: u64,
    pub(in crate::serve) updated_ms: u64,
}

#[derive(Debug, Default)]
pub(super) struct Log {
    entries: VecDeque<Entry>,
    next_id: u64,
}

impl Log {
    /// `entry` has neither count nor id yet.
    pub(super) fn add(&mut self, mut entry: Entry) {
        let is_same = |other: &Entry| {
            other.reason == entry.reason
                && other.context == entry.context
                && other.object == entry.object
                && other.user == entry.user
                && entry.updated_ms.saturating_sub(other.updated_ms) <= SAME_WITHIN_MS
        };
        if let Some(same) = self.entries.iter().position(is_same).and_then(|at| self.entries.remove(at)) {
            entry.count = same.count;
            (entry.id, entry.created_ms) = (same.id, same.created_ms);
        } else {
            entry.id = self.next_id;
            self.next_id = self.next_id.saturating_add(1);
        }
        entry.count = entry.count.saturating_add(1);
        self.entries.push_front(entry);
        self.entries.truncate(ENTRIES_MAX);
    }

    /// The newest first.
    pub(super) fn newest(&self, count: usize) -> Vec<Entry> {
        self.entries.iter().take(count).cloned().collect()
    }

    pub(super) fn reset(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(user: &str, updated_ms: u64) -> Entry {
        Entry {
            count: 0,
            reason: "command",
            context: Context::TopLevel,
            object: b"get".to_vec(),
            user: user.into(),
            client: String::new(),
            id: 0,
            created_ms: updated_ms,
            updated_ms,
        }
    }

    #[test]
    fn what_is_refused_again_soon_is_counted() {
        let mut log = Log::default();
        log.add(entry("a", 1_000));
        log.add(entry("b", 2_000));
        log.add(entry("a", 3_000));
        log.add(entry("b", 100_000));
        let shown: Vec<_> =
            log.newest(10).iter().map(|entry| (entry.user.clone(), entry.count, entry.id, entry.created_ms)).collect();
        let user = |name: &str| name.as_bytes().to_vec();
        assert_eq!(shown, [(user("b"), 1, 2, 100_000), (user("a"), 2, 0, 1_000), (user("b"), 1, 1, 2_000)]);
        log.reset();
        assert!(log.newest(10).is_empty());
    }
}
