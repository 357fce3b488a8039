//! Connecting: resolve, check, connect, and TLS where the URL says so.
//!
//! We resolve ourselves and connect to the address that the policy has checked; literals take the same way, so that no spelling goes
//! round it. hyper-rustls then wraps the connection that is already there ([`Ready`]): so each phase is known by where it stands, and a
//! deadline that strikes is told apart by phase.
//!
//! With a proxy every connection is a `CONNECT` through it, also for plain http. The proxy resolves the names and its own rules
//! decide about them; literals are checked here all the same. A proxy that does not answer is our fault, not the endpoint's.

use std::{
    cell::{Cell, OnceCell},
    future::{Ready as ReadyFuture, ready},
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt, future::Either, stream::FuturesUnordered};
use hickory_resolver::{TokioResolver, net::runtime::TokioRuntimeProvider};
use http::Uri;
use hyper_rustls::HttpsConnector;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower_service::Service;

use super::{Host, Origin, stream::Stream};
use crate::{
    delivery::{Proxy, Shared, classify},
    model::Failure,
};

/// How long one address is tried alone before the next one is tried beside it (RFC 8305, 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// Addresses of one name that are tried, at most.
const ADDRESSES: usize = 6;

/// The longest answer head of a proxy.
const PROXY_HEAD: usize = 8 * 1024;

/// Where a connection attempt stands; a deadline that strikes means what the phase means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Resolving,
    Connecting,
    Tunnelling,
    Handshaking,
}

impl Phase {
    pub fn timed_out(self, after: Duration) -> Failure {
        let after = humantime::format_duration(after);
        match self {
            // The name may well exist: the silence is that of our resolver, or of the name's own servers.
            Phase::Resolving => Failure::Unreachable { text: format!("the resolver did not answer within {after}"), ours: true },
            Phase::Connecting => Failure::ConnectTimeout,
            Phase::Tunnelling => Failure::Local(format!("the proxy did not answer within {after}")),
            Phase::Handshaking => Failure::TlsTimeout,
        }
    }
}

/// Opens connections for one thread; names are cached here for as long as their records say.
pub struct Connector {
    shared: Arc<Shared>,
    resolver: OnceCell<Result<TokioResolver, String>>,
}

impl Connector {
    pub fn new(shared: Arc<Shared>) -> Connector {
        Connector { shared, resolver: OnceCell::new() }
    }

    /// Opens a connection to `origin` and says whether it speaks HTTP/2. `phase` follows; the caller holds the deadline.
    pub async fn connect(&self, origin: &Origin, phase: &Cell<Phase>) -> Result<(Stream, bool), Failure> {
        let tcp = match &self.shared.proxy {
            None => self.direct(origin, phase).await?,
            Some(proxy) => self.tunnel(origin, proxy, phase).await?,
        };
        let open = &self.shared.metrics.connections_open;
        if !origin.https {
            return Ok((Stream::plain(tcp, open), false));
        }
        phase.set(Phase::Handshaking);
        let mut tls = HttpsConnector::from((Ready(Some(tcp)), Arc::clone(origin.tls.as_ref().unwrap_or(self.shared.tls.plain()))));
        let stream = tls.call(origin.url.clone()).await.map_err(|error| classify::handshake(&*error))?;
        Ok(Stream::encrypted(stream, open))
    }

    async fn direct(&self, origin: &Origin, phase: &Cell<Phase>) -> Result<TcpStream, Failure> {
        phase.set(Phase::Resolving);
        let addresses = match &origin.host {
            Host::Address(address) => vec![self.checked(origin, *address)?],
            Host::Name(name) => {
                let mut refused = None;
                let found = self.resolve(name).await?;
                let mut allowed = Vec::with_capacity(found.len().min(ADDRESSES));
                for address in found {
                    match self.checked(origin, address) {
                        Ok(address) if allowed.len() < ADDRESSES => allowed.push(address),
                        Ok(_) => break,
                        Err(failure) => refused = Some(failure),
                    }
                }
                match refused {
                    Some(failure) if allowed.is_empty() => return Err(failure),
                    None if allowed.is_empty() => return Err(Failure::UnknownHost),
                    _ => allowed,
                }
            }
        };
        phase.set(Phase::Connecting);
        let addresses: Vec<_> = addresses.into_iter().map(|address| SocketAddr::new(address, origin.port)).collect();
        open_any(&addresses).await.map_err(|error| classify::connect(&error))
    }

    /// The address, if the policy lets it be connected to.
    fn checked(&self, origin: &Origin, address: IpAddr) -> Result<IpAddr, Failure> {
        self.shared.policy.check(address).map_err(|refused| Failure::AddressRefused(refused.to_string()))?;
        if origin.secret && !origin.https {
            self.shared.policy.check_clear(address).map_err(|wrong| Failure::AddressRefused(format!("http to {address} {wrong}")))?;
        }
        Ok(address)
    }

