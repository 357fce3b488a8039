//! What lies in the registry topic: the keys, and the JSON behind each of them.
//!
//! | key | value |
//! |---|---|
//! | `registry` | the id of the topic and of the key that seals its secrets, made with the topic |
//! | `endpoint/<id>` | what a person configured, secrets sealed |
//! | `health/<id>` | what health decided, so that the two never overwrite each other |
//! | `grant/<id>` | a refresh token that the token endpoint of `<id>` has put in place of the configured one, sealed |
//! | `token/<id>` | a token of the API, with the hash of its key and, sealed, the secret of a signature token |
//! | `used/<id>` | when a token was used last, apart from the token: a use that is noted late must not bring back a revoked one |
//! | `tenant/<id>` | roles and limits of a tenant |
//! | `agent/<id>` | a support expert agent |
//!
//! Unknown keys and unknown fields are passed over: an older instance lives beside a newer one while a fleet is updated.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{
    seal::{Key, SealError, Sealed},
    spec::{EndpointSpec, SecretText, Secrets},
};
use crate::model::{Endpoint, HealthRecord, Position, Secret, Text, Timestamp, token::Token};

/// A key of the topic, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordKey {
    Registry,
    Endpoint(Text),
    Health(Text),
    Grant(Text),
    Token(Text),
    Used(Text),
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
            "grant" => Some(RecordKey::Grant(id)),
            "token" => Some(RecordKey::Token(id)),
            "used" => Some(RecordKey::Used(id)),
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
            RecordKey::Grant(id) => write!(out, "grant/{id}"),
            RecordKey::Token(id) => write!(out, "token/{id}"),
            RecordKey::Used(id) => write!(out, "used/{id}"),
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
    #[serde(skip_serializing_if = "Option::is_none")]
    oauth2: Option<OAuth2Parts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_key: Option<SecretText>,
}

/// What of `auth` is sealed when it is `oauth2`: headers and parameters carry keys too, so all of them.
#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct OAuth2Parts {
    client_secret: Option<SecretText>,
    refresh_token: Option<SecretText>,
    headers: BTreeMap<String, SecretText>,
    query_params: BTreeMap<String, SecretText>,
}

impl SecretParts {
    /// Takes all secrets out of the document.
    fn take(spec: &mut EndpointSpec) -> SecretParts {
        let mut parts = SecretParts { secret: spec.secret.take(), ..SecretParts::default() };
        parts.tls_key = spec.tls.as_mut().and_then(|tls| tls.key.take());
        if let Some(auth) = &mut spec.auth {
            let several = [&mut auth.token, &mut auth.key, &mut auth.password, &mut auth.value];
            parts.auth = several.into_iter().find_map(Option::take);
            parts.oauth2 = (auth.kind == OAUTH2).then(|| OAuth2Parts {
                client_secret: auth.client_secret.take(),
                refresh_token: auth.refresh_token.take(),
                headers: std::mem::take(&mut auth.headers),
                query_params: std::mem::take(&mut auth.query_params),
            });
        }
        parts
    }

    /// Puts them back.
    fn put(self, spec: &mut EndpointSpec) {
        spec.secret = self.secret;
        if let Some(tls) = &mut spec.tls {
            tls.key = self.tls_key;
        }
        let Some(auth) = &mut spec.auth else { return };
        match auth.kind.as_str() {
            "bearer" => auth.token = self.auth,
            "api_key" => auth.key = self.auth,
            "basic" => auth.password = self.auth,
            "custom_header" => auth.value = self.auth,
            OAUTH2 => {
                let parts = self.oauth2.unwrap_or_default();
                (auth.client_secret, auth.refresh_token) = (parts.client_secret, parts.refresh_token);
                (auth.headers, auth.query_params) = (parts.headers, parts.query_params);
            }
            _ => {}
        }
    }
}

const OAUTH2: &str = "oauth2";

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
        tls: Some(super::spec::TlsSpec::default()),
        attributes: Some(Arc::default()),
    }
}

/// The value of `endpoint/<id>`.
pub fn encode_endpoint(endpoint: &Endpoint, suspension: Option<&Suspension>, key: &Key) -> Bytes {
    let mut spec = EndpointSpec::of(endpoint);
    let parts = SecretParts::take(&mut spec);
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
        parts.put(&mut spec);
    }
    spec.id = Some(id.to_string());
    let mut endpoint = spec.restore(stored.created_at, stored.updated_at).map_err(|errors| {
        RecordError::Endpoint(errors.iter().map(|error| format!("{} {}", error.path, error.message)).collect::<Vec<_>>().join("; "))
    })?;
    endpoint.registry_offset = offset;
    Ok((endpoint, stored.suspension))
}

