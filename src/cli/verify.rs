//! Verifying what posthaste signs, as a receiver does it: written apart from the code that signs, so that one can judge the other.
//!
//! Standard Webhooks 1.0: `webhook-signature` holds `v1,<base64 HMAC-SHA256>` or `v1a,<base64 ed25519>` over `id.timestamp.body`, several
//! apart by spaces while a secret is rotated. Hub (WIRE.md 4.5): `x-webhook-signature: t=…,v1=<hex>` over t, topic, partition, offset
//! and body, with the key as ASCII text.

use std::{fmt, io::Read, str::FromStr};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use sha2::Sha256;

use crate::model::Secret;

/// How far the clocks of sender and receiver may be apart, seconds: what both schemes advise.
pub const TOLERANCE: i64 = 300;

/// The largest body that is unpacked, bytes.
const LARGEST_BODY: u64 = 64 * 1024 * 1024;

/// What a receiver verifies with.
#[derive(Debug, Clone)]
pub enum Key {
    /// `whsec_…`
    Hmac(Secret),
    /// `whpk_…`, or the public half of `whsk_…`.
    Ed25519(Vec<u8>),
    /// 64 hexadecimal characters, used as text.
    Hub(Secret),
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Key, String> {
        let base64 = |text: &str| BASE64.decode(text).map_err(|error| format!("what follows the prefix is no base64: {error}"));
        if let Some(secret) = text.strip_prefix("whsec_") {
            return Ok(Key::Hmac(Secret::new(base64(secret)?)));
        }
        if let Some(public) = text.strip_prefix("whpk_") {
            return match base64(public)? {
                key if key.len() == 32 => Ok(Key::Ed25519(key)),
                key => Err(format!("a public key has 32 bytes, this one {}", key.len())),
            };
        }
        if let Some(private) = text.strip_prefix("whsk_") {
            let key = base64(private)?;
            let seed = key.get(..32).ok_or("a private key has 32 bytes at least")?;
            let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|error| format!("is no ed25519 key: {error}"))?;
            return Ok(Key::Ed25519(pair.public_key().as_ref().to_vec()));
        }
        if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Key::Hub(Secret::new(text)));
        }
        Err("is no secret: whsec_…, whsk_… or whpk_… (standard), or 64 hexadecimal characters (hub)".to_owned())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// By this scheme.
    Verified(&'static str),
    /// Signed, and we have no key of that scheme.
    NotChecked(&'static str),
    Unsigned,
    Wrong(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Verified(scheme) => write!(out, "verified ({scheme})"),
            Verdict::NotChecked(scheme) => write!(out, "not checked ({scheme}; give the secret)"),
            Verdict::Unsigned => out.write_str("unsigned"),
            Verdict::Wrong(why) => write!(out, "NOT VERIFIED: {why}"),
        }
    }
}

/// The id by which a receiver knows a delivery that it has seen before.
pub fn identity(headers: &HeaderMap) -> Option<&str> {
    text(headers, "webhook-id").or_else(|| text(headers, "x-idempotency-key")).or_else(|| text(headers, "ce-id"))
}

/// The body as it was before compression.
pub fn plain(headers: &HeaderMap, body: &[u8]) -> Result<Vec<u8>, String> {
    match text(headers, "content-encoding") {
        None | Some("identity") => Ok(body.to_vec()),
        Some("gzip") => {
            let mut plain = Vec::new();
            let read = flate2::read::GzDecoder::new(body).take(LARGEST_BODY + 1).read_to_end(&mut plain);
            match read {
                Ok(size) if size as u64 > LARGEST_BODY => Err(format!("the body is larger than {LARGEST_BODY} bytes")),
                Ok(_) => Ok(plain),
                Err(error) => Err(format!("the body is no gzip: {error}")),
            }
        }
        Some(other) => Err(format!("unknown content-encoding `{other}`")),
    }
}

/// Judges a request by its headers and its body as it was before compression; `now` in seconds since the epoch.
pub fn verify(headers: &HeaderMap, body: &[u8], keys: &[Key], now: i64) -> Verdict {
    let judged = match (text(headers, "webhook-signature"), text(headers, "x-webhook-signature")) {
        (Some(signatures), _) => standard(headers, signatures, body, keys, now),
        (None, Some(signature)) => hub(headers, signature, body, keys, now),
        (None, None) => Ok(Verdict::Unsigned),
    };
    judged.unwrap_or_else(Verdict::Wrong)
}

fn standard(headers: &HeaderMap, signatures: &str, body: &[u8], keys: &[Key], now: i64) -> Result<Verdict, String> {
    let id = text(headers, "webhook-id").ok_or("webhook-id is missing")?;
    let timestamp = text(headers, "webhook-timestamp").ok_or("webhook-timestamp is missing")?;
    in_time(timestamp, now)?;
    let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
    let mut checked = false;
    for (version, signature) in signatures.split(' ').filter_map(|one| one.split_once(',')) {
        let Ok(signature) = BASE64.decode(signature) else { continue };
        for key in keys {
            let (scheme, holds) = match (key, version) {
                (Key::Hmac(secret), "v1") => ("standard v1", hmac(secret, &signed).verify_slice(&signature).is_ok()),
                (Key::Ed25519(public), "v1a") => {
                    ("standard v1a", UnparsedPublicKey::new(&ED25519, public).verify(&signed, &signature).is_ok())
                }
                _ => continue,
            };
            checked = true;
            if holds {
                return Ok(Verdict::Verified(scheme));
            }
        }
    }
    if checked { Err("no signature fits the secret and the body".to_owned()) } else { Ok(Verdict::NotChecked("standard")) }
}

