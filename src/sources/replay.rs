//! Replay: events of the past, once more, for one endpoint.
//!
//! The source topics are read without a group from a time or from positions to where their ends were at the start. What the endpoint wants is
//! appended as a delivery to the first events topic, with the coordinates that the event had, so it takes the same way as
//! everything else and no other endpoint sees it. A replay goes at a pace of its own ([`Config::rate`]), because its
//! deliveries stand in the same topic as live events.
//!
//! A replay lives in memory: a restart ends it. What it had appended stays, the rest is asked for again; receivers de-duplicate by the event's id.

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    log::{
        Append, From, Log, LogError, Reader, Record,
        record::{decode_event, encode_delivery, is_delivery, is_tombstone},
    },
    model::{Clock, Delivery, Event, Position, Purpose, Rate, Text, Timestamp, TopicPartition, time::timestamp_from_ms},
    telemetry::Trouble,
};

/// `[replay]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Deliveries that one replay appends at most.
    pub rate: Rate,
    /// Replays that may run at once; another one is refused.
    pub at_once: usize,
    /// Replays whose outcome is remembered.
    pub keep: usize,
}

impl Config {
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if !(1..=64).contains(&self.at_once) {
            problems.push(("at_once", format!("is {}: 1 to 64 are possible, each is a thread", self.at_once)));
        }
        if !(self.at_once..=100_000).contains(&self.keep) {
            problems.push(("keep", format!("is {}: `replay.at_once` ({}) to 100000 are possible", self.keep, self.at_once)));
        }
        problems
    }
}

impl Default for Config {
    fn default() -> Config {
        Config { rate: "2000/s".parse().expect("it is a rate"), at_once: 4, keep: 100 }
    }
}

/// Whether the endpoint wants the event that lies at this position: its filter, and nothing that reaches it on another way.
pub type Wants = Box<dyn FnMut(&Event, &Position) -> bool + Send>;

/// The ids of the events that the endpoint got already, of those that the log took at this time or later.
pub type Got = Box<dyn FnMut(Timestamp) -> Result<HashSet<Text>, LogError> + Send>;

/// What is to be sent again, and to whom.
pub struct Request {
    pub endpoint: Text,
    /// Offset of the registry at which the endpoint is as the caller sees it.
    pub registry_offset: i64,
    /// For whoever lists replays.
    pub tenant: Text,
    pub span: Span,
    pub wants: Wants,
    /// None: what it got is sent again.
    pub missed: Option<Missed>,
}

/// Whether everything below these positions is settled.
pub type IsSettled = Box<dyn FnMut(&[Position]) -> bool + Send>;

/// How to tell what the endpoint missed from what it got, where it was served before the span and is served again now.
pub struct Missed {
    /// Whether the group has settled everything below these positions. What was read when the endpoint was served again may be on its way.
    pub is_settled: IsSettled,
    pub got: Got,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Span {
    /// What the log took from `since` on, and before `until` if that is given.
    Time { topics: Vec<Arc<str>>, since: Timestamp, until: Option<Timestamp> },
    /// From these offsets on.
    Positions(Vec<Position>),
}

/// How long an instance may need to learn that an endpoint is served again.
const APPLIED: Duration = Duration::from_secs(1);

/// How far a replay is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub id: Text,
    pub endpoint: Text,
    pub tenant: Text,
    pub started_at: Timestamp,
    pub state: State,
    /// Records read.
    pub read: u64,
    /// Deliveries that are durably appended.
    pub sent: u64,
    /// Events that could not be appended, because they are too large with their headers.
    pub skipped: u64,
    /// Offsets still to be read, at most.
    pub remaining: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Running,
    Done,
    Cancelled,
    /// The text names the thing and the cure.
    Failed(String),
}

/// As many replays run as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} replays are running already (`replay.at_once`): wait for one to end, or cancel it")]
pub struct TooMany(pub usize);

