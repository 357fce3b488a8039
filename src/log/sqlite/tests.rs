use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::*;
use crate::{
    log::{Cleanup, Commit, CommitMode, Polled, Record, Start, Topics},
    model::time::ManualClock,
};

const SECOND: Duration = Duration::from_secs(1);

/// What takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

fn options() -> SqliteOptions {
    SqliteOptions::new(&crate::log::Config::default(), Metrics::new())
}

fn spec(name: &str, partitions: u32, cleanup: Cleanup) -> TopicSpec {
    TopicSpec { name: name.into(), partitions, cleanup, max_record: 1 << 20, internal: true }
}

async fn open(directory: &Path, options: SqliteOptions) -> Arc<SqliteLog> {
    let log = SqliteLog::open(directory, options).expect("opens");
    log.ensure(&[spec("t", 1, Cleanup::Retain(60 * SECOND)), spec("compact", 1, Cleanup::Compact)]).await.expect("topics");
    log
}

fn record(topic: &str, key: Option<&str>, value: impl Into<Bytes>) -> Append {
    let key = key.map(|key| Bytes::copy_from_slice(key.as_bytes()));
    Append { topic: topic.into(), partition: Some(0), key, value: Some(value.into()), headers: vec![] }
}

async fn fill(log: &SqliteLog, range: std::ops::Range<u32>) -> Vec<Position> {
    let records = range.map(|n| record("t", None, n.to_string())).collect();
    log.append(records).await.into_iter().map(|result| result.expect("stored")).collect()
}

fn zero(topic: &str) -> TopicPartition {
    TopicPartition { topic: topic.into(), partition: 0 }
}

fn read(log: &SqliteLog, topic: &str) -> Vec<Record> {
    let mut reader = log.reader(zero(topic), From::Earliest).expect("a reader");
    let mut records = Vec::new();
    while reader.next() < reader.end().expect("an end") {
        records.extend(reader.poll(Duration::ZERO, 7).expect("a poll"));
    }
    records
}

fn numbers(records: &[Record]) -> Vec<u32> {
    let number = |record: &Record| std::str::from_utf8(record.value.as_ref()?).ok()?.parse().ok();
    records.iter().map(|record| number(record).expect("a number")).collect()
}

fn member(log: &SqliteLog, start: Start) -> Box<dyn Consumer> {
    log.consumer(Subscription { group: "g".into(), topics: Topics::Named(vec!["t".into()]), start }).expect("a consumer")
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// What a crash of the process leaves: the files as they are, without anything that closing does. The shared-memory file is left out, as
/// after a crash of the machine.
fn crash(from: &Path, to: &Path) {
    for file in ["log.db", "log.db-wal"] {
        fs::copy(from.join(file), to.join(file)).expect(file);
    }
}

#[tokio::test]
async fn what_was_answered_survives_a_crash_at_any_time() {
    let (living, dead) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = open(living.path(), options()).await;
    let mut consumer = member(&log, Start::Earliest);
    let Polled::Assigned(assigned) = consumer.poll(PATIENCE, 1).unwrap() else { panic!("not assigned") };
    let mut stored = Vec::new();
    for round in 0..20 {
        stored.extend(fill(&log, round * 10..round * 10 + 10).await);
        let commit = Commit { partition: zero("t"), offset: stored[round as usize].offset, metadata: round.to_string() };
        consumer.commit(&[commit], CommitMode::Sync).unwrap();
        crash(living.path(), dead.path());

        let after = SqliteLog::open(dead.path(), options()).expect("opens after a crash");
        let records = read(&after, "t");
        assert_eq!(records.iter().map(|record| record.position.clone()).collect::<Vec<_>>(), stored);
        assert_eq!(numbers(&records), (0..round * 10 + 10).collect::<Vec<_>>());
        let mut consumer = member(&after, Start::Latest);
        let Polled::Assigned(again) = consumer.poll(PATIENCE, 1).unwrap() else { panic!("not assigned") };
        assert_eq!(again[0].committed, Some((stored[round as usize].offset, round.to_string())));
        assert_eq!(fill(&after, 0..1).await[0].offset, stored.last().unwrap().offset + 1);
    }
    assert_eq!(assigned[0].start, stored[0].offset);
}

/// The process that is killed is this test once more, told by the environment to write.
#[tokio::test]
async fn what_was_answered_survives_sigkill() {
    const DIRECTORY: &str = "POSTHASTE_TEST_KILLED_LOG";
    const NAME: &str = "log::sqlite::tests::what_was_answered_survives_sigkill";
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        let log = open(Path::new(&directory), options()).await;
        for round in 0.. {
            fill(&log, round * 50..round * 50 + 50).await;
            println!("\nstored {}", round * 50 + 50);
        }
    }
    let directory = tempfile::tempdir().unwrap();
    for life in 1..=3 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", NAME])
            .env(DIRECTORY, directory.path().join(life.to_string()))
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap())).map_while(Result::ok);
        let mut stored = 0;
        for line in lines {
            stored = line.strip_prefix("stored ").map_or(stored, |count| count.parse().unwrap());
            if stored == 10_000 * life {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(stored >= 10_000 * life, "the child ended by itself after {stored}");
        let log = open(&directory.path().join(life.to_string()), options()).await;
        let found = numbers(&read(&log, "t"));
        assert!(found.len() >= stored as usize, "{} of {stored}", found.len());
        assert!(found.iter().copied().eq(0..found.len() as u32), "in order and once");
    }
}

