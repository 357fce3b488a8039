//! `posthaste agent`: list, add, remove support expert agents.

use std::io::{self, Write};

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::{
    client::{Client, Daemon},
    table::table,
};

/// Manage support expert agents: who watches tickets, and which endpoint hears of it.
#[derive(Debug, Subcommand)]
pub enum Command {
    List(List),
    Add(Add),
    Remove(Remove),
}

/// List the agents.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  posthaste agent list\n  posthaste agent list --json | jq -r '.[] | select(.state == \"suspended\").reason'"
)]
pub struct List {
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

/// Make an agent: when a ticket event meets the condition, the endpoint is told.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  posthaste agent add 'VIP tickets' --endpoint crm --condition 'event.type == \"ticket.opened\" && event.data.ticket.vip'"
)]
pub struct Add {
    name: String,
    /// The id of the endpoint that is told.
    #[arg(long)]
    endpoint: String,
    /// A CEL expression over the ticket event.
    #[arg(long)]
    condition: String,
    /// What the agent is called elsewhere.
    #[arg(long)]
    external_id: Option<String>,
    /// Absent: that of the token.
    #[arg(long)]
    tenant: Option<String>,
    /// Print the API's JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: Daemon,
}

/// Remove an agent.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  posthaste agent remove ag_0198c1f0a7c87d1bb5d4c3b2a1f0e9d8")]
pub struct Remove {
    id: String,
    #[command(flatten)]
    daemon: Daemon,
}

pub async fn run(command: Command) -> anyhow::Result<()> {
    let mut out = io::stdout();
    match command {
        Command::List(arguments) => {
            let query: Vec<(&str, String)> = arguments.tenant.iter().map(|tenant| ("tenant", tenant.clone())).collect();
            let agents = Client::new(&arguments.daemon)?.list("/v1/agents", &query, arguments.limit).await?;
            if arguments.json {
                return Ok(writeln!(out, "{:#}", Value::Array(agents))?);
            }
            let row = |agent: &Value| {
                ["id", "tenant", "state", "endpoint", "name", "condition"].map(|field| agent[field].as_str().unwrap_or("-").to_owned())
            };
            let rows: Vec<[String; 6]> = agents.iter().map(row).collect();
            Ok(out.write_all(table(["ID", "TENANT", "STATE", "ENDPOINT", "NAME", "CONDITION"], &rows).as_bytes())?)
        }
        Command::Add(arguments) => {
            let made = Client::new(&arguments.daemon)?.expect(Method::POST, "/v1/agents", Some(document(&arguments))).await?;
            if arguments.json {
                return Ok(writeln!(out, "{made:#}")?);
            }
            Ok(writeln!(out, "id      {}", made["id"].as_str().unwrap_or("-"))?)
        }
        Command::Remove(arguments) => {
            let id: String = url::form_urlencoded::byte_serialize(arguments.id.as_bytes()).collect();
            let path = format!("/v1/agents/{}", id.replace('+', "%20"));
            Client::new(&arguments.daemon)?.expect(Method::DELETE, &path, None).await?;
            Ok(writeln!(out, "removed {}", arguments.id)?)
        }
    }
}

/// What `POST /v1/agents` takes: only what was given.
fn document(arguments: &Add) -> Value {
    let given = [("name", &arguments.name), ("endpoint", &arguments.endpoint), ("condition", &arguments.condition)];
    let mut document = Map::from_iter(given.map(|(field, value)| (field.to_owned(), json!(value))));
    for (field, value) in [("externalId", &arguments.external_id), ("tenant", &arguments.tenant)] {
        if let Some(value) = value {
            document.insert(field.to_owned(), json!(value));
        }
    }
    Value::Object(document)
}
