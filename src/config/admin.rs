//! `[admin]`: the listener for whoever watches the daemon.

use std::net::SocketAddr;

use serde::Deserialize;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `/metrics`, `/live` and `/ready`; without authentication, so not for the world.
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
