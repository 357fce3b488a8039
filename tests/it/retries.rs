//! What fails comes back after its delay, for as long as its schedule lasts, and then lies in the dead letters, from where it can be redriven.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use http::Method;
use serde_json::json;

use crate::support::{
    daemon::{Backend, Site, both_backends, event},
    receiver::{Answer, Received, Receiver},
    verify,
};

both_backends!(
    a_failed_delivery_comes_back_with_the_same_id_and_coordinates,
    an_exhausted_delivery_is_a_dead_letter_and_can_be_redriven_once,
    retry_after_is_honoured,
    a_retry_survives_a_restart
);

const WITHIN: Duration = Duration::from_secs(30);

async fn a_failed_delivery_comes_back_with_the_same_id_and_coordinates(backend: Backend) {
    let calls = AtomicUsize::new(0);
    let receiver = Receiver::start(move |_| Answer::Status(if calls.fetch_add(1, Ordering::Relaxed) < 2 { 503 } else { 200 })).await;
    let daemon = Site::new(backend).with("[retry]\nschedule = [\"1s\", \"2s\"]\n").start().await;
    let created = daemon.add_endpoint(json!({ "id": "e", "url": receiver.url("/"), "format": "hub", "signing": "hub" })).await;
    let secret = created["secret"].as_str().expect("a secret");
    daemon.send(&[event(1, "c", "MESSAGE_RECEIVED")]).await;
    let requests = receiver.wait_for(3, WITHIN).await;
    let keys: Vec<_> = requests.iter().map(|request| verify::hub(secret, request)).collect();
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    for (before, after, delay) in [(0, 1, 1), (1, 2, 2)] {
        let waited = requests[after].at - requests[before].at;
        assert!(waited >= Duration::from_secs(delay), "never early: {waited:?} instead of {delay} s");
    }
    daemon.until_metric("posthaste_deliveries_total{result=\"delivered\"", WITHIN, |count| count == 1.0).await;
    daemon.stop().await;
}

async fn an_exhausted_delivery_is_a_dead_letter_and_can_be_redriven_once(backend: Backend) {
    let healthy = std::sync::Arc::new(AtomicUsize::new(0));
    let flag = std::sync::Arc::clone(&healthy);
    let receiver = Receiver::start(move |_| Answer::Status(if flag.load(Ordering::Relaxed) == 0 { 500 } else { 200 })).await;
    let daemon = Site::new(backend).with("[retry]\nschedule = [\"1s\"]\n").start().await;
    daemon.add_endpoint(json!({ "id": "e", "url": receiver.url("/"), "types": ["t"] })).await;
    daemon.send(&[event(1, "c", "t"), event(2, "c", "t")]).await;
    receiver.wait_for(4, WITHIN).await;
    daemon.until_metric("posthaste_dead_letters", WITHIN, |count| count == 2.0).await;
    let letters = daemon.ok(Method::GET, "/v1/dead-letters?endpoint=e", None).await;
    let items = letters["items"].as_array().expect("items");
    assert_eq!(items.len(), 2, "{letters}");
    assert!(items.iter().all(|item| item["reason"] == "exhausted"), "{letters}");

    healthy.store(1, Ordering::Relaxed);
    daemon.ok(Method::POST, "/v1/dead-letters/redrive", Some(json!({ "endpoint": "e" }))).await;
    let requests = receiver.wait_for(6, WITHIN).await;
    assert_eq!(requests[4..].iter().filter(|request| request.json()["id"].as_str().is_some_and(|id| id.starts_with("event-"))).count(), 2);
    daemon.until_metric("posthaste_dead_letters", WITHIN, |count| count == 0.0).await;
    daemon.ok(Method::POST, "/v1/dead-letters/redrive", Some(json!({ "endpoint": "e" }))).await;
    daemon.send(&[event(3, "c", "t")]).await;
    receiver.until(WITHIN, "event-3", |requests| requests.iter().any(|request| request.json()["id"] == "event-3")).await;
    daemon.stop().await;
    assert_eq!(receiver.count(), 7, "redriving twice sends once");
}

async fn retry_after_is_honoured(backend: Backend) {
    let calls = AtomicUsize::new(0);
    let receiver = Receiver::start(move |_| match calls.fetch_add(1, Ordering::Relaxed) {
        0 => Answer::Headers(429, vec![("retry-after", "3".into())]),
        _ => Answer::Status(200),
    })
    .await;
    let daemon = Site::new(backend).with("[retry]\nschedule = [\"1s\"]\n").start().await;
    daemon.add_endpoint(json!({ "id": "e", "url": receiver.url("/") })).await;
    daemon.send(&[event(1, "c", "t")]).await;
    let requests = receiver.wait_for(2, WITHIN).await;
    let waited = requests[1].at - requests[0].at;
    assert!(waited >= Duration::from_secs(3), "{waited:?}");
    daemon.stop().await;
}

async fn a_retry_survives_a_restart(backend: Backend) {
    let calls = AtomicUsize::new(0);
    let receiver = Receiver::start(move |_| Answer::Status(if calls.fetch_add(1, Ordering::Relaxed) < 1 { 503 } else { 200 })).await;
    let site = Site::new(backend).with("[retry]\nschedule = [\"4s\"]\n[source]\ncommit_interval = \"50ms\"\n");
    let daemon = site.start().await;
    daemon.add_endpoint(json!({ "id": "e", "url": receiver.url("/") })).await;
    daemon.send(&[event(1, "c", "t")]).await;
    let id = receiver.wait_for(1, WITHIN).await[0].json()["id"].clone();
    daemon.until_metric("posthaste_retries_total", WITHIN, |count| count == 1.0).await;
    // Before the commit it is the event itself that a kill repeats. One that is counted now may have come before the retry was stored, and Kafka's are
    // counted when the next one begins: of two more, made necessary by other events, the first came after it and is done.
    let commits = daemon.metric("posthaste_commits_total{result=\"ok\"").await;
    let deadline = Instant::now() + WITHIN;
    for other in 2.. {
        daemon.send(&[event(other, "c", "t")]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        if daemon.metric("posthaste_commits_total{result=\"ok\"").await >= commits + 2.0 {
            break;
        }
        assert!(Instant::now() < deadline, "commits go on");
    }
    daemon.kill().await;

    let daemon = site.start().await;
    let times = |requests: &[Received]| requests.iter().filter(|one| one.json()["id"] == id).map(|one| one.at).collect::<Vec<_>>();
    let requests = receiver.until(WITHIN, "the retry", |requests| times(requests).len() == 2).await;
    let waited = times(&requests)[1] - times(&requests)[0];
    assert!(waited >= Duration::from_secs(4), "the restart does not make it early: {waited:?}");
    daemon.stop().await;
}
