//! JSON read as far as a format has to look into it: an object's members by name, their values still text.
//!
//! What is not looked at is handed on byte by byte, in its order, with its numbers as they were written; a tree of values would lose both.
//! Nothing here fails: what is not there, or is something else than was looked for, is none.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// The members of an object in their order. Of those with the same name the last counts, as most readers of JSON have it.
#[derive(Default)]
pub(super) struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// None if `json` is no object.
    pub fn of(json: &'a [u8]) -> Option<Members<'a>> {
        serde_json::from_slice(json).ok()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (&**name, *value))
    }

    /// None also for `null`.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        let (_, value) = self.0.iter().rev().find(|(given, _)| given == name)?;
        (value.get() != "null").then_some(value)
    }

    /// A text, or a number as it is written: identifiers come as both.
    pub fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        text(self.get(name)?)
    }

    /// The text of the first of `names` that has one.
    pub fn any_text(&self, names: &[&str]) -> Option<Cow<'a, str>> {
        names.iter().find_map(|name| self.text(name))
    }

    pub fn number(&self, name: &str) -> Option<&'a RawValue> {
        self.get(name).filter(|value| is_number(value))
    }

    /// A whole number; decimals are cut off.
    pub fn integer(&self, name: &str) -> Option<i64> {
        let text = self.number(name)?.get();
        // A cast of a float never fails: what is out of range becomes the end of the range.
        text.parse().ok().or_else(|| text.parse::<f64>().ok().map(|number| number as i64))
    }

    pub fn flag(&self, name: &str) -> Option<bool> {
        serde_json::from_str(self.get(name)?.get()).ok()
    }

    /// Empty if there is no such object.
    pub fn object(&self, name: &str) -> Members<'a> {
        self.get(name).and_then(|value| Members::of(value.get().as_bytes())).unwrap_or_default()
    }

    /// Empty if there is no such array.
    pub fn list(&self, name: &str) -> Vec<&'a RawValue> {
        self.get(name).and_then(|value| serde_json::from_str(value.get()).ok()).unwrap_or_default()
    }

    /// The objects of an array.
    pub fn objects(&self, name: &str) -> Vec<Members<'a>> {
        self.list(name).into_iter().filter_map(|value| Members::of(value.get().as_bytes())).collect()
    }
}

/// See [`Members::text`].
pub(super) fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    if is_number(value) {
        return Some(Cow::Borrowed(value.get()));
    }
    serde_json::from_str::<Name<'_>>(value.get()).ok().map(|text| text.0)
}

fn is_number(value: &RawValue) -> bool {
    value.get().starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

/// A slice of the text that is read, unless it holds escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Members<'a>, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Members<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::with_capacity(16);
                while let Some((name, value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    members.push((name.0, value));
                }
                Ok(Members(members))
            }
        }

        from.deserialize_map(Each)
    }
}
