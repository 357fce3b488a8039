//! A small client of the management API.
//!
//! Where the daemon is and with which token it is spoken to: the arguments, else the environment, else the configuration of a daemon on
//! this machine (its listener, its token or the token file that it made), so that in the first five minutes nothing needs to be copied.
//! Requests of a token with signature are signed by its secret.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use clap::Args;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as Http, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

use crate::{
    api::{self, signature},
    config,
    model::Secret,
};

/// An answer of the API is smaller than this (bytes): lists come in pages.
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

/// The daemon answers within this time, or it is asked again.
const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Daemon")]
pub struct Daemon {
    /// Where its API listens; without it, as the configuration says (default http://127.0.0.1:8080).
    #[arg(long, value_name = "URL", env = "POSTHASTE_URL")]
    api: Option<String>,
    /// An API token; without it, the admin token of a daemon on this machine is used.
    #[arg(long, value_name = "TOKEN", env = "POSTHASTE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The secret of a token with signature: every request is signed with it.
    #[arg(long, value_name = "SECRET", env = "POSTHASTE_TOKEN_SECRET", hide_env_values = true)]
    token_secret: Option<String>,
    /// The daemon's configuration, from which address and token are taken where they are not given.
    #[arg(long, value_name = "FILE", env = "POSTHASTE_CONFIG")]
    config: Option<PathBuf>,
}

pub struct Client {
    http: Http<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: String,
    authorization: HeaderValue,
    /// Of a token with signature.
    secret: Option<Secret>,
}

/// What the API answered; `body` is a string where it was CSV, and null where it was neither JSON nor that.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
    /// How long the daemon asks to be left alone.
    pub retry_after: Option<Duration>,
}

impl Client {
    pub fn new(daemon: &Daemon) -> anyhow::Result<Client> {
        let (url, token) = whereabouts(daemon)?;
        let secret = daemon.token_secret.as_deref().map(Secret::new);
        Ok(Client { secret, ..Client::at(url, &token)? })
    }

    /// For a daemon at this URL.
    pub fn at(url: String, token: &Secret) -> anyhow::Result<Client> {
        let connector = HttpsConnectorBuilder::new().with_native_roots()?.https_or_http().enable_http1().build();
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", token.expose_str().unwrap_or_default()))
            .map_err(|_| anyhow::anyhow!("the token holds characters that no header can carry"))?;
        authorization.set_sensitive(true);
        Ok(Client { http: Http::builder(TokioExecutor::new()).build(connector), url, authorization, secret: None })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// One call. An error means that nothing is known of its effect; an answer of any status is no error.
    pub async fn call(&self, method: Method, path: &str, body: Option<(&'static str, Bytes)>) -> anyhow::Result<Answer> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header(header::AUTHORIZATION, self.authorization.clone())
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("posthaste/", env!("CARGO_PKG_VERSION")));
        let body = body.map(|(kind, body)| {
            request.headers_mut().map(|headers| headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind)));
            body
        });
        let body = body.unwrap_or_default();
        let mut request = request.body(Full::new(body.clone()))?;
        if let Some(secret) = &self.secret {
            sign(&mut request, secret, &body)?;
        }
        tokio::time::timeout(DEADLINE, self.exchange(request))
            .await
            .map_err(|_| anyhow::anyhow!("{} did not answer within {} s", self.url, DEADLINE.as_secs()))?
    }

    /// A call whose answer must be a success.
    pub async fn expect(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let body = body.map(|body| ("application/json", Bytes::from(body.to_string())));
        let answer = self.call(method, path, body).await?;
        match answer.status.is_success() {
            true => Ok(answer.body),
            false => Err(anyhow::anyhow!("{}", answer.problem())),
        }
    }

    /// All items of a list, or the first `limit` of them, over as many pages as that takes.
    pub async fn list(&self, path: &str, query: &[(&str, String)], limit: usize) -> anyhow::Result<Vec<Value>> {
        const PAGE: usize = 500;
        let mut items: Vec<Value> = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut pairs = url::form_urlencoded::Serializer::new(String::new());
            pairs.extend_pairs(query.iter().map(|(name, value)| (*name, value.as_str())));
            pairs.append_pair("limit", &PAGE.min(limit - items.len()).to_string());
            if let Some(cursor) = &cursor {
                pairs.append_pair("cursor", cursor);
            }
            let page = self.expect(Method::GET, &format!("{path}?{}", pairs.finish()), None).await?;
            let found = page["items"].as_array().cloned().unwrap_or_default();
            let more = page["next"].as_str().map(str::to_owned).filter(|next| !found.is_empty() && Some(next) != cursor.as_ref());
            items.extend(found);
            match more {
                Some(next) if items.len() < limit => cursor = Some(next),
                _ => return Ok(items),
            }
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        let unreachable =
            |error: &dyn std::fmt::Display| anyhow::anyhow!("{} cannot be reached: {error}; is `posthaste serve` running?", self.url);
        let answer = self.http.request(request).await.map_err(|error| match std::error::Error::source(&error) {
            Some(source) => unreachable(&source),
            None => unreachable(&error),
        })?;
        let status = answer.status();
        let retry_after =
            answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        let is_csv = answer.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/csv"));
        let body = Limited::new(answer.into_body(), LARGEST_ANSWER)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!("the answer of {} broke off: {error}", self.url))?
            .to_bytes();
        let body = match is_csv {
            true => Value::String(String::from_utf8_lossy(&body).into_owned()),
            false => serde_json::from_slice(&body).unwrap_or(Value::Null),
        };
        Ok(Answer { status, body, retry_after })
    }
}

