//! `auth` of an endpoint: how it is shown who we are.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    SecretText,
    build::{Check, secret_of},
    headers, text_of,
};
use crate::model::{Auth, EndpointUrl, HeaderUse, OAuth2, Secret};

const MAX_CREDENTIAL: usize = 4_096;
const MAX_QUERY: usize = 32;
const MAX_LIFETIME: u64 = 365 * 24 * 3600;

/// Every kind, with the fields that belong to it.
const KINDS: &[(&str, &[&str])] = &[
    ("none", &[]),
    ("bearer", &["token"]),
    ("api_key", &["header", "key"]),
    ("basic", &["username", "password"]),
    ("custom_header", &["name", "value"]),
    ("oauth2", &["url", "headers", "queryParams", "clientId", "clientSecret", "refreshToken", "expiresIn"]),
];

/// How the endpoint is shown who we are. Which of the other fields belong to it depends on `type`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuthSpec {
    /// `none`, `bearer` (`token`), `api_key` (`key`, `header`: `X-API-Key` when absent), `basic` (`username`, `password`), `custom_header` (`name`, `value`)
    /// or `oauth2` (`url`, `clientId`, `clientSecret`, and as needed `headers`, `queryParams`, `refreshToken`, `expiresIn`).
    #[serde(rename = "type")]
    #[schema(required = true)]
    pub kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<SecretText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<SecretText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<SecretText>,
    /// Where access tokens come from: https, or http to an address in `delivery.allow_networks`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Headers of the token request. With a `Content-Type` that is JSON its body is JSON, else it is a form.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, SecretText>,
    /// Appended to the query of `url`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub query_params: BTreeMap<String, SecretText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<SecretText>,
    /// Used first (`grant_type=refresh_token`); when it is refused, the client's own credentials are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<SecretText>,
    /// Seconds that a token lives whose answer does not say so; 3600 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31_536_000)]
    pub expires_in: Option<u64>,
}

impl AuthSpec {
    /// The secrets in clear; none where there is no auth.
    pub fn of(auth: &Auth) -> Option<AuthSpec> {
        let mut spec = AuthSpec { kind: auth.as_str().to_owned(), ..AuthSpec::default() };
        match auth {
            Auth::None => return None,
            Auth::Bearer { token } => spec.token = Some(text_of(token)),
            Auth::ApiKey { header, key } => (spec.header, spec.key) = (Some(header.to_string()), Some(text_of(key))),
            Auth::Basic { username, password } => (spec.username, spec.password) = (Some(username.clone()), Some(text_of(password))),
            Auth::CustomHeader { name, value } => (spec.name, spec.value) = (Some(name.to_string()), Some(text_of(value))),
            Auth::OAuth2(oauth) => {
                spec.url = Some(oauth.url.as_str().to_owned());
                spec.headers = oauth.headers.iter().map(|(name, value)| (name.to_string(), text_of(value))).collect();
                spec.query_params = oauth.query.iter().map(|(name, value)| (name.clone(), text_of(value))).collect();
                spec.client_id = Some(oauth.client_id.clone());
                spec.client_secret = Some(text_of(&oauth.client_secret));
                spec.refresh_token = oauth.refresh_token.as_ref().map(text_of);
                spec.expires_in = oauth.expires_in.map(|lifetime| lifetime.as_secs());
            }
        }
        Some(spec)
    }

