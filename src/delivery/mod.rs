//! Delivery: one attempt, from the event to the class of its outcome.
//!
//! payload → headers → auth → signature → compression → connection → answer → class. An attempt never fails as a Rust error: whatever
//! happens is data about the endpoint, the network or us ([`Outcome`](crate::model::Outcome)). What an endpoint sends is hostile: every phase has a deadline, the
//! answer a limit, redirects are not followed, and only addresses that the [`address`] policy allows are connected to.
//!
//! [`Shared`] is what all threads have in common and never changes; a [`Sender`] belongs to one thread and holds its connections, so
//! nothing on the path of a delivery takes a lock. There is one timer per attempt, moved from phase to phase: resolving, connecting and TLS have
//! `connect_timeout` together, the answer has `response_timeout` from the moment the connection stands.
//!
//! A 2xx is a success whatever its body is: an answer longer than `answer_limit` is cut there and its connection closed. But a body that
//! neither ends nor reaches the limit before the deadline is a failure, because the endpoint has not said that it is done.

pub mod address;
mod auth;
mod classify;
mod client;
mod oauth;
mod payload;
mod request;
mod sender;
pub mod signature;

#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytesize::ByteSize;
use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use http::HeaderValue;
use ipnet::IpNet;
use serde::Deserialize;
use url::Url;

pub use oauth::RefreshTokens;
pub use sender::Sender;

use crate::{model::Clock, telemetry::metrics::Metrics};

/// `[delivery]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// From the standing connection to the end of the answer.
    #[serde(with = "humantime_serde")]
    pub response_timeout: Duration,
    /// Resolving, connecting and TLS together.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Networks that may be connected to although the address policy refuses them.
    pub allow_networks: Vec<IpNet>,
    /// `http://[user:password@]host:port`; every connection is a `CONNECT` through it.
    pub proxy: Option<ProxyUrl>,
    /// PEM certificates to trust beside those of the system.
    pub ca_file: Option<PathBuf>,
    /// Bytes of an answer's body that are read and kept.
    pub answer_limit: ByteSize,
    /// A pooled connection that nobody used for so long is closed.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// A connection as old as this takes no new request.
    #[serde(with = "humantime_serde")]
    pub connection_age: Duration,
    /// Idle connections to one origin, per shard.
    pub idle_per_origin: usize,
    /// Idle connections in all, per shard.
    pub idle_connections: usize,
    /// Whether HTTP/2 is offered to https endpoints.
    pub http2: bool,
    pub user_agent: String,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            response_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            allow_networks: Vec::new(),
            proxy: None,
            ca_file: None,
            answer_limit: ByteSize::kib(16),
            idle_timeout: Duration::from_secs(60),
            connection_age: Duration::from_secs(600),
            idle_per_origin: 256,
            idle_connections: 1024,
            http2: true,
            user_agent: concat!("posthaste/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl Config {
    /// What is out of range, by key.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        let mut range = |key, value: Duration, low: Duration, high: Duration| {
            if value < low || value > high {
                let [low, high] = [low, high].map(humantime::format_duration);
                wrong.push((key, format!("must lie between {low} and {high}")));
            }
        };
        let seconds = Duration::from_secs;
        range("response_timeout", self.response_timeout, Duration::from_millis(10), seconds(600));
        range("connect_timeout", self.connect_timeout, Duration::from_millis(10), seconds(120));
        range("idle_timeout", self.idle_timeout, Duration::from_millis(100), seconds(3600));
        range("connection_age", self.connection_age, seconds(1), seconds(86_400));
        if self.connection_age < self.idle_timeout {
            wrong.push(("connection_age", "must not be shorter than `idle_timeout`".to_owned()));
        }
        if self.answer_limit > ByteSize::mib(1) {
            wrong.push(("answer_limit", "must be at most 1MiB: it is held for every request in flight".to_owned()));
        }
        if self.idle_per_origin > self.idle_connections {
            wrong.push(("idle_per_origin", "must not be above `idle_connections`".to_owned()));
        }
        if let Some(Err(problem)) = self.proxy.as_ref().map(Proxy::new) {
            wrong.push(("proxy", problem));
        }
        if HeaderValue::from_str(&self.user_agent).is_err() || self.user_agent.is_empty() {
            wrong.push(("user_agent", "must be text that a header can hold".to_owned()));
        }
        wrong
    }

    /// What is wrong with the file that it names, by key.
    pub fn try_out(&self) -> Vec<(&'static str, String)> {
        let wrong = self.ca_file.as_deref().and_then(|path| client::tls::authorities(path).err());
        wrong.map(|wrong| ("ca_file", format!("{wrong}; name a PEM file of certificates"))).into_iter().collect()
    }
}

