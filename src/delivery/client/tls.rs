//! TLS: one client configuration for all endpoints that want nothing of their own, so that sessions are resumed, and one for each identity of
//! the others. The crypto provider is named here and not installed for the process: a library that brings another one changes nothing.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
    sign::SingleCertAndKey,
};

use crate::model::ClientTls;

/// Sessions that an endpoint of its own identity can resume: it has one host, and perhaps a token endpoint.
const SESSIONS: usize = 4;

/// What all identities have in common.
pub struct Tls {
    roots: Arc<RootCertStore>,
    http2: bool,
    /// Of everybody without an identity.
    plain: Arc<ClientConfig>,
}

impl Tls {
    /// Trusts the system's certificates and those of `ca_file` (PEM). Errors name the file and what is wrong with it.
    pub fn new(ca_file: Option<&Path>, http2: bool) -> Result<Tls, String> {
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        let (trusted, _) = roots.add_parsable_certificates(system.certs);
        if trusted == 0 && ca_file.is_none() {
            tracing::warn!(errors = ?system.errors, "no trusted certificates on this system: https endpoints will fail; install ca-certificates or set delivery.ca_file");
        }
        if let Some(path) = ca_file {
            let authorities = authorities(path).map_err(|problem| format!("`delivery.ca_file` {problem}"))?;
            roots.roots.extend(authorities.roots);
        }
        let roots = Arc::new(roots);
        let plain = Arc::new(config(Arc::clone(&roots), None, http2)?);
        Ok(Tls { roots, http2, plain })
    }

    pub fn plain(&self) -> &Arc<ClientConfig> {
        &self.plain
    }

    /// The configuration of an identity. Errors name the field of the endpoint that is wrong, which was checked when it was registered.
    pub fn of(&self, identity: &ClientTls) -> Result<Arc<ClientConfig>, String> {
        let wrong = |(field, problem): (&'static str, String)| format!("`tls.{field}` {problem}");
        let certified = identity.certified().map_err(wrong)?;
        let roots = match identity.ca {
            // The endpoint that brings no authority shares ours.
            None => Arc::clone(&self.roots),
            Some(_) => {
                let mut roots = RootCertStore::clone(&self.roots);
                identity.trust(&mut roots).map_err(wrong)?;
                Arc::new(roots)
            }
        };
        let mut config = config(roots, certified.map(SingleCertAndKey::from), self.http2)?;
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(Arc::new(config))
    }
}

/// The certificates of a PEM file; there is at least one. Errors name the file and what is wrong with it.
pub fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let wrong = |problem: String| format!("{}: {problem}", path.display());
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(format!("cannot be read as PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(wrong("holds no certificate".to_owned()));
    }
    let mut authorities = RootCertStore::empty();
    for certificate in certificates {
        authorities.add(certificate).map_err(|error| wrong(format!("holds a certificate that cannot be trusted: {error}")))?;
    }
    Ok(authorities)
}

fn config(roots: Arc<RootCertStore>, ours: Option<SingleCertAndKey>, http2: bool) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_root_certificates(roots);
    let mut config = match ours {
        None => builder.with_no_client_auth(),
        Some(ours) => builder.with_client_cert_resolver(Arc::new(ours)),
    };
    config.alpn_protocols = if http2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] };
    Ok(config)
}
