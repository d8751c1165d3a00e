//! Who may use this member: the passwords of the one user there is, `default`.
//!
//! Owns digests of the passwords, never the passwords. Several are valid at once, so that one can be exchanged for another
//! without a moment in which some client has the wrong one; what the file says is read again while the process runs, so
//! that all members of a ring come to know the same ones.

use std::io;
use std::path::PathBuf;

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

/// A file with one password a line; empty lines do not count.
#[derive(Debug)]
pub struct PasswordFile {
    path: PathBuf,
    digests: Vec<[u8; 32]>,
}

impl PasswordFile {
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, digests: Vec::new() }
    }

    /// Reads the file, and makes its passwords the valid ones if they are others than before. Says whether they were.
    ///
    /// # Errors
    /// The file cannot be read, or holds no password: the ones in force stay.
    pub fn read_into(&mut self, passwords: &Passwords) -> io::Result<bool> {
        let text = std::fs::read_to_string(&self.path)?;
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        if lines.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it holds no password"));
        }
        let digests: Vec<_> = lines.iter().map(|line| digest(line.as_bytes())).collect();
        let changed = digests != self.digests;
        if changed {
            passwords.replace(lines);
            self.digests = digests;
        }
        Ok(changed)
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
    fn what_the_file_says_is_valid_from_when_it_is_read_again() {
        let path = std::env::temp_dir().join(format!("ringmaster-passwords-{}", std::process::id()));
        let (passwords, mut file) = (Passwords::default(), PasswordFile::new(path.clone()));
        let says = |text: &str| std::fs::write(&path, text).unwrap();
        let admits = |password: &str| passwords.admits(b"default", password.as_bytes());
        says("first\n");
        assert!(file.read_into(&passwords).unwrap() && admits("first"));
        assert!(!file.read_into(&passwords).unwrap(), "nothing changed");
        says("first\nsecond\n");
        assert!(file.read_into(&passwords).unwrap() && admits("first") && admits("second"));
        says("\n");
        assert!(file.read_into(&passwords).is_err() && admits("second"), "an empty file opens nothing");
        says("second");
        assert!(file.read_into(&passwords).unwrap() && !admits("first") && admits("second"));
        std::fs::remove_file(&path).unwrap();
        assert!(file.read_into(&passwords).is_err() && admits("second"));
    }

    #[test]
    fn without_passwords_nobody_must_authenticate() {
        assert!(!Passwords::default().required());
        assert!(!Passwords::default().admits(b"default", b""));
    }
}
