//! `hub`: Hub Message DEFAULT (WIRE.md 4.6).
//!
//! `data` is the product's `message` object, or, for template events, the whole element (section 0, row 19). All message events carry
//! the one type `NEW_MESSAGE`; events without a documented shape carry their own (row 12).

use bytes::Bytes;

use super::object::Object;
use crate::model::Event;

pub(super) fn body(event: &Event) -> Bytes {
    let kind = match &*event.kind {
        "UPDATE_TEMPLATE_STATUS" | "UPDATE_TEMPLATE_CATEGORY" => return array(&event.data),
        "MESSAGE_RECEIVED" | "MESSAGE_DELIVERY" | "MESSAGE_STATUS" | "RECEIVED_STATUS" | "RECEIVED_AND_DELIVERY" => "NEW_MESSAGE",
        other => other,
    };
    let mut object = Object::new(&event.data);
    object.json("message", &event.data);
    object.text("messageEventType", kind);
    object.end()
}

/// Template events are always sent as an array.
fn array(data: &Bytes) -> Bytes {
    if data.trim_ascii_start().starts_with(b"[") {
        return data.clone();
    }
    let data = if data.is_empty() { b"null" } else { &data[..] };
    [b"[", data, b"]"].concat().into()
}
