//! Sealing: secrets of endpoints are encrypted before they enter the log.
//!
//! XChaCha20-Poly1305 with a random 192-bit nonce, so that any number of instances may seal under one key without talking to each
//! other. The key of the record is authenticated along with it: a sealed secret that is copied under another endpoint does not open.
//! Each sealed text names the key it was sealed with, so that a wrong key is told apart from a damaged record.

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::private_file;
use crate::{log::LogError, model::Secret};

/// The name of the key file that a daemon without `registry.key` makes in its data directory.
pub const KEY_FILE: &str = "registry.key";

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;

/// The key that secrets are sealed with.
#[derive(Clone)]
pub struct Key {
    cipher: XChaCha20Poly1305,
    id: String,
}

/// Secrets as they lie in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Which key opens it: the first 8 bytes of the key's SHA-256, in hexadecimal.
    pub key: String,
    /// Base64 of nonce and ciphertext.
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error(
        "the secrets in the registry are sealed with the key `{found}`, but `registry.key` is the key `{ours}`: start with the key that this registry was made with"
    )]
    WrongKey { found: String, ours: String },
    #[error("a sealed secret is damaged")]
    Damaged,
}

impl Key {
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Key {
        let id = hex(&Sha256::digest(bytes)[..8]);
        Key { cipher: XChaCha20Poly1305::new(bytes.into()), id }
    }

    /// From `registry.key`: base64 of 32 bytes.
    pub fn parse(text: &str) -> Result<Key, String> {
        let wrong = || "is no base64 of 32 bytes: `openssl rand -base64 32` makes one".to_owned();
        let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| wrong())?);
        Ok(Key::from_bytes(bytes.as_slice().try_into().map_err(|_| wrong())?))
    }

    /// The configured key, or else the key file of the data directory, which is made (mode 0600) if it is not there and the registry is empty (`is_new`):
    /// a registry that was made with another key does not open with a new one, whose file would only be in the way. A daemon without
    /// a data directory needs the key in its configuration, because all instances share it.
    pub fn load(
        configured: Option<&Secret>,
        data_directory: Option<&Path>,
        is_new: impl FnOnce() -> Result<bool, LogError>,
    ) -> Result<Key, String> {
        if let Some(secret) = configured {
            let text = secret.expose_str().ok_or("`registry.key` is no text")?;
            return Key::parse(text).map_err(|wrong| format!("`registry.key` {wrong}"));
        }
        let Some(directory) = data_directory else {
            return Err("`registry.key` is missing: all instances seal secrets with the same key, so it cannot be made here \
                        (`openssl rand -base64 32` makes one; POSTHASTE_REGISTRY__KEY passes it by environment)"
                .into());
        };
        let path = directory.join(KEY_FILE);
        let (text, made) = private_file::read_or_make(&path, || {
            if !is_new().map_err(|error| error.to_string())? {
                return Err(format!(
                    "the registry was made with a key that is not here: put its file back as {}, or set POSTHASTE_REGISTRY__KEY",
                    path.display()
                ));
            }
            let mut bytes = Zeroizing::new([0; KEY_BYTES]);
            fill_random(bytes.as_mut_slice());
            Ok(Zeroizing::new(STANDARD.encode(bytes.as_slice())))
        })?;
        if made {
            tracing::info!(path = %path.display(), "made a key for sealed secrets");
        }
        // Not the advice of `parse`: with a new key the registry would not open.
        let wrong = || {
            format!(
                "the key file {} is no base64 of 32 bytes: put back the one that the registry was made with, or remove it if there was none yet",
                path.display()
            )
        };
        Key::parse(&text).map_err(|_| wrong())
    }

    /// Names the key without telling it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Seals `plain` so that it opens only as part of the record with the key `record`.
    pub fn seal(&self, record: &str, plain: &[u8]) -> Sealed {
        let mut nonce = [0; NONCE_BYTES];
        fill_random(&mut nonce);
        let sealed = self
            .cipher
            .encrypt(&XNonce::from(nonce), Payload { msg: plain, aad: record.as_bytes() })
            .expect("a few kilobytes are within the limits of the cipher");
        let mut text = nonce.to_vec();
        text.extend_from_slice(&sealed);
        Sealed { key: self.id.clone(), text: STANDARD.encode(text) }
    }

    pub fn open(&self, record: &str, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, SealError> {
        self.check_id(&sealed.key)?;
        let bytes = STANDARD.decode(&sealed.text).map_err(|_| SealError::Damaged)?;
        let (nonce, text) = bytes.split_first_chunk::<NONCE_BYTES>().ok_or(SealError::Damaged)?;
        self.cipher
            .decrypt(&XNonce::from(*nonce), Payload { msg: text, aad: record.as_bytes() })
            .map(Zeroizing::new)
            .map_err(|_| SealError::Damaged)
    }

    /// Whether this is the key that `found` names.
    pub fn check_id(&self, found: &str) -> Result<(), SealError> {
        if found == self.id { Ok(()) } else { Err(SealError::WrongKey { found: found.to_owned(), ours: self.id.clone() }) }
    }
}

