//! The three products to the letter, in one run: their clients register webhooks through their products' own APIs, 2,000 mixed events come in, and
//! the receivers check every request against WIRE.md by means that are not posthaste's own: bodies that the test writes down itself, signatures
//! by OpenSSL and by the `standardwebhooks` crate, keys by where the records lie in the log.

mod bodies;
mod clients;
mod events;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{Method, StatusCode};
use serde_json::{Value, json};

use self::{
    bodies::Format,
    clients::{Key, Webhook},
    events::event,
};
use crate::support::{
    daemon::{Backend, Daemon, Site, both_backends},
    kafka,
    receiver::{Answer, Received, Receiver},
    verify,
};

both_backends!(every_request_of_the_three_products_is_as_documented);

const EVENTS: usize = 2_000;
/// What comes after the webhooks were deleted.
const LATER: usize = 46;
const WITHIN: Duration = Duration::from_secs(60);

/// Receivers that fail the first attempts of this many of their events. Fewer than ten in a row: nobody is degraded.
const FAILING: [(&str, Failure); 4] = [
    ("/hub/bearer", Failure::Status),
    ("/hub/basic", Failure::RetryAfter),
    ("/conversion/quote", Failure::RetryAfter),
    ("/zenvia/in", Failure::Status),
];
const FAILED: usize = 5;
const RETRY_AFTER: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Failure {
    Status,
    RetryAfter,
}

/// A body that came to, or is owed to, a path. Every event makes bodies of its own.
type Sent = (String, String);

fn sent(request: &Received) -> Sent {
    (request.path.clone(), request.json().to_string())
}

