//! Clients of the products: each registers its webhooks through its product's own API and keeps what it was promised.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    bodies::Format,
    events::{CHANNEL, SECOND},
};
use crate::support::{daemon::Daemon, receiver::Receiver, signed};

/// How a client shows who it is.
#[derive(Clone)]
pub enum Key {
    /// `X-API-TOKEN` (WIRE.md 1.1).
    Token(String),
    /// The same with a signature (1.2): key and secret.
    Signed(String, String),
    /// `Authorization: Bearer` (2.1, 4.1).
    Bearer(String),
    /// `?api-key=` (2.2).
    Query(String),
}

impl Key {
    pub async fn call(&self, daemon: &Daemon, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let text = body.as_ref().map(ToString::to_string);
        let kind = ("content-type", "application/json");
        match self {
            Key::Token(key) => daemon.call_with(&[("x-api-token", key), kind], method, path, text).await,
            Key::Bearer(key) => daemon.call_with(&[("authorization", &format!("Bearer {key}")), kind], method, path, text).await,
            Key::Query(key) => daemon.call_with(&[kind], method, &format!("{path}?api-key={key}"), text).await,
            Key::Signed(key, secret) => signed::call(daemon, key, secret, method, path, body).await,
        }
    }
}

/// A token that a client was given, in every way in which it may be shown.
pub async fn token(daemon: &Daemon, tenant: &str, kind: &str) -> (String, Option<String>) {
    let new = json!({ "name": format!("client of {tenant}"), "kind": kind, "role": "developer", "tenant": tenant });
    let token = daemon.ok(Method::POST, "/v1/tokens", Some(new)).await;
    (token["key"].as_str().expect("a key").to_owned(), token["secret"].as_str().map(str::to_owned))
}

/// A webhook as its client knows it.
pub struct Webhook {
    /// Where its requests come in.
    pub path: &'static str,
    pub tenant: &'static str,
    pub id: String,
    /// Where its client reads and deletes it, and how.
    pub resource: String,
    pub key: Key,
    pub format: Format,
    /// Headers that it asked for, beside those of its format.
    pub headers: Vec<(&'static str, &'static str)>,
    pub secret: Option<String>,
    /// Whether it asked for this event of its tenant.
    pub wants: fn(&Value) -> bool,
}

fn is(event: &Value, kind: &str, channel: &str) -> bool {
    event["type"] == kind && event["channel"] == channel
}

fn among(event: &Value, channel: &str, kinds: &[&str]) -> bool {
    event["channel"] == channel && kinds.iter().any(|kind| event["type"] == *kind)
}

/// Registers one, and insists on the documented code.
async fn create(daemon: &Daemon, key: &Key, collection: &str, status: StatusCode, body: Value) -> Value {
    let (answered, created) = key.call(daemon, Method::POST, collection, Some(body)).await;
    assert_eq!(answered, status, "{collection}: {created}");
    created
}