/// Runs replays. When it is dropped they are cancelled.
pub struct Replays {
    log: Arc<dyn Log>,
    topic: Arc<str>,
    runtime: tokio::runtime::Handle,
    config: Config,
    clock: Arc<dyn Clock>,
    next: AtomicU64,
    list: Mutex<VecDeque<Entry>>,
}

struct Entry {
    progress: Arc<Mutex<Progress>>,
    cancel: mpsc::SyncSender<()>,
}

impl Replays {
    /// Appends to `topic`, the first of `topics.events`. Appends are waited for on `runtime`, which must have threads of its own.
    pub fn new(log: Arc<dyn Log>, topic: Arc<str>, runtime: tokio::runtime::Handle, config: Config, clock: Arc<dyn Clock>) -> Replays {
        Replays { log, topic, runtime, config, clock, next: AtomicU64::new(1), list: Mutex::default() }
    }

    /// Starts a replay in the background.
    pub fn start(&self, request: Request) -> Result<Progress, TooMany> {
        let mut list = self.lock();
        let is_running = |entry: &Entry| entry.snapshot().state == State::Running;
        let running = list.iter().filter(|entry| is_running(entry)).count();
        if running >= self.config.at_once {
            return Err(TooMany(running));
        }
        while list.len() >= self.config.keep {
            let Some(oldest) = list.iter().position(|entry| !is_running(entry)) else { break };
            list.remove(oldest);
        }
        let started_at = self.clock.now();
        let id = format!("rp_{:x}_{}", started_at.as_millisecond(), self.next.fetch_add(1, Ordering::Relaxed));
        let progress = Progress {
            id: id.into(),
            endpoint: request.endpoint.clone(),
            tenant: request.tenant.clone(),
            started_at,
            state: State::Running,
            read: 0,
            sent: 0,
            skipped: 0,
            remaining: 0,
        };
        let shared = Arc::new(Mutex::new(progress.clone()));
        let (cancel, cancelled) = mpsc::sync_channel(1);
        let run = Run {
            log: Arc::clone(&self.log),
            topic: Arc::clone(&self.topic),
            runtime: self.runtime.clone(),
            rate: self.config.rate.per_second(),
            clock: Arc::clone(&self.clock),
            request,
            got: HashSet::new(),
            got_since: i64::MAX,
            progress: Arc::clone(&shared),
            cancelled,
            trouble: Trouble::default(),
        };
        list.push_back(Entry { progress: Arc::clone(&shared), cancel });
        drop(list);
        if let Err(error) = std::thread::Builder::new().name("replay".into()).spawn(move || run.run()) {
            let mut progress = shared.lock().expect("nothing panics while it holds this lock");
            progress.state = State::Failed(format!("no thread could be started: {error}"));
            return Ok(progress.clone());
        }
        Ok(progress)
    }

    pub fn get(&self, id: &str) -> Option<Progress> {
        self.list().into_iter().find(|progress| progress.id == id)
    }

    /// All that are remembered, the latest first.
    pub fn list(&self) -> Vec<Progress> {
        self.lock().iter().rev().map(Entry::snapshot).collect()
    }

    /// Ends a replay; what it has appended stays. False if there is none of that id.
    pub fn cancel(&self, id: &str) -> bool {
        let list = self.lock();
        let Some(entry) = list.iter().find(|entry| entry.snapshot().id == id) else { return false };
        // Full: it was told already. Closed: it has ended.
        let _ = entry.cancel.try_send(());
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Entry>> {
        self.list.lock().expect("nothing panics while it holds this lock")
    }
}

impl Entry {
    fn snapshot(&self) -> Progress {
        self.progress.lock().expect("nothing panics while it holds this lock").clone()
    }
}

/// One replay, on its thread.
struct Run {
    log: Arc<dyn Log>,
    topic: Arc<str>,
    runtime: tokio::runtime::Handle,
    /// Deliveries per second.
    rate: f64,
    clock: Arc<dyn Clock>,
    request: Request,
    /// What [`Missed::got`] told, and since when, milliseconds.
    got: HashSet<Text>,
    got_since: i64,
    progress: Arc<Mutex<Progress>>,
    cancelled: mpsc::Receiver<()>,
    trouble: Trouble,
}

/// Why a replay ended before its end.
enum Stop {
    Cancelled,
    Failed(String),
}

impl std::convert::From<LogError> for Stop {
    fn from(error: LogError) -> Stop {
        Stop::Failed(error.to_string())
    }
}

/// A partition to be read up to an offset.
struct Part {
    partition: TopicPartition,
    reader: Box<dyn Reader>,
    end: i64,
}

impl Part {
    fn end(&self) -> Position {
        Position { topic: Arc::clone(&self.partition.topic), partition: self.partition.partition, offset: self.end }
    }

