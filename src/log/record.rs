//! Bytes of the log ↔ events, deliveries and dead letters.
//!
//! | record | value | headers |
//! |---|---|---|
//! | event, own JSON | `{"id","type","channel","direction"?,"time","tenant"?,"subject"?,"priority"?,"data"}` | `traceparent`? |
//! | event, CloudEvents 1.0 structured | the CloudEvent as JSON | `content-type: application/cloudevents+json`? |
//! | event, CloudEvents 1.0 binary | the data | `ce_specversion`, `ce_id`, `ce_source`, `ce_type`, … |
//! | delivery ([`encode_delivery`]) | the event in own JSON | `posthaste-delivery: 1`, … |
//! | dead letter ([`DeadLetter`]) | that of the delivery or of the record that could not be read | `posthaste-dead: 1`, … |
//!
//! Reading an event copies nothing: its texts and its data are slices of the record's value, so one allocation that the log made carries the
//! whole event until its last delivery is settled. The price is that a small `id` keeps the buffer alive; the data does so anyway.
//! What is wrong is looked for a second time, with the path of the member in hand, only after the fast reading has failed.
//!
//! Unknown members are ignored, so that producers may add to their records; what is there must be right.

mod cloudevents;
mod dead;
mod delivery;

use std::{borrow::Cow, fmt, sync::Arc};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, Visitor},
};
use serde_json::value::RawValue;

use super::{Append, Record};
use crate::model::{DeadReason, Direction, Event, FieldError, Priority, Text, Timestamp, time::timestamp_from_ms};

pub use dead::{DeadLetter, DeadThing, decode_dead_letter, encode_dead_delivery, encode_dead_record, is_dead_letter};
pub use delivery::{decode_delivery, encode_delivery, is_delivery, parse_position, unplaced};

/// W3C Trace Context: 55 characters in version 00; later versions may be longer.
const TRACEPARENT_LIMIT: usize = 128;

/// The parts of a record to append; where it goes is the caller's business.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(Cow<'static, str>, Bytes)>,
}

impl Encoded {
    /// To be appended to the partition of its key.
    pub fn to(self, topic: Arc<str>) -> Append {
        Append { topic, partition: None, key: self.key, value: self.value, headers: self.headers }
    }
}

/// A record that is no event (or no delivery) to us. It goes to the dead letters with this reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    pub reason: DeadReason,
    pub detail: String,
}

impl Unreadable {
    fn because(detail: impl Into<String>) -> Unreadable {
        Unreadable { reason: DeadReason::Unparsable, detail: detail.into() }
    }
}

impl From<FieldError> for Unreadable {
    fn from(error: FieldError) -> Unreadable {
        Unreadable::because(error.to_string())
    }
}

/// A record without anything in it: nothing to deliver and nothing to keep.
pub fn is_tombstone(record: &Record) -> bool {
    record.value.is_none() && !cloudevents::is_binary(record)
}

/// Reads an event in any of the three forms. An event without `id` gets the position of its record as one; an event without
/// `time` the time at which the log took it.
pub fn decode_event(record: &Record) -> Result<Event, Unreadable> {
    let mut event = if cloudevents::is_binary(record) {
        cloudevents::decode_binary(record)?
    } else {
        let value = record.value.as_ref().ok_or_else(|| Unreadable::because("the record has no value"))?;
        if let Some(kind) = record.header("content-type")
            && kind.starts_with(b"application/cloudevents-batch")
        {
            return Err(Unreadable::because("a batch of CloudEvents cannot be settled one by one: send each as a record of its own"));
        }
        let text = Text::try_from(value.clone()).map_err(|_| Unreadable::because("the value is no UTF-8"))?;
        event_from_json(&text, timestamp_from_ms(record.appended_ms), &Text::from_static(Event::DEFAULT_TENANT))?
    };
    if event.id.is_empty() {
        event.id = record.position.to_string().into();
    }
    if event.traceparent.is_none() {
        event.traceparent = record.header("traceparent").and_then(traceparent);
    }
    Ok(event)
}

