//! What is driven: something that performs steps, and the connections to a server that does.

use std::collections::BTreeSet;
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use ringmaster_engine::Protocol;

use crate::reply::Reply;

/// A server that says nothing for so long has failed.
const REPLY_MAX: Duration = Duration::from_secs(30);
/// How long a command may take until it is seen to wait.
const SEEN_TO_WAIT_MAX: Duration = Duration::from_secs(10);

/// A command's arguments, its name first.
pub type Command = Vec<Vec<u8>>;

/// What is done at once.
#[derive(Clone, Debug)]
pub enum Step {
    One(Command),
    /// Between MULTI and EXEC.
    Transaction(Vec<Command>),
    /// The same behind WATCH; meanwhile another connection may do something.
    Watched {
        keys: Vec<Vec<u8>>,
        meanwhile: Option<Command>,
        commands: Vec<Command>,
    },
    /// A command that waits for data, and what another connection does once it waits.
    Waiting {
        command: Command,
        then: Command,
    },
    /// Subscriptions of one connection, what another one does, and the end of all subscriptions.
    Channels {
        subscriptions: Vec<Command>,
        meanwhile: Vec<Command>,
    },
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    One(Reply),
    /// What came instead of QUEUED, and EXEC's reply.
    Transaction {
        refused: Vec<Reply>,
        exec: Reply,
    },
    Watched {
        meanwhile: Option<Reply>,
        exec: Reply,
    },
    Waiting {
        command: Reply,
        then: Reply,
    },
    /// What subscribing said, what was done meanwhile, the messages, what the end of the subscriptions said.
    Channels {
        subscribed: Vec<Reply>,
        meanwhile: Vec<Reply>,
        messages: Vec<Reply>,
        unsubscribed: Vec<Reply>,
    },
}

pub trait Target {
    /// What came of each step, in their order.
    fn perform(&mut self, steps: &[Step]) -> anyhow::Result<Vec<Done>>;

    /// Single commands; one reply each.
    fn ask(&mut self, commands: &[Command]) -> anyhow::Result<Vec<Reply>> {
        let steps: Vec<Step> = commands.iter().cloned().map(Step::One).collect();
        let replies = self.perform(&steps)?.into_iter().map(|done| match done {
            Done::One(reply) => Ok(reply),
            other => anyhow::bail!("a command became {other:?}"),
        });
        replies.collect()
    }
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Unix(PathBuf),
    Tcp(String),
}

/// One connection.
pub struct Connection {
    stream: Box<dyn Write>,
    replies: BufReader<Box<dyn Read>>,
    /// The server's number for it.
    id: Vec<u8>,
}

impl Connection {
    pub fn open(place: &Place, protocol: Protocol) -> anyhow::Result<Self> {
        let (stream, replies): (Box<dyn Write>, Box<dyn Read>) = match place {
            Place::Unix(path) => {
                let stream = UnixStream::connect(path).with_context(|| format!("no server at {}", path.display()))?;
                stream.set_read_timeout(Some(REPLY_MAX))?;
                (Box::new(stream.try_clone()?), Box::new(stream))
            }
            Place::Tcp(address) => {
                let stream = TcpStream::connect(address).with_context(|| format!("no server at {address}"))?;
                stream.set_read_timeout(Some(REPLY_MAX))?;
                stream.set_nodelay(true)?;
                (Box::new(stream.try_clone()?), Box::new(stream))
            }
        };
        let mut connection = Self { stream, replies: BufReader::new(replies), id: Vec::new() };
        let version: &[u8] = if protocol == Protocol::Resp3 { b"3" } else { b"2" };
        connection.ask(&command(&[b"HELLO", version]))?;
        let id = connection.ask(&command(&[b"CLIENT", b"ID"]))?;
        connection.id = id.integer().context("CLIENT ID is no number")?.to_string().into();
        Ok(connection)
    }

    pub fn send(&mut self, commands: &[Command]) -> anyhow::Result<()> {
        let mut wire = Vec::new();
        commands.iter().for_each(|command| encode(command, &mut wire));
        Ok(self.stream.write_all(&wire)?)
    }

    pub fn reply(&mut self) -> anyhow::Result<Reply> {
        Reply::read(&mut self.replies)
    }

