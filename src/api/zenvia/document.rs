//! From a subscription as clients write it to the document of an endpoint (WIRE.md 1.3).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Map, Value, json};

use super::oauth;
use crate::{
    api::{error::Problem, fields::Reader},
    registry::spec::{EndpointSpec, RetrySpec},
};

/// What `eventType` may be, and the criteria of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    Message,
    MessageStatus,
    ConversationStatus,
    ConversationMessage,
    SupportExpertAgent,
    Contact,
}

impl EventType {
    pub const ALL: [(&str, EventType); 6] = [
        ("MESSAGE", EventType::Message),
        ("MESSAGE_STATUS", EventType::MessageStatus),
        ("CONVERSATION_STATUS", EventType::ConversationStatus),
        ("CONVERSATION_MESSAGE", EventType::ConversationMessage),
        ("SUPPORT_EXPERT_AGENT", EventType::SupportExpertAgent),
        ("CONTACT", EventType::Contact),
    ];
}

pub const VERSIONS: [(&str, &str); 2] = [("v1", "zenvia_v1"), ("v2", "zenvia")];

/// What a person may set, and what the endpoint's document calls it.
const STATUSES: [(&str, &str); 2] = [("ACTIVE", "enabled"), ("INACTIVE", "disabled")];

pub const ACTIONS: [(&str, &str); 3] = [("CREATED", "CREATED"), ("DELETED", "DELETED"), ("UPDATED", "UPDATED")];

/// How the filter of a `CONTACT` subscription begins; its actions follow as a list.
pub const ACTION_FILTER: &str = "event.data.action in ";

/// Members of the attributes.
pub mod attribute {
    /// `ALL`, which is no direction of an event.
    pub const DIRECTION: &str = "direction";
    /// Names of headers as they were written.
    pub const HEADERS: &str = "headerNames";
    pub const TICKET: &str = "ticket";
    pub const EXPERT_AGENT: &str = "expertAgent";
}

/// A new subscription. Members that are read only may come along; others that are unknown are refused.
pub fn create(body: &Map<String, Value>) -> Result<EndpointSpec, Problem> {
    let mut read = Reader::default();
    let mut attributes = Map::new();
    let mut spec = EndpointSpec {
        id: Some(uuid::Uuid::now_v7().to_string()),
        signing: Some("none".into()),
        retry: Some(RetrySpec::Preset("zenvia".into())),
        ..EndpointSpec::default()
    };
    let mut known = vec!["id", "eventType", "webhook", "criteria", "status", "version", "createdAt", "updatedAt"];
    let kind = match read.required_text("eventType", body.get("eventType")) {
        Some(_) => read.word("eventType", body.get("eventType"), &EventType::ALL),
        None => None,
    };
    if kind == Some(EventType::SupportExpertAgent) {
        known.extend([attribute::TICKET, attribute::EXPERT_AGENT]);
        for name in [attribute::TICKET, attribute::EXPERT_AGENT] {
            attributes.extend(body.get(name).filter(|value| !value.is_null()).map(|value| (name.to_owned(), value.clone())));
        }
    }
    read.only("", body, &known);
    spec.types.extend(EventType::ALL.iter().filter(|(_, of)| Some(*of) == kind).map(|(name, _)| (*name).to_owned()));
    let version = read.word("version", body.get("version"), &VERSIONS);
    spec.format = Some(version.unwrap_or("zenvia").into());
    spec.status = read.word("status", body.get("status"), &STATUSES).map(str::to_owned);
    match read.object("webhook", body.get("webhook")) {
        Some(given) => {
            read.required_text("webhook.url", given.get("url"));
            webhook(&mut read, given, &mut spec, &mut attributes);
        }
        None if body.get("webhook").is_none_or(Value::is_null) => read.wrong("webhook", "is required"),
        None => {}
    }
    if let Some(kind) = kind {
        criteria(&mut read, kind, body.get("criteria"), &mut spec, &mut attributes);
    }
    spec.attributes = (!attributes.is_empty()).then(|| Arc::new(attributes));
    if read.errors.is_empty() { Ok(spec) } else { Err(Problem::invalid(read.errors)) }
}

/// What a change asks for.
pub struct Patch {
    webhook: Option<Map<String, Value>>,
    /// `enabled` or `disabled`.
    pub status: Option<&'static str>,
}

impl Patch {
    /// Only `webhook` and `status` can be changed.
    pub fn parse(body: &Map<String, Value>) -> Result<Patch, Problem> {
        let mut read = Reader::default();
        for name in body.keys().filter(|name| !["webhook", "status"].contains(&name.as_str())) {
            read.wrong(name, "cannot be changed: only `webhook` and `status` can; for other criteria make another subscription");
        }
        let status = read.word("status", body.get("status"), &STATUSES);
        let webhook = read.object("webhook", body.get("webhook")).cloned();
        if read.errors.is_empty() { Ok(Patch { webhook, status }) } else { Err(Problem::invalid(read.errors)) }
    }

