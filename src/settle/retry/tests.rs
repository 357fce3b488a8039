use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::{
    log::record::{DeadThing, decode_dead_letter, decode_delivery},
    model::{Failure, Timestamp, time::ManualClock},
    settle::{
        policy::Config,
        test_log::{TestLog, ack, attempt, delivery, endpoint, settled},
    },
};

struct Bench {
    settler: Settler,
    log: Arc<TestLog>,
    metrics: Arc<Metrics>,
}

fn bench() -> Bench {
    let (log, metrics) = (TestLog::new(), Metrics::new());
    let policy = Policy::new(&Config { jitter: 0.0, ..Config::default() });
    let retry = policy.tiers().iter().map(|tier| (*tier, format!("retry.{}", tier.as_secs()).into())).collect();
    let destinations = Destinations { retry, dead: "dead".into() };
    let clock = Arc::new(ManualClock::at_ms(1_000_000));
    let settler = Settler::new(log.clone(), destinations, policy, clock, metrics.clone()).expect("every tier has a topic");
    Bench { settler, log, metrics }
}

fn now() -> Timestamp {
    crate::model::time::timestamp_from_ms(1_000_000)
}

fn counted(metrics: &Metrics, line: &str) -> bool {
    metrics.render().lines().any(|found| found == line)
}

#[tokio::test]
async fn a_success_is_acknowledged_and_nothing_is_written() {
    let bench = bench();
    let (ack, lease) = ack(5);
    bench.settler.settle(&attempt(1, Outcome::Delivered), delivery(now()), &endpoint(), ack).await;
    assert_eq!(settled(&lease), (vec![5], vec![]));
    assert!(counted(&bench.metrics, "posthaste_deliveries_total{result=\"delivered\"} 1"));
}

#[tokio::test]
async fn a_failure_is_in_its_tier_with_all_that_the_next_attempt_needs() {
    let bench = bench();
    let (ack, lease) = ack(5);
    let failed = attempt(2, Outcome::Failed(Failure::ResponseTimeout));
    bench.settler.settle(&failed, delivery(now()), &endpoint(), ack).await;
    assert_eq!(settled(&lease), (vec![5], vec![]));
    let records = bench.log.records("retry.60");
    let found = decode_delivery(&records[0]).expect("a delivery");
    assert_eq!((found.attempts, found.reason.as_deref()), (2, Some("response_timeout")));
    assert_eq!(found.due_at, Some(now() + Duration::from_secs(60)));
    assert_eq!(found.origin, delivery(now()).origin);
    assert!(counted(&bench.metrics, "posthaste_retries_total 1"));
}

#[tokio::test]
async fn our_own_fault_uses_up_no_attempt() {
    let bench = bench();
    let (ack, _lease) = ack(5);
    let failed = attempt(1, Outcome::Failed(Failure::Local("no descriptors".into())));
    bench.settler.settle(&failed, delivery(now()), &endpoint(), ack).await;
    assert_eq!(decode_delivery(&bench.log.records("retry.30")[0]).expect("a delivery").attempts, 0);
}

