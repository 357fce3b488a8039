//! What the pages of docs/ show does what they say: their receivers and clients as real processes, and their commands in a real shell.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::Method;
use http_body_util::Full;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};

use crate::support::{
    daemon::{ADMIN_TOKEN, Backend, Daemon, Site, both_backends, event},
    eventually, kafka, verify,
};

both_backends!(
    receivers_take_what_is_genuine_once_and_refuse_the_rest,
    clients_with_a_signature_token_are_let_in,
    the_commands_of_the_pages_are_answered_as_they_say
);

const WITHIN: Duration = Duration::from_secs(40);
const CHANNEL: &str = "019E4C54B1B375A28970B605CA9B03C3";
const LANGUAGES: [&str; 3] = ["py", "mjs", "go"];

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// An example, ready to be started.
fn example(name: &str, language: &str) -> Command {
    let source = docs().join("examples").join(format!("{name}.{language}"));
    let mut command = match language {
        "go" => Command::new(built().join(name)),
        "mjs" => Command::new("node"),
        _ => Command::new("python3"),
    };
    if language != "go" {
        command.arg(source);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The folder with the examples in Go, built once (`go run` would leave its child behind), without any network.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go");
        for name in ["hub_receiver", "standard_receiver", "zenvia_signed_request"] {
            let output = Command::new("go")
                .args(["build", "-o"])
                .arg(folder.join(name))
                .arg(docs().join("examples").join(format!("{name}.go")))
                .env("GOCACHE", folder.join("cache"))
                .envs([("CGO_ENABLED", "0"), ("GOFLAGS", "-mod=mod"), ("GOPROXY", "off"), ("GOTOOLCHAIN", "local")])
                .output()
                .expect("go is installed (tests/run does it)");
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        }
        folder
    })
}

/// A receiver that runs, and the lines it has printed so far; killed when it is dropped.
struct Running {
    child: Child,
    port: u16,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Running {
    fn start(mut command: Command, secret: &str) -> Running {
        let mut child = command.env("WEBHOOK_SECRET", secret).env("PORT", "0").stderr(Stdio::inherit()).spawn().expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let first = lines.next().expect("it says where it listens").expect("text");
        let port = first.strip_prefix("listening on port ").and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("{first}"));
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&kept);
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| keep.lock().expect("not poisoned").push(line)));
        Running { child, port, lines: kept }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    fn count(&self, begin: &str) -> usize {
        self.lines.lock().expect("not poisoned").iter().filter(|line| line.starts_with(begin)).count()
    }

    /// Sends it a request and returns what it answers.
    async fn post(&self, headers: &[(&str, String)], body: &[u8]) -> u16 {
        let mut request = http::Request::post(self.url()).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body))).expect("a request");
        Client::builder(TokioExecutor::new()).build_http().request(request).await.expect("it answers").status().as_u16()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body).expect("memory");
    encoder.finish().expect("memory")
}

/// The headers of a genuine request, made by others than us.
fn headers(name: &str, secret: &str, key: &str, at: u64, body: &[u8]) -> Vec<(&'static str, String)> {
    if name == "hub_receiver" {
        let mut parts = key.rsplitn(3, ':');
        let (offset, partition, topic) = (parts.next().expect("offset"), parts.next().expect("partition"), parts.next().expect("topic"));
        let mut signed = format!("{at}\n{topic}\n{partition}\n{offset}\n").into_bytes();
        signed.extend_from_slice(body);
        let v1 = verify::openssl_hmac(secret, &signed);
        return vec![("x-webhook-signature", format!("t={at},v1={v1}")), ("x-idempotency-key", key.to_owned())];
    }
    let webhook = standardwebhooks::Webhook::new(secret).expect("a secret");
    let signature = webhook.sign(key, at as i64, body).expect("signed");
    vec![("webhook-id", key.to_owned()), ("webhook-timestamp", at.to_string()), ("webhook-signature", signature)]
}

/// Registers a webhook by the API of its product: its path there, and its secret. Nobody listens at its URL yet.
async fn register(daemon: &Daemon, name: &str) -> (String, String) {
    let url = "http://127.0.0.1:9/";
    let (path, webhook) = match name {
        "hub_receiver" => {
            let path = format!("/v1/channels/{CHANNEL}/webhooks");
            (path, json!({ "url": url, "events": ["MESSAGE_RECEIVED"], "signing": true }))
        }
        _ => ("/v1/endpoints".to_owned(), json!({ "url": url, "types": ["order.*"] })),
    };
    let made = daemon.ok(Method::POST, &path, Some(webhook)).await;
    (format!("{path}/{}", made["id"].as_str().expect("an id")), made["secret"].as_str().expect("a secret").to_owned())
}

