//! The answer of a token endpoint (RFC 6749, 5.1 and 5.2). It is a stranger's: read leniently where real servers differ, and never quoted.

use std::time::Duration;

use http::HeaderValue;
use serde::Deserialize;
use serde_json::Value;

use crate::model::Secret;

/// Longer ones do not fit into what receivers take for a head.
const MAX_TOKEN: usize = 16 * 1024;

/// The longest code of an error that is told.
const MAX_CODE: usize = 64;

pub struct Granted {
    /// `authorization` of the deliveries.
    pub header: HeaderValue,
    /// How long it lives, if that is said.
    pub lifetime: Option<Duration>,
    pub refresh_token: Option<Secret>,
}

#[derive(Deserialize)]
struct Answer {
    access_token: Option<String>,
    token_type: Option<String>,
    /// A number by the standard; some send it as text.
    expires_in: Option<Value>,
    refresh_token: Option<String>,
}

impl Granted {
    /// Errors say what is wrong, and nothing of what it was.
    pub fn read(body: &[u8]) -> Result<Granted, String> {
        let answer: Answer = serde_json::from_slice(body).map_err(|_| "its answer is no JSON object with an access token".to_owned())?;
        let token = answer.access_token.filter(|token| !token.is_empty()).ok_or("its answer has no `access_token`")?;
        if token.len() > MAX_TOKEN {
            return Err(format!("its `access_token` is longer than {MAX_TOKEN} bytes"));
        }
        // RFC 6749, 7.1: a token of an unknown type must not be used. `BearerToken` is an old spelling of a large vendor.
        if answer.token_type.is_some_and(|kind| !kind.to_ascii_lowercase().starts_with("bearer")) {
            return Err("its `token_type` is not `Bearer`".to_owned());
        }
        let text = zeroize::Zeroizing::new(format!("Bearer {token}"));
        let mut header = HeaderValue::from_str(&text).map_err(|_| "its `access_token` has characters that no header may have")?;
        header.set_sensitive(true);
        let seconds = match answer.expires_in {
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::String(text)) => text.trim().parse().ok(),
            _ => None,
        };
        let lifetime = seconds
            .filter(|seconds| seconds.is_finite())
            .map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX));
        let refresh_token = answer.refresh_token.filter(|token| !token.is_empty() && token.len() <= MAX_TOKEN).map(Secret::new);
        Ok(Granted { header, lifetime, refresh_token })
    }
}

/// The code of an error answer, such as `invalid_client`; empty when there is none that is a word.
pub fn error_code(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Error {
        error: String,
    }
    let code = serde_json::from_slice::<Error>(body).map(|error| error.error).unwrap_or_default();
    let is_word = code.len() <= MAX_CODE && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if is_word { code } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_servers_send_them() {
        // The answer, and what it grants: the header, and the life in seconds.
        for (body, granted) in [
            (r#"{"access_token":"a","token_type":"Bearer","expires_in":60}"#, Some(("Bearer a", Some(60)))),
            (r#"{"access_token":"a","token_type":"bearer","expires_in":"60","scope":"x"}"#, Some(("Bearer a", Some(60)))),
            (r#"{"access_token":"a","token_type":"BearerToken"}"#, Some(("Bearer a", None))),
            (r#"{"access_token":"a","expires_in":0}"#, Some(("Bearer a", Some(0)))),
            (r#"{"access_token":"a","expires_in":-5}"#, Some(("Bearer a", Some(0)))),
            (r#"{"access_token":"a","expires_in":null}"#, Some(("Bearer a", None))),
            (r#"{"access_token":"a","expires_in":"soon"}"#, Some(("Bearer a", None))),
            (r#"{"access_token":"a","token_type":"mac"}"#, None),
            (r#"{"access_token":"a\r\nx: y"}"#, None),
            (r#"{"access_token":""}"#, None),
            (r#"{"access_token":7}"#, None),
            (r#"{"token":"a"}"#, None),
            ("[]", None),
            ("<html>", None),
            ("", None),
        ] {
            let read = Granted::read(body.as_bytes()).ok();
            let read = read.as_ref().map(|granted| (granted.header.to_str().expect("text"), granted.lifetime.map(|life| life.as_secs())));
            assert_eq!(read, granted, "{body}");
        }
        let long = format!(r#"{{"access_token":"{}"}}"#, "a".repeat(MAX_TOKEN + 1));
        assert!(Granted::read(long.as_bytes()).is_err());
    }

    #[test]
    fn of_an_error_only_a_word_is_told() {
        for (body, code) in [
            (r#"{"error":"invalid_client","error_description":"hunter2"}"#, "invalid_client"),
            (r#"{"error":"no such client: hunter2"}"#, ""),
            (r#"{"error":{"code":1}}"#, ""),
            ("oops", ""),
        ] {
            assert_eq!(error_code(body.as_bytes()), code, "{body}");
        }
    }
}
