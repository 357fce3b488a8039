//! `posthaste endpoint test`: an event for one endpoint alone, and what came of it.

use std::{io::Write, time::Duration};

use clap::Args;
use http::Method;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::path;
use crate::cli::{
    client::{Client, Daemon},
    harmless,
};

/// Between two looks at what came of it.
const LOOK: Duration = Duration::from_millis(100);

/// The answer to a test is waited for so long: the 5 s that a receiver has, and what queues take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Send a test event to one endpoint, whatever it listens to, and wait for its answer. Exit code 1 if it was not delivered.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  posthaste endpoint test orders\n  posthaste endpoint test orders --type order.created --channel shop --data '{\"n\":1}'"
)]
pub struct Test {
    /// As `list` shows it.
    id: String,
    /// The event's type [default: posthaste.test].
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Its channel [default: posthaste].
    #[arg(long)]
    channel: Option<String>,
    /// Its data, as JSON.
    #[arg(long, value_name = "JSON", value_parser = json)]
    data: Option<Value>,
    #[command(flatten)]
    daemon: Daemon,
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|wrong| format!("write any JSON, such as {{\"n\":1}}: {wrong}"))
}

pub async fn run(arguments: &Test, out: &mut dyn Write) -> anyhow::Result<()> {
    let client = Client::new(&arguments.daemon)?;
    let sent = client.expect(Method::POST, &path(&arguments.id, "/test"), Some(document(arguments))).await?;
    let event = sent["id"].as_str().unwrap_or_default();
    let begun = Instant::now();
    let attempt = loop {
        let attempts = client.list("/v1/attempts", &[("endpoint", arguments.id.clone())], 100).await?;
        if let Some(attempt) = attempts.into_iter().find(|attempt| attempt["event"] == event) {
            break attempt;
        }
        if begun.elapsed() > PATIENCE {
            anyhow::bail!(
                "{event} is not among the attempts of the instance that was asked after {} s: it waits for others, or another instance delivers it",
                PATIENCE.as_secs()
            );
        }
        tokio::time::sleep(LOOK).await;
    };
    let told = harmless(&told(&attempt));
    match attempt["outcome"] == "delivered" {
        true => Ok(writeln!(out, "delivered {event}: {told}")?),
        false => anyhow::bail!("`{}` did not take {event}: {told}; `posthaste endpoint get {0}` shows its state", arguments.id),
    }
}

/// What a person wants to know of an attempt.
fn told(attempt: &Value) -> String {
    let elapsed = attempt["elapsedMs"].as_f64().unwrap_or_default();
    match (attempt["detail"].as_str(), attempt["status"].as_u64()) {
        (Some(detail), _) => detail.to_owned(),
        (None, Some(status)) => format!("answered {status} after {elapsed:.0} ms"),
        (None, None) => format!("{} after {elapsed:.0} ms", attempt["outcome"].as_str().unwrap_or_default()),
    }
}

/// What `POST …/test` takes: only what was given.
fn document(arguments: &Test) -> Value {
    let texts = [("type", &arguments.kind), ("channel", &arguments.channel)];
    let texts = texts.into_iter().filter_map(|(field, text)| Some((field.to_owned(), json!(text.as_ref()?))));
    let data = arguments.data.iter().map(|data| ("data".to_owned(), data.clone()));
    Value::Object(texts.chain(data).collect::<Map<_, _>>())
}
