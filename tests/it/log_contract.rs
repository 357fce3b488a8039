//! The contract of the log (`src/log/mod.rs`), one function per clause, for every backend alike.
//!
//! A backend calls [`suite!`] with a function that makes a [`Place`]; each clause becomes a test of its own there. Topics and groups carry the
//! place's unique name, so that clauses can share one broker.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use posthaste::{
    log::{
        Append, Assigned, Cleanup, Commit, CommitMode, Consumer, From, Log, LogError, METADATA_LIMIT, Polled, Reader, Record, Start,
        Subscription, TopicSpec, Topics,
    },
    model::{Position, Timestamp, TopicPartition},
};

/// Where a clause is tried.
pub struct Place {
    /// Opens the log: the same one each time. A clause holds one handle at a time, and closes it before it opens the next.
    pub open: Box<dyn Fn() -> Arc<dyn Log> + Send + Sync>,
    /// What the names of topics and groups begin with.
    pub unique: String,
}

/// What takes longer has failed: generous, since brokers need seconds to rebalance.
const PATIENCE: Duration = Duration::from_secs(60);

/// One poll of many.
const TURN: Duration = Duration::from_millis(100);

impl Place {
    fn name(&self, what: &str) -> Arc<str> {
        format!("{}.{what}", self.unique).into()
    }

    fn group(&self, what: &str) -> String {
        format!("{}.{what}", self.unique)
    }

    fn retained(&self, what: &str, partitions: u32) -> TopicSpec {
        let name = self.name(what);
        TopicSpec { name, partitions, cleanup: Cleanup::Retain(Duration::from_secs(3600)), max_record: 1 << 20, internal: true }
    }

    /// Opens the log with one topic.
    async fn with_topic(&self, partitions: u32) -> (Arc<dyn Log>, Arc<str>) {
        let log = (self.open)();
        let spec = self.retained("t", partitions);
        ensure(&log, std::slice::from_ref(&spec)).await;
        (log, spec.name)
    }
}

async fn ensure(log: &Arc<dyn Log>, specs: &[TopicSpec]) {
    log.ensure(specs).await.expect("topics can be made");
}

fn value(topic: &Arc<str>, partition: Option<i32>, key: Option<&str>, value: &str) -> Append {
    Append {
        topic: topic.clone(),
        partition,
        key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: vec![],
    }
}

async fn append(log: &Arc<dyn Log>, records: Vec<Append>) -> Vec<Position> {
    log.append(records).await.into_iter().map(|result| result.expect("stored")).collect()
}

/// Appends texts to a partition.
async fn fill(log: &Arc<dyn Log>, topic: &Arc<str>, partition: i32, texts: &[&str]) -> Vec<Position> {
    append(log, texts.iter().map(|text| value(topic, Some(partition), None, text)).collect()).await
}

fn text(record: &Record) -> String {
    String::from_utf8(record.value.as_ref().expect("a value").to_vec()).expect("text")
}

fn texts(records: &[Record]) -> Vec<String> {
    records.iter().map(text).collect()
}

fn at(topic: &Arc<str>, partition: i32) -> TopicPartition {
    TopicPartition { topic: topic.clone(), partition }
}

fn named(group: String, topics: &[&Arc<str>], start: Start) -> Subscription {
    Subscription { group, topics: Topics::Named(topics.iter().map(|topic| Arc::clone(topic)).collect()), start }
}

/// A consumer and what it was told.
struct Seen {
    consumer: Box<dyn Consumer>,
    assigned: BTreeMap<TopicPartition, Assigned>,
    revoked: BTreeSet<TopicPartition>,
    /// A revocation waits to be released.
    asked: bool,
    records: Vec<Record>,
}

impl Seen {
    fn new(log: &Arc<dyn Log>, subscription: Subscription) -> Seen {
        let consumer = log.consumer(subscription).expect("a consumer");
        Seen { consumer, assigned: BTreeMap::new(), revoked: BTreeSet::new(), asked: false, records: vec![] }
    }

