//! The journal: what was attempted, when, and what came of it.
//!
//! Attempts are worth keeping, but not worth a record each, nor worth waiting for. A shard puts an attempt into its own buffer (one uncontended
//! lock, no allocation); a task in the background empties the buffers every [`Config::batch_wait`] or after [`Config::batch_size`] attempts, keeps
//! the latest ones of each endpoint in memory, and appends each shard's batch as one compressed record. A crash loses the last batch, and a log
//! that takes no appends loses batches (counted): never a delivery.
//!
//! What is not to be in the log is still among the latest: of an endpoint's attempts between two turns of the task only as many are kept as
//! can be shown, so that a delivery that is answered at once costs the journal next to nothing.
//!
//! # Record
//!
//! Key: the number of the shard. Headers: `posthaste-journal: 1`, `content-encoding: gzip`. Value: gzip of one JSON document per line, each
//! an [`Entry`].

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io::{BufRead, BufReader, Read, Write},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::{Buf, Bytes};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, MissedTickBehavior},
};

use super::retry::describe;
use crate::{
    log::{Append, From, Log, Record},
    model::{Attempt, Delivery, Endpoint, Event, Outcome, Purpose, Text, Timestamp, TopicPartition},
    telemetry::Metrics,
};

/// `[journal]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Which attempts are written to the log. The latest ones of each endpoint are in memory whatever this says.
    pub keep: Keep,
    #[serde(with = "humantime_serde")]
    pub batch_wait: Duration,
    /// Attempts.
    pub batch_size: usize,
    /// Latest attempts of each endpoint that are kept in memory: so many that were delivered, and so many that failed.
    pub recent: usize,
    /// Endpoints whose latest attempts are kept in memory; the one that was attempted longest ago makes room.
    pub recent_endpoints: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    All,
    #[default]
    Failures,
    None,
}

impl Default for Config {
    fn default() -> Config {
        Config { keep: Keep::Failures, batch_wait: Duration::from_millis(200), batch_size: 500, recent: 20, recent_endpoints: 5_000 }
    }
}

impl Config {
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if !(Duration::from_millis(10)..=Duration::from_secs(60)).contains(&self.batch_wait) {
            let is = humantime::format_duration(self.batch_wait);
            problems.push(("batch_wait", format!("is \"{is}\": it must be \"10ms\" to \"1m\"")));
        }
        // A record of 10,000 attempts stays below a megabyte, which every broker takes.
        for (key, value, most) in [
            ("batch_size", self.batch_size, 10_000),
            ("recent", self.recent, 1_000),
            ("recent_endpoints", self.recent_endpoints, 1_000_000),
        ] {
            if !(1..=most).contains(&value) {
                problems.push((key, format!("is {value}: it must be 1 to {most}")));
            }
        }
        problems
    }

    fn keeps(&self, outcome: &Outcome) -> bool {
        match self.keep {
            Keep::All => true,
            Keep::Failures => *outcome != Outcome::Delivered,
            Keep::None => false,
        }
    }
}

/// An attempt as the journal holds it and the API shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub at: Timestamp,
    pub endpoint: Text,
    pub tenant: Text,
    /// Id of the event.
    pub event: Text,
    #[serde(rename = "type")]
    pub kind: Text,
    pub channel: Text,
    /// 1 for the first attempt of the delivery.
    pub attempt: u32,
    /// `delivered`, or the class of the failure.
    pub outcome: Text,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    pub elapsed_ms: f64,
    #[serde(default, skip_serializing_if = "is_event")]
    pub purpose: Purpose,
    /// Of a failure: what a person wants to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

fn is_event(purpose: &Purpose) -> bool {
    *purpose == Purpose::Event
}

/// Which attempts; what is none is not asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    pub tenant: Option<Text>,
    pub endpoint: Option<Text>,
    pub channel: Option<Text>,
    pub kind: Option<Text>,
    /// At or after.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
}

impl Filter {
    fn matches(&self, entry: &Entry) -> bool {
        let is = |asked: &Option<Text>, found: &Text| asked.as_ref().is_none_or(|asked| asked == found);
        is(&self.tenant, &entry.tenant)
            && is(&self.endpoint, &entry.endpoint)
            && is(&self.channel, &entry.channel)
            && is(&self.kind, &entry.kind)
            && self.since.is_none_or(|since| entry.at >= since)
            && self.until.is_none_or(|until| entry.at < until)
    }
}

