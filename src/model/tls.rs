//! What an endpoint wants of TLS: a certificate by which it knows us, and an authority of its own.

use rustls::{
    RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use sha2::{Digest, Sha256};

use super::Secret;

/// PEM texts, as they were handed in. They hold for the endpoint and, if it has one, for its token endpoint.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ClientTls {
    /// Ours, the leaf first; never without the key.
    pub certificate: Option<String>,
    pub key: Option<Secret>,
    /// To be trusted beside those of the system and of `delivery.ca_file`.
    pub ca: Option<String>,
}

impl ClientTls {
    /// The certificate with its key, if there is one; errors name the part that is wrong.
    pub fn certified(&self) -> Result<Option<CertifiedKey>, (&'static str, String)> {
        let (text, key) = match (&self.certificate, &self.key) {
            (None, None) => return Ok(None),
            (Some(text), Some(key)) => (text, key),
            (Some(_), None) => return Err(("key", "is required beside `certificate`".to_owned())),
            (None, Some(_)) => return Err(("certificate", "is required beside `key`".to_owned())),
        };
        let chain = certificates(text).map_err(|wrong| ("certificate", wrong))?;
        // What the parser says could quote the key.
        let key = PrivateKeyDer::from_pem_slice(key.expose())
            .map_err(|_| ("key", "is no private key in PEM: PKCS#8, PKCS#1 or SEC1, not encrypted".to_owned()))?;
        CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map(Some).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => ("key", "does not belong to the first certificate of `certificate`".to_owned()),
            rustls::Error::InvalidCertificate(_) => ("certificate", "holds something that is no certificate".to_owned()),
            _ => ("key", "is of a kind that cannot be used: RSA, ECDSA (P-256, P-384, P-521) or Ed25519".to_owned()),
        })
    }

    /// Adds the endpoint's own authorities.
    pub fn trust(&self, roots: &mut RootCertStore) -> Result<(), (&'static str, String)> {
        let Some(text) = &self.ca else { return Ok(()) };
        for certificate in certificates(text).map_err(|wrong| ("ca", wrong))? {
            roots.add(certificate).map_err(|error| ("ca", format!("holds a certificate that cannot be trusted: {error}")))?;
        }
        Ok(())
    }

    /// Tells identities apart, without showing the key: connections are shared by endpoints with the same one only.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        let parts =
            [self.certificate.as_deref().map(str::as_bytes), self.key.as_ref().map(Secret::expose), self.ca.as_deref().map(str::as_bytes)];
        for part in parts {
            // With its length, so that no two different ones are the same bytes.
            hash.update(part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
            hash.update(part.unwrap_or_default());
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if found.is_empty() => Err("holds no certificate in PEM (`-----BEGIN CERTIFICATE-----`)".to_owned()),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("cannot be read as PEM: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["client".to_owned()]).expect("made");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn tls(certificate: Option<&str>, key: Option<&str>, ca: Option<&str>) -> ClientTls {
        ClientTls { certificate: certificate.map(str::to_owned), key: key.map(Secret::new), ca: ca.map(str::to_owned) }
    }

    #[test]
    fn a_certificate_goes_with_its_own_key() {
        let ((certificate, key), (other, other_key)) = (made(), made());
        let (certificate, key, other, other_key) = (Some(&*certificate), Some(&*key), Some(&*other), Some(&*other_key));
        for (tls, wrong) in [
            (tls(None, None, None), None),
            (tls(certificate, key, None), None),
            (tls(certificate, None, None), Some("key")),
            (tls(None, key, None), Some("certificate")),
            (tls(certificate, other_key, None), Some("key")),
            (tls(other, key, None), Some("key")),
            (tls(Some("x"), key, None), Some("certificate")),
            (tls(certificate, Some("x"), None), Some("key")),
            (tls(key, key, None), Some("certificate")),
            (tls(Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), key, None), Some("certificate")),
        ] {
            assert_eq!(tls.certified().err().map(|(field, _)| field), wrong, "{tls:?}");
        }
    }

    #[test]
    fn an_authority_must_be_a_certificate() {
        let (certificate, key) = made();
        for (ca, good) in [(&*certificate, true), (&*key, false), ("", false)] {
            assert_eq!(tls(None, None, Some(ca)).trust(&mut RootCertStore::empty()).is_ok(), good, "{ca}");
        }
    }

    #[test]
    fn identities_are_told_apart_and_keys_are_not_shown() {
        let all = [
            tls(None, None, None),
            tls(Some("a"), None, None),
            tls(None, None, Some("a")),
            tls(Some("a"), Some("b"), None),
            tls(Some("ab"), Some(""), None),
        ];
        for (index, one) in all.iter().enumerate() {
            for (other_index, other) in all.iter().enumerate() {
                assert_eq!(one.fingerprint() == other.fingerprint(), index == other_index, "{one:?} {other:?}");
            }
        }
        assert!(!format!("{:?}", tls(None, Some("hunter2"), None)).contains("hunter2"));
    }
}
