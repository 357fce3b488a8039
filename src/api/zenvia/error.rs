//! The error body of Zenvia Customer Cloud (WIRE.md 1.1).
//!
//! Its table names five codes. Where it has none (403, 405, 408, 413, 429), the code is the status in words; 503 is the one that a client may
//! repeat, `INTERNAL_ERROR`, like 500. 422 of our own checks is 400 here.

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{api::error::Problem, model::FieldError};

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ZenviaError)]
pub struct ErrorBody {
    /// `VALIDATION_ERROR` (400), `AUTHENTICATION_ERROR` (401), `NOT_FOUND` (404), `DUPLICATED` (409), `INTERNAL_ERROR` (500, 503), or the status in words.
    #[schema(example = "VALIDATION_ERROR")]
    code: &'static str,
    #[schema(example = "Validation error")]
    message: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<Detail>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ZenviaErrorDetail)]
pub struct Detail {
    #[schema(example = "required")]
    code: &'static str,
    /// The field; absent when it is about the whole request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "webhook.url")]
    path: Option<String>,
    #[schema(example = "webhook.url is required")]
    message: String,
}

impl ErrorBody {
    pub fn of(problem: &Problem) -> ErrorBody {
        let (code, message) = match problem.status() {
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => ("VALIDATION_ERROR", "Validation error"),
            StatusCode::UNAUTHORIZED => ("AUTHENTICATION_ERROR", "No authorization token was found"),
            StatusCode::FORBIDDEN => ("FORBIDDEN", "Forbidden"),
            StatusCode::NOT_FOUND => ("NOT_FOUND", "Not found"),
            StatusCode::METHOD_NOT_ALLOWED => ("METHOD_NOT_ALLOWED", "Method not allowed"),
            StatusCode::REQUEST_TIMEOUT => ("REQUEST_TIMEOUT", "Request timeout"),
            StatusCode::CONFLICT if problem.code() == "duplicated" => ("DUPLICATED", "Entity already exists"),
            StatusCode::CONFLICT => ("CONFLICT", "Conflict"),
            StatusCode::PAYLOAD_TOO_LARGE => ("PAYLOAD_TOO_LARGE", "Payload too large"),
            StatusCode::TOO_MANY_REQUESTS => ("TOO_MANY_REQUESTS", "Too many requests"),
            _ => ("INTERNAL_ERROR", "Internal error"),
        };
        let details = match problem.errors() {
            [] => vec![Detail { code: problem.code(), path: None, message: problem.detail().to_owned() }],
            errors => errors.iter().map(Detail::of).collect(),
        };
        ErrorBody { code, message, details }
    }
}

impl Detail {
    fn of(FieldError { path, message }: &FieldError) -> Detail {
        let code = match message {
            message if message.starts_with("is required") => "required",
            message if message.starts_with("is unknown") => "unknown",
            _ => "invalid",
        };
        match path.as_str() {
            "." => Detail { code, path: None, message: format!("the body {message}") },
            path => Detail { code, path: Some(path.to_owned()), message: format!("{path} {message}") },
        }
    }
}
