//! AUTH and HELLO: who the client is and which protocol it speaks.

use ringmaster_engine::{Protocol, ReplyBuf, text_of};

use super::permission::note_refusal;
use super::{Call, parse, set_name};
use crate::serve::REDIS_VERSION;
use crate::serve::acl::{Context, DEFAULT};
use crate::serve::registry::Names;

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. \
                           Are you sure your configuration is correct?";
const HELLO_NEEDS_AUTH: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the \
                                HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and \
                                select the RESP protocol version at the same time";

/// `AUTH [user] password`.
pub(super) fn auth(call: &mut Call<'_>, reply: &mut ReplyBuf) {
    let error = match *call.args {
        [_, _] if !call.shared().acl.default_has_password() => Some(NO_PASSWORD),
        [_, password] => admit(call, DEFAULT, password),
        [_, user, password] => admit(call, user, password),
        _ => Some("ERR syntax error"),
    };
    match error {
        Some(error) => reply.error(error),
        None => reply.ok(),
    }
}

/// `HELLO [version [AUTH user password] [SETNAME name]]`. On an error nothing has changed.
pub(super) fn hello(call: &mut Call<'_>, reply: &mut ReplyBuf) {
    let protocol = match call.args.get(1) {
        None => reply.protocol(),
        Some(version) => match parse::<i64>(version) {
            Some(2) => Protocol::Resp2,
            Some(3) => Protocol::Resp3,
            Some(_) => return reply.error("NOPROTO unsupported protocol version"),
            None => return reply.error("ERR Protocol version is not an integer or out of range"),
        },
    };
    let (mut credentials, mut name) = (None, None);
    let mut options = call.args_from(2);
    while let Some(option) = options.first() {
        options = match options {
            [_, user, password, rest @ ..] if option.eq_ignore_ascii_case(b"auth") => {
                credentials = Some((*user, *password));
                rest
            }
            [_, given, rest @ ..] if option.eq_ignore_ascii_case(b"setname") => {
                name = Some(*given);
                rest
            }
            _ => {
                let option = text_of(option);
                return reply.error(&format!("ERR Syntax error in HELLO option '{option}'"));
            }
        };
    }
    if let Some((user, password)) = credentials
        && let Some(error) = admit(call, user, password)
    {
        return reply.error(error);
    }
    if !call.session.is_authenticated(&call.shared().acl) {
        return reply.error(HELLO_NEEDS_AUTH);
    }
    if let Some(name) = name
        && !set_name(call.session, name, reply)
    {
        return;
    }
    call.session.set_protocol(protocol, reply);
    let text = |reply: &mut ReplyBuf, name: &str, value: &str| {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    };
    reply.map(7);
    text(reply, "server", "redis");
    text(reply, "version", REDIS_VERSION);
    reply.bulk(b"proto");
    reply.integer(if protocol == Protocol::Resp3 { 3 } else { 2 });
    reply.bulk(b"id");
    reply.integer(i64::try_from(call.session.client.id).unwrap_or(i64::MAX));
    text(reply, "mode", if call.thread.config.cluster_mode { "cluster" } else { "standalone" });
    text(reply, "role", if call.is_master() { "master" } else { "replica" });
    reply.bulk(b"modules");
    reply.array(0);
}

/// Lets the client in, or says why not. A user without passwords (`nopass`) is let in with any, as in Valkey.
fn admit(call: &mut Call<'_>, user: &[u8], password: &[u8]) -> Option<&'static str> {
    let acl = &call.shared().acl;
    // Before the user is looked up: if users change in between, it is looked up again.
    let version = acl.version();
    if let Some(found) = acl.authenticate(user, password) {
        let is_needed = user != DEFAULT || acl.is_authentication_required();
        let is_kept = is_needed && !call.thread.config.cluster_mode;
        call.session.log_in((found, version), is_kept.then(|| (user.to_vec(), password.to_vec())));
        return None;
    }
    let context = if call.session.in_transaction { Context::Multi } else { Context::TopLevel };
    let object = call.spec.name.as_bytes().to_vec();
    note_refusal(call.shared(), &call.session.client, user, ("auth", object), context);
    call.thread.counters.auth_failures().add(1);
    let Names { name, .. } = &*call.session.client.names.lock();
    tracing::debug!(client = %call.session.client.addr, %name, "a client gave a wrong password");
    Some(WRONG_PASSWORD)
}
