//! What lies in the registry topic: the keys, and the JSON behind each of them.
//!
//! | key | value |
//! |---|---|
//! | `registry` | the id of the topic and of the key that seals its secrets, made with the topic |
//! | `endpoint/<id>` | what a person configured, secrets sealed |
//! | `health/<id>` | what health decided, so that the two never overwrite each other |
//! | `token/<id>` | a token of the API, with the hash of its key |
//! | `tenant/<id>` | roles and limits of a tenant |
//! | `agent/<id>` | a support expert agent |
//!
//! Unknown keys and unknown fields are passed over: an older instance lives beside a newer one while a fleet is updated.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{
    seal::{Key, SealError, Sealed},
    spec::{EndpointSpec, SecretText, Secrets},
};
use crate::model::{Endpoint, HealthRecord, Position, Text, Timestamp};

/// A key of the topic, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordKey {
    Registry,
    Endpoint(Text),
    Health(Text),
    Token(Text),
    Tenant(Text),
    Agent(Text),
}

impl RecordKey {
    pub fn parse(key: &Bytes) -> Option<RecordKey> {
        let key = Text::try_from(key.clone()).ok()?;
        if key == "registry" {
            return Some(RecordKey::Registry);
        }
        let (kind, id) = key.split_once('/')?;
        // A text of its own: a slice would hold the whole batch that it was read with.
        let id = Text::from(id);
        match kind {
            "endpoint" => Some(RecordKey::Endpoint(id)),
            "health" => Some(RecordKey::Health(id)),
            "token" => Some(RecordKey::Token(id)),
            "tenant" => Some(RecordKey::Tenant(id)),
            "agent" => Some(RecordKey::Agent(id)),
            _ => None,
        }
    }
}

impl std::fmt::Display for RecordKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RecordKey::Registry => out.write_str("registry"),
            RecordKey::Endpoint(id) => write!(out, "endpoint/{id}"),
            RecordKey::Health(id) => write!(out, "health/{id}"),
            RecordKey::Token(id) => write!(out, "token/{id}"),
            RecordKey::Tenant(id) => write!(out, "tenant/{id}"),
            RecordKey::Agent(id) => write!(out, "agent/{id}"),
        }
    }
}

/// The time in which an endpoint got nothing, because its health or a person suspended it. It is kept after it has ended, so that
/// what was missed can be recovered also when the first try to do so was cut short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Suspension {
    pub since: Timestamp,
    /// The offset to be read next of every source partition when it began: what was missed lies from there on.
    pub positions: Vec<Position>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
}

/// What health decided about an endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredHealth {
    pub record: HealthRecord,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspension: Option<Suspension>,
}

/// The record that is made with the topic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    pub id: Text,
    /// [`Key::id`] of the key that seals its secrets.
    pub key: String,
    pub created_at: Timestamp,
}

/// `Spec` is [`EndpointSpec`] on the way out (without its secrets, which are in `sealed`), and its text on the way in.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredEndpoint<Spec> {
    spec: Spec,
    created_at: Timestamp,
    updated_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<Sealed>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    suspension: Option<Suspension>,
}

#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct SecretParts {
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<Secrets>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth: Option<SecretText>,
}

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("is no JSON of that kind: {0}")]
    Json(#[from] serde_json::Error),
    #[error("is no endpoint: {0}")]
    Endpoint(String),
}

/// Reads a spec, and if need be passes over fields that a newer version has added.
fn read_spec(text: &str) -> Result<EndpointSpec, serde_json::Error> {
    let strict = serde_json::from_str(text);
    if strict.is_ok() {
        return strict;
    }
    let mut given: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text)?;
    let known = serde_json::to_value(known_fields())?;
    given.retain(|field, _| known.get(field).is_some());
    serde_json::from_value(serde_json::Value::Object(given))
}

/// A document that has every field.
fn known_fields() -> EndpointSpec {
    let some = || Some(String::from("x"));
    EndpointSpec {
        id: some(),
        url: String::new(),
        tenant: some(),
        description: some(),
        channels: vec![String::new()],
        types: vec![String::new()],
        direction: some(),
        filter: some(),
        format: some(),
        signing: some(),
        secret: Some(Secrets::Several(Vec::new())),
        rate: some(),
        concurrency: Some(1),
        headers: [(String::new(), String::new())].into(),
        retry: Some(super::spec::RetrySpec::Delays(Vec::new())),
        status: some(),
        auth: Some(super::spec::AuthSpec::default()),
        attributes: Some(Arc::default()),
    }
}

