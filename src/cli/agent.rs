//! `posthaste agent`: list, add, remove support expert agents.

use std::io::{self, Write};

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::{
    client::{Client, Daemon},
    listing::{Listing, cells},
};

/// Manage support expert agents: who watches tickets, and which endpoint hears of it.
#[derive(Debug, Subcommand)]
pub enum Command {
    List(List),
    Add(Add),
    #[command(visible_alias = "delete")]
    Remove(Remove),
}

/// List the agents.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  posthaste agent list\n  posthaste agent list --json | jq -r '.[] | select(.state == \"suspended\").reason'"
)]
pub struct List {
    #[command(flatten)]
    listing: Listing,
}

/// Make an agent: when a ticket event meets the condition, the endpoint is told.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  posthaste agent add 'VIP tickets' --endpoint crm --condition 'event.type == \"ticket.opened\" && event.data.ticket.vip'"
)]
pub struct Add {
    /// For people.
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
    /// As `list` shows it.
    id: String,
    #[command(flatten)]
    daemon: Daemon,
}

pub async fn run(command: Command) -> anyhow::Result<()> {
    let mut out = io::stdout();
    match command {
        Command::List(arguments) => {
            let heads = ["ID", "TENANT", "STATE", "ENDPOINT", "NAME", "CONDITION"];
            let row = |agent: &Value| cells(agent, ["id", "tenant", "state", "endpoint", "name", "condition"]);
            arguments.listing.print("/v1/agents", heads, row, &mut out).await
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
