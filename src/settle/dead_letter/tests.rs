//! On a log in memory; the same on real ones is in the scenarios of the whole.

use super::*;
use crate::{
    log::record::{decode_delivery, encode_dead_delivery, encode_dead_record},
    model::{
        DeadReason, Position,
        time::{ManualClock, timestamp_from_ms},
    },
    settle::test_log::{TestLog, delivery},
};

async fn put(log: &TestLog, endpoint: &str, reason: DeadReason, at: i64) {
    let delivery = Delivery { endpoint: endpoint.into(), attempts: 9, ..delivery(timestamp_from_ms(0)) };
    let append = encode_dead_delivery(&delivery, reason, "why", timestamp_from_ms(at)).to("dead".into());
    log.append(vec![append]).await.pop().expect("one result").expect("it is stored");
}

fn start(log: &Arc<TestLog>, index: usize) -> Arc<DeadLetters> {
    let clock = Arc::new(ManualClock::at_ms(9_000_000));
    DeadLetters::start(log.clone(), "dead".into(), "events".into(), &Config { index }, clock, Metrics::new()).expect("a thread")
}

/// The endpoints in the list, newest letter first, once there are `count`.
fn listed(letters: &DeadLetters, filter: &Filter, count: usize) -> Vec<String> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let page = letters.list(filter, None, 1_000).expect("no cursor");
        if letters.is_ready() && page.items.len() == count {
            let name = |item: Summary| item.delivery.map_or("-".to_owned(), |about| about.endpoint.to_string());
            return page.items.into_iter().map(name).collect();
        }
        assert!(Instant::now() < until, "{} letters, {count} expected", page.items.len());
        std::thread::yield_now();
    }
}

fn of(endpoint: &str) -> Filter {
    Filter { endpoint: Some(endpoint.into()), ..Filter::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_newest_first_by_pages_and_by_what_is_asked() {
    let log = TestLog::new();
    for (endpoint, reason, at) in [("a", DeadReason::Exhausted, 10), ("b", DeadReason::Final, 30), ("a", DeadReason::Expired, 20)] {
        put(&log, endpoint, reason, at).await;
    }
    let letters = start(&log, 100);
    assert_eq!(listed(&letters, &Filter::default(), 3), ["b", "a", "a"]);
    assert_eq!(listed(&letters, &of("a"), 2), ["a", "a"]);
    assert_eq!(listed(&letters, &Filter { reason: Some(DeadReason::Final), ..Filter::default() }, 1), ["b"]);
    let within = Filter { since: Some(timestamp_from_ms(20)), until: Some(timestamp_from_ms(30)), ..Filter::default() };
    assert_eq!(listed(&letters, &within, 1), ["a"]);
    assert_eq!(listed(&letters, &Filter { tenant: Some("other".into()), ..Filter::default() }, 0), [""; 0]);

    let first = letters.list(&Filter::default(), None, 2).expect("a page");
    let second = letters.list(&Filter::default(), first.next.as_deref(), 2).expect("a page");
    assert_eq!((first.items.len(), second.items.len(), second.next), (2, 1, None));
    assert_eq!(second.items[0].at, timestamp_from_ms(10));
    assert!(letters.list(&Filter::default(), Some("nonsense"), 2).is_err());
    letters.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn redriving_twice_sends_once_also_after_a_restart() {
    let log = TestLog::new();
    put(&log, "a", DeadReason::Exhausted, 10).await;
    put(&log, "b", DeadReason::Exhausted, 20).await;
    let letters = start(&log, 100);
    listed(&letters, &Filter::default(), 2);
    let id = letters.list(&of("a"), None, 1).expect("a page").items[0].id;
    assert!(matches!(letters.redrive(id, Some(&"other".into()), 77, &|_| true).await, Err(RedriveError::Unknown)));
    assert!(letters.get(id, None).await.expect("it can be read").is_some());
    assert!(
        matches!(letters.redrive(id, None, 77, &|_| false).await, Err(RedriveError::Impossible(why)) if why.contains("enable that first"))
    );
    letters.redrive(id, None, 77, &|_| true).await.expect("the first time");
    assert!(matches!(letters.redrive(id, None, 77, &|_| true).await, Err(RedriveError::Unknown)));
    assert_eq!(listed(&letters, &Filter::default(), 1), ["b"]);
    letters.stop();

    let again = start(&log, 100);
    assert_eq!(listed(&again, &Filter::default(), 1), ["b"]);
    let sent = log.records("events");
    assert_eq!(sent.len(), 1);
    let sent = decode_delivery(&sent[0]).expect("a delivery");
    assert_eq!((sent.purpose, sent.attempts, &*sent.endpoint), (Purpose::Redrive, 0, "a"));
    assert_eq!(sent.registry_offset, 77, "whoever reads it waits until it knows the endpoint as it was when it was redriven");
    assert_eq!((sent.origin, sent.accepted_at), (delivery(timestamp_from_ms(0)).origin, timestamp_from_ms(9_000_000)));
    again.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_redriven_by_filter_and_each_once() {
    let log = TestLog::new();
    for at in 0..1_300 {
        put(&log, if at % 2 == 0 { "a" } else { "b" }, DeadReason::EndpointInactive, at).await;
    }
    let letters = start(&log, 10_000);
    listed(&letters, &of("a"), 650);
    let (one, other) = (Progress::default(), Progress::default());
    let filter = of("a");
    let (first, second) =
        tokio::join!(letters.redrive_all(&filter, 77, &|_| true, &one), letters.redrive_all(&filter, 77, &|_| true, &other));
    first.and(second).expect("the log takes it");
    let redriven = one.redriven.load(Ordering::Relaxed) + other.redriven.load(Ordering::Relaxed);
    assert_eq!((redriven, log.records("events").len()), (650, 650));
    listed(&letters, &Filter::default(), 650);
    letters.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_does_not_take_stays_a_dead_letter() {
    let log = TestLog::new();
    put(&log, "a", DeadReason::Exhausted, 10).await;
    let letters = start(&log, 100);
    listed(&letters, &of("a"), 1);
    let id = letters.list(&of("a"), None, 1).expect("a page").items[0].id;
    log.fail(|_| Some(LogError::Unavailable("disk full".into())));
    assert!(matches!(letters.redrive(id, None, 77, &|_| true).await, Err(RedriveError::Log(_))));
    log.fail(|_| None);
    letters.redrive(id, None, 77, &|_| true).await.expect("now it is taken");
    letters.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_keeps_the_newest_and_an_unreadable_record_goes_back_where_it_came_from() {
    let log = TestLog::new();
    for at in 0..5 {
        put(&log, "a", DeadReason::Exhausted, at).await;
    }
    let broken = Record {
        position: Position { topic: "source".into(), partition: 0, offset: 5 },
        key: None,
        value: Some(Bytes::from_static(b"{broken")),
        headers: vec![("x".into(), Bytes::from_static(b"y"))],
        appended_ms: 0,
    };
    let append = encode_dead_record(&broken, DeadReason::Unparsable, "is wrong", timestamp_from_ms(9)).to("dead".into());
    log.append(vec![append]).await.pop().expect("one result").expect("it is stored");
    let letters = start(&log, 3);
    assert_eq!(listed(&letters, &Filter::default(), 3), ["-", "a", "a"]);
    let id = letters.list(&Filter::default(), None, 1).expect("a page").items[0].id;
    letters.redrive(id, None, 77, &|_| true).await.expect("it can be redriven");
    let sent = log.records("source").remove(0);
    assert_eq!((sent.value, sent.headers), (broken.value, broken.headers));
    letters.stop();
}
