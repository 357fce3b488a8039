//! What goes over the wire.

use std::{io::Read, sync::Arc};

use http::{HeaderName, HeaderValue};
use tokio::{io::AsyncWriteExt, sync::mpsc};

use super::*;
use crate::model::{Failure, Outcome, Secret};

/// A receiver that hands over what it gets.
async fn receiver() -> (SocketAddr, mpsc::Receiver<Seen>) {
    let (seen, requests) = mpsc::channel(100);
    let (address, _) = listen(move |_, mut stream| {
        let seen = seen.clone();
        async move {
            while let Some(request) = read_request(&mut stream).await {
                seen.send(request).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
        }
    })
    .await;
    (address, requests)
}

async fn send(endpoint: Endpoint, delivery: &Delivery, requests: &mut mpsc::Receiver<Seen>) -> Seen {
    let attempt = sender(&config()).attempt(delivery, &Arc::new(endpoint)).await;
    assert_eq!(attempt.outcome, Outcome::Delivered);
    requests.recv().await.unwrap()
}

#[test]
fn a_standard_request_is_verified_by_an_independent_implementation() {
    run(async {
        let (address, mut requests) = receiver().await;
        let secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"];
        let mut endpoint = endpoint(&format!("http://{address}/hooks/a%20b?x=1&y=%C3%A9"));
        endpoint.signing = Signing::Standard { secrets: secrets.map(Secret::new).to_vec() };
        let seen = send(endpoint, &delivery(r#"{"name":"Olá"}"#), &mut requests).await;
        assert_eq!(seen.line, "POST /hooks/a%20b?x=1&y=%C3%A9 HTTP/1.1");
        for secret in secrets {
            standardwebhooks::Webhook::new(secret).unwrap().verify(&seen.body, &seen.headers).unwrap();
        }
        for (name, value) in [
            ("host", &*address.to_string()),
            ("content-type", "application/json"),
            ("user-agent", concat!("posthaste/", env!("CARGO_PKG_VERSION"))),
            ("webhook-id", "evt_1"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ] {
            assert_eq!(seen.headers[name], value);
        }
        assert_eq!(
            String::from_utf8(seen.body).unwrap(),
            r#"{"id":"evt_1","type":"lead.created","channel":"c1","time":"2026-01-15T10:30:00Z","tenant":"default","data":{"name":"Olá"}}"#
        );
    });
}

#[test]
fn the_endpoints_headers_and_credentials_go_along_and_reserved_ones_do_not() {
    run(async {
        let (address, mut requests) = receiver().await;
        let mut endpoint = endpoint(&format!("http://{address}"));
        endpoint.auth = Auth::Bearer { token: Secret::new("t0k") };
        let header = |name: &'static str, value: &'static str| (HeaderName::from_static(name), HeaderValue::from_static(value));
        endpoint.headers = vec![
            header("x-team", "a"),
            header("x-team", "b"),
            header("user-agent", "mine"),
            header("host", "elsewhere"),
            header("content-length", "0"),
            header("webhook-id", "forged"),
        ];
        let seen = send(endpoint, &delivery("{}"), &mut requests).await;
        assert_eq!(seen.line, "POST / HTTP/1.1");
        assert_eq!(seen.headers["authorization"], "Bearer t0k");
        assert_eq!(seen.headers.get_all("x-team").iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(seen.headers["user-agent"], "mine");
        assert_eq!(seen.headers["host"], address.to_string());
        assert_eq!(seen.headers.get_all("webhook-id").iter().collect::<Vec<_>>(), ["evt_1"]);
    });
}

/// WIRE.md 4.5: signed before compression, compressed from 1,024 bytes on, the key always there.
#[test]
fn hub_requests_are_signed_keyed_and_compressed_when_long() {
    run(async {
        let (address, mut requests) = receiver().await;
        let secret = "0123456789abcdef".repeat(4);
        // Envelope and quotes of `{"message":"…","messageEventType":"lead.created"}` take 48 bytes.
        for (filler, compressed, signed) in [(10, false, true), (975, false, true), (976, true, true), (5000, true, false)] {
            let mut endpoint = endpoint(&format!("http://{address}/"));
            endpoint.format = Format::Hub;
            if signed {
                endpoint.signing = Signing::Hub { secret: Secret::new(secret.clone()) };
            }
            let seen = send(endpoint, &delivery(&format!("\"{}\"", "x".repeat(filler))), &mut requests).await;
            let mut body = Vec::new();
            if compressed {
                assert_eq!(seen.headers["content-encoding"], "gzip");
                flate2::read::GzDecoder::new(&seen.body[..]).read_to_end(&mut body).unwrap();
            } else {
                assert!(!seen.headers.contains_key("content-encoding"), "{filler}");
                body = seen.body;
            }
            assert_eq!(body.len() >= 1024, compressed, "{}", body.len());
            assert_eq!(seen.headers["x-idempotency-key"], "hub.events:7:42");
            assert!(!seen.headers.contains_key("webhook-id"));
            let Some(value) = seen.headers.get("x-webhook-signature") else {
                assert!(!signed);
                continue;
            };
            let (time, mac) = value.to_str().unwrap().strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
            let text = [format!("{time}\nhub.events\n7\n42\n").as_bytes(), &body].concat();
            // An implementation that is not ours: the HMAC of aws-lc.
            let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
            let expected: String = aws_lc_rs::hmac::sign(&key, &text).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(mac, expected);
        }
    });
}

#[test]
fn a_new_version_of_an_endpoint_is_used_at_once() {
    run(async {
        let (address, mut requests) = receiver().await;
        let sender = sender(&config());
        for path in ["first", "second", "third"] {
            let endpoint = Arc::new(endpoint(&format!("http://{address}/{path}")));
            assert_eq!(sender.attempt(&delivery("{}"), &endpoint).await.outcome, Outcome::Delivered);
            assert_eq!(requests.recv().await.unwrap().line, format!("POST /{path} HTTP/1.1"));
        }
    });
}

#[test]
fn an_endpoint_that_cannot_be_signed_for_is_a_payload_failure() {
    run(async {
        let mut endpoint = endpoint("http://127.0.0.1:1/");
        endpoint.signing = Signing::Standard { secrets: vec![Secret::new("whsec_***")] };
        match sender(&config()).attempt(&delivery("{}"), &Arc::new(endpoint)).await.outcome {
            Outcome::Failed(Failure::Payload(text)) => assert!(text.contains("base64"), "{text}"),
            other => panic!("{other:?}"),
        }
    });
}

/// A proxy that tells what it was asked for and then is the endpoint; or refuses.
async fn proxy(head: &'static str) -> (SocketAddr, mpsc::Receiver<Seen>) {
    let (seen, requests) = mpsc::channel(100);
    let (address, _) = listen(move |_, mut stream| {
        let seen = seen.clone();
        async move {
            seen.send(read_request(&mut stream).await.unwrap()).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            while let Some(request) = read_request(&mut stream).await {
                seen.send(request).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
        }
    })
    .await;
    (address, requests)
}

#[test]
fn a_proxy_is_asked_to_connect_and_its_word_is_classed() {
    run(async {
        for (head, class) in [
            ("HTTP/1.1 200 Connection established\r\n\r\n", "delivered"),
            ("HTTP/1.1 403 Forbidden\r\n\r\n", "address_refused"),
            ("HTTP/1.1 407 Who are you\r\n\r\n", "local"),
            ("HTTP/1.1 502 Bad Gateway\r\n\r\n", "refused"),
            ("nonsense\r\n\r\n", "local"),
            ("", "local"),
        ] {
            let (address, mut requests) = proxy(head).await;
            let config = Config { proxy: Some(format!("http://user:pass@{address}").parse().unwrap()), ..config() };
            let endpoint = Arc::new(endpoint("http://hooks.example.com/a"));
            let attempt = sender(&config).attempt(&delivery("{}"), &endpoint).await;
            assert_eq!(attempt.outcome.class(), class, "{head}: {:?}", attempt.outcome);
            let asked = requests.recv().await.unwrap();
            assert_eq!(asked.line, "CONNECT hooks.example.com:80 HTTP/1.1");
            assert_eq!(asked.headers["proxy-authorization"], "Basic dXNlcjpwYXNz");
            if class == "delivered" {
                let request = requests.recv().await.unwrap();
                assert_eq!(request.line, "POST /a HTTP/1.1");
                assert!(!request.headers.contains_key("proxy-authorization"));
            }
        }
    });
}

#[test]
fn the_password_of_a_proxy_is_not_printed() {
    let config = Config { proxy: Some("http://user:hunter2@proxy.example.com:3128".parse().unwrap()), ..config() };
    let text = format!("{config:?}");
    assert!(text.contains("http://proxy.example.com:3128") && !text.contains("hunter2"), "{text}");
}

/// WIRE.md section 0, row 11: what the Hub's receivers get unsigned, and what everybody else does.
#[test]
fn unsigned_requests_have_the_key_of_the_hub_or_the_id_of_the_event() {
    run(async {
        let (address, mut requests) = receiver().await;
        let standard = || Signing::Standard { secrets: vec![Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")] };
        let hub = || Signing::Hub { secret: Secret::new("0123456789abcdef".repeat(4)) };
        // Format, signing; whether there is the Hub's key, an id and a time, and whether a long body is compressed.
        for (format, signing, key, id, compressed) in [
            (Format::Hub, Signing::None, true, false, true),
            (Format::ZApi, Signing::None, true, false, true),
            (Format::Chatwoot, Signing::None, true, false, true),
            (Format::ZApi, hub(), true, false, true),
            (Format::Standard, hub(), true, false, true),
            (Format::Hub, standard(), true, true, false),
            (Format::Standard, Signing::None, false, true, false),
            (Format::CloudEvents, Signing::None, false, true, false),
            (Format::Zenvia, Signing::None, false, true, false),
            (Format::ZenviaV1, Signing::None, false, true, false),
            (Format::Conversion, Signing::None, false, true, false),
            (Format::Standard, standard(), false, true, false),
        ] {
            let name = format!("{format:?} {}", signing.as_str());
            let endpoint = Endpoint { format, signing, ..endpoint(&format!("http://{address}/")) };
            let seen = send(endpoint, &delivery(&format!(r#"{{"text":"{}"}}"#, "x".repeat(2000))), &mut requests).await;
            assert_eq!(seen.headers.get("x-idempotency-key").is_some_and(|key| key == "hub.events:7:42"), key, "{name}");
            for header in ["webhook-id", "webhook-timestamp"] {
                assert_eq!(seen.headers.contains_key(header), id, "{name}: {header}");
            }
            assert_eq!(seen.headers.contains_key("content-encoding"), compressed, "{name}");
        }
    });
}

#[test]
fn a_proxy_opens_no_way_to_a_refused_literal() {
    run(async {
        let (address, _) = proxy("HTTP/1.1 200 OK\r\n\r\n").await;
        let config = Config { proxy: Some(format!("http://{address}").parse().unwrap()), ..config() };
        let attempt = sender(&config).attempt(&delivery("{}"), &Arc::new(endpoint("http://169.254.169.254/"))).await;
        assert_eq!(attempt.outcome.class(), "address_refused");
    });
}

#[test]
fn the_configuration_tells_all_that_is_out_of_range() {
    assert!(Config::default().check().is_empty());
    let wrong = Config {
        response_timeout: Duration::ZERO,
        connect_timeout: Duration::from_secs(3600),
        idle_timeout: Duration::from_secs(900),
        proxy: Some("socks5://proxy:1080".parse().unwrap()),
        idle_per_origin: 5000,
        answer_limit: bytesize::ByteSize::mib(2),
        user_agent: "a\nb".into(),
        ..Config::default()
    };
    let keys: Vec<_> = wrong.check().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["response_timeout", "connect_timeout", "connection_age", "answer_limit", "idle_per_origin", "proxy", "user_agent"]);
}
