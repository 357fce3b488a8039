//! Which topics there are, what they are called, and how they are made: the `[topics]` section.
//!
//! One topic per retry delay, so that its head is always the next due (DESIGN.md section 10); its name is the prefix and the delay, such as
//! `posthaste.retry.30s`, so that a tier which is no longer configured is still found by the prefix and read to its end.

use std::{collections::HashSet, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Cleanup, TopicSpec};

/// Names of the topics, section `[topics]`. Two daemons that share a log (one Kafka cluster) must not share these names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Topics that events are read from; events that come in over HTTP are appended to the first.
    pub events: Vec<Arc<str>>,
    /// What the names of all retry topics begin with; every topic that does is read.
    pub retry_prefix: Arc<str>,
    pub dead: Arc<str>,
    pub registry: Arc<str>,
    pub attempts: Arc<str>,
    pub history: Arc<str>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            events: vec!["posthaste.events".into()],
            retry_prefix: "posthaste.retry.".into(),
            dead: "posthaste.dead".into(),
            registry: "posthaste.registry".into(),
            attempts: "posthaste.attempts".into(),
            history: "posthaste.history".into(),
        }
    }
}

/// The longest name of a topic, and which characters it may have: Kafka's rule, kept by both backends so that one can be changed for the other.
pub const NAME_LIMIT: usize = 249;

/// Why `name` can not be a topic, if it can not.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > NAME_LIMIT {
        return Err(format!("a topic's name has 1 to {NAME_LIMIT} characters, not {}", name.len()));
    }
    if name == "." || name == ".." {
        return Err(format!("`{name}` is no name of a topic"));
    }
    match name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        None => Ok(()),
        Some(wrong) => Err(format!("`{name}` is no name of a topic because of {wrong:?}: letters, digits, `.`, `_` and `-` are allowed")),
    }
}

impl Config {
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if self.events.is_empty() {
            problems.push(("events", "name at least one topic, such as [\"posthaste.events\"]".to_owned()));
        }
        let mut seen = HashSet::new();
        let single = [
            ("retry_prefix", &self.retry_prefix),
            ("dead", &self.dead),
            ("registry", &self.registry),
            ("attempts", &self.attempts),
            ("history", &self.history),
        ];
        for (key, name) in self.events.iter().map(|name| ("events", name)).chain(single) {
            if let Err(wrong) = check_name(name) {
                problems.push((key, wrong));
            } else if !seen.insert(name) {
                problems.push((key, format!("`{name}` is used twice: every topic needs a name of its own")));
            } else if key != "retry_prefix" && !self.retry_prefix.is_empty() && name.starts_with(&*self.retry_prefix) {
                problems.push((
                    key,
                    format!(
                        "`{name}` begins like the retry topics (retry_prefix = \"{}\"): its records would be read as retries",
                        self.retry_prefix
                    ),
                ));
            }
        }
        // The longest tier that anybody writes is well under 16 characters.
        if self.retry_prefix.len() > NAME_LIMIT - 16 {
            problems.push(("retry_prefix", format!("at most {} characters, so that a delay fits behind it", NAME_LIMIT - 16)));
        }
        problems
    }
}

/// The topics of this daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    names: Config,
}

impl Topics {
    /// `config` has passed [`Config::check`].
    pub fn new(config: &Config) -> Topics {
        Topics { names: config.clone() }
    }

    /// Topics that events are read from, at least one.
    pub fn events(&self) -> &[Arc<str>] {
        &self.names.events
    }

    /// Where events that come in over HTTP, and deliveries meant for one endpoint, are appended: the first of [`Topics::events`].
    pub fn ingest(&self) -> &Arc<str> {
        &self.names.events[0]
    }

    pub fn retry_prefix(&self) -> &Arc<str> {
        &self.names.retry_prefix
    }

    pub fn dead(&self) -> &Arc<str> {
        &self.names.dead
    }

    pub fn registry(&self) -> &Arc<str> {
        &self.names.registry
    }

    pub fn attempts(&self) -> &Arc<str> {
        &self.names.attempts
    }

    /// What was sent because of tickets, keyed by ticket.
    pub fn history(&self) -> &Arc<str> {
        &self.names.history
    }

    /// The topic of the tier with this delay: `posthaste.retry.30s`, `posthaste.retry.1h30m`.
    pub fn retry(&self, tier: Duration) -> Arc<str> {
        let delay = humantime::format_duration(tier).to_string().replace(' ', "");
        format!("{}{delay}", self.names.retry_prefix).into()
    }

