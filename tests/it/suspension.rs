//! One timeout degrades, fifty suspend; what a suspended endpoint missed can be recovered; nobody else notices.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Method;
use serde_json::json;

use crate::support::{
    daemon::{Backend, Site, both_backends, event},
    receiver::{Answer, Receiver},
};

both_backends!(
    timeouts_degrade_then_suspend_and_recovery_delivers_everything_once,
    recovery_sends_nothing_again_that_was_delivered_just_before,
    gone_suspends_at_once,
    a_hanging_endpoint_costs_the_others_nothing
);

const WITHIN: Duration = Duration::from_secs(40);

const QUICK: &[(&str, &str)] = &[("POSTHASTE_DELIVERY__RESPONSE_TIMEOUT", "300ms")];

async fn timeouts_degrade_then_suspend_and_recovery_delivers_everything_once(backend: Backend) {
    let healthy = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&healthy);
    let receiver = Receiver::start(move |_| if flag.load(Ordering::Relaxed) { Answer::Status(200) } else { Answer::Hang }).await;
    let site = Site::new(backend).with("[retry]\nschedule = [\"1s\", \"1s\", \"1s\"]\n");
    // Two timeouts in a row suspend here; the weights stay as they are.
    let mut environment = QUICK.to_vec();
    environment.push(("POSTHASTE_HEALTH__INACTIVE_AT", "20"));
    let daemon = site.start_with(&environment).await;
    daemon.add_endpoint(json!({ "id": "e", "url": receiver.url("/"), "channels": ["c"] })).await;
    daemon.send(&[event(1, "c", "t")]).await;
    let state =
        async |daemon: &crate::support::daemon::Daemon| daemon.ok(Method::GET, "/v1/endpoints/e", None).await["health"]["state"].clone();
    daemon.until_metric("posthaste_health_transitions_total{to=\"degraded\"", WITHIN, |count| count == 1.0).await;
    daemon.until_metric("posthaste_health_transitions_total{to=\"inactive\"", WITHIN, |count| count == 1.0).await;
    daemon.until_metric("posthaste_endpoints{state=\"inactive\"", WITHIN, |count| count == 1.0).await;
    assert_eq!(state(&daemon).await, "inactive");

    // What comes now is skipped, and kept by the log.
    let before = receiver.count();
    daemon.send(&(2..12).map(|n| event(n, "c", "t")).collect::<Vec<_>>()).await;
    daemon.until_metric("posthaste_events_total{result=\"unmatched\"", WITHIN, |count| count >= 12.0).await;
    assert_eq!(receiver.count(), before, "deliveries are suspended");
    // The one that was to be retried has come back by now, and found nobody.
    daemon.until_metric("posthaste_dead_letters_total{reason=\"endpoint_inactive\"", WITHIN, |count| count == 1.0).await;

    // The suspension holds over a restart.
    daemon.stop().await;
    let daemon = site.start_with(&environment).await;
    assert_eq!(state(&daemon).await, "inactive");

    healthy.store(true, Ordering::Relaxed);
    daemon.ok(Method::POST, "/v1/endpoints/e/enable", Some(json!({ "recover": true }))).await;
    let requests = receiver
        .until(WITHIN, "all eleven events", |requests| {
            requests[before..].iter().map(|request| request.json()["id"].to_string()).collect::<HashSet<_>>().len() == 11
        })
        .await;
    assert_eq!(requests.len() - before, 11, "each once");
    assert_eq!(state(&daemon).await, "active");
    daemon.stop().await;
}

