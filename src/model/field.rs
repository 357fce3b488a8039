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
    /// Errors that are told at once: whoever makes that many makes the same one again and again.
    pub const AT_ONCE: usize = 20;

    /// The path and the message are cut where they are longer than anybody reads: they quote what came from outside.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> FieldError {
        const PATH: usize = 200;
        const MESSAGE: usize = 800;
        FieldError { path: cut(path.into(), PATH), message: cut(message.into(), MESSAGE) }
    }

    /// All of them in one line.
    pub fn joined(errors: &[FieldError]) -> String {
        errors.iter().map(FieldError::to_string).collect::<Vec<_>>().join("; ")
    }

    /// The same of a document that is a member of another one, or an element of a list: `event`, `[3]`.
    pub fn within(self, outer: &str) -> FieldError {
        let path = if self.path == "." { outer.to_owned() } else { format!("{outer}.{}", self.path) };
        FieldError { path, ..self }
    }
}

/// At most `most` bytes of a text, and a mark if that is not all of it.
pub fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push('…');
    }
    text
}
