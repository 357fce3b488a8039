//! The shape of errors: that of the product whose path was called, also where no route was found or a request is refused before its route.
//!
//! Everything that fails answers a [`Problem`], which leaves itself in the extensions of its response. Here, outside of all routes, the response
//! of a path that belongs to a product gets that product's error body in its place. So extractors, handlers and fallbacks need not know whose
//! path they serve, and none can be forgotten.

use std::sync::Arc;

use axum::{
    Json,
    extract::Request,
    http::{HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{conversion, error::Problem, zenvia};

pub async fn apply(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let render: fn(&Problem) -> Response = if is_below(path, zenvia::PREFIX) {
        |problem| Json(zenvia::ErrorBody::of(problem)).into_response()
    } else if conversion::PREFIXES.iter().any(|prefix| is_below(path, prefix)) {
        |problem| Json(conversion::ErrorBody::of(problem)).into_response()
    } else {
        return next.run(request).await;
    };
    let mut response = next.run(request).await;
    let Some(problem) = response.extensions_mut().remove::<Arc<Problem>>() else { return response };
    // The status, and headers such as `Retry-After` and `WWW-Authenticate`, stay.
    let status = match problem.status() {
        axum::http::StatusCode::UNPROCESSABLE_ENTITY => axum::http::StatusCode::BAD_REQUEST,
        status => status,
    };
    *response.status_mut() = status;
    *response.body_mut() = render(&problem).into_body();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
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