/// Ids that a recovery keeps to leave out what the endpoint got: about 100 MB. Beyond that it repeats rather than grows.
const DELIVERED_LIMIT: usize = 1_000_000;

/// The ids of the events that the endpoint got, by what was journalled from `since` to `until`; at most a million of them, so a long recovery of
/// a busy endpoint may repeat some. Blocking.
pub fn delivered(
    log: &dyn Log,
    topic: &Arc<str>,
    endpoint: &str,
    since: Timestamp,
    until: Timestamp,
) -> Result<HashSet<Text>, crate::log::LogError> {
    const WAIT: Duration = Duration::from_millis(500);
    const BATCH: usize = 64;
    let mut ids = HashSet::new();
    for partition in log.partitions(topic)? {
        let mut reader = log.reader(TopicPartition { topic: Arc::clone(topic), partition }, From::Time(since))?;
        let end = reader.end()?;
        'partition: while reader.next() < end {
            for record in reader.poll(WAIT, BATCH)? {
                if record.appended_ms > until.as_millisecond() {
                    break 'partition;
                }
                let got = |entry: &Entry| *entry.endpoint == *endpoint && *entry.outcome == *Outcome::Delivered.class();
                // A text of its own: that of the entry may be a slice of the whole batch.
                let room = DELIVERED_LIMIT.saturating_sub(ids.len());
                ids.extend(entries(&record).filter(got).map(|entry| Text::from(&*entry.event)).take(room));
            }
        }
    }
    Ok(ids)
}

/// The attempts of a record; what cannot be read ends them.
fn entries(record: &Record) -> impl Iterator<Item = Entry> {
    /// Bytes of a batch, unpacked; ours are far below.
    const LIMIT: u64 = 64 << 20;
    let value = record.value.clone().unwrap_or_default();
    let lines = BufReader::new(GzDecoder::new(value.reader()).take(LIMIT)).lines();
    lines.map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok())
}

/// What the hot path hands over: reference counts and numbers.
struct Noted {
    at: Timestamp,
    elapsed: Duration,
    number: u32,
    outcome: &'static str,
    status: Option<u16>,
    event: Arc<Event>,
    endpoint: Text,
    purpose: Purpose,
    detail: Option<String>,
}

/// Batches that a buffer may hold before it drops: the task is that far behind only if the log hangs.
const BUFFERED_BATCHES: usize = 16;

/// Bytes of the events that a buffer may keep from being freed: an event that is delivered no longer counts into the memory budget.
const BUFFERED_BYTES: usize = 16 << 20;

/// What a shard has noted since the last turn of the task.
#[derive(Default)]
struct Buffer {
    /// For the log.
    batch: Vec<Noted>,
    /// Only to be shown: the latest ones of each endpoint, notable ones apart from the others.
    latest: HashMap<Text, [Vec<Noted>; 2], foldhash::fast::RandomState>,
    /// How many those are.
    shown: usize,
    /// Of the events of both.
    bytes: usize,
}

impl Buffer {
    /// Notes what is only to be shown: of each endpoint the first `most` since the last turn, so that a busy one costs nothing more; beyond
    /// `limit` in all, endpoints that are not there yet are left out.
    fn show(&mut self, endpoint: &Text, is_notable: bool, most: usize, limit: usize, noted: impl FnOnce() -> Noted) {
        let latest = match self.latest.get_mut(endpoint) {
            Some(latest) => latest,
            None if self.shown < limit => self.latest.entry(endpoint.clone()).or_default(),
            None => return,
        };
        let latest = &mut latest[usize::from(is_notable)];
        if latest.len() < most && self.bytes < BUFFERED_BYTES {
            let noted = noted();
            self.shown += 1;
            self.bytes += noted.event.weight();
            latest.push(noted);
        }
    }
}

pub struct Journal {
    config: Config,
    buffers: Vec<Mutex<Buffer>>,
    /// A buffer holds a batch.
    full: Notify,
    recent: Mutex<Recent>,
    metrics: Arc<Metrics>,
    stop: mpsc::Sender<()>,
}

/// The task behind a journal; to be spawned, and awaited after [`Journal::stop`].
pub struct Writer {
    journal: Arc<Journal>,
    log: Arc<dyn Log>,
    topic: Arc<str>,
    stopped: mpsc::Receiver<()>,
}

