//! A source whose log is a script, with time and everything it is wired to in the hands of the test.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};

use super::*;
use crate::log::{
    Append, Consumer, From, Log, Reader, Subscription, TopicSpec,
    record::{encode_delivery, encode_event},
    tracker::Tracker,
};

pub const NOW_MS: i64 = 1_700_000_000_000;

#[derive(Default)]
pub struct Script {
    pub polls: VecDeque<Result<Polled, LogError>>,
    /// How many records each poll asked for.
    pub asked: Vec<usize>,
    pub commits: Vec<(Commit, CommitMode)>,
    pub commit_results: VecDeque<LogError>,
    pub paused: BTreeSet<TopicPartition>,
    pub released: u32,
    pub closed: bool,
}

pub struct Scripted(Arc<Mutex<Script>>);

impl Consumer for Scripted {
    fn poll(&mut self, _: Duration, max: usize) -> Result<Polled, LogError> {
        let mut script = self.0.lock().expect("one thread");
        script.asked.push(max);
        script.polls.pop_front().unwrap_or(Ok(Polled::Records(Vec::new())))
    }

    fn commit(&mut self, commits: &[Commit], mode: CommitMode) -> Result<(), LogError> {
        let mut script = self.0.lock().expect("one thread");
        if let Some(error) = script.commit_results.pop_front() {
            return Err(error);
        }
        script.commits.extend(commits.iter().map(|commit| (commit.clone(), mode)));
        Ok(())
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.0.lock().expect("one thread").paused.extend(partitions.iter().cloned());
        Ok(())
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.0.lock().expect("one thread").paused.retain(|paused| !partitions.contains(paused));
        Ok(())
    }

    fn release(&mut self) -> Result<(), LogError> {
        self.0.lock().expect("one thread").released += 1;
        Ok(())
    }

    fn lag(&mut self) -> Option<u64> {
        None
    }

    fn close(self: Box<Self>, _: Duration) {
        self.0.lock().expect("one thread").closed = true;
    }
}

/// A log of one partition that was filled before; what is appended is kept apart.
#[derive(Default)]
pub struct Lines {
    pub records: Vec<Record>,
    pub script: Arc<Mutex<Script>>,
    pub appended: Arc<Mutex<Vec<Append>>>,
    /// The next append is not stored.
    pub fails: std::sync::atomic::AtomicBool,
}

pub struct LinesReader {
    pub records: VecDeque<Record>,
    pub next: i64,
}

impl Reader for LinesReader {
    fn poll(&mut self, _: Duration, max: usize) -> Result<Vec<Record>, LogError> {
        let records: Vec<Record> = self.records.drain(..max.min(self.records.len())).collect();
        self.next = records.last().map_or(self.end()?, |record| record.position.offset + 1);
        Ok(records)
    }

    fn end(&mut self) -> Result<i64, LogError> {
        Ok(1_000)
    }

    fn next(&self) -> i64 {
        self.next
    }
}

impl Log for Lines {
    fn ensure<'a>(&'a self, _: &'a [TopicSpec]) -> BoxFuture<'a, Result<(), LogError>> {
        async { Ok(()) }.boxed()
    }

