//! A delivery as a record: the event in own JSON as the value, everything else in headers, so that it can be read with any Kafka tool.
//!
//! | header | holds |
//! |---|---|
//! | `posthaste-delivery` | version of this table: `1` |
//! | `posthaste-event-id`, `posthaste-endpoint` | ids |
//! | `posthaste-attempts` | attempts made so far |
//! | `posthaste-accepted-at`, `posthaste-due-at`? | RFC 3339 |
//! | `posthaste-origin`? | `topic:partition:offset` of the record that first held the event; without it this record is that one |
//! | `posthaste-registry-offset` | where the endpoint was known; `-1`: declared in the configuration |
//! | `posthaste-purpose`? | `test`, `replay`, `redrive` or `agent` |
//! | `posthaste-reason`? | why it is here |
//!
//! Headers that are not in the table are ignored: a newer version of the program may add some without breaking an older one beside it.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, de::IntoDeserializer};

use super::{Encoded, Unreadable, decode_event, event_json};
use crate::{
    log::Record,
    model::{Delivery, Position, Purpose, Text, Timestamp},
};

pub(super) const DELIVERY: &str = "posthaste-delivery";
const VERSION: &[u8] = b"1";
const EVENT_ID: &str = "posthaste-event-id";
const ENDPOINT: &str = "posthaste-endpoint";
const ATTEMPTS: &str = "posthaste-attempts";
const ACCEPTED_AT: &str = "posthaste-accepted-at";
const DUE_AT: &str = "posthaste-due-at";
pub(super) const ORIGIN: &str = "posthaste-origin";
const REGISTRY_OFFSET: &str = "posthaste-registry-offset";
const PURPOSE: &str = "posthaste-purpose";
pub(super) const REASON: &str = "posthaste-reason";

/// The origin of a delivery that has no record of its own yet: where it is appended becomes its origin.
pub fn unplaced(topic: Arc<str>) -> Position {
    Position { topic, partition: -1, offset: -1 }
}

/// Whether the record is a delivery, of whatever version.
pub fn is_delivery(record: &Record) -> bool {
    record.header(DELIVERY).is_some()
}

/// Writes a delivery, keyed by its endpoint.
pub fn encode_delivery(delivery: &Delivery) -> Encoded {
    let mut headers: Vec<(Cow<'static, str>, Bytes)> = Vec::with_capacity(11);
    let mut put = |name: &'static str, value: Bytes| headers.push((Cow::Borrowed(name), value));
    put(DELIVERY, Bytes::from_static(VERSION));
    put(EVENT_ID, delivery.event.id.as_bytes().clone());
    put(ENDPOINT, delivery.endpoint.as_bytes().clone());
    put(ATTEMPTS, delivery.attempts.to_string().into());
    put(ACCEPTED_AT, delivery.accepted_at.to_string().into());
    if let Some(due_at) = delivery.due_at {
        put(DUE_AT, due_at.to_string().into());
    }
    if delivery.origin.offset >= 0 {
        put(ORIGIN, delivery.origin.to_string().into());
    }
    put(REGISTRY_OFFSET, delivery.registry_offset.to_string().into());
    match delivery.purpose {
        Purpose::Event => {}
        Purpose::Test => put(PURPOSE, Bytes::from_static(b"test")),
        Purpose::Replay => put(PURPOSE, Bytes::from_static(b"replay")),
        Purpose::Redrive => put(PURPOSE, Bytes::from_static(b"redrive")),
        Purpose::Agent => put(PURPOSE, Bytes::from_static(b"agent")),
    }
    if let Some(reason) = &delivery.reason {
        put(REASON, reason.as_bytes().clone());
    }
    if let Some(parent) = &delivery.event.traceparent {
        put("traceparent", parent.as_bytes().clone());
    }
    Encoded { key: Some(delivery.endpoint.as_bytes().clone()), value: Some(event_json(&delivery.event)), headers }
}

/// Reads a delivery, with its event as [`decode_event`] does.
pub fn decode_delivery(record: &Record) -> Result<Delivery, Unreadable> {
    match record.header(DELIVERY) {
        Some(version) if version == VERSION => {}
        Some(version) => {
            let version = String::from_utf8_lossy(&version[..version.len().min(16)]);
            return Err(Unreadable::because(format!("`{DELIVERY}` is `{version}`: this version of posthaste reads 1")));
        }
        None => return Err(Unreadable::because(format!("the record is no delivery: it has no header `{DELIVERY}`"))),
    }
    let text = |name: &'static str| -> Result<Option<Text>, Unreadable> {
        let Some(value) = record.header(name) else { return Ok(None) };
        Text::try_from(value.clone()).map(Some).map_err(|_| Unreadable::because(format!("`{name}` is no UTF-8")))
    };
    let required = |name: &'static str| text(name)?.ok_or_else(|| Unreadable::because(format!("`{name}` is missing")));

    let mut event = decode_event(record)?;
    // A record that was appended without the id (its first record's position is one) is known by the id it had there.
    if let Some(id) = text(EVENT_ID)?.filter(|id| !id.is_empty()) {
        event.id = id;
    }
    let accepted_at = parse::<Timestamp>(ACCEPTED_AT, &required(ACCEPTED_AT)?)?;
    let origin = match text(ORIGIN)? {
        Some(origin) => parse_position(&origin).ok_or_else(|| wrong(ORIGIN, &origin))?,
        None => record.position.clone(),
    };
    Ok(Delivery {
        endpoint: required(ENDPOINT)?,
        origin,
        attempts: parse(ATTEMPTS, &required(ATTEMPTS)?)?,
        accepted_at,
        due_at: text(DUE_AT)?.map(|due_at| parse(DUE_AT, &due_at)).transpose()?,
        registry_offset: parse(REGISTRY_OFFSET, &required(REGISTRY_OFFSET)?)?,
        purpose: match text(PURPOSE)? {
            None => Purpose::Event,
            Some(purpose) => Purpose::deserialize(IntoDeserializer::<serde::de::value::Error>::into_deserializer(&*purpose))
                .map_err(|_| wrong(PURPOSE, &purpose))?,
        },
        reason: text(REASON)?,
        event: Arc::new(event),
    })
}

/// `topic:partition:offset`; a topic may hold colons itself (WIRE.md 4.5).
pub fn parse_position(text: &str) -> Option<Position> {
    let mut parts = text.rsplitn(3, ':');
    let offset = parts.next()?.parse().ok()?;
    let partition = parts.next()?.parse().ok()?;
    let topic = parts.next().filter(|topic| !topic.is_empty())?;
    Some(Position { topic: topic.into(), partition, offset })
}

fn parse<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, Unreadable> {
    text.parse().map_err(|_| wrong(name, text))
}

fn wrong(name: &str, text: &str) -> Unreadable {
    Unreadable::because(format!("`{name}` is `{}`, which it cannot be", super::clip(text)))
}