#[tokio::test]
async fn the_damaged_end_of_a_torn_write_is_no_record_and_no_error() {
    let (living, dead) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = open(living.path(), options()).await;
    fill(&log, 0..10).await;
    let whole = fs::metadata(living.path().join("log.db-wal")).unwrap().len();
    fill(&log, 10..20).await;
    crash(living.path(), dead.path());
    // The second transaction reached the disk only in part.
    let wal = fs::OpenOptions::new().write(true).open(dead.path().join("log.db-wal")).unwrap();
    wal.set_len(whole + 1000).unwrap();
    let after = SqliteLog::open(dead.path(), options()).expect("opens");
    assert_eq!(numbers(&read(&after, "t")), (0..10).collect::<Vec<_>>());
    fill(&after, 10..12).await;
    assert_eq!(numbers(&read(&after, "t")), (0..12).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_directory_belongs_to_one_process() {
    let directory = tempfile::tempdir().unwrap();
    let inside = directory.path().join("made/here");
    let log = open(&inside, options()).await;
    let error = SqliteLog::open(&inside, options()).expect_err("it is in use").to_string();
    assert!(error.contains("data directory in use by another process") && error.contains(&std::process::id().to_string()), "{error}");
    log.close(PATIENCE);
    SqliteLog::open(&inside, options()).expect("free again");

    let error = SqliteLog::open(Path::new("/proc/none"), options()).expect_err("not writable");
    assert!(error.is_fatal() && error.to_string().contains("log.data_directory"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_not_ours_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("log.db"), "no database at all, but quite long".repeat(100)).unwrap();
    let error = SqliteLog::open(directory.path(), options()).expect_err("no database");
    assert!(error.is_fatal(), "{error}");
    fs::remove_file(directory.path().join("log.db")).unwrap();
    rusqlite::Connection::open(directory.path().join("log.db")).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = SqliteLog::open(directory.path(), options()).expect_err("of the future").to_string();
    assert!(error.contains("newer posthaste"), "{error}");
}

#[tokio::test]
async fn offsets_begin_at_the_time_of_creation_and_are_never_given_out_twice() {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::at_ms(1_750_000_000_000);
    let options = || SqliteOptions { clock: Arc::new(clock.clone()), sweep_every: Duration::from_millis(1), ..options() };
    let log = open(directory.path(), options()).await;
    let first = fill(&log, 0..3).await;
    assert_eq!(first[0].offset, 1_750_000_000_000);
    // All but the last record are too old: it stays, and tells the next offset.
    clock.advance_ms(3_600_000);
    eventually("retention deletes", || read(&log, "t").len() == 1);
    drop(log);
    let log = open(directory.path(), options()).await;
    assert_eq!(fill(&log, 3..4).await[0].offset, 1_750_000_000_003);
    drop(log);

    // A clock that was set back does not make a time fall along the partition.
    clock.advance_ms(-7_200_000);
    let log = open(directory.path(), options()).await;
    fill(&log, 4..5).await;
    let times: Vec<i64> = read(&log, "t").iter().map(|record| record.appended_ms).collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[tokio::test]
async fn retention_never_deletes_what_a_group_has_to_read() {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::at_ms(1_750_000_000_000);
    let log =
        open(directory.path(), SqliteOptions { clock: Arc::new(clock.clone()), sweep_every: Duration::from_millis(1), ..options() }).await;
    let mut consumer = member(&log, Start::Earliest);
    assert!(matches!(consumer.poll(PATIENCE, 1).unwrap(), Polled::Assigned(_)));
    let mut stored = fill(&log, 0..5000).await;
    clock.advance_ms(3_600_000);
    stored.extend(fill(&log, 5000..5010).await);
    let commit = |offset| [Commit { partition: zero("t"), offset, metadata: String::new() }];
    consumer.commit(&commit(stored[3000].offset), CommitMode::Sync).unwrap();
    consumer.close(PATIENCE);
    eventually("what was read goes", || read(&log, "t")[0].position == stored[3000]);
    fill(&log, 5010..5011).await;
    assert_eq!(numbers(&read(&log, "t")), (3000..5011).collect::<Vec<_>>(), "what was not read stays, however old");

    let mut consumer = member(&log, Start::Earliest);
    assert!(matches!(consumer.poll(PATIENCE, 1).unwrap(), Polled::Assigned(_)));
    consumer.commit(&commit(stored[5009].offset), CommitMode::Sync).unwrap();
    eventually("what is too old goes", || read(&log, "t")[0].position == stored[5000]);
    fill(&log, 5011..5012).await;
    assert_eq!(numbers(&read(&log, "t")), (5000..5012).collect::<Vec<_>>(), "what is young stays, although it was read");
}

#[tokio::test]
async fn a_compacted_topic_holds_one_record_per_key_and_loses_old_tombstones() {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::at_ms(1_750_000_000_000);
    let options = || SqliteOptions { clock: Arc::new(clock.clone()), sweep_every: Duration::from_millis(1), tail: 0, ..options() };
    let log = open(directory.path(), options()).await;
    for round in 0..10 {
        let mut records: Vec<Append> = (0..3).map(|key| record("compact", Some(&format!("k{key}")), round.to_string())).collect();
        records.push(record("compact", None, "without a key"));
        assert!(log.append(records).await.iter().all(Result::is_ok));
    }
    let tombstone = Append { value: None, ..record("compact", Some("k1"), "") };
    assert!(log.append(vec![tombstone, record("compact", Some("k2"), "last")]).await.iter().all(Result::is_ok));
    let keyed = |log: &SqliteLog| -> Vec<(String, Option<Bytes>)> {
        let records = read(log, "compact").into_iter();
        let keyed = records.filter_map(|record| Some((String::from_utf8(record.key?.to_vec()).ok()?, record.value)));
        keyed.collect()
    };
    let wanted = [("k0".to_owned(), Some(Bytes::from("9"))), ("k1".to_owned(), None), ("k2".to_owned(), Some(Bytes::from("last")))];
    assert_eq!(keyed(&log), wanted);
    clock.advance_ms(25 * 3_600_000);
    eventually("the tombstone goes", || keyed(&log).len() == 2);
}

#[tokio::test]
async fn a_full_log_refuses_and_goes_on_when_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::at_ms(1_750_000_000_000);
    let sweeping = |every| SqliteOptions { clock: Arc::new(clock.clone()), sweep_every: every, max_size: Some(2 << 20), ..options() };
    let log = open(directory.path(), sweeping(Duration::from_millis(1))).await;
    let mut stored = Vec::new();
    let error = loop {
        match log.append(vec![record("t", None, vec![7; 10_000])]).await.remove(0) {
            Ok(position) => stored.push(position),
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, LogError::Unavailable(text) if text.contains("no room")), "{error}");
    assert!(stored.len() > 50, "{}", stored.len());
    let positions = |log: &SqliteLog| read(log, "t").into_iter().map(|record| record.position).collect::<Vec<_>>();
    assert_eq!(positions(&log), stored, "what failed is not there, what was answered is");
    clock.advance_ms(3_600_000);
    eventually("retention makes room", || positions(&log).len() == 1);
    let after = fill(&log, 0..1).await;
    assert_eq!(after[0].offset, stored.last().unwrap().offset + 1, "no offset is lost or used twice");
    drop(log);
    let log = open(directory.path(), sweeping(PATIENCE)).await;
    assert_eq!(positions(&log).last(), after.last());
}

#[tokio::test]
async fn who_falls_out_of_the_tail_reads_the_file_and_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    // A tail of about 30 records.
    let log = open(directory.path(), SqliteOptions { tail: 8 << 10, ..options() }).await;
    let mut reader = log.reader(zero("t"), From::Earliest).unwrap();
    let mut read = Vec::new();
    for round in 0..40 {
        fill(&log, round * 25..round * 25 + 25).await;
        // Falls further and further behind, then catches up.
        let count = if round < 30 { 10 } else { 1000 };
        read.extend(reader.poll(Duration::ZERO, count).unwrap());
    }
    assert_eq!(numbers(&read), (0..1000).collect::<Vec<_>>());
    assert_eq!(reader.next(), reader.end().unwrap());
}

#[tokio::test]
async fn the_tail_shares_the_bytes_that_were_appended() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path(), options()).await;
    let mut consumer = member(&log, Start::Earliest);
    assert!(matches!(consumer.poll(PATIENCE, 1).unwrap(), Polled::Assigned(_)));
    let value = Bytes::from(vec![1; 1024]);
    log.append(vec![record("t", None, value.clone())]).await.remove(0).unwrap();
    let Polled::Records(records) = consumer.poll(PATIENCE, 10).unwrap() else { panic!("no records") };
    assert_eq!(records[0].value.as_ref().unwrap().as_ptr(), value.as_ptr());
}

