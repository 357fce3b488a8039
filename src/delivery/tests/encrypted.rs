//! TLS, and HTTP/2 over it.

use std::{cell::Cell, convert::Infallible, io::Write, rc::Rc, sync::Arc};

use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::model::{Failure, Outcome};

/// A certificate for 127.0.0.1 and a file that makes it trusted.
fn identity(protocols: &[&str]) -> (tempfile::NamedTempFile, TlsAcceptor) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(made.cert.pem().as_bytes()).unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    (file, TlsAcceptor::from(Arc::new(config)))
}

/// An https server that answers with the version of HTTP it was spoken to in, and the `host` it was asked for.
async fn server(acceptor: TlsAcceptor) -> (SocketAddr, Rc<RefCell<usize>>) {
    listen(move |_, stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(|request: Request<Incoming>| async move {
                let host = request.headers().get("host").map(|host| host.to_str().unwrap().to_owned());
                let authority = request.uri().authority().map(ToString::to_string);
                let answer = format!("{:?} {}", request.version(), host.or(authority).unwrap_or_default());
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(answer))))
            });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await
}

fn trusting(file: &tempfile::NamedTempFile) -> Config {
    // A handshake in a debug build on a busy machine takes its time.
    let patient = Duration::from_secs(10);
    Config { ca_file: Some(file.path().to_owned()), connect_timeout: patient, response_timeout: patient, ..config() }
}

#[test]
fn the_peer_chooses_the_version_of_http() {
    run(async {
        for (protocols, version) in [(&["h2", "http/1.1"][..], "HTTP/2.0"), (&["http/1.1"], "HTTP/1.1"), (&[], "HTTP/1.1")] {
            let (file, acceptor) = identity(protocols);
            let (address, connections) = server(acceptor).await;
            let (sender, endpoint) = (sender(&trusting(&file)), Arc::new(endpoint(&format!("https://{address}/"))));
            for number in 0..5 {
                let attempt = sender.attempt(&delivery("{}"), &endpoint).await;
                assert_eq!(attempt.outcome, Outcome::Delivered);
                assert_eq!(attempt.answer, format!("{version} {address}"));
                assert_eq!(attempt.reused, number > 0);
            }
            assert_eq!(*connections.borrow(), 1);
        }
    });
}

#[test]
fn exchanges_share_one_http2_connection() {
    run(async {
        let (file, acceptor) = identity(&["h2"]);
        let (address, connections) = server(acceptor).await;
        let (sender, endpoint, delivery) = (sender(&trusting(&file)), Arc::new(endpoint(&format!("https://{address}/"))), delivery("{}"));
        assert_eq!(sender.attempt(&delivery, &endpoint).await.outcome, Outcome::Delivered);
        let all = (0..50).map(|_| sender.attempt(&delivery, &endpoint));
        assert!(futures_util::future::join_all(all).await.iter().all(|attempt| attempt.outcome == Outcome::Delivered && attempt.reused));
        assert_eq!(*connections.borrow(), 1);
    });
}

#[test]
fn http2_is_not_offered_where_it_is_switched_off() {
    run(async {
        let (file, acceptor) = identity(&["h2", "http/1.1"]);
        let (address, _) = server(acceptor).await;
        let config = Config { http2: false, ..trusting(&file) };
        let attempt = sender(&config).attempt(&delivery("{}"), &Arc::new(endpoint(&format!("https://{address}/")))).await;
        assert_eq!(attempt.answer, format!("HTTP/1.1 {address}"));
    });
}

#[test]
fn a_peer_that_cannot_be_trusted_gets_nothing() {
    run(async {
        let (_, acceptor) = identity(&[]);
        let (other, _) = identity(&[]);
        let (address, _) = server(acceptor).await;
        let attempt = sender(&trusting(&other)).attempt(&delivery("{}"), &Arc::new(endpoint(&format!("https://{address}/")))).await;
        assert_eq!(attempt.outcome.class(), "tls", "{:?}", attempt.outcome);
    });
}

#[test]
fn handshakes_that_stall_break_off_or_are_none() {
    run(async {
        let stall = || Box::pin(std::future::pending::<()>()) as std::pin::Pin<Box<dyn Future<Output = ()>>>;
        for (script, class) in [("stall", "tls_timeout"), ("close", "reset"), ("plain", "tls")] {
            let held = Rc::new(Cell::new(false));
            let (address, _) = listen(move |_, mut stream| {
                let held = Rc::clone(&held);
                async move {
                    match script {
                        "stall" => {
                            held.set(true);
                            stall().await;
                        }
                        // What the client said must be read, or closing is a reset on the wire as well.
                        "close" => drop(stream.read_u8().await),
                        _ => {
                            stream.write_all(b"HTTP/1.1 400 This is no TLS\r\n\r\n").await.unwrap();
                            stall().await;
                        }
                    }
                }
            })
            .await;
            let attempt = sender(&config()).attempt(&delivery("{}"), &Arc::new(endpoint(&format!("https://{address}/")))).await;
            assert_eq!(attempt.outcome.class(), class, "{script}: {:?}", attempt.outcome);
            assert!(attempt.elapsed < LATE);
        }
    });
}

#[test]
fn a_ca_file_that_cannot_be_used_is_named() {
    let shared = |path: &std::path::Path| {
        let config = Config { ca_file: Some(path.to_owned()), ..config() };
        Shared::new(&config, Arc::new(SystemClock), Metrics::new()).err().unwrap()
    };
    let empty = tempfile::NamedTempFile::new().unwrap();
    for path in [empty.path(), std::path::Path::new("/nowhere.pem")] {
        let wrong = shared(path);
        assert!(wrong.contains("delivery.ca_file") && wrong.contains(path.to_str().unwrap()), "{wrong}");
    }
}

#[test]
fn a_pooled_encrypted_connection_that_was_closed_is_replaced_unseen() {
    run(async {
        let (file, acceptor) = identity(&["http/1.1"]);
        let (closed, mut closes) = tokio::sync::mpsc::channel(10);
        let (address, connections) = listen(move |_, stream| {
            let (acceptor, closed) = (acceptor.clone(), closed.clone());
            async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                read_request(&mut stream).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                // A proper goodbye: bytes come, but none of an answer.
                stream.shutdown().await.unwrap();
                closed.send(()).await.unwrap();
            }
        })
        .await;
        let (sender, endpoint) = (sender(&trusting(&file)), Arc::new(endpoint(&format!("https://{address}/"))));
        for _ in 0..3 {
            assert_eq!(sender.attempt(&delivery("{}"), &endpoint).await.outcome, Outcome::Delivered);
            closes.recv().await.unwrap();
        }
        assert_eq!(*connections.borrow(), 3);
        assert_ne!(sender.attempt(&delivery("{}"), &endpoint).await.outcome, Outcome::Failed(Failure::Reset));
    });
}
