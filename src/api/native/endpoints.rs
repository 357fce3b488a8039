//! `/v1/endpoints`: registering, reading and changing receivers.

use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRequest, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::{
    ListQuery, Page,
    events::Accepted,
    status,
    view::{Configured, EndpointView},
};
use crate::{
    api::{
        Context, Shared,
        auth::Caller,
        error::Problem,
        input::{Document, Id, Params, limit},
    },
    delivery::address::Policy,
    log::record::{encode_delivery, name_field, unplaced},
    model::{Delivery, Endpoint, Event, FieldError, Observation, Priority, Purpose, Secret, Signing, Status, Text, Timestamp, token::Role},
    registry::{
        Draft, Entry, WriteError,
        spec::{EndpointSpec, SecretText, new_secret},
    },
    routing::filter::Filter,
};

/// Fields that are shown and cannot be set: a document that was read can be sent back as it is.
const READ_ONLY: &[&str] = &["health", "declared", "createdAt", "updatedAt"];

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct TenantQuery {
    /// Of an endpoint that names none.
    #[param(min_length = 1, max_length = 256)]
    tenant: Option<String>,
}

/// The endpoints of a tenant, in the order of their ids.
#[utoipa::path(get, path = "/v1/endpoints", tag = "endpoints", params(ListQuery),
    responses((status = 200, body = Page<EndpointView>), (status = 400, body = Problem), (status = 401, body = Problem)))]
pub async fn list(
    State(context): State<Context>,
    caller: Caller,
    Params(query): Params<ListQuery>,
) -> Result<Json<Page<EndpointView>>, Problem> {
    let tenant = caller.scope(query.tenant.as_deref())?;
    let limit = limit(query.limit.as_deref())?;
    let entries = context.registry.endpoints(tenant.as_deref(), query.cursor.as_deref(), limit + 1);
    let page = Page::of(entries, limit, |entry| entry.endpoint.id.to_string());
    Ok(Json(page.map(|entry| EndpointView::of(&context, &entry))))
}

/// Registers an endpoint. The answer is the only one with its secret in it.
#[utoipa::path(post, path = "/v1/endpoints", tag = "endpoints", params(TenantQuery), request_body(content = EndpointSpec, example = json!({"url": "https://hooks.example.com/orders",
        "channels": ["shop"], "types": ["order.*"], "auth": {"type": "bearer", "token": "t0k"}, "headers": {"X-Source": "posthaste"}, "rate": "50/s",
        "retry": ["30s", "5m", "1h"]})),
    responses((status = 201, body = EndpointView, headers(("Location" = String, description = "Its path."))), (status = 400, body = Problem), (status = 403, body = Problem),
        (status = 409, description = "The id is taken.", body = Problem),
        (status = 422, description = "Fields are wrong; all of them are named.", body = Problem), (status = 503, body = Problem)))]
pub async fn create(
    State(context): State<Context>,
    caller: Caller,
    Params(query): Params<TenantQuery>,
    Document(mut spec): Document<EndpointSpec>,
) -> Result<Response, Problem> {
    caller.need(Role::Developer)?;
    let named = spec.tenant.take().or(query.tenant);
    spec.tenant = caller.scope(named.as_deref())?.map(|tenant| tenant.to_string());
    spec.fill();
    let endpoint = checked(spec, &context)?;
    let tenant = endpoint.tenant.clone();
    let created = context.registry.create_endpoint(endpoint).await.map_err(|error| match error {
        // Whose it is stays unknown to those who do not see it.
        WriteError::Exists { id, .. } => Problem::conflict(format!("the id `{id}` is taken")),
        other => other.into(),
    })?;
    tracing::info!(endpoint = %created.endpoint.id, %tenant, host = created.endpoint.url.host(), "endpoint created");
    let location = format!("/v1/endpoints/{}", created.endpoint.id);
    let view = EndpointView::with_secret(&context, &created);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(view)).into_response())
}

#[utoipa::path(get, path = "/v1/endpoints/{id}", tag = "endpoints", params(("id" = String, Path)),
    responses((status = 200, body = EndpointView), (status = 404, body = Problem)))]
pub async fn get(State(context): State<Context>, caller: Caller, Id(id): Id) -> Result<Json<EndpointView>, Problem> {
    Ok(Json(EndpointView::of(&context, &visible(&context, &caller, &id)?)))
}

/// The body of a change, as a map; fields that are read only are left out of it.
pub struct Patch(Map<String, Value>);

impl FromRequest<Context> for Patch {
    type Rejection = Problem;

    async fn from_request(request: Request, context: &Context) -> Result<Patch, Problem> {
        let Document(mut fields) = Document::<Map<String, Value>>::from_request(request, context).await?;
        fields.retain(|field, _| !READ_ONLY.contains(&field.as_str()));
        if let Some(Value::Object(auth)) = fields.get_mut("auth") {
            auth.remove("configured");
        }
        ["auth", "tls"].iter().for_each(|field| fields.get_mut(*field).into_iter().for_each(without_placeholders));
        Ok(Patch(fields))
    }
}

