//! `posthaste openapi`.

use std::io::{self, Write};

use clap::Args;

/// Write the description of the API (OpenAPI 3.1) to standard output.
///
/// It is the document that a running daemon answers at /openapi.json, which needs no token.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  posthaste openapi > openapi.json")]
pub struct Arguments {}

pub fn run(Arguments {}: Arguments) -> anyhow::Result<()> {
    io::stdout().write_all(crate::api::description().as_bytes())?;
    Ok(())
}
