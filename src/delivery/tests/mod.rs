//! Attempts over real sockets on the loopback interface.

mod answers;
mod encrypted;
mod identity;
mod names;
mod oauth;
mod pooling;
mod sending;

use std::{cell::RefCell, future::Future, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::{TcpListener, TcpStream},
    task::LocalSet,
};

use super::{Config, Sender, Shared};
use crate::{
    model::{Auth, Delivery, Endpoint, EndpointUrl, Event, Format, Position, Priority, Purpose, Signing, SystemClock, Timestamp, testing},
    telemetry::metrics::Metrics,
};

/// Runs a scenario as a shard does: one thread, one `LocalSet`; one that hangs fails.
fn run<T>(scenario: impl Future<Output = T>) -> T {
    run_within(Duration::from_secs(30), scenario)
}

/// As [`run`], for scenarios that make time pass.
fn run_within<T>(limit: Duration, scenario: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = LocalSet::new();
    runtime.block_on(async { local.run_until(tokio::time::timeout(limit, scenario)).await.expect("the scenario hangs") })
}

/// The deadlines are short here; what takes longer than this has passed its deadline by far.
const LATE: Duration = Duration::from_secs(5);

fn config() -> Config {
    Config {
        allow_networks: vec!["127.0.0.0/8".parse().unwrap()],
        response_timeout: Duration::from_millis(700),
        connect_timeout: Duration::from_millis(700),
        ..Config::default()
    }
}

fn sender(config: &Config) -> Sender {
    Sender::new(Shared::new(config, Arc::new(SystemClock), Metrics::new()).unwrap())
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint { url: EndpointUrl::parse(url).unwrap(), registry_offset: 1, ..testing::endpoint("ep_1") }
}

fn delivery(data: &str) -> Delivery {
    Delivery {
        event: Arc::new(Event {
            id: "evt_1".into(),
            kind: "lead.created".into(),
            channel: "c1".into(),
            direction: None,
            time: "2026-01-15T10:30:00Z".parse().unwrap(),
            tenant: "default".into(),
            subject: None,
            priority: Priority::Normal,
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            data: Bytes::copy_from_slice(data.as_bytes()),
        }),
        endpoint: "ep_1".into(),
        origin: Position { topic: "hub.events".into(), partition: 7, offset: 42 },
        attempts: 0,
        accepted_at: Timestamp::UNIX_EPOCH,
        due_at: None,
        registry_offset: 1,
        purpose: Purpose::Event,
        reason: None,
    }
}

/// A request as it came over the wire.
#[derive(Debug, Clone)]
struct Seen {
    line: String,
    headers: http::HeaderMap,
    body: Vec<u8>,
}

/// Reads one request with a `content-length`; none at the end of the connection.
async fn read_request(from: &mut (impl AsyncRead + Unpin)) -> Option<Seen> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(from.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let line = lines.next().unwrap().to_owned();
    let headers: http::HeaderMap = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse::<http::HeaderValue>().unwrap()))
        .collect();
    let mut body = vec![0; headers.get("content-length").map_or(0, |length| length.to_str().unwrap().parse().unwrap())];
    from.read_exact(&mut body).await.ok()?;
    Some(Seen { line, headers, body })
}

/// A server that does `script(connection number, stream)` with each connection; returns its address and how many have come.
async fn listen<F>(script: impl Fn(usize, TcpStream) -> F + 'static) -> (SocketAddr, Rc<RefCell<usize>>)
where
    F: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Rc::new(RefCell::new(0));
    let counted = Rc::clone(&count);
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            *counted.borrow_mut() += 1;
            let number = *counted.borrow();
            tokio::task::spawn_local(script(number, stream));
        }
    });
    (address, count)
}
