//! The document that describes an endpoint: one shape for `[[endpoint]]` in the configuration, the native API, and the registry's records.
//!
//! It is lenient to read and strict to check: closed sets and numbers come in as text, so that [`EndpointSpec::check`] can tell all
//! that is wrong at once, each with its path, instead of the first thing that a parser trips over. What comes out is an
//! [`Endpoint`], on which everybody may rely.

mod auth;
mod build;
mod headers;
mod tls;

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::{auth::AuthSpec, tls::TlsSpec};
use super::seal::{fill_random, hex};
use crate::model::{Endpoint, FieldError, RetrySchedule, Secret, Signing, Timestamp, json::object};

/// Text that must not be printed: a secret on its way in or out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct SecretText(pub String);

impl std::fmt::Debug for SecretText {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("SecretText(…)")
    }
}

/// An endpoint as it is written down. Absent fields have the defaults that their descriptions name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EndpointSpec {
    /// Letters, digits, `-` and `_`, at most 64; made up by the API when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    pub id: Option<String>,
    /// http or https, without credentials and fragment, at most 2,048 characters.
    #[schema(example = "https://hooks.example.com/orders", max_length = 2048, required = true)]
    pub url: String,
    /// `default` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub tenant: Option<String>,
    /// At most 1,000 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1000)]
    pub description: Option<String>,
    /// Channels to listen to; empty: all of the tenant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<String>,
    /// Event types to listen to, exact (`lead.created`), by prefix (`lead.*`) or `*`; empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// `IN`, `OUT` or `INTERNAL`; absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// An expression over the event that must hold as well, such as `event.data.total > 100`; absent: every event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// `standard` (the default), `cloudevents`, `hub`, `z_api`, `chatwoot`, `zenvia`, `zenvia_v1` or `conversion`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// `standard` (the default), `hub` or `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing: Option<String>,
    /// What requests are signed with: `whsec_…` or `whsk_…` for `standard`, 64 hexadecimal characters for `hub`. The API makes one when it is absent.
    /// Several are live at once, the newest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secrets>,
    /// Requests of the whole fleet, such as `50/s`, `600/m` or `1000/h`; absent: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
    /// Requests in flight at once per instance, 1 to 1,024; absent: the default of `[scheduler]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1024)]
    pub concurrency: Option<u32>,
    /// Headers to send along; what is secret belongs into `auth`, where it is sealed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// `standard`, `zenvia`, `none`, or the delays between attempts, such as `["30s", "5m", "1h"]`; absent: the schedule of `[retry]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetrySpec>,
    /// `enabled` (the default) or `disabled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "object")]
    pub auth: Option<AuthSpec>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "object")]
    pub tls: Option<TlsSpec>,
    /// What the API of a product keeps with it and shows again, such as `customAttributes` of the Hub; at most 16 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub attributes: Option<Arc<serde_json::Map<String, serde_json::Value>>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a secret, or a list of secrets, as text")]
pub enum Secrets {
    One(SecretText),
    Several(Vec<SecretText>),
}

impl Secrets {
    /// The one that was made last: it comes first.
    pub fn newest(self) -> Option<SecretText> {
        match self {
            Secrets::One(one) => Some(one),
            Secrets::Several(several) => several.into_iter().next(),
        }
    }

    fn as_slice(&self) -> &[SecretText] {
        match self {
            Secrets::One(one) => std::slice::from_ref(one),
            Secrets::Several(several) => several,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be `standard`, `zenvia`, `none`, or a list of delays such as [\"30s\", \"5m\"]")]
pub enum RetrySpec {
    Preset(String),
    Delays(Vec<String>),
}

impl EndpointSpec {
    /// Checks all of it, limits included: for what a person hands in. `now` becomes the time of creation.
    pub fn check(self, now: Timestamp) -> Result<Endpoint, Vec<FieldError>> {
        build::checked(self, now, now, build::Limits::Enforced)
    }

    /// Builds the endpoint of a stored record: limits that were tightened since do not take away what is registered.
    pub(super) fn restore(self, created_at: Timestamp, updated_at: Timestamp) -> Result<Endpoint, Vec<FieldError>> {
        build::checked(self, created_at, updated_at, build::Limits::Passed)
    }

    /// Makes up what the API makes up when it is absent: an id, and a secret where requests are to be signed.
    pub fn fill(&mut self) {
        if self.id.is_none() {
            self.id = Some(format!("ep_{}", uuid::Uuid::now_v7().simple()));
        }
        if self.secret.is_none() {
            self.secret = new_secret(self.signing.as_deref().unwrap_or(build::DEFAULT_SIGNING)).map(Secrets::One);
        }
    }

    /// The document of an endpoint, its secrets in clear: for records (which seal them) and for merging a change into it.
    pub fn of(endpoint: &Endpoint) -> EndpointSpec {
        let secret = match &endpoint.signing {
            Signing::None => None,
            Signing::Standard { secrets } => Some(Secrets::Several(secrets.iter().map(text_of).collect())),
            Signing::Hub { secret } => Some(Secrets::One(text_of(secret))),
        };
        EndpointSpec {
            id: Some(endpoint.id.to_string()),
            url: endpoint.url.as_str().to_owned(),
            tenant: Some(endpoint.tenant.to_string()),
            description: endpoint.description.clone(),
            channels: endpoint.channels.iter().map(ToString::to_string).collect(),
            types: endpoint.types.iter().map(ToString::to_string).collect(),
            direction: endpoint.direction.map(|direction| build::DIRECTIONS.name_of(direction).to_owned()),
            filter: endpoint.filter.as_ref().map(ToString::to_string),
            format: Some(endpoint.format.as_str().to_owned()),
            signing: Some(endpoint.signing.as_str().to_owned()),
            secret,
            rate: endpoint.rate.map(|rate| rate.to_string()),
            concurrency: endpoint.concurrency.map(|concurrency| concurrency.get().into()),
            headers: endpoint
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
                .collect(),
            retry: endpoint.retry.as_ref().map(retry_of),
            status: Some(build::STATUSES.name_of(endpoint.status).to_owned()),
            auth: AuthSpec::of(&endpoint.auth),
            tls: endpoint.tls.as_deref().map(TlsSpec::of),
            attributes: endpoint.attributes.clone(),
        }
    }
}

/// A new secret for a way of signing; none for one that needs none (or is unknown, which `check` tells).
pub fn new_secret(signing: &str) -> Option<SecretText> {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    fill_random(bytes.as_mut_slice());
    match signing {
        "standard" => Some(SecretText(format!("whsec_{}", STANDARD.encode(bytes.as_slice())))),
        "hub" => Some(SecretText(hex(bytes.as_slice()))),
        _ => None,
    }
}

fn text_of(secret: &Secret) -> SecretText {
    SecretText(String::from_utf8_lossy(secret.expose()).into_owned())
}

fn retry_of(schedule: &RetrySchedule) -> RetrySpec {
    RetrySpec::Delays(schedule.0.iter().map(|delay| humantime::format_duration(*delay).to_string()).collect())
}

#[cfg(test)]
mod tests;
