//! Arguments, configuration, telemetry, the daemon or a command, exit code. What they do is in the library.

use std::process::ExitCode;

use clap::Parser;
use posthaste::{
    app,
    cli::{self, Cli, Command},
    config::{self, Problems},
    telemetry::logging,
};

/// Fewer and cheaper page faults than the system's under many small allocations from several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(arguments) => serve(arguments),
        command => cli::run(command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(error) if cli::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if error.is::<Problems>() => {
            cli::say(format_args!("{error}\n"));
            ExitCode::from(2)
        }
        Err(error) => {
            cli::say(format_args!("posthaste: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: cli::ServeArguments) -> anyhow::Result<()> {
    let loaded = config::load(arguments.config.as_deref(), config::environment())?;
    let logging = logging::start(&loaded.config.logging).map_err(anyhow::Error::msg)?;
    app::serve(loaded.config, app::Options { config_file: arguments.config, logging })
}
