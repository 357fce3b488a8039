//! `/v1/channels/{channelId}/webhooks`.

use axum::{Json, extract::State, http::StatusCode, response::Response};

use super::{
    call::{Call, TenantQuery},
    error::{ChannelError, Error},
    webhook::{Webhook, WebhookSpec},
    work,
};
use crate::api::Context;

/// The webhooks of a channel.
#[utoipa::path(get, path = "/v1/channels/{channelId}/webhooks", tag = "hub channel webhooks", operation_id = "hub_channel_list",
    params(("channelId" = String, Path), TenantQuery),
    responses((status = 200, body = Vec<Webhook>), (status = 400, body = ChannelError), (status = 401, body = ChannelError),
        (status = 403, body = ChannelError), (status = 422, description = "The account has no ENTERPRISE role.", body = ChannelError)))]
pub async fn list(State(context): State<Context>, call: Call) -> Result<Json<Vec<Webhook>>, Error> {
    Ok(work::list(&context, &call).await)
}

/// Registers a webhook of a channel. With `signing` the answer is the only one with its secret in it.
#[utoipa::path(post, path = "/v1/channels/{channelId}/webhooks", tag = "hub channel webhooks", operation_id = "hub_channel_create",
    params(("channelId" = String, Path), TenantQuery),
    request_body(content = WebhookSpec, example = json!({"url": "https://app.example.com/hook", "description": "prod",
        "events": ["MESSAGE_RECEIVED", "MESSAGE_STATUS"], "signing": true, "auth": {"type": "BEARER", "token": "t0k"},
        "payloadFormat": "Z_API", "customAttributes": {}})),
    responses((status = 201, body = Webhook, example = json!({"id": "A1B2C3D4E5F6789012345678901234AB",
            "channelId": "019E4C54B1B375A28970B605CA9B03C3", "instanceId": "019E4C54B1B375A28970B605CA9B03C3",
            "url": "https://app.example.com/hook", "description": "prod", "events": ["MESSAGE_RECEIVED", "MESSAGE_STATUS"], "status": "ENABLED",
            "signing": true, "secret": "a7f3c81e9d2b4605f1a8c3e7b9d40f6218273645a8b9c0d1e2f3041526374859", "auth": {"type": "BEARER", "configured": true},
            "payloadFormat": "Z_API", "customAttributes": {}, "createdAt": "2025-01-15T10:30:00.000+0000", "updatedAt": "2025-01-15T10:30:00.000+0000"})),
        (status = 400, description = "A field is missing or wrong.", body = ChannelError, example = json!({"error": 400, "message": "url is required"})),
        (status = 401, body = ChannelError), (status = 403, body = ChannelError), (status = 413, body = ChannelError),
        (status = 422, description = "The account has no ENTERPRISE role, or events are those of templates.", body = ChannelError),
        (status = 503, body = ChannelError)))]
pub async fn create(State(context): State<Context>, call: Call, given: WebhookSpec) -> Result<Response, Error> {
    work::create(&context, &call, given).await
}

#[utoipa::path(get, path = "/v1/channels/{channelId}/webhooks/{webhookId}", tag = "hub channel webhooks", operation_id = "hub_channel_get",
    params(("channelId" = String, Path), ("webhookId" = String, Path), TenantQuery),
    responses((status = 200, body = Webhook), (status = 400, body = ChannelError), (status = 401, body = ChannelError), (status = 403, body = ChannelError),
        (status = 404, body = ChannelError, example = json!({"error": 404, "message": "Webhook not found"})), (status = 422, body = ChannelError)))]
pub async fn get(State(context): State<Context>, call: Call) -> Result<Json<Webhook>, Error> {
    work::get(&context, &call)
}

/// Changes a webhook: fields that are absent stay as they are, `events` replaces the list. `signing: true` makes a new secret and shows it; the old
/// one stops being valid at once.
#[utoipa::path(patch, path = "/v1/channels/{channelId}/webhooks/{webhookId}", tag = "hub channel webhooks", operation_id = "hub_channel_patch",
    params(("channelId" = String, Path), ("webhookId" = String, Path), TenantQuery),
    request_body(content = WebhookSpec, example = json!({"status": "DISABLED"})),
    responses((status = 200, body = Webhook),
        (status = 400, body = ChannelError, example = json!({"error": 400, "message": "Validation error: url is longer than 2048 characters"})),
        (status = 401, body = ChannelError), (status = 403, body = ChannelError), (status = 404, body = ChannelError),
        (status = 409, description = "It is declared in the configuration file.", body = ChannelError), (status = 413, body = ChannelError),
        (status = 422, body = ChannelError), (status = 503, body = ChannelError)))]
pub async fn patch(State(context): State<Context>, call: Call, given: WebhookSpec) -> Result<Json<Webhook>, Error> {
    work::patch(&context, &call, given).await
}

/// Deletes a webhook. An endpoint that listens to further channels goes on listening to those.
#[utoipa::path(delete, path = "/v1/channels/{channelId}/webhooks/{webhookId}", tag = "hub channel webhooks", operation_id = "hub_channel_delete",
    params(("channelId" = String, Path), ("webhookId" = String, Path), TenantQuery),
    responses((status = 204), (status = 400, body = ChannelError), (status = 401, body = ChannelError), (status = 403, body = ChannelError),
        (status = 404, body = ChannelError), (status = 409, body = ChannelError), (status = 422, body = ChannelError), (status = 503, body = ChannelError)))]
pub async fn delete(State(context): State<Context>, call: Call) -> Result<StatusCode, Error> {
    work::delete(&context, &call).await
}
