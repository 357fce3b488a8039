//! The routes of `/v2/subscriptions`.

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::{
    ErrorBody,
    document::{self, Patch},
    view::{Subscription, version},
};
use crate::{
    api::{
        Context,
        auth::Caller,
        error::Problem,
        input::{Document, Id, Params},
        native::{endpoints, status},
    },
    model::token::Role,
    registry::Entry,
};

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct TenantQuery {
    /// Only the admin token needs it.
    tenant: Option<String>,
}

/// What is read of a body is read member by member (`document`); these say what may be in it.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ZenviaNewSubscription)]
pub struct NewSubscription {
    /// `MESSAGE`, `MESSAGE_STATUS`, `CONVERSATION_STATUS`, `CONVERSATION_MESSAGE`, `SUPPORT_EXPERT_AGENT` or `CONTACT`.
    event_type: String,
    webhook: NewWebhook,
    /// `channel` and `direction`; of `CONTACT` `action`; of `CONVERSATION_STATUS` and `SUPPORT_EXPERT_AGENT` none.
    criteria: Option<NewCriteria>,
    /// `ACTIVE` (the default) or `INACTIVE`.
    status: Option<String>,
    /// Of the payload: `v2` (the default) or `v1`.
    version: Option<String>,
    /// Of `SUPPORT_EXPERT_AGENT`: kept and shown again.
    #[schema(value_type = Option<Object>)]
    ticket: Option<Value>,
    /// Of `SUPPORT_EXPERT_AGENT`: kept and shown again.
    #[schema(value_type = Option<Object>)]
    expert_agent: Option<Value>,
}

#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ZenviaNewWebhook)]
pub struct NewWebhook {
    url: String,
    #[schema(value_type = Option<Object>)]
    headers: Option<Value>,
    auth: Option<NewAuth>,
}

#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ZenviaWebhookAuth)]
pub struct NewAuth {
    /// `OAUTH`, which is also the default.
    r#type: Option<String>,
    /// Of the token request; https.
    url: String,
    /// Of the token request.
    #[schema(value_type = Option<Object>)]
    headers: Option<Value>,
    #[schema(value_type = Option<Object>)]
    query_params: Option<Value>,
    oauth: NewOAuth,
}

#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ZenviaOAuth)]
pub struct NewOAuth {
    /// `client_credentials`, which is also the default.
    grant_type: Option<String>,
    client_id: String,
    client_secret: String,
    refresh_token: Option<String>,
    /// Seconds that a token lives whose answer does not say.
    #[schema(minimum = 1)]
    expires_in: Option<u64>,
}

#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ZenviaNewCriteria)]
pub struct NewCriteria {
    channel: Option<String>,
    /// `IN`, `OUT`, `ALL`; of `CONVERSATION_MESSAGE` `IN`, `OUT`, `INTERNAL`.
    direction: Option<String>,
    /// `CREATED`, `DELETED`, `UPDATED`.
    action: Option<Vec<String>>,
}

#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ZenviaSubscriptionPatch)]
pub struct SubscriptionPatch {
    webhook: Option<WebhookPatch>,
    /// `ACTIVE` or `INACTIVE`.
    status: Option<String>,
}

/// What is given replaces what is there.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ZenviaWebhookPatch)]
pub struct WebhookPatch {
    #[schema(max_length = 2048)]
    url: Option<String>,
    #[schema(value_type = Option<Object>)]
    headers: Option<Value>,
    auth: Option<NewAuth>,
}