impl Answer {
    /// What a problem document (RFC 9457) says: a line, and one for each field that is wrong.
    pub fn problem(&self) -> String {
        let text = |name: &str| self.body[name].as_str();
        let names_fields = self.body["errors"].as_array().is_some_and(|errors| !errors.is_empty());
        let mut line = match (text("title"), text("detail")) {
            // The detail says in one line what the fields say below.
            (Some(title), Some(_)) if names_fields => format!("{title}:"),
            (Some(title), Some(detail)) => format!("{title}: {detail}"),
            (Some(only), None) | (None, Some(only)) => only.to_owned(),
            (None, None) => format!("the daemon answered {}", self.status),
        };
        for field in self.body["errors"].as_array().into_iter().flatten() {
            let (path, message) = (field["path"].as_str().unwrap_or_default(), field["message"].as_str().unwrap_or_default());
            line.push_str(&format!("\n  {path}: {message}"));
        }
        let is_unsigned = self.body["errors"].as_array().into_iter().flatten().any(|error| error["path"] == "X-API-Signature");
        if is_unsigned {
            line.push_str("\nthe token is one with signature: give its secret by --token-secret or POSTHASTE_TOKEN_SECRET");
        } else if self.status == StatusCode::UNAUTHORIZED {
            line.push_str(" (give a token by --token or POSTHASTE_TOKEN)");
        }
        line
    }
}

/// Adds what a token with signature needs (WIRE.md 1.2).
fn sign(request: &mut Request<Full<Bytes>>, secret: &Secret, body: &[u8]) -> anyhow::Result<()> {
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    let uri = request.uri();
    let host = match (uri.host().unwrap_or_default(), uri.port_u16()) {
        (host, Some(port)) if Some(port) != default_port(uri.scheme_str()) => format!("{host}:{port}"),
        (host, _) => host.to_owned(),
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let lines = signature::Lines { method: request.method().as_str(), content_type, date: &date, host: &host, path };
    let signature = lines.sign(secret, body);
    for (name, value) in [("host", &host), ("date", &date), (signature::HEADER, &signature)] {
        request.headers_mut().insert(name, HeaderValue::from_str(value)?);
    }
    Ok(())
}

fn default_port(scheme: Option<&str>) -> Option<u16> {
    match scheme {
        Some("https") => Some(443),
        Some("http") => Some(80),
        _ => None,
    }
}

/// Base URL (without a slash at its end) and token.
fn whereabouts(daemon: &Daemon) -> anyhow::Result<(String, Secret)> {
    if let (Some(url), Some(token)) = (&daemon.api, &daemon.token) {
        return Ok((url.trim_end_matches('/').to_owned(), Secret::new(token.as_str())));
    }
    let config = config::load_for_client(daemon.config.as_deref(), config::environment())?.config;
    let url = match &daemon.api {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => format!("http://{}", config.api.listen),
    };
    let token = match (&daemon.token, &config.api.admin_token) {
        (Some(token), _) => Secret::new(token.as_str()),
        (None, Some(token)) => token.clone(),
        (None, None) => {
            let file = config.log.data_directory.join(api::auth::TOKEN_FILE);
            let token = std::fs::read_to_string(&file).map_err(|error| {
                anyhow::anyhow!(
                    "no token: give one by --token or POSTHASTE_TOKEN (the daemon's own, {}, cannot be read: {error})",
                    file.display()
                )
            })?;
            Secret::new(token.trim())
        }
    };
    Ok((url, token))
}
