//! What scheduling costs per delivery. The figures are printed (`cargo test --release --lib scheduler::tests::cost -- --nocapture`); what is
//! asserted holds for unoptimised code on a busy machine too.

use std::time::Instant as Wall;

use super::*;
use crate::telemetry::Metrics;

const DELIVERIES: usize = 50_000;
const ENDPOINTS: usize = 1000;

fn endpoints() -> Vec<Arc<Endpoint>> {
    (0..ENDPOINTS).map(|number| Arc::new(endpoint(&format!("endpoint-{number}"), &format!("tenant-{}", number % 50)))).collect()
}

#[test]
fn the_state_machine_takes_far_less_than_a_request() {
    let (budget, now) = (Budget::new(1 << 30), Instant::now());
    let (mut shard, mut source) = (shard(&Config::default(), &budget, now), Source::new(&budget));
    let endpoints = endpoints();
    let mut batches: Vec<Vec<Routed>> = (0..DELIVERIES / 500)
        .map(|batch| (0..500).map(|at| source.one(&endpoints[(batch * 500 + at * 7) % ENDPOINTS])).collect())
        .collect();
    let (mut done, mut busy) = (Vec::with_capacity(DELIVERIES), Duration::ZERO);
    for batch in batches.drain(..) {
        let begun = Wall::now();
        batch.into_iter().for_each(|routed| shard.enqueue(now, routed));
        while let Some(dispatch) = shard.next(now) {
            shard.finished(now, &Finished { slot: dispatch.slot(), held: MS, ended: Ended::Success });
            done.push(dispatch);
        }
        busy += begun.elapsed();
    }
    assert_eq!(done.len(), DELIVERIES);
    done.into_iter().for_each(|dispatch| dispatch.into_parts().2.done());
    let each = busy / DELIVERIES as u32;
    eprintln!("state machine: {each:?} per delivery");
    assert!(each < Duration::from_micros(100), "{each:?}");
}

#[test]
fn the_loop_adds_little_to_it() {
    let (budget, now) = (Budget::new(1 << 30), Instant::now());
    let (shard, mut source) = (shard(&Config::default(), &budget, now), Source::new(&budget));
    let endpoints = endpoints();
    let (inbox, messages) = tokio::sync::mpsc::channel(DELIVERIES / 500 + 1);
    for batch in 0..DELIVERIES / 500 {
        let batch = (0..500).map(|at| source.one(&endpoints[(batch * 500 + at * 7) % ENDPOINTS])).collect();
        inbox.try_send(Message::Deliver(batch)).expect("there is room");
    }
    drop(inbox);
    let hooks = Hooks {
        deliver: |dispatch: Dispatch| async move {
            let slot = dispatch.slot();
            tokio::task::yield_now().await;
            dispatch.into_parts().2.done();
            Finished { slot, held: MS, ended: Ended::Success }
        },
        spill: Box::new(|spills| spills.into_iter().for_each(|spill| spill.ack.done())),
        doom: Box::new(|_| {}),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let begun = Wall::now();
    runtime.block_on(run(shard, messages, hooks, Metrics::new()));
    let each = begun.elapsed() / DELIVERIES as u32;
    assert_eq!(source.done(), DELIVERIES);
    eprintln!("with the loop and a task that yields once: {each:?} per delivery");
    assert!(each < Duration::from_micros(200), "{each:?}");
}
