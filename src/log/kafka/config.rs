//! `[kafka]`: what a person sets, what posthaste sets, and what nobody may set.

use std::{collections::BTreeMap, fmt, time::Duration};

use rdkafka::{ClientConfig, config::RDKafkaLogLevel};
use serde::{Deserialize, Deserializer};

use crate::log::{LogError, Start};

/// The section `[kafka]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where to find the cluster: `host:port`, several separated by commas.
    pub brokers: String,
    /// Consumer group; instances with the same group share the work.
    pub group: String,
    /// Name of this instance for static membership: different on every instance, and the same after its restart. Without it members
    /// are dynamic.
    pub instance: Option<String>,
    /// Where a new group begins: `earliest`, `latest`, or a time (RFC 3339).
    #[serde(deserialize_with = "start")]
    pub start: Start,
    /// Create missing source topics too, not only posthaste's own.
    pub create_topics: bool,
    /// Handed to librdkafka as they are.
    pub properties: Properties,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            brokers: "127.0.0.1:9092".into(),
            group: "posthaste".into(),
            instance: None,
            start: Start::Earliest,
            create_topics: false,
            properties: Properties::default(),
        }
    }
}

/// `[kafka.properties]`; numbers and booleans are taken as well as text. It prints secrets masked.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(pub BTreeMap<String, String>);

impl Properties {
    /// Whether the value of a property must not be shown.
    pub fn is_secret(name: &str) -> bool {
        ["password", "secret", "jaas", ".key.pem", "oauthbearer.config"].iter().any(|part| name.contains(part))
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_map().entries(self.0.iter().map(|(name, value)| (name, if Properties::is_secret(name) { "***" } else { value }))).finish()
    }
}

impl<'de> Deserialize<'de> for Properties {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Properties, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Value {
            Flag(bool),
            Whole(i64),
            Fraction(f64),
            Text(String),
        }
        let values = BTreeMap::<String, Value>::deserialize(from)?;
        Ok(Properties(
            values
                .into_iter()
                .map(|(name, value)| {
                    let text = match value {
                        Value::Flag(flag) => flag.to_string(),
                        Value::Whole(number) => number.to_string(),
                        Value::Fraction(number) => number.to_string(),
                        Value::Text(text) => text,
                    };
                    (name, text)
                })
                .collect(),
        ))
    }
}

fn start<'de, D: Deserializer<'de>>(from: D) -> Result<Start, D::Error> {
    let text = String::deserialize(from)?;
    match text.as_str() {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        time => time.parse().map(Start::At).map_err(|_| {
            serde::de::Error::custom(format!(
                "`{time}` is no start: write \"earliest\", \"latest\" or a time like \"2026-01-31T08:00:00Z\""
            ))
        }),
    }
}

/// Properties that are refused, and why.
const FORBIDDEN: &[(&str, &str)] = &[
    ("bootstrap.servers", "set kafka.brokers"),
    ("metadata.broker.list", "set kafka.brokers"),
    ("group.id", "set kafka.group"),
    ("group.instance.id", "set kafka.instance"),
    ("auto.offset.reset", "set kafka.start, which says where a new group begins; a position that is gone continues at the earliest record"),
    ("acks", "an append is acknowledged when all in-sync replicas have it, or an acknowledged event could be lost"),
    ("request.required.acks", "an append is acknowledged when all in-sync replicas have it, or an acknowledged event could be lost"),
    ("enable.idempotence", "the producer is idempotent, or a retry inside it could store a record twice or out of order"),
    ("enable.auto.commit", "a position is committed only when everything before it is settled"),
    ("auto.commit.enable", "a position is committed only when everything before it is settled"),
    ("enable.auto.offset.store", "a position is committed only when everything before it is settled"),
    ("transactional.id", "appends are not transactional: what an endpoint received cannot be rolled back"),
    (
        "allow.auto.create.topics",
        "topics are created by posthaste, with the retention they need, or by you; never by a reader that misspelt one",
    ),
    ("enable.partition.eof", "it is set where it is needed"),
    ("test.mock.num.brokers", "what lies in a mock cluster is gone with the process"),
];

