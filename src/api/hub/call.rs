//! Who calls, for which tenant and path, and the document that came along: refused in the words of the family that was called.

use axum::{
    extract::{FromRequest, FromRequestParts, RawPathParams, Request},
    http::{Method, StatusCode, header, request::Parts},
};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::IntoParams;

use super::{
    error::{Error, Family},
    webhook::WebhookSpec,
};
use crate::{
    api::{
        Context,
        auth::Caller,
        error::Problem,
        input::{Document, Params, parse},
    },
    model::{Event, Text, token::Role},
};

/// What an account must have booked.
const ACCOUNT_ROLE: &str = "ENTERPRISE";

/// Fields that are shown and cannot be set: a webhook that was read can be sent back as it is.
const READ_ONLY: &[&str] = &["id", "channelId", "instanceId", "createdAt", "updatedAt"];

/// A request whose caller may do what it asks for.
pub struct Call {
    pub family: Family,
    pub tenant: Text,
    /// Of the path, or asked for by `channelId`.
    pub channel: Option<Text>,
    pub id: String,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub struct TenantQuery {
    /// Only for the admin token, which acts for `default` without it.
    #[param(min_length = 1, max_length = 256)]
    tenant: Option<String>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub struct TemplateListQuery {
    /// Only for the admin token, which acts for `default` without it.
    #[param(min_length = 1, max_length = 256)]
    tenant: Option<String>,
    /// Lists the webhooks of this channel instead.
    channel_id: Option<String>,
}

impl FromRequestParts<Context> for Call {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, context: &Context) -> Result<Call, Error> {
        let family = Family::of(parts.uri.path()).expect("the routes of this product are below its paths");
        let refuse = |problem| Error::of(family, problem);
        let has_key = [header::AUTHORIZATION.as_str(), "x-api-token"].iter().any(|name| parts.headers.contains_key(*name));
        if family == Family::Template && !has_key {
            return Err(Error::new(family, StatusCode::BAD_REQUEST, "Authorization header is required"));
        }
        let caller = Caller::from_request_parts(parts, context).await.map_err(refuse)?;
        let mut call = Call { family, tenant: Text::new(), channel: None, id: String::new() };
        let path = RawPathParams::from_request_parts(parts, context)
            .await
            .map_err(|error| refuse(Problem::malformed("path", error.body_text())))?;
        for (name, value) in &path {
            match name {
                "channelId" => call.channel = Some(value.into()),
                _ => call.id = value.to_owned(),
            }
        }
        let is_read = matches!(parts.method, Method::GET | Method::HEAD);
        let named = if family == Family::Template && is_read && call.id.is_empty() {
            let Params(query) = Params::<TemplateListQuery>::from_request_parts(parts, context).await.map_err(refuse)?;
            call.channel = query.channel_id.map(Text::from);
            query.tenant
        } else {
            Params::<TenantQuery>::from_request_parts(parts, context).await.map_err(refuse)?.0.tenant
        };
        call.tenant = caller.scope(named.as_deref()).map_err(refuse)?.unwrap_or_else(|| Event::DEFAULT_TENANT.into());
        if !context.registry.tenant(&call.tenant).account_roles.iter().any(|role| role == ACCOUNT_ROLE) {
            return Err(Error::needs_enterprise(family));
        }
        if !is_read {
            caller.need(Role::Developer).map_err(refuse)?;
        }
        Ok(call)
    }
}

impl FromRequest<Context> for WebhookSpec {
    type Rejection = Error;

    async fn from_request(request: Request, context: &Context) -> Result<WebhookSpec, Error> {
        let family = Family::of(request.uri().path()).expect("the routes of this product are below its paths");
        let is_change = request.method() == Method::PATCH;
        let refuse = |problem: Problem| {
            let error = match problem.errors() {
                [field] if problem.status() == StatusCode::BAD_REQUEST && field.path != "." => Error::wrong(family, problem.errors()),
                _ => Error::of(family, problem),
            };
            if is_change { error.in_change() } else { error }
        };
        let Document(mut fields) = Document::<Map<String, Value>>::from_request(request, context).await.map_err(refuse)?;
        fields.retain(|field, _| !READ_ONLY.contains(&field.as_str()));
        if let Some(Value::Object(auth)) = fields.get_mut("auth") {
            auth.remove("configured");
        }
        parse(Value::Object(fields).to_string().as_bytes()).map_err(refuse)
    }
}
