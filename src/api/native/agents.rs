//! `/v1/agents`: support expert agents, and `/v1/tickets/{id}/history`: what they sent.
//!
//! An agent watches events of the types `ticket.*` of its tenant. When one meets its condition, a `SUPPORT_EXPERT_AGENT` event is delivered to its
//! endpoint, whatever that listens to.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::{ListQuery, Page};
use crate::{
    api::{
        Context, Shared,
        auth::Caller,
        error::Problem,
        input::{Document, Id, Params, limit},
    },
    model::{Agent, Event, FieldError, Text, Timestamp, token::Role},
    routing::filter::Filter,
    settle::history::Sending,
};

const MAX_NAME: usize = 256;

/// Every ticket event of the tenant is looked at for each of them.
const MAX_AGENTS: usize = 100;

/// How long a request waits for the histories to be read at start.
const READ_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(example = json!({"name": "VIP tickets", "condition": "event.type == 'ticket.opened' && event.data.ticket.priority == 'high'", "endpoint": "ep_crm"}))]
pub struct NewAgent {
    #[schema(required = true, min_length = 1, max_length = 256)]
    name: String,
    /// What it is called elsewhere; sent along as `expertAgent.externalId`. Its id when absent.
    external_id: Option<String>,
    /// A CEL expression over the ticket event, as `filter` of an endpoint.
    #[schema(required = true)]
    condition: String,
    /// The id of an endpoint of the same tenant.
    #[schema(required = true)]
    endpoint: String,
    /// That of the calling token when absent; `default` for the admin token.
    tenant: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AgentPatch {
    name: Option<String>,
    /// Null: its id again.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    external_id: Option<Option<String>>,
    /// Giving one also lets a suspended agent watch again.
    condition: Option<String>,
    endpoint: Option<String>,
}

/// Tells null from absent.
fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(from).map(Some)
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentView {
    id: String,
    tenant: String,
    name: String,
    external_id: Option<String>,
    condition: String,
    endpoint: String,
    /// `watching`, or `suspended`: its condition took too many steps. Another condition lets it watch again.
    state: &'static str,
    /// Why it is suspended.
    reason: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

impl AgentView {
    fn of(agent: &Agent) -> AgentView {
        AgentView {
            id: agent.id.to_string(),
            tenant: agent.tenant.to_string(),
            name: agent.name.clone(),
            external_id: agent.external_id.clone(),
            condition: agent.condition.to_string(),
            endpoint: agent.endpoint.to_string(),
            state: if agent.suspended.is_some() { "suspended" } else { "watching" },
            reason: agent.suspended.as_ref().map(ToString::to_string),
            created_at: agent.created_at,
            updated_at: agent.updated_at,
        }
    }
}

/// The agents of a tenant, in the order of their ids.
#[utoipa::path(get, path = "/v1/agents", tag = "agents", params(ListQuery),
    responses((status = 200, body = Page<AgentView>), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub async fn list(
    State(context): State<Context>,
    caller: Caller,
    Params(query): Params<ListQuery>,
) -> Result<Json<Page<AgentView>>, Problem> {
    let tenant = caller.scope(query.tenant.as_deref())?;
    let limit = limit(query.limit.as_deref())?;
    let agents = context.registry.agents(tenant.as_deref(), query.cursor.as_deref(), limit + 1);
    Ok(Json(Page::of(agents, limit, |agent| agent.id.to_string()).map(|agent| AgentView::of(&agent))))
}

#[utoipa::path(post, path = "/v1/agents", tag = "agents", request_body = NewAgent,
    responses((status = 201, body = AgentView, headers(("Location" = String, description = "Its path."))), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 409, description = "The tenant has as many agents as it can have.", body = Problem),
        (status = 422, description = "Fields are wrong; all of them are named.", body = Problem), (status = 503, body = Problem)))]
pub async fn create(State(context): State<Context>, caller: Caller, Document(new): Document<NewAgent>) -> Result<Response, Problem> {
    caller.need(Role::Developer)?;
    let tenant = caller.scope(new.tenant.as_deref())?.unwrap_or_else(|| Event::DEFAULT_TENANT.into());
    let now = context.clock.now();
    let agent = Agent {
        id: Text::from(format!("ag_{}", uuid::Uuid::now_v7().simple())),
        tenant,
        name: new.name,
        external_id: new.external_id,
        condition: new.condition.into(),
        endpoint: new.endpoint.into(),
        suspended: None,
        created_at: now,
        updated_at: now,
    };
    check(&context, &agent)?;
    if context.registry.agents(Some(&agent.tenant), None, MAX_AGENTS).len() >= MAX_AGENTS {
        return Err(Problem::conflict(format!("the tenant has {MAX_AGENTS} agents, which is the most: delete one first")));
    }
    let created = context.registry.create_agent(agent).await?;
    tracing::info!(agent = %created.id, tenant = %created.tenant, endpoint = %created.endpoint, "agent created");
    let location = format!("/v1/agents/{}", created.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(AgentView::of(&created))).into_response())
}

