//! What must fit together over several sections, and what only a daemon must have.

use std::net::SocketAddr;

use super::Config;
use crate::log;

/// Section, key and what is wrong. Each is reported at one of its keys, and names the other.
pub type Problem = (&'static str, String, String);

/// Relations between sections.
pub fn check(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut expect = |holds: bool, section, key: &str, problem: &dyn Fn() -> String| {
        if !holds {
            problems.push((section, key.to_owned(), problem()));
        }
    };
    expect(config.ingest.event <= config.log.max_record, "ingest", "event", &|| {
        format!("is {}, more than log.max_record ({}): the log would refuse it", config.ingest.event, config.log.max_record)
    });
    expect(!same_port(config.api.listen, config.admin.listen), "admin", "listen", &|| {
        format!("is {}, which api.listen ({}) has already", config.admin.listen, config.api.listen)
    });
    problems
}

/// What a daemon must have that whoever only asks it something need not: its secrets, and files that can be used.
pub fn of_daemon(config: &Config) -> Vec<Problem> {
    let mut problems = secrets(config);
    problems.extend(config.log.try_out().into_iter().map(|(key, what)| ("log", key.to_owned(), what)));
    problems.extend(config.kafka.try_out().into_iter().map(|(key, what)| ("kafka", key, what)));
    problems.extend(config.delivery.try_out().into_iter().map(|(key, what)| ("delivery", key.to_owned(), what)));
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
        (section, key.to_owned(), what)
    })
    .collect()
}

/// Whether two listeners cannot be there at once. Port 0 is any free one.
fn same_port(one: SocketAddr, other: SocketAddr) -> bool {
    let overlap = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.port() != 0 && overlap
}