    fn append(&self, records: Vec<Append>) -> BoxFuture<'static, Vec<Result<Position, LogError>>> {
        let fails = self.fails.swap(false, Ordering::Relaxed);
        let appended = Arc::clone(&self.appended);
        async move {
            let mut appended = appended.lock().expect("nothing panics while it holds this lock");
            let store = |append: Append| match fails {
                true => Err(LogError::Unavailable("not now".into())),
                false => {
                    let position = Position { topic: append.topic.clone(), partition: 0, offset: appended.len() as i64 };
                    appended.push(append);
                    Ok(position)
                }
            };
            records.into_iter().map(store).collect()
        }
        .boxed()
    }

    fn consumer(&self, _: Subscription) -> Result<Box<dyn Consumer>, LogError> {
        Ok(Box::new(Scripted(Arc::clone(&self.script))))
    }

    fn reader(&self, partition: TopicPartition, from: From) -> Result<Box<dyn Reader>, LogError> {
        let (next, since_ms) = match from {
            From::Earliest => (0, i64::MIN),
            From::Offset(next) => (next, i64::MIN),
            From::Time(since) => (0, since.as_millisecond()),
        };
        let is_in = |record: &&Record| {
            record.position.topic_partition() == partition && record.position.offset >= next && record.appended_ms >= since_ms
        };
        Ok(Box::new(LinesReader { records: self.records.iter().filter(is_in).cloned().collect(), next }))
    }

    fn partitions(&self, _: &str) -> Result<Vec<i32>, LogError> {
        Ok(vec![0])
    }

    fn committed(&self, _: &str, _: &str) -> Result<Vec<(TopicPartition, i64)>, LogError> {
        Ok(Vec::new())
    }

    fn close(&self, _: Duration) {}
}

pub fn endpoint(id: &'static str) -> Arc<Endpoint> {
    Arc::new(Endpoint { registry_offset: 5, ..testing::endpoint(id) })
}

pub const EVENTS: &str = "posthaste.events";
pub const TIER: &str = "posthaste.retry.30s";

pub fn partition(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition { topic: topic.into(), partition }
}

pub fn event(channel: &'static str) -> Event {
    Event {
        id: "e".into(),
        kind: "t".into(),
        channel: channel.into(),
        direction: None,
        time: Timestamp::UNIX_EPOCH,
        tenant: "default".into(),
        subject: None,
        priority: Default::default(),
        traceparent: None,
        data: Bytes::from_static(b"{}"),
    }
}

pub fn record_of(topic: &str, offset: i64, encoded: crate::log::record::Encoded) -> Record {
    Record {
        position: Position { topic: topic.into(), partition: 0, offset },
        key: encoded.key,
        value: encoded.value,
        headers: encoded.headers.into_iter().map(|(name, value)| (name.into_owned().into(), value)).collect(),
        appended_ms: NOW_MS,
    }
}

/// The event goes to as many endpoints as its channel says: `none`, `one` or `two`.
pub fn event_record(offset: i64, channel: &'static str) -> Record {
    record_of(EVENTS, offset, encode_event(&event(channel)))
}

pub fn events(offsets: std::ops::Range<i64>) -> Polled {
    Polled::Records(offsets.map(|offset| event_record(offset, "one")).collect())
}

pub fn retry_record(topic: &str, offset: i64, endpoint: &'static str, due_in_ms: i64) -> Record {
    let delivery = Delivery {
        event: Arc::new(event("one")),
        endpoint: endpoint.into(),
        origin: Position { topic: EVENTS.into(), partition: 0, offset: 7 },
        attempts: 1,
        accepted_at: timestamp_from_ms(NOW_MS),
        due_at: Some(timestamp_from_ms(NOW_MS + due_in_ms)),
        registry_offset: 5,
        purpose: Purpose::Event,
        reason: None,
    };
    record_of(topic, offset, encode_delivery(&delivery))
}

pub struct Bench {
    pub source: Source,
    pub script: Arc<Mutex<Script>>,
    pub delivered: mpsc::Receiver<Vec<Routed>>,
    pub doomed: mpsc::Receiver<Doomed>,
    pub respilled: mpsc::Receiver<(Delivery, Duration, Ack)>,
    pub gate: Arc<Mutex<Option<&'static str>>>,
    pub behind: Arc<std::sync::atomic::AtomicBool>,
    pub budget: Arc<Budget>,
    pub clock: ManualClock,
    pub metrics: Arc<Metrics>,
    pub now: Instant,
}

