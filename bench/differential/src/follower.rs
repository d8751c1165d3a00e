//! A client of the cluster: sends everything to the primary that it knows, and follows it.
//!
//! What was refused it sends again, and nothing else. Refused is what says so: MOVED, and READONLY for what has no key. By the rules of a
//! handover also: a transaction that ends in EXECABORT, an EXEC behind WATCH that finds its keys changed, and a waiting command that is
//! told UNBLOCKED, but only where a handover came in between. A connection that is closed is a failure: no crash was ordered.

use std::collections::BTreeMap;

use anyhow::Context;
use ringmaster_engine::{Keys, Protocol, lookup};

use crate::cluster::Cluster;
use crate::reply::Reply;
use crate::target::{Command, Connection, Done, Place, Step, Target, command, watch};

/// How many commands with keys go out together.
const PIPELINE_MAX: usize = 10;
/// A command that is refused so often has found no primary.
const REFUSED_MAX: u32 = 1_000;

pub struct Follower<'a> {
    cluster: &'a Cluster,
    protocol: Protocol,
    /// Where the primary is, as far as is known.
    primary: String,
    /// Two connections to each member.
    open: BTreeMap<String, [Connection; 2]>,
    refused: u32,
}

impl<'a> Follower<'a> {
    pub fn begin(cluster: &'a Cluster, primary: String, protocol: Protocol) -> anyhow::Result<Self> {
        Ok(Self { cluster, protocol, primary, open: BTreeMap::new(), refused: 0 })
    }

    pub fn diverged_slots(&self) -> anyhow::Result<Vec<String>> {
        self.cluster.diverged_slots()
    }

    fn connections(&mut self) -> anyhow::Result<&mut [Connection; 2]> {
        if !self.open.contains_key(&self.primary) {
            let place = Place::Tcp(self.primary.clone());
            let connections = [Connection::open(&place, self.protocol)?, Connection::open(&place, self.protocol)?];
            self.open.insert(self.primary.clone(), connections);
        }
        self.open.get_mut(&self.primary).context("no connection")
    }

    /// Whether the reply says that another member is to be asked; then that is known from here on.
    fn follows(&mut self, reply: &Reply) -> anyhow::Result<bool> {
        if let Reply::Error(text) = reply
            && let Some(moved) = text.strip_prefix("MOVED ")
        {
            let (_, address) = moved.split_once(' ').context("MOVED to nowhere")?;
            self.primary = address.to_owned();
        } else if reply.is_error("READONLY") {
            let [connection, _] = self.connections()?;
            let slots = connection.ask(&command(&[b"CLUSTER", b"SLOTS"]))?;
            let node = slots.elements().first().and_then(|range| range.elements().get(2));
            let (host, port) = node
                .and_then(|node| node.elements().first().zip(node.elements().get(1)))
                .context("CLUSTER SLOTS names no primary")?;
            let port = port.integer().context("CLUSTER SLOTS names no port")?;
            self.primary = format!("{}:{port}", String::from_utf8_lossy(host.text()));
        } else {
            self.refused = 0;
            return Ok(false);
        }
        self.refused += 1;
        anyhow::ensure!(self.refused < REFUSED_MAX, "nobody is primary, says {reply}");
        Ok(true)
    }

    /// Sends commands until each was executed.
    fn singles(&mut self, which: usize, commands: &[Command]) -> anyhow::Result<Vec<Reply>> {
        let mut replies: Vec<Option<Reply>> = vec![None; commands.len()];
        loop {
            let left: Vec<usize> = (0..commands.len()).filter(|at| replies[*at].is_none()).collect();
            if left.is_empty() {
                return Ok(replies.into_iter().flatten().collect());
            }
            let connection = &mut self.connections()?[which];
            connection.send(&left.iter().map(|at| commands[*at].clone()).collect::<Vec<_>>())?;
            let came: Vec<Reply> = left.iter().map(|_| connection.reply()).collect::<anyhow::Result<_>>()?;
            for (at, reply) in left.into_iter().zip(came) {
                if !self.follows(&reply)? {
                    replies[at] = Some(reply);
                }
            }
        }
    }

    fn single(&mut self, which: usize, command: &Command) -> anyhow::Result<Reply> {
        let replies = self.singles(which, std::slice::from_ref(command))?;
        replies.into_iter().next().context("no reply")
    }

