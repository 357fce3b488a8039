//! The Hub's webhooks from their registration to the wire: five ways to authenticate, three formats, signatures over the true coordinates of the
//! source record, also after retries, a restart and a redrive.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    daemon::{Backend, Daemon, Site, both_backends, event},
    receiver::{Answer, Received, Receiver},
    verify,
};

both_backends!(
    webhooks_get_their_events_in_their_format_signed_and_authenticated,
    a_rotated_secret_ends_the_old_one_at_once,
    the_key_is_the_position_of_the_record_after_retries_a_restart_and_a_redrive,
    the_account_role_is_in_force_on_every_instance
);

const WITHIN: Duration = Duration::from_secs(40);
const CHANNEL: &str = "019E4C54B1B375A28970B605CA9B03C3";

/// A daemon whose `default` tenant may use the Hub's API.
async fn start(site: &Site) -> Daemon {
    let daemon = site.start().await;
    daemon.ok(Method::PUT, "/v1/tenants/default", Some(json!({ "accountRoles": ["ENTERPRISE"] }))).await;
    daemon
}

async fn register(daemon: &Daemon, path: &str, webhook: Value) -> Value {
    let (status, created) = daemon.call(Method::POST, path, Some(webhook)).await;
    assert_eq!(status, StatusCode::CREATED, "{created}");
    created
}

fn webhooks_of(channel: &str) -> String {
    format!("/v1/channels/{channel}/webhooks")
}

/// A message of WIRE.md 4.6. A long one is more than 1,024 bytes in every format.
fn message(n: usize, kind: &str, long: bool) -> Value {
    let text = "Olá ".repeat(if long { 400 } else { 1 });
    let data = json!({ "_id": format!("019E6F1A93FE78DCB54332F9{n:08X}"), "channel_id": CHANNEL, "created": 1779980473342u64,
        "metadata": { "from_me": false, "moment": 1779980473342u64 }, "sender": { "identifier": "5511999999999", "name": "Ana" },
        "recipient": { "identifier": "5544900000000", "name": "acme" },
        "contents": [{ "@class": ".TextContent", "type": "TEXT", "message": text,
            "state_items": [{ "moment": 1779980473342u64, "state": { "name": "READ" } }] }], "attachments": [] });
    json!({ "id": format!("event-{n}"), "type": kind, "channel": CHANNEL, "time": "2026-01-15T12:00:00Z", "direction": "IN", "data": data })
}

