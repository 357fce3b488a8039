//! What is needed to get an access token for an endpoint: OAuth 2.0 client credentials (RFC 6749, 4.4) with an optional refresh token (6).

use std::time::Duration;

use http::HeaderName;

use super::{EndpointUrl, Secret};

/// The client of an endpoint's owner at his token endpoint. Whatever may be a secret is one here: keys travel in headers and queries too.
#[derive(Debug, Clone, PartialEq)]
pub struct OAuth2 {
    /// Where tokens come from.
    pub url: EndpointUrl,
    /// Of the token request alone.
    pub headers: Vec<(HeaderName, Secret)>,
    /// Appended to the query of `url`.
    pub query: Vec<(String, Secret)>,
    pub client_id: String,
    pub client_secret: Secret,
    /// As its owner gave it; what the token endpoint put in its place lies in the registry (`registry::grant`).
    pub refresh_token: Option<Secret>,
    /// How long a token lives whose answer does not say so.
    pub expires_in: Option<Duration>,
}
