//! A delivery: one event owed to one endpoint until it is settled.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Event, Text, Timestamp};

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TopicPartition {
    pub topic: Arc<str>,
    pub partition: i32,
}

/// Where a record lies in the log. Printed as `topic:partition:offset`, which is also the idempotency key of the hub scheme.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    pub topic: Arc<str>,
    pub partition: i32,
    pub offset: i64,
}

impl fmt::Display for Position {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}:{}", self.topic, self.partition, self.offset)
    }
}

impl Position {
    pub fn topic_partition(&self) -> TopicPartition {
        TopicPartition { topic: self.topic.clone(), partition: self.partition }
    }
}

/// One event owed to one endpoint. It is also what a retry or dead-letter record holds (see `log::record`).
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    pub event: Arc<Event>,
    /// Id of the endpoint.
    pub endpoint: Text,
    /// Coordinates of the record that first held the event: part of the hub signature, so they survive retries and redrives.
    pub origin: Position,
    /// Attempts made so far; 0 before the first one.
    pub attempts: u32,
    /// When the log took the event (wall clock): age limits and end-to-end latency count from here.
    pub accepted_at: Timestamp,
    /// Not to be attempted before this time.
    pub due_at: Option<Timestamp>,
    /// Offset of the registry topic at which the endpoint was known to whoever made this delivery.
    pub registry_offset: i64,
    pub purpose: Purpose,
    /// Why it is in a retry or dead-letter topic: the class of the last failure or of the spill.
    pub reason: Option<Text>,
}

impl Delivery {
    /// The reason of one that its filter has not decided about yet.
    pub const UNFILTERED: &str = "filter";
}

/// What a delivery is for. Only `Event` counts in the delivery metrics of the product; the others say so in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    #[default]
    Event,
    Test,
    Replay,
    Redrive,
    /// What a support expert agent tells; its outcomes stand in the history of the ticket.
    Agent,
}

/// What we do about a delivery after an attempt, or instead of one.
#[derive(Debug, Clone, PartialEq)]
pub enum Settlement {
    Acknowledge,
    /// Into the tier with delay `tier`, to be attempted at `due_at`.
    Retry {
        tier: Duration,
        due_at: Timestamp,
    },
    DeadLetter(DeadReason),
}

/// Why a delivery (or a record that never became one) ended in the dead-letter topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadReason {
    /// All attempts of its schedule failed.
    Exhausted,
    /// The endpoint's policy calls this answer final.
    Final,
    /// Older than `retry.max_age`.
    Expired,
    EndpointInactive,
    EndpointDisabled,
    EndpointDeleted,
    /// The record is no event that we can read.
    Unparsable,
    /// Too large to be moved: the dead letter refers to its position.
    TooLarge,
    /// The filter could not decide: too many steps, or data that is too large to be read.
    FilterUndecided,
}

impl DeadReason {
    pub const ALL: [DeadReason; 9] = [
        DeadReason::Exhausted,
        DeadReason::Final,
        DeadReason::Expired,
        DeadReason::EndpointInactive,
        DeadReason::EndpointDisabled,
        DeadReason::EndpointDeleted,
        DeadReason::Unparsable,
        DeadReason::TooLarge,
        DeadReason::FilterUndecided,
    ];

    /// The word for it in headers, metrics and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            DeadReason::Exhausted => "exhausted",
            DeadReason::Final => "final",
            DeadReason::Expired => "expired",
            DeadReason::EndpointInactive => "endpoint_inactive",
            DeadReason::EndpointDisabled => "endpoint_disabled",
            DeadReason::EndpointDeleted => "endpoint_deleted",
            DeadReason::Unparsable => "unparsable",
            DeadReason::TooLarge => "too_large",
            DeadReason::FilterUndecided => "filter_undecided",
        }
    }

    pub fn parse(text: &str) -> Option<DeadReason> {
        DeadReason::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// A delivery on its way to the scheduler, with the endpoint it goes to and the duty to settle it.
#[derive(Debug)]
pub struct Routed {
    /// In a box: it is handed on a dozen times.
    pub delivery: Box<Delivery>,
    pub endpoint: Arc<super::Endpoint>,
    pub ack: super::Ack,
    pub class: Class,
}

/// First attempts go before retries within an endpoint; retries have a guaranteed share of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    First,
    Retry,
}
