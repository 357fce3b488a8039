//! Access tokens, from token endpoints that do what real ones do, and worse.

use std::{cell::Cell, sync::Mutex};

use http::HeaderName;
use tokio::{
    io::AsyncWriteExt,
    sync::{Notify, mpsc},
    time::{advance, pause, resume},
};

use super::*;
use crate::{
    delivery::RefreshTokens,
    model::{Attempt, Failure, OAuth2, Outcome, Secret},
};

/// An answer as it goes over the wire.
fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Token number `n` with a life of an hour.
fn token(n: usize) -> String {
    answer("200 OK", &format!(r#"{{"access_token":"t{n}","token_type":"Bearer","expires_in":3600}}"#))
}

/// A server that answers its `n`-th request (from 1) with what `script` says; with nothing at all if that is empty.
async fn server(script: impl Fn(usize, &Seen) -> String + 'static) -> (SocketAddr, mpsc::Receiver<Seen>) {
    let (seen, requests) = mpsc::channel(1000);
    let (script, count) = (Rc::new(script), Rc::new(Cell::new(0)));
    let (address, _) = listen(move |_, mut stream| {
        let (seen, script, count) = (seen.clone(), Rc::clone(&script), Rc::clone(&count));
        async move {
            while let Some(request) = read_request(&mut stream).await {
                count.set(count.get() + 1);
                let answer = script(count.get(), &request);
                // Not every test looks at them.
                let _ = seen.send(request).await;
                if answer.is_empty() {
                    std::future::pending::<()>().await;
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    (address, requests)
}

/// A receiver that takes what has the token `accepted`, and answers everything else with 401.
async fn guarded(accepted: &'static str) -> (SocketAddr, mpsc::Receiver<Seen>) {
    server(move |_, request| {
        let known = request.headers.get("authorization").is_some_and(|given| given == accepted);
        answer(if known { "200 OK" } else { "401 Unauthorized" }, "")
    })
    .await
}

fn client(url: &str) -> OAuth2 {
    OAuth2 {
        url: EndpointUrl::parse(url).unwrap(),
        headers: Vec::new(),
        query: Vec::new(),
        client_id: "cid".into(),
        client_secret: Secret::new("c sec&ret"),
        refresh_token: None,
        expires_in: None,
    }
}

fn guarded_by(receiver: SocketAddr, client: OAuth2) -> Arc<Endpoint> {
    Arc::new(Endpoint { auth: Auth::OAuth2(Arc::new(client)), ..endpoint(&format!("http://{receiver}/")) })
}

fn received(requests: &mut mpsc::Receiver<Seen>) -> Vec<Seen> {
    std::iter::from_fn(|| requests.try_recv().ok()).collect()
}

fn fields(request: &Seen) -> Vec<(String, String)> {
    url::form_urlencoded::parse(&request.body).into_owned().collect()
}

fn field(request: &Seen, name: &str) -> Option<String> {
    fields(request).into_iter().find(|(field, _)| field == name).map(|(_, value)| value)
}

/// The lives of many tokens.
fn run_for_hours<T>(scenario: impl Future<Output = T>) -> T {
    run_within(Duration::from_secs(100 * 3600), scenario)
}

/// Deadlines that a busy machine does not miss.
fn patient() -> Config {
    Config { response_timeout: Duration::from_secs(20), connect_timeout: Duration::from_secs(20), ..config() }
}

/// Lets time pass for everybody.
async fn later(seconds: u64) {
    pause();
    advance(Duration::from_secs(seconds)).await;
    resume();
}

#[test]
fn fifty_deliveries_that_wait_fetch_one_token() {
    run(async {
        let (idp, mut asked) = server(|n, _| token(n)).await;
        let (receiver, mut requests) = guarded("Bearer t1").await;
        let (sender, endpoint, delivery) =
            (sender(&patient()), guarded_by(receiver, client(&format!("http://{idp}/token"))), delivery("{}"));
        let all = futures_util::future::join_all((0..50).map(|_| sender.attempt(&delivery, &endpoint))).await;
        assert!(all.iter().all(|attempt| attempt.outcome == Outcome::Delivered), "{all:?}");
        assert_eq!((received(&mut asked).len(), received(&mut requests).len()), (1, 50));
        sender.attempt(&delivery, &endpoint).await;
        assert_eq!(received(&mut asked).len(), 0, "it is kept");
    });
}

#[test]
fn a_fetch_goes_on_when_the_delivery_that_began_it_is_dropped() {
    run(async {
        let (idp, mut asked) = server(|n, _| token(n)).await;
        let (receiver, _) = guarded("Bearer t1").await;
        let (sender, endpoint, delivery) =
            (sender(&patient()), guarded_by(receiver, client(&format!("http://{idp}/token"))), delivery("{}"));
        {
            let mut first = std::pin::pin!(sender.attempt(&delivery, &endpoint));
            assert!(futures_util::poll!(first.as_mut()).is_pending());
        }
        assert_eq!(sender.attempt(&delivery, &endpoint).await.outcome, Outcome::Delivered);
        assert_eq!(received(&mut asked).len(), 1);
    });
}

#[test]
fn a_token_is_renewed_early_and_nobody_waits_for_it() {
    run_for_hours(async {
        let (release, asked_again) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
        let (held, told) = (Rc::clone(&release), Rc::clone(&asked_again));
        let (idp, count) = listen(move |number, mut stream| {
            let (held, told) = (Rc::clone(&held), Rc::clone(&told));
            async move {
                read_request(&mut stream).await.unwrap();
                if number == 2 {
                    told.notify_one();
                    held.notified().await;
                }
                stream.write_all(token(number).as_bytes()).await.unwrap();
            }
        })
        .await;
        let (receiver, mut requests) = server(|_, _| answer("200 OK", "")).await;
        let sent_with = |requests: &mut mpsc::Receiver<Seen>| received(requests).last().unwrap().headers["authorization"].clone();
        let (sender, endpoint, delivery) =
            (sender(&patient()), guarded_by(receiver, client(&format!("http://{idp}/token"))), delivery("{}"));
        sender.attempt(&delivery, &endpoint).await;
        later(3600 * 7 / 10).await;
        sender.attempt(&delivery, &endpoint).await;
        assert_eq!(*count.borrow(), 1, "not yet due");
        later(3600 * 12 / 100).await;
        for _ in 0..5 {
            assert_eq!(sender.attempt(&delivery, &endpoint).await.outcome, Outcome::Delivered);
            assert_eq!(sent_with(&mut requests), "Bearer t1", "the renewal is under way");
        }
        asked_again.notified().await;
        release.notify_one();
        while sent_with({
            sender.attempt(&delivery, &endpoint).await;
            &mut requests
        }) != "Bearer t2"
        {}
        assert_eq!(*count.borrow(), 2);
        later(3600).await;
        sender.attempt(&delivery, &endpoint).await;
        assert_eq!((sent_with(&mut requests), *count.borrow()), ("Bearer t3".parse().unwrap(), 3), "an old one is not sent");
    });
}

#[test]
fn a_renewal_that_fails_harms_nobody_while_the_token_lives() {
    run_for_hours(async {
        let (idp, mut asked) = server(|n, _| if n == 1 { token(1) } else { answer("500 Oops", "") }).await;
        let (receiver, _) = guarded("Bearer t1").await;
        let (sender, endpoint, delivery) =
            (sender(&patient()), guarded_by(receiver, client(&format!("http://{idp}/token"))), delivery("{}"));
        sender.attempt(&delivery, &endpoint).await;
        later(3600 * 85 / 100).await;
        // Some of these find the renewal under way, some that it has failed.
        for _ in 0..20 {
            assert_eq!(sender.attempt(&delivery, &endpoint).await.outcome, Outcome::Delivered);
        }
        assert!(received(&mut asked).len() <= 2, "and it is not tried again at once");
        later(3600 * 15 / 100).await;
        assert_eq!(sender.attempt(&delivery, &endpoint).await.outcome.class(), "token_endpoint");
    });
}

#[test]
fn the_life_of_a_token_is_its_own_or_what_the_endpoint_says() {
    run_for_hours(async {
        let kind = r#""access_token":"t","token_type":"Bearer""#;
        // What the answer says, what the endpoint says; seconds after which it is still used, and after which it is not.
        for (said, configured, kept, gone) in [
            (r#","expires_in":100"#, Some(1000), 70, 100),
            ("", Some(100), 70, 100),
            ("", None, 2500, 3600),
            (r#","expires_in":"soon""#, Some(100), 70, 100),
        ] {
            let body = answer("200 OK", &format!("{{{kind}{said}}}"));
            let (idp, mut asked) = server(move |_, _| body.clone()).await;
            let (receiver, _) = guarded("Bearer t").await;
            let client = OAuth2 { expires_in: configured.map(Duration::from_secs), ..client(&format!("http://{idp}/token")) };
            let (sender, endpoint, delivery) = (sender(&patient()), guarded_by(receiver, client), delivery("{}"));
            sender.attempt(&delivery, &endpoint).await;
            later(kept).await;
            sender.attempt(&delivery, &endpoint).await;
            assert_eq!(received(&mut asked).len(), 1, "{said} {configured:?}");
            later(gone - kept).await;
            assert_eq!(sender.attempt(&delivery, &endpoint).await.outcome, Outcome::Delivered);
            assert_eq!(received(&mut asked).len(), 1, "{said} {configured:?}");
        }
    });
}

#[test]
fn a_401_costs_a_fresh_token_and_one_more_request_of_the_same_attempt() {
    run(async {
        let (idp, mut asked) = server(|n, _| token(n)).await;
        let (receiver, mut requests) = guarded("Bearer t2").await;
        let (sender, endpoint, delivery) =
            (sender(&patient()), guarded_by(receiver, client(&format!("http://{idp}/token"))), delivery("{}"));
        let all = futures_util::future::join_all((0..20).map(|_| sender.attempt(&delivery, &endpoint))).await;
        assert!(all.iter().all(|attempt| attempt.outcome == Outcome::Delivered && attempt.status == Some(200) && attempt.number == 1));
        assert_eq!((received(&mut asked).len(), received(&mut requests).len()), (2, 40), "all of them share the fresh one");
    });
}

#[test]
fn a_receiver_that_refuses_every_token_gets_two_requests_an_attempt() {
    run(async {
        let (idp, mut asked) = server(|n, _| token(n)).await;
        let (receiver, mut requests) = guarded("nothing").await;
        let (sender, endpoint, delivery) =
            (sender(&patient()), guarded_by(receiver, client(&format!("http://{idp}/token"))), delivery("{}"));
        for (fetches, attempt) in [(2, 1), (1, 2), (1, 3)] {
            let found = sender.attempt(&delivery, &endpoint).await;
            assert_eq!((found.outcome, found.status), (Outcome::Failed(Failure::Status(401)), Some(401)));
            assert_eq!((received(&mut asked).len(), received(&mut requests).len()), (fetches, 2), "attempt {attempt}");
        }
    });
}

/// What was asked to keep, and what is kept.
type Kept = Arc<Mutex<Option<(Secret, Secret)>>>;

fn keeping(kept: &Kept) -> Sender {
    let shared = Shared::new(&patient(), Arc::new(SystemClock), Metrics::new()).unwrap();
    let (load, store) = (Arc::clone(kept), Arc::clone(kept));
    shared.keep_refresh_tokens(RefreshTokens {
        load: Box::new(move |_, given| load.lock().unwrap().as_ref().filter(|(of, _)| of == given).map(|(_, token)| token.clone())),
        store: Box::new(move |endpoint, given, token| {
            assert_eq!(endpoint, "ep_1");
            *store.lock().unwrap() = Some((given.clone(), token));
        }),
    });
    Sender::new(shared)
}

#[test]
fn a_refresh_token_is_used_first_and_rotates_across_restarts() {
    run_for_hours(async {
        // Takes only the refresh token that it gave last.
        let newest = Rc::new(RefCell::new("r0".to_owned()));
        let (idp, mut asked) = server(move |n, request| {
            if field(request, "refresh_token").as_ref() != Some(&*newest.borrow()) {
                return answer("400 Bad Request", r#"{"error":"invalid_grant"}"#);
            }
            *newest.borrow_mut() = format!("r{n}");
            answer("200 OK", &format!(r#"{{"access_token":"t","token_type":"Bearer","expires_in":60,"refresh_token":"r{n}"}}"#))
        })
        .await;
        let (receiver, _) = guarded("Bearer t").await;
        let client = OAuth2 { refresh_token: Some(Secret::new("r0")), ..client(&format!("http://{idp}/token")) };
        let (endpoint, delivery, kept) = (guarded_by(receiver, client), delivery("{}"), Kept::default());
        let mut tokens = Vec::new();
        for _ in 0..2 {
            // A new sender is a new process: it knows what is kept.
            let sender = keeping(&kept);
            for _ in 0..2 {
                assert_eq!(sender.attempt(&delivery, &endpoint).await.outcome, Outcome::Delivered);
                later(60).await;
            }
        }
        for request in received(&mut asked) {
            let fields = fields(&request);
            assert_eq!(
                fields.iter().map(|(name, _)| &**name).collect::<Vec<_>>(),
                ["grant_type", "refresh_token", "client_id", "client_secret"]
            );
            assert_eq!(fields[0].1, "refresh_token");
            tokens.push(fields[1].1.clone());
        }
        assert_eq!(tokens, ["r0", "r1", "r2", "r3"]);
    });
}

#[test]
fn a_refused_refresh_token_gives_way_to_the_clients_own_credentials() {
    run_for_hours(async {
        let (idp, mut asked) = server(|_, request| match field(request, "grant_type").as_deref() {
            Some("client_credentials") => answer("200 OK", r#"{"access_token":"t","expires_in":60}"#),
            _ => answer("400 Bad Request", r#"{"error":"invalid_grant"}"#),
        })
        .await;
        let (receiver, _) = guarded("Bearer t").await;
        let client = OAuth2 { refresh_token: Some(Secret::new("r0")), ..client(&format!("http://{idp}/token")) };
        let (sender, endpoint, delivery) = (keeping(&Kept::default()), guarded_by(receiver, client), delivery("{}"));
        for grants in [&["refresh_token", "client_credentials"][..], &["client_credentials"]] {
            assert_eq!(sender.attempt(&delivery, &endpoint).await.outcome, Outcome::Delivered);
            let asked: Vec<_> = received(&mut asked).iter().map(|request| field(request, "grant_type").unwrap()).collect();
            assert_eq!(asked, grants);
            later(60).await;
        }
    });
}

#[test]
fn a_refresh_token_that_another_instance_has_exchanged_is_taken_over() {
    run(async {
        let (idp, mut asked) = server(|_, request| match field(request, "refresh_token").as_deref() {
            Some("r5") => answer("200 OK", r#"{"access_token":"t","expires_in":60}"#),
            _ => answer("400 Bad Request", r#"{"error":"invalid_grant"}"#),
        })
        .await;
        let (receiver, _) = guarded("Bearer t").await;
        let client = OAuth2 { refresh_token: Some(Secret::new("r0")), ..client(&format!("http://{idp}/token")) };
        let kept = Kept::default();
        *kept.lock().unwrap() = Some((Secret::new("r0"), Secret::new("r5")));
        assert_eq!(keeping(&kept).attempt(&delivery("{}"), &guarded_by(receiver, client)).await.outcome, Outcome::Delivered);
        assert_eq!(received(&mut asked).len(), 1);
    });
}

async fn failed(url: &str, config: &Config) -> (Attempt, Failure, String) {
    let (receiver, mut requests) = server(|_, _| answer("200 OK", "")).await;
    let attempt = sender(config).attempt(&delivery("{}"), &guarded_by(receiver, client(url))).await;
    assert_eq!(received(&mut requests).len(), 0, "nothing is sent without a token");
    let Outcome::Failed(Failure::Token { cause, text }) = attempt.outcome.clone() else { panic!("{attempt:?}") };
    (attempt, *cause, text)
}

#[test]
fn a_token_endpoint_that_fails_is_a_failure_that_says_so() {
    run(async {
        let huge = answer("200 OK", &format!(r#"{{"access_token":"t","padding":"{}"}}"#, "x".repeat(100_000)));
        let timeout = true;
        for (name, said, class, text, weighs) in [
            ("a 500", answer("500 Oops", "<html>hunter2</html>"), "status_5xx", "token endpoint: status 500", !timeout),
            (
                "a refusal",
                answer("401 No", r#"{"error":"invalid_client"}"#),
                "status_4xx",
                "token endpoint: status 401 (invalid_client)",
                !timeout,
            ),
            ("gone", answer("410 Gone", ""), "status_4xx", "token endpoint: status 410", !timeout),
            (
                "elsewhere",
                "HTTP/1.1 302 Found\r\nlocation: http://h/\r\ncontent-length: 0\r\n\r\n".into(),
                "redirect",
                "token endpoint: status 302",
                !timeout,
            ),
            ("no JSON", answer("200 OK", "hunter2"), "protocol", "token endpoint: its answer is no JSON", !timeout),
            ("no token", answer("200 OK", r#"{"a":"hunter2"}"#), "protocol", "token endpoint: its answer has no `access_token`", !timeout),
            ("too much", huge, "protocol", "token endpoint: its answer is longer than 65536 bytes", !timeout),
            ("no HTTP", "hunter2\r\n\r\n".into(), "protocol", "token endpoint: ", !timeout),
            ("silence", String::new(), "response_timeout", "token endpoint: response_timeout", timeout),
            (
                "half an answer",
                "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".into(),
                "body_timeout",
                "token endpoint: body_timeout",
                timeout,
            ),
        ] {
            let (idp, _asked) = server(move |_, _| said.clone()).await;
            let (attempt, cause, told) = failed(&format!("http://{idp}/token"), &config()).await;
            assert_eq!(cause.class(), class, "{name}: {told}");
            assert!(told.starts_with(text) && !told.contains("hunter2"), "{name}: {told}");
            let Outcome::Failed(failure) = &attempt.outcome else { panic!("{name}") };
            assert_eq!((failure.class(), failure.is_timeout(), attempt.status), ("token_endpoint", weighs, None), "{name}");
            assert_ne!(failure.blame(), crate::model::Blame::Us, "{name}");
            assert!(attempt.elapsed < LATE, "{name}");
        }
    });
}

#[test]
fn tokens_are_fetched_only_from_where_deliveries_may_go() {
    run(async {
        for (url, allowed) in [
            // Private, and not listed.
            ("https://10.0.0.1/token", "127.0.0.0/8"),
            ("http://169.254.169.254/latest/token", "127.0.0.0/8"),
            // Public, but the client's secret would travel in clear.
            ("http://8.8.8.8/token", "127.0.0.0/8"),
        ] {
            let config = Config { allow_networks: vec![allowed.parse().unwrap()], ..config() };
            let (_, cause, text) = failed(url, &config).await;
            assert_eq!(cause.class(), "address_refused", "{url}");
            assert!(text.starts_with("token endpoint: ") && text.contains("delivery.allow_networks"), "{text}");
        }
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(failed(&format!("http://{free}/token"), &config()).await.1, Failure::Refused);
    });
}

#[test]
fn what_we_lack_is_not_the_token_endpoints_fault() {
    run(async {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = Config { proxy: Some(format!("http://{silent}").parse().unwrap()), ..config() };
        let endpoint = guarded_by(silent, client("https://8.8.8.8/token"));
        let attempt = sender(&config).attempt(&delivery("{}"), &endpoint).await;
        assert!(matches!(&attempt.outcome, Outcome::Failed(Failure::Local(text)) if text.starts_with("token endpoint: ")), "{attempt:?}");
    });
}

/// WIRE.md 1.4 and section 0, row 9.
#[test]
fn the_request_is_a_form_or_json_with_the_headers_and_parameters_of_the_endpoint() {
    run(async {
        let header = |name: &'static str, value: &str| (HeaderName::from_static(name), Secret::new(value));
        for (kind, json) in [
            (None, false),
            (Some("application/x-www-form-urlencoded; charset=utf-8"), false),
            (Some("application/json"), true),
            (Some("Application/JSON; charset=utf-8"), true),
            (Some("application/vnd.idp+json"), true),
        ] {
            let (idp, mut asked) = server(|n, _| token(n)).await;
            let (receiver, _) = guarded("Bearer t1").await;
            let mut client = client(&format!("http://{idp}/oauth/token?tenant=a%20b"));
            client.headers = vec![header("x-team", "blue"), header("authorization", "Basic abc"), header("host", "elsewhere")];
            client.headers.extend(kind.map(|kind| header("content-type", kind)));
            client.query = vec![("audience".into(), Secret::new("https://hooks?x&y")), ("v".into(), Secret::new("1"))];
            assert_eq!(sender(&patient()).attempt(&delivery("{}"), &guarded_by(receiver, client)).await.outcome, Outcome::Delivered);
            let request = asked.recv().await.unwrap();
            assert_eq!(request.line, "POST /oauth/token?tenant=a%20b&audience=https%3A%2F%2Fhooks%3Fx%26y&v=1 HTTP/1.1");
            for (name, value) in [
                ("content-type", kind.unwrap_or("application/x-www-form-urlencoded")),
                ("accept", "application/json"),
                ("x-team", "blue"),
                ("authorization", "Basic abc"),
                ("host", &*idp.to_string()),
                ("user-agent", concat!("posthaste/", env!("CARGO_PKG_VERSION"))),
            ] {
                assert_eq!(request.headers.get_all(name).iter().collect::<Vec<_>>(), [value], "{kind:?}");
            }
            let expected = [("grant_type", "client_credentials"), ("client_id", "cid"), ("client_secret", "c sec&ret")];
            if json {
                let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&request.body).unwrap();
                assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value.into())).into_iter().collect());
            } else {
                assert_eq!(fields(&request), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
            }
        }
    });
}

#[test]
fn a_token_outlives_changes_of_the_endpoint_but_not_of_its_auth() {
    run(async {
        let (idp, mut asked) = server(|n, _| token(n)).await;
        let (receiver, _requests) = server(|_, _| answer("200 OK", "")).await;
        let (sender, delivery) = (sender(&patient()), delivery("{}"));
        let first = client(&format!("http://{idp}/token"));
        let changed = Endpoint { description: Some("another".into()), ..(*guarded_by(receiver, first.clone())).clone() };
        let other = OAuth2 { client_id: "other".into(), ..first.clone() };
        for (endpoint, fetches) in [
            (guarded_by(receiver, first.clone()), 1),
            (guarded_by(receiver, first), 0),
            (Arc::new(changed), 0),
            (guarded_by(receiver, other.clone()), 1),
            (guarded_by(receiver, other), 0),
        ] {
            assert_eq!(sender.attempt(&delivery, &endpoint).await.outcome, Outcome::Delivered);
            assert_eq!(received(&mut asked).len(), fetches);
        }
    });
}
