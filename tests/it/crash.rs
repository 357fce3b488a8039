//! Killed at any moment: nothing is lost, and little is repeated. Stopped in an orderly way: nothing is repeated.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{
    daemon::{Backend, Site, both_backends, event},
    receiver::{Answer, Receiver},
};

both_backends!(
    killed_in_the_middle_loses_nothing,
    stopped_in_the_middle_repeats_nothing,
    a_stop_hands_back_what_hangs_within_the_drain_deadline
);

fn by_id(requests: &[crate::support::receiver::Received]) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for request in requests {
        *counts.entry(request.json()["id"].as_str().expect("an id").to_owned()).or_insert(0) += 1;
    }
    counts
}

/// Whether so many different events came. Reads each request once: whoever asks holds the receiver up.
fn distinct(events: usize) -> impl Fn(&[crate::support::receiver::Received]) -> bool {
    let seen = RefCell::new((0, HashSet::new()));
    move |requests| {
        let (read, ids) = &mut *seen.borrow_mut();
        ids.extend(by_id(&requests[*read..]).into_keys());
        *read = requests.len();
        ids.len() == events
    }
}

async fn killed_in_the_middle_loses_nothing(backend: Backend) {
    const EVENTS: usize = 20_000;
    let receiver = Receiver::accepting().await;
    let site = Site::new(backend);
    let daemon = site.start().await;
    for n in 0..4 {
        daemon
            .add_endpoint(json!({ "id": format!("e{n}"), "url": receiver.url("/"), "channels": [format!("c{n}")], "concurrency": 16 }))
            .await;
    }
    let events: Vec<_> = (0..EVENTS).map(|n| event(n, &format!("c{}", n % 4), "t")).collect();
    daemon.send(&events).await;
    receiver.wait_for(EVENTS / 10, Duration::from_secs(60)).await;
    daemon.kill().await;
    let daemon = site.start().await;
    receiver.until(Duration::from_secs(90), "every event", distinct(EVENTS)).await;
    daemon.stop().await;
    let requests = receiver.requests();
    let twice = requests.len() - EVENTS;
    // In flight (4 endpoints of 16) and what was answered within one commit interval of 1 s (and its half, for a slow machine).
    let times: Vec<_> = requests.iter().map(|request| request.at).collect();
    let within = |from: usize| times[from..].iter().take_while(|at| **at - times[from] < Duration::from_millis(1500)).count();
    let busiest = (0..times.len()).step_by(50).map(within).max().unwrap_or(0) + 50;
    assert!(twice <= 64 + busiest, "{twice} of {EVENTS} came twice");
}

async fn stopped_in_the_middle_repeats_nothing(backend: Backend) {
    const EVENTS: usize = 5_000;
    let receiver = Receiver::start(|_| Answer::After(Duration::from_millis(5))).await;
    let site = Site::new(backend);
    let daemon = site.start().await;
    daemon.add_endpoint(json!({ "id": "e", "url": receiver.url("/"), "channels": ["c"], "concurrency": 16 })).await;
    let events: Vec<_> = (0..EVENTS).map(|n| event(n, "c", "t")).collect();
    daemon.send(&events).await;
    receiver.wait_for(EVENTS / 10, Duration::from_secs(60)).await;
    daemon.stop().await;
    assert!(receiver.count() < EVENTS, "it was stopped in the middle");
    let daemon = site.start().await;
    receiver.until(Duration::from_secs(60), "every event", distinct(EVENTS)).await;
    daemon.stop().await;
    let repeated: Vec<_> = by_id(&receiver.requests()).into_iter().filter(|(_, count)| *count > 1).collect();
    assert!(repeated.is_empty(), "{} answered events came again: {:?}", repeated.len(), &repeated[..repeated.len().min(5)]);
}

async fn a_stop_hands_back_what_hangs_within_the_drain_deadline(backend: Backend) {
    let receiver = Receiver::start(|_| Answer::Hang).await;
    let site = Site::new(backend);
    let mut daemon = site.start().await;
    daemon.add_endpoint(json!({ "id": "e", "url": receiver.url("/"), "channels": ["c"] })).await;
    daemon.send(&(0..20).map(|n| event(n, "c", "t")).collect::<Vec<_>>()).await;
    receiver.wait_for(1, Duration::from_secs(20)).await;
    let begun = Instant::now();
    daemon.signal("INT");
    let status = daemon.wait(Duration::from_secs(15)).await;
    assert!(status.success(), "{status}\n{}", daemon.log_text());
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
}
