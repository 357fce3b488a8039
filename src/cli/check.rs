//! `posthaste check`.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::Args;

use crate::config;

/// Check a configuration without starting anything: all problems at once, each with file, line and key. Exit code 2 if there are any. Files that it names
/// are looked at too, so check it where the daemon runs.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  posthaste check --config posthaste.toml\n  posthaste check --config posthaste.toml --print\n  posthaste check --manual > posthaste.toml"
)]
pub struct Arguments {
    /// TOML file; without it, the environment alone is checked.
    #[arg(long, short, value_name = "FILE", env = "POSTHASTE_CONFIG")]
    config: Option<PathBuf>,
    /// Print what is in force, defaults and environment included, secrets masked.
    #[arg(long)]
    print: bool,
    /// Print the manual: every key, its default and its reason.
    #[arg(long, conflicts_with = "print")]
    manual: bool,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut out = io::stdout();
    if arguments.manual {
        out.write_all(config::MANUAL.as_bytes())?;
        return Ok(());
    }
    let loaded = config::load(arguments.config.as_deref(), config::environment())?;
    match (arguments.print, &arguments.config) {
        (true, _) => out.write_all(loaded.print().as_bytes())?,
        (false, Some(file)) => writeln!(out, "{}: no problem found", file.display())?,
        (false, None) => writeln!(out, "no file, defaults and environment only: no problem found")?,
    }
    Ok(())
}
