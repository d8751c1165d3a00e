//! Who may use this member: the passwords of the one user there is, `default`.
//!
//! Owns digests of the passwords, never the passwords. Several are valid at once, so that one can be exchanged for another
//! without a moment in which some client has the wrong one.

use parking_lot::RwLock;
use sha2::{Digest, Sha256};

/// The passwords in force. Without any, nobody needs to authenticate.
#[derive(Debug, Default)]
pub struct Passwords {
    digests: RwLock<Vec<[u8; 32]>>,
}

impl Passwords {
    pub fn new<'a>(passwords: impl IntoIterator<Item = &'a str>) -> Self {
        let valid = Self::default();
        valid.replace(passwords);
        valid
    }

    /// From now on these are valid. Connections that have authenticated stay so.
    pub fn replace<'a>(&self, passwords: impl IntoIterator<Item = &'a str>) {
        *self.digests.write() = passwords.into_iter().map(|password| digest(password.as_bytes())).collect();
    }

    /// Whether clients must authenticate.
    #[must_use]
    pub fn required(&self) -> bool {
        !self.digests.read().is_empty()
    }

    /// Takes the same time for every wrong password: digests are compared, and a guess cannot steer its own digest.
    #[must_use]
    pub(super) fn admits(&self, user: &[u8], password: &[u8]) -> bool {
        let given = digest(password);
        let known = self.digests.read().contains(&given);
        known && user == b"default"
    }
}

fn digest(password: &[u8]) -> [u8; 32] {
    Sha256::digest(password).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_passwords_are_valid_while_one_is_exchanged() {
        let passwords = Passwords::new(["old", "new"]);
        assert!(passwords.admits(b"default", b"old") && passwords.admits(b"default", b"new"));
        passwords.replace(["new"]);
        assert!(!passwords.admits(b"default", b"old") && passwords.admits(b"default", b"new"));
        assert!(!passwords.admits(b"root", b"new"), "there is one user");
    }

    #[test]
    fn without_passwords_nobody_must_authenticate() {
        assert!(!Passwords::default().required());
        assert!(!Passwords::default().admits(b"default", b""));
    }
}
