use std::sync::{Condvar, MutexGuard};

use bytes::Bytes;

use super::*;
use crate::model::{Ack, Budget, Class, Delivery, Lease, OpenRecord, Position, Priority, Purpose, Timestamp, TopicPartition, testing};

/// What came out, and where.
#[derive(Default)]
struct Seen {
    passed: Vec<String>,
    undecided: Vec<String>,
    spilled: usize,
    too_slow: usize,
}

#[derive(Default)]
struct Board(Mutex<Seen>, Condvar);

impl Board {
    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.0.lock().expect("a test lock"));
        self.1.notify_all();
    }

    fn until(&self, wanted: impl Fn(&Seen) -> bool) -> MutexGuard<'_, Seen> {
        let (seen, waited) = self
            .1
            .wait_timeout_while(self.0.lock().expect("a test lock"), Duration::from_secs(30), |seen| !wanted(seen))
            .expect("a test lock");
        assert!(!waited.timed_out());
        seen
    }
}

fn sieve() -> (Sieve, Arc<Board>, Arc<Metrics>) {
    let (board, metrics) = (Arc::new(Board::default()), Metrics::new());
    let (pass, undecided, spill, slow) = (Arc::clone(&board), Arc::clone(&board), Arc::clone(&board), Arc::clone(&board));
    let outlets = Outlets {
        pass: Box::new(move |deliveries| {
            pass.note(|seen| {
                for routed in deliveries {
                    assert_eq!(routed.delivery.reason, None);
                    seen.passed.push(routed.delivery.event.id.to_string());
                    routed.ack.done();
                }
            });
        }),
        undecided: Box::new(move |routed, why| {
            routed.ack.done();
            undecided.note(|seen| seen.undecided.push(why));
        }),
        spill: Box::new(move |deliveries| {
            spill.note(|seen| seen.spilled += deliveries.len());
            deliveries.into_iter().for_each(|routed| routed.ack.done());
        }),
        too_slow: Box::new(move |_| slow.note(|seen| seen.too_slow += 1)),
    };
    (Sieve::start(2, outlets, &metrics).expect("threads"), board, metrics)
}

fn lease() -> Arc<Lease> {
    Lease::new(TopicPartition { topic: "events".into(), partition: 0 }, 1)
}

fn ack(lease: &Arc<Lease>, offset: i64) -> Ack {
    let (_, mut acks) = OpenRecord::open(lease, offset, 1, Budget::new(1).take(1));
    acks.next().expect("one delivery")
}

fn routed(lease: &Arc<Lease>, offset: i64, endpoint: &str, filter: &str, data: &str) -> Routed {
    let event = Event {
        id: Text::from(format!("e{offset}")),
        kind: "order.created".into(),
        channel: "c".into(),
        direction: None,
        time: Timestamp::UNIX_EPOCH,
        tenant: "default".into(),
        subject: None,
        priority: Priority::Normal,
        traceparent: None,
        data: Bytes::copy_from_slice(data.as_bytes()),
    };
    let endpoint = Endpoint { filter: Some(Text::from(filter)), ..testing::endpoint(endpoint) };
    let delivery = Delivery {
        event: Arc::new(event),
        endpoint: endpoint.id.clone(),
        origin: Position { topic: "events".into(), partition: 0, offset },
        attempts: 0,
        accepted_at: Timestamp::UNIX_EPOCH,
        due_at: None,
        registry_offset: -1,
        purpose: Purpose::Event,
        reason: Some("filter".into()),
    };
    Routed { delivery: Box::new(delivery), endpoint: Arc::new(endpoint), ack: ack(lease, offset), class: Class::First }
}

fn done(lease: &Lease) -> Vec<i64> {
    let mut settled = Default::default();
    lease.take_settled(&mut settled);
    assert!(settled.dropped.is_empty());
    settled.done
}

