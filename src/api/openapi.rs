//! The description of the API (OpenAPI 3.1), from the routes' own declarations.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use utoipa::openapi::{
    Components, OpenApi,
    info::InfoBuilder,
    security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};
use utoipa_axum::router::OpenApiRouter;

use super::Context;

const DESCRIPTION: &str = "Events in, signed webhooks out. Every request needs a token, as `Authorization: Bearer …` or `X-API-TOKEN: …`; \
     errors are problem documents (RFC 9457).";

/// Adds what no route says: title, version, how to authenticate.
pub fn describe(routes: OpenApiRouter<Context>) -> OpenApiRouter<Context> {
    let mut routes = routes;
    let document: &mut OpenApi = routes.get_openapi_mut();
    document.info = InfoBuilder::new().title("posthaste").version(env!("CARGO_PKG_VERSION")).description(Some(DESCRIPTION)).build();
    let components = document.components.get_or_insert_with(Components::new);
    components.add_security_scheme("bearer", SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build()));
    components.add_security_scheme("token", SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-TOKEN"))));
    let none: [&str; 0] = [];
    document.security = Some(vec![SecurityRequirement::new("bearer", none), SecurityRequirement::new("token", none)]);
    routes
}

pub fn answer(document: &str) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document.to_owned()).into_response()
}
