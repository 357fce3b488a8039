//! A small client of the management API.
//!
//! Where the daemon is and with which token it is spoken to: the arguments, else the environment, else the configuration of a daemon on
//! this machine (its listener, its token or the token file that it made), so that in the first five minutes nothing needs to be copied.
//! Requests of a token with signature are signed by its secret.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

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
use url::Url;

use crate::{
    api::{self, signature},
    cli::say,
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
    /// Where its API listens, such as `127.0.0.1:8080`; without it, as the configuration says (default `http://127.0.0.1:8080`).
    #[arg(long, value_name = "ADDRESS", env = "POSTHASTE_URL", value_parser = address)]
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

/// The base URL that is meant: `http://` is added where nothing is said, and no slash stands at its end.
fn address(text: &str) -> Result<String, String> {
    let right = || "write an address such as 127.0.0.1:8080, http://127.0.0.1:8080 or https://hooks.example.com".to_owned();
    let written = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&written).map_err(|_| right())?;
    let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    // A number alone would be an IPv4 address (8080 is 0.0.31.144), which nobody means.
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    match matches!(url.scheme(), "http" | "https") && url.has_host() && is_plain && !is_number {
        true => Ok(url.as_str().trim_end_matches('/').to_owned()),
        false => Err(right()),
    }
}

pub struct Client {
    http: Http<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: String,
    authorization: HeaderValue,
    /// Of a token with signature.
    secret: Option<Secret>,
}

/// No connection was made, so nothing was done.
#[derive(Debug, thiserror::Error)]
#[error("{url} cannot be reached: {why}; {cure}")]
pub struct Unreachable {
    url: String,
    why: String,
    cure: &'static str,
}

/// What the API answered; `body` is a string where it was CSV, and null where it was neither JSON nor that.
#[derive(Debug)]
pub struct Answer {
    /// Who answered.
    pub url: String,
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
        let is_deletion = method == Method::DELETE;
        let body = body.map(|body| ("application/json", Bytes::from(body.to_string())));
        let answer = self.call(method, path, body).await?;
        // A proxy or a receiver may say 200 to anything.
        let is_ours = answer.body.is_object() || answer.body.is_string() || (answer.status == StatusCode::NO_CONTENT && is_deletion);
        match answer.status.is_success() && is_ours {
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
            let Some(found) = page["items"].as_array().cloned() else {
                anyhow::bail!("{}", not_the_api(&self.url, "something else than a list"))
            };
            let more = page["next"].as_str().map(str::to_owned).filter(|next| !found.is_empty() && Some(next) != cursor.as_ref());
            items.extend(found);
            match more {
                Some(next) if items.len() < limit => cursor = Some(next),
                Some(_) => {
                    say(format_args!("these are the first {}, and there are more: give a higher --limit\n", items.len()));
                    return Ok(items);
                }
                None => return Ok(items),
            }
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        let answer = self.http.request(request).await.map_err(|error| {
            let why = root(&error).to_string();
            match error.is_connect() {
                true => Unreachable { url: self.url.clone(), why, cure: self.cure() }.into(),
                false => anyhow::anyhow!("{} did not answer: {why}", self.url),
            }
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
        Ok(Answer { url: self.url.clone(), status, body, retry_after })
    }

    fn cure(&self) -> &'static str {
        match self.url.starts_with("https:") {
            true => "is it behind a proxy with TLS? posthaste itself speaks http",
            false => "is `posthaste serve` running, and is this the address of its API (--api)?",
        }
    }
}

/// The first cause: what is around it only says which step failed.
fn root<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error)
}

impl Answer {
    /// What a problem document (RFC 9457) says, in one line; where several fields are wrong, in one for each of them.
    pub fn problem(&self) -> String {
        let Some(detail) = self.body["detail"].as_str() else {
            return not_the_api(&self.url, &self.status.to_string());
        };
        let fields: Vec<(&str, &str)> = self.fields().collect();
        if fields.iter().any(|(path, _)| *path == "X-API-Signature") {
            return "the token is one with signature, and what was given is not its secret: give that by --token-secret or POSTHASTE_TOKEN_SECRET"
                .to_owned();
        }
        if self.status == StatusCode::UNAUTHORIZED && fields.is_empty() {
            return format!("{} does not know the token: give another one by --token or POSTHASTE_TOKEN", self.url);
        }
        match fields.len() {
            // Where the daemon could not, no field is to blame: each has the same reason.
            _ if self.status.is_server_error() => detail.to_owned(),
            0 | 1 => format!("{detail}{}", where_to_look(detail)),
            several => {
                let lines = fields.iter().map(|(path, message)| format!("\n  {path}: {message}"));
                format!("{several} fields are wrong:{}", lines.collect::<String>())
            }
        }
    }

