//! Events over HTTP: the body is parsed and checked here, and appended to the log like those of any other producer.
//!
//! The answer is given after the append is durable. That is all there is to it: an event that came in over HTTP has no other path than one
//! that a Kafka producer wrote.

use std::sync::Arc;

use bytes::Bytes;
use bytesize::ByteSize;
use serde::{Deserialize, Deserializer as _, Serialize};
use serde_json::value::RawValue;

use crate::{
    log::{
        Append, Log, LogError,
        record::{encode_event, event_from_json},
    },
    model::{Budget, Clock, Event, FieldError, Position, Text, Timestamp},
    telemetry::metrics::Metrics,
};

/// `[ingest]`: bounds of what one request may bring, and of all together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Largest body.
    pub body: ByteSize,
    /// Largest single event, as JSON.
    pub event: ByteSize,
    /// Events in one request.
    pub events: usize,
    /// Bytes that wait for the log over all requests, and as many of bodies that are being read; more is answered 503 at once.
    pub memory: ByteSize,
}

impl Config {
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if !(1..=100_000).contains(&self.events) {
            problems.push(("events", format!("is {}: 1 to 100000 are possible", self.events)));
        }
        if self.event > self.body {
            problems.push(("event", format!("is {}, more than `ingest.body` ({}): an event must fit into a body", self.event, self.body)));
        }
        if self.body > self.memory {
            problems.push((
                "memory",
                format!("is {}, less than `ingest.body` ({}): no large body could ever be taken", self.memory, self.body),
            ));
        }
        problems
    }
}

impl Default for Config {
    fn default() -> Config {
        Config { body: ByteSize::mib(16), event: ByteSize::kib(960), events: 10_000, memory: ByteSize::mib(128) }
    }
}

/// For whom events may be handed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The tenant of events that name none.
    pub tenant: Text,
    /// Whether events of other tenants are refused.
    pub only: bool,
}

/// Why a body was refused; nothing of it was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// 400, with everything that is wrong, up to [`FieldError::AT_ONCE`].
    #[error("{}", FieldError::joined(.0))]
    Wrong(Vec<FieldError>),
    /// 403: nothing is wrong but that events belong to another tenant.
    #[error("{}", FieldError::joined(.0))]
    Forbidden(Vec<FieldError>),
    /// 413.
    #[error("{0}")]
    TooLarge(FieldError),
}

