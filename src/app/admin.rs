//! What operators and their tools look at: `/metrics`, `/live`, `/ready`, on a thread of their own, so that they answer when everything
//! else is busy. The same thread keeps the histograms small and looks at the process itself.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use serde::{Deserialize, Serialize};

use crate::telemetry::Metrics;

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where metrics and probes are served. They tell nothing secret, but they are for operators.
    pub listen: SocketAddr,
}

impl Default for Config {
    fn default() -> Config {
        Config { listen: SocketAddr::from(([127, 0, 0, 1], 9090)) }
    }
}

impl Config {
    pub fn check(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// Why the daemon is not ready; empty when it is.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<Vec<(&'static str, String)>>);

impl Readiness {
    /// Not ready for this cause, whatever else there is.
    pub fn set(&self, cause: &'static str, why: impl Into<String>) {
        let mut causes = self.lock();
        causes.retain(|(known, _)| *known != cause);
        causes.push((cause, why.into()));
    }

    pub fn clear(&self, cause: &'static str) {
        self.lock().retain(|(known, _)| *known != cause);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(&'static str, String)>> {
        self.0.lock().expect("nothing panics while it holds this lock")
    }
}

#[derive(Clone)]
struct Admin {
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    gather: Arc<dyn Fn() + Send + Sync>,
}

/// How often histograms are drained and gauges of the process are read, at least.
const UPKEEP: Duration = Duration::from_secs(2);

/// Begins to serve and returns where. `gather` brings gauges up to date; it is called before each scrape and must not wait.
pub fn start(
    config: &Config,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    gather: Arc<dyn Fn() + Send + Sync>,
) -> Result<SocketAddr, String> {
    let wrong = |error: std::io::Error| format!("cannot listen on {}: {error}; set `admin.listen` to another address", config.listen);
    let listener = std::net::TcpListener::bind(config.listen).map_err(wrong)?;
    listener.set_nonblocking(true).map_err(wrong)?;
    let address = listener.local_addr().map_err(wrong)?;
    let admin = Admin { metrics, readiness, gather };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(wrong)?;
    std::thread::Builder::new()
        .name("admin".into())
        .spawn(move || runtime.block_on(serve(listener, admin)))
        .map_err(wrong)?;
    Ok(address)
}

async fn serve(listener: std::net::TcpListener, admin: Admin) {
    let upkeep = admin.clone();
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .with_state(admin);
    let upkeep = async move {
        let mut tick = tokio::time::interval(UPKEEP);
        loop {
            tick.tick().await;
            upkeep.metrics.upkeep();
        }
    };
    let served = async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        axum::serve(listener, router).await
    };
    tokio::select! {
        outcome = served => {
            if let Err(error) = outcome {
                tracing::error!(%error, "admin listener ended; metrics and probes are gone");
            }
        }
        () = upkeep => {}
    }
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    (admin.gather)();
    look_at_process(&admin.metrics);
    admin.metrics.upkeep();
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], admin.metrics.render())
}

async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    let causes = admin.readiness.lock();
    match causes.is_empty() {
        true => (StatusCode::OK, "ready\n".to_owned()),
        false => (StatusCode::SERVICE_UNAVAILABLE, causes.iter().map(|(cause, why)| format!("{cause}: {why}\n")).collect()),
    }
}

/// Memory, descriptors and CPU from `/proc`; what cannot be read is left as it was.
fn look_at_process(metrics: &Metrics) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok());
    if let Some(kib) = resident {
        metrics.process_resident_bytes.set(kib * 1024.0);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        metrics.process_open_files.set(files.count() as f64);
    }
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        metrics.process_open_files_limit.set(limit as f64);
    }
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    if let (Some(Ok(user)), Some(Ok(system))) = (fields.get(11).map(|text| text.parse::<u64>()), fields.get(12).map(|text| text.parse::<u64>())) {
        // USER_HZ is 100 on every Linux that Rust runs on.
        metrics.process_cpu_seconds.absolute((user + system) / 100);
    }
}
