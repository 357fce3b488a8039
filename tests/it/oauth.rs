//! Endpoints that want access tokens: fetched from a real token endpoint, renewed when they are over or refused, and missed when it fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Method;
use serde_json::json;

use crate::support::{
    daemon::{Backend, Site, both_backends, event},
    receiver::{Answer, Receiver},
};

both_backends!(tokens_are_fetched_once_renewed_and_replaced_when_refused, a_token_endpoint_that_fails_degrades_the_endpoint);

const WITHIN: Duration = Duration::from_secs(30);

/// WIRE.md 1.4 and section 0, row 9.
async fn tokens_are_fetched_once_renewed_and_replaced_when_refused(backend: Backend) {
    // Token n is `t<n>`, lives for 3 s (the first one longer), and comes with the refresh token `r<n>`.
    let given = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&given);
    let tokens = Receiver::start(move |_| {
        let n = count.fetch_add(1, Ordering::SeqCst) + 1;
        let lives = if n == 1 { 3600 } else { 3 };
        let body =
            json!({ "access_token": format!("t{n}"), "token_type": "Bearer", "expires_in": lives, "refresh_token": format!("r{n}") });
        Answer::Body(200, body.to_string())
    })
    .await;
    // Refuses the first token that it sees for the event `revoked`.
    let revoked = AtomicUsize::new(0);
    let receiver = Receiver::start(move |request| {
        let refuses = request.json()["type"] == "revoked" && revoked.fetch_add(1, Ordering::SeqCst) == 0;
        Answer::Status(if refuses { 401 } else { 200 })
    })
    .await;
    let site = Site::new(backend);
    let daemon = site.start().await;
    let auth = json!({
        "type": "oauth2", "url": tokens.url("/token?v=1"), "clientId": "cid", "clientSecret": "hunter2", "refreshToken": "r0",
        "queryParams": { "audience": "hooks" }, "headers": { "Content-Type": "application/json" }
    });
    daemon.add_endpoint(json!({ "id": "e", "url": receiver.url("/"), "auth": auth })).await;
    let events: Vec<_> = (0..100).map(|n| event(n, "c", "t")).collect();
    daemon.send(&events).await;
    let requests = receiver.wait_for(100, WITHIN).await;
    assert!(requests.iter().all(|request| request.header("authorization") == "Bearer t1"));
    let asked = tokens.requests();
    assert_eq!(asked.len(), 1, "one fetch for all");
    assert_eq!(asked[0].path, "/token?v=1&audience=hooks");
    assert_eq!(
        asked[0].json(),
        json!({ "grant_type": "refresh_token", "refresh_token": "r0", "client_id": "cid", "client_secret": "hunter2" })
    );

    // A 401 costs a fresh token and no attempt.
    daemon.send(&[event(100, "c", "revoked")]).await;
    let requests = receiver.until(WITHIN, "the refused one again", |requests| requests.len() >= 102).await;
    let of_both = [&requests[100], &requests[101]].map(|request| request.json()["id"].clone());
    assert_eq!(of_both[0], of_both[1]);
    assert_ne!(requests[100].header("authorization"), requests[101].header("authorization"));
    daemon.until_metric("posthaste_deliveries_total{result=\"delivered\"", WITHIN, |count| count == 101.0).await;
    assert_eq!(daemon.metric("posthaste_attempts_total{outcome=\"status_4xx\"").await, 0.0, "it is the same attempt");

    // Its life ends: one event after another, until one goes with another token.
    let first = requests[101].header("authorization").to_owned();
    let mut n = 101;
    loop {
        daemon.send(&[event(n, "c", "t")]).await;
        n += 1;
        let requests = receiver.wait_for(n + 1, WITHIN).await;
        if requests.last().expect("the one just sent").header("authorization") != first {
            break;
        }
    }
    for (before, request) in tokens.requests().iter().enumerate() {
        assert_eq!(request.json()["refresh_token"], format!("r{before}"), "the refresh token rotates");
    }

    // The rotated one is kept: after a restart it is used.
    daemon.until_metric("posthaste_deliveries_total{result=\"delivered\"", WITHIN, |count| count == n as f64).await;
    assert!(!daemon.log_text().contains("hunter2"));
    daemon.stop().await;
    let used = given.load(Ordering::SeqCst);
    let daemon = site.start().await;
    daemon.send(&[event(n, "c", "t")]).await;
    let asked = tokens.wait_for(used + 1, WITHIN).await;
    assert_eq!(asked[used].json()["refresh_token"], format!("r{used}"));
    receiver.wait_for(n + 2, WITHIN).await;
    let shown = daemon.ok(Method::GET, "/v1/endpoints/e", None).await;
    assert_eq!(shown["auth"]["clientSecret"], json!({ "configured": true }), "{shown}");
    assert!(!shown.to_string().contains("hunter2"), "{shown}");
    daemon.stop().await;
}

/// WIRE.md 1.5: a token endpoint that fails, or hangs, counts as the endpoint would.
async fn a_token_endpoint_that_fails_degrades_the_endpoint(backend: Backend) {
    let failing = Receiver::start(|_| Answer::Status(500)).await;
    let hanging = Receiver::start(|_| Answer::Hang).await;
    let receiver = Receiver::accepting().await;
    let daemon = Site::new(backend).start_with(&[("POSTHASTE_DELIVERY__RESPONSE_TIMEOUT", "1s")]).await;
    for (id, tokens, events, degraded) in [("failing", &failing, 10, 1.0), ("hanging", &hanging, 1, 2.0)] {
        let auth = json!({ "type": "oauth2", "url": tokens.url("/token"), "clientId": "cid", "clientSecret": "hunter2" });
        daemon
            .add_endpoint(json!({ "id": id, "url": receiver.url("/"), "types": [id], "auth": auth, "retry": "none", "concurrency": 1 }))
            .await;
        let events: Vec<_> = (0..events).map(|n| event(n, "c", id)).collect();
        daemon.send(&events).await;
        daemon.until_metric("posthaste_endpoints{state=\"degraded\"", WITHIN, |count| count == degraded).await;
    }
    let attempts = daemon.ok(Method::GET, "/v1/attempts?endpoint=failing", None).await;
    assert!(attempts.to_string().contains("token endpoint: status 500"), "{attempts}");
    assert_eq!(receiver.count(), 0, "nothing is sent without a token");
    daemon.stop().await;
}
