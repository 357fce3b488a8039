use super::*;

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
fn a_registry_offset_that_does_not_come_is_not_waited_for_for_ever() {
    let mut bench = Bench::retry(Config::default()).assigned(TIER, 0, None);
    bench.behind.store(true, Ordering::Relaxed);
    bench.poll(Polled::Records(vec![retry_record(TIER, 0, "a", -1)]));
    bench.pass(Duration::from_secs(29));
    bench.turn().expect("it goes on");
    assert!(bench.taken().is_empty());
    bench.pass(Duration::from_secs(2));
    bench.turn().expect("it goes on");
    assert_eq!(bench.taken().into_iter().map(|routed| routed.ack.done()).count(), 1);
    assert_eq!(bench.committed(), Some((1, vec![])));
}
