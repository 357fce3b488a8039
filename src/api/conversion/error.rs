//! The error body of Zenvia Conversion: `{code, message, summary}` (WIRE.md 2.2). Which codes there are is not known; these are those of Zenvia
//! Customer Cloud. The message names every field that is wrong.

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::error::Problem;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ConversionError)]
pub struct ErrorBody {
    #[schema(example = "VALIDATION_ERROR")]
    code: &'static str,
    #[schema(example = "callbackUrl is required")]
    message: String,
    #[schema(example = "Bad Request")]
    summary: &'static str,
}

impl ErrorBody {
    pub fn of(problem: &Problem) -> ErrorBody {
        let status = problem.status();
        let code = match status {
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => "VALIDATION_ERROR",
            StatusCode::UNAUTHORIZED => "AUTHENTICATION_ERROR",
            StatusCode::FORBIDDEN => "FORBIDDEN",
            StatusCode::NOT_FOUND => "NOT_FOUND",
            StatusCode::METHOD_NOT_ALLOWED => "METHOD_NOT_ALLOWED",
            StatusCode::REQUEST_TIMEOUT => "REQUEST_TIMEOUT",
            StatusCode::CONFLICT => "CONFLICT",
            StatusCode::PAYLOAD_TOO_LARGE => "PAYLOAD_TOO_LARGE",
            StatusCode::TOO_MANY_REQUESTS => "TOO_MANY_REQUESTS",
            _ => "INTERNAL_ERROR",
        };
        let fields: Vec<String> = problem
            .errors()
            .iter()
            .map(|error| match error.path.as_str() {
                "." => format!("the body {}", error.message),
                path => format!("{path} {}", error.message),
            })
            .collect();
        let message = if fields.is_empty() { problem.detail().to_owned() } else { fields.join("; ") };
        let summary = match status {
            StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
            status => status,
        };
        ErrorBody { code, message, summary: summary.canonical_reason().unwrap_or("Error") }
    }
}
