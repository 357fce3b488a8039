//! Enabling and disabling an endpoint.
//!
//! While it is disabled, or suspended by its health, events pass it by; the positions at which that began are kept with it, also after it was
//! enabled. So what was missed can be recovered when it is enabled, and again if the first try was cut short.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    dead_letters::{self, JobView},
    endpoints::visible,
    replays::{self, ReplayView},
    view::EndpointView,
};
use crate::{
    api::{
        Context, Shared,
        auth::Caller,
        error::Problem,
        input::{Document, Id},
    },
    model::{HealthState, Observation, Position, Status, Timestamp, token::Role},
    registry::{Draft, Entry, Suspension},
};

/// How long the transition to Active may take to come back through the registry.
const TRANSITION_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Enable {
    /// Whether what it missed is sent to it, in the background; otherwise it gets what comes from now on.
    recover: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Enabled {
    #[serde(flatten)]
    endpoint: EndpointView,
    /// With `recover`: the redrive of its dead letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    redrive: Option<JobView>,
    /// With `recover`, if it was suspended: the replay of what passed it by.
    #[serde(skip_serializing_if = "Option::is_none")]
    replay: Option<ReplayView>,
}

/// Enables an endpoint: Active without a score, whatever it was. Asked again with `recover` it recovers again, from where it was suspended last: for
/// when the first recovery was refused (429) or cut short.
#[utoipa::path(post, path = "/v1/endpoints/{id}/enable", tag = "endpoints", params(("id" = String, Path)), request_body(content = Option<Enable>, example = json!({"recover": true})),
    responses((status = 200, body = Enabled), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 429, description = "Too many redrives or replays run already; the endpoint is enabled.", body = Problem), (status = 503, body = Problem)))]
pub async fn enable(
    State(context): State<Context>,
    caller: Caller,
    Id(id): Id,
    Document(asked): Document<Enable>,
) -> Result<Json<Enabled>, Problem> {
    caller.need(Role::Developer)?;
    let mut entry = visible(&context, &caller, &id)?;
    if asked.recover {
        dead_letters::ready(&context).await?;
    }
    if entry.endpoint.status == Status::Disabled {
        entry = context
            .registry
            .update_endpoint(&id, |entry| {
                let mut draft = Draft::of(entry);
                draft.endpoint.status = Status::Enabled;
                draft.endpoint.updated_at = context.clock.now();
                suspend(&mut draft, entry.endpoint.status, None, context.clock.now());
                Ok(draft)
            })
            .await?;
    }
    let entry = activate(&context, entry).await?;
    tracing::info!(endpoint = %id, recover = asked.recover, "endpoint enabled");
    let mut enabled = Enabled { endpoint: EndpointView::of(&context, &entry), redrive: None, replay: None };
    if asked.recover {
        let (letters, replay) = replays::recovery(&context, &entry)?;
        let job = dead_letters::start(&context, Some(entry.endpoint.tenant.clone()), letters)?;
        enabled.redrive = Some(JobView::of(&job));
        enabled.replay = replay.map(ReplayView::of);
    }
    Ok(Json(enabled))
}

/// Disables an endpoint: events pass it by, and what is queued for it becomes dead letters.
#[utoipa::path(post, path = "/v1/endpoints/{id}/disable", tag = "endpoints", params(("id" = String, Path)),
    responses((status = 200, body = EndpointView), (status = 404, body = Problem), (status = 409, body = Problem), (status = 503, body = Problem)))]
pub async fn disable(State(context): State<Context>, caller: Caller, Id(id): Id) -> Result<Json<EndpointView>, Problem> {
    caller.need(Role::Developer)?;
    visible(&context, &caller, &id)?;
    let positions = positions(&context).await?;
    let entry = context
        .registry
        .update_endpoint(&id, |entry| {
            let mut draft = Draft::of(entry);
            draft.endpoint.status = Status::Disabled;
            draft.endpoint.updated_at = context.clock.now();
            suspend(&mut draft, entry.endpoint.status, Some(&positions), context.clock.now());
            Ok(draft)
        })
        .await?;
    tracing::info!(endpoint = %id, "endpoint disabled");
    Ok(Json(EndpointView::of(&context, &entry)))
}

/// Brings the suspension of a draft in line with its status, which was `before`.
pub fn suspend(draft: &mut Draft, before: Status, positions: Option<&[Position]>, now: Timestamp) {
    match (before, draft.endpoint.status) {
        (Status::Enabled, Status::Disabled) => {
            let positions = positions.unwrap_or_default().to_vec();
            draft.disabled = Some(Suspension { since: now, positions, ended: None });
        }
        (Status::Disabled, Status::Enabled) => {
            if let Some(suspension) = &mut draft.disabled {
                suspension.ended = Some(now);
            }
        }
        (Status::Enabled, Status::Enabled) | (Status::Disabled, Status::Disabled) => {}
    }
}

/// Where the sources are.
pub async fn positions(shared: &Shared) -> Result<Vec<Position>, Problem> {
    let positions = Arc::clone(&shared.positions);
    let asked = tokio::task::spawn_blocking(move || positions()).await;
    Ok(asked.map_err(|_| Problem::unavailable("the positions of the sources could not be read"))??)
}

/// Makes it Active and waits until the registry says so. The health store makes the transition, so that it is told once, like any other.
pub async fn activate(shared: &Shared, entry: Entry) -> Result<Entry, Problem> {
    let id = &entry.endpoint.id;
    if let Some(record) = entry.health_record() {
        // A store that has lost it would see nothing to change.
        shared.health.restore(id, record.clone());
    }
    shared.health.report(id, Observation::Enabled);
    if entry.state() == HealthState::Active {
        return Ok(entry);
    }
    let active = shared.registry.wait_for(id, TRANSITION_DEADLINE, |entry| entry.state() == HealthState::Active).await;
    active.ok_or_else(|| Problem::unavailable(format!("the endpoint `{id}` did not become active yet: read it again in a moment")))
}
