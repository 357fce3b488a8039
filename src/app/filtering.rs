//! Between the source and the shards: deliveries whose endpoint has a filter take the way through the sieve, and those of agents end there.
//!
//! A delivery is filtered once, when it first comes to its endpoint: as an event, or as the replay of one. Retries, spilled ones, tests and redrives
//! are wanted already. What the filter cannot decide becomes a dead letter (`filter_undecided`): nothing is dropped in silence, and nobody gets
//! what he may have excluded. Redriven it is put to the filter once more, and delivered if that still cannot decide: a person has asked for it.

use std::sync::{Arc, atomic::Ordering};

use super::{Stages, agents};
use crate::{
    model::{Agent, DeadReason, Delivery, Endpoint, Observation, Purpose, Routed},
    routing::sieve::{Outlets, Sieve},
    scheduler::Closed,
    settle::Spill,
};

/// A filter slows only those that share its thread: some of them is enough, and each keeps its own compiled filters.
const MOST_THREADS: usize = 4;

/// Starts the threads that filter.
pub fn start(stages: &Arc<Stages>, shards: usize) -> std::io::Result<Sieve> {
    let (passing, undecided, spilling, slow) = (Arc::clone(stages), Arc::clone(stages), Arc::clone(stages), Arc::clone(stages));
    let outlets = Outlets {
        pass: Box::new(move |deliveries| pass(&passing, deliveries)),
        undecided: Box::new(move |mut routed, why| {
            // Whoever gives the partition up waits for the append, here and below.
            routed.ack.take_out();
            let settling = Arc::clone(&undecided);
            undecided.background(async move {
                settling.settler.dead_letter(*routed.delivery, DeadReason::FilterUndecided, &why, routed.ack).await;
            });
        }),
        spill: Box::new(move |deliveries| {
            let spill = |Routed { delivery, mut ack, .. }| {
                ack.take_out();
                Spill { delivery: *delivery, wait: crate::scheduler::Spill::SHORTEST, ack, reason: Delivery::UNFILTERED }
            };
            let spills = deliveries.into_iter().map(spill).collect();
            let settling = Arc::clone(&spilling);
            spilling.background(async move { settling.settler.spill_all(spills).await });
        }),
        too_slow: Box::new(move |endpoint| switch_off(&slow, endpoint)),
    };
    Sieve::start(shards.min(MOST_THREADS), outlets, &stages.metrics)
}

/// Takes deliveries to the shards, those that are to be filtered by way of the sieve.
pub fn hand_over(stages: &Stages, deliveries: Vec<Routed>) -> Result<(), Closed> {
    // Where nobody has a filter nothing is looked at.
    if !stages.filters_seen.load(Ordering::Relaxed) || !deliveries.iter().any(is_to_be_filtered) {
        return stages.shards().send(deliveries);
    }
    let (filtered, others): (Vec<Routed>, Vec<Routed>) = deliveries.into_iter().partition(is_to_be_filtered);
    if let Some(sieve) = stages.sieve.get() {
        sieve.sift(filtered);
    } else {
        // The sources start after the sieve.
        filtered.into_iter().for_each(|routed| routed.ack.abandon());
    }
    if others.is_empty() { Ok(()) } else { stages.shards().send(others) }
}

fn is_to_be_filtered(routed: &Routed) -> bool {
    if routed.endpoint.filter.is_none() {
        return false;
    }
    let delivery = &routed.delivery;
    let reason = delivery.reason.as_deref();
    let comes_unfiltered = match delivery.purpose {
        Purpose::Event | Purpose::Replay => delivery.attempts == 0 && reason.is_none_or(|reason| reason == Delivery::UNFILTERED),
        Purpose::Redrive => reason == Some(Delivery::UNFILTERED),
        Purpose::Test | Purpose::Agent => false,
    };
    comes_unfiltered || Agent::of_listener(&routed.endpoint.id).is_some()
}

fn pass(stages: &Arc<Stages>, deliveries: Vec<Routed>) {
    let is_of_agent = |routed: &Routed| Agent::of_listener(&routed.endpoint.id).is_some();
    let (of_agents, of_endpoints): (Vec<Routed>, Vec<Routed>) = deliveries.into_iter().partition(is_of_agent);
    for routed in of_agents {
        agents::tell(stages, routed);
    }
    if !of_endpoints.is_empty() {
        // Closed: the daemon stops, and what was not taken is read again after the next start.
        let _ = stages.shards().send(of_endpoints);
    }
}

/// A filter that takes too many steps again and again: its endpoint is suspended, to be recovered without loss; an agent does not watch any more
/// until its condition is changed.
fn switch_off(stages: &Arc<Stages>, endpoint: &Endpoint) {
    match Agent::of_listener(&endpoint.id) {
        Some(agent) => agents::suspend(stages, agent),
        None => {
            tracing::warn!(endpoint = %endpoint.id, "its filter takes too many steps: the endpoint is suspended (filter_too_slow)");
            stages.health.report(&endpoint.id, Observation::FilterTooSlow);
        }
    }
}
