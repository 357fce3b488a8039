//! An event: a fact to tell, immutable from the moment it is in the log.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Text, Timestamp};

/// A fact to tell. `data` is JSON text, carried verbatim from the producer to the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Stable over attempts, retries and replays; receivers de-duplicate on it. `topic:partition:offset` when the producer gave none.
    pub id: Text,
    /// `type` on the wire, such as `MESSAGE` or `lead.created`.
    pub kind: Text,
    pub channel: Text,
    pub direction: Option<Direction>,
    /// When it happened, as the producer says.
    pub time: Timestamp,
    /// [`Event::DEFAULT_TENANT`] if the producer names none.
    pub tenant: Text,
    pub subject: Option<Text>,
    pub priority: Priority,
    /// W3C trace context, handed through to the endpoint.
    pub traceparent: Option<Text>,
    pub data: Bytes,
}

impl Event {
    pub const DEFAULT_TENANT: &str = "default";

    /// The channel of events that posthaste itself tells (`endpoint.degraded` and its like).
    pub const OWN_CHANNEL: &str = "posthaste";

    /// Longest `id`, `type`, `channel` and `tenant`, bytes: they become keys, headers and labels of log lines.
    pub const NAME_LIMIT: usize = 256;

    /// Longest `subject`, bytes.
    pub const SUBJECT_LIMIT: usize = 1024;

    /// Whether this can be the subject of an event.
    pub fn is_subject(text: &str) -> bool {
        !text.is_empty() && text.len() <= Event::SUBJECT_LIMIT && !text.bytes().any(|byte| byte.is_ascii_control())
    }

    /// An id that is made of others: their text, or its SHA-256 where that is longer than an id may be. Doubles collapse either way.
    pub fn made_id(text: String) -> Text {
        if text.len() <= Event::NAME_LIMIT {
            return text.into();
        }
        Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
    }

    /// Bytes of memory that this event holds, for the global budget: its payload and a fixed share for the structures around it.
    pub fn weight(&self) -> usize {
        const STRUCTURES: usize = 512;
        self.data.len() + STRUCTURES
    }
}

/// Which way a message went, seen from the product's customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Direction {
    In,
    Out,
    Internal,
}

/// The order within one endpoint's queue; it never moves an endpoint before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    High,
    #[default]
    Normal,
    Low,
}
