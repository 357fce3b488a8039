//! What every `list` does: ask for the pages, then print them as JSON or as a table.

use std::io::Write;

use clap::Args;
use serde_json::Value;

use super::{
    client::{Client, Daemon},
    table::table,
};

/// What can be said of a list of things that belong to tenants.
#[derive(Debug, Args)]
pub struct Listing {
    /// Only those of this tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
    /// Print the API's JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: Daemon,
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

/// The fields as they are; `-` for what is not there.
pub fn cells<const N: usize>(item: &Value, fields: [&str; N]) -> [String; N] {
    fields.map(|field| match &item[field] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    })
}
