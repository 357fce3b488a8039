//! API tokens: who may call the management API. Only a hash of the key is ever stored.

use serde::{Deserialize, Serialize};

use super::{Text, Timestamp};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    pub id: Text,
    pub tenant: Text,
    pub name: String,
    pub kind: TokenKind,
    pub role: Role,
    /// SHA-256 of the key, lower-case hexadecimal. Keys are 256 random bits, so no slow hash is needed.
    pub key_sha256: String,
    pub created_at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenKind {
    #[default]
    Standard,
}

/// What a token may do: a viewer reads, a developer also changes endpoints and sends events, an admin also manages tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    #[default]
    Viewer,
    Developer,
    Admin,
}
