//! Kubernetes quantities of bytes: read as users write them, written in the one form that the API server keeps.

use std::fmt;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Bytes(pub u64);

/// A text that is no quantity of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a quantity of bytes such as 512Mi or 1Gi")]
pub struct QuantityError(pub String);

const SUFFIXES: [(&str, u64); 12] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
];

impl Bytes {
    /// Reads whole and decimal quantities with a binary or decimal suffix.
    ///
    /// # Errors
    /// What is no such quantity, or does not fit 64 bits.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let bad = || QuantityError(text.to_owned());
        let trimmed = text.trim();
        let found = SUFFIXES.iter().find_map(|(suffix, unit)| trimmed.strip_suffix(suffix).map(|n| (n, *unit)));
        let (number, unit) = found.unwrap_or((trimmed, 1));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits_only = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !digits_only(whole) || !digits_only(fraction) {
            return Err(bad());
        }
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad())? };
        let mut bytes = whole.checked_mul(unit).ok_or_else(bad)?;
        if !fraction.is_empty() {
            // Rounded up, as the API server does; more digits than these make no difference of a byte.
            let digits = fraction.get(..fraction.len().min(18)).unwrap_or_default();
            let scale = 10_u128.pow(u32::try_from(digits.len()).unwrap_or(18));
            let share = digits.parse::<u128>().map_err(|_| bad())?.saturating_mul(u128::from(unit)).div_ceil(scale);
            bytes = u64::try_from(share).ok().and_then(|share| bytes.checked_add(share)).ok_or_else(bad)?;
        }
        Ok(Self(bytes))
    }

    /// Rounded up to whole mebibytes, as containers are sized.
    #[must_use]
    pub fn round_up_to_mebibytes(self) -> Self {
        Self(self.0.div_ceil(1 << 20).saturating_mul(1 << 20))
    }
}

/// The canonical form: the greatest binary suffix that divides it.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = SUFFIXES.iter().take(6).rev().find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit));
        match binary {
            Some((suffix, unit)) => write!(f, "{}{suffix}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_written_as_the_api_server_keeps_them() {
        for (text, canonical) in
            [("1024Mi", "1Gi"), ("1Gi", "1Gi"), ("1.5Gi", "1536Mi"), ("1048577", "1048577"), ("2k", "2000"), ("0", "0")]
        {
            assert_eq!(Bytes::parse(text).unwrap().to_string(), canonical);
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "Gi", "-1Gi", "1GiB", "one", "1e3", "99999999999Ei"] {
            assert!(Bytes::parse(text).is_err(), "{text}");
        }
    }
}
