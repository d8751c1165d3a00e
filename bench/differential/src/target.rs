//! The two sides of the comparison: a server behind a socket, and Ringmaster's engine in this process.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use ringmaster_engine::{
    Ctx, Engine, EngineConfig, Executed, Handler, Protocol, Queued, ReplyBuf, UnixMs, lookup, write_command_getkeys,
};

use crate::reply::Reply;

/// A command's arguments, its name first.
pub type Command = Vec<Vec<u8>>;

/// What is done at once.
#[derive(Clone, Debug)]
pub enum Step {
    One(Command),
    /// Between MULTI and EXEC.
    Transaction(Vec<Command>),
}

pub trait Target {
    /// One reply a step; of a transaction, EXEC's.
    fn perform(&mut self, steps: &[Step]) -> anyhow::Result<Vec<Reply>>;
}

/// A server that speaks RESP. Steps go out together.
pub struct Server {
    stream: Box<dyn Write>,
    replies: BufReader<Box<dyn std::io::Read>>,
}

impl Server {
    pub fn connect_unix(path: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(path)?;
        let replies: Box<dyn std::io::Read> = Box::new(stream.try_clone()?);
        Ok(Self { stream: Box::new(stream), replies: BufReader::new(replies) })
    }

    pub fn connect_tcp(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("no server at {address}"))?;
        stream.set_nodelay(true)?;
        let replies: Box<dyn std::io::Read> = Box::new(stream.try_clone()?);
        Ok(Self { stream: Box::new(stream), replies: BufReader::new(replies) })
    }

    pub fn hello(&mut self, protocol: Protocol) -> anyhow::Result<()> {
        let version: &[u8] = if protocol == Protocol::Resp3 { b"3" } else { b"2" };
        self.perform(&[Step::One(vec![b"HELLO".to_vec(), version.to_vec()])])?;
        Ok(())
    }
}

impl Target for Server {
    fn perform(&mut self, steps: &[Step]) -> anyhow::Result<Vec<Reply>> {
        let mut wire = Vec::new();
        for step in steps {
            match step {
                Step::One(command) => encode(command, &mut wire),
                Step::Transaction(commands) => {
                    encode(&[b"MULTI".to_vec()], &mut wire);
                    commands.iter().for_each(|command| encode(command, &mut wire));
                    encode(&[b"EXEC".to_vec()], &mut wire);
                }
            }
        }
        self.stream.write_all(&wire)?;
        let mut replies = Vec::with_capacity(steps.len());
        for step in steps {
            if let Step::Transaction(commands) = step {
                for _ in 0..=commands.len() {
                    Reply::read(&mut self.replies)?;
                }
            }
            replies.push(Reply::read(&mut self.replies)?);
        }
        Ok(replies)
    }
}

fn encode(command: &[Vec<u8>], wire: &mut Vec<u8>) {
    wire.extend_from_slice(format!("*{}\r\n", command.len()).as_bytes());
    for arg in command {
        wire.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        wire.extend_from_slice(arg);
        wire.extend_from_slice(b"\r\n");
    }
}

/// The engine without a node around it. Beside it, a copy that applies its log: whatever a command did must have become a record.
pub struct InProcess {
    engine: Engine,
    copy: Engine,
    protocol: Protocol,
}

impl InProcess {
    pub fn new(seed: u64, protocol: Protocol) -> Self {
        let engine = |seed| Engine::new(EngineConfig { hash_seed: [seed, 7], ..EngineConfig::default() });
        Self { engine: engine(seed), copy: engine(!seed), protocol }
    }

    /// The slots whose copy differs from the primary.
    pub fn diverged_slots(&self) -> anyhow::Result<Vec<String>> {
        while let Some(batch) = self.engine.log().read_after(self.copy.log().end().seq, 1 << 20)? {
            self.copy.apply(&batch)?;
        }
        let slots = ringmaster_ring::Slot::all();
        let diverged = slots.filter(|slot| self.engine.slot_digest(*slot) != self.copy.slot_digest(*slot));
        Ok(diverged
            .map(|slot| {
                let keys = self.engine.keys_in_slot(slot, 3);
                let keys: Vec<String> = keys.iter().map(|key| key.escape_ascii().to_string()).collect();
                format!("{slot} ({})", keys.join(" "))
            })
            .collect())
    }

    fn execute(&self, step: &Step, ctx: &Ctx<'_>) -> Vec<u8> {
        let mut reply = ReplyBuf::new(self.protocol);
        match step {
            Step::One(command) => {
                let args: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
                match lookup(args.first().copied().unwrap_or_default()) {
                    Some(spec) if matches!(spec.handler, Handler::Data(_)) => {
                        let executed = self.engine.execute(spec, &args, ctx, &mut reply);
                        debug_assert!(matches!(executed, Executed::Replied { .. }));
                    }
                    _ => match args.as_slice() {
                        [name, word, request @ ..]
                            if is(name, "COMMAND") && is(word, "GETKEYS") && !request.is_empty() =>
                        {
                            write_command_getkeys(request, &mut reply);
                        }
                        _ => reply.error("ERR unknown command"),
                    },
                }
            }
            Step::Transaction(commands) => {
                let args: Vec<Vec<&[u8]>> =
                    commands.iter().map(|command| command.iter().map(Vec::as_slice).collect()).collect();
                let queued: Option<Vec<Queued<'_>>> = args
                    .iter()
                    .map(|args| {
                        let spec = lookup(args.first()?).filter(|spec| spec.accepts(args.len()))?;
                        Some(Queued { spec, args })
                    })
                    .collect();
                match queued {
                    None => reply.error("EXECABORT Transaction discarded because of previous errors."),
                    Some(queued) => {
                        let mut none = |_: &Queued<'_>, reply: &mut ReplyBuf| {
                            reply.error("ERR not a command on data");
                            None
                        };
                        self.engine.execute_transaction(&queued, &[], ctx, &mut none, &mut reply);
                    }
                }
            }
        }
        reply.take()
    }
}

impl Target for InProcess {
    fn perform(&mut self, steps: &[Step]) -> anyhow::Result<Vec<Reply>> {
        self.engine.expire_cycle(wall_clock(), usize::MAX, &|_| true);
        steps
            .iter()
            .map(|step| {
                let ctx = Ctx { now: wall_clock(), db: 0, permit: &|_| true };
                let bytes = self.execute(step, &ctx);
                let mut rest = bytes.as_slice();
                let reply = Reply::read(&mut rest).with_context(|| format!("the reply to {}", show(step)))?;
                anyhow::ensure!(rest.is_empty(), "{} is replied to with more than one reply", show(step));
                Ok(reply)
            })
            .collect()
    }
}

fn is(arg: &[u8], word: &str) -> bool {
    arg.eq_ignore_ascii_case(word.as_bytes())
}

pub fn wall_clock() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(u64::try_from(since.as_millis()).unwrap_or(0))
}

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
    match step {
        Step::One(command) => one(command),
        Step::Transaction(commands) => {
            format!("MULTI; {}; EXEC", commands.iter().map(one).collect::<Vec<_>>().join("; "))
        }
    }
}