/// Takes events into the log.
pub struct Ingest {
    log: Arc<dyn Log>,
    topic: Arc<str>,
    config: Config,
    /// What waits for the log.
    waiting: Arc<Budget>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl Ingest {
    /// Appends to `topic`, the first of `topics.events`.
    pub fn new(log: Arc<dyn Log>, topic: Arc<str>, config: Config, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Ingest {
        let waiting = Budget::new(usize::try_from(config.memory.0).unwrap_or(usize::MAX));
        Ingest { log, topic, config, waiting, clock, metrics }
    }

    /// Largest body, bytes.
    pub fn body_limit(&self) -> usize {
        usize::try_from(self.config.body.0).unwrap_or(usize::MAX)
    }

    /// Bytes that may wait over all requests.
    pub fn memory_limit(&self) -> usize {
        self.waiting.limit()
    }

    /// Reads a body: one event, an array of them, or events one after the other (newline-delimited JSON). All or nothing.
    pub fn parse(&self, body: &Bytes, scope: &Scope) -> Result<Vec<Event>, Rejection> {
        let parsed = parse(body, scope, &self.config, self.clock.now());
        if parsed.is_err() {
            self.metrics.ingest_events_total.with("refused").increment(1);
        }
        parsed
    }

    /// Appends the events and returns one result for each, in their order, when those that succeeded are durable. An event without id is known by
    /// its position from then on ([`id_of`]). [`LogError::Unavailable`]: perhaps stored; hand it in again (with its id, so that
    /// receivers can tell).
    pub async fn append(&self, events: Vec<Event>) -> Vec<Result<Position, LogError>> {
        let weight = events.iter().map(Event::weight).sum();
        if self.waiting.free() < weight {
            self.metrics.ingest_events_total.with("failed").increment(events.len() as u64);
            let limit = self.config.memory;
            let full = || LogError::Unavailable(format!("more than {limit} (`ingest.memory`) wait for the log already: try again later"));
            return events.iter().map(|_| Err(full())).collect();
        }
        let _waiting = self.waiting.take(weight);
        let appends: Vec<Append> = events.iter().map(|event| encode_event(event).to(Arc::clone(&self.topic))).collect();
        let results = self.log.append(appends).await;
        let stored = results.iter().filter(|result| result.is_ok()).count() as u64;
        self.metrics.ingest_events_total.with("stored").increment(stored);
        self.metrics.ingest_events_total.with("failed").increment(results.len() as u64 - stored);
        results
    }
}

/// What an event is called once it lies at `position`.
pub fn id_of(event: &Event, position: &Position) -> Text {
    if event.id.is_empty() { position.to_string().into() } else { event.id.clone() }
}

fn parse(body: &Bytes, scope: &Scope, config: &Config, now: Timestamp) -> Result<Vec<Event>, Rejection> {
    let wrong = |message: String| Rejection::Wrong(vec![FieldError::new(".", message)]);
    if body.len() as u64 > config.body.0 {
        let message = format!("has {} bytes: {} are allowed (`ingest.body`)", body.len(), config.body.0);
        return Err(Rejection::TooLarge(FieldError::new(".", message)));
    }
    let text = Text::try_from(body.clone()).map_err(|_| wrong("is no UTF-8".into()))?;
    let is_array = text.trim_ascii_start().starts_with('[');
    let documents = documents(&text, is_array, config.events)?;
    if documents.is_empty() {
        return Err(wrong("has no event in it".into()));
    }
    let is_alone = !is_array && documents.len() == 1;
    let mut events = Vec::with_capacity(documents.len());
    let (mut errors, mut foreign) = (Vec::new(), Vec::new());
    for (index, document) in documents.into_iter().enumerate() {
        let placed = |error: FieldError| if is_alone { error } else { error.within(&format!("[{index}]")) };
        if document.len() as u64 > config.event.0 {
            let message = format!("has {} bytes: {} are allowed (`ingest.event`)", document.len(), config.event.0);
            return Err(Rejection::TooLarge(placed(FieldError::new(".", message))));
        }
        match event_from_json(&text.slice_ref(document), now, &scope.tenant) {
            Ok(event) if scope.only && event.tenant != scope.tenant => {
                foreign.push(placed(FieldError::new("tenant", "is not the tenant of the token")));
            }
            Ok(event) => events.push(event),
            Err(wrong) => errors.extend(wrong.into_iter().map(placed)),
        }
        if errors.len() + foreign.len() >= FieldError::AT_ONCE {
            break;
        }
    }
    if errors.is_empty() && !foreign.is_empty() {
        return Err(Rejection::Forbidden(foreign));
    }
    errors.extend(foreign);
    errors.truncate(FieldError::AT_ONCE);
    if errors.is_empty() { Ok(events) } else { Err(Rejection::Wrong(errors)) }
}

/// The JSON documents of a body: the elements of an array, or what stands one after the other.
fn documents(text: &str, is_array: bool, limit: usize) -> Result<Vec<&str>, Rejection> {
    struct Elements(usize);

    impl<'de> serde::de::Visitor<'de> for Elements {
        type Value = Vec<&'de str>;

        fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            out.write_str("an array of events")
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<&'de str>, A::Error> {
            let mut documents = Vec::new();
            while let Some(element) = elements.next_element::<&RawValue>()? {
                // One more than allowed is enough to know; the rest is read over.
                if documents.len() <= self.0 {
                    documents.push(element.get());
                }
            }
            Ok(documents)
        }
    }

    let malformed = |error: serde_json::Error| Rejection::Wrong(vec![FieldError::new(".", format!("is no JSON: {error}"))]);
    let mut json = serde_json::Deserializer::from_str(text);
    let documents = if is_array {
        let documents = (&mut json).deserialize_seq(Elements(limit)).map_err(malformed)?;
        json.end().map_err(malformed)?;
        documents
    } else {
        json.into_iter::<&RawValue>()
            .take(limit + 1)
            .map(|document| document.map(RawValue::get).map_err(malformed))
            .collect::<Result<_, _>>()?
    };
    if documents.len() > limit {
        return Err(Rejection::TooLarge(FieldError::new(".", format!("has more than {limit} events in it (`ingest.events`)"))));
    }
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str, only: bool) -> Result<Vec<Event>, Rejection> {
        let config = Config { body: ByteSize::b(1000), event: ByteSize::b(200), events: 3, ..Config::default() };
        let now = Timestamp::from_second(1_700_000_000).expect("in range");
        parse(&Bytes::copy_from_slice(body.as_bytes()), &Scope { tenant: "acme".into(), only }, &config, now)
    }