#[tokio::test]
async fn one_poll_brings_a_bounded_number_of_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path(), SqliteOptions { tail: 0, ..options() }).await;
    for _ in 0..12 {
        log.append(vec![record("t", None, vec![7; (1 << 20) + 1])]).await.remove(0).unwrap_err();
        log.append(vec![record("t", None, vec![7; 1_000_000])]).await.remove(0).unwrap();
    }
    let mut reader = log.reader(zero("t"), From::Earliest).unwrap();
    let sizes: Vec<usize> =
        std::iter::from_fn(|| Some(reader.poll(Duration::ZERO, 1000).unwrap().len()).filter(|count| *count > 0)).collect();
    assert_eq!(sizes, [5, 5, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_is_bounded_in_bytes_and_larger_calls_pass_alone() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path(), SqliteOptions { queue: 1 << 20, ..options() }).await;
    let most = Arc::new(AtomicUsize::new(usize::MAX));
    let calls: Vec<_> = (0..20)
        .map(|call| {
            let size = if call % 5 == 0 { 900_000 } else { 100_000 };
            let append = log.append((0..3).map(|_| record("t", None, vec![7; size])).collect());
            let (most, room) = (Arc::clone(&most), Arc::clone(&log.core.room));
            tokio::spawn(async move {
                let results = append.await;
                most.fetch_min(room.available_permits(), Ordering::Relaxed);
                results
            })
        })
        .collect();
    for call in calls {
        assert!(call.await.unwrap().iter().all(Result::is_ok));
    }
    assert_eq!(log.core.room.available_permits(), 1 << 20, "all permits are back");
    assert_eq!(read(&log, "t").len(), 60);
}

