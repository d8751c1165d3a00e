//! One client's connection, from its first byte to its last.
//!
//! Owns the loop: read what arrived, execute the requests in it, let go of the replies that may leave, write them at once, wait. It
//! waits for its socket, for the gate if a request is parked or a reply is held, and for being told to close.

use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use ringmaster_engine::{Flags, Handler, ParseLimits, Parsed, ReplyBuf, RequestParser, Served, lookup};
use ringmaster_replica::Mono;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::blocked::{Blocked, Standing, UNBLOCKED_BY_CLIENT};
use super::dispatch::{self, Moment};
use super::forward;
use super::input::Input;
use super::pending::{Replies, Settled, Source};
use super::registry::{Client, Registration};
use super::session::{Again, Call, Outcome, ReplyMode, Session, copies_holding, execute_transaction};
use super::thread::Thread;
use super::wake::{Until, Waiter};

/// Requests of up to so many arguments are executed without an allocation.
const ARGS_INLINE: usize = 16;
/// How many replies may be held before no further request is executed.
const HELD_MAX: usize = 4_096;
/// How much is read ahead while requests are not executed.
const READ_AHEAD_BYTES_MAX: usize = 64 << 10;
/// After how many requests the time is read again.
const REQUESTS_A_MOMENT: u32 = 64;
/// How many turns in a row one connection takes before others have theirs.
const TURNS_MAX: u32 = 4;
/// How much later than a deadline its alarm rings: the timer and the clock that deadlines are compared with are not the same.
const ALARM_SLACK: Duration = Duration::from_millis(1);
/// How often a WAIT looks at the copies.
const WAIT_LOOK: Duration = Duration::from_millis(2);

pub(super) struct Connection {
    thread: Rc<Thread>,
    stream: TcpStream,
    registration: Registration,
    session: Session,
    input: Input,
    replies: Replies,
    front: Front,
    waiter: Rc<Waiter>,
    /// Whether it counts on the waiter to be woken.
    waits: bool,
    alarm: Option<Pin<Box<Sleep>>>,
    /// Until when the request at this offset of the input waits for data, if it has begun to.
    waits_until: Option<(u64, Option<Mono>)>,
    /// The member's role when the connection last looked.
    role_seen: u64,
    /// Since when a subscriber has had more before it than the soft limit.
    lags_since_ms: Option<u64>,
    /// Nothing more is read: the connection ends with its last reply.
    ending: bool,
    turns: u32,
}

/// How the oldest request that was not executed stands.
#[derive(Debug)]
enum Front {
    /// It has not arrived in full.
    Free,
    /// The gate or the ring must change first.
    Parked,
    /// Another member is to execute it, once all replies before it have left.
    Elsewhere,
    /// Replies must leave first.
    Full,
    /// It is WAIT.
    Awaiting { len: usize, copies: usize, until: Option<Mono> },
    /// It waits for data.
    Blocked { len: usize, wait: Box<Blocked> },
}

/// What became of a request that was to be executed again.
enum Rerun {
    Done,
    Parked,
    Elsewhere,
}

enum Event {
    /// There is something to do.
    Go,
    /// The peer has gone, or is to go.
    Gone,
}

impl Connection {
    pub(super) fn new(thread: Rc<Thread>, stream: TcpStream, registration: Registration) -> Self {
        let role_seen = thread.shared.gate.role();
        Self {
            stream,
            session: Session::new(registration.client.clone(), &thread.shared.acl),
            waiter: Waiter::new(registration.client.clone()),
            registration,
            thread,
            input: Input::new(),
            replies: Replies::new(),
            front: Front::Free,
            waits: false,
            alarm: None,
            waits_until: None,
            lags_since_ms: None,
            role_seen,
            ending: false,
            turns: 0,
        }
    }

