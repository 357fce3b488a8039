//! What the routes of both families do.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{
    call::Call,
    error::{Error, Family, is_invalid},
    events, translate,
    webhook::{Webhook, WebhookSpec},
};
use crate::{
    api::{
        Context, Shared,
        error::Problem,
        native::{endpoints, status},
    },
    model::{Endpoint, Observation, Status, TypePattern},
    registry::{Draft, EndpointSpec, Entry, WriteError},
};

/// So many endpoints are looked through at once, between which others have their turn.
const BATCH: usize = 1_000;

pub async fn list(context: &Context, call: &Call) -> Json<Vec<Webhook>> {
    let mut webhooks = Vec::new();
    let mut after = None;
    loop {
        let entries = context.registry.endpoints(Some(&call.tenant), after.as_deref(), BATCH);
        let is_last = entries.len() < BATCH;
        after = entries.last().map(|entry| entry.endpoint.id.clone());
        let shown = entries.iter().filter(|entry| translate::is_shown(call, &entry.endpoint));
        webhooks.extend(shown.map(|entry| translate::shown(call, entry, false)));
        if is_last {
            return Json(webhooks);
        }
        tokio::task::yield_now().await;
    }
}

pub async fn create(context: &Context, call: &Call, given: WebhookSpec) -> Result<Response, Error> {
    let flat = given.is_flat();
    let endpoint = checked(call, translate::created(call, given)?, context, flat)?;
    let entry = context.registry.create_endpoint(endpoint).await.map_err(|error| Error::write(call.family, error))?;
    tracing::info!(endpoint = %entry.endpoint.id, tenant = %call.tenant, url = %entry.endpoint.url, "endpoint created");
    Ok((StatusCode::CREATED, Json(translate::shown(call, &entry, true))).into_response())
}

pub fn get(context: &Context, call: &Call) -> Result<Json<Webhook>, Error> {
    Ok(Json(translate::shown(call, &visible(context, call)?, false)))
}

pub async fn patch(context: &Context, call: &Call, given: WebhookSpec) -> Result<Json<Webhook>, Error> {
    visible(context, call)?;
    let refuse = |problem| Error::of(call.family, problem);
    let positions = match given.status.as_deref() {
        Some("DISABLED") => Some(status::positions(context).await.map_err(refuse)?),
        _ => None,
    };
    let (mut moved, mut refused) = (false, None);
    let result = context
        .registry
        .update_endpoint(&call.id, |entry| {
            let changed = translate::changed(call, entry, &given).and_then(|spec| checked(call, spec, context, given.is_flat()));
            let new = changed.map_err(|error| {
                refused = Some(error.in_change());
                WriteError::Invalid(Vec::new())
            })?;
            moved = new.url != entry.endpoint.url;
            let mut draft = Draft::of(entry);
            draft.endpoint = Endpoint { created_at: entry.endpoint.created_at, ..new };
            status::suspend(&mut draft, entry.endpoint.status, positions.as_deref(), context.clock.now());
            Ok(draft)
        })
        .await;
    if let Some(error) = refused {
        return Err(error);
    }
    let mut entry = result.map_err(|error| Error::write(call.family, error))?;
    if moved {
        context.health.report(&entry.endpoint.id, Observation::UrlChanged);
    }
    if given.status.as_deref() == Some("ENABLED") && entry.endpoint.status == Status::Enabled && !entry.is_served() {
        entry = status::activate(context, entry).await.map_err(refuse)?;
    }
    tracing::info!(endpoint = %call.id, "endpoint changed");
    Ok(Json(translate::shown(call, &entry, given.signing == Some(true))))
}

/// Takes the webhook away, and of an endpoint that is more than it only that part.
pub async fn delete(context: &Context, call: &Call) -> Result<StatusCode, Error> {
    let entry = visible(context, call)?;
    let refuse = |error| Error::write(call.family, error);
    match rest(call, &entry.endpoint)? {
        Some(_) => {
            let mut refused = None;
            let result = context
                .registry
                .update_endpoint(&call.id, |entry| {
                    let now = context.clock.now();
                    let mut draft = Draft::of(entry);
                    match rest(call, &entry.endpoint) {
                        Ok(Some(rest)) => draft.endpoint = Endpoint { updated_at: now, ..rest },
                        // Another writer took away what else it was; what is left is all that is to be deleted.
                        Ok(None) => return Err(WriteError::Contended(entry.endpoint.id.clone())),
                        Err(error) => {
                            refused = Some(error);
                            return Err(WriteError::Invalid(Vec::new()));
                        }
                    }
                    Ok(draft)
                })
                .await;
            if let Some(error) = refused {
                return Err(error);
            }
            result.map_err(refuse)?;
        }
        None => {
            let entry = context.registry.delete_endpoint(&call.id).await.map_err(refuse)?;
            context.health.forget(&entry.endpoint.id);
            context.journal.forget(&entry.endpoint.id);
        }
    }
    tracing::info!(endpoint = %call.id, "webhook deleted");
    Ok(StatusCode::NO_CONTENT)
}

/// What is left of an endpoint without this webhook; none if that is nothing.
fn rest(call: &Call, endpoint: &Endpoint) -> Result<Option<Endpoint>, Error> {
    let mut rest = endpoint.clone();
    match &call.channel {
        Some(channel) => {
            rest.channels.retain(|known| known != channel);
            Ok((!rest.channels.is_empty()).then_some(rest))
        }
        None => {
            let is_more = |pattern: &TypePattern| !matches!(pattern, TypePattern::Exact(_));
            if endpoint.types.is_empty() || endpoint.types.iter().any(is_more) {
                let message = format!("This webhook listens to more than template events: delete it by /v1/endpoints/{}", endpoint.id);
                return Err(Error::new(call.family, StatusCode::CONFLICT, message));
            }
            let names = events::names(Family::Template);
            rest.types.retain(|pattern| !names.iter().any(|name| pattern.matches(name)));
            Ok((!rest.types.is_empty()).then_some(rest))
        }
    }
}

/// The endpoint, if it is a webhook at this path.
fn visible(shared: &Shared, call: &Call) -> Result<Entry, Error> {
    let entry = shared.registry.get(&call.id).filter(|entry| translate::is_shown(call, &entry.endpoint));
    entry.ok_or_else(|| Error::not_found(call.family))
}

fn checked(call: &Call, spec: EndpointSpec, shared: &Shared, flat: bool) -> Result<Endpoint, Error> {
    endpoints::checked(spec, shared).map_err(|problem: Problem| {
        if is_invalid(&problem) { translate::told(call.family, problem.errors(), flat) } else { Error::of(call.family, problem) }
    })
}
