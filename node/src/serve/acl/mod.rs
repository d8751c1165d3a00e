//! Users, and what each may do: access control lists with the rules of Valkey 9.1.
//!
//! Owns all users of this member and the log of what was refused. In: rules, from ACL SETUSER or a file. Out: for a name and a password the
//! user, and for a user and a request whether it is permitted. Users are values: whoever holds one learns by [`Acl::version`] that it may be
//! another by now.
//!
//! Users are this member's own. What all members of a ring are to know comes from a file that all of them are given ([`UserFiles`]).

mod catalog;
mod file;
mod log;
mod selector;
mod user;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};

pub(super) use file::{Errand, ErrandKind};
pub use file::{UserFileError, UserFiles};
pub(super) use log::{Context, Entry as LogEntry};
pub use selector::RuleError;
pub(super) use selector::{Asked, Denied};
pub(super) use user::User;

use log::Log;
use user::PasswordDigest;

/// The user of connections that have not said who they are.
pub(super) const DEFAULT: &[u8] = b"default";

#[derive(Debug)]
pub struct Acl {
    users: RwLock<BTreeMap<Vec<u8>, Arc<User>>>,
    /// Raised after each change. Never 0.
    version: AtomicU64,
    log: Mutex<Log>,
    errands: OnceLock<Sender<Arc<Errand>>>,
}

impl Default for Acl {
    fn default() -> Self {
        let default = (DEFAULT.to_vec(), Arc::new(User::default_user()));
        Self {
            users: RwLock::new(BTreeMap::from([default])),
            version: AtomicU64::new(1),
            log: Mutex::default(),
            errands: OnceLock::new(),
        }
    }
}

impl Acl {
    /// From now on these are the passwords of the default user; without any it needs none. Connections that have authenticated stay so.
    pub fn set_passwords<'a>(&self, passwords: impl IntoIterator<Item = &'a str>) {
        self.replace_default_passwords(
            passwords.into_iter().map(|password| user::digest(password.as_bytes())).collect(),
        );
    }

    /// Whether clients must authenticate before they may do anything.
    #[must_use]
    pub fn is_authentication_required(&self) -> bool {
        !self.default_user().is_some_and(|user| user.on && user.no_password)
    }

    /// Whether the default user has a password, whatever else.
    pub(super) fn default_has_password(&self) -> bool {
        !self.default_user().is_some_and(|user| user.no_password)
    }

    /// Costs a load.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn user(&self, name: &[u8]) -> Option<Arc<User>> {
        self.users.read().get(name).cloned()
    }

    pub(super) fn default_user(&self) -> Option<Arc<User>> {
        self.user(DEFAULT)
    }

    /// The user whom a password opens.
    pub(super) fn authenticate(&self, name: &[u8], password: &[u8]) -> Option<Arc<User>> {
        self.user(name).filter(|user| user.admits(password))
    }

    /// All users by name.
    pub(super) fn all(&self) -> Vec<Arc<User>> {
        self.users.read().values().cloned().collect()
    }

    /// The lines of ACL LIST.
    pub(super) fn describe(&self) -> Vec<Vec<u8>> {
        self.all().iter().map(|user| user.describe()).collect()
    }

    /// Changes a user, which is made if there is none of that name. On an error nothing has changed.
    pub(super) fn change_user<E>(&self, name: &[u8], change: impl FnOnce(&mut User) -> Result<(), E>) -> Result<(), E> {
        let mut users = self.users.write();
        let mut user = users.get(name).map_or_else(|| User::new(name), |user| User::clone(user));
        change(&mut user)?;
        users.insert(name.to_vec(), Arc::new(user));
        self.note_change();
        Ok(())
    }

    /// Whether there was such a user.
    pub(super) fn remove_user(&self, name: &[u8]) -> bool {
        let removed = self.users.write().remove(name).is_some();
        self.note_change();
        removed
    }

    fn replace_default_passwords(&self, passwords: Vec<PasswordDigest>) {
        let set: Result<(), std::convert::Infallible> = self.change_user(DEFAULT, |user| {
            set_passwords_of(user, passwords);
            Ok(())
        });
        let Ok(()) = set;
    }

    /// Exchanges all users; if passwords are given, they are those of the default user.
    fn replace_all(&self, mut users: BTreeMap<Vec<u8>, Arc<User>>, passwords: Option<Vec<PasswordDigest>>) {
        if let (Some(passwords), Some(default)) = (passwords, users.get_mut(DEFAULT)) {
            set_passwords_of(Arc::make_mut(default), passwords);
        }
        *self.users.write() = users;
        self.note_change();
    }

    fn note_change(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Adds what was refused to the log. `entry` has neither count nor id yet.
    pub(super) fn note_refusal(&self, entry: LogEntry) {
        self.log.lock().add(entry);
    }

    /// The newest first.
    pub(super) fn newest_refusals(&self, count: usize) -> Vec<LogEntry> {
        self.log.lock().newest(count)
    }

    pub(super) fn reset_log(&self) {
        self.log.lock().reset();
    }

    fn take_errands_by(&self, orders: Sender<Arc<Errand>>) {
        let _first_wins = self.errands.set(orders);
    }

    /// Has the ACL file read or written. None if there is no such file.
    pub(super) fn run_errand(&self, kind: ErrandKind) -> Option<Arc<Errand>> {
        let errand = Arc::new(Errand::new(kind));
        self.errands.get()?.send(Arc::clone(&errand)).ok()?;
        Some(errand)
    }
}

fn set_passwords_of(user: &mut User, passwords: Vec<PasswordDigest>) {
    user.no_password = passwords.is_empty();
    user.passwords = passwords;
}

/// Rules, with what is between parentheses as one; otherwise the rule that opens one and is not closed.
pub(super) fn merge_parentheses(rules: &[&[u8]]) -> Result<Vec<Vec<u8>>, Vec<u8>> {
    let mut merged: Vec<Vec<u8>> = Vec::new();
    let mut open: Option<Vec<u8>> = None;
    for rule in rules {
        let rule = match open.take() {
            Some(begun) => [begun.as_slice(), rule].join(&b' '),
            None => rule.to_vec(),
        };
        if rule.starts_with(b"(") && !rule.ends_with(b")") {
            open = Some(rule);
        } else {
            merged.push(rule);
        }
    }
    match open {
        Some(rule) => Err(rule),
        None => Ok(merged),
    }
}

#[cfg(test)]
mod tests;
