//! Errors of the native API: `application/problem+json` (RFC 9457), always, also for what no route was found for.

use std::sync::Arc;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{log::LogError, model::FieldError, registry::WriteError};

/// Why a request was not done. Nothing was stored unless `accepted` says so.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Always `about:blank`: the status says what kind it is, `code` which one.
    #[serde(rename = "type")]
    kind: Kind,
    #[schema(example = "Unprocessable Entity")]
    title: &'static str,
    #[serde(serialize_with = "status")]
    #[schema(value_type = u16, example = 422)]
    status: StatusCode,
    /// For programs.
    #[schema(example = "invalid")]
    code: &'static str,
    /// For people: the thing and the cure.
    detail: String,
    /// The fields that are wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    /// Of several events, those that were stored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    accepted: Vec<super::native::events::Accepted>,
    /// Seconds.
    #[serde(skip)]
    retry_after: Option<u32>,
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
enum Kind {
    #[serde(rename = "about:blank")]
    AboutBlank,
}

fn status<S: serde::Serializer>(status: &StatusCode, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u16(status.as_u16())
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Problem {
        Problem {
            kind: Kind::AboutBlank,
            title: status.canonical_reason().unwrap_or("Error"),
            status,
            code,
            detail: detail.into(),
            errors: Vec::new(),
            accepted: Vec::new(),
            retry_after: None,
        }
    }

    /// 400: the request cannot be read.
    pub fn malformed(path: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem::unreadable(vec![FieldError::new(path, message)])
    }

    /// 400, for several reasons.
    pub fn unreadable(errors: Vec<FieldError>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "malformed", told_all(&errors)).with_errors(errors)
    }

    /// 422: it can be read, and its fields are wrong.
    pub fn invalid(errors: Vec<FieldError>) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", told_all(&errors)).with_errors(errors)
    }

    pub fn unauthorized() -> Problem {
        let detail = "the request has no valid token: send one as `Authorization: Bearer …` or `X-API-TOKEN: …`";
        Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
    }

    /// 401: the key is good, and what belongs to a signature is not.
    pub fn unsigned(error: FieldError) -> Problem {
        Problem { errors: vec![error.clone()], ..Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", told(&error)) }
    }

    /// 409: as many as there may be are there already.
    pub fn duplicated(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::CONFLICT, "duplicated", detail)
    }

    pub fn forbidden(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    pub fn not_found(what: &str, id: &str) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {what} `{id}`"))
    }

    pub fn conflict(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::CONFLICT, "conflict", detail)
    }

    pub fn too_large(path: impl Into<String>, message: impl Into<String>) -> Problem {
        let error = FieldError::new(path, message);
        Problem { errors: vec![error.clone()], ..Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", told(&error)) }
    }

    /// 503: trying again later may help.
    pub fn unavailable(detail: impl Into<String>) -> Problem {
        Problem { retry_after: Some(1), ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail) }
    }

    /// 429, to be tried again after so many seconds.
    pub fn too_many(detail: impl Into<String>, seconds: u32) -> Problem {
        Problem { retry_after: Some(seconds), ..Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many", detail) }
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn code(&self) -> &'static str {
        self.code
    }

    pub fn detail(&self) -> &str {
        &self.detail
    }

    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    pub fn retry_after(&self) -> Option<u32> {
        self.retry_after
    }

    /// With its fields as the document calls them in which they came.
    pub fn renamed(self, name: impl Fn(&str) -> String) -> Problem {
        if self.errors.is_empty() {
            return self;
        }
        let errors: Vec<FieldError> = self.errors.into_iter().map(|error| FieldError::new(name(&error.path), error.message)).collect();
        Problem { detail: errors.iter().map(told).collect::<Vec<_>>().join("; "), errors, ..self }
    }

    pub fn with_errors(self, errors: Vec<FieldError>) -> Problem {
        Problem { errors, ..self }
    }

    pub fn with_accepted(self, accepted: Vec<super::native::events::Accepted>) -> Problem {
        Problem { accepted, ..self }
    }
}

/// A sentence to read; the list beside it has them all.
fn told_all(errors: &[FieldError]) -> String {
    const TOLD: usize = 5;
    let first = errors.iter().take(TOLD).map(told).collect::<Vec<_>>().join("; ");
    if errors.len() > TOLD { format!("{first}; and {} more in `errors`", errors.len() - TOLD) } else { first }
}

fn told(error: &FieldError) -> String {
    if error.path == "." { format!("the body {}", error.message) } else { format!("`{}` {}", error.path, error.message) }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Problem {
        match error {
            WriteError::NotFound { kind, id } => Problem::not_found(kind, &id),
            WriteError::Exists { .. } | WriteError::Declared { .. } | WriteError::Contended(_) => Problem::conflict(error.to_string()),
            WriteError::Duplicated => Problem::duplicated(error.to_string()),
            WriteError::Invalid(errors) => Problem::invalid(errors),
            WriteError::Log(error) => error.into(),
            WriteError::NotApplied => Problem::unavailable(error.to_string()),
        }
    }
}

impl From<LogError> for Problem {
    fn from(error: LogError) -> Problem {
        match error {
            LogError::Unavailable(_) | LogError::Fatal(_) => Problem::unavailable(error.to_string()),
            LogError::TooLarge { .. } => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", error.to_string()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, retry_after) = (self.status, self.retry_after);
        let mut response = (status, Json(&self)).into_response();
        // For the shape of the product whose path was called (`api::shape`).
        response.extensions_mut().insert(Arc::new(self));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
