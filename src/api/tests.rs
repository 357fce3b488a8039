use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use axum::{body::Body, http::header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tower::ServiceExt;

use super::*;
use crate::{
    health::{Update, memory::MemoryHealth, score::Rules},
    log::{
        self,
        sqlite::{SqliteLog, SqliteOptions},
        topics::Topics,
    },
    model::{Observation, SystemClock, TopicPartition},
    registry::{Key, Options},
    settle::{dead_letter, journal},
    sources::{ingest, replay},
};

mod filters;
mod hostile;
mod hub;
mod hub_refusals;
mod openapi;
mod roles;
mod tokens;

pub const ADMIN: &str = "0123456789abcdef";

/// The routes on real components, without a socket.
pub struct Api {
    router: Router,
    pub health: Arc<MemoryHealth>,
    pub registry: Arc<Registry>,
    log: Arc<dyn Log>,
    topics: Topics,
    _directory: TempDir,
}

/// Answer of a request.
pub struct Answer {
    pub status: u16,
    kind: String,
    pub body: Value,
}

impl Answer {
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        if status >= 400 {
            assert_eq!(self.kind, "application/problem+json");
            assert_eq!(self.body["status"], status);
        }
        self.body
    }

    /// The paths of the fields that are wrong.
    fn paths(&self) -> Vec<&str> {
        self.body["errors"].as_array().map(|errors| errors.iter().filter_map(|error| error["path"].as_str()).collect()).unwrap_or_default()
    }
}

impl Api {
    pub async fn start() -> Api {
        Api::with(Vec::new()).await
    }

    /// With declared endpoints.
    pub async fn with(declared: Vec<crate::model::Endpoint>) -> Api {
        let directory = tempfile::tempdir().expect("a directory");
        let metrics = Metrics::new();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let config = log::Config::default();
        let log: Arc<dyn Log> = SqliteLog::open(directory.path(), SqliteOptions::new(&config, Arc::clone(&metrics))).expect("opened");
        let topics = Topics::new(&log::topics::Config::default());
        log.ensure(&topics.specs(&[], &config)).await.expect("made");
        let options = Options {
            topic: Arc::clone(topics.registry()),
            key: Key::from_bytes(&[1; 32]),
            declared,
            tenants: Vec::new(),
            may_be_new: true,
        };
        let registry =
            Registry::start(Arc::clone(&log), options, Box::new(|_| {}), Arc::clone(&metrics), &SystemClock).await.expect("started");
        let (updates, mut told) = mpsc::channel(100);
        let health = MemoryHealth::new(Rules::default(), Arc::clone(&clock), Arc::clone(&metrics), updates);
        let recorder = Arc::clone(&registry);
        tokio::spawn(async move {
            while let Some(update) = told.recv().await {
                if let Update::Transition(transition) = update {
                    let position = Position { topic: "posthaste.events".into(), partition: 0, offset: 0 };
                    recorder.record_transition(&transition, vec![position]).await.expect("stored");
                }
            }
        });
        let ingest = ingest::Ingest::new(
            Arc::clone(&log),
            Arc::clone(topics.ingest()),
            ingest::Config::default(),
            Arc::clone(&clock),
            Arc::clone(&metrics),
        );
        let dead_letters = DeadLetters::start(
            Arc::clone(&log),
            Arc::clone(topics.dead()),
            Arc::clone(topics.ingest()),
            &dead_letter::Config::default(),
            Arc::clone(&clock),
            Arc::clone(&metrics),
        )
        .expect("started");
        let history = History::new(Arc::clone(&log), Arc::clone(topics.history()), Arc::clone(&clock), Arc::clone(&metrics));
        history.follow().expect("started");
        let (journal, _) =
            Journal::new(Arc::clone(&log), Arc::clone(topics.attempts()), journal::Config::default(), 1, Arc::clone(&metrics));
        let replays = Replays::new(
            Arc::clone(&log),
            Arc::clone(topics.ingest()),
            tokio::runtime::Handle::current(),
            // More than any test runs at once.
            replay::Config { at_once: 64, ..replay::Config::default() },
            Arc::clone(&clock),
        );
        let reader = Arc::clone(&log);
        let looked = AtomicBool::new(false);
        let state = State {
            registry: Arc::clone(&registry),
            health: health.clone(),
            log: Arc::clone(&log),
            ingest: Arc::new(ingest),
            dead_letters,
            history,
            journal,
            replays: Arc::new(replays),
            topics: topics.clone(),
            addresses: Arc::default(),
            // Nobody reads the events here: whoever disables first is at the start, and by the next look everything is settled.
            positions: Arc::new(move || {
                let settled = looked.swap(true, Ordering::Relaxed);
                let at = |partition| -> Result<Position, LogError> {
                    let topic = TopicPartition { topic: "posthaste.events".into(), partition };
                    let offset = if settled { reader.reader(topic.clone(), log::From::Earliest)?.end()? } else { 0 };
                    Ok(Position { topic: topic.topic, partition, offset })
                };
                reader.partitions("posthaste.events")?.into_iter().map(at).collect()
            }),
            admin: AdminToken::new(ADMIN),
            clock,
            metrics,
        };
        Api { router: router(state), health, registry, log, topics, _directory: directory }
    }

