//! `z_api`: the callbacks of Z-API (WIRE.md 3.2, 3.3), built from Hub events (section 0, row 14). `instanceId` is the channel (4.7).
//!
//! A callback has one content key. Of a message of several parts it is the first medium, with its texts as caption where the medium has one; a text
//! beside another medium and further media cannot be told in this format.
//!
//! What the Hub does not tell is `null` where it is a text, left out where it is a number, false where it is a flag. What has no
//! form in this format is a `ReceivedCallback` marked `notification`, with what it is made of in `data` (rows 14 and 20).

use std::borrow::Cow;

use bytes::Bytes;

use super::{
    hub_message::{Contact, HubMessage, Kind, Part},
    members::Members,
    object::Object,
};
use crate::model::{Direction, Event};

pub(super) fn body(event: &Event) -> Bytes {
    let body = match &*event.kind {
        "MESSAGE_RECEIVED" | "RECEIVED_STATUS" | "RECEIVED_AND_DELIVERY" => HubMessage::of(event).map(|message| received(event, &message)),
        "MESSAGE_DELIVERY" => HubMessage::of(event).map(|message| delivery(event, &message)),
        "MESSAGE_STATUS" => HubMessage::of(event).and_then(|message| status(event, &message)),
        "CONNECTED" => Some(connected(event)),
        "DISCONNECTED" => Some(disconnected(event)),
        "PRESENCE_CHAT" => HubMessage::of(event).and_then(|message| presence(event, &message)),
        _ => None,
    };
    body.unwrap_or_else(|| notification(event))
}

fn received(event: &Event, message: &HubMessage<'_>) -> Bytes {
    let mut object = Object::new(&event.data);
    common(&mut object, event, Some(message));
    match message.parts.iter().find_map(|part| Some((part.kind?, part))) {
        Some((kind, part)) => content(&mut object, message, kind, part),
        None => {
            let (name, data) = match message.parts.first() {
                Some(part) => (&*part.name, part.json.get().as_bytes()),
                None => (&*event.kind, &event.data[..]),
            };
            mark(&mut object, name, data);
        }
    }
    object.end()
}

fn delivery(event: &Event, message: &HubMessage<'_>) -> Bytes {
    let state = message.state();
    let mut object = Object::new(b"");
    object.text_or_null("phone", message.phone().as_deref());
    object.text("zaapId", &message.id());
    object.text("messageId", &message.id());
    let failure = state.as_ref().filter(|state| {
        matches!(&*state.name.to_ascii_uppercase(), "FAILED" | "FAILURE" | "ERROR" | "REJECTED" | "NOT_DELIVERED" | "UNDELIVERED")
    });
    let error = message.members.text("error").or_else(|| {
        failure.map(|state| state.members.any_text(&["error", "reason", "description", "message"]).unwrap_or(state.name.clone()))
    });
    if let Some(error) = error {
        object.text("error", &error);
        let codes = ["errorCode", "error_code"];
        if let Some(code) = message.members.any_text(&codes).or_else(|| failure.and_then(|state| state.members.any_text(&codes))) {
            object.text("errorCode", &code);
        }
    }
    object.text("instanceId", &event.channel);
    object.integer("momment", state.and_then(|state| state.moment).unwrap_or_else(|| message.moment()));
    object.text("type", "DeliveryCallback");
    object.end()
}

/// None if there is no status in it.
fn status(event: &Event, message: &HubMessage<'_>) -> Option<Bytes> {
    let state = message.state();
    let (name, moment) = match &state {
        Some(state) => (state.name.clone(), state.moment),
        None => (message.members.text("status")?, None),
    };
    let phone = message.phone();
    let mut object = Object::new(b"");
    object.text("instanceId", &event.channel);
    object.text("status", &status_name(&name));
    object.open_list("ids");
    object.text_item(&message.id());
    object.close_list();
    object.integer("momment", moment.unwrap_or_else(|| message.moment()));
    // The phone itself: of other devices the Hub does not tell.
    object.integer("phoneDevice", 0);
    object.text_or_null("phone", phone.as_deref());
    object.text("type", "MessageStatusCallback");
    object.flag("isGroup", is_group(phone.as_deref()));
    Some(object.end())
}

fn connected(event: &Event) -> Bytes {
    let message = HubMessage::of(event);
    let phone = message.as_ref().and_then(|message| message.members.any_text(&["phone", "identifier"]));
    let mut object = Object::new(b"");
    object.text("type", "ConnectedCallback");
    object.flag("connected", true);
    object.integer("momment", moment(event, message.as_ref()));
    object.text("instanceId", &event.channel);
    object.text_or_null("phone", phone.as_deref());
    object.end()
}

fn disconnected(event: &Event) -> Bytes {
    let message = HubMessage::of(event);
    let error = message.as_ref().and_then(|message| message.members.any_text(&["error", "reason"]));
    let mut object = Object::new(b"");
    object.integer("momment", moment(event, message.as_ref()));
    object.text("error", error.as_deref().unwrap_or("Device has been disconnected"));
    object.flag("disconnected", true);
    object.text("type", "DisconnectedCallback");
    object.text("instanceId", &event.channel);
    object.end()
}

