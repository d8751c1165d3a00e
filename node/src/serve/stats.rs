//! What the serving threads count.
//!
//! Owns the counters. Each serving thread writes its own set, on cache lines of its own, so that counting costs a plain
//! addition; whoever wants the sums ([`Stats::totals`]) reads all sets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use ringmaster_engine::{CommandSpec, commands};

/// The counters of all serving threads.
#[derive(Debug, Default)]
pub struct Stats {
    /// None before the serving threads begin.
    threads: OnceLock<Vec<Arc<Counters>>>,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One thread's counters. Only that thread adds to them.
        #[derive(Debug)]
        #[repr(align(128))]
        pub(super) struct Counters {
            $($name: Counter,)*
            commands_by_row: Vec<CommandCounters>,
        }

        /// The sums of all serving threads since the process started, or since `CONFIG RESETSTAT`.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Totals {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            fn new() -> Self {
                let commands_by_row = commands().map(|_| CommandCounters::default()).collect();
                Self { $($name: Counter::default(),)* commands_by_row }
            }

            fn add_to(&self, totals: &mut Totals) {
                $(totals.$name = totals.$name.saturating_add(self.$name.read());)*
            }

            fn reset(&self) {
                $(self.$name.set(0);)*
                self.commands_by_row.iter().for_each(CommandCounters::reset);
            }

            $(
                pub(super) fn $name(&self) -> &Counter {
                    &self.$name
                }
            )*
        }
    };
}

counters! {
    /// Requests that were executed or refused.
    commands,
    connections_accepted,
    /// Connections turned away because there were `connections_max` already.
    connections_refused,
    bytes_read,
    bytes_written,
    /// Requests answered with MOVED.
    moved,
    /// Connections that were handed on to the primary, with cluster mode off.
    forwarded,
    /// Requests that had to wait because the member's role was about to change.
    parked,
    /// Reads that were executed again because the first answer could not be given any more.
    rerun,
    /// Connections closed because an executed request can never be answered truthfully.
    unanswerable,
    protocol_errors,
    /// Connections closed because their replies were not read.
    slow_readers,
    auth_failures,
    /// Read commands that found something, by their replies.
    keyspace_hits,
    /// Read commands that found nothing, by their replies.
    keyspace_misses,
}

/// What is known of one command's executions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandTotals {
    pub name: &'static str,
    pub calls: u64,
    /// Estimated from every [`SAMPLE_EVERY`]th execution.
    pub execution_us: u64,
    /// Refused before execution.
    pub rejected: u64,
    /// Answered with an error.
    pub failed: u64,
}

/// One execution in how many is timed.
pub(super) const SAMPLE_EVERY: u64 = 32;

impl Stats {
    /// The counters of that many serving threads, made at the first call.
    pub(super) fn of_threads(&self, threads: usize) -> &[Arc<Counters>] {
        self.threads.get_or_init(|| (0..threads).map(|_| Arc::new(Counters::new())).collect())
    }

    fn threads(&self) -> &[Arc<Counters>] {
        self.threads.get().map(Vec::as_slice).unwrap_or_default()
    }

    /// The sums over all threads.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.threads().iter().for_each(|thread| thread.add_to(&mut totals));
        totals
    }

    /// Every command that was sent at least once.
    #[must_use]
    pub fn by_command(&self) -> Vec<CommandTotals> {
        commands()
            .enumerate()
            .filter_map(|(row, spec)| {
                let mut sum = CommandTotals { name: spec.name, calls: 0, execution_us: 0, rejected: 0, failed: 0 };
                for counted in self.threads().iter().filter_map(|thread| thread.commands_by_row.get(row)) {
                    sum.calls = sum.calls.saturating_add(counted.calls.read());
                    sum.execution_us = sum.execution_us.saturating_add(counted.execution_us());
                    sum.rejected = sum.rejected.saturating_add(counted.rejected.read());
                    sum.failed = sum.failed.saturating_add(counted.failed.read());
                }
                (sum.calls > 0 || sum.rejected > 0).then_some(sum)
            })
            .collect()
    }

    /// Starts from nothing again. Additions that other threads make meanwhile may survive it.
    pub(super) fn reset(&self) {
        self.threads().iter().for_each(|thread| thread.reset());
    }
}

impl Counters {
    pub(super) fn of_command(&self, spec: &'static CommandSpec) -> Option<&CommandCounters> {
        self.commands_by_row.get(row_of(spec))
    }
}

/// A number that one thread adds to and any thread reads.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        // One writer: no locked instruction is needed.
        self.set(self.read().wrapping_add(count));
    }

    pub(super) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
pub(super) struct CommandCounters {
    pub(super) calls: Counter,
    pub(super) rejected: Counter,
    pub(super) failed: Counter,
    sampled: Counter,
    sampled_ns: Counter,
}

impl CommandCounters {
    /// Whether the next execution is one of those that are timed.
    pub(super) fn is_sampled(&self) -> bool {
        self.calls.read().is_multiple_of(SAMPLE_EVERY)
    }

    pub(super) fn sample(&self, nanos: u64) {
        self.sampled.add(1);
        self.sampled_ns.add(nanos);
    }

    fn execution_us(&self) -> u64 {
        let (calls, sampled, ns) = (self.calls.read(), self.sampled.read(), self.sampled_ns.read());
        let estimate = u128::from(ns) * u128::from(calls) / u128::from(sampled.max(1)) / 1_000;
        u64::try_from(estimate).unwrap_or(u64::MAX)
    }

    fn reset(&self) {
        let Self { calls, rejected, failed, sampled, sampled_ns } = self;
        [calls, rejected, failed, sampled, sampled_ns].into_iter().for_each(|counter| counter.set(0));
    }
}

/// Which row of the table a command is. All specifications lie in one array, so their addresses tell.
pub(super) fn row_of(spec: &'static CommandSpec) -> usize {
    let first = commands().next().map_or(0, |first| std::ptr::from_ref(first).addr());
    std::ptr::from_ref(spec).addr().saturating_sub(first) / size_of::<CommandSpec>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_counted_in_its_own_row() {
        for (row, spec) in commands().enumerate() {
            assert_eq!(row_of(spec), row, "{}", spec.name);
        }
    }

    #[test]
    fn totals_are_sums_over_threads_and_a_reset_clears_them() {
        let stats = Stats::default();
        for thread in stats.of_threads(3) {
            thread.moved().add(2);
        }
        assert_eq!(stats.totals(), Totals { moved: 6, ..Totals::default() });
        stats.reset();
        assert_eq!(stats.totals(), Totals::default());
    }

    #[test]
    fn execution_times_are_extrapolated_from_the_sampled_ones() {
        let counters = CommandCounters::default();
        counters.calls.add(SAMPLE_EVERY * 10);
        counters.sample(2_000);
        counters.sample(4_000);
        assert_eq!(counters.execution_us(), 3 * SAMPLE_EVERY * 10);
    }
}
