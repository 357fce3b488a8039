//! `[kafka]`: what a person sets, what posthaste sets, and what nobody may set.

use std::{collections::BTreeMap, fmt, time::Duration};

use rdkafka::{
    ClientConfig,
    client::{Client, DefaultClientContext},
    config::RDKafkaLogLevel,
    error::KafkaError,
    types::{RDKafkaConfRes, RDKafkaType},
};
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

/// `[kafka.properties]`; numbers and booleans are taken as well as text, and `sasl.username` without quotes, which is a table in TOML, as the name that it
/// was meant to be. It prints secrets masked.
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
        #[serde(untagged, expecting = "must be text, a number, true or false")]
        enum Value {
            Flag(bool),
            Whole(i64),
            Fraction(f64),
            Text(String),
            Below(BTreeMap<String, Value>),
        }

        fn flatten<E: serde::de::Error>(
            values: BTreeMap<String, Value>,
            above: &str,
            flat: &mut BTreeMap<String, String>,
        ) -> Result<(), E> {
            for (name, value) in values {
                // What a date is to the reader of TOML.
                if name.starts_with("$__toml") {
                    return Err(E::custom("must be text, a number, true or false; write it in quotes"));
                }
                let name = format!("{above}{name}");
                let text = match value {
                    Value::Flag(flag) => flag.to_string(),
                    Value::Whole(number) => number.to_string(),
                    Value::Fraction(number) => number.to_string(),
                    Value::Text(text) => text,
                    Value::Below(values) => {
                        flatten(values, &format!("{name}."), flat)?;
                        continue;
                    }
                };
                // Else it would be chance which one wins: the environment's need not be the one without quotes.
                if flat.contains_key(&name) {
                    return Err(E::custom(format!("`{name}` is there twice: write it with quotes in both places, or in neither")));
                }
                flat.insert(name, text);
            }
            Ok(())
        }

        let mut flat = BTreeMap::new();
        flatten(BTreeMap::deserialize(from)?, "", &mut flat)?;
        Ok(Properties(flat))
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
/// The property that says how many KiB of records wait in the producer at most, and its value.
const QUEUE_MAX: &str = "queue.buffering.max.kbytes";
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

/// The key of a property in the section.
fn property(name: &str) -> String {
    format!("properties.{name}")
}

/// Whether only OpenSSL can serve a property: librdkafka has TLS, SCRAM and OAuth from it.
fn needs_tls(name: &str, value: &str) -> bool {
    match name {
        "security.protocol" => ["ssl", "sasl_ssl"].iter().any(|protocol| value.eq_ignore_ascii_case(protocol)),
        "sasl.mechanism" | "sasl.mechanisms" => {
            let value = value.to_ascii_uppercase();
            value.starts_with("SCRAM-") || value == "OAUTHBEARER"
        }
        name => name.starts_with("ssl."),
    }
}

impl Config {
    /// Problems with the values: key and text.
    pub fn check(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        if self.brokers.split(',').any(|broker| broker.trim().is_empty()) {
            problems.push(("brokers".to_owned(), "names no broker: write host:port, several separated by commas".to_owned()));
        }
        if self.group.is_empty() {
            problems.push(("group".to_owned(), "is empty: instances that share the work need one name".to_owned()));
        }
        if self.instance.as_ref().is_some_and(String::is_empty) {
            problems
                .push(("instance".to_owned(), "is empty: leave it out, or give each instance a name of its own that it keeps".to_owned()));
        }
        let wrong = self.properties.0.iter().filter_map(|(name, value)| Some((property(name), self.judge(name, value)?)));
        problems.extend(wrong);
        // A record larger than the queue would wait for room for ever.
        let (record, queue) = (self.number("message.max.bytes", MESSAGE_MAX), self.number(QUEUE_MAX, QUEUE_MAX_KIB));
        if queue.saturating_mul(1024) <= record {
            let key = if self.properties.0.contains_key(QUEUE_MAX) { QUEUE_MAX } else { "message.max.bytes" };
            problems.push((property(key), format!("`{QUEUE_MAX}` ({queue} KiB) must be above `message.max.bytes` ({record} bytes)")));
        }
        problems
    }

