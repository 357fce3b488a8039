//! `cloudevents`: CloudEvents 1.0, structured mode, JSON format. Tenant, channel and direction are extension attributes; tenant and
//! channel are the `source` as well, because source and id together must name an event (specification, section "source").

use std::fmt::Write as _;

use bytes::Bytes;

use super::{object::Object, standard::direction_name};
use crate::model::Event;

pub(super) fn body(event: &Event) -> Bytes {
    let mut object = Object::new(&event.data);
    object.text("specversion", "1.0");
    object.text("id", &event.id);
    object.text("source", &source(event));
    object.text("type", &event.kind);
    object.time("time", event.time);
    if let Some(subject) = &event.subject {
        object.text("subject", subject);
    }
    object.text("datacontenttype", "application/json");
    object.text("tenant", &event.tenant);
    object.text("channel", &event.channel);
    if let Some(direction) = event.direction {
        object.text("direction", direction_name(direction));
    }
    if let Some(traceparent) = &event.traceparent {
        object.text("traceparent", traceparent);
    }
    object.json("data", &event.data);
    object.end()
}

/// A relative URI reference (RFC 3986) of tenant and channel.
fn source(event: &Event) -> String {
    let mut source = String::with_capacity(event.tenant.len() + event.channel.len() + 24);
    source.push_str("/tenants/");
    push_segment(&mut source, &event.tenant);
    source.push_str("/channels/");
    push_segment(&mut source, &event.channel);
    source
}

fn push_segment(into: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            into.push(char::from(byte));
        } else {
            write!(into, "%{byte:02X}").expect("a String takes all text");
        }
    }
}
