//! The daemon as a child process, on either backend.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};

use super::{kafka, redis, unique};

/// The two ways to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// SQLite and memory.
    Standalone,
    /// Kafka and Redis.
    Cluster,
}

/// Makes a test of each scenario for each backend: `both_backends!(scenario_a, scenario_b);` wants `async fn scenario_a(backend: Backend)`.
macro_rules! both_backends {
    ($($scenario:ident),* $(,)?) => {
        mod standalone {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $scenario() {
                super::$scenario($crate::support::daemon::Backend::Standalone).await
            })*
        }
        mod cluster {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $scenario() {
                super::$scenario($crate::support::daemon::Backend::Cluster).await
            })*
        }
    };
}
pub(crate) use both_backends;

pub const ADMIN_TOKEN: &str = "admin-token-of-the-tests";

/// A place for daemons that share one log: a data directory, or topics and keys with a prefix of their own.
pub struct Site {
    pub backend: Backend,
    pub directory: Arc<tempfile::TempDir>,
    pub prefix: String,
    /// Appended to the configuration as it is.
    pub extra: String,
}

impl Site {
    pub fn new(backend: Backend) -> Site {
        Site { backend, directory: Arc::new(tempfile::tempdir().expect("a directory")), prefix: unique("it"), extra: String::new() }
    }

    /// With more configuration: whole TOML sections that [`Site::config`] does not have, or `[[endpoint]]` tables.
    pub fn with(mut self, extra: &str) -> Site {
        self.extra.push_str(extra);
        self.extra.push('\n');
        self
    }

    pub fn events_topic(&self) -> String {
        format!("{}.events", self.prefix)
    }

    pub fn config(&self) -> String {
        let Site { prefix, extra, .. } = self;
        let backend = match self.backend {
            Backend::Standalone => {
                let data = self.directory.path().join("data");
                format!("[log]\nbackend = \"sqlite\"\ndata_directory = \"{}\"\n[health]\nbackend = \"memory\"\n", data.display())
            }
            Backend::Cluster => format!(
                "[log]\nbackend = \"kafka\"\n[kafka]\nbrokers = \"{}\"\ngroup = \"{prefix}\"\nstart = \"earliest\"\ncreate_topics = true\n\
                 [health]\nbackend = \"redis\"\n[redis]\nurl = \"{}\"\nprefix = \"{prefix}:\"\n",
                kafka::brokers(),
                redis::url()
            ),
        };
        format!(
            "[api]\nlisten = \"127.0.0.1:0\"\nadmin_token = \"{ADMIN_TOKEN}\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [registry]\nkey = \"cG9zdGhhc3RlIHRlc3Qga2V5LCAzMiBieXRlcyBsb24=\"\n\
             [topics]\nevents = [\"{prefix}.events\"]\nretry_prefix = \"{prefix}.retry.\"\ndead = \"{prefix}.dead\"\nregistry = \"{prefix}.registry\"\nattempts = \"{prefix}.attempts\"\nhistory = \"{prefix}.history\"\n\
             [delivery]\nallow_networks = [\"127.0.0.0/8\"]\n{backend}{extra}\n"
        )
    }

    /// Starts a daemon and waits until it is ready.
    pub async fn start(&self) -> Daemon {
        self.start_with(&[]).await
    }

    /// Starts a daemon with these environment variables and waits until it is ready.
    pub async fn start_with(&self, environment: &[(&str, &str)]) -> Daemon {
        let mut daemon = self.spawn(environment);
        daemon.find_addresses();
        daemon.until_ready(Duration::from_secs(60)).await;
        daemon
    }

    /// Starts a daemon and does not wait for anything.
    pub fn spawn(&self, environment: &[(&str, &str)]) -> Daemon {
        let name = unique("posthaste");
        let config = self.directory.path().join(format!("{name}.toml"));
        std::fs::write(&config, self.config()).expect("the configuration is written");
        let log = self.directory.path().join(format!("{name}.log"));
        let child = Command::new(env!("CARGO_BIN_EXE_posthaste"))
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).expect("a log file"))
            .spawn()
            .expect("the daemon starts");
        Daemon { child, api: String::new(), admin: String::new(), config, log, ended: None, _directory: Arc::clone(&self.directory) }
    }
}

