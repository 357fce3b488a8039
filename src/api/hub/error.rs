//! Errors as the two families of routes write them (WIRE.md 4.1); they are not alike.
//!
//! | family | body |
//! |---|---|
//! | channel | `{"error": 422, "message": "…"}` |
//! | template | `{"error": "…"}` |
//!
//! Neither has room for a list of fields, so all that is wrong stands in the text, each with its path. A field that is wrong is a 400 here, where the
//! native API says 422: the product keeps that for the role and for events of the other family.

use std::borrow::Borrow;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::{
    api::{error::Problem, shape::is_below},
    model::FieldError,
};

/// Which routes were called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Channel,
    Template,
}

impl Family {
    /// That of a path, whether there is a route for it or not.
    pub fn of(path: &str) -> Option<Family> {
        if is_below(path, "/v1/channels") {
            Some(Family::Channel)
        } else if is_below(path, "/v1/webhooks") {
            Some(Family::Template)
        } else {
            None
        }
    }
}

/// Why a request was not done; nothing was changed.
#[derive(Debug)]
pub struct Error {
    family: Family,
    status: StatusCode,
    message: String,
    retry_after: Option<u32>,
}

/// An error of the channel routes.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HubChannelError)]
pub struct ChannelError {
    /// The status.
    #[schema(example = 422)]
    error: u16,
    #[schema(example = "This action requires ENTERPRISE role")]
    message: String,
}

/// An error of the template routes.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HubTemplateError)]
pub struct TemplateError {
    #[schema(example = "Global webhooks (without instance) accept only template events")]
    error: String,
}

impl Error {
    pub fn new(family: Family, status: StatusCode, message: impl Into<String>) -> Error {
        Error { family, status, message: message.into(), retry_after: None }
    }

    /// What another part of the API refused, as this family says it.
    pub fn of(family: Family, problem: impl Borrow<Problem>) -> Error {
        let problem = problem.borrow();
        let retry_after = problem.retry_after();
        if is_invalid(problem) {
            return Error::wrong(family, problem.errors());
        }
        Error { retry_after, ..Error::new(family, problem.status(), problem.detail()) }
    }

    /// 400: all the fields that are wrong.
    pub fn wrong(family: Family, errors: &[FieldError]) -> Error {
        let told: Vec<String> = errors.iter().map(|error| format!("{} {}", error.path, error.message)).collect();
        Error::new(family, StatusCode::BAD_REQUEST, told.join("; "))
    }

    pub fn not_found(family: Family) -> Error {
        Error::new(family, StatusCode::NOT_FOUND, "Webhook not found")
    }

    pub fn needs_enterprise(family: Family) -> Error {
        Error::new(family, StatusCode::UNPROCESSABLE_ENTITY, "This action requires ENTERPRISE role")
    }

    /// Events of the other family were asked for.
    pub fn crossing(family: Family) -> Error {
        let message = match family {
            Family::Channel => "Channel webhooks accept only channel events; template events belong to /v1/webhooks",
            Family::Template => "Global webhooks (without instance) accept only template events",
        };
        Error::new(family, StatusCode::UNPROCESSABLE_ENTITY, message)
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn body(&self) -> Value {
        let message = self.message.clone();
        match self.family {
            Family::Channel => json!(ChannelError { error: self.status.as_u16(), message }),
            Family::Template => json!(TemplateError { error: message }),
        }
    }

    /// As a change words what is wrong with it.
    pub fn in_change(self) -> Error {
        let is_field = self.status == StatusCode::BAD_REQUEST;
        let message = if is_field { format!("Validation error: {}", self.message) } else { self.message };
        Error { message, ..self }
    }
}

/// It could be read, and its fields are wrong.
pub fn is_invalid(problem: &Problem) -> bool {
    problem.code() == "invalid"
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