async fn receivers_take_what_is_genuine_once_and_refuse_the_rest(backend: Backend) {
    let daemon = Site::new(backend).start().await;
    daemon.ok(Method::PUT, "/v1/tenants/default", Some(json!({ "accountRoles": ["ENTERPRISE"] }))).await;
    let mut receivers = Vec::new();
    for name in ["hub_receiver", "standard_receiver"] {
        for language in LANGUAGES {
            let (path, secret) = register(&daemon, name).await;
            let receiver = Running::start(example(name, language), &secret);
            daemon.ok(Method::PATCH, &path, Some(json!({ "url": receiver.url() }))).await;
            receivers.push((name, language, secret, receiver));
        }
    }

    // Every other one is compressed for the Hub's.
    let events: Vec<Value> = (0..20)
        .map(|n| {
            let mut event = event(n, CHANNEL, if n < 10 { "MESSAGE_RECEIVED" } else { "order.created" });
            event["data"] = json!({ "_id": n, "text": "Olá ".repeat(if n % 2 == 0 { 1 } else { 400 }) });
            event
        })
        .collect();
    daemon.send(&events).await;
    for (name, language, _, receiver) in &receivers {
        eventually(&format!("ten events at {name}.{language}"), WITHIN, || (receiver.count("accepted: ") >= 10).then_some(()));
    }
    daemon.until_metric("posthaste_attempts_total{outcome=\"delivered\"", WITHIN, |count| count == 60.0).await;

    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    for (name, language, secret, receiver) in &receivers {
        let what = format!("{name}.{language}");
        assert_eq!((receiver.count("accepted: "), receiver.count("refused: ")), (10, 0), "{what}");
        let body = r#"{"text":"Olá"}"#.as_bytes();
        // A topic may have colons of its own.
        let key = "other:topic:3:42";
        let genuine = headers(name, secret, key, now, body);
        assert_eq!(receiver.post(&genuine, body).await, 200, "{what}");
        assert_eq!(receiver.post(&genuine, body).await, 200, "{what}");
        eventually(&what, WITHIN, || (receiver.count(&format!("seen before: {key}")) == 1).then_some(()));

        let other_secret = if *name == "hub_receiver" { "0".repeat(64) } else { "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned() };
        let mut wrong = vec![
            ("another body", genuine.clone(), b"{}".to_vec()),
            ("another secret", headers(name, &other_secret, key, now, body), body.to_vec()),
            ("too old", headers(name, secret, key, now - 310, body), body.to_vec()),
            ("of the future", headers(name, secret, key, now + 310, body), body.to_vec()),
            ("unsigned", Vec::new(), body.to_vec()),
            ("no signature", genuine[1..].to_vec(), body.to_vec()),
        ];
        if *name == "hub_receiver" {
            let encoded = [genuine.clone(), vec![("content-encoding", "gzip".to_owned())]].concat();
            assert_eq!(receiver.post(&encoded, &gzip(body)).await, 200, "{what}: compressed");
            wrong.push(("no gzip", encoded.clone(), body.to_vec()));
            wrong.push(("another body, compressed", encoded, gzip(b"{}")));
        }
        let (accepted, count) = (receiver.count("accepted: "), wrong.len());
        for (case, headers, body) in wrong {
            assert_eq!(receiver.post(&headers, &body).await, 401, "{what}: {case}");
        }
        eventually(&what, WITHIN, || (receiver.count("refused: ") == count).then_some(()));
        assert_eq!((accepted, receiver.count("accepted: ")), (11, 11), "{what}");
    }
    daemon.stop().await;
}

async fn clients_with_a_signature_token_are_let_in(backend: Backend) {
    let daemon = Site::new(backend).start().await;
    let token = json!({ "name": "partner", "kind": "signature", "role": "developer", "tenant": "acme" });
    let token = daemon.ok(Method::POST, "/v1/tokens", Some(token)).await;
    let (key, secret) = (token["key"].as_str().expect("a key"), token["secret"].as_str().expect("a secret"));
    let url = format!("{}/v2/subscriptions", daemon.api);
    for (language, channel) in LANGUAGES.into_iter().zip(["sms", "whatsapp", "rcs"]) {
        let ask = |secret: &str, arguments: &[&str]| -> Output {
            example("zenvia_signed_request", language)
                .args(arguments)
                .env("TOKEN", key)
                .env("TOKEN_SECRET", secret)
                .output()
                .expect("it runs")
        };
        let body =
            json!({ "eventType": "MESSAGE", "webhook": { "url": "https://hooks.example.com/olá" }, "criteria": { "channel": channel } });
        let made = ask(secret, &["POST", &url, &body.to_string()]);
        assert!(made.status.success() && text(&made).starts_with("200 {\"id\":"), "{language}: {}", text(&made));
        let list = ask(secret, &["GET", &format!("{url}?tenant=acme")]);
        assert!(list.status.success() && text(&list).contains(channel), "{language}: {}", text(&list));
        let refused = ask("phs_another", &["GET", &url]);
        assert!(!refused.status.success() && text(&refused).starts_with("401 "), "{language}: {}", text(&refused));
    }

    // The commands sign as well, and say what is missing.
    let command = |secret: Option<&str>| -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
        command.args(["endpoint", "list", "--tenant", "acme", "--api", &daemon.api, "--token", key]);
        command.args(secret.map(|secret| ["--token-secret", secret]).into_iter().flatten());
        command.output().expect("it runs")
    };
    let list = command(Some(secret));
    assert!(list.status.success() && text(&list).contains("rcs"), "{}", text(&list));
    for secret in [None, Some("phs_another")] {
        let refused = text(&command(secret));
        assert!(refused.contains("POSTHASTE_TOKEN_SECRET"), "{refused}");
    }
    daemon.stop().await;
}

