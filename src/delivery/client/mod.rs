//! The client: connections to endpoints, owned by one thread.
//!
//! An HTTP/1 connection is one value ([`Http1`]) that holds hyper's request side and its connection future together, and whoever has
//! checked it out of the pool polls both: no task per connection, so an exchange costs no wake-up between tasks, and dropping the value
//! closes the connection at once. HTTP/2 connections carry many exchanges and run in a task of their own ([`Http2`]).
//!
//! The alternatives not taken: hyper-util's pooled client has one lock for all hosts and no cap; a task per HTTP/1 connection wakes two
//! tasks for every request.

mod connection;
mod connector;
mod pool;
mod stream;
pub(super) mod tls;

pub use connection::{Answer, Http1, Http2, Link};
pub use connector::{Connector, Phase};
pub use pool::{Limits, Pool};

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    rc::Rc,
    sync::Arc,
};

use http::Uri;
use rustls::ClientConfig;

use crate::model::EndpointUrl;

/// Scheme, host and port of URLs under one TLS identity, and the connections to them that nobody uses now.
pub struct Origin {
    pub https: bool,
    pub host: Host,
    pub port: u16,
    /// Scheme and authority, for TLS names.
    pub url: Uri,
    /// None: that of everybody without an identity.
    tls: Option<Arc<ClientConfig>>,
    /// Whether a client's secret travels there, which must not be in clear just anywhere.
    secret: bool,
    idle: RefCell<Vec<Http1>>,
    shared: RefCell<Vec<Rc<Http2>>>,
    /// Whether the pool's clock hand comes by.
    listed: Cell<bool>,
}

pub enum Host {
    Address(IpAddr),
    Name(String),
}

impl Origin {
    /// Of a token endpoint: in nobody's pool, because a token is fetched now and then.
    pub fn of_tokens(url: &EndpointUrl, tls: Option<Arc<ClientConfig>>) -> Result<Origin, String> {
        Ok(Origin { secret: true, ..Origin::new(url, &authority_of(url)?, tls)? })
    }

    /// `authority` as [`authority_of`] gives it.
    fn new(url: &EndpointUrl, authority: &str, tls: Option<Arc<ClientConfig>>) -> Result<Origin, String> {
        let parts = url.parts();
        let host = match parts.host() {
            Some(url::Host::Ipv4(address)) => Host::Address(address.into()),
            Some(url::Host::Ipv6(address)) => Host::Address(address.into()),
            Some(url::Host::Domain(name)) => Host::Name(name.to_owned()),
            None => return Err("the URL has no host".to_owned()),
        };
        let text = format!("{}://{authority}", parts.scheme());
        Ok(Origin {
            https: url.is_https(),
            host,
            port: parts.port_or_known_default().ok_or("the URL has no port")?,
            url: text.parse().map_err(|wrong| format!("the URL's host cannot be connected to: {wrong}"))?,
            tls,
            secret: false,
            idle: RefCell::default(),
            shared: RefCell::default(),
            listed: Cell::new(false),
        })
    }

    /// Host and, where it is not the scheme's own, port: what `Host` says.
    pub fn authority(&self) -> &str {
        self.url.authority().map_or("", http::uri::Authority::as_str)
    }

    /// Host and port, always both: what `CONNECT` asks for.
    pub fn target(&self) -> String {
        match self.url.port() {
            Some(_) => self.authority().to_owned(),
            None => format!("{}:{}", self.authority(), self.port),
        }
    }
}

/// Host and, where it is not the scheme's own, port.
fn authority_of(url: &EndpointUrl) -> Result<String, String> {
    let parts = url.parts();
    let host = parts.host_str().ok_or("the URL has no host")?;
    Ok(parts.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}
