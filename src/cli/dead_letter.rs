//! `posthaste dead-letter`: list and redrive what could not be delivered.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use clap::{Args, Subcommand};
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::{
    client::{Client, Daemon},
    listing::{cells, limit, print},
    say, time,
};
use crate::model::{DeadReason, Timestamp};

/// Between two looks at a redrive that goes on.
const LOOK: Duration = Duration::from_millis(200);

/// What could not be delivered: look at it, send it again.
#[derive(Debug, Subcommand)]
pub enum Command {
    List(List),
    Redrive(Redrive),
}

/// List dead letters, the newest first.
///
/// ID is what `redrive` takes, EVENT the id of the event, POSITION where it lay in the log first: topic:partition:offset (`origin` in JSON).
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  posthaste dead-letter list --endpoint orders --since 2h\n  posthaste dead-letter list --reason exhausted --json"
)]
pub struct List {
    #[command(flatten)]
    filter: Filter,
    /// At most so many.
    #[arg(long, default_value_t = 100, value_parser = limit)]
    limit: usize,
    /// Print the API's JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: Daemon,
}

/// Send dead letters again. One that was redriven is not sent a second time.
#[derive(Debug, Args)]
#[command(
    override_usage = "posthaste dead-letter redrive [OPTIONS] <IDS>...\n       posthaste dead-letter redrive [OPTIONS] --endpoint <ENDPOINT>, --reason <REASON>, --since <TIME> or --until <TIME>\n       posthaste dead-letter redrive [OPTIONS] --all",
    after_help = "Examples:\n  posthaste dead-letter redrive 0-1795382715158754\n  posthaste dead-letter redrive --endpoint orders --since 2h\n  posthaste dead-letter redrive --all"
)]
pub struct Redrive {
    /// Ids of dead letters, as `list` shows them.
    #[arg(required_unless_present_any = ["endpoint", "reason", "since", "until", "all"], conflicts_with_all = ["endpoint", "reason", "since", "until", "all"])]
    ids: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    /// All there are.
    #[arg(long, conflicts_with_all = ["endpoint", "reason", "since", "until"])]
    all: bool,
    /// Print the API's JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Debug, Args)]
struct Filter {
    /// Only of this endpoint.
    #[arg(long)]
    endpoint: Option<String>,
    /// Only for this reason: exhausted, final, expired, endpoint_inactive, endpoint_disabled, endpoint_deleted, unparsable, too_large, filter_undecided.
    #[arg(long, value_parser = reason)]
    reason: Option<DeadReason>,
    /// Only from this time on: 2026-01-31T12:00:00Z, or an age such as 2h.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Only before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
}

fn reason(text: &str) -> Result<DeadReason, String> {
    DeadReason::parse(text).ok_or_else(|| format!("one of: {}", DeadReason::ALL.map(DeadReason::as_str).join(", ")))
}

impl Filter {
    fn pairs(&self) -> Vec<(&'static str, String)> {
        [
            ("endpoint", self.endpoint.clone()),
            ("reason", self.reason.map(|reason| reason.as_str().to_owned())),
            ("since", self.since.map(|time| time.to_string())),
            ("until", self.until.map(|time| time.to_string())),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

pub async fn run(command: Command) -> anyhow::Result<()> {
    let mut out = io::stdout();
    match command {
        Command::List(arguments) => list(&arguments, &mut out).await,
        Command::Redrive(arguments) => {
            let mut body: Map<String, Value> =
                arguments.filter.pairs().into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
            if !arguments.ids.is_empty() {
                body.insert("ids".to_owned(), json!(arguments.ids));
            }
            redrive(&Client::new(&arguments.daemon)?, body, arguments.json, &mut out).await
        }
    }
}

/// Begins it and stays until it is over: the daemon goes on also when nobody does.
async fn redrive(client: &Client, what: Map<String, Value>, is_json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut job = client.expect(Method::POST, "/v1/dead-letters/redrive", Some(Value::Object(what))).await?;
    let path = format!("/v1/dead-letters/redrive/{}", job["id"].as_str().unwrap_or_default());
    let shows = io::stderr().is_terminal();
    while job["state"] == "running" {
        tokio::time::sleep(LOOK).await;
        let answer = client.call(Method::GET, &path, None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            anyhow::bail!(
                "the redrive goes on in another instance than the one that was asked for it just now: `dead-letter list` shows what is left"
            );
        }
        if !answer.status.is_success() {
            anyhow::bail!("{}", answer.problem());
        }
        job = answer.body;
        if shows {
            say(format_args!("\r{} sent again, {} skipped", job["redriven"], job["skipped"]));
        }
    }
    if shows {
        say("\r\x1b[K");
    }
    if is_json {
        writeln!(out, "{job:#}")?;
    } else {
        let skipped = match job["skipped"] == 0 {
            true => "",
            false => {
                " (already sent again, no longer kept, nothing that can be delivered, or an endpoint that is gone, disabled or inactive)"
            }
        };
        writeln!(out, "{} sent again, {} skipped{skipped}", job["redriven"], job["skipped"])?;
    }
    match job["error"].as_str() {
        None if job["redriven"] == 0 && job["skipped"] != 0 => Err(anyhow::anyhow!("nothing was sent again")),
        None => Ok(()),
        Some(error) => Err(anyhow::anyhow!("the redrive ended early: {error}")),
    }
}

async fn list(arguments: &List, out: &mut dyn Write) -> anyhow::Result<()> {
    let letters = Client::new(&arguments.daemon)?.list("/v1/dead-letters", &arguments.filter.pairs(), arguments.limit).await?;
    let heads = ["ID", "TIME", "ENDPOINT", "REASON", "ATTEMPTS", "EVENT", "POSITION", "DETAIL"];
    let row = |letter: &Value| cells(letter, ["id", "at", "endpoint", "reason", "attempts", "event", "origin", "detail"]);
    print(letters, arguments.json, heads, row, out)
}
