//! The commands as people run them: child processes beside a daemon.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http::Method;
use serde_json::{Value, json};

use crate::support::{
    daemon::{ADMIN_TOKEN, Backend, Daemon, Site, event},
    eventually,
    receiver::{Answer, Receiver},
};

const WITHIN: Duration = Duration::from_secs(20);

/// Ctrl-C ends the demo within this time, also while a receiver hangs.
const DEMO_ENDS_WITHIN: Duration = Duration::from_secs(3);

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().expect("it runs")
}

/// Against a daemon, as its administrator.
fn client(daemon: &Daemon, arguments: &[&str]) -> Command {
    let mut command = command(arguments);
    command.env("POSTHASTE_URL", &daemon.api).env("POSTHASTE_TOKEN", ADMIN_TOKEN);
    command
}

/// Standard output of a command that must succeed.
fn output(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = client(daemon, arguments).output().expect("it runs");
    assert!(output.status.success(), "{arguments:?}: {}", errors(&output));
    String::from_utf8(output.stdout).expect("text")
}

/// What a command that must fail says.
fn failure(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = client(daemon, arguments).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", errors(&output));
    errors(&output)
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A command that goes on until it is interrupted, and the lines it has printed so far.
struct Running {
    child: Child,
    out: Arc<Mutex<Vec<String>>>,
    err: Arc<Mutex<Vec<String>>>,
}

impl Running {
    fn start(mut command: Command) -> Running {
        let mut child = command.spawn().expect("it starts");
        let out = keep(child.stdout.take().expect("piped"));
        let err = keep(child.stderr.take().expect("piped"));
        Running { child, out, err }
    }

    fn lines(&self) -> Vec<String> {
        self.out.lock().expect("not poisoned").clone()
    }

    fn errors(&self) -> Vec<String> {
        self.err.lock().expect("not poisoned").clone()
    }

    /// Ctrl-C. What it had printed in the end, and how long the end took.
    fn interrupt(mut self) -> (Vec<String>, Vec<String>, Duration) {
        let begun = Instant::now();
        let sent = Command::new("kill").arg("-INT").arg(self.child.id().to_string()).status().expect("kill runs");
        assert!(sent.success());
        let status = eventually("the end after Ctrl-C", WITHIN, || self.child.try_wait().expect("a child"));
        let took = begun.elapsed();
        assert!(status.success(), "{status}: {:?} {:?}", self.lines(), self.errors());
        // The pipes close with the process; their last lines may be on their way.
        eventually("the end of the output", WITHIN, || {
            (Arc::strong_count(&self.out) == 1 && Arc::strong_count(&self.err) == 1).then_some(())
        });
        (self.lines(), self.errors(), took)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn keep(pipe: impl std::io::Read + Send + 'static) -> Arc<Mutex<Vec<String>>> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&lines);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            kept.lock().expect("not poisoned").push(line);
        }
    });
    lines
}

