//! Signatures: what a receiver can check a request by.
//!
//! - `standard`: Standard Webhooks 1.0. Signed is `id.timestamp.body`, by HMAC-SHA256 (`v1`) or ed25519 (`v1a`), once with each live
//!   secret, so that a rotation needs no pause. `webhook-id` is the event's and stable over attempts; the time is the attempt's, because
//!   receivers refuse old ones.
//! - `hub`: WIRE.md 4.5. The coordinates of the record that first held the event are part of what is signed.
//!
//! The key state of an HMAC is made once per version of an endpoint and cloned for each request. No secret is ever in an error text.

use std::{borrow::Cow, fmt::Write as _};

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use bytes::{BufMut, Bytes, BytesMut};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderName, HeaderValue};
use sha2::Sha256;

use crate::model::{Position, Secret, Signing};

pub const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
pub const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
pub const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
pub const HUB_SIGNATURE: HeaderName = HeaderName::from_static("x-webhook-signature");
pub const HUB_KEY: HeaderName = HeaderName::from_static("x-idempotency-key");

/// Padding is optional when we read a secret: both ways are in use.
const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// The keys of one version of an endpoint, ready to sign.
pub enum Signer {
    None,
    Standard(Vec<Key>),
    Hub(Hmac<Sha256>),
}

pub enum Key {
    /// HMAC-SHA256.
    V1(Hmac<Sha256>),
    /// Ed25519.
    V1a(Box<Ed25519KeyPair>),
}

impl Key {
    /// Bytes of what it adds to `webhook-signature`: its version and base64 of 32 or 64 bytes.
    fn signature_length(&self) -> usize {
        match self {
            Key::V1(_) => "v1,".len() + 44,
            Key::V1a(_) => "v1a,".len() + 88,
        }
    }
}

impl Signer {
    /// Errors say what is wrong with a secret, never what it is.
    pub fn new(signing: &Signing) -> Result<Signer, String> {
        match signing {
            Signing::None => Ok(Signer::None),
            Signing::Standard { secrets } if secrets.is_empty() => Err("standard signing needs at least one secret".to_owned()),
            Signing::Standard { secrets } => secrets.iter().map(standard_key).collect::<Result<_, _>>().map(Signer::Standard),
            // The hexadecimal text itself is the key (WIRE.md 4.5), so nothing is decoded.
            Signing::Hub { secret } => hmac(secret.expose()).map(Signer::Hub),
        }
    }
}

fn standard_key(secret: &Secret) -> Result<Key, String> {
    let text = secret.expose_str().ok_or("the signing secret is no text")?;
    let (seed, encoded) = match text.strip_prefix("whsk_") {
        Some(encoded) => (true, encoded),
        None => (false, text.strip_prefix("whsec_").unwrap_or(text)),
    };
    let bytes =
        zeroize::Zeroizing::new(LENIENT.decode(encoded).map_err(|_| "the signing secret is not base64 behind `whsec_` or `whsk_`")?);
    if !seed {
        return hmac(&bytes).map(Key::V1);
    }
    // 32 bytes are the seed alone; 64 are the seed and the public key, as most tools print a private key.
    let pair = match bytes.len() {
        32 => Ed25519KeyPair::from_seed_unchecked(&bytes),
        64 => Ed25519KeyPair::from_seed_and_public_key(&bytes[..32], &bytes[32..]),
        length => return Err(format!("an ed25519 signing secret has 32 or 64 bytes behind `whsk_`, not {length}")),
    };
    pair.map(|pair| Key::V1a(Box::new(pair))).map_err(|_| "the halves of the ed25519 signing secret do not belong together".to_owned())
}

fn hmac(key: &[u8]) -> Result<Hmac<Sha256>, String> {
    if key.is_empty() {
        return Err("the signing secret is empty".to_owned());
    }
    Hmac::new_from_slice(key).map_err(|_| "the signing secret has an unusable length".to_owned())
}

