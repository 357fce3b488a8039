//! Tokens of both kinds, over HTTP: what they answer once, and what their requests have to carry, on the routes of every product.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use sha2::{Digest, Sha256};

use super::*;

/// Signs as a client does, independently of the code that checks.
fn signature(secret: &str, method: &str, path: &str, body: &str, date: &str) -> String {
    let md5 = if body.is_empty() { String::new() } else { Md5::digest(body).iter().map(|byte| format!("{byte:02x}")).collect() };
    let kind = if body.is_empty() { "" } else { "application/json" };
    let text = format!("{method}\n{md5}\n{kind}\n{date}\napi.zenvia.com\n{path}");
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
    mac.update(text.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

fn request(key: &str, method: &str, path: &str, body: &str, signed: Option<(&str, &str)>) -> Request {
    let mut request = Request::builder().method(method).uri(path).header("host", "api.zenvia.com").header("x-api-token", key);
    if !body.is_empty() {
        request = request.header("content-type", "application/json");
    }
    if let Some((date, signature)) = signed {
        request = request.header("date", date).header("x-api-signature", signature);
    }
    request.body(Body::from(body.to_owned())).expect("a request")
}

fn date(offset: i64) -> String {
    let time = std::time::SystemTime::now();
    let shift = Duration::from_secs(offset.unsigned_abs());
    httpdate::fmt_http_date(if offset < 0 { time - shift } else { time + shift })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_shows_its_key_and_secret_once() {
    let api = Api::start().await;
    for (kind, has_secret) in [("standard", false), ("signature", true)] {
        let new = json!({"name": "n", "kind": kind, "role": "admin", "tenant": "acme"});
        let created = api.admin("POST", "/v1/tokens", new).await.expect(201);
        assert_eq!((&created["kind"], &created["role"], created["secret"].is_string()), (&json!(kind), &json!("admin"), has_secret));
        assert!(created["key"].is_string() && created["lastUsedAt"].is_null());
        let path = format!("/v1/tokens/{}", created["id"].as_str().expect("an id"));
        let read = api.admin("GET", &path, Value::Null).await.expect(200);
        assert!(read.get("key").is_none() && read.get("secret").is_none(), "{read}");
        assert_eq!(read["kind"], kind);
    }
    let list = api.admin("GET", "/v1/tokens", Value::Null).await.expect(200).to_string();
    assert!(!list.contains("phk_") && !list.contains("phs_"), "{list}");

    let csv = Request::builder().method("POST").uri("/v1/tokens?format=csv").header("x-api-token", ADMIN);
    let new = json!({"name": "a, \"b\"", "kind": "signature"}).to_string();
    let (head, body) = api.send(csv.body(Body::from(new)).expect("a request")).await;
    assert_eq!((head.status.as_u16(), &head.headers["content-type"]), (201, &"text/csv; charset=utf-8".parse().expect("a value")));
    let text = String::from_utf8(body.to_vec()).expect("text");
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert_eq!(lines[0], "id,name,kind,role,tenant,createdAt,key,secret");
    assert!(
        lines[1].contains("\"a, \"\"b\"\"\",signature,viewer,default,") && lines[1].contains(",phk_") && lines[1].contains(",phs_"),
        "{text}"
    );
    for (path, body, status, field) in [
        ("/v1/tokens?format=xml", r#"{"name":"n"}"#, 400, "format"),
        ("/v1/tokens", r#"{"name":"n","kind":"odd"}"#, 422, "kind"),
        ("/v1/tokens", r#"{"name":"n","role":"odd"}"#, 422, "role"),
    ] {
        let answer = api.ask(ADMIN, "POST", path, body).await;
        assert_eq!(answer.paths(), [field], "{}", answer.body);
        answer.expect(status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_token_needs_its_signature_on_every_route_and_a_standard_one_does_not() {
    let api = Api::start().await;
    let make = async |kind: &str| {
        let new = json!({"name": "n", "kind": kind, "role": "admin", "tenant": "acme"});
        let token = api.admin("POST", "/v1/tokens", new).await.expect(201);
        (token["key"].as_str().expect("a key").to_owned(), token["secret"].as_str().unwrap_or_default().to_owned())
    };
    let (standard, _) = make("standard").await;
    let (key, secret) = make("signature").await;
    let zenvia = json!({"eventType": "CONVERSATION_STATUS", "webhook": {"url": "https://example.com/"}}).to_string();
    let conversion = json!({"topic": "lead.created", "callbackUrl": "https://example.com/"}).to_string();
    let now = date(0);
    for (method, path, body, good) in [
        ("GET", "/v1/endpoints?limit=5", "", 200),
        ("POST", "/v1/endpoints", r#"{"url":"https://example.com/"}"#, 201),
        ("POST", "/v1/events", r#"{"type":"t","channel":"c","data":1}"#, 202),
        ("GET", "/v1/tokens", "", 200),
        ("POST", "/v1/tokens", r#"{"name":"n"}"#, 201),
        ("GET", "/v2/subscriptions", "", 200),
        ("POST", "/v2/subscriptions", zenvia.as_str(), 200),
        ("GET", "/v1/subscriptions", "", 200),
        ("POST", "/v1/subscriptions", conversion.as_str(), 201),
        ("GET", "/v1/notifications/topics", "", 200),
    ] {
        let ask = async |key: &str, body: &str, signed: Option<(&str, &str)>| {
            let (head, body) = api.send(request(key, method, path, body, signed)).await;
            (head.status.as_u16(), String::from_utf8_lossy(&body).into_owned())
        };
        let signed = signature(&secret, method, path, body, &now);
        assert_eq!(ask(&key, body, Some((&now, &signed))).await.0, good, "{method} {path}");
        assert_eq!(ask(&standard, body, None).await.0, good, "{method} {path} by a standard token");
        let (status, text) = ask(&standard, body, Some(("never", "odd"))).await;
        assert!(status == good || status == 409, "a signature of a standard token is ignored: {method} {path}: {text}");
        let stale = date(-200);
        let ahead = date(60);
        let other = signature("other", method, path, body, &now);
        for (what, body, signed, named) in [
            ("none", body, None, "X-API-Signature"),
            ("another secret", body, Some((now.as_str(), other.clone())), "X-API-Signature"),
            ("another body", "{\"x\":1}", Some((now.as_str(), signed.clone())), "X-API-Signature"),
            ("old", body, Some((stale.as_str(), signature(&secret, method, path, body, &stale))), "Date"),
            ("ahead", body, Some((ahead.as_str(), signature(&secret, method, path, body, &ahead))), "Date"),
            ("no date", body, Some(("", signed.clone())), "Date"),
        ] {
            let (status, text) = ask(&key, body, signed.as_ref().map(|(date, signature)| (*date, signature.as_str()))).await;
            assert_eq!(status, 401, "{method} {path}, {what}: {text}");
            assert!(text.contains(named), "{method} {path}, {what}: {text}");
            let shape = match path {
                path if path.starts_with("/v2/") => "\"AUTHENTICATION_ERROR\",\"message\":\"No authorization token was found\"",
                path if path.starts_with("/v1/subscriptions") || path.starts_with("/v1/notifications") => "\"summary\":\"Unauthorized\"",
                _ => "\"status\":401",
            };
            assert!(text.contains(shape), "{method} {path}, {what}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_too_large_is_413_for_a_signature_token_too_and_when_it_was_used_is_shown() {
    let api = Api::start().await;
    let new = json!({"name": "n", "kind": "signature", "role": "admin"});
    let token = api.admin("POST", "/v1/tokens", new).await.expect(201);
    let (key, secret) = (token["key"].as_str().expect("a key"), token["secret"].as_str().expect("a secret"));
    let now = date(0);
    let large = "x".repeat(input::BODY_LIMIT + 1);
    for path in ["/v1/endpoints", "/v2/subscriptions", "/v1/subscriptions"] {
        let signed = signature(secret, "POST", path, &large, &now);
        let (head, body) = api.send(request(key, "POST", path, &large, Some((&now, &signed)))).await;
        assert_eq!(head.status.as_u16(), 413, "{path}: {body:?}");
    }
    let path = format!("/v1/tokens/{}", token["id"].as_str().expect("an id"));
    let used = api.until(&path, |token| token["lastUsedAt"].is_string()).await;
    let again = api.admin("GET", &path, Value::Null).await.expect(200);
    assert_eq!(again["lastUsedAt"], used["lastUsedAt"], "nobody used it since");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_the_shape_of_the_product_whose_path_was_called() {
    let api = Api::start().await;
    let viewer = api.token("acme", "viewer").await;
    let deep = "[".repeat(2_000);
    let large = "x".repeat(input::BODY_LIMIT + 1);
    for (prefix, item, wrong_method, zenvia) in [
        ("/v2/subscriptions", "/v2/subscriptions/none", "/v2/subscriptions", true),
        ("/v1/subscriptions", "/v1/subscriptions/none", "/v1/subscriptions", false),
        ("/v1/notifications/subscriptions", "/v1/notifications/subscription/none", "/v1/notifications/topics", false),
    ] {
        let nowhere = format!("{prefix}/a/b/c");
        for (key, method, path, body, status, code) in [
            ("wrong", "GET", prefix, "", 401, "AUTHENTICATION_ERROR"),
            (&viewer, "POST", prefix, "{}", 403, "FORBIDDEN"),
            (&viewer, "DELETE", item, "", 403, "FORBIDDEN"),
            (ADMIN, "GET", item, "", 404, "NOT_FOUND"),
            (ADMIN, "GET", &nowhere, "", 404, "NOT_FOUND"),
            (ADMIN, "PUT", wrong_method, "", 405, "METHOD_NOT_ALLOWED"),
            (ADMIN, "POST", prefix, "{", 400, "VALIDATION_ERROR"),
            (ADMIN, "POST", prefix, "[]", 400, "VALIDATION_ERROR"),
            (ADMIN, "POST", prefix, &deep, 400, "VALIDATION_ERROR"),
            (ADMIN, "POST", prefix, "", 400, "VALIDATION_ERROR"),
            (ADMIN, "POST", prefix, &large, 413, "PAYLOAD_TOO_LARGE"),
        ] {
            let answer = api.ask(key, method, path, body.to_owned()).await;
            let what = format!("{method} {path}: {}", answer.body);
            assert_eq!((answer.status, &answer.kind), (status, &"application/json".to_owned()), "{what}");
            assert_eq!(answer.body["code"], code, "{what}");
            assert!(answer.body["message"].is_string(), "{what}");
            let names: Vec<&String> = answer.body.as_object().expect("an object").keys().collect();
            assert_eq!(names, if zenvia { ["code", "details", "message"] } else { ["code", "message", "summary"] }, "{what}");
        }
    }
    assert_eq!(api.registry.endpoints(None, None, 10).len(), 0, "nothing was stored");
}
