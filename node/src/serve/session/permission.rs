//! Whether a connection's user may do what it asks for.
//!
//! Costs one comparison for a user who may do everything: the version of the users at which that was found out is kept. Whoever may not do everything
//! is checked at each request; so is everybody once after a change of users.

use std::sync::Arc;

use ringmaster_engine::CommandSpec;

use super::Session;
use crate::serve::Shared;
use crate::serve::acl::{Acl, Asked, Context, Denied, LogEntry, User};
use crate::serve::pubsub::Kind;
use crate::serve::registry::Client;

/// Who a connection is.
#[derive(Debug)]
pub(super) struct Identity {
    user: Arc<User>,
    /// The version of the users at which `user` was looked up.
    looked_up: u64,
    /// The same, if it may do everything; otherwise 0, which no version is.
    unrestricted_at: u64,
    /// It has said who it is, or need not.
    authenticated: bool,
    /// With which it authenticated; kept where its requests may have to be forwarded.
    credentials: Option<(Vec<u8>, Vec<u8>)>,
}

impl Identity {
    /// One that has just connected.
    pub(super) fn new(acl: &Acl) -> Self {
        let looked_up = acl.version();
        let user = acl.default_user().unwrap_or_else(|| Arc::new(User::nobody()));
        let unrestricted_at = if user.permits_everything() { looked_up } else { 0 };
        let authenticated = !acl.is_authentication_required();
        Self { user, looked_up, unrestricted_at, authenticated, credentials: None }
    }

    fn become_user(&mut self, user: Arc<User>, version: u64) {
        self.looked_up = version;
        self.unrestricted_at = if user.permits_everything() { version } else { 0 };
        self.user = user;
    }

    /// Looks its user up again, if users have changed.
    fn refresh(&mut self, acl: &Acl) {
        let version = acl.version();
        if self.looked_up != version {
            // One that is no more: its connections are being closed.
            let user = acl.user(self.user.name()).unwrap_or_else(|| Arc::clone(&self.user));
            self.become_user(user, version);
        }
    }
}

/// What a script's commands are checked against, for a user who may not do everything.
#[derive(Clone, Debug)]
pub(super) struct Rights {
    user: Arc<User>,
    client: Arc<Client>,
}

impl Rights {
    /// Why a command may not be called, as a script is told. What is refused is logged.
    pub(super) fn refusal(&self, shared: &Shared, asked: &Asked<'_>) -> Option<String> {
        let denied = self.user.check(asked).err()?;
        let text = shortly(&denied, &self.user);
        note(shared, &self.client, &self.user, denied, Context::Script);
        Some(text)
    }

    pub(super) fn permits(&self, asked: &Asked<'_>) -> bool {
        self.user.check(asked).is_ok()
    }
}

impl Session {
    pub(in crate::serve) fn is_authenticated(&self, acl: &Acl) -> bool {
        self.identity.authenticated || !acl.is_authentication_required()
    }

    /// As [`Self::is_authenticated`], without a look at whether it has become unnecessary.
    pub(in crate::serve) fn has_authenticated(&self) -> bool {
        self.identity.authenticated
    }

    pub(super) fn user(&self) -> &Arc<User> {
        &self.identity.user
    }

    /// What it authenticated with, where it had to.
    pub(super) fn credentials(&self) -> Option<(&[u8], &[u8])> {
        self.identity.credentials.as_ref().map(|(user, password)| (user.as_slice(), password.as_slice()))
    }

    /// Whether its user may do everything, as far as one look can tell.
    pub(in crate::serve) fn is_unrestricted(&self, acl: &Acl) -> bool {
        self.identity.unrestricted_at == acl.version()
    }

    /// Takes over what a user may do, as looked up at some version of the users. `credentials` are for another member, to which its requests
    /// may have to be forwarded.
    pub(super) fn log_in(&mut self, (user, version): (Arc<User>, u64), credentials: Option<(Vec<u8>, Vec<u8>)>) {
        self.identity.become_user(user, version);
        self.identity.authenticated = true;
        self.identity.credentials = credentials;
        self.show_user();
    }

    /// As if it had just connected.
    pub(super) fn log_out(&mut self, acl: &Acl) {
        self.identity = Identity::new(acl);
        self.show_user();
    }

    fn show_user(&self) {
        self.client.names.lock().user = self.identity.user.name().to_vec();
    }

