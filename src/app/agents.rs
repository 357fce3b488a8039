//! What happens when a ticket event meets the condition of an agent: a delivery for the agent's endpoint alone is appended to the log, and the
//! ticket event is acknowledged when that is durable. It comes back by the same door as everything else.

use std::sync::Arc;

use super::Stages;
use crate::{
    log::record::{encode_delivery, unplaced},
    model::{Agent, DeadReason, Delivery, Purpose, Routed, Text},
};

/// Tells the endpoint of the agent whose listener the delivery has reached.
pub fn tell(stages: &Arc<Stages>, routed: Routed) {
    let Routed { delivery, endpoint, mut ack, .. } = routed;
    // Whoever gives the partition up waits for the append.
    ack.take_out();
    let agent = Agent::of_listener(&endpoint.id).and_then(|id| stages.registry()?.agent(id));
    let working = Arc::clone(stages);
    stages.background(async move {
        let (Some(agent), Some(registry)) = (agent, working.registry()) else {
            // Deleted between the match and now.
            let detail = "its agent was deleted while it waited";
            return working.settler.dead_letter(*delivery, DeadReason::EndpointDeleted, detail, ack).await;
        };
        let event = agent.tells(&delivery.event);
        tracing::debug!(agent = %agent.id, event = %delivery.event.id, ticket = event.subject.as_deref(), "condition met");
        let sending = Delivery {
            event: Arc::new(event),
            endpoint: agent.endpoint.clone(),
            origin: unplaced(Arc::clone(working.topics.ingest())),
            attempts: 0,
            accepted_at: working.clock.now(),
            due_at: None,
            registry_offset: registry.known_at(),
            purpose: Purpose::Agent,
            reason: None,
        };
        working.metrics.agent_sendings_total.increment(1);
        let append = encode_delivery(&sending).to(Arc::clone(working.topics.ingest()));
        working.settler.become_of(append, delivery.origin, ack).await;
    });
}

/// An agent whose condition takes too many steps does not watch any more; its events until then are dead letters (`filter_undecided`).
pub fn suspend(stages: &Arc<Stages>, agent: &str) {
    tracing::warn!(agent, "its condition takes too many steps: the agent is suspended until it is changed");
    let (working, agent) = (Arc::clone(stages), Text::from(agent));
    stages.background(async move {
        let Some(registry) = working.registry() else { return };
        let suspended = |agent: &Agent| Ok(Agent { suspended: Some(Text::from_static(Agent::TOO_SLOW)), ..agent.clone() });
        if let Err(error) = registry.update_agent(&agent, suspended).await {
            tracing::warn!(%agent, %error, "the agent could not be suspended yet");
        }
    });
}