/// Reads one event (own JSON or a structured CloudEvent) from `text`, whose buffer it shares. An event without `id` has an empty one: it is
/// named by its position once it lies in the log. `now` is the time of an event that does not say when it happened, `tenant` that of an event
/// that names none.
pub fn event_from_json(text: &Text, now: Timestamp, tenant: &Text) -> Result<Event, FieldError> {
    // A derived reader would take an array for the members in their order.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(FieldError::new(".", "is no JSON object"));
    }
    let wire: Wire<'_> = match serde_json::from_str(text) {
        Ok(wire) => wire,
        Err(_) => return Err(locate(text)),
    };
    let share = |part: Cow<'_, str>| match part {
        Cow::Borrowed(part) => text.slice_ref(part),
        Cow::Owned(part) => part.into(),
    };
    let required = |name: &'static str, part: Option<Str<'_>>| match part {
        None => Err(FieldError::new(name, "is missing")),
        Some(part) => name_field(name, share(part.0)),
    };

    let is_cloud_event = wire.specversion.is_some();
    if let Some(version) = &wire.specversion
        && version.0 != "1.0"
    {
        return Err(FieldError::new("specversion", format!("is `{}`: only CloudEvents 1.0 can be read", clip(&version.0))));
    }
    let data = match (wire.data, wire.data_base64) {
        (Some(data), _) => text.slice_ref(data.get()).into_bytes(),
        (None, Some(base64)) if is_cloud_event => json_text(&base64.0),
        (None, _) if is_cloud_event => Bytes::from_static(b"null"),
        (None, _) => return Err(FieldError::new("data", "is missing")),
    };
    Ok(Event {
        id: match wire.id {
            None if is_cloud_event => return Err(FieldError::new("id", "is missing")),
            None => Text::new(),
            Some(id) => name_field("id", share(id.0))?,
        },
        kind: required("type", wire.kind)?,
        channel: match (wire.channel, wire.source) {
            (None, source) if is_cloud_event => required("source", source)?,
            (channel, _) => required("channel", channel)?,
        },
        direction: wire.direction,
        time: match wire.time {
            None => now,
            Some(time) => parse_time("time", &time.0)?,
        },
        tenant: match wire.tenant {
            None => tenant.clone(),
            Some(tenant) => name_field("tenant", share(tenant.0))?,
        },
        subject: wire.subject.map(|subject| subject_field("subject", share(subject.0))).transpose()?,
        priority: wire.priority.unwrap_or_default(),
        traceparent: wire.traceparent.and_then(|parent| traceparent(share(parent.0).as_bytes())),
        data,
    })
}

/// Writes an event as own JSON. Its key is its channel, after its tenant where that is not the default one, so that the events of a channel share a
/// partition. An empty `id` is left out: the position of the record becomes one.
pub fn encode_event(event: &Event) -> Encoded {
    let key = match &*event.tenant {
        Event::DEFAULT_TENANT => event.channel.as_bytes().clone(),
        tenant => Bytes::from(format!("{tenant}/{}", event.channel)),
    };
    let mut headers = Vec::new();
    headers.extend(event.traceparent.as_ref().map(|parent| (Cow::Borrowed("traceparent"), parent.as_bytes().clone())));
    Encoded { key: Some(key), value: Some(event_json(event)), headers }
}

/// The event in own JSON, its data verbatim.
pub(super) fn event_json(event: &Event) -> Bytes {
    #[derive(Serialize)]
    struct Head<'a> {
        #[serde(skip_serializing_if = "str::is_empty")]
        id: &'a str,
        #[serde(rename = "type")]
        kind: &'a str,
        channel: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        direction: Option<Direction>,
        time: Timestamp,
        #[serde(skip_serializing_if = "Option::is_none")]
        tenant: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        subject: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        priority: Option<Priority>,
    }
    let head = Head {
        id: &event.id,
        kind: &event.kind,
        channel: &event.channel,
        direction: event.direction,
        time: event.time,
        tenant: (event.tenant != Event::DEFAULT_TENANT).then_some(&*event.tenant),
        subject: event.subject.as_deref(),
        priority: (event.priority != Priority::Normal).then_some(event.priority),
    };
    let mut json = Vec::with_capacity(event.data.len() + 256);
    serde_json::to_writer(&mut json, &head).expect("texts and enums are always JSON, and a vector takes every byte");
    json.pop();
    json.extend_from_slice(b",\"data\":");
    json.extend_from_slice(&event.data);
    json.push(b'}');
    json.into()
}

