//! The files that users come from: the ACL file, and the passwords of the default user.
//!
//! Owns the thread that reads and writes them: serving threads touch no disk, so ACL LOAD and ACL SAVE are [`Errand`]s for it. The files are
//! read again every few seconds: a changed Secret counts at all members at about the same time, not at each one's next start.

use std::collections::BTreeMap;
use std::io;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use parking_lot::Mutex;

use super::user::{PasswordDigest, User, digest};
use super::{Acl, merge_parentheses};
use crate::serve::Shared;

const READ_EVERY: Duration = Duration::from_secs(5);

/// Why the users stay what they were.
#[derive(Debug, thiserror::Error)]
pub enum UserFileError {
    #[error("Error loading ACLs, opening file '{path}': {error}")]
    Unreadable { path: String, error: io::Error },
    /// All that is wrong, each with the file and its line.
    #[error("{0} WARNING: ACL errors detected, no change to the previously active ACL rules was performed")]
    Wrong(String),
    #[error("{path} holds no password")]
    NoPassword { path: String },
    #[error("There was an error trying to save the ACLs. {0}")]
    Unwritable(io::Error),
}

/// Where users come from, if from anywhere.
#[derive(Debug, Default)]
pub struct UserFiles {
    acl: Option<Watched>,
    passwords: Option<Watched>,
}

#[derive(Debug)]
struct Watched {
    path: PathBuf,
    /// What was last read and taken.
    text: Option<Vec<u8>>,
}

/// Something that a client wants done with the ACL file.
#[derive(Debug)]
pub(in crate::serve) struct Errand {
    pub(in crate::serve) kind: ErrandKind,
    outcome: Mutex<Option<Result<(), UserFileError>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum ErrandKind {
    Load,
    Save,
}

impl Errand {
    pub(in crate::serve) fn new(kind: ErrandKind) -> Self {
        Self { kind, outcome: Mutex::default() }
    }

    /// None while it is not done.
    pub(in crate::serve) fn take_outcome(&self) -> Option<Result<(), UserFileError>> {
        self.outcome.lock().take()
    }
}

impl UserFiles {
    /// `acl` has lines as ACL LIST shows them; `passwords` one password a line, which are those of the default user, whatever `acl` says of it.
    #[must_use]
    pub fn new(acl: Option<PathBuf>, passwords: Option<PathBuf>) -> Self {
        let watched = |path| Watched { path, text: None };
        Self { acl: acl.map(watched), passwords: passwords.map(watched) }
    }

    /// Reads what has changed, and says whether anything has.
    ///
    /// # Errors
    /// A file cannot be read or says nothing useful: the users stay.
    pub fn read_into(&mut self, acl: &Acl) -> Result<bool, UserFileError> {
        let users = self.acl.as_ref().map(Watched::read).transpose()?;
        let passwords = self.passwords.as_ref().map(Watched::read).transpose()?;
        let is_new =
            |watched: &Option<Watched>, text: &Option<Vec<u8>>| watched.as_ref().is_some_and(|w| w.text != *text);
        let (new_users, new_passwords) = (is_new(&self.acl, &users), is_new(&self.passwords, &passwords));
        if !new_users && !new_passwords {
            return Ok(false);
        }
        let digests = match (&passwords, &self.passwords) {
            (Some(text), Some(file)) => Some(parse_passwords(text, &file.path)?),
            _ => None,
        };
        match (&users, &self.acl) {
            (Some(text), Some(file)) if new_users => acl.replace_all(parse_users(text, &file.path)?, digests),
            // The users that were added since stay.
            _ => acl.replace_default_passwords(digests.unwrap_or_default()),
        }
        self.note_read(users, passwords);
        Ok(true)
    }

    /// Has a thread keep the users up to date, and run clients' errands.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn keep(mut self, shared: Arc<Shared>) -> io::Result<()> {
        let (order, orders) = channel();
        if self.acl.is_some() {
            shared.acl().take_errands_by(order);
        } else if self.passwords.is_none() {
            return Ok(());
        }
        std::thread::Builder::new().name("users".into()).spawn(move || self.run(&shared, &orders))?;
        Ok(())
    }

