//! The management API: axum routes over the registry, the log and what stages offer to it. No route knows another stage's inside, and none is
//! on the path of an event.
//!
//! - Every error is a problem document (`error`), also for unknown paths and methods; a body that cannot be read is named by its field.
//!   Below the paths of a product it has that product's shape (`shape`).
//! - A change is answered after this instance applied it; an event after it is durable.
//! - What belongs to another tenant does not exist: 404.
//! - `/openapi.json` is made from the same declarations as the routes (`openapi`).

pub mod auth;
mod conversion;
mod error;
mod fields;
mod hub;
mod input;
mod jobs;
mod native;
mod openapi;
mod rates;
mod routes;
mod shape;
pub mod signature;
mod zenvia;

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
};

use axum::{
    Router,
    extract::Request,
    http::{Method, StatusCode, Uri},
    middleware::{self, Next},
    response::Response,
};
use serde::Deserialize;

pub use auth::AdminToken;
pub use native::endpoints::check as check_endpoint;

use self::{error::Problem, jobs::Jobs, rates::Rates, routes::Routes};
use crate::{
    delivery::address,
    health::Health,
    log::{Log, LogError, topics::Topics},
    model::{Budget, Clock, Position, Secret},
    registry::Registry,
    settle::{dead_letter::DeadLetters, history::History, journal::Journal},
    sources::{ingest::Ingest, replay::Replays},
    telemetry::Metrics,
};

/// `[api]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub listen: SocketAddr,
    /// Acts for every tenant. Absent: one is made at first start in the data directory ([`auth::TOKEN_FILE`], mode 0600).
    #[serde(deserialize_with = "secret")]
    pub admin_token: Option<Secret>,
}

impl Default for Config {
    fn default() -> Config {
        Config { listen: SocketAddr::from(([127, 0, 0, 1], 8080)), admin_token: None }
    }
}

fn secret<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Secret>, D::Error> {
    Ok(Some(Secret::new(String::deserialize(from)?)))
}

impl Config {
    pub fn check(&self) -> Vec<(&'static str, String)> {
        // Shorter ones can be guessed by trying.
        const SHORTEST: usize = 16;
        let wrong = |token: &Secret| {
            let text = token.expose_str().unwrap_or_default();
            text.len() < SHORTEST || !text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        match &self.admin_token {
            Some(token) if wrong(token) => {
                vec![("admin_token", format!("must be at least {SHORTEST} printable ASCII characters (`openssl rand -hex 32` makes one)"))]
            }
            _ => Vec::new(),
        }
    }
}

/// What the routes work with.
pub struct State {
    pub registry: Arc<Registry>,
    pub health: Arc<dyn Health>,
    pub log: Arc<dyn Log>,
    pub ingest: Arc<Ingest>,
    pub dead_letters: Arc<DeadLetters>,
    pub history: Arc<History>,
    pub journal: Arc<Journal>,
    pub addresses: Arc<address::Policy>,
    pub replays: Arc<Replays>,
    pub topics: Topics,
    /// The offset to be read next of every source partition, as committed; stored with an endpoint when it is disabled. Blocking.
    pub positions: Arc<dyn Fn() -> Result<Vec<Position>, LogError> + Send + Sync>,
    pub admin: AdminToken,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
}

/// The state with what only the routes need.
pub struct Shared {
    state: State,
    jobs: Arc<Jobs>,
    /// Bytes of bodies that are being read or worked on: `ingest.memory`.
    bodies: Arc<Budget>,
    rates: Rates,
}

impl std::ops::Deref for Shared {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

type Context = Arc<Shared>;

fn routes() -> Routes {
    native::routes().merge(zenvia::routes()).merge(conversion::routes()).merge(hub::routes())
}

/// The description of all routes (OpenAPI 3.1), as `/openapi.json` answers it.
pub fn description() -> String {
    openapi::text(routes().describe())
}

/// All routes. Serve it on the control plane's own runtime.
pub fn router(state: State) -> Router {
    let bodies = Budget::new(state.ingest.memory_limit());
    let context: Context = Arc::new(Shared { state, bodies, jobs: Arc::default(), rates: Rates::default() });
    static DESCRIPTION: LazyLock<String> = LazyLock::new(description);
    routes()
        .router
        .route("/openapi.json", axum::routing::get(|| std::future::ready(openapi::answer(&DESCRIPTION))))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&context), auth::identify))
        .layer(middleware::from_fn(shape::apply))
        .layer(middleware::from_fn_with_state(Arc::clone(&context), count))
        .with_state(context)
}

/// What answers while the daemon has not started: `why` tells what is being waited for.
pub fn not_started(why: impl Fn() -> String + Clone + Send + Sync + 'static) -> Router {
    let answer = move || {
        let problem = Problem::unavailable(format!("the daemon is starting: {}", why()));
        std::future::ready(problem)
    };
    Router::new().fallback(answer).layer(middleware::from_fn(shape::apply))
}

async fn no_route(uri: Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", format!("there is nothing at `{}`: the paths are in /openapi.json", uri.path()))
}

async fn no_method(method: Method, uri: Uri) -> Problem {
    let detail = format!("`{}` cannot be asked by {method}: the methods are in /openapi.json", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

async fn count(axum::extract::State(context): axum::extract::State<Context>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let class = match response.status().as_u16() {
        ..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500.. => "5xx",
    };
    context.metrics.api_requests_total.with(class).increment(1);
    response
}

#[cfg(test)]
mod tests;