    /// Every field, by its name, and whether it is given.
    fn given(&self) -> [(&'static str, bool); 14] {
        [
            ("token", self.token.is_some()),
            ("header", self.header.is_some()),
            ("key", self.key.is_some()),
            ("username", self.username.is_some()),
            ("password", self.password.is_some()),
            ("name", self.name.is_some()),
            ("value", self.value.is_some()),
            ("url", self.url.is_some()),
            ("headers", !self.headers.is_empty()),
            ("queryParams", !self.query_params.is_empty()),
            ("clientId", self.client_id.is_some()),
            ("clientSecret", self.client_secret.is_some()),
            ("refreshToken", self.refresh_token.is_some()),
            ("expiresIn", self.expires_in.is_some()),
        ]
    }
}

pub fn auth(check: &mut Check, spec: &AuthSpec) -> Option<Auth> {
    let Some((kind, belong)) = KINDS.iter().find(|(kind, _)| *kind == spec.kind) else {
        let kinds = KINDS.iter().map(|(kind, _)| format!("`{kind}`")).collect::<Vec<_>>().join(", ");
        let message =
            if spec.kind.is_empty() { format!("is required: one of {kinds}") } else { format!("`{}` is none of {kinds}", spec.kind) };
        check.wrong("auth.type", message);
        return None;
    };
    for (field, _) in spec.given().iter().filter(|(field, given)| *given && !belong.contains(field)) {
        check.wrong(format!("auth.{field}"), format!("does not belong to `{kind}`"));
    }
    match *kind {
        "bearer" => Some(Auth::Bearer { token: credential(check, "auth.token", spec.token.as_ref())? }),
        "api_key" => {
            let header = headers::name(check, "auth.header", spec.header.as_deref().unwrap_or("x-api-key"), HeaderUse::Credential);
            let key = credential(check, "auth.key", spec.key.as_ref());
            Some(Auth::ApiKey { header: header?, key: key? })
        }
        "basic" => {
            let username = spec.username.clone().unwrap_or_default();
            check.limit("auth.username", !username.is_empty(), || "is required".into());
            check.limit("auth.username", !username.contains(':'), || "has a `:` in it, which ends a user name (RFC 7617)".into());
            Some(Auth::Basic { username, password: credential(check, "auth.password", spec.password.as_ref())? })
        }
        "custom_header" => {
            let name = match spec.name.as_deref() {
                Some(name) => headers::name(check, "auth.name", name, HeaderUse::Credential),
                None => {
                    check.wrong("auth.name", "is required");
                    None
                }
            };
            let value = credential(check, "auth.value", spec.value.as_ref());
            Some(Auth::CustomHeader { name: name?, value: value? })
        }
        "oauth2" => oauth2(check, spec).map(|oauth| Auth::OAuth2(Arc::new(oauth))),
        _ => Some(Auth::None),
    }
}

fn oauth2(check: &mut Check, spec: &AuthSpec) -> Option<OAuth2> {
    let url = match spec.url.as_deref() {
        None | Some("") => {
            check.wrong("auth.url", "is required: it is where access tokens come from");
            None
        }
        Some(url) => check.take("auth.url", EndpointUrl::parse(url)),
    };
    let client_id = spec.client_id.clone().unwrap_or_default();
    check.limit("auth.clientId", !client_id.is_empty(), || "is required".into());
    check.limit("auth.clientId", client_id.len() <= MAX_CREDENTIAL, || format!("is longer than {MAX_CREDENTIAL} bytes"));
    let client_secret = secret(check, "auth.clientSecret", spec.client_secret.as_ref());
    let refresh_token = spec.refresh_token.as_ref().and_then(|token| secret(check, "auth.refreshToken", Some(token)));
    check.limit("auth.headers", spec.headers.len() <= headers::MAX_HEADERS, || format!("are more than {}", headers::MAX_HEADERS));
    let mut token_headers = Vec::with_capacity(spec.headers.len());
    for (name, value) in &spec.headers {
        let path = format!("auth.headers.{name}");
        check.limit(&path, value.0.len() <= headers::MAX_VALUE, || format!("is longer than {} bytes", headers::MAX_VALUE));
        check.limit(&path, HeaderValue::from_str(&value.0).is_ok(), || headers::NO_VALUE.into());
        token_headers.extend(headers::name(check, &path, name, HeaderUse::Token).map(|name| (name, secret_of(value))));
    }
    check.limit("auth.queryParams", spec.query_params.len() <= MAX_QUERY, || format!("are more than {MAX_QUERY}"));
    for (name, value) in &spec.query_params {
        let path = format!("auth.queryParams.{name}");
        check.limit(&path, !name.is_empty(), || "has no name".into());
        check.limit(&path, name.len() + value.0.len() <= MAX_CREDENTIAL, || format!("is longer than {MAX_CREDENTIAL} bytes"));
    }
    let query = spec.query_params.iter().map(|(name, value)| (name.clone(), secret_of(value))).collect();
    if let Some(seconds) = spec.expires_in {
        check.limit("auth.expiresIn", (1..=MAX_LIFETIME).contains(&seconds), || format!("is {seconds}: write 1 to {MAX_LIFETIME} seconds"));
    }
    let expires_in = spec.expires_in.map(Duration::from_secs);
    Some(OAuth2 { url: url?, headers: token_headers, query, client_id, client_secret: client_secret?, refresh_token, expires_in })
}

/// A secret that is sent as (a part of) a header.
fn credential(check: &mut Check, path: &str, text: Option<&SecretText>) -> Option<Secret> {
    let secret = secret(check, path, text)?;
    check.limit(path, HeaderValue::from_bytes(secret.expose()).is_ok_and(|value| value.to_str().is_ok()), || headers::NO_VALUE.into());
    Some(secret)
}

/// A secret that can be any text.
fn secret(check: &mut Check, path: &str, text: Option<&SecretText>) -> Option<Secret> {
    let Some(text) = text.filter(|text| !text.0.is_empty()) else {
        check.wrong(path, "is required");
        return None;
    };
    check.limit(path, text.0.len() <= MAX_CREDENTIAL, || format!("is longer than {MAX_CREDENTIAL} bytes"));
    Some(secret_of(text))
}
