//! `/v2/subscriptions` over HTTP: rows of WIRE.md 1.1 and 1.3.

mod contract;

use serde_json::{Value, json};

use crate::{
    api::tests::{ADMIN, Answer, Api},
    health::Health,
    model::{Auth, Direction, Endpoint, Format, Observation, RetrySchedule, Signing, Timestamp, token::Role},
    registry::spec::EndpointSpec,
};

const PATH: &str = "/v2/subscriptions";

fn message(url: &str, channel: &str) -> Value {
    json!({"eventType": "MESSAGE", "webhook": {"url": url}, "criteria": {"channel": channel}})
}

async fn create(api: &Api, body: Value) -> Value {
    api.admin("POST", PATH, body).await.expect(200)
}

fn of(subscription: &Value) -> String {
    format!("{PATH}/{}", subscription["id"].as_str().expect("an id"))
}

fn endpoint(api: &Api, subscription: &Value) -> Endpoint {
    (*api.registry.get(subscription["id"].as_str().expect("an id")).expect("there").endpoint).clone()
}

/// The status, the code, and the path of each detail.
fn told(answer: &Answer) -> (u16, String, Vec<String>) {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let details = answer.body["details"].as_array().cloned().unwrap_or_default();
    (answer.status, text(&answer.body["code"]), details.iter().map(|detail| text(&detail["path"])).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_answered_as_the_example_says() {
    let api = Api::start().await;
    let body = json!({ "eventType": "MESSAGE", "status": "ACTIVE", "version": "v2",
        "webhook": { "url": "https://hooks.example.com/zenvia", "headers": { "X-My-Key": "k1" } },
        "criteria": { "channel": "whatsapp", "direction": "IN" } });
    let mut created = create(&api, body.clone()).await;
    assert_eq!(api.admin("GET", &of(&created), Value::Null).await.expect(200), created);
    assert_eq!(api.admin("GET", PATH, Value::Null).await.expect(200), json!([created]), "a bare array");
    let endpoint = endpoint(&api, &created);
    assert_eq!((endpoint.format, &endpoint.signing, &endpoint.retry), (Format::Zenvia, &Signing::None, &Some(RetrySchedule::zenvia())));
    assert_eq!((endpoint.direction, endpoint.channels.as_slice()), (Some(Direction::In), ["whatsapp".into()].as_slice()));
    let fields = created.as_object_mut().expect("an object");
    for (name, wanted) in [("createdAt", 24), ("updatedAt", 24), ("id", 36)] {
        let value = fields.remove(name).expect(name);
        assert_eq!(value.as_str().expect("text").len(), wanted, "{name}: {value}");
    }
    assert_eq!(created, body);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_type_keeps_its_criteria_and_has_its_defaults() {
    let api = Api::start().await;
    let cases = [
        ("MESSAGE", json!({"channel": "sms"}), json!({"channel": "sms"}), None),
        ("MESSAGE", json!({"channel": "rcs", "direction": "ALL"}), json!({"channel": "rcs", "direction": "ALL"}), None),
        ("MESSAGE", json!({"channel": "a", "direction": "OUT"}), json!({"channel": "a", "direction": "OUT"}), Some(Direction::Out)),
        // Not in the read schema.
        ("MESSAGE_STATUS", json!({"channel": "sms", "direction": "OUT"}), json!({"channel": "sms"}), Some(Direction::Out)),
        (
            "CONVERSATION_MESSAGE",
            json!({"channel": "sms", "direction": "INTERNAL"}),
            json!({"channel": "sms", "direction": "INTERNAL"}),
            Some(Direction::Internal),
        ),
        ("CONVERSATION_STATUS", Value::Null, Value::Null, None),
        ("SUPPORT_EXPERT_AGENT", Value::Null, Value::Null, None),
        ("CONTACT", json!({"action": ["UPDATED", "CREATED"]}), json!({"action": ["CREATED", "UPDATED"]}), None),
    ];
    for (kind, criteria, shown, direction) in cases {
        let mut body = json!({"eventType": kind, "webhook": {"url": "https://example.com/"}, "criteria": criteria});
        if criteria.is_null() {
            body.as_object_mut().expect("an object").remove("criteria");
        }
        let created = create(&api, body.clone()).await;
        assert_eq!((&created["eventType"], &created["criteria"]), (&json!(kind), &shown), "{body}");
        assert_eq!((&created["status"], &created["version"]), (&json!("ACTIVE"), &json!("v2")), "{body}");
        assert!(created.get("eventTypes").is_none() && created.get("criteria").is_none() == shown.is_null(), "{created}");
        let endpoint = endpoint(&api, &created);
        assert_eq!(endpoint.direction, direction, "{body}");
        assert_eq!(endpoint.types.iter().map(ToString::to_string).collect::<Vec<_>>(), [kind]);
        let filter = (kind == "CONTACT").then_some(r#"event.data.action in ["CREATED","UPDATED"]"#);
        assert_eq!(endpoint.filter.as_deref(), filter, "{body}");
    }
    // A quirk of the contract: posted at the top level, and echoed.
    let agent = json!({"eventType": "SUPPORT_EXPERT_AGENT", "version": "v1", "status": "INACTIVE", "webhook": {"url": "https://example.com/"},
        "ticket": {"id": "t1"}, "expertAgent": {"id": "a1"}});
    let created = create(&api, agent.clone()).await;
    for name in ["ticket", "expertAgent", "version", "status"] {
        assert_eq!(created[name], agent[name], "{created}");
    }
    assert_eq!(endpoint(&api, &created).format, Format::ZenviaV1);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_wrong_is_named_with_its_path_and_nothing_is_stored() {
    let api = Api::start().await;
    let good = message("https://example.com/", "sms");
    let with = |path: &[&str], value: Value| {
        let mut body = good.clone();
        let (last, above) = path.split_last().expect("a path");
        let target = above.iter().fold(&mut body, |target, name| &mut target[*name]);
        target[*last] = value;
        body
    };
    let cases = [
        (json!({}), vec!["eventType", "webhook"]),
        (with(&["webhook", "url"], Value::Null), vec!["webhook.url"]),
        (with(&["webhook", "url"], json!(7)), vec!["webhook.url"]),
        (with(&["webhook", "url"], json!("ftp://h/")), vec!["webhook.url"]),
        (with(&["webhook", "url"], json!("http://10.0.0.1/")), vec!["webhook.url"]),
        (with(&["webhook", "isMTLS"], json!(true)), vec!["webhook.isMTLS"]),
        (with(&["webhook", "headers"], json!({"Host": "x"})), vec!["webhook.headers.Host"]),
        (with(&["webhook", "headers"], json!({"a": []})), vec!["webhook.headers.a"]),
        (with(&["webhook", "headers"], json!({"A": "1", "a": "2"})), vec!["webhook.headers.a"]),
        (with(&["webhook", "headers"], json!([])), vec!["webhook.headers"]),
        (with(&["webhook", "auth"], json!({"type": "BASIC"})), vec!["webhook.auth.url", "webhook.auth.oauth", "webhook.auth.type"]),
        (with(&["webhook"], json!("https://example.com/")), vec!["webhook"]),
        (with(&["eventType"], json!("TELEGRAM")), vec!["eventType"]),
        (with(&["status"], json!("DEGRADED")), vec!["status"]),
        (with(&["version"], json!("v3")), vec!["version"]),
        (with(&["colour"], json!("red")), vec!["colour"]),
        (with(&["ticket"], json!({})), vec!["ticket"]),
        (with(&["criteria"], Value::Null), vec!["criteria"]),
        (with(&["criteria"], json!({})), vec!["criteria.channel"]),
        (with(&["criteria", "direction"], json!("INTERNAL")), vec!["criteria.direction"]),
        (with(&["criteria", "action"], json!(["CREATED"])), vec!["criteria.action"]),
        (
            json!({"eventType": "CONVERSATION_MESSAGE", "webhook": {"url": "https://h/"}, "criteria": {"channel": "sms"}}),
            vec!["criteria.direction"],
        ),
        (
            json!({"eventType": "CONVERSATION_MESSAGE", "webhook": {"url": "https://h/"}, "criteria": {"channel": "sms", "direction": "ALL"}}),
            vec!["criteria.direction"],
        ),
        (json!({"eventType": "CONTACT", "webhook": {"url": "https://h/"}}), vec!["criteria"]),
        (json!({"eventType": "CONTACT", "webhook": {"url": "https://h/"}, "criteria": {"action": []}}), vec!["criteria.action"]),
        (
            json!({"eventType": "CONTACT", "webhook": {"url": "https://h/"}, "criteria": {"action": ["CREATED", "LOST"]}}),
            vec!["criteria.action[1]"],
        ),
        (
            json!({"eventType": "CONVERSATION_STATUS", "webhook": {"url": "https://h/"}, "criteria": {"channel": "sms"}}),
            vec!["criteria.channel"],
        ),
    ];
    for (body, paths) in cases {
        let answer = api.admin("POST", PATH, body.clone()).await;
        let (status, code, mut found) = told(&answer);
        found.sort_unstable();
        let mut paths = paths;
        paths.sort_unstable();
        assert_eq!(
            (status, code.as_str(), found),
            (400, "VALIDATION_ERROR", paths.iter().map(|path| (*path).to_owned()).collect()),
            "{body}"
        );
    }
    let answer = api.admin("POST", PATH, json!({"eventType": "MESSAGE", "webhook": {}, "criteria": {"channel": "x"}})).await;
    let expected = json!({ "code": "VALIDATION_ERROR", "message": "Validation error",
        "details": [ { "code": "required", "path": "webhook.url", "message": "webhook.url is required" } ] });
    assert_eq!(answer.body, expected);
    assert_eq!(api.registry.endpoints(None, None, 10).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_have_the_same_criteria_and_the_third_is_a_duplicate() {
    let api = Api::start().await;
    let first = create(&api, message("https://example.com/1", "sms")).await;
    create(&api, message("https://example.com/2", "sms")).await;
    let refused = api.admin("POST", PATH, message("https://example.com/3", "sms")).await;
    assert_eq!(
        (refused.status, &refused.body["code"], &refused.body["message"]),
        (409, &json!("DUPLICATED"), &json!("Entity already exists"))
    );
    create(&api, message("https://example.com/3", "whatsapp")).await;
    let other = api.token("other", "developer").await;
    assert_eq!(api.ask(&other, "POST", PATH, message("https://example.com/4", "sms").to_string()).await.status, 200, "another tenant's");
    api.admin("DELETE", &of(&first), Value::Null).await.expect(204);
    create(&api, message("https://example.com/5", "sms")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn webhook_and_status_can_be_changed_and_nothing_else() {
    let api = Api::start().await;
    let new = json!({"eventType": "MESSAGE", "webhook": {"url": "https://example.com/", "headers": {"X-A": "1"}}, "criteria": {"channel": "sms", "direction": "ALL"}});
    let created = create(&api, new).await;
    let path = of(&created);
    for (body, paths) in [
        (json!({"criteria": {"channel": "sms", "direction": "ALL"}}), vec!["criteria"]),
        (json!({"eventType": "MESSAGE", "version": "v1", "webhook": {"url": "https://example.com/x"}}), vec!["eventType", "version"]),
        (json!({"id": "x"}), vec!["id"]),
        (json!({"status": "DEGRADED"}), vec!["status"]),
        (json!({"webhook": {"url": "https://example.com/x", "headers": {"content-length": "1"}}}), vec!["webhook.headers.content-length"]),
        (json!({"webhook": {"url": ""}, "status": "INACTIVE"}), vec!["webhook.url"]),
        (json!({"webhook": {"url": "http://127.0.0.1/"}}), vec!["webhook.url"]),
    ] {
        let answer = api.admin("PATCH", &path, body.clone()).await;
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        assert_eq!(told(&answer), (400, "VALIDATION_ERROR".into(), paths), "{body}: {}", answer.body);
        assert_eq!(api.admin("GET", &path, Value::Null).await.expect(200), created, "{body} changed nothing");
    }
    let changed = api.admin("PATCH", &path, json!({"webhook": {"url": "https://example.com/2"}})).await.expect(200);
    assert_eq!(changed["webhook"], json!({"url": "https://example.com/2", "headers": {"X-A": "1"}}));
    assert_eq!((&changed["criteria"], &changed["createdAt"]), (&created["criteria"], &created["createdAt"]));
    let changed = api.admin("PATCH", &path, json!({"webhook": {"headers": {"X-B": 2}}})).await.expect(200);
    assert_eq!(changed["webhook"], json!({"url": "https://example.com/2", "headers": {"X-B": "2"}}));
    let changed = api.admin("PATCH", &path, json!({"status": "INACTIVE"})).await.expect(200);
    assert_eq!(changed["status"], "INACTIVE");
    assert!(!api.registry.get(created["id"].as_str().expect("an id")).expect("there").is_served());
    let changed = api.admin("PATCH", &path, json!({"status": "ACTIVE"})).await.expect(200);
    assert_eq!(changed["status"], "ACTIVE");
    assert_eq!(api.admin("PATCH", &path, json!({})).await.expect(200)["status"], "ACTIVE");
    api.admin("DELETE", &path, Value::Null).await.expect(204);
    assert_eq!(told(&api.admin("GET", &path, Value::Null).await), (404, "NOT_FOUND".into(), vec!["-".into()]));
    assert_eq!(told(&api.admin("PATCH", &path, json!({})).await).0, 404);
    assert_eq!(told(&api.admin("DELETE", &path, Value::Null).await).0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_shows_in_the_status_and_a_change_revives() {
    let api = Api::start().await;
    let created = create(&api, message("https://example.com/", "sms")).await;
    let (path, id) = (of(&created), created["id"].as_str().expect("an id"));
    let status = |wanted: &'static str| {
        let (api, path) = (&api, &path);
        async move { api.until(path, |subscription| subscription["status"] == wanted).await }
    };
    api.health.report(&id.into(), Observation::Timeout { started: 0 });
    status("DEGRADED").await;
    // What a client wants is not what health has decided.
    assert_eq!(api.admin("PATCH", &path, json!({"status": "ACTIVE"})).await.expect(200)["status"], "DEGRADED");
    assert_eq!(api.admin("PATCH", &path, json!({"webhook": {"headers": {"a": "b"}}})).await.expect(200)["status"], "DEGRADED");
    api.admin("PATCH", &path, json!({"webhook": {"url": "https://example.com/new"}})).await.expect(200);
    status("ACTIVE").await;
    api.health.report(&id.into(), Observation::Gone);
    status("INACTIVE").await;
    api.admin("PATCH", &path, json!({"webhook": {"url": "https://example.com/newer"}})).await.expect(200);
    status("INACTIVE").await;
    assert_eq!(api.admin("PATCH", &path, json!({"status": "ACTIVE"})).await.expect(200)["status"], "ACTIVE");
    assert!(api.registry.get(id).expect("there").is_served());
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_were_made_elsewhere_are_shown_and_keep_what_the_view_cannot_say() {
    let declared: EndpointSpec = serde_json::from_value(json!({"id": "declared", "url": "https://example.com/", "format": "zenvia",
        "signing": "none", "types": ["MESSAGE"], "channels": ["sms"]}))
    .expect("a document");
    let api = Api::with(vec![declared.check(Timestamp::UNIX_EPOCH).expect("good")]).await;
    let native = json!({"id": "native", "url": "https://example.com/", "format": "zenvia_v1", "signing": "none", "types": ["MESSAGE", "lead.*"],
        "channels": ["sms", "whatsapp"], "rate": "5/s", "filter": "event.data.n > 1", "auth": {"type": "bearer", "token": "hunter2"}});
    api.admin("POST", "/v1/endpoints", native).await.expect(201);
    api.admin("POST", "/v1/endpoints", json!({"id": "odd", "url": "https://example.com/", "format": "zenvia", "types": ["lead.created"]}))
        .await
        .expect(201);
    api.admin("POST", "/v1/endpoints", json!({"id": "all", "url": "https://example.com/", "format": "zenvia"})).await.expect(201);
    api.admin("POST", "/v1/endpoints", json!({"id": "hub", "url": "https://example.com/", "format": "hub"})).await.expect(201);
    let list = api.admin("GET", PATH, Value::Null).await.expect(200);
    let ids: Vec<&str> = list.as_array().expect("a list").iter().filter_map(|item| item["id"].as_str()).collect();
    assert_eq!(ids, ["all", "declared", "native", "odd"]);
    let shown = |id: &str| list.as_array().expect("a list").iter().find(|item| item["id"] == id).expect(id).clone();
    let native = shown("native");
    assert_eq!((&native["eventType"], &native["eventTypes"]), (&json!("MESSAGE"), &json!(["MESSAGE", "lead.*"])));
    assert_eq!((&native["criteria"]["channel"], &native["version"]), (&json!("sms,whatsapp"), &json!("v1")));
    assert!(!list.to_string().contains("hunter2"));
    assert_eq!((&shown("odd")["eventType"], &shown("odd")["criteria"]["channel"]), (&json!("lead.created"), &json!("*")));
    assert_eq!((&shown("all")["eventType"], &shown("all")["eventTypes"]), (&json!("MESSAGE"), &json!(["*"])));
    assert_eq!(api.admin("GET", "/v2/subscriptions/hub", Value::Null).await.status, 404);

    let before = (*api.registry.get("native").expect("there").endpoint).clone();
    let patch = json!({"webhook": {"url": "https://example.com/2", "auth": null}});
    api.admin("PATCH", "/v2/subscriptions/native", patch).await.expect(200);
    let after = (*api.registry.get("native").expect("there").endpoint).clone();
    assert!(matches!(&after.auth, Auth::Bearer { .. }), "what is not shown is not taken away");
    let same = Endpoint { url: before.url.clone(), updated_at: before.updated_at, registry_offset: before.registry_offset, ..after };
    assert_eq!(same, before);

    for (method, body) in [("PATCH", json!({"status": "INACTIVE"})), ("DELETE", Value::Null)] {
        let answer = api.admin(method, "/v2/subscriptions/declared", body).await;
        assert_eq!((answer.status, &answer.body["code"]), (409, &json!("CONFLICT")), "{}", answer.body);
        assert!(answer.body["details"][0]["message"].as_str().is_some_and(|text| text.contains("configuration file")), "{}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_reads_a_developer_changes_and_a_foreign_tenant_sees_nothing() {
    let api = Api::start().await;
    let owner = api.token("acme", "developer").await;
    let new = message("https://example.com/", "sms").to_string();
    let created = api.ask(&owner, "POST", PATH, new.clone()).await.expect(200);
    let path = of(&created);
    for role in [Role::Viewer, Role::Developer, Role::Admin] {
        let name = crate::api::auth::name(role);
        let (ours, foreign) = (api.token("acme", name).await, api.token("other", name).await);
        let may = role >= Role::Developer;
        for (key, method, path, body, status) in [
            (&ours, "GET", PATH, "", 200),
            (&ours, "GET", path.as_str(), "", 200),
            (&ours, "PATCH", path.as_str(), "{}", if may { 200 } else { 403 }),
            (&foreign, "GET", path.as_str(), "", 404),
            (&foreign, "PATCH", path.as_str(), "{}", if may { 404 } else { 403 }),
            (&foreign, "DELETE", path.as_str(), "", if may { 404 } else { 403 }),
            (&foreign, "GET", "/v2/subscriptions?tenant=acme", "", 403),
        ] {
            assert_eq!(api.ask(key, method, path, body).await.status, status, "{name} {method} {path}");
        }
        assert_eq!(api.ask(&foreign, "GET", PATH, "").await.expect(200), json!([]));
        if !may {
            assert_eq!(api.ask(&ours, "POST", PATH, new.clone()).await.status, 403);
            assert_eq!(api.ask(&ours, "DELETE", &path, "").await.status, 403);
        }
    }
    let list = api.ask(ADMIN, "GET", "/v2/subscriptions?tenant=acme", "").await.expect(200);
    assert_eq!((list.as_array().map(Vec::len), &list[0]["id"]), (Some(1), &created["id"]));
    assert_eq!(api.ask(&owner, "DELETE", &path, "").await.status, 204);
}

/// Needs the endpoint's `auth` of type `oauth2` (WIRE.md 1.4).
#[tokio::test(flavor = "multi_thread")]
async fn oauth_is_kept_shown_with_masks_and_a_mask_sent_back_keeps_the_secret() {
    let api = Api::start().await;
    let auth = json!({ "type": "OAUTH", "url": "https://idp.example.com/oauth/token",
        "headers": { "Content-Type": "application/json" }, "queryParams": { "audience": "hooks" },
        "oauth": { "grantType": "client_credentials", "clientId": "cid", "clientSecret": "csec-hunter2",
            "refreshToken": "rt-hunter2", "expiresIn": 3600 } });
    let mut new = message("https://example.com/", "sms");
    new["webhook"]["auth"] = auth.clone();
    let created = create(&api, new).await;
    let mut masked = auth;
    masked["oauth"]["clientSecret"] = json!(super::oauth::MASK);
    masked["oauth"]["refreshToken"] = json!(super::oauth::MASK);
    let shown = &created["webhook"]["auth"];
    for name in ["type", "url", "queryParams", "oauth"] {
        assert_eq!(shown[name], masked[name], "{created}");
    }
    let secret = |subscription: &Value| {
        let auth = EndpointSpec::of(&endpoint(&api, subscription)).auth.expect("OAuth2");
        let auth = serde_json::to_value(auth).expect("JSON");
        (auth["clientSecret"].clone(), auth["refreshToken"].clone())
    };
    let patch = json!({"webhook": {"auth": shown}});
    let changed = api.admin("PATCH", &of(&created), patch).await.expect(200);
    assert!(!changed.to_string().contains("hunter2"));
    assert_eq!(secret(&changed), (json!("csec-hunter2"), json!("rt-hunter2")));
    let changed = api.admin("PATCH", &of(&created), json!({"webhook": {"auth": null}})).await.expect(200);
    assert!(changed["webhook"].get("auth").is_none());
    assert_eq!(endpoint(&api, &changed).auth, Auth::None);
}
