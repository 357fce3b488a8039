//! Logs: one line per fact on standard error, as text for people or as JSON for machines.
//!
//! INFO says that a state changed, WARN that something is odd and nothing lost, ERROR that something is lost or a person is needed;
//! single attempts are DEBUG. The level can be changed while the daemon runs ([`Handle::set_level`]).

use std::io::IsTerminal;

use serde::Deserialize;
use tracing_subscriber::{EnvFilter, Layer, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt};

/// `[logging]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `error`, `warn`, `info`, `debug` or `trace`, also per module: `info,posthaste::delivery=debug`.
    pub level: String,
    pub format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Text,
    Json,
}

impl Default for Config {
    fn default() -> Config {
        Config { level: "info".to_owned(), format: Format::Text }
    }
}

impl Config {
    pub fn check(&self) -> Vec<(&'static str, String)> {
        match filter(&self.level) {
            Ok(_) => Vec::new(),
            Err(problem) => vec![("level", problem)],
        }
    }
}

/// Changes the level of a running process.
#[derive(Clone)]
pub struct Handle(reload::Handle<EnvFilter, Registry>);

impl Handle {
    /// Takes effect at once, in all threads; the text is that of `logging.level`.
    pub fn set_level(&self, level: &str) -> Result<(), String> {
        self.0.reload(filter(level)?).map_err(|error| format!("the log level could not be changed: {error}"))
    }
}

/// Starts logging for the process. To be called once: a second call has no effect, and its handle changes nothing.
pub fn start(config: &Config) -> Result<Handle, String> {
    let (filter, handle) = reload::Layer::new(filter(&config.level)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match config.format {
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).boxed(),
        Format::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
    };
    // An error means that there is one already, as in tests: the first one stays.
    let _ = Registry::default().with(filter).with(lines).try_init();
    Ok(Handle(handle))
}

/// What a level text means. A bare level holds for our own code; the libraries below stay at WARN, because their INFO is noise to an operator.
fn filter(level: &str) -> Result<EnvFilter, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let mut directives = vec!["warn".to_owned()];
    for part in level.split(',').map(str::trim) {
        let (target, level) = part.split_once('=').unwrap_or(("posthaste", part));
        if !LEVELS.contains(&level) || target.is_empty() {
            return Err(format!("`{part}` is no level: write one of {}, or module=level, separated by commas", LEVELS.join(", ")));
        }
        directives.push(format!("{target}={level}"));
    }
    EnvFilter::try_new(directives.join(",")).map_err(|error| format!("`{level}` is no log level: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_for_us_unless_it_names_a_module() {
        for (text, directives) in
            [("info", "posthaste=info,warn"), ("debug, rdkafka=info", "posthaste=debug,rdkafka=info,warn"), ("off", "posthaste=off,warn")]
        {
            let shown = filter(text).expect(text).to_string();
            let mut parts: Vec<&str> = shown.split(',').collect();
            parts.sort_unstable();
            assert_eq!(parts.join(","), {
                let mut parts: Vec<&str> = directives.split(',').collect();
                parts.sort_unstable();
                parts.join(",")
            });
        }
    }

    #[test]
    fn what_is_no_level_is_refused_with_the_levels() {
        for text in ["", "loud", "posthaste=loud", "info,,debug", "=info"] {
            let config = Config { level: text.to_owned(), ..Config::default() };
            let problems = config.check();
            assert_eq!(problems.len(), 1, "{text}");
            assert!(problems[0].1.contains("info"), "{}", problems[0].1);
        }
    }
}
