//! A client with a signature token (WIRE.md 1.2). Its signatures are OpenSSL's, not ours.

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
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
    let request = http::Request::builder().method(method).uri(format!("{}{path}", daemon.api)).header("date", date);
    let request =
        request.header("x-api-token", key).header("x-api-signature", base64_of(&digest)).header("content-type", "application/json");
    let request = request.body(Full::new(Bytes::from(text))).expect("a request");
    let response = Client::builder(TokioExecutor::new()).build_http().request(request).await.expect("the API answers");
    let status = response.status();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

fn base64_of(hex: &str) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal")).collect();
    STANDARD.encode(bytes)
}
