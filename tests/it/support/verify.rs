//! Signatures verified by implementations that are not ours: the `standardwebhooks` crate, and OpenSSL for the Hub's scheme.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use super::receiver::Received;

/// Standard Webhooks v1; fails with a reason.
pub fn standard(secret: &str, request: &Received) {
    let webhook = standardwebhooks::Webhook::new(secret).expect("a secret");
    webhook.verify(&request.plain(), &request.headers).unwrap_or_else(|wrong| panic!("{wrong}: {request:?}"));
}

/// The Hub's scheme (WIRE.md 4.5): HMAC-SHA256 over t, topic, partition, offset and the uncompressed body, joined by line feeds; the
/// coordinates come from the idempotency key, split at its last two colons. Returns the key.
pub fn hub(secret: &str, request: &Received) -> String {
    let key = request.header("x-idempotency-key").to_owned();
    let mut parts = key.rsplitn(3, ':');
    let (offset, partition, topic) = (parts.next().expect("offset"), parts.next().expect("partition"), parts.next().expect("topic"));
    let signature = request.header("x-webhook-signature");
    let (t, v1) = signature.strip_prefix("t=").and_then(|rest| rest.split_once(",v1=")).unwrap_or_else(|| panic!("{signature}"));
    let mut signed = format!("{t}\n{topic}\n{partition}\n{offset}\n").into_bytes();
    signed.extend_from_slice(&request.plain());
    let expected = openssl_hmac(secret, &signed);
    assert_eq!(v1, expected, "{request:?}");
    key
}

/// `x-webhook-signature` must not be there.
pub fn unsigned(request: &Received) {
    for name in ["x-webhook-signature", "webhook-signature"] {
        assert!(request.headers.get(name).is_none(), "{request:?}");
    }
}

/// HMAC-SHA256 by the `openssl` program, in hexadecimal.
fn openssl_hmac(key: &str, signed: &[u8]) -> String {
    openssl(&["-sha256", "-mac", "HMAC", "-macopt", &format!("key:{key}")], signed)
}

/// A digest by the `openssl` program, in hexadecimal.
pub fn openssl(digest: &[&str], of: &[u8]) -> String {
    let mut openssl = Command::new("openssl")
        .arg("dgst")
        .args(digest)
        .arg("-r")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl is installed (tests/run does it)");
    openssl.stdin.take().expect("piped").write_all(of).expect("it reads");
    let output = openssl.wait_with_output().expect("it ends");
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("text").split_whitespace().next().expect("a digest").to_owned()
}
