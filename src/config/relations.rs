//! What must fit together over several sections, and what only a daemon must have.

use std::net::SocketAddr;

use super::Config;
use crate::log;

/// Reported at one of its keys, and names the other.
pub struct Problem {
    pub section: &'static str,
    pub key: String,
    pub what: String,
    /// The other, if there is one: where that could not be read, this says nothing.
    pub other: Option<&'static str>,
}

/// Relations between sections.
pub fn check(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut expect = |holds: bool, section, key: &str, other, what: &dyn Fn() -> String| {
        if !holds {
            problems.push(Problem { section, key: key.to_owned(), what: what(), other: Some(other) });
        }
    };
    expect(config.ingest.event <= config.log.max_record, "ingest", "event", "log.max_record", &|| {
        format!("is {}, more than log.max_record ({}): the log would refuse it", config.ingest.event, config.log.max_record)
    });
    expect(!same_port(config.api.listen, config.admin.listen), "admin", "listen", "api.listen", &|| {
        format!("is {}, which api.listen ({}) has already", config.admin.listen, config.api.listen)
    });
    problems
}

/// What a daemon must have that whoever only asks it something need not: its secrets, and files that can be used.
pub fn of_daemon(config: &Config) -> Vec<Problem> {
    let mut problems = secrets(config);
    let mut found = |section, key, what| problems.push(Problem { section, key, what, other: None });
    config.log.try_out().into_iter().for_each(|(key, what)| found("log", key.to_owned(), what));
    config.kafka.try_out().into_iter().for_each(|(key, what)| found("kafka", key, what));
    config.delivery.try_out().into_iter().for_each(|(key, what)| found("delivery", key.to_owned(), what));
    problems
}

/// The secrets that a standalone daemon makes for itself, and that all instances of a fleet must be given.
fn secrets(config: &Config) -> Vec<Problem> {
    let (key, token) = (&config.registry.key, &config.api.admin_token);
    [
        (key.is_none(), "registry", "key", "key", "openssl rand -base64 32", "POSTHASTE_REGISTRY__KEY"),
        (token.is_none(), "api", "admin_token", "token", "openssl rand -hex 32", "POSTHASTE_API__ADMIN_TOKEN"),
    ]
    .into_iter()
    .filter(|(is_missing, ..)| *is_missing && config.log.backend == log::Backend::Kafka)
    .map(|(_, section, key, thing, command, variable)| {
        let what = format!(
            "is missing: with log.backend = \"kafka\" all instances need the same {thing}; make one by `{command}` and set {variable}"
        );
        Problem { section, key: key.to_owned(), what, other: None }
    })
    .collect()
}

/// Whether two listeners cannot be there at once. Port 0 is any free one.
fn same_port(one: SocketAddr, other: SocketAddr) -> bool {
    let overlap = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.port() != 0 && overlap
}