    /// Polls once; a revocation stays unreleased.
    fn turn(&mut self) {
        match self.consumer.poll(TURN, 100).expect("a poll") {
            Polled::Records(records) => {
                assert!(records.len() <= 100, "more than asked for");
                for record in &records {
                    assert!(self.assigned.contains_key(&record.position.topic_partition()), "{} is not assigned", record.position);
                }
                self.records.extend(records);
            }
            Polled::Assigned(assigned) => {
                for one in assigned {
                    assert!(self.assigned.insert(one.partition.clone(), one).is_none(), "assigned twice");
                }
            }
            Polled::Revoked { partitions, .. } => {
                self.asked = true;
                for partition in partitions {
                    assert!(self.assigned.remove(&partition).is_some(), "{partition:?} was not assigned");
                    self.revoked.insert(partition);
                }
            }
        }
    }

    /// Polls once, and gives up at once what is revoked.
    fn generous_turn(&mut self) {
        self.turn();
        if std::mem::take(&mut self.asked) {
            self.consumer.release().expect("released");
        }
    }

    fn until(&mut self, what: &str, done: impl Fn(&Seen) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(
                Instant::now() < deadline,
                "{what}: assigned {:?}, revoked {:?}, {} records",
                self.assigned,
                self.revoked,
                self.records.len()
            );
            self.turn();
        }
    }

    fn until_assigned(&mut self, count: usize) {
        self.until("waiting for an assignment", |seen| seen.assigned.len() == count);
    }

    fn until_records(&mut self, count: usize) {
        self.until("waiting for records", |seen| seen.records.len() >= count);
        assert_eq!(self.records.len(), count, "{:?}", texts(&self.records));
    }

    fn commit(&mut self, partition: TopicPartition, offset: i64, metadata: &str) -> Result<(), LogError> {
        self.consumer.commit(&[Commit { partition, offset, metadata: metadata.to_owned() }], CommitMode::Sync)
    }

    fn close(self) {
        self.consumer.close(PATIENCE);
    }
}

/// Reads until the end that the partition has now.
fn read_to_end(reader: &mut dyn Reader) -> Vec<Record> {
    let (end, deadline) = (reader.end().expect("an end"), Instant::now() + PATIENCE);
    let mut records = Vec::new();
    while reader.next() < end {
        assert!(Instant::now() < deadline, "{} of {end} after {} records", reader.next(), records.len());
        records.extend(reader.poll(TURN, 100).expect("a poll"));
    }
    records
}

fn read_all(log: &Arc<dyn Log>, topic: &Arc<str>, partition: i32) -> Vec<Record> {
    read_to_end(&mut *log.reader(at(topic, partition), From::Earliest).expect("a reader"))
}

// 1. Topics

pub async fn topics_are_made_once_and_keep_their_partitions(place: Place) {
    let log = (place.open)();
    let specs = [place.retained("one", 1), place.retained("three", 3)];
    ensure(&log, &specs).await;
    ensure(&log, &specs).await;
    let partitions = |spec: &TopicSpec| {
        let mut partitions = log.partitions(&spec.name).expect("known");
        partitions.sort();
        partitions
    };
    assert_eq!(partitions(&specs[0]), [0]);
    assert_eq!(partitions(&specs[1]), [0, 1, 2]);
    log.close(PATIENCE);
}

pub async fn equal_keys_have_equal_partitions_and_a_named_partition_is_obeyed(place: Place) {
    let (log, topic) = place.with_topic(4).await;
    let keys: Vec<String> = (0..40).map(|n| format!("key-{}", n % 20)).collect();
    let positions = append(&log, keys.iter().map(|key| value(&topic, None, Some(key), "v")).collect()).await;
    for n in 0..20 {
        assert_eq!(positions[n].partition, positions[n + 20].partition, "{}", keys[n]);
    }
    let used: BTreeSet<i32> = positions.iter().map(|position| position.partition).collect();
    assert!(used.len() > 1, "20 keys use {used:?}");
    for partition in 0..4 {
        let positions = append(&log, vec![value(&topic, Some(partition), Some("key-0"), "v")]).await;
        assert_eq!(positions[0].partition, partition);
    }
    log.close(PATIENCE);
}

// 2. Append

