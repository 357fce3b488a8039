//! Values of an evaluation. What comes from the event is borrowed; what is made is shared, so that a copy of a value costs a reference count.

use std::{cmp::Ordering, rc::Rc};

use jiff::SignedDuration;
use serde_json::Value as Json;

use crate::model::Timestamp;

#[derive(Debug, Clone)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(&'a str),
    MadeText(Rc<str>),
    Items(&'a [Json]),
    MadeItems(Rc<Vec<Value<'a>>>),
    Members(&'a serde_json::Map<String, Json>),
    /// In the order in which they were written.
    MadeMembers(Rc<Vec<(Value<'a>, Value<'a>)>>),
    Time(Timestamp),
    Duration(SignedDuration),
}

impl<'a> Value<'a> {
    pub fn of(json: &'a Json) -> Value<'a> {
        match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match number.as_i64() {
                Some(value) => Value::Int(value),
                None => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::Text(text),
            Json::Array(items) => Value::Items(items),
            Json::Object(members) => Value::Members(members),
        }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a bool",
            Value::Int(_) => "an int",
            Value::Double(_) => "a double",
            Value::Text(_) | Value::MadeText(_) => "a text",
            Value::Items(_) | Value::MadeItems(_) => "a list",
            Value::Members(_) | Value::MadeMembers(_) => "a map",
            Value::Time(_) => "a timestamp",
            Value::Duration(_) => "a duration",
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            Value::MadeText(text) => Some(text),
            _ => None,
        }
    }

    pub fn number(&self) -> Option<f64> {
        match self {
            Value::Int(value) => Some(*value as f64),
            Value::Double(value) => Some(*value),
            _ => None,
        }
    }

    /// How many items a list has, and the one at a place.
    pub fn items(&self) -> Option<usize> {
        match self {
            Value::Items(items) => Some(items.len()),
            Value::MadeItems(items) => Some(items.len()),
            _ => None,
        }
    }

    pub fn item(&self, at: usize) -> Option<Value<'a>> {
        match self {
            Value::Items(items) => items.get(at).map(Value::of),
            Value::MadeItems(items) => items.get(at).cloned(),
            _ => None,
        }
    }

    /// The member of a map by a text; none if there is no such member, or this is no map.
    pub fn member(&self, name: &str) -> Option<Value<'a>> {
        match self {
            Value::Members(members) => members.get(name).map(Value::of),
            Value::MadeMembers(members) => members.iter().find(|(key, _)| key.text() == Some(name)).map(|(_, value)| value.clone()),
            _ => None,
        }
    }

    pub fn members(&self) -> Option<usize> {
        match self {
            Value::Members(members) => Some(members.len()),
            Value::MadeMembers(members) => Some(members.len()),
            _ => None,
        }
    }

    /// What a loop goes over: the items of a list, the keys of a map.
    pub fn rounds(&self) -> Option<Vec<Value<'a>>> {
        match self {
            Value::Items(items) => Some(items.iter().map(Value::of).collect()),
            Value::MadeItems(items) => Some(items.to_vec()),
            Value::Members(members) => Some(members.keys().map(|key| Value::Text(key)).collect()),
            Value::MadeMembers(members) => Some(members.iter().map(|(key, _)| key.clone()).collect()),
            _ => None,
        }
    }

    /// What looking at all of it costs, in steps. Texts are cheap to compare.
    pub fn breadth(&self) -> u32 {
        let count = match self {
            Value::Text(_) | Value::MadeText(_) => self.text().map_or(0, str::len) / 64,
            _ => self.items().or(self.members()).unwrap_or(0),
        };
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// The order of two values of which one can be before the other.
    pub fn compare(&self, other: &Value) -> Option<Ordering> {
        match (self, other) {
            (Value::Int(one), Value::Int(other)) => Some(one.cmp(other)),
            (Value::Bool(one), Value::Bool(other)) => Some(one.cmp(other)),
            (Value::Time(one), Value::Time(other)) => Some(one.cmp(other)),
            (Value::Duration(one), Value::Duration(other)) => Some(one.cmp(other)),
            _ => match (self.number(), other.number()) {
                (Some(one), Some(other)) => one.partial_cmp(&other),
                _ => Some(self.text()?.cmp(other.text()?)),
            },
        }
    }
}