    pub fn ask(&mut self, command: &Command) -> anyhow::Result<Reply> {
        self.send(std::slice::from_ref(command))?;
        self.reply()
    }

    /// MULTI, the commands, EXEC: what came instead of QUEUED, and EXEC's reply.
    pub fn transaction(&mut self, commands: &[Command]) -> anyhow::Result<(Vec<Reply>, Reply)> {
        self.send(&transaction(commands))?;
        self.end_transaction(commands.len())
    }

    fn end_transaction(&mut self, commands: usize) -> anyhow::Result<(Vec<Reply>, Reply)> {
        let mut refused = Vec::new();
        for at in 0..=commands {
            let reply = self.reply()?;
            let wanted = if at == 0 { "OK" } else { "QUEUED" };
            if reply != Reply::Simple(wanted.to_owned()) {
                refused.push(reply);
            }
        }
        Ok((refused, self.reply()?))
    }

    /// Sends a command, and comes back when it waits or has replied; says which, by looking from another connection.
    pub fn begin_to_wait(&mut self, command: &Command, looking: &mut Self) -> anyhow::Result<()> {
        // So that its last command has another name.
        self.ask(&vec![b"PING".to_vec()])?;
        self.send(std::slice::from_ref(command))?;
        let list = crate::target::command(&[b"CLIENT", b"LIST", b"ID", &self.id]);
        let began = Instant::now();
        loop {
            let reply = looking.ask(&list)?;
            let line = String::from_utf8_lossy(reply.text()).into_owned();
            let word = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name).map(str::to_owned));
            // Waiting, or past that command already.
            let waits = word("flags=").is_some_and(|flags| flags.contains('b'));
            let name = String::from_utf8_lossy(&command[0]).to_ascii_lowercase();
            if waits || word("cmd=").is_some_and(|last| last.starts_with(&name)) || line.is_empty() {
                return Ok(());
            }
            anyhow::ensure!(began.elapsed() < SEEN_TO_WAIT_MAX, "{name} neither waits nor ends: {line}");
        }
    }
}

pub fn command(words: &[&[u8]]) -> Command {
    words.iter().map(|word| word.to_vec()).collect()
}

fn transaction(commands: &[Command]) -> Vec<Command> {
    let word = |word: &[u8]| vec![vec![word.to_vec()]];
    [word(b"MULTI"), commands.to_vec(), word(b"EXEC")].concat()
}

fn encode(command: &[Vec<u8>], wire: &mut Vec<u8>) {
    wire.extend_from_slice(format!("*{}\r\n", command.len()).as_bytes());
    for arg in command {
        wire.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        wire.extend_from_slice(arg);
        wire.extend_from_slice(b"\r\n");
    }
}

/// One server, with two connections to it. Single commands and transactions that follow each other go out together.
pub struct Server {
    first: Connection,
    second: Connection,
}

impl Server {
    pub fn connect(place: &Place, protocol: Protocol) -> anyhow::Result<Self> {
        Ok(Self { first: Connection::open(place, protocol)?, second: Connection::open(place, protocol)? })
    }

    fn pipeline(&mut self, steps: &[Step], done: &mut Vec<Done>) -> anyhow::Result<()> {
        let mut commands = Vec::new();
        for step in steps {
            match step {
                Step::One(command) => commands.push(command.clone()),
                Step::Transaction(queued) => commands.extend(transaction(queued)),
                Step::Watched { .. } | Step::Waiting { .. } | Step::Channels { .. } => {}
            }
        }
        self.first.send(&commands)?;
        for step in steps {
            let came = match step {
                Step::Transaction(commands) => {
                    let came = self.first.end_transaction(commands.len());
                    came.map(|(refused, exec)| Done::Transaction { refused, exec })
                }
                _ => self.first.reply().map(Done::One),
            };
            done.push(came.with_context(|| format!("no reply to {}", show(step)))?);
        }
        Ok(())
    }