pub async fn what_is_appended_comes_back_as_it_was(place: Place) {
    let (log, topic) = place.with_topic(1).await;
    let before = Timestamp::now().as_millisecond();
    let bytes = |bytes: &'static [u8]| Some(Bytes::from_static(bytes));
    let wanted = [
        (bytes(b"key"), bytes(b"value"), vec![("a", "1"), ("b", ""), ("a", "2")]),
        (None, bytes(b""), vec![]),
        (bytes(b"gone"), None, vec![("why", "tombstone")]),
        (bytes(b"\x00\xff"), bytes(b"\xff\x00\xfe"), vec![]),
    ];
    let records = wanted.clone().map(|(key, value, headers)| Append {
        topic: topic.clone(),
        partition: None,
        key,
        value,
        headers: headers.into_iter().map(|(name, value)| (name.into(), Bytes::from_static(value.as_bytes()))).collect(),
    });
    let positions = append(&log, records.to_vec()).await;
    let read = read_all(&log, &topic, 0);
    assert_eq!(read.iter().map(|record| record.position.clone()).collect::<Vec<_>>(), positions);
    assert!(positions.windows(2).all(|pair| pair[0].offset < pair[1].offset));
    for (record, (key, value, headers)) in read.iter().zip(&wanted) {
        assert_eq!((&record.key, &record.value), (key, value));
        let got: Vec<(&str, &[u8])> = record.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(got, headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect::<Vec<_>>());
        let after = Timestamp::now().as_millisecond();
        assert!((before - 1000..=after + 1000).contains(&record.appended_ms), "{before} {} {after}", record.appended_ms);
    }
    log.close(PATIENCE);
}

pub async fn a_record_that_is_too_large_is_refused_alone(place: Place) {
    let log = (place.open)();
    let mut spec = place.retained("small", 1);
    spec.max_record = 64 << 10;
    ensure(&log, std::slice::from_ref(&spec)).await;
    let results = log
        .append(vec![
            value(&spec.name, None, None, "first"),
            value(&spec.name, None, None, &"x".repeat(2 << 20)),
            value(&spec.name, None, None, "last"),
        ])
        .await;
    assert!(results[0].is_ok() && results[2].is_ok(), "{results:?}");
    assert!(matches!(&results[1], Err(LogError::TooLarge { .. })), "{:?}", results[1]);
    assert_eq!(texts(&read_all(&log, &spec.name, 0)), ["first", "last"]);
    log.close(PATIENCE);
}

pub async fn an_unknown_topic_or_partition_is_an_error(place: Place) {
    let (log, topic) = place.with_topic(1).await;
    let results = log.append(vec![value(&topic, Some(7), None, "v"), value(&topic, None, None, "good")]).await;
    assert!(results[0].is_err(), "{:?}", results[0]);
    assert!(results[1].is_ok(), "{:?}", results[1]);
    log.close(PATIENCE);
}

pub async fn what_was_answered_is_there_after_a_restart(place: Place) {
    let (log, topic) = place.with_topic(1).await;
    let before = fill(&log, &topic, 0, &["a", "b", "c"]).await;
    log.close(PATIENCE);
    drop(log);
    let log = (place.open)();
    assert_eq!(texts(&read_all(&log, &topic, 0)), ["a", "b", "c"]);
    let after = fill(&log, &topic, 0, &["d"]).await;
    assert!(after[0].offset > before[2].offset, "{} after {}", after[0], before[2]);
    log.close(PATIENCE);
}

pub async fn many_appends_at_once_keep_the_order_of_each(place: Place) {
    let (log, topic) = place.with_topic(2).await;
    let calls: Vec<_> = (0..50)
        .map(|call| {
            let records = (0..20).map(|n| value(&topic, Some(n % 2), None, &format!("{call}:{n}"))).collect();
            tokio::spawn(log.append(records))
        })
        .collect();
    let mut positions = BTreeSet::new();
    for call in calls {
        for result in call.await.expect("no panic") {
            assert!(positions.insert(result.expect("stored")), "a position was given out twice");
        }
    }
    assert_eq!(positions.len(), 1000);
    for partition in 0..2 {
        let mut last: BTreeMap<String, i32> = BTreeMap::new();
        let records = read_all(&log, &topic, partition);
        assert_eq!(records.len(), 500);
        for record in records {
            assert!(positions.contains(&record.position));
            let text = text(&record);
            let (call, n) = text.split_once(':').expect("call:n");
            let n: i32 = n.parse().expect("a number");
            assert!(last.insert(call.to_owned(), n).is_none_or(|before| before < n), "{text}");
        }
    }
    log.close(PATIENCE);
}

