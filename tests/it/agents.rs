//! Support expert agents (WIRE.md 0.15, 1.11): ticket events in, the agent's webhook out, and what was sent in the ticket's history.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use http::Method;
use serde_json::{Value, json};

use crate::support::{
    daemon::{Backend, Daemon, Site, both_backends},
    receiver::{Answer, Receiver},
};

both_backends!(a_ticket_that_meets_a_condition_is_told_once_and_remembered);

const WITHIN: Duration = Duration::from_secs(40);

fn ticket(n: usize, tenant: &str, kind: &str, data: Value) -> Value {
    json!({ "id": format!("t-{n}"), "type": kind, "channel": "support", "time": "2026-01-15T12:00:00Z", "tenant": tenant, "data": data })
}

async fn agent(daemon: &Daemon, tenant: &str, name: &str, external: Option<&str>, condition: &str, endpoint: &str) -> String {
    let new = json!({ "name": name, "externalId": external, "condition": condition, "endpoint": endpoint, "tenant": tenant });
    let made = daemon.ok(Method::POST, "/v1/agents", Some(new)).await;
    made["id"].as_str().expect("an id").to_owned()
}

/// The history once it has so many entries.
async fn history(daemon: &Daemon, tenant: &str, ticket: &str, count: usize) -> Vec<Value> {
    let deadline = tokio::time::Instant::now() + WITHIN;
    loop {
        let answer = daemon.ok(Method::GET, &format!("/v1/tickets/{ticket}/history?tenant={tenant}"), None).await;
        let items = answer["items"].as_array().expect("a list").clone();
        if items.len() >= count {
            assert_eq!(items.len(), count, "{answer}");
            return items;
        }
        assert!(tokio::time::Instant::now() < deadline, "{answer}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn a_ticket_that_meets_a_condition_is_told_once_and_remembered(backend: Backend) {
    let failed = AtomicBool::new(false);
    let flaky =
        Receiver::start(move |_| if failed.swap(true, Ordering::Relaxed) { Answer::Status(200) } else { Answer::Status(503) }).await;
    let (v2, v1, plain) = (Receiver::accepting().await, Receiver::accepting().await, Receiver::accepting().await);
    let site = Site::new(backend).with("[retry]\ntiers = [\"1s\"]\n");
    let daemon = site.start().await;
    // What an agent tells comes whatever its endpoint listens to.
    for (id, tenant, receiver, format) in
        [("v2", "acme", &v2, "zenvia"), ("v1", "acme", &v1, "zenvia_v1"), ("other", "other", &flaky, "zenvia")]
    {
        daemon
            .add_endpoint(json!({ "id": id, "url": receiver.url("/"), "tenant": tenant, "format": format, "signing": "none",
                "types": ["nothing.like.it"], "retry": ["1s"] }))
            .await;
    }
    daemon.add_endpoint(json!({ "id": "plain", "url": plain.url("/"), "tenant": "acme", "types": ["ticket.*"] })).await;
    let vip = agent(&daemon, "acme", "VIP", Some("184234236867"), "event.type == 'ticket.opened' && event.data.ticket.vip", "v2").await;
    let every = agent(&daemon, "acme", "Every update", None, "event.type == 'ticket.updated'", "v1").await;
    let others = agent(&daemon, "other", "All", None, "true", "other").await;

    daemon
        .send(&[
            ticket(1, "acme", "ticket.opened", json!({ "ticket": { "id": "1846867", "vip": true } })),
            ticket(2, "acme", "ticket.opened", json!({ "ticket": { "id": "1846868", "vip": false } })),
            ticket(3, "acme", "ticket.updated", json!({ "ticket": { "id": "1846867" } })),
            ticket(4, "other", "ticket.closed", json!({ "ticket": { "id": "1846867" } })),
            ticket(5, "acme", "order.created", json!({ "ticket": { "id": "1846867", "vip": true } })),
        ])
        .await;

    let sent = &v2.wait_for(1, WITHIN).await[0];
    assert_eq!(
        sent.json(),
        json!({ "id": format!("t-1:{vip}"), "timestamp": "2026-01-15T12:00:00Z", "type": "SUPPORT_EXPERT_AGENT", "subscriptionId": "v2",
            "ticket": { "id": "1846867" }, "expertAgent": { "id": vip, "externalId": "184234236867" } })
    );
    let sent = &v1.wait_for(1, WITHIN).await[0];
    assert_eq!(
        sent.json(),
        json!({ "id": format!("t-3:{every}"), "timestamp": "2026-01-15T12:00:00Z", "type": "SUPPORT_EXPERT_AGENT", "subscriptionId": "v1",
            "ticket": { "id": "1846867" }, "expertAgent": { "id": every, "externalId": every } })
    );
    // It failed once, and came again.
    let sent = flaky.wait_for(2, WITHIN).await;
    assert!(sent.iter().all(|request| request.json()["id"] == format!("t-4:{others}")));
    plain.wait_for(3, WITHIN).await;

    let told = |entries: &[Value]| -> Vec<(String, String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        entries.iter().map(|entry| (text(&entry["agent"]), text(&entry["endpoint"]), text(&entry["outcome"]))).collect()
    };
    let mut acme = told(&history(&daemon, "acme", "1846867", 2).await);
    acme.sort();
    let mut expected =
        vec![(vip.clone(), "v2".to_owned(), "delivered".to_owned()), (every.clone(), "v1".to_owned(), "delivered".to_owned())];
    expected.sort();
    assert_eq!(acme, expected);
    let of_other = history(&daemon, "other", "1846867", 2).await;
    let entry = |outcome: &str| (others.clone(), "other".to_owned(), outcome.to_owned());
    assert_eq!(told(&of_other), [entry("delivered"), entry("failed")], "newest first");
    assert!(of_other[1]["nextAttemptAt"].is_string() && of_other[1]["reason"] == "status_5xx", "{of_other:?}");
    assert!(of_other.iter().all(|entry| entry["time"].is_string()), "{of_other:?}");
    history(&daemon, "acme", "1846868", 0).await;

    // Deleted: its endpoint hears of nothing more. Dead: the history says so.
    daemon.ok(Method::DELETE, &format!("/v1/agents/{vip}"), None).await;
    daemon.ok(Method::POST, "/v1/endpoints/v1/disable", None).await;
    daemon
        .send(&[
            ticket(6, "acme", "ticket.opened", json!({ "ticket": { "id": "7", "vip": true } })),
            ticket(7, "acme", "ticket.updated", json!({ "ticket": { "id": "7" } })),
        ])
        .await;
    let dead = history(&daemon, "acme", "7", 1).await;
    assert_eq!((&dead[0]["outcome"], &dead[0]["reason"]), (&json!("dead"), &json!("endpoint_disabled")), "{dead:?}");
    daemon.stop().await;

    let daemon = site.start().await;
    assert_eq!(history(&daemon, "other", "1846867", 2).await, of_other, "after a restart");
    history(&daemon, "acme", "1846867", 2).await;
    // Agents watch from the first event on.
    daemon.send(&[ticket(8, "other", "ticket.opened", json!({ "ticket": { "id": "8" } }))]).await;
    flaky.wait_for(3, WITHIN).await;
    assert_eq!((v2.count(), v1.count(), flaky.count()), (1, 1, 3), "each was told once");
    daemon.stop().await;
}
