//! A client with a signature token (WIRE.md 1.2). Its signatures are OpenSSL's, not ours.

use http::{Method, StatusCode};
use serde_json::Value;

use super::{daemon::Daemon, verify::openssl};

pub async fn call(daemon: &Daemon, key: &str, secret: &str, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
    let text = body.map(|body| body.to_string()).unwrap_or_default();
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    let (md5, kind) = match text.as_str() {
        "" => (String::new(), ""),
        text => (openssl(&["-md5"], text.as_bytes()), "application/json"),
    };
    let host = daemon.api.trim_start_matches("http://");
    let signed = format!("{method}\n{md5}\n{kind}\n{date}\n{host}\n{path}");
    let digest = openssl(&["-sha256", "-mac", "HMAC", "-macopt", &format!("key:{secret}")], signed.as_bytes());
    let signature = base64_of(&digest);
    let headers = [("date", date.as_str()), ("x-api-token", key), ("x-api-signature", &signature), ("content-type", "application/json")];
    daemon.call_with(&headers, method, path, Some(text)).await
}

fn base64_of(hex: &str) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal")).collect();
    STANDARD.encode(bytes)
}
