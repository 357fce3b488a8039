//! The names of events (WIRE.md 4.3), and what a webhook that asks for them listens to.
//!
//! A combined name asks for two plain ones: `RECEIVED_STATUS` for `MESSAGE_RECEIVED` and `MESSAGE_STATUS`, `RECEIVED_AND_DELIVERY` for
//! `MESSAGE_RECEIVED` and `MESSAGE_DELIVERY`. The endpoint listens to those, so routing knows no combined names and an event that two of its names
//! ask for is still one delivery. Which names were asked for is kept beside the types, so that reading shows them.
//!
//! A producer may send an event under a combined name itself. It does not say which of the two it is, so it goes to those who asked for that very name
//! and to nobody else: the endpoint listens to the name as well.

use std::collections::BTreeSet;

use super::error::Family;
use crate::model::{Endpoint, FieldError, TypePattern};

/// The attribute of an endpoint that holds the names that were asked for, if its types alone do not tell them.
pub const ASKED: &str = "hubEvents";

const CHANNEL: &[&str] = &[
    "MESSAGE_RECEIVED",
    "MESSAGE_DELIVERY",
    "MESSAGE_STATUS",
    "RECEIVED_STATUS",
    "RECEIVED_AND_DELIVERY",
    "CONNECTED",
    "DISCONNECTED",
    "PRESENCE_CHAT",
    "INITIAL_DATA",
    "BLOCK",
];

const TEMPLATE: &[&str] = &["UPDATE_TEMPLATE_STATUS", "UPDATE_TEMPLATE_CATEGORY"];

/// All that events of one family can be called.
pub fn names(family: Family) -> &'static [&'static str] {
    match family {
        Family::Channel => CHANNEL,
        Family::Template => TEMPLATE,
    }
}

/// What a combined name asks for.
fn parts(name: &str) -> &'static [&'static str] {
    match name {
        "RECEIVED_STATUS" => &["MESSAGE_RECEIVED", "MESSAGE_STATUS"],
        "RECEIVED_AND_DELIVERY" => &["MESSAGE_RECEIVED", "MESSAGE_DELIVERY"],
        _ => &[],
    }
}

/// Why a list of events is refused.
#[derive(Debug, PartialEq)]
pub enum Refusal {
    Wrong(Vec<FieldError>),
    /// Events of the other family.
    Crossing,
}

/// The names of a list, each once, in its order.
pub fn checked(family: Family, asked: &[String]) -> Result<Vec<&'static str>, Refusal> {
    let other = match family {
        Family::Channel => TEMPLATE,
        Family::Template => CHANNEL,
    };
    if asked.is_empty() {
        return Err(Refusal::Wrong(vec![FieldError::new("events", format!("must name at least one of {}", list(names(family))))]));
    }
    let (mut found, mut wrong, mut crossing) = (Vec::new(), Vec::new(), false);
    for (index, asked) in asked.iter().enumerate() {
        match names(family).iter().find(|name| *name == asked) {
            Some(name) if !found.contains(name) => found.push(*name),
            Some(_) => {}
            None if other.contains(&asked.as_str()) => crossing = true,
            None => wrong.push(FieldError::new(format!("events[{index}]"), format!("`{asked}` is none of {}", list(names(family))))),
        }
    }
    if !wrong.is_empty() {
        return Err(Refusal::Wrong(wrong));
    }
    if crossing { Err(Refusal::Crossing) } else { Ok(found) }
}

/// The names in a message.
pub fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The types to listen to, each once.
pub fn types(asked: &[&str]) -> Vec<String> {
    let mut types: Vec<String> = Vec::new();
    for kind in asked.iter().flat_map(|name| parts(name).iter().chain(std::iter::once(name))) {
        if !types.iter().any(|known| known == kind) {
            types.push((*kind).to_owned());
        }
    }
    types
}

/// Whether the types alone would be shown as something else, or in another order.
pub fn need_asked(family: Family, asked: &[&str]) -> bool {
    let place = |name: &&str| names(family).iter().position(|known| known == name);
    asked.iter().any(|name| !parts(name).is_empty()) || !asked.is_sorted_by_key(place)
}

