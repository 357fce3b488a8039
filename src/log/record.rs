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
//!
//! Unknown members are ignored, so that producers may add to their records; what is there must be right.

mod cloudevents;
mod dead;
mod delivery;
mod json;

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use serde::Serialize;

use super::{Append, Record};
use crate::model::{DeadReason, Direction, Event, FieldError, Priority, Text, Timestamp, time::timestamp_from_ms};

pub use dead::{DeadLetter, DeadThing, decode_dead_letter, encode_dead_delivery, encode_dead_record, is_dead_letter};
pub use delivery::{decode_delivery, encode_delivery, is_delivery, parse_position, unplaced};
pub use json::event_from_json;

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

impl From<Vec<FieldError>> for Unreadable {
    fn from(errors: Vec<FieldError>) -> Unreadable {
        Unreadable::because(FieldError::joined(&errors))
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
