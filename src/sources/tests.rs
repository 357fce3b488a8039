//! The loop, round by round, against a scripted consumer. What a backend really does is in the scenarios of `tests/it`.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};

use super::{
    turn::{End, Kind, Source},
    *,
};
use crate::{
    log::{
        Append, Assigned, Commit, CommitMode, Consumer, From, Log, LogError, Polled, Reader, Subscription, TopicSpec,
        record::{encode_delivery, encode_event},
        tracker::Tracker,
    },
    model::{
        Auth, Class, EndpointUrl, Format, Purpose, Signing, Status, Timestamp, TopicPartition, TypePattern,
        time::{ManualClock, timestamp_from_ms},
    },
};

const NOW_MS: i64 = 1_700_000_000_000;

#[derive(Default)]
struct Script {
    polls: VecDeque<Result<Polled, LogError>>,
    /// How many records each poll asked for.
    asked: Vec<usize>,
    commits: Vec<(Commit, CommitMode)>,
    commit_results: VecDeque<LogError>,
    paused: BTreeSet<TopicPartition>,
    released: u32,
    closed: bool,
}

struct Scripted(Arc<Mutex<Script>>);

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
struct Lines {
    records: Vec<Record>,
    script: Arc<Mutex<Script>>,
    appended: Arc<Mutex<Vec<Append>>>,
    /// The next append is not stored.
    fails: std::sync::atomic::AtomicBool,
}

struct LinesReader {
    records: VecDeque<Record>,
    next: i64,
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

fn endpoint(id: &'static str) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        id: id.into(),
        tenant: "default".into(),
        url: EndpointUrl::parse("http://127.0.0.1:1/").expect("a URL"),
        description: None,
        channels: Vec::new(),
        types: vec![TypePattern::Any],
        direction: None,
        format: Format::Standard,
        signing: Signing::None,
        auth: Auth::None,
        headers: Vec::new(),
        rate: None,
        concurrency: None,
        retry: None,
        status: Status::Enabled,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
        registry_offset: 5,
    })
}

const EVENTS: &str = "posthaste.events";
const TIER: &str = "posthaste.retry.30s";

fn partition(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition { topic: topic.into(), partition }
}

