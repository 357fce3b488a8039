//! Reading documents of products member by member, noting everything that is wrong with its path instead of stopping at the first mistake.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::model::FieldError;

/// What is wrong so far.
#[derive(Default)]
pub struct Reader {
    pub errors: Vec<FieldError>,
}

impl Reader {
    pub fn wrong(&mut self, path: &str, message: impl Into<String>) {
        self.errors.push(FieldError::new(path, message));
    }

    /// Refuses members of other names. `path` is that of the object, empty for the document.
    pub fn only(&mut self, path: &str, object: &Map<String, Value>, known: &[&str]) {
        for name in object.keys().filter(|name| !known.contains(&name.as_str())) {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            self.wrong(&path, format!("is unknown; known are {}", list(known)));
        }
    }

    pub fn object<'a>(&mut self, path: &str, value: Option<&'a Value>) -> Option<&'a Map<String, Value>> {
        match value {
            None | Some(Value::Null) => None,
            Some(Value::Object(object)) => Some(object),
            Some(_) => {
                self.wrong(path, "must be an object");
                None
            }
        }
    }

    pub fn text<'a>(&mut self, path: &str, value: Option<&'a Value>) -> Option<&'a str> {
        match value {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text),
            Some(_) => {
                self.wrong(path, "must be text");
                None
            }
        }
    }

    /// A text of at least one character.
    pub fn required_text<'a>(&mut self, path: &str, value: Option<&'a Value>) -> Option<&'a str> {
        let text = match value {
            None | Some(Value::Null) => "",
            value => self.text(path, value)?,
        };
        if text.is_empty() {
            self.wrong(path, "is required");
            return None;
        }
        Some(text)
    }

    /// One of a closed set of words.
    pub fn word<T: Copy>(&mut self, path: &str, value: Option<&Value>, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(path, value)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.wrong(path, format!("is `{text}`: it must be one of {}", list(&words)));
        }
        found
    }

    /// A flat object whose values are text, numbers or booleans, as text.
    pub fn pairs(&mut self, path: &str, value: Option<&Value>) -> BTreeMap<String, String> {
        let mut pairs = BTreeMap::new();
        for (name, value) in self.object(path, value).into_iter().flatten() {
            match value {
                Value::String(text) => drop(pairs.insert(name.clone(), text.clone())),
                Value::Number(_) | Value::Bool(_) => drop(pairs.insert(name.clone(), value.to_string())),
                Value::Null | Value::Array(_) | Value::Object(_) => {
                    self.wrong(&format!("{path}.{name}"), "must be text, a number or a boolean");
                }
            }
        }
        pairs
    }
}

fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