    /// The fields that are wrong: the path of each, and what is wrong with it.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        let errors = self.body["errors"].as_array().into_iter().flatten();
        errors.map(|error| (error["path"].as_str().unwrap_or_default(), error["message"].as_str().unwrap_or_default()))
    }
}

fn not_the_api(url: &str, what: &str) -> String {
    format!("{url} answered {what}, and not as the API of posthaste does: give its address by --api or POSTHASTE_URL")
}

/// Which command shows what there is, for those who named what is not there.
fn where_to_look(detail: &str) -> String {
    let named = ["endpoint", "token", "agent"].into_iter().find(|kind| detail.starts_with(&format!("there is no {kind} `")));
    named.map_or_else(String::new, |kind| format!(": `posthaste {kind} list` shows those that there are"))
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
        return Ok((url.clone(), Secret::new(token.as_str())));
    }
    let config = config::load_for_client(daemon.config.as_deref(), config::environment())?.config;
    let url = match &daemon.api {
        Some(url) => url.clone(),
        None => format!("http://{}", reachable(config.api.listen)),
    };
    let token = match (&daemon.token, &config.api.admin_token) {
        (Some(token), _) => Secret::new(token.as_str()),
        (None, Some(token)) => token.clone(),
        (None, None) => {
            let file = config.log.data_directory.join(api::auth::TOKEN_FILE);
            let token = std::fs::read_to_string(&file).map_err(|error| {
                anyhow::anyhow!(
                    "no token: give one by --token or POSTHASTE_TOKEN, or run this in the daemon's directory (its own, {}, cannot be read: {error})",
                    file.display()
                )
            })?;
            Secret::new(token.trim())
        }
    };
    Ok((url, token))
}

/// Where a listener is reached from its own machine: one that listens everywhere does so on loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let loopback = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(loopback, listen.port())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_address_needs_no_scheme_and_nonsense_is_refused() {
        for (text, url) in [
            ("127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("localhost:8080/", "http://localhost:8080"),
            ("[::1]:8080", "http://[::1]:8080"),
            ("hooks.internal", "http://hooks.internal"),
            ("https://hooks.example.com/base/", "https://hooks.example.com/base"),
        ] {
            assert_eq!(address(text).as_deref(), Ok(url));
        }
        for wrong in
            ["", "/", "8080", ":8080", "::1", "ftp://a", "http://", "http:///", "a b", "http://u:p@a", "http://a?b", "127.0.0.1:99999"]
        {
            assert!(address(wrong).is_err_and(|right| right.contains("127.0.0.1:8080")), "{wrong}");
        }
    }

    #[test]
    fn a_daemon_that_listens_everywhere_is_asked_on_loopback() {
        for (listen, asked) in [("0.0.0.0:8080", "127.0.0.1:8080"), ("[::]:8080", "[::1]:8080"), ("10.0.0.1:80", "10.0.0.1:80")] {
            assert_eq!(reachable(listen.parse().expect("an address")).to_string(), asked);
        }
    }

    #[test]
    fn a_problem_is_a_line_that_names_the_cure() {
        let problem = |status: u16, body| {
            let status = StatusCode::from_u16(status).expect("a status");
            Answer { url: "http://a".to_owned(), status, body, retry_after: None }.problem()
        };
        let wrong = |path: &str| json!({ "path": path, "message": "is wrong" });
        for (status, body, expected) in [
            (
                404,
                json!({ "title": "Not Found", "detail": "there is no endpoint `x`" }),
                "there is no endpoint `x`: `posthaste endpoint list` shows those that there are",
            ),
            (404, json!({ "detail": "there is no route" }), "there is no route"),
            (422, json!({ "detail": "`url` is wrong", "errors": [wrong("url")] }), "`url` is wrong"),
            (422, json!({ "detail": "…", "errors": [wrong("a"), wrong("b")] }), "2 fields are wrong:\n  a: is wrong\n  b: is wrong"),
            (401, json!({ "detail": "…" }), "http://a does not know the token: give another one by --token or POSTHASTE_TOKEN"),
        ] {
            assert_eq!(problem(status, body), expected);
        }
        assert!(problem(401, json!({ "detail": "…", "errors": [wrong("X-API-Signature")] })).contains("--token-secret"));
        assert!(problem(404, Value::Null).starts_with("http://a answered 404 Not Found, and not as the API of posthaste does"));
    }
}
