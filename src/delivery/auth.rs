//! Auth: the headers by which an endpoint knows us (WIRE.md 4.4).

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderName, HeaderValue, header};

use crate::model::{Auth, HeaderUse, Secret, header::reserved};

/// The header of `auth`, marked as sensitive. Errors say what is wrong, never what the credential is.
pub fn header(auth: &Auth) -> Result<Option<(HeaderName, HeaderValue)>, String> {
    let (name, value) = match auth {
        // Its header comes with each token.
        Auth::None | Auth::OAuth2(_) => return Ok(None),
        Auth::Bearer { token } => (header::AUTHORIZATION, value(&[b"Bearer ", token.expose()])),
        Auth::ApiKey { header, key } => (header.clone(), value(&[key.expose()])),
        Auth::Basic { username, password } => (header::AUTHORIZATION, basic(username, password)),
        Auth::CustomHeader { name, value: secret } => (name.clone(), value(&[secret.expose()])),
    };
    if reserved(&name, HeaderUse::Credential).is_some() {
        return Err(format!("the header `{name}` cannot carry a credential: posthaste sets it itself"));
    }
    let value = value.ok_or("the credential has characters that no header may have")?;
    Ok(Some((name, value)))
}

fn value(parts: &[&[u8]]) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_bytes(&parts.concat()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// RFC 7617: user and password, joined by a colon, in base64.
fn basic(username: &str, password: &Secret) -> Option<HeaderValue> {
    let pair = zeroize::Zeroizing::new([username.as_bytes(), b":", password.expose()].concat());
    value(&[b"Basic ", STANDARD.encode(&*pair).as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::{super::signature, *};

    #[test]
    fn each_kind_is_the_header_that_the_product_names() {
        let secret = |text: &str| Secret::new(text);
        let key = HeaderName::from_static("x-api-key");
        for (auth, expected) in [
            (Auth::None, None),
            (Auth::Bearer { token: secret("t0k") }, Some(("authorization", "Bearer t0k"))),
            (Auth::ApiKey { header: key.clone(), key: secret("k") }, Some(("x-api-key", "k"))),
            (
                Auth::Basic { username: "Aladdin".into(), password: secret("open sesame") },
                Some(("authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")),
            ),
            (Auth::CustomHeader { name: HeaderName::from_static("x-mine"), value: secret("v") }, Some(("x-mine", "v"))),
        ] {
            let made = header(&auth).expect("a good credential");
            let made = made.as_ref().map(|(name, value)| (name.as_str(), value.to_str().expect("text")));
            assert_eq!(made, expected, "{auth:?}");
        }
    }

    #[test]
    fn a_credential_that_cannot_be_sent_is_told_without_being_shown() {
        for auth in [
            Auth::Bearer { token: Secret::new("hidden\r\nx: y") },
            Auth::CustomHeader { name: header::HOST, value: Secret::new("hidden") },
            Auth::ApiKey { header: signature::WEBHOOK_ID, key: Secret::new("hidden") },
        ] {
            let wrong = header(&auth).expect_err("no header");
            assert!(!wrong.contains("hidden"), "{wrong}");
        }
    }
}
