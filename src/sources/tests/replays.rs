use super::*;
use crate::log::Append;

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
