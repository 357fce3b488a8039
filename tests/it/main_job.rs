//! The main job, on what a company would run: Kafka and Redis, events from an ordinary producer (kcat), 20 channels, 50 endpoints of mixed
//! kinds on two instances, one of which is stopped in the middle. Every signature is verified by implementations that are not ours.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{
    daemon::{Backend, Site},
    kafka,
    receiver::{Answer, Received, Receiver},
    verify,
};

const EVENTS: usize = 2_000;
const CHANNELS: usize = 20;
const ENDPOINTS: usize = 50;

/// When the channels of the events connected, milliseconds.
const MOMENT: u64 = 1_632_234_645_000;

/// What an endpoint asked for, as the test keeps it.
struct Expected {
    path: String,
    channel: Option<String>,
    types: Vec<&'static str>,
    format: &'static str,
    signing: &'static str,
    secret: Option<String>,
    auth: Option<(&'static str, &'static str)>,
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_the_three_products_reach_fifty_endpoints_over_two_instances() {
    let receiver = Receiver::start(|request| {
        // A few endpoints are slow; none fails, so that what comes twice was sent twice.
        if request.path.ends_with('7') { Answer::After(Duration::from_millis(20)) } else { Answer::Status(200) }
    })
    .await;
    let site = Site::new(Backend::Cluster);
    let (first, second) = (site.start().await, site.start().await);

    let mut endpoints = Vec::new();
    for n in 0..ENDPOINTS {
        let expected = expected(n);
        let mut body = json!({ "id": format!("endpoint-{n}"), "url": receiver.url(&expected.path), "types": expected.types,
            "format": expected.format, "signing": expected.signing, "headers": { "X-Custom": format!("value {n}") } });
        // Without channels it would also hear what posthaste tells of itself.
        let every = || (0..CHANNELS).map(|channel| format!("channel-{channel}")).collect();
        body["channels"] = json!(expected.channel.clone().map_or_else(every, |channel| vec![channel]));
        if let Some(auth) = auth(n) {
            body["auth"] = auth;
        }
        // Registered through both instances in turn: either must know what the other was told.
        let created = if n % 2 == 0 { &first } else { &second }.add_endpoint(body).await;
        endpoints.push(Expected { secret: created["secret"].as_str().map(str::to_owned), ..expected });
    }
    for daemon in [&first, &second] {
        daemon.until_metric("posthaste_endpoints{state=\"active\"", Duration::from_secs(10), |count| count == ENDPOINTS as f64).await;
    }

    let events: Vec<Value> = (0..EVENTS).map(event).collect();
    kafka::kcat(&site.events_topic(), &events[..EVENTS / 2]);
    receiver.wait_for(EVENTS / 4, Duration::from_secs(60)).await;
    kafka::kcat(&site.events_topic(), &events[EVENTS / 2..]);
    first.stop().await;

    let mut owed = HashSet::new();
    for event in &events {
        for endpoint in &endpoints {
            let wanted = endpoint.channel.as_deref().is_none_or(|channel| event["channel"] == channel)
                && endpoint.types.iter().any(|kind| event["type"] == *kind || *kind == "*");
            if wanted {
                owed.insert((endpoint.path.clone(), event["id"].as_str().expect("an id").to_owned()));
            }
        }
    }
    assert!(owed.len() > EVENTS, "the endpoints want something");
    let requests = receiver
        .until(Duration::from_secs(120), &format!("{} deliveries", owed.len()), |requests| {
            requests.len() >= owed.len() && requests.iter().map(identity).collect::<HashSet<_>>().len() == owed.len()
        })
        .await;
    second.stop().await;

    let by_path: HashMap<&str, &Expected> = endpoints.iter().map(|endpoint| (endpoint.path.as_str(), endpoint)).collect();
    let mut keys = HashMap::new();
    for request in &requests {
        let endpoint = by_path[request.path.as_str()];
        let (_, id) = identity(request);
        assert!(owed.contains(&(request.path.clone(), id.clone())), "nobody asked for {id} at {}", request.path);
        match endpoint.signing {
            "standard" => verify::standard(endpoint.secret.as_deref().expect("a secret"), request),
            "hub" => {
                let key = verify::hub(endpoint.secret.as_deref().expect("a secret"), request);
                // One record, one key, whatever endpoint it goes to.
                assert_eq!(keys.entry(id.clone()).or_insert_with(|| key.clone()), &key);
            }
            _ => verify::unsigned(request),
        }
        if let Some((name, value)) = endpoint.auth {
            assert_eq!(request.header(name), value);
        }
        assert!(request.header("x-custom").starts_with("value "));
        check_body(endpoint, request, &id);
    }
    let repeated = receiver.count() - owed.len();
    assert_eq!(repeated, 0, "both stops were orderly, so nothing that was answered may come again");
}

fn expected(n: usize) -> Expected {
    let types = match n % 5 {
        0 => vec!["*"],
        1 => vec!["MESSAGE", "MESSAGE_STATUS"],
        2 => vec!["lead.created"],
        3 => vec!["MESSAGE_RECEIVED", "CONNECTED"],
        _ => vec!["MESSAGE_STATUS"],
    };
    let (format, signing) = match n % 4 {
        0 => ("standard", "standard"),
        1 => ("cloudevents", "standard"),
        2 => ("hub", "hub"),
        _ => ("standard", "none"),
    };
    let auth = match n % 6 {
        1 => Some(("authorization", "Bearer t0k")),
        2 => Some(("x-api-key", "k3y")),
        3 => Some(("authorization", "Basic dXNlcjpwYXNz")),
        4 => Some(("x-own", "v4lue")),
        _ => None,
    };
    // Ten endpoints hear every channel.
    let channel = (n >= 10).then(|| format!("channel-{}", n % CHANNELS));
    Expected { path: format!("/hook/{n}"), channel, types, format, signing, secret: None, auth }
}

fn auth(n: usize) -> Option<Value> {
    match n % 6 {
        1 => Some(json!({ "type": "bearer", "token": "t0k" })),
        2 => Some(json!({ "type": "api_key", "key": "k3y" })),
        3 => Some(json!({ "type": "basic", "username": "user", "password": "pass" })),
        4 => Some(json!({ "type": "custom_header", "name": "X-Own", "value": "v4lue" })),
        _ => None,
    }
}

/// Messages, statuses, leads and channel events with the bodies of WIRE.md; row 19 of its section 0 says what is in `data`.
fn event(n: usize) -> Value {
    let (kind, data) = match n % 5 {
        0 => (
            "MESSAGE",
            json!({ "message": { "id": format!("m-{n}"), "from": "5511999999999", "to": "5511888888888", "direction": "IN", "channel": "whatsapp",
                "visitor": { "name": "Ana Souza", "firstName": "Ana", "lastName": "Souza" }, "contents": [{ "type": "text", "text": "Oi" }],
                "timestamp": "2026-01-15T11:59:59Z" } }),
        ),
        1 => (
            "MESSAGE_STATUS",
            json!({ "messageId": format!("m-{n}"), "contentIndex": 0, "message": { "id": format!("m-{n}"), "externalId": "order-17", "contentIndex": 0,
                "direction": "OUT", "from": "acme", "to": "5511999999999" }, "messageStatus": { "code": "NOT_DELIVERED", "timestamp": "2026-01-15T12:00:04Z",
                "channel": "sms", "direction": "OUT", "description": "The provider was unable to deliver the message",
                "causes": [{ "channelErrorCode": "471", "reason": "Invalid number", "details": "não existe" }] } }),
        ),
        2 => {
            ("lead.created", json!({ "leadId": n.to_string(), "name": "Ana Souza", "email": "ana@example.com", "phone": "+5511999999999" }))
        }
        3 => (
            "MESSAGE_RECEIVED",
            json!({ "_id": format!("019E6F1A93FE78DCB54332F9FF{n:06X}"), "tenant": "019DCEB3", "channel_id": format!("channel-{}", n % CHANNELS), "created": 1779980473342u64,
                "sender": { "@class": ".Sender", "identifier": "5511999999999", "name": "Ana" }, "recipient": { "@class": ".Recipient", "identifier": "5544900000000", "name": "acme" },
                "contents": [{ "@class": ".TextContent", "identifier": "019E6F1A93FE", "internal_information": {}, "message": "Olá".repeat(if n.is_multiple_of(2) { 1 } else { 400 }), "state_items": [], "type": "TEXT" }],
                "attachments": [], "actions": [], "webhook_processed": false }),
        ),
        _ => ("CONNECTED", json!({ "connected": true, "momment": MOMENT + n as u64, "phone": "5544999999999" })),
    };
    json!({ "id": format!("event-{n}"), "type": kind, "channel": format!("channel-{}", n % CHANNELS), "direction": if n % 5 == 1 { "OUT" } else { "IN" },
        "time": "2026-01-15T12:00:00Z", "data": data })
}

/// What was delivered: the path it came to and the id of the event. The Hub's payload has no id of the event, so it is told by what is in it.
fn identity(request: &Received) -> (String, String) {
    let id = match request.headers.get("webhook-id") {
        Some(id) => id.to_str().expect("text").to_owned(),
        None => {
            let body = request.json();
            let id = body["id"].as_str().map(str::to_owned);
            id.or_else(|| number(&body["message"]).map(|n| format!("event-{n}"))).unwrap_or_else(|| panic!("no id in {request:?}"))
        }
    };
    (request.path.clone(), id)
}

/// The number that [`event`] put into these data.
fn number(data: &Value) -> Option<usize> {
    let own = |id: &Value| id.as_str()?.strip_prefix("m-")?.parse().ok();
    own(&data["message"]["id"])
        .or_else(|| own(&data["messageId"]))
        .or_else(|| data["leadId"].as_str()?.parse().ok())
        .or_else(|| usize::from_str_radix(data["_id"].as_str()?.get(26..)?, 16).ok())
        .or_else(|| usize::try_from(data["momment"].as_u64()? - MOMENT).ok())
}

fn check_body(endpoint: &Expected, request: &Received, id: &str) {
    let n: usize = id.strip_prefix("event-").and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{id}"));
    let (event, body) = (event(n), request.json());
    match endpoint.format {
        "standard" | "cloudevents" => assert_eq!((&body["type"], &body["data"]), (&event["type"], &event["data"]), "{id}"),
        "hub" => assert_eq!((&body["messageEventType"], &body["message"]), (&hub_kind(&event), &event["data"]), "{id}"),
        other => panic!("{other}"),
    }
}

/// `NEW_MESSAGE` for message events; an event without a documented shape has its own type (WIRE.md section 0, row 12).
fn hub_kind(event: &Value) -> Value {
    match event["type"].as_str() {
        Some("MESSAGE_RECEIVED" | "MESSAGE_STATUS") => json!("NEW_MESSAGE"),
        _ => event["type"].clone(),
    }
}
