//! The load generator: one thread, some connections, requests in a closed or an open loop, every reply checked.
//!
//! Closed: a connection sends its next batch when it has all replies to the last one. Open: requests are due at fixed times, are sent
//! then whether or not earlier ones were answered, and their latency counts from when they were due, so that a server that stalls does
//! not slow its own examination (Tene: "coordinated omission").

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::{Timespec, epoll};

use crate::load::{Dialect, Expect, Load};

/// A server that answers nothing for so long has failed.
const SILENCE_MAX: Duration = Duration::from_secs(20);

pub(crate) struct Client {
    dialect: Dialect,
    epoll: std::os::fd::OwnedFd,
    connections: Vec<Connection>,
    /// What requests are made from.
    random: u64,
    scratch: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    out: Vec<u8>,
    written: usize,
    input: Vec<u8>,
    pending: VecDeque<(Expect, Option<Instant>)>,
}

/// When a closed loop ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// No further request is sent after so long.
    Time(Duration),
    /// The numbers from 0 on, each once.
    Count(u64),
}

/// What a closed loop did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub(crate) operations: u64,
    pub(crate) elapsed: Duration,
}

impl Client {
    pub(crate) fn connect(port: u16, dialect: Dialect, connections: usize, seed: u64) -> anyhow::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut all = Vec::with_capacity(connections);
        for number in 0..connections {
            let stream = TcpStream::connect(("127.0.0.1", port)).context("cannot connect to the server")?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let data = epoll::EventData::new_u64(number as u64);
            // Level-triggered and for input alone: what is sent fits the socket's buffer as a rule.
            epoll::add(&epoll, &stream, data, epoll::EventFlags::IN)?;
            all.push(Connection { stream, out: Vec::new(), written: 0, input: Vec::new(), pending: VecDeque::new() });
        }
        Ok(Self { dialect, epoll, connections: all, random: seed | 1, scratch: vec![0; 256 << 10] })
    }

    /// Sends batches of `depth` requests on every connection until the end, and waits for the last reply.
    pub(crate) fn closed(&mut self, load: Load, depth: usize, until: Until) -> anyhow::Result<Done> {
        let began = Instant::now();
        let (mut operations, mut next) = (0, 0);
        let mut open = true;
        let mut active: Vec<usize> = (0..self.connections.len()).collect();
        let mut heard = Instant::now();
        loop {
            for &at in &active {
                let connection = self.connections.get_mut(at).context("no such connection")?;
                if !connection.pending.is_empty() {
                    continue;
                }
                for _ in 0..depth {
                    open = open
                        && match until {
                            Until::Time(limit) => began.elapsed() < limit,
                            Until::Count(count) => next < count,
                        };
                    if !open {
                        break;
                    }
                    let number = match until {
                        Until::Count(_) => next,
                        Until::Time(_) => next_random(&mut self.random),
                    };
                    next += 1;
                    let expect = load.request(self.dialect, number, &mut connection.out);
                    connection.pending.push_back((expect, None));
                }
                connection.write()?;
            }
            if !open && self.connections.iter().all(|connection| connection.pending.is_empty()) {
                return Ok(Done { operations, elapsed: began.elapsed() });
            }
            let (ready, answered) = self.read(Some(Duration::from_millis(100)), |_| {})?;
            active = ready;
            operations += answered;
            if answered > 0 {
                heard = Instant::now();
            } else {
                anyhow::ensure!(heard.elapsed() < SILENCE_MAX, "the server does not answer");
                // A batch that did not fit the socket's buffer goes on.
                active = (0..self.connections.len()).collect();
            }
        }
    }

    /// Sends `rate` requests a second, one connection after another, for so long. Returns the latencies, in nanoseconds.
    pub(crate) fn open(&mut self, load: Load, rate: u64, limit: Duration) -> anyhow::Result<Vec<u64>> {
        let began = Instant::now();
        let total = rate * u64::try_from(limit.as_millis())? / 1_000;
        let due_at = |number: u64| began + Duration::from_nanos(number.saturating_mul(1_000_000_000) / rate.max(1));
        let mut latencies = Vec::with_capacity(usize::try_from(total)?);
        let mut sent = 0;
        while (latencies.len() as u64) < total {
            let now = Instant::now();
            while sent < total && due_at(sent) <= now {
                let at = usize::try_from(sent)? % self.connections.len();
                let number = next_random(&mut self.random);
                let connection = self.connections.get_mut(at).context("no such connection")?;
                let expect = load.request(self.dialect, number, &mut connection.out);
                connection.pending.push_back((expect, Some(due_at(sent))));
                connection.write()?;
                sent += 1;
            }
            let wait = if sent < total { due_at(sent).saturating_duration_since(Instant::now()) } else { SILENCE_MAX };
            self.read(Some(wait), |due| {
                let latency = due.map_or(0, |due| due.elapsed().as_nanos());
                latencies.push(u64::try_from(latency).unwrap_or(u64::MAX));
            })?;
            anyhow::ensure!(began.elapsed() < limit + SILENCE_MAX, "the server cannot keep up with {rate} a second");
        }
        Ok(latencies)
    }

    /// Waits for input and takes the replies in it. Returns which connections had some, and how many replies there were.
    fn read(
        &mut self,
        wait: Option<Duration>,
        mut answered: impl FnMut(Option<Instant>),
    ) -> anyhow::Result<(Vec<usize>, u64)> {
        let timeout = wait.map(Timespec::try_from).transpose()?;
        let mut events = Vec::with_capacity(self.connections.len());
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let (mut ready, mut count) = (Vec::with_capacity(events.len()), 0);
        for event in &events {
            let at = usize::try_from(event.data.u64())?;
            let connection = self.connections.get_mut(at).context("no such connection")?;
            ready.push(at);
            match connection.stream.read(&mut self.scratch) {
                Ok(0) => anyhow::bail!("the server closed a connection"),
                Ok(read) => connection.input.extend_from_slice(self.scratch.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            }
            let mut taken = 0;
            while let Some((expect, due)) = connection.pending.front() {
                let rest = connection.input.get(taken..).unwrap_or_default();
                let Some(len) = (if rest.is_empty() { None } else { expect.check(self.dialect, rest)? }) else { break };
                taken += len;
                answered(*due);
                count += 1;
                connection.pending.pop_front();
            }
            connection.input.drain(..taken);
        }
        Ok((ready, count))
    }
}

