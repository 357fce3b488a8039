//! From the webhook to the document of an endpoint, and back.
//!
//! | webhook | endpoint |
//! |---|---|
//! | `channelId` | in `channels`; a template webhook has none |
//! | `events` | `types` (see [`events`]) |
//! | `payloadFormat` DEFAULT, Z_API, CHATWOOT | `format` hub, z_api, chatwoot |
//! | `signing` | `signing` hub or none. Another scheme is shown as not signed and stays, unless this one is asked for |
//! | `auth` | `auth`, whatever the endpoint has |
//! | `customAttributes` | in `attributes` |
//! | `status` | `status`, and what health decided: neither of the two serves is DISABLED |

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{
    call::Call,
    error::{Error, Family},
    events::{self, Refusal},
    webhook::{ShownAuth, Webhook, WebhookAuth, WebhookSpec},
};
use crate::{
    model::{Endpoint, FieldError, Format, Signing, Timestamp, TypePattern},
    registry::{
        Entry,
        spec::{AuthSpec, EndpointSpec, Secrets, new_secret},
    },
};

/// The attribute of an endpoint that holds the client's own.
const CUSTOM_ATTRIBUTES: &str = "customAttributes";

const FORMATS: &[(&str, Format)] = &[("DEFAULT", Format::Hub), ("Z_API", Format::ZApi), ("CHATWOOT", Format::Chatwoot)];

/// The names of the product and ours.
const AUTH_TYPES: &[(&str, &str)] =
    &[("NONE", "none"), ("BEARER", "bearer"), ("API_KEY", "api_key"), ("BASIC", "basic"), ("CUSTOM_HEADER", "custom_header")];

/// Names of fields where the document of an endpoint has others.
const FIELDS: &[(&str, &str)] = &[
    ("channels[0]", "channelId"),
    ("auth.name", "auth.headerName"),
    ("auth.value", "auth.headerValue"),
    ("attributes", CUSTOM_ATTRIBUTES),
];

/// Whether an endpoint is a webhook at this path.
pub fn is_shown(call: &Call, endpoint: &Endpoint) -> bool {
    let hears_of_templates = || {
        let names = events::names(Family::Template);
        endpoint.types.is_empty() || names.iter().any(|name| endpoint.types.iter().any(|pattern| pattern.matches(name)))
    };
    endpoint.tenant == call.tenant
        && FORMATS.iter().any(|(_, format)| *format == endpoint.format)
        && match &call.channel {
            Some(channel) => endpoint.channels.contains(channel),
            None => endpoint.channels.is_empty() && hears_of_templates(),
        }
}

/// `reveal`: with its secret, which was just made.
pub fn shown(call: &Call, entry: &Entry, reveal: bool) -> Webhook {
    let endpoint = &*entry.endpoint;
    let channel = call.channel.as_ref().map(ToString::to_string);
    let events_of = if call.channel.is_some() { Family::Channel } else { Family::Template };
    let secret = match &endpoint.signing {
        Signing::Hub { .. } if reveal => Some(EndpointSpec::of(endpoint).secret.and_then(Secrets::newest)),
        Signing::Hub { .. } => None,
        Signing::None | Signing::Standard { .. } => (events_of == Family::Template).then_some(None),
    };
    Webhook {
        id: endpoint.id.to_string(),
        instance_id: channel.clone(),
        channel_id: channel,
        url: endpoint.url.as_str().to_owned(),
        description: endpoint.description.clone(),
        events: events::shown(events_of, endpoint),
        status: shown_status(entry),
        signing: is_signed(endpoint),
        secret,
        auth: shown_auth(endpoint),
        payload_format: name_of(endpoint.format).to_owned(),
        custom_attributes: attribute(endpoint, CUSTOM_ATTRIBUTES).and_then(|given| given.as_object().cloned()).unwrap_or_default(),
        created_at: time(events_of, endpoint.created_at),
        updated_at: time(events_of, endpoint.updated_at),
    }
}

