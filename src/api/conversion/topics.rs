//! The topics, under the names of both shapes (WIRE.md section 0, row 8).

use serde::Serialize;
use utoipa::ToSchema;

use crate::model::{Endpoint, TypePattern};

/// Name in shape A, which is the event type; name in shape B; what it is about. Agents have no event type in shape A: theirs begin with `agent.`.
const TOPICS: [(&str, &str, &str); 4] = [
    ("lead.created", "prospects", "A lead was received and became a prospect."),
    ("quote.updated", "quotes", "A quote was made, accepted or rejected."),
    ("interaction.resolved", "interactions", "A consultant closed an interaction."),
    ("agent.*", "agents", "An agent was changed."),
];

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ConversionTopic)]
pub struct Topic {
    #[schema(example = "prospects")]
    name: &'static str,
    description: &'static str,
}

/// The topics of shape B.
pub fn all() -> Vec<Topic> {
    TOPICS.iter().map(|(_, name, description)| Topic { name, description }).collect()
}

/// Names that can be asked for in shape A, each with its event type.
pub fn names() -> Vec<(&'static str, &'static str)> {
    TOPICS.iter().map(|(kind, _, _)| (*kind, *kind)).filter(|(kind, _)| !kind.contains('*')).collect()
}

/// Names that can be asked for in shape B, each with its event type: its own, and those of shape A.
pub fn aliases() -> Vec<(&'static str, &'static str)> {
    TOPICS.iter().map(|(kind, alias, _)| (*alias, *kind)).chain(names()).collect()
}

/// What an endpoint listens to, in one word: several types, which no subscription of shape A has, are joined by commas.
pub fn topic(endpoint: &Endpoint) -> String {
    match endpoint.types.as_slice() {
        [] => "*".to_owned(),
        types => types.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
    }
}

/// What an endpoint listens to, under the names of shape B; types that have none there under their own.
pub fn topics(endpoint: &Endpoint) -> Vec<String> {
    let alias = |pattern: &TypePattern| {
        let pattern = pattern.to_string();
        TOPICS.iter().find(|(kind, _, _)| *kind == pattern).map_or(pattern, |(_, alias, _)| (*alias).to_owned())
    };
    match endpoint.types.as_slice() {
        [] => TOPICS.iter().map(|(_, alias, _)| (*alias).to_owned()).collect(),
        types => types.iter().map(alias).collect(),
    }
}
