//! Events as JSON: our own form and structured CloudEvents, read by one pass that takes either.
//!
//! The fast reading stops at the first member of a wrong type and does not say where it was. Only when it fails is the text read a second
//! time, member by member, so that whoever wrote the event hears of everything that is wrong with it at once.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor, value::MapDeserializer},
};
use serde_json::value::RawValue;

use super::{clip, json_text, name_field, parse_time, subject_field, traceparent};
use crate::model::{Direction, Event, FieldError, Priority, Text, Timestamp, field::cut};

/// Reads one event (own JSON or a structured CloudEvent) from `text`, whose buffer it shares. An event without `id` has an empty one: it is
/// named by its position once it lies in the log. `now` is the time of an event that does not say when it happened, `tenant` that of an event
/// that names none. Everything that is wrong comes at once; there is at least one error.
pub fn event_from_json(text: &Text, now: Timestamp, tenant: &Text) -> Result<Event, Vec<FieldError>> {
    // A derived reader would take an array for the members in their order.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(vec![FieldError::new(".", "is no JSON object")]);
    }
    let mut wrong = Wrong::default();
    let wire = match serde_json::from_str(text) {
        Ok(wire) => wire,
        Err(error) => wrong.read_by_member(text, &error)?,
    };
    let event = wrong.event(wire, text, now, tenant);
    if wrong.errors.is_empty() { Ok(event) } else { Err(wrong.errors) }
}

/// What is wrong with an event so far.
#[derive(Default)]
struct Wrong {
    errors: Vec<FieldError>,
}

impl Wrong {
    fn has(&self, name: &str) -> bool {
        self.errors.iter().any(|error| error.path == name)
    }

    /// The value, or an empty one in its place, which nobody gets to see.
    fn or_empty<T: Default>(&mut self, read: Result<T, FieldError>) -> T {
        read.unwrap_or_else(|error| {
            self.errors.push(error);
            T::default()
        })
    }

    fn missing(&mut self, name: &str) {
        if !self.has(name) {
            self.errors.push(FieldError::new(name, "is missing"));
        }
    }

    fn required(&mut self, name: &str, text: Option<Text>) -> Text {
        match text {
            Some(text) => self.or_empty(name_field(name, text)),
            None => {
                self.missing(name);
                Text::new()
            }
        }
    }

    fn event(&mut self, wire: Wire<'_>, text: &Text, now: Timestamp, tenant: &Text) -> Event {
        let share = |part: Str<'_>| match part.0 {
            Cow::Borrowed(part) => text.slice_ref(part),
            Cow::Owned(part) => part.into(),
        };
        let is_cloud_event = wire.specversion.is_some() || self.has("specversion");
        if let Some(version) = &wire.specversion
            && version.0 != "1.0"
        {
            self.errors.push(FieldError::new("specversion", format!("is `{}`: only CloudEvents 1.0 can be read", clip(&version.0))));
        }
        Event {
            id: match wire.id {
                None if !is_cloud_event => Text::new(),
                id => self.required("id", id.map(share)),
            },
            kind: self.required("type", wire.kind.map(share)),
            channel: match wire.channel {
                None if is_cloud_event => self.required("source", wire.source.map(share)),
                channel => self.required("channel", channel.map(share)),
            },
            direction: wire.direction,
            time: match wire.time {
                None => now,
                Some(time) => self.or_empty(parse_time("time", &time.0)),
            },
            tenant: match wire.tenant {
                None => tenant.clone(),
                Some(tenant) => self.or_empty(name_field("tenant", share(tenant))),
            },
            subject: wire.subject.map(|subject| self.or_empty(subject_field("subject", share(subject)))),
            priority: wire.priority.unwrap_or_default(),
            traceparent: wire.traceparent.and_then(|parent| traceparent(share(parent).as_bytes())),
            data: match (wire.data, wire.data_base64) {
                (Some(data), _) => text.slice_ref(data.get()).into_bytes(),
                (None, Some(base64)) if is_cloud_event => json_text(&base64.0),
                (None, _) if is_cloud_event => Bytes::from_static(b"null"),
                (None, _) => {
                    self.missing("data");
                    Bytes::new()
                }
            },
        }
    }

    /// Reads every member by itself and notes those that cannot be read; what comes back are the others. An error: it is no JSON at all.
    fn read_by_member<'a>(&mut self, text: &'a str, failed: &serde_json::Error) -> Result<Wire<'a>, Vec<FieldError>> {
        let Ok(Members(members)) = serde_json::from_str(text) else { return Err(vec![locate(text, failed)]) };
        for (name, values) in &members {
            // All values of one name together, so that a second one is told as well.
            if let Err(error) = wire(values.iter().map(|value| (name, value))) {
                self.errors.push(FieldError::new(&**name, format!("is wrong: {}", without_place(&error))));
            }
        }
        let readable = members.iter().filter(|(name, _)| !self.has(name));
        let readable = readable.flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
        wire(readable).map_err(|error| vec![FieldError::new(".", format!("is no event: {}", without_place(&error)))])
    }
}