    const ONE: &str = r#"{"type":"t","channel":"c","data":{"a":1}}"#;

    #[test]
    fn a_body_is_one_event_an_array_or_one_after_the_other() {
        for (body, count) in [
            (ONE.to_owned(), 1),
            (format!(" \n{ONE}\n"), 1),
            (format!("[{ONE}]"), 1),
            (format!("[{ONE} , {ONE}]"), 2),
            (format!("{ONE}\n{ONE}\r\n\n{ONE}\n"), 3),
        ] {
            let events = read(&body, true).expect(&body);
            assert_eq!(events.len(), count, "{body}");
            assert!(events.iter().all(|event| event.tenant == "acme" && event.id.is_empty() && &*event.data == br#"{"a":1}"#));
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let second = |text: &str| (format!("[{ONE},{text}]"), format!("{ONE}\n{text}"));
        for (text, path, part) in [
            (r#"{"type":"t","channel":"c"}"#, "[1].data", "is missing"),
            (r#"{"type":"","channel":"c","data":1}"#, "[1].type", "is empty"),
            (r#"{"type":[],"channel":"c","data":1}"#, "[1].type", "a text"),
            ("7", "[1]", "is no JSON object"),
        ] {
            let (array, lines) = second(text);
            for body in [array, lines] {
                let Err(Rejection::Wrong(errors)) = read(&body, true) else { panic!("{body}") };
                assert_eq!((errors.len(), &*errors[0].path), (1, path), "{body}");
                assert!(errors[0].message.contains(part), "{body}: {errors:?}");
            }
        }
        for body in ["", " ", "[]", "{", "[", "[1", "nonsense", "{}x"] {
            assert!(matches!(read(body, true), Err(Rejection::Wrong(errors)) if !errors[0].path.starts_with('[')), "{body}");
        }
        let Err(Rejection::Wrong(errors)) = read(r#"{"type":"t","data":1}"#, true) else { panic!("no channel") };
        assert_eq!(errors[0].path, "channel");
    }

    #[test]
    fn all_mistakes_of_all_events_come_at_once_up_to_a_bound() {
        let paths = |body: &str| match read(body, true) {
            Err(Rejection::Wrong(errors)) => errors.into_iter().map(|error| error.path).collect::<Vec<_>>(),
            other => panic!("{body}: {other:?}"),
        };
        assert_eq!(
            paths(&format!(r#"[{{"type":"","data":1}},{ONE},{{"type":7,"channel":"c"}}]"#)),
            ["[0].type", "[0].channel", "[2].type", "[2].data"]
        );
        let config = Config { events: 1000, ..Config::default() };
        let body = Bytes::from(format!("[{}]", ["{}"; 1000].join(",")));
        let many = parse(&body, &Scope { tenant: "acme".into(), only: true }, &config, Timestamp::UNIX_EPOCH);
        assert!(matches!(many, Err(Rejection::Wrong(errors)) if errors.len() == FieldError::AT_ONCE));
    }

    #[test]
    fn bounds_are_kept() {
        let big = format!(r#"{{"type":"t","channel":"c","data":"{}"}}"#, "x".repeat(300));
        for (body, path) in [(big.clone(), "."), (format!("[{ONE},{big}]"), "[1]"), ("x".repeat(2000), "."), ([ONE; 4].join("\n"), ".")] {
            assert!(matches!(read(&body, true), Err(Rejection::TooLarge(error)) if error.path == path), "{body}");
        }
        assert!(matches!(read(&format!("[{}]", [ONE; 4].join(",")), true), Err(Rejection::TooLarge(_))));
    }

    #[test]
    fn a_token_speaks_for_its_own_tenant_alone() {
        let other = r#"{"type":"t","channel":"c","tenant":"other","data":1}"#;
        assert!(matches!(read(other, true), Err(Rejection::Forbidden(errors)) if errors[0].path == "tenant"));
        let Err(Rejection::Forbidden(errors)) = read(&format!("[{other},{ONE},{other}]"), true) else { panic!("two of another tenant") };
        assert_eq!(errors.iter().map(|error| &*error.path).collect::<Vec<_>>(), ["[0].tenant", "[2].tenant"]);
        let Err(Rejection::Wrong(errors)) = read(&format!("[{other},7]"), true) else {
            panic!("one of another tenant, and one that is none")
        };
        assert_eq!(errors.iter().map(|error| &*error.path).collect::<Vec<_>>(), ["[1]", "[0].tenant"]);
        assert_eq!(read(other, false).expect("an admin may")[0].tenant, "other");
    }
}
