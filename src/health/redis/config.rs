//! Where Redis is, and what keys there are called.

use redis::{Client, IntoConnectionInfo, io::tcp::TcpSettings};
use serde::{Deserialize, Serialize};

/// `[redis]`
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `redis://[user:password@]host:port[/database]`, or `rediss://` for TLS.
    pub url: String,
    /// Begins every key and channel, so that fleets can share a Redis.
    pub prefix: String,
}

impl Default for Config {
    fn default() -> Config {
        Config { url: "redis://127.0.0.1:6379".to_owned(), prefix: "posthaste:".to_owned() }
    }
}

/// The URL may hold a password.
impl std::fmt::Debug for Config {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Config").field("url", &self.place()).field("prefix", &self.prefix).finish()
    }
}

impl Config {
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if let Err(error) = self.client() {
            problems.push(("url", error));
        }
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.:/{}".contains(letter);
        if self.prefix.is_empty() || self.prefix.len() > 100 || !self.prefix.chars().all(is_plain) {
            problems.push(("prefix", "must be 1 to 100 letters, digits or any of `-_.:/{}`".to_owned()));
        }
        problems
    }

    pub(super) fn client(&self) -> Result<Client, String> {
        let info = self.url.as_str().into_connection_info();
        info.and_then(|info| Client::open(info.set_tcp_settings(TcpSettings::default().set_nodelay(true))))
            .map_err(|error| format!("is no address of a Redis: {error}; write redis://host:port"))
    }

    /// The URL without what is secret in it.
    pub(super) fn place(&self) -> String {
        url::Url::parse(&self.url).map_or("(no URL)".to_owned(), |url| {
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
        })
    }
}
