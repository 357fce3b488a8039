//! What scheduling costs per delivery. The figures are printed (`cargo test --release --lib scheduler::tests::cost -- --nocapture`); what is
//! asserted holds for unoptimised code on a busy machine too.

use std::time::Instant as Wall;

use super::*;
use crate::telemetry::Metrics;

const DELIVERIES: usize = 50_000;
const BATCH: usize = 500;
const ENDPOINTS: usize = 1000;

/// CPU time of this thread, so that a busy machine does not count; wall time where the system does not tell.
fn cpu() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = told.as_ref().and_then(|text| text.split_whitespace().next()).and_then(|nanos| nanos.parse().ok());
    nanos.map_or_else(|| Wall::now().duration_since(*BEGUN), Duration::from_nanos)
}

static BEGUN: std::sync::LazyLock<Wall> = std::sync::LazyLock::new(Wall::now);

fn endpoints() -> Vec<Arc<Endpoint>> {
    (0..ENDPOINTS).map(|number| Arc::new(endpoint(&format!("endpoint-{number}"), &format!("tenant-{}", number % 50)))).collect()
}

#[test]
fn the_state_machine_takes_far_less_than_a_request() {
    let (budget, now) = (Budget::new(1 << 30), Instant::now());
    let (mut shard, mut source) = (shard(&Config::default(), &budget, now), Source::new(&budget));
    let endpoints = endpoints();
    let (mut begun, mut busy) = (Vec::with_capacity(BATCH), Duration::ZERO);
    for batch in 0..DELIVERIES / BATCH {
        let routed: Vec<_> = (0..BATCH).map(|at| source.one(&endpoints[(batch * BATCH + at * 7) % ENDPOINTS])).collect();
        let before = cpu();
        routed.into_iter().for_each(|routed| shard.enqueue(now, routed));
        while let Some(dispatch) = shard.next(now) {
            shard.finished(&Finished { slot: dispatch.slot(), at: now, held: MS, ended: Ended::Success });
            begun.push(dispatch);
        }
        busy += cpu() - before;
        begun.drain(..).for_each(|dispatch| dispatch.into_parts().2.done());
    }
    assert_eq!(source.done(), DELIVERIES);
    let each = busy / DELIVERIES as u32;
    eprintln!("state machine: {each:?} per delivery");
    assert!(each < Duration::from_micros(100), "{each:?}");
}

#[test]
fn the_loop_adds_little_to_it() {
    let (budget, now) = (Budget::new(1 << 30), Instant::now());
    let (shard, mut source) = (shard(&Config::default(), &budget, now), Source::new(&budget));
    let endpoints = endpoints();
    let (inbox, messages) = tokio::sync::mpsc::channel(DELIVERIES / BATCH + 1);
    for batch in 0..DELIVERIES / BATCH {
        let batch = (0..BATCH).map(|at| source.one(&endpoints[(batch * BATCH + at * 7) % ENDPOINTS])).collect();
        inbox.try_send(Message::Deliver(batch)).expect("there is room");
    }
    drop(inbox);
    let hooks = Hooks {
        deliver: |dispatch: Dispatch| async move {
            let slot = dispatch.slot();
            tokio::task::yield_now().await;
            dispatch.into_parts().2.done();
            Finished { slot, at: Instant::now(), held: MS, ended: Ended::Success }
        },
        spill: Box::new(|spills| spills.into_iter().for_each(|spill| spill.ack.done())),
        doom: Box::new(|_| {}),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let begun = cpu();
    runtime.block_on(run(shard, messages, hooks, Metrics::new()));
    let each = (cpu() - begun) / DELIVERIES as u32;
    assert_eq!(source.done(), DELIVERIES);
    eprintln!("with the loop and a task that yields once: {each:?} per delivery");
    assert!(each < Duration::from_micros(200), "{each:?}");
}