    /// The endpoint's document with the change in it; what was not given stays.
    pub fn apply(&self, mut spec: EndpointSpec) -> Result<EndpointSpec, Problem> {
        let mut read = Reader::default();
        let mut attributes = spec.attributes.as_deref().cloned().unwrap_or_default();
        if let Some(status) = self.status {
            spec.status = Some(status.into());
        }
        if let Some(given) = &self.webhook {
            if given.contains_key("url") {
                read.required_text("webhook.url", given.get("url"));
            }
            webhook(&mut read, given, &mut spec, &mut attributes);
        }
        spec.attributes = (!attributes.is_empty()).then(|| Arc::new(attributes));
        if read.errors.is_empty() { Ok(spec) } else { Err(Problem::invalid(read.errors)) }
    }
}

fn webhook(read: &mut Reader, given: &Map<String, Value>, spec: &mut EndpointSpec, attributes: &mut Map<String, Value>) {
    read.only("webhook", given, &["url", "headers", "auth"]);
    if let Some(Value::String(url)) = given.get("url") {
        spec.url.clone_from(url);
    }
    if given.contains_key("headers") {
        let headers = read.pairs("webhook.headers", given.get("headers"));
        let names: Vec<&String> = headers.keys().filter(|name| name.bytes().any(|byte| byte.is_ascii_uppercase())).collect();
        attributes.remove(attribute::HEADERS);
        if !names.is_empty() {
            attributes.insert(attribute::HEADERS.into(), json!(names));
        }
        one_name_each(read, &headers);
        spec.headers = headers;
    }
    match given.get("auth") {
        None => {}
        // Only what the view shows can be taken away through it.
        Some(Value::Null) => spec.auth = spec.auth.take().filter(|auth| oauth::show(auth).is_none()),
        auth => {
            if let Some(auth) = read.object("webhook.auth", auth) {
                let translated = oauth::translate(read, auth, spec.auth.as_ref());
                spec.auth = translated.or(spec.auth.take());
            }
        }
    }
}

/// Names of headers that differ in case only are one name.
fn one_name_each(read: &mut Reader, headers: &BTreeMap<String, String>) {
    let mut seen = BTreeSet::new();
    for name in headers.keys().filter(|name| !seen.insert(name.to_ascii_lowercase())) {
        read.wrong(&format!("webhook.headers.{name}"), "is given twice: case does not tell names of headers apart");
    }
}

fn criteria(read: &mut Reader, kind: EventType, given: Option<&Value>, spec: &mut EndpointSpec, attributes: &mut Map<String, Value>) {
    let (known, directions): (&[&str], &[(&str, &str)]) = match kind {
        EventType::Message | EventType::MessageStatus => (&["channel", "direction"], &[("IN", "IN"), ("OUT", "OUT"), ("ALL", "ALL")]),
        EventType::ConversationMessage => (&["channel", "direction"], &[("IN", "IN"), ("OUT", "OUT"), ("INTERNAL", "INTERNAL")]),
        EventType::Contact => (&["action"], &[]),
        EventType::ConversationStatus | EventType::SupportExpertAgent => (&[], &[]),
    };
    let is_absent = given.is_none_or(Value::is_null);
    let Some(given) = read.object("criteria", given) else {
        if is_absent && !known.is_empty() {
            read.wrong("criteria", "is required");
        }
        return;
    };
    if known.is_empty() {
        for name in given.keys() {
            read.wrong(&format!("criteria.{name}"), "is unknown: this event type has no criteria");
        }
        return;
    }
    read.only("criteria", given, known);
    if kind == EventType::Contact {
        return actions(read, given.get("action"), spec);
    }
    spec.channels.extend(read.required_text("criteria.channel", given.get("channel")).map(str::to_owned));
    if kind == EventType::ConversationMessage && given.get("direction").is_none_or(Value::is_null) {
        read.wrong("criteria.direction", "is required");
    }
    match read.word("criteria.direction", given.get("direction"), directions) {
        Some("ALL") => drop(attributes.insert(attribute::DIRECTION.into(), json!("ALL"))),
        direction => spec.direction = direction.map(str::to_owned),
    }
}

fn actions(read: &mut Reader, given: Option<&Value>, spec: &mut EndpointSpec) {
    let items = match given {
        None | Some(Value::Null) => return read.wrong("criteria.action", "is required"),
        Some(Value::Array(items)) if !items.is_empty() => items,
        Some(_) => return read.wrong("criteria.action", "must be a list of at least one action"),
    };
    let mut actions: Vec<&str> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = format!("criteria.action[{index}]");
        match item {
            Value::String(_) => actions.extend(read.word(&path, Some(item), &ACTIONS)),
            _ => read.wrong(&path, "must be text"),
        }
    }
    actions.sort_unstable();
    actions.dedup();
    spec.filter = Some(format!("{ACTION_FILTER}{}", json!(actions)));
}

/// What a field of the endpoint is called here.
pub fn path(field: &str) -> String {
    let below = |prefix: &str| field.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
    if field == "url" {
        return "webhook.url".into();
    }
    if let Some(rest) = below("headers") {
        return format!("webhook.headers{rest}");
    }
    if let Some(rest) = below("auth") {
        let rest = match rest {
            ".clientId" | ".clientSecret" | ".refreshToken" | ".expiresIn" => format!(".oauth{rest}"),
            rest => rest.to_owned(),
        };
        return format!("webhook.auth{rest}");
    }
    match field {
        field if field.starts_with("channels") => "criteria.channel".into(),
        field if field.starts_with("types") => "eventType".into(),
        "direction" => "criteria.direction".into(),
        "filter" => "criteria.action".into(),
        "attributes" => ".".into(),
        field => field.to_owned(),
    }
}
