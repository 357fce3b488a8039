//! SIGHUP reads the configuration again: what can change does, what cannot is named, and a wrong file changes nothing.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};

use crate::support::{
    daemon::{Backend, Daemon, Site, event},
    receiver::Receiver,
};

const WITHIN: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_and_level_change_while_it_runs_and_the_rest_is_named() {
    let receiver = Receiver::accepting().await;
    let mut site = Site::new(Backend::Standalone);
    let daemon = site.start().await;
    daemon.send(&[event(1, "c", "t")]).await;
    daemon.until_metric("posthaste_events_total{result=\"unmatched\"", WITHIN, |count| count == 1.0).await;

    let endpoint = format!("[[endpoint]]\nid = \"declared\"\nurl = \"{}\"\nsigning = \"none\"\n", receiver.url("/"));
    read_again(&mut site, &daemon, format!("[logging]\nlevel = \"debug\"\n{endpoint}"));
    until_endpoint_is(&daemon, "declared", StatusCode::OK).await;
    daemon.send(&[event(2, "c", "t")]).await;
    let received = receiver.wait_for(1, WITHIN).await;
    assert_eq!(received[0].json()["id"], "event-2");
    daemon.until_logged("endpoint=declared event=event-2 attempt=1 outcome=\"delivered\"", WITHIN).await;

    // A wrong file changes nothing, not even what is right in it.
    read_again(&mut site, &daemon, "[scheduler]\nslots = 0\n".to_owned());
    daemon.until_logged("the configuration is wrong; nothing was changed", WITHIN).await;
    daemon.until_logged("scheduler.slots", WITHIN).await;
    assert_eq!(daemon.call(Method::GET, "/v1/endpoints/declared", None).await.0, StatusCode::OK);

    read_again(&mut site, &daemon, "[scheduler]\nslots = 1000\n[logging]\nformat = \"json\"\n".to_owned());
    daemon.until_logged("changes of these sections need a restart sections=\"scheduler, logging\"", WITHIN).await;
    until_endpoint_is(&daemon, "declared", StatusCode::NOT_FOUND).await;
    daemon.send(&[event(3, "c", "t")]).await;
    daemon.until_metric("posthaste_events_total{result=\"unmatched\"", WITHIN, |count| count == 2.0).await;
    assert_eq!(receiver.count(), 1);
    daemon.stop().await;
}

fn read_again(site: &mut Site, daemon: &Daemon, extra: String) {
    site.extra = extra;
    std::fs::write(&daemon.config, site.config()).expect("the configuration is written");
    daemon.signal("HUP");
}

async fn until_endpoint_is(daemon: &Daemon, id: &str, expected: StatusCode) {
    let deadline = Instant::now() + WITHIN;
    while daemon.call(Method::GET, &format!("/v1/endpoints/{id}"), None).await.0 != expected {
        assert!(Instant::now() < deadline, "{id} is not {expected} within {WITHIN:?}\n{}", daemon.log_text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
