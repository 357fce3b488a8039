//! `posthaste endpoint get`: all that is known of one.

use std::io::Write;

use clap::Args;
use http::Method;
use serde_json::Value;

use super::path;
use crate::cli::{
    client::{Client, Daemon},
    harmless,
    listing::cell,
};

/// Show all of an endpoint, but for its secrets: they are shown once, when they are made.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  posthaste endpoint get orders\n  posthaste endpoint get orders --json | jq .health")]
pub struct Get {
    /// As `list` shows it.
    id: String,
    /// Print the API's JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: Daemon,
}

pub async fn run(arguments: &Get, out: &mut dyn Write) -> anyhow::Result<()> {
    let endpoint = Client::new(&arguments.daemon)?.expect(Method::GET, &path(&arguments.id, ""), None).await?;
    match arguments.json {
        true => Ok(writeln!(out, "{endpoint:#}")?),
        false => Ok(out.write_all(listing(&endpoint).as_bytes())?),
    }
}

/// A line for each field that says something, one of an inner document under its whole path; what it is comes first.
fn listing(endpoint: &Value) -> String {
    const FIRST: [&str; 5] = ["id", "tenant", "url", "status", "health.state"];
    let mut fields = Vec::new();
    flatten("", endpoint, &mut fields);
    fields.sort_by_key(|(name, _)| FIRST.iter().position(|first| first == name).unwrap_or(FIRST.len()));
    let width = fields.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    fields.iter().map(|(name, value)| format!("{:width$}  {}\n", harmless(name), harmless(value))).collect()
}

fn flatten(path: &str, value: &Value, fields: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::Object(members) => {
            for (name, value) in members {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(&path, value, fields);
            }
        }
        Value::Array(items) if items.is_empty() => {}
        Value::Array(items) => fields.push((path.to_owned(), items.iter().map(|item| cell("", item)).collect::<Vec<_>>().join(", "))),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => fields.push((path.to_owned(), cell(path, value))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_field_that_says_something_has_its_line() {
        let endpoint = json!({
            "auth": { "type": "bearer", "configured": true }, "channels": [], "createdAt": "2026-01-31T12:00:00.123Z", "filter": null,
            "health": { "state": "active", "score": 0 }, "headers": { "X-A": "b\u{1b}" }, "id": "orders", "types": ["a.*", "b"], "url": "http://a/",
        });
        assert_eq!(
            listing(&endpoint),
            "id               orders\n\
             url              http://a/\n\
             health.state     active\n\
             auth.configured  true\n\
             auth.type        bearer\n\
             createdAt        2026-01-31T12:00:00Z\n\
             headers.X-A      b\\u{1b}\n\
             health.score     0\n\
             types            a.*, b\n"
        );
    }
}
