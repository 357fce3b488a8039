//! Every route of the API against every role, in its own tenant and in another one. The routes are those of the API's own description: one that is
//! not in the table fails, and so does a line of the table without its route.

use std::collections::BTreeSet;

use super::*;
use crate::{
    log::record::{encode_dead_delivery, unplaced},
    model::{DeadReason, Delivery, Direction, Event, Priority, Purpose, Timestamp},
};

/// The least that a caller must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    Viewer,
    Developer,
    Admin,
    /// The admin token of the installation.
    AdminToken,
}

/// What the tenant `acme` has, and the path or body is about: made anew for every request that may change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thing {
    Nothing,
    Endpoint,
    Token,
    Tenant,
    DeadLetter,
    Redrive,
    Replay,
    ChannelWebhook,
    TemplateWebhook,
    Agent,
    Subscription,
    Topic,
}

struct Route {
    method: &'static str,
    /// As in the description; `{id}` and `{webhookId}` are the thing, also in a query and in the body.
    path: &'static str,
    need: Need,
    thing: Thing,
    body: &'static str,
    /// The answer to who may.
    done: u16,
    /// The answer to who might if it were of that tenant: what is there for nobody else is not found, a tenant that is named is forbidden.
    foreign: u16,
}

const fn route(method: &'static str, path: &'static str, need: Need, thing: Thing, body: &'static str, done: u16, foreign: u16) -> Route {
    Route { method, path, need, thing, body, done, foreign }
}

use Need::{Admin, AdminToken as OnlyAdminToken, Developer, Viewer};
use Thing::{Agent, ChannelWebhook, DeadLetter, Endpoint, Nothing, Redrive, Replay, Subscription, TemplateWebhook, Tenant, Token, Topic};

