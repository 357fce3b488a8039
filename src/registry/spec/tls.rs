//! `tls` of an endpoint: our certificate for it, and an authority of its own.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    SecretText,
    build::{Check, secret_of},
    text_of,
};
use crate::model::ClientTls;

/// Long chains and bundles of a company's authorities fit; a whole trust store belongs into `delivery.ca_file`.
const MAX_PEM: usize = 32 * 1024;

/// TLS of an endpoint, in PEM. It holds for its token endpoint too.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TlsSpec {
    /// What posthaste shows to the receiver: the certificate, and those between it and the authority that the receiver trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// The key of the certificate (PKCS#8, PKCS#1 or SEC1, not encrypted).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<SecretText>,
    /// Authorities to trust for this endpoint alone, beside those of the system and of `delivery.ca_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

impl TlsSpec {
    /// With its key in clear.
    pub fn of(tls: &ClientTls) -> TlsSpec {
        TlsSpec { certificate: tls.certificate.clone(), key: tls.key.as_ref().map(text_of), ca: tls.ca.clone() }
    }
}

pub fn tls(check: &mut Check, spec: &TlsSpec) -> Option<Arc<ClientTls>> {
    for (field, text) in [("certificate", &spec.certificate), ("key", &spec.key.as_ref().map(|key| key.0.clone())), ("ca", &spec.ca)] {
        let fits = text.as_ref().is_none_or(|text| text.len() <= MAX_PEM);
        check.limit(&format!("tls.{field}"), fits, || format!("is longer than {MAX_PEM} bytes"));
    }
    let tls = ClientTls { certificate: spec.certificate.clone(), key: spec.key.as_ref().map(secret_of), ca: spec.ca.clone() };
    if tls == ClientTls::default() {
        return None;
    }
    if check.is_strict() {
        // At a start with many endpoints, what was checked when it was registered is not parsed again.
        let problems = [tls.certified().err(), tls.trust(&mut rustls::RootCertStore::empty()).err()];
        for (field, message) in problems.into_iter().flatten() {
            check.wrong(format!("tls.{field}"), message);
        }
    }
    Some(Arc::new(tls))
}