    /// What is wrong with the properties as a whole or with the files that they name, as [`Config::check`]: librdkafka says it of the clients that it is to
    /// make. They know no broker, so they connect to nobody.
    pub fn try_out(&self) -> Vec<(String, String)> {
        let kinds = [(RDKafkaType::RD_KAFKA_PRODUCER, self.producer()), (RDKafkaType::RD_KAFKA_CONSUMER, self.consumer(&self.group, None))];
        // Of our defaults we know that they are right. A client without a property that is wrong by itself would complain of its absence.
        if self.properties.0.is_empty() || self.check().iter().any(|(key, _)| key.starts_with("properties")) {
            return Vec::new();
        }
        let mut problems = Vec::new();
        for (kind, mut config) in kinds {
            let native = config.remove("bootstrap.servers").create_native_config();
            let client = native.and_then(|native| Client::new(&config, native, kind, DefaultClientContext));
            problems.extend(client.err().map(|wrong| self.told(&wrong)));
        }
        problems.dedup();
        problems
    }

    /// What is wrong with one property, whatever the others are.
    fn judge(&self, name: &str, value: &str) -> Option<String> {
        if let Some((_, reason)) = FORBIDDEN.iter().find(|(forbidden, _)| *forbidden == name) {
            return Some(format!("cannot be set: {reason}"));
        }
        if !TLS && needs_tls(name, value) {
            let what = if name.starts_with("ssl.") { String::new() } else { format!("`{value}` ") };
            return Some(format!("{what}is not in this build: build with `--features kafka-tls`"));
        }
        // Plugins are loaded when they are named: that is for who makes a client.
        if name == "plugin.library.paths" {
            return None;
        }
        match ClientConfig::new().set(name, value).create_native_config() {
            Ok(_) => None,
            Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => {
                Some("librdkafka has no property of this name: its CONFIGURATION.md lists them all".to_owned())
            }
            Err(_) if name == "security.protocol" => Some(format!("`{value}` is none of plaintext, ssl, sasl_plaintext, sasl_ssl")),
            Err(wrong) => Some(self.told(&wrong).1),
        }
    }

    /// The words of librdkafka, with the key of the property that they name or whose value they repeat.
    fn told(&self, wrong: &KafkaError) -> (String, String) {
        let words = match wrong {
            KafkaError::ClientConfig(_, words, ..) | KafkaError::ClientCreation(words) => words.trim().to_owned(),
            other => other.to_string(),
        };
        // A short value may stand anywhere by chance.
        let is_meant = |name: &str, value: &str| {
            words.contains(name) || words.ends_with(&format!(": {value}")) || (value.len() > 8 && words.contains(value))
        };
        let meant =
            self.properties.0.iter().filter(|(name, value)| is_meant(name, value)).map(|(name, _)| name).max_by_key(|name| name.len());
        (
            meant.map_or("properties".to_owned(), |name| property(name)),
            format!("librdkafka: {} (see its CONFIGURATION.md)", self.scrub(&words)),
        )
    }

    fn number(&self, name: &str, default: u64) -> u64 {
        self.properties.0.get(name).and_then(|text| text.parse().ok()).unwrap_or(default)
    }

    /// librdkafka repeats the value it did not like.
    fn scrub(&self, text: &str) -> String {
        let secrets = self.properties.0.iter().filter(|(name, value)| Properties::is_secret(name) && !value.is_empty());
        secrets.fold(text.to_owned(), |text, (_, value)| masked(&text, value))
    }

    /// The largest record (bytes) that a producer of this configuration takes.
    pub(super) fn message_max(&self) -> usize {
        usize::try_from(self.number("message.max.bytes", MESSAGE_MAX)).unwrap_or(usize::MAX)
    }

    pub(super) fn producer(&self) -> ClientConfig {
        let mut client = self.client(&[COMMON, PRODUCER]);
        for (name, value) in [("message.max.bytes", MESSAGE_MAX), (QUEUE_MAX, QUEUE_MAX_KIB), ("batch.size", BATCH_SIZE as u64)] {
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
    pub(super) fn refused(&self, wrong: &KafkaError) -> LogError {
        let (key, words) = self.told(wrong);
        LogError::Fatal(format!("kafka.{key}: {words}"))
    }
}

/// `text` without a secret, where it stands alone: as a part of other words it would be told by what is missing in them.
fn masked(text: &str, secret: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(secret) {
        let (before, after) = (&rest[..at], &rest[at + secret.len()..]);
        let is_part = before.ends_with(char::is_alphanumeric) || after.starts_with(char::is_alphanumeric);
        masked.push_str(before);
        masked.push_str(if is_part { secret } else { "***" });
        rest = after;
    }
    masked + rest
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
            assert!(problems[0].0 == property(name) && problems[0].1.contains(reason), "{problems:?}");
        }
    }