    /// All addresses of a name, the two families taking turns (RFC 8305, 4).
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, Failure> {
        let resolver = self.resolver.get_or_init(|| {
            let (config, options) = self.shared.resolver.clone()?;
            let built = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options).build();
            built.map_err(|error| error.to_string())
        });
        let resolver = resolver.as_ref().map_err(|wrong| Failure::Local(format!("there is no resolver: {wrong}")))?;
        match resolver.lookup_ip(name).await {
            Ok(found) => {
                let (v6, v4): (Vec<IpAddr>, Vec<IpAddr>) = found.iter().partition(IpAddr::is_ipv6);
                let mut turns = Vec::with_capacity(v6.len() + v4.len());
                let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
                loop {
                    let before = turns.len();
                    turns.extend(v4.next());
                    turns.extend(v6.next());
                    if turns.len() == before {
                        return Ok(turns);
                    }
                }
            }
            Err(error) if error.is_no_records_found() || error.is_nx_domain() => Err(Failure::UnknownHost),
            Err(error) => Err(Failure::Unreachable { text: format!("`{name}` cannot be resolved: {error}"), ours: true }),
        }
    }

    async fn tunnel(&self, origin: &Origin, proxy: &Proxy, phase: &Cell<Phase>) -> Result<TcpStream, Failure> {
        match &origin.host {
            Host::Address(address) => drop(self.checked(origin, *address)?),
            Host::Name(name) if origin.secret && !origin.https => {
                return Err(Failure::AddressRefused(format!(
                    "http to {name} through a proxy would carry the client's secret in clear: write https"
                )));
            }
            Host::Name(_) => {}
        }
        phase.set(Phase::Tunnelling);
        let ours = |error: io::Error| Failure::Local(format!("delivery.proxy {}: {error}", proxy.address));
        // The proxy is the operator's choice, so the system resolves it and the policy does not judge it.
        let mut tcp = TcpStream::connect(&*proxy.address).await.map_err(ours)?;
        tcp.set_nodelay(true).map_err(ours)?;
        let target = origin.target();
        let credentials = proxy.authorization.as_ref().map(|value| format!("Proxy-Authorization: {value}\r\n")).unwrap_or_default();
        let ask = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{credentials}\r\n");
        tcp.write_all(ask.as_bytes()).await.map_err(ours)?;
        let mut head = Vec::with_capacity(512);
        // Byte by byte: what follows the head belongs to the endpoint. It happens once per connection.
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= PROXY_HEAD {
                return Err(ours(io::Error::other("its answer is too long")));
            }
            head.push(tcp.read_u8().await.map_err(ours)?);
        }
        let status = head.split(|byte| *byte == b' ').nth(1).and_then(|code| std::str::from_utf8(code).ok()?.parse::<u16>().ok());
        match status {
            Some(200..=299) => Ok(tcp),
            Some(403) => Err(Failure::AddressRefused(format!("the proxy {} refuses {target} (403)", proxy.address))),
            // The proxy works and could not get through to the endpoint.
            Some(502..=504) => Err(Failure::Refused),
            Some(code) => Err(ours(io::Error::other(format!("it answered {code} to CONNECT {target}")))),
            None => Err(ours(io::Error::other("its answer is no HTTP"))),
        }
    }
}

/// The first of the addresses that takes a connection: each gets a head start, a failure starts the next one at once (RFC 8305, 5).
async fn open_any(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut waiting = addresses.iter();
    let mut running = FuturesUnordered::new();
    let mut worst: Option<io::Error> = None;
    loop {
        match waiting.next() {
            Some(address) => running.push(open(*address)),
            None if running.is_empty() => return Err(worst.unwrap_or_else(|| io::Error::other("no address"))),
            None => {}
        }
        let next = running.next();
        let result = if waiting.len() == 0 {
            next.await
        } else {
            match futures_util::future::select(next, pin!(tokio::time::sleep(HEAD_START))).await {
                Either::Left((result, _)) => result,
                Either::Right(_) => continue,
            }
        };
        match result {
            Some(Ok(tcp)) => return Ok(tcp),
            Some(Err(error)) => {
                worst = Some(match worst {
                    Some(earlier) => telling(earlier, error),
                    None => error,
                });
            }
            None => {}
        }
    }
}

/// Of two errors the later one, unless it only says that this machine has no route for the other family.
fn telling(earlier: io::Error, later: io::Error) -> io::Error {
    if matches!(classify::connect(&later), Failure::Local(_) | Failure::Unreachable { .. }) { earlier } else { later }
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// The connector under hyper-rustls: hands out the one connection that we have opened and checked.
struct Ready(Option<TcpStream>);

impl Service<Uri> for Ready {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = ReadyFuture<io::Result<TokioIo<TcpStream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(self.0.take().map(TokioIo::new).ok_or_else(|| io::Error::other("the connection was already taken")))
    }
}
