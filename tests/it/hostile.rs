//! Receivers that reset, stall, talk nonsense or never end: a failed attempt of the right class within its deadline, and the others go on.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{
    daemon::{Backend, Site, both_backends, event},
    receiver::{Answer, Receiver},
};

both_backends!(hostile_receivers_fail_by_class_and_harm_nobody);

/// What a hostile receiver does once it has read the head of a request.
#[derive(Clone, Copy, Debug)]
enum Hostility {
    Reset,
    Stall,
    Garbage,
    EndlessHeaders,
    EndlessBody,
    HalfBody,
    ImmediateClose,
    NonAsciiHeader,
    Redirect,
}

async fn hostile(hostility: Hostility) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            tokio::spawn(misbehave(stream, hostility));
        }
    });
    url
}

async fn misbehave(mut stream: TcpStream, hostility: Hostility) -> Option<()> {
    let mut buffer = [0; 4096];
    if !matches!(hostility, Hostility::ImmediateClose) {
        let _ = stream.read(&mut buffer).await.ok()?;
    }
    match hostility {
        Hostility::ImmediateClose => {}
        Hostility::Reset => stream.set_zero_linger().ok()?,
        Hostility::Stall => std::future::pending().await,
        Hostility::Garbage => stream.write_all(b"\x00\x01 this is no HTTP \xff\xfe\r\n\r\n").await.ok()?,
        Hostility::EndlessHeaders => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await.ok()?;
            loop {
                stream.write_all(b"x-header: again and again and again and again\r\n").await.ok()?;
            }
        }
        Hostility::EndlessBody => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.ok()?;
            loop {
                stream.write_all(b"10\r\n0123456789abcdef\r\n").await.ok()?;
            }
        }
        Hostility::HalfBody => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await.ok()?;
            std::future::pending().await
        }
        Hostility::NonAsciiHeader => {
            stream.write_all(b"HTTP/1.1 500 No\r\nx-name: \xc3\xa9\xff\r\ncontent-length: 3\r\n\r\n\xff\xfe\xfd").await.ok()?
        }
        Hostility::Redirect => {
            stream.write_all(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n").await.ok()?
        }
    }
    Some(())
}

async fn hostile_receivers_fail_by_class_and_harm_nobody(backend: Backend) {
    let fine = Receiver::start(|_| Answer::Status(200)).await;
    let daemon = Site::new(backend).start_with(&[("POSTHASTE_DELIVERY__RESPONSE_TIMEOUT", "1s")]).await;
    daemon.add_endpoint(json!({ "id": "fine", "url": fine.url("/"), "types": ["t"] })).await;
    // What may be counted for each: an endless answer is either cut off or out of time, but never more than that.
    let cases: [(Hostility, &[&str]); 9] = [
        (Hostility::Reset, &["reset"]),
        (Hostility::ImmediateClose, &["reset"]),
        (Hostility::Stall, &["response_timeout"]),
        (Hostility::Garbage, &["protocol"]),
        (Hostility::EndlessHeaders, &["protocol", "response_timeout"]),
        (Hostility::EndlessBody, &["delivered", "body_timeout"]),
        (Hostility::HalfBody, &["body_timeout"]),
        (Hostility::NonAsciiHeader, &["status_5xx"]),
        (Hostility::Redirect, &["redirect"]),
    ];
    for (n, (hostility, classes)) in cases.into_iter().enumerate() {
        let channel = format!("hostile-{n}");
        daemon.add_endpoint(json!({ "id": channel, "url": hostile(hostility).await, "channels": [channel] })).await;
        let text = daemon.metrics().await;
        let count = |text: &str| -> f64 {
            text.lines()
                .filter(|line| classes.iter().any(|class| line.starts_with(&format!("posthaste_attempts_total{{outcome=\"{class}\""))))
                .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .sum()
        };
        let (before, begun, fine_before) = (count(&text), Instant::now(), fine.count());
        daemon.send(&[event(n, &channel, "t")]).await;
        fine.wait_for(fine_before + 1, Duration::from_secs(5)).await;
        // The fine one counts as delivered too.
        let more = if classes.contains(&"delivered") { 2.0 } else { 1.0 };
        loop {
            let now = count(&daemon.metrics().await);
            if now >= before + more {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "{hostility:?}: none of {classes:?} was counted\n{}", daemon.log_text());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(fine.count(), 9);
    daemon.stop().await;
}
