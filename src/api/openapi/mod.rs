//! The description of the API (OpenAPI 3.1), from the routes' own declarations.
//!
//! A declaration says what is its route's own. What holds for many comes from here: who may call ([`describe`]), what is refused before any handler
//! and what errors look like ([`responses`]), documents that no type stands for ([`schemas`]). The whole is kept as `docs/openapi.json`, so that a change
//! of the API is seen in review; a test compares.

mod responses;
mod schemas;

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use serde_json::Value;
use utoipa::openapi::{
    Components, OpenApi,
    info::InfoBuilder,
    security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};

const DESCRIPTION: &str = "Events in, signed webhooks out. Every request needs a token, as `Authorization: Bearer …` or `X-API-TOKEN: …`; \
     errors are problem documents (RFC 9457), and below the paths of a product they have its shape.";

/// The whole document, as it is answered and printed: what the routes' declarations say, with what none of them does.
pub fn text(declared: OpenApi) -> String {
    let mut document = serde_json::to_value(describe(declared)).expect("a plain document is always JSON");
    schemas::complete(&mut document);
    responses::complete(&mut document);
    serde_json::to_string_pretty::<Value>(&document).expect("a plain document is always JSON") + "\n"
}

/// Adds what no route says: title, version, how to authenticate.
fn describe(declared: OpenApi) -> OpenApi {
    let mut document = declared;
    document.info = InfoBuilder::new().title("posthaste").version(env!("CARGO_PKG_VERSION")).description(Some(DESCRIPTION)).build();
    let components = document.components.get_or_insert_with(Components::new);
    components.add_security_scheme("bearer", SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build()));
    components.add_security_scheme("token", SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-TOKEN"))));
    // What a request with a signature token carries beside the token (WIRE.md 1.2), and where Conversion's older paths take the token.
    let signature = ApiKeyValue::with_description(
        "X-API-Signature",
        "Beside the key of a signature token, with a `Date`: base64 of the HMAC-SHA256, by the secret of the token, of six lines joined by line \
         feeds: method, MD5 of the body in lower-case hexadecimal (empty without a body), `Content-Type` (empty without a body), `Date`, host, \
         path with query. The date may be 3 minutes old and 5 s ahead.",
    );
    components.add_security_scheme("signature", SecurityScheme::ApiKey(ApiKey::Header(signature)));
    components.add_security_scheme("api-key", SecurityScheme::ApiKey(ApiKey::Query(ApiKeyValue::new("api-key"))));
    let none: [&str; 0] = [];
    document.security = Some(vec![
        SecurityRequirement::new("bearer", none),
        SecurityRequirement::new("token", none),
        SecurityRequirement::new("token", none).add("signature", none),
    ]);
    document
}

pub fn answer(document: &str) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document.to_owned()).into_response()
}
