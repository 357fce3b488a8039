//! An endpoint as the API shows it: never with a secret, but with the fact that there is one.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    api::Shared,
    model::{HealthRecord, Timestamp, time::timestamp_from_ms},
    registry::{
        Entry,
        spec::{AuthSpec, EndpointSpec, RetrySpec, SecretText, Secrets, TlsSpec},
    },
};

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointView {
    pub id: String,
    url: String,
    tenant: String,
    description: Option<String>,
    channels: Vec<String>,
    types: Vec<String>,
    direction: Option<String>,
    filter: Option<String>,
    format: String,
    signing: String,
    /// Only in the answer to its creation or rotation: it is not shown again. The newest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<SecretText>,
    auth: AuthView,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<TlsView>,
    headers: BTreeMap<String, String>,
    rate: Option<String>,
    concurrency: Option<u32>,
    retry: Option<RetrySpec>,
    status: String,
    /// What the API of a product keeps with it.
    #[schema(value_type = Option<Object>)]
    attributes: Option<Arc<serde_json::Map<String, serde_json::Value>>>,
    health: HealthView,
    /// From the configuration file, and to be changed there.
    declared: bool,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthView {
    #[serde(rename = "type")]
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Where access tokens come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    /// Headers of the token request, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, Configured>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    query_params: BTreeMap<String, Configured>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_secret: Option<Configured>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<Configured>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in: Option<u64>,
    /// Whether there is a secret, which is never shown.
    configured: bool,
}

/// What stands in the place of a secret. Sent back in a change, it leaves the secret as it is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Configured {
    configured: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct TlsView {
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Configured>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthView {
    /// `active`, `degraded` or `inactive`.
    state: &'static str,
    /// Ordinary errors in a row; a timeout weighs several.
    score: u32,
    /// When it came into its state; null: it never was in another.
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// The rule that put it there.
    reason: Option<String>,
    /// Since when it gets no events, because of its health or because it was disabled. They can be recovered when it is enabled.
    #[schema(value_type = Option<String>, format = DateTime)]
    suspended_since: Option<Timestamp>,
}

impl EndpointView {
    pub fn of(shared: &Shared, entry: &Entry) -> EndpointView {
        let spec = EndpointSpec::of(&entry.endpoint);
        EndpointView {
            id: spec.id.unwrap_or_default(),
            url: spec.url,
            tenant: spec.tenant.unwrap_or_default(),
            description: spec.description,
            channels: spec.channels,
            types: spec.types,
            direction: spec.direction,
            filter: spec.filter,
            format: spec.format.unwrap_or_default(),
            signing: spec.signing.unwrap_or_default(),
            secret: None,
            auth: AuthView::of(spec.auth),
            tls: spec.tls.map(TlsView::of),
            headers: spec.headers,
            rate: spec.rate,
            concurrency: spec.concurrency,
            retry: spec.retry,
            status: spec.status.unwrap_or_default(),
            attributes: spec.attributes,
            health: HealthView::of(shared, entry),
            declared: entry.endpoint.is_declared(),
            created_at: entry.endpoint.created_at,
            updated_at: entry.endpoint.updated_at,
        }
    }

    /// The one time that it is shown.
    pub fn with_secret(shared: &Shared, entry: &Entry) -> EndpointView {
        EndpointView { secret: EndpointSpec::of(&entry.endpoint).secret.and_then(Secrets::newest), ..EndpointView::of(shared, entry) }
    }
}

impl Configured {
    fn of<T>(secret: Option<T>) -> Option<Configured> {
        secret.map(|_| Configured { configured: true })
    }

    fn each(secrets: BTreeMap<String, SecretText>) -> BTreeMap<String, Configured> {
        secrets.into_keys().map(|name| (name, Configured { configured: true })).collect()
    }

    /// Whether a value of a change is what stands in the place of a secret.
    pub fn is_placeholder(value: &Value) -> bool {
        value.as_object().is_some_and(|object| object.len() == 1 && object.contains_key("configured"))
    }
}

impl AuthView {
    fn of(spec: Option<AuthSpec>) -> AuthView {
        let configured = spec.is_some();
        let spec = spec.unwrap_or_else(|| AuthSpec { kind: "none".into(), ..AuthSpec::default() });
        AuthView {
            kind: spec.kind,
            header: spec.header,
            username: spec.username,
            name: spec.name,
            url: spec.url,
            headers: Configured::each(spec.headers),
            query_params: Configured::each(spec.query_params),
            client_id: spec.client_id,
            client_secret: Configured::of(spec.client_secret),
            refresh_token: Configured::of(spec.refresh_token),
            expires_in: spec.expires_in,
            configured,
        }
    }
}

impl TlsView {
    fn of(spec: TlsSpec) -> TlsView {
        TlsView { certificate: spec.certificate, key: Configured::of(spec.key), ca: spec.ca }
    }
}

impl HealthView {
    fn of(shared: &Shared, entry: &Entry) -> HealthView {
        // Counts are the health store's; the state is what the registry knows, unless the store is ahead of it.
        let live = shared.health.get(&entry.endpoint.id);
        let stored = entry.health_record();
        let record: HealthRecord = match (live, stored) {
            (Some(live), Some(stored)) if live.version < stored.version => stored.clone(),
            (Some(live), _) => live,
            (None, stored) => stored.cloned().unwrap_or_default(),
        };
        let suspension = entry.suspension().filter(|suspension| suspension.ended.is_none());
        HealthView {
            state: record.state.as_str(),
            score: record.score,
            since: (record.since > 0).then(|| timestamp_from_ms(record.since)),
            reason: record.reason.map(|reason| reason.to_string()),
            suspended_since: suspension.map(|suspension| suspension.since),
        }
    }
}