    fn transaction(&mut self, commands: &[Command]) -> anyhow::Result<Done> {
        loop {
            let mark = self.cluster.handovers().ended();
            let (refused, exec) = self.connections()?[0].transaction(commands)?;
            if !self.was_refused(mark, &refused, &exec)? {
                return Ok(Done::Transaction { refused, exec });
            }
        }
    }

    /// Whether a transaction has to be sent again.
    fn was_refused(&mut self, mark: u64, refused: &[Reply], exec: &Reply) -> anyhow::Result<bool> {
        for reply in refused.iter().chain([exec]) {
            if self.follows(reply)? {
                return Ok(true);
            }
        }
        Ok(refused.is_empty() && exec.is_error("EXECABORT") && self.cluster.handovers().came_between(mark))
    }

    fn watched(&mut self, keys: &[Vec<u8>], meanwhile: Option<&Command>, commands: &[Command]) -> anyhow::Result<Done> {
        let mark = self.cluster.handovers().ended();
        loop {
            let watching = watch(&mut self.connections()?[0], keys)?;
            if self.follows(&watching)? {
                continue;
            }
            let watched_at = self.primary.clone();
            let meanwhile = meanwhile.map(|command| self.single(1, command)).transpose()?;
            // EXEC belongs where WATCH was.
            self.primary = watched_at;
            let (refused, exec) = self.connections()?[0].transaction(commands)?;
            let fails = self.was_refused(mark, &refused, &exec)?
                || exec.is_null() && self.cluster.handovers().came_between(mark);
            return match meanwhile {
                None if fails => continue,
                // The key was changed: refused or not, it must not be executed.
                Some(meanwhile) if fails => {
                    let exec = if self.protocol == Protocol::Resp3 { Reply::Null } else { Reply::NullArray };
                    Ok(Done::Watched { meanwhile: Some(meanwhile), exec })
                }
                meanwhile => Ok(Done::Watched { meanwhile, exec }),
            };
        }
    }

    fn waiting(&mut self, command: &Command, then: &Command) -> anyhow::Result<Done> {
        let mark = self.cluster.handovers().ended();
        let waits_at = self.primary.clone();
        let [first, second] = self.connections()?;
        first.begin_to_wait(command, second)?;
        let then = self.single(1, then)?;
        let waiting = self.open.get_mut(&waits_at).context("no connection")?;
        let reply = waiting[0].reply()?;
        let unblocked = reply.is_error("UNBLOCKED") && self.cluster.handovers().came_between(mark);
        let command = if self.follows(&reply)? || unblocked { self.single(0, command)? } else { reply };
        Ok(Done::Waiting { command, then })
    }
}

impl Target for Follower<'_> {
    fn perform(&mut self, steps: &[Step]) -> anyhow::Result<Vec<Done>> {
        let mut done = Vec::with_capacity(steps.len());
        let mut together: Vec<Command> = Vec::new();
        for step in steps {
            match step {
                Step::One(command) if has_keys(command) && together.len() < PIPELINE_MAX => {
                    together.push(command.clone());
                    continue;
                }
                _ => {
                    done.extend(self.singles(0, &together)?.into_iter().map(Done::One));
                    together.clear();
                }
            }
            match step {
                Step::One(command) if has_keys(command) => together.push(command.clone()),
                Step::One(command) => done.push(Done::One(self.single(0, command)?)),
                Step::Transaction(commands) => done.push(self.transaction(commands)?),
                Step::Watched { keys, meanwhile, commands } => {
                    done.push(self.watched(keys, meanwhile.as_ref(), commands)?);
                }
                Step::Waiting { command, then } => done.push(self.waiting(command, then)?),
                Step::Channels { .. } => anyhow::bail!("channels are not followed"),
            }
        }
        done.extend(self.singles(0, &together)?.into_iter().map(Done::One));
        Ok(done)
    }
}

/// Whether a command has keys. Others any member may answer, so that they go alone and find what came before done.
fn has_keys(command: &Command) -> bool {
    let args: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
    lookup(&command[0])
        .filter(|spec| spec.keys != Keys::None)
        .and_then(|spec| spec.keys_of(&args).ok()?.next())
        .is_some()
}
