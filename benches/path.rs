//! The whole path against a bare client: events that lie in the log, each one signed POST of 1 KiB to a loopback receiver on another core.
//! CPU per delivery of the daemon over CPU per delivery of a bare hyper client, in one run, interleaved.
//!
//! `cargo bench --bench path [-- sqlite|kafka] [rounds] [events]`; Kafka needs `POSTHASTE_TEST_KAFKA` (see `tests/broker`).

mod support;

use std::{process::Command, time::Duration};

use bytes::Bytes;
use posthaste::log::Append;
use support::{daemon, measure, pin, sink::Sink};

const EVENTS: u64 = 200_000;
const TASKS: usize = 64;
const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if arguments.first().is_some_and(|first| first == "bare") {
        let address = arguments[1].parse().expect("an address");
        let events = arguments[2].parse().expect("a number of events");
        support::bare::run(address, events, TASKS, Bytes::from(body(0)), b"0123456789abcdef0123456789abcdef");
        return;
    }
    let backend = match arguments.first().map(String::as_str) {
        None | Some("sqlite") => daemon::Backend::Standalone,
        Some("kafka") => daemon::Backend::Cluster,
        Some(other) => panic!("{other}: sqlite or kafka"),
    };
    let rounds = arguments.get(1).map_or(5, |rounds| rounds.parse().expect("a number of rounds"));
    let events = arguments.get(2).map_or(EVENTS, |events| events.parse().expect("a number of events"));
    let sink = Sink::start(false);
    pin(std::process::id(), 1);
    let (mut bare_costs, mut our_costs) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let bare = bare(&sink, events);
        let ours = ours(backend, &sink, events);
        println!(
            "round {round}: bare {:.2} us, {:.0}/s; posthaste on {backend:?} {:.2} us, {:.0}/s",
            bare.cpu_per_delivery(),
            bare.rate(),
            ours.cpu_per_delivery(),
            ours.rate()
        );
        bare_costs.push(bare.cpu_per_delivery());
        our_costs.push(ours.cpu_per_delivery());
    }
    // The two of a round are seconds apart, and a virtual machine's speed changes by a third in between: each is a median of its own.
    let (bare, ours) = (median(bare_costs), median(our_costs));
    println!("CPU per delivery, medians of {rounds}: bare {bare:.2} us, posthaste {ours:.2} us; ratio {:.3} (budget 1.5)", ours / bare);
}

fn median(mut costs: Vec<f64>) -> f64 {
    costs.sort_by(f64::total_cmp);
    costs[costs.len() / 2]
}

fn bare(sink: &Sink, events: u64) -> support::Measured {
    sink.reset();
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["bare", &sink.address.to_string(), &events.to_string()])
        .spawn()
        .expect("the bare client starts");
    pin(child.id(), 0);
    let measured = measure(child.id(), sink, events, Duration::from_secs(120));
    child.wait().expect("it ends");
    measured
}

fn ours(backend: daemon::Backend, sink: &Sink, events: u64) -> support::Measured {
    let site = daemon::Site::new(backend).with(&format!(
        "[scheduler]\nshards = 1\n[[endpoint]]\nid = \"bench\"\nurl = \"{}\"\nsigning = \"standard\"\nsecret = \"{SECRET}\"\nconcurrency = {TASKS}\n",
        sink.url("/")
    ));
    fill(&site, events);
    sink.reset();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut child = site.spawn(&[]);
    pin(child.id(), 0);
    child.find_addresses();
    let measured = measure(child.id(), sink, events, Duration::from_secs(120));
    runtime.block_on(child.stop());
    measured
}

/// Puts the events into the log, as a producer would.
fn fill(site: &daemon::Site, events: u64) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let log = support::open_log(site);
    let topic: std::sync::Arc<str> = site.events_topic().into();
    runtime.block_on(async {
        log.ensure(&support::topics(site)).await.expect("the topics are there");
        for batch in 0..events / 1000 {
            let records = (0..1000)
                .map(|n| Append {
                    topic: topic.clone(),
                    partition: None,
                    key: Some(Bytes::from(format!("c{}", n % 32))),
                    value: Some(Bytes::from(body(batch * 1000 + n))),
                    headers: Vec::new(),
                })
                .collect();
            for result in log.append(records).await {
                result.expect("stored");
            }
        }
    });
    log.close(Duration::from_secs(10));
}

/// An event of 1 KiB.
fn body(n: u64) -> String {
    let head = format!(
        "{{\"id\":\"event-{n}\",\"type\":\"message\",\"channel\":\"c{}\",\"time\":\"2026-01-15T12:00:00Z\",\"data\":{{\"text\":\"",
        n % 32
    );
    format!("{head}{}\"}}}}", "x".repeat(1024 - head.len() - 3))
}