    #[test]
    fn properties_are_text_numbers_or_booleans_and_librdkafka_judges_the_names() {
        let config = parse("[properties]\n\"linger.ms\" = 3\n\"check.crcs\" = true\n\"client.rack\" = \"a\"").unwrap();
        assert_eq!(config.check(), []);
        assert_eq!(config.producer().get("linger.ms"), Some("3"));

        let wrong = parse("[properties]\n\"no.such.thing\" = 1\n\"linger.ms\" = \"soon\"\n\"queue.buffering.max.kbytes\" = 1024").unwrap();
        let found = wrong.check();
        let expected = [
            ("properties.linger.ms", "Invalid value for configuration property"),
            ("properties.no.such.thing", "librdkafka has no property of this name"),
            ("properties.queue.buffering.max.kbytes", "must be above `message.max.bytes`"),
        ];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for ((key, what), (expected, mention)) in found.iter().zip(expected) {
            assert!(key == expected && what.contains(mention), "{key}: {what}");
        }
        assert_eq!(wrong.try_out(), [], "what is wrong by itself was told");

        let unquoted = parse("[properties]\nsasl.username = \"me\"\nsasl.oauthbearer.method = \"oidc\"").unwrap().properties.0;
        assert_eq!(unquoted.keys().collect::<Vec<_>>(), ["sasl.oauthbearer.method", "sasl.username"]);
        let twice = parse("[properties]\nsasl.username = \"me\"\n\"sasl.username\" = \"you\"").unwrap_err().to_string();
        assert!(twice.contains("`sasl.username` is there twice"), "{twice}");
    }

    #[test]
    fn what_librdkafka_says_to_the_whole_is_told_of_the_property_that_it_names() {
        let try_out = |text: &str| parse(&format!("[properties]\n{text}")).unwrap().try_out();
        assert_eq!(try_out("\"client.rack\" = \"a\""), []);
        for (properties, key, mention) in [
            ("\"fetch.max.bytes\" = 1000", "properties.fetch.max.bytes", "must be >= `message.max.bytes`"),
            ("\"sasl.mechanism\" = \"FOO\"\n\"security.protocol\" = \"sasl_plaintext\"", "properties.sasl.mechanism", "FOO"),
        ] {
            let found = try_out(properties);
            assert!(found.len() == 1 && found[0].0.starts_with(key) && found[0].1.contains(mention), "{properties}: {found:?}");
        }
        let secret = "\"sasl.mechanism\" = \"hunter2\"\n\"security.protocol\" = \"sasl_plaintext\"\n\"sasl.password\" = \"hunter2\"";
        assert!(!format!("{:?}", try_out(secret)).contains("hunter2"));
        assert_eq!(masked("plugin `pl`: pl", "pl"), "plugin `***`: ***");
        let plugin = parse("[properties]\n\"plugin.library.paths\" = \"/nonexistent.so\"").unwrap();
        assert_eq!(plugin.check(), [], "it is loaded by who makes a client");
        assert_eq!(plugin.try_out()[0].0, "properties.plugin.library.paths");
        let date = parse("[properties]\n\"client.rack\" = 2026-01-01").unwrap_err().to_string();
        assert!(date.contains("write it in quotes"), "{date}");
    }

    #[test]
    fn what_needs_openssl_names_the_build_that_has_it() {
        let asked = [
            ("security.protocol", "SSL", "`SSL` is not"),
            ("security.protocol", "sasl_ssl", "`sasl_ssl` is not"),
            ("sasl.mechanism", "SCRAM-SHA-512", "`SCRAM-SHA-512` is not"),
            ("sasl.mechanisms", "OAUTHBEARER", "`OAUTHBEARER` is not"),
            ("ssl.key.password", "hunter2", "is not"),
        ];
        for (name, value, needs) in asked {
            let config = Config { properties: Properties([(name.to_owned(), value.to_owned())].into()), ..Config::default() };
            assert!(needs_tls(name, value));
            let lacking = (property(name), format!("{needs} in this build: build with `--features kafka-tls`"));
            assert_eq!(config.check().contains(&lacking), !TLS, "{name} = {value}");
        }
        for (name, value) in [("security.protocol", "sasl_plaintext"), ("sasl.mechanism", "PLAIN")] {
            assert!(!needs_tls(name, value), "{name} = {value}");
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