    /// Why a request may not be executed, if so. What is refused is logged.
    #[cold]
    pub(in crate::serve) fn denial(
        &mut self,
        shared: &Shared,
        spec: &'static CommandSpec,
        args: &[&[u8]],
    ) -> Option<String> {
        self.identity.refresh(&shared.acl);
        if self.is_unrestricted(&shared.acl) || is_between_members(spec, args) {
            return None;
        }
        let denied = self.identity.user.check(&Asked { spec, args, db: self.db }).err()?;
        let text = shortly(&denied, &self.identity.user);
        let context = if self.is_queueing() { Context::Multi } else { Context::TopLevel };
        note(shared, &self.client, &self.identity.user, denied, context);
        Some(text)
    }

    /// Why a command that MULTI kept may not be executed any more, if so.
    pub(super) fn late_denial(&mut self, shared: &Shared, asked: &Asked<'_>) -> Option<String> {
        self.identity.refresh(&shared.acl);
        if self.is_unrestricted(&shared.acl) {
            return None;
        }
        let denied = self.identity.user.check(asked).err()?;
        let why = match denied {
            Denied::Command { .. } => "no permission to execute the command or subcommand",
            Denied::Key { .. } => "no permission to touch the specified keys",
            Denied::Channel { .. } => "no permission to access one of the channels used as arguments",
            Denied::Database { .. } => "no permission",
        };
        note(shared, &self.client, &self.identity.user, denied, Context::Multi);
        Some(format!(
            "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. \
             This command is no longer allowed for the following reason: {why}"
        ))
    }

    /// What its scripts are checked against; none if they may do everything.
    pub(super) fn rights(&mut self, shared: &Shared) -> Option<Rights> {
        if self.is_unrestricted(&shared.acl) {
            return None;
        }
        self.identity.refresh(&shared.acl);
        let restricted = !self.is_unrestricted(&shared.acl);
        restricted.then(|| Rights { user: Arc::clone(&self.identity.user), client: Arc::clone(&self.client) })
    }

    /// Whether its user may hear all that it is subscribed to. To be asked after users have changed.
    pub(in crate::serve) fn may_keep_subscriptions(&mut self, acl: &Acl) -> bool {
        if self.identity.looked_up == acl.version() {
            return true;
        }
        self.identity.refresh(acl);
        let user = &self.identity.user;
        let subscriptions = self.subscriptions.iter();
        let mut heard =
            subscriptions.flat_map(|subscriptions| Kind::ALL.into_iter().map(move |kind| (kind, subscriptions)));
        heard.all(|(kind, subscriptions)| {
            subscriptions.names(kind).iter().all(|name| user.may_hear(name, kind == Kind::Pattern))
        })
    }
}

/// A member that forwards a client's requests says so in that client's name, which need not be allowed to say it.
fn is_between_members(spec: &CommandSpec, args: &[&[u8]]) -> bool {
    spec.name == "client" && args.get(1).is_some_and(|subcommand| subcommand.eq_ignore_ascii_case(b"forwarded"))
}

/// What the client is told: no more than it must know.
fn shortly(denied: &Denied, user: &User) -> String {
    match denied {
        Denied::Command { .. } => fully(denied, user),
        Denied::Key { .. } => "No permissions to access a key".to_owned(),
        Denied::Channel { .. } => "No permissions to access a channel".to_owned(),
        Denied::Database { .. } => "No permissions to access database".to_owned(),
    }
}

/// What an administrator is told.
pub(super) fn fully(denied: &Denied, user: &User) -> String {
    let user = String::from_utf8_lossy(user.name());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match denied {
        Denied::Command { name } => format!("User {user} has no permissions to run the '{name}' command"),
        Denied::Key { key, .. } => format!("User {user} has no permissions to access the '{}' key", text(key)),
        Denied::Channel { channel, .. } => {
            format!("User {user} has no permissions to access the '{}' channel", text(channel))
        }
        Denied::Database { object } => format!("User {user} has no permissions to access database {object}"),
    }
}

fn note(shared: &Shared, client: &Client, user: &User, denied: Denied, context: Context) {
    let (reason, object) = match denied {
        Denied::Command { name } => ("command", name.into_bytes()),
        Denied::Key { key, .. } => ("key", key),
        Denied::Channel { channel, .. } => ("channel", channel),
        Denied::Database { object } => ("database", object.into_bytes()),
    };
    note_refusal(shared, client, user.name(), (reason, object), context);
}

/// Adds to the log of refusals.
pub(super) fn note_refusal(
    shared: &Shared,
    client: &Client,
    user: &[u8],
    (reason, object): (&'static str, Vec<u8>),
    context: Context,
) {
    let now_ms = crate::env::wall_now_ms();
    shared.acl.note_refusal(LogEntry {
        count: 0,
        reason,
        context,
        object,
        user: user.to_vec(),
        client: client.describe(shared.now_ms()),
        id: 0,
        created_ms: now_ms,
        updated_ms: now_ms,
    });
}