/// `posthaste listen` on a free port, and its URL.
fn listen(arguments: &[&str]) -> (Running, String) {
    let running = Running::start(command(&[&["listen", "--listen", "127.0.0.1:0"], arguments].concat()));
    let url = eventually("the address of the listener", WITHIN, || {
        let errors = running.errors();
        let words = errors.first()?.split_whitespace();
        words.into_iter().find(|word| word.starts_with("http://")).map(str::to_owned)
    });
    (running, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_added_listed_enabled_and_removed() {
    let daemon = Site::new(Backend::Standalone).start().await;
    let added = output(
        &daemon,
        &[
            "endpoint",
            "add",
            "http://127.0.0.1:9/hook",
            "--id",
            "orders",
            "--type",
            "order.*",
            "--channel",
            "shop",
            "--rate",
            "50/s",
            "--retry",
            "30s,5m",
            "--bearer",
            "a-token",
            "--header",
            "X-Source: posthaste",
        ],
    );
    assert!(added.contains("orders") && added.contains("whsec_"), "its secret is shown: {added}");
    let hub: Value = serde_json::from_str(&output(
        &daemon,
        &["endpoint", "add", "http://127.0.0.1:9/hub", "--format", "hub", "--signing", "hub", "--json"],
    ))
    .expect("JSON");
    assert_eq!(hub["secret"].as_str().map(str::len), Some(64), "{hub}");

    let list = output(&daemon, &["endpoint", "list"]);
    let row = list.lines().find(|line| line.starts_with("orders")).unwrap_or_else(|| panic!("{list}"));
    for cell in ["default", "enabled", "active", "order.*", "shop", "http://127.0.0.1:9/hook"] {
        assert!(row.contains(cell), "no {cell}: {row}");
    }
    let items: Vec<Value> = serde_json::from_str(&output(&daemon, &["endpoint", "list", "--json"])).expect("a JSON array");
    assert_eq!(items.len(), 2);
    assert!(!output(&daemon, &["endpoint", "list", "--json"]).contains("a-token"), "no secret is shown again");
    let one: Vec<Value> = serde_json::from_str(&output(&daemon, &["endpoint", "list", "--json", "--limit", "1"])).expect("a JSON array");
    assert_eq!(one.len(), 1);

    assert!(output(&daemon, &["endpoint", "disable", "orders"]).contains("disabled orders"));
    assert!(output(&daemon, &["endpoint", "list"]).contains("disabled"));
    assert!(output(&daemon, &["endpoint", "enable", "orders", "--recover"]).contains("enabled orders"));
    assert!(!output(&daemon, &["endpoint", "list"]).contains("disabled"));

    assert!(output(&daemon, &["endpoint", "delete", "orders"]).contains("removed orders"));
    assert!(!output(&daemon, &["endpoint", "list"]).contains("orders"));
    for gone in ["get", "remove", "enable", "disable", "rotate", "test"] {
        let said = failure(&daemon, &["endpoint", gone, "orders"]);
        assert_eq!(said, "posthaste: there is no endpoint `orders`: `posthaste endpoint list` shows those that there are\n", "{gone}");
    }
    assert!(failure(&daemon, &["endpoint", "enable", "../tokens"]).contains("../tokens"));
    assert!(failure(&daemon, &["endpoint", "add", "ftp://127.0.0.1/"]).contains("url"), "the field is named");
    let refused = client(&daemon, &["endpoint", "list", "--token", "wrong"]).output().expect("it runs");
    assert!(!refused.status.success() && errors(&refused).contains("--token"), "{}", errors(&refused));
    let nobody = run(&["endpoint", "list", "--api", "127.0.0.1:9", "--token", "x"]);
    assert!(!nobody.status.success() && errors(&nobody).contains("posthaste serve"), "{}", errors(&nobody));
    assert!(errors(&nobody).contains("http://127.0.0.1:9 cannot be reached: Connection refused"), "{}", errors(&nobody));
    let nonsense = run(&["endpoint", "list", "--api", "ftp://127.0.0.1", "--token", "x"]);
    assert!(nonsense.status.code() == Some(2) && errors(&nonsense).contains("such as 127.0.0.1:8080"), "{}", errors(&nonsense));
    let bare = daemon.api.strip_prefix("http://").expect("plain");
    assert!(output(&daemon, &["endpoint", "list", "--api", bare]).starts_with("ID"), "an address needs no scheme");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_shown_whole_tested_and_given_another_secret() {
    let healthy = Arc::new(AtomicBool::new(true));
    let is_healthy = Arc::clone(&healthy);
    let receiver = Receiver::start(move |_| Answer::Status(if is_healthy.load(Ordering::Relaxed) { 200 } else { 500 })).await;
    let daemon = Site::new(Backend::Standalone).start().await;
    output(
        &daemon,
        &["endpoint", "add", &receiver.url("/"), "--id", "orders", "--secret", SECRET, "--type", "order.*", "--bearer", "hidden"],
    );

    let listing = output(&daemon, &["endpoint", "get", "orders"]);
    for line in ["id               orders", "auth.type        bearer", "types            order.*", "health.state     active"] {
        assert!(listing.lines().any(|found| found == line), "no {line}: {listing}");
    }
    assert!(!listing.contains(SECRET) && !listing.contains("hidden"), "no secret is shown again: {listing}");
    let created = listing.lines().find(|line| line.starts_with("createdAt")).expect("a time");
    assert!(created.ends_with('Z') && !created.contains('.'), "to the second: {created}");
    let whole: Value = serde_json::from_str(&output(&daemon, &["endpoint", "get", "orders", "--json"])).expect("JSON");
    assert_eq!(whole["url"], receiver.url("/"));

    let told = output(&daemon, &["endpoint", "test", "orders", "--data", "{\"n\":7}"]);
    assert!(told.starts_with("delivered test_") && told.contains(": answered 200 after "), "{told}");
    let signatures = |of: usize| receiver.requests()[of].header("webhook-signature").split(' ').count();
    assert_eq!((&receiver.requests()[0].json()["data"], signatures(0)), (&json!({ "n": 7 }), 1));
    let rotated = output(&daemon, &["endpoint", "rotate", "orders"]);
    assert!(rotated.contains("secret  whsec_") && !rotated.contains(SECRET), "{rotated}");
    output(&daemon, &["endpoint", "test", "orders"]);
    assert_eq!(signatures(1), 2, "the old secret signs beside the new one");
    let given = output(&daemon, &["endpoint", "rotate", "orders", "--keep", "0", "--secret", SECRET]);
    assert!(given.contains(SECRET), "{given}");
    output(&daemon, &["endpoint", "test", "orders"]);
    assert_eq!(signatures(2), 1, "none is kept");

    healthy.store(false, Ordering::Relaxed);
    let said = failure(&daemon, &["endpoint", "test", "orders"]);
    assert!(said.contains("`orders` did not take test_") && said.contains("500"), "{said}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_is_verified_by_a_listener_and_fails_where_it_is_told_to() {
    let daemon = Site::new(Backend::Standalone).start().await;
    let (fine, url) = listen(&["--secret", SECRET]);
    output(&daemon, &["endpoint", "add", &url, "--id", "fine", "--secret", SECRET, "--channel", "fine"]);
    let (wrong, url) = listen(&["--secret", SECRET, "--quiet"]);
    output(&daemon, &["endpoint", "add", &url, "--id", "wrong", "--channel", "wrong", "--retry", "none"]);
    let (failing, url) = listen(&["--fail", "503"]);
    output(&daemon, &["endpoint", "add", &url, "--id", "failing", "--channel", "failing", "--retry", "none"]);
    let (hanging, url) = listen(&["--hang"]);
    output(&daemon, &["endpoint", "add", &url, "--id", "hanging", "--channel", "hanging"]);

    let sent = client(&daemon, &["send", "--type", "order.created", "--channel", "fine", "--data", "{\"n\":1}", "--count", "250"]).output();
    let sent = sent.expect("it runs");
    assert!(sent.status.success() && errors(&sent).contains("250 events stored"), "{}", errors(&sent));
    let requests = || fine.lines().iter().filter(|line| line.contains("POST /")).count();
    eventually("250 requests", WITHIN, || (requests() == 250).then_some(()));
    assert!(fine.lines().iter().any(|line| line.contains("{\"n\":1}")), "bodies are printed");

    for channel in ["wrong", "failing", "hanging"] {
        output(&daemon, &["send", "--type", "t", "--channel", channel]);
    }
    eventually("the answers that were asked for", WITHIN, || {
        let any = |of: &Running, text: &str| of.lines().iter().any(|line| line.contains(text));
        (any(&wrong, "NOT VERIFIED") && any(&wrong, "-> 401") && any(&failing, "-> 503") && any(&hanging, "no answer")).then_some(())
    });
    let (lines, errors, _) = fine.interrupt();
    assert_eq!(lines.iter().filter(|line| line.contains("verified (standard v1)") && line.contains("-> 204")).count(), 250);
    assert!(errors.iter().any(|line| line.contains("250 requests: 250 verified, 0 not verified, 0 seen before")), "{errors:?}");
    let (_, errors, _) = wrong.interrupt();
    assert!(errors.iter().any(|line| line.contains("1 not verified")), "{errors:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn send_names_lines_that_are_no_events_and_sends_the_others() {
    let receiver = Receiver::accepting().await;
    let site = Site::new(Backend::Standalone);
    let daemon = site.start().await;
    daemon.add_endpoint(json!({ "id": "e", "url": receiver.url("/") })).await;
    let file = site.directory.path().join("events.ndjson");
    let mut lines: Vec<String> = (0..150).map(|n| event(n, "c", "t").to_string()).collect();
    lines.insert(20, String::new());
    lines.insert(70, json!({ "type": "t", "channel": "c", "data": "x".repeat(1_000_000) }).to_string());
    lines.insert(100, json!({ "type": "t", "channel": "c" }).to_string());
    lines.insert(120, "this is no event".to_owned());
    std::fs::write(&file, lines.join("\n")).expect("written");
    let file = file.to_str().expect("text");
    let said = failure(&daemon, &["send", file, "--batch", "50"]);
    for line in [
        &format!("{file}:71: has 1000") as &str,
        &format!("{file}:101: `data` is missing; write any JSON, such as {{\"n\":1}}"),
        &format!("{file}:121: is no JSON: expected ident, in column 2"),
        "150 events stored",
        "refused 3 of 153 lines, named above; the others are stored",
    ] {
        assert!(said.contains(line), "no {line}: {said}");
    }
    receiver.wait_for(150, WITHIN).await;
    output(&daemon, &["send", file, "--skip", "152"]);
    receiver.wait_for(152, WITHIN).await;
    let said = failure(&daemon, &["send", file, "--api", &receiver.url("/")]);
    assert!(said.contains("not as the API of posthaste does") && said.contains("nothing is stored"), "{said}");
    let said = failure(&daemon, &["endpoint", "list", "--api", &receiver.url("/")]);
    assert!(said.contains("not as the API of posthaste does"), "{said}");

    let csv = site.directory.path().join("events.csv");
    std::fs::write(&csv, "1,order.created\n".repeat(150)).expect("written");
    let csv = csv.to_str().expect("text");
    let said = failure(&daemon, &["send", csv]);
    assert!(said.contains("events.csv:1: is no JSON") && said.contains("the first 100 lines are all refused"), "{said}");
    assert!(said.contains("nothing is stored") && !said.contains("--skip"), "{said}");
    // Nobody reads what it says, and it says much.
    let mut unheard = client(&daemon, &["send", csv]).stderr(Stdio::piped()).spawn().expect("it starts");
    drop(unheard.stderr.take());
    assert_eq!(unheard.wait().expect("it ends").code(), Some(1));

    let (_, token) = daemon.call(Method::POST, "/v1/tokens", Some(json!({ "name": "n", "tenant": "acme", "role": "developer" }))).await;
    let foreign = site.directory.path().join("foreign.ndjson");
    let line = json!({ "type": "t", "channel": "c", "tenant": "other", "data": 1 }).to_string();
    std::fs::write(&foreign, format!("{line}\n").repeat(300)).expect("written");
    let key = token["key"].as_str().expect("text");
    let said = failure(&daemon, &["send", foreign.to_str().expect("text"), "--batch", "300", "--token", key]);
    assert!(said.contains("foreign.ndjson:1: `tenant` is not the tenant of the token; leave it out"), "{said}");
    assert!(said.contains("the first 100 lines are all refused") && !said.contains("--skip"), "{said}");
    daemon.stop().await;
}

#[test]
fn send_does_not_forget_that_a_try_may_have_succeeded() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    // Takes the request and is gone: whether it stored the events nobody knows, and afterwards it cannot be reached at all.
    let peer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        drop(listener);
        assert!(stream.read(&mut [0; 4096]).expect("a request") > 0);
    });
    let arguments = ["send", "--type", "t", "--channel", "c", "--count", "3", "--patience", "1s", "--api", &address, "--token", "t"];
    let output = command(&arguments).output().expect("it runs");
    peer.join().expect("it was asked");
    let said = errors(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot be reached") && said.contains("events 1 to 3 may be"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_too_large_for_a_request_is_sent_in_parts() {
    let receiver = Receiver::accepting().await;
    let site = Site::new(Backend::Standalone).with("[ingest]\nevents = 3\n");
    let daemon = site.start().await;
    daemon.add_endpoint(json!({ "id": "e", "url": receiver.url("/") })).await;
    output(&daemon, &["send", "--type", "t", "--channel", "c", "--count", "20"]);
    receiver.wait_for(20, WITHIN).await;
    daemon.stop().await;
    assert_eq!(receiver.count(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn send_that_is_interrupted_says_how_to_go_on() {
    let daemon = Site::new(Backend::Standalone).start().await;
    let mut child = client(&daemon, &["send"]).stdin(Stdio::piped()).spawn().expect("it starts");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(format!("{0}\nnonsense\n{0}\n", json!({ "type": "t", "channel": "c", "data": 1 })).as_bytes()).expect("it reads");
    daemon.until_metric("posthaste_ingest_events_total{result=\"stored\"", WITHIN, |count| count == 2.0).await;
    let sent = Command::new("kill").arg("-INT").arg(child.id().to_string()).status().expect("kill runs");
    assert!(sent.success());
    let ended = child.wait_with_output().expect("it ends");
    drop(input);
    let said = errors(&ended);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("standard input:2: is no JSON") && said.contains("2 events stored"), "{said}");
    // The answer may be on its way still.
    let knows = said.contains(
        "2 events are stored, all lines up to 3 are among them or named above; to go on, give the same command again with --skip 3",
    );
    assert!(said.contains("interrupted") && (knows || said.contains("lines 1 to 3 may be")), "{said}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn send_waits_for_a_daemon_that_is_away_and_says_so_and_reads_from_standard_input() {
    let receiver = Receiver::accepting().await;
    let daemon = Site::new(Backend::Standalone).start().await;
    daemon.add_endpoint(json!({ "id": "e", "url": receiver.url("/") })).await;

    let away = run(&["send", "--api", "127.0.0.1:9", "--token", "x", "--type", "t", "--channel", "c", "--patience", "300ms"]);
    let said = errors(&away);
    assert!(said.contains("is `posthaste serve` running") && said.contains("trying again for 300ms (--patience)"), "{said}");
    assert!(away.status.code() == Some(1) && said.contains("nothing is stored") && !said.contains("to go on"), "{said}");
    let said = failure(&daemon, &["send", "--token", "wrong", "--type", "t", "--channel", "c"]);
    assert!(said.contains("does not know the token: give another one by --token") && said.contains("nothing is stored"), "{said}");

    // From standard input, evenly: 20 events at 50/s take 0.4 s less one batch.
    let mut child = client(&daemon, &["send", "--rate", "50/s"]).stdin(Stdio::piped()).spawn().expect("it starts");
    let begun = Instant::now();
    let text: String = (0..20).map(|n| format!("{}\n\n", json!({ "type": "t", "channel": "c", "data": n }))).collect();
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it reads");
    let sent = child.wait_with_output().expect("it ends");
    assert!(sent.status.success() && errors(&sent).contains("20 events stored"), "{}", errors(&sent));
    assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
    receiver.wait_for(20, WITHIN).await;

    let said = failure(&daemon, &["send", "--type", "t", "--channel", "c", "--data", "{"]);
    assert!(said.contains("--data"), "{said}");
    let said = failure(&daemon, &["send", "/no/such/file"]);
    assert!(said.contains("/no/such/file"), "{said}");
    daemon.stop().await;
    assert_eq!(receiver.count(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_and_redriven() {
    let healthy = Arc::new(AtomicBool::new(false));
    let is_healthy = Arc::clone(&healthy);
    let receiver = Receiver::start(move |_| Answer::Status(if is_healthy.load(Ordering::Relaxed) { 200 } else { 500 })).await;
    let daemon = Site::new(Backend::Standalone).start().await;
    for id in ["one", "two"] {
        output(&daemon, &["endpoint", "add", &receiver.url(&format!("/{id}")), "--id", id, "--type", "t", "--retry", "none"]);
    }
    daemon.send(&[event(1, "c", "t"), event(2, "c", "t")]).await;
    daemon.until_metric("posthaste_dead_letters", WITHIN, |count| count == 4.0).await;

    let list = output(&daemon, &["dead-letter", "list", "--endpoint", "one", "--since", "1h"]);
    assert_eq!(list.lines().filter(|line| line.contains("exhausted")).count(), 2, "{list}");
    let letter = daemon.ok(Method::GET, "/v1/dead-letters?endpoint=one&limit=1", None).await["items"][0].take();
    let row = list.lines().find(|line| line.starts_with(letter["id"].as_str().expect("an id"))).unwrap_or_else(|| panic!("{list}"));
    for field in ["event", "origin"] {
        let value = letter[field].as_str().expect("a text");
        assert!(row.split_whitespace().any(|cell| cell == value), "no {field} {value}: {row}");
    }
    let time = row.split_whitespace().nth(1).expect("a time");
    assert!(time.len() == "2026-01-31T12:00:00Z".len() && time.ends_with('Z'), "to the second, in UTC: {time}");
    let list = |arguments: &[&str]| -> Vec<Value> {
        serde_json::from_str(&output(&daemon, &[&["dead-letter", "list", "--json"], arguments].concat())).expect("a JSON array")
    };
    assert_eq!(list(&[]).len(), 4);
    assert_eq!(list(&["--reason", "final"]).len(), 0);
    assert_eq!(list(&["--until", "1h"]).len(), 0);

    healthy.store(true, Ordering::Relaxed);
    let letters = list(&["--endpoint", "one"]);
    let first = letters[0]["id"].as_str().expect("an id");
    assert_eq!(output(&daemon, &["dead-letter", "redrive", first]).trim(), "1 sent again, 0 skipped");
    receiver.wait_for(5, WITHIN).await;
    daemon.until_metric("posthaste_dead_letters", WITHIN, |count| count == 3.0).await;
    let again = failure(&daemon, &["dead-letter", "redrive", first]);
    assert!(again.contains("nothing was sent again"), "{again}");
    let job: Value = serde_json::from_str(&output(&daemon, &["dead-letter", "redrive", "--all", "--json"])).expect("JSON");
    assert_eq!((&job["redriven"], &job["skipped"]), (&3.into(), &0.into()), "{job}");
    let requests = receiver.wait_for(8, WITHIN).await;
    assert_eq!(requests[4..].iter().filter(|request| request.path == "/two").count(), 2);
    daemon.until_metric("posthaste_dead_letters", WITHIN, |count| count == 0.0).await;
    assert_eq!(run(&["dead-letter", "redrive"]).status.code(), Some(2), "what to redrive has to be said");
    assert_eq!(run(&["dead-letter", "list", "--reason", "bad luck"]).status.code(), Some(2));
    daemon.stop().await;
    assert_eq!(receiver.count(), 8);
}

#[test]
fn check_judges_prints_without_secrets_and_writes_the_manual() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let manual = run(&["check", "--manual"]);
    assert!(manual.status.success());
    let manual = file("manual.toml", &String::from_utf8(manual.stdout).expect("text"));
    for right in [&["check"][..], &["check", "--config", &manual]] {
        let output = run(right);
        assert!(output.status.success(), "{right:?}: {}", errors(&output));
    }
    for example in ["standalone.toml", "cluster.toml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(example);
        // What the example for a fleet leaves to the environment.
        let secrets = [
            ("POSTHASTE_REGISTRY__KEY", "cG9zdGhhc3RlIHRlc3Qga2V5LCAzMiBieXRlcyBsb24="),
            ("POSTHASTE_API__ADMIN_TOKEN", "0123456789abcdef"),
        ];
        let output = command(&["check", "--config", path.to_str().expect("text")]).envs(secrets).output().expect("it runs");
        assert!(output.status.success(), "{example}: {}", errors(&output));
    }
    let secret = file("secret.toml", "[api]\nadmin_token = \"do-not-print-this-one\"\n");
    let output = run(&["check", "--config", &secret, "--print"]);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && printed.contains("admin_token") && !printed.contains("do-not-print"), "{printed}");

    let wrong = file("wrong.toml", "[scheduler]\nslots = 0\n[retry]\nschedule = [\"soon\"]\n");
    let output = run(&["check", "--config", &wrong]);
    let said = errors(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("wrong.toml:2") && said.contains("wrong.toml:4"), "{said}");
    let absent = run(&["check", "--config", "/no/such/file.toml"]);
    assert!(absent.status.code() == Some(2) && errors(&absent).contains("/no/such/file.toml"), "{}", errors(&absent));
}

#[test]
fn completions_are_written_for_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        let script = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success() && script.contains("dead-letter"), "{shell}: {script}");
        if shell == "bash" {
            let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().expect("bash");
            bash.stdin.take().expect("piped").write_all(script.as_bytes()).expect("it reads");
            assert!(bash.wait().expect("it ends").success(), "bash can read it");
        }
    }
    assert_eq!(run(&["completions", "tcl"]).status.code(), Some(2));
}

/// The number that follows a word of the demo's summary.
fn figure(lines: &[String], word: &str) -> u64 {
    let line = lines.iter().rev().find(|line| line.starts_with(word)).unwrap_or_else(|| panic!("no {word} in {lines:#?}"));
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{line}"))
}

fn judge_summary(lines: &[String]) {
    let (sent, delivered) = (figure(lines, "sent"), figure(lines, "delivered"));
    assert!(sent > 0, "{lines:#?}");
    assert!(delivered >= sent / 2, "the fast one gets what comes: {lines:#?}");
    assert_eq!(figure(lines, "duplicates"), 0, "{lines:#?}");
    // Nothing is suspended so early: what was not delivered waits.
    assert_eq!(figure(lines, "waiting"), 3 * sent - delivered, "{lines:#?}");
    assert!(figure(lines, "verified") >= delivered, "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("verified") && line.contains(" 0 wrong")), "{lines:#?}");
}

#[test]
fn the_demo_runs_for_the_seconds_it_is_given_and_prints_plain_lines() {
    let begun = Instant::now();
    let output = run(&["demo", "--seconds", "3", "--rate", "100/s"]);
    let took = begun.elapsed();
    assert!(output.status.success(), "{}", errors(&output));
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(12), "{took:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(!text.contains('\u{1b}'), "no terminal, no control characters: {text}");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for endpoint in ["fast", "recovers", "hangs"] {
        assert!(lines.iter().any(|line| line.starts_with(endpoint) && line.contains("active")), "{lines:#?}");
    }
    assert!(lines.iter().filter(|line| line.starts_with("  ")).count() >= 3, "three commands to try: {lines:#?}");
    assert!(figure(&lines, "sent") >= 250, "{lines:#?}");
    judge_summary(&lines);
}

#[test]
fn ctrl_c_ends_the_demo_soon_and_with_a_true_summary() {
    let demo = Running::start(command(&["demo", "--rate", "200/s"]));
    // The second picture: by then much waits, and something hangs.
    eventually("a picture of the demo", WITHIN, || {
        (demo.lines().iter().filter(|line| line.starts_with("ENDPOINT")).count() >= 2).then_some(())
    });
    let (lines, _, took) = demo.interrupt();
    assert!(took < DEMO_ENDS_WITHIN, "{took:?}: {lines:#?}");
    judge_summary(&lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_created_listed_and_deleted() {
    let daemon = Site::new(Backend::Standalone).start().await;
    let made = output(&daemon, &["token", "create", "partner", "--kind", "signature", "--role", "developer", "--tenant", "acme"]);
    assert!(made.contains("key     phk_") && made.contains("secret  phs_"), "{made}");
    let csv = output(&daemon, &["token", "create", "ci", "--csv"]);
    assert!(
        csv.starts_with("id,name,kind,role,tenant,createdAt,key,secret\r\ntok_") && csv.contains(",ci,standard,viewer,default,"),
        "{csv}"
    );
    let list = output(&daemon, &["token", "list", "--tenant", "acme"]);
    let row = list.lines().find(|line| line.contains("partner")).unwrap_or_else(|| panic!("{list}"));
    assert!(row.contains("signature") && row.contains("developer") && !list.contains("phk_") && !list.contains("ci"), "{list}");
    let id = row.split_whitespace().next().expect("an id");
    assert!(output(&daemon, &["token", "delete", id]).contains(id));
    assert!(failure(&daemon, &["token", "delete", id]).contains(id));
    assert!(!output(&daemon, &["token", "list"]).contains("partner"));
    daemon.stop().await;
}