/// A running daemon; killed when it is dropped.
pub struct Daemon {
    child: Child,
    /// `http://host:port` of the management API.
    pub api: String,
    /// `http://host:port` of metrics and probes.
    pub admin: String,
    pub config: PathBuf,
    pub log: PathBuf,
    ended: Option<ExitStatus>,
    /// A daemon may outlive its site, and its data must not go before it.
    _directory: Arc<tempfile::TempDir>,
}

impl Daemon {
    /// Reads the addresses that `serve` prints.
    pub fn find_addresses(&mut self) {
        let mut lines = BufReader::new(self.child.stdout.take().expect("piped")).lines();
        while self.api.is_empty() || self.admin.is_empty() {
            let Some(Ok(line)) = lines.next() else {
                panic!("the daemon ended before it listened:\n{}", read(&self.log));
            };
            let address = |line: &str| line.split_whitespace().find(|word| word.starts_with("http://")).map(str::to_owned);
            if line.starts_with("api") {
                self.api = address(&line).expect("an address");
            } else if line.starts_with("metrics") {
                self.admin = address(&line).expect("an address").trim_end_matches("/metrics").to_owned();
            }
        }
        // Nobody may block on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
    }

    pub async fn until_ready(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            if let Ok((StatusCode::OK, _)) = try_call(Method::GET, &format!("{}/ready", self.admin), None, None).await {
                return;
            }
            if let Some(status) = self.child.try_wait().expect("a child") {
                panic!("the daemon ended with {status}:\n{}", read(&self.log));
            }
            assert!(Instant::now() < deadline, "not ready within {limit:?}:\n{}", read(&self.log));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks until `url` answers 503 and says this; returns the whole answer.
    #[allow(dead_code, reason = "no benchmark needs it")]
    pub async fn until_unavailable(&self, url: &str, says: &str, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        loop {
            let answer = send(Method::GET, url, &[], None).await;
            if let Ok((StatusCode::SERVICE_UNAVAILABLE, text)) = &answer
                && text.contains(says)
            {
                return text.clone();
            }
            assert!(Instant::now() < deadline, "{url}: no 503 with `{says}` within {limit:?} but {answer:?}:\n{}", read(&self.log));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[allow(dead_code, reason = "the benchmarks measure the process")]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn log_text(&self) -> String {
        read(&self.log)
    }

    /// Calls the API as the administrator.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        self.call_as(ADMIN_TOKEN, method, path, body).await
    }

    pub async fn call_as(&self, token: &str, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let body = body.map(|body| Bytes::from(body.to_string()));
        try_call(method, &format!("{}{path}", self.api), Some(token), body)
            .await
            .unwrap_or_else(|wrong| panic!("{path}: {wrong}\n{}", read(&self.log)))
    }

    /// Calls with these headers and no others.
    pub async fn call_with(&self, headers: &[(&str, &str)], method: Method, path: &str, body: Option<String>) -> (StatusCode, Value) {
        let (status, text) = send(method, &format!("{}{path}", self.api), headers, body.map(Bytes::from))
            .await
            .unwrap_or_else(|wrong| panic!("{path}: {wrong}\n{}", read(&self.log)));
        (status, read_json(text))
    }

    /// Calls and insists on a success.
    pub async fn ok(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.call(method.clone(), path, body).await;
        assert!(status.is_success(), "{method} {path}: {status} {answer}");
        answer
    }

    /// Registers an endpoint and returns what the API answers.
    pub async fn add_endpoint(&self, endpoint: Value) -> Value {
        self.ok(Method::POST, "/v1/endpoints", Some(endpoint)).await
    }

    /// Sends events over HTTP and insists that all are stored.
    pub async fn send(&self, events: &[Value]) {
        for batch in events.chunks(100) {
            let answer = self.ok(Method::POST, "/v1/events", Some(Value::Array(batch.to_vec()))).await;
            assert_eq!(answer["accepted"].as_array().map(Vec::len), Some(batch.len()), "{answer}");
        }
    }

    pub async fn metrics(&self) -> String {
        let (status, text) = try_text(Method::GET, &format!("{}/metrics", self.admin), None, None).await.expect("metrics answer");
        assert_eq!(status, StatusCode::OK);
        text
    }

    /// The sum over all series of a metric whose line begins with `selector`, such as `posthaste_attempts_total{outcome="delivered"`.
    pub async fn metric(&self, selector: &str) -> f64 {
        self.metrics()
            .await
            .lines()
            .filter(|line| line.starts_with(selector) && line[selector.len()..].starts_with(['{', ' ', '}', ',']))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits until a metric meets a condition.
    pub async fn until_metric(&self, selector: &str, limit: Duration, condition: impl Fn(f64) -> bool) -> f64 {
        let deadline = Instant::now() + limit;
        loop {
            let value = self.metric(selector).await;
            if condition(value) {
                return value;
            }
            assert!(Instant::now() < deadline, "{selector} is {value} after {limit:?}\n{}", read(&self.log));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the log says something.
    pub async fn until_logged(&self, what: &str, limit: Duration) {
        let deadline = Instant::now() + limit;
        while !read(&self.log).contains(what) {
            assert!(Instant::now() < deadline, "not logged within {limit:?}: {what}\n{}", read(&self.log));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().expect("kill runs");
        assert!(status.success());
    }

    /// Waits for the end of the process.
    pub async fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended.or_else(|| self.child.try_wait().expect("a child")) {
                self.ended = Some(status);
                return status;
            }
            assert!(Instant::now() < deadline, "still running after {limit:?}:\n{}", read(&self.log));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGTERM, and a clean end.
    pub async fn stop(mut self) {
        self.signal("TERM");
        let status = self.wait(Duration::from_secs(40)).await;
        assert!(status.success(), "{status}\n{}", read(&self.log));
    }

    /// SIGKILL.
    pub async fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.wait(Duration::from_secs(10)).await;
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let text = read(&self.log);
            let tail = text.lines().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
            let _ = writeln!(std::io::stderr(), "--- end of the daemon's log ---\n{tail}");
        }
    }
}

/// An event of the tests: `n` makes its id and is in its data.
pub fn event(n: usize, channel: &str, kind: &str) -> Value {
    json!({ "id": format!("event-{n}"), "type": kind, "channel": channel, "time": "2026-01-15T12:00:00Z", "data": { "n": n } })
}

async fn try_text(method: Method, url: &str, token: Option<&str>, body: Option<Bytes>) -> Result<(StatusCode, String), String> {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let mut headers: Vec<_> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
    headers.extend(body.as_ref().map(|_| ("content-type", "application/json")));
    send(method, url, &headers, body).await
}

async fn send(method: Method, url: &str, headers: &[(&str, &str)], body: Option<Bytes>) -> Result<(StatusCode, String), String> {
    let mut request = http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.unwrap_or_default())).map_err(|wrong| wrong.to_string())?;
    let response = Client::builder(TokioExecutor::new()).build_http().request(request).await.map_err(|wrong| wrong.to_string())?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|wrong| wrong.to_string())?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

async fn try_call(method: Method, url: &str, token: Option<&str>, body: Option<Bytes>) -> Result<(StatusCode, Value), String> {
    let (status, text) = try_text(method, url, token, body).await?;
    Ok((status, read_json(text)))
}

/// Nothing is null, and what is no JSON is text.
fn read_json(text: String) -> Value {
    if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(Value::String(text)) }
}

fn read(path: &Path) -> String {
    let mut text = String::new();
    if let Ok(mut file) = File::open(path) {
        let _ = file.read_to_string(&mut text);
    }
    text
}
