//! What must fit together over several sections.

use super::Config;
use crate::{health, log};

/// Section, key and problem. Each is reported at one of its keys, and names the other.
pub fn check(config: &Config) -> Vec<(&'static str, &'static str, String)> {
    let mut problems = Vec::new();
    let mut expect = |holds: bool, section, key, problem: &dyn Fn() -> String| {
        if !holds {
            problems.push((section, key, problem()));
        }
    };
    let on_kafka = config.log.backend == log::Backend::Kafka;
    expect(!on_kafka || config.registry.key.is_some(), "registry", "key", &|| {
        "is missing: with log.backend = \"kafka\" all instances need the same key; make one by `openssl rand -base64 32` and set \
         POSTHASTE_REGISTRY__KEY"
            .to_owned()
    });
    expect(config.ingest.event <= config.log.max_record, "ingest", "event", &|| {
        format!("is {}, more than log.max_record ({}): the log would refuse it", config.ingest.event, config.log.max_record)
    });
    let _ = health::Backend::Redis;
    problems
}
