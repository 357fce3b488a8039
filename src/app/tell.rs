//! Events that posthaste itself tells, so that they can be subscribed to like any other: `endpoint.degraded`, `endpoint.inactive`,
//! `endpoint.recovered`, `delivery.exhausted`. Their ids are made of what they tell of, so that doubles collapse. They name the host of an endpoint and
//! not its URL, whose path is a secret with some receivers.

use bytes::Bytes;
use serde_json::json;

use super::Stages;
use crate::model::{Attempt, Endpoint, Event, HealthState, Priority, Text, Timestamp, Transition};

/// Tells a change of health to the endpoint's tenant.
pub async fn transition(stages: &Stages, transition: &Transition, endpoint: &Endpoint) {
    let kind = match transition.record.state {
        HealthState::Active => "endpoint.recovered",
        HealthState::Degraded => "endpoint.degraded",
        HealthState::Inactive => "endpoint.inactive",
    };
    let data = json!({
        "endpoint": endpoint.id, "host": endpoint.url.host(), "from": transition.from, "to": transition.record.state,
        "score": transition.record.score, "reason": transition.record.reason,
    });
    tell(stages, format!("{}:{}", endpoint.id, transition.record.version), kind, &endpoint.tenant, transition.at, &data).await;
}

/// Tells that a delivery has used up its schedule. What failed to be told of ourselves is not told again.
pub async fn exhausted(stages: &Stages, event: &Event, endpoint: &Endpoint, attempt: &Attempt) {
    if event.channel == Event::OWN_CHANNEL {
        return;
    }
    let data = json!({
        "endpoint": endpoint.id, "event": event.id, "type": event.kind, "channel": event.channel,
        "attempts": attempt.number, "outcome": attempt.outcome.class(),
    });
    tell(stages, format!("{}:{}:exhausted", event.id, endpoint.id), "delivery.exhausted", &endpoint.tenant, stages.clock.now(), &data)
        .await;
}

async fn tell(stages: &Stages, id: String, kind: &'static str, tenant: &Text, time: Timestamp, data: &serde_json::Value) {
    let event = Event {
        id: Event::made_id(id),
        kind: Text::from_static(kind),
        channel: Text::from_static(Event::OWN_CHANNEL),
        direction: None,
        time,
        tenant: tenant.clone(),
        subject: None,
        priority: Priority::Normal,
        traceparent: None,
        data: Bytes::from(data.to_string()),
    };
    for result in stages.ingest.append(vec![event]).await {
        if let Err(error) = result {
            tracing::warn!(kind, %error, "an event of our own could not be told; what it tells of is in the registry or the dead letters");
        }
    }
}
