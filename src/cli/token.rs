//! `posthaste token`: create, list, delete.

use std::io::{self, Write};

use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::{Map, Value, json};

use super::{
    client::{Client, Daemon},
    listing::{Listing, cells},
};

/// Manage the tokens of the API of a daemon.
#[derive(Debug, Subcommand)]
pub enum Command {
    Create(Create),
    List(List),
    #[command(visible_alias = "remove")]
    Delete(Delete),
}

/// Make a token. Its key, and the secret of a signature token, are printed once.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  posthaste token create ci --role developer\n  posthaste token create partner --kind signature --role developer --csv > partner.csv"
)]
pub struct Create {
    /// What it is for, in words.
    name: String,
    /// Whether requests have to be signed.
    #[arg(long, value_enum, default_value_t = Kind::Standard)]
    kind: Kind,
    /// What it may do: read; also change endpoints and send events; also manage tokens.
    #[arg(long, value_enum, default_value_t = Role::Viewer)]
    role: Role,
    /// Absent: that of the calling token.
    #[arg(long)]
    tenant: Option<String>,
    /// Print it as CSV, with a line of names.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Print the API's JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Standard,
    Signature,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    Viewer,
    Developer,
    Admin,
}

/// List the tokens, without their keys.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  posthaste token list\n  posthaste token list --json | jq -r '.[].id'")]
pub struct List {
    #[command(flatten)]
    listing: Listing,
}

/// Revoke a token: every instance refuses it within a second.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  posthaste token delete tok_0198c1f0a7c87d1bb5d4c3b2a1f0e9d8")]
pub struct Delete {
    /// As `list` shows it.
    id: String,
    #[command(flatten)]
    daemon: Daemon,
}

pub async fn run(command: Command) -> anyhow::Result<()> {
    let mut out = io::stdout();
    match command {
        Command::Create(arguments) => create(&arguments, &mut out).await,
        Command::List(arguments) => {
            let heads = ["ID", "TENANT", "KIND", "ROLE", "LAST USED", "NAME"];
            let row = |token: &Value| cells(token, ["id", "tenant", "kind", "role", "lastUsedAt", "name"]);
            arguments.listing.print("/v1/tokens", heads, row, &mut out).await
        }
        Command::Delete(arguments) => {
            let id: String = url::form_urlencoded::byte_serialize(arguments.id.as_bytes()).collect();
            let path = format!("/v1/tokens/{}", id.replace('+', "%20"));
            Client::new(&arguments.daemon)?.expect(Method::DELETE, &path, None).await?;
            Ok(writeln!(out, "deleted {}", arguments.id)?)
        }
    }
}

async fn create(arguments: &Create, out: &mut dyn Write) -> anyhow::Result<()> {
    let path = if arguments.csv { "/v1/tokens?format=csv" } else { "/v1/tokens" };
    let made = Client::new(&arguments.daemon)?.expect(Method::POST, path, Some(document(arguments))).await?;
    if arguments.csv {
        return Ok(out.write_all(made.as_str().unwrap_or_default().as_bytes())?);
    }
    if arguments.json {
        return Ok(writeln!(out, "{made:#}")?);
    }
    writeln!(out, "id      {}", made["id"].as_str().unwrap_or("-"))?;
    for name in ["key", "secret"] {
        if let Some(text) = made[name].as_str() {
            writeln!(out, "{name:<6}  {text}    (shown only now)")?;
        }
    }
    Ok(())
}

/// What `POST /v1/tokens` takes.
fn document(arguments: &Create) -> Value {
    let kind = match arguments.kind {
        Kind::Standard => "standard",
        Kind::Signature => "signature",
    };
    let role = match arguments.role {
        Role::Viewer => "viewer",
        Role::Developer => "developer",
        Role::Admin => "admin",
    };
    let members = [("name", json!(arguments.name)), ("kind", json!(kind)), ("role", json!(role))];
    let mut document: Map<String, Value> = members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    document.extend(arguments.tenant.as_ref().map(|tenant| ("tenant".to_owned(), json!(tenant))));
    Value::Object(document)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    #[test]
    fn what_is_asked_for_is_what_was_given() {
        for (line, expected) in [
            ("x create ci", json!({ "name": "ci", "kind": "standard", "role": "viewer" })),
            (
                "x create ci --kind signature --role admin --tenant acme --csv",
                json!({ "name": "ci", "kind": "signature", "role": "admin", "tenant": "acme" }),
            ),
        ] {
            let Command::Create(create) = Line::try_parse_from(line.split(' ')).expect(line).command else { panic!("{line}") };
            assert_eq!(document(&create), expected, "{line}");
        }
        assert!(Line::try_parse_from("x create ci --csv --json".split(' ')).is_err());
    }
}