impl Bench {
    pub fn new(kind: Kind, config: Config) -> Bench {
        const PLENTY: usize = 10_000;
        let script = Arc::new(Mutex::new(Script::default()));
        let log = Arc::new(Lines {
            records: (0..20).map(|offset| event_record(offset, "two")).collect(),
            script: Arc::clone(&script),
            ..Lines::default()
        });
        let (to_deliver, delivered) = mpsc::sync_channel(PLENTY);
        let (to_doom, doomed) = mpsc::sync_channel(PLENTY);
        let (to_respill, respilled) = mpsc::sync_channel(PLENTY);
        let gate = Arc::new(Mutex::new(None));
        let behind = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let budget = Budget::new(8 << 20);
        let clock = ManualClock::at_ms(NOW_MS);
        let metrics = Metrics::new();
        let endpoints = ["a", "b"].map(endpoint);
        let wiring = Wiring {
            route: Box::new(move |event, into| {
                let count = ["none", "one", "two"].iter().position(|word| event.channel == word).unwrap_or(0);
                into.extend(endpoints[..count].iter().cloned());
            }),
            resolve: {
                let behind = Arc::clone(&behind);
                Arc::new(move |id, known_at| match &**id {
                    _ if behind.load(Ordering::Relaxed) && known_at > i64::MIN => Resolved::Behind,
                    "gone" => Resolved::Dead(DeadReason::EndpointDeleted),
                    _ => Resolved::Deliver(endpoint("a")),
                })
            },
            deliver: Box::new(move |batch| to_deliver.try_send(batch).map_err(|_| Closed)),
            doom: Arc::new(move |doomed| to_doom.try_send(doomed).expect("there is room")),
            respill: Arc::new(move |delivery, wait, ack| to_respill.try_send((delivery, wait, ack)).expect("there is room")),
            gate: {
                let gate = Arc::clone(&gate);
                Arc::new(move || *gate.lock().expect("one thread"))
            },
            registry_id: "registry-1".into(),
            failed: Box::new(|_| {}),
            budget: Arc::clone(&budget),
            clock: Arc::new(clock.clone()),
            metrics: Arc::clone(&metrics),
        };
        let consumer = Box::new(Scripted(Arc::clone(&script)));
        let source = Source::new(kind, log, consumer, config, wiring, Arc::default());
        Bench { source, script, delivered, doomed, respilled, gate, behind, budget, clock, metrics, now: Instant::now() }
    }

    pub fn events() -> Bench {
        Bench::new(Kind::Events, Config::default())
    }

    pub fn retry(config: Config) -> Bench {
        Bench::new(Kind::Retry { prefix: "posthaste.retry.".into() }, config)
    }

    pub fn assigned(mut self, topic: &str, start: i64, committed: Option<(i64, &str)>) -> Bench {
        let committed = committed.map(|(offset, metadata)| (offset, metadata.to_owned()));
        self.poll(Polled::Assigned(vec![Assigned { partition: partition(topic, 0), committed, start }]));
        self
    }

    pub fn turn(&mut self) -> Result<Duration, End> {
        self.source.turn(self.now)
    }

    /// One round in which the consumer brings this.
    pub fn poll(&mut self, polled: Polled) {
        self.script().polls.push_back(Ok(polled));
        self.turn().expect("it goes on");
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.clock.advance_ms(time.as_millis() as i64);
    }

    /// What was delivered since the last call.
    pub fn taken(&self) -> Vec<Routed> {
        self.delivered.try_iter().flatten().collect()
    }

    pub fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().expect("one thread")
    }

    /// Commits what there is to commit and returns the offsets; with what is done above by metadata.
    pub fn committed(&mut self) -> Option<(i64, Vec<i64>)> {
        self.pass(Duration::from_secs(2));
        self.turn().expect("it goes on");
        let commit = self.script().commits.pop()?.0;
        let (mut again, _) = Tracker::restore(commit.offset, &commit.metadata, commit.offset, 1024);
        let done = (commit.offset..commit.offset + 50).filter(|offset| again.read(*offset) == crate::log::tracker::Read::Done).collect();
        Some((commit.offset, done))
    }
}