#[derive(Serialize, Deserialize)]
struct StoredToken {
    #[serde(flatten)]
    token: Token,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<Sealed>,
}

/// The value of `token/<id>`.
pub fn encode_token(token: &Token, key: &Key) -> Bytes {
    let record = RecordKey::Token(token.id.clone()).to_string();
    let sealed = token.secret.as_ref().map(|secret| key.seal(&record, secret.expose()));
    encode(&StoredToken { token: token.clone(), sealed })
}

/// The token of a record with the key `token/<id>`.
pub fn decode_token(id: &Text, value: &[u8], key: &Key) -> Result<Token, RecordError> {
    let StoredToken { mut token, sealed } = decode(value)?;
    let opened = sealed.map(|sealed| key.open(&RecordKey::Token(id.clone()).to_string(), &sealed)).transpose()?;
    token.secret = opened.map(|plain| Secret::new(plain.as_slice()));
    Ok(token)
}

/// The value of `used/<id>`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Used {
    pub at: Timestamp,
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
    use crate::model::token::{Role, TokenKind};

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
            r#"{"type":"oauth2","url":"https://idp/token","headers":{"x-key":"hunter2"},"queryParams":{"q":"hunter2"},"clientId":"c",
                "clientSecret":"hunter2","refreshToken":"hunter2","expiresIn":60}"#,
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
    fn the_key_of_a_certificate_is_sealed() {
        let made = rcgen::generate_simple_self_signed(["client".to_owned()]).expect("made");
        let mut spec: EndpointSpec = serde_json::from_str(r#"{"id":"a","url":"https://h/","signing":"none"}"#).expect("a document");
        let key = made.signing_key.serialize_pem();
        spec.tls = Some(super::super::spec::TlsSpec { certificate: Some(made.cert.pem()), key: Some(SecretText(key)), ca: None });
        let mut endpoint = spec.check(Timestamp::UNIX_EPOCH).expect("good");
        let seal = Key::from_bytes(&[1; 32]);
        let value = encode_endpoint(&endpoint, None, &seal);
        let text = String::from_utf8_lossy(&value);
        assert!(text.contains("BEGIN CERTIFICATE") && !text.contains("PRIVATE KEY"), "{text}");
        endpoint.registry_offset = 7;
        assert_eq!(decode_endpoint(&endpoint.id, &value, 7, &seal).expect("ours").0, endpoint);
    }

    #[test]
    fn fields_of_a_newer_version_are_passed_over() {
        let value = br#"{"spec":{"url":"http://h/","signing":"none","shape":"round"},"createdAt":"1970-01-01T00:00:00Z","updatedAt":"1970-01-01T00:00:00Z","x":1}"#;
        let (endpoint, _) = decode_endpoint(&"a".into(), value, 1, &Key::from_bytes(&[1; 32])).expect("readable");
        assert_eq!(endpoint.url.as_str(), "http://h/");
    }

    #[test]
    fn a_token_comes_back_with_its_secret_which_is_not_to_be_seen() {
        let key = Key::from_bytes(&[1; 32]);
        let mut token = Token {
            id: "t".into(),
            tenant: "acme".into(),
            name: "n".into(),
            kind: TokenKind::Signature,
            role: Role::Admin,
            key_sha256: "abc".into(),
            created_at: Timestamp::UNIX_EPOCH,
            secret: Some(Secret::new("hunter2")),
        };
        let value = encode_token(&token, &key);
        assert!(!String::from_utf8_lossy(&value).contains("hunter2") && !format!("{token:?}").contains("hunter2"));
        assert_eq!(decode_token(&token.id, &value, &key).expect("ours"), token);
        assert!(matches!(decode_token(&"other".into(), &value, &key), Err(RecordError::Seal(_))), "sealed for this token alone");
        token.secret = None;
        assert_eq!(decode_token(&token.id, &encode_token(&token, &key), &key).expect("without one"), token);
    }

    #[test]
    fn keys_are_taken_apart_and_unknown_ones_are_none() {
        for (text, key) in [
            ("registry", Some(RecordKey::Registry)),
            ("endpoint/a", Some(RecordKey::Endpoint("a".into()))),
            ("health/a/b", Some(RecordKey::Health("a/b".into()))),
            ("grant/a", Some(RecordKey::Grant("a".into()))),
            ("token/t", Some(RecordKey::Token("t".into()))),
            ("used/t", Some(RecordKey::Used("t".into()))),
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