/// All subscriptions of the tenant.
#[utoipa::path(get, path = "/v2/subscriptions", tag = "Zenvia Customer Cloud", params(TenantQuery), operation_id = "zenvia_list",
    security(("token" = []), ("bearer" = []), ("token" = [], "signature" = [])),
    responses((status = 200, body = Vec<Subscription>), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub async fn list(
    State(context): State<Context>,
    caller: Caller,
    Params(query): Params<TenantQuery>,
) -> Result<Json<Vec<Subscription>>, Problem> {
    let tenant = caller.scope(query.tenant.as_deref())?;
    let entries = endpoints::all(&context, tenant.as_deref(), |entry| version(&entry.endpoint).is_some()).await;
    Ok(Json(entries.iter().map(Subscription::of).collect()))
}

/// Subscribes a webhook to events of one type. At most two subscriptions have the same event type and channel.
#[utoipa::path(post, path = "/v2/subscriptions", tag = "Zenvia Customer Cloud", params(TenantQuery), operation_id = "zenvia_create",
    security(("token" = []), ("bearer" = []), ("token" = [], "signature" = [])),
    request_body(content = NewSubscription, example = json!({
        "eventType": "MESSAGE", "status": "ACTIVE", "version": "v2",
        "webhook": { "url": "https://hooks.example.com/zenvia", "headers": { "X-My-Key": "k1" } },
        "criteria": { "channel": "whatsapp", "direction": "IN" } })),
    responses((status = 200, body = Subscription),
        (status = 400, description = "All fields that are wrong are named.", body = ErrorBody, example = json!({
            "code": "VALIDATION_ERROR", "message": "Validation error",
            "details": [{ "code": "required", "path": "webhook.url", "message": "webhook.url is required" }] })),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 409, description = "There are two with these criteria.", body = ErrorBody), (status = 413, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub async fn create(
    State(context): State<Context>,
    caller: Caller,
    Params(query): Params<TenantQuery>,
    Document(body): Document<Map<String, Value>>,
) -> Result<Json<Subscription>, Problem> {
    caller.need(Role::Developer)?;
    let tenant = caller.scope(query.tenant.as_deref())?;
    let mut spec = document::create(&body)?;
    spec.tenant = tenant.map(|tenant| tenant.to_string());
    let endpoint = endpoints::checked(spec, &context).map_err(|problem| problem.renamed(document::path))?;
    let created = context.registry.create_among_few(endpoint).await?;
    tracing::info!(endpoint = %created.endpoint.id, tenant = %created.endpoint.tenant, host = created.endpoint.url.host(), "endpoint created");
    Ok(Json(Subscription::of(&created)))
}

#[utoipa::path(get, path = "/v2/subscriptions/{subscriptionId}", tag = "Zenvia Customer Cloud", operation_id = "zenvia_get",
    params(("subscriptionId" = String, Path)), security(("token" = []), ("bearer" = []), ("token" = [], "signature" = [])),
    responses((status = 200, body = Subscription), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn get(State(context): State<Context>, caller: Caller, Id(id): Id) -> Result<Json<Subscription>, Problem> {
    Ok(Json(Subscription::of(&visible(&context, &caller, &id)?)))
}

/// Changes the webhook or the status, nothing else. ACTIVE wakes an inactive one, for what comes from now on; another URL revives a degraded one.
#[utoipa::path(patch, path = "/v2/subscriptions/{subscriptionId}", tag = "Zenvia Customer Cloud", operation_id = "zenvia_patch",
    params(("subscriptionId" = String, Path)), security(("token" = []), ("bearer" = []), ("token" = [], "signature" = [])),
    request_body(content = SubscriptionPatch, example = json!({ "status": "INACTIVE" })),
    responses((status = 200, body = Subscription), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, description = "It is declared in the configuration file.", body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn patch(
    State(context): State<Context>,
    caller: Caller,
    Id(id): Id,
    Document(body): Document<Map<String, Value>>,
) -> Result<Json<Subscription>, Problem> {
    caller.need(Role::Developer)?;
    visible(&context, &caller, &id)?;
    let patch = Patch::parse(&body)?;
    let disables = patch.status == Some("disabled");
    let entry = endpoints::change(&context, &id, disables, |entry| patch.apply(endpoints::document(entry)))
        .await
        .map_err(|problem| problem.renamed(document::path))?;
    let entry = match patch.status {
        Some("enabled") if !entry.is_served() => status::activate(&context, entry).await?,
        _ => entry,
    };
    tracing::info!(endpoint = %id, fields = ?body.keys().collect::<Vec<_>>(), "endpoint changed");
    Ok(Json(Subscription::of(&entry)))
}

#[utoipa::path(delete, path = "/v2/subscriptions/{subscriptionId}", tag = "Zenvia Customer Cloud", operation_id = "zenvia_delete",
    params(("subscriptionId" = String, Path)), security(("token" = []), ("bearer" = []), ("token" = [], "signature" = [])),
    responses((status = 204), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, description = "It is declared in the configuration file.", body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn delete(State(context): State<Context>, caller: Caller, Id(id): Id) -> Result<StatusCode, Problem> {
    caller.need(Role::Developer)?;
    visible(&context, &caller, &id)?;
    endpoints::remove(&context, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn visible(context: &Context, caller: &Caller, id: &str) -> Result<Entry, Problem> {
    let entry = endpoints::visible(context, caller, id).ok().filter(|entry| version(&entry.endpoint).is_some());
    entry.ok_or_else(|| Problem::not_found("subscription", id))
}