async fn every_request_of_the_three_products_is_as_documented(backend: Backend) {
    let failed: Arc<Mutex<HashSet<Sent>>> = Arc::default();
    let failures = Arc::clone(&failed);
    let receiver = Receiver::start(move |request| {
        let Some((path, failure)) = FAILING.iter().find(|(path, _)| *path == request.path) else { return Answer::Status(200) };
        let mut failures = failures.lock().expect("not poisoned");
        if failures.iter().filter(|(of, _)| of == path).count() >= FAILED || !failures.insert(sent(request)) {
            return Answer::Status(200);
        }
        match failure {
            Failure::Status => Answer::Status(500),
            Failure::RetryAfter => Answer::Headers(429, vec![("retry-after", RETRY_AFTER.as_secs().to_string())]),
        }
    })
    .await;
    let (tokens, certificate) = Receiver::encrypted(|_| {
        Answer::Body(200, json!({ "access_token": "acc3ss", "token_type": "Bearer", "expires_in": 3600 }).to_string())
    })
    .await;

    let site = Site::new(backend).with("[retry]\nschedule = [\"1s\", \"3s\"]\n");
    let authority = site.directory.path().join("ca.pem");
    std::fs::write(&authority, certificate).expect("written");
    let environment = [
        ("POSTHASTE_DELIVERY__CA_FILE", authority.to_str().expect("text")),
        // A busy machine makes nobody slow: what is asserted is that health stays as it is.
        ("POSTHASTE_DELIVERY__RESPONSE_TIMEOUT", "30s"),
        ("POSTHASTE_HEALTH__SLOW_AFTER", "20s"),
    ];
    let mut daemons = vec![site.start_with(&environment).await];
    if backend == Backend::Cluster {
        daemons.push(site.start_with(&environment).await);
    }
    let daemon = &daemons[0];
    for tenant in ["acme", "rival"] {
        daemon.ok(Method::PUT, &format!("/v1/tenants/{tenant}"), Some(json!({ "accountRoles": ["ENTERPRISE"] }))).await;
    }
    let (webhooks, agent) = register(daemon, &receiver, &tokens).await;
    for daemon in &daemons {
        for webhook in &webhooks {
            until_answered(daemon, webhook, StatusCode::OK).await;
        }
    }

    let began = unix_time();
    let events: Vec<Value> = (0..EVENTS).map(event).collect();
    let positions = publish(&site, daemon, &events).await;
    let owed = owed(&webhooks, &events, &agent);
    assert!(owed.len() > EVENTS, "{} deliveries are owed", owed.len());
    let all = owed.len() + FAILING.len() * FAILED;
    let requests = receiver.until(WITHIN, &format!("{all} requests"), |requests| requests.len() >= all).await;
    let failed = failed.lock().expect("not poisoned").clone();
    assert_eq!(failed.len(), FAILING.len() * FAILED);
    check(&webhooks, &requests, &owed, &failed, &positions, began);

    // The token endpoint was asked as RFC 6749 has it (section 0, row 9), once by each instance that delivered.
    let asked = tokens.requests();
    assert!((1..=daemons.len()).contains(&asked.len()), "{asked:?}");
    for request in &asked {
        assert_eq!((&*request.path, request.header("x-idp")), ("/token?audience=hooks", "i1"));
        let form: BTreeSet<(String, String)> = url::form_urlencoded::parse(&request.body).into_owned().collect();
        let expected = [("client_id", "cid"), ("client_secret", "c sec"), ("grant_type", "client_credentials")];
        assert_eq!(form, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }

    for webhook in &webhooks {
        check_status(daemons.last().expect("one"), webhook).await;
    }
    daemon.ok(Method::DELETE, &format!("/v1/agents/{agent}"), None).await;
    for webhook in &webhooks {
        delete(daemon, webhook).await;
        for daemon in &daemons {
            until_answered(daemon, webhook, StatusCode::NOT_FOUND).await;
        }
    }
    let before = unmatched(&daemons).await;
    let later: Vec<Value> = (EVENTS..EVENTS + LATER).map(event).collect();
    publish(&site, daemon, &later).await;
    let deadline = tokio::time::Instant::now() + WITHIN;
    while unmatched(&daemons).await < before + LATER as f64 {
        assert!(tokio::time::Instant::now() < deadline, "the last events were never routed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for daemon in daemons {
        daemon.stop().await;
    }
    assert_eq!(receiver.count(), all, "nothing comes twice, to the wrong webhook, or after the end");
}

/// All webhooks, and the id of the agent.
async fn register(daemon: &Daemon, receiver: &Receiver, tokens: &Receiver) -> (Vec<Webhook>, String) {
    let (standard, none) = clients::token(daemon, "acme", "standard").await;
    let (key, secret) = clients::token(daemon, "acme", "signature").await;
    let (rival, _) = clients::token(daemon, "rival", "standard").await;
    assert_eq!(none, None, "a standard token has no secret");
    let signed = Key::Signed(key.clone(), secret.expect("a signature token has one"));
    let (status, _) = Key::Token(key).call(daemon, Method::GET, "/v2/subscriptions", None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "a signature token needs its signature");

    let bearer = Key::Bearer(standard.clone());
    let mut webhooks = clients::zenvia(daemon, receiver, tokens, "acme", &signed).await;
    webhooks.extend(clients::zenvia(daemon, receiver, tokens, "rival", &Key::Token(rival.clone())).await);
    webhooks.extend(clients::conversion(daemon, receiver, "acme", &bearer, Some(&Key::Query(standard.clone()))).await);
    webhooks.extend(clients::conversion(daemon, receiver, "rival", &Key::Bearer(rival.clone()), None).await);
    webhooks.extend(clients::hub(daemon, receiver, "acme", &bearer).await);
    webhooks.extend(clients::hub(daemon, receiver, "rival", &Key::Bearer(rival.clone())).await);
    webhooks.push(clients::filtered(daemon, receiver, &bearer).await);

    let third = json!({ "eventType": "MESSAGE", "webhook": { "url": receiver.url("/third") }, "criteria": { "channel": "whatsapp" } });
    let (status, answer) = Key::Token(standard.clone()).call(daemon, Method::POST, "/v2/subscriptions", Some(third)).await;
    assert_eq!((status, &answer["code"]), (StatusCode::CONFLICT, &json!("DUPLICATED")), "two with the same criteria at most");
    for webhook in webhooks.iter().filter(|webhook| webhook.tenant == "acme") {
        // A key in the query counts on the paths of shape B only.
        let foreign = if matches!(webhook.key, Key::Query(_)) { Key::Query(rival.clone()) } else { Key::Bearer(rival.clone()) };
        for method in [Method::GET, Method::DELETE] {
            let (status, answer) = foreign.call(daemon, method, &webhook.resource, None).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{}: {answer}", webhook.resource);
        }
    }

    let find = |path: &str| webhooks.iter().find(|webhook| webhook.path == path).expect("registered");
    // The preset of Zenvia waits for 30 s; the endpoint behind the subscription is told to wait for one.
    let (status, answer) =
        bearer.call(daemon, Method::PATCH, &format!("/v1/endpoints/{}", find("/zenvia/in").id), Some(json!({ "retry": ["1s"] }))).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let agent = json!({ "name": "VIP", "externalId": "184234236867", "endpoint": find("/zenvia/agent").id,
        "condition": "event.type == 'ticket.opened' && event.data.ticket.vip" });
    let (status, agent) = bearer.call(daemon, Method::POST, "/v1/agents", Some(agent)).await;
    assert_eq!(status, StatusCode::CREATED, "{agent}");
    let agent = agent["id"].as_str().expect("an id").to_owned();
    (webhooks, agent)
}

/// Puts events into the log as a client of this backend does, and tells where each lies: `topic:partition:offset`.
async fn publish(site: &Site, daemon: &Daemon, events: &[Value]) -> HashMap<String, String> {
    if site.backend == Backend::Cluster {
        return kcat(site, events);
    }
    let mut positions = HashMap::new();
    for some in events.chunks(200) {
        let answer = daemon.ok(Method::POST, "/v1/events", Some(json!(some))).await;
        for one in answer["accepted"].as_array().expect("a list") {
            let position = format!("{}:{}:{}", one["topic"].as_str().expect("a topic"), one["partition"], one["offset"]);
            positions.insert(one["id"].as_str().expect("an id").to_owned(), position);
        }
    }
    positions
}

/// An ordinary producer, with the channel as key, and an ordinary consumer that sees where the records came to lie.
fn kcat(site: &Site, events: &[Value]) -> HashMap<String, String> {
    let topic = site.events_topic();
    kafka::kcat(&topic, events);
    let consumed = Command::new("kcat")
        .args(["-C", "-q", "-e", "-o", "beginning", "-b", &kafka::brokers(), "-t", &topic, "-f", "%t:%p:%o\t%s\n"])
        .output()
        .expect("kcat is installed");
    assert!(consumed.status.success(), "{consumed:?}");
    let position = |line: &str| {
        let (position, event) = line.split_once('\t')?;
        let event: Value = serde_json::from_str(event).expect("an event");
        Some((event["id"].as_str()?.to_owned(), position.to_owned()))
    };
    String::from_utf8(consumed.stdout).expect("text").lines().filter_map(position).collect()
}

/// Every body that must come, and the id of the event that it is of.
fn owed(webhooks: &[Webhook], events: &[Value], agent: &str) -> HashMap<Sent, String> {
    let mut owed = HashMap::new();
    for event in events {
        let id = event["id"].as_str().expect("an id").to_owned();
        for webhook in webhooks.iter().filter(|webhook| event["tenant"] == webhook.tenant) {
            let is_told = webhook.path == "/zenvia/agent" && event["type"] == "ticket.opened" && event["data"]["ticket"]["vip"] == true;
            let body = match is_told {
                true => bodies::agent(event, &webhook.id, agent, "184234236867"),
                false if (webhook.wants)(event) => bodies::body(webhook.format, event, &webhook.id),
                false => continue,
            };
            let id = if is_told { format!("{id}:{agent}") } else { id.clone() };
            assert!(owed.insert((webhook.path.to_owned(), body.to_string()), id).is_none(), "bodies tell events apart");
        }
    }
    for webhook in webhooks {
        assert!(owed.keys().any(|(path, _)| *path == webhook.path), "{} has something to come", webhook.path);
    }
    owed
}

/// Every request is one that is owed, and is as documented; every one that is owed came once, and once more for each failure.
fn check(
    webhooks: &[Webhook],
    requests: &[Received],
    owed: &HashMap<Sent, String>,
    failed: &HashSet<Sent>,
    positions: &HashMap<String, String>,
    began: i64,
) {
    let mut came: HashMap<Sent, Vec<&Received>> = HashMap::new();
    for request in requests {
        let sent = sent(request);
        assert!(owed.contains_key(&sent), "nobody asked for {sent:?}; owed there: {:?}", owed.keys().find(|(path, _)| *path == sent.0));
        came.entry(sent).or_default().push(request);
    }
    for (sent, id) in owed {
        let webhook = webhooks.iter().find(|webhook| webhook.path == sent.0).expect("registered");
        let requests = came.get(sent).unwrap_or_else(|| panic!("{id} never came to {}", sent.0));
        assert_eq!(requests.len(), 1 + usize::from(failed.contains(sent)), "{id} at {}", sent.0);
        for request in requests {
            check_headers(webhook, request, id, positions, began);
        }
        if let [first, second] = requests[..] {
            let waits = FAILING.iter().any(|(path, failure)| *path == sent.0 && *failure == Failure::RetryAfter);
            let waited = second.at - first.at;
            // The date of an attempt is not that of its arrival: some slack below.
            assert!(
                waited >= if waits { RETRY_AFTER } else { Duration::from_secs(1) } - Duration::from_millis(200),
                "{waited:?} at {}",
                sent.0
            );
        }
    }
    for webhook in webhooks {
        if let Some(secret) = webhook.secret.as_deref() {
            let own: Vec<&Received> = requests.iter().filter(|request| request.path == webhook.path).collect();
            match webhook.format {
                Format::Own => own.iter().for_each(|request| verify::standard(secret, request)),
                _ => verify::hub_all(secret, &own),
            }
        }
    }
}

/// The headers, all of them: those that must be there, with their values, and no others.
fn check_headers(webhook: &Webhook, request: &Received, id: &str, positions: &HashMap<String, String>, began: i64) {
    let mut names: BTreeSet<&str> = ["host", "content-type", "content-length", "user-agent"].into();
    assert_eq!((&request.method, request.header("content-type")), (&Method::POST, "application/json"));
    assert_eq!(request.header("content-length"), request.body.len().to_string());
    for (name, value) in &webhook.headers {
        names.insert(name);
        assert_eq!(request.header(name), *value, "{request:?}");
    }
    let is_of_the_hub = matches!(webhook.format, Format::Default | Format::ZApi | Format::Chatwoot);
    if is_of_the_hub {
        // Also without a signature (section 0, row 11), and the same on every attempt.
        names.insert("x-idempotency-key");
        assert_eq!(request.header("x-idempotency-key"), positions[id]);
        if webhook.secret.is_some() {
            names.insert("x-webhook-signature");
            let signature = request.header("x-webhook-signature");
            let time = signature.strip_prefix("t=").and_then(|rest| rest.split_once(',')).expect("a time").0;
            assert!((began..=unix_time()).contains(&time.parse().expect("seconds")), "{signature}");
        }
        if request.plain().len() >= 1024 {
            names.insert("content-encoding");
        }
    } else {
        names.extend(["webhook-id", "webhook-timestamp"]);
        assert_eq!(request.header("webhook-id"), id, "stable over attempts");
        names.extend(webhook.secret.as_ref().map(|_| "webhook-signature"));
    }
    assert_eq!(request.headers.keys().map(http::HeaderName::as_str).collect::<BTreeSet<_>>(), names, "{request:?}");
}

/// What the product's own API says of a webhook that delivered.
async fn check_status(daemon: &Daemon, webhook: &Webhook) {
    let (status, shown) = webhook.key.call(daemon, Method::GET, &webhook.resource, None).await;
    assert_eq!(status, StatusCode::OK, "{shown}");
    assert_eq!(shown["id"], webhook.id, "{shown}");
    match webhook.format {
        Format::ZenviaV1 | Format::ZenviaV2 => assert_eq!(shown["status"], "ACTIVE", "{shown}"),
        Format::Default | Format::ZApi | Format::Chatwoot => {
            assert_eq!((&shown["status"], &shown["signing"]), (&json!("ENABLED"), &json!(webhook.secret.is_some())), "{shown}");
            assert!(shown["secret"].is_null(), "shown once only: {shown}");
            assert_eq!(shown["auth"]["configured"], json!(!webhook.headers.is_empty()), "{shown}");
        }
        Format::Conversion => {
            let url = shown["callbackUrl"].as_str().expect("a URL");
            assert!(url.ends_with(webhook.path), "{shown}");
        }
        Format::Own => assert_eq!(shown["health"]["state"], "active", "{shown}"),
    }
    for secret in ["acc3ss", "c sec", "t0k", "k3y", "pass", "v4lue"] {
        assert!(!shown.to_string().contains(&format!("\"{secret}\"")), "{shown}");
    }
}

async fn delete(daemon: &Daemon, webhook: &Webhook) {
    let (status, answer) = webhook.key.call(daemon, Method::DELETE, &webhook.resource, None).await;
    // Shape B answers what it was (WIRE.md 2.2).
    let expected = if matches!(webhook.key, Key::Query(_)) { StatusCode::OK } else { StatusCode::NO_CONTENT };
    assert_eq!(status, expected, "{}: {answer}", webhook.resource);
}

/// Waits until an instance knows of the webhook, or of its end.
async fn until_answered(daemon: &Daemon, webhook: &Webhook, wanted: StatusCode) {
    let deadline = tokio::time::Instant::now() + WITHIN;
    loop {
        let (status, answer) = webhook.key.call(daemon, Method::GET, &webhook.resource, None).await;
        if status == wanted {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{}: {status} {answer}", webhook.resource);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Events that nobody wanted, over all instances.
async fn unmatched(daemons: &[Daemon]) -> f64 {
    let mut sum = 0.0;
    for daemon in daemons {
        sum += daemon.metric("posthaste_events_total{result=\"unmatched\"").await;
    }
    sum
}

fn unix_time() -> i64 {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    i64::try_from(seconds).expect("in range")
}
