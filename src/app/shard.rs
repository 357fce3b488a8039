//! What a shard does with a delivery: attempt it, tell the journal and health, settle it.

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use tokio::time::Instant;

use super::{Stages, tell};
use crate::{
    delivery::{Sender, Shared},
    model::{Attempt, DeadReason, Delivery, Endpoint, Failure, Outcome, Purpose, Settlement},
    scheduler::{Dispatch, Doomed, Finished, Spill, SpillReason},
    settle,
};

/// What a shard's thread delivers with.
pub struct Context {
    index: usize,
    stages: Arc<Stages>,
    sender: Sender,
}

impl Context {
    /// Of shard `index`; to be called on its thread.
    pub fn new(index: usize, stages: &Arc<Stages>, shared: &Arc<Shared>) -> Rc<Context> {
        Rc::new(Context { index, stages: Arc::clone(stages), sender: Sender::new(Arc::clone(shared)) })
    }

    /// Attempts a delivery. It is settled when this returns, or in the background if that takes an append.
    pub async fn deliver(self: Rc<Self>, dispatch: Dispatch) -> Finished {
        let (slot, stages) = (dispatch.slot(), &self.stages);
        if !dispatch.ack().is_live() {
            stages.metrics.late_settlements_total.increment(1);
            dispatch.into_parts().2.abandon();
            return Finished::without_request(slot, Instant::now());
        }
        // The dispatch keeps the delivery while the request runs: cut off in the middle, it goes back to the log.
        let mut attempt = self.sender.attempt(dispatch.delivery(), dispatch.endpoint()).await;
        let (delivery, endpoint, ack) = dispatch.into_parts();
        self.blame(&mut attempt, &delivery, &endpoint);
        let finished = Finished::of(slot, &attempt);
        stages.journal.record(self.index, &attempt, &delivery, &endpoint);
        if let Some(observation) = stages.health_config.observation(&attempt) {
            stages.health.report(&endpoint.id, observation);
        }
        // What an agent has sent is remembered first, which takes an append.
        if attempt.outcome == Outcome::Delivered && delivery.purpose != Purpose::Agent {
            stages.settler.acknowledge(&delivery, attempt.seconds_since(delivery.accepted_at), ack);
        } else {
            let stages = Arc::clone(stages);
            self.stages.background(async move {
                let told = (delivery.event.clone(), delivery.purpose);
                let settlement = stages.settler.settle(&attempt, *delivery, &endpoint, ack).await;
                if settlement == Settlement::DeadLetter(DeadReason::Exhausted) && told.1 == Purpose::Event {
                    tell::exhausted(&stages, &told.0, &endpoint, &attempt).await;
                }
            });
        }
        finished
    }

    /// Counts the attempt; what is our own fault is made so.
    fn blame(&self, attempt: &mut Attempt, delivery: &Delivery, endpoint: &Endpoint) {
        let stages = &self.stages;
        let (metrics, now) = (&stages.metrics, attempt.ended);
        let by_name = || matches!(endpoint.url.parts().host(), Some(url::Host::Domain(_)));
        if attempt.status.is_some() && !attempt.reused {
            stages.own_fault.reached(now, &delivery.endpoint, by_name());
        }
        if let Outcome::Failed(Failure::Unreachable { ours, .. }) = &mut attempt.outcome {
            *ours = !stages.own_fault.is_theirs(now, &delivery.endpoint, by_name());
        }
        let was_well = || stages.health.get(&delivery.endpoint).is_none_or(|record| !crate::health::score::is_noted(&record));
        let well = attempt.outcome == Outcome::Delivered || was_well();
        if stages.own_fault.observe(now, &delivery.endpoint, well, &attempt.outcome)
            && let Outcome::Failed(failure) = &attempt.outcome
        {
            attempt.outcome =
                Outcome::Failed(Failure::Local(format!("{}, taken for our own fault: nothing is answered by anybody", failure.class())));
        }
        metrics.attempts_total.with(attempt.outcome.class()).increment(1);
        let result = if attempt.outcome == Outcome::Delivered { "delivered" } else { "failed" };
        metrics.attempt_seconds.with(result).record(attempt.elapsed);
        tracing::debug!(
            endpoint = %delivery.endpoint, event = %delivery.event.id, attempt = attempt.number, outcome = attempt.outcome.class(),
            status = attempt.status, elapsed = ?attempt.elapsed, "attempt"
        );
    }
}

/// Moves deliveries back to the log.
pub fn spill(stages: &Arc<Stages>, spills: Vec<Spill>) {
    let stopping = spills.iter().filter(|spill| matches!(spill.reason, SpillReason::Drain | SpillReason::CutOff)).count();
    stages.put_back.fetch_add(stopping as u64, Ordering::Relaxed);
    let spills = spills
        .into_iter()
        .map(|Spill { delivery, ack, wait, reason, .. }| settle::Spill { delivery: *delivery, wait, ack, reason: reason.as_str() })
        .collect();
    let settling = Arc::clone(stages);
    stages.background(async move { settling.settler.spill_all(spills).await });
}

/// Ends deliveries whose endpoint is gone or suspended.
pub fn doom(stages: &Arc<Stages>, doomed: Vec<Doomed>) {
    let detail = |reason| match reason {
        DeadReason::EndpointInactive => "its endpoint became inactive while it waited",
        DeadReason::EndpointDisabled => "its endpoint was disabled while it waited",
        _ => "its endpoint was deleted while it waited",
    };
    let dead = doomed
        .into_iter()
        .map(|Doomed { delivery, reason, ack, .. }| settle::Dead { delivery: *delivery, reason, detail: detail(reason), ack })
        .collect();
    let settling = Arc::clone(stages);
    stages.background(async move { settling.settler.dead_letter_all(dead).await });
}