    pub async fn ask(&self, key: &str, method: &str, path: &str, body: impl Into<Body>) -> Answer {
        let request = Request::builder().method(method).uri(path).header(header::AUTHORIZATION, format!("Bearer {key}"));
        let (head, body) = self.send(request.body(body.into()).expect("a request")).await;
        let status = head.status.as_u16();
        let kind = head.headers.get(header::CONTENT_TYPE).map(|kind| kind.to_str().expect("text").to_owned()).unwrap_or_default();
        let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).expect("JSON") };
        Answer { status, kind, body }
    }

    /// Only the status; without a key there is no header for it.
    async fn status(&self, key: Option<&str>, method: &str, path: &str, body: String) -> u16 {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(key) = key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        let request = request.body(Body::from(body)).expect("a request");
        self.router.clone().oneshot(request).await.expect("never fails").status().as_u16()
    }

    pub async fn send(&self, request: Request) -> (axum::http::response::Parts, bytes::Bytes) {
        let response = self.router.clone().oneshot(request).await.expect("never fails");
        let (head, body) = response.into_parts();
        (head, body.collect().await.expect("a body").to_bytes())
    }

    pub async fn admin(&self, method: &str, path: &str, body: Value) -> Answer {
        self.ask(ADMIN, method, path, if body.is_null() { String::new() } else { body.to_string() }).await
    }

    pub async fn token(&self, tenant: &str, role: &str) -> String {
        let body = self.admin("POST", "/v1/tokens", json!({"name": "t", "tenant": tenant, "role": role})).await.expect(201);
        body["key"].as_str().expect("a key").to_owned()
    }

    /// Asks until the answer is as wanted.
    pub async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let body = self.admin("GET", path, Value::Null).await.expect(200);
            if wanted(&body) {
                return body;
            }
            assert!(Instant::now() < deadline, "{body}");
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_created_read_changed_and_deleted() {
    let api = Api::start().await;
    let new = json!({"url": "https://example.com/hook", "channels": ["c"], "headers": {"x-a": "1", "x-b": "2"},
        "auth": {"type": "bearer", "token": "hunter2"}});
    let created = api.admin("POST", "/v1/endpoints", new).await.expect(201);
    let id = created["id"].as_str().expect("an id");
    assert!(created["secret"].as_str().expect("shown once").starts_with("whsec_"));
    let path = format!("/v1/endpoints/{id}");
    let read = api.admin("GET", &path, Value::Null).await.expect(200);
    assert!(read.get("secret").is_none() && !read.to_string().contains("hunter2"), "{read}");
    assert_eq!(read["auth"], json!({"type": "bearer", "configured": true}));
    assert_eq!(read["health"]["state"], "active");

    // What was read can be sent back.
    let changed = api.admin("PATCH", &path, read.clone()).await.expect(200);
    assert!(changed["signing"].is_string() && changed.get("secret").is_none(), "the secret that it had is not shown again: {changed}");
    let patch = json!({"url": "https://example.com/other", "headers": {"x-a": null, "x-c": "3"}, "rate": "5/s"});
    let changed = api.admin("PATCH", &path, patch).await.expect(200);
    assert_eq!(changed["headers"], json!({"x-b": "2", "x-c": "3"}));
    assert_eq!((&changed["rate"], &changed["channels"], &changed["createdAt"]), (&json!("5/s"), &json!(["c"]), &created["createdAt"]));
    let entry = api.registry.get(id).expect("there");
    assert!(matches!(&entry.endpoint.auth, crate::model::Auth::Bearer { token } if token.expose() == b"hunter2"), "kept");
    let changed =
        api.admin("PATCH", &path, json!({"auth": {"type": "basic", "username": "u", "password": "p"}, "rate": null})).await.expect(200);
    assert_eq!((&changed["auth"]["type"], &changed["rate"]), (&json!("basic"), &Value::Null));
    assert!(changed.get("secret").is_none());
    let changed = api.admin("PATCH", &path, json!({"signing": "hub"})).await.expect(200);
    assert_eq!(changed["secret"].as_str().expect("a new one is shown").len(), 64);

    let list = api.admin("GET", "/v1/endpoints?limit=1", Value::Null).await.expect(200);
    assert_eq!((list["items"].as_array().expect("a list").len(), &list["next"]), (1, &Value::Null));
    api.admin("DELETE", &path, Value::Null).await.expect(204);
    api.admin("GET", &path, Value::Null).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_oauth2_and_tls_only_what_is_no_secret_is_shown_and_what_was_read_can_be_sent_back() {
    let api = Api::start().await;
    let made = rcgen::generate_simple_self_signed(["client".to_owned()]).expect("made");
    let key = made.signing_key.serialize_pem();
    let new = json!({"id": "a", "url": "https://example.com/hook",
        "auth": {"type": "oauth2", "url": "https://idp.example.com/token", "headers": {"x-key": "hunter2"}, "queryParams": {"q": "hunter2"},
            "clientId": "cid", "clientSecret": "hunter2", "refreshToken": "hunter2", "expiresIn": 60},
        "tls": {"certificate": made.cert.pem(), "key": key}});
    let created = api.admin("POST", "/v1/endpoints", new).await.expect(201);
    let configured = json!({"configured": true});
    assert_eq!(
        created["auth"],
        json!({"type": "oauth2", "url": "https://idp.example.com/token", "headers": {"x-key": configured},
        "queryParams": {"q": configured}, "clientId": "cid", "clientSecret": configured, "refreshToken": configured, "expiresIn": 60,
        "configured": true})
    );
    assert_eq!(created["tls"], json!({"certificate": made.cert.pem(), "key": configured}));
    assert!(!created.to_string().contains("hunter2") && !created.to_string().contains("PRIVATE"), "{created}");
    let before = api.registry.get("a").expect("there").endpoint;

    let read = api.admin("GET", "/v1/endpoints/a", Value::Null).await.expect(200);
    api.admin("PATCH", "/v1/endpoints/a", read).await.expect(200);
    let after = api.registry.get("a").expect("there").endpoint;
    assert_eq!((&after.auth, &after.tls), (&before.auth, &before.tls), "secrets stay as they are");

    let patch = json!({"auth": {"clientId": "other", "headers": {"x-key": null, "x-new": "n"}, "refreshToken": null}, "tls": null});
    let changed = api.admin("PATCH", "/v1/endpoints/a", patch).await.expect(200);
    assert_eq!((&changed["auth"]["clientId"], &changed["auth"]["headers"]), (&json!("other"), &json!({"x-new": configured})));
    assert!(changed["auth"].get("refreshToken").is_none() && changed.get("tls").is_none(), "{changed}");
    let crate::model::Auth::OAuth2(oauth) = &api.registry.get("a").expect("there").endpoint.auth else { panic!("another auth") };
    assert_eq!(oauth.client_secret.expose(), b"hunter2");

    let wrong = api.admin("PATCH", "/v1/endpoints/a", json!({"auth": {"type": "bearer", "token": configured}})).await;
    assert_eq!(wrong.paths(), ["auth.token"], "a secret of another kind has to be given: {}", wrong.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages() {
    let api = Api::start().await;
    for id in ["a", "b", "c"] {
        api.admin("POST", "/v1/endpoints", json!({"id": id, "url": "https://example.com/"})).await.expect(201);
    }
    api.admin("POST", "/v1/endpoints", json!({"id": "a", "url": "https://example.com/"})).await.expect(409);
    let first = api.admin("GET", "/v1/endpoints?limit=2", Value::Null).await.expect(200);
    assert_eq!(first["next"], "b");
    let second = api.admin("GET", "/v1/endpoints?limit=2&cursor=b", Value::Null).await.expect(200);
    assert_eq!((second["items"][0]["id"].as_str(), second["next"].as_str()), (Some("c"), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_answered_by_a_problem_that_names_the_field() {
    let api = Api::start().await;
    api.admin("POST", "/v1/endpoints", json!({"id": "a", "url": "https://example.com/"})).await.expect(201);
    let event = r#"{"type":"t","channel":"c","data":1}"#;
    for (method, path, body, status, field) in [
        ("POST", "/v1/endpoints", "{", 400, "."),
        ("POST", "/v1/endpoints", r#"{"url":7}"#, 400, "url"),
        ("POST", "/v1/endpoints", r#"{"url":"https://h/","colour":"red"}"#, 400, "colour"),
        ("POST", "/v1/endpoints", "{} {}", 400, "."),
        ("POST", "/v1/endpoints", "", 422, "url"),
        ("POST", "/v1/endpoints", r#"{"url":"ftp://h/"}"#, 422, "url"),
        ("POST", "/v1/endpoints", r#"{"url":"https://user:pw@h/"}"#, 422, "url"),
        ("POST", "/v1/endpoints", r#"{"url":"http://169.254.169.254/"}"#, 422, "url"),
        ("POST", "/v1/endpoints", r#"{"url":"http://localhost/"}"#, 422, "url"),
        ("POST", "/v1/endpoints", r#"{"url":"https://h/","types":["a","*b"]}"#, 422, "types[1]"),
        ("POST", "/v1/endpoints", r#"{"url":"https://h/","headers":{"Host":"x"}}"#, 422, "headers.Host"),
        ("POST", "/v1/endpoints", r#"{"url":"https://h/","tls":{"ca":"x"}}"#, 422, "tls.ca"),
        (
            "POST",
            "/v1/endpoints",
            r#"{"url":"https://h/","auth":{"type":"oauth2","url":"https://10.0.0.1/","clientId":"c","clientSecret":"s"}}"#,
            422,
            "auth.url",
        ),
        (
            "POST",
            "/v1/endpoints",
            r#"{"url":"https://h/","auth":{"type":"oauth2","url":"http://idp/","clientId":"c","clientSecret":"s"}}"#,
            422,
            "auth.url",
        ),
        (
            "POST",
            "/v1/endpoints",
            r#"{"url":"https://h/","auth":{"type":"oauth2","url":"https://idp/","clientId":"c","clientSecret":7}}"#,
            400,
            "auth.clientSecret",
        ),
        ("PATCH", "/v1/endpoints/a", r#"{"tenant":"other"}"#, 422, "tenant"),
        ("PATCH", "/v1/endpoints/a", r#"{"url":"http://10.0.0.1/"}"#, 422, "url"),
        ("PATCH", "/v1/endpoints/a", r#"{"rate":5}"#, 400, "rate"),
        ("PATCH", "/v1/endpoints/a", "[]", 400, "."),
        ("POST", "/v1/endpoints/a/rotate-secret", r#"{"secret":"x"}"#, 422, "secret"),
        ("GET", "/v1/endpoints?limit=0", "", 400, "limit"),
        ("GET", "/v1/endpoints?colour=red", "", 400, "colour"),
        (
            "POST",
            "/v1/endpoints",
            r#"{"url":7,"colour":"red","rate":5,"auth":{"type":"bearer","token":[]}}"#,
            400,
            "auth.token, colour, rate, url",
        ),
        ("POST", "/v1/endpoints", r#"{"url":"ftp://h/","rate":"5","signing":"x"}"#, 422, "url, signing, rate"),
        ("GET", "/v1/dead-letters?since=yesterday", "", 400, "since"),
        ("GET", "/v1/dead-letters?reason=x", "", 400, "reason"),
        ("POST", "/v1/dead-letters/redrive", r#"{"ids":["x"]}"#, 422, "ids[0]"),
        ("POST", "/v1/replays", r#"{"endpoint":"a"}"#, 422, "since"),
        ("POST", "/v1/tokens", "{}", 422, "name"),
        ("PUT", "/v1/tenants/t", r#"{"weight":0}"#, 422, "weight"),
        ("POST", "/v1/events", "nonsense", 400, "."),
        ("POST", "/v1/events", r#"{"type":"t","data":1}"#, 400, "channel"),
        ("POST", "/v1/events", r#"[{"type":"","data":1},{"type":"t","channel":"c","data":1},7]"#, 400, "[0].type, [0].channel, [2]"),
    ] {
        let answer = api.ask(ADMIN, method, path, body).await;
        assert_eq!(answer.paths().join(", "), field, "{method} {path} {body}: {}", answer.body);
        answer.expect(status);
    }
    let refused = api.admin("POST", "/v1/endpoints", json!({"url": "http://10.1.2.3/"})).await;
    assert!(refused.body["detail"].as_str().is_some_and(|detail| detail.contains("delivery.allow_networks")), "{}", refused.body);
    for (method, path, status) in [
        ("GET", "/nothing", 404),
        ("GET", "/v1/events", 405),
        ("PUT", "/v1/endpoints", 405),
        ("GET", "/v1/endpoints/none", 404),
        ("GET", "/v1/tokens/none", 404),
        ("GET", "/v1/dead-letters/none", 404),
        ("GET", "/v1/replays/none", 404),
        ("GET", "/v1/endpoints/%ff", 400),
    ] {
        api.ask(ADMIN, method, path, "").await.expect(status);
    }
    for key in ["", "wrong"] {
        api.ask(key, "GET", "/v1/endpoints", "").await.expect(401);
        api.ask(key, "POST", "/v1/events", event).await.expect(401);
    }
    let packed =
        Request::post("/v1/events").header(header::AUTHORIZATION, format!("Bearer {ADMIN}")).header(header::CONTENT_ENCODING, "gzip");
    let (head, body) = api.send(packed.body(Body::from("x")).expect("a request")).await;
    assert_eq!(head.status, 400);
    assert!(String::from_utf8_lossy(&body).contains("without `Content-Encoding`"), "{body:?}");
    let large = api.ask(ADMIN, "POST", "/v1/endpoints", "x".repeat(input::BODY_LIMIT + 1)).await;
    large.expect(413);
    assert_eq!(api.registry.endpoints(None, None, 10).len(), 1, "nothing was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_works_for_its_tenant_within_its_role_until_it_is_revoked() {
    let api = Api::start().await;
    let (acme, other) = (api.token("acme", "developer").await, api.token("other", "admin").await);
    let viewer = api.token("acme", "viewer").await;
    let new = json!({"id": "a", "url": "https://example.com/"}).to_string();
    let created = api.ask(&acme, "POST", "/v1/endpoints", new.clone()).await.expect(201);
    assert_eq!(created["tenant"], "acme");
    for (key, method, path, body, status) in [
        (&other, "GET", "/v1/endpoints/a", "", 404),
        (&other, "PATCH", "/v1/endpoints/a", "{}", 404),
        (&other, "DELETE", "/v1/endpoints/a", "", 404),
        (&other, "GET", "/v1/endpoints?tenant=acme", "", 403),
        (&other, "POST", "/v1/endpoints", r#"{"url":"https://h/","tenant":"acme"}"#, 403),
        (&other, "POST", "/v1/events", r#"{"type":"t","channel":"c","data":1,"tenant":"acme"}"#, 403),
        (&other, "PUT", "/v1/tenants/other", "{}", 403),
        (&other, "GET", "/v1/tenants/acme", "", 404),
        (&other, "GET", "/v1/tenants/other", "", 200),
        (&other, "GET", "/v1/tokens", "", 200),
        (&other, "POST", "/v1/tokens", r#"{"name":"n","tenant":"acme"}"#, 403),
        (&viewer, "GET", "/v1/endpoints/a", "", 200),
        (&viewer, "DELETE", "/v1/endpoints/a", "", 403),
        (&viewer, "POST", "/v1/events", r#"{"type":"t","channel":"c","data":1}"#, 403),
        (&acme, "GET", "/v1/tokens", "", 403),
        (&acme, "GET", "/v1/attempts?endpoint=a", "", 200),
        (&acme, "GET", "/v1/dead-letters", "", 200),
    ] {
        let answer = api.ask(key, method, path, body).await;
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.body);
    }
    let list = api.ask(&other, "GET", "/v1/endpoints", "").await.expect(200);
    assert_eq!(list["items"], json!([]));
    let tokens = api.admin("GET", "/v1/tokens?tenant=other", Value::Null).await.expect(200);
    assert!(!tokens.to_string().contains("phk_"), "keys are shown once");
    let id = tokens["items"][0]["id"].as_str().expect("an id");
    api.admin("DELETE", &format!("/v1/tokens/{id}"), Value::Null).await.expect(204);
    api.ask(&other, "GET", "/v1/endpoints", "").await.expect(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_accepted_with_their_positions_and_a_tenant_keeps_to_its_rate() {
    let api = Api::start().await;
    let body = "{\"id\":\"e1\",\"type\":\"t\",\"channel\":\"c\",\"data\":1}\n{\"type\":\"t\",\"channel\":\"c\",\"data\":2}\n";
    let answer = api.ask(ADMIN, "POST", "/v1/events", body).await.expect(202);
    let accepted = answer["accepted"].as_array().expect("a list");
    assert_eq!(accepted[0]["id"], "e1");
    let second = &accepted[1];
    let position = format!("{}:{}:{}", second["topic"].as_str().expect("text"), second["partition"], second["offset"]);
    assert_eq!(second["id"], position);

    let key = api.token("slow", "developer").await;
    api.admin("PUT", "/v1/tenants/slow", json!({"accountRoles": ["ENTERPRISE"], "rate": "1/h"})).await.expect(200);
    let one = r#"{"type":"t","channel":"c","data":1}"#;
    api.ask(&key, "POST", "/v1/events", one).await.expect(202);
    api.ask(&key, "POST", "/v1/events", one).await.expect(429);
    let tenant = api.ask(&key, "GET", "/v1/tenants/slow", "").await.expect(200);
    assert_eq!((&tenant["rate"], &tenant["accountRoles"]), (&json!("1/h"), &json!(["ENTERPRISE"])));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_endpoint_missed_is_recovered_when_it_is_enabled() {
    let api = Api::start().await;
    api.admin("POST", "/v1/endpoints", json!({"id": "a", "url": "https://example.com/", "types": ["lead.*"]})).await.expect(201);
    let event = |kind: &str| json!({"type": kind, "channel": "c", "data": 1});
    let events = json!([event("lead.created"), event("quote.updated"), event("lead.lost")]);
    api.admin("POST", "/v1/events", events).await.expect(202);

    let disabled = api.admin("POST", "/v1/endpoints/a/disable", Value::Null).await.expect(200);
    assert_eq!(disabled["status"], "disabled");
    assert!(disabled["health"]["suspendedSince"].is_string());
    api.admin("POST", "/v1/endpoints/a/test", Value::Null).await.expect(409);
    let enabled = api.admin("POST", "/v1/endpoints/a/enable", json!({"recover": true})).await.expect(200);
    assert_eq!((&enabled["status"], &enabled["health"]["suspendedSince"]), (&json!("enabled"), &Value::Null));
    let replay = enabled["replay"]["id"].as_str().expect("a replay");
    let done = api.until(&format!("/v1/replays/{replay}"), |replay| replay["state"] == "done").await;
    assert_eq!(done["sent"], 2, "what it listens to");
    let job = enabled["redrive"]["id"].as_str().expect("a redrive");
    api.until(&format!("/v1/dead-letters/redrive/{job}"), |job| job["state"] == "done").await;

    // By its health, too.
    api.health.report(&"a".into(), Observation::Gone);
    api.until("/v1/endpoints/a", |endpoint| endpoint["health"]["suspendedSince"].is_string()).await;
    let enabled = api.admin("POST", "/v1/endpoints/a/enable", Value::Null).await.expect(200);
    assert_eq!(enabled["health"]["state"], "active");
    assert!(api.registry.get("a").expect("there").is_served());
    api.admin("POST", "/v1/endpoints/a/test", json!({"type": "x"})).await.expect(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_keeps_the_old_secret_live_until_it_is_dropped() {
    let api = Api::start().await;
    let created = api.admin("POST", "/v1/endpoints", json!({"id": "a", "url": "https://example.com/"})).await.expect(201);
    let first = created["secret"].clone();
    let rotated = api.admin("POST", "/v1/endpoints/a/rotate-secret", Value::Null).await.expect(200);
    let second = rotated["secret"].clone();
    assert_ne!(second, first);
    let last = api.admin("POST", "/v1/endpoints/a/rotate-secret", json!({"keep": 0})).await.expect(200);
    assert!(last["secret"].is_string(), "{last}");
    let own = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let own = api.admin("POST", "/v1/endpoints/a/rotate-secret", json!({"secret": own, "keep": 0})).await.expect(200);
    assert_eq!(own["secret"], json!("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_has_every_route_and_is_openapi_3_1() {
    let api = Api::start().await;
    let answer = api.ask("", "GET", "/openapi.json", "").await.expect(200);
    assert!(answer["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")), "{}", answer["openapi"]);
    for (path, method) in [
        ("/v1/events", "post"),
        ("/v1/endpoints", "post"),
        ("/v1/endpoints/{id}", "patch"),
        ("/v1/endpoints/{id}/enable", "post"),
        ("/v1/endpoints/{id}/rotate-secret", "post"),
        ("/v1/tokens/{id}", "delete"),
        ("/v1/tenants/{id}", "put"),
        ("/v1/dead-letters/redrive", "post"),
        ("/v1/replays/{id}", "get"),
        ("/v1/attempts", "get"),
        ("/v2/subscriptions", "post"),
        ("/v2/subscriptions/{subscriptionId}", "patch"),
        ("/v1/subscriptions", "post"),
        ("/v1/notifications/topics", "get"),
        ("/v1/notifications/subscription/{id}", "delete"),
        ("/v1/filters/test", "post"),
        ("/v1/agents/{id}", "patch"),
        ("/v1/tickets/{id}/history", "get"),
    ] {
        assert!(answer["paths"][path][method].is_object(), "{method} {path}");
    }
    for scheme in ["api-key", "bearer", "signature", "token"] {
        assert!(answer["components"]["securitySchemes"][scheme].is_object(), "{scheme}");
    }
    // Every reference leads somewhere.
    let text = answer.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().expect("a name");
        assert!(answer["components"]["schemas"][name].is_object(), "{name}");
    }
}
