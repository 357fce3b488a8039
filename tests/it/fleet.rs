//! Several instances are one: they share health, tokens and endpoints, and each goes on alone when Redis is away.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Method, StatusCode};
use serde_json::json;

use crate::support::{
    daemon::{ADMIN_TOKEN, Backend, Site, event},
    receiver::{Answer, Received, Receiver},
    redis::Server,
    signed,
};

const WITHIN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_token_is_refused_everywhere_within_a_second() {
    let site = Site::new(Backend::Cluster);
    let (first, second) = (site.start().await, site.start().await);
    let token = first.ok(Method::POST, "/v1/tokens", Some(json!({ "name": "ci", "role": "developer" }))).await;
    let (id, key) = (token["id"].as_str().expect("an id"), token["key"].as_str().expect("a key"));
    let deadline = tokio::time::Instant::now() + WITHIN;
    while second.call_as(key, Method::GET, "/v1/endpoints", None).await.0 != StatusCode::OK {
        assert!(tokio::time::Instant::now() < deadline, "the other instance never learned of the token");
    }
    assert_eq!(second.call_as(key, Method::POST, "/v1/tokens", Some(json!({ "name": "x" }))).await.0, StatusCode::FORBIDDEN, "a developer");
    first.ok(Method::DELETE, &format!("/v1/tokens/{id}"), None).await;
    let deleted = tokio::time::Instant::now();
    assert_eq!(first.call_as(key, Method::GET, "/v1/endpoints", None).await.0, StatusCode::UNAUTHORIZED, "read your writes");
    while second.call_as(key, Method::GET, "/v1/endpoints", None).await.0 != StatusCode::UNAUTHORIZED {
        assert!(deleted.elapsed() < Duration::from_secs(1), "still accepted by the other instance");
    }
    assert_eq!(second.call_as(ADMIN_TOKEN, Method::GET, "/v1/endpoints", None).await.0, StatusCode::OK);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_token_is_checked_by_every_instance_and_refused_everywhere_within_a_second_after_it_was_deleted() {
    let site = Site::new(Backend::Cluster);
    let (first, second) = (site.start().await, site.start().await);
    let new = json!({ "name": "partner", "kind": "signature", "role": "developer" });
    let token = first.ok(Method::POST, "/v1/tokens", Some(new)).await;
    let text = |name: &str| token[name].as_str().unwrap_or_else(|| panic!("no {name} in {token}")).to_owned();
    let (id, key, secret) = (text("id"), text("key"), text("secret"));
    let body = json!({ "eventType": "CONVERSATION_STATUS", "webhook": { "url": "https://example.com/" } });
    let deadline = tokio::time::Instant::now() + WITHIN;
    while signed::call(&second, &key, &secret, Method::GET, "/v2/subscriptions", None).await.0 != StatusCode::OK {
        assert!(tokio::time::Instant::now() < deadline, "the other instance never learned of the token");
    }
    for daemon in [&first, &second] {
        let (status, answer) = signed::call(daemon, &key, &secret, Method::POST, "/v2/subscriptions", Some(body.clone())).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let (status, answer) = signed::call(daemon, &key, "another", Method::POST, "/v2/subscriptions", Some(body.clone())).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{answer}");
        assert_eq!(daemon.call_as(&key, Method::GET, "/v1/endpoints", None).await.0, StatusCode::UNAUTHORIZED, "without a signature");
    }
    let used = first.ok(Method::GET, &format!("/v1/tokens/{id}"), None).await;
    assert!(used["lastUsedAt"].is_string(), "{used}");
    first.ok(Method::DELETE, &format!("/v1/tokens/{id}"), None).await;
    let deleted = tokio::time::Instant::now();
    while signed::call(&second, &key, &secret, Method::GET, "/v2/subscriptions", None).await.0 != StatusCode::UNAUTHORIZED {
        assert!(deleted.elapsed() < Duration::from_secs(1), "still accepted by the other instance");
    }
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_subscriptions_that_are_made_on_two_instances_at_once_two_stay() {
    let site = Site::new(Backend::Cluster);
    let (first, second) = (site.start().await, site.start().await);
    let body = json!({ "eventType": "MESSAGE", "webhook": { "url": "https://example.com/" }, "criteria": { "channel": "sms" } });
    let tries = (0..8).map(|n| [&first, &second][n % 2].call(Method::POST, "/v2/subscriptions", Some(body.clone())));
    let answers = futures_util::future::join_all(tries).await;
    let made = answers.iter().filter(|(status, _)| *status == StatusCode::OK).count();
    let refused = answers.iter().filter(|(status, answer)| *status == StatusCode::CONFLICT && answer["code"] == "DUPLICATED").count();
    assert_eq!((made, refused), (2, 6), "{answers:?}");
    for daemon in [&first, &second] {
        daemon.until_metric("posthaste_endpoints{state=\"active\"", WITHIN, |count| count == 2.0).await;
        assert_eq!(daemon.ok(Method::GET, "/v2/subscriptions", None).await.as_array().map(Vec::len), Some(2));
    }
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_degraded_endpoint_is_degraded_for_the_whole_fleet_and_told_once() {
    let receiver = Receiver::start(|request| if request.path == "/told" { Answer::Status(200) } else { Answer::Hang }).await;
    let site = Site::new(Backend::Cluster);
    let environment = [("POSTHASTE_DELIVERY__RESPONSE_TIMEOUT", "300ms")];
    let (first, second) = (site.start_with(&environment).await, site.start_with(&environment).await);
    first.add_endpoint(json!({ "id": "hangs", "url": receiver.url("/"), "channels": ["c"] })).await;
    first.add_endpoint(json!({ "id": "told", "url": receiver.url("/told"), "types": ["endpoint.*"] })).await;
    first.send(&[event(1, "c", "t")]).await;
    for daemon in [&first, &second] {
        daemon.until_metric("posthaste_endpoints{state=\"degraded\"", WITHIN, |count| count == 1.0).await;
    }
    let requests =
        receiver.until(WITHIN, "the transition is told", |requests| requests.iter().any(|request| request.path == "/told")).await;
    let told = requests.iter().find(|request| request.path == "/told").expect("just seen").json();
    assert_eq!(told["type"], "endpoint.degraded", "{told}");
    let transitions = first.metric("posthaste_health_transitions_total{to=\"degraded\"").await
        + second.metric("posthaste_health_transitions_total{to=\"degraded\"").await;
    assert_eq!(transitions, 1.0, "one instance caused it");
    first.stop().await;
    second.stop().await;
    let told = receiver.requests().iter().filter(|request| request.path == "/told").count();
    assert_eq!(told, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_go_on_while_redis_is_away_at_start_and_later() {
    let healthy = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&healthy);
    let receiver = Receiver::start(move |_| if flag.load(Ordering::Relaxed) { Answer::Status(200) } else { Answer::Status(500) }).await;
    let mut redis = Server::start();
    redis.kill();
    let site = Site::new(Backend::Cluster);
    let url = redis.url();
    let environment = [("POSTHASTE_REDIS__URL", url.as_str())];
    // Nobody listens there yet.
    let daemon = site.start_with(&environment).await;
    assert_eq!(daemon.metric("posthaste_health_connected").await, 0.0);
    daemon.add_endpoint(json!({ "id": "e", "url": receiver.url("/"), "channels": ["c"] })).await;
    daemon.send(&[event(1, "c", "t")]).await;
    receiver.wait_for(1, WITHIN).await;

    // Local counters degrade an endpoint all the same.
    healthy.store(false, Ordering::Relaxed);
    daemon.send(&(2..14).map(|n| event(n, "c", "t")).collect::<Vec<_>>()).await;
    daemon.until_metric("posthaste_endpoints{state=\"degraded\"", WITHIN, |count| count == 1.0).await;
    healthy.store(true, Ordering::Relaxed);

    redis.restart();
    daemon.until_metric("posthaste_health_connected", WITHIN, |value| value == 1.0).await;
    // Frozen: neither refused nor answered.
    redis.freeze();
    let before = receiver.count();
    daemon.send(&(100..200).map(|n| event(n, "c", "t")).collect::<Vec<_>>()).await;
    receiver.wait_for(before + 100, WITHIN).await;
    redis.thaw();
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_come_and_go_while_events_flow_and_nothing_is_lost_or_sent_again() {
    const EVENTS: usize = 20_000;
    const ENDPOINTS: usize = 8;
    // Enough keys that every partition has some.
    const CHANNELS: usize = 80;
    // A tenth of the events goes to two endpoints, so that one delivery of a record is done while the other one waits.
    const OWED: usize = EVENTS + EVENTS / 10;
    // It takes its time, so that deliveries wait and are in flight whenever a partition moves, and all takes longer than that.
    let receiver = Receiver::start(|_| Answer::After(Duration::from_millis(15))).await;
    let site = Site::new(Backend::Cluster);
    let (first, second) = (site.start().await, site.start().await);
    let names = |channels: &mut dyn Iterator<Item = usize>| channels.map(|channel| format!("c{channel}")).collect::<Vec<_>>();
    for n in 0..ENDPOINTS {
        let channels = names(&mut (n..CHANNELS).step_by(ENDPOINTS));
        let url = receiver.url(&format!("/own-{n}"));
        second.add_endpoint(json!({ "id": format!("own-{n}"), "url": url, "channels": channels, "concurrency": 1 })).await;
    }
    let channels = names(&mut (0..CHANNELS / 10));
    second.add_endpoint(json!({ "id": "too", "url": receiver.url("/too"), "channels": channels, "concurrency": 4 })).await;
    for daemon in [&first, &second] {
        daemon.until_metric("posthaste_endpoints{state=\"active\"", WITHIN, |count| count == (ENDPOINTS + 1) as f64).await;
    }

    let events: Vec<_> = (0..EVENTS).map(|n| event(n, &format!("c{}", n % CHANNELS), "t")).collect();
    let flowing = async {
        const AHEAD: usize = 2_000;
        for (index, some) in events.chunks(500).enumerate() {
            receiver.wait_for((index * 500).saturating_sub(AHEAD), Duration::from_secs(60)).await;
            first.send(some).await;
        }
    };
    let moving = async {
        receiver.wait_for(EVENTS / 20, WITHIN).await;
        let third = site.start().await;
        third.until_metric("posthaste_events_total{result=\"matched\"", WITHIN, |count| count > 0.0).await;
        assert!(receiver.count() < EVENTS, "they still flow");
        second.stop().await;
        third
    };
    let ((), third) = tokio::join!(flowing, moving);

    let identity = |request: &Received| (request.path.clone(), request.json()["id"].to_string());
    receiver
        .until(Duration::from_secs(120), "every event at each of its endpoints", |requests| {
            requests.len() >= OWED && requests.iter().map(identity).collect::<HashSet<_>>().len() == OWED
        })
        .await;
    let late = first.metric("posthaste_late_settlements_total").await + third.metric("posthaste_late_settlements_total").await;
    first.stop().await;
    third.stop().await;
    // Only what was in flight when a partition was given up in spite of the time it had may come again: whoever gave it up has counted it.
    let repeated = receiver.count() - OWED;
    assert!(repeated <= late as usize, "{repeated} of {OWED} came again, {late} were in flight when their partition moved");
}