impl Journal {
    /// The journal, and its task, which the caller spawns: `tokio::spawn(writer.run())`.
    pub fn new(log: Arc<dyn Log>, topic: Arc<str>, config: Config, shards: usize, metrics: Arc<Metrics>) -> (Arc<Journal>, Writer) {
        let (stop, stopped) = mpsc::channel(1);
        let recent = Recent { endpoints: HashMap::default(), per_endpoint: config.recent, limit: config.recent_endpoints, turn: 0 };
        let journal = Arc::new(Journal {
            buffers: (0..shards.max(1)).map(|_| Mutex::default()).collect(),
            full: Notify::new(),
            recent: Mutex::new(recent),
            metrics,
            stop,
            config,
        });
        (Arc::clone(&journal), Writer { journal, log, topic, stopped })
    }

    /// Notes an attempt of a shard. Returns at once.
    pub fn record(&self, shard: usize, attempt: &Attempt, delivery: &Delivery, endpoint: &Endpoint) {
        let limit = self.config.batch_size * BUFFERED_BATCHES;
        let noted = || Noted {
            at: attempt.started_at,
            elapsed: attempt.elapsed,
            number: attempt.number,
            outcome: attempt.outcome.class(),
            status: attempt.status,
            event: Arc::clone(&delivery.event),
            endpoint: endpoint.id.clone(),
            purpose: delivery.purpose,
            detail: (attempt.outcome != Outcome::Delivered).then(|| describe(attempt)),
        };
        let is_batch = {
            let mut buffer = lock(&self.buffers[shard % self.buffers.len()]);
            if !self.config.keeps(&attempt.outcome) {
                let is_notable = is_notable(attempt.outcome != Outcome::Delivered, delivery.purpose);
                buffer.show(&endpoint.id, is_notable, self.config.recent, limit, noted);
                return;
            }
            if buffer.batch.len() >= limit || buffer.bytes >= BUFFERED_BYTES {
                drop(buffer);
                self.metrics.journal_dropped_total.increment(1);
                return;
            }
            let (before, noted) = (buffer.bytes, noted());
            buffer.bytes += noted.event.weight();
            buffer.batch.push(noted);
            buffer.batch.len() == self.config.batch_size || (before..buffer.bytes).contains(&(BUFFERED_BYTES / 4))
        };
        if is_batch {
            self.full.notify_one();
        }
    }

    /// The latest attempts that match, newest first, at most `limit`.
    pub fn recent(&self, filter: &Filter, limit: usize) -> Vec<Entry> {
        let lines: Vec<Arc<[u8]>> = lock(&self.recent).lines(filter.endpoint.as_ref());
        let read = |line: Arc<[u8]>| serde_json::from_slice::<Entry>(&line).ok().filter(|entry| filter.matches(entry));
        let mut entries: Vec<Entry> = lines.into_iter().filter_map(read).collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.at));
        entries.truncate(limit);
        entries
    }

    /// Forgets the attempts of a deleted endpoint.
    pub fn forget(&self, endpoint: &Text) {
        lock(&self.recent).endpoints.remove(endpoint);
    }

    /// Asks the task to write what is buffered and to end.
    pub fn stop(&self) {
        // A channel that is full or closed has heard it before.
        let _ = self.stop.try_send(());
    }
}

impl Writer {
    /// Writes batches until it is stopped.
    pub async fn run(mut self) {
        let wait = self.journal.config.batch_wait;
        let mut ticks = tokio::time::interval_at(Instant::now() + wait, wait);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let stop = tokio::select! {
                _ = ticks.tick() => false,
                () = self.journal.full.notified() => false,
                _ = self.stopped.recv() => true,
            };
            self.write().await;
            if stop {
                return;
            }
        }
    }

    async fn write(&self) {
        let (mut appends, mut counts) = (Vec::new(), Vec::new());
        for (shard, buffer) in self.journal.buffers.iter().enumerate() {
            let Buffer { batch, latest, shown: _, bytes: _ } = std::mem::take(&mut *lock(buffer));
            self.show(latest.into_values().flatten().flatten());
            for batch in batch.chunks(self.journal.config.batch_size) {
                appends.push(self.batch(shard, batch));
                counts.push(batch.len() as u64);
            }
        }
        if appends.is_empty() {
            return;
        }
        for (result, count) in self.log.append(appends).await.into_iter().zip(counts) {
            if let Err(error) = result {
                self.journal.metrics.journal_dropped_total.increment(count);
                tracing::debug!(%error, attempts = count, "attempts were not journalled");
            }
        }
    }

    fn show(&self, latest: impl Iterator<Item = Noted>) {
        let mut line = Vec::with_capacity(512);
        for noted in latest {
            noted.write(&mut line);
            lock(&self.journal.recent).put(&noted.endpoint, noted.is_notable(), &line);
        }
    }

    fn batch(&self, shard: usize, batch: &[Noted]) -> Append {
        // The fastest level: it takes most of what repeats, and this is paid for by every attempt.
        let mut gzip = GzEncoder::new(Vec::with_capacity(batch.len() * 48), Compression::fast());
        let mut line = Vec::with_capacity(512);
        let mut recent = lock(&self.journal.recent);
        for noted in batch {
            noted.write(&mut line);
            recent.put(&noted.endpoint, noted.is_notable(), &line);
            line.push(b'\n');
            gzip.write_all(&line).expect("a vector takes every byte");
        }
        drop(recent);
        let value = gzip.finish().expect("a vector takes every byte");
        Append {
            topic: self.topic.clone(),
            partition: None,
            key: Some(shard.to_string().into()),
            value: Some(value.into()),
            headers: vec![("posthaste-journal".into(), Bytes::from_static(b"1")), ("content-encoding".into(), Bytes::from_static(b"gzip"))],
        }
    }
}