fn name_of(format: Format) -> &'static str {
    FORMATS.iter().find(|(_, known)| *known == format).map_or("DEFAULT", |(name, _)| name)
}

fn attribute<'a>(endpoint: &'a Endpoint, name: &str) -> Option<&'a Value> {
    endpoint.attributes.as_ref()?.get(name)
}

fn shown_status(entry: &Entry) -> &'static str {
    if entry.is_served() { "ENABLED" } else { "DISABLED" }
}

fn is_signed(endpoint: &Endpoint) -> bool {
    matches!(endpoint.signing, Signing::Hub { .. })
}

fn shown_auth(endpoint: &Endpoint) -> ShownAuth {
    let kind = endpoint.auth.as_str();
    ShownAuth { kind: kind.to_ascii_uppercase(), configured: kind != "none" }
}

/// The families write the zone in two ways.
fn time(family: Family, time: Timestamp) -> String {
    let zone = match family {
        Family::Channel => "+0000",
        Family::Template => "+00:00",
    };
    format!("{}{zone}", time.strftime("%Y-%m-%dT%H:%M:%S%.3f"))
}

/// The endpoint of a new webhook.
pub fn created(call: &Call, given: WebhookSpec) -> Result<EndpointSpec, Error> {
    let mut wrong = Vec::new();
    let mut refusal = None;
    let (signs, flat) = (given.signing.unwrap_or(false), given.is_flat());
    let mut spec = EndpointSpec {
        id: Some(uuid::Uuid::now_v7().simple().to_string().to_ascii_uppercase()),
        tenant: Some(call.tenant.to_string()),
        channels: call.channel.iter().map(ToString::to_string).collect(),
        format: Some(format(call.family, given.payload_format.as_deref().unwrap_or("DEFAULT"), &mut wrong).to_owned()),
        signing: Some(if signs { "hub" } else { "none" }.to_owned()),
        secret: if signs { new_secret("hub").map(Secrets::One) } else { None },
        ..EndpointSpec::default()
    };
    match given.url.clone() {
        Some(url) if !url.is_empty() => spec.url = url,
        _ => wrong.push(FieldError::new("url", "is required")),
    }
    spec.description = given.description.clone().flatten();
    let mut attributes = Map::new();
    match given.events.as_deref().map(|asked| events::checked(call.family, asked)) {
        None => wrong.push(FieldError::new("events", "is required")),
        Some(Ok(asked)) => {
            spec.types = events::types(&asked);
            remember(call.family, &mut attributes, &asked);
        }
        Some(Err(Refusal::Wrong(errors))) => wrong.extend(errors),
        Some(Err(Refusal::Crossing)) => refusal = Some(Error::crossing(call.family)),
    }
    if given.status.as_deref().is_some_and(|status| status != "ENABLED") {
        wrong.push(FieldError::new("status", "is given by a change: a webhook is created `ENABLED`"));
    }
    secret_is_made(&given, &mut wrong);
    let asked = auth(call.family, &given, &mut wrong);
    spec.auth = asked.and_then(|asked| merged_auth(None, &asked, &mut wrong));
    if let Some(custom) = given.custom_attributes {
        attributes.insert(CUSTOM_ATTRIBUTES.to_owned(), Value::Object(custom));
    }
    spec.attributes = (!attributes.is_empty()).then(|| Arc::new(attributes));
    settled(call.family, &wrong, refusal, flat)?;
    Ok(spec)
}

