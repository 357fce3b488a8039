//! Payloads: the body of a request, one file per format.
//!
//! The event's `data` is JSON text and is copied once, into the buffer of the body, never parsed. Data of one product in the format of
//! another goes out verbatim inside of that format's envelope (WIRE.md section 0, row 20): a payload is never an error.

mod cloudevents;
mod hub;
mod standard;

use std::io::Write as _;

use bytes::Bytes;
use http::HeaderValue;

use crate::model::{Event, Format};

/// Room for the envelope around the data, so that a body is one allocation in nearly all cases.
const ENVELOPE: usize = 384;

/// The body of `event` in `format`.
pub fn body(format: Format, event: &Event) -> Bytes {
    match format {
        Format::Standard => standard::body(event),
        Format::CloudEvents => cloudevents::body(event),
        Format::Hub => hub::body(event),
    }
}

pub fn content_type(format: Format) -> HeaderValue {
    HeaderValue::from_static(match format {
        Format::Standard | Format::Hub => "application/json",
        Format::CloudEvents => "application/cloudevents+json; charset=utf-8",
    })
}

/// JSON text of one object, written member by member. Names are ours and need no escaping; values are escaped.
struct Object(Vec<u8>);

impl Object {
    fn new(data: &[u8]) -> Object {
        let mut text = Vec::with_capacity(data.len() + ENVELOPE);
        text.push(b'{');
        Object(text)
    }

    fn name(&mut self, name: &str) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        self.0.push(b'"');
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        serde_json::to_writer(&mut self.0, value).expect("text is JSON, and a Vec takes it");
    }

    fn time(&mut self, name: &str, value: crate::model::Timestamp) {
        self.name(name);
        write!(self.0, "\"{value}\"").expect("a Vec takes all bytes");
    }

    /// `value` is JSON text; without any it is `null`.
    fn json(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        self.0.extend_from_slice(if value.is_empty() { b"null" } else { value });
    }

    fn end(mut self) -> Bytes {
        self.0.push(b'}');
        self.0.into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::model::{Direction, Priority};

    pub(crate) fn event(kind: &'static str, data: &'static str) -> Event {
        Event {
            id: "evt_1".into(),
            kind: kind.into(),
            channel: "whats \"app\"".into(),
            direction: Some(Direction::In),
            time: "2026-01-15T10:30:00.25Z".parse().expect("a time"),
            tenant: "acme".into(),
            subject: Some("lead/1".into()),
            priority: Priority::Normal,
            traceparent: None,
            data: Bytes::from_static(data.as_bytes()),
        }
    }

    fn value(format: Format, event: &Event) -> Value {
        serde_json::from_slice(&body(format, event)).expect("JSON")
    }

    #[test]
    fn standard_is_the_event_as_json() {
        assert_eq!(
            value(Format::Standard, &event("lead.created", r#"{"a":[1,2.0]}"#)),
            json!({"id": "evt_1", "type": "lead.created", "channel": "whats \"app\"", "direction": "IN",
                "time": "2026-01-15T10:30:00.25Z", "tenant": "acme", "subject": "lead/1", "data": {"a": [1, 2.0]}})
        );
        let bare = Event { direction: None, subject: None, tenant: "default".into(), priority: Priority::High, ..event("x", "") };
        assert_eq!(
            value(Format::Standard, &bare),
            json!({"id": "evt_1", "type": "x", "channel": "whats \"app\"", "time": "2026-01-15T10:30:00.25Z",
                "tenant": "default", "priority": "high", "data": null})
        );
    }

    #[test]
    fn data_goes_out_byte_by_byte() {
        let data = r#"{ "big": 12345678901234567890.000,  "x":"é\u0041" }"#;
        for format in [Format::Standard, Format::CloudEvents, Format::Hub] {
            let body = body(format, &event("x", data));
            assert!(std::str::from_utf8(&body).expect("UTF-8").contains(data), "{format:?}");
        }
    }

    #[test]
    fn cloudevents_has_the_attributes_that_the_specification_requires() {
        let value = value(Format::CloudEvents, &Event { traceparent: Some("00-1-2-01".into()), ..event("lead.created", "{}") });
        assert_eq!(
            value,
            json!({"specversion": "1.0", "id": "evt_1", "source": "/tenants/acme/channels/whats%20%22app%22", "type": "lead.created",
                "time": "2026-01-15T10:30:00.25Z", "subject": "lead/1", "datacontenttype": "application/json",
                "tenant": "acme", "channel": "whats \"app\"", "direction": "IN", "traceparent": "00-1-2-01", "data": {}})
        );
    }

    /// Event type, data, body: WIRE.md 4.6 and rows 12, 19, 20 of section 0.
    #[test]
    fn hub_wraps_each_kind_as_the_product_does() {
        let cases: BTreeMap<&'static str, (&'static str, Value)> = [
            ("MESSAGE_RECEIVED", (r#"{"_id":"M1"}"#, json!({"message": {"_id": "M1"}, "messageEventType": "NEW_MESSAGE"}))),
            ("MESSAGE_STATUS", (r#"{"_id":"M1"}"#, json!({"message": {"_id": "M1"}, "messageEventType": "NEW_MESSAGE"}))),
            ("MESSAGE_DELIVERY", (r#"{"_id":"M1"}"#, json!({"message": {"_id": "M1"}, "messageEventType": "NEW_MESSAGE"}))),
            ("CONNECTED", (r#"{"phone":"55"}"#, json!({"message": {"phone": "55"}, "messageEventType": "CONNECTED"}))),
            ("UPDATE_TEMPLATE_STATUS", (r#"{"field":"f"}"#, json!([{"field": "f"}]))),
            ("UPDATE_TEMPLATE_CATEGORY", (r#" [{"field":"f"}]"#, json!([{"field": "f"}]))),
            ("lead.created", (r#"{"id":1}"#, json!({"message": {"id": 1}, "messageEventType": "lead.created"}))),
        ]
        .into();
        for (kind, (data, expected)) in cases {
            assert_eq!(value(Format::Hub, &event(kind, data)), expected, "{kind}");
        }
    }
}
