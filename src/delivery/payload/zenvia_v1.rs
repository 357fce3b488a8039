//! `zenvia_v1`: Zenvia Customer Cloud, payload version v1, as what differs from v2 (WIRE.md 1.14).
//!
//! - The visitor of a message is a content of type `json`, `{"visitor": {…}}`, before the others. WIRE.md knows the rule only; that form and
//!   place are what receivers of v1 read.
//! - A location is a content of type `json` as well; `{"location": {…}}` follows from the visitor.
//! - A status has a `cause`, one text, in place of `causes`.
//!
//! v1 has neither further types nor the status codes that came with v2: an event that has them is for whoever subscribed to it, and goes out as in v2.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{
    members::{Members, text},
    object::Object,
    zenvia,
};
use crate::model::Event;

pub(super) fn body(event: &Event, endpoint: &str) -> Bytes {
    let changed = match &*event.kind {
        "MESSAGE" => message(&event.data),
        "MESSAGE_STATUS" => status(&event.data),
        _ => None,
    };
    zenvia::body_with(event, changed.as_ref().unwrap_or(&event.data), endpoint)
}

/// None if nothing differs.
fn message(data: &Bytes) -> Option<Bytes> {
    let members = Members::of(data)?;
    let message = members.object("message");
    let visitor = message.get("visitor");
    let contents = message.list("contents");
    if contents.is_empty() && message.get("contents").is_some_and(|contents| contents.get() != "[]") {
        return None;
    }
    if visitor.is_none() && !contents.iter().any(|content| location(content.get()).is_some()) {
        return None;
    }
    let mut changed = Object::new(data);
    for (name, value) in members.iter() {
        if name != "message" {
            changed.copy(name, value);
        }
    }
    changed.open("message");
    for (name, value) in message.iter() {
        if name != "visitor" && name != "contents" {
            changed.copy(name, value);
        }
    }
    changed.open_list("contents");
    if let Some(visitor) = visitor {
        changed.open_item();
        changed.text("type", "json");
        changed.open("payload");
        changed.json("visitor", visitor.get().as_bytes());
        changed.close();
        changed.close();
    }
    for content in contents {
        match location(content.get()) {
            None => changed.json_item(content.get().as_bytes()),
            Some(location) => {
                changed.open_item();
                changed.text("type", "json");
                changed.open("payload");
                changed.open("location");
                for (name, value) in location.iter().filter(|(name, _)| *name != "type") {
                    changed.copy(name, value);
                }
                changed.close();
                changed.close();
                changed.close();
            }
        }
    }
    changed.close_list();
    changed.close();
    Some(changed.end())
}

/// A content, if it is a location.
fn location(content: &str) -> Option<Members<'_>> {
    Members::of(content.as_bytes()).filter(|members| members.text("type").is_some_and(|kind| kind == "location"))
}

/// None if nothing differs.
fn status(data: &Bytes) -> Option<Bytes> {
    let members = Members::of(data)?;
    let status = members.object("messageStatus");
    status.get("causes")?;
    let mut changed = Object::new(data);
    for (name, value) in members.iter() {
        if name != "messageStatus" {
            changed.copy(name, value);
        }
    }
    changed.open("messageStatus");
    for (name, value) in status.iter() {
        if name != "causes" {
            changed.copy(name, value);
        }
    }
    let cause = status.list("causes").into_iter().filter_map(reason).collect::<Vec<_>>().join("; ");
    if status.get("cause").is_none() && !cause.is_empty() {
        changed.text("cause", &cause);
    }
    changed.close();
    Some(changed.end())
}

/// The most telling text of a cause.
fn reason(cause: &RawValue) -> Option<Cow<'_, str>> {
    match Members::of(cause.get().as_bytes()) {
        Some(members) => members.any_text(&["reason", "details", "channelErrorCode"]),
        None => text(cause),
    }
}