impl Noted {
    /// Writes the line of the journal, without its end, in the place of what `line` holds.
    fn is_notable(&self) -> bool {
        is_notable(self.detail.is_some(), self.purpose)
    }

    fn write(&self, line: &mut Vec<u8>) {
        line.clear();
        serde_json::to_writer(line, &self.entry()).expect("texts and numbers are always JSON, and a vector takes every byte");
    }

    fn entry(&self) -> Entry {
        Entry {
            at: self.at,
            endpoint: self.endpoint.clone(),
            tenant: self.event.tenant.clone(),
            event: self.event.id.clone(),
            kind: self.event.kind.clone(),
            channel: self.event.channel.clone(),
            attempt: self.number,
            outcome: Text::from_static(self.outcome),
            status: self.status,
            // Microseconds are precise enough, and print short.
            elapsed_ms: self.elapsed.as_micros() as f64 / 1_000.0,
            purpose: self.purpose,
            detail: self.detail.clone(),
        }
    }
}

/// The latest attempts of each endpoint, as the lines of the journal: they are parsed only when somebody asks, and hold no event in memory.
struct Recent {
    endpoints: HashMap<Text, Latest, foldhash::fast::RandomState>,
    per_endpoint: usize,
    limit: usize,
    /// Grows with every attempt.
    turn: u64,
}

/// A failure and a test are looked for among any number of deliveries, so they have room of their own.
fn is_notable(has_failed: bool, purpose: Purpose) -> bool {
    has_failed || purpose == Purpose::Test
}

/// Notable ones apart from the others, so that a busy endpoint does not bury them.
#[derive(Default)]
struct Latest {
    others: VecDeque<Arc<[u8]>>,
    notable: VecDeque<Arc<[u8]>>,
    turn: u64,
}

impl Recent {
    fn put(&mut self, endpoint: &Text, is_notable: bool, line: &[u8]) {
        self.turn += 1;
        if !self.endpoints.contains_key(endpoint) {
            if self.endpoints.len() >= self.limit {
                self.make_room();
            }
            // A text of its own: that of the registry may be a slice of something large.
            self.endpoints.insert(Text::from(&**endpoint), Latest::default());
        }
        let latest = self.endpoints.get_mut(endpoint).expect("it was put there just now");
        latest.turn = self.turn;
        let lines = if is_notable { &mut latest.notable } else { &mut latest.others };
        if lines.len() >= self.per_endpoint {
            lines.pop_front();
        }
        lines.push_back(line.into());
    }

    /// Drops the tenth of the endpoints that was attempted longest ago: so many at once that looking for them is cheap per endpoint.
    fn make_room(&mut self) {
        let mut turns: Vec<u64> = self.endpoints.values().map(|latest| latest.turn).collect();
        turns.sort_unstable();
        let last = turns[turns.len() / 10];
        self.endpoints.retain(|_, latest| latest.turn > last);
    }

    fn lines(&self, endpoint: Option<&Text>) -> Vec<Arc<[u8]>> {
        let all = |latest: &Latest| latest.others.iter().chain(&latest.notable).cloned().collect::<Vec<_>>();
        match endpoint {
            Some(endpoint) => self.endpoints.get(endpoint).map(all).unwrap_or_default(),
            None => self.endpoints.values().flat_map(all).collect(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this lock")
}

#[cfg(test)]
mod tests;
