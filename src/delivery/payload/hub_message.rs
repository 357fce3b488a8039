//! The message of a Hub event (WIRE.md 4.6), as far as the formats Z_API and CHATWOOT are built from it.
//!
//! Published are echoes of sent messages only: documents, locations and failed deliveries have no documented form. They are looked for
//! under the type and the names that follow from the documented ones, and everything may be missing.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::members::Members;
use crate::model::{Direction, Event};

pub(super) struct HubMessage<'a> {
    pub members: Members<'a>,
    pub metadata: Members<'a>,
    pub sender: Members<'a>,
    pub recipient: Members<'a>,
    /// Media first: what is said beside a medium is its caption.
    pub parts: Vec<Part<'a>>,
    event: &'a Event,
}

/// An element of `contents` or `attachments`.
pub(super) struct Part<'a> {
    /// None if no format knows what it is.
    pub kind: Option<Kind>,
    /// Its `type` as it came; `UNKNOWN` without one.
    pub name: Cow<'a, str>,
    pub members: Members<'a>,
    pub json: &'a RawValue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Image,
    Audio,
    Video,
    Document,
    Sticker,
    Location,
    Contacts,
    /// Buttons to answer with.
    Buttons,
    /// Buttons that open a URL or call.
    Actions,
}

/// The latest entry of `state_items`.
pub(super) struct State<'a> {
    pub name: Cow<'a, str>,
    pub moment: Option<i64>,
    pub members: Members<'a>,
}

pub(super) struct Button<'a> {
    pub id: Cow<'a, str>,
    pub title: Cow<'a, str>,
    /// What it opens: a URL, or `tel:` and a number (RFC 3966).
    pub opens: Option<Cow<'a, str>>,
}

pub(super) struct Contact<'a> {
    pub first_name: Cow<'a, str>,
    pub last_name: Cow<'a, str>,
    pub name: Cow<'a, str>,
    pub phones: Vec<Cow<'a, str>>,
}

impl<'a> HubMessage<'a> {
    /// None if the event's data is no object.
    pub fn of(event: &'a Event) -> Option<HubMessage<'a>> {
        let members = Members::of(&event.data)?;
        let mut parts = Vec::new();
        for list in ["attachments", "contents"] {
            parts.extend(members.list(list).into_iter().map(Part::of));
        }
        Some(HubMessage {
            metadata: members.object("metadata"),
            sender: members.object("sender"),
            recipient: members.object("recipient"),
            members,
            parts,
            event,
        })
    }

    pub fn id(&self) -> Cow<'a, str> {
        self.members.text("_id").unwrap_or(Cow::Borrowed(&self.event.id))
    }

    /// Sent from the channel's own account.
    pub fn is_mine(&self) -> bool {
        self.metadata.flag("from_me").unwrap_or(self.event.direction == Some(Direction::Out))
    }

    /// The other side of the chat.
    pub fn contact(&self) -> &Members<'a> {
        if self.is_mine() { &self.recipient } else { &self.sender }
    }

    /// Our side of it.
    pub fn own(&self) -> &Members<'a> {
        if self.is_mine() { &self.sender } else { &self.recipient }
    }

    /// Of the contact: digits, or the name of a group.
    pub fn phone(&self) -> Option<Cow<'a, str>> {
        self.members.text("phone").or_else(|| self.contact().text("identifier"))
    }

    /// When it was written, in ms since the epoch.
    pub fn moment(&self) -> i64 {
        let names = ["moment", "momment", "created"];
        let given = self.metadata.integer("moment").or_else(|| names.iter().find_map(|name| self.members.integer(name)));
        given.unwrap_or_else(|| self.event.time.as_millisecond())
    }

    /// The state of the latest moment, over all parts; of equal ones the last.
    pub fn state(&self) -> Option<State<'a>> {
        let items = self.parts.iter().flat_map(|part| part.members.objects("state_items"));
        let states = items.filter_map(|item| {
            let members = item.object("state");
            Some(State { name: members.text("name")?, moment: item.integer("moment"), members })
        });
        states.max_by_key(|state| state.moment)
    }

    /// What is written in it, its texts line by line; empty without any.
    pub fn text(&self) -> String {
        let texts = self.parts.iter().filter(|part| part.kind == Some(Kind::Text)).filter_map(|part| part.members.text("message"));
        texts.collect::<Vec<_>>().join("\n")
    }
}

