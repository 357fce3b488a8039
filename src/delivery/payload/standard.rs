//! `standard`: the event as JSON, as a producer writes it (DESIGN.md section 5), with the tenant always there.

use bytes::Bytes;

use super::object::Object;
use crate::model::{Direction, Event, Priority};

pub(super) fn body(event: &Event) -> Bytes {
    let mut object = Object::new(&event.data);
    object.text("id", &event.id);
    object.text("type", &event.kind);
    object.text("channel", &event.channel);
    if let Some(direction) = event.direction {
        object.text("direction", direction_name(direction));
    }
    object.time("time", event.time);
    object.text("tenant", &event.tenant);
    if let Some(subject) = &event.subject {
        object.text("subject", subject);
    }
    match event.priority {
        Priority::Normal => {}
        Priority::High => object.text("priority", "high"),
        Priority::Low => object.text("priority", "low"),
    }
    object.json("data", &event.data);
    object.end()
}

pub(super) fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::In => "IN",
        Direction::Out => "OUT",
        Direction::Internal => "INTERNAL",
    }
}
