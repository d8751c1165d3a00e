//! The opening of a connection between members: both say who they are, and prove that they know the ring's secret.
//!
//! Each side answers the other's random challenge with HMAC-SHA256 over both challenges and both introductions, under
//! the secret. Two secrets are valid at once, so that one can be rotated. What follows is neither encrypted nor signed.

use std::time::Duration;

use hmac::{Hmac, Mac};
use ringmaster_ring::{BootId, ClusterUuid, Generation, MemberId};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::frame::{FrameError, read_frame, write_frame};
use crate::env::{Env, within};

/// The wire version of everything after the handshake.
const PROTOCOL_VERSION: u16 = 1;
/// How long a handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(2);

/// The secrets of a ring. The first is the one to prove with; all of them are accepted.
#[derive(Clone)]
pub struct Secrets(Vec<Vec<u8>>);

impl Secrets {
    /// One secret a line; empty lines do not count. None where there is no secret at all.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let secrets: Vec<Vec<u8>> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| line.as_bytes().to_vec()).collect();
        (!secrets.is_empty()).then_some(Self(secrets))
    }

    /// Whether `token` is one of the secrets, compared in constant time.
    #[must_use]
    pub fn accept(&self, token: &[u8]) -> bool {
        self.0.iter().any(|secret| {
            let Some(mut mac) = keyed(secret) else { return false };
            let Some(mut given) = keyed(token) else { return false };
            mac.update(b"token");
            given.update(b"token");
            mac.verify(&given.finalize().into_bytes()).is_ok()
        })
    }

    fn prove(&self, role: &[u8], transcript: &[u8]) -> Vec<u8> {
        let mac = self.0.first().and_then(|secret| proof(secret, role, transcript));
        mac.map(|mac| mac.finalize().into_bytes().to_vec()).unwrap_or_default()
    }

    fn verify(&self, role: &[u8], transcript: &[u8], given: &[u8]) -> bool {
        self.0.iter().any(|secret| proof(secret, role, transcript).is_some_and(|mac| mac.verify_slice(given).is_ok()))
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({} hidden)", self.0.len())
    }
}

fn keyed(secret: &[u8]) -> Option<Hmac<Sha256>> {
    Hmac::<Sha256>::new_from_slice(secret).ok()
}

fn proof(secret: &[u8], role: &[u8], transcript: &[u8]) -> Option<Hmac<Sha256>> {
    let mut mac = keyed(secret)?;
    mac.update(role);
    mac.update(transcript);
    Some(mac)
}

/// Who this process is, and what it knows.
#[derive(Clone, Debug)]
pub struct Identity {
    pub cluster: ClusterUuid,
    pub generation: Generation,
    pub member: MemberId,
    pub boot: BootId,
    pub secrets: Secrets,
}

/// Who the other side proved to be: a member of this ring, under this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub member: MemberId,
    pub boot: BootId,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Purpose {
    /// Requests and answers.
    Requests,
    /// Raft's requests and answers, so that nothing stands before a heartbeat.
    Raft,
    /// A shard's records, from its primary to a copy.
    Stream,
    /// What clients publish.
    Messages,
}

#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("no answer within {} s", HANDSHAKE_LIMIT.as_secs())]
    TimedOut,
    #[error("it speaks version {theirs}, this process {PROTOCOL_VERSION}")]
    Version { theirs: u16 },
    #[error("it belongs to cluster {cluster} generation {generation}")]
    Foreign { cluster: ClusterUuid, generation: Generation },
    #[error("it does not know the ring's secret")]
    Unproven,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Introduction {
    version: u16,
    cluster: ClusterUuid,
    generation: Generation,
    member: MemberId,
    boot: BootId,
    purpose: Purpose,
    challenge: [u64; 2],
}

impl Introduction {
    fn of<E: Env>(env: &E, identity: &Identity, purpose: Purpose) -> Self {
        Self {
            version: PROTOCOL_VERSION,
            cluster: identity.cluster,
            generation: identity.generation,
            member: identity.member,
            boot: identity.boot,
            purpose,
            challenge: [env.random(), env.random()],
        }
    }

    fn check(&self, identity: &Identity) -> Result<(), HandshakeError> {
        if self.version != PROTOCOL_VERSION {
            return Err(HandshakeError::Version { theirs: self.version });
        }
        if (self.cluster, self.generation) != (identity.cluster, identity.generation) {
            return Err(HandshakeError::Foreign { cluster: self.cluster, generation: self.generation });
        }
        Ok(())
    }

    fn peer(&self) -> Peer {
        Peer { member: self.member, boot: self.boot }
    }
}

fn transcript(caller: &Introduction, callee: &Introduction) -> Result<Vec<u8>, FrameError> {
    Ok(postcard::to_extend(&(caller, callee), Vec::new())?)
}

/// Opens a connection that was just made.
///
/// # Errors
/// The other side is not a member of this ring, or the connection broke. It is of no further use.
pub async fn connect<E: Env>(
    env: &E,
    stream: &mut E::Stream,
    identity: &Identity,
    purpose: Purpose,
) -> Result<Peer, HandshakeError> {
    let mine = Introduction::of(env, identity, purpose);
    let opening = async {
        send(stream, &mine).await?;
        let (theirs, proof): (Introduction, Vec<u8>) = read_frame(stream).await?;
        theirs.check(identity)?;
        let transcript = transcript(&mine, &theirs)?;
        if !identity.secrets.verify(b"callee", &transcript, &proof) {
            return Err(HandshakeError::Unproven);
        }
        send(stream, &identity.secrets.prove(b"caller", &transcript)).await?;
        Ok(theirs.peer())
    };
    within(env, HANDSHAKE_LIMIT, opening).await.unwrap_or(Err(HandshakeError::TimedOut))
}

/// Answers the opening of a connection.
///
/// # Errors
/// The other side is not a member of this ring, or the connection broke. It is of no further use.
pub async fn accept<E: Env>(
    env: &E,
    stream: &mut E::Stream,
    identity: &Identity,
) -> Result<(Peer, Purpose), HandshakeError> {
    let opening = async {
        let theirs: Introduction = read_frame(stream).await?;
        let mine = Introduction::of(env, identity, theirs.purpose);
        let transcript = transcript(&theirs, &mine)?;
        // The answer goes out before the check, so that a foreign caller learns why it is refused.
        send(stream, &(&mine, identity.secrets.prove(b"callee", &transcript))).await?;
        theirs.check(identity)?;
        let proof: Vec<u8> = read_frame(stream).await?;
        if !identity.secrets.verify(b"caller", &transcript, &proof) {
            return Err(HandshakeError::Unproven);
        }
        Ok((theirs.peer(), theirs.purpose))
    };
    within(env, HANDSHAKE_LIMIT, opening).await.unwrap_or(Err(HandshakeError::TimedOut))
}

async fn send<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, message: &impl Serialize) -> Result<(), FrameError> {
    write_frame(stream, message).await?;
    stream.flush().await?;
    Ok(())
}