/// The events that an endpoint is shown to hear of.
pub fn shown(family: Family, endpoint: &Endpoint) -> Vec<String> {
    let listens = |name: &str| match parts(name) {
        [] => endpoint.types.is_empty() || endpoint.types.iter().any(|pattern| pattern.matches(name)),
        // A prefix or a list of all types was not meant for a name that is two others.
        _ => endpoint.types.iter().any(|pattern| *pattern == TypePattern::Exact(name.into())),
    };
    let heard: Vec<String> = names(family).iter().filter(|name| listens(name)).map(|name| (*name).to_owned()).collect();
    let asked: Option<Vec<&str>> = endpoint
        .attributes
        .as_ref()
        .and_then(|attributes| attributes.get(ASKED)?.as_array())
        .map(|asked| asked.iter().filter_map(|name| names(family).iter().copied().find(|known| name == known)).collect());
    match asked {
        // The types may have been changed by another API since.
        Some(asked) if set(&types(&asked)) == set(&heard) => asked.into_iter().map(str::to_owned).collect(),
        _ => heard,
    }
}

/// The types after a change of events: those of this family are replaced, others stay. None if a pattern stands for both.
pub fn replaced(family: Family, endpoint: &Endpoint, asked: &[&str]) -> Option<Vec<String>> {
    if endpoint.types.is_empty() {
        return None;
    }
    let mut types = types(asked);
    for pattern in &endpoint.types {
        match pattern {
            TypePattern::Exact(name) if names(family).contains(&&**name) => {}
            TypePattern::Exact(name) => types.push(name.to_string()),
            TypePattern::Prefix(_) | TypePattern::Any => return None,
        }
    }
    Some(types)
}

fn set(names: &[String]) -> BTreeSet<&str> {
    names.iter().map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Timestamp, registry::EndpointSpec};

    fn endpoint(json: serde_json::Value) -> Endpoint {
        let mut spec: EndpointSpec = serde_json::from_value(json).expect("a spec");
        spec.fill();
        spec.check(Timestamp::UNIX_EPOCH).expect("good")
    }

    #[test]
    fn combined_names_ask_for_plain_ones_and_for_themselves() {
        for (asked, expected) in [
            (vec!["MESSAGE_RECEIVED"], vec!["MESSAGE_RECEIVED"]),
            (vec!["RECEIVED_STATUS"], vec!["MESSAGE_RECEIVED", "MESSAGE_STATUS", "RECEIVED_STATUS"]),
            (
                vec!["RECEIVED_AND_DELIVERY", "RECEIVED_STATUS"],
                vec!["MESSAGE_RECEIVED", "MESSAGE_DELIVERY", "RECEIVED_AND_DELIVERY", "MESSAGE_STATUS", "RECEIVED_STATUS"],
            ),
        ] {
            assert_eq!(types(&asked), expected);
        }
    }

    #[test]
    fn what_is_shown_is_what_was_asked_for_unless_the_types_were_changed_since() {
        let spec = |types: serde_json::Value, asked: serde_json::Value| {
            endpoint(serde_json::json!({"url": "http://h/", "types": types, "attributes": {ASKED: asked}}))
        };
        for (types, asked, expected) in [
            (
                serde_json::json!(["MESSAGE_RECEIVED", "MESSAGE_STATUS", "RECEIVED_STATUS"]),
                serde_json::json!(["RECEIVED_STATUS"]),
                vec!["RECEIVED_STATUS"],
            ),
            (serde_json::json!(["MESSAGE_RECEIVED"]), serde_json::json!(["RECEIVED_STATUS"]), vec!["MESSAGE_RECEIVED"]),
            (serde_json::json!(["BLOCK", "CONNECTED"]), serde_json::json!(["BLOCK", "CONNECTED"]), vec!["BLOCK", "CONNECTED"]),
            (serde_json::json!(["MESSAGE_*"]), serde_json::json!(7), vec!["MESSAGE_RECEIVED", "MESSAGE_DELIVERY", "MESSAGE_STATUS"]),
            (serde_json::json!(["lead.created"]), serde_json::json!([]), vec![]),
        ] {
            assert_eq!(shown(Family::Channel, &spec(types, asked)), expected);
        }
        let all = endpoint(serde_json::json!({"url": "http://h/"}));
        assert_eq!((shown(Family::Channel, &all).len(), shown(Family::Template, &all).len()), (8, 2), "all but the combined ones");
    }

    #[test]
    fn a_change_of_events_leaves_what_this_api_does_not_know() {
        let of = |types: serde_json::Value| endpoint(serde_json::json!({"url": "http://h/", "types": types}));
        let change = |types| replaced(Family::Channel, &of(types), &["BLOCK"]);
        assert_eq!(change(serde_json::json!(["MESSAGE_STATUS", "lead.created"])), Some(vec!["BLOCK".into(), "lead.created".into()]));
        assert_eq!(change(serde_json::json!(["MESSAGE_*"])), None);
        assert_eq!(change(serde_json::json!([])), None);
    }
}
