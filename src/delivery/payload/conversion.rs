//! `conversion`: Zenvia Conversion, shape A (WIRE.md 2.1). The event's type is the topic, its data goes along verbatim (section 0, rows 8
//! and 19).

use bytes::Bytes;

use super::object::Object;
use crate::model::Event;

pub(super) fn body(event: &Event) -> Bytes {
    let mut object = Object::new(&event.data);
    object.text("topic", &event.kind);
    object.time("eventTime", event.time);
    object.json("data", &event.data);
    object.end()
}
