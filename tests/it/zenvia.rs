//! Clients of Zenvia Customer Cloud and of Zenvia Conversion register webhooks by their own APIs and get what is documented.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    daemon::{Backend, Daemon, Site, both_backends},
    receiver::{Answer, Receiver},
    verify,
};

both_backends!(
    a_client_of_customer_cloud_gets_the_documented_body_and_sees_the_health_of_its_webhook,
    a_client_of_conversion_gets_the_documented_body_by_either_shape
);

const WITHIN: Duration = Duration::from_secs(30);

/// The key of a new token of this tenant.
async fn key(daemon: &Daemon, tenant: &str) -> String {
    let token = daemon.ok(Method::POST, "/v1/tokens", Some(json!({ "name": "client", "role": "developer", "tenant": tenant }))).await;
    token["key"].as_str().expect("a key").to_owned()
}

/// Asks for a subscription until it has this status.
async fn until_status(daemon: &Daemon, key: &str, path: &str, wanted: &str) {
    let deadline = tokio::time::Instant::now() + WITHIN;
    loop {
        let (status, answer) = daemon.call_as(key, Method::GET, path, None).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        if answer["status"] == wanted {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "never {wanted}: {answer}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn a_client_of_customer_cloud_gets_the_documented_body_and_sees_the_health_of_its_webhook(backend: Backend) {
    let receiver = Receiver::start(|request| if request.path == "/hangs" { Answer::Hang } else { Answer::Status(200) }).await;
    // Two timeouts in a row suspend here; what they weigh stays as it is.
    let environment = [("POSTHASTE_DELIVERY__RESPONSE_TIMEOUT", "300ms"), ("POSTHASTE_HEALTH__INACTIVE_AT", "20")];
    let daemon = Site::new(backend).start_with(&environment).await;
    // It gets every event of the tenant, so what it has got was routed.
    let witness = Receiver::accepting().await;
    daemon.add_endpoint(json!({ "id": "witness", "url": witness.url("/"), "tenant": "acme", "signing": "none" })).await;
    let has_seen = async |id: &str| {
        witness.until(WITHIN, id, |requests| requests.iter().any(|request| request.json()["id"] == id)).await;
    };
    let key = key(&daemon, "acme").await;
    let new = json!({ "eventType": "MESSAGE", "status": "ACTIVE", "version": "v2",
        "webhook": { "url": receiver.url("/zenvia"), "headers": { "X-My-Key": "k1" } },
        "criteria": { "channel": "whatsapp", "direction": "IN" } });
    let (status, subscription) = daemon.call_as(&key, Method::POST, "/v2/subscriptions", Some(new)).await;
    assert_eq!(status, StatusCode::OK, "{subscription}");
    let id = subscription["id"].as_str().expect("an id");
    let path = format!("/v2/subscriptions/{id}");

    // The example of WIRE.md 1.7.
    let message = json!({ "id": "m-1", "from": "5511999999999", "to": "5511888888888", "direction": "IN", "channel": "whatsapp",
        "visitor": { "name": "Ana Souza", "firstName": "Ana", "lastName": "Souza" },
        "contents": [ { "type": "text", "text": "Oi" } ], "idRef": "m-0", "timestamp": "2026-01-15T11:59:59Z" });
    let event = |id: &str, kind: &str, channel: &str, direction: &str| {
        json!({ "id": id, "type": kind, "channel": channel, "direction": direction, "time": "2026-01-15T12:00:00Z", "tenant": "acme",
            "data": { "message": message } })
    };
    let other_tenant = {
        let mut event = event("other-tenant", "MESSAGE", "whatsapp", "IN");
        event["tenant"] = json!("other");
        event
    };
    daemon
        .send(&[
            event("out", "MESSAGE", "whatsapp", "OUT"),
            event("sms", "MESSAGE", "sms", "IN"),
            event("status", "MESSAGE_STATUS", "whatsapp", "IN"),
            other_tenant,
            event("9c0f", "MESSAGE", "whatsapp", "IN"),
        ])
        .await;
    let requests = receiver.wait_for(1, WITHIN).await;
    let expected = json!({ "id": "9c0f", "timestamp": "2026-01-15T12:00:00Z", "type": "MESSAGE", "subscriptionId": id,
        "channel": "whatsapp", "direction": "IN", "message": message });
    assert_eq!((requests[0].json(), requests[0].header("x-my-key")), (expected, "k1"));
    assert_eq!(requests[0].header("content-type"), "application/json");
    verify::unsigned(&requests[0]);
    for id in ["out", "sms", "status"] {
        has_seen(id).await;
    }
    assert_eq!(receiver.count(), 1, "its event type, channel, direction and tenant only");

    let patch = async |body: Value| {
        let (status, answer) = daemon.call_as(&key, Method::PATCH, &path, Some(body.clone())).await;
        assert_eq!(status, StatusCode::OK, "{body}: {answer}");
        answer
    };
    assert_eq!(patch(json!({ "webhook": { "url": receiver.url("/hangs") } })).await["status"], "ACTIVE");
    daemon.send(&[event("a", "MESSAGE", "whatsapp", "IN")]).await;
    until_status(&daemon, &key, &path, "DEGRADED").await;
    // Another URL revives it.
    patch(json!({ "webhook": { "url": receiver.url("/hangs") + "?" } })).await;
    patch(json!({ "webhook": { "url": receiver.url("/hangs") } })).await;
    until_status(&daemon, &key, &path, "ACTIVE").await;
    daemon.send(&[event("b", "MESSAGE", "whatsapp", "IN")]).await;
    until_status(&daemon, &key, &path, "DEGRADED").await;
    daemon.send(&[event("c", "MESSAGE", "whatsapp", "IN")]).await;
    until_status(&daemon, &key, &path, "INACTIVE").await;
    daemon.send(&[event("missed", "MESSAGE", "whatsapp", "IN")]).await;
    has_seen("missed").await;

    // Another URL does not wake it; the status does, for what comes from now on.
    patch(json!({ "webhook": { "url": receiver.url("/zenvia") } })).await;
    until_status(&daemon, &key, &path, "INACTIVE").await;
    assert_eq!(patch(json!({ "status": "ACTIVE" })).await["status"], "ACTIVE");
    let before = receiver.count();
    daemon.send(&[event("d", "MESSAGE", "whatsapp", "IN")]).await;
    let requests =
        receiver.until(WITHIN, "the next event", |requests| requests[before..].iter().any(|request| request.json()["id"] == "d")).await;
    assert!(requests.iter().all(|request| request.json()["id"] != "missed"), "from now on");
    daemon.stop().await;
}

async fn a_client_of_conversion_gets_the_documented_body_by_either_shape(backend: Backend) {
    let receiver = Receiver::accepting().await;
    let daemon = Site::new(backend).start().await;
    let key = key(&daemon, "acme").await;
    let shape_a = json!({ "topic": "lead.created", "callbackUrl": receiver.url("/a") });
    let (status, subscription) = daemon.call_as(&key, Method::POST, "/v1/subscriptions", Some(shape_a.clone())).await;
    assert_eq!(status, StatusCode::CREATED, "{subscription}");
    let shape_b = json!({ "topics": ["quotes", "interactions"], "callbackUrl": receiver.url("/b") });
    let (status, answer) = daemon.call_as(&key, Method::POST, "/v1/notifications/subscriptions", Some(shape_b)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");

    let event = |id: &str, kind: &str, data: &Value| json!({ "id": id, "type": kind, "channel": "crm", "time": "2024-12-09T15:30:00Z", "tenant": "acme", "data": data });
    // The example of WIRE.md 2.1.
    let lead = json!({ "leadId": "12345", "name": "Ana Souza", "email": "ana@example.com", "phone": "+5511999999999" });
    let quote = json!({ "quoteId": "q-1", "prospectId": "6596d624", "status": "accepted", "total": 10.5 });
    daemon.send(&[event("1", "lead.created", &lead), event("2", "quote.updated", &quote), event("3", "lead.lost", &lead)]).await;
    let requests = receiver.wait_for(2, WITHIN).await;
    let at = |path: &str| requests.iter().find(|request| request.path == path).unwrap_or_else(|| panic!("nothing at {path}: {requests:?}"));
    assert_eq!(at("/a").json(), json!({ "topic": "lead.created", "eventTime": "2024-12-09T15:30:00Z", "data": lead }));
    assert_eq!(at("/b").json(), json!({ "topic": "quote.updated", "eventTime": "2024-12-09T15:30:00Z", "data": quote }));
    requests.iter().for_each(verify::unsigned);
    daemon.until_metric("posthaste_events_total{result=\"unmatched\"", WITHIN, |count| count >= 1.0).await;

    // A removed one gets nothing more.
    let path = format!("/v1/subscriptions/{}", subscription["id"].as_str().expect("an id"));
    assert_eq!(daemon.call_as(&key, Method::DELETE, &path, None).await.0, StatusCode::NO_CONTENT);
    daemon.send(&[event("4", "lead.created", &lead)]).await;
    daemon.until_metric("posthaste_events_total{result=\"unmatched\"", WITHIN, |count| count >= 2.0).await;
    assert_eq!(receiver.count(), 2);
    daemon.stop().await;
}
