//! `posthaste demo`: a standalone daemon on a temporary directory, three receivers that verify every signature, events flowing, and a live
//! table of what happens. Everything the table says comes from outside of the daemon: its API, and what the receivers saw.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    convert::Infallible,
    io::{IsTerminal, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{
    DemoArguments,
    client::Client,
    table::table,
    verify::{self, Key, Verdict},
};
use crate::{
    app::App,
    config::Config,
    model::{Secret, Timestamp},
    registry::seal,
    shutdown::Signals,
};

/// The receiver that recovers fails at the beginning of each of these periods, for so long or so many requests. They are fewer than make an
/// endpoint Inactive (`health.inactive_at`), which only a person ends.
const PERIOD: Duration = Duration::from_secs(30);
const FAILS_FOR: Duration = Duration::from_secs(10);
const FAILURES: u64 = 250;

/// Latencies kept per receiver, of the latest deliveries.
const SAMPLES: usize = 10_000;

const LARGEST_BODY: usize = 64 * 1024;

pub fn run(arguments: DemoArguments) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(demo(arguments))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Fast,
    Flaky,
    Hangs,
}

impl Manner {
    const ALL: [Manner; 3] = [Manner::Fast, Manner::Flaky, Manner::Hangs];

    fn id(self) -> &'static str {
        match self {
            Manner::Fast => "fast",
            Manner::Flaky => "recovers",
            Manner::Hangs => "hangs",
        }
    }
}

/// A receiver, and what it saw.
struct Receiver {
    manner: Manner,
    address: SocketAddr,
    started: Instant,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    keys: Vec<Key>,
    delivered: HashSet<String>,
    duplicates: u64,
    failed: u64,
    /// The period in which the latest failure was, and how many it had so far.
    failed_in: (u64, u64),
    verified: u64,
    wrong: u64,
    latencies: VecDeque<Duration>,
}

impl Receiver {
    async fn start(manner: Manner) -> anyhow::Result<Arc<Receiver>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let receiver = Arc::new(Receiver { manner, address: listener.local_addr()?, started: Instant::now(), seen: Mutex::default() });
        let serving = Arc::clone(&receiver);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let receiver = Arc::clone(&serving);
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&receiver), request));
                    // A connection that breaks off is the daemon's to notice.
                    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(receiver)
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().expect("nothing panics while it holds this lock")
    }

    fn fails_now(&self, seen: &mut Seen) -> bool {
        let (seconds, period) = (self.started.elapsed().as_secs(), PERIOD.as_secs());
        if self.manner != Manner::Flaky || seconds % period >= FAILS_FOR.as_secs() {
            return false;
        }
        if seen.failed_in.0 != seconds / period {
            seen.failed_in = (seconds / period, 0);
        }
        seen.failed_in.1 += 1;
        seen.failed_in.1 <= FAILURES
    }

    /// Takes note of a request; the status to answer with, or none for never.
    fn take(&self, headers: &http::HeaderMap, body: &[u8]) -> Option<StatusCode> {
        let now = Timestamp::now();
        let mut seen = self.seen();
        match verify::verify(headers, body, &seen.keys, now.as_second()) {
            Verdict::Verified(_) => seen.verified += 1,
            Verdict::NotChecked(_) | Verdict::Unsigned | Verdict::Wrong(_) => seen.wrong += 1,
        }
        if self.manner == Manner::Hangs || self.fails_now(&mut seen) {
            seen.failed += 1;
            return (self.manner != Manner::Hangs).then_some(StatusCode::SERVICE_UNAVAILABLE);
        }
        let event: Value = serde_json::from_slice(body).unwrap_or_default();
        let id = event["id"].as_str().unwrap_or_default().to_owned();
        if !seen.delivered.insert(id) {
            seen.duplicates += 1;
        } else if let Some(sent) = event["data"]["sentMs"].as_i64() {
            if seen.latencies.len() == SAMPLES {
                seen.latencies.pop_front();
            }
            let millis = u64::try_from(now.as_millisecond() - sent).unwrap_or(0);
            seen.latencies.push_back(Duration::from_millis(millis));
        }
        Some(StatusCode::NO_CONTENT)
    }
}

async fn answer(receiver: Arc<Receiver>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(Full::default());
    let status = match Limited::new(body, LARGEST_BODY).collect().await {
        Ok(body) => receiver.take(&head.headers, &body.to_bytes()),
        Err(_) => Some(StatusCode::BAD_REQUEST),
    };
    match status {
        Some(status) => *response.status_mut() = status,
        None => std::future::pending().await,
    }
    Ok(response)
}

