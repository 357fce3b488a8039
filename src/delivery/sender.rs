//! The sender of one thread: prepared endpoints, connections, and the attempt.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
    pin::Pin,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    task::yield_now,
    time::{Instant, Sleep},
};

use super::{
    Shared, classify,
    client::{Answer, Connector, Http1, Http2, Limits, Link, Phase, Pool},
    oauth::Tokens,
    request::{Message, Prepared},
};
use crate::model::{Attempt, Auth, Delivery, Endpoint, Failure, Outcome, Text};

/// How often idle connections and endpoints are looked through, at least.
const SWEEP: Duration = Duration::from_secs(5);

/// Sends the deliveries of one thread. Not `Send`: it is made on the thread, inside of a `LocalSet`, and its clones share everything.
#[derive(Clone)]
pub struct Sender(Rc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    pool: Pool,
    connector: Rc<Connector>,
    /// Of endpoints that want access tokens.
    tokens: RefCell<HashMap<Text, Rc<Tokens>, foldhash::fast::RandomState>>,
    prepared: RefCell<HashMap<Text, Known, foldhash::fast::RandomState>>,
    /// Timers of attempts that have ended. One that is moved to a later time need not be put into the runtime's wheel again.
    timers: RefCell<Vec<Pin<Box<Sleep>>>>,
    /// Set once somebody looks after the idle connections.
    kept: OnceCell<()>,
}

/// A prepared endpoint and when it was last sent to, as far as anybody has looked.
struct Known {
    prepared: Rc<Prepared>,
    is_used: Cell<bool>,
    used: Instant,
}

/// What an attempt begins with.
enum First {
    Request(Message),
    /// The request is built when the token is there.
    Token(Rc<Tokens>),
}

/// What an attempt learns on its way.
#[derive(Default)]
struct Findings {
    connecting: Duration,
    reused: bool,
    status: Option<u16>,
    answer: Bytes,
    retry_after: Option<Duration>,
    /// When a whole answer was there.
    ended: Option<Instant>,
}

impl Sender {
    pub fn new(shared: Arc<Shared>) -> Sender {
        let config = &shared.config;
        let limits = Limits {
            idle_per_origin: config.idle_per_origin,
            idle: config.idle_connections,
            idle_timeout: config.idle_timeout,
            age: config.connection_age,
        };
        Sender(Rc::new(Inner {
            pool: Pool::new(limits),
            connector: Rc::new(Connector::new(Arc::clone(&shared))),
            tokens: RefCell::default(),
            prepared: RefCell::default(),
            timers: RefCell::default(),
            kept: OnceCell::new(),
            shared,
        }))
    }

    /// One attempt of `delivery`, at most `connect_timeout` and `response_timeout` long (and once more, when a pooled connection turns out to
    /// have been closed). Dropping the future closes the connection that it used. Must run inside of a `LocalSet`.
    pub async fn attempt(&self, delivery: &Delivery, endpoint: &Arc<Endpoint>) -> Attempt {
        let inner = &*self.0;
        self.0.kept.get_or_init(|| keep(&self.0));
        let signed_at = inner.shared.clock.now().as_second();
        let mut findings = Findings::default();
        let ready = inner.prepared(endpoint).and_then(|prepared| {
            let first = match &prepared.tokens {
                None => First::Request(prepared.message(delivery, signed_at)?),
                Some(tokens) => First::Token(Rc::clone(tokens)),
            };
            Ok((prepared, first))
        });
        // All requests that are to be made now are built before the first of them is written: each step stays in the caches, and a receiver gets
        // several requests for one wake-up.
        yield_now().await;
        let (started_at, begun) = (inner.shared.clock.now(), Instant::now());
        let outcome = match ready {
            Err(wrong) => Outcome::Failed(Failure::Payload(wrong)),
            Ok((prepared, first)) => {
                let mut timer = inner.timer(begun + inner.shared.config.response_timeout);
                let sent = match first {
                    First::Request(message) => {
                        let again = || prepared.message(delivery, started_at.as_second());
                        inner.send(&prepared, message, again, begun, timer.as_mut(), &mut findings).await
                    }
                    // In a box, so that the others do not carry its state.
                    First::Token(tokens) => {
                        Box::pin(inner.send_authorized(&prepared, &tokens, delivery, timer.as_mut(), &mut findings)).await
                    }
                };
                inner.timers.borrow_mut().push(timer);
                sent.unwrap_or_else(Outcome::Failed)
            }
        };
        let ended = findings.ended.unwrap_or_else(Instant::now);
        let elapsed = ended.saturating_duration_since(begun);
        let Findings { connecting, reused, status, answer, retry_after, .. } = findings;
        let number = delivery.attempts + 1;
        Attempt { started_at, elapsed, ended, connecting, number, outcome, status, answer, retry_after, reused }
    }

