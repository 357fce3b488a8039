//! Shape B: `/v1/notifications/…` (WIRE.md 2.2).
//!
//! A tenant has one active subscription of this shape: the next one deactivates it. That is judged after the new one is registered, and over those
//! that were registered before it, so of several that come at once the last in the order of the registry stays. Subscriptions of shape A, and
//! endpoints that were made elsewhere, are shown, and neither deactivated nor deleted with all others.

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{
    ErrorBody, endpoint, endpoints, is_shown,
    subscriptions::TenantQuery,
    topics::{self, Topic},
    visible,
};
use crate::{
    api::{
        Context,
        auth::Caller,
        error::Problem,
        fields::Reader,
        input::{Document, Id, Params},
    },
    model::{Endpoint, Status, token::Role},
    registry::Entry,
};

/// The attribute of those that were made here.
const MADE_HERE: &str = "notifications";

#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ConversionNewNotification)]
pub struct NewSubscription {
    /// `prospects`, `quotes`, `interactions`, `agents`.
    topics: Vec<String>,
    callback_url: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ConversionNotification)]
pub struct Subscription {
    id: String,
    topics: Vec<String>,
    #[schema(example = "https://hooks.example.com/conversion")]
    callback_url: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ConversionModified)]
pub struct Modified {
    modified: usize,
}

impl Subscription {
    fn of(endpoint: &Endpoint) -> Subscription {
        Subscription { id: endpoint.id.to_string(), topics: topics::topics(endpoint), callback_url: endpoint.url.as_str().to_owned() }
    }
}

/// The topics that can be subscribed to.
#[utoipa::path(get, path = "/v1/notifications/topics", tag = "Zenvia Conversion", operation_id = "notifications_topics",
    security(("api-key" = []), ("token" = []), ("bearer" = [])),
    responses((status = 200, body = Vec<Topic>), (status = 401, body = ErrorBody)))]
pub async fn topics(_: Caller) -> Json<Vec<Topic>> {
    Json(topics::all())
}

