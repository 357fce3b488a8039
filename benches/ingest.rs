//! Durable ingest over HTTP on the standalone daemon: events of 1 KiB in batches of 100, four clients. Nobody listens to the events, so what is
//! measured is the way into the log.
//!
//! `cargo bench --bench ingest [-- seconds]`

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use support::daemon;

const BATCH: usize = 100;
const CLIENTS: usize = 4;

fn main() {
    let seconds: u64 =
        std::env::args().skip(1).find(|argument| argument != "--bench").map_or(10, |seconds| seconds.parse().expect("seconds"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let site = daemon::Site::new(daemon::Backend::Standalone);
        let daemon = site.start().await;
        let body = Bytes::from(serde_json::Value::Array((0..BATCH).map(event).collect()).to_string());
        let stored = Arc::new(AtomicU64::new(0));
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let cpu = support::cpu(daemon.id());
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (body, stored, url) = (body.clone(), Arc::clone(&stored), format!("{}/v1/events", daemon.api));
                tokio::spawn(async move {
                    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
                    while Instant::now() < deadline {
                        let request = http::Request::post(&url)
                            .header("authorization", format!("Bearer {}", daemon::ADMIN_TOKEN))
                            .header("content-type", "application/json")
                            .body(Full::new(body.clone()))
                            .expect("a request");
                        let response = client.request(request).await.expect("an answer");
                        assert_eq!(response.status(), 202);
                        response.into_body().collect().await.expect("a body");
                        stored.fetch_add(BATCH as u64, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.expect("it does not panic");
        }
        let count = stored.load(Ordering::Relaxed);
        let cpu = support::cpu(daemon.id()) - cpu;
        println!(
            "{count} events of 1 KiB in {seconds} s, durable: {} events/s (budget 20000), {:.1} us of CPU each",
            count / seconds,
            cpu.as_secs_f64() * 1e6 / count as f64
        );
        daemon.stop().await;
    });
}

/// An event of 1 KiB without an id, so that every one is another.
fn event(n: usize) -> serde_json::Value {
    serde_json::json!({ "type": "t", "channel": format!("c{}", n % 20), "time": "2026-01-15T12:00:00Z", "data": { "text": "x".repeat(940) } })
}