async fn webhooks_get_their_events_in_their_format_signed_and_authenticated(backend: Backend) {
    let receiver = Receiver::accepting().await;
    let daemon = start(&Site::new(backend)).await;
    // Two events of it match several of the names that are asked for.
    let cases = [
        (json!({ "type": "NONE" }), "DEFAULT", None),
        (json!({ "type": "BEARER", "token": "t0k" }), "Z_API", Some(("authorization", "Bearer t0k"))),
        (json!({ "type": "API_KEY", "key": "k3y" }), "CHATWOOT", Some(("x-api-key", "k3y"))),
        (json!({ "type": "BASIC", "username": "user", "password": "pass" }), "DEFAULT", Some(("authorization", "Basic dXNlcjpwYXNz"))),
        (json!({ "type": "CUSTOM_HEADER", "headerName": "X-Own", "headerValue": "v4lue" }), "Z_API", Some(("x-own", "v4lue"))),
    ];
    let mut secrets = HashMap::new();
    for (n, (auth, format, _)) in cases.iter().enumerate() {
        let webhook = json!({ "url": receiver.url(&format!("/{n}")), "events": ["RECEIVED_STATUS", "MESSAGE_RECEIVED", "RECEIVED_AND_DELIVERY"],
            "signing": true, "auth": auth, "payloadFormat": format });
        let created = register(&daemon, &webhooks_of(CHANNEL), webhook).await;
        secrets.insert(format!("/{n}"), created["secret"].as_str().expect("a secret").to_owned());
    }
    let templates = json!({ "url": receiver.url("/templates"), "events": ["UPDATE_TEMPLATE_STATUS"], "signing": true, "authType": "API_KEY", "key": "k3y" });
    let created = register(&daemon, "/v1/webhooks", templates).await;
    secrets.insert("/templates".to_owned(), created["secret"].as_str().expect("a secret").to_owned());
    register(&daemon, &webhooks_of(CHANNEL), json!({ "url": receiver.url("/plain"), "events": ["MESSAGE_RECEIVED"] })).await;
    let unsigned = json!({ "url": receiver.url("/unsigned"), "events": ["CONNECTED"] });
    register(&daemon, &webhooks_of(CHANNEL), unsigned).await;
    register(&daemon, &webhooks_of("elsewhere"), json!({ "url": receiver.url("/elsewhere"), "events": ["MESSAGE_RECEIVED", "CONNECTED"] }))
        .await;

    let mut events = Vec::new();
    for n in 0..30 {
        events.push(message(n, ["MESSAGE_RECEIVED", "MESSAGE_STATUS", "MESSAGE_DELIVERY"][n % 3], n % 2 == 0));
    }
    // Under a combined name itself: for those who asked for that name.
    events.push(message(30, "RECEIVED_STATUS", false));
    let element = json!({ "field": "message_template_status_update", "identifier": "01A0A4FBC8CD7DCBBBFAA8382F5514A5", "type": "TEMPLATE_STATUS",
        "value": { "event": "APPROVED", "message_template_id": "1", "reason": null }, "waba_id": "845974408299669" });
    events.push(json!({ "id": "template", "type": "UPDATE_TEMPLATE_STATUS", "channel": "845974408299669", "data": element }));
    events.push(json!({ "id": "connected", "type": "CONNECTED", "channel": CHANNEL, "data": { "phone": "5544900000000" } }));
    let accepted = daemon.ok(Method::POST, "/v1/events", Some(json!(events))).await;
    let position = |id: &str| {
        let of = accepted["accepted"].as_array().expect("a list").iter().find(|one| one["id"] == id).expect("accepted");
        format!("{}:{}:{}", of["topic"].as_str().expect("a topic"), of["partition"], of["offset"])
    };

    let owed = cases.len() * 31 + 10 + 2;
    let requests = receiver.wait_for(owed, WITHIN).await;
    let mut seen = HashSet::new();
    for request in &requests {
        let path = request.path.as_str();
        assert_eq!(request.header("content-type"), "application/json");
        let length = request.plain().len();
        assert_eq!(request.headers.contains_key("content-encoding"), length >= 1024, "gzip from 1,024 bytes on: {request:?}");
        if path == "/unsigned" {
            verify::unsigned(request);
            assert_eq!(request.header("x-idempotency-key"), position("connected"), "sent without a signature too");
            assert_eq!(request.json(), json!({ "message": { "phone": "5544900000000" }, "messageEventType": "CONNECTED" }));
            continue;
        }
        if path == "/plain" {
            verify::unsigned(request);
            assert_eq!(events[number(request)]["type"], "MESSAGE_RECEIVED");
            continue;
        }
        let key = verify::hub(&secrets[path], request);
        assert!(seen.insert((path.to_owned(), key.clone())), "one delivery for each webhook and event");
        if path == "/templates" {
            assert_eq!((key, request.header("x-api-key")), (position("template"), "k3y"));
            assert_eq!(request.json(), json!([element]), "template events come as an array");
            continue;
        }
        let n = number(request);
        assert_eq!(key, position(&format!("event-{n}")));
        let (_, format, auth) = &cases[path[1..].parse::<usize>().expect("a number")];
        match auth {
            Some((name, value)) => assert_eq!(request.header(name), *value),
            None => assert!(request.headers.get("authorization").is_none() && request.headers.get("x-api-key").is_none()),
        }
        check_body(format, &events[n], &request.json());
    }
    daemon.stop().await;
    assert_eq!(receiver.count(), owed, "nothing twice, and nothing for the other channel");
}

/// Which of the messages it is.
fn number(request: &Received) -> usize {
    let body = request.json();
    let id = [&body["message"]["_id"], &body["messageId"], &body["ids"][0], &body["source_id"]];
    let id = id.iter().find_map(|id| id.as_str()).unwrap_or_else(|| panic!("no id of a message in {body}"));
    usize::from_str_radix(&id[24..], 16).expect("our id")
}

fn check_body(format: &str, event: &Value, body: &Value) {
    let kind = event["type"].as_str().expect("a type");
    match format {
        "DEFAULT" => assert_eq!(body, &json!({ "message": event["data"], "messageEventType": "NEW_MESSAGE" })),
        "Z_API" => {
            let callback = match kind {
                "MESSAGE_RECEIVED" | "RECEIVED_STATUS" => "ReceivedCallback",
                "MESSAGE_STATUS" => "MessageStatusCallback",
                _ => "DeliveryCallback",
            };
            assert_eq!((&body["type"], &body["instanceId"]), (&json!(callback), &json!(CHANNEL)), "{body}");
        }
        _ => {
            let name = if matches!(kind, "MESSAGE_RECEIVED" | "RECEIVED_STATUS") { "message_created" } else { "message_updated" };
            assert_eq!((&body["event"], &body["inbox"]["id"]), (&json!(name), &json!(CHANNEL)), "{body}");
        }
    }
}