fn wire<'m, 'a: 'm>(members: impl Iterator<Item = (&'m Cow<'a, str>, &'m &'a RawValue)>) -> Result<Wire<'a>, serde_json::Error> {
    Wire::deserialize(MapDeserializer::new(members.map(|(name, value)| (&**name, *value))))
}

/// Where a text that is no JSON is broken.
fn locate(text: &str, failed: &serde_json::Error) -> FieldError {
    let mut json = serde_json::Deserializer::from_str(text);
    match serde_path_to_error::deserialize::<_, Members<'_>>(&mut json) {
        Err(error) => FieldError::new(error.path().to_string(), format!("is no JSON: {}", error.into_inner())),
        Ok(_) => FieldError::new(".", format!("is more than one JSON document: {failed}")),
    }
}

/// A line and a column within one value help nobody, nor does all of a long value: the next mistake is to be seen as well.
fn without_place(error: &serde_json::Error) -> String {
    const LONGEST: usize = 200;
    let mut text = error.to_string();
    text.truncate(text.rfind(" at line ").unwrap_or(text.len()));
    cut(text, LONGEST)
}

/// Of any JSON object, what stands in it.
struct Members<'a>(BTreeMap<Cow<'a, str>, Vec<&'a RawValue>>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Members<'a>, D::Error> {
        struct ByName;

        impl<'de> Visitor<'de> for ByName {
            type Value = Members<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members: BTreeMap<_, Vec<_>> = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<Str<'de>, &'de RawValue>()? {
                    members.entry(name.0).or_default().push(value);
                }
                Ok(Members(members))
            }
        }

        from.deserialize_map(ByName)
    }
}

/// The members of an own event and of a structured CloudEvent in one, so that one pass over the text reads either.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, default)]
    id: Option<Str<'a>>,
    #[serde(borrow, default, rename = "type")]
    kind: Option<Str<'a>>,
    #[serde(borrow, default)]
    channel: Option<Str<'a>>,
    #[serde(default)]
    direction: Option<Direction>,
    #[serde(borrow, default)]
    time: Option<Str<'a>>,
    #[serde(borrow, default)]
    tenant: Option<Str<'a>>,
    #[serde(borrow, default)]
    subject: Option<Str<'a>>,
    #[serde(default)]
    priority: Option<Priority>,
    #[serde(borrow, default)]
    traceparent: Option<Str<'a>>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    specversion: Option<Str<'a>>,
    #[serde(borrow, default)]
    source: Option<Str<'a>>,
    #[serde(borrow, default)]
    data_base64: Option<Str<'a>>,
}

/// A member that is `null` is there, other than serde's `Option` has it.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// Text of a JSON document: a slice of it unless it holds escapes.
struct Str<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Str<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Str<'a>, D::Error> {
        struct AsIs;

        impl<'de> Visitor<'de> for AsIs {
            type Value = Str<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a text")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Str<'de>, E> {
                Ok(Str(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Str<'de>, E> {
                Ok(Str(Cow::Owned(text.to_owned())))
            }
        }

        from.deserialize_str(AsIs)
    }
}
