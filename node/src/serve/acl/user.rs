//! One user: whether and with what it may authenticate, and what it may do then.

use sha2::{Digest, Sha256};

use super::selector::{Asked, Denied, RuleError, Selector};

/// SHA-256 of a password. Passwords themselves are never kept.
pub(super) type PasswordDigest = [u8; 32];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::serve) struct User {
    pub(super) name: Vec<u8>,
    pub(super) on: bool,
    /// Any password will do; the default user needs none at all.
    pub(super) no_password: bool,
    pub(super) passwords: Vec<PasswordDigest>,
    pub(super) root: Selector,
    /// Further ones, each of which suffices.
    pub(super) selectors: Vec<Selector>,
}

/// A user as `ACL GETUSER` shows it.
pub(in crate::serve) struct Shown {
    pub(in crate::serve) flags: Vec<&'static str>,
    pub(in crate::serve) passwords: Vec<String>,
    /// Names and values, for the user's own permissions and then for each further set.
    pub(in crate::serve) selectors: Vec<Vec<(&'static str, Vec<u8>)>>,
}

impl User {
    /// One that may do nothing, which is how users begin.
    pub(super) fn new(name: &[u8]) -> Self {
        Self {
            name: name.to_vec(),
            on: false,
            no_password: false,
            passwords: Vec::new(),
            root: Selector::nothing(),
            selectors: Vec::new(),
        }
    }

    /// The user of connections that have not authenticated, as it is at first: it may do everything.
    pub(super) fn default_user() -> Self {
        Self { on: true, no_password: true, root: Selector::everything(), ..Self::new(super::DEFAULT) }
    }

    /// One that may do nothing and has no name.
    pub(in crate::serve) fn nobody() -> Self {
        Self::new(b"")
    }

    pub(in crate::serve) fn name(&self) -> &[u8] {
        &self.name
    }

    pub(in crate::serve) fn permits_everything(&self) -> bool {
        self.root.permits_everything()
    }

    /// Whether this password opens it. Takes the same time for every wrong one: digests are compared, and a guess cannot steer its own.
    pub(super) fn admits(&self, password: &[u8]) -> bool {
        let known = self.passwords.contains(&digest(password));
        self.on && (known || self.no_password)
    }

    /// Applies one rule. On an error nothing has changed.
    pub(in crate::serve) fn apply(&mut self, rule: &[u8]) -> Result<(), RuleError> {
        match rule.to_ascii_lowercase().as_slice() {
            b"on" => self.on = true,
            b"off" => self.on = false,
            b"nopass" => (self.no_password, self.passwords) = (true, Vec::new()),
            b"resetpass" => (self.no_password, self.passwords) = (false, Vec::new()),
            // Dumps are always checked.
            b"sanitize-payload" | b"skip-sanitize-payload" => {}
            b"reset" => *self = Self::new(&self.name),
            b"clearselectors" => self.selectors.clear(),
            _ => return self.apply_particular(rule),
        }
        Ok(())
    }

    fn apply_particular(&mut self, rule: &[u8]) -> Result<(), RuleError> {
        match rule {
            [b'>', password @ ..] => self.add_password(digest(password)),
            [b'#', hash @ ..] => self.add_password(parse_hash(hash).ok_or(RuleError::BadHash)?),
            [b'<', password @ ..] => return self.remove_password(&digest(password)),
            [b'!', hash @ ..] => return self.remove_password(&parse_hash(hash).ok_or(RuleError::BadHash)?),
            [b'(', rules @ .., b')'] => {
                let mut selector = Selector::nothing();
                rules
                    .split(u8::is_ascii_whitespace)
                    .filter(|rule| !rule.is_empty())
                    .try_for_each(|rule| selector.apply(rule))?;
                self.selectors.push(selector);
            }
            _ => return self.root.apply(rule),
        }
        Ok(())
    }

    fn add_password(&mut self, digest: PasswordDigest) {
        self.no_password = false;
        if !self.passwords.contains(&digest) {
            self.passwords.push(digest);
        }
    }

    fn remove_password(&mut self, digest: &PasswordDigest) -> Result<(), RuleError> {
        let at = self.passwords.iter().position(|known| known == digest).ok_or(RuleError::NoSuchPassword)?;
        self.passwords.remove(at);
        Ok(())
    }

    /// Whether one of its sets of permissions permits all of a request. If not, why the one that came furthest does not.
    pub(in crate::serve) fn check(&self, asked: &Asked<'_>) -> Result<(), Denied> {
        let mut denied = match self.root.check(asked) {
            Ok(()) => return Ok(()),
            Err(denied) => denied,
        };
        for selector in &self.selectors {
            match selector.check(asked) {
                Ok(()) => return Ok(()),
                Err(other) => denied = denied.further(other),
            }
        }
        Err(denied)
    }

    /// Whether a subscription may stay.
    pub(in crate::serve) fn may_hear(&self, channel: &[u8], is_pattern: bool) -> bool {
        std::iter::once(&self.root).chain(&self.selectors).any(|selector| selector.permits_channel(channel, is_pattern))
    }

    /// The fields of `ACL GETUSER`.
    pub(in crate::serve) fn shown(&self) -> Shown {
        let flags = [if self.on { "on" } else { "off" }].into_iter().chain(self.no_password.then_some("nopass"));
        let fields = |selector: &Selector| {
            vec![
                ("commands", selector.describe_commands().into_bytes()),
                ("keys", selector.describe_keys().join(&b' ')),
                ("channels", selector.describe_channels().join(&b' ')),
                ("databases", selector.describe_databases().into_bytes()),
            ]
        };
        Shown {
            flags: flags.collect(),
            passwords: self.passwords.iter().map(hex).collect(),
            selectors: std::iter::once(&self.root).chain(&self.selectors).map(fields).collect(),
        }
    }

    /// The line of `ACL LIST` and of the file.
    pub(super) fn describe(&self) -> Vec<u8> {
        let mut line = [b"user ", self.name.as_slice()].concat();
        let mut add = |part: &[u8]| {
            line.push(b' ');
            line.extend_from_slice(part);
        };
        add(if self.on { b"on" } else { b"off" });
        if self.no_password {
            add(b"nopass");
        }
        for password in &self.passwords {
            add(format!("#{}", hex(password)).as_bytes());
        }
        add(&self.root.describe());
        for selector in &self.selectors {
            add(&[b"(", selector.describe().as_slice(), b")"].concat());
        }
        line
    }
}

pub(super) fn digest(password: &[u8]) -> PasswordDigest {
    Sha256::digest(password).into()
}

pub(super) fn hex(digest: &PasswordDigest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_hash(text: &[u8]) -> Option<PasswordDigest> {
    let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let text =
        std::str::from_utf8(text).ok().filter(|text| text.len() == 64 && text.bytes().all(|byte| is_hex(&byte)))?;
    let mut digest = [0; 32];
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(digest)
}
