//! `posthaste completions`.

use std::io;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Write shell completions to standard output.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples, each for the shell's own start file:\n  source <(posthaste completions bash)       in ~/.bashrc\n  source <(posthaste completions zsh)        in ~/.zshrc, after compinit\n  posthaste completions fish | source        in ~/.config/fish/config.fish"
)]
pub struct Arguments {
    /// Whose.
    shell: Shell,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::Cli::command(), "posthaste", &mut script);
    io::Write::write_all(&mut io::stdout(), &script)?;
    Ok(())
}
