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
use tokio::time::{Instant, Sleep};

use super::{
    Shared, classify,
    client::{Answer, Connector, Http1, Http2, Limits, Link, Phase, Pool},
    request::{Message, Prepared},
};
use crate::model::{Attempt, Delivery, Endpoint, Failure, Outcome, Text};

/// How often idle connections and endpoints are looked through, at least.
const SWEEP: Duration = Duration::from_secs(5);

/// Sends the deliveries of one thread. Not `Send`: it is made on the thread, inside of a `LocalSet`, and its clones share everything.
#[derive(Clone)]
pub struct Sender(Rc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    pool: Pool,
    connector: Connector,
    prepared: RefCell<HashMap<Text, Known, foldhash::fast::RandomState>>,
    /// Timers of attempts that have ended. One that is moved to a later time need not be put into the runtime's wheel again.
    timers: RefCell<Vec<Pin<Box<Sleep>>>>,
    /// Set once somebody looks after the idle connections.
    kept: OnceCell<()>,
}

/// A prepared endpoint and when it was last sent to.
struct Known {
    prepared: Rc<Prepared>,
    used: Cell<Instant>,
}

/// What an attempt learns on its way.
#[derive(Default)]
struct Findings {
    connecting: Duration,
    reused: bool,
    status: Option<u16>,
    answer: Bytes,
    retry_after: Option<Duration>,
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
            connector: Connector::new(Arc::clone(&shared)),
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
        let started_at = inner.shared.clock.now();
        let begun = Instant::now();
        let mut findings = Findings::default();
        let outcome = match inner.prepared(endpoint, begun) {
            Err(wrong) => Outcome::Failed(Failure::Payload(wrong)),
            Ok(prepared) => {
                let build = || prepared.message(delivery, started_at.as_second());
                let mut timer = inner.timer(begun + inner.shared.config.response_timeout);
                let sent = inner.send(&prepared, build, begun, timer.as_mut(), &mut findings).await;
                inner.timers.borrow_mut().push(timer);
                sent.unwrap_or_else(Outcome::Failed)
            }
        };
        let elapsed = begun.elapsed();
        let Findings { connecting, reused, status, answer, retry_after } = findings;
        let number = delivery.attempts + 1;
        Attempt { started_at, elapsed, connecting, number, outcome, status, answer, retry_after, reused }
    }

    /// Idle connections of this sender.
    pub fn idle_connections(&self) -> usize {
        self.0.pool.idle()
    }
}

impl Inner {
    /// The prepared form of this very version of the endpoint.
    fn prepared(&self, endpoint: &Arc<Endpoint>, now: Instant) -> Result<Rc<Prepared>, String> {
        if let Some(known) = self.prepared.borrow().get(&endpoint.id)
            && Arc::ptr_eq(&known.prepared.endpoint, endpoint)
        {
            known.used.set(now);
            return Ok(Rc::clone(&known.prepared));
        }
        let origin = self.pool.origin(&endpoint.url)?;
        let prepared = Rc::new(Prepared::new(endpoint, origin, &self.shared.user_agent)?);
        let known = Known { prepared: Rc::clone(&prepared), used: Cell::new(now) };
        self.prepared.borrow_mut().insert(endpoint.id.clone(), known);
        Ok(prepared)
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

    async fn send(
        &self,
        prepared: &Prepared,
        build: impl Fn() -> Result<Message, String>,
        begun: Instant,
        mut timer: Pin<&mut Sleep>,
        findings: &mut Findings,
    ) -> Result<Outcome, Failure> {
        let config = &self.shared.config;
        let mut message = build().map_err(Failure::Payload)?;
        if let Some(mut link) = self.pool.take(&prepared.origin, begun) {
            match link.exchange(prepared, message, timer.as_mut(), self.shared.answer_limit).await {
                Ok(answer) => {
                    findings.reused = true;
                    return self.finish(prepared, link, answer, findings);
                }
                Err(lost) if !lost.unheard => {
                    findings.reused = true;
                    return Err(lost.failure);
                }
                // The peer closed the connection while it was idle, which says nothing about this request: once more, on a fresh one.
                Err(_) => message = build().map_err(Failure::Payload)?,
            }
        }
        let connecting = Instant::now();
        let opened = self.open(prepared, connecting, timer.as_mut()).await;
        findings.connecting = connecting.elapsed();
        let mut link = opened?;
        self.shared.metrics.connect_seconds.record(findings.connecting.as_secs_f64());
        timer.as_mut().reset(Instant::now() + config.response_timeout);
        match link.exchange(prepared, message, timer, self.shared.answer_limit).await {
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
            let (stream, http2) = self.connector.connect(&prepared.origin, &phase).await?;
            self.shared.metrics.connections_opened_total.increment(1);
            if http2 {
                Ok(self.pool.share(&prepared.origin, Http2::start(stream, now).await?))
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
        if answer.is_whole() {
            self.pool.give(&prepared.origin, link, Instant::now());
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
        self.prepared.borrow_mut().retain(|_, known| now.duration_since(known.used.get()) < config.idle_timeout);
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