fn event(channel: &'static str) -> Event {
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

fn record_of(topic: &str, offset: i64, encoded: crate::log::record::Encoded) -> Record {
    Record {
        position: Position { topic: topic.into(), partition: 0, offset },
        key: encoded.key,
        value: encoded.value,
        headers: encoded.headers.into_iter().map(|(name, value)| (name.into_owned().into(), value)).collect(),
        appended_ms: NOW_MS,
    }
}

/// The event goes to as many endpoints as its channel says: `none`, `one` or `two`.
fn event_record(offset: i64, channel: &'static str) -> Record {
    record_of(EVENTS, offset, encode_event(&event(channel)))
}

fn events(offsets: std::ops::Range<i64>) -> Polled {
    Polled::Records(offsets.map(|offset| event_record(offset, "one")).collect())
}

fn retry_record(topic: &str, offset: i64, endpoint: &'static str, due_in_ms: i64) -> Record {
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

struct Bench {
    source: Source,
    script: Arc<Mutex<Script>>,
    delivered: mpsc::Receiver<Vec<Routed>>,
    doomed: mpsc::Receiver<Doomed>,
    respilled: mpsc::Receiver<(Delivery, Duration, Ack)>,
    gate: Arc<Mutex<Option<&'static str>>>,
    behind: Arc<std::sync::atomic::AtomicBool>,
    budget: Arc<Budget>,
    clock: ManualClock,
    metrics: Arc<Metrics>,
    now: Instant,
}

impl Bench {
    fn new(kind: Kind, config: Config) -> Bench {
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
        let budget = Budget::new(1 << 20);
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
                Arc::new(move |id, _| match &**id {
                    _ if behind.load(Ordering::Relaxed) => Resolved::Behind,
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

    fn events() -> Bench {
        Bench::new(Kind::Events, Config::default())
    }

    fn retry(config: Config) -> Bench {
        Bench::new(Kind::Retry { prefix: "posthaste.retry.".into() }, config)
    }

    fn assigned(mut self, topic: &str, start: i64, committed: Option<(i64, &str)>) -> Bench {
        let committed = committed.map(|(offset, metadata)| (offset, metadata.to_owned()));
        self.poll(Polled::Assigned(vec![Assigned { partition: partition(topic, 0), committed, start }]));
        self
    }

    fn turn(&mut self) -> Result<Duration, End> {
        self.source.turn(self.now)
    }

    /// One round in which the consumer brings this.
    fn poll(&mut self, polled: Polled) {
        self.script().polls.push_back(Ok(polled));
        self.turn().expect("it goes on");
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.clock.advance_ms(time.as_millis() as i64);
    }

    /// What was delivered since the last call.
    fn taken(&self) -> Vec<Routed> {
        self.delivered.try_iter().flatten().collect()
    }

    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().expect("one thread")
    }

    /// Commits what there is to commit and returns the offsets; with what is done above by metadata.
    fn committed(&mut self) -> Option<(i64, Vec<i64>)> {
        self.pass(Duration::from_secs(2));
        self.turn().expect("it goes on");
        let commit = self.script().commits.pop()?.0;
        let (mut again, _) = Tracker::restore(commit.offset, &commit.metadata, commit.offset, 1024);
        let done = (commit.offset..commit.offset + 50).filter(|offset| again.read(*offset) == crate::log::tracker::Read::Done).collect();
        Some((commit.offset, done))
    }
}

#[test]
fn the_position_waits_for_the_oldest_open_record_and_the_rest_is_told_beside_it() {
    let mut bench = Bench::events().assigned(EVENTS, 10, None);
    let records = [(10, "one"), (11, "two"), (12, "none"), (13, "one"), (15, "one")];
    bench.poll(Polled::Records(records.map(|(offset, channel)| event_record(offset, channel)).to_vec()));
    let mut taken = bench.taken();
    assert_eq!(taken.iter().map(|routed| routed.delivery.origin.offset).collect::<Vec<_>>(), [10, 11, 11, 13, 15]);
    assert!(taken.iter().all(|routed| routed.delivery.registry_offset == 5 && routed.class == Class::First));
    assert_eq!(bench.committed(), Some((10, vec![12, 14])));

    taken.remove(3).ack.done();
    taken.remove(1).ack.done();
    assert_eq!(bench.committed(), Some((10, vec![12, 13, 14])), "one of two deliveries of 11 is open");
    taken.remove(1).ack.done();
    assert_eq!(bench.committed(), Some((10, vec![11, 12, 13, 14])));
    taken.remove(0).ack.done();
    assert_eq!(bench.committed(), Some((15, vec![])));
    assert_eq!(bench.committed(), None, "nothing changed");
    taken.remove(0).ack.done();
    assert_eq!(bench.committed(), Some((16, vec![])));
    assert_eq!(bench.budget.used(), 0);
}

#[test]
fn what_was_done_before_a_restart_is_not_sent_again() {
    let mut before = Bench::events().assigned(EVENTS, 0, None);
    before.poll(events(0..10));
    before.taken().into_iter().filter(|routed| routed.delivery.origin.offset % 3 == 1).for_each(|routed| routed.ack.done());
    before.pass(Duration::from_secs(2));
    before.turn().expect("it goes on");
    let commit = before.script().commits.pop().expect("a commit").0;
    let mut after = Bench::events().assigned(EVENTS, commit.offset, Some((commit.offset, &commit.metadata)));
    after.poll(events(0..12));
    let again: Vec<i64> = after.taken().iter().map(|routed| routed.delivery.origin.offset).collect();
    assert_eq!(again, [0, 2, 3, 5, 6, 8, 9, 10, 11]);
}

#[test]
fn a_commit_that_failed_is_made_again() {
    let mut bench = Bench::events().assigned(EVENTS, 0, None);
    bench.poll(events(0..1));
    bench.taken().into_iter().for_each(|routed| routed.ack.done());
    bench.script().commit_results.push_back(LogError::Unavailable("away".into()));
    assert_eq!(bench.committed(), None);
    assert_eq!(bench.committed(), Some((1, vec![])));
}

#[test]
fn records_that_are_no_events_go_to_the_dead_letters_and_the_next_go_on() {
    let mut bench = Bench::events().assigned(EVENTS, 0, None);
    let mut broken = event_record(0, "one");
    broken.value = Some(Bytes::from_static(b"{broken"));
    let mut tombstone = event_record(1, "one");
    tombstone.value = None;
    let mut foreign = event_record(2, "one");
    foreign.headers.push(("posthaste-delivery".into(), Bytes::from_static(b"77")));
    bench.poll(Polled::Records(vec![broken, tombstone, foreign, event_record(3, "one")]));
    let doomed: Vec<Doomed> = bench.doomed.try_iter().collect();
    assert_eq!(doomed.len(), 2);
    assert_eq!(bench.taken().into_iter().map(|routed| routed.ack.done()).count(), 1);
    assert_eq!(bench.committed(), Some((0, vec![1, 3])), "not before the dead letters are durable");
    for doomed in doomed {
        assert_eq!(doomed.reason, DeadReason::Unparsable);
        assert!(matches!(doomed.what, DoomedThing::Record(_)));
        doomed.ack.done();
    }
    assert_eq!(bench.committed(), Some((4, vec![])));
    let text = bench.metrics.render();
    for line in ["result=\"unparsable\"} 2", "result=\"tombstone\"} 1", "result=\"matched\"} 1"] {
        assert!(text.contains(line), "{line}");
    }
}

#[test]
fn a_revocation_waits_for_what_is_in_flight_commits_and_releases() {
    let mut bench = Bench::events().assigned(EVENTS, 0, None);
    bench.poll(events(0..4));
    let mut taken = bench.taken();
    let mut waits = taken.pop().expect("four");
    assert!(taken.iter_mut().all(|routed| routed.ack.take_up()));
    bench.poll(Polled::Revoked { partitions: vec![partition(EVENTS, 0)], lost: false });
    assert!(!waits.ack.take_up(), "nothing more is begun");
    assert_eq!(bench.turn(), Ok(Duration::from_millis(2)));
    taken.remove(1).ack.done();
    bench.turn().expect("it goes on");
    assert_eq!(bench.script().released, 0);
    taken.into_iter().for_each(|routed| routed.ack.done());
    bench.turn().expect("it goes on");
    assert!(!waits.ack.is_live(), "its new owner sends it");
    waits.ack.abandon();
    let script = bench.script();
    assert_eq!(script.released, 1);
    let (commit, mode) = script.commits.last().expect("a commit");
    assert_eq!((commit.offset, *mode), (3, CommitMode::Sync));
}

#[test]
fn a_revocation_ends_in_time_and_later_settlements_change_nothing() {
    let mut bench = Bench::events().assigned(EVENTS, 0, None);
    bench.poll(events(0..3));
    let mut taken = bench.taken();
    assert!(taken.iter_mut().all(|routed| routed.ack.take_up()));
    bench.poll(Polled::Revoked { partitions: vec![partition(EVENTS, 0)], lost: false });
    taken.remove(2).ack.done();
    bench.pass(Duration::from_secs(3));
    bench.turn().expect("it goes on");
    assert_eq!(bench.script().released, 1);
    let commit = bench.script().commits.pop().expect("a commit").0;
    assert_eq!(commit.offset, 0);
    let (mut again, _) = Tracker::restore(0, &commit.metadata, 0, 1024);
    assert_eq!([0, 1, 2].map(|offset| again.read(offset) == crate::log::tracker::Read::Done), [false, false, true]);
    // It comes back: the settlements of the former lease do not count for the new one.
    let mut bench = bench.assigned(EVENTS, 0, Some((0, &commit.metadata)));
    assert!(taken.iter().all(|routed| !routed.ack.is_live()));
    taken.into_iter().for_each(|routed| routed.ack.done());
    bench.poll(events(0..3));
    assert_eq!(bench.taken().iter().map(|routed| routed.delivery.origin.offset).collect::<Vec<_>>(), [0, 1]);
    assert!(bench.metrics.render().contains("posthaste_late_settlements_total 2"));
}

#[test]
fn lost_partitions_are_let_go_of_without_a_commit() {
    let mut bench = Bench::events().assigned(EVENTS, 0, None);
    bench.poll(events(0..2));
    let taken = bench.taken();
    taken.into_iter().for_each(|routed| routed.ack.done());
    bench.poll(Polled::Revoked { partitions: vec![partition(EVENTS, 0)], lost: true });
    bench.pass(Duration::from_secs(2));
    bench.poll(events(2..4));
    assert!(bench.taken().is_empty(), "records of a partition that is not ours are not taken");
    let script = bench.script();
    assert_eq!((script.released, script.commits.iter().filter(|(commit, _)| commit.offset > 2).count()), (1, 0));
}

#[test]
fn a_full_window_pauses_its_partition_and_asks_the_oldest_to_leave() {
    let config = Config { window: 1024, ..Config::default() };
    let mut bench = Bench::new(Kind::Events, config).assigned(EVENTS, 0, None);
    bench.poll(events(0..600));
    let mut taken = bench.taken();
    let oldest = taken.remove(0);
    taken.into_iter().for_each(|routed| routed.ack.done());
    bench.pass(Duration::from_millis(200));
    bench.poll(events(600..1030));
    assert!(oldest.ack.should_leave());
    assert_eq!(bench.taken().into_iter().map(|routed| routed.ack.done()).count(), 424, "as far as the window reaches");
    bench.turn().expect("it goes on");
    assert_eq!(bench.script().paused.len(), 1);
    oldest.ack.done();
    bench.turn().expect("it goes on");
    assert_eq!(bench.taken().len(), 6);
    assert!(bench.script().paused.is_empty());
}

#[test]
fn nothing_is_taken_while_the_gate_is_shut_or_memory_is_used_up() {
    let mut bench = Bench::events().assigned(EVENTS, 0, None);
    *bench.gate.lock().expect("one thread") = Some("registry_behind");
    bench.script().polls.push_back(Ok(events(0..1)));
    assert_eq!(bench.turn(), Ok(Duration::from_millis(2)));
    assert!(bench.metrics.render().contains("posthaste_sources_stopped{reason=\"registry_behind\"} 1"));
    assert!(bench.script().paused.is_empty(), "not at once: a pause costs what was prefetched");
    bench.pass(Duration::from_secs(2));
    bench.turn().expect("it goes on");
    assert_eq!(bench.script().paused.len(), 1, "the group is served from now on");
    assert!(bench.taken().is_empty());
    *bench.gate.lock().expect("one thread") = None;
    bench.turn().expect("it goes on");
    assert!(bench.script().paused.is_empty());
    assert_eq!(bench.taken().len(), 1, "what came meanwhile was kept");

    let all = bench.budget.take(1 << 20);
    assert_eq!(bench.turn(), Ok(Duration::from_millis(2)));
    assert!(bench.metrics.render().contains("posthaste_sources_stopped{reason=\"memory\"} 1"));
    drop(all);
    let most = bench.budget.take((1 << 20) - 4096);
    bench.turn().expect("it goes on");
    assert!(bench.script().asked.last().is_some_and(|asked| *asked <= 8), "no more than there is room for");
    drop(most);
}

#[test]
fn a_dropped_acknowledgement_has_its_record_read_again_and_spilled() {
    let mut bench = Bench::events().assigned(EVENTS, 0, None);
    bench.poll(Polled::Records(vec![event_record(0, "two"), event_record(1, "one")]));
    let mut taken = bench.taken();
    taken.remove(2).ack.done();
    taken.remove(0).ack.done();
    drop(taken);
    bench.pass(Duration::from_secs(2));
    bench.turn().expect("it goes on");
    let respilled: Vec<_> = bench.respilled.try_iter().collect();
    assert_eq!(respilled.iter().map(|(delivery, _, _)| &*delivery.endpoint).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(bench.committed().map(|(offset, _)| offset), Some(0));
    respilled.into_iter().for_each(|(_, _, ack)| ack.done());
    assert_eq!(bench.committed(), Some((2, vec![])));
    assert!(bench.metrics.render().contains("posthaste_dropped_acknowledgements_total 1"));
}

#[test]
fn a_log_that_was_made_anew_is_read_from_its_beginning() {
    let mut bench = Bench::events().assigned(EVENTS, 0, None);
    bench.poll(events(0..5));
    let former = bench.taken();
    bench.poll(events(0..2));
    assert!(!former[0].ack.is_live());
    assert_eq!(bench.taken().len(), 2);
    former.into_iter().for_each(|routed| routed.ack.abandon());
}

#[test]
fn what_was_read_behind_the_beginning_of_a_new_log_is_not_lost() {
    let config = Config { window: 1024, ..Config::default() };
    let mut bench = Bench::new(Kind::Events, config).assigned(EVENTS, 0, None);
    bench.poll(events(0..1024));
    let mut taken = bench.taken();
    // The window is full: the first records of the new log wait in the backlog, behind the last one of the old.
    bench.poll(Polled::Records([1024, 0, 1, 2].map(|offset| event_record(offset, "one")).to_vec()));
    assert!(bench.taken().is_empty());
    taken.remove(0).ack.done();
    bench.turn().expect("it goes on");
    let offsets: Vec<i64> = bench.taken().iter().map(|routed| routed.delivery.origin.offset).collect();
    assert_eq!(offsets, [1024, 0, 1, 2]);
    taken.into_iter().for_each(|routed| routed.ack.abandon());
}

#[test]
fn a_source_whose_deliveries_nobody_takes_stops_and_still_commits() {
    let mut bench = Bench::events().assigned(EVENTS, 0, None);
    bench.poll(events(0..1));
    bench.taken().into_iter().for_each(|routed| routed.ack.done());
    bench.delivered = mpsc::sync_channel(1).1;
    bench.poll(events(1..3));
    assert_eq!(bench.committed(), Some((1, vec![])));
    assert_eq!(bench.script().paused.len(), 1);
}

#[test]
fn a_group_of_another_registry_is_not_served() {
    let mut bench = Bench::events();
    let metadata = Tracker::new(5, 1024).position("registry-0").metadata;
    let assigned = Assigned { partition: partition(EVENTS, 0), committed: Some((5, metadata)), start: 5 };
    bench.script().polls.push_back(Ok(Polled::Assigned(vec![assigned])));
    let Err(End::Failed(reason)) = bench.turn() else { panic!("it must not go on") };
    assert!(reason.contains("registry-0") && reason.contains("registry-1"), "{reason}");
}

#[test]
fn trouble_of_the_log_is_waited_out_and_what_is_fatal_ends_the_source() {
    let mut bench = Bench::events().assigned(EVENTS, 0, None);
    bench.script().polls.push_back(Err(LogError::Unavailable("away".into())));
    assert_eq!(bench.turn(), Ok(Duration::from_millis(100)));
    bench.poll(events(0..1));
    assert_eq!(bench.taken().len(), 1);
    bench.script().polls.push_back(Err(LogError::Fatal("fenced".into())));
    assert_eq!(bench.turn(), Err(End::Failed("fenced".into())));
}

#[test]
fn stopping_takes_nothing_more_and_finishing_waits_for_what_is_out() {
    let mut bench = Bench::events().assigned(EVENTS, 0, None);
    bench.poll(events(0..3));
    let mut taken = bench.taken();
    assert!(taken.iter_mut().all(|routed| routed.ack.take_up()));
    bench.source.command(Command::Stop);
    bench.poll(events(3..5));
    assert!(bench.taken().is_empty());
    assert_eq!(bench.script().paused.len(), 1);
    taken.remove(1).ack.done();
    assert_eq!(bench.committed(), Some((0, vec![1])), "settling and committing go on");
    bench.source.command(Command::Finish(bench.now + Duration::from_secs(10)));
    bench.turn().expect("two are out");
    taken.into_iter().for_each(|routed| routed.ack.done());
    assert_eq!(bench.turn(), Err(End::Finished));
    let script = bench.script();
    let (commit, mode) = script.commits.last().expect("a commit");
    assert_eq!((commit.offset, *mode), (3, CommitMode::Sync));
}

#[test]
fn finishing_waits_for_what_has_a_done_sibling_and_hands_back_what_nobody_began() {
    let mut bench = Bench::events().assigned(EVENTS, 0, None);
    bench.poll(Polled::Records(vec![event_record(0, "two"), event_record(1, "one")]));
    let mut taken = bench.taken();
    taken.remove(0).ack.done();
    bench.source.command(Command::Finish(bench.now + Duration::from_secs(10)));
    bench.turn().expect("the other delivery of the first record has to be spilled");
    taken.remove(0).ack.done();
    assert_eq!(bench.turn(), Err(End::Finished));
    assert_eq!(bench.script().commits.last().map(|(commit, _)| commit.offset), Some(1));
    assert!(!taken[0].ack.is_live());
    taken.remove(0).ack.abandon();
}

#[test]
fn what_keeps_the_commit_from_telling_all_that_is_done_has_to_leave_before_the_end() {
    let mut bench = Bench::events().assigned(EVENTS, 0, None);
    bench.poll(events(0..8_000));
    let (done, open): (Vec<_>, Vec<_>) = bench.taken().into_iter().partition(|routed| routed.delivery.origin.offset % 2 == 1);
    done.into_iter().for_each(|routed| routed.ack.done());
    bench.source.command(Command::Finish(bench.now + Duration::from_secs(10)));
    bench.turn().expect("some have to leave");
    let (leave, stay): (Vec<_>, Vec<_>) = open.into_iter().partition(|routed| routed.ack.should_leave());
    assert!(!leave.is_empty() && stay.len() > 1_000, "no more than necessary: {} leave, {} stay", leave.len(), stay.len());
    leave.into_iter().for_each(|routed| routed.ack.done());
    assert_eq!(bench.turn(), Err(End::Finished));
    let commit = bench.script().commits.pop().expect("a commit").0;
    let (mut again, _) = Tracker::restore(commit.offset, &commit.metadata, commit.offset, Config::WINDOW_LIMIT);
    for offset in commit.offset..8_000 {
        assert_eq!(again.read(offset) == crate::log::tracker::Read::Done, offset % 2 == 1, "{offset}");
    }
    stay.into_iter().for_each(|routed| routed.ack.abandon());
}

#[test]
fn finishing_does_not_wait_for_what_was_abandoned() {
    let mut bench = Bench::events().assigned(EVENTS, 0, None);
    bench.poll(events(0..3));
    let mut taken = bench.taken();
    taken.remove(0).ack.done();
    taken.into_iter().for_each(|routed| routed.ack.abandon());
    bench.source.command(Command::Finish(bench.now + Duration::from_secs(10)));
    assert_eq!(bench.turn(), Err(End::Finished));
    assert_eq!(bench.script().commits.last().map(|(commit, _)| commit.offset), Some(1));
}

#[test]
fn finishing_ends_at_its_deadline_with_what_is_settled_by_then() {
    let mut bench = Bench::events().assigned(EVENTS, 0, None);
    bench.poll(events(0..3));
    let mut taken = bench.taken();
    taken.remove(0).ack.done();
    bench.source.command(Command::Finish(bench.now + Duration::from_secs(1)));
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.turn(), Err(End::Finished));
    assert_eq!(bench.script().commits.last().map(|(commit, _)| commit.offset), Some(1));
    assert!(taken.iter().all(|routed| !routed.ack.is_live()));
    taken.into_iter().for_each(|routed| routed.ack.abandon());
}

#[test]
fn a_retry_waits_until_it_is_due_and_holds_nobody_else_up() {
    let mut bench = Bench::retry(Config::default()).assigned(TIER, 0, None);
    let records = [(0, 30_000), (1, 20_000), (2, -5), (3, 31_000)];
    bench.poll(Polled::Records(records.map(|(offset, due)| retry_record(TIER, offset, "a", due)).to_vec()));
    let due = |bench: &Bench| {
        let taken = bench.taken();
        assert!(taken.iter().all(|routed| routed.class == Class::Retry && routed.delivery.origin.offset == 7));
        let count = taken.len();
        taken.into_iter().for_each(|routed| routed.ack.done());
        count
    };
    assert_eq!(due(&bench), 1);
    for (after, count) in [(19_900, 0), (200, 1), (9_800, 0), (200, 1), (1_000, 1)] {
        bench.pass(Duration::from_millis(after));
        bench.turn().expect("it goes on");
        assert_eq!(due(&bench), count, "after {after} more");
    }
    assert_eq!(bench.committed(), Some((4, vec![])));
}

#[test]
fn how_long_a_retry_waits() {
    let tier = Some(Duration::from_secs(30));
    for (due_in, read_after, clock_ahead, tier, seconds, moves_on) in [
        (30, 0, 0, tier, 30, false),
        (33, 0, 0, tier, 33, false),
        (30, 20, 0, tier, 10, false),
        (30, 40, 0, tier, 0, false),
        // The writer's clock is an hour ahead of ours: its delay counts, not the difference of the clocks.
        (30, 0, 3600, tier, 30, false),
        (30, 0, -3600, tier, 0, false),
        // `Retry-After` of an hour in a tier of 30 s.
        (3600, 0, 0, tier, 30, true),
        (3600, 3590, 0, tier, 10, false),
        (3600, 0, 0, None, 3600, false),
        (999_999, 0, 0, None, 86_400, false),
    ] {
        let record = retry_record(TIER, 0, "a", due_in * 1000);
        let delivery = crate::log::record::decode_delivery(&record).expect("a delivery");
        let wait = retry::wait(&delivery, NOW_MS, NOW_MS + (read_after - clock_ahead) * 1000, tier);
        assert_eq!(
            (wait.time.as_secs(), wait.moves_on),
            (seconds, moves_on),
            "due in {due_in}, read after {read_after}, {clock_ahead} ahead"
        );
    }
    assert_eq!(retry::delay_of("posthaste.retry.15m", "posthaste.retry."), Some(Duration::from_secs(900)));
    assert_eq!(retry::delay_of("posthaste.retry.x", "posthaste.retry."), None);
}

#[test]
fn a_retry_that_its_tier_cannot_hold_moves_on() {
    let mut bench = Bench::retry(Config::default()).assigned(TIER, 0, None);
    bench.poll(Polled::Records(vec![retry_record(TIER, 0, "a", 3_600_000), retry_record(TIER, 1, "a", 30_000)]));
    // They wait from their arrival on, which was a moment after the beginning of the turn.
    bench.pass(Duration::from_secs(31));
    bench.turn().expect("it goes on");
    assert_eq!(bench.taken().into_iter().map(|routed| routed.ack.done()).count(), 1, "the one behind it is not held up");
    let (delivery, wait, ack) = bench.respilled.try_recv().expect("it moves on");
    assert_eq!((wait, delivery.attempts), (Duration::from_secs(3569), 1));
    assert_eq!(bench.committed(), Some((0, vec![1])), "not before it is in its new tier");
    ack.done();
    assert_eq!(bench.committed(), Some((2, vec![])));
}

#[test]
fn only_so_many_retries_are_held_and_the_group_is_still_served() {
    let mut bench = Bench::retry(Config { hold: 4, ..Config::default() }).assigned(TIER, 0, None);
    bench.poll(Polled::Records((0..4).map(|offset| retry_record(TIER, offset, "a", 30_000)).collect()));
    bench.turn().expect("it goes on");
    assert_eq!(bench.script().paused.len(), 1);
    assert_eq!(bench.script().asked.last(), Some(&4));
    bench.pass(Duration::from_secs(31));
    bench.turn().expect("it goes on");
    assert!(bench.script().paused.is_empty());
    assert_eq!(bench.taken().into_iter().map(|routed| routed.ack.done()).count(), 4);
}

#[test]
fn held_retries_are_left_in_the_log_when_their_partition_goes() {
    let mut bench = Bench::retry(Config::default()).assigned(TIER, 0, None);
    bench.poll(Polled::Records(vec![retry_record(TIER, 0, "a", -1), retry_record(TIER, 1, "a", 30_000)]));
    bench.taken().into_iter().for_each(|routed| routed.ack.done());
    bench.poll(Polled::Revoked { partitions: vec![partition(TIER, 0)], lost: false });
    bench.turn().expect("nothing is out");
    let script = bench.script();
    assert_eq!((script.released, script.commits.last().map(|(commit, _)| commit.offset)), (1, Some(1)));
}

#[test]
fn an_endpoint_that_is_not_known_yet_is_waited_for_and_one_that_is_gone_is_not() {
    let mut bench = Bench::retry(Config::default()).assigned(TIER, 0, None);
    bench.behind.store(true, Ordering::Relaxed);
    bench.poll(Polled::Records(vec![retry_record(TIER, 0, "a", -1)]));
    bench.pass(Duration::from_secs(1));
    bench.turn().expect("it goes on");
    assert!(bench.taken().is_empty());
    bench.behind.store(false, Ordering::Relaxed);
    bench.pass(Duration::from_secs(1));
    bench.poll(Polled::Records(vec![retry_record(TIER, 1, "gone", -1)]));
    assert_eq!(bench.taken().into_iter().map(|routed| routed.ack.done()).count(), 1);
    let doomed = bench.doomed.try_recv().expect("a dead letter");
    assert_eq!(doomed.reason, DeadReason::EndpointDeleted);
    assert!(matches!(doomed.what, DoomedThing::Delivery(_)));
    doomed.ack.done();
    assert_eq!(bench.committed(), Some((2, vec![])));
}

#[test]
fn a_source_runs_on_its_own_thread_until_it_is_told_to_finish() {
    let bench = Bench::events();
    let source = bench.source;
    let handle = start("events", |_| source).expect("a thread");
    assert!(handle.is_running());
    handle.stop();
    handle.finish(Duration::from_secs(10));
    assert!(!handle.is_running());
    assert!(bench.script.lock().expect("it has ended").closed);
}

#[tokio::test]
async fn what_is_taken_over_http_is_answered_for_each_event() {
    let log = Arc::new(Lines { fails: true.into(), ..Lines::default() });
    let config = ingest::Config { memory: bytesize::ByteSize::kib(4), ..Default::default() };
    let ingest = ingest::Ingest::new(log.clone(), EVENTS.into(), config, Arc::new(ManualClock::at_ms(NOW_MS)), Metrics::new());
    let scope = ingest::Scope { tenant: "acme".into(), only: true };
    let body = Bytes::from_static(br#"[{"type":"t","channel":"c","data":1},{"id":"mine","type":"t","channel":"c","data":2}]"#);
    let parsed = ingest.parse(&body, &scope).expect("two events");
    let failed = ingest.append(parsed.clone()).await;
    assert!(failed.iter().all(|result| matches!(result, Err(LogError::Unavailable(_)))), "{failed:?}");
    let stored = ingest.append(parsed.clone()).await;
    let ids: Vec<Text> = parsed.iter().zip(&stored).map(|(event, at)| ingest::id_of(event, at.as_ref().expect("stored"))).collect();
    assert_eq!(ids, ["posthaste.events:0:0", "mine"]);
    assert_eq!(log.appended.lock().expect("no panic")[0].key.as_deref(), Some(&b"acme/c"[..]));
    let many = std::iter::repeat_n(parsed[0].clone(), 20).collect();
    let full = ingest.append(many).await;
    assert!(full.iter().all(|result| matches!(result, Err(LogError::Unavailable(text)) if text.contains("ingest.memory"))), "{full:?}");
}

/// Runs a replay of twenty events to `two`, one second apart, to its end.
fn replay(span: replay::Span, wants: impl FnMut(&Event, &Position) -> bool + Send + 'static) -> (replay::Progress, Vec<Delivery>) {
    let mut records: Vec<Record> = (0..20).map(|offset| event_record(offset, "two")).collect();
    for record in &mut records {
        record.appended_ms += record.position.offset * 1000;
    }
    records[3] = retry_record(EVENTS, 3, "a", 0);
    records[4].value = None;
    records[5].value = Some(Bytes::from_static(b"broken"));
    let log = Arc::new(Lines { records, fails: true.into(), ..Lines::default() });
    let appended = Arc::clone(&log.appended);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    let clock = Arc::new(ManualClock::at_ms(NOW_MS));
    let replays = replay::Replays::new(log, EVENTS.into(), runtime.handle().clone(), replay::Config::default(), clock);
    let request =
        replay::Request { endpoint: "a".into(), registry_offset: 9, tenant: "default".into(), span, wants: Box::new(wants), missed: None };
    let id = replays.start(request).expect("it may run").id;
    let deadline = Instant::now() + Duration::from_secs(20);
    let progress = loop {
        let progress = replays.get(&id).expect("it is remembered");
        if progress.state != replay::State::Running {
            break progress;
        }
        assert!(Instant::now() < deadline, "{progress:?}");
        std::thread::yield_now();
    };
    let appended = appended.lock().expect("nothing panics while it holds this lock");
    let store = |append: &Append| {
        let Append { key, value, headers, .. } = append.clone();
        crate::log::record::decode_delivery(&record_of(EVENTS, 99, crate::log::record::Encoded { key, value, headers }))
            .expect("a delivery")
    };
    (progress, appended.iter().map(store).collect())
}

#[test]
fn a_replay_appends_what_the_endpoint_wants_with_its_first_coordinates() {
    let positions = vec![Position { topic: EVENTS.into(), partition: 0, offset: 2 }];
    let (progress, deliveries) = replay(replay::Span::Positions(positions), |_, position| position.offset % 2 == 0);
    assert_eq!(progress.state, replay::State::Done);
    assert_eq!((progress.read, progress.sent, progress.remaining), (18, 8, 0));
    assert_eq!(deliveries.iter().map(|delivery| delivery.origin.offset).collect::<Vec<_>>(), [2, 6, 8, 10, 12, 14, 16, 18]);
    assert!(
        deliveries.iter().all(|delivery| delivery.purpose == Purpose::Replay && delivery.registry_offset == 9 && delivery.endpoint == "a")
    );
}

#[test]
fn a_replay_of_a_time_keeps_within_it() {
    let at = |second: i64| timestamp_from_ms(NOW_MS + second * 1000);
    let span = replay::Span::Time { topics: vec![EVENTS.into()], since: at(7), until: Some(at(10)) };
    let (progress, deliveries) = replay(span, |_, _| true);
    assert_eq!(progress.state, replay::State::Done);
    assert_eq!(deliveries.iter().map(|delivery| delivery.origin.offset).collect::<Vec<_>>(), [7, 8, 9]);
}

#[test]
fn the_configuration_is_checked() {
    assert!(Config::default().check().is_empty());
    let wrong = Config { window: 100, batch: 200, commit_interval: Duration::ZERO, hold: 0, ..Config::default() };
    let keys: Vec<&str> = wrong.check().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["window", "batch", "commit_interval", "hold"]);
}