/// Zenvia Customer Cloud (1.3, 1.4).
pub async fn zenvia(daemon: &Daemon, receiver: &Receiver, tokens: &Receiver, tenant: &'static str, key: &Key) -> Vec<Webhook> {
    type Row = (&'static str, &'static str, &'static str, Value, fn(&Value) -> bool);
    let of = |channel: &str, direction: &str| json!({ "channel": channel, "direction": direction });
    let acme: Vec<Row> = vec![
        ("/zenvia/in", "MESSAGE", "v2", of("whatsapp", "IN"), |event| is(event, "MESSAGE", "whatsapp") && event["direction"] == "IN"),
        ("/zenvia/all", "MESSAGE", "v2", of("whatsapp", "ALL"), |event| is(event, "MESSAGE", "whatsapp")),
        ("/zenvia/v1", "MESSAGE", "v1", json!({ "channel": "telegram" }), |event| is(event, "MESSAGE", "telegram")),
        ("/zenvia/oauth", "MESSAGE_STATUS", "v2", json!({ "channel": "sms" }), |event| is(event, "MESSAGE_STATUS", "sms")),
        ("/zenvia/status-v1", "MESSAGE_STATUS", "v1", json!({ "channel": "sms" }), |event| is(event, "MESSAGE_STATUS", "sms")),
        ("/zenvia/conversation", "CONVERSATION_STATUS", "v2", Value::Null, |event| event["type"] == "CONVERSATION_STATUS"),
        ("/zenvia/conversation-message", "CONVERSATION_MESSAGE", "v2", of("whatsapp", "IN"), |event| {
            is(event, "CONVERSATION_MESSAGE", "whatsapp") && event["direction"] == "IN"
        }),
        ("/zenvia/contact", "CONTACT", "v2", json!({ "action": ["CREATED", "UPDATED"] }), |event| {
            event["type"] == "CONTACT" && event["data"]["action"] != "DELETED"
        }),
        // What agents tell comes here, and nothing by itself.
        ("/zenvia/agent", "SUPPORT_EXPERT_AGENT", "v2", Value::Null, |_| false),
    ];
    let rival: Vec<Row> = vec![("/rival/zenvia", "MESSAGE", "v2", of("whatsapp", "ALL"), |event| is(event, "MESSAGE", "whatsapp"))];
    let mut webhooks = Vec::new();
    for (path, kind, version, criteria, wants) in if tenant == "acme" { acme } else { rival } {
        let mut body =
            json!({ "eventType": kind, "version": version, "webhook": { "url": receiver.url(path), "headers": { "X-My-Key": "k1" } } });
        if !criteria.is_null() {
            body["criteria"] = criteria;
        }
        let mut headers = vec![("x-my-key", "k1")];
        if path == "/zenvia/oauth" {
            body["webhook"]["auth"] = json!({ "type": "OAUTH", "url": tokens.url("/token"), "headers": { "X-Idp": "i1" },
                "queryParams": { "audience": "hooks" },
                "oauth": { "grantType": "client_credentials", "clientId": "cid", "clientSecret": "c sec", "expiresIn": 3600 } });
            headers.push(("authorization", "Bearer acc3ss"));
        }
        let made = create(daemon, key, "/v2/subscriptions", StatusCode::OK, body).await;
        assert_eq!((&made["status"], &made["version"], &made["eventType"]), (&json!("ACTIVE"), &json!(version), &json!(kind)), "{made}");
        let id = made["id"].as_str().expect("an id").to_owned();
        webhooks.push(Webhook {
            path,
            tenant,
            resource: format!("/v2/subscriptions/{id}"),
            id,
            key: key.clone(),
            format: if version == "v1" { Format::ZenviaV1 } else { Format::ZenviaV2 },
            headers,
            secret: None,
            wants,
        });
    }
    webhooks
}

/// Zenvia Conversion, shape A (2.1) by `bearer` and, if given, shape B (2.2) by `query`.
pub async fn conversion(daemon: &Daemon, receiver: &Receiver, tenant: &'static str, bearer: &Key, query: Option<&Key>) -> Vec<Webhook> {
    type Row = (&'static str, &'static str, fn(&Value) -> bool);
    let acme: Vec<Row> = vec![
        ("/conversion/lead", "lead.created", |event| event["type"] == "lead.created"),
        ("/conversion/quote", "quote.updated", |event| event["type"] == "quote.updated"),
        ("/conversion/interaction", "interaction.resolved", |event| event["type"] == "interaction.resolved"),
    ];
    let rival: Vec<Row> = vec![("/rival/conversion", "lead.created", |event| event["type"] == "lead.created")];
    let webhook = |path, id: String, resource, key: &Key, wants| Webhook {
        path,
        tenant,
        id,
        resource,
        key: key.clone(),
        format: Format::Conversion,
        headers: Vec::new(),
        secret: None,
        wants,
    };
    let mut webhooks = Vec::new();
    for (path, topic, wants) in if tenant == "acme" { acme } else { rival } {
        let body = json!({ "topic": topic, "callbackUrl": receiver.url(path) });
        let made = create(daemon, bearer, "/v1/subscriptions", StatusCode::CREATED, body).await;
        let id = made["id"].as_str().expect("an id").to_owned();
        assert_eq!(made, json!({ "id": id, "topic": topic, "callbackUrl": receiver.url(path) }));
        webhooks.push(webhook(path, id.clone(), format!("/v1/subscriptions/{id}"), bearer, wants));
    }
    if let Some(query) = query {
        let body = json!({ "topics": ["agents", "prospects"], "callbackUrl": receiver.url("/conversion/b") });
        let made = create(daemon, query, "/v1/notifications/subscriptions", StatusCode::OK, body).await;
        let id = made["id"].as_str().expect("an id").to_owned();
        let wants: fn(&Value) -> bool = |event| event["type"] == "lead.created" || event["type"] == "agent.updated";
        webhooks.push(webhook("/conversion/b", id.clone(), format!("/v1/notifications/subscription/{id}"), query, wants));
    }
    webhooks
}

/// Hub Message (4.1 to 4.4): five ways to authenticate, three formats, signed and not, combined names, events of templates.
pub async fn hub(daemon: &Daemon, receiver: &Receiver, tenant: &'static str, key: &Key) -> Vec<Webhook> {
    struct Row {
        path: &'static str,
        /// Of a channel, or none for templates.
        channel: Option<&'static str>,
        events: Value,
        signing: bool,
        auth: Value,
        format: (&'static str, Format),
        header: Option<(&'static str, &'static str)>,
        wants: fn(&Value) -> bool,
    }
    let (default, z_api, chatwoot) = (("DEFAULT", Format::Default), ("Z_API", Format::ZApi), ("CHATWOOT", Format::Chatwoot));
    let row =
        |path, channel, events, signing, auth, format, header, wants| Row { path, channel, events, signing, auth, format, header, wants };
    let (none, bearer) = (json!({ "type": "NONE" }), json!({ "type": "BEARER", "token": "t0k" }));
    let custom = json!({ "type": "CUSTOM_HEADER", "headerName": "X-Own", "headerValue": "v4lue" });
    let basic = json!({ "type": "BASIC", "username": "user", "password": "pass" });
    let api_key = json!({ "type": "API_KEY", "key": "k3y" });
    let (with_bearer, with_key) = (Some(("authorization", "Bearer t0k")), Some(("x-api-key", "k3y")));
    let acme = vec![
        row("/hub/none", Some(CHANNEL), json!(["RECEIVED_STATUS"]), false, none, default, None, |event| {
            among(event, CHANNEL, &["MESSAGE_RECEIVED", "MESSAGE_STATUS"])
        }),
        // Three names that say the same twice over.
        row(
            "/hub/bearer",
            Some(CHANNEL),
            json!(["RECEIVED_AND_DELIVERY", "RECEIVED_STATUS", "MESSAGE_RECEIVED"]),
            true,
            bearer.clone(),
            z_api,
            with_bearer,
            |event| among(event, CHANNEL, &["MESSAGE_RECEIVED", "MESSAGE_STATUS", "MESSAGE_DELIVERY"]),
        ),
        row("/hub/key", Some(CHANNEL), json!(["RECEIVED_STATUS", "MESSAGE_RECEIVED"]), true, api_key, chatwoot, with_key, |event| {
            among(event, CHANNEL, &["MESSAGE_RECEIVED", "MESSAGE_STATUS"])
        }),
        row(
            "/hub/basic",
            Some(CHANNEL),
            json!(["CONNECTED", "DISCONNECTED", "PRESENCE_CHAT", "INITIAL_DATA", "BLOCK"]),
            true,
            basic,
            default,
            Some(("authorization", "Basic dXNlcjpwYXNz")),
            |event| among(event, CHANNEL, &["CONNECTED", "DISCONNECTED", "PRESENCE_CHAT", "INITIAL_DATA", "BLOCK"]),
        ),
        row(
            "/hub/custom",
            Some(CHANNEL),
            json!(["CONNECTED", "DISCONNECTED", "PRESENCE_CHAT"]),
            false,
            custom,
            z_api,
            Some(("x-own", "v4lue")),
            |event| among(event, CHANNEL, &["CONNECTED", "DISCONNECTED", "PRESENCE_CHAT"]),
        ),
        row("/hub/chatwoot", Some(CHANNEL), json!(["MESSAGE_STATUS", "MESSAGE_DELIVERY"]), false, Value::Null, chatwoot, None, |event| {
            among(event, CHANNEL, &["MESSAGE_STATUS", "MESSAGE_DELIVERY"])
        }),
        row("/hub/second", Some(SECOND), json!(["MESSAGE_RECEIVED"]), true, bearer, default, with_bearer, |event| {
            is(event, "MESSAGE_RECEIVED", SECOND)
        }),
        // The flat form, which only these routes take.
        row("/hub/template", None, json!(["UPDATE_TEMPLATE_STATUS"]), true, json!("k3y"), default, with_key, |event| {
            event["type"] == "UPDATE_TEMPLATE_STATUS"
        }),
        row(
            "/hub/templates",
            None,
            json!(["UPDATE_TEMPLATE_STATUS", "UPDATE_TEMPLATE_CATEGORY"]),
            false,
            Value::Null,
            default,
            None,
            |event| event["type"] == "UPDATE_TEMPLATE_STATUS" || event["type"] == "UPDATE_TEMPLATE_CATEGORY",
        ),
    ];
    let rival = vec![row("/rival/hub", Some(CHANNEL), json!(["MESSAGE_RECEIVED"]), true, Value::Null, default, None, |event| {
        is(event, "MESSAGE_RECEIVED", CHANNEL)
    })];
    let mut webhooks = Vec::new();
    for row in if tenant == "acme" { acme } else { rival } {
        let collection = row.channel.map_or("/v1/webhooks".to_owned(), |channel| format!("/v1/channels/{channel}/webhooks"));
        let mut body = json!({ "url": receiver.url(row.path), "description": row.path, "events": row.events, "signing": row.signing,
            "payloadFormat": row.format.0, "customAttributes": { "stage": "test" } });
        match &row.auth {
            Value::Null => {}
            Value::String(key) => {
                body["authType"] = json!("API_KEY");
                body["key"] = json!(key);
            }
            auth => body["auth"] = auth.clone(),
        }
        let made = create(daemon, key, &collection, StatusCode::CREATED, body).await;
        let id = made["id"].as_str().expect("an id").to_owned();
        let secret = made["secret"].as_str().map(str::to_owned);
        assert_eq!(secret.as_ref().map(String::len), row.signing.then_some(64), "{made}");
        assert_eq!(
            (&made["events"], &made["status"], &made["payloadFormat"]),
            (&row.events, &json!("ENABLED"), &json!(row.format.0)),
            "{made}"
        );
        webhooks.push(Webhook {
            path: row.path,
            tenant,
            resource: format!("{collection}/{id}"),
            id,
            key: key.clone(),
            format: row.format.1,
            headers: row.header.into_iter().collect(),
            secret,
            wants: row.wants,
        });
    }
    webhooks
}

/// An endpoint of no product with a filter.
pub async fn filtered(daemon: &Daemon, receiver: &Receiver, key: &Key) -> Webhook {
    let body =
        json!({ "url": receiver.url("/own"), "types": ["order.*"], "filter": "event.data.total % 2 == 0 && event.channel == 'shop'" });
    let made = create(daemon, key, "/v1/endpoints", StatusCode::CREATED, body).await;
    let id = made["id"].as_str().expect("an id").to_owned();
    Webhook {
        path: "/own",
        tenant: "acme",
        resource: format!("/v1/endpoints/{id}"),
        id,
        key: key.clone(),
        format: Format::Own,
        headers: Vec::new(),
        secret: made["secret"].as_str().map(str::to_owned),
        wants: |event| event["type"] == "order.created" && event["data"]["total"].as_u64().is_some_and(|total| total.is_multiple_of(2)),
    }
}
