//! Both shapes of Zenvia Conversion over HTTP: rows of WIRE.md 2.1 and 2.2.

use axum::{body::Body, extract::Request};
use serde_json::{Value, json};

use crate::{
    api::tests::Api,
    model::{Format, Signing, Status},
};

const A: &str = "/v1/subscriptions";
const B: &str = "/v1/notifications/subscriptions";

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn shape_a_has_one_topic_for_each_subscription() {
    let api = Api::start().await;
    let key = api.token("acme", "developer").await;
    for topic in ["lead.created", "quote.updated", "interaction.resolved"] {
        let body = json!({"topic": topic, "callbackUrl": "https://example.com/hook"});
        let created = api.ask(&key, "POST", A, body.to_string()).await.expect(201);
        let id = text(&created["id"]);
        assert_eq!(created, json!({"id": id, "topic": topic, "callbackUrl": "https://example.com/hook"}));
        assert_eq!(api.ask(&key, "GET", &format!("{A}/{id}"), "").await.expect(200), created);
        let endpoint = api.registry.get(&id).expect("there").endpoint;
        assert_eq!((endpoint.format, &endpoint.signing, &*endpoint.tenant), (Format::Conversion, &Signing::None, "acme"));
    }
    let list = api.ask(&key, "GET", A, "").await.expect(200);
    let topics: Vec<String> = list.as_array().expect("an array").iter().map(|item| text(&item["topic"])).collect();
    assert_eq!(topics, ["lead.created", "quote.updated", "interaction.resolved"], "in the order in which they were made");
    let path = format!("{A}/{}", text(&list[0]["id"]));
    assert_eq!(api.ask(&key, "DELETE", &path, "").await.status, 204);
    assert_eq!(api.ask(&key, "GET", &path, "").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn shape_b_has_a_list_of_topics_a_key_in_the_query_and_one_active_subscription() {
    let api = Api::start().await;
    let key = api.token("acme", "developer").await;
    let ask = async |method: &str, path: &str, body: String| {
        let request = Request::builder().method(method).uri(format!("{path}?api-key={key}")).body(Body::from(body));
        let (head, body) = api.send(request.expect("a request")).await;
        (head.status.as_u16(), serde_json::from_slice::<Value>(&body).expect("JSON"))
    };
    let (status, topics) = ask("GET", "/v1/notifications/topics", String::new()).await;
    let names: Vec<String> = topics.as_array().expect("an array").iter().map(|topic| text(&topic["name"])).collect();
    assert_eq!((status, names), (200, ["prospects", "quotes", "interactions", "agents"].map(str::to_owned).to_vec()));
    assert!(topics[0]["description"].is_string());

    let body = json!({"topics": ["prospects", "interactions", "agents", "quote.updated"], "callbackUrl": "https://example.com/1"});
    let (status, first) = ask("POST", B, body.to_string()).await;
    assert_eq!((status, &first["callbackUrl"]), (200, &json!("https://example.com/1")));
    let mut topics: Vec<String> = first["topics"].as_array().expect("a list").iter().map(text).collect();
    topics.sort_unstable();
    assert_eq!(topics, ["agents", "interactions", "prospects", "quotes"]);
    let endpoint = api.registry.get(&text(&first["id"])).expect("there").endpoint;
    let types: Vec<String> = endpoint.types.iter().map(ToString::to_string).collect();
    assert_eq!(types, ["agent.*", "interaction.resolved", "lead.created", "quote.updated"]);

    // One of shape A beside it stays what it is.
    let shape_a = json!({"topic": "lead.created", "callbackUrl": "https://example.com/a"}).to_string();
    let shape_a = api.ask(&key, "POST", A, shape_a).await.expect(201);
    let (_, second) = ask("POST", B, json!({"topics": ["quotes"], "callbackUrl": "https://example.com/2"}).to_string()).await;
    assert_eq!(api.registry.get(&text(&first["id"])).expect("kept").endpoint.status, Status::Disabled, "deactivated");
    let (_, list) = ask("GET", B, String::new()).await;
    let ids: Vec<String> = list.as_array().expect("an array").iter().map(|item| text(&item["id"])).collect();
    assert_eq!(ids, [text(&shape_a["id"]), text(&second["id"])], "the active ones");

    let one = format!("/v1/notifications/subscription/{}", text(&second["id"]));
    assert_eq!(ask("GET", &one, String::new()).await, (200, second.clone()));
    assert_eq!(ask("DELETE", &one, String::new()).await, (200, second), "what it was");
    assert_eq!(ask("GET", &one, String::new()).await.0, 404);
    assert_eq!(ask("DELETE", B, String::new()).await, (200, json!({"modified": 1})));
    let left = api.ask(&key, "GET", A, "").await.expect(200);
    assert_eq!(left, json!([shape_a]), "what was made elsewhere stays");

    let request = Request::builder().uri(format!("{A}?api-key={key}")).body(Body::empty()).expect("a request");
    assert_eq!(api.send(request).await.0.status.as_u16(), 401, "in the query on the older paths only");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_and_nothing_is_stored() {
    let api = Api::start().await;
    for (path, body, named) in [
        (A, json!({}), vec!["topic is required", "callbackUrl is required"]),
        (
            A,
            json!({"topic": "prospects", "callbackUrl": "https://h/"}),
            vec!["topic", "lead.created", "quote.updated", "interaction.resolved"],
        ),
        (A, json!({"topic": "lead.created", "callbackURL": "https://h/"}), vec!["callbackURL is unknown", "callbackUrl is required"]),
        (A, json!({"topic": "lead.created", "callbackUrl": "http://10.0.0.1/"}), vec!["callbackUrl", "delivery.allow_networks"]),
        (A, json!({"topic": ["lead.created"], "callbackUrl": "https://h/"}), vec!["topic must be text"]),
        (B, json!({}), vec!["topics is required", "callbackUrl is required"]),
        (B, json!({"topics": [], "callbackUrl": "https://h/"}), vec!["topics must be a list"]),
        (B, json!({"topics": ["quotes", "x", 7], "callbackUrl": "https://h/"}), vec!["topics[1]", "prospects", "topics[2]"]),
    ] {
        let answer = api.admin("POST", path, body.clone()).await;
        assert_eq!((answer.status, &answer.body["code"]), (400, &json!("VALIDATION_ERROR")), "{body}: {}", answer.body);
        let message = text(&answer.body["message"]);
        assert!(named.iter().all(|named| message.contains(named)), "{body}: {message}");
    }
    assert_eq!(api.registry.endpoints(None, None, 10).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_were_made_elsewhere_are_shown_and_others_are_not_there() {
    let api = Api::start().await;
    for (id, format, types) in
        [("all", "conversion", json!([])), ("two", "conversion", json!(["lead.created", "x.y"])), ("hub", "hub", json!([]))]
    {
        let new = json!({"id": id, "url": "https://example.com/", "format": format, "types": types, "tenant": "acme"});
        api.admin("POST", "/v1/endpoints", new).await.expect(201);
    }
    let viewer = api.token("acme", "viewer").await;
    let (developer, foreign) = (api.token("acme", "developer").await, api.token("other", "developer").await);
    let list = api.ask(&viewer, "GET", A, "").await.expect(200);
    let shown: Vec<(String, String)> =
        list.as_array().expect("an array").iter().map(|item| (text(&item["id"]), text(&item["topic"]))).collect();
    assert_eq!(shown, [("all".to_owned(), "*".to_owned()), ("two".to_owned(), "lead.created,x.y".to_owned())]);
    let list = api.ask(&viewer, "GET", B, "").await.expect(200);
    assert_eq!(
        (&list[0]["topics"], &list[1]["topics"]),
        (&json!(["prospects", "quotes", "interactions", "agents"]), &json!(["prospects", "x.y"]))
    );
    for (key, method, path, status) in [
        (&viewer, "GET", "/v1/subscriptions/two", 200),
        (&viewer, "DELETE", "/v1/subscriptions/two", 403),
        (&viewer, "DELETE", B, 403),
        (&foreign, "GET", "/v1/subscriptions/two", 404),
        (&foreign, "DELETE", "/v1/subscriptions/two", 404),
        (&foreign, "GET", "/v1/notifications/subscription/two", 404),
        (&foreign, "DELETE", "/v1/notifications/subscription/two", 404),
        (&foreign, "GET", "/v1/subscriptions?tenant=acme", 403),
        (&developer, "GET", "/v1/subscriptions/hub", 404),
        (&developer, "DELETE", "/v1/subscriptions/hub", 404),
        (&developer, "DELETE", B, 200),
        (&developer, "DELETE", "/v1/subscriptions/two", 204),
    ] {
        assert_eq!(api.ask(key, method, path, "").await.status, status, "{method} {path}");
    }
    assert!(api.registry.get("all").is_some() && api.registry.get("hub").is_some());
    assert_eq!(api.ask(&foreign, "GET", A, "").await.expect(200), json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_deletes_all_is_not_stopped_by_somebody_who_does_the_same() {
    let api = Api::start().await;
    let key = api.token("acme", "developer").await;
    let body = json!({"topics": ["prospects"], "callbackUrl": "https://example.com/hook"}).to_string();
    for _ in 0..20 {
        api.ask(&key, "POST", B, body.clone()).await.expect(200);
    }
    let answers = tokio::join!(api.ask(&key, "DELETE", B, ""), api.ask(&key, "DELETE", B, ""), api.ask(&key, "DELETE", B, ""));
    let modified = [answers.0, answers.1, answers.2].map(|answer| answer.expect(200)["modified"].as_u64().expect("a number"));
    assert_eq!(modified.iter().sum::<u64>(), 20, "{modified:?}");
    assert_eq!(api.registry.endpoints(Some("acme"), None, 10).len(), 0);
}