async fn recovery_sends_nothing_again_that_was_delivered_just_before(backend: Backend) {
    let gone = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&gone);
    let receiver = Receiver::start(move |_| Answer::Status(if flag.load(Ordering::Relaxed) { 410 } else { 200 })).await;
    // What was delivered is known from the journal, if that keeps it.
    let daemon = Site::new(backend).with("[retry]\nschedule = [\"1s\"]\n[journal]\nkeep = \"all\"\n").start().await;
    daemon.add_endpoint(json!({ "id": "e", "url": receiver.url("/"), "channels": ["c"] })).await;
    // Answered, and not all of it committed yet, when the endpoint is suspended.
    daemon.send(&(0..50).map(|n| event(n, "c", "t")).collect::<Vec<_>>()).await;
    receiver.wait_for(50, WITHIN).await;
    gone.store(true, Ordering::Relaxed);
    daemon.send(&[event(50, "c", "t")]).await;
    daemon.until_metric("posthaste_endpoints{state=\"inactive\"", WITHIN, |count| count == 1.0).await;
    daemon.send(&(51..54).map(|n| event(n, "c", "t")).collect::<Vec<_>>()).await;
    daemon.until_metric("posthaste_events_total{result=\"unmatched\"", WITHIN, |count| count >= 4.0).await;
    daemon.until_metric("posthaste_dead_letters_total{reason=\"endpoint_inactive\"", WITHIN, |count| count == 1.0).await;

    gone.store(false, Ordering::Relaxed);
    let before = receiver.count();
    let enabled = daemon.ok(Method::POST, "/v1/endpoints/e/enable", Some(json!({ "recover": true }))).await;
    let replay = format!("/v1/replays/{}", enabled["replay"]["id"].as_str().unwrap_or_else(|| panic!("no replay in {enabled}")));
    let deadline = tokio::time::Instant::now() + WITHIN;
    let sent = loop {
        let progress = daemon.ok(Method::GET, &replay, None).await;
        if progress["state"] != "running" {
            assert_eq!(progress["state"], "done", "{progress}");
            break progress["sent"].clone();
        }
        assert!(tokio::time::Instant::now() < deadline, "{progress}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(sent, 3, "what it missed, and neither what it got nor its dead letter");
    let requests = receiver.wait_for(before + 4, WITHIN).await;
    let recovered: HashSet<_> = requests[before..].iter().map(|request| request.json()["id"].to_string()).collect();
    assert_eq!(recovered, (50..54).map(|n| format!("\"event-{n}\"")).collect());
    daemon.stop().await;
}

async fn gone_suspends_at_once(backend: Backend) {
    let receiver = Receiver::start(|_| Answer::Status(410)).await;
    let daemon = Site::new(backend).start().await;
    daemon.add_endpoint(json!({ "id": "e", "url": receiver.url("/"), "channels": ["c"] })).await;
    daemon.send(&[event(1, "c", "t")]).await;
    daemon.until_metric("posthaste_endpoints{state=\"inactive\"", WITHIN, |count| count == 1.0).await;
    let endpoint = daemon.ok(Method::GET, "/v1/endpoints/e", None).await;
    assert_eq!((&endpoint["health"]["state"], &endpoint["health"]["reason"]), (&json!("inactive"), &json!("gone")), "{endpoint}");
    daemon.stop().await;
}

async fn a_hanging_endpoint_costs_the_others_nothing(backend: Backend) {
    let fine = Receiver::accepting().await;
    let hanging = Receiver::start(|_| Answer::Hang).await;
    let daemon = Site::new(backend).start().await;
    for n in 0..9 {
        daemon.add_endpoint(json!({ "id": format!("fine-{n}"), "url": fine.url(&format!("/{n}")), "channels": [format!("c{n}")] })).await;
    }
    daemon.add_endpoint(json!({ "id": "hangs", "url": hanging.url("/"), "channels": ["c9"] })).await;
    let events: Vec<_> = (0..3000).map(|n| event(n, &format!("c{}", n % 10), "t")).collect();
    daemon.send(&events).await;
    let requests = fine.wait_for(2700, Duration::from_secs(60)).await;
    let distinct: HashSet<_> = requests.iter().map(|request| request.json()["id"].to_string()).collect();
    assert_eq!(distinct.len(), 2700);
    assert!(hanging.count() >= 1);
    daemon.stop().await;
}