/// Largest record (bytes) a producer takes; what a topic takes is the broker's to say.
const MESSAGE_MAX: u64 = 32 << 20;
/// Most KiB of records that wait in the producer.
const QUEUE_MAX_KIB: u64 = 64 << 10;
/// The largest batch (bytes) of the producer: topics take batches of 1 MiB by default, and one with a lower limit should take ours too.
pub(super) const BATCH_SIZE: usize = 256 << 10;

/// Defaults of every client: name, its alias in librdkafka (one of them may be set in `[kafka.properties]`), value.
const COMMON: &[(&str, &str, &str)] = &[
    ("client.id", "", "posthaste"),
    // A request to a broker that froze is given up after this; a commit at a revocation waits no longer.
    ("socket.timeout.ms", "", "10000"),
    ("socket.keepalive.enable", "", "true"),
    ("reconnect.backoff.max.ms", "", "2000"),
    ("topic.metadata.refresh.interval.ms", "", "30000"),
    ("log.connection.close", "", "false"),
];

const PRODUCER: &[(&str, &str, &str)] = &[
    // An append that is not durable by then is answered as failed, so that its caller can say so. More than a request to a frozen broker takes
    // (socket.timeout.ms) and the election of another leader; less than the 30 s after which common HTTP clients stop waiting for that answer.
    ("delivery.timeout.ms", "message.timeout.ms", "20000"),
    // Appends come in batches already.
    ("linger.ms", "queue.buffering.max.ms", "1"),
    ("queue.buffering.max.messages", "", "100000"),
    // The partition that Java's clients choose for a key, so that events sent over HTTP lie beside those of such producers.
    ("partitioner", "", "murmur2_random"),
];

const CONSUMER: &[(&str, &str, &str)] = &[
    // Bounds of what is read ahead, over all partitions of one consumer.
    ("queued.max.messages.kbytes", "", "16384"),
    ("fetch.max.bytes", "", "16777216"),
    // A queue that was full is filled again after this, not after a second.
    ("fetch.queue.backoff.ms", "", "50"),
    ("fetch.wait.max.ms", "", "100"),
    ("statistics.interval.ms", "", "5000"),
];

/// For brokers' own protocol (`group.protocol = consumer`) these are the broker's to set.
const CLASSIC: &[(&str, &str, &str)] = &[
    ("partition.assignment.strategy", "", "cooperative-sticky"),
    ("session.timeout.ms", "", "10000"),
    ("heartbeat.interval.ms", "", "3000"),
];

/// Whether OpenSSL is built in. It is most of the time of a first build, so it is left out by default.
const TLS: bool = cfg!(feature = "kafka-tls");

/// How long a request for metadata or offsets may take.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

