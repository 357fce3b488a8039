//! What operators and their tools look at: `/metrics`, `/live`, `/ready`, on a thread of their own, so that they answer when everything
//! else is busy. The same thread keeps the histograms small and looks at the process itself.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::server;
use crate::{
    config::admin::Config,
    telemetry::{Metrics, process},
};
use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};

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

    /// What is in the way.
    pub fn causes(&self) -> String {
        self.lock().iter().map(|(cause, why)| format!("{cause}: {why}\n")).collect()
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
    std::thread::Builder::new().name("admin".into()).spawn(move || runtime.block_on(serve(listener, admin))).map_err(wrong)?;
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
        // For as long as the process lives.
        server::serve(listener, router, CancellationToken::new()).await;
        std::io::Result::Ok(())
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
    process::sample(&admin.metrics);
    admin.metrics.upkeep();
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], admin.metrics.render())
}

async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    (admin.gather)();
    let causes = admin.readiness.causes();
    match causes.is_empty() {
        true => (StatusCode::OK, "ready\n".to_owned()),
        false => (StatusCode::SERVICE_UNAVAILABLE, causes),
    }
}