async fn demo(arguments: DemoArguments) -> anyhow::Result<()> {
    let directory = Directory::new()?;
    let mut signals = Signals::new()?;
    let token = random_token();
    let app = App::start(config(&directory, &token)?).await.context("the demo's daemon")?;
    let client = Client::at(format!("http://{}", app.api), &Secret::new(token.as_str()))?;
    let mut receivers = Vec::new();
    for manner in Manner::ALL {
        let receiver = Receiver::start(manner).await?;
        let endpoint =
            json!({ "id": manner.id(), "url": format!("http://{}/", receiver.address), "types": ["demo.*"], "signing": "standard" });
        let made = client.expect(Method::POST, "/v1/endpoints", Some(endpoint)).await?;
        let key = made["secret"].as_str().unwrap_or_default().parse().map_err(anyhow::Error::msg)?;
        receiver.seen().keys.push(key);
        receivers.push(receiver);
    }
    introduce(&app, &token, &arguments);
    let started = Instant::now();
    let mut screen = Screen::new();
    let mut sent = 0u64;
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let mut draw = tokio::time::interval(if screen.live { Duration::from_millis(500) } else { Duration::from_secs(5) });
    loop {
        tokio::select! {
            _ = signals.next() => break,
            _ = tick.tick() => {
                if arguments.seconds.is_some_and(|seconds| started.elapsed() >= Duration::from_secs(seconds)) {
                    break;
                }
                let due = (started.elapsed().as_secs_f64() * arguments.rate.per_second()) as u64;
                sent += send(&client, sent, due).await?;
            }
            _ = draw.tick() => screen.draw(&rows(&client, &receivers, sent).await, started.elapsed(), sent),
        }
    }
    screen.draw(&rows(&client, &receivers, sent).await, started.elapsed(), sent);
    let metrics = app.metrics();
    let left = app.stop().await;
    summary(&receivers, sent, &metrics.render(), left);
    Ok(())
}

/// The defaults, but for what a demo needs: a directory of its own, free ports, loopback receivers, and retries that a watcher lives to see.
fn config(directory: &Directory, token: &str) -> anyhow::Result<Config> {
    let text = format!(
        "[api]\nlisten = \"127.0.0.1:0\"\nadmin_token = {token:?}\n[admin]\nlisten = \"127.0.0.1:0\"\n[log]\ndata_directory = {:?}\n\
         [delivery]\nallow_networks = [\"127.0.0.0/8\"]\n[scheduler]\ndrain = \"1s\"\n[retry]\nschedule = [\"5s\", \"10s\", \"30s\", \"1m\", \"5m\"]\n",
        directory.0.display().to_string()
    );
    Ok(crate::config::parse("demo", &text, [])?.config)
}

fn introduce(app: &App, token: &str, arguments: &DemoArguments) {
    let api = format!("http://{}", app.api);
    println!("posthaste demo: three receivers that verify every signature, events at {}", arguments.rate);
    println!("api      {api}   (token {token})");
    println!("metrics  http://{}/metrics", app.admin);
    println!("Try in a second terminal:");
    println!("  curl -s -H 'Authorization: Bearer {token}' {api}/v1/endpoints");
    println!("  posthaste send --api {api} --token {token} --type demo.mine --channel shop --data '{{\"hello\":\"world\"}}'");
    println!("  curl -s http://{}/metrics | grep posthaste_attempts_total", app.admin);
    println!();
}

/// Sends the events that are due and returns how many that were.
async fn send(client: &Client, from: u64, to: u64) -> anyhow::Result<u64> {
    const BATCH: u64 = 500;
    let to = to.min(from + BATCH);
    if to <= from {
        return Ok(0);
    }
    let now = Timestamp::now();
    let events: Vec<Value> = (from..to)
        .map(|n| {
            let kind = ["demo.order.created", "demo.order.paid"][usize::from(n % 2 == 1)];
            json!({ "id": format!("demo-{n}"), "type": kind, "channel": format!("shop-{}", n % 5), "time": now.to_string(),
                "data": { "order": n, "sentMs": now.as_millisecond() } })
        })
        .collect();
    client.expect(Method::POST, "/v1/events", Some(Value::Array(events))).await?;
    Ok(to - from)
}

async fn rows(client: &Client, receivers: &[Arc<Receiver>], sent: u64) -> Vec<[String; 9]> {
    let health = match client.list("/v1/endpoints", &[], 100).await {
        Ok(endpoints) => {
            endpoints.into_iter().filter_map(|endpoint| Some((endpoint["id"].as_str()?.to_owned(), endpoint["health"].clone()))).collect()
        }
        Err(_) => HashMap::new(),
    };
    receivers.iter().map(|receiver| row(receiver, health.get(receiver.manner.id()), sent)).collect()
}