pub async fn appends_after_close_fail(place: Place) {
    let (log, topic) = place.with_topic(1).await;
    log.close(PATIENCE);
    let results = log.append(vec![value(&topic, None, None, "late")]).await;
    assert!(results[0].is_err());
}

// 3. Consumers

pub async fn a_lone_consumer_gets_all_partitions_and_every_record_in_order(place: Place) {
    let (log, topic) = place.with_topic(3).await;
    for partition in 0..3 {
        fill(&log, &topic, partition, &["1", "2"]).await;
    }
    let mut seen = Seen::new(&log, named(place.group("g"), &[&topic], Start::Earliest));
    seen.until_assigned(3);
    seen.until_records(6);
    for partition in 0..3 {
        fill(&log, &topic, partition, &["3"]).await;
    }
    seen.until_records(9);
    for partition in 0..3 {
        let own: Vec<Record> = seen.records.iter().filter(|record| record.position.partition == partition).cloned().collect();
        assert_eq!(texts(&own), ["1", "2", "3"]);
        assert!(own.windows(2).all(|pair| pair[0].position.offset < pair[1].position.offset));
        assert_eq!(own[0].position.offset, seen.assigned[&at(&topic, partition)].start);
    }
    seen.close();
    log.close(PATIENCE);
}

pub async fn a_second_member_gets_its_share_only_after_release(place: Place) {
    let (log, topic) = place.with_topic(4).await;
    let group = place.group("g");
    let mut first = Seen::new(&log, named(group.clone(), &[&topic], Start::Earliest));
    first.until_assigned(4);
    let mut second = Seen::new(&log, named(group, &[&topic], Start::Earliest));
    let deadline = Instant::now() + PATIENCE;
    while first.revoked.is_empty() {
        assert!(Instant::now() < deadline, "nothing was revoked");
        first.turn();
        second.turn();
    }
    let revoked = first.revoked.clone();
    for _ in 0..5 {
        second.turn();
    }
    assert!(second.assigned.keys().all(|partition| !revoked.contains(partition)), "{:?} before release", second.assigned);
    for partition in &revoked {
        first.commit(partition.clone(), first_offset(&log, partition), "moved").expect("still ours until released");
    }
    first.asked = false;
    first.consumer.release().expect("released");
    let deadline = Instant::now() + PATIENCE;
    while second.assigned.len() < 2 {
        assert!(Instant::now() < deadline, "{:?}", second.assigned);
        second.turn();
        first.generous_turn();
    }
    assert_eq!((first.assigned.len(), second.assigned.len()), (2, 2));
    assert!(first.assigned.keys().all(|partition| !second.assigned.contains_key(partition)));
    for assigned in second.assigned.values() {
        assert_eq!(assigned.committed.as_ref().map(|(_, metadata)| &**metadata), Some("moved"), "what the last owner committed");
    }

    for partition in 0..4 {
        fill(&log, &topic, partition, &["x"]).await;
    }
    first.until_records(2);
    second.until_records(2);
    let before = second.assigned.clone();
    first.close();
    second.until_assigned(4);
    assert!(before.keys().all(|partition| second.assigned.contains_key(partition)), "who stays keeps his");
    second.close();
    log.close(PATIENCE);
}

fn first_offset(log: &Arc<dyn Log>, partition: &TopicPartition) -> i64 {
    log.reader(partition.clone(), From::Earliest).expect("a reader").end().expect("an end")
}

pub async fn groups_read_independently(place: Place) {
    let (log, topic) = place.with_topic(1).await;
    fill(&log, &topic, 0, &["a", "b"]).await;
    let mut one = Seen::new(&log, named(place.group("one"), &[&topic], Start::Earliest));
    let mut two = Seen::new(&log, named(place.group("two"), &[&topic], Start::Earliest));
    one.until_records(2);
    two.until_records(2);
    one.close();
    two.close();
    log.close(PATIENCE);
}