fn hub(headers: &HeaderMap, signature: &str, body: &[u8], keys: &[Key], now: i64) -> Result<Verdict, String> {
    let coordinates = text(headers, "x-idempotency-key").ok_or("x-idempotency-key is missing")?;
    // A topic may hold colons itself: partition and offset are behind the last two.
    let mut parts = coordinates.rsplitn(3, ':');
    let (Some(offset), Some(partition), Some(topic)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(format!("x-idempotency-key `{coordinates}` is not topic:partition:offset"));
    };
    let (t, v1) = signature
        .split_once(',')
        .and_then(|(t, v1)| Some((t.strip_prefix("t=")?, v1.strip_prefix("v1=")?)))
        .ok_or("x-webhook-signature is not t=…,v1=…")?;
    in_time(t, now)?;
    let v1 = unhex(v1).ok_or("v1 is no lower-case hexadecimal")?;
    let signed = [t.as_bytes(), topic.as_bytes(), partition.as_bytes(), offset.as_bytes(), body].join(&b'\n');
    let mut secrets = keys.iter().filter_map(|key| if let Key::Hub(secret) = key { Some(secret) } else { None }).peekable();
    if secrets.peek().is_none() {
        return Ok(Verdict::NotChecked("hub"));
    }
    if secrets.any(|secret| hmac(secret, &signed).verify_slice(&v1).is_ok()) {
        return Ok(Verdict::Verified("hub"));
    }
    Err("the signature does not fit the secret, the coordinates and the body".to_owned())
}

fn hmac(secret: &Secret, signed: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose()).expect("HMAC takes keys of any length");
    mac.update(signed);
    mac
}

fn in_time(timestamp: &str, now: i64) -> Result<(), String> {
    let at: i64 = timestamp.parse().map_err(|_| format!("the timestamp `{timestamp}` is no number of seconds"))?;
    match now.abs_diff(at) {
        apart if apart > TOLERANCE.unsigned_abs() => Err(format!("the timestamp is {apart} s from now (at most {TOLERANCE})")),
        _ => Ok(()),
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    text.as_bytes().chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().expect("header value"))).collect()
    }

    /// WIRE.md 4.5, the second vector.
    #[test]
    fn a_hub_signature_holds_for_its_own_body_coordinates_time_and_secret() {
        let secret: Key = "0123456789abcdef".repeat(4).parse().expect("secret");
        let body = br#"{"message":{"_id":"M1"},"messageEventType":"NEW_MESSAGE"}"#;
        let good = "t=1700000000,v1=57e10813d03aa373ad9a8a7bcea58bad5ec290d3bab73655ae3144587693d2c1";
        let request = |signature, key| headers(&[("x-webhook-signature", signature), ("x-idempotency-key", key)]);
        let keys = [secret];
        let at = 1_700_000_000;
        assert_eq!(verify(&request(good, "hub.events:7:42"), body, &keys, at + 299), Verdict::Verified("hub"));
        assert_eq!(verify(&request(good, "hub.events:7:42"), body, &[], at), Verdict::NotChecked("hub"));
        for (signature, coordinates, body, now) in [
            (good, "hub.events:7:43", &body[..], at),
            (good, "hub.events:42", body, at),
            (good, "hub.events:7:42", b"{}", at),
            (good, "hub.events:7:42", body, at + 301),
            ("t=1700000000,v1=00", "hub.events:7:42", body, at),
            ("v1=57", "hub.events:7:42", body, at),
        ] {
            let verdict = verify(&request(signature, coordinates), body, &keys, now);
            assert!(matches!(verdict, Verdict::Wrong(_)), "{verdict}");
        }
    }

    #[test]
    fn a_standard_signature_is_what_the_reference_library_makes() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let now = crate::model::Timestamp::now().as_second();
        let reference = standardwebhooks::Webhook::new(secret).expect("secret");
        let signature = reference.sign("msg_1", now, b"{\"a\":1}").expect("signed");
        let signatures = format!("v1,AAAA {signature}");
        let now_text = now.to_string();
        let headers = headers(&[("webhook-id", "msg_1"), ("webhook-timestamp", &now_text), ("webhook-signature", &signatures)]);
        let keys = ["whsec_AAAA".parse().expect("another"), secret.parse().expect("secret")];
        assert_eq!(verify(&headers, b"{\"a\":1}", &keys, now), Verdict::Verified("standard v1"));
        assert!(matches!(verify(&headers, b"{\"a\":2}", &keys, now), Verdict::Wrong(_)));
        assert_eq!(verify(&headers, b"{\"a\":1}", &[], now), Verdict::NotChecked("standard"));
    }

    #[test]
    fn an_ed25519_signature_is_verified_by_either_half_of_the_key() {
        let seed = [7; 32];
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("seed");
        let signature = format!("v1a,{}", BASE64.encode(pair.sign(b"id.1.{}")));
        let headers = headers(&[("webhook-id", "id"), ("webhook-timestamp", "1"), ("webhook-signature", &signature)]);
        let private = format!("whsk_{}", BASE64.encode(seed)).parse().expect("private");
        let public = format!("whpk_{}", BASE64.encode(pair.public_key().as_ref())).parse().expect("public");
        assert_eq!(verify(&headers, b"{}", &[private], 1), Verdict::Verified("standard v1a"));
        assert_eq!(verify(&headers, b"{}", &[public], 1), Verdict::Verified("standard v1a"));
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        for text in ["", "abc", "whsec_%", "whpk_AAAA", "whsk_AAAA", &"g".repeat(64)] {
            assert!(text.parse::<Key>().is_err(), "{text}");
        }
    }
}