/// The endpoint after a change.
pub fn changed(call: &Call, entry: &Entry, given: &WebhookSpec) -> Result<EndpointSpec, Error> {
    let present = &*entry.endpoint;
    let mut spec = EndpointSpec::of(present);
    let mut attributes = present.attributes.as_deref().cloned().unwrap_or_default();
    let mut wrong = Vec::new();
    let mut refusal = None;
    match &given.url {
        Some(url) if url.is_empty() => wrong.push(FieldError::new("url", "is required")),
        Some(url) => spec.url.clone_from(url),
        None => {}
    }
    if let Some(description) = &given.description {
        spec.description.clone_from(description);
    }
    match given.events.as_deref().map(|asked| events::checked(call.family, asked)) {
        None => {}
        Some(Ok(asked)) if asked == events::shown(call.family, present) => {}
        Some(Ok(asked)) => match events::replaced(call.family, present, &asked) {
            Some(types) => {
                spec.types = types;
                remember(call.family, &mut attributes, &asked);
            }
            None => wrong.push(FieldError::new("events", patterns(present))),
        },
        Some(Err(Refusal::Wrong(errors))) => wrong.extend(errors),
        Some(Err(Refusal::Crossing)) => refusal = Some(Error::crossing(call.family)),
    }
    match given.status.as_deref() {
        Some(same) if same == shown_status(entry) => {}
        Some("ENABLED") => spec.status = Some("enabled".to_owned()),
        Some("DISABLED") => spec.status = Some("disabled".to_owned()),
        Some(other) => wrong.push(FieldError::new("status", format!("`{other}` is none of `ENABLED`, `DISABLED`"))),
        None => {}
    }
    match given.signing {
        Some(true) => (spec.signing, spec.secret) = (Some("hub".to_owned()), new_secret("hub").map(Secrets::One)),
        Some(false) if is_signed(present) => (spec.signing, spec.secret) = (Some("none".to_owned()), None),
        Some(false) | None => {}
    }
    secret_is_made(given, &mut wrong);
    if let Some(asked) = auth(call.family, given, &mut wrong)
        && !is_as_shown(&asked, present)
    {
        spec.auth = merged_auth(spec.auth.take(), &asked, &mut wrong);
    }
    if let Some(name) = given.payload_format.as_deref().filter(|name| *name != name_of(present.format)) {
        spec.format = Some(format(call.family, name, &mut wrong).to_owned());
    }
    let shown = attribute(present, CUSTOM_ATTRIBUTES).and_then(Value::as_object);
    if let Some(custom) = given.custom_attributes.as_ref().filter(|custom| shown.map_or(!custom.is_empty(), |shown| shown != *custom)) {
        attributes.insert(CUSTOM_ATTRIBUTES.to_owned(), Value::Object(custom.clone()));
    }
    spec.attributes = (!attributes.is_empty()).then(|| Arc::new(attributes));
    settled(call.family, &wrong, refusal, given.is_flat())?;
    Ok(spec)
}

/// Errors of the checked endpoint, told by the names of this product.
pub fn told(family: Family, errors: &[FieldError], flat: bool) -> Error {
    let own = |error: &FieldError| {
        let path = FIELDS.iter().find(|(ours, _)| *ours == error.path).map_or(error.path.as_str(), |(_, theirs)| theirs);
        let path = match path {
            "auth.type" if flat => "authType",
            "auth.token" | "auth.key" if flat => &path["auth.".len()..],
            path => path,
        };
        FieldError::new(path, error.message.clone())
    };
    Error::wrong(family, &errors.iter().map(own).collect::<Vec<_>>())
}

impl WebhookSpec {
    /// Whether authentication came in the flat form.
    pub fn is_flat(&self) -> bool {
        self.auth.is_none() && (self.auth_type.is_some() || self.token.is_some() || self.key.is_some())
    }
}

fn settled(family: Family, wrong: &[FieldError], refusal: Option<Error>, flat: bool) -> Result<(), Error> {
    if !wrong.is_empty() {
        return Err(told(family, wrong, flat));
    }
    refusal.map_or(Ok(()), Err)
}

/// Keeps the names that were asked for where the types do not tell them.
fn remember(family: Family, attributes: &mut Map<String, Value>, asked: &[&str]) {
    if events::need_asked(family, asked) {
        attributes.insert(events::ASKED.to_owned(), asked.into());
    } else {
        attributes.remove(events::ASKED);
    }
}