/// Fills `bytes` from the operating system's generator.
pub fn fill_random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system gives random bytes once it has booted");
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn key(byte: u8) -> Key {
        Key::from_bytes(&[byte; KEY_BYTES])
    }

    fn new() -> Result<bool, LogError> {
        Ok(true)
    }

    #[test]
    fn what_is_sealed_opens_with_its_key_under_its_record_and_nowhere_else() {
        let sealed = key(1).seal("endpoint/a", b"secret");
        assert_eq!(key(1).open("endpoint/a", &sealed).expect("our own").as_slice(), b"secret");
        assert_eq!(key(1).open("endpoint/b", &sealed), Err(SealError::Damaged));
        assert!(matches!(key(2).open("endpoint/a", &sealed), Err(SealError::WrongKey { .. })));
        assert_ne!(key(1).seal("endpoint/a", b"secret"), sealed, "a nonce is used once");
        for text in ["", "AAAA", "not base64 !"] {
            assert_eq!(key(1).open("endpoint/a", &Sealed { text: text.into(), ..sealed.clone() }), Err(SealError::Damaged), "{text}");
        }
    }

    #[test]
    fn a_wrong_key_is_named_with_its_cure() {
        let error = key(2).open("endpoint/a", &key(1).seal("endpoint/a", b"")).expect_err("another key").to_string();
        assert!(error.contains("registry.key") && error.contains(key(1).id()) && error.contains(key(2).id()), "{error}");
    }

    #[test]
    fn the_key_file_is_made_once_and_only_its_owner_may_read_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let made = Key::load(None, Some(directory.path()), new).expect("made");
        let path = directory.path().join(KEY_FILE);
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(Key::load(None, Some(directory.path()), new).expect("read").id(), made.id());
        std::fs::write(&path, "short").expect("written");
        assert!(Key::load(None, Some(directory.path()), new).is_err_and(|error| error.contains("registry.key")));
    }

    #[test]
    fn no_key_is_made_for_a_registry_that_has_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let error = Key::load(None, Some(directory.path()), || Ok(false)).err().expect("refused");
        assert!(error.contains(KEY_FILE) && error.contains("POSTHASTE_REGISTRY__KEY"), "{error}");
        let unreadable = Key::load(None, Some(directory.path()), || Err(LogError::Unavailable("away".into())));
        assert!(unreadable.is_err_and(|error| error.contains("away")));
        assert_eq!(std::fs::read_dir(directory.path()).expect("there").count(), 0);
    }

    #[test]
    fn a_configured_key_must_be_32_bytes() {
        let good = STANDARD.encode([7; KEY_BYTES]);
        assert_eq!(Key::load(Some(&Secret::new(good)), None, new).expect("good").id(), key(7).id());
        for wrong in ["", "x", "AAAA"] {
            assert!(Key::load(Some(&Secret::new(wrong)), None, new).is_err_and(|error| error.contains("`registry.key`")), "{wrong}");
        }
        assert!(Key::load(None, None, new).is_err_and(|error| error.contains("missing")));
    }
}
