//! `chatwoot`: events as Chatwoot tells them (WIRE.md 4.8; section 0, row 13), built from Hub events.
//!
//! The Hub's own body in this format is not published; this is the model of 4.8, and beside it the members of Chatwoot's that media and
//! delivery states need: `attachments` and `status`. The Hub knows no numbers for messages, contacts, inboxes and accounts, so its names stand
//! as ids: the channel is the inbox, the tenant the account, a contact and its conversation are the identifier of the contact.
//!
//! | Hub | Chatwoot |
//! |---|---|
//! | received | `message_created` |
//! | delivery, status | `message_updated`, with `status` |
//! | presence | `conversation_typing_on`, `conversation_typing_off` |
//! | everything else | `notification`, with the data verbatim (row 20) |

use std::borrow::Cow;

use bytes::Bytes;

use super::{
    hub_message::{HubMessage, Kind, Part},
    object::Object,
    z_api::presence_status,
};
use crate::model::{Event, time::timestamp_from_ms};

pub(super) fn body(event: &Event) -> Bytes {
    let body = match &*event.kind {
        "MESSAGE_RECEIVED" | "RECEIVED_STATUS" | "RECEIVED_AND_DELIVERY" => {
            HubMessage::of(event).map(|message| told(event, &message, "message_created"))
        }
        "MESSAGE_DELIVERY" | "MESSAGE_STATUS" => HubMessage::of(event).map(|message| told(event, &message, "message_updated")),
        "PRESENCE_CHAT" => HubMessage::of(event).and_then(|message| typing(event, &message)),
        _ => None,
    };
    body.unwrap_or_else(|| notification(event))
}

fn told(event: &Event, message: &HubMessage<'_>, name: &str) -> Bytes {
    let id = message.id();
    let mut object = Object::new(&event.data);
    object.text("event", name);
    object.text("id", &id);
    object.text_or_null("content", written(message).as_deref());
    object.text("created_at", &date(message.moment()));
    object.text("message_type", if message.is_mine() { "outgoing" } else { "incoming" });
    interactive(&mut object, message);
    object.text("source_id", &id);
    person(&mut object, "sender", &message.sender, if message.is_mine() { "user" } else { "contact" });
    places(&mut object, event);
    conversation(&mut object, event, message);
    if name == "message_updated" {
        let state = message.state().map(|state| state.name).or_else(|| message.members.text("status"));
        object.text_or_null("status", state.map(|state| status(&state)).as_deref());
    }
    attachments(&mut object, message);
    if let Some(part) = message.parts.iter().find(|part| part.kind.is_none()) {
        object.text("notification", &part.name);
        object.json("data", part.json.get().as_bytes());
    }
    object.end()
}

/// None if there is no presence in it.
fn typing(event: &Event, message: &HubMessage<'_>) -> Option<Bytes> {
    let types = matches!(&*presence_status(&message.members)?, "COMPOSING" | "RECORDING");
    let phone = message.phone();
    let mut object = Object::new(b"");
    object.text("event", if types { "conversation_typing_on" } else { "conversation_typing_off" });
    object.text("id", &event.id);
    object.text("created_at", &date(message.moment()));
    object.open("contact");
    object.text_or_null("id", phone.as_deref());
    object.text_or_null("name", message.contact().text("name").or(phone.clone()).as_deref());
    object.text("type", "contact");
    object.close();
    places(&mut object, event);
    conversation(&mut object, event, message);
    Some(object.end())
}

/// What has no form in Chatwoot.
fn notification(event: &Event) -> Bytes {
    let mut object = Object::new(&event.data);
    object.text("event", "notification");
    object.text("id", &event.id);
    object.text("created_at", &date(event.time.as_millisecond()));
    places(&mut object, event);
    object.text("notification", &event.kind);
    object.json("data", &event.data);
    object.end()
}

fn person(object: &mut Object, name: &str, members: &super::members::Members<'_>, kind: &str) {
    object.open(name);
    object.text_or_null("id", members.text("identifier").as_deref());
    object.text_or_null("name", members.any_text(&["name", "identifier"]).as_deref());
    object.text("type", kind);
    object.close();
}

fn places(object: &mut Object, event: &Event) {
    for (name, id) in [("inbox", &event.channel), ("account", &event.tenant)] {
        object.open(name);
        object.text("id", id);
        object.text("name", id);
        object.close();
    }
}