/// Takes out what stands in the place of secrets: they stay as they are.
fn without_placeholders(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, value| !Configured::is_placeholder(value));
        fields.values_mut().for_each(without_placeholders);
    }
}

/// Changes an endpoint by a JSON merge patch (RFC 7396): fields that are given replace what is there, null brings back the default. `auth` of
/// another type replaces the old one whole. Another way of signing makes a new secret, if none is given, and shows it.
#[utoipa::path(patch, path = "/v1/endpoints/{id}", tag = "endpoints", params(("id" = String, Path)),
    request_body(content = EndpointSpec, example = json!({"rate": "5/s", "description": null})),
    responses((status = 200, body = EndpointView), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, description = "It is declared in the configuration file.", body = Problem), (status = 422, body = Problem)))]
pub async fn patch(
    State(context): State<Context>,
    caller: Caller,
    Id(id): Id,
    Patch(fields): Patch,
) -> Result<Json<EndpointView>, Problem> {
    caller.need(Role::Developer)?;
    let was_signed = visible(&context, &caller, &id)?.endpoint.signing.as_str();
    let disables = fields.get("status").is_some_and(|status| status == "disabled");
    let entry = change(&context, &id, disables, |entry| merged(&entry.endpoint, &fields)).await?;
    tracing::info!(endpoint = %id, fields = ?fields.keys().collect::<Vec<_>>(), "endpoint changed");
    // Only one that was made just now is shown.
    let made_secret = entry.endpoint.signing.as_str() != was_signed && !fields.contains_key("secret");
    Ok(Json(if made_secret { EndpointView::with_secret(&context, &entry) } else { EndpointView::of(&context, &entry) }))
}

