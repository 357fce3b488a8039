//! The log on Kafka, where it does more than the contract says: rebalances, static membership, topics, faults of the broker.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    os::unix::ffi::OsStrExt as _,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use posthaste::{
    log::{
        Append, Assigned, Cleanup, Commit, CommitMode, Consumer, From, Log, LogError, METADATA_LIMIT, Polled, Record, Start, Subscription,
        TopicSpec, Topics,
        kafka::{Config, KafkaLog},
    },
    model::{Position, TopicPartition},
    telemetry::metrics::Metrics,
};

use crate::support::{
    eventually,
    kafka::{Broker, brokers, config, create, open, retained, topic, with_properties},
    unique,
};

const SOON: Duration = Duration::from_secs(30);
const A_MOMENT: Duration = Duration::from_millis(100);

fn append_to(topic: &Arc<str>, partition: Option<i32>, value: impl Into<Bytes>) -> Append {
    Append { topic: Arc::clone(topic), partition, key: None, value: Some(value.into()), headers: Vec::new() }
}

async fn append_numbers(log: &dyn Log, topic: &Arc<str>, numbers: std::ops::Range<usize>) -> Vec<Position> {
    let partitions = i32::try_from(log.partitions(topic).unwrap().len()).unwrap();
    let records = numbers.map(|number| append_to(topic, Some(i32::try_from(number).unwrap() % partitions), number.to_string())).collect();
    log.append(records).await.into_iter().map(Result::unwrap).collect()
}

fn number(record: &Record) -> usize {
    std::str::from_utf8(record.value.as_ref().unwrap()).unwrap().parse().unwrap()
}

fn subscribe(log: &dyn Log, group: &str, topic: &Arc<str>, start: Start) -> Box<dyn Consumer> {
    let topics = Topics::Named(vec![Arc::clone(topic)]);
    log.consumer(Subscription { group: group.to_owned(), topics, start }).unwrap()
}

/// A member that does what the sources do: it settles what it reads at once, commits, and gives partitions back when asked to.
struct Worker {
    consumer: Box<dyn Consumer>,
    next: BTreeMap<i32, i64>,
    assignments: Vec<Vec<Assigned>>,
    seen: Vec<Record>,
    lost: usize,
}

impl Worker {
    fn new(consumer: Box<dyn Consumer>) -> Worker {
        Worker { consumer, next: BTreeMap::new(), assignments: Vec::new(), seen: Vec::new(), lost: 0 }
    }

    fn turn(&mut self) {
        self.turn_within(A_MOMENT);
    }

    fn turn_within(&mut self, timeout: Duration) {
        match self.consumer.poll(timeout, 500) {
            Ok(Polled::Records(records)) => {
                for record in &records {
                    let next = self.next.get_mut(&record.position.partition).expect("records come from assigned partitions only");
                    assert!(record.position.offset >= *next, "records come in the order of offsets");
                    *next = record.position.offset + 1;
                }
                self.seen.extend(records);
            }
            Ok(Polled::Assigned(assigned)) => {
                self.next.extend(assigned.iter().map(|assigned| (assigned.partition.partition, assigned.start)));
                self.assignments.push(assigned);
            }
            Ok(Polled::Revoked { partitions, lost }) => {
                if lost {
                    self.lost += 1;
                } else {
                    self.commit(CommitMode::Sync).unwrap();
                }
                for partition in partitions {
                    self.next.remove(&partition.partition);
                }
                self.consumer.release().unwrap();
            }
            Err(LogError::Unavailable(_)) => {}
            Err(wrong) => panic!("{wrong}"),
        }
    }

    fn commit(&mut self, mode: CommitMode) -> Result<(), LogError> {
        let Some(topic) = self.assignments.iter().flatten().next().map(|assigned| Arc::clone(&assigned.partition.topic)) else {
            return Ok(());
        };
        let commits: Vec<Commit> = self
            .next
            .iter()
            .map(|(partition, next)| Commit {
                partition: TopicPartition { topic: Arc::clone(&topic), partition: *partition },
                offset: *next,
                metadata: format!("read to {next}"),
            })
            .collect();
        self.consumer.commit(&commits, mode)
    }