    /// Idle connections of this sender.
    pub fn idle_connections(&self) -> usize {
        self.0.pool.idle()
    }
}

impl Inner {
    /// The prepared form of this very version of the endpoint.
    fn prepared(&self, endpoint: &Arc<Endpoint>) -> Result<Rc<Prepared>, String> {
        if let Some(known) = self.prepared.borrow().get(&endpoint.id)
            && Arc::ptr_eq(&known.prepared.endpoint, endpoint)
        {
            known.is_used.set(true);
            return Ok(Rc::clone(&known.prepared));
        }
        let origin = self.pool.origin(&endpoint.url, endpoint.tls.as_deref(), &self.shared.tls)?;
        let now = Instant::now();
        let tokens = self.tokens(endpoint, now)?;
        let prepared = Rc::new(Prepared::new(endpoint, origin, tokens, &self.shared.user_agent)?);
        let known = Known { prepared: Rc::clone(&prepared), is_used: Cell::new(false), used: now };
        self.prepared.borrow_mut().insert(endpoint.id.clone(), known);
        Ok(prepared)
    }

    /// Where the endpoint's access tokens come from: what is known of them lives on when the rest of the endpoint is changed.
    fn tokens(&self, endpoint: &Endpoint, now: Instant) -> Result<Option<Rc<Tokens>>, String> {
        let Auth::OAuth2(config) = &endpoint.auth else {
            return Ok(None);
        };
        let mut known = self.tokens.borrow_mut();
        if let Some(tokens) = known.get(&endpoint.id).filter(|tokens| tokens.is_of(config, endpoint.tls.as_ref())) {
            return Ok(Some(Rc::clone(tokens)));
        }
        let tokens = Rc::new(Tokens::new(endpoint, config, &self.shared, now)?);
        known.insert(endpoint.id.clone(), Rc::clone(&tokens));
        Ok(Some(tokens))
    }

    /// A timer that strikes at `deadline`.
    fn timer(&self, deadline: Instant) -> Pin<Box<Sleep>> {
        match self.timers.borrow_mut().pop() {
            Some(mut timer) => {
                timer.as_mut().reset(deadline);
                timer
            }
            None => Box::pin(tokio::time::sleep_until(deadline)),
        }
    }

    /// As [`Inner::send`], with an access token. One that the receiver refuses is dropped, and the request is made once more with a fresh one.
    async fn send_authorized(
        &self,
        prepared: &Prepared,
        tokens: &Rc<Tokens>,
        delivery: &Delivery,
        mut timer: Pin<&mut Sleep>,
        findings: &mut Findings,
    ) -> Result<Outcome, Failure> {
        let mut token = tokens.get(&self.shared, &self.connector).await?;
        let mut once_more = true;
        loop {
            let now = Instant::now();
            timer.as_mut().reset(now + self.shared.config.response_timeout);
            let time = self.shared.clock.now().as_second();
            let build = || prepared.message(delivery, time).map(|message| message.authorized(token.header()));
            let message = build().map_err(Failure::Payload)?;
            let outcome = self.send(prepared, message, build, now, timer.as_mut(), findings).await?;
            if outcome != Outcome::Failed(Failure::Status(401)) || !std::mem::take(&mut once_more) {
                return Ok(outcome);
            }
            tokens.refuse(&token);
            *findings = Findings::default();
            token = tokens.get(&self.shared, &self.connector).await?;
        }
    }

