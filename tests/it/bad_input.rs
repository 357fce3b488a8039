//! What is wrong gets a clear error and harms nothing else.

use std::{process::Command, time::Duration};

use http::{Method, StatusCode};
use serde_json::json;

use crate::support::{
    daemon::{Backend, Site, both_backends, event},
    free_ports, kafka,
    receiver::Receiver,
};

both_backends!(wrong_requests_are_problems_and_store_nothing, endpoints_that_may_not_be_called_are_refused_with_the_key_to_allow_them);

const WITHIN: Duration = Duration::from_secs(20);

async fn wrong_requests_are_problems_and_store_nothing(backend: Backend) {
    let receiver = Receiver::accepting().await;
    let daemon = Site::new(backend).start().await;
    daemon.add_endpoint(json!({ "id": "e", "url": receiver.url("/") })).await;
    for (what, method, path, body, expected, mention) in [
        ("a missing field", Method::POST, "/v1/events", json!({ "id": "x", "channel": "c", "data": {} }), StatusCode::BAD_REQUEST, "type"),
        (
            "a wrong type",
            Method::POST,
            "/v1/events",
            json!({ "id": 7, "type": "t", "channel": "c", "time": "2026-01-15T12:00:00Z", "data": {} }),
            StatusCode::BAD_REQUEST,
            "id",
        ),
        (
            "a wrong time",
            Method::POST,
            "/v1/events",
            json!({ "id": "x", "type": "t", "channel": "c", "time": "yesterday", "data": {} }),
            StatusCode::BAD_REQUEST,
            "time",
        ),
        (
            "one wrong event among good ones",
            Method::POST,
            "/v1/events",
            json!([event(1, "c", "t"), { "id": "x" }]),
            StatusCode::BAD_REQUEST,
            "type",
        ),
        (
            "an unknown field",
            Method::POST,
            "/v1/endpoints",
            json!({ "url": receiver.url("/"), "colour": "red" }),
            StatusCode::BAD_REQUEST,
            "colour",
        ),
        (
            "an unknown format",
            Method::POST,
            "/v1/endpoints",
            json!({ "url": receiver.url("/"), "format": "xml" }),
            StatusCode::UNPROCESSABLE_ENTITY,
            "cloudevents",
        ),
        ("a wrong method", Method::PUT, "/v1/events", json!({}), StatusCode::METHOD_NOT_ALLOWED, ""),
        ("no such endpoint", Method::PATCH, "/v1/endpoints/nobody", json!({ "description": "x" }), StatusCode::NOT_FOUND, "nobody"),
        ("no such path", Method::GET, "/v1/nothing", json!(null), StatusCode::NOT_FOUND, ""),
    ] {
        let (status, answer) = daemon.call(method, path, Some(body)).await;
        assert_eq!(status, expected, "{what}: {answer}");
        assert_eq!(answer["status"], expected.as_u16(), "{what} is a problem document: {answer}");
        assert!(answer.to_string().contains(mention), "{what}: {answer} does not name `{mention}`");
    }
    let (status, _) = daemon.call_as("no-such-token", Method::GET, "/v1/endpoints", None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    daemon.send(&[event(99, "c", "t")]).await;
    receiver.wait_for(1, WITHIN).await;
    daemon.stop().await;
    assert_eq!(receiver.count(), 1, "nothing of what was refused was stored");
}

async fn endpoints_that_may_not_be_called_are_refused_with_the_key_to_allow_them(backend: Backend) {
    let daemon = Site::new(backend).start_with(&[("POSTHASTE_DELIVERY__ALLOW_NETWORKS", "[]")]).await;
    for (url, mention) in [
        ("ftp://example.com/", "http"),
        ("https://user:pass@example.com/", "credentials"),
        ("http://127.0.0.1:8080/", "delivery.allow_networks"),
        ("http://169.254.169.254/latest/meta-data/", "delivery.allow_networks"),
        ("http://[::1]/", "delivery.allow_networks"),
        ("http://2130706433/", "delivery.allow_networks"),
        ("http://[::ffff:10.0.0.1]/", "delivery.allow_networks"),
    ] {
        let (status, answer) = daemon.call(Method::POST, "/v1/endpoints", Some(json!({ "url": url }))).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{url}: {answer}");
        assert!(answer.to_string().contains(mention), "{url}: {answer}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_no_events_go_to_dead_letters_and_the_next_goes_on() {
    let receiver = Receiver::accepting().await;
    let site = Site::new(Backend::Cluster);
    let daemon = site.start().await;
    daemon.add_endpoint(json!({ "id": "e", "url": receiver.url("/") })).await;
    let good = event(1, "c", "t").to_string();
    for (record, headers) in [
        ("no JSON at all", vec![]),
        ("{\"id\":\"x\"}", vec![]),
        ("[]", vec![]),
        ("{\"id\":\"x\",\"type\":\"t\",\"channel\":\"c\",\"time\":\"2026-01-15T12:00:00Z\",\"data\":{},", vec![]),
        ("{}", vec!["-H", "ce_specversion=9.9", "-H", "ce_id=1"]),
        (good.as_str(), vec!["-H", "foreign=header", "-H", "posthaste-delivery-x=1"]),
    ] {
        kafka::produce(&site.events_topic(), record, &headers);
    }
    receiver.wait_for(1, WITHIN).await;
    daemon.until_metric("posthaste_dead_letters", WITHIN, |count| count == 5.0).await;
    let letters = daemon.ok(Method::GET, "/v1/dead-letters", None).await;
    let items = letters["items"].as_array().expect("items");
    assert!(items.iter().all(|item| item["reason"] == "unparsable"), "{letters}");
    assert_eq!(daemon.metric("posthaste_events_total{result=\"unparsable\"").await, 5.0);
    daemon.stop().await;
}

#[test]
fn a_wrong_configuration_ends_with_two_and_every_problem_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("wrong.toml");
    std::fs::write(
        &file,
        "[api]\nlisten = 7\nlissten = \"x\"\n\n[delivery]\nresponse_timeout = \"soon\"\n\n[scheduler]\nslots = 0\n\n[nonsense]\n",
    )
    .expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_posthaste")).arg("serve").arg("--config").arg(&file).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    for (line, key) in [(2, "api.listen"), (3, "api.lissten"), (6, "delivery.response_timeout"), (9, "scheduler.slots"), (11, "nonsense")] {
        assert!(text.contains(key), "{key} is not named:\n{text}");
        assert!(text.contains(&format!("wrong.toml:{line}")), "line {line} is not named:\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_in_use_a_port_in_use_and_a_wrong_key_end_with_one_line() {
    let site = Site::new(Backend::Standalone);
    let daemon = site.start().await;
    let receiver = Receiver::accepting().await;
    daemon.add_endpoint(json!({ "id": "e", "url": receiver.url("/"), "signing": "standard" })).await;
    let mut second = site.spawn(&[]);
    let status = second.wait(WITHIN).await;
    assert!(!status.success());
    assert!(second.log_text().contains("in use"), "{}", second.log_text());

    let port = daemon.api.trim_start_matches("http://").to_owned();
    let other = Site::new(Backend::Standalone);
    let mut third = other.spawn(&[("POSTHASTE_API__LISTEN", &port)]);
    let status = third.wait(WITHIN).await;
    assert!(!status.success());
    assert!(third.log_text().contains("api.listen"), "{}", third.log_text());
    daemon.stop().await;

    let mut fourth = site.spawn(&[("POSTHASTE_REGISTRY__KEY", "b3RoZXIgb3RoZXIgb3RoZXIgb3RoZXIgb3RoZXIgb3Q=")]);
    let status = fourth.wait(WITHIN).await;
    assert!(!status.success());
    assert!(fourth.log_text().contains("registry.key"), "{}", fourth.log_text());
    assert!(!fourth.log_text().contains("panicked"), "{}", fourth.log_text());

    // Without the key that it was made with, no other one is made: it would open nothing, and be in the way of the one that does.
    let file = site.directory.path().join("without-key.toml");
    let without: String = site.config().lines().filter(|line| !line.starts_with("key = ")).map(|line| format!("{line}\n")).collect();
    std::fs::write(&file, without).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_posthaste")).arg("serve").arg("--config").arg(&file).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr);
    let key = site.directory.path().join("data").join("registry.key");
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("put its file back as {}", key.display())), "{text}");
    assert!(!key.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_waits_for_its_broker_tells_whoever_asks() {
    let [api, admin, broker] = free_ports();
    let (api, admin) = (format!("127.0.0.1:{api}"), format!("127.0.0.1:{admin}"));
    let mut daemon = Site::new(Backend::Cluster).spawn(&[
        ("POSTHASTE_KAFKA__BROKERS", &format!("127.0.0.1:{broker}")),
        ("POSTHASTE_API__LISTEN", &api),
        ("POSTHASTE_ADMIN__LISTEN", &admin),
    ]);
    let answer = daemon.until_unavailable(&format!("http://{api}/v1/endpoints"), "the daemon is starting: ", WITHIN).await;
    assert!(answer.contains("\"status\":503"), "{answer}");
    // A product's path has the product's shape.
    let answer = daemon.until_unavailable(&format!("http://{api}/v2/subscriptions"), "the daemon is starting: ", WITHIN).await;
    assert!(!answer.contains("\"status\":503"), "{answer}");
    daemon.until_unavailable(&format!("http://{admin}/ready"), "starting", WITHIN).await;
    daemon.signal("TERM");
    assert!(daemon.wait(WITHIN).await.success(), "{}", daemon.log_text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_whose_broker_does_not_answer_is_not_ready_until_it_does() {
    let broker = kafka::Broker::start(&[]);
    let mut daemon = Site::new(Backend::Cluster).start_with(&[("POSTHASTE_KAFKA__BROKERS", &broker.address())]).await;
    broker.freeze();
    daemon.until_unavailable(&format!("{}/ready", daemon.admin), "registry: ", WITHIN).await;
    broker.thaw();
    daemon.until_ready(3 * WITHIN).await;
    daemon.stop().await;
}
