//! The signature of requests that are made with a signature token (WIRE.md 1.2): `X-API-Signature`, an HMAC-SHA256 over method, body,
//! content type, date, host and path, in base64.
//!
//! - The body stands in it as its MD5, and so does a `multipart/form-data` body: no route takes one, so the rule that only the file in it is
//!   hashed has nothing to apply to.
//! - `Host` is taken as it was sent, with its port or without: what clients call the host name differs in that.
//! - A date may lie `OLDEST` in the past, and `AHEAD` in the future: the rule is that a future one is refused, but dates have whole seconds
//!   and clocks differ a little, so without that grace good requests would be refused now and then.
//!
//! Within that time a request that was overheard can be repeated; who is afraid of that uses TLS.
//!
//! The command line signs by [`Lines::sign`], so both ends have one idea of what is signed.

use std::time::{Duration, SystemTime};

use axum::{
    extract::Request,
    http::{HeaderMap, header},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use sha2::{Digest, Sha256};

use crate::{
    model::{FieldError, Secret, Timestamp},
    registry::seal::hex,
};

pub const HEADER: &str = "x-api-signature";

const OLDEST: Duration = Duration::from_secs(180);

const AHEAD: Duration = Duration::from_secs(5);

/// What a signature covers beside the body.
pub struct Lines<'r> {
    pub method: &'r str,
    pub content_type: &'r str,
    pub date: &'r str,
    pub host: &'r str,
    /// With the query.
    pub path: &'r str,
}

impl Lines<'_> {
    /// The signature, as its header carries it.
    pub fn sign(&self, secret: &Secret, body: &[u8]) -> String {
        STANDARD.encode(self.mac(secret, body).finalize().into_bytes())
    }

    fn mac(&self, secret: &Secret, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::new_from_slice(secret.expose()).expect("HMAC takes a key of any length");
        mac.update(self.text(body).as_bytes());
        mac
    }

    fn text(&self, body: &[u8]) -> String {
        let (hash, content_type) = match body {
            [] => (String::new(), ""),
            body => (hex(&Md5::digest(body)), self.content_type),
        };
        [self.method, &hash, content_type, self.date, self.host, self.path].join("\n")
    }
}

/// What a request says of itself, all but its body.
pub struct Claim {
    signature: Vec<u8>,
    method: String,
    content_type: String,
    date: String,
    hosts: Vec<String>,
    path: String,
}

