//! A receiver of webhooks: a real HTTP server on loopback that keeps every request and answers as it is told.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Notify,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    /// As it came, compressed or not.
    pub body: Bytes,
    pub at: Instant,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header {name} in {self:?}")).to_str().expect("text")
    }

    /// The body with its `content-encoding` undone.
    pub fn plain(&self) -> Vec<u8> {
        use std::io::Read;
        match self.headers.get("content-encoding").map(|value| value.as_bytes()) {
            None => self.body.to_vec(),
            Some(b"gzip") => {
                let mut plain = Vec::new();
                flate2::read::GzDecoder::new(&self.body[..]).read_to_end(&mut plain).expect("gzip");
                plain
            }
            Some(other) => panic!("unknown encoding {other:?}"),
        }
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.plain()).expect("a JSON body")
    }
}

/// What a receiver does with a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Status(u16),
    /// 200 after this long.
    After(Duration),
    /// Never.
    Hang,
    /// An answer with this body.
    Body(u16, String),
    /// An answer with these headers.
    Headers(u16, Vec<(&'static str, String)>),
}

type Behaviour = dyn Fn(&Received) -> Answer + Send + Sync;

pub struct Receiver {
    pub address: SocketAddr,
    scheme: &'static str,
    requests: Arc<Mutex<Vec<Received>>>,
    changed: Arc<Notify>,
    server: JoinHandle<()>,
}

impl Receiver {
    /// A receiver that answers every request as `behaviour` says.
    pub async fn start(behaviour: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Receiver {
        Receiver::listen("http", None, Arc::new(behaviour)).await
    }

    /// The same over TLS, and the certificate (PEM) by which it is trusted.
    pub async fn encrypted(behaviour: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> (Receiver, String) {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a server");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        (Receiver::listen("https", Some(acceptor), Arc::new(behaviour)).await, made.cert.pem())
    }

    async fn listen(scheme: &'static str, tls: Option<TlsAcceptor>, behaviour: Arc<Behaviour>) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let address = listener.local_addr().expect("bound");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let changed = Arc::new(Notify::new());
        let server = tokio::spawn(serve(listener, tls, behaviour, Arc::clone(&requests), Arc::clone(&changed)));
        Receiver { address, scheme, requests, changed, server }
    }

    /// A receiver that answers 200 at once.
    pub async fn accepting() -> Receiver {
        Receiver::start(|_| Answer::Status(200)).await
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    pub fn requests(&self) -> Vec<Received> {
        self.requests.lock().expect("not poisoned").clone()
    }

    pub fn count(&self) -> usize {
        self.requests.lock().expect("not poisoned").len()
    }

    /// Waits until `condition` holds of the requests so far, and returns them; fails after `limit` with what there was.
    pub async fn until(&self, limit: Duration, what: &str, condition: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let requests = self.requests.lock().expect("not poisoned");
                if condition(&requests) {
                    return requests.clone();
                }
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                panic!("{what}: not within {limit:?}; {} requests came", self.count());
            }
        }
    }

    /// Waits for at least `count` requests.
    pub async fn wait_for(&self, count: usize, limit: Duration) -> Vec<Received> {
        self.until(limit, &format!("{count} requests"), |requests| requests.len() >= count).await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    behaviour: Arc<Behaviour>,
    requests: Arc<Mutex<Vec<Received>>>,
    changed: Arc<Notify>,
) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let _ = stream.set_nodelay(true);
        let (tls, behaviour, requests, changed) = (tls.clone(), Arc::clone(&behaviour), Arc::clone(&requests), Arc::clone(&changed));
        connections.spawn(async move {
            match tls {
                None => speak(stream, behaviour, requests, changed).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        speak(stream, behaviour, requests, changed).await;
                    }
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// One connection, until it ends.
async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    behaviour: Arc<Behaviour>,
    requests: Arc<Mutex<Vec<Received>>>,
    changed: Arc<Notify>,
) {
    let service =
        service_fn(move |request: Request<Incoming>| answer(request, Arc::clone(&behaviour), Arc::clone(&requests), Arc::clone(&changed)));
    let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<Incoming>,
    behaviour: Arc<Behaviour>,
    requests: Arc<Mutex<Vec<Received>>>,
    changed: Arc<Notify>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return Ok(Response::new(Full::default()));
    };
    let received = Received {
        method: head.method,
        path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: head.headers,
        body: body.to_bytes(),
        at: Instant::now(),
    };
    let what = behaviour(&received);
    requests.lock().expect("not poisoned").push(received);
    changed.notify_waiters();
    let mut response = Response::new(Full::default());
    match what {
        Answer::Status(code) => *response.status_mut() = code.try_into().expect("a status"),
        Answer::Body(code, body) => {
            *response.status_mut() = code.try_into().expect("a status");
            *response.body_mut() = Full::new(Bytes::from(body));
        }
        Answer::After(delay) => tokio::time::sleep(delay).await,
        Answer::Hang => std::future::pending().await,
        Answer::Headers(code, headers) => {
            *response.status_mut() = code.try_into().expect("a status");
            for (name, value) in headers {
                response.headers_mut().append(name, value.parse().expect("a header value"));
            }
        }
    }
    Ok(response)
}