    /// Sends `message`; should it take another connection, what `again` makes.
    async fn send(
        &self,
        prepared: &Prepared,
        mut message: Message,
        again: impl Fn() -> Result<Message, String>,
        begun: Instant,
        mut timer: Pin<&mut Sleep>,
        findings: &mut Findings,
    ) -> Result<Outcome, Failure> {
        let config = &self.shared.config;
        if let Some(mut link) = self.pool.take(&prepared.target.origin, begun) {
            match link.exchange(&prepared.target, message, timer.as_mut(), self.shared.answer_limit).await {
                Ok(answer) => {
                    findings.reused = true;
                    return self.finish(prepared, link, answer, findings);
                }
                Err(lost) if !lost.unheard => {
                    findings.reused = true;
                    return Err(lost.failure);
                }
                // The peer closed the connection while it was idle, which says nothing about this request: once more, on a fresh one.
                Err(_) => message = again().map_err(Failure::Payload)?,
            }
        }
        let connecting = Instant::now();
        let opened = self.open(prepared, connecting, timer.as_mut()).await;
        findings.connecting = connecting.elapsed();
        let mut link = opened?;
        self.shared.metrics.connect_seconds.record(findings.connecting.as_secs_f64());
        timer.as_mut().reset(Instant::now() + config.response_timeout);
        match link.exchange(&prepared.target, message, timer, self.shared.answer_limit).await {
            Ok(answer) => self.finish(prepared, link, answer, findings),
            Err(lost) => Err(lost.failure),
        }
    }

    /// A fresh connection, within `connect_timeout`.
    async fn open(&self, prepared: &Prepared, now: Instant, mut timer: Pin<&mut Sleep>) -> Result<Link, Failure> {
        let timeout = self.shared.config.connect_timeout;
        timer.as_mut().reset(now + timeout);
        let phase = Cell::new(Phase::Resolving);
        let connect = async {
            let (stream, http2) = self.connector.connect(&prepared.target.origin, &phase).await?;
            self.shared.metrics.connections_opened_total.increment(1);
            if http2 {
                Ok(self.pool.share(&prepared.target.origin, Http2::start(stream, now).await?))
            } else {
                Http1::start(stream, now).await.map(Link::Http1)
            }
        };
        tokio::select! {
            biased;
            opened = connect => opened,
            () = timer => Err(phase.get().timed_out(timeout)),
        }
    }

    fn finish(&self, prepared: &Prepared, link: Link, answer: Answer, findings: &mut Findings) -> Result<Outcome, Failure> {
        let outcome = classify::status(answer.head.status);
        findings.status = Some(answer.head.status.as_u16());
        if outcome != Outcome::Delivered {
            findings.retry_after = classify::retry_after(&answer.head.headers, self.shared.clock.now());
        }
        let now = Instant::now();
        findings.ended = Some(now);
        if answer.is_whole() {
            self.pool.give(&prepared.target.origin, link, now);
        }
        findings.answer = answer.body;
        match (outcome, answer.broken) {
            // A status that is a failure by itself says more than how its body ended.
            (Outcome::Delivered, Some(failure)) => Err(failure),
            (outcome, _) => Ok(outcome),
        }
    }

    fn sweep(&self, now: Instant) {
        let config = &self.shared.config;
        self.prepared.borrow_mut().retain(|_, known| {
            if known.is_used.take() {
                known.used = now;
            }
            now.duration_since(known.used) < config.idle_timeout
        });
        self.tokens.borrow_mut().retain(|_, tokens| tokens.is_wanted(now));
        self.pool.sweep(now);
    }
}

/// Looks through what is idle for as long as the sender lives.
fn keep(inner: &Rc<Inner>) {
    let every = SWEEP.min(inner.shared.config.idle_timeout / 2);
    let weak: Weak<Inner> = Rc::downgrade(inner);
    tokio::task::spawn_local(async move {
        loop {
            tokio::time::sleep(every).await;
            match weak.upgrade() {
                Some(inner) => inner.sweep(Instant::now()),
                None => return,
            }
        }
    });
}
