//! A dead letter as a record. One of a delivery is the delivery's record and three headers more, so that redriving it is decoding it. One of
//! a record that could not be read keeps that record as it was: its value, its key, and its headers under `original-<name>`, so
//! that none of them can be taken for one of ours.
//!
//! | header | holds |
//! |---|---|
//! | `posthaste-dead` | version of this table: `1` |
//! | `posthaste-reason` | [`DeadReason`] |
//! | `posthaste-detail` | what a person should know: the last failure, or what is wrong with the record |
//! | `posthaste-dead-at` | RFC 3339 |
//! | `posthaste-origin` | position of the record that could not be read |

use std::borrow::Cow;

use bytes::Bytes;

use super::delivery::{ORIGIN, REASON, parse_position};
use super::{Encoded, Unreadable, decode_delivery, encode_delivery, is_delivery};
use crate::{
    log::Record,
    model::{DeadReason, Delivery, Position, Text, Timestamp},
};

const DEAD: &str = "posthaste-dead";
const VERSION: &[u8] = b"1";
const DETAIL: &str = "posthaste-detail";
const DEAD_AT: &str = "posthaste-dead-at";
const ORIGINAL: &str = "original-";

/// Longest detail that is kept, bytes: it may quote what an endpoint sent.
const DETAIL_LIMIT: usize = 1024;

/// A dead letter, read back.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// Its own position in the dead-letter topic: what it is called.
    pub position: Position,
    pub reason: DeadReason,
    pub detail: Text,
    pub at: Timestamp,
    pub thing: DeadThing,
}

#[derive(Debug, Clone, PartialEq)]
pub enum DeadThing {
    Delivery(Box<Delivery>),
    /// A record that never became a delivery. Without value: it was too large to be moved, and lies (while it is retained) at `origin`.
    Record {
        origin: Position,
        key: Option<Bytes>,
        value: Option<Bytes>,
        headers: Vec<(Text, Bytes)>,
    },
}

pub fn is_dead_letter(record: &Record) -> bool {
    record.header(DEAD).is_some()
}

/// Writes the dead letter of a delivery, keyed by its endpoint.
pub fn encode_dead_delivery(delivery: &Delivery, reason: DeadReason, detail: &str, at: Timestamp) -> Encoded {
    let mut encoded = encode_delivery(delivery);
    encoded.headers.retain(|(name, _)| name != REASON);
    encoded.headers.extend(marks(reason, detail, at));
    encoded
}

/// Writes the dead letter of a record that is no event to us. With [`DeadReason::TooLarge`] only its position is kept. There is always a value,
/// for a record without one would be a tombstone.
pub fn encode_dead_record(record: &Record, reason: DeadReason, detail: &str, at: Timestamp) -> Encoded {
    let mut headers = marks(reason, detail, at);
    headers.push((Cow::Borrowed(ORIGIN), record.position.to_string().into()));
    if reason == DeadReason::TooLarge {
        return Encoded { key: None, value: Some(Bytes::new()), headers };
    }
    headers.extend(record.headers.iter().map(|(name, value)| (Cow::Owned(format!("{ORIGINAL}{name}")), value.clone())));
    Encoded { key: record.key.clone(), value: Some(record.value.clone().unwrap_or_default()), headers }
}

pub fn decode_dead_letter(record: &Record) -> Result<DeadLetter, Unreadable> {
    match record.header(DEAD) {
        Some(version) if version == VERSION => {}
        Some(_) => return Err(Unreadable::because(format!("`{DEAD}` has a version that this posthaste does not read"))),
        None => return Err(Unreadable::because(format!("the record is no dead letter: it has no header `{DEAD}`"))),
    }
    let text = |name: &'static str| {
        let value = record.header(name).ok_or_else(|| Unreadable::because(format!("`{name}` is missing")))?;
        Text::try_from(value.clone()).map_err(|_| Unreadable::because(format!("`{name}` is no UTF-8")))
    };
    let reason = text(REASON)?;
    let reason = DeadReason::parse(&reason).ok_or_else(|| Unreadable::because(format!("`{REASON}` is `{}`", super::clip(&reason))))?;
    let at = text(DEAD_AT)?.parse().map_err(|_| Unreadable::because(format!("`{DEAD_AT}` is no time")))?;
    let thing = if is_delivery(record) {
        DeadThing::Delivery(Box::new(decode_delivery(record)?))
    } else {
        let origin = parse_position(&text(ORIGIN)?).ok_or_else(|| Unreadable::because(format!("`{ORIGIN}` is no position")))?;
        let original = |(name, value): &(Text, Bytes)| Some((name.strip_prefix(ORIGINAL)?.into(), value.clone()));
        DeadThing::Record {
            origin,
            key: record.key.clone(),
            value: record.value.clone().filter(|_| reason != DeadReason::TooLarge),
            headers: record.headers.iter().filter_map(original).collect(),
        }
    };
    Ok(DeadLetter { position: record.position.clone(), reason, detail: text(DETAIL)?, at, thing })
}

fn marks(reason: DeadReason, detail: &str, at: Timestamp) -> Vec<(Cow<'static, str>, Bytes)> {
    let detail = &detail[..detail.floor_char_boundary(DETAIL_LIMIT)];
    vec![
        (Cow::Borrowed(DEAD), Bytes::from_static(VERSION)),
        (Cow::Borrowed(REASON), Bytes::from_static(reason.as_str().as_bytes())),
        (Cow::Borrowed(DETAIL), Bytes::copy_from_slice(detail.as_bytes())),
        (Cow::Borrowed(DEAD_AT), at.to_string().into()),
    ]
}
