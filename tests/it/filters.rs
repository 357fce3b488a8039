//! Filters beyond type and channel: who gets what, what is undecided, and what becomes of a filter that is too slow.

use std::{collections::BTreeSet, time::Duration};

use http::Method;
use serde_json::{Value, json};

use crate::support::{
    daemon::{Backend, Daemon, Site, both_backends},
    receiver::{Answer, Received, Receiver},
};

both_backends!(a_filter_chooses_and_is_asked_once, a_filter_that_is_too_slow_suspends_its_endpoint_without_loss);

const WITHIN: Duration = Duration::from_secs(40);

fn order(n: usize, data: Value) -> Value {
    json!({ "id": format!("event-{n}"), "type": "order.created", "channel": "shop", "time": "2026-01-15T12:00:00Z", "data": data })
}

fn ids(requests: &[Received]) -> BTreeSet<String> {
    requests.iter().map(|request| request.json()["id"].as_str().expect("an id").to_owned()).collect()
}

fn expected(numbers: impl IntoIterator<Item = usize>) -> BTreeSet<String> {
    numbers.into_iter().map(|n| format!("event-{n}")).collect()
}

/// Waits until all that was read is settled: nothing is queued, and the counters of filters add up.
async fn until_filtered(daemon: &Daemon, count: f64) {
    daemon.until_metric("posthaste_filtered_total", WITHIN, |filtered| filtered >= count).await;
}

async fn a_filter_chooses_and_is_asked_once(backend: Backend) {
    // The first answer to each event of `large` is a failure: its retry is not filtered again.
    let failing = std::sync::Mutex::new(BTreeSet::new());
    let large = Receiver::start(move |request| {
        let id = request.json()["id"].to_string();
        if failing.lock().expect("not poisoned").insert(id) { Answer::Status(500) } else { Answer::Status(200) }
    })
    .await;
    let (all, declared) = (Receiver::accepting().await, Receiver::accepting().await);
    let site = Site::new(backend).with(&format!(
        "[retry]\ntiers = [\"1s\"]\n[[endpoint]]\nid = \"declared\"\nurl = \"{}\"\nsigning = \"none\"\ntypes = [\"order.*\"]\nfilter = \"event.data.customer.name == 'Ana'\"\n",
        declared.url("/")
    ));
    let daemon = site.start().await;
    daemon.add_endpoint(json!({ "id": "all", "url": all.url("/"), "channels": ["shop"] })).await;
    daemon
        .add_endpoint(
            json!({ "id": "large", "url": large.url("/"), "filter": "event.data.total >= 50 && event.channel == 'shop'", "retry": ["1s"] }),
        )
        .await;
    let mut events: Vec<Value> =
        (0..100).map(|n| order(n, json!({ "total": n, "customer": { "name": if n % 10 == 0 { "Ana" } else { "Bia" } } }))).collect();
    // No total: no match. Too large to be read: undecided, so a dead letter.
    events.push(order(100, json!({ "customer": {} })));
    events.push(order(101, json!({ "total": 99, "text": "x".repeat(300_000) })));
    daemon.send(&events).await;

    all.wait_for(102, WITHIN).await;
    let requests = large.wait_for(100, WITHIN).await;
    assert_eq!(ids(&requests), expected(50..100));
    assert_eq!(ids(&declared.wait_for(10, WITHIN).await), expected((0..100).step_by(10)));
    until_filtered(&daemon, 204.0).await;
    daemon.until_metric("posthaste_dead_letters_total{reason=\"filter_undecided\"", WITHIN, |count| count == 2.0).await;
    assert_eq!(daemon.metric("posthaste_filtered_total{result=\"matched\"").await, 60.0);
    // It lacks the total, and has a customer without a name.
    assert_eq!(daemon.metric("posthaste_filtered_total{result=\"failed\"").await, 2.0);

    // What was undecided can be sent all the same.
    let redriven = daemon.ok(Method::POST, "/v1/dead-letters/redrive", Some(json!({ "endpoint": "large" }))).await;
    assert!(redriven.is_object(), "{redriven}");
    let requests = large.wait_for(102, WITHIN).await;
    assert_eq!(ids(&requests), expected((50..100).chain([101])));
    assert_eq!(daemon.metric("posthaste_filtered_total{result=\"matched\"").await, 60.0, "neither retries nor redrives are filtered again");

    // Another filter is in force with the answer.
    daemon.ok(Method::PATCH, "/v1/endpoints/large", Some(json!({ "filter": "event.data.total < 50" }))).await;
    daemon.send(&[order(200, json!({ "total": 99 })), order(201, json!({ "total": 1 }))]).await;
    let requests = large.until(WITHIN, "the event of the new filter", |requests| ids(requests).contains("event-201")).await;
    assert!(!ids(&requests).contains("event-200"));
    daemon.stop().await;
}

async fn a_filter_that_is_too_slow_suspends_its_endpoint_without_loss(backend: Backend) {
    let (slow, fine) = (Receiver::accepting().await, Receiver::accepting().await);
    let daemon = Site::new(backend).start().await;
    daemon.add_endpoint(json!({ "id": "fine", "url": fine.url("/"), "filter": "event.type == 'order.created'" })).await;
    daemon
        .add_endpoint(json!({ "id": "slow", "url": slow.url("/"), "types": ["order.*"],
            "filter": "event.data.n.exists(a, event.data.n.exists(b, a + b < 0))" }))
        .await;
    let events: Vec<Value> = (0..20).map(|n| order(n, json!({ "n": (0..2_000).collect::<Vec<_>>() }))).collect();
    daemon.send(&events).await;
    fine.wait_for(20, WITHIN).await;
    daemon.until_metric("posthaste_endpoints{state=\"inactive\"", WITHIN, |count| count == 1.0).await;
    let endpoint = daemon.ok(Method::GET, "/v1/endpoints/slow", None).await;
    assert_eq!(
        (&endpoint["health"]["state"], &endpoint["health"]["reason"]),
        (&json!("inactive"), &json!("filter_too_slow")),
        "{endpoint}"
    );
    daemon.until_logged("filter_too_slow", WITHIN).await;
    assert_eq!(slow.count(), 0);
    daemon.until_metric("posthaste_dead_letters", WITHIN, |count| count == 20.0).await;

    // A cheaper filter, and everything that it wants comes: dead letters and what was skipped alike.
    daemon.ok(Method::PATCH, "/v1/endpoints/slow", Some(json!({ "filter": "size(event.data.n) == 2000 && event.id != 'event-0'" }))).await;
    daemon.ok(Method::POST, "/v1/endpoints/slow/enable", Some(json!({ "recover": true }))).await;
    let requests = slow.until(WITHIN, "all events", |requests| ids(requests).len() == 19).await;
    assert_eq!(ids(&requests), expected(1..20), "also what is redriven is put to the filter that could not decide before");
    daemon.stop().await;
}