/// A URL that may hold a password, which is not printed.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct ProxyUrl(Url);

impl std::str::FromStr for ProxyUrl {
    type Err = url::ParseError;

    fn from_str(text: &str) -> Result<ProxyUrl, url::ParseError> {
        text.parse().map(ProxyUrl)
    }
}

impl std::fmt::Debug for ProxyUrl {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "{}://{}:{}",
            self.0.scheme(),
            self.0.host_str().unwrap_or_default(),
            self.0.port_or_known_default().unwrap_or_default()
        )
    }
}

/// The outbound proxy, checked.
struct Proxy {
    /// Host and port.
    address: String,
    authorization: Option<String>,
}

impl Proxy {
    fn new(ProxyUrl(url): &ProxyUrl) -> Result<Proxy, String> {
        let host = url.host_str().filter(|_| url.scheme() == "http").ok_or("must be a URL such as http://proxy.example.com:3128")?;
        let port = url.port_or_known_default().ok_or("must name a port")?;
        let authorization = (!url.username().is_empty()).then(|| {
            let pair = [url.username().as_bytes(), b":", url.password().unwrap_or_default().as_bytes()].concat();
            format!("Basic {}", STANDARD.encode(pair))
        });
        Ok(Proxy { address: format!("{host}:{port}"), authorization })
    }
}

/// What the senders of all threads share.
pub struct Shared {
    config: Config,
    policy: Arc<address::Policy>,
    tls: client::tls::Tls,
    /// What the system says about name servers, read once. Without it literals can still be delivered to.
    resolver: Result<(ResolverConfig, ResolverOpts), String>,
    proxy: Option<Proxy>,
    user_agent: HeaderValue,
    answer_limit: usize,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    refresh_tokens: OnceLock<RefreshTokens>,
}

impl Shared {
    /// Errors name the key and the cure. A system without resolver configuration is only warned of.
    pub fn new(config: &Config, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Result<Arc<Shared>, String> {
        let resolver = hickory_resolver::system_conf::read_system_conf()
            .map(|(servers, options)| (servers, resolver_options(options, config.connect_timeout)))
            .map_err(|error| format!("/etc/resolv.conf cannot be used: {error}"));
        if let Err(problem) = &resolver
            && config.proxy.is_none()
        {
            tracing::warn!(%problem, "names cannot be resolved: only endpoints with an address in their URL can be delivered to");
        }
        Ok(Arc::new(Shared {
            policy: Arc::new(address::Policy::new(config.allow_networks.clone())),
            tls: client::tls::Tls::new(config.ca_file.as_deref(), config.http2)?,
            resolver,
            proxy: config.proxy.as_ref().map(Proxy::new).transpose().map_err(|problem| format!("delivery.proxy {problem}"))?,
            user_agent: HeaderValue::from_str(&config.user_agent).map_err(|_| "delivery.user_agent is no header text")?,
            answer_limit: usize::try_from(config.answer_limit.as_u64()).map_err(|_| "delivery.answer_limit is too large")?,
            config: config.clone(),
            clock,
            metrics,
            refresh_tokens: OnceLock::new(),
        }))
    }

    /// Where rotated refresh tokens are kept; said once, because that place is made after this. Until then they are in memory only.
    pub fn keep_refresh_tokens(&self, kept: RefreshTokens) {
        let _ = self.refresh_tokens.set(kept);
    }

    /// The address policy, for checks at registration.
    pub fn policy(&self) -> &Arc<address::Policy> {
        &self.policy
    }
}

/// Two tries within the deadline of a connection, and names that do not exist are asked for again soon: an endpoint whose name was just
/// created should not wait for the longest negative answer.
fn resolver_options(mut options: ResolverOpts, connect_timeout: Duration) -> ResolverOpts {
    options.timeout = connect_timeout / 2;
    options.attempts = 2;
    options.negative_max_ttl = Some(Duration::from_secs(30));
    options
}