fn conversation(object: &mut Object, event: &Event, message: &HubMessage<'_>) {
    let contact = message.phone();
    let is_whatsapp = message.metadata.text("middleware").is_some_and(|name| name.to_ascii_uppercase().contains("WHATSAPP"));
    object.open("conversation");
    object.text_or_null("id", contact.as_deref());
    object.text("status", "open");
    object.text("channel", if is_whatsapp { "Channel::Whatsapp" } else { "Channel::Api" });
    object.text("inbox_id", &event.channel);
    object.open("contact_inbox");
    object.text_or_null("id", contact.as_deref());
    object.text_or_null("contact_id", contact.as_deref());
    object.text("inbox_id", &event.channel);
    object.text_or_null("source_id", contact.as_deref());
    object.close();
    object.open("additional_attributes");
    object.close();
    object.flag("can_reply", true);
    object.close();
}

/// What is written in the message: its texts, else the text of its buttons, else the caption of its media.
fn written(message: &HubMessage<'_>) -> Option<String> {
    let text = message.text();
    if !text.is_empty() {
        return Some(text);
    }
    let written = |part: &Part<'_>| part.members.text("caption").or_else(|| part.members.text("message")).map(Cow::into_owned);
    message.parts.iter().filter(|part| part.kind.is_some()).find_map(written)
}

/// `content_type` and `content_attributes`: what can be chosen or opened.
fn interactive(object: &mut Object, message: &HubMessage<'_>) {
    let found = message.parts.iter().find(|part| matches!(part.kind, Some(Kind::Buttons | Kind::Actions)));
    let Some(part) = found else {
        object.text("content_type", "text");
        object.open("content_attributes");
        object.close();
        return;
    };
    let is_choice = part.kind == Some(Kind::Buttons);
    object.text("content_type", if is_choice { "input_select" } else { "cards" });
    object.open("content_attributes");
    object.open_list("items");
    if is_choice {
        for button in part.buttons() {
            object.open_item();
            object.text("title", &button.title);
            object.text("value", &button.id);
            object.close();
        }
    } else {
        object.open_item();
        object.text_or_null("title", part.members.object("header").text("message").as_deref());
        object.text_or_null("description", part.members.object("footer").text("message").as_deref());
        object.open_list("actions");
        for button in part.buttons() {
            object.open_item();
            object.text("type", if button.opens.is_some() { "link" } else { "postback" });
            object.text("text", &button.title);
            match &button.opens {
                Some(url) => object.text("uri", url),
                None => object.text("payload", &button.id),
            }
            object.close();
        }
        object.close_list();
        object.close();
    }
    object.close_list();
    object.close();
}

/// No member at all if there is nothing attached, as with Chatwoot.
fn attachments(object: &mut Object, message: &HubMessage<'_>) {
    let attached: Vec<_> = message.parts.iter().filter_map(|part| Some((file_type(part)?, part))).collect();
    if attached.is_empty() {
        return;
    }
    object.open_list("attachments");
    for (file_type, part) in attached {
        if part.kind == Some(Kind::Contacts) {
            for contact in part.contacts() {
                object.open_item();
                object.text("file_type", file_type);
                object.text_or_null("fallback_title", contact.phones.first().map(|phone| &**phone));
                object.open("meta");
                object.text("first_name", if contact.first_name.is_empty() { &contact.name } else { &contact.first_name });
                object.text("last_name", &contact.last_name);
                object.close();
                object.close();
            }
            continue;
        }
        object.open_item();
        object.text("file_type", file_type);
        object.text_or_null("data_url", part.url().or_else(|| part.thumbnail()).as_deref());
        if part.kind == Some(Kind::Location) {
            object.json_if("coordinates_lat", part.members.number("latitude"));
            object.json_if("coordinates_long", part.members.number("longitude"));
            object.text_or_null("fallback_title", part.members.any_text(&["name", "address"]).as_deref());
        } else {
            object.text_or_null("thumb_url", part.thumbnail().as_deref());
        }
        object.close();
    }
    object.close_list();
}

/// None if the part is no attachment. Buttons have one only with a picture on them.
fn file_type(part: &Part<'_>) -> Option<&'static str> {
    match part.kind? {
        Kind::Image | Kind::Sticker => Some("image"),
        Kind::Audio => Some("audio"),
        Kind::Video => Some("video"),
        Kind::Document => Some("file"),
        Kind::Location => Some("location"),
        Kind::Contacts => Some("contact"),
        Kind::Buttons => part.thumbnail().is_some().then_some("image"),
        Kind::Text | Kind::Actions => None,
    }
}

/// Chatwoot's word for a state; what it has none for stays, in small letters.
fn status(state: &str) -> String {
    match &*state.to_ascii_lowercase() {
        "pending" => "sent".to_owned(),
        "received" => "delivered".to_owned(),
        "played" => "read".to_owned(),
        "error" | "rejected" | "not_delivered" | "undelivered" => "failed".to_owned(),
        other => other.to_owned(),
    }
}

/// `2026-01-15 12:00:00 UTC`.
fn date(ms: i64) -> String {
    timestamp_from_ms(ms).strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}
