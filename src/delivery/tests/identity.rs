//! Endpoints with a TLS identity: certificates of ours, and authorities of theirs.

use std::{convert::Infallible, io::Write, sync::Arc};

use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::model::{ClientTls, Failure, OAuth2, Outcome, Secret};

struct Authority {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

struct Made {
    pem: String,
    der: CertificateDer<'static>,
    key: KeyPair,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Authority { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    fn make(&self, name: &str) -> Made {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        Made { pem: certificate.pem(), der: certificate.der().clone(), key }
    }
}

impl Made {
    fn tls(&self, ca: Option<&Authority>) -> ClientTls {
        ClientTls { certificate: Some(self.pem.clone()), key: Some(Secret::new(self.key.serialize_pem())), ca: ca.map(|ca| ca.pem.clone()) }
    }

    /// As the server sees it.
    fn name(&self) -> String {
        fingerprint(&self.der)
    }
}

fn fingerprint(certificate: &CertificateDer) -> String {
    Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An https server at 127.0.0.1 with a certificate of `ours` that answers with the fingerprint of the client's certificate; `clients`: the authority
/// that the client's must be of, and whether there must be one.
async fn server(ours: &Authority, clients: Option<(&Authority, bool)>, protocol: &str) -> (SocketAddr, Rc<RefCell<usize>>) {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let made = ours.make("127.0.0.1");
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some((authority, required)) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der.clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(if required { verifier } else { verifier.allow_unauthenticated() }.build().unwrap())
        }
    };
    let key = PrivateKeyDer::Pkcs8(made.key.serialize_der().into());
    let mut config = builder.with_single_cert(vec![made.der.clone()], key).unwrap();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    listen(move |_, stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let client = stream.get_ref().1.peer_certificates().map_or_else(|| "nobody".to_owned(), |chain| fingerprint(&chain[0]));
            let service = service_fn(move |request: Request<Incoming>| {
                let tokens = request.uri().path() == "/token";
                let body = if tokens { format!(r#"{{"access_token":"{client}"}}"#) } else { client.clone() };
                async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body)))) }
            });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await
}

/// A handshake in a debug build on a busy machine takes its time.
fn patient() -> Config {
    let patient = Duration::from_secs(10);
    Config { connect_timeout: patient, response_timeout: patient, ..config() }
}

fn at(address: SocketAddr, id: &str, tls: Option<ClientTls>) -> Arc<Endpoint> {
    Arc::new(Endpoint { tls: tls.map(Arc::new), id: id.into(), ..endpoint(&format!("https://{address}/")) })
}