pub async fn a_group_begins_where_it_is_told(place: Place) {
    let (log, topic) = place.with_topic(1).await;
    fill(&log, &topic, 0, &["old"]).await;
    // Times are milliseconds: let the clock pass one before the next append.
    let then = Timestamp::now().as_millisecond() + 1;
    while Timestamp::now().as_millisecond() <= then {
        std::thread::yield_now();
    }
    let between = Timestamp::now();
    fill(&log, &topic, 0, &["middle"]).await;

    let mut latest = Seen::new(&log, named(place.group("latest"), &[&topic], Start::Latest));
    latest.until_assigned(1);
    let mut timed = Seen::new(&log, named(place.group("timed"), &[&topic], Start::At(between)));
    timed.until_assigned(1);
    fill(&log, &topic, 0, &["new"]).await;
    timed.until_records(2);
    assert_eq!(texts(&timed.records), ["middle", "new"]);

    // What came after the first assignment is the group's, also if it stopped before its first commit.
    latest.close();
    let mut again = Seen::new(&log, named(place.group("latest"), &[&topic], Start::Latest));
    again.until_records(1);
    assert_eq!(texts(&again.records), ["new"]);
    again.close();
    timed.close();
    log.close(PATIENCE);
}

pub async fn a_prefix_finds_topics_that_are_made_later(place: Place) {
    let log = (place.open)();
    ensure(&log, &[place.retained("retry.1s", 1), place.retained("other", 1)]).await;
    let topics = Topics::Prefixed(place.name("retry.").to_string());
    let mut seen = Seen::new(&log, Subscription { group: place.group("g"), topics, start: Start::Earliest });
    seen.until_assigned(1);
    let later = place.retained("retry.2s", 1);
    ensure(&log, std::slice::from_ref(&later)).await;
    fill(&log, &later.name, 0, &["found"]).await;
    let deadline = Instant::now() + PATIENCE + PATIENCE;
    while seen.records.is_empty() {
        assert!(Instant::now() < deadline, "the new topic is not found");
        seen.generous_turn();
    }
    assert_eq!(texts(&seen.records), ["found"]);
    assert!(!seen.assigned.contains_key(&at(&place.name("other"), 0)));
    seen.close();
    log.close(PATIENCE);
}

pub async fn a_paused_partition_brings_nothing_until_it_is_resumed(place: Place) {
    let (log, topic) = place.with_topic(2).await;
    let mut seen = Seen::new(&log, named(place.group("g"), &[&topic], Start::Earliest));
    seen.until_assigned(2);
    seen.consumer.pause(&[at(&topic, 0)]).expect("paused");
    fill(&log, &topic, 0, &["held", "back"]).await;
    fill(&log, &topic, 1, &["free"]).await;
    seen.until_records(1);
    for _ in 0..5 {
        seen.turn();
    }
    assert_eq!(texts(&seen.records), ["free"]);
    seen.consumer.resume(&[at(&topic, 0)]).expect("resumed");
    seen.until_records(3);
    assert_eq!(texts(&seen.records), ["free", "held", "back"]);
    seen.close();
    log.close(PATIENCE);
}

pub async fn lag_is_what_was_not_read(place: Place) {
    let (log, topic) = place.with_topic(1).await;
    let mut seen = Seen::new(&log, named(place.group("g"), &[&topic], Start::Earliest));
    seen.until_assigned(1);
    fill(&log, &topic, 0, &["a", "b", "c"]).await;
    seen.until_records(3);
    let deadline = Instant::now() + PATIENCE;
    while seen.consumer.lag().is_some_and(|lag| lag > 0) {
        assert!(Instant::now() < deadline, "lag {:?}", seen.consumer.lag());
        seen.turn();
    }
    seen.close();
    log.close(PATIENCE);
}

// 4. Commits

pub async fn offset_and_metadata_come_back_after_a_restart(place: Place) {
    let (log, topic) = place.with_topic(1).await;
    let positions = fill(&log, &topic, 0, &["a", "b", "c"]).await;
    let group = place.group("g");
    let metadata = "m".repeat(METADATA_LIMIT);
    let mut seen = Seen::new(&log, named(group.clone(), &[&topic], Start::Earliest));
    seen.until_records(3);
    seen.commit(at(&topic, 0), positions[0].offset + 1, "first").expect("committed");
    let commit = Commit { partition: at(&topic, 0), offset: positions[1].offset, metadata: metadata.clone() };
    seen.consumer.commit(&[commit], CommitMode::Async).expect("begun");
    // The next commit sees the result of the last one.
    seen.consumer.commit(&[], CommitMode::Sync).expect("committed");
    assert_eq!(log.committed(&group, &topic).expect("known"), [(at(&topic, 0), positions[1].offset)]);
    seen.close();
    log.close(PATIENCE);
    drop(log);

    let log = (place.open)();
    assert_eq!(log.committed(&group, &topic).expect("known"), [(at(&topic, 0), positions[1].offset)]);
    let mut seen = Seen::new(&log, named(group, &[&topic], Start::Latest));
    seen.until_records(2);
    assert_eq!(texts(&seen.records), ["b", "c"], "from the committed offset on");
    let assigned = &seen.assigned[&at(&topic, 0)];
    assert_eq!(assigned.committed, Some((positions[1].offset, metadata)));
    assert_eq!(assigned.start, positions[1].offset);
    seen.close();
    log.close(PATIENCE);
}