    fn channels(&mut self, subscriptions: &[Command], meanwhile: &[Command]) -> anyhow::Result<Done> {
        let Self { first, second } = self;
        let mut subscribed = Vec::new();
        for command in subscriptions {
            second.send(std::slice::from_ref(command))?;
            for _ in 1..command.len() {
                subscribed.push(second.reply()?);
            }
        }
        let meanwhile = meanwhile.iter().map(|command| Ok((command, first.ask(command)?)));
        let meanwhile: Vec<(&Command, Reply)> = meanwhile.collect::<anyhow::Result<_>>()?;
        let reached = meanwhile.iter().filter(|(command, _)| command[0].ends_with(b"PUBLISH"));
        let reached: i64 = reached.filter_map(|(_, reply)| reply.integer()).sum();
        let messages = (0..reached).map(|_| second.reply()).collect::<anyhow::Result<_>>()?;
        let mut unsubscribed = Vec::new();
        for name in ["UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"] {
            let kind = name.replacen("UN", "", 1);
            let channels = subscriptions.iter().filter(|command| command[0] == kind.as_bytes());
            let channels: BTreeSet<&Vec<u8>> = channels.flat_map(|command| &command[1..]).collect();
            second.send(&[vec![name.into()]])?;
            // Without any there is one reply that says so.
            for _ in 0..channels.len().max(1) {
                unsubscribed.push(second.reply()?);
            }
        }
        let meanwhile = meanwhile.into_iter().map(|(_, reply)| reply).collect();
        Ok(Done::Channels { subscribed, meanwhile, messages, unsubscribed })
    }
}

impl Target for Server {
    fn perform(&mut self, steps: &[Step]) -> anyhow::Result<Vec<Done>> {
        let mut done = Vec::with_capacity(steps.len());
        let goes_alone = |step: &Step| !matches!(step, Step::One(_) | Step::Transaction(_));
        let mut rest = steps;
        while !rest.is_empty() {
            let end = rest.iter().position(goes_alone).unwrap_or(rest.len());
            let (together, behind) = rest.split_at(end);
            self.pipeline(together, &mut done)?;
            rest = behind;
            let Some((step, behind)) = rest.split_first() else { break };
            rest = behind;
            done.push(self.alone(step).with_context(|| format!("no reply to {}", show(step)))?);
        }
        Ok(done)
    }
}

impl Server {
    fn alone(&mut self, step: &Step) -> anyhow::Result<Done> {
        Ok(match step {
            Step::Watched { keys, meanwhile, commands } => {
                watch(&mut self.first, keys)?;
                let meanwhile = meanwhile.as_ref().map(|command| self.second.ask(command)).transpose()?;
                let (_, exec) = self.first.transaction(commands)?;
                Done::Watched { meanwhile, exec }
            }
            Step::Waiting { command, then } => {
                self.first.begin_to_wait(command, &mut self.second)?;
                let then = self.second.ask(then)?;
                Done::Waiting { command: self.first.reply()?, then }
            }
            Step::Channels { subscriptions, meanwhile } => self.channels(subscriptions, meanwhile)?,
            Step::One(_) | Step::Transaction(_) => anyhow::bail!("it goes with others"),
        })
    }
}

pub fn watch(connection: &mut Connection, keys: &[Vec<u8>]) -> anyhow::Result<Reply> {
    connection.ask(&[vec![b"WATCH".to_vec()], keys.to_vec()].concat())
}

/// A step as a person may type it.
pub fn show(step: &Step) -> String {
    let one = |command: &Command| {
        let words = command.iter().map(|word| match word.as_slice() {
            plain if !plain.is_empty() && plain.iter().all(|b| b.is_ascii_graphic() && *b != b'"') => {
                String::from_utf8_lossy(plain).into_owned()
            }
            other => format!("\"{}\"", other.escape_ascii()),
        });
        words.collect::<Vec<_>>().join(" ")
    };
    let all = |commands: &[Command]| commands.iter().map(one).collect::<Vec<_>>().join("; ");
    match step {
        Step::One(command) => one(command),
        Step::Transaction(commands) => format!("MULTI; {}; EXEC", all(commands)),
        Step::Watched { keys, meanwhile, commands } => {
            let meanwhile = meanwhile.as_ref().map(|command| format!("meanwhile {}; ", one(command)));
            format!("WATCH {}; {}MULTI; {}; EXEC", one(keys), meanwhile.unwrap_or_default(), all(commands))
        }
        Step::Channels { subscriptions, meanwhile } => format!("{}; meanwhile {}", all(subscriptions), all(meanwhile)),
        Step::Waiting { command, then } => format!("{}; meanwhile {}", one(command), one(then)),
    }
}
