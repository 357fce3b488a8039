//! CloudEvents 1.0 in Kafka's binary mode: attributes are headers `ce_<name>`, the value is the data (CloudEvents Kafka Protocol Binding
//! 1.0.2, section 3.2). The structured mode is read together with own JSON, in the parent module.
//!
//! What a CloudEvent has no attribute for comes as an extension: `channel` (else its `source` is the channel), `direction`, `tenant`,
//! `priority`, `traceparent` (the distributed tracing extension).

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, de::IntoDeserializer};
use serde_json::value::RawValue;

use super::{Unreadable, json_text, name_field, parse_time, subject_field, traceparent};
use crate::{
    log::Record,
    model::{Event, FieldError, Text, time::timestamp_from_ms},
};

pub(super) fn is_binary(record: &Record) -> bool {
    record.header("ce_specversion").is_some()
}

pub(super) fn decode_binary(record: &Record) -> Result<Event, Unreadable> {
    let text = |name: &str| -> Result<Option<Text>, FieldError> {
        let Some(value) = record.header(name) else { return Ok(None) };
        Text::try_from(value.clone()).map(Some).map_err(|_| FieldError::new(name, "is no UTF-8"))
    };
    let name = |header: &str| text(header)?.map(|value| name_field(header, value)).transpose();
    let required = |header: &str| name(header)?.ok_or_else(|| FieldError::new(header, "is missing"));

    match text("ce_specversion")? {
        Some(version) if version == "1.0" => {}
        _ => return Err(FieldError::new("ce_specversion", "is not `1.0`: only CloudEvents 1.0 can be read").into()),
    }
    let source = required("ce_source")?;
    Ok(Event {
        id: required("ce_id")?,
        kind: required("ce_type")?,
        channel: name("ce_channel")?.unwrap_or(source),
        direction: word("ce_direction", text("ce_direction")?)?,
        time: match text("ce_time")? {
            Some(time) => parse_time("ce_time", &time)?,
            None => timestamp_from_ms(record.appended_ms),
        },
        tenant: name("ce_tenant")?.unwrap_or(Text::from_static(Event::DEFAULT_TENANT)),
        subject: text("ce_subject")?.map(|subject| subject_field("ce_subject", subject)).transpose()?,
        priority: word("ce_priority", text("ce_priority")?)?.unwrap_or_default(),
        traceparent: record.header("ce_traceparent").and_then(traceparent),
        data: data(record)?,
    })
}

/// A word of a closed set.
fn word<T: for<'de> Deserialize<'de>>(name: &str, value: Option<Text>) -> Result<Option<T>, FieldError> {
    value
        .map(|value| T::deserialize(IntoDeserializer::<serde::de::value::Error>::into_deserializer(&*value)))
        .transpose()
        .map_err(|error| FieldError::new(name, format!("is wrong: {error}")))
}

/// The data as JSON text: as it came if it is JSON, as a text if it is text, else in base64.
fn data(record: &Record) -> Result<Bytes, FieldError> {
    let Some(value) = record.value.as_ref().filter(|value| !value.is_empty()) else { return Ok(Bytes::from_static(b"null")) };
    let kind = record.header("content-type").map(|kind| kind.to_ascii_lowercase());
    let is_json = kind.as_ref().is_none_or(|kind| {
        let kind = kind.split(|byte| *byte == b';').next().unwrap_or(kind).trim_ascii();
        kind.ends_with(b"/json") || kind.ends_with(b"+json")
    });
    if is_json {
        let _: &RawValue = serde_json::from_slice(value).map_err(|error| FieldError::new("data", format!("is no JSON: {error}")))?;
        return Ok(value.clone());
    }
    Ok(match std::str::from_utf8(value) {
        Ok(text) => json_text(text),
        Err(_) => json_text(&STANDARD.encode(value)),
    })
}
