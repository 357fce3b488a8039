//! What no client means well with: it is refused in the words of the product that was called, nothing is stored, and the daemon answers the next one.

use super::*;

const DEEP: usize = 100_000;

/// A document of each API that makes something, with the status of what is made.
const CREATING: &[(&str, &str, u16)] = &[
    ("/v1/endpoints", r#"{"url":"https://h/"}"#, 201),
    ("/v1/tokens", r#"{"name":"n"}"#, 201),
    ("/v1/channels/C/webhooks", r#"{"url":"https://h/","events":["BLOCK"]}"#, 201),
    ("/v1/webhooks", r#"{"url":"https://h/","events":["UPDATE_TEMPLATE_STATUS"]}"#, 201),
    ("/v2/subscriptions", r#"{"eventType":"MESSAGE","webhook":{"url":"https://h/"},"criteria":{"channel":"c"}}"#, 200),
    ("/v1/subscriptions", r#"{"topic":"lead.created","callbackUrl":"https://h/"}"#, 201),
    ("/v1/notifications/subscriptions", r#"{"topics":["prospects"],"callbackUrl":"https://h/"}"#, 200),
];

/// `document` with another member before the last brace.
fn with(document: &str, member: &str) -> Vec<u8> {
    format!("{},{member}}}", document.strip_suffix('}').expect("an object")).into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_documents_are_refused_by_every_api_and_store_nothing() {
    let api = Api::start().await;
    api.admin("PUT", "/v1/tenants/default", json!({"accountRoles": ["ENTERPRISE"]})).await.expect(200);
    for (path, document, made) in CREATING {
        let first = document.split_once(':').expect("a member").0.trim_start_matches('{');
        let bodies: Vec<(&str, Vec<u8>)> = vec![
            ("no JSON", b"{".to_vec()),
            ("an array for its members", b"[\"a\"]".to_vec()),
            ("text", b"\"{}\"".to_vec()),
            ("two documents", format!("{document}{document}").into_bytes()),
            ("a member twice", with(document, &format!("{first}:null"))),
            ("a member twice, one escaped", with(document, &format!("\"\\u{:04x}{}:null", first.as_bytes()[1], &first[2..]))),
            ("a number beyond all", with(document, "\"x\":1e999")),
            ("too deep arrays", with(document, &format!("\"x\":{}{}", "[".repeat(DEEP), "]".repeat(DEEP)))),
            ("too deep objects", with(document, &format!("\"x\":{}1{}", "{\"a\":".repeat(DEEP), "}".repeat(DEEP)))),
            ("no UTF-8", [&with(document, "\"x\":\"")[..], b"\xff\"}"].concat()),
            ("half a surrogate", with(document, r#""x":"\ud800""#)),
            ("a NUL", [document.as_bytes(), b"\0"].concat()),
            ("a byte order mark", [b"\xef\xbb\xbf", document.as_bytes()].concat()),
        ];
        for (what, body) in bodies {
            let answer = api.ask(ADMIN, "POST", path, body).await;
            assert_eq!(answer.status, 400, "{path}: {what}: {}", answer.body);
        }
        assert_eq!(api.registry.endpoints(None, None, 10).len() + api.registry.tokens(None, None, 10).len(), 0, "{path}");
        let good = api.ask(ADMIN, "POST", path, *document).await;
        assert_eq!(good.status, *made, "{path}: {}", good.body);
        for endpoint in api.registry.endpoints(None, None, 10) {
            api.ask(ADMIN, "DELETE", &format!("/v1/endpoints/{}", endpoint.endpoint.id), "").await.expect(204);
        }
        for token in api.registry.tokens(None, None, 10) {
            api.ask(ADMIN, "DELETE", &format!("/v1/tokens/{}", token.id), "").await.expect(204);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_within_a_document_is_no_array_either() {
    let api = Api::start().await;
    api.admin("PUT", "/v1/tenants/default", json!({"accountRoles": ["ENTERPRISE"]})).await.expect(200);
    for (path, body, field) in [
        ("/v1/endpoints", r#"{"url":"https://h/","auth":["bearer","t"]}"#, "auth"),
        ("/v1/endpoints", r#"{"url":"https://h/","tls":["c","k"]}"#, "tls"),
        ("/v1/channels/C/webhooks", r#"{"url":"https://h/","events":["BLOCK"],"auth":["BEARER","t"]}"#, "auth"),
    ] {
        let answer = api.ask(ADMIN, "POST", path, body).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.body);
        assert!(answer.body.to_string().contains(field), "{}", answer.body);
    }
    assert_eq!(api.registry.endpoints(None, None, 10).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_paths_and_queries_are_refused() {
    let api = Api::start().await;
    api.admin("PUT", "/v1/tenants/default", json!({"accountRoles": ["ENTERPRISE"]})).await.expect(200);
    let long = format!("/v1/endpoints?tenant={}", "t".repeat(300));
    for (method, path, status) in [
        ("GET", "/v1/endpoints/%ff", 400),
        ("GET", "/v1/endpoints/%00", 404),
        ("GET", "/v1/channels/%ff/webhooks", 400),
        ("GET", "/v2/subscriptions/%ff", 400),
        ("GET", "/v1/subscriptions/%c3%28", 400),
        ("GET", "/v1/endpoints?tenant=%ff", 400),
        ("GET", "/v1/webhooks?channelId=%ff", 400),
        ("GET", "/v2/subscriptions?tenant=%ed%a0%80", 400),
        ("GET", "/v1/endpoints?tenant=%00", 400),
        ("GET", "/v1/endpoints?tenant=", 400),
        ("GET", long.as_str(), 400),
        ("GET", "/v1/endpoints?limit=1&limit=2", 400),
        ("GET", "/v1/endpoints?limit=99999999999999999999999", 400),
        ("GET", "/v1/endpoints?limit=-1", 400),
        ("GET", "/v1/endpoints?limit=1e2", 400),
        ("GET", "/v1/dead-letters?since=9999999-01-01T00:00:00Z", 400),
        ("GET", "/v1/tickets/t/history?cursor=18446744073709551615", 200),
        ("PUT", "/v1/tenants/%00", 422),
    ] {
        let answer = api.ask(ADMIN, method, path, "").await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
    }
}

/// An event that is taken has to be one that can be read again: what is answered 202 must not end as a dead letter because of its name.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_not_taken_under_a_name_that_could_not_be_read_again() {
    let api = Api::start().await;
    let event = r#"{"type":"t","channel":"c","data":1}"#;
    for tenant in ["%03", "", "%7f"] {
        api.ask(ADMIN, "POST", &format!("/v1/events?tenant={tenant}"), event).await.expect(400);
    }
    let created = api.admin("POST", "/v1/endpoints", json!({"url": "https://h/"})).await.expect(201);
    let test = format!("/v1/endpoints/{}/test", created["id"].as_str().expect("an id"));
    for body in [json!({"type": ""}), json!({"channel": "\u{0}"}), json!({"type": "t".repeat(300)})] {
        api.admin("POST", &test, body).await.expect(422);
    }
    api.admin("POST", &test, json!({"type": "t", "channel": "c"})).await.expect(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_events_may_be_as_deep_as_it_likes_and_is_carried_as_it_is() {
    let api = Api::start().await;
    let data = format!("{}{}", "[".repeat(DEEP), "]".repeat(DEEP));
    api.ask(ADMIN, "POST", "/v1/events", format!(r#"{{"type":"t","channel":"c","data":{data}}}"#)).await.expect(202);
    api.ask(ADMIN, "POST", "/v1/events", r#"{"type":"t","channel":"c","data":1e999}"#).await.expect(202);
    api.ask(ADMIN, "POST", "/v1/events", r#"{"type":"t","type":"u","channel":"c","data":1}"#).await.expect(400);
}