impl<'a> Part<'a> {
    fn of(json: &'a RawValue) -> Part<'a> {
        let members = Members::of(json.get().as_bytes()).unwrap_or_default();
        let name = members.text("type").unwrap_or(Cow::Borrowed("UNKNOWN"));
        let kind = match &*name {
            "TEXT" => Some(Kind::Text),
            "IMAGE" => Some(Kind::Image),
            "AUDIO" => Some(Kind::Audio),
            "VIDEO" => Some(Kind::Video),
            "DOCUMENT" | "FILE" => Some(Kind::Document),
            "STICKER" => Some(Kind::Sticker),
            "LOCATION" => Some(Kind::Location),
            "CONTACT_ARRAY" | "CONTACT" => Some(Kind::Contacts),
            "INTERACTIVE_BUTTON" => Some(Kind::Buttons),
            "INTERACTIVE_ACTION" => Some(Kind::Actions),
            _ => None,
        };
        Part { kind, name, members, json }
    }

    pub fn url(&self) -> Option<Cow<'a, str>> {
        self.members.text("url")
    }

    pub fn thumbnail(&self) -> Option<Cow<'a, str>> {
        self.members.any_text(&["thumbnail_url", "thumbnail"])
    }

    /// As it is given, or as the ending of the URL tells.
    pub fn mime_type(&self) -> Option<Cow<'a, str>> {
        self.members.any_text(&["mime_type", "mimetype"]).or_else(|| {
            let ending = self.file_of_url()?.rsplit_once('.')?.1.to_ascii_lowercase();
            Some(Cow::Borrowed(match &*ending {
                "jpg" | "jpeg" => "image/jpeg",
                "png" => "image/png",
                "gif" => "image/gif",
                "webp" => "image/webp",
                "ogg" | "oga" | "opus" => "audio/ogg",
                "mp3" => "audio/mpeg",
                "m4a" => "audio/mp4",
                "aac" => "audio/aac",
                "amr" => "audio/amr",
                "wav" => "audio/wav",
                "mp4" => "video/mp4",
                "3gp" => "video/3gpp",
                "pdf" => "application/pdf",
                "txt" => "text/plain",
                "csv" => "text/csv",
                _ => return None,
            }))
        })
    }

    pub fn file_name(&self) -> Option<Cow<'a, str>> {
        self.members.any_text(&["file_name", "filename"]).or_else(|| self.file_of_url().map(Cow::Owned))
    }

    /// The last segment of the URL's path.
    fn file_of_url(&self) -> Option<String> {
        let url = self.url()?;
        let path = url.split(['?', '#']).next()?;
        let (_, after_scheme) = path.split_once("://")?;
        let (_, file) = after_scheme.rsplit_once('/')?;
        (!file.is_empty()).then(|| file.to_owned())
    }

    pub fn buttons(&self) -> Vec<Button<'a>> {
        let button = |members: Members<'a>| Button {
            id: members.any_text(&["id", "identifier"]).unwrap_or_default(),
            title: members.text("title").unwrap_or_default(),
            opens: members.text("url").or_else(|| members.text("phone").map(|phone| Cow::Owned(format!("tel:{phone}")))),
        };
        self.members.objects("buttons").into_iter().map(button).collect()
    }

    pub fn contacts(&self) -> Vec<Contact<'a>> {
        let list = self.members.objects("contacts");
        if list.is_empty() { vec![Contact::of(&self.members)] } else { list.iter().map(Contact::of).collect() }
    }
}

impl<'a> Contact<'a> {
    fn of(members: &Members<'a>) -> Contact<'a> {
        let first_name = members.text("first_name").unwrap_or_default();
        let last_name = members.text("last_name").unwrap_or_default();
        let name = members.text("name").unwrap_or_else(|| Cow::Owned(format!("{first_name} {last_name}").trim().to_owned()));
        // Numbers, or objects around them: their form is not documented.
        let phones = members.list("phones").into_iter().filter_map(|phone| match Members::of(phone.get().as_bytes()) {
            Some(phone) => phone.any_text(&["phone", "number", "identifier"]),
            None => super::members::text(phone),
        });
        Contact { phones: phones.collect(), first_name, last_name, name }
    }
}
