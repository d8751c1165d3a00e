//! What was measured, as it is kept between runs, and the arithmetic of medians and ratios.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The results of one piece of the benchmark.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: String,
    pub(crate) date: String,
    pub(crate) versions: Vec<String>,
    pub(crate) measures: Vec<Measure>,
}

/// One measure of all servers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measure {
    /// Which table it belongs to.
    pub(crate) table: String,
    pub(crate) name: String,
    pub(crate) unit: String,
    /// The ratio to Valkey that Ringmaster is to reach, where one is set.
    pub(crate) goal: Option<f64>,
    /// By server; one value a round. Rounds of one number ran beside each other.
    pub(crate) rounds: BTreeMap<String, Vec<f64>>,
}

/// A median and what it was found among.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        let lower = if values.len().is_multiple_of(2) { *values.get(middle - 1)? } else { upper };
        Some(Self { median: f64::midpoint(lower, upper), min, max })
    }
}

impl Measure {
    pub(crate) fn spread(&self, server: &str) -> Option<Spread> {
        Spread::of(self.rounds.get(server)?.iter().copied())
    }

    /// Each round of a server over the same round of another.
    pub(crate) fn ratio(&self, server: &str, to: &str) -> Option<Spread> {
        let (values, others) = (self.rounds.get(server)?, self.rounds.get(to)?);
        Spread::of(values.iter().zip(others).map(|(value, other)| value / other))
    }
}

impl Results {
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        Ok(fs::write(path, serde_json::to_vec_pretty(self)?)?)
    }

    pub(crate) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_pair_the_rounds_that_ran_beside_each_other() {
        let rounds = BTreeMap::from([("a".to_owned(), vec![1.0, 4.0, 3.0]), ("b".to_owned(), vec![2.0, 4.0, 1.0])]);
        let measure = Measure { table: String::new(), name: String::new(), unit: String::new(), goal: None, rounds };
        assert_eq!(measure.ratio("a", "b"), Some(Spread { median: 1.0, min: 0.5, max: 3.0 }));
        assert_eq!(Spread::of([1.0, 2.0].into_iter()).map(|spread| spread.median), Some(1.5));
        assert_eq!(Spread::of(std::iter::empty()), None);
    }
}