    /// The delay of a retry topic, from its name; none if it is not one of ours or was made by hand.
    pub fn tier_of(&self, topic: &str) -> Option<Duration> {
        humantime::parse_duration(topic.strip_prefix(&*self.names.retry_prefix)?).ok()
    }

    /// How every topic is to be made; `tiers` are the delays of `[retry]`.
    pub fn specs(&self, tiers: &[Duration], log: &super::Config) -> Vec<TopicSpec> {
        // What we append is an event of theirs with headers, or with escapes where it was no JSON: twice the size has room for both.
        // What is still too large goes to dead letters as a reference to its position.
        let own = log.max_record.as_u64() as usize * 2;
        let internal = |name: Arc<str>, partitions, cleanup| TopicSpec { name, partitions, cleanup, max_record: own, internal: true };
        let mut specs: Vec<TopicSpec> = Vec::new();
        for name in self.events() {
            let (partitions, cleanup) = (log.partitions, Cleanup::Retain(log.retention));
            // A first topic is also written by us: replays and tests carry a whole event in our own form.
            specs.push(TopicSpec { name: name.clone(), partitions, cleanup, max_record: own, internal: false });
        }
        for tier in tiers {
            let topic = self.retry(*tier);
            if specs.iter().all(|spec| spec.name != topic) {
                // A record waits for its tier and then for a consumer that may be stopped as long as one of events may be.
                specs.push(internal(topic, log.partitions, Cleanup::Retain(log.retention + *tier)));
            }
        }
        specs.push(internal(self.dead().clone(), 1, Cleanup::Retain(log.dead_retention)));
        specs.push(internal(self.registry().clone(), 1, Cleanup::Compact));
        specs.push(internal(self.attempts().clone(), 1, Cleanup::Retain(log.attempts_retention)));
        specs.push(internal(self.history().clone(), 1, Cleanup::Retain(log.history_retention)));
        specs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_is_a_topic_named_after_its_delay() {
        let topics = Topics::new(&Config::default());
        for (seconds, name) in [
            (5, "posthaste.retry.5s"),
            (60, "posthaste.retry.1m"),
            (90, "posthaste.retry.1m30s"),
            (3600, "posthaste.retry.1h"),
            (43_200, "posthaste.retry.12h"),
            (86_400, "posthaste.retry.1day"),
        ] {
            let tier = Duration::from_secs(seconds);
            assert_eq!(&*topics.retry(tier), name);
            assert_eq!(topics.tier_of(name), Some(tier));
            assert_eq!(check_name(name), Ok(()));
        }
        assert_eq!(topics.tier_of("posthaste.events"), None);
        assert_eq!(topics.tier_of("posthaste.retry.old"), None);
    }

    #[test]
    fn names_that_would_mix_records_are_refused() {
        assert_eq!(Config::default().check(), []);
        let keys = |config: Config| config.check().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys(Config { events: vec![], ..Config::default() }), ["events"]);
        assert_eq!(keys(Config { events: vec!["a b".into()], ..Config::default() }), ["events"]);
        assert_eq!(keys(Config { events: vec!["a".into(), "a".into()], ..Config::default() }), ["events"]);
        assert_eq!(keys(Config { events: vec!["posthaste.dead".into()], ..Config::default() }), ["dead"]);
        assert_eq!(keys(Config { dead: "posthaste.retry.dead".into(), ..Config::default() }), ["dead"]);
        assert_eq!(keys(Config { retry_prefix: "".into(), ..Config::default() }), ["retry_prefix"]);
    }

    #[test]
    fn every_topic_is_specified_once() {
        let topics = Topics::new(&Config::default());
        let tiers = [Duration::from_secs(30), Duration::from_secs(60), Duration::from_secs(30)];
        let specs = topics.specs(&tiers, &crate::log::Config::default());
        let names: Vec<&str> = specs.iter().map(|spec| &*spec.name).collect();
        assert_eq!(
            names,
            [
                "posthaste.events",
                "posthaste.retry.30s",
                "posthaste.retry.1m",
                "posthaste.dead",
                "posthaste.registry",
                "posthaste.attempts",
                "posthaste.history"
            ]
        );
        assert!(specs.iter().all(|spec| spec.internal == (&*spec.name != "posthaste.events")));
        assert!(specs.iter().all(|spec| (spec.cleanup == Cleanup::Compact) == (&*spec.name == "posthaste.registry")));
    }
}
