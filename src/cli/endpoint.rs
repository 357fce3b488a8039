//! `posthaste endpoint`: everything about an endpoint, from its registration to its removal.

mod add;
mod auth;
mod get;
mod rotate;
mod test;

use std::io::{self, Write};

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::{
    client::{Client, Daemon},
    listing::Listing,
};

/// Manage the endpoints of a daemon.
#[derive(Debug, Subcommand)]
pub enum Command {
    List(List),
    Get(get::Get),
    Add(Box<add::Add>),
    Test(test::Test),
    Enable(Enable),
    Disable(Disable),
    Rotate(rotate::Rotate),
    #[command(visible_alias = "delete")]
    Remove(Remove),
}

/// List the registered endpoints with their health.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  posthaste endpoint list\n  posthaste endpoint list --json | jq -r '.[].url'")]
pub struct List {
    #[command(flatten)]
    listing: Listing,
}

/// Enable an endpoint that is disabled or was made inactive by its failures.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  posthaste endpoint enable orders             from now on\n  posthaste endpoint enable orders --recover   also what came while it was inactive"
)]
pub struct Enable {
    /// As `list` shows it.
    id: String,
    /// Also deliver what came in the meantime: its dead letters, and the events since then.
    #[arg(long)]
    recover: bool,
    #[command(flatten)]
    daemon: Daemon,
}

/// Disable an endpoint: events pass it by, and what waits for it goes to dead letters, until it is enabled.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  posthaste endpoint disable orders\n  posthaste endpoint enable orders --recover   takes it back, and delivers what came in the meantime"
)]
pub struct Disable {
    /// As `list` shows it.
    id: String,
    #[command(flatten)]
    daemon: Daemon,
}

/// Remove an endpoint. What still waits for it goes to dead letters.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  posthaste endpoint remove orders")]
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
            let heads = ["ID", "TENANT", "STATUS", "HEALTH", "TYPES", "CHANNELS", "URL"];
            arguments.listing.print("/v1/endpoints", heads, row, &mut out).await
        }
        Command::Get(arguments) => get::run(&arguments, &mut out).await,
        Command::Add(arguments) => add::run(&arguments, &mut out).await,
        Command::Test(arguments) => test::run(&arguments, &mut out).await,
        Command::Enable(arguments) => {
            let body = if arguments.recover { json!({ "recover": true }) } else { json!({}) };
            Client::new(&arguments.daemon)?.expect(Method::POST, &path(&arguments.id, "/enable"), Some(body)).await?;
            let recovering = if arguments.recover { "; what came in the meantime is delivered in the background" } else { "" };
            Ok(writeln!(out, "enabled {}{recovering}", arguments.id)?)
        }
        Command::Disable(arguments) => {
            Client::new(&arguments.daemon)?.expect(Method::POST, &path(&arguments.id, "/disable"), None).await?;
            Ok(writeln!(out, "disabled {}", arguments.id)?)
        }
        Command::Rotate(arguments) => rotate::run(&arguments, &mut out).await,
        Command::Remove(arguments) => {
            Client::new(&arguments.daemon)?.expect(Method::DELETE, &path(&arguments.id, ""), None).await?;
            Ok(writeln!(out, "removed {}", arguments.id)?)
        }
    }
}

fn row(endpoint: &Value) -> [String; 7] {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let all = |value: &Value| match value.as_array().map(Vec::as_slice) {
        None | Some([]) => "all".to_owned(),
        Some(several) => several.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
    };
    let health = &endpoint["health"];
    let health = match (health["state"].as_str(), health["score"].as_u64(), health["reason"].as_str()) {
        (None, _, _) => "-".to_owned(),
        (Some(state), None | Some(0), _) => state.to_owned(),
        (Some(state), Some(score), None) => format!("{state} {score}"),
        (Some(state), Some(score), Some(reason)) => format!("{state} {score} ({reason})"),
    };
    [
        text(&endpoint["id"]),
        text(&endpoint["tenant"]),
        text(&endpoint["status"]),
        health,
        all(&endpoint["types"]),
        all(&endpoint["channels"]),
        text(&endpoint["url"]),
    ]
}

/// The secret of an endpoint, if this answer shows it.
fn secret(endpoint: &Value, out: &mut dyn Write) -> anyhow::Result<()> {
    match endpoint["secret"].as_str() {
        Some(secret) => Ok(writeln!(out, "secret  {secret}    (shown only now)")?),
        None => Ok(()),
    }
}

/// The path of an endpoint; an id is written so that it cannot be taken for more than one segment.
fn path(id: &str, rest: &str) -> String {
    let id: String = url::form_urlencoded::byte_serialize(id.as_bytes()).collect();
    format!("/v1/endpoints/{}{rest}", id.replace('+', "%20"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_stays_one_segment() {
        assert_eq!(path("a/../b c", "/enable"), "/v1/endpoints/a%2F..%2Fb%20c/enable");
    }
}