impl Claim {
    /// What the request claims, if it has all that a signature needs and its date is fresh: known before the body is read.
    pub fn of(request: &Request, now: Timestamp) -> Result<Claim, FieldError> {
        let headers = request.headers();
        let required = |name: &str, what: &str| match text(headers, name) {
            Some(text) => Ok(text.to_owned()),
            None => Err(FieldError::new(what, "is required: the token is one with signature")),
        };
        let signature = required(HEADER, "X-API-Signature")?;
        let date = required("date", "Date")?;
        fresh(&date, now)?;
        let signature = STANDARD.decode(signature.trim()).map_err(|_| FieldError::new("X-API-Signature", "is no base64"))?;
        let host = text(headers, "host").or(request.uri().host()).unwrap_or_default();
        let mut hosts = vec![host.to_owned()];
        if let Some((name, port)) = host.rsplit_once(':')
            && port.bytes().all(|byte| byte.is_ascii_digit())
        {
            hosts.push(name.to_owned());
        }
        Ok(Claim {
            signature,
            method: request.method().as_str().to_owned(),
            content_type: text(headers, header::CONTENT_TYPE.as_str()).unwrap_or_default().to_owned(),
            date,
            hosts,
            path: request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }

    /// Whether it was signed with this secret, over this body. Compares in constant time.
    pub fn is_signed_by(&self, secret: &Secret, body: &[u8]) -> bool {
        self.hosts.iter().any(|host| self.lines(host).mac(secret, body).verify_slice(&self.signature).is_ok())
    }

    fn lines<'c>(&'c self, host: &'c str) -> Lines<'c> {
        Lines { method: &self.method, content_type: &self.content_type, date: &self.date, host, path: &self.path }
    }
}

/// The error of a signature that is another's, or over something else.
pub fn wrong() -> FieldError {
    FieldError::new(
        "X-API-Signature",
        "does not fit: base64 of the HMAC-SHA256, by the secret of the token, of method, MD5 of the body, content type, date, host and path \
         with query, joined by line feeds",
    )
}

fn fresh(date: &str, now: Timestamp) -> Result<(), FieldError> {
    let wrong = |message: String| Err(FieldError::new("Date", message));
    let Ok(date) = httpdate::parse_http_date(date) else {
        return wrong(format!("is `{date}`: write it as in RFC 2616, such as `Sun, 12 Feb 2023 07:40:32 GMT`"));
    };
    match SystemTime::from(now).duration_since(date) {
        Ok(age) if age > OLDEST => wrong(format!("is older than {} s: sign each request anew", OLDEST.as_secs())),
        Ok(_) => Ok(()),
        Err(ahead) if ahead.duration() <= AHEAD => Ok(()),
        Err(_) => wrong("lies in the future: set the clock".into()),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    const DATE: &str = "Sun, 12 Feb 2023 07:40:32 GMT";
    const MESSAGE: &[u8] = br#"{"from":"sender","to":"recipient","contents":[{"type":"text","text":"Hi Zenvia!"}]}"#;

    fn now(offset: i64) -> Timestamp {
        Timestamp::from_second(1_676_187_632 + offset).expect("in range")
    }

    fn request(method: &str, path: &str, host: &str, signature: &str) -> Request {
        let request = Request::builder().method(method).uri(path).header("host", host).header("date", DATE);
        let request = request.header("content-type", "application/json").header("x-api-signature", signature);
        request.body(Body::empty()).expect("a request")
    }

    #[test]
    fn the_vectors_of_the_rule_are_met() {
        for (method, path, body, signature) in [
            ("POST", "/v2/channels/whatsapp/messages", MESSAGE, "5Huh6fdmFr466Ia5YmOIBAPPNldB/Vo2Xb+6wvAmf6c="),
            ("GET", "/v2/files?limit=5", b"".as_slice(), "9uc5T9tMKt0G8FIi6wsQ8ts4NDi5klFinCTdPjhH7Qk="),
        ] {
            for host in ["api.zenvia.com", "api.zenvia.com:8443"] {
                let claim = Claim::of(&request(method, path, host, signature), now(60)).expect("complete");
                assert!(claim.is_signed_by(&Secret::new("ABCDEF"), body), "{method} {path} {host}");
                assert_eq!(claim.lines("api.zenvia.com").sign(&Secret::new("ABCDEF"), body), signature);
                assert!(!claim.is_signed_by(&Secret::new("ABCDEG"), body), "another secret");
                assert!(!claim.is_signed_by(&Secret::new("ABCDEF"), b"{}"), "another body");
            }
            for other in [
                request("PUT", path, "api.zenvia.com", signature),
                request(method, "/v2/files?limit=6", "api.zenvia.com", signature),
                request(method, path, "api.example.com", signature),
            ] {
                let claim = Claim::of(&other, now(60)).expect("complete");
                assert!(!claim.is_signed_by(&Secret::new("ABCDEF"), body), "{other:?}");
            }
        }
        assert_eq!(hex(&Md5::digest(MESSAGE)), "c7cbb889324f08de0d6a642a858b22e3");
    }

    #[test]
    fn the_lines_of_a_request_without_a_body_are_empty() {
        let claim = Claim::of(&request("GET", "/v2/files?limit=5", "api.zenvia.com", ""), now(0)).expect("complete");
        let expected = "GET\n\n\nSun, 12 Feb 2023 07:40:32 GMT\napi.zenvia.com\n/v2/files?limit=5";
        assert_eq!(claim.lines("api.zenvia.com").text(b""), expected);
    }

    #[test]
    fn a_date_is_fresh_for_three_minutes_and_hardly_before_its_time() {
        for (offset, is_fresh) in [(0, true), (180, true), (181, false), (86_400, false), (-5, true), (-6, false), (-86_400, false)] {
            assert_eq!(fresh(DATE, now(offset)).is_ok(), is_fresh, "{offset} s after it");
        }
        for date in ["", "yesterday", "2023-02-12T07:40:32Z"] {
            assert!(fresh(date, now(0)).is_err(), "{date}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        for (missing, path) in [("date", "Date"), ("x-api-signature", "X-API-Signature")] {
            let mut request = request("GET", "/", "h", "AAAA");
            request.headers_mut().remove(missing);
            assert_eq!(Claim::of(&request, now(0)).err().map(|error| error.path).as_deref(), Some(path));
        }
        assert!(Claim::of(&request("GET", "/", "h", "no base64!"), now(0)).is_err());
    }
}
