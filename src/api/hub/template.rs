//! `/v1/webhooks`.

use axum::{Json, extract::State, http::StatusCode, response::Response};

use super::{
    call::{Call, TemplateListQuery, TenantQuery},
    error::{Error, TemplateError},
    webhook::{Webhook, WebhookSpec},
    work,
};
use crate::api::Context;

/// The template webhooks, or with `channelId` the webhooks of a channel.
#[utoipa::path(get, path = "/v1/webhooks", tag = "hub template webhooks", operation_id = "hub_template_list",
    params(TemplateListQuery),
    responses((status = 200, body = Vec<Webhook>), (status = 400, body = TemplateError), (status = 401, body = TemplateError),
        (status = 403, body = TemplateError), (status = 422, description = "The account has no ENTERPRISE role.", body = TemplateError)))]
pub async fn list(State(context): State<Context>, call: Call) -> Result<Json<Vec<Webhook>>, Error> {
    Ok(work::list(&context, &call).await)
}

/// Registers a webhook for events of templates. With `signing` the answer is the only one with its secret in it.
#[utoipa::path(post, path = "/v1/webhooks", tag = "hub template webhooks", operation_id = "hub_template_create",
    params(TenantQuery),
    request_body(content = WebhookSpec, example = json!({"url": "https://app.example.com/hook", "description": "prod",
        "events": ["UPDATE_TEMPLATE_STATUS"], "signing": true, "authType": "BEARER", "token": "t0k"})),
    responses((status = 201, body = Webhook, example = json!({"id": "A1B2C3D4E5F6789012345678901234AB",
            "channelId": null, "instanceId": null,
            "url": "https://app.example.com/hook", "description": "prod", "events": ["UPDATE_TEMPLATE_STATUS"], "status": "ENABLED",
            "signing": true, "secret": "a7f3c81e9d2b4605f1a8c3e7b9d40f6218273645a8b9c0d1e2f3041526374859", "auth": {"type": "BEARER", "configured": true},
            "payloadFormat": "DEFAULT", "customAttributes": {}, "createdAt": "2025-01-15T10:30:00.000+00:00", "updatedAt": "2025-01-15T10:30:00.000+00:00"})),
        (status = 400, description = "A field is missing or wrong.", body = TemplateError, example = json!({"error": "url is required"})),
        (status = 401, body = TemplateError), (status = 403, body = TemplateError), (status = 413, body = TemplateError),
        (status = 422, description = "The account has no ENTERPRISE role, or events are those of channels.", body = TemplateError),
        (status = 503, body = TemplateError)))]
pub async fn create(State(context): State<Context>, call: Call, given: WebhookSpec) -> Result<Response, Error> {
    work::create(&context, &call, given).await
}

#[utoipa::path(get, path = "/v1/webhooks/{webhookId}", tag = "hub template webhooks", operation_id = "hub_template_get",
    params(("webhookId" = String, Path), TenantQuery),
    responses((status = 200, body = Webhook), (status = 400, body = TemplateError), (status = 401, body = TemplateError), (status = 403, body = TemplateError),
        (status = 404, body = TemplateError, example = json!({"error": "Webhook not found"})), (status = 422, body = TemplateError)))]
pub async fn get(State(context): State<Context>, call: Call) -> Result<Json<Webhook>, Error> {
    work::get(&context, &call)
}

/// Changes a webhook: fields that are absent stay as they are, `events` replaces the list. `signing: true` makes a new secret and shows it; the old
/// one stops being valid at once.
#[utoipa::path(patch, path = "/v1/webhooks/{webhookId}", tag = "hub template webhooks", operation_id = "hub_template_patch",
    params(("webhookId" = String, Path), TenantQuery),
    request_body(content = WebhookSpec, example = json!({"status": "DISABLED"})),
    responses((status = 200, body = Webhook),
        (status = 400, body = TemplateError, example = json!({"error": "Validation error: url is longer than 2048 characters"})),
        (status = 401, body = TemplateError), (status = 403, body = TemplateError), (status = 404, body = TemplateError),
        (status = 409, description = "It is declared in the configuration file.", body = TemplateError), (status = 413, body = TemplateError),
        (status = 422, body = TemplateError), (status = 503, body = TemplateError)))]
pub async fn patch(State(context): State<Context>, call: Call, given: WebhookSpec) -> Result<Json<Webhook>, Error> {
    work::patch(&context, &call, given).await
}

/// Deletes a webhook. An endpoint that listens to further types goes on listening to those.
#[utoipa::path(delete, path = "/v1/webhooks/{webhookId}", tag = "hub template webhooks", operation_id = "hub_template_delete",
    params(("webhookId" = String, Path), TenantQuery),
    responses((status = 204), (status = 400, body = TemplateError), (status = 401, body = TemplateError), (status = 403, body = TemplateError),
        (status = 404, body = TemplateError), (status = 409, body = TemplateError), (status = 422, body = TemplateError), (status = 503, body = TemplateError)))]
pub async fn delete(State(context): State<Context>, call: Call) -> Result<StatusCode, Error> {
    work::delete(&context, &call).await
}
