use std::io::Read;

use super::*;
use crate::{
    log::LogError,
    model::{Failure, time::timestamp_from_ms},
    settle::test_log::{TestLog, attempt, delivery, endpoint},
};

fn at(ms: i64, number: u32, outcome: Outcome) -> Attempt {
    Attempt { started_at: timestamp_from_ms(ms), ..attempt(number, outcome) }
}

fn of(id: &str) -> Endpoint {
    Endpoint { id: id.into(), ..endpoint() }
}

fn journal(config: Config) -> (Arc<Journal>, Writer, Arc<TestLog>, Arc<Metrics>) {
    assert_eq!(config.check(), []);
    let (log, metrics) = (TestLog::new(), Metrics::new());
    let (journal, writer) = Journal::new(log.clone(), "attempts".into(), config, 2, metrics.clone());
    (journal, writer, log, metrics)
}

fn lines(log: &TestLog) -> Vec<Vec<Entry>> {
    let read = |record: crate::log::Record| {
        let mut text = String::new();
        let value = record.value.expect("a value");
        flate2::read::GzDecoder::new(&*value).read_to_string(&mut text).expect("gzip of text");
        text.lines().map(|line| serde_json::from_str(line).expect("an entry")).collect()
    };
    log.records("attempts").into_iter().map(read).collect()
}

#[tokio::test(start_paused = true)]
async fn attempts_are_written_in_batches_by_shard_and_the_last_ones_when_it_stops() {
    let (journal, writer, log, _) = journal(Config { keep: Keep::All, batch_size: 3, ..Config::default() });
    let delivery = delivery(timestamp_from_ms(0));
    for number in 1..=7 {
        journal.record(0, &at(number.into(), number, Outcome::Delivered), &delivery, &of("a"));
    }
    journal.record(1, &at(9, 1, Outcome::Failed(Failure::Refused)), &delivery, &of("b"));
    let task = tokio::spawn(writer.run());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut sizes: Vec<usize> = lines(&log).iter().map(Vec::len).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 1, 3, 3]);
    journal.record(0, &at(10, 1, Outcome::Delivered), &delivery, &of("a"));
    journal.stop();
    task.await.expect("it ends");
    assert_eq!(lines(&log).iter().map(Vec::len).sum::<usize>(), 9);
}

#[tokio::test(start_paused = true)]
async fn a_test_is_found_among_any_number_of_deliveries() {
    for keep in [Keep::Failures, Keep::All] {
        let (journal, writer, _, _) = journal(Config { keep, recent: 2, ..Config::default() });
        let ordinary = delivery(timestamp_from_ms(0));
        let test = Delivery { purpose: Purpose::Test, ..ordinary.clone() };
        for ms in 1..20 {
            let delivery = if ms == 5 { &test } else { &ordinary };
            journal.record(0, &at(ms, 1, Outcome::Delivered), delivery, &of("a"));
        }
        writer.write().await;
        let found: Vec<Purpose> = journal.recent(&Filter::default(), 10).iter().map(|entry| entry.purpose).collect();
        assert_eq!((found.len(), found.iter().filter(|purpose| **purpose == Purpose::Test).count()), (3, 1), "{found:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_latest_attempts_can_be_asked_for_and_successes_do_not_bury_failures() {
    let (journal, writer, _, _) = journal(Config { recent: 2, recent_endpoints: 2, ..Config::default() });
    let delivery = delivery(timestamp_from_ms(0));
    let refused = || Outcome::Failed(Failure::Refused);
    journal.record(0, &at(1, 1, refused()), &delivery, &of("a"));
    for ms in 2..10 {
        journal.record(0, &at(ms, 1, Outcome::Delivered), &delivery, &of("a"));
    }
    journal.record(0, &at(10, 3, Outcome::Failed(Failure::Status(500))), &delivery, &of("b"));
    writer.write().await;
    let found = |filter: Filter| {
        journal.recent(&filter, 10).iter().map(|entry| (entry.at.as_millisecond(), entry.outcome.to_string())).collect::<Vec<_>>()
    };
    let times = |filter| found(filter).into_iter().map(|(at, _)| at).collect::<Vec<_>>();
    assert_eq!(times(Filter { endpoint: Some("a".into()), ..Filter::default() }), [3, 2, 1]);
    assert_eq!(times(Filter { since: Some(timestamp_from_ms(3)), ..Filter::default() }), [10, 3]);
    assert_eq!(times(Filter { tenant: Some("other".into()), ..Filter::default() }), [0; 0]);
    let entry = journal.recent(&Filter { endpoint: Some("b".into()), ..Filter::default() }, 1).remove(0);
    assert_eq!((entry.attempt, &*entry.outcome, entry.elapsed_ms), (3, "status_5xx", 12.0));
    assert_eq!(entry.detail.as_deref(), Some("status 500 after 0.012 s"));
    journal.record(0, &at(11, 1, Outcome::Delivered), &delivery, &of("c"));
    writer.write().await;
    assert_eq!(times(Filter { endpoint: Some("a".into()), ..Filter::default() }), [0; 0]);
    journal.forget(&"c".into());
    assert_eq!(times(Filter::default()), [10]);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_takes_nothing_loses_attempts_and_says_how_many() {
    let (journal, writer, log, metrics) = journal(Config { keep: Keep::All, batch_size: 1, ..Config::default() });
    log.fail(|_| Some(LogError::Unavailable("disk full".into())));
    for number in 1..=BUFFERED_BATCHES as u32 + 4 {
        journal.record(0, &attempt(number, Outcome::Delivered), &delivery(timestamp_from_ms(0)), &endpoint());
    }
    writer.write().await;
    assert!(metrics.render().contains("posthaste_journal_dropped_total 20"), "{}", metrics.render());
}

#[tokio::test(start_paused = true)]
async fn large_events_are_not_kept_in_memory_by_a_journal_that_hangs() {
    let (journal, _writer, _, metrics) = journal(Config { keep: Keep::All, ..Config::default() });
    let (base, data) = (delivery(timestamp_from_ms(0)), Bytes::from(vec![b'1'; 1 << 20]));
    let delivery = Delivery { event: Arc::new(Event { data, ..(*base.event).clone() }), ..base };
    for number in 1..=40 {
        journal.record(0, &attempt(number, Outcome::Delivered), &delivery, &endpoint());
    }
    assert!(lock(&journal.buffers[0]).bytes < BUFFERED_BYTES + (2 << 20));
    assert!(metrics.render().contains("posthaste_journal_dropped_total 24"), "{}", metrics.render());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_kept_is_shown_but_not_written() {
    for (keep, noted) in [(Keep::All, 2), (Keep::Failures, 1), (Keep::None, 0)] {
        let (journal, writer, _, _) = journal(Config { keep, ..Config::default() });
        journal.record(0, &attempt(1, Outcome::Delivered), &delivery(timestamp_from_ms(0)), &endpoint());
        journal.record(0, &attempt(1, Outcome::Failed(Failure::Reset)), &delivery(timestamp_from_ms(0)), &endpoint());
        assert_eq!(lock(&journal.buffers[0]).batch.len(), noted);
        writer.write().await;
        assert_eq!(journal.recent(&Filter::default(), 10).len(), 2);
    }
}
