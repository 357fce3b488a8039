//! What every `list` does: ask for the pages, then print them as JSON or as a table.

use std::io::Write;

use clap::Args;
use serde_json::Value;

use super::{
    client::{Client, Daemon},
    table::table,
};
use crate::model::Timestamp;

/// What can be said of a list of things that belong to tenants.
#[derive(Debug, Args)]
pub struct Listing {
    /// Only those of this tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 1_000, value_parser = limit)]
    limit: usize,
    /// Print the API's JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: Daemon,
}

/// How many items are wanted at most: of any number, since a list comes in pages.
pub fn limit(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|limit| *limit > 0).ok_or_else(|| "write a whole number from 1 on".to_owned())
}

impl Listing {
    pub async fn print<const N: usize>(
        &self,
        path: &str,
        heads: [&str; N],
        row: impl Fn(&Value) -> [String; N],
        out: &mut dyn Write,
    ) -> anyhow::Result<()> {
        let query: Vec<(&str, String)> = self.tenant.iter().map(|tenant| ("tenant", tenant.clone())).collect();
        let items = Client::new(&self.daemon)?.list(path, &query, self.limit).await?;
        print(items, self.json, heads, row, out)
    }
}

pub fn print<const N: usize>(
    items: Vec<Value>,
    as_json: bool,
    heads: [&str; N],
    row: impl Fn(&Value) -> [String; N],
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    if as_json {
        return Ok(writeln!(out, "{:#}", Value::Array(items))?);
    }
    let rows: Vec<[String; N]> = items.iter().map(row).collect();
    Ok(out.write_all(table(heads, &rows).as_bytes())?)
}

/// The fields as they are, times to the second; `-` for what is not there.
pub fn cells<const N: usize>(item: &Value, fields: [&str; N]) -> [String; N] {
    fields.map(|field| cell(field, &item[field]))
}

/// A value as a person reads it. The API calls every time `at` or `…At`, or `…since`, and gives it with nanoseconds, which only a program needs.
pub fn cell(field: &str, value: &Value) -> String {
    let is_time = field == "at" || field.ends_with("At") || field.to_ascii_lowercase().ends_with("since");
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if is_time => to_the_second(text),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn to_the_second(text: &str) -> String {
    text.parse().map_or_else(|_| text.to_owned(), |time: Timestamp| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_limit_is_above_zero() {
        assert_eq!(limit("5000"), Ok(5_000));
        for wrong in ["0", "-1", "all"] {
            assert!(limit(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_shown_to_the_second_in_utc() {
        let item = json!({ "at": "2026-01-31T14:00:00.123456789+02:00", "lastUsedAt": null, "detail": "2026-01-31T12:00:00.5Z", "n": 1 });
        let row = cells(&item, ["at", "lastUsedAt", "detail", "n"]);
        assert_eq!(row, ["2026-01-31T12:00:00Z", "-", "2026-01-31T12:00:00.5Z", "1"]);
        assert_eq!(cell("suspendedSince", &json!("2026-01-31T12:00:00.9Z")), "2026-01-31T12:00:00Z");
    }
}
