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
    let (key, v1, signed) = signed_by_hub(request);
    assert_eq!(v1, openssl_hmac(secret, &signed), "{request:?}");
    key
}

/// [`hub`] of many requests with the same secret, by one run of OpenSSL.
pub fn hub_all(secret: &str, requests: &[&Received]) {
    if requests.is_empty() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut claimed = Vec::new();
    for (n, request) in requests.iter().enumerate() {
        let (_, v1, signed) = signed_by_hub(request);
        std::fs::write(directory.path().join(n.to_string()), signed).expect("written");
        claimed.push(v1);
    }
    let output = Command::new("openssl")
        .args(["dgst", "-sha256", "-mac", "HMAC", "-macopt", &format!("key:{secret}"), "-r"])
        .args((0..claimed.len()).map(|n| n.to_string()))
        .current_dir(directory.path())
        .output()
        .expect("openssl is installed (tests/run does it)");
    let text = String::from_utf8(output.stdout).expect("text");
    let digests: Vec<&str> = text.lines().map(|line| line.split_whitespace().next().expect("a digest")).collect();
    assert_eq!(claimed.len(), digests.len());
    for ((claimed, digest), request) in claimed.iter().zip(digests).zip(requests) {
        assert_eq!(claimed, digest, "{request:?}");
    }
}

/// The idempotency key, what `v1=` claims, and the bytes that it was made of.
fn signed_by_hub(request: &Received) -> (String, String, Vec<u8>) {
    let key = request.header("x-idempotency-key").to_owned();
    let mut parts = key.rsplitn(3, ':');
    let (offset, partition, topic) = (parts.next().expect("offset"), parts.next().expect("partition"), parts.next().expect("topic"));
    let signature = request.header("x-webhook-signature");
    let (t, v1) = signature.strip_prefix("t=").and_then(|rest| rest.split_once(",v1=")).unwrap_or_else(|| panic!("{signature}"));
    let mut signed = format!("{t}\n{topic}\n{partition}\n{offset}\n").into_bytes();
    signed.extend_from_slice(&request.plain());
    let v1 = v1.to_owned();
    (key, v1, signed)
}

/// `x-webhook-signature` must not be there.
pub fn unsigned(request: &Received) {
    for name in ["x-webhook-signature", "webhook-signature"] {
        assert!(request.headers.get(name).is_none(), "{request:?}");
    }
}

/// HMAC-SHA256 by the `openssl` program, in hexadecimal.
pub fn openssl_hmac(key: &str, signed: &[u8]) -> String {
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