fn row(receiver: &Receiver, health: Option<&Value>, sent: u64) -> [String; 9] {
    let state = health.and_then(|health| health["state"].as_str()).unwrap_or("?");
    let rule = health.and_then(|health| health["reason"].as_str()).unwrap_or("-");
    let lane = match state {
        "active" => "healthy",
        "degraded" => "degraded",
        _ => "none",
    };
    let seen = receiver.seen();
    let mut latencies: Vec<Duration> = seen.latencies.iter().copied().collect();
    latencies.sort_unstable();
    let quantile = |quantile: f64| match latencies.len() {
        0 => "-".to_owned(),
        count => format!("{} ms", latencies[((count - 1) as f64 * quantile).round() as usize].as_millis()),
    };
    [
        receiver.manner.id().to_owned(),
        state.to_owned(),
        rule.to_owned(),
        lane.to_owned(),
        seen.delivered.len().to_string(),
        seen.failed.to_string(),
        match state {
            // What waited is dead letters by now, and what comes passes it by.
            "inactive" => "-".to_owned(),
            _ => sent.saturating_sub(seen.delivered.len() as u64).to_string(),
        },
        format!("{} / {}", quantile(0.5), quantile(0.99)),
        if seen.wrong == 0 { format!("{} all", seen.verified) } else { format!("{} and {} NOT", seen.verified, seen.wrong) },
    ]
}

/// Draws over itself on a terminal, and prints lines elsewhere.
struct Screen {
    live: bool,
    drawn: usize,
}

impl Screen {
    fn new() -> Screen {
        Screen { live: std::io::stdout().is_terminal(), drawn: 0 }
    }

    fn draw(&mut self, rows: &[[String; 9]], elapsed: Duration, sent: u64) {
        let heads = ["ENDPOINT", "HEALTH", "RULE", "LANE", "DELIVERED", "FAILED", "WAITING", "P50 / P99", "VERIFIED"];
        let text = format!("{:>4} s, {sent} events sent\n{}", elapsed.as_secs(), table(heads, rows));
        let mut out = std::io::stdout().lock();
        // Nobody is left to tell when standard output is gone.
        if self.live {
            // Up to where the last table began, and clear from there; lines that are too long for the terminal are cut and not folded,
            // for their number has to be known the next time.
            let up = if self.drawn > 0 { format!("\x1b[{}A", self.drawn) } else { String::new() };
            let _ = write!(out, "{up}\r\x1b[J\x1b[?7l{text}\x1b[?7h");
        } else {
            let _ = writeln!(out, "{text}");
        }
        self.drawn = text.lines().count();
        let _ = out.flush();
    }
}

/// What the receivers saw, and what the daemon had counted when it had stopped.
fn summary(receivers: &[Arc<Receiver>], sent: u64, metrics: &str, left: crate::app::Left) {
    let total = |of: fn(&Seen) -> u64| receivers.iter().map(|receiver| of(&receiver.seen())).sum::<u64>();
    let routed = sum(metrics, "posthaste_routed_total", |_| true);
    // `retried` and `spilled` come back.
    let ended = sum(metrics, "posthaste_deliveries_total", |labels| !labels.contains("retried") && !labels.contains("spilled"));
    let delivered = sum(metrics, "posthaste_deliveries_total", |labels| labels.contains("delivered"));
    println!();
    println!("sent        {sent} events, {routed} deliveries to make of them");
    println!("delivered   {}", total(|seen| seen.delivered.len() as u64));
    if ended > delivered {
        println!("dead        {} letters: their endpoint was suspended, or their schedule was over", ended - delivered);
    }
    println!("verified    {} signatures, {} wrong", total(|seen| seen.verified), total(|seen| seen.wrong));
    println!("duplicates  {}", total(|seen| seen.duplicates));
    println!(
        "waiting     {} (in the log, for the next start; {} were handed back just now)",
        routed.saturating_sub(ended),
        left.handed_back
    );
}

/// The sum over the series of a counter with such labels.
fn sum(metrics: &str, name: &str, counts: impl Fn(&str) -> bool) -> u64 {
    let series = metrics.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
    series.filter(|(labels, _)| counts(labels)).filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
}

fn random_token() -> String {
    let mut bytes = [0; 12];
    seal::fill_random(&mut bytes);
    format!("demo-{}", seal::hex(&bytes))
}

/// A directory that is removed in the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> anyhow::Result<Directory> {
        let path = std::env::temp_dir().join(random_token());
        std::fs::create_dir(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Directory(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
