//! Refresh tokens that a token endpoint gave in place of the one before (RFC 6749, 6): the newest of each endpoint is kept, sealed.
//!
//! They have a key of their own in the topic (`grant/<id>`), because nobody configured them: a change of the endpoint by a person and a rotation by
//! its token endpoint must not overwrite each other, and an endpoint that the configuration file declares can have one as well. Each
//! remembers the refresh token that its owner gave, and is worth nothing once the owner gives another.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Registry,
    record::{self, RecordError, RecordKey},
    seal::{Key, Sealed},
    spec::SecretText,
    write::WriteError,
};
use crate::model::{Secret, Text};

/// A refresh token in place of the one that was given.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    /// What the endpoint's owner configured.
    pub given: Secret,
    /// What is to be used now.
    pub token: Secret,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredGrant {
    sealed: Sealed,
}

#[derive(Serialize, Deserialize)]
struct Parts {
    given: SecretText,
    token: SecretText,
}

/// The value of `grant/<id>`.
pub fn encode(id: &Text, grant: &Grant, key: &Key) -> Bytes {
    let text = |secret: &Secret| SecretText(String::from_utf8_lossy(secret.expose()).into_owned());
    let parts = Parts { given: text(&grant.given), token: text(&grant.token) };
    let plain = zeroize::Zeroizing::new(serde_json::to_vec(&parts).expect("text is always JSON"));
    record::encode(&StoredGrant { sealed: key.seal(&RecordKey::Grant(id.clone()).to_string(), &plain) })
}

pub fn decode(id: &Text, value: &[u8], key: &Key) -> Result<Grant, RecordError> {
    let stored: StoredGrant = record::decode(value)?;
    let plain = key.open(&RecordKey::Grant(id.clone()).to_string(), &stored.sealed)?;
    let parts: Parts = serde_json::from_slice(&plain)?;
    Ok(Grant { given: Secret::new(parts.given.0), token: Secret::new(parts.token.0) })
}

impl Registry {
    /// The refresh token to be used by an endpoint whose owner gave `given`; none: that very one.
    pub fn refresh_token(&self, endpoint: &str, given: &Secret) -> Option<Secret> {
        let view = self.view();
        view.grant(endpoint).filter(|grant| grant.given == *given).map(|grant| grant.token.clone())
    }

    /// Keeps the refresh token that an endpoint is to use from now on.
    pub async fn put_refresh_token(&self, endpoint: &Text, grant: &Grant) -> Result<(), WriteError> {
        if self.get(endpoint).is_none() {
            return Err(WriteError::NotFound { kind: "endpoint", id: endpoint.clone() });
        }
        let value = encode(endpoint, grant, &self.shared.key);
        self.append(RecordKey::Grant(endpoint.clone()), Some(value)).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_comes_back_under_its_own_endpoint_and_is_not_to_be_seen() {
        let (key, id) = (Key::from_bytes(&[1; 32]), Text::from("a"));
        let grant = Grant { given: Secret::new("hunter1"), token: Secret::new("hunter2") };
        let value = encode(&id, &grant, &key);
        assert!(!String::from_utf8_lossy(&value).contains("hunter"));
        assert_eq!(decode(&id, &value, &key).expect("ours"), grant);
        assert!(decode(&"b".into(), &value, &key).is_err(), "of another endpoint");
    }
}