#[rustfmt::skip]
const ROUTES: &[Route] = &[
    route("POST", "/v1/events?tenant=acme", Developer, Nothing, r#"{"type":"t","channel":"c","data":1}"#, 202, 403),
    route("GET", "/v1/endpoints?tenant=acme", Viewer, Nothing, "", 200, 403),
    route("POST", "/v1/endpoints", Developer, Nothing, r#"{"url":"https://h/","tenant":"acme"}"#, 201, 403),
    route("GET", "/v1/endpoints/{id}", Viewer, Endpoint, "", 200, 404),
    route("PATCH", "/v1/endpoints/{id}", Developer, Endpoint, r#"{"rate":"5/s"}"#, 200, 404),
    route("DELETE", "/v1/endpoints/{id}", Developer, Endpoint, "", 204, 404),
    route("POST", "/v1/endpoints/{id}/enable", Developer, Endpoint, "", 200, 404),
    route("POST", "/v1/endpoints/{id}/disable", Developer, Endpoint, "", 200, 404),
    route("POST", "/v1/endpoints/{id}/rotate-secret", Developer, Endpoint, "", 200, 404),
    route("POST", "/v1/endpoints/{id}/test", Developer, Endpoint, "", 202, 404),
    route("GET", "/v1/tokens?tenant=acme", Admin, Nothing, "", 200, 403),
    route("POST", "/v1/tokens", Admin, Nothing, r#"{"name":"n","tenant":"acme"}"#, 201, 403),
    route("GET", "/v1/tokens/{id}", Admin, Token, "", 200, 404),
    route("DELETE", "/v1/tokens/{id}", Admin, Token, "", 204, 404),
    route("GET", "/v1/tenants/{id}", Viewer, Tenant, "", 200, 404),
    route("PUT", "/v1/tenants/{id}", OnlyAdminToken, Tenant, r#"{"accountRoles":["ENTERPRISE"]}"#, 200, 403),
    route("GET", "/v1/dead-letters?tenant=acme", Viewer, Nothing, "", 200, 403),
    route("GET", "/v1/dead-letters/{id}", Viewer, DeadLetter, "", 200, 404),
    route("POST", "/v1/dead-letters/redrive", Developer, Endpoint, r#"{"endpoint":"{id}"}"#, 202, 404),
    route("GET", "/v1/dead-letters/redrive/{id}", Viewer, Redrive, "", 200, 404),
    route("GET", "/v1/replays?tenant=acme", Viewer, Nothing, "", 200, 403),
    route("POST", "/v1/replays", Developer, Endpoint, r#"{"endpoint":"{id}","since":"2026-01-01T00:00:00Z"}"#, 202, 404),
    route("GET", "/v1/replays/{id}", Viewer, Replay, "", 200, 404),
    route("DELETE", "/v1/replays/{id}", Developer, Replay, "", 204, 404),
    route("GET", "/v1/attempts?tenant=acme", Viewer, Nothing, "", 200, 403),
    route("GET", "/v1/channels/{channelId}/webhooks?tenant=acme", Viewer, Nothing, "", 200, 403),
    route("POST", "/v1/channels/{channelId}/webhooks?tenant=acme", Developer, Nothing, r#"{"url":"https://h/","events":["BLOCK"]}"#, 201, 403),
    route("GET", "/v1/channels/{channelId}/webhooks/{webhookId}", Viewer, ChannelWebhook, "", 200, 404),
    route("PATCH", "/v1/channels/{channelId}/webhooks/{webhookId}", Developer, ChannelWebhook, "{}", 200, 404),
    route("DELETE", "/v1/channels/{channelId}/webhooks/{webhookId}", Developer, ChannelWebhook, "", 204, 404),
    route("GET", "/v1/webhooks?tenant=acme", Viewer, Nothing, "", 200, 403),
    route("POST", "/v1/webhooks?tenant=acme", Developer, Nothing, r#"{"url":"https://h/","events":["UPDATE_TEMPLATE_STATUS"]}"#, 201, 403),
    route("GET", "/v1/webhooks/{webhookId}", Viewer, TemplateWebhook, "", 200, 404),
    route("PATCH", "/v1/webhooks/{webhookId}", Developer, TemplateWebhook, "{}", 200, 404),
    route("DELETE", "/v1/webhooks/{webhookId}", Developer, TemplateWebhook, "", 204, 404),
    route("POST", "/v1/filters/test", Viewer, Nothing, r#"{"filter":"true","event":{"type":"t","channel":"c","data":1}}"#, 200, 200),
    route("GET", "/v1/agents?tenant=acme", Viewer, Nothing, "", 200, 403),
    route("POST", "/v1/agents", Developer, Endpoint, r#"{"name":"n","condition":"true","endpoint":"{id}","tenant":"acme"}"#, 201, 403),
    route("GET", "/v1/agents/{id}", Viewer, Agent, "", 200, 404),
    route("PATCH", "/v1/agents/{id}", Developer, Agent, r#"{"name":"m"}"#, 200, 404),
    route("DELETE", "/v1/agents/{id}", Developer, Agent, "", 204, 404),
    route("GET", "/v1/tickets/{id}/history?tenant=acme", Viewer, Endpoint, "", 200, 403),
    route("GET", "/v2/subscriptions?tenant=acme", Viewer, Nothing, "", 200, 403),
    route("POST", "/v2/subscriptions?tenant=acme", Developer, Endpoint, ZENVIA, 200, 403),
    route("GET", "/v2/subscriptions/{subscriptionId}", Viewer, Subscription, "", 200, 404),
    route("PATCH", "/v2/subscriptions/{subscriptionId}", Developer, Subscription, r#"{"status":"ACTIVE"}"#, 200, 404),
    route("DELETE", "/v2/subscriptions/{subscriptionId}", Developer, Subscription, "", 204, 404),
    route("GET", "/v1/subscriptions?tenant=acme", Viewer, Nothing, "", 200, 403),
    route("POST", "/v1/subscriptions?tenant=acme", Developer, Nothing, CONVERSION, 201, 403),
    route("GET", "/v1/subscriptions/{id}", Viewer, Topic, "", 200, 404),
    route("DELETE", "/v1/subscriptions/{id}", Developer, Topic, "", 204, 404),
    route("GET", "/v1/notifications/topics", Viewer, Nothing, "", 200, 200),
    route("GET", "/v1/notifications/subscriptions?tenant=acme", Viewer, Nothing, "", 200, 403),
    route("POST", "/v1/notifications/subscriptions?tenant=acme", Developer, Nothing, r#"{"callbackUrl":"https://h/","topics":["prospects"]}"#, 200, 403),
    route("DELETE", "/v1/notifications/subscriptions?tenant=acme", Developer, Nothing, "", 200, 403),
    route("GET", "/v1/notifications/subscription/{id}", Viewer, Topic, "", 200, 404),
    route("DELETE", "/v1/notifications/subscription/{id}", Developer, Topic, "", 200, 404),
];

const ZENVIA: &str = r#"{"eventType":"MESSAGE","webhook":{"url":"https://h/"},"criteria":{"channel":"{id}"}}"#;
const CONVERSION: &str = r#"{"topic":"lead.created","callbackUrl":"https://h/"}"#;

impl Route {
    /// As it stands in the description.
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path.split('?').next().expect("text has a first part"))
    }

    fn filled(&self, text: &str, id: &str) -> String {
        text.replace("{id}", id).replace("{webhookId}", id).replace("{subscriptionId}", id).replace("{channelId}", "C")
    }

    /// The admin token has no tenant: where a path alone does not say which one is meant, it names it.
    fn query_of_admin(&self) -> &'static str {
        if matches!(self.thing, ChannelWebhook | TemplateWebhook) { "?tenant=acme" } else { "" }
    }

    /// What is answered to one who has no token.
    fn unauthorized(&self) -> u16 {
        // WIRE.md 4.1.
        if self.path.starts_with("/v1/webhooks") { 400 } else { 401 }
    }
}

struct Callers {
    own: Vec<(Need, String)>,
    foreign: Vec<(Need, String)>,
}

impl Callers {
    async fn of(api: &Api) -> Callers {
        let (mut own, mut foreign) = (Vec::new(), Vec::new());
        for (need, role) in [(Viewer, "viewer"), (Developer, "developer"), (Admin, "admin")] {
            own.push((need, api.token("acme", role).await));
            foreign.push((need, api.token("other", role).await));
        }
        Callers { own, foreign }
    }
}

impl Api {
    /// The id of such a thing of `acme`.
    async fn make(&self, thing: Thing, developer: &str) -> String {
        let ask = async |path: &str, body: Value| -> String {
            let answer = self.ask(developer, "POST", path, body.to_string()).await;
            assert!((200..300).contains(&answer.status), "{path}: {}", answer.body);
            answer.body["id"].as_str().expect("an id").to_owned()
        };
        let endpoint = json!({"url": "https://h/"});
        match thing {
            Nothing => String::new(),
            Tenant => "acme".to_owned(),
            Endpoint => ask("/v1/endpoints", endpoint).await,
            Redrive => ask("/v1/dead-letters/redrive", json!({"reason": "expired"})).await,
            Replay => {
                let endpoint = ask("/v1/endpoints", endpoint).await;
                ask("/v1/replays", json!({"endpoint": endpoint, "since": "2026-01-01T00:00:00Z"})).await
            }
            ChannelWebhook => ask("/v1/channels/C/webhooks", json!({"url": "https://h/", "events": ["BLOCK"]})).await,
            TemplateWebhook => ask("/v1/webhooks", json!({"url": "https://h/", "events": ["UPDATE_TEMPLATE_STATUS"]})).await,
            Agent => {
                let endpoint = ask("/v1/endpoints", endpoint).await;
                ask("/v1/agents", json!({"name": "n", "condition": "true", "endpoint": endpoint})).await
            }
            // At most two have the same criteria.
            Subscription => {
                ask("/v2/subscriptions", serde_json::from_str(&ZENVIA.replace("{id}", &uuid::Uuid::now_v7().to_string())).expect("JSON"))
                    .await
            }
            Topic => ask("/v1/subscriptions", serde_json::from_str(CONVERSION).expect("JSON")).await,
            Token => {
                let made = self.admin("POST", "/v1/tokens", json!({"name": "t", "tenant": "acme"})).await.expect(201);
                made["id"].as_str().expect("an id").to_owned()
            }
            DeadLetter => self.dead_letter().await,
        }
    }

    async fn dead_letter(&self) -> String {
        let now = Timestamp::UNIX_EPOCH;
        let event = Event {
            id: "e".into(),
            kind: "t".into(),
            channel: "c".into(),
            direction: Some(Direction::In),
            time: now,
            tenant: "acme".into(),
            subject: None,
            priority: Priority::Normal,
            traceparent: None,
            data: bytes::Bytes::from_static(b"1"),
        };
        let delivery = Delivery {
            event: Arc::new(event),
            endpoint: "gone".into(),
            origin: unplaced(Arc::clone(self.topics.ingest())),
            attempts: 1,
            accepted_at: now,
            due_at: None,
            registry_offset: 0,
            purpose: Purpose::Event,
            reason: None,
        };
        let letter = encode_dead_delivery(&delivery, DeadReason::Exhausted, "x", SystemClock.now());
        self.log.append(vec![letter.to(Arc::clone(self.topics.dead()))]).await.pop().expect("one").expect("stored");
        let list = self.until("/v1/dead-letters?tenant=acme", |list| list["items"][0]["id"].is_string()).await;
        list["items"][0]["id"].as_str().expect("an id").to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_for_its_roles_and_its_tenant_alone() {
    let api = Api::start().await;
    for tenant in ["acme", "other"] {
        api.admin("PUT", &format!("/v1/tenants/{tenant}"), json!({"accountRoles": ["ENTERPRISE"]})).await.expect(200);
    }
    let callers = Callers::of(&api).await;
    let developer = &callers.own[1].1;
    let mut wrong = Vec::new();
    for route in ROUTES {
        let mut cases = vec![("no key".to_owned(), None, route.unauthorized()), ("a wrong key".to_owned(), Some("wrong"), 401)];
        for (tenants, callers, done) in [("own", &callers.own, route.done), ("foreign", &callers.foreign, route.foreign)] {
            for (role, key) in callers {
                cases.push((format!("{tenants} {role:?}"), Some(key.as_str()), if *role >= route.need { done } else { 403 }));
            }
        }
        cases.push(("the admin token".to_owned(), Some(ADMIN), route.done));
        let mut id = api.make(route.thing, developer).await;
        for (caller, key, expected) in cases {
            let query = if key == Some(ADMIN) { route.query_of_admin() } else { "" };
            let path = format!("{}{query}", route.filled(route.path, &id));
            let status = api.status(key, route.method, &path, route.filled(route.body, &id)).await;
            if status != expected {
                wrong.push(format!("{} for {caller}: {status} instead of {expected}", route.name()));
            }
            if status < 300 {
                id = api.make(route.thing, developer).await;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_of_the_description_is_in_the_table() {
    let api = Api::start().await;
    let document = api.ask("", "GET", "/openapi.json", "").await.expect(200);
    let described: BTreeSet<String> = document["paths"]
        .as_object()
        .expect("paths")
        .iter()
        .flat_map(|(path, operations)| {
            let methods = operations.as_object().expect("operations").keys().filter(|name| *name != "parameters");
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let listed: BTreeSet<String> = ROUTES.iter().map(Route::name).collect();
    assert_eq!(described, listed);
    assert_eq!(listed.len(), ROUTES.len(), "each once");
}
