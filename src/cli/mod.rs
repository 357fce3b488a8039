//! The command line. One file for each subcommand; those that talk to a daemon do it over its API ([`client`]), as anybody else would.

mod agent;
mod check;
pub mod client;
mod completions;
mod dead_letter;
pub mod demo;
mod endpoint;
pub mod listen;
mod listing;
mod openapi;
mod send;
mod table;
mod token;
pub mod verify;

use std::{
    fmt,
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};

use crate::model::{Rate, Timestamp};

/// Turns events into signed webhooks: from Kafka or HTTP to every endpoint that asked for them, at least once, with retries, and without
/// one slow receiver slowing the others down.
#[derive(Debug, Parser)]
#[command(
    name = "posthaste",
    version,
    after_help = "First steps:\n  posthaste demo                                    watch it work\n  posthaste listen --listen 127.0.0.1:9000          a receiver that verifies and prints\n  POSTHASTE_DELIVERY__ALLOW_NETWORKS='[\"127.0.0.0/8\"]' posthaste serve\n                                                    the daemon, nothing else needed; the variable allows receivers on this machine\n  posthaste endpoint add http://127.0.0.1:9000/     register the receiver\n  posthaste send --type order.created --channel shop --data '{\"n\":1}'"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Serve(ServeArguments),
    Demo(DemoArguments),
    Check(check::Arguments),
    Send(Box<send::Arguments>),
    Listen(listen::Arguments),
    #[command(subcommand)]
    Endpoint(Box<endpoint::Command>),
    #[command(subcommand)]
    Agent(agent::Command),
    #[command(subcommand)]
    Token(token::Command),
    #[command(subcommand)]
    DeadLetter(dead_letter::Command),
    Openapi(openapi::Arguments),
    Completions(completions::Arguments),
}

/// Run the daemon.
///
/// Without a file it is a standalone daemon: SQLite log in a data directory, listeners on loopback, an admin token made at first start.
/// SIGTERM and SIGINT end it cleanly: what is in flight is finished, positions are committed. SIGHUP reads the file again.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  posthaste serve\n  posthaste serve --config config/cluster.toml\n  POSTHASTE_DELIVERY__ALLOW_NETWORKS='[\"127.0.0.0/8\"]' posthaste serve"
)]
pub struct ServeArguments {
    /// TOML file; every key is explained in config/default.toml (also: `posthaste check --manual`).
    #[arg(long, short, value_name = "FILE", env = "POSTHASTE_CONFIG")]
    pub config: Option<PathBuf>,
}

/// Watch it work: a daemon on a temporary directory, three receivers that verify every signature (one fast, one that fails and
/// recovers, one that hangs), events flowing, and a live table of what happens.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  posthaste demo\n  posthaste demo --seconds 30 --rate 200/s")]
pub struct DemoArguments {
    /// End after so many seconds; without it, Ctrl-C ends it.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: Option<u64>,
    /// Events that are made.
    #[arg(long, value_name = "RATE", default_value = "50/s")]
    pub rate: Rate,
}

/// Runs every command but `serve`.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(_) => unreachable!("main starts the daemon itself"),
        Command::Demo(arguments) => demo::run(arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Send(arguments) => block_on(send::run(*arguments)),
        Command::Listen(arguments) => block_on(listen::run(arguments)),
        Command::Endpoint(command) => block_on(endpoint::run(*command)),
        Command::Token(command) => block_on(token::run(command)),
        Command::Agent(command) => block_on(agent::run(command)),
        Command::DeadLetter(command) => block_on(dead_letter::run(command)),
        Command::Openapi(arguments) => openapi::run(arguments),
        Command::Completions(arguments) => completions::run(&arguments),
    }
}

/// Commands need one thread.
fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// Whether the error only says that nobody reads our output any more, as in `posthaste endpoint list | head`.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A time as people give it: RFC 3339, or how long ago (`2h`, `15m`).
fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let ago = humantime::parse_duration(text)
        .map_err(|_| "write a time as 2026-01-31T12:00:00Z, or how long ago it was, such as 2h or 15m".to_owned())?;
    Timestamp::now().checked_sub(ago).map_err(|_| "is too long ago".to_owned())
}

/// A length of time as people give it.
fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "write how long, such as 500ms, 30s or 2m".to_owned())
}

/// Says something beside the results, on standard error. That nobody reads it (`… 2>&1 | head`) is no reason to stop.
pub fn say(text: impl fmt::Display) {
    let mut out = io::stderr().lock();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}

/// Text of others for a terminal: control characters, which could move the cursor or change colours, are made visible.
fn harmless(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<char>>() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_time_is_a_date_or_an_age() {
        assert_eq!(time("1970-01-01T00:00:01Z").expect("RFC 3339").as_second(), 1);
        let hour_ago = time("1h").expect("age").as_second();
        assert!((Timestamp::now().as_second() - hour_ago - 3600).abs() <= 1);
        assert!(time("yesterday").is_err());
    }

    #[test]
    fn what_is_no_length_of_time_is_told_what_is() {
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(duration("soon").is_err_and(|right| right.contains("30s")));
    }

    #[test]
    fn what_others_send_cannot_move_the_cursor() {
        assert_eq!(harmless("a\u{1b}[2Jb\nü"), "a\\u{1b}[2Jb\\nü");
    }
}
