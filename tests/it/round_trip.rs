//! An event goes in over HTTP and comes out as one signed request per endpoint that wants it.

use std::{collections::HashSet, time::Duration};

use http::Method;
use serde_json::json;

use crate::support::{
    daemon::{Backend, Site, both_backends, event},
    receiver::Receiver,
    verify,
};

both_backends!(
    every_endpoint_gets_what_it_asked_for_once_and_signed,
    a_restart_keeps_endpoints_and_sends_nothing_again,
    a_rotated_secret_signs_beside_the_old_one
);

const WITHIN: Duration = Duration::from_secs(20);

async fn every_endpoint_gets_what_it_asked_for_once_and_signed(backend: Backend) {
    let receiver = Receiver::accepting().await;
    let daemon = Site::new(backend).start().await;
    let standard = daemon.add_endpoint(json!({ "id": "all", "url": receiver.url("/all"), "signing": "standard" })).await["secret"]
        .as_str()
        .expect("the secret is shown at creation")
        .to_owned();
    let hub = daemon
        .add_endpoint(json!({ "id": "hub", "url": receiver.url("/hub"), "channels": ["c1"], "types": ["MESSAGE_*"], "format": "hub", "signing": "hub" }))
        .await["secret"]
        .as_str()
        .expect("the secret is shown at creation")
        .to_owned();
    daemon
        .add_endpoint(
            json!({ "id": "ce", "url": receiver.url("/ce"), "types": ["lead.created"], "format": "cloudevents", "signing": "none" }),
        )
        .await;
    daemon.add_endpoint(json!({ "id": "other", "url": receiver.url("/other"), "tenant": "another" })).await;

    let mut events = Vec::new();
    for n in 0..60 {
        let kind = ["MESSAGE_RECEIVED", "lead.created", "quote.updated"][n % 3];
        let mut event = event(n, if n % 2 == 0 { "c1" } else { "c2" }, kind);
        if n == 0 {
            event["data"]["text"] = json!("long enough to be compressed ".repeat(100));
        }
        events.push(event);
    }
    daemon.send(&events).await;

    // all: 60; hub: c1 and MESSAGE_*: n divisible by 6: 10; ce: 20.
    let requests = receiver.wait_for(90, WITHIN).await;
    let ids = |path: &str| requests.iter().filter(|request| request.path == path).count();
    assert_eq!((ids("/all"), ids("/hub"), ids("/ce"), ids("/other")), (60, 10, 20, 0));

    let mut seen = HashSet::new();
    for request in &requests {
        match request.path.as_str() {
            "/all" => {
                verify::standard(&standard, request);
                let body = request.json();
                assert_eq!(request.header("webhook-id"), body["id"]);
                assert!(seen.insert(body["id"].as_str().expect("an id").to_owned()));
            }
            "/hub" => {
                let key = verify::hub(&hub, request);
                assert!(seen.insert(key));
                assert_eq!(request.json()["messageEventType"], "NEW_MESSAGE");
                let long = request.plain().len() >= 1024;
                assert_eq!(request.headers.contains_key("content-encoding"), long, "gzip from 1,024 bytes on, and only then");
            }
            "/ce" => {
                verify::unsigned(request);
                let body = request.json();
                assert_eq!((&body["specversion"], &body["type"]), (&json!("1.0"), &json!("lead.created")));
            }
            other => panic!("{other}"),
        }
    }
    daemon.stop().await;
    assert_eq!(receiver.count(), 90, "nothing came twice");
}

async fn a_restart_keeps_endpoints_and_sends_nothing_again(backend: Backend) {
    let receiver = Receiver::accepting().await;
    let site = Site::new(backend);
    let daemon = site.start().await;
    daemon.add_endpoint(json!({ "id": "e", "url": receiver.url("/") })).await;
    daemon.send(&(0..50).map(|n| event(n, "c", "t")).collect::<Vec<_>>()).await;
    receiver.wait_for(50, WITHIN).await;
    daemon.stop().await;

    let daemon = site.start().await;
    let endpoint = daemon.ok(Method::GET, "/v1/endpoints/e", None).await;
    assert_eq!(endpoint["url"], json!(receiver.url("/")));
    assert!(endpoint.get("secret").is_none());
    daemon.send(&(50..60).map(|n| event(n, "c", "t")).collect::<Vec<_>>()).await;
    let requests = receiver.wait_for(60, WITHIN).await;
    let ids: HashSet<_> = requests.iter().map(|request| request.json()["id"].to_string()).collect();
    assert_eq!((requests.len(), ids.len()), (60, 60));
    daemon.stop().await;
    assert_eq!(receiver.count(), 60);
}

async fn a_rotated_secret_signs_beside_the_old_one(backend: Backend) {
    let receiver = Receiver::accepting().await;
    let daemon = Site::new(backend).start().await;
    let created = daemon.add_endpoint(json!({ "id": "e", "url": receiver.url("/"), "signing": "standard" })).await;
    let rotated = daemon.ok(Method::POST, "/v1/endpoints/e/rotate-secret", Some(json!({}))).await;
    let (old, new) = (created["secret"].as_str().expect("a secret"), rotated["secret"].as_str().expect("a secret"));
    assert_ne!(old, new);
    daemon.send(&[event(1, "c", "t")]).await;
    let requests = receiver.wait_for(1, WITHIN).await;
    verify::standard(new, &requests[0]);
    verify::standard(old, &requests[0]);
    daemon.stop().await;
}