    fn run(&mut self, shared: &Shared, orders: &Receiver<Arc<Errand>>) {
        loop {
            match orders.recv_timeout(READ_EVERY) {
                Ok(errand) => {
                    let outcome = match errand.kind {
                        ErrandKind::Load => self.load(shared.acl()),
                        ErrandKind::Save => self.save(shared.acl()),
                    };
                    if outcome.is_ok() {
                        shared.users_changed(None);
                    }
                    *errand.outcome.lock() = Some(outcome);
                    shared.hub.wake();
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {}
                // Nobody gives orders where there is no ACL file.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(READ_EVERY),
            }
            match self.read_into(shared.acl()) {
                Ok(true) => {
                    shared.users_changed(None);
                    tracing::info!("users or their passwords are others from now on");
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the users stay what they were"),
            }
        }
    }

    /// Takes the users from the file, whatever has become of them here.
    fn load(&mut self, acl: &Acl) -> Result<(), UserFileError> {
        if let Some(file) = &mut self.acl {
            file.text = None;
        }
        self.read_into(acl).map(drop)
    }

    /// Writes all users to the file, which is exchanged as a whole.
    fn save(&mut self, acl: &Acl) -> Result<(), UserFileError> {
        let Some(file) = &mut self.acl else { return Ok(()) };
        let mut text = acl.describe().join(&b'\n');
        text.push(b'\n');
        write_anew(&file.path, &text).map_err(UserFileError::Unwritable)?;
        file.text = Some(text);
        Ok(())
    }

    fn note_read(&mut self, users: Option<Vec<u8>>, passwords: Option<Vec<u8>>) {
        if let Some(file) = &mut self.acl {
            file.text = users;
        }
        if let Some(file) = &mut self.passwords {
            file.text = passwords;
        }
    }
}

impl Watched {
    fn read(&self) -> Result<Vec<u8>, UserFileError> {
        std::fs::read(&self.path)
            .map_err(|error| UserFileError::Unreadable { path: self.path.display().to_string(), error })
    }
}

fn write_anew(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let next = path.with_file_name(name);
    let written = std::fs::File::create(&next).and_then(|mut file| {
        file.write_all(text)?;
        file.sync_all()
    });
    written.and_then(|()| std::fs::rename(&next, path)).inspect_err(|_| {
        // Best effort: it was never read by anybody.
        let _ = std::fs::remove_file(&next);
    })
}

fn parse_passwords(text: &[u8], path: &Path) -> Result<Vec<PasswordDigest>, UserFileError> {
    let lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let digests: Vec<_> = lines.filter(|line| !line.is_empty()).map(digest).collect();
    if digests.is_empty() {
        // An emptied file opens nothing.
        return Err(UserFileError::NoPassword { path: path.display().to_string() });
    }
    Ok(digests)
}

/// Lines `user NAME rule…`, in any order; empty ones do not count. A default user that is not named may do everything.
fn parse_users(text: &[u8], path: &Path) -> Result<BTreeMap<Vec<u8>, Arc<User>>, UserFileError> {
    let mut users = BTreeMap::new();
    let mut wrong = Vec::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let place = format!("{}:{}", path.display(), index.saturating_add(1));
        match parse_user(line) {
            Ok(user) if users.contains_key(&user.name) => {
                let name = String::from_utf8_lossy(&user.name).into_owned();
                wrong.push(format!("WARNING: Duplicate user '{name}' found on line {}.", index.saturating_add(1)));
            }
            Ok(user) => drop(users.insert(user.name.clone(), Arc::new(user))),
            Err(why) => wrong.push(format!("{place}{why}.")),
        }
    }
    if !wrong.is_empty() {
        return Err(UserFileError::Wrong(wrong.join(" ")));
    }
    users.entry(super::DEFAULT.to_vec()).or_insert_with(|| Arc::new(User::default_user()));
    Ok(users)
}

fn parse_user(line: &[u8]) -> Result<User, String> {
    let words: Vec<&[u8]> = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
    let [keyword, name, rules @ ..] = words.as_slice() else {
        return Err(" should start with user keyword followed by the username".to_owned());
    };
    if !keyword.eq_ignore_ascii_case(b"user") {
        return Err(" should start with user keyword followed by the username".to_owned());
    }
    let mut user = User::new(name);
    let rules = merge_parentheses(rules).map_err(|from| {
        format!(": Unmatched parenthesis in selector definition '{}'", String::from_utf8_lossy(&from))
    })?;
    for rule in rules {
        user.apply(&rule).map_err(|error| match error {
            super::RuleError::UnknownCommand => {
                format!(": Error in applying operation '{}': {error}", String::from_utf8_lossy(&rule))
            }
            error => format!(": {error}"),
        })?;
    }
    Ok(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files {
        directory: PathBuf,
        acl: Acl,
    }

    impl Files {
        fn new(name: &str) -> Self {
            let directory = std::env::temp_dir().join(format!("ringmaster-users-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&directory).unwrap();
            Self { directory, acl: Acl::default() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.join(name)
        }

        fn says(&self, name: &str, text: &str) {
            std::fs::write(self.path(name), text).unwrap();
        }

        fn admits(&self, user: &str, password: &str) -> bool {
            self.acl.authenticate(user.as_bytes(), password.as_bytes()).is_some()
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }

    #[test]
    fn passwords_are_valid_from_when_the_file_is_read_again() {
        let test = Files::new("passwords");
        let mut files = UserFiles::new(None, Some(test.path("passwords")));
        let mut read = |text: &str| {
            test.says("passwords", text);
            files.read_into(&test.acl)
        };
        assert!(read("first\n").unwrap() && test.admits("default", "first"));
        assert!(!read("first\n").unwrap(), "nothing changed");
        assert!(
            read("first\nsecond\n").unwrap() && test.admits("default", "first") && test.admits("default", "second")
        );
        assert!(read("\n").is_err() && test.admits("default", "second"), "an empty file opens nothing");
        assert!(read("second").unwrap() && !test.admits("default", "first") && test.admits("default", "second"));
        std::fs::remove_file(test.path("passwords")).unwrap();
        assert!(files.read_into(&test.acl).is_err() && test.admits("default", "second"));
    }

    #[test]
    fn users_come_from_the_file_and_go_with_it() {
        let test = Files::new("users");
        let mut files = UserFiles::new(Some(test.path("acl")), Some(test.path("passwords")));
        test.says("passwords", "secret\n");
        test.says("acl", "user default on nopass ~* &* +@all\nuser ann on >pw ~a* +get (+set ~b*)\n\n");
        assert!(files.read_into(&test.acl).unwrap());
        assert!(test.admits("ann", "pw") && test.admits("default", "secret"));
        assert!(!test.admits("default", "other"), "the file of passwords decides for the default user");
        test.acl.change_user(b"bob", |user| user.apply(b"on")).unwrap();
        assert!(!files.read_into(&test.acl).unwrap() && test.acl.user(b"bob").is_some(), "the file is as it was");
        files.save(&test.acl).unwrap();
        assert!(!files.read_into(&test.acl).unwrap(), "it was written by itself");
        test.says("acl", "user ann on >new +@all\n");
        assert!(files.read_into(&test.acl).unwrap());
        assert!(test.acl.user(b"bob").is_none() && test.admits("ann", "new") && !test.admits("ann", "pw"));
        files.load(&test.acl).unwrap();
        assert!(test.admits("default", "secret"));
    }

    #[test]
    fn a_file_with_mistakes_changes_nothing_and_says_where_they_are() {
        let path = Path::new("users.acl");
        let error = |text: &str| parse_users(text.as_bytes(), path).unwrap_err().to_string();
        let end = " WARNING: ACL errors detected, no change to the previously active ACL rules was performed";
        assert_eq!(
            error("user a on +foo\nuser b bar\n"),
            format!(
                "users.acl:1: Error in applying operation '+foo': Unknown command or category name in ACL. \
                 users.acl:2: Syntax error.{end}"
            )
        );
        assert_eq!(
            error("\n# a remark\n"),
            format!("users.acl:2 should start with user keyword followed by the username.{end}")
        );
        assert_eq!(error("user a on\nuser a off"), format!("WARNING: Duplicate user 'a' found on line 2.{end}"));
        assert!(error("user a on (+get").contains("Unmatched parenthesis"));
    }
}