/// The value of `webhook-signature`: one signature for each key, newest first. `id` as [`webhook_id`] gives it, `time` in seconds.
pub fn standard(keys: &[Key], id: &str, time: &str, body: &[u8]) -> HeaderValue {
    // As long as it gets: then its buffer becomes the value as it is.
    let length: usize = keys.iter().map(Key::signature_length).sum();
    let mut value = Vec::with_capacity(length + keys.len() - 1);
    for key in keys {
        if !value.is_empty() {
            value.push(b' ');
        }
        match key {
            Key::V1(keyed) => {
                let mut mac = keyed.clone();
                for part in [id.as_bytes(), b".", time.as_bytes(), b".", body] {
                    mac.update(part);
                }
                value.extend_from_slice(b"v1,");
                put_base64(&mut value, &mac.finalize().into_bytes());
            }
            Key::V1a(pair) => {
                let signed = [id.as_bytes(), b".", time.as_bytes(), b".", body].concat();
                value.extend_from_slice(b"v1a,");
                put_base64(&mut value, pair.sign(&signed).as_ref());
            }
        }
    }
    HeaderValue::from_maybe_shared(Bytes::from(value)).expect("base64 is header text")
}

fn put_base64(into: &mut Vec<u8>, bytes: &[u8]) {
    // 64 bytes, the longest signature there is, are 88 characters.
    let mut text = [0; 88];
    let length = STANDARD.encode_slice(bytes, &mut text).expect("a signature has at most 64 bytes");
    into.extend_from_slice(&text[..length]);
}

