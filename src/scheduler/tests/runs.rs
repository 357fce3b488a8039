//! The loop and the threads, with real time and real tasks.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Instant as Wall,
};

use super::*;
use crate::telemetry::Metrics;

/// What came out of the shards.
#[derive(Default)]
struct Out {
    delivered: AtomicUsize,
    spilled: Mutex<Vec<SpillReason>>,
    doomed: AtomicUsize,
}

fn start<D, F>(
    config: &Config,
    budget: &Arc<Budget>,
    out: &Arc<Out>,
    deliver: impl Fn() -> D + Send + Sync + 'static,
) -> (Shards, Arc<Metrics>)
where
    D: Fn(Dispatch) -> F + 'static,
    F: Future<Output = Finished> + 'static,
{
    let metrics = Metrics::new();
    let out = Arc::clone(out);
    let shards = Shards::start(config, budget, &metrics, move |_| {
        let (spilled, doomed) = (Arc::clone(&out), Arc::clone(&out));
        Hooks {
            deliver: deliver(),
            spill: Box::new(move |spills| {
                for spill in spills {
                    spilled.spilled.lock().expect("unpoisoned").push(spill.reason);
                    spill.ack.done();
                }
            }),
            doom: Box::new(move |all| {
                for one in all {
                    doomed.doomed.fetch_add(1, Ordering::SeqCst);
                    one.ack.done();
                }
            }),
        }
    })
    .expect("threads can be started");
    (shards, metrics)
}

/// Waits for a condition that others bring about, at most ten seconds.
fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Wall::now();
    while !condition() {
        assert!(begun.elapsed().as_secs() < 10, "{what} did not come about");
        std::thread::yield_now();
    }
}

fn config() -> Config {
    Config { shards: 2, slots: 128, ..Config::default() }
}

#[test]
fn deliveries_are_made_on_the_shard_of_their_endpoint_and_a_panic_costs_only_itself() {
    let (budget, out) = (Budget::new(1 << 28), Arc::<Out>::default());
    let seen = Arc::new(Mutex::new(HashMap::<String, std::thread::ThreadId>::new()));
    let (counted, places) = (Arc::clone(&out), Arc::clone(&seen));
    let (shards, metrics) = start(&config(), &budget, &out, move || {
        let (counted, places) = (Arc::clone(&counted), Arc::clone(&places));
        move |dispatch: Dispatch| {
            let (counted, places) = (Arc::clone(&counted), Arc::clone(&places));
            async move {
                tokio::task::yield_now().await;
                let here = std::thread::current().id();
                let known = *places.lock().expect("unpoisoned").entry(dispatch.endpoint().id.to_string()).or_insert(here);
                assert_eq!(known, here);
                assert!(dispatch.delivery().event.id != "7", "a bug that one delivery meets");
                let slot = dispatch.slot();
                dispatch.into_parts().2.done();
                counted.delivered.fetch_add(1, Ordering::SeqCst);
                Finished { slot, at: Instant::now(), held: MS, ended: Ended::Success }
            }
        }
    });
    let mut source = Source::new(&budget);
    let endpoints: Vec<_> = (0..20).map(|number| Arc::new(endpoint(&format!("e{number}"), "t"))).collect();
    for _ in 0..50 {
        let batch = endpoints.iter().map(|one| source.one(one)).collect();
        shards.send(batch).expect("the shards run");
    }
    until("999 deliveries and a spill", || {
        out.delivered.load(Ordering::SeqCst) == 999 && !out.spilled.lock().expect("unpoisoned").is_empty()
    });
    assert_eq!(*out.spilled.lock().expect("unpoisoned"), [SpillReason::CutOff]);
    assert_eq!(source.done(), 1000);
    assert!(shards.are_alive());
    shards.control_blocking(Control::Drain { waiting: Waiting::Spill, deadline: Instant::now() + SECOND }).expect("the shards run");
    assert!(shards.end());
    assert!(shards.send(vec![source.one(&endpoints[0])]).is_err());
    source.done();
    assert_eq!(budget.used(), 0);
    let threads: std::collections::HashSet<_> = seen.lock().expect("unpoisoned").values().copied().collect();
    assert_eq!(threads.len(), 2);
    metrics.upkeep();
    let text = metrics.render();
    for line in
        ["posthaste_queued{lane=\"healthy\"} 0", "posthaste_in_flight{lane=\"healthy\"} 0", "posthaste_scheduling_seconds_count 1000"]
    {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn a_rate_is_waited_for_without_a_message() {
    let (budget, out) = (Budget::new(1 << 28), Arc::<Out>::default());
    let counted = Arc::clone(&out);
    let (shards, _) = start(&config(), &budget, &out, move || {
        let counted = Arc::clone(&counted);
        move |dispatch: Dispatch| {
            let slot = dispatch.slot();
            dispatch.into_parts().2.done();
            counted.delivered.fetch_add(1, Ordering::SeqCst);
            async move { Finished { slot, at: Instant::now(), held: MS, ended: Ended::Success } }
        }
    });
    let mut source = Source::new(&budget);
    let one = Arc::new(Endpoint { rate: Some("100/s".parse().expect("a rate")), ..endpoint("one", "t") });
    let begun = Wall::now();
    shards.send((0..40).map(|_| source.one(&one)).collect()).expect("the shards run");
    until("40 deliveries", || out.delivered.load(Ordering::SeqCst) == 40);
    assert!(begun.elapsed() >= Duration::from_millis(250), "a burst of ten and thirty at 100/s: {:?}", begun.elapsed());
    drop(shards);
    assert_eq!(source.done(), 40);
}

#[test]
fn a_drain_spills_what_waits_and_cuts_off_what_hangs() {
    for (waiting, spilled, left) in [(Waiting::Spill, 20, 0), (Waiting::HandBack, 1, 19)] {
        let (budget, out) = (Budget::new(1 << 28), Arc::<Out>::default());
        let (began, begun) = mpsc::sync_channel(1_000);
        let (shards, metrics) = start(&config(), &budget, &out, move || {
            let began = began.clone();
            move |dispatch: Dispatch| {
                began.send(()).expect("the test waits for it");
                async move {
                    std::future::pending::<()>().await;
                    Finished::without_request(dispatch.slot(), Instant::now())
                }
            }
        });
        let mut source = Source::new(&budget);
        let one = Arc::new(endpoint("one", "t"));
        shards.send((0..20).map(|_| source.one(&one)).collect()).expect("the shards run");
        begun.recv_timeout(10 * SECOND).expect("a request begins");
        let wall = Wall::now();
        shards.control_blocking(Control::Drain { waiting, deadline: Instant::now() + SECOND / 5 }).expect("the shards run");
        assert!(shards.end());
        assert!(wall.elapsed() < 5 * SECOND);
        let reasons = out.spilled.lock().expect("unpoisoned");
        assert_eq!(reasons.len(), spilled);
        assert_eq!(reasons.iter().filter(|reason| **reason == SpillReason::CutOff).count(), 1);
        assert_eq!(source.done(), 20 - left);
        assert_eq!(budget.used(), 0);
        assert!(metrics.render().contains("posthaste_in_flight{lane=\"healthy\"} 0"));
    }
}