/// None if there is no presence in it.
fn presence(event: &Event, message: &HubMessage<'_>) -> Option<Bytes> {
    let status = presence_status(&message.members)?;
    let mut object = Object::new(b"");
    object.text("type", "PresenceChatCallback");
    object.text_or_null("phone", message.phone().as_deref());
    object.text("status", &status);
    let last_seen = message.members.get("lastSeen").or_else(|| message.members.get("last_seen"));
    object.json("lastSeen", last_seen.map_or(b"null", |seen| seen.get().as_bytes()));
    object.text("instanceId", &event.channel);
    Some(object.end())
}

/// `UNAVAILABLE`, `AVAILABLE`, `COMPOSING`, `PAUSED`, `RECORDING`.
pub(super) fn presence_status(members: &Members<'_>) -> Option<String> {
    members.any_text(&["status", "presence"]).map(|status| status.to_ascii_uppercase())
}

/// What is no message of the Hub.
fn notification(event: &Event) -> Bytes {
    let mut object = Object::new(&event.data);
    common(&mut object, event, None);
    mark(&mut object, &event.kind, &event.data);
    object.end()
}

fn mark(object: &mut Object, name: &str, data: &[u8]) {
    object.text("notification", name);
    object.open_list("notificationParameters");
    object.close_list();
    object.json("data", data);
}

/// The fields that every `ReceivedCallback` has.
fn common(object: &mut Object, event: &Event, message: Option<&HubMessage<'_>>) {
    let phone = message.and_then(HubMessage::phone);
    let from_me = message.map_or(event.direction == Some(Direction::Out), HubMessage::is_mine);
    let sender = message.and_then(|message| message.sender.text("identifier"));
    let own = message.and_then(|message| message.own().text("identifier")).filter(|own| is_phone(own));
    let chat_name = message.and_then(|message| message.contact().text("name")).or_else(|| phone.clone());

    object.flag("isStatusReply", false);
    object.text_or_null("senderLid", sender.as_deref().filter(|sender| sender.ends_with("@lid")));
    object.text_or_null("connectedPhone", own.as_deref());
    object.flag("waitingMessage", false);
    object.flag("isEdit", false);
    object.flag("isGroup", is_group(phone.as_deref()));
    object.flag("isNewsletter", phone.as_deref().is_some_and(|phone| phone.ends_with("@newsletter")));
    object.text("instanceId", &event.channel);
    object.text("messageId", &message.map_or(Cow::Borrowed(&*event.id), HubMessage::id));
    object.text_or_null("phone", phone.as_deref());
    object.flag("fromMe", from_me);
    object.flag("fromApi", message.and_then(|message| message.metadata.flag("from_api")).unwrap_or(false));
    object.integer("momment", moment(event, message));
    object.text("status", &own_status(from_me, message));
    object.text_or_null("chatName", chat_name.as_deref());
    object.null("senderPhoto");
    object.text_or_null("senderName", message.and_then(|message| message.sender.text("name")).as_deref());
    object.null("participantPhone");
    object.null("participantLid");
    object.null("photo");
    object.flag("broadcast", phone.as_deref().is_some_and(|phone| phone.ends_with("-broadcast")));
    object.flag("forwarded", message.and_then(|message| message.metadata.flag("forwarded")).unwrap_or(false));
    object.text("type", "ReceivedCallback");
}

/// What came in is received; what went out is as far as its latest state says.
fn own_status(from_me: bool, message: Option<&HubMessage<'_>>) -> String {
    if !from_me {
        return "RECEIVED".to_owned();
    }
    message.and_then(HubMessage::state).map_or_else(|| "SENT".to_owned(), |state| status_name(&state.name))
}

/// Z-API says `RECEIVED` where others say delivered. The Hub's vocabulary is not published: what is not known stays as it is.
fn status_name(state: &str) -> String {
    match &*state.to_ascii_uppercase() {
        "DELIVERED" => "RECEIVED".to_owned(),
        other => other.to_owned(),
    }
}

