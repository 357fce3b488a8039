//! The options of `endpoint add` by which posthaste shows a receiver who it is.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde_json::{Map, Value, json};

#[derive(Debug, Args)]
#[group(multiple = false)]
#[command(next_help_heading = "Authentication (at most one)")]
pub struct Auth {
    /// Send `Authorization: Bearer TOKEN`.
    #[arg(long, value_name = "TOKEN")]
    bearer: Option<String>,
    /// Send `X-API-Key: KEY`.
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Send `Authorization: Basic …`.
    #[arg(long, value_name = "USER:PASSWORD", value_parser = user)]
    basic: Option<(String, String)>,
    /// Send a secret header, given as `Name: value`.
    #[arg(long, value_name = "HEADER", value_parser = header)]
    auth_header: Option<(String, String)>,
    /// Send a token that comes from this URL.
    #[arg(long, value_name = "URL", requires = "client")]
    oauth2: Option<String>,
}

/// What goes with some of them.
#[derive(Debug, Args)]
#[command(next_help_heading = "Authentication, more")]
pub struct More {
    /// With --api-key: the header that carries the key.
    #[arg(long, value_name = "NAME", requires = "api_key")]
    api_key_header: Option<String>,
    /// With --oauth2: who asks for tokens.
    #[arg(long, value_name = "ID:SECRET", value_parser = user, requires = "oauth2")]
    client: Option<(String, String)>,
    /// With --oauth2: asked with first.
    #[arg(long, value_name = "TOKEN", requires = "oauth2")]
    refresh_token: Option<String>,
    /// With --oauth2: a header of the token request, as `Name: value`; several times for several.
    #[arg(long = "token-header", value_name = "HEADER", value_parser = header, requires = "oauth2")]
    token_headers: Vec<(String, String)>,
    /// With --oauth2: a query parameter of the token request; several times for several.
    #[arg(long = "token-param", value_name = "NAME=VALUE", value_parser = parameter, requires = "oauth2")]
    token_params: Vec<(String, String)>,
    /// With --oauth2: seconds that a token lives whose answer does not say so.
    #[arg(long, value_name = "SECONDS", requires = "oauth2")]
    expires_in: Option<u64>,
}

/// Files in PEM.
#[derive(Debug, Args)]
#[command(next_help_heading = "TLS")]
pub struct Tls {
    /// The certificate to show to the receiver, and those between it and the authority that the receiver trusts.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// The key of the certificate.
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Authorities to trust for this endpoint alone.
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
}

pub fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write it as `Name: value`")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn user(text: &str) -> Result<(String, String), String> {
    let (user, password) = text.split_once(':').ok_or("write it as user:password")?;
    Ok((user.to_owned(), password.to_owned()))
}

fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as name=value")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Auth {
    pub fn document(&self, more: &More) -> Option<Value> {
        if let Some(url) = &self.oauth2 {
            return Some(more.oauth2(url));
        }
        if let Some(token) = &self.bearer {
            return Some(json!({ "type": "bearer", "token": token }));
        }
        if let Some(key) = &self.api_key {
            let mut document = json!({ "type": "api_key", "key": key });
            if let Some(header) = &more.api_key_header {
                document["header"] = json!(header);
            }
            return Some(document);
        }
        if let Some((username, password)) = &self.basic {
            return Some(json!({ "type": "basic", "username": username, "password": password }));
        }
        let (name, value) = self.auth_header.as_ref()?;
        Some(json!({ "type": "custom_header", "name": name, "value": value }))
    }
}

impl More {
    fn oauth2(&self, url: &str) -> Value {
        let all = |pairs: &[(String, String)]| pairs.iter().map(|(name, value)| (name.clone(), json!(value))).collect::<Map<_, _>>();
        let mut document = json!({ "type": "oauth2", "url": url });
        if let Some((id, secret)) = &self.client {
            (document["clientId"], document["clientSecret"]) = (json!(id), json!(secret));
        }
        if let Some(token) = &self.refresh_token {
            document["refreshToken"] = json!(token);
        }
        for (field, pairs) in [("headers", &self.token_headers), ("queryParams", &self.token_params)] {
            if !pairs.is_empty() {
                document[field] = all(pairs).into();
            }
        }
        if let Some(seconds) = self.expires_in {
            document["expiresIn"] = json!(seconds);
        }
        document
    }
}

impl Tls {
    pub fn document(&self) -> anyhow::Result<Option<Value>> {
        let mut document = Map::new();
        for (field, path) in [("certificate", &self.tls_certificate), ("key", &self.tls_key), ("ca", &self.tls_ca)] {
            if let Some(path) = path {
                let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
                document.insert(field.to_owned(), json!(text));
            }
        }
        Ok((!document.is_empty()).then(|| document.into()))
    }
}