#[utoipa::path(get, path = "/v1/agents/{id}", tag = "agents", params(("id" = String, Path)),
    responses((status = 200, body = AgentView), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub async fn get(State(context): State<Context>, caller: Caller, Id(id): Id) -> Result<Json<AgentView>, Problem> {
    let agent = visible(&context, &caller, &id)?;
    Ok(Json(AgentView::of(&agent)))
}

/// Changes an agent: fields that are given replace what is there.
#[utoipa::path(patch, path = "/v1/agents/{id}", tag = "agents", params(("id" = String, Path)), 
    request_body(content = AgentPatch, example = json!({"condition": "event.type == 'ticket.opened'"})),
    responses((status = 200, body = AgentView), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn patch(
    State(context): State<Context>,
    caller: Caller,
    Id(id): Id,
    Document(patch): Document<AgentPatch>,
) -> Result<Json<AgentView>, Problem> {
    caller.need(Role::Developer)?;
    let apply = |agent: &Agent| {
        let mut changed = Agent { updated_at: context.clock.now(), ..agent.clone() };
        if let Some(name) = &patch.name {
            changed.name.clone_from(name);
        }
        if let Some(external_id) = &patch.external_id {
            changed.external_id.clone_from(external_id);
        }
        if let Some(condition) = &patch.condition {
            (changed.condition, changed.suspended) = (condition.as_str().into(), None);
        }
        if let Some(endpoint) = &patch.endpoint {
            changed.endpoint = endpoint.as_str().into();
        }
        changed
    };
    let present = visible(&context, &caller, &id)?;
    check(&context, &apply(&present))?;
    let changed = context.registry.update_agent(&id, |agent| Ok(apply(agent))).await?;
    tracing::info!(agent = %id, "agent changed");
    Ok(Json(AgentView::of(&changed)))
}

#[utoipa::path(delete, path = "/v1/agents/{id}", tag = "agents", params(("id" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub async fn delete(State(context): State<Context>, caller: Caller, Id(id): Id) -> Result<StatusCode, Problem> {
    caller.need(Role::Developer)?;
    visible(&context, &caller, &id)?;
    context.registry.delete_agent(&id).await?;
    tracing::info!(agent = %id, "agent deleted");
    Ok(StatusCode::NO_CONTENT)
}

/// What was sent because of a ticket: each outcome of each sending, newest first. A ticket of which nothing was sent has an empty history.
/// `cursor` counts entries from the newest.
#[utoipa::path(get, path = "/v1/tickets/{id}/history", tag = "agents", params(("id" = String, Path), ListQuery),
    responses((status = 200, body = Page<Sending>), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 503, description = "The histories are still being read.", body = Problem)))]
pub async fn history(
    State(context): State<Context>,
    caller: Caller,
    Id(id): Id,
    Params(query): Params<ListQuery>,
) -> Result<Json<Page<Sending>>, Problem> {
    let tenant = caller.scope(query.tenant.as_deref())?.unwrap_or_else(|| Event::DEFAULT_TENANT.into());
    let limit = limit(query.limit.as_deref())?;
    let wrong = |text: &str| Problem::malformed("cursor", format!("`{text}` is no cursor: give the `next` of the page before"));
    let skip = query.cursor.as_deref().map_or(Ok(0), |text| text.parse::<usize>().map_err(|_| wrong(text)))?;
    if !context.history.until_ready(READ_DEADLINE).await {
        return Err(Problem::unavailable("the histories of tickets are still being read: try again in a moment"));
    }
    let mut items = context.history.of_ticket(&tenant, &id, skip, limit + 1);
    let next = (items.len() > limit).then(|| skip.saturating_add(limit).to_string());
    items.truncate(limit);
    Ok(Json(Page { items, next }))
}

fn visible(shared: &Shared, caller: &Caller, id: &str) -> Result<Arc<Agent>, Problem> {
    shared.registry.agent(id).filter(|agent| caller.sees(&agent.tenant)).ok_or_else(|| Problem::not_found("agent", id))
}

fn check(shared: &Shared, agent: &Agent) -> Result<(), Problem> {
    let mut errors = Vec::new();
    let is_name = |text: &str| !text.is_empty() && text.len() <= MAX_NAME && !text.chars().any(char::is_control);
    let rule = format!("1 to {MAX_NAME} bytes without control characters");
    if !is_name(&agent.name) {
        errors.push(FieldError::new("name", format!("is required: {rule}")));
    }
    if agent.external_id.as_deref().is_some_and(|text| !is_name(text)) {
        errors.push(FieldError::new("externalId", format!("must be {rule}")));
    }
    if !is_name(&agent.tenant) {
        errors.push(FieldError::new("tenant", format!("is no name of a tenant: {rule}")));
    }
    if let Err(wrong) = Filter::compile(&agent.condition) {
        errors.push(wrong.of_field("condition"));
    }
    // One of another tenant is as unknown as one that is not there.
    if shared.registry.get(&agent.endpoint).is_none_or(|entry| entry.endpoint.tenant != agent.tenant) {
        errors.push(FieldError::new("endpoint", "is no endpoint of the tenant: register it first"));
    }
    if errors.is_empty() { Ok(()) } else { Err(Problem::invalid(errors)) }
}