fn content(object: &mut Object, message: &HubMessage<'_>, kind: Kind, part: &Part<'_>) {
    let members = &part.members;
    let url = part.url();
    let caption = || members.text("caption").map_or_else(|| message.text(), Cow::into_owned);
    match kind {
        Kind::Text => {
            object.open("text");
            object.text("message", &message.text());
        }
        Kind::Image => {
            object.open("image");
            object.text_or_null("mimeType", part.mime_type().as_deref());
            object.text_or_null("imageUrl", url.as_deref());
            object.text_or_null("thumbnailUrl", part.thumbnail().as_deref());
            object.null("downloadError");
            object.text("caption", &caption());
            object.json_if("width", members.number("width"));
            object.json_if("height", members.number("height"));
            object.flag("viewOnce", members.flag("view_once").unwrap_or(false));
        }
        Kind::Audio => {
            object.open("audio");
            object.flag("ptt", members.flag("ptt").unwrap_or(false));
            object.json_if("seconds", members.number("seconds"));
            object.text_or_null("audioUrl", url.as_deref());
            object.text_or_null("mimeType", part.mime_type().as_deref());
            object.flag("viewOnce", members.flag("view_once").unwrap_or(false));
        }
        Kind::Video => {
            object.open("video");
            object.text_or_null("videoUrl", url.as_deref());
            object.text("caption", &caption());
            object.text_or_null("mimeType", part.mime_type().as_deref());
            object.json_if("seconds", members.number("seconds"));
            object.flag("viewOnce", members.flag("view_once").unwrap_or(false));
        }
        Kind::Document => {
            let file = part.file_name();
            let title = members.text("title").or_else(|| file.clone().map(|file| without_ending(&file).to_owned().into()));
            object.open("document");
            object.text_or_null("documentUrl", url.as_deref());
            object.text_or_null("mimeType", part.mime_type().as_deref());
            object.text_or_null("title", title.as_deref());
            object.json_if("pageCount", members.number("page_count"));
            object.text_or_null("fileName", file.as_deref());
            let caption = caption();
            if !caption.is_empty() {
                object.text("caption", &caption);
            }
        }
        Kind::Sticker => {
            object.open("sticker");
            object.text_or_null("stickerUrl", url.as_deref());
            object.text_or_null("mimeType", part.mime_type().as_deref());
        }
        Kind::Location => {
            object.open("location");
            object.json("longitude", members.number("longitude").map_or(b"null", |number| number.get().as_bytes()));
            object.json("latitude", members.number("latitude").map_or(b"null", |number| number.get().as_bytes()));
            object.text("address", &members.text("address").unwrap_or_default());
            object.text("url", &url.unwrap_or_default());
            if let Some(name) = members.text("name") {
                object.text("name", &name);
            }
        }
        Kind::Contacts => {
            // The callback holds one; whoever sends several sends several messages there.
            let contacts = part.contacts();
            let contact = contacts.first().expect("there is always one");
            object.open("contact");
            object.text("displayName", &contact.name);
            object.text("vCard", &card(contact));
            object.open_list("phones");
            contact.phones.iter().for_each(|phone| object.text_item(phone));
            object.close_list();
        }
        Kind::Buttons => {
            object.open("buttonsMessage");
            object.text_or_null("imageUrl", part.thumbnail().as_deref());
            object.null("videoUrl");
            object.text("message", &members.text("message").unwrap_or_default());
            object.open_list("buttons");
            for button in part.buttons() {
                object.open_item();
                object.text("buttonId", &button.id);
                object.integer("type", 1);
                object.open("buttonText");
                object.text("displayText", &button.title);
                object.close();
                object.close();
            }
            object.close_list();
        }
        Kind::Actions => actions(object, part),
    }
    object.close();
}

/// Buttons that open something are those of a template; a call is a URL of its own scheme, because the callback knows no button for it.
fn actions(object: &mut Object, part: &Part<'_>) {
    let members = &part.members;
    object.open("hydratedTemplate");
    object.open("header");
    object.close();
    object.text("message", &members.text("message").unwrap_or_default());
    object.text_or_null("footer", members.object("footer").text("message").as_deref());
    object.text_or_null("title", members.object("header").text("message").as_deref());
    object.null("templateId");
    object.open_list("hydratedButtons");
    for (index, button) in (0..).zip(part.buttons()) {
        object.open_item();
        object.integer("index", index);
        match button.opens {
            Some(url) => {
                object.open("urlButton");
                object.text("displayText", &button.title);
                object.text("url", &url);
            }
            None => {
                object.open("quickReplyButton");
                object.text("displayText", &button.title);
                object.text("id", &button.id);
            }
        }
        object.close();
        object.close();
    }
    object.close_list();
}

/// A vCard 3.0 (RFC 2426) of what is known.
fn card(contact: &Contact<'_>) -> String {
    let escape = |text: &str| text.replace('\\', "\\\\").replace(['\r', '\n'], " ").replace(';', "\\;").replace(',', "\\,");
    let mut card = format!(
        "BEGIN:VCARD\nVERSION:3.0\nN:{};{};;;\nFN:{}\n",
        escape(&contact.last_name),
        escape(&contact.first_name),
        escape(&contact.name)
    );
    for phone in &contact.phones {
        card.push_str("TEL;TYPE=CELL:");
        card.push_str(&escape(phone));
        card.push('\n');
    }
    card.push_str("END:VCARD");
    card
}

fn without_ending(file: &str) -> &str {
    file.rsplit_once('.').map_or(file, |(name, _)| name)
}

fn moment(event: &Event, message: Option<&HubMessage<'_>>) -> i64 {
    message.map_or_else(|| event.time.as_millisecond(), HubMessage::moment)
}

fn is_group(phone: Option<&str>) -> bool {
    phone.is_some_and(|phone| phone.ends_with("-group"))
}

fn is_phone(identifier: &str) -> bool {
    !identifier.is_empty() && identifier.strip_prefix('+').unwrap_or(identifier).bytes().all(|byte| byte.is_ascii_digit())
}
