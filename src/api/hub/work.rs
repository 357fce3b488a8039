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
    model::{Endpoint, Status, TypePattern},
    registry::{EndpointSpec, Entry, WriteError},
};

pub async fn list(context: &Context, call: &Call) -> Json<Vec<Webhook>> {
    let entries = endpoints::all(context, Some(&call.tenant), |entry| translate::is_shown(call, &entry.endpoint)).await;
    Json(entries.iter().map(|entry| translate::shown(call, entry, false)).collect())
}

pub async fn create(context: &Context, call: &Call, given: WebhookSpec) -> Result<Response, Error> {
    let flat = given.is_flat();
    let endpoint = checked(call, translate::created(call, given)?, context, flat)?;
    let entry = context.registry.create_endpoint(endpoint).await.map_err(|error| gone_or(call, error.into()))?;
    tracing::info!(endpoint = %entry.endpoint.id, tenant = %call.tenant, host = entry.endpoint.url.host(), "endpoint created");
    Ok((StatusCode::CREATED, Json(translate::shown(call, &entry, true))).into_response())
}

pub fn get(context: &Context, call: &Call) -> Result<Json<Webhook>, Error> {
    Ok(Json(translate::shown(call, &visible(context, call)?, false)))
}

pub async fn patch(context: &Context, call: &Call, given: WebhookSpec) -> Result<Json<Webhook>, Error> {
    visible(context, call)?;
    let refuse = |problem| Error::of(call.family, problem);
    let make = |entry: &Entry| {
        let changed = translate::changed(call, entry, &given).and_then(|spec| checked(call, spec, context, given.is_flat()));
        changed.map_err(Error::in_change)
    };
    let disables = given.status.as_deref() == Some("DISABLED");
    let mut entry = endpoints::change_to(context, &call.id, disables, make, |problem| gone_or(call, problem)).await?;
    if given.status.as_deref() == Some("ENABLED") && entry.endpoint.status == Status::Enabled && !entry.is_served() {
        entry = status::activate(context, entry).await.map_err(refuse)?;
    }
    tracing::info!(endpoint = %call.id, "endpoint changed");
    Ok(Json(translate::shown(call, &entry, given.signing == Some(true))))
}

/// Takes the webhook away, and of an endpoint that is more than it only that part.
pub async fn delete(context: &Context, call: &Call) -> Result<StatusCode, Error> {
    let entry = visible(context, call)?;
    let refuse = |problem| gone_or(call, problem);
    match rest(call, &entry.endpoint)? {
        Some(_) => {
            let make = |entry: &Entry| match rest(call, &entry.endpoint)? {
                Some(rest) => Ok(Endpoint { updated_at: context.clock.now(), ..rest }),
                // Another writer took away what else it was; what is left is all that is to be deleted.
                None => Err(refuse(WriteError::Contended(entry.endpoint.id.clone()).into())),
            };
            endpoints::change_to(context, &call.id, false, make, refuse).await?;
        }
        None => endpoints::remove(context, &call.id).await.map_err(refuse)?,
    }
    tracing::info!(endpoint = %call.id, "webhook deleted");
    Ok(StatusCode::NO_CONTENT)
}

/// What a write was refused for; an endpoint that is gone by now is a webhook that is not there.
fn gone_or(call: &Call, problem: Problem) -> Error {
    match problem.status() {
        StatusCode::NOT_FOUND => Error::not_found(call.family),
        _ => Error::of(call.family, problem),
    }
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