/// The value of `endpoint/<id>`.
pub fn encode_endpoint(endpoint: &Endpoint, suspension: Option<&Suspension>, key: &Key) -> Bytes {
    let mut spec = EndpointSpec::of(endpoint);
    let auth = spec
        .auth
        .as_mut()
        .and_then(|auth| auth.token.take().or_else(|| auth.key.take()).or_else(|| auth.password.take()).or_else(|| auth.value.take()));
    let parts = SecretParts { secret: spec.secret.take(), auth };
    let sealed = (parts != SecretParts::default()).then(|| {
        let plain = zeroize::Zeroizing::new(serde_json::to_vec(&parts).expect("text is always JSON"));
        key.seal(&RecordKey::Endpoint(endpoint.id.clone()).to_string(), &plain)
    });
    encode(&StoredEndpoint {
        spec,
        created_at: endpoint.created_at,
        updated_at: endpoint.updated_at,
        sealed,
        suspension: suspension.cloned(),
    })
}

/// The endpoint of a record with the key `endpoint/<id>`, at `offset`.
pub fn decode_endpoint(id: &Text, value: &[u8], offset: i64, key: &Key) -> Result<(Endpoint, Option<Suspension>), RecordError> {
    let stored: StoredEndpoint<&RawValue> = serde_json::from_slice(value)?;
    let mut spec = read_spec(stored.spec.get())?;
    if let Some(sealed) = &stored.sealed {
        let plain = key.open(&RecordKey::Endpoint(id.clone()).to_string(), sealed)?;
        let parts: SecretParts = serde_json::from_slice(&plain)?;
        spec.secret = parts.secret;
        if let Some(auth) = &mut spec.auth {
            match auth.kind.as_str() {
                "bearer" => auth.token = parts.auth,
                "api_key" => auth.key = parts.auth,
                "basic" => auth.password = parts.auth,
                "custom_header" => auth.value = parts.auth,
                _ => {}
            }
        }
    }
    spec.id = Some(id.to_string());
    let mut endpoint = spec.restore(stored.created_at, stored.updated_at).map_err(|errors| {
        RecordError::Endpoint(errors.iter().map(|error| format!("{} {}", error.path, error.message)).collect::<Vec<_>>().join("; "))
    })?;
    endpoint.registry_offset = offset;
    Ok((endpoint, stored.suspension))
}

pub fn encode(value: &impl Serialize) -> Bytes {
    Bytes::from(serde_json::to_vec(value).expect("plain data is always JSON"))
}

pub fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, RecordError> {
    Ok(serde_json::from_slice(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(json: &str) -> Endpoint {
        let mut spec: EndpointSpec = serde_json::from_str(json).expect(json);
        spec.fill();
        spec.check(Timestamp::UNIX_EPOCH).expect("good")
    }

    #[test]
    fn an_endpoint_comes_back_as_it_was_and_its_secrets_are_not_to_be_seen() {
        let key = Key::from_bytes(&[1; 32]);
        for auth in [
            r#"{"type":"none"}"#,
            r#"{"type":"bearer","token":"hunter2"}"#,
            r#"{"type":"api_key","key":"hunter2"}"#,
            r#"{"type":"basic","username":"u","password":"hunter2"}"#,
            r#"{"type":"custom_header","name":"x-a","value":"hunter2"}"#,
        ] {
            let mut endpoint = endpoint(&format!(
                r#"{{"id":"a","url":"http://h/","secret":"whsec_aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMg","auth":{auth}}}"#
            ));
            let suspension = Suspension { since: Timestamp::UNIX_EPOCH, positions: Vec::new(), ended: None };
            let value = encode_endpoint(&endpoint, Some(&suspension), &key);
            let text = String::from_utf8_lossy(&value);
            assert!(!text.contains("hunter2") && !text.contains("whsec"), "{text}");
            endpoint.registry_offset = 7;
            assert_eq!(decode_endpoint(&endpoint.id, &value, 7, &key).expect("ours"), (endpoint, Some(suspension)));
        }
    }

    #[test]
    fn fields_of_a_newer_version_are_passed_over() {
        let value = br#"{"spec":{"url":"http://h/","signing":"none","shape":"round"},"createdAt":"1970-01-01T00:00:00Z","updatedAt":"1970-01-01T00:00:00Z","x":1}"#;
        let (endpoint, _) = decode_endpoint(&"a".into(), value, 1, &Key::from_bytes(&[1; 32])).expect("readable");
        assert_eq!(endpoint.url.as_str(), "http://h/");
    }

    #[test]
    fn keys_are_taken_apart_and_unknown_ones_are_none() {
        for (text, key) in [
            ("registry", Some(RecordKey::Registry)),
            ("endpoint/a", Some(RecordKey::Endpoint("a".into()))),
            ("health/a/b", Some(RecordKey::Health("a/b".into()))),
            ("token/t", Some(RecordKey::Token("t".into()))),
            ("tenant/t", Some(RecordKey::Tenant("t".into()))),
            ("agent/t", Some(RecordKey::Agent("t".into()))),
            ("robot/t", None),
            ("x", None),
        ] {
            let parsed = RecordKey::parse(&Bytes::from_static(text.as_bytes()));
            assert_eq!(parsed, key, "{text}");
            assert!(parsed.is_none_or(|key| key.to_string() == text));
        }
        assert_eq!(RecordKey::parse(&Bytes::from_static(b"\xff")), None);
    }
}