pub async fn what_was_not_committed_is_read_again(place: Place) {
    let (log, topic) = place.with_topic(1).await;
    fill(&log, &topic, 0, &["a", "b"]).await;
    let group = place.group("g");
    for _ in 0..2 {
        let mut seen = Seen::new(&log, named(group.clone(), &[&topic], Start::Earliest));
        seen.until_records(2);
        assert_eq!(texts(&seen.records), ["a", "b"]);
        seen.close();
    }
    log.close(PATIENCE);
}

pub async fn only_the_owner_of_a_partition_can_commit_it(place: Place) {
    let (log, topic) = place.with_topic(2).await;
    let group = place.group("g");
    let mut first = Seen::new(&log, named(group.clone(), &[&topic], Start::Earliest));
    first.until_assigned(2);
    let mut second = Seen::new(&log, named(group, &[&topic], Start::Earliest));
    let deadline = Instant::now() + PATIENCE;
    while second.assigned.is_empty() {
        assert!(Instant::now() < deadline, "{:?}", second.assigned);
        first.generous_turn();
        second.turn();
    }
    let moved = second.assigned.keys().next().expect("one").clone();
    assert!(first.commit(moved.clone(), 5, "").is_err(), "released, and committed all the same");
    let end = first_offset(&log, &moved);
    second.commit(moved, end, "").expect("the owner can");
    first.close();
    second.close();
    log.close(PATIENCE);
}

// 5. Readers

pub async fn a_reader_begins_at_start_offset_or_time_and_knows_the_end(place: Place) {
    let (log, topic) = place.with_topic(1).await;
    let mut positions = fill(&log, &topic, 0, &["a", "b"]).await;
    let then = Timestamp::now().as_millisecond() + 1;
    while Timestamp::now().as_millisecond() <= then {
        std::thread::yield_now();
    }
    let between = Timestamp::now();
    positions.extend(fill(&log, &topic, 0, &["c", "d"]).await);

    let read = |from| texts(&read_to_end(&mut *log.reader(at(&topic, 0), from).expect("a reader")));
    assert_eq!(read(From::Earliest), ["a", "b", "c", "d"]);
    assert_eq!(read(From::Offset(positions[1].offset)), ["b", "c", "d"]);
    assert_eq!(read(From::Time(between)), ["c", "d"]);
    assert_eq!(read(From::Time(Timestamp::now() + Duration::from_secs(3600))), [""; 0]);

    let mut reader = log.reader(at(&topic, 0), From::Offset(positions[3].offset + 1)).expect("a reader");
    assert_eq!(reader.end().expect("an end"), positions[3].offset + 1);
    assert_eq!(reader.next(), positions[3].offset + 1);
    fill(&log, &topic, 0, &["e"]).await;
    assert_eq!(texts(&read_to_end(&mut *reader)), ["e"]);
    log.close(PATIENCE);
}

pub async fn a_reader_that_waits_is_woken_by_an_append(place: Place) {
    let (log, topic) = place.with_topic(1).await;
    let mut reader = log.reader(at(&topic, 0), From::Earliest).expect("a reader");
    let (ready, begun) = std::sync::mpsc::sync_channel(1);
    let waiting = std::thread::spawn(move || {
        ready.send(()).expect("the test waits");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let records = reader.poll(PATIENCE, 10).expect("a poll");
            if !records.is_empty() || Instant::now() > deadline {
                return records;
            }
        }
    });
    begun.recv().expect("begun");
    fill(&log, &topic, 0, &["now"]).await;
    let records = tokio::task::spawn_blocking(|| waiting.join().expect("no panic")).await.expect("no panic");
    assert_eq!(texts(&records), ["now"]);
    log.close(PATIENCE);
}