impl Config {
    /// Problems with the values: key and text.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if self.brokers.split(',').any(|broker| broker.trim().is_empty()) {
            problems.push(("brokers", "names no broker: write host:port, several separated by commas".to_owned()));
        }
        if self.group.is_empty() {
            problems.push(("group", "is empty: instances that share the work need one name".to_owned()));
        }
        if self.instance.as_ref().is_some_and(String::is_empty) {
            problems.push(("instance", "is empty: leave it out, or give each instance a name of its own that it keeps".to_owned()));
        }
        for (name, reason) in FORBIDDEN {
            if self.properties.0.contains_key(*name) {
                problems.push(("properties", format!("`{name}` cannot be set: {reason}")));
            }
        }
        if let Some(needs) = self.needs_tls().filter(|_| !TLS) {
            problems.push(("properties", format!("`{needs}` is not in this build: build with `--features kafka-tls`")));
        }
        // A record larger than the queue would wait for room for ever.
        let (record, queue) = (self.number("message.max.bytes", MESSAGE_MAX), self.number("queue.buffering.max.kbytes", QUEUE_MAX_KIB));
        if queue.saturating_mul(1024) <= record {
            problems.push((
                "properties",
                format!("`queue.buffering.max.kbytes` ({queue} KiB) must be above `message.max.bytes` ({record} bytes)"),
            ));
        }
        if problems.is_empty() {
            for config in [self.producer(), self.consumer(&self.group, None)] {
                if let Err(wrong) = config.create_native_config() {
                    problems.push(("properties", self.scrub(&wrong.to_string())));
                }
            }
            problems.dedup();
        }
        problems
    }

    /// The first property that only OpenSSL can serve: librdkafka has TLS, SCRAM and OAuth from it.
    fn needs_tls(&self) -> Option<String> {
        let given = self.properties.0.iter().find(|(name, value)| match name.as_str() {
            "security.protocol" => ["ssl", "sasl_ssl"].iter().any(|protocol| value.eq_ignore_ascii_case(protocol)),
            "sasl.mechanism" | "sasl.mechanisms" => {
                let value = value.to_ascii_uppercase();
                value.starts_with("SCRAM-") || value == "OAUTHBEARER"
            }
            name => name.starts_with("ssl."),
        });
        given.map(|(name, value)| if name.starts_with("ssl.") { name.clone() } else { format!("{name} = {value}") })
    }

    fn number(&self, name: &str, default: u64) -> u64 {
        self.properties.0.get(name).and_then(|text| text.parse().ok()).unwrap_or(default)
    }

    /// librdkafka repeats the value it did not like.
    fn scrub(&self, text: &str) -> String {
        let secrets = self.properties.0.iter().filter(|(name, value)| Properties::is_secret(name) && !value.is_empty());
        secrets.fold(text.to_owned(), |text, (_, value)| text.replace(value.as_str(), "***"))
    }

    /// The largest record (bytes) that a producer of this configuration takes.
    pub(super) fn message_max(&self) -> usize {
        usize::try_from(self.number("message.max.bytes", MESSAGE_MAX)).unwrap_or(usize::MAX)
    }

    pub(super) fn producer(&self) -> ClientConfig {
        let mut client = self.client(&[COMMON, PRODUCER]);
        for (name, value) in
            [("message.max.bytes", MESSAGE_MAX), ("queue.buffering.max.kbytes", QUEUE_MAX_KIB), ("batch.size", BATCH_SIZE as u64)]
        {
            if !self.properties.0.contains_key(name) {
                client.set(name, value.to_string());
            }
        }
        client.set("enable.idempotence", "true").set("acks", "all");
        client
    }

    /// For the admin client: nothing but how to reach the cluster.
    pub(super) fn admin(&self) -> ClientConfig {
        self.client(&[COMMON])
    }

    /// A client that asks for offsets and metadata, or reads without a group.
    pub(super) fn reader(&self, group: &str) -> ClientConfig {
        let mut client = self.consumer(group, None);
        client.set("enable.partition.eof", "true").set("statistics.interval.ms", "0");
        client
    }

    /// A member of a group.
    pub(super) fn consumer(&self, group: &str, instance: Option<&str>) -> ClientConfig {
        let own_protocol = self.properties.0.get("group.protocol").is_some_and(|name| name.eq_ignore_ascii_case("consumer"));
        let mut client = self.client(if own_protocol { &[COMMON, CONSUMER] } else { &[COMMON, CONSUMER, CLASSIC] });
        client
            .set("group.id", group)
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("allow.auto.create.topics", "false");
        if let Some(instance) = instance {
            client.set("group.instance.id", instance);
        }
        client
    }

    fn client(&self, defaults: &[&[(&str, &str, &str)]]) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set_log_level(RDKafkaLogLevel::Warning);
        let given = &self.properties.0;
        for (name, alias, value) in defaults.iter().copied().flatten() {
            if !given.contains_key(*alias) {
                client.set(*name, *value);
            }
        }
        client.extend(given.iter().map(|(name, value)| (name.clone(), value.clone())));
        client.set("bootstrap.servers", &self.brokers);
        client
    }

    /// The error of a client that could not be made.
    pub(super) fn refused(&self, wrong: &rdkafka::error::KafkaError) -> LogError {
        LogError::Fatal(format!("kafka: {}; see kafka.properties", self.scrub(&wrong.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn the_default_is_without_problems() {
        assert_eq!(Config::default().check(), []);
        assert_eq!(parse("").unwrap(), Config::default());
    }

    #[test]
    fn properties_that_would_break_a_promise_are_refused_with_their_reason() {
        for (name, reason) in FORBIDDEN {
            let config = Config { properties: Properties([(name.to_string(), "1".to_owned())].into()), ..Config::default() };
            let problems = config.check();
            assert_eq!(problems.len(), 1, "{name}: {problems:?}");
            assert!(problems[0].1.contains(name) && problems[0].1.contains(reason), "{problems:?}");
        }
    }

    #[test]
    fn properties_are_text_numbers_or_booleans_and_librdkafka_judges_the_names() {
        let config = parse("[properties]\n\"linger.ms\" = 3\n\"check.crcs\" = true\n\"client.rack\" = \"a\"").unwrap();
        assert_eq!(config.check(), []);
        assert_eq!(config.producer().get("linger.ms"), Some("3"));

        for wrong in ["\"no.such.thing\" = 1", "\"linger.ms\" = \"soon\"", "\"queue.buffering.max.kbytes\" = 1024"] {
            let config = parse(&format!("[properties]\n{wrong}")).unwrap();
            let problems = config.check();
            assert_eq!(problems.len(), 1, "{wrong}: {problems:?}");
            assert_eq!(problems[0].0, "properties");
        }
    }

    #[test]
    fn what_needs_openssl_names_the_build_that_has_it() {
        let asked = [
            ("security.protocol", "SSL", "security.protocol = SSL"),
            ("security.protocol", "sasl_ssl", "security.protocol = sasl_ssl"),
            ("sasl.mechanism", "SCRAM-SHA-512", "sasl.mechanism = SCRAM-SHA-512"),
            ("sasl.mechanisms", "OAUTHBEARER", "sasl.mechanisms = OAUTHBEARER"),
            ("ssl.key.password", "hunter2", "ssl.key.password"),
        ];
        for (name, value, needs) in asked {
            let config = Config { properties: Properties([(name.to_owned(), value.to_owned())].into()), ..Config::default() };
            assert_eq!(config.needs_tls().as_deref(), Some(needs));
            let lacking = ("properties", format!("`{needs}` is not in this build: build with `--features kafka-tls`"));
            assert_eq!(config.check().contains(&lacking), !TLS, "{name} = {value}");
        }
        for (name, value) in [("security.protocol", "sasl_plaintext"), ("sasl.mechanism", "PLAIN")] {
            let config = Config { properties: Properties([(name.to_owned(), value.to_owned())].into()), ..Config::default() };
            assert_eq!(config.needs_tls(), None, "{name} = {value}");
        }
    }

    #[test]
    fn an_alias_takes_the_place_of_our_default() {
        let config = parse("[properties]\n\"message.timeout.ms\" = 7000").unwrap();
        assert_eq!(config.producer().get("delivery.timeout.ms"), None);
        assert_eq!(config.producer().get("message.timeout.ms"), Some("7000"));
    }

    #[test]
    fn the_brokers_own_group_protocol_takes_no_session_timeout() {
        let config = parse("[properties]\n\"group.protocol\" = \"consumer\"").unwrap();
        assert_eq!(config.check(), []);
        assert_eq!(config.consumer("g", None).get("session.timeout.ms"), None);
        assert_eq!(Config::default().consumer("g", None).get("session.timeout.ms"), Some("10000"));
    }

    #[test]
    fn a_start_is_earliest_latest_or_a_time() {
        assert_eq!(parse("start = \"latest\"").unwrap().start, Start::Latest);
        let time = parse("start = \"2026-01-31T08:00:00Z\"").unwrap().start;
        assert_eq!(time, Start::At("2026-01-31T08:00:00Z".parse().unwrap()));
        let wrong = parse("start = \"yesterday\"").unwrap_err().to_string();
        assert!(wrong.contains("`yesterday` is no start"), "{wrong}");
    }

    #[test]
    fn secrets_are_not_printed() {
        let config = parse("[properties]\n\"sasl.password\" = \"hunter2\"\n\"sasl.username\" = \"me\"").unwrap();
        let text = format!("{config:?}");
        assert!(text.contains("***") && text.contains("me") && !text.contains("hunter2"), "{text}");
    }
}
