//! Shape A: `/v1/subscriptions` (WIRE.md 2.1).

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::{ErrorBody, endpoint, endpoints, is_shown, topics, visible};
use crate::{
    api::{
        Context,
        auth::Caller,
        error::Problem,
        fields::Reader,
        input::{Document, Id, Params},
    },
    model::{Endpoint, token::Role},
};

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct TenantQuery {
    /// Only the admin token needs it.
    pub tenant: Option<String>,
}

#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ConversionNewSubscription)]
pub struct NewSubscription {
    /// `lead.created`, `quote.updated` or `interaction.resolved`.
    topic: String,
    callback_url: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ConversionSubscription)]
pub struct Subscription {
    #[schema(example = "0198c1f0a7c87d1bb5d4c3b2a1f0e9d8")]
    id: String,
    /// Of an endpoint that was made elsewhere: all that it listens to, joined by commas; `*` for everything.
    #[schema(example = "lead.created")]
    topic: String,
    #[schema(example = "https://hooks.example.com/conversion")]
    callback_url: String,
}

impl Subscription {
    fn of(endpoint: &Endpoint) -> Subscription {
        Subscription { id: endpoint.id.to_string(), topic: topics::topic(endpoint), callback_url: endpoint.url.as_str().to_owned() }
    }
}

/// All subscriptions of the tenant.
#[utoipa::path(get, path = "/v1/subscriptions", tag = "Zenvia Conversion", params(TenantQuery), operation_id = "conversion_list",
    security(("bearer" = []), ("token" = []), ("token" = [], "signature" = [])),
    responses((status = 200, body = Vec<Subscription>), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub async fn list(
    State(context): State<Context>,
    caller: Caller,
    Params(query): Params<TenantQuery>,
) -> Result<Json<Vec<Subscription>>, Problem> {
    let tenant = caller.scope(query.tenant.as_deref())?;
    let entries = endpoints::all(&context, tenant.as_deref(), is_shown).await;
    Ok(Json(entries.iter().map(|entry| Subscription::of(&entry.endpoint)).collect()))
}

/// Subscribes a URL to one topic.
#[utoipa::path(post, path = "/v1/subscriptions", tag = "Zenvia Conversion", params(TenantQuery), operation_id = "conversion_create",
    security(("bearer" = []), ("token" = []), ("token" = [], "signature" = [])),
    request_body(content = NewSubscription, example = json!({ "topic": "lead.created", "callbackUrl": "https://hooks.example.com/conversion" })),
    responses((status = 201, body = Subscription), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 413, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn create(
    State(context): State<Context>,
    caller: Caller,
    Params(query): Params<TenantQuery>,
    Document(body): Document<Map<String, Value>>,
) -> Result<(StatusCode, Json<Subscription>), Problem> {
    caller.need(Role::Developer)?;
    let tenant = caller.scope(query.tenant.as_deref())?;
    let mut read = Reader::default();
    read.only("", &body, &["topic", "callbackUrl"]);
    let topic = match read.required_text("topic", body.get("topic")) {
        Some(_) => read.word("topic", body.get("topic"), &topics::names()),
        None => None,
    };
    let types = topic.map(str::to_owned).into_iter().collect();
    let created = context.registry.create_endpoint(endpoint(&context, tenant, read, &body, types, None)?).await?;
    tracing::info!(endpoint = %created.endpoint.id, tenant = %created.endpoint.tenant, host = created.endpoint.url.host(), "endpoint created");
    Ok((StatusCode::CREATED, Json(Subscription::of(&created.endpoint))))
}

#[utoipa::path(get, path = "/v1/subscriptions/{id}", tag = "Zenvia Conversion", operation_id = "conversion_get", params(("id" = String, Path)),
    security(("bearer" = []), ("token" = []), ("token" = [], "signature" = [])),
    responses((status = 200, body = Subscription), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn get(State(context): State<Context>, caller: Caller, Id(id): Id) -> Result<Json<Subscription>, Problem> {
    Ok(Json(Subscription::of(&visible(&context, &caller, &id)?.endpoint)))
}

#[utoipa::path(delete, path = "/v1/subscriptions/{id}", tag = "Zenvia Conversion", operation_id = "conversion_delete", params(("id" = String, Path)),
    security(("bearer" = []), ("token" = []), ("token" = [], "signature" = [])),
    responses((status = 204), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, description = "It is declared in the configuration file.", body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn delete(State(context): State<Context>, caller: Caller, Id(id): Id) -> Result<StatusCode, Problem> {
    caller.need(Role::Developer)?;
    visible(&context, &caller, &id)?;
    endpoints::remove(&context, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