    fn until(&mut self, what: &str, within: Duration, mut done: impl FnMut(&Worker) -> bool) {
        let deadline = Instant::now() + within;
        while !done(self) {
            assert!(Instant::now() < deadline, "{what}: not within {within:?}");
            self.turn();
        }
    }

    fn numbers(&self) -> BTreeSet<usize> {
        self.seen.iter().map(number).collect()
    }

    fn partitions(&self) -> BTreeSet<i32> {
        self.next.keys().copied().collect()
    }

    fn close(self) {
        self.consumer.close(SOON);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_member_takes_partitions_over_and_nothing_is_lost_or_read_twice() {
    let log = open(&config());
    let topic = create(&*log, retained(6)).await;
    let group = unique("group");
    append_numbers(&*log, &topic, 0..600).await;

    let mut first = Worker::new(subscribe(&*log, &group, &topic, Start::Earliest));
    first.until("the first reads everything", SOON, |worker| worker.seen.len() >= 600);
    assert_eq!(first.partitions().len(), 6);

    let mut second = Worker::new(subscribe(&*log, &group, &topic, Start::Earliest));
    let deadline = Instant::now() + SOON;
    while second.partitions().len() != 3 || first.partitions().len() != 3 {
        assert!(Instant::now() < deadline, "the partitions are shared: {:?} {:?}", first.partitions(), second.partitions());
        first.turn_within(Duration::from_millis(20));
        second.turn_within(Duration::from_millis(20));
    }
    assert!(first.partitions().is_disjoint(&second.partitions()));
    // What the first committed at the revocation came with the partitions.
    for assigned in second.assignments.iter().flatten() {
        let (offset, text) = assigned.committed.as_ref().expect("the first member committed");
        assert_eq!((assigned.start, text.clone()), (*offset, format!("read to {offset}")));
    }

    append_numbers(&*log, &topic, 600..1200).await;
    let deadline = Instant::now() + SOON;
    while first.seen.len() + second.seen.len() < 1200 {
        assert!(Instant::now() < deadline, "both read on");
        first.turn_within(Duration::from_millis(20));
        second.turn_within(Duration::from_millis(20));
    }

    // The first leaves: its partitions come to the second, from where it committed.
    first.commit(CommitMode::Sync).unwrap();
    let mut all = first.numbers();
    let read = first.seen.len();
    first.close();
    second.until("the second has all", SOON, |worker| worker.partitions().len() == 6);
    append_numbers(&*log, &topic, 1200..1300).await;
    second.until("the second reads the rest", SOON, |worker| worker.numbers().contains(&1299) && worker.seen.len() + read >= 1300);
    all.extend(second.numbers());
    assert_eq!(all, (0..1300).collect());
    assert_eq!(read + second.seen.len(), 1300, "nothing was read twice");
    assert_eq!(second.lost, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_and_its_text_come_back_and_only_the_owner_can_commit() {
    let metrics = Metrics::new();
    let log = KafkaLog::open(&config(), Arc::clone(&metrics)).unwrap();
    let topic = create(&*log, retained(2)).await;
    let group = unique("group");
    append_numbers(&*log, &topic, 0..20).await;

    let mut worker = Worker::new(subscribe(&*log, &group, &topic, Start::Earliest));
    worker.until("all is read", SOON, |worker| worker.seen.len() == 20);
    assert!(worker.assignments[0].iter().all(|assigned| assigned.committed.is_none()));
    // Where the group began is committed already.
    assert_eq!(log.committed(&group, &topic).unwrap().iter().map(|(_, offset)| *offset).collect::<Vec<_>>(), [0, 0]);

    let of = |partition| TopicPartition { topic: Arc::clone(&topic), partition };
    let text = "x".repeat(METADATA_LIMIT);
    let commit = |partition, offset, metadata: &str| Commit { partition: of(partition), offset, metadata: metadata.to_owned() };
    worker.consumer.commit(&[commit(0, 7, &text), commit(1, 3, "")], CommitMode::Sync).unwrap();
    worker.consumer.commit(&[commit(1, 4, "later")], CommitMode::Async).unwrap();
    eventually("the asynchronous commit is there", SOON, || {
        worker.turn();
        let committed: Vec<i64> = log.committed(&group, &topic).unwrap().into_iter().map(|(_, offset)| offset).collect();
        (committed == [7, 4]).then_some(())
    });

    let foreign = worker.consumer.commit(&[commit(2, 1, "")], CommitMode::Sync).unwrap_err();
    assert!(foreign.to_string().contains("is not assigned"), "{foreign}");
    let too_long = worker.consumer.commit(&[commit(0, 8, &"x".repeat(METADATA_LIMIT + 1))], CommitMode::Sync).unwrap_err();
    assert!(too_long.is_fatal(), "{too_long}");
    worker.close();
    // That of the group's beginning, and the two above.
    let rendered = metrics.render();
    let counted: Vec<&str> = rendered.lines().filter(|line| line.starts_with("posthaste_commits_total")).collect();
    assert!(counted.contains(&"posthaste_commits_total{result=\"ok\"} 3"), "{counted:?}");

    let mut again = Worker::new(subscribe(&*log, &group, &topic, Start::Latest));
    again.until("it is assigned again", SOON, |worker| !worker.assignments.is_empty());
    let mut assigned = again.assignments[0].clone();
    assigned.sort_by_key(|assigned| assigned.partition.partition);
    assert_eq!(assigned[0].committed, Some((7, text)));
    assert_eq!(assigned[1].committed, Some((4, "later".to_owned())));
    again.until("the rest is read", SOON, |worker| worker.seen.len() == 3 + 6);
    again.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_begins_where_it_was_told_even_if_it_crashes_before_it_read() {
    let log = open(&config());
    let topic = create(&*log, retained(3)).await;
    append_numbers(&*log, &topic, 0..30).await;
    let group = unique("group");

    let mut first = Worker::new(subscribe(&*log, &group, &topic, Start::Latest));
    first.until("it is assigned", SOON, |worker| !worker.assignments.is_empty());
    // It ends without having read or committed anything itself.
    first.close();
    append_numbers(&*log, &topic, 30..33).await;
    let mut second = Worker::new(subscribe(&*log, &group, &topic, Start::Latest));
    second.until("what came in between is read", SOON, |worker| worker.seen.len() >= 3);
    assert_eq!(second.numbers(), (30..33).collect());
    second.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_member_that_was_killed_goes_on_at_once_where_it_was() {
    let config = Config { instance: Some("one".into()), ..config() };
    let log = open(&config);
    let topic = create(&*log, retained(4)).await;
    append_numbers(&*log, &topic, 0..400).await;
    let mut worker = Worker::new(subscribe(&*log, &config.group, &topic, Start::Earliest));
    worker.until("all is read", SOON, |worker| worker.seen.len() == 400);
    worker.commit(CommitMode::Sync).unwrap();
    // As a killed process it neither commits nor leaves: it is not polled again, and its membership stays.
    let dead = worker;
    append_numbers(&*log, &topic, 400..404).await;

    let log = open(&config);
    let started = Instant::now();
    let mut worker = Worker::new(subscribe(&*log, &config.group, &topic, Start::Earliest));
    worker.until("it goes on", SOON, |worker| worker.seen.len() >= 4);
    assert!(started.elapsed() < Duration::from_secs(3), "after {:?}", started.elapsed());
    assert_eq!(worker.numbers(), (400..404).collect());
    worker.close();
    dead.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_fenced_by_its_double_says_so() {
    let config = Config { instance: Some("the-name".into()), ..config() };
    let log = open(&config);
    let topic = create(&*log, retained(1)).await;
    let mut first = Worker::new(subscribe(&*log, &config.group, &topic, Start::Earliest));
    first.until("the first is assigned", SOON, |worker| !worker.assignments.is_empty());
    let mut double = Worker::new(subscribe(&*log, &config.group, &topic, Start::Earliest));
    double.until("its double is assigned", SOON, |worker| !worker.assignments.is_empty());

    let wrong = eventually("the first is told", SOON, || match first.consumer.poll(A_MOMENT, 1) {
        Err(wrong @ LogError::Fatal(_)) => Some(wrong.to_string()),
        _ => None,
    });
    assert!(wrong.contains("kafka.instance `the-name`") && wrong.contains("a name of its own"), "{wrong}");
    first.close();
    double.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_brokers_own_group_protocol_can_be_chosen() {
    let config = with_properties(config(), &[("group.protocol", "consumer")]);
    let log = open(&config);
    let topic = create(&*log, retained(4)).await;
    append_numbers(&*log, &topic, 0..40).await;
    let mut first = Worker::new(subscribe(&*log, &config.group, &topic, Start::Earliest));
    first.until("all is read", SOON, |worker| worker.seen.len() == 40);
    let mut second = Worker::new(subscribe(&*log, &config.group, &topic, Start::Earliest));
    let deadline = Instant::now() + SOON;
    while second.partitions().len() != 2 || first.partitions().len() != 2 {
        assert!(Instant::now() < deadline, "the partitions are shared: {:?} {:?}", first.partitions(), second.partitions());
        first.turn_within(Duration::from_millis(20));
        second.turn_within(Duration::from_millis(20));
    }
    assert!(second.seen.is_empty(), "what was committed is not read again");
    first.close();
    second.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_asks_for_nothing_stays_a_member_and_loses_nothing() {
    let log = open(&config());
    let topic = create(&*log, retained(2)).await;
    let group = unique("group");
    append_numbers(&*log, &topic, 0..1000).await;
    let mut worker = Worker::new(subscribe(&*log, &group, &topic, Start::Earliest));
    worker.until("it has begun", SOON, |worker| worker.seen.len() >= 2);
    // Longer than it takes until the partitions are paused.
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        assert!(matches!(worker.consumer.poll(A_MOMENT, 0).unwrap(), Polled::Records(records) if records.is_empty()));
    }
    // A second member still gets its part, although the first wants no records.
    let mut second = Worker::new(subscribe(&*log, &group, &topic, Start::Earliest));
    let deadline = Instant::now() + SOON;
    while second.partitions().is_empty() {
        assert!(Instant::now() < deadline, "the first gives a partition back");
        second.turn_within(Duration::from_millis(20));
        if let Polled::Revoked { partitions, .. } = worker.consumer.poll(Duration::from_millis(20), 0).unwrap() {
            worker.commit(CommitMode::Sync).unwrap();
            for partition in partitions {
                worker.next.remove(&partition.partition);
            }
            worker.consumer.release().unwrap();
        }
    }
    let deadline = Instant::now() + SOON;
    while worker.seen.len() + second.seen.len() < 1000 {
        assert!(Instant::now() < deadline, "both read the rest");
        worker.turn_within(Duration::from_millis(20));
        second.turn_within(Duration::from_millis(20));
    }
    let all: BTreeSet<usize> = worker.numbers().union(&second.numbers()).copied().collect();
    assert_eq!(all, (0..1000).collect());
    assert_eq!(worker.seen.len() + second.seen.len(), 1000, "nothing was read twice");
    worker.close();
    second.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_is_what_was_not_read_yet() {
    let log = open(&config());
    let topic = create(&*log, retained(1)).await;
    append_numbers(&*log, &topic, 0..50).await;
    let mut consumer = subscribe(&*log, &unique("group"), &topic, Start::Earliest);
    eventually("it is assigned", SOON, || matches!(consumer.poll(A_MOMENT, 10).unwrap(), Polled::Assigned(_)).then_some(()));
    assert_eq!(consumer.lag(), Some(50));
    let read = eventually("records", SOON, || match consumer.poll(A_MOMENT, 10).unwrap() {
        Polled::Records(records) if !records.is_empty() => Some(records.len() as u64),
        _ => None,
    });
    assert_eq!(consumer.lag(), Some(50 - read));
    consumer.close(SOON);
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_created_as_they_are_needed_and_only_ours_without_being_asked() {
    let log = open(&config());
    let (ours, compacted) = (retained(3), topic(1, Cleanup::Compact));
    let both = [ours.clone(), compacted.clone()];
    log.ensure(&both).await.unwrap();
    log.ensure(&both).await.unwrap();
    assert_eq!(log.partitions(&ours.name).unwrap(), [0, 1, 2]);
    assert_eq!(log.partitions(&compacted.name).unwrap(), [0]);

    let theirs = TopicSpec { internal: false, ..retained(2) };
    let wrong = log.ensure(std::slice::from_ref(&theirs)).await.unwrap_err();
    let text = wrong.to_string();
    assert!(wrong.is_fatal(), "{text}");
    for part in [&*theirs.name, "topics.events", "kafka.create_topics = true", "kafka-topics.sh", "--partitions 2"] {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
    let missing = log.partitions(&theirs.name).unwrap_err().to_string();
    assert!(missing.contains(&*theirs.name) && missing.contains("is not there"), "{missing}");

    let willing = open(&Config { create_topics: true, ..config() });
    willing.ensure(std::slice::from_ref(&theirs)).await.unwrap();
    assert_eq!(willing.partitions(&theirs.name).unwrap(), [0, 1]);

    // A registry on a topic that forgets would lose endpoints; one with several partitions has no order.
    let forgetful = TopicSpec { cleanup: Cleanup::Compact, ..ours };
    let wrong = log.ensure(&[forgetful]).await.unwrap_err().to_string();
    assert!(wrong.contains("cleanup.policy=delete") && wrong.contains("kafka-configs.sh"), "{wrong}");
    let many = TopicSpec { partitions: 2, ..topic(2, Cleanup::Compact) };
    log.ensure(std::slice::from_ref(&many)).await.unwrap();
    let wrong = log.ensure(&[TopicSpec { partitions: 1, ..many }]).await.unwrap_err().to_string();
    assert!(wrong.contains("has 2 partitions and must have 1"), "{wrong}");
}

/// Clients speak SASL and have no rights; the broker and its controller trust each other.
fn without_rights() -> Broker {
    Broker::start_with(|port, controller| {
        let internal = crate::support::free_ports::<1>()[0];
        [
            &format!("listeners=CLIENTS://127.0.0.1:{port},INTERNAL://127.0.0.1:{internal},CONTROLLER://127.0.0.1:{controller}"),
            &format!("advertised.listeners=CLIENTS://127.0.0.1:{port},INTERNAL://127.0.0.1:{internal}"),
            "listener.security.protocol.map=CLIENTS:SASL_PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name=INTERNAL",
            "sasl.enabled.mechanisms=PLAIN",
            "listener.name.clients.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_alice=\"wonder\";",
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users=User:ANONYMOUS",
        ]
        .map(ToOwned::to_owned)
        .into()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn forbidden_creation_and_a_wrong_password_name_the_thing_and_the_cure() {
    let broker = without_rights();
    let sasl = |password| {
        let properties =
            [("security.protocol", "sasl_plaintext"), ("sasl.mechanism", "PLAIN"), ("sasl.username", "alice"), ("sasl.password", password)];
        open(&with_properties(broker.config(), &properties))
    };
    let log = sasl("wonder");
    let topic = retained(2);
    let wrong = log.ensure(std::slice::from_ref(&topic)).await.unwrap_err();
    assert!(wrong.is_fatal(), "{wrong}");
    let wrong = wrong.to_string();
    for part in [&*topic.name, "could not be created", "ACL", "kafka-topics.sh", "--partitions 2", "cleanup.policy=delete"] {
        assert!(wrong.contains(part), "`{part}` is missing in: {wrong}");
    }

    let wrong = sasl("wunder").ensure(&[topic]).await.unwrap_err().to_string();
    assert!(wrong.contains("kafka.brokers") && wrong.contains(&broker.address()), "{wrong}");
    assert!(wrong.contains("Authentication failed") && !wrong.contains("wunder"), "{wrong}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_broker_is_said_in_one_line_that_names_the_address() {
    let [port] = crate::support::free_ports();
    let address = format!("127.0.0.1:{port}");
    let log = open(&Config { brokers: address.clone(), ..Config::default() });
    let wrong = log.ensure(&[retained(1)]).await.unwrap_err();
    assert!(!wrong.is_fatal());
    assert!(wrong.to_string().contains("kafka.brokers") && wrong.to_string().contains(&address), "{wrong}");
}

#[test]
fn a_property_that_breaks_a_promise_stops_the_start() {
    let config = with_properties(Config::default(), &[("acks", "1"), ("enable.auto.commit", "true")]);
    let wrong = KafkaLog::open(&config, Metrics::new()).err().unwrap();
    assert!(wrong.is_fatal());
    let text = wrong.to_string();
    assert!(text.contains("properties.acks: cannot be set") && text.contains("properties.enable.auto.commit: cannot be set"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_is_refused_alone() {
    let log = open(&config());
    let topic = create(&*log, TopicSpec { max_record: 2 << 20, ..retained(1) }).await;
    let limit = (2 << 20) + 4096;
    // The first is above the topic's limit, the last above what any producer of ours takes.
    let sizes = [10, limit + 1, 1 << 20, 40 << 20, 2 << 20];
    let results = log.append(sizes.map(|size| append_to(&topic, Some(0), vec![b'x'; size])).into()).await;
    for (result, size) in results.iter().zip(sizes) {
        match result {
            Ok(_) => assert!(size < limit, "{size}"),
            Err(LogError::TooLarge { size: said, limit: told, topic: of }) => {
                assert!(size > limit, "{size}");
                assert_eq!((*said, *told, &**of), (size, limit, &*topic));
            }
            Err(wrong) => panic!("{wrong}"),
        }
    }
    let mut reader = log.reader(TopicPartition { topic, partition: 0 }, From::Earliest).unwrap();
    let mut lengths = Vec::new();
    eventually("the others are there", SOON, || {
        lengths.extend(reader.poll(A_MOMENT, 10).unwrap().iter().map(|record| record.value.as_ref().unwrap().len()));
        (lengths.len() == 3).then_some(())
    });
    assert_eq!(lengths, [10, 1 << 20, 2 << 20]);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_producers_queue_holds_waits_for_room_in_order() {
    let log = open(&with_properties(config(), &[("queue.buffering.max.messages", "50")]));
    let topic = create(&*log, retained(1)).await;
    let records = (0..2000).map(|number| append_to(&topic, Some(0), number.to_string())).collect();
    let offsets: Vec<i64> = log.append(records).await.into_iter().map(|result| result.unwrap().offset).collect();
    assert_eq!(offsets, (0..2000).collect::<Vec<i64>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_records_are_read_as_they_are() {
    use rdkafka::{
        ClientConfig,
        message::{Header, OwnedHeaders},
        producer::{BaseProducer, BaseRecord, Producer},
    };
    let log = open(&config());
    let topic = create(&*log, retained(1)).await;
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", brokers()).create().unwrap();
    let headers =
        OwnedHeaders::new().insert(Header { key: "none", value: None::<&[u8]> }).insert(Header { key: "ü", value: Some(&[0xff]) });
    producer.send(BaseRecord::<[u8], [u8]>::to(&topic).key(b"").payload(&[0xff, 0]).headers(headers)).unwrap();
    producer.send(BaseRecord::<[u8], [u8]>::to(&topic).key(&[0xfe])).unwrap();
    producer.send(BaseRecord::<[u8], [u8]>::to(&topic).payload(b"")).unwrap();
    producer.flush(SOON).unwrap();
    // Names of headers are bytes to a producer in C.
    let mut kcat = std::process::Command::new("kcat")
        .args(["-P", "-b", &brokers(), "-t", &topic, "-H", "good=1", "-H"])
        .arg(std::ffi::OsStr::from_bytes(b"\xff\xfe=2"))
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("kcat: run the tests by tests/run, which installs it");
    kcat.stdin.take().unwrap().write_all(b"from C").unwrap();
    assert!(kcat.wait().unwrap().success());

    let mut reader = log.reader(TopicPartition { topic, partition: 0 }, From::Earliest).unwrap();
    let mut records = Vec::new();
    eventually("four records", SOON, || {
        records.extend(reader.poll(A_MOMENT, 10).unwrap());
        (records.len() == 4).then_some(())
    });
    assert_eq!(records[0].key.as_deref(), Some(&b""[..]));
    assert_eq!(records[0].value.as_deref(), Some(&[0xff, 0][..]));
    assert_eq!(records[0].header("none").map(|value| &value[..]), Some(&b""[..]));
    assert_eq!(records[0].header("ü").map(|value| &value[..]), Some(&[0xff][..]));
    assert_eq!((records[1].key.as_deref(), records[1].value.as_deref()), (Some(&[0xfe][..]), None));
    assert_eq!((records[2].key.as_deref(), records[2].value.as_deref()), (None, Some(&b""[..])));
    let headers: Vec<(&str, &[u8])> = records[3].headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(headers, [("good", &b"1"[..])], "a header that cannot be named is left out, and the record is not lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_reaches_the_end_also_where_it_is_no_record() {
    use rdkafka::{
        ClientConfig,
        producer::{BaseProducer, BaseRecord, Producer},
    };
    let log = open(&config());
    let topic = create(&*log, topic(1, Cleanup::Compact)).await;
    // A transaction ends with a marker that is an offset and no record.
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", brokers()).set("transactional.id", unique("tx")).create().unwrap();
    producer.init_transactions(SOON).unwrap();
    producer.begin_transaction().unwrap();
    producer.send(BaseRecord::to(&topic).key("k").payload("v")).unwrap();
    producer.commit_transaction(SOON).unwrap();

    let of = TopicPartition { topic: Arc::clone(&topic), partition: 0 };
    // The broker writes the marker a moment after it has answered the commit.
    eventually("the marker is written", SOON, || {
        let end = log.reader(of.clone(), From::Earliest).unwrap().end().unwrap();
        (end == 2).then_some(())
    });
    for from in [From::Earliest, From::Offset(0), From::Offset(1)] {
        let mut reader = log.reader(of.clone(), from).unwrap();
        let end = reader.end().unwrap();
        assert_eq!(end, 2);
        let mut read = 0;
        eventually("the reader is at the end", SOON, || {
            read += reader.poll(A_MOMENT, 10).unwrap().len();
            (reader.next() == end).then_some(())
        });
        assert_eq!(read, usize::from(from != From::Offset(1)));
    }
    // Behind the end nothing comes until that offset is written.
    let mut ahead = log.reader(of, From::Offset(3)).unwrap();
    assert!(ahead.poll(A_MOMENT, 10).unwrap().is_empty());
    let keyed = |value: &'static str| Append { key: Some(Bytes::from_static(b"k")), ..append_to(&topic, Some(0), value) };
    assert!(log.append(vec![keyed("2"), keyed("3")]).await.iter().all(Result::is_ok));
    let records = eventually("the record comes", SOON, || Some(ahead.poll(A_MOMENT, 10).unwrap()).filter(|records| !records.is_empty()));
    assert_eq!(records.iter().map(|record| record.position.offset).collect::<Vec<_>>(), [3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_made_later_is_found_by_its_prefix() {
    let log = open(&with_properties(config(), &[("topic.metadata.refresh.interval.ms", "500")]));
    let prefix = unique("retry.");
    let spec = |name: &str| TopicSpec { name: format!("{prefix}.{name}").into(), ..retained(1) };
    let near = create(&*log, spec("1s")).await;
    let subscription = Subscription { group: unique("group"), topics: Topics::Prefixed(prefix.clone()), start: Start::Earliest };
    let mut consumer = log.consumer(subscription).unwrap();
    let mut assigned_topic = |what: &str| {
        eventually(what, SOON, || match consumer.poll(A_MOMENT, 10).unwrap() {
            Polled::Assigned(assigned) if !assigned.is_empty() => Some(assigned[0].partition.topic.to_string()),
            Polled::Revoked { .. } => consumer.release().map(|()| None).unwrap(),
            _ => None,
        })
    };
    assert_eq!(assigned_topic("the first topic"), &*near);
    let far = create(&*log, spec("1h")).await;
    assert_eq!(assigned_topic("the second topic"), &*far);
    consumer.close(SOON);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_freezes_costs_time_and_no_record() {
    let broker = Broker::start(&["group.min.session.timeout.ms=1000"]);
    let config = with_properties(
        broker.config(),
        &[("delivery.timeout.ms", "3000"), ("socket.timeout.ms", "2000"), ("session.timeout.ms", "4000"), ("heartbeat.interval.ms", "500")],
    );
    let log = open(&config);
    let topic = create(&*log, retained(2)).await;
    append_numbers(&*log, &topic, 0..100).await;
    let mut worker = Worker::new(subscribe(&*log, &config.group, &topic, Start::Earliest));
    worker.until("the first are read", SOON, |worker| worker.seen.len() == 100);
    worker.commit(CommitMode::Sync).unwrap();

    broker.freeze();
    let unanswered = log.append(vec![append_to(&topic, Some(0), "100")]).await.remove(0);
    assert!(matches!(unanswered, Err(LogError::Unavailable(_))), "{unanswered:?}");
    let failed = worker.commit(CommitMode::Sync);
    assert!(matches!(failed, Err(LogError::Unavailable(_))), "{failed:?}");
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        worker.turn();
    }

    broker.thaw();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        worker.turn();
        if log.append(vec![append_to(&topic, Some(1), "101")]).await[0].is_ok() {
            break;
        }
        assert!(Instant::now() < deadline, "appends go on");
    }
    worker.until("what came later is read", Duration::from_secs(60), |worker| worker.numbers().contains(&101));
    worker.until("it can commit", SOON, |_| true);
    eventually("it can commit", SOON, || {
        worker.turn();
        worker.commit(CommitMode::Sync).ok()
    });
    let expected: BTreeSet<usize> = (0..100).chain([101]).collect();
    assert!(worker.numbers().is_superset(&expected), "nothing is missing");
    worker.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_killed_and_came_back_has_what_it_acknowledged() {
    let mut broker = Broker::start(&[]);
    let config = with_properties(broker.config(), &[("delivery.timeout.ms", "2000"), ("socket.timeout.ms", "1000")]);
    let log = open(&config);
    let topic = create(&*log, retained(1)).await;
    append_numbers(&*log, &topic, 0..500).await;
    broker.kill();
    let down = log.append(vec![append_to(&topic, Some(0), "lost")]).await.remove(0);
    assert!(matches!(down, Err(LogError::Unavailable(_))), "{down:?}");
    // Leaving while nobody answers takes no longer than it may.
    let mut consumer = subscribe(&*log, &config.group, &topic, Start::Earliest);
    assert!(matches!(consumer.poll(A_MOMENT, 10), Ok(Polled::Records(records)) if records.is_empty()));
    let started = Instant::now();
    consumer.close(Duration::from_secs(2));
    assert!(started.elapsed() < Duration::from_secs(4), "closed after {:?}", started.elapsed());

    broker.restart();
    let mut worker = Worker::new(subscribe(&*log, &config.group, &topic, Start::Earliest));
    worker.until("everything acknowledged is read", Duration::from_secs(60), |worker| worker.seen.len() >= 500);
    assert_eq!(worker.numbers(), (0..500).collect());
    worker.close();
}
