//! The shape of errors: that of the product whose path was called, also where no route was found or a request is refused before its route.
//!
//! Everything that fails answers a [`Problem`], which leaves itself in the extensions of its response. Here, outside of all routes, the response
//! of a path that belongs to a product gets that product's error body in its place. So extractors, handlers and fallbacks need not know whose
//! path they serve, and none can be forgotten.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::Response,
};

use serde::Serialize;

use super::{conversion, error::Problem, hub, zenvia};

pub async fn apply(request: Request, next: Next) -> Response {
    let uri = request.uri().clone();
    let mut response = next.run(request).await;
    let Some(problem) = response.extensions_mut().remove::<Arc<Problem>>() else { return response };
    let Some((status, body)) = shaped(uri.path(), &problem) else { return response };
    // Headers such as `Retry-After` and `WWW-Authenticate` stay.
    *response.status_mut() = status;
    *response.body_mut() = Body::from(body);
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Status and body (JSON text, its members in the order of the product) of an error at a path of a product; none for the native ones.
pub fn shaped(path: &str, problem: &Problem) -> Option<(StatusCode, String)> {
    // Both of Zenvia's say 400 of a field that is wrong.
    let status = match problem.status() {
        StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
        status => status,
    };
    if is_below(path, zenvia::PREFIX) {
        Some((status, text(&zenvia::ErrorBody::of(problem))))
    } else if conversion::PREFIXES.iter().any(|prefix| is_below(path, prefix)) {
        Some((status, text(&conversion::ErrorBody::of(problem))))
    } else {
        hub::shaped(path, problem).map(|(status, body)| (status, text(&body)))
    }
}

fn text(body: &impl Serialize) -> String {
    serde_json::to_string(body).expect("plain data is always JSON")
}

/// Whether a path is `prefix` or lies below it.
pub fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_where_a_segment_does() {
        for (path, prefix, expected) in [
            ("/v2", "/v2", true),
            ("/v2/x", "/v2", true),
            ("/v22", "/v2", false),
            ("/v1/subscriptions", "/v1/subscriptions", true),
            ("/v1/subscriptionsx", "/v1/subscriptions", false),
        ] {
            assert_eq!(is_below(path, prefix), expected, "{path} {prefix}");
        }
    }
}