/// The members of an own event and of a structured CloudEvent in one, so that one pass over the text reads either.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, default)]
    id: Option<Str<'a>>,
    #[serde(borrow, default, rename = "type")]
    kind: Option<Str<'a>>,
    #[serde(borrow, default)]
    channel: Option<Str<'a>>,
    #[serde(default)]
    direction: Option<Direction>,
    #[serde(borrow, default)]
    time: Option<Str<'a>>,
    #[serde(borrow, default)]
    tenant: Option<Str<'a>>,
    #[serde(borrow, default)]
    subject: Option<Str<'a>>,
    #[serde(default)]
    priority: Option<Priority>,
    #[serde(borrow, default)]
    traceparent: Option<Str<'a>>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    specversion: Option<Str<'a>>,
    #[serde(borrow, default)]
    source: Option<Str<'a>>,
    #[serde(borrow, default)]
    data_base64: Option<Str<'a>>,
}

/// A member that is `null` is there, other than serde's `Option` has it.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// Text of a JSON document: a slice of it unless it holds escapes.
struct Str<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Str<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Str<'a>, D::Error> {
        struct AsIs;

        impl<'de> Visitor<'de> for AsIs {
            type Value = Str<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a text")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Str<'de>, E> {
                Ok(Str(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Str<'de>, E> {
                Ok(Str(Cow::Owned(text.to_owned())))
            }
        }

        from.deserialize_str(AsIs)
    }
}

/// Reads again what could not be read, to say where it is wrong.
fn locate(text: &str) -> FieldError {
    let mut json = serde_json::Deserializer::from_str(text);
    match serde_path_to_error::deserialize::<_, Wire<'_>>(&mut json) {
        Err(error) => {
            let path = error.path().to_string();
            FieldError::new(path, format!("is wrong: {}", error.into_inner()))
        }
        Ok(_) => match json.end() {
            Err(error) => FieldError::new(".", format!("is more than one JSON document: {error}")),
            Ok(()) => FieldError::new(".", "is no event"),
        },
    }
}

/// What an event may be called by in its field `name`: its id, type, channel or tenant.
pub fn name_field(name: &str, value: Text) -> Result<Text, FieldError> {
    text_field(name, value, Event::NAME_LIMIT)
}

fn subject_field(name: &str, value: Text) -> Result<Text, FieldError> {
    text_field(name, value, Event::SUBJECT_LIMIT)
}

fn text_field(name: &str, value: Text, limit: usize) -> Result<Text, FieldError> {
    if value.is_empty() {
        Err(FieldError::new(name, "is empty"))
    } else if value.len() > limit {
        Err(FieldError::new(name, format!("has {} bytes: {limit} are allowed", value.len())))
    } else if value.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        Err(FieldError::new(name, "has control characters in it"))
    } else {
        Ok(value)
    }
}

fn parse_time(name: &str, text: &str) -> Result<Timestamp, FieldError> {
    text.parse().map_err(|_| {
        FieldError::new(
            name,
            format!("is `{}`: write a date and time with its offset, as RFC 3339 has it: 2026-01-15T12:00:00Z", clip(text)),
        )
    })
}

/// A trace context that is not even plausible is left out; it is no reason to refuse an event.
fn traceparent(bytes: &Bytes) -> Option<Text> {
    let plausible = (1..=TRACEPARENT_LIMIT).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    plausible.then(|| Text::try_from(bytes.clone()).ok()).flatten()
}

/// `text` as a JSON string.
fn json_text(text: &str) -> Bytes {
    serde_json::to_vec(text).expect("a text is always JSON").into()
}

/// The beginning of a text that came from outside, for a message.
fn clip(text: &str) -> &str {
    const LONGEST: usize = 64;
    &text[..text.floor_char_boundary(LONGEST)]
}

#[cfg(test)]
mod tests;