impl Connection {
    fn write(&mut self) -> anyhow::Result<()> {
        while let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }
}

/// xorshift64.
fn next_random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that answers every 5 bytes of input, whatever they are, with +OK, after a pause.
    fn serve(pause: Duration) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buf = [0; 4096];
            let mut lines = 0;
            while let Ok(count @ 1..) = stream.read(&mut buf) {
                std::thread::sleep(pause);
                lines += buf[..count].windows(4).filter(|window| window == b"SET\r").count();
                for _ in 0..lines {
                    stream.write_all(b"+OK\r\n").unwrap();
                }
                lines = 0;
            }
        });
        port
    }

    #[test]
    fn a_stall_counts_for_the_requests_that_were_due_meanwhile() {
        let pause = Duration::from_millis(50);
        let mut client = Client::connect(serve(pause), Dialect::Resp, 1, 1).unwrap();
        let latencies = client.open(Load::Set, 200, Duration::from_millis(300)).unwrap();
        assert_eq!(latencies.len(), 60);
        let over = latencies.iter().filter(|ns| **ns >= 40_000_000).count();
        assert!(over > 10, "{over} of 60 waited for most of a pause");
    }

    #[test]
    fn a_closed_loop_asks_each_number_once() {
        let mut client = Client::connect(serve(Duration::ZERO), Dialect::Resp, 1, 1).unwrap();
        let done = client.closed(Load::FillString, 3, Until::Count(10)).unwrap();
        assert_eq!(done.operations, 10);
    }
}