fn patterns(endpoint: &Endpoint) -> String {
    let listens: Vec<String> =
        endpoint.types.iter().filter(|known| !matches!(known, TypePattern::Exact(_))).map(|known| format!("`{known}`")).collect();
    let listens = if listens.is_empty() { "all types of events".to_owned() } else { listens.join(", ") };
    format!("cannot be told here: it listens to {listens}; change `types` by /v1/endpoints/{}", endpoint.id)
}

fn secret_is_made(given: &WebhookSpec, wrong: &mut Vec<FieldError>) {
    if given.secret.is_some() {
        wrong.push(FieldError::new("secret", "cannot be chosen: `signing: true` makes one and shows it"));
    }
}

fn format(family: Family, name: &str, wrong: &mut Vec<FieldError>) -> &'static str {
    let Some((_, format)) = FORMATS.iter().find(|(known, _)| *known == name) else {
        let names: Vec<&str> = FORMATS.iter().map(|(name, _)| *name).collect();
        wrong.push(FieldError::new("payloadFormat", format!("`{name}` is none of {}", events::list(&names))));
        return Format::Hub.as_str();
    };
    // Template events have no form there.
    let ignored = family == Family::Template && *format == Format::Chatwoot;
    if ignored { Format::Hub.as_str() } else { format.as_str() }
}

/// Authentication as it was asked for, in whichever form; none if it was not.
fn auth(family: Family, given: &WebhookSpec, wrong: &mut Vec<FieldError>) -> Option<WebhookAuth> {
    let flat = [("authType", given.auth_type.is_some()), ("token", given.token.is_some()), ("key", given.key.is_some())];
    if family == Family::Channel {
        let named = flat.iter().filter(|(_, is_given)| *is_given);
        wrong.extend(named.map(|(name, _)| FieldError::new(*name, "belongs into `auth` here")));
        return given.auth.clone();
    }
    if given.auth.is_none() && !given.is_flat() {
        return None;
    }
    let mut auth = given.auth.clone().unwrap_or_default();
    auth.kind = auth.kind.or_else(|| given.auth_type.clone());
    auth.token = auth.token.or_else(|| given.token.clone());
    auth.key = auth.key.or_else(|| given.key.clone());
    Some(auth)
}

/// What was read and is sent back says nothing new.
fn is_as_shown(asked: &WebhookAuth, endpoint: &Endpoint) -> bool {
    *asked == WebhookAuth { kind: Some(shown_auth(endpoint).kind), ..WebhookAuth::default() }
}

/// Of the type that is there, what is asked for replaces what is there; another type replaces all of it.
fn merged_auth(present: Option<AuthSpec>, asked: &WebhookAuth, wrong: &mut Vec<FieldError>) -> Option<AuthSpec> {
    let known = |name: &str| AUTH_TYPES.iter().find(|(known, _)| *known == name).map(|(_, ours)| *ours);
    let names: Vec<&str> = AUTH_TYPES.iter().map(|(name, _)| *name).collect();
    let kind = match (asked.kind.as_deref(), &present) {
        (Some(name), _) => known(name).map(str::to_owned).ok_or_else(|| format!("`{name}` is none of {}", events::list(&names))),
        (None, Some(present)) => Ok(present.kind.clone()),
        (None, None) => Err(format!("is required: {}", events::list(&names))),
    };
    let kind = match kind {
        Ok(kind) => kind,
        Err(message) => {
            wrong.push(FieldError::new("auth.type", message));
            return None;
        }
    };
    let mut spec = present.filter(|present| present.kind == kind).unwrap_or_else(|| AuthSpec { kind: kind.clone(), ..AuthSpec::default() });
    let WebhookAuth { kind: _, token, key, username, password, header_name, header_value } = asked.clone();
    spec.token = token.or(spec.token);
    spec.key = key.or(spec.key);
    spec.username = username.or(spec.username);
    spec.password = password.or(spec.password);
    spec.name = header_name.or(spec.name);
    spec.value = header_value.or(spec.value);
    let is_none = kind == "none" && spec == (AuthSpec { kind, ..AuthSpec::default() });
    (!is_none).then_some(spec)
}