    /// Serves the client until either side ends it.
    pub(super) async fn run(mut self) {
        while self.turn().is_continue() {
            if self.ending && self.replies.bytes() == 0 {
                break;
            }
            if matches!(self.front, Front::Elsewhere) && self.replies.bytes() == 0 {
                return self.forward().await;
            }
            if self.turns >= TURNS_MAX {
                self.turns = 0;
                tokio::task::yield_now().await;
            }
            if !self.replies.writable().is_empty() {
                let_others_execute().await;
            }
            match std::future::poll_fn(|cx| self.poll_event(cx)).await {
                Event::Go => self.turns = self.turns.saturating_add(1),
                Event::Gone => break,
            }
        }
        self.waiter.stop();
    }

    /// Has another member execute the rest. What its client has agreed on here may keep it from that: then it has to connect again.
    async fn forward(self) {
        let Self { thread, stream, registration, session, input, mut replies, waiter, .. } = self;
        waiter.stop();
        registration.client.blocked.store(false, Ordering::Relaxed);
        let limits = limits(&thread, &session);
        let carried = session.carry(replies.buf().protocol());
        drop((session, replies));
        if let Some(carried) = carried {
            forward::run(forward::Parts { thread, stream, registration, input, limits, carried }).await;
        }
    }

    fn client(&self) -> &Client {
        &self.registration.client
    }

    /// Does all that can be done without waiting. Breaks if the connection must be closed as it is.
    fn turn(&mut self) -> ControlFlow<()> {
        loop {
            // Before it is looked at: who pokes after this is looked at next time.
            if self.client().take_poke() {
                self.take_mail();
            }
            let moment = Moment::read();
            self.settle(moment)?;
            self.execute(moment);
            // The time is read anew: a lease may have run out during the execution.
            let settled = self.settle(moment.later())?;
            self.input.forget(self.replies.input_kept_from());
            self.check_sizes()?;
            if !self.prepare_to_wait(settled) {
                return ControlFlow::Continue(());
            }
        }
    }

    /// Takes over what others have for this connection.
    fn take_mail(&mut self) {
        let Self { thread, session, replies, .. } = self;
        let mark = replies.mark();
        session.client.mail.take(replies.buf());
        if session.is_tracked() {
            let role = thread.shared.gate.role();
            if std::mem::replace(&mut self.role_seen, role) != role {
                session.forget_tracked(&thread.shared);
                session.client.mail.take(replies.buf());
            }
        }
        if session.is_subscribed() {
            if !session.may_keep_subscriptions(&thread.shared.acl) {
                session.client.ask_to_close();
            }
            self.ending |= session.review_subscriptions(thread, replies.buf());
        }
        if replies.mark() > mark {
            replies.hold_for_order(mark);
        }
    }

    /// Lets go of replies, and executes again what must be. Breaks if a reply can never be given.
    fn settle(&mut self, moment: Moment) -> ControlFlow<(), Settled> {
        loop {
            let settled = self.replies.settle(&self.thread.shared.gate, moment.now);
            match settled {
                Settled::All | Settled::Waiting(..) => return ControlFlow::Continue(settled),
                Settled::Void(ref source) => match self.execute_again(source, moment) {
                    Rerun::Done => continue,
                    Rerun::Parked => return ControlFlow::Continue(settled),
                    Rerun::Elsewhere => {
                        // It and what follows it can be executed there, if none of it has changed anything here.
                        if let Some(offset) = self.replies.take_back(self.session.db) {
                            self.input.rewind(offset);
                            self.front = Front::Free;
                            self.waits_until = None;
                            self.client().poke();
                            return ControlFlow::Continue(Settled::All);
                        }
                    }
                },
                Settled::Unanswerable => {}
            }
            self.thread.counters.unanswerable().add(1);
            return ControlFlow::Break(());
        }
    }

