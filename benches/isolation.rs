//! One of ten endpoints never answers: what that costs the other nine. 1,000 events/s over HTTP for 15 s, first with ten that answer, then with
//! one that hangs; deliveries and p99 (event to arrival) of the nine, as a ratio. In turns, and the median of the turns: one slow write to
//! the disk is more than all that a hanging receiver could cost.
//!
//! `cargo bench --bench isolation [-- standalone|cluster] [seconds] [rounds]`

mod support;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde_json::json;
use support::{daemon, quantile, sink::Sink};

const RATE: u64 = 1_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let backend = match arguments.first().map(String::as_str) {
        None | Some("standalone") => daemon::Backend::Standalone,
        Some("cluster") => daemon::Backend::Cluster,
        Some(other) => panic!("{other}: standalone or cluster"),
    };
    let seconds = arguments.get(1).map_or(15, |seconds| seconds.parse().expect("seconds"));
    let rounds = arguments.get(2).map_or(3, |rounds| rounds.parse().expect("a number of rounds"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for (what, hangs, p99s) in [("all answer", false, &mut alone), ("one hangs", true, &mut beside)] {
            let run = runtime.block_on(run(backend, seconds, hangs));
            let share = run.arrived as f64 / run.owed as f64 * 100.0;
            println!("{what}: the nine got {} of {} ({share:.2} %), p50 {:?}, p99 {:?}", run.arrived, run.owed, run.p50, run.p99);
            p99s.push(run.p99);
        }
    }
    let (alone, beside) = (quantile(&mut alone, 0.5), quantile(&mut beside, 0.5));
    let ratio = beside.as_secs_f64() / alone.as_secs_f64();
    println!(
        "p99 of the nine beside a hanging one over p99 without it, medians of {rounds}: {beside:?} / {alone:?} = {ratio:.2} (budget 1.3)"
    );
}

struct Run {
    owed: u64,
    arrived: u64,
    p50: Duration,
    p99: Duration,
}

async fn run(backend: daemon::Backend, seconds: u64, hangs: bool) -> Run {
    let sink = Sink::start(true);
    // Accepts, reads, and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let silent_url = format!("http://{}/9", silent.local_addr().expect("bound"));
    std::thread::spawn(move || {
        let mut held = Vec::new();
        while let Ok((stream, _)) = silent.accept() {
            held.push(stream);
        }
    });
    let site = daemon::Site::new(backend);
    let daemon = site.start().await;
    for n in 0..10 {
        let url = if hangs && n == 9 { silent_url.clone() } else { sink.url(&format!("/{n}")) };
        daemon.add_endpoint(json!({ "id": format!("e{n}"), "url": url, "channels": [format!("c{n}")], "signing": "standard" })).await;
    }
    let (begun, mut sent, mut born) = (Instant::now(), 0, HashMap::new());
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    while sent < seconds * RATE {
        tick.tick().await;
        let due = ((begun.elapsed().as_secs_f64() * RATE as f64) as u64).min(seconds * RATE);
        let events: Vec<_> = (sent..due)
            .map(|n| {
                born.insert(format!("event-{n}"), support::sink::now());
                daemon::event(n as usize, &format!("c{}", n % 10), "t")
            })
            .collect();
        if !events.is_empty() {
            daemon.send(&events).await;
        }
        sent = due;
    }
    let owed = seconds * RATE * 9 / 10;
    let nine = |arrivals: &[support::sink::Arrival]| arrivals.iter().filter(|arrival| arrival.path != "/9").count() as u64;
    let deadline = Instant::now() + Duration::from_secs(10);
    while nine(&sink.arrivals()) < owed && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let arrivals = sink.arrivals();
    let mut latencies: Vec<Duration> =
        arrivals.iter().filter(|arrival| arrival.path != "/9").map(|arrival| arrival.at.saturating_sub(born[&arrival.id])).collect();
    daemon.kill().await;
    Run { owed, arrived: nine(&arrivals).min(owed), p50: quantile(&mut latencies, 0.5), p99: quantile(&mut latencies, 0.99) }
}