/// The active subscriptions.
#[utoipa::path(get, path = "/v1/notifications/subscriptions", tag = "Zenvia Conversion", params(TenantQuery), operation_id = "notifications_list",
    security(("api-key" = []), ("token" = []), ("bearer" = [])),
    responses((status = 200, body = Vec<Subscription>), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub async fn list(
    State(context): State<Context>,
    caller: Caller,
    Params(query): Params<TenantQuery>,
) -> Result<Json<Vec<Subscription>>, Problem> {
    let tenant = caller.scope(query.tenant.as_deref())?;
    let entries = endpoints::all(&context, tenant.as_deref(), |entry| is_shown(entry) && is_active(entry)).await;
    Ok(Json(entries.iter().map(|entry| Subscription::of(&entry.endpoint)).collect()))
}

/// Subscribes a URL to topics, in place of the one that was subscribed here before.
#[utoipa::path(post, path = "/v1/notifications/subscriptions", tag = "Zenvia Conversion", params(TenantQuery), operation_id = "notifications_create",
    security(("api-key" = []), ("token" = []), ("bearer" = [])),
    request_body(content = NewSubscription, example = json!({ "topics": ["prospects"], "callbackUrl": "https://hooks.example.com/conversion" })),
    responses((status = 200, body = Subscription), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 413, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn create(
    State(context): State<Context>,
    caller: Caller,
    Params(query): Params<TenantQuery>,
    Document(body): Document<Map<String, Value>>,
) -> Result<Json<Subscription>, Problem> {
    caller.need(Role::Developer)?;
    let tenant = caller.scope(query.tenant.as_deref())?;
    let mut read = Reader::default();
    read.only("", &body, &["topics", "callbackUrl"]);
    let types = types(&mut read, body.get("topics"));
    let attributes = Map::from_iter([(MADE_HERE.to_owned(), json!(true))]);
    let new = endpoint(&context, tenant, read, &body, types, Some(attributes))?;
    let created = context.registry.create_endpoint(new).await?.endpoint;
    tracing::info!(endpoint = %created.id, tenant = %created.tenant, host = created.url.host(), "endpoint created");
    let is_earlier = |entry: &Entry| is_ours(entry) && is_active(entry) && entry.endpoint.registry_offset < created.registry_offset;
    for earlier in endpoints::all(&context, Some(&created.tenant), is_earlier).await {
        let id = &earlier.endpoint.id;
        let change = endpoints::change(&context, id, true, |entry| {
            let mut document = endpoints::document(entry);
            document.status = Some("disabled".into());
            Ok(document)
        });
        unless_gone(change.await)?;
        tracing::info!(endpoint = %id, by = %created.id, "endpoint disabled by the next subscription");
    }
    Ok(Json(Subscription::of(&created)))
}

/// Deletes all that were subscribed here.
#[utoipa::path(delete, path = "/v1/notifications/subscriptions", tag = "Zenvia Conversion", params(TenantQuery),
    operation_id = "notifications_delete_all", security(("api-key" = []), ("token" = []), ("bearer" = [])),
    responses((status = 200, body = Modified), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 409, description = "An agent tells one of them; others may be deleted.", body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn delete_all(
    State(context): State<Context>,
    caller: Caller,
    Params(query): Params<TenantQuery>,
) -> Result<Json<Modified>, Problem> {
    caller.need(Role::Developer)?;
    let tenant = caller.scope(query.tenant.as_deref())?;
    let ours = endpoints::all(&context, tenant.as_deref(), is_ours).await;
    let mut modified = 0;
    for entry in &ours {
        modified += usize::from(unless_gone(endpoints::remove(&context, &entry.endpoint.id).await)?.is_some());
    }
    Ok(Json(Modified { modified }))
}

#[utoipa::path(get, path = "/v1/notifications/subscription/{id}", tag = "Zenvia Conversion", operation_id = "notifications_get",
    params(("id" = String, Path)), security(("api-key" = []), ("token" = []), ("bearer" = [])),
    responses((status = 200, body = Subscription), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn get(State(context): State<Context>, caller: Caller, Id(id): Id) -> Result<Json<Subscription>, Problem> {
    Ok(Json(Subscription::of(&visible(&context, &caller, &id)?.endpoint)))
}

/// Deletes a subscription and answers what it was.
#[utoipa::path(delete, path = "/v1/notifications/subscription/{id}", tag = "Zenvia Conversion", operation_id = "notifications_delete",
    params(("id" = String, Path)), security(("api-key" = []), ("token" = []), ("bearer" = [])),
    responses((status = 200, body = Subscription), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, description = "It is declared in the configuration file.", body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub async fn delete(State(context): State<Context>, caller: Caller, Id(id): Id) -> Result<Json<Subscription>, Problem> {
    caller.need(Role::Developer)?;
    let entry = visible(&context, &caller, &id)?;
    endpoints::remove(&context, &id).await?;
    Ok(Json(Subscription::of(&entry.endpoint)))
}

/// What somebody else deleted in the meantime needs nothing any more, and those after it still do.
fn unless_gone<T>(result: Result<T, Problem>) -> Result<Option<T>, Problem> {
    match result {
        Err(problem) if problem.status() == StatusCode::NOT_FOUND => Ok(None),
        result => result.map(Some),
    }
}

fn is_active(entry: &Entry) -> bool {
    entry.endpoint.status == Status::Enabled
}

fn is_ours(entry: &Entry) -> bool {
    let marked = entry.endpoint.attributes.as_ref().is_some_and(|attributes| attributes.contains_key(MADE_HERE));
    is_shown(entry) && marked && !entry.endpoint.is_declared()
}

fn types(read: &mut Reader, topics: Option<&Value>) -> Vec<String> {
    let mut types: Vec<String> = Vec::new();
    match topics {
        None | Some(Value::Null) => read.wrong("topics", "is required"),
        Some(Value::Array(items)) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                let path = format!("topics[{index}]");
                match item {
                    Value::String(_) => types.extend(read.word(&path, Some(item), &topics::aliases()).map(str::to_owned)),
                    _ => read.wrong(&path, "must be text"),
                }
            }
        }
        Some(_) => read.wrong("topics", "must be a list of at least one topic"),
    }
    types.sort_unstable();
    types.dedup();
    types
}