    /// Executes the requests that have arrived, until one must wait.
    fn execute(&mut self, mut moment: Moment) {
        if let Front::Awaiting { len, copies, until } = self.front
            && !self.finish_wait(len, copies, until, moment.now)
        {
            return;
        }
        if let Front::Blocked { wait, .. } = &self.front {
            let standing = wait.look(moment.now);
            if !self.end_block(standing, moment) {
                return;
            }
        }
        let was_parked = matches!(self.front, Front::Parked);
        self.front = Front::Free;
        self.alarm = None;
        let mut requests = 0;
        while !self.ending {
            if self.replies.bytes() >= self.thread.config.reply_backlog_bytes_max || self.replies.held() >= HELD_MAX {
                self.front = Front::Full;
                return;
            }
            if self.input.look_ahead(&limits(&self.thread, &self.session)) {
                let (engine, db) = (&self.thread.shared.engine, self.session.db);
                self.input.locate_ahead(|key| engine.locate(db, key));
                engine.prefetch(self.input.located_ahead());
            }
            match self.input.request() {
                Ok(None) => return,
                Ok(Some(len)) => {
                    if !self.execute_one(len, moment) {
                        let newly_parked = matches!(self.front, Front::Parked) && !(was_parked && requests == 0);
                        self.thread.counters.parked().add(newly_parked.into());
                        return;
                    }
                }
                Err(error) => {
                    self.thread.counters.protocol_errors().add(1);
                    let mark = self.replies.mark();
                    self.replies.buf().error(&format!("ERR {error}"));
                    self.replies.hold_for_order(mark);
                    self.ending = true;
                }
            }
            requests += 1;
            if requests % REQUESTS_A_MOMENT == 0 {
                moment = Moment::read();
            }
        }
    }

    /// Executes the request at the front of the input, of so many bytes. Says whether the next one may follow.
    fn execute_one(&mut self, len: usize, moment: Moment) -> bool {
        let Self { thread, session, input, replies, waits_until, .. } = self;
        if let Some((offset, until)) = *waits_until {
            // It has waited before, and was parked since.
            session.may_wait = offset != input.offset() || until.is_none_or(|until| moment.now < until);
        }
        let mark = replies.mark();
        let (mode, db) = (session.reply_mode, session.db);
        let located = input.located();
        let outcome = with_args(input.args(), |args| match args {
            [] => None,
            args => Some(dispatch::request(thread, session, (args, located), moment, replies.buf())),
        });
        let Some(outcome) = outcome else {
            // An empty line: people press return.
            input.consume(len);
            return true;
        };
        let waits = matches!(outcome, Outcome::Parked | Outcome::Awaiting { .. } | Outcome::Blocked(_));
        let is_over = !waits && !matches!(outcome, Outcome::Forward);
        let silent = is_over && is_silent(mode, session);
        self.ending |= matches!(outcome, Outcome::Last);
        match outcome {
            Outcome::Parked => {
                let paused_until_ms = std::mem::take(&mut session.paused_until_ms);
                if paused_until_ms > 0 {
                    let rest_ms = paused_until_ms.saturating_sub(thread.shared.ms_of(moment.now));
                    let rest = Duration::from_millis(rest_ms).saturating_add(ALARM_SLACK);
                    self.alarm = Some(Box::pin(tokio::time::sleep(rest)));
                }
                self.front = Front::Parked;
                return false;
            }
            Outcome::Forward => {
                self.front = Front::Elsewhere;
                return false;
            }
            Outcome::Awaiting { copies, until } => {
                self.front = Front::Awaiting { len, copies, until };
                return self.finish_wait(len, copies, until, moment.now);
            }
            Outcome::Blocked(Some(mut wait)) => {
                let offset = input.offset();
                match *waits_until {
                    // It goes on waiting for as long as it would have.
                    Some((began, until)) if began == offset => wait.deadline = until,
                    _ => *waits_until = Some((offset, wait.deadline)),
                }
                self.alarm = wait.deadline.map(|deadline| alarm_at(deadline, moment.now));
                self.front = Front::Blocked { len, wait };
                return false;
            }
            Outcome::Blocked(None) => {}
            Outcome::Replied | Outcome::Gated { .. } | Outcome::Last if silent => {
                replies.buf().truncate(mark);
            }
            Outcome::Replied | Outcome::Last => replies.hold_for_order(mark),
            Outcome::Gated { ticket, after, again } => {
                let source = again.map(|again| match again {
                    Again::Request => Source::Request { offset: input.offset(), db },
                    Again::Transaction(transaction) => Source::Transaction { transaction, db },
                });
                replies.hold_for_gate(mark, ticket, after, source);
            }
        }
        self.input.consume(len);
        true
    }

