//! API tokens: who may call the management API. Of the key only a hash is ever stored; the secret of a signature token is sealed.

use serde::{Deserialize, Serialize};

use super::{Secret, Text, Timestamp};

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
    /// What the requests of a signature token are signed with. It is needed to check them, so it cannot be a hash; records carry it sealed.
    #[serde(skip)]
    pub secret: Option<Secret>,
}

/// WIRE.md 0.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenKind {
    /// The key alone is enough.
    #[default]
    Standard,
    /// Every request is signed as well (WIRE.md 1.2).
    Signature,
}

impl TokenKind {
    pub const ALL: [(&str, TokenKind); 2] = [("standard", TokenKind::Standard), ("signature", TokenKind::Signature)];

    pub fn as_str(self) -> &'static str {
        match self {
            TokenKind::Standard => "standard",
            TokenKind::Signature => "signature",
        }
    }
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