#[test]
fn a_receiver_that_asks_for_a_certificate_takes_the_right_one_only() {
    run(async {
        let (servers, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
        let (ours, other) = (clients.make("ours"), strangers.make("ours"));
        let only_ca = ClientTls { ca: Some(servers.pem.clone()), ..ClientTls::default() };
        for protocol in ["http/1.1", "h2"] {
            let (address, _) = server(&servers, Some((&clients, true)), protocol).await;
            for (name, tls, accepted) in [
                ("ours", ours.tls(Some(&servers)), true),
                ("a stranger's", other.tls(Some(&servers)), false),
                ("none", only_ca.clone(), false),
            ] {
                let attempt = sender(&patient()).attempt(&delivery("{}"), &at(address, "e", Some(tls))).await;
                if accepted {
                    assert_eq!((attempt.outcome, &*attempt.answer), (Outcome::Delivered, ours.name().as_bytes()), "{protocol} {name}");
                } else {
                    // The refusal comes as an alert, which HTTP/2 only tells as text, or as the end of a connection that has it in its buffer.
                    let refused = matches!(attempt.outcome, Outcome::Failed(Failure::Tls(_) | Failure::Protocol(_) | Failure::Reset));
                    assert!(refused, "{protocol} {name}: {attempt:?}");
                }
            }
        }
    });
}

#[test]
fn an_authority_is_trusted_where_it_was_given() {
    run(async {
        let (ours, other) = (Authority::new(), Authority::new());
        let (address, _) = server(&ours, None, "http/1.1").await;
        let ca = |authority: &Authority| Some(ClientTls { ca: Some(authority.pem.clone()), ..ClientTls::default() });
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(ours.pem.as_bytes()).unwrap();
        let everywhere = Config { ca_file: Some(file.path().to_owned()), ..patient() };
        // Both authorities in one text.
        let bundle = Some(ClientTls { ca: Some(format!("{}{}", other.pem, ours.pem)), ..ClientTls::default() });
        for (name, config, tls, trusted) in [
            ("nowhere", patient(), None, false),
            ("at the endpoint", patient(), ca(&ours), true),
            ("another at the endpoint", patient(), ca(&other), false),
            ("a bundle at the endpoint", patient(), bundle, true),
            ("for all", everywhere.clone(), None, true),
            ("for all, another at the endpoint", everywhere, ca(&other), true),
        ] {
            let attempt = sender(&config).attempt(&delivery("{}"), &at(address, "e", tls)).await;
            assert_eq!(attempt.outcome.class(), if trusted { "delivered" } else { "tls" }, "{name}: {attempt:?}");
        }
    });
}

#[test]
fn connections_of_one_identity_are_never_anothers() {
    run(async {
        let (servers, clients) = (Authority::new(), Authority::new());
        let (a, b) = (clients.make("a"), clients.make("b"));
        for protocol in ["http/1.1", "h2"] {
            let (address, connections) = server(&servers, Some((&clients, false)), protocol).await;
            let only_ca = ClientTls { ca: Some(servers.pem.clone()), ..ClientTls::default() };
            let endpoints = [
                (at(address, "a", Some(a.tls(Some(&servers)))), a.name()),
                (at(address, "b", Some(b.tls(Some(&servers)))), b.name()),
                (at(address, "nobody", Some(only_ca)), "nobody".to_owned()),
                // The same identity as the first one.
                (at(address, "c", Some(a.tls(Some(&servers)))), a.name()),
            ];
            let sender = sender(&patient());
            for turn in 0..2 {
                for (endpoint, seen_as) in &endpoints {
                    let attempt = sender.attempt(&delivery("{}"), endpoint).await;
                    assert_eq!((&attempt.outcome, &*attempt.answer), (&Outcome::Delivered, seen_as.as_bytes()), "{protocol} {turn}");
                }
            }
            assert_eq!(*connections.borrow(), 3, "{protocol}");
        }
    });
}

#[test]
fn the_identity_holds_for_the_token_endpoint_too() {
    run(async {
        let (servers, clients) = (Authority::new(), Authority::new());
        let ours = clients.make("ours");
        let (address, connections) = server(&servers, Some((&clients, true)), "h2").await;
        let client = OAuth2 {
            url: EndpointUrl::parse(&format!("https://{address}/token")).unwrap(),
            headers: Vec::new(),
            query: Vec::new(),
            client_id: "cid".into(),
            client_secret: Secret::new("secret"),
            refresh_token: None,
            expires_in: None,
        };
        let endpoint = Endpoint { auth: Auth::OAuth2(Arc::new(client)), ..(*at(address, "e", Some(ours.tls(Some(&servers))))).clone() };
        let attempt = sender(&patient()).attempt(&delivery("{}"), &Arc::new(endpoint)).await;
        assert_eq!((attempt.outcome, &*attempt.answer), (Outcome::Delivered, ours.name().as_bytes()));
        assert_eq!(*connections.borrow(), 2);
    });
}

#[test]
fn an_identity_that_cannot_be_used_is_named_and_not_the_endpoints_fault() {
    run(async {
        let tls = ClientTls { certificate: Some("x".into()), key: Some(Secret::new("hunter2")), ca: None };
        let attempt = sender(&config()).attempt(&delivery("{}"), &at("127.0.0.1:1".parse().unwrap(), "e", Some(tls))).await;
        assert!(matches!(&attempt.outcome, Outcome::Failed(Failure::Payload(text)) if text.contains("tls.certificate")), "{attempt:?}");
    });
}