    /// Does what the end of a wait for data demands. Says whether the next request may be executed, which may be this one again.
    fn end_block(&mut self, standing: Standing, moment: Moment) -> bool {
        let Front::Blocked { len, wait } = std::mem::replace(&mut self.front, Front::Free) else { return true };
        let is_over = matches!(standing, Standing::Unblocked | Standing::Elsewhere | Standing::Served(_));
        let silent = is_over && is_silent(self.session.reply_mode, &mut self.session);
        let mark = self.replies.mark();
        match standing {
            Standing::Waits => {
                if self.alarm.is_none() {
                    self.alarm = wait.deadline.map(|deadline| alarm_at(deadline, moment.now));
                }
                self.front = Front::Blocked { len, wait };
                return false;
            }
            Standing::Again => return true,
            Standing::TimeOver => {
                // Asked once more, now without a wait: it may find something after all, and its reply waits for what it saw.
                self.waits_until = Some((self.input.offset(), Some(moment.now)));
                return true;
            }
            Standing::Unblocked => self.replies.buf().error(UNBLOCKED_BY_CLIENT),
            Standing::Elsewhere => match wait.redirect(&self.thread, self.replies.buf()) {
                Outcome::Parked => return true,
                Outcome::Last => self.ending = true,
                _ => {}
            },
            Standing::Served(Served { reply, after, wrote }) => {
                self.replies.buf().raw(if silent { &[] } else { &reply });
                let ticket = wait.ticket.wrote(wrote);
                let source = (!wrote).then(|| Source::Request { offset: self.input.offset(), db: self.session.db });
                self.replies.hold_for_gate(mark, ticket, after, source);
                if wrote {
                    self.session.wrote = after;
                }
                self.waits_until = None;
                self.input.consume(len);
                return true;
            }
        }
        if silent {
            self.replies.buf().truncate(mark);
        }
        self.replies.hold_for_order(mark);
        self.waits_until = None;
        self.input.consume(len);
        true
    }

    /// Replies to a WAIT, if enough copies hold what this connection wrote or its time is over. Otherwise looks again soon.
    fn finish_wait(&mut self, len: usize, copies: usize, until: Option<Mono>, now: Mono) -> bool {
        let holding = copies_holding(&self.thread, self.session.wrote);
        if holding < copies && until.is_none_or(|until| now < until) {
            let rest = until.map_or(WAIT_LOOK, |until| until.since(now).min(WAIT_LOOK));
            self.alarm = Some(Box::pin(tokio::time::sleep(rest)));
            return false;
        }
        let mark = self.replies.mark();
        self.replies.buf().count(holding);
        self.replies.hold_for_order(mark);
        self.input.consume(len);
        self.front = Front::Free;
        true
    }

    /// Executes the source of the front reply again, and puts the new reply in its place, if it can.
    fn execute_again(&mut self, source: &Source, moment: Moment) -> Rerun {
        let Self { thread, session, input, replies, .. } = self;
        let mut reply = ReplyBuf::new(replies.buf().protocol());
        let (Source::Request { db, .. } | Source::Transaction { db, .. }) = source;
        let present_db = std::mem::replace(&mut session.db, *db);
        let outcome = match source {
            Source::Request { offset, .. } => {
                let bytes = input.kept_from(*offset).unwrap_or_default();
                request_again(thread, session, bytes, moment, &mut reply)
            }
            Source::Transaction { transaction, .. } => {
                Some(execute_transaction(thread, session, transaction, false, moment, &mut reply))
            }
        };
        session.db = present_db;
        match outcome {
            Some(Outcome::Parked) => return Rerun::Parked,
            Some(Outcome::Forward) => return Rerun::Elsewhere,
            Some(Outcome::Gated { ticket, after, .. }) => {
                replies.replace_front(reply.as_bytes(), Some((ticket, after)))
            }
            Some(Outcome::Replied) => replies.replace_front(reply.as_bytes(), None),
            // It was executed before, so it parses, and it is about data.
            Some(Outcome::Last | Outcome::Awaiting { .. } | Outcome::Blocked(_)) | None => {
                tracing::error!("a request that was executed cannot be executed again");
                replies.replace_front(b"-ERR the request could not be executed again\r\n", None);
            }
        }
        thread.counters.rerun().add(1);
        Rerun::Done
    }