/// Both of its outputs.
fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// Every ```sh of every page is run, against a daemon of its own for each page; a ```json that follows one is what it is answered, with other values.
async fn the_commands_of_the_pages_are_answered_as_they_say(backend: Backend) {
    for page in ["hub", "zenvia", "conversion", "standard"] {
        let site = Site::new(backend);
        let daemon = site.start().await;
        std::fs::write(site.directory.path().join(".curlrc"), "silent\nshow-error\nfail-with-body\n").expect("written");
        let source = std::fs::read_to_string(docs().join(format!("{page}.md"))).expect(page);
        let blocks = blocks(&source);
        let mut sent = 0;
        for (at, (language, command)) in blocks.iter().enumerate() {
            let needs_kafka = command.contains("kcat");
            if *language != "sh" || (needs_kafka && backend == Backend::Standalone) {
                continue;
            }
            let mut shell = Command::new("bash");
            shell.args(["-euo", "pipefail", "-c", &command.replace("posthaste.events", &site.events_topic())]);
            shell.env("API", &daemon.api).env("TOKEN", ADMIN_TOKEN).env("CURL_HOME", site.directory.path());
            if needs_kafka {
                shell.env("BROKERS", kafka::brokers());
            }
            let output = shell.output().expect("bash");
            assert!(output.status.success(), "{page}: {command}\n{}", text(&output));
            sent += usize::from(needs_kafka || command.contains("/v1/events"));
            if let Some((_, said)) = blocks.get(at + 1).filter(|(language, _)| *language == "json") {
                let said: Value = serde_json::from_str(said).unwrap_or_else(|wrong| panic!("{page}: {wrong}: {said}"));
                let answer: Value = serde_json::from_slice(&output.stdout).expect("a JSON answer");
                assert_eq!(shape(&answer), shape(&said), "{page}: {command}\n{answer}");
            }
        }
        // Every event that was sent is one that the webhook of its page asked for.
        let expected = if backend == Backend::Cluster { 2 } else { 1 };
        assert_eq!(sent, expected, "{page}");
        daemon.until_metric("posthaste_events_total{result=\"matched\"", WITHIN, |count| count == expected as f64).await;
    }
}

/// The fenced blocks of a page, each with its language.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    page.split("\n```").skip(1).step_by(2).filter_map(|block| block.split_once('\n')).collect()
}

/// A value with its texts and numbers left out.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), shape(value))).collect(),
        Value::Array(items) => items.iter().map(shape).collect(),
        Value::String(_) => json!("text"),
        Value::Number(_) => json!(0),
        Value::Null | Value::Bool(_) => value.clone(),
    }
}

#[test]
fn the_code_in_the_pages_is_that_of_the_examples_and_every_link_leads_somewhere() {
    for page in ["../README.md", "hub.md", "zenvia.md", "conversion.md", "standard.md", "filters.md"] {
        let file = docs().join(page);
        let text = std::fs::read_to_string(&file).expect(page);
        for (before, rest) in text.match_indices("<!-- examples/").map(|(at, _)| text[at..].split_once(" -->\n```python\n").expect(page)) {
            let path = before.trim_start_matches("<!-- ");
            let example = std::fs::read_to_string(docs().join(path)).expect(path);
            assert!(rest.starts_with(&(example + "```\n")), "{page} does not show {path} as it is");
        }
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let path = link.split('#').next().unwrap_or_default();
            let is_ours = !path.is_empty() && !path.contains("://");
            assert!(!is_ours || file.parent().expect("a folder").join(path).exists(), "{page} links to {link}");
        }
    }
    let blocks =
        blocks(&std::fs::read_to_string(docs().join("hub.md")).expect("hub.md")).iter().filter(|(language, _)| *language == "sh").count();
    assert_eq!(blocks, 4, "blocks are found");
}