#[tokio::test]
async fn topics_that_can_not_be_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path(), options()).await;
    for (spec, word) in [
        (spec("a b", 1, Cleanup::Compact), "a b"),
        (spec("x\"; DROP TABLE topics; --", 1, Cleanup::Compact), "DROP"),
        (spec("none", 0, Cleanup::Compact), "log.partitions"),
        (spec("many", 100_000, Cleanup::Compact), "log.partitions"),
    ] {
        let error = log.ensure(&[spec]).await.expect_err(word);
        assert!(error.is_fatal() && error.to_string().contains(word), "{error}");
    }
    // The number of partitions is that of the creation; a changed clean-up is taken over.
    log.ensure(&[spec("t", 5, Cleanup::Compact)]).await.unwrap();
    assert_eq!(log.partitions("t").unwrap(), [0]);
    assert!(log.append(vec![record("t", Some("k"), "1"), record("t", Some("k"), "2")]).await.iter().all(Result::is_ok));
    drop(log);
    let log = SqliteLog::open(directory.path(), options()).unwrap();
    assert_eq!(numbers(&read(&log, "t")), [2]);
}

#[test]
fn keys_spread_over_partitions() {
    let partitions = (0..8).map(|partition| Partition::new(TopicPartition { topic: "t".into(), partition }, 0, 0)).collect();
    let topic = Topic { name: "t".into(), cleanup: Cleanup::Compact, max_record: 0, first_offset: 0, partitions, turn: Default::default() };
    let mut counts = [0; 8];
    (0..8000).for_each(|n| counts[topic.of_key(format!("channel-{n}").as_bytes())] += 1);
    assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    // Fixed for ever: records of a key are found where they were put years ago.
    assert_eq!([&b""[..], b"a", b"channel-1"].map(|key| topic.of_key(key)), [1, 0, 3]);
}