    fn remaining(&self) -> u64 {
        (self.end - self.reader.next()).max(0).unsigned_abs()
    }
}

impl Run {
    fn run(mut self) {
        let state = match self.replay() {
            Ok(()) => State::Done,
            Err(Stop::Cancelled) => State::Cancelled,
            Err(Stop::Failed(reason)) => State::Failed(reason),
        };
        let mut progress = self.progress.lock().expect("nothing panics while it holds this lock");
        tracing::info!(replay = %progress.id, endpoint = %progress.endpoint, ?state, read = progress.read, sent = progress.sent, "replay ended");
        progress.state = state;
    }

    fn replay(&mut self) -> Result<(), Stop> {
        if self.request.missed.is_some() {
            // Instances that are a moment behind the registry let events pass until then.
            self.pause(APPLIED)?;
        }
        let mut parts = self.parts()?;
        self.wait_until_settled(&parts)?;
        self.note(|progress| progress.remaining = parts.iter().map(Part::remaining).sum());
        for index in 0..parts.len() {
            while parts[index].remaining() > 0 {
                let part = &mut parts[index];
                let records = self.read(part)?;
                let read = records.len() as u64;
                if let Some(first) = records.first() {
                    self.learn_what_it_got(first.appended_ms);
                }
                let appends: Vec<Append> = records.iter().filter_map(|record| self.delivery(record)).collect();
                self.append(appends)?;
                let remaining = parts.iter().map(Part::remaining).sum();
                self.note(|progress| {
                    progress.read += read;
                    progress.remaining = remaining;
                });
            }
        }
        Ok(())
    }

    /// Until what was on its way when the endpoint was served again has arrived, and is journalled. Not for ever: better twice than never.
    fn wait_until_settled(&mut self, parts: &[Part]) -> Result<(), Stop> {
        const LIMIT: Duration = Duration::from_secs(60);
        const LOOK: Duration = Duration::from_millis(200);
        const JOURNALLED: Duration = Duration::from_millis(500);
        let ends: Vec<Position> = parts.iter().map(Part::end).collect();
        let begin = Instant::now();
        while let Some(missed) = self.request.missed.as_mut()
            && !(missed.is_settled)(&ends)
            && begin.elapsed() < LIMIT
        {
            self.pause(LOOK)?;
        }
        if self.request.missed.is_some() { self.pause(JOURNALLED) } else { Ok(()) }
    }

    fn parts(&self) -> Result<Vec<Part>, Stop> {
        let mut starts = Vec::new();
        match &self.request.span {
            Span::Positions(positions) => starts.extend(positions.iter().map(|at| (at.topic_partition(), From::Offset(at.offset)))),
            Span::Time { topics, since, .. } => {
                for topic in topics {
                    let partitions = self.log.partitions(topic)?;
                    starts.extend(
                        partitions
                            .into_iter()
                            .map(|partition| (TopicPartition { topic: Arc::clone(topic), partition }, From::Time(*since))),
                    );
                }
            }
        }
        let open = |(partition, from)| {
            let mut reader = self.log.reader(TopicPartition::clone(&partition), from)?;
            let end = reader.end()?;
            Ok(Part { partition, reader, end })
        };
        starts.into_iter().map(open).collect()
    }