#[test]
fn what_is_wanted_is_passed_on_and_what_is_not_is_settled() {
    let (sieve, board, metrics) = sieve();
    let lease = lease();
    sieve.sift((0..10).map(|n| routed(&lease, n, "a", "event.data.n % 2 == 0", &format!("{{\"n\":{n}}}"))).collect());
    // Another version of the same endpoint's filter.
    sieve.sift(vec![routed(&lease, 10, "a", "event.data.n == 10", r#"{"n":10}"#), routed(&lease, 11, "a", "event.data.n == 10", "{}")]);
    assert!(sieve.end());
    assert_eq!(board.until(|_| true).passed, ["e0", "e2", "e4", "e6", "e8", "e10"]);
    assert_eq!(done(&lease).len(), 12, "all are settled");
    let text = metrics.render();
    for line in ["{result=\"matched\"} 6", "{result=\"unmatched\"} 5", "{result=\"failed\"} 1"] {
        assert!(text.contains(&format!("posthaste_filtered_total{line}")), "{text}");
    }
    assert!(text.contains("posthaste_filter_waiting 0"));
}

#[test]
fn a_filter_that_overruns_again_and_again_is_told_and_nothing_is_lost() {
    let (sieve, board, _) = sieve();
    let lease = lease();
    let data = serde_json::json!({ "n": (0..2_000).collect::<Vec<_>>() }).to_string();
    let slow = "event.data.n.exists(a, event.data.n.exists(b, a + b < 0))";
    sieve.sift((0..i64::from(STRIKES)).map(|n| routed(&lease, n, "slow", slow, &data)).collect());
    sieve.sift(vec![routed(&lease, 100, "broken", "event.", "{}")]);
    let seen = board.until(|seen| seen.too_slow == 1 && seen.undecided.len() == STRIKES as usize + 1);
    assert!(seen.undecided.iter().any(|why| why.contains("more than 100000 steps")), "{:?}", seen.undecided);
    assert!(seen.undecided.iter().any(|why| why.contains("is wrong at line 1")), "{:?}", seen.undecided);
    assert!(seen.passed.is_empty());
    drop(seen);
    assert!(sieve.end());
}

#[test]
fn when_there_is_no_room_deliveries_go_back_and_those_of_a_lost_partition_are_let_go() {
    let (sieve, board, _) = sieve();
    let (held, lost) = (lease(), lease());
    lost.end();
    sieve.sift(vec![routed(&lost, 1, "a", "true", "{}")]);
    // Each takes milliseconds, so the lane fills up.
    let data = serde_json::json!({ "n": (0..2_000).collect::<Vec<_>>() }).to_string();
    let slow = "event.data.n.exists(a, event.data.n.exists(b, a + b < 0))";
    for n in 0..1_000 {
        sieve.sift(vec![routed(&held, n, "slow", slow, &data)]);
        if board.until(|_| true).spilled > 0 {
            break;
        }
    }
    assert!(board.until(|_| true).spilled > 0);
    assert!(sieve.end());
    assert!(board.until(|_| true).passed.is_empty());
}

#[test]
fn what_a_filter_took_beyond_its_share_it_owes_to_the_following_seconds() {
    let begin = Instant::now();
    let after = |millis| begin + Duration::from_millis(millis);
    let mut share = Share::new(begin);
    assert!(!share.is_used_up(after(10), true));
    // One evaluation of two seconds: the share of eight.
    share.spent += Duration::from_secs(2);
    for millis in [2_010, 3_020, 5_500, 7_600] {
        assert!(share.is_used_up(after(millis), true), "{millis} ms");
    }
    assert!(!share.is_used_up(after(8_700), true));
    // Within its share it begins each second anew.
    share.spent += SHARE;
    assert!(share.is_used_up(after(9_000), true));
    assert!(!share.is_used_up(after(10_800), true));
    // Where nobody waits, it may take all of a thread and owes nothing.
    share.spent += Duration::from_secs(10);
    assert!(!share.is_used_up(after(10_900), false));
    assert!(!share.is_used_up(after(11_900), false));
    assert!(!share.is_used_up(after(11_910), true));
}
