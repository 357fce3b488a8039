//! `posthaste endpoint rotate`: a new secret.

use std::io::Write;

use clap::Args;
use http::Method;
use serde_json::{Map, Value, json};

use super::{path, secret};
use crate::cli::client::{Client, Daemon};

/// Give an endpoint a new signing secret, and print it once.
///
/// With the signing `standard` requests carry a signature by the old one as well, so that the receiver can change over without a gap, until the next
/// rotation (or `rotate --keep 0`, which makes another secret and ends all others). The signing `hub` has one secret: the old one ends at once.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  posthaste endpoint rotate orders\n  posthaste endpoint rotate orders --keep 0   the old one is known to others"
)]
pub struct Rotate {
    /// As `list` shows it.
    id: String,
    /// The new secret; made by the daemon when absent.
    #[arg(long)]
    secret: Option<String>,
    /// How many of the old ones go on signing, 0 to 3 [default: 1].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(0..=3))]
    keep: Option<u8>,
    /// Print the API's JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: Daemon,
}

pub async fn run(arguments: &Rotate, out: &mut dyn Write) -> anyhow::Result<()> {
    let client = Client::new(&arguments.daemon)?;
    let endpoint = client.expect(Method::POST, &path(&arguments.id, "/rotate-secret"), Some(document(arguments))).await?;
    if arguments.json {
        return Ok(writeln!(out, "{endpoint:#}")?);
    }
    writeln!(out, "id      {}", arguments.id)?;
    secret(&endpoint, out)
}

/// What `POST …/rotate-secret` takes: only what was given.
fn document(arguments: &Rotate) -> Value {
    let given = [("secret", arguments.secret.as_ref().map(|secret| json!(secret))), ("keep", arguments.keep.map(|keep| json!(keep)))];
    Value::Object(given.into_iter().filter_map(|(field, value)| Some((field.to_owned(), value?))).collect::<Map<_, _>>())
}
