//! The loop, round by round, against a scripted consumer. What a backend really does is in the scenarios of `tests/it`.

mod bench;
mod replays;
mod retries;

use bytes::Bytes;

use super::{
    turn::{End, Kind, Source},
    *,
};
use crate::{
    log::{Assigned, Commit, CommitMode, LogError, Polled, tracker::Tracker},
    model::{
        Class, Purpose, Timestamp, TopicPartition, testing,
        time::{ManualClock, timestamp_from_ms},
    },
};
use bench::{Bench, EVENTS, Lines, NOW_MS, TIER, event_record, events, partition, record_of, retry_record};

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

    let all = bench.budget.take(bench.budget.limit());
    assert_eq!(bench.turn(), Ok(Duration::from_millis(2)));
    assert!(bench.metrics.render().contains("posthaste_sources_stopped{reason=\"memory\"} 1"));
    drop(all);
    bench.turn().expect("it goes on");
    let most = bench.budget.take(bench.budget.room() - 4096);
    bench.turn().expect("it goes on");
    assert!(bench.script().asked.last().is_some_and(|asked| *asked <= 8), "no more than there is room for");
    drop(most);
}

#[test]
fn a_poll_that_is_more_than_was_expected_stops_at_the_memory() {
    let mut bench = Bench::events().assigned(EVENTS, 0, None);
    let most = bench.budget.take(bench.budget.room() - 2_000);
    bench.poll(events(0..500));
    let taken = bench.taken();
    assert!((2..=10).contains(&taken.len()), "{}", taken.len());
    taken.into_iter().for_each(|routed| routed.ack.done());
    drop(most);
    bench.turn().expect("it goes on");
    assert!(bench.taken().into_iter().map(|routed| routed.ack.done()).count() >= 490, "nothing of it is lost");
}

#[test]
fn the_age_of_an_event_counts_from_its_append_unless_it_was_late() {
    for (appended_ms, accepted_ms) in
        [(NOW_MS - 1_000, NOW_MS - 1_000), (NOW_MS - 4 * 86_400_000, NOW_MS - 3_600_000), (0, NOW_MS - 3_600_000)]
    {
        let mut bench = Bench::events().assigned(EVENTS, 0, None);
        bench.poll(Polled::Records(vec![Record { appended_ms, ..event_record(0, "one") }]));
        let routed = bench.taken().remove(0);
        assert_eq!(routed.delivery.accepted_at.as_millisecond(), accepted_ms, "{appended_ms}");
        routed.ack.done();
    }
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

#[test]
fn the_configuration_is_checked() {
    assert!(Config::default().check().is_empty());
    let wrong = Config { window: 100, batch: 200, commit_interval: Duration::ZERO, hold: 0, ..Config::default() };
    let keys: Vec<&str> = wrong.check().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["window", "batch", "commit_interval", "hold"]);
}
