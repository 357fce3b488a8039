//! TLS: one client configuration for all endpoints, so that sessions are resumed. The crypto provider is named here and not installed for
//! the process: a library that brings another one changes nothing.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};

/// Trusts the system's certificates and those of `ca_file` (PEM). Errors name the file and what is wrong with it.
pub fn config(ca_file: Option<&Path>, http2: bool) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    let (trusted, _) = roots.add_parsable_certificates(system.certs);
    if trusted == 0 && ca_file.is_none() {
        tracing::warn!(errors = ?system.errors, "no trusted certificates on this system: https endpoints will fail; install ca-certificates or set delivery.ca_file");
    }
    if let Some(path) = ca_file {
        let wrong = |problem: String| format!("delivery.ca_file {}: {problem}", path.display());
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| wrong(format!("cannot be read as PEM: {error}")))?;
        if certificates.is_empty() {
            return Err(wrong("holds no certificate".to_owned()));
        }
        for certificate in certificates {
            roots.add(certificate).map_err(|error| wrong(format!("holds a certificate that cannot be trusted: {error}")))?;
        }
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = if http2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] };
    Ok(Arc::new(config))
}
