//! What is wrong with a document that somebody handed in.

use serde::Serialize;
use utoipa::ToSchema;

/// What is wrong with one member of a document, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, thiserror::Error)]
#[error("`{path}` {message}")]
pub struct FieldError {
    /// As it is written: `url`, `channels[3]`, `auth.token`; `.` is the whole document.
    pub path: String,
    pub message: String,
}

impl FieldError {
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> FieldError {
        FieldError { path: path.into(), message: message.into() }
    }

    /// The same of a document that is a member of another one, or an element of a list: `event`, `[3]`.
    pub fn within(self, outer: &str) -> FieldError {
        let path = if self.path == "." { outer.to_owned() } else { format!("{outer}.{}", self.path) };
        FieldError { path, ..self }
    }
}