/// Deletes an endpoint. What is still queued for it becomes dead letters.
#[utoipa::path(delete, path = "/v1/endpoints/{id}", tag = "endpoints", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn delete(State(context): State<Context>, caller: Caller, Id(id): Id) -> Result<StatusCode, Problem> {
    caller.need(Role::Developer)?;
    visible(&context, &caller, &id)?;
    remove(&context, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rotation {
    /// The new secret; made up when absent.
    secret: Option<SecretText>,
    /// How many of the old ones stay live beside it, 0 to 3; 1 when absent. The hub scheme has one secret, so there it is always 0.
    #[schema(maximum = 3)]
    keep: Option<u8>,
}

/// Gives an endpoint a new secret and shows it. The old one goes on signing beside it (`standard`) until the next rotation.
#[utoipa::path(post, path = "/v1/endpoints/{id}/rotate-secret", tag = "endpoints", operation_id = "endpoints_rotate_secret", params(("id" = String, Path)), request_body(content = Option<Rotation>, example = json!({"keep": 1})),
    responses((status = 200, body = EndpointView), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn rotate_secret(
    State(context): State<Context>,
    caller: Caller,
    Id(id): Id,
    Document(rotation): Document<Rotation>,
) -> Result<Json<EndpointView>, Problem> {
    caller.need(Role::Developer)?;
    let entry = visible(&context, &caller, &id)?;
    let keep = usize::from(rotation.keep.unwrap_or(1));
    if keep > 3 {
        return Err(Problem::invalid(vec![FieldError::new("keep", format!("is {keep}: write 0 to 3"))]));
    }
    let secret = rotation.secret.or_else(|| new_secret(entry.endpoint.signing.as_str()));
    let Some(secret) = secret.filter(|_| entry.endpoint.signing != Signing::None) else {
        return Err(Problem::invalid(vec![FieldError::new("signing", "is `none`: there is no secret to rotate")]));
    };
    let entry = context
        .registry
        .update_endpoint(&id, |entry| {
            let mut draft = Draft::of(entry);
            let new = Secret::new(secret.0.as_bytes());
            draft.endpoint.signing = match &entry.endpoint.signing {
                Signing::Standard { secrets } => {
                    Signing::Standard { secrets: std::iter::once(new).chain(secrets.iter().take(keep).cloned()).collect() }
                }
                Signing::Hub { .. } => Signing::Hub { secret: new },
                Signing::None => Signing::None,
            };
            // Read again, so that the new secret is checked like one of a new endpoint.
            let checked = EndpointSpec::of(&draft.endpoint).check(context.clock.now()).map_err(WriteError::Invalid)?;
            draft.endpoint = Endpoint { created_at: entry.endpoint.created_at, ..checked };
            Ok(draft)
        })
        .await?;
    tracing::info!(endpoint = %id, "secret rotated");
    Ok(Json(EndpointView::with_secret(&context, &entry)))
}

/// A test event; all of it can be left out.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TestEvent {
    #[serde(rename = "type")]
    kind: Option<String>,
    channel: Option<String>,
    data: Option<Value>,
}

/// Sends an event to this endpoint alone, whatever it listens to. What came of it is among its attempts.
#[utoipa::path(post, path = "/v1/endpoints/{id}/test", tag = "endpoints", params(("id" = String, Path)), request_body(content = Option<TestEvent>, example = json!({"type": "order.created", "channel": "shop", "data": {"n": 1}})),
    responses((status = 202, body = Accepted), (status = 404, body = Problem),
        (status = 409, description = "It is disabled or suspended.", body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn test(
    State(context): State<Context>,
    caller: Caller,
    Id(id): Id,
    Document(test): Document<TestEvent>,
) -> Result<(StatusCode, Json<Accepted>), Problem> {
    caller.need(Role::Developer)?;
    let entry = visible(&context, &caller, &id)?;
    if !entry.is_served() {
        return Err(Problem::conflict(format!("the endpoint `{id}` is {}: enable it first", why_not_served(&entry))));
    }
    let now = context.clock.now();
    // As any other event: what could not be read again is not taken.
    let named = |field, given: Option<String>, usual: &'static str| match given {
        Some(given) => name_field(field, given.into()).map_err(|wrong| Problem::invalid(vec![wrong])),
        None => Ok(Text::from_static(usual)),
    };
    let kind = named("type", test.kind, "posthaste.test")?;
    let channel = named("channel", test.channel, Event::OWN_CHANNEL)?;
    let data = test.data.unwrap_or_else(|| serde_json::json!({"test": true, "sentAt": now.to_string()}));
    let event = Event {
        id: Text::from(format!("test_{}", uuid::Uuid::now_v7().simple())),
        kind,
        channel,
        direction: None,
        time: now,
        tenant: entry.endpoint.tenant.clone(),
        subject: None,
        priority: Priority::High,
        traceparent: None,
        data: Bytes::from(data.to_string()),
    };
    let delivery = Delivery {
        event: Arc::new(event),
        endpoint: entry.endpoint.id.clone(),
        origin: unplaced(Arc::clone(context.topics.ingest())),
        attempts: 0,
        accepted_at: now,
        due_at: None,
        registry_offset: context.registry.known_at(),
        purpose: Purpose::Test,
        reason: None,
    };
    let append = encode_delivery(&delivery).to(Arc::clone(context.topics.ingest()));
    let position = context.log.append(vec![append]).await.pop().expect("one result for each record")?;
    let accepted = Accepted {
        id: delivery.event.id.to_string(),
        topic: position.topic.to_string(),
        partition: position.partition,
        offset: position.offset,
    };
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}

/// Changes an endpoint to what `make` makes of it. All checks are made before anything is stored; health learns of a URL that moved. `disables`:
/// whether it may be disabled by that, for then it has to be known where the sources are.
pub async fn change(
    shared: &Shared,
    id: &str,
    disables: bool,
    make: impl Fn(&Entry) -> Result<EndpointSpec, Problem>,
) -> Result<Entry, Problem> {
    change_to(shared, id, disables, |entry| checked(make(entry)?, shared), std::convert::identity).await
}

/// As [`change`], for who checks by himself and has errors of his own, to which `refuse` turns ours.
pub async fn change_to<E>(
    shared: &Shared,
    id: &str,
    disables: bool,
    make: impl Fn(&Entry) -> Result<Endpoint, E>,
    refuse: impl Fn(Problem) -> E,
) -> Result<Entry, E> {
    let positions = if disables { Some(status::positions(shared).await.map_err(&refuse)?) } else { None };
    let mut moved = false;
    let mut refused = None;
    let result = shared
        .registry
        .update_endpoint(id, |entry| {
            let new = make(entry).map_err(|error| {
                refused = Some(error);
                WriteError::Invalid(Vec::new())
            })?;
            moved = new.url != entry.endpoint.url;
            let mut draft = Draft::of(entry);
            draft.endpoint = Endpoint { created_at: entry.endpoint.created_at, ..new };
            status::suspend(&mut draft, entry.endpoint.status, positions.as_deref(), shared.clock.now());
            Ok(draft)
        })
        .await;
    if let Some(error) = refused {
        return Err(error);
    }
    let entry = result.map_err(|error| refuse(error.into()))?;
    if moved {
        shared.health.report(&entry.endpoint.id, Observation::UrlChanged);
    }
    Ok(entry)
}

/// The document of an endpoint as it is: where a change begins.
pub fn document(entry: &Entry) -> EndpointSpec {
    EndpointSpec::of(&entry.endpoint)
}

/// Deletes an endpoint and what is known of it.
pub async fn remove(shared: &Shared, id: &str) -> Result<(), Problem> {
    if let Some(agent) = shared.registry.agent_of(id) {
        return Err(Problem::conflict(format!("the agent `{}` tells this endpoint: give it another one or delete it first", agent.id)));
    }
    let entry = shared.registry.delete_endpoint(id).await?;
    shared.health.forget(&entry.endpoint.id);
    shared.journal.forget(&entry.endpoint.id);
    tracing::info!(endpoint = %id, "endpoint deleted");
    Ok(())
}

/// All endpoints of a tenant (none: of all) that are wanted, in the order of their ids. Read in pages, between which the registry and other requests
/// have their turn.
pub async fn all(shared: &Shared, tenant: Option<&str>, wanted: impl Fn(&Entry) -> bool) -> Vec<Entry> {
    const PAGE: usize = 1_000;
    let mut found = Vec::new();
    let mut after: Option<Text> = None;
    loop {
        let page = shared.registry.endpoints(tenant, after.as_deref(), PAGE);
        let is_last = page.len() < PAGE;
        after = page.last().map(|entry| entry.endpoint.id.clone());
        found.extend(page.into_iter().filter(|entry| wanted(entry)));
        if is_last {
            return found;
        }
        tokio::task::yield_now().await;
    }
}

/// The endpoint, if it is there for this caller.
pub fn visible(shared: &Shared, caller: &Caller, id: &str) -> Result<Entry, Problem> {
    let entry = shared.registry.get(id).filter(|entry| caller.sees(&entry.endpoint.tenant));
    entry.ok_or_else(|| Problem::not_found("endpoint", id))
}

fn why_not_served(entry: &Entry) -> &'static str {
    if entry.endpoint.status == Status::Disabled { "disabled" } else { "suspended because of its health" }
}

/// All checks, as [`check`] makes them.
pub fn checked(spec: EndpointSpec, shared: &Shared) -> Result<Endpoint, Problem> {
    check(spec, &shared.addresses, shared.clock.now()).map_err(Problem::invalid)
}

/// All that is wrong with an endpoint that a person hands in, by whichever door: of the document itself, whether its addresses may be delivered to, and
/// whether its filter can be read.
pub fn check(spec: EndpointSpec, addresses: &Policy, now: Timestamp) -> Result<Endpoint, Vec<FieldError>> {
    let mut refused = addresses.check_urls(&spec.url, spec.auth.as_ref().and_then(|auth| auth.url.as_deref()));
    refused.extend(spec.filter.as_deref().and_then(|filter| Filter::compile(filter).err()).map(|wrong| wrong.of_field("filter")));
    match spec.check(now) {
        Ok(endpoint) if refused.is_empty() => Ok(endpoint),
        Ok(_) => Err(refused),
        Err(mut errors) => {
            // Of one field the document's own checks say enough.
            refused.retain(|error| errors.iter().all(|known| known.path != error.path));
            errors.extend(refused);
            Err(errors)
        }
    }
}

/// The document of the endpoint with the fields of the patch in it.
fn merged(endpoint: &Endpoint, fields: &Map<String, Value>) -> Result<EndpointSpec, Problem> {
    let present = EndpointSpec::of(endpoint);
    let same = |field: &str, present: &Option<String>| match fields.get(field) {
        None => true,
        Some(Value::String(given)) => Some(given) == present.as_ref(),
        Some(_) => false,
    };
    let fixed = [("id", same("id", &present.id)), ("tenant", same("tenant", &present.tenant))];
    let errors: Vec<FieldError> = fixed
        .iter()
        .filter(|(_, same)| !same)
        .map(|(field, _)| FieldError::new(*field, "cannot be changed: make another endpoint"))
        .collect();
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let other_signing = !same("signing", &present.signing);
    let other_auth = fields.get("auth").and_then(|auth| auth.get("type")).is_some_and(|kind| kind.as_str() != Some(endpoint.auth.as_str()));
    let mut document = serde_json::to_value(&present).expect("a plain document is always JSON");
    let target = document.as_object_mut().expect("a struct is an object");
    if other_signing {
        target.remove("secret");
    }
    if other_auth {
        target.remove("auth");
    }
    merge(target, fields);
    let mut spec: EndpointSpec = crate::api::input::parse(document.to_string().as_bytes())?;
    if other_signing {
        spec.fill();
    }
    Ok(spec)
}

/// RFC 7396.
fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (field, value) in patch {
        match (value, target.get_mut(field)) {
            (Value::Null, _) => drop(target.remove(field)),
            (Value::Object(patch), Some(Value::Object(target))) => merge(target, patch),
            (Value::Object(patch), _) => {
                let mut fresh = Map::new();
                merge(&mut fresh, patch);
                target.insert(field.clone(), Value::Object(fresh));
            }
            (value, _) => drop(target.insert(field.clone(), value.clone())),
        }
    }
}
