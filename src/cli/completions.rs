//! `posthaste completions`.

use std::io;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Write shell completions to standard output.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  posthaste completions bash > ~/.local/share/bash-completion/completions/posthaste")]
pub struct Arguments {
    shell: Shell,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::Cli::command(), "posthaste", &mut script);
    io::Write::write_all(&mut io::stdout(), &script)?;
    Ok(())
}
