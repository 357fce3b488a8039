//! A subscription as the API shows it (WIRE.md 1.3), of any endpoint with one of this product's formats.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    document::{ACTION_FILTER, ACTIONS, EventType, attribute},
    oauth,
};
use crate::{
    model::{Endpoint, Format, HealthState, Status, Timestamp, TypePattern},
    registry::{Entry, spec::EndpointSpec},
};

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ZenviaSubscription)]
pub struct Subscription {
    #[schema(example = "d1f6c8a2-7c1e-4b8e-9d55-0c7c3b1f2a10")]
    id: String,
    /// `MESSAGE`, `MESSAGE_STATUS`, `CONVERSATION_STATUS`, `CONVERSATION_MESSAGE`, `SUPPORT_EXPERT_AGENT` or `CONTACT`; of an endpoint that was made
    /// elsewhere the first of them that it listens to, if any.
    #[schema(example = "MESSAGE")]
    event_type: String,
    /// Of an endpoint that was made elsewhere: all that it listens to, if that is not just `eventType`.
    #[serde(skip_serializing_if = "Option::is_none")]
    event_types: Option<Vec<String>>,
    webhook: Webhook,
    #[serde(skip_serializing_if = "Option::is_none")]
    criteria: Option<Criteria>,
    /// `ACTIVE`, `DEGRADED` (set by its health only) or `INACTIVE`.
    #[schema(example = "ACTIVE")]
    status: &'static str,
    /// `v1` or `v2`.
    #[schema(example = "v2")]
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ticket: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expert_agent: Option<Value>,
    #[schema(format = DateTime, example = "2026-01-15T18:00:00.000Z")]
    created_at: String,
    #[schema(format = DateTime, example = "2026-01-15T18:00:00.000Z")]
    updated_at: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ZenviaWebhook)]
struct Webhook {
    #[schema(example = "https://hooks.example.com/zenvia")]
    url: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    /// OAuth2 of the deliveries; secrets are masked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    auth: Option<Value>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ZenviaCriteria)]
struct Criteria {
    /// Of an endpoint that was made elsewhere: all of its channels, joined by commas; `*` if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "whatsapp")]
    channel: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "IN")]
    direction: Option<String>,
    /// Of `CONTACT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<Vec<String>>,
}

/// The version of an endpoint that is shown here.
pub fn version(endpoint: &Endpoint) -> Option<&'static str> {
    match endpoint.format {
        Format::Zenvia => Some("v2"),
        Format::ZenviaV1 => Some("v1"),
        Format::Standard | Format::CloudEvents | Format::Hub | Format::ZApi | Format::Chatwoot | Format::Conversion => None,
    }
}

impl Subscription {
    pub fn of(entry: &Entry) -> Subscription {
        let endpoint = &*entry.endpoint;
        let spec = EndpointSpec::of(endpoint);
        let attribute = |name: &str| endpoint.attributes.as_ref().and_then(|attributes| attributes.get(name));
        let (event_type, kind) = event_type(endpoint);
        let exactly = matches!(endpoint.types.as_slice(), [TypePattern::Exact(only)] if *only == event_type);
        Subscription {
            id: endpoint.id.to_string(),
            event_types: (!exactly).then(|| if spec.types.is_empty() { vec!["*".to_owned()] } else { spec.types.clone() }),
            event_type,
            webhook: Webhook {
                url: spec.url.clone(),
                headers: as_written(spec.headers.clone(), attribute(attribute::HEADERS)),
                auth: spec.auth.as_ref().and_then(oauth::show),
            },
            criteria: criteria(kind, &spec, attribute(attribute::DIRECTION)),
            status: match (endpoint.status, entry.state()) {
                (Status::Disabled, _) | (_, HealthState::Inactive) => "INACTIVE",
                (Status::Enabled, HealthState::Degraded) => "DEGRADED",
                (Status::Enabled, HealthState::Active) => "ACTIVE",
            },
            version: version(endpoint).unwrap_or("v2"),
            ticket: attribute(attribute::TICKET).cloned(),
            expert_agent: attribute(attribute::EXPERT_AGENT).cloned(),
            created_at: time(endpoint.created_at),
            updated_at: time(endpoint.updated_at),
        }
    }
}

/// The first of the product's types that the endpoint listens to. An endpoint of none of them says what it does listen to.
fn event_type(endpoint: &Endpoint) -> (String, Option<EventType>) {
    let listens = |name: &str| endpoint.types.is_empty() || endpoint.types.iter().any(|pattern| pattern.matches(name));
    match EventType::ALL.iter().find(|(name, _)| listens(name)) {
        Some((name, kind)) => ((*name).to_owned(), Some(*kind)),
        None => (endpoint.types.iter().map(ToString::to_string).collect::<Vec<_>>().join(","), None),
    }
}

fn criteria(kind: Option<EventType>, spec: &EndpointSpec, written: Option<&Value>) -> Option<Criteria> {
    let channel = match spec.channels.as_slice() {
        [] => "*".to_owned(),
        channels => channels.join(","),
    };
    let direction = spec.direction.clone().or_else(|| Some(written?.as_str()?.to_owned()));
    match kind {
        // The read schema of a status has no direction, though one may be given.
        Some(EventType::MessageStatus) => Some(Criteria { channel: Some(channel), direction: None, action: None }),
        Some(EventType::Message | EventType::ConversationMessage) | None => {
            Some(Criteria { channel: Some(channel), direction, action: None })
        }
        Some(EventType::Contact) => Some(Criteria { channel: None, direction: None, action: Some(actions(spec.filter.as_deref())) }),
        Some(EventType::ConversationStatus | EventType::SupportExpertAgent) => None,
    }
}

/// The actions that a filter of ours lists; all of them of an endpoint without such a filter.
fn actions(filter: Option<&str>) -> Vec<String> {
    let listed = filter.and_then(|filter| serde_json::from_str(filter.strip_prefix(ACTION_FILTER)?).ok());
    listed.unwrap_or_else(|| ACTIONS.iter().map(|(name, _)| (*name).to_owned()).collect())
}

/// Headers under the names that they were given, for names in HTTP have no case.
fn as_written(headers: BTreeMap<String, String>, names: Option<&Value>) -> BTreeMap<String, String> {
    let names: Vec<&str> = names.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let written = |lower: String| names.iter().find(|name| name.eq_ignore_ascii_case(&lower)).map_or(lower, |name| (*name).to_owned());
    headers.into_iter().map(|(name, value)| (written(name), value)).collect()
}

/// With milliseconds, always.
fn time(time: Timestamp) -> String {
    format!("{time:.3}")
}