    /// The next records of a part, none of them at or behind its end.
    fn read(&self, part: &mut Part) -> Result<Vec<Record>, Stop> {
        const WAIT: Duration = Duration::from_millis(500);
        const BATCH: usize = 256;
        self.pause(Duration::ZERO)?;
        match part.reader.poll(WAIT, BATCH) {
            Ok(mut records) => {
                records.retain(|record| record.position.offset < part.end);
                Ok(records)
            }
            Err(error) if error.is_fatal() => Err(error.into()),
            Err(error) => {
                if self.trouble.begins(Instant::now()) {
                    tracing::warn!(%error, "a replay cannot read on now; trying on");
                }
                self.pause(WAIT)?;
                Ok(Vec::new())
            }
        }
    }

    /// Asks once for each partition that begins earlier than those before it.
    fn learn_what_it_got(&mut self, since_ms: i64) {
        let Some(missed) = self.request.missed.as_mut().filter(|_| since_ms < self.got_since) else { return };
        match (missed.got)(timestamp_from_ms(since_ms)) {
            Ok(got) => (self.got, self.got_since) = (got, since_ms),
            // Better twice than not at all.
            Err(error) => {
                tracing::warn!(%error, endpoint = %self.request.endpoint, "what it got already is not known: it may get some of it again")
            }
        }
    }

    fn delivery(&mut self, record: &Record) -> Option<Append> {
        if is_tombstone(record) || is_delivery(record) {
            return None;
        }
        if let Span::Time { until: Some(until), .. } = &self.request.span
            && record.appended_ms >= until.as_millisecond()
        {
            return None;
        }
        let event = decode_event(record).ok()?;
        if self.got.contains(&event.id) || !(self.request.wants)(&event, &record.position) {
            return None;
        }
        let delivery = Delivery {
            event: Arc::new(event),
            endpoint: self.request.endpoint.clone(),
            origin: record.position.clone(),
            attempts: 0,
            // Its age begins anew: what is replayed may be older than `retry.max_age`.
            accepted_at: self.clock.now(),
            due_at: None,
            registry_offset: self.request.registry_offset,
            purpose: Purpose::Replay,
            reason: None,
        };
        Some(encode_delivery(&delivery).to(Arc::clone(&self.topic)))
    }

    /// Appends until all are durable, at the pace of the replay.
    fn append(&self, mut appends: Vec<Append>) -> Result<(), Stop> {
        const LONGEST: Duration = Duration::from_secs(5);
        let mut backoff = Duration::from_millis(100);
        let begin = Instant::now();
        let pace = Duration::from_secs_f64(appends.len() as f64 / self.rate);
        while !appends.is_empty() {
            let results = self.runtime.block_on(self.log.append(appends.clone()));
            let (mut sent, mut skipped, mut failed) = (0, 0, Vec::new());
            for (append, result) in appends.into_iter().zip(results) {
                match result {
                    Ok(_) => sent += 1,
                    Err(LogError::TooLarge { .. }) => skipped += 1,
                    Err(LogError::Unavailable(_)) => failed.push(append),
                    Err(LogError::Fatal(reason)) => return Err(Stop::Failed(reason)),
                }
            }
            self.note(|progress| {
                progress.sent += sent;
                progress.skipped += skipped;
            });
            if !failed.is_empty() {
                self.pause(backoff)?;
                backoff = (backoff * 2).min(LONGEST);
            }
            appends = failed;
        }
        self.pause(pace.saturating_sub(begin.elapsed()))
    }

    /// Waits, unless it is cancelled meanwhile.
    fn pause(&self, time: Duration) -> Result<(), Stop> {
        match self.cancelled.recv_timeout(time) {
            Err(mpsc::RecvTimeoutError::Timeout) => Ok(()),
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => Err(Stop::Cancelled),
        }
    }

    fn note(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock().expect("nothing panics while it holds this lock"));
    }
}
