//! Rows of WIRE.md 1.1 to 1.4 that are lists: codes of errors, channels, versions, and the values that OAuth2 may have.

use super::*;
use crate::{
    api::{error::Problem, zenvia::error::ErrorBody},
    model::FieldError,
};

#[test]
fn errors_have_the_codes_and_the_words_of_the_contract() {
    let problem = |status: u16, code| Problem::new(status.try_into().expect("a status"), code, "why");
    for (problem, code, message) in [
        (Problem::invalid(vec![FieldError::new("webhook.url", "is required")]), "VALIDATION_ERROR", "Validation error"),
        (problem(400, "malformed"), "VALIDATION_ERROR", "Validation error"),
        (Problem::unauthorized(), "AUTHENTICATION_ERROR", "No authorization token was found"),
        (Problem::not_found("subscription", "x"), "NOT_FOUND", "Not found"),
        (problem(409, "duplicated"), "DUPLICATED", "Entity already exists"),
        (problem(500, "internal"), "INTERNAL_ERROR", "Internal error"),
        (problem(503, "unavailable"), "INTERNAL_ERROR", "Internal error"),
    ] {
        let body = serde_json::to_value(ErrorBody::of(&problem)).expect("JSON");
        assert_eq!((&body["code"], &body["message"]), (&json!(code), &json!(message)), "{body}");
        for detail in body["details"].as_array().expect("why") {
            assert!(detail["code"].is_string() && detail["message"].is_string(), "{body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_channel_and_each_version_can_be_asked_for() {
    let api = Api::start().await;
    // The last one is not in the list: it is open.
    for channel in ["sms", "whatsapp", "facebook", "rcs", "instagram", "telegram", "gbm", "email", "voice", "signal"] {
        for (version, format) in [("v1", Format::ZenviaV1), ("v2", Format::Zenvia)] {
            let mut new = message("https://example.com/", channel);
            new["version"] = json!(version);
            let created = create(&api, new).await;
            assert_eq!((&created["criteria"]["channel"], &created["version"]), (&json!(channel), &json!(version)), "{created}");
            assert_eq!(endpoint(&api, &created).format, format);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn oauth_has_its_defaults_and_takes_text_numbers_and_booleans() {
    let api = Api::start().await;
    let url = "https://idp.example.com/oauth/token";
    let cases = [
        (json!({ "url": url, "oauth": { "clientId": "c", "clientSecret": "s" } }), json!({ "clientId": "c", "clientSecret": "s" })),
        (
            json!({ "type": "OAUTH", "url": url, "headers": { "X-Text": "t", "X-Number": 1.5, "X-Boolean": true }, "queryParams": { "n": 7, "b": false },
                "oauth": { "grantType": "client_credentials", "clientId": "c", "clientSecret": "s", "refreshToken": "r", "expiresIn": 3600 } }),
            json!({ "headers": { "x-text": "t", "x-number": "1.5", "x-boolean": "true" }, "queryParams": { "n": "7", "b": "false" },
                "clientId": "c", "clientSecret": "s", "refreshToken": "r", "expiresIn": 3600 }),
        ),
        // A number, not only a whole one.
        (
            json!({ "url": url, "oauth": { "clientId": "c", "clientSecret": "s", "expiresIn": 3600.9 } }),
            json!({ "clientId": "c", "clientSecret": "s", "expiresIn": 3600 }),
        ),
    ];
    for (n, (auth, mut expected)) in cases.into_iter().enumerate() {
        let mut new = message("https://example.com/", &format!("channel-{n}"));
        new["webhook"]["auth"] = auth.clone();
        let created = create(&api, new).await;
        let shown = &created["webhook"]["auth"];
        assert_eq!((&shown["type"], &shown["oauth"]["grantType"]), (&json!("OAUTH"), &json!("client_credentials")), "{created}");
        let kept = EndpointSpec::of(&endpoint(&api, &created)).auth.expect("OAuth2");
        let mut kept = serde_json::to_value(kept).expect("JSON");
        kept.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
        expected["type"] = json!("oauth2");
        expected["url"] = json!(url);
        assert_eq!(kept, expected, "{auth}");
    }
}
