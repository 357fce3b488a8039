//! The Hub's webhooks over HTTP: every row of WIRE.md 4.1 to 4.4 that says what is answered.

use super::*;
use crate::model::{Auth, Signing};

pub const CHANNEL: &str = "/v1/channels/019E4C54B1B375A28970B605CA9B03C3/webhooks";
pub const TEMPLATE: &str = "/v1/webhooks";

impl Answer {
    /// An error in the shape of the family of `path`; returns its text.
    pub fn refused(self, path: &str, status: u16) -> String {
        assert_eq!((self.status, self.kind.as_str()), (status, "application/json"), "{path}: {}", self.body);
        let fields = self.body.as_object().expect("an object");
        let text = if path.starts_with(TEMPLATE) {
            assert_eq!(fields.len(), 1, "{path}: {}", self.body);
            &self.body["error"]
        } else {
            assert_eq!((fields.len(), &self.body["error"]), (2, &json!(status)), "{path}: {}", self.body);
            &self.body["message"]
        };
        text.as_str().unwrap_or_else(|| panic!("{path}: {}", self.body)).to_owned()
    }
}

impl Api {
    /// With ENTERPRISE for these tenants.
    pub async fn enterprise(tenants: &[&str]) -> Api {
        let api = Api::start().await;
        for tenant in tenants {
            api.admin("PUT", &format!("/v1/tenants/{tenant}"), json!({"accountRoles": ["ENTERPRISE"]})).await.expect(200);
        }
        api
    }
}