#[tokio::test]
async fn the_last_failure_is_a_dead_letter_that_says_why() {
    let bench = bench();
    let (ack, lease) = ack(5);
    let failed = Attempt { answer: Bytes::from_static(b"no\xff\nway"), ..attempt(9, Outcome::Failed(Failure::Status(500))) };
    bench.settler.settle(&failed, delivery(now()), &endpoint(), ack).await;
    assert_eq!(settled(&lease), (vec![5], vec![]));
    let letter = decode_dead_letter(&bench.log.records("dead")[0]).expect("a dead letter");
    assert_eq!((letter.reason, &*letter.detail), (DeadReason::Exhausted, "status 500 after 0.012 s: no\u{fffd} way"));
    assert!(counted(&bench.metrics, "posthaste_dead_letters_total{reason=\"exhausted\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_acknowledged_before_the_append_is_durable() {
    let bench = bench();
    let (ack, lease) = ack(5);
    let tries = Arc::new(AtomicU32::new(0));
    let (count, watched) = (tries.clone(), lease.clone());
    bench.log.fail(move |_| {
        assert_eq!(settled(&watched), (vec![], vec![]));
        (count.fetch_add(1, Ordering::Relaxed) < 7).then(|| LogError::Unavailable("disk full".into()))
    });
    bench.settler.dead_letter(delivery(now()), DeadReason::EndpointInactive, "", ack).await;
    assert_eq!(tries.load(Ordering::Relaxed), 8);
    assert_eq!(settled(&lease), (vec![5], vec![]));
    assert!(counted(&bench.metrics, "posthaste_append_errors_total 7"));
}

#[tokio::test(start_paused = true)]
async fn no_more_events_are_copied_than_there_is_room_for_while_the_log_is_away() {
    let bench = bench();
    let settler = bench.settler.with_room(10 << 10);
    let away = Arc::new(AtomicU32::new(0));
    let (count, tried) = (away.clone(), Arc::new(std::sync::Mutex::new(Vec::new())));
    let seen = tried.clone();
    bench.log.fail(move |append| {
        let mut seen = seen.lock().expect("no panic");
        let key = append.value.clone().map(|value| value.as_ptr() as usize);
        if !seen.contains(&key) {
            seen.push(key);
        }
        (count.fetch_add(1, Ordering::Relaxed) < 1_000).then(|| LogError::Unavailable("away".into()))
    });
    let (acks, leases): (Vec<_>, Vec<_>) = (0..50).map(ack).unzip();
    let each = acks.into_iter().map(|ack| settler.dead_letter(delivery(now()), DeadReason::EndpointInactive, "", ack));
    let all = futures_util::future::join_all(each);
    tokio::pin!(all);
    assert!(tokio::time::timeout(Duration::from_secs(20), all.as_mut()).await.is_err());
    assert!(tried.lock().expect("no panic").len() <= 10, "{}", tried.lock().expect("no panic").len());
    away.store(1_000, Ordering::Relaxed);
    all.await;
    assert_eq!(leases.iter().map(|lease| settled(lease).0.len()).sum::<usize>(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_of_a_lost_partition_is_let_go() {
    let bench = bench();
    let (ack, lease) = ack(5);
    let lost = lease.clone();
    bench.log.fail(move |_| {
        lost.end();
        Some(LogError::Unavailable("broker away".into()))
    });
    bench.settler.spill(delivery(now()), Duration::ZERO, ack, "drain").await;
    assert_eq!(settled(&lease), (vec![], vec![]));
    assert!(bench.log.records("retry.5").is_empty());
    assert!(counted(&bench.metrics, "posthaste_late_settlements_total 1"));
}

#[tokio::test(start_paused = true)]
async fn of_many_that_are_spilled_each_waits_for_its_own_append() {
    let bench = bench();
    let (acks, leases): (Vec<_>, Vec<_>) = (0..3).map(ack).unzip();
    let mut tries = 0;
    bench.log.fail(move |_| {
        tries += 1;
        (tries == 2).then(|| LogError::Unavailable("once".into()))
    });
    let spills = acks.into_iter().map(|ack| Spill { delivery: delivery(now()), wait: Duration::from_secs(40), ack, reason: "queue_full" });
    bench.settler.spill_all(spills.collect()).await;
    assert_eq!(leases.iter().map(|lease| settled(lease).0.len()).sum::<usize>(), 3);
    let records = bench.log.records("retry.30");
    assert_eq!(records.len(), 3);
    let found = decode_delivery(&records[0]).expect("a delivery");
    assert_eq!((found.attempts, found.reason.as_deref()), (0, Some("queue_full")));
    assert!(counted(&bench.metrics, "posthaste_spilled_total{reason=\"queue_full\"} 3"));
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_to_be_moved_is_referred_to() {
    let bench = bench();
    let (ack, lease) = ack(5);
    bench.log.fail(|append| {
        let size = append.value.as_ref().map_or(0, Bytes::len);
        (size > 0).then(|| LogError::TooLarge { topic: append.topic.clone(), size, limit: 0 })
    });
    let failed = attempt(1, Outcome::Failed(Failure::Refused));
    bench.settler.settle(&failed, delivery(now()), &endpoint(), ack).await;
    assert_eq!(settled(&lease), (vec![5], vec![]));
    let letter = decode_dead_letter(&bench.log.records("dead")[0]).expect("a dead letter");
    assert_eq!(letter.reason, DeadReason::TooLarge);
    assert!(letter.detail.contains("events:2:77") && letter.detail.contains("ep_1"), "{}", letter.detail);
    assert!(matches!(letter.thing, DeadThing::Record { origin, .. } if origin == delivery(now()).origin));
}

#[tokio::test]
async fn a_record_that_never_became_a_delivery_is_kept() {
    let bench = bench();
    let (ack, lease) = ack(5);
    let record = Record {
        position: Position { topic: "events".into(), partition: 0, offset: 5 },
        key: None,
        value: Some(Bytes::from_static(b"{broken")),
        headers: vec![],
        appended_ms: 0,
    };
    bench.settler.dead_letter_record(&record, DeadReason::Unparsable, "is wrong", ack).await;
    assert_eq!(settled(&lease), (vec![5], vec![]));
    assert_eq!(decode_dead_letter(&bench.log.records("dead")[0]).expect("a dead letter").reason, DeadReason::Unparsable);
}
