//! Names of headers that nobody but posthaste may set: one list for what is refused at registration and for what is left out of a request.

use http::HeaderName;

/// Where a header is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderUse {
    /// Along with every delivery.
    Plain,
    /// With every delivery, as the credential of `auth`.
    Credential,
    /// With requests to the token endpoint.
    Token,
}

const FRAMING: &str = "belongs to the HTTP exchange itself: posthaste sets it";
const SIGNATURE: &str = "tells receivers what posthaste vouches for (id, time, signature): nobody else may set it";

/// Why a header of this name cannot be set; none if it can.
///
/// `content-type` follows from the format and `content-encoding` from the way of signing (WIRE.md 1.5, 4.5), so they are refused, except that a
/// token request may choose the type of its body (1.4). `authorization` is no plain header, because there it would lie in clear.
pub fn reserved(name: &HeaderName, for_use: HeaderUse) -> Option<&'static str> {
    match name.as_str() {
        "host"
        | "connection"
        | "content-length"
        | "expect"
        | "keep-alive"
        | "proxy-authorization"
        | "proxy-connection"
        | "te"
        | "trailer"
        | "transfer-encoding"
        | "upgrade" => Some(FRAMING),
        "webhook-id" | "webhook-signature" | "webhook-timestamp" | "x-idempotency-key" | "x-webhook-signature" => Some(SIGNATURE),
        "content-encoding" => Some("tells how posthaste compressed the body: it is set when it did"),
        "content-type" if for_use != HeaderUse::Token => Some("follows from `format`: posthaste sets it"),
        "authorization" if for_use == HeaderUse::Plain => Some("belongs into `auth`, where it is sealed"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_free_or_reserved_by_where_it_is_sent() {
        // Plain, credential, token request.
        for (name, reserved_for) in [
            ("Host", [true, true, true]),
            ("Connection", [true, true, true]),
            ("Content-Length", [true, true, true]),
            ("Transfer-Encoding", [true, true, true]),
            ("TE", [true, true, true]),
            ("Trailer", [true, true, true]),
            ("Upgrade", [true, true, true]),
            ("Expect", [true, true, true]),
            ("Keep-Alive", [true, true, true]),
            ("Proxy-Authorization", [true, true, true]),
            ("Proxy-Connection", [true, true, true]),
            ("webhook-id", [true, true, true]),
            ("webhook-timestamp", [true, true, true]),
            ("webhook-signature", [true, true, true]),
            ("x-webhook-signature", [true, true, true]),
            ("x-idempotency-key", [true, true, true]),
            ("Content-Encoding", [true, true, true]),
            ("Content-Type", [true, true, false]),
            ("Authorization", [true, false, false]),
            ("X-API-Key", [false, false, false]),
            ("User-Agent", [false, false, false]),
            ("Accept", [false, false, false]),
            ("Cookie", [false, false, false]),
        ] {
            let name: HeaderName = name.parse().expect("a name");
            let found = [HeaderUse::Plain, HeaderUse::Credential, HeaderUse::Token].map(|for_use| reserved(&name, for_use).is_some());
            assert_eq!(found, reserved_for, "{name}");
        }
    }
}
