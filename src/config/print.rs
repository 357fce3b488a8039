//! The configuration in force, for people: defaults included, secrets masked.

use toml::{Table, Value};
use url::Url;

use super::MANUAL;

const MASK: &str = "********";

/// Keys whose value is a secret wherever they are.
const SECRETS: &[&str] = &["admin_token", "key", "secret", "secrets", "password", "token", "value"];

/// Parts of the names of librdkafka properties that hold secrets.
const SECRET_PROPERTIES: &[&str] = &["password", "secret", "key.pem", "jaas", "token"];

pub fn print(values: &Table) -> String {
    let mut all: Table = toml::from_str(MANUAL).expect("the manual is TOML: a test reads it");
    overlay(&mut all, values);
    for (name, value) in &mut all {
        mask(name, value);
    }
    toml::to_string_pretty(&all).expect("a table of plain values can be written")
}

/// Whether the value of a key must not be shown, wherever the key is.
pub fn is_secret(key: &str) -> bool {
    let key = &*key.to_ascii_lowercase();
    SECRETS.contains(&key) || SECRET_PROPERTIES.iter().any(|part| key.contains(part))
}

fn overlay(below: &mut Table, above: &Table) {
    for (key, value) in above {
        match (below.get_mut(key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above),
            _ => {
                below.insert(key.clone(), value.clone());
            }
        }
    }
}

fn mask(key: &str, value: &mut Value) {
    match value {
        Value::Table(table) => {
            for (name, value) in table {
                match key {
                    // Headers and parameters carry credentials under any name.
                    "headers" | "queryParams" => hide(value),
                    _ if is_secret(name) => hide(value),
                    _ => mask(name, value),
                }
            }
        }
        Value::Array(array) => array.iter_mut().for_each(|value| mask(key, value)),
        Value::String(text) => {
            if let Some(url) = without_password(text) {
                *text = url;
            }
        }
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {}
    }
}

/// Hides a value, but not that there is one.
fn hide(value: &mut Value) {
    match value {
        Value::String(text) if text.is_empty() => {}
        Value::Array(array) => array.iter_mut().for_each(hide),
        other => *other = Value::String(MASK.to_owned()),
    }
}

/// The URL with its password masked, if it has one.
fn without_password(text: &str) -> Option<String> {
    let mut url = Url::parse(text).ok()?;
    url.password()?;
    url.set_password(Some(MASK)).ok()?;
    Some(url.into())
}