fn is_id(id: &Value) -> bool {
    id.as_str().is_some_and(|id| id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F')))
}

fn is_secret(secret: &Value) -> bool {
    secret.as_str().is_some_and(|secret| secret.len() == 64 && secret.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

/// Whether a time is written as `2025-01-15T10:30:00.000` and this zone.
fn is_time(time: &Value, zone: &str) -> bool {
    let text = time.as_str().and_then(|text| text.strip_suffix(zone)).unwrap_or_default();
    text.len() == "2025-01-15T10:30:00.000".len() && format!("{text}Z").parse::<crate::model::Timestamp>().is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_webhook_is_created_listed_read_changed_and_deleted() {
    let api = Api::enterprise(&["default"]).await;
    let new = json!({"url": "https://app.example.com/hook", "description": "prod", "events": ["MESSAGE_RECEIVED", "MESSAGE_STATUS"],
        "signing": true, "auth": {"type": "BEARER", "token": "t0k"}, "payloadFormat": "Z_API", "customAttributes": {"a": [1, null]}});
    let created = api.admin("POST", CHANNEL, new).await.expect(201);
    assert!(is_id(&created["id"]) && is_secret(&created["secret"]), "{created}");
    assert!(is_time(&created["createdAt"], "+0000") && is_time(&created["updatedAt"], "+0000"), "{created}");
    let mut shown = created.clone();
    for field in ["id", "secret", "createdAt", "updatedAt"] {
        shown.as_object_mut().expect("an object").remove(field);
    }
    let expected = json!({"channelId": "019E4C54B1B375A28970B605CA9B03C3", "instanceId": "019E4C54B1B375A28970B605CA9B03C3",
        "url": "https://app.example.com/hook", "description": "prod", "events": ["MESSAGE_RECEIVED", "MESSAGE_STATUS"],
        "status": "ENABLED", "signing": true, "auth": {"type": "BEARER", "configured": true}, "payloadFormat": "Z_API",
        "customAttributes": {"a": [1, null]}});
    assert_eq!(shown, expected);

    let path = format!("{CHANNEL}/{}", created["id"].as_str().expect("an id"));
    let read = api.admin("GET", &path, Value::Null).await.expect(200);
    assert!(read.get("secret").is_none() && !read.to_string().contains("t0k"), "{read}");
    assert_eq!(api.admin("GET", CHANNEL, Value::Null).await.expect(200), json!([read]));
    assert_eq!(api.admin("GET", "/v1/webhooks?channelId=019E4C54B1B375A28970B605CA9B03C3", Value::Null).await.expect(200), json!([read]));

    // A second one with all defaults; a channel may have many.
    let plain = api.admin("POST", CHANNEL, json!({"url": "http://app.example.com/", "events": ["BLOCK"]})).await.expect(201);
    assert!(plain.get("secret").is_none(), "{plain}");
    let defaults = ["status", "signing", "auth", "payloadFormat", "customAttributes", "description"].map(|field| plain[field].clone());
    let expected = [json!("ENABLED"), json!(false), json!({"type": "NONE", "configured": false}), json!("DEFAULT"), json!({}), Value::Null];
    assert_eq!(defaults, expected);
    assert_eq!(api.admin("GET", CHANNEL, Value::Null).await.expect(200).as_array().map(Vec::len), Some(2));

    let changed = api
        .admin("PATCH", &path, json!({"events": ["CONNECTED"], "status": "DISABLED", "description": null, "payloadFormat": "CHATWOOT"}))
        .await
        .expect(200);
    assert!(changed.get("secret").is_none(), "{changed}");
    for (field, value) in [
        ("events", json!(["CONNECTED"])),
        ("status", json!("DISABLED")),
        ("description", Value::Null),
        ("payloadFormat", json!("CHATWOOT")),
        ("url", json!("https://app.example.com/hook")),
        ("signing", json!(true)),
        ("customAttributes", json!({"a": [1, null]})),
        ("createdAt", created["createdAt"].clone()),
    ] {
        assert_eq!(changed[field], value, "{field}");
    }
    assert_eq!(api.admin("PATCH", &path, json!({"status": "ENABLED"})).await.expect(200)["status"], "ENABLED");

    api.admin("DELETE", &path, Value::Null).await.expect(204);
    assert_eq!(api.admin("GET", &path, Value::Null).await.refused(CHANNEL, 404), "Webhook not found");
    assert_eq!(api.admin("DELETE", &path, Value::Null).await.refused(CHANNEL, 404), "Webhook not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_webhook_takes_both_forms_of_authentication_and_ignores_chatwoot() {
    let api = Api::enterprise(&["default"]).await;
    for (auth, kind) in [
        (json!({}), "NONE"),
        (json!({"authType": "BEARER", "token": "hunter2"}), "BEARER"),
        (json!({"authType": "API_KEY", "key": "hunter2"}), "API_KEY"),
        (json!({"auth": {"type": "BEARER"}, "token": "hunter2"}), "BEARER"),
        (json!({"auth": {"type": "BASIC", "username": "u", "password": "hunter2"}}), "BASIC"),
    ] {
        let mut new = json!({"url": "https://app.example.com/", "events": ["UPDATE_TEMPLATE_STATUS"], "payloadFormat": "CHATWOOT"});
        new.as_object_mut().expect("an object").extend(auth.as_object().expect("an object").clone());
        let created = api.admin("POST", TEMPLATE, new).await.expect(201);
        assert_eq!(created["auth"], json!({"type": kind, "configured": kind != "NONE"}));
        assert_eq!(
            (&created["payloadFormat"], &created["channelId"], &created["instanceId"]),
            (&json!("DEFAULT"), &Value::Null, &Value::Null)
        );
        assert_eq!(created.get("secret"), Some(&Value::Null), "unsigned ones have a secret that is null");
        assert!(is_id(&created["id"]) && is_time(&created["createdAt"], "+00:00"), "{created}");
        assert!(!created.to_string().contains("hunter2"));
    }
    let webhooks = api.admin("GET", TEMPLATE, Value::Null).await.expect(200);
    assert_eq!(webhooks.as_array().map(Vec::len), Some(5));

    let path = format!("{TEMPLATE}/{}", webhooks[1]["id"].as_str().expect("an id"));
    let changed = api
        .admin("PATCH", &path, json!({"payloadFormat": "CHATWOOT", "key": "k", "authType": "API_KEY", "signing": true}))
        .await
        .expect(200);
    assert_eq!((&changed["payloadFormat"], &changed["auth"]["type"]), (&json!("DEFAULT"), &json!("API_KEY")));
    assert!(is_secret(&changed["secret"]), "{changed}");
    assert!(api.admin("GET", &path, Value::Null).await.expect(200).get("secret").is_none(), "shown once");
    api.admin("DELETE", &path, Value::Null).await.expect(204);
    assert_eq!(api.admin("PATCH", &path, json!({})).await.refused(TEMPLATE, 404), "Webhook not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_shown_when_it_is_made_and_stays_until_it_is_asked_for_again() {
    let api = Api::enterprise(&["default"]).await;
    for (collection, event) in [(CHANNEL, "MESSAGE_RECEIVED"), (TEMPLATE, "UPDATE_TEMPLATE_STATUS")] {
        let created = api.admin("POST", collection, json!({"url": "https://h/", "events": [event], "signing": true})).await.expect(201);
        let id = created["id"].as_str().expect("an id");
        let path = format!("{collection}/{id}");
        let stored = || match &api.registry.get(id).expect("there").endpoint.signing {
            Signing::Hub { secret } => secret.expose_str().map(str::to_owned),
            _ => None,
        };
        assert_eq!(stored().as_deref(), created["secret"].as_str());
        // Left alone when it is not named, also by what was read and is sent back.
        let kept = api.admin("PATCH", &path, json!({"description": "x"})).await.expect(200);
        assert!(kept.get("secret").is_none(), "{kept}");
        assert_eq!(stored().as_deref(), created["secret"].as_str());
        let rotated = api.admin("PATCH", &path, json!({"signing": true})).await.expect(200);
        assert!(is_secret(&rotated["secret"]) && rotated["secret"] != created["secret"]);
        assert_eq!(stored().as_deref(), rotated["secret"].as_str(), "the old one is gone at once");
        let removed = api.admin("PATCH", &path, json!({"signing": false})).await.expect(200);
        assert_eq!((&removed["signing"], removed.get("secret")), (&json!(false), (collection == TEMPLATE).then_some(&Value::Null)));
        assert_eq!(stored(), None);
        let again = api.admin("PATCH", &path, json!({"signing": true})).await.expect(200);
        assert!(is_secret(&again["secret"]) && again["signing"] == json!(true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn authentication_is_kept_replaced_and_cleared() {
    let api = Api::enterprise(&["default"]).await;
    let new = json!({"url": "https://h/", "events": ["BLOCK"], "auth": {"type": "API_KEY", "key": "k1"}});
    let created = api.admin("POST", CHANNEL, new).await.expect(201);
    let id = created["id"].as_str().expect("an id");
    let path = format!("{CHANNEL}/{id}");
    let auth = || api.registry.get(id).expect("there").endpoint.auth.clone();
    assert!(matches!(auth(), Auth::ApiKey { header, key } if header == "x-api-key" && key.expose() == b"k1"));
    for (given, kind) in [
        (json!({"type": "API_KEY", "configured": true}), "API_KEY"),
        (json!({"type": "API_KEY", "key": "k2"}), "API_KEY"),
        (json!({"type": "BASIC", "username": "u", "password": "p"}), "BASIC"),
        (json!({"type": "BASIC", "password": "p2"}), "BASIC"),
        (json!({"type": "CUSTOM_HEADER", "headerName": "X-Own", "headerValue": "v"}), "CUSTOM_HEADER"),
        (json!({"headerValue": "v2"}), "CUSTOM_HEADER"),
        (json!({"type": "BEARER", "token": "t"}), "BEARER"),
        (json!({"type": "NONE"}), "NONE"),
        (json!({"type": "NONE", "configured": false}), "NONE"),
    ] {
        let changed = api.admin("PATCH", &path, json!({"auth": given})).await.expect(200);
        assert_eq!(changed["auth"], json!({"type": kind, "configured": kind != "NONE"}), "{given}");
        match kind {
            "BASIC" => assert!(matches!(auth(), Auth::Basic { username, .. } if username == "u")),
            "CUSTOM_HEADER" => assert!(matches!(auth(), Auth::CustomHeader { name, .. } if name == "x-own")),
            "API_KEY" => {
                let expected = given["key"].as_str().unwrap_or("k1").to_owned();
                assert!(matches!(auth(), Auth::ApiKey { key, .. } if key.expose() == expected.as_bytes()), "{given}");
            }
            _ => {}
        }
    }
    assert_eq!(auth(), Auth::None);
}

#[tokio::test(flavor = "multi_thread")]
async fn combined_events_are_read_as_they_were_asked_for() {
    let api = Api::enterprise(&["default"]).await;
    let created = api
        .admin("POST", CHANNEL, json!({"url": "https://h/", "events": ["RECEIVED_STATUS", "BLOCK", "RECEIVED_STATUS"]}))
        .await
        .expect(201);
    assert_eq!(created["events"], json!(["RECEIVED_STATUS", "BLOCK"]));
    let id = created["id"].as_str().expect("an id");
    let native = format!("/v1/endpoints/{id}");
    let endpoint = api.admin("GET", &native, Value::Null).await.expect(200);
    assert_eq!(endpoint["types"], json!(["MESSAGE_RECEIVED", "MESSAGE_STATUS", "RECEIVED_STATUS", "BLOCK"]));
    assert_eq!((&endpoint["format"], &endpoint["channels"]), (&json!("hub"), &json!(["019E4C54B1B375A28970B605CA9B03C3"])));
    let path = format!("{CHANNEL}/{id}");
    let changed = api.admin("PATCH", &path, json!({"events": ["RECEIVED_AND_DELIVERY", "MESSAGE_RECEIVED"]})).await.expect(200);
    assert_eq!(changed["events"], json!(["RECEIVED_AND_DELIVERY", "MESSAGE_RECEIVED"]));
    // Changed by another API since: what is shown is what it hears of.
    api.admin("PATCH", &native, json!({"types": ["MESSAGE_RECEIVED", "PRESENCE_CHAT"]})).await.expect(200);
    assert_eq!(api.admin("GET", &path, Value::Null).await.expect(200)["events"], json!(["MESSAGE_RECEIVED", "PRESENCE_CHAT"]));
    // Every name of either family, in the order in which it was asked for.
    let every = json!([
        "BLOCK",
        "INITIAL_DATA",
        "PRESENCE_CHAT",
        "DISCONNECTED",
        "CONNECTED",
        "RECEIVED_AND_DELIVERY",
        "RECEIVED_STATUS",
        "MESSAGE_STATUS",
        "MESSAGE_DELIVERY",
        "MESSAGE_RECEIVED"
    ]);
    let templates = json!(["UPDATE_TEMPLATE_CATEGORY", "UPDATE_TEMPLATE_STATUS"]);
    for (collection, events) in [(CHANNEL, every), (TEMPLATE, templates)] {
        let created = api.admin("POST", collection, json!({"url": "https://h/", "events": events})).await.expect(201);
        let path = format!("{collection}/{}", created["id"].as_str().expect("an id"));
        assert_eq!(api.admin("GET", &path, Value::Null).await.expect(200)["events"], events);
    }
    let plain = api.admin("PATCH", &path, json!({"events": ["BLOCK", "MESSAGE_STATUS"]})).await.expect(200);
    assert_eq!(plain["events"], json!(["BLOCK", "MESSAGE_STATUS"]));
    let plain = api.admin("PATCH", &path, json!({"events": ["MESSAGE_STATUS"]})).await.expect(200);
    assert_eq!(plain["events"], json!(["MESSAGE_STATUS"]));
    assert_eq!(api.admin("GET", &native, Value::Null).await.expect(200)["attributes"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_of_other_apis_are_webhooks_too_and_lose_nothing_by_a_change() {
    let api = Api::enterprise(&["default"]).await;
    let native = json!({"id": "n", "url": "https://h/n", "channels": ["A", "B"], "types": ["MESSAGE_STATUS", "lead.created"], "format": "z_api",
        "signing": "standard", "rate": "5/s", "concurrency": 3, "headers": {"x-a": "1"}, "direction": "IN", "retry": ["7s"],
        "filter": "event.data.n > 1", "attributes": {"other": 1}, "auth": {"type": "api_key", "header": "x-own-key", "key": "k"}});
    api.admin("POST", "/v1/endpoints", native).await.expect(201);
    for (id, body) in [
        ("all", json!({"format": "hub", "channels": ["A"]})),
        ("some", json!({"format": "chatwoot", "channels": ["A"], "types": ["MESSAGE_*"]})),
        ("templates", json!({"format": "hub", "types": ["UPDATE_TEMPLATE_STATUS", "lead.created"]})),
        ("every", json!({"format": "hub"})),
        ("standard", json!({"channels": ["A"]})),
        ("messages", json!({"format": "hub", "types": ["MESSAGE_RECEIVED"]})),
        ("elsewhere", json!({"format": "hub", "channels": ["A"], "tenant": "other"})),
    ] {
        let mut body = body;
        body["id"] = json!(id);
        body["url"] = json!("https://h/");
        api.admin("POST", "/v1/endpoints", body).await.expect(201);
    }
    let shown = async |path: &str| -> Vec<(String, Value)> {
        let list = api.admin("GET", path, Value::Null).await.expect(200);
        list.as_array().expect("a list").iter().map(|one| (one["id"].as_str().expect("an id").to_owned(), one["events"].clone())).collect()
    };
    let plain = json!([
        "MESSAGE_RECEIVED",
        "MESSAGE_DELIVERY",
        "MESSAGE_STATUS",
        "CONNECTED",
        "DISCONNECTED",
        "PRESENCE_CHAT",
        "INITIAL_DATA",
        "BLOCK"
    ]);
    let messages = json!(["MESSAGE_RECEIVED", "MESSAGE_DELIVERY", "MESSAGE_STATUS"]);
    let of_a = [("all", plain), ("n", json!(["MESSAGE_STATUS"])), ("some", messages)];
    assert_eq!(shown("/v1/channels/A/webhooks").await, of_a.map(|(id, events)| (id.to_owned(), events)));
    assert_eq!(shown("/v1/channels/B/webhooks").await, [("n".to_owned(), json!(["MESSAGE_STATUS"]))]);
    let templates =
        [("every", json!(["UPDATE_TEMPLATE_STATUS", "UPDATE_TEMPLATE_CATEGORY"])), ("templates", json!(["UPDATE_TEMPLATE_STATUS"]))];
    assert_eq!(shown("/v1/webhooks").await, templates.map(|(id, events)| (id.to_owned(), events)));
    for path in [
        "/v1/webhooks/n",
        "/v1/webhooks/all",
        "/v1/webhooks/messages",
        "/v1/channels/A/webhooks/standard",
        "/v1/channels/A/webhooks/elsewhere",
    ] {
        assert_eq!(api.admin("GET", path, Value::Null).await.refused(path, 404), "Webhook not found");
    }

    // What was read is sent back, and then everything is changed that can be.
    let path = "/v1/channels/A/webhooks/n";
    let before = api.registry.get("n").expect("there").endpoint;
    let read = api.admin("GET", path, Value::Null).await.expect(200);
    assert_eq!(
        (&read["signing"], &read["auth"], &read["payloadFormat"]),
        (&json!(false), &json!({"type": "API_KEY", "configured": true}), &json!("Z_API"))
    );
    api.admin("PATCH", path, read).await.expect(200);
    let after = api.registry.get("n").expect("there").endpoint;
    let same = |endpoint: &crate::model::Endpoint| {
        let of = |mut spec: crate::registry::EndpointSpec| {
            spec.url.clear();
            spec.auth = None;
            (spec.types, spec.description, spec.format, spec.attributes) = (Vec::new(), None, None, None);
            spec
        };
        of(crate::registry::EndpointSpec::of(endpoint))
    };
    assert_eq!(crate::registry::EndpointSpec::of(&before), crate::registry::EndpointSpec::of(&after));
    let all = json!({"url": "https://h/other", "events": ["RECEIVED_STATUS"], "payloadFormat": "DEFAULT", "auth": {"type": "API_KEY", "key": "k2"},
        "customAttributes": {"x": 1}, "description": "d"});
    api.admin("PATCH", path, all).await.expect(200);
    let after = api.registry.get("n").expect("there").endpoint;
    assert_eq!(same(&after), same(&before), "channels, filter, rate, headers and the rest stay");
    let types: Vec<String> = after.types.iter().map(ToString::to_string).collect();
    assert_eq!(types, ["MESSAGE_RECEIVED", "MESSAGE_STATUS", "RECEIVED_STATUS", "lead.created"]);
    let attributes = json!({"other": 1, "customAttributes": {"x": 1}, "hubEvents": ["RECEIVED_STATUS"]});
    assert_eq!(after.attributes.as_deref().map(|map| Value::Object(map.clone())), Some(attributes));
    assert!(matches!(&after.auth, Auth::ApiKey { header, key } if header == "x-own-key" && key.expose() == b"k2"));

    // What cannot be said here without destroying is refused, unless it says nothing new.
    let some = "/v1/channels/A/webhooks/some";
    let told = api.admin("PATCH", some, json!({"events": ["BLOCK"]})).await.refused(some, 400);
    assert!(told.contains("`MESSAGE_*`") && told.contains("/v1/endpoints/some"), "{told}");
    api.admin("PATCH", some, json!({"events": ["MESSAGE_RECEIVED", "MESSAGE_DELIVERY", "MESSAGE_STATUS"]})).await.expect(200);

    // Taken out of one channel it is still in the other; the last one ends it.
    api.admin("DELETE", path, Value::Null).await.expect(204);
    api.admin("GET", path, Value::Null).await.refused(path, 404);
    api.admin("GET", "/v1/channels/B/webhooks/n", Value::Null).await.expect(200);
    api.admin("DELETE", "/v1/channels/B/webhooks/n", Value::Null).await.expect(204);
    assert!(api.registry.get("n").is_none());
    api.admin("DELETE", "/v1/webhooks/templates", Value::Null).await.expect(204);
    let left: Vec<String> = api.registry.get("templates").expect("there").endpoint.types.iter().map(ToString::to_string).collect();
    assert_eq!(left, ["lead.created"]);
    api.admin("DELETE", "/v1/webhooks/every", Value::Null).await.refused("/v1/webhooks/every", 409);
    assert!(api.registry.get("every").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_its_health_suspended_is_disabled_until_it_is_enabled() {
    let api = Api::enterprise(&["default"]).await;
    let created = api.admin("POST", CHANNEL, json!({"url": "https://h/", "events": ["BLOCK"]})).await.expect(201);
    let path = format!("{CHANNEL}/{}", created["id"].as_str().expect("an id"));
    api.health.report(&created["id"].as_str().expect("an id").into(), Observation::Gone);
    let shown = api.until(&path, |webhook| webhook["status"] == "DISABLED").await;
    // Sent back, it is no wish of a person.
    api.admin("PATCH", &path, shown).await.expect(200);
    assert_eq!(api.registry.get(created["id"].as_str().expect("an id")).expect("there").endpoint.status, crate::model::Status::Enabled);
    let enabled = api.admin("PATCH", &path, json!({"status": "ENABLED"})).await.expect(200);
    assert_eq!(enabled["status"], "ENABLED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_endpoint_is_shown_and_changed_only_where_it_is_declared() {
    let api = Api::enterprise(&["default"]).await;
    let mut spec: crate::registry::EndpointSpec =
        serde_json::from_value(json!({"id": "d", "url": "https://h/", "channels": ["D"], "types": ["BLOCK"], "format": "hub"}))
            .expect("a spec");
    spec.fill();
    api.registry.declare(vec![spec.check(SystemClock.now()).expect("good")], Vec::new());
    let list = api.until("/v1/channels/D/webhooks", |list| list.as_array().is_some_and(|list| !list.is_empty())).await;
    assert_eq!((&list[0]["id"], &list[0]["events"]), (&json!("d"), &json!(["BLOCK"])));
    let path = "/v1/channels/D/webhooks/d";
    for (method, body) in [("PATCH", json!({"description": "x"})), ("DELETE", Value::Null)] {
        let told = api.admin(method, path, body).await.refused(path, 409);
        assert!(told.contains("configuration file"), "{told}");
    }
}