async fn a_rotated_secret_ends_the_old_one_at_once(backend: Backend) {
    let receiver = Receiver::accepting().await;
    let daemon = start(&Site::new(backend)).await;
    let collection = webhooks_of("c");
    let webhook = json!({ "url": receiver.url("/"), "events": ["BLOCK"], "signing": true });
    let created = register(&daemon, &collection, webhook).await;
    let path = format!("{collection}/{}", created["id"].as_str().expect("an id"));
    let mut secret = created["secret"].as_str().expect("a secret").to_owned();
    for n in 0..3 {
        daemon.send(&[event(n, "c", "BLOCK")]).await;
        let requests = receiver.wait_for(n + 1, WITHIN).await;
        verify::hub(&secret, &requests[n]);
        let rotated = daemon.ok(Method::PATCH, &path, Some(json!({ "signing": true }))).await;
        let new = rotated["secret"].as_str().expect("a secret").to_owned();
        assert_ne!(new, secret);
        secret = new;
    }
    daemon.ok(Method::PATCH, &path, Some(json!({ "signing": false }))).await;
    daemon.send(&[event(3, "c", "BLOCK")]).await;
    let requests = receiver.wait_for(4, WITHIN).await;
    verify::unsigned(&requests[3]);
    daemon.stop().await;
}

async fn the_key_is_the_position_of_the_record_after_retries_a_restart_and_a_redrive(backend: Backend) {
    let healthy = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&healthy);
    let receiver = Receiver::start(move |_| Answer::Status(if flag.load(Ordering::Relaxed) { 200 } else { 503 })).await;
    let site = Site::new(backend).with("[retry]\nschedule = [\"1s\", \"3s\"]\n");
    let daemon = start(&site).await;
    let created = register(&daemon, &webhooks_of("c"), json!({ "url": receiver.url("/"), "events": ["BLOCK"], "signing": true })).await;
    let (id, secret) = (created["id"].as_str().expect("an id"), created["secret"].as_str().expect("a secret"));
    // So that the position is not the first one of its partition.
    daemon.send(&(0..5).map(|n| event(n, "c", "CONNECTED")).collect::<Vec<_>>()).await;
    let accepted = daemon.ok(Method::POST, "/v1/events", Some(json!([event(9, "c", "BLOCK")]))).await;
    let at = &accepted["accepted"][0];
    let key = format!("{}:{}:{}", at["topic"].as_str().expect("a topic"), at["partition"], at["offset"]);

    receiver.wait_for(2, WITHIN).await;
    daemon.until_metric("posthaste_retries_total", WITHIN, |count| count == 2.0).await;
    daemon.stop().await;
    let daemon = site.start().await;
    receiver.wait_for(3, WITHIN).await;
    daemon.until_metric("posthaste_dead_letters", WITHIN, |count| count == 1.0).await;
    healthy.store(true, Ordering::Relaxed);
    daemon.ok(Method::POST, "/v1/dead-letters/redrive", Some(json!({ "endpoint": id }))).await;
    let requests = receiver.wait_for(4, WITHIN).await;
    let mut times = Vec::new();
    for request in &requests {
        assert_eq!(verify::hub(secret, request), key);
        let signature = request.header("x-webhook-signature");
        let time = signature.strip_prefix("t=").and_then(|rest| rest.split_once(',')).expect("a time").0;
        times.push(time.parse::<i64>().expect("seconds"));
    }
    assert!(times.is_sorted() && times[3] > times[0], "t is the attempt's: {times:?}");
    daemon.stop().await;
}

async fn the_account_role_is_in_force_on_every_instance(backend: Backend) {
    let site = Site::new(backend);
    let first = site.start().await;
    // Files have one daemon; several share a log in a cluster only.
    let second = if backend == Backend::Cluster { Some(site.start().await) } else { None };
    let other = second.as_ref().unwrap_or(&first);
    let collection = webhooks_of("c");
    let (status, refused) = other.call(Method::GET, &collection, None).await;
    assert_eq!(
        (status, refused),
        (StatusCode::UNPROCESSABLE_ENTITY, json!({ "error": 422, "message": "This action requires ENTERPRISE role" }))
    );
    for (roles, expected) in [(json!(["ENTERPRISE"]), StatusCode::OK), (json!([]), StatusCode::UNPROCESSABLE_ENTITY)] {
        first.ok(Method::PUT, "/v1/tenants/default", Some(json!({ "accountRoles": roles }))).await;
        assert_eq!(first.call(Method::GET, &collection, None).await.0, expected, "the instance that answered knows it already");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(1);
        while other.call(Method::GET, &collection, None).await.0 != expected {
            assert!(tokio::time::Instant::now() < deadline, "not {expected} on the other instance within a second");
        }
    }
    first.stop().await;
    if let Some(second) = second {
        second.stop().await;
    }
}
