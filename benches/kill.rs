//! SIGKILL in the middle of 200,000 records on Kafka, restarted at once with the same `kafka.instance`: what is lost, what comes twice, and how
//! long until the first delivery.
//!
//! `cargo bench --bench kill [-- records]`; needs `POSTHASTE_TEST_KAFKA` and `POSTHASTE_TEST_REDIS` (see `tests/broker`).

mod support;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use posthaste::log::Append;
use support::{daemon, sink::Sink};

const CONCURRENCY: u64 = 64;
const ENDPOINTS: u64 = 4;

fn main() {
    let records: u64 =
        std::env::args().skip(1).find(|argument| argument != "--bench").map_or(200_000, |records| records.parse().expect("a number"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let sink = Sink::start(true);
    let mut declared = String::new();
    for n in 0..ENDPOINTS {
        declared.push_str(&format!(
            "[[endpoint]]\nid = \"e{n}\"\nurl = \"{}\"\nchannels = [\"c{n}\"]\nsigning = \"standard\"\nsecret = \"whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\"\nconcurrency = {CONCURRENCY}\n",
            sink.url(&format!("/{n}"))
        ));
    }
    let site = daemon::Site::new(daemon::Backend::Cluster).with(&declared);
    fill(&runtime, &site, records);
    let environment = [("POSTHASTE_KAFKA__INSTANCE", "bench-1")];
    runtime.block_on(async {
        let daemon = site.start_with(&environment).await;
        until(&sink, records / 2).await;
        let before = rate(&sink);
        daemon.kill().await;
        let (killed, arrived) = (support::sink::now(), sink.count());
        let daemon = site.start_with(&environment).await;
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let distinct = counts(&sink).len() as u64;
            if distinct == records || Instant::now() > deadline {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        daemon.stop().await;
        let first =
            sink.arrivals().into_iter().skip(arrived as usize).map(|arrival| arrival.at).min().expect("deliveries after the restart");
        let counts = counts(&sink);
        let twice: u64 = counts.values().map(|count| count - 1).sum();
        let bound = 2 * (CONCURRENCY * ENDPOINTS + before);
        println!("records {records}, lost {}, came twice {twice}", records - counts.len() as u64);
        println!(
            "in flight at most {}, answered in the last second before the kill {before}: bound of twice both {bound}",
            CONCURRENCY * ENDPOINTS
        );
        println!("first delivery {:?} after the kill (budget 2 s)", first.saturating_sub(killed));
    });
}

async fn until(sink: &Sink, count: u64) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while sink.count() < count {
        assert!(Instant::now() < deadline, "{} of {count}", sink.count());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Arrivals of the last second.
fn rate(sink: &Sink) -> u64 {
    let now = support::sink::now();
    sink.arrivals().iter().rev().take_while(|arrival| now.saturating_sub(arrival.at) < Duration::from_secs(1)).count() as u64
}

fn counts(sink: &Sink) -> HashMap<String, u64> {
    let mut counts = HashMap::new();
    for arrival in sink.arrivals() {
        *counts.entry(arrival.id).or_insert(0) += 1;
    }
    counts
}

fn fill(runtime: &tokio::runtime::Runtime, site: &daemon::Site, records: u64) {
    let log = support::open_log(site);
    let topic: std::sync::Arc<str> = site.events_topic().into();
    runtime.block_on(async {
        log.ensure(&support::topics(site)).await.expect("the topics are there");
        for batch in 0..records.div_ceil(1000) {
            let appends = (batch * 1000..((batch + 1) * 1000).min(records))
                .map(|n| Append {
                    topic: topic.clone(),
                    partition: None,
                    key: Some(Bytes::from(n.to_string())),
                    value: Some(Bytes::from(daemon::event(n as usize, &format!("c{}", n % ENDPOINTS), "t").to_string())),
                    headers: Vec::new(),
                })
                .collect();
            for result in log.append(appends).await {
                result.expect("stored");
            }
        }
    });
    log.close(Duration::from_secs(10));
}