    /// Breaks if the client holds more of the member's memory than it may.
    fn check_sizes(&mut self) -> ControlFlow<()> {
        let config = &self.thread.config;
        let (query_bytes, reply_bytes) = (self.input.bytes(), self.replies.bytes());
        self.client().show_bytes(query_bytes, reply_bytes);
        if self.input.unparsed() > config.query_buffer_bytes_max {
            self.thread.counters.protocol_errors().add(1);
            return ControlFlow::Break(());
        }
        let soft_limit = config.subscriber_backlog_soft_bytes_max;
        let lags = reply_bytes > soft_limit.min(config.subscriber_backlog_bytes_max) && self.session.is_subscribed();
        let output_max = config.output_buffer_bytes_max;
        if !lags {
            self.lags_since_ms = None;
        }
        if reply_bytes > output_max || lags && self.lags_too_far(reply_bytes) {
            self.thread.counters.slow_readers().add(1);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// Whether a subscriber with so many bytes before it is to be closed.
    fn lags_too_far(&mut self, reply_bytes: usize) -> bool {
        let config = &self.thread.config;
        let now_ms = self.thread.shared.now_ms();
        let since = *self.lags_since_ms.get_or_insert(now_ms);
        reply_bytes > config.subscriber_backlog_bytes_max
            || now_ms.saturating_sub(since) > config.subscriber_backlog_soft_s.saturating_mul(1_000)
    }

    /// Says what is waited for to whoever watches the gate. If nobody was told before, the gate may have changed just now: then all
    /// must be looked at once more, and this says so.
    fn prepare_to_wait(&mut self, settled: Settled) -> bool {
        let parked = matches!(self.front, Front::Parked | Front::Elsewhere);
        let until = match settled {
            Settled::Void(_) => Until::Changed,
            _ if parked => Until::Changed,
            Settled::Waiting(ticket, after) => Until::Answered(ticket, after),
            Settled::All | Settled::Unanswerable => {
                self.waits = false;
                self.waiter.stop();
                let waits = matches!(self.front, Front::Awaiting { .. } | Front::Blocked { .. });
                self.client().blocked.store(waits, Ordering::Relaxed);
                return false;
            }
        };
        let told_before = self.waits && self.waiter.is_waiting();
        self.thread.waiters.wait(&self.waiter, until);
        self.client().blocked.store(true, Ordering::Relaxed);
        self.waits = true;
        !told_before
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        self.client().register(cx.waker());
        if self.client().is_to_close() {
            return Poll::Ready(Event::Gone);
        }
        match self.poll_write(cx) {
            Err(_) => return Poll::Ready(Event::Gone),
            Ok(wrote) if wrote && (self.ending || matches!(self.front, Front::Full | Front::Elsewhere)) => {
                return Poll::Ready(Event::Go);
            }
            Ok(_) => {}
        }
        if self.client().is_poked() || self.waits && !self.waiter.is_waiting() {
            return Poll::Ready(Event::Go);
        }
        if self.may_read() {
            let read = pin!(self.stream.read_buf(self.input.room()));
            match read.poll(cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Event::Gone),
                Poll::Ready(Ok(count)) => {
                    self.input.note_read(count);
                    self.thread.counters.bytes_read().add(count as u64);
                    return Poll::Ready(Event::Go);
                }
                Poll::Pending => {}
            }
        }
        if let Some(alarm) = &mut self.alarm
            && alarm.as_mut().poll(cx).is_ready()
        {
            self.alarm = None;
            return Poll::Ready(Event::Go);
        }
        self.turns = 0;
        Poll::Pending
    }

    /// Whether more input may be taken. While requests are not executed only a little is, enough to notice that the peer has gone.
    fn may_read(&self) -> bool {
        let executes = matches!(self.front, Front::Free);
        !self.ending && (executes || self.input.unparsed() < READ_AHEAD_BYTES_MAX)
    }

    /// Writes what may leave, as far as the socket takes it. Says whether it took anything.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> std::io::Result<bool> {
        let mut wrote = false;
        while !self.replies.writable().is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, self.replies.writable()) {
                Poll::Ready(Ok(0)) => return Err(std::io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => {
                    self.replies.advance(count);
                    self.thread.counters.bytes_written().add(count as u64);
                    self.client().note_write();
                    wrote = true;
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    self.client().note_stall(self.thread.shared.now_ms());
                    break;
                }
            }
        }
        Ok(wrote)
    }
}