/// The value of `x-webhook-signature` (WIRE.md 4.5). `time` in seconds; `body` as it is before compression.
pub fn hub(keyed: &Hmac<Sha256>, origin: &Position, time: &str, body: &[u8]) -> HeaderValue {
    let mut mac = keyed.clone();
    let mut coordinates = String::with_capacity(time.len() + origin.topic.len() + 40);
    write!(coordinates, "{time}\n{}\n{}\n{}\n", origin.topic, origin.partition, origin.offset).expect("a String takes all text");
    mac.update(coordinates.as_bytes());
    mac.update(body);
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut value = BytesMut::with_capacity(time.len() + 70);
    value.put_slice(b"t=");
    value.put_slice(time.as_bytes());
    value.put_slice(b",v1=");
    for byte in mac.finalize().into_bytes() {
        value.put_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
    HeaderValue::from_maybe_shared(value.freeze()).expect("digits are header text")
}

/// The value of `x-idempotency-key` (WIRE.md 4.5), for signed and unsigned requests of the hub scheme.
pub fn hub_key(origin: &Position) -> Option<HeaderValue> {
    // A topic that the log takes is header text; if one ever were not, the header would be left out rather than the delivery.
    HeaderValue::from_maybe_shared(Bytes::from(origin.to_string())).ok()
}

/// The `webhook-id` of an event: its id, in which whatever is no header text, and the dot (it separates what is signed), is written
/// as `~` and two hexadecimal digits; so different ids stay different.
pub fn webhook_id(event: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'.' | b'~' | b',');
    if event.bytes().all(plain) {
        return Cow::Borrowed(event);
    }
    let mut id = String::with_capacity(event.len() + 8);
    for byte in event.bytes() {
        if plain(byte) {
            id.push(char::from(byte));
        } else {
            write!(id, "~{byte:02x}").expect("a String takes all text");
        }
    }
    Cow::Owned(id)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ED25519, KeyPair, UnparsedPublicKey};
    use http::HeaderMap;

    use super::*;

    fn keys(secrets: &[&str]) -> Vec<Key> {
        let secrets = secrets.iter().map(|secret| Secret::new(*secret)).collect();
        match Signer::new(&Signing::Standard { secrets }) {
            Ok(Signer::Standard(keys)) => keys,
            Ok(_) => panic!("another scheme"),
            Err(wrong) => panic!("{wrong}"),
        }
    }

    fn position(topic: &str, partition: i32, offset: i64) -> Position {
        Position { topic: topic.into(), partition, offset }
    }

    fn hub_value(secret: &str, origin: &Position, time: &str, body: &str) -> String {
        match Signer::new(&Signing::Hub { secret: Secret::new(secret) }) {
            Ok(Signer::Hub(keyed)) => hub(&keyed, origin, time, body.as_bytes()).to_str().expect("text").to_owned(),
            _ => panic!("no hub signer"),
        }
    }

    /// Both vectors of WIRE.md 4.5.
    #[test]
    fn the_hub_scheme_meets_its_vectors() {
        let body = concat!(
            r#"[{"field":"message_template_status_update","identifier":"01A0A4FBC8CD7DCBBBFAA8382F5514A5","type":"TEMPLATE_STATUS","#,
            r#""value":{"event":"APPROVED","message_template_category":"UTILITY","message_template_id":"1587155656151346","#,
            r#""message_template_language":"pt_BR","message_template_name":"exemplo_teste_assinatura_webhook","reason":"NONE"},"#,
            r#""waba_id":"845974408299669"}]"#
        );
        assert_eq!(body.len(), 364);
        let origin = position("webhook.delivery.event", 0, 539_402);
        assert_eq!(
            hub_value("a7f3c81e9d2b4605f1a8c3e7b9d40f6218273645a8b9c0d1e2f3041526374859", &origin, "1789474359", body),
            "t=1789474359,v1=c9a6812419c87dc26841fd802f1b4704f7dfe868b178ba55f9c432642be67230"
        );
        assert_eq!(hub_key(&origin).expect("text"), "webhook.delivery.event:0:539402");
        assert_eq!(
            hub_value(
                &"0123456789abcdef".repeat(4),
                &position("hub.events", 7, 42),
                "1700000000",
                r#"{"message":{"_id":"M1"},"messageEventType":"NEW_MESSAGE"}"#
            ),
            "t=1700000000,v1=57e10813d03aa373ad9a8a7bcea58bad5ec290d3bab73655ae3144587693d2c1"
        );
    }

    #[test]
    fn an_independent_implementation_verifies_v1_with_each_live_secret() {
        let secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"];
        let time = jiff::Timestamp::now().as_second().to_string();
        let body = r#"{"text":"Olá"}"#;
        let value = standard(&keys(&secrets), "msg_1", &time, body.as_bytes());
        let mut headers = HeaderMap::new();
        headers.insert(WEBHOOK_ID, HeaderValue::from_static("msg_1"));
        headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from_str(&time).expect("digits"));
        headers.insert(WEBHOOK_SIGNATURE, value);
        for secret in secrets {
            let verifier = standardwebhooks::Webhook::new(secret).expect("a secret");
            verifier.verify(body.as_bytes(), &headers).expect("signed with it");
            assert!(verifier.verify(b"{}", &headers).is_err());
        }
        let stranger = standardwebhooks::Webhook::new("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").expect("a secret");
        assert!(stranger.verify(body.as_bytes(), &headers).is_err());
    }

    #[test]
    fn an_independent_implementation_verifies_v1a() {
        let seed = [7; 32];
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("a seed");
        let long = [&seed, pair.public_key().as_ref()].concat();
        for secret in [&seed[..], &long] {
            let secret = format!("whsk_{}", STANDARD.encode(secret));
            let value = standard(&keys(&[&secret, "whsec_AAAA"]), "msg_1", "1700000000", b"{}");
            let (first, second) = value.to_str().expect("text").split_once(' ').expect("two signatures");
            assert!(second.starts_with("v1,"));
            let signature = STANDARD.decode(first.strip_prefix("v1a,").expect("the version")).expect("base64");
            let verifier = UnparsedPublicKey::new(&ED25519, pair.public_key().as_ref());
            verifier.verify(b"msg_1.1700000000.{}", &signature).expect("a good signature");
        }
    }

    #[test]
    fn a_wrong_secret_is_told_without_being_shown() {
        for (secret, part) in [
            ("whsec_", "empty"),
            ("whsec_***", "base64"),
            ("whsk_AAAA", "32 or 64 bytes"),
            (&*format!("whsk_{}", STANDARD.encode([1; 64])), "do not belong together"),
        ] {
            let wrong = Signer::new(&Signing::Standard { secrets: vec![Secret::new(secret)] }).err().expect(secret);
            assert!(wrong.contains(part) && !wrong.contains("AAAA"), "{wrong}");
        }
        assert!(Signer::new(&Signing::Standard { secrets: vec![] }).is_err());
    }

    #[test]
    fn an_id_has_no_dot_and_different_ids_stay_different() {
        for (event, id) in [
            ("evt_1", "evt_1"),
            ("posthaste.events:3:17", "posthaste~2eevents:3:17"),
            ("a~2eb", "a~7e2eb"),
            ("olá b", "ol~c3~a1~20b"),
            ("a\r\nb", "a~0d~0ab"),
        ] {
            assert_eq!(webhook_id(event), id);
        }
    }
}