pub async fn a_reader_returns_at_most_what_it_is_asked_for(place: Place) {
    let (log, topic) = place.with_topic(1).await;
    let wanted: Vec<String> = (0..25).map(|n| n.to_string()).collect();
    fill(&log, &topic, 0, &wanted.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut reader = log.reader(at(&topic, 0), From::Earliest).expect("a reader");
    let (mut read, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    while read.len() < 25 {
        assert!(Instant::now() < deadline);
        let records = reader.poll(TURN, 10).expect("a poll");
        assert!(records.len() <= 10);
        if let Some(last) = records.last() {
            assert_eq!(reader.next(), last.position.offset + 1);
        }
        read.extend(texts(&records));
    }
    assert_eq!(read, wanted);
    log.close(PATIENCE);
}

// 6. Compacted topics

pub async fn a_compacted_topic_keeps_the_last_record_of_every_key(place: Place) {
    let log = (place.open)();
    let spec = TopicSpec { cleanup: Cleanup::Compact, ..place.retained("compacted", 1) };
    ensure(&log, std::slice::from_ref(&spec)).await;
    let topic = spec.name;
    for round in 0..20 {
        let records = (0..5).map(|key| value(&topic, None, Some(&format!("k{key}")), &format!("{key}:{round}"))).collect();
        append(&log, records).await;
    }
    let tombstone = Append { value: None, ..value(&topic, None, Some("k4"), "") };
    append(&log, vec![tombstone]).await;
    log.close(PATIENCE);
    drop(log);

    let log = (place.open)();
    let mut view: BTreeMap<Bytes, Option<Bytes>> = BTreeMap::new();
    for record in read_all(&log, &topic, 0) {
        view.insert(record.key.expect("a key"), record.value);
    }
    let wanted: BTreeMap<Bytes, Option<Bytes>> =
        (0..5).map(|key| (format!("k{key}").into(), (key < 4).then(|| format!("{key}:19").into()))).collect();
    assert_eq!(view, wanted);
    log.close(PATIENCE);
}

/// Makes a test of every clause for one backend: `suite!(place)` with `fn place(clause: &str) -> Place`.
macro_rules! suite {
    ($place:path) => {
        $crate::log_contract::suite! { $place:
            topics_are_made_once_and_keep_their_partitions
            equal_keys_have_equal_partitions_and_a_named_partition_is_obeyed
            what_is_appended_comes_back_as_it_was
            a_record_that_is_too_large_is_refused_alone
            an_unknown_topic_or_partition_is_an_error
            what_was_answered_is_there_after_a_restart
            many_appends_at_once_keep_the_order_of_each
            appends_after_close_fail
            a_lone_consumer_gets_all_partitions_and_every_record_in_order
            a_second_member_gets_its_share_only_after_release
            groups_read_independently
            a_group_begins_where_it_is_told
            a_prefix_finds_topics_that_are_made_later
            a_paused_partition_brings_nothing_until_it_is_resumed
            lag_is_what_was_not_read
            offset_and_metadata_come_back_after_a_restart
            what_was_not_committed_is_read_again
            only_the_owner_of_a_partition_can_commit_it
            a_reader_begins_at_start_offset_or_time_and_knows_the_end
            a_reader_that_waits_is_woken_by_an_append
            a_reader_returns_at_most_what_it_is_asked_for
            a_compacted_topic_keeps_the_last_record_of_every_key
        }
    };
    ($place:path: $($clause:ident)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $clause() {
                $crate::log_contract::$clause($place(stringify!($clause))).await;
            }
        )+
    };
}
pub(crate) use suite;

mod sqlite {
    use std::sync::Arc;

    use posthaste::{
        log::{
            Config,
            sqlite::{SqliteLog, SqliteOptions},
        },
        telemetry::metrics::Metrics,
    };

    use super::Place;

    fn place(clause: &str) -> Place {
        let directory = tempfile::tempdir().expect("a directory");
        let open = move || {
            let options = SqliteOptions::new(&Config::default(), Metrics::new());
            SqliteLog::open(directory.path(), options).expect("opens") as Arc<dyn posthaste::log::Log>
        };
        Place { open: Box::new(open), unique: clause.to_owned() }
    }

    super::suite!(place);
}
