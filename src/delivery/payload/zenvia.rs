//! `zenvia`: Zenvia Customer Cloud, payload version v2 (WIRE.md 1.6 to 1.13).
//!
//! The envelope is written here, the members beside it are the event's data, verbatim and not looked into (section 0, row 19). `channel`
//! and `direction` stand in the envelope of those types only whose tables have them. A producer that writes a member of the envelope into
//! its data breaks row 19, and its receivers see that member twice: to find out would mean to read every body.

use bytes::Bytes;

use super::{object::Object, standard::direction_name};
use crate::model::Event;

pub(super) fn body(event: &Event, endpoint: &str) -> Bytes {
    body_with(event, &event.data, endpoint)
}

/// `data` takes the place of the event's.
pub(super) fn body_with(event: &Event, data: &[u8], endpoint: &str) -> Bytes {
    let mut object = Object::new(data);
    object.text("id", &event.id);
    object.time("timestamp", event.time);
    object.text("type", &event.kind);
    object.text("subscriptionId", endpoint);
    let (own, channel, direction) = match &*event.kind {
        "MESSAGE" => (true, true, true),
        "MESSAGE_STATUS" => (true, true, false),
        "CONVERSATION_STATUS" | "CONVERSATION_MESSAGE" | "SUPPORT_EXPERT_AGENT" | "CONTACT" => (true, false, false),
        _ => (false, true, true),
    };
    if channel {
        object.text("channel", &event.channel);
    }
    if let Some(towards) = event.direction.filter(|_| direction) {
        object.text("direction", direction_name(towards));
    }
    // Data of other products is one member, so that its names cannot meet those of the envelope (row 20).
    if !own || !object.splice(data) {
        object.json("data", data);
    }
    object.end()
}