/// Lets the other connections that have something to do have their turns. Replies of all of them then leave one right after another: a peer
/// on the same machine that reads several is woken for the first of them, and that costs as much as the request did.
async fn let_others_execute() {
    let mut is_first = true;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut is_first, false) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}

fn alarm_at(deadline: Mono, now: Mono) -> Pin<Box<Sleep>> {
    Box::pin(tokio::time::sleep(deadline.since(now).saturating_add(ALARM_SLACK)))
}

/// Executes the command on data with which these bytes begin. None if they begin with something else.
fn request_again(
    thread: &Thread,
    session: &mut Session,
    bytes: &[u8],
    moment: Moment,
    reply: &mut ReplyBuf,
) -> Option<Outcome> {
    let mut parser = RequestParser::new();
    let Ok(Parsed::Complete { .. }) = parser.advance(bytes, &limits(thread, session)) else { return None };
    // Requests behind it have been executed: it can only say what there is now.
    let may_wait = std::mem::replace(&mut session.may_wait, false);
    session.is_rerun = true;
    let outcome = with_args(parser.args(bytes), |args| {
        let spec = args.first().and_then(|name| lookup(name))?;
        match spec.handler {
            Handler::Data(_) => Some(dispatch::data(thread, session, spec, (args, None), moment, reply)),
            Handler::Session(command) if spec.flags.has(Flags::SCRIPT) => {
                let Moment { now, wall } = moment;
                Some(Call { thread, session: &mut *session, spec, args, now, wall }.run(command, reply))
            }
            Handler::Session(_) => None,
        }
    });
    session.may_wait = may_wait;
    session.is_rerun = false;
    outcome
}

fn limits(thread: &Thread, session: &Session) -> ParseLimits {
    let limits = ParseLimits { bulk_bytes_max: thread.config.argument_bytes_max, ..ParseLimits::AUTHENTICATED };
    if session.has_authenticated() { limits } else { limits.unauthenticated() }
}

/// Whether the reply to a request is not wanted (CLIENT REPLY), given the mode before it.
fn is_silent(before: ReplyMode, session: &mut Session) -> bool {
    match (before, session.reply_mode) {
        (_, ReplyMode::SkipNext) => {
            session.reply_mode = ReplyMode::Skip;
            true
        }
        (ReplyMode::Skip, ReplyMode::Skip) => {
            session.reply_mode = ReplyMode::On;
            true
        }
        (_, ReplyMode::Off) => true,
        _ => false,
    }
}

/// Gives the arguments as a slice, from the stack if they are few.
fn with_args<'a, T>(args: impl ExactSizeIterator<Item = &'a [u8]>, use_them: impl FnOnce(&[&[u8]]) -> T) -> T {
    let count = args.len();
    if count > ARGS_INLINE {
        return use_them(&args.collect::<Vec<_>>());
    }
    let mut few: [&[u8]; ARGS_INLINE] = [&[]; ARGS_INLINE];
    few.iter_mut().zip(args).for_each(|(place, arg)| *place = arg);
    use_them(few.get(..count).unwrap_or_default())
}
