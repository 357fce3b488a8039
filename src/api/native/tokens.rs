//! `/v1/tokens`: who may call this API.

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ListQuery, Page};
use crate::{
    api::{
        Context,
        auth::{Caller, name, new_key},
        error::Problem,
        input::{Document, Id, Params, limit},
    },
    model::{
        Event, FieldError, Text, Timestamp,
        token::{Role, Token, TokenKind},
    },
    registry::{hash_of_key, spec::SecretText},
};

const MAX_NAME: usize = 256;

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NewToken {
    /// What it is for, in words.
    #[schema(required = true, min_length = 1, max_length = 256)]
    name: String,
    /// `standard`, which is also the default.
    kind: Option<String>,
    /// `viewer` (reads; the default), `developer` (also changes endpoints and sends events) or `admin` (also manages tokens).
    role: Option<String>,
    /// That of the calling token when absent; `default` for the admin token.
    #[schema(min_length = 1, max_length = 256)]
    tenant: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenView {
    id: String,
    name: String,
    kind: &'static str,
    role: &'static str,
    tenant: String,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// What requests have to carry. Only in the answer to its creation: it is not shown again.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<SecretText>,
}

impl TokenView {
    fn of(token: &Token) -> TokenView {
        TokenView {
            id: token.id.to_string(),
            name: token.name.clone(),
            kind: match token.kind {
                TokenKind::Standard => "standard",
            },
            role: name(token.role),
            tenant: token.tenant.to_string(),
            created_at: token.created_at,
            key: None,
        }
    }
}

#[utoipa::path(get, path = "/v1/tokens", tag = "tokens", params(ListQuery), responses((status = 200, body = Page<TokenView>), (status = 403, body = Problem)))]
pub async fn list(
    State(context): State<Context>,
    caller: Caller,
    Params(query): Params<ListQuery>,
) -> Result<Json<Page<TokenView>>, Problem> {
    caller.need(Role::Admin)?;
    let tenant = caller.scope(query.tenant.as_deref())?;
    let limit = limit(query.limit.as_deref())?;
    let tokens = context.registry.tokens(tenant.as_deref(), query.cursor.as_deref(), limit + 1);
    Ok(Json(Page::of(tokens, limit, |token| token.id.to_string()).map(|token| TokenView::of(&token))))
}

/// Makes a token. The answer is the only one with its key in it.
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", request_body(content = NewToken, example = json!({"name": "shop", "role": "developer"})),
    responses((status = 201, body = TokenView), (status = 403, body = Problem), (status = 422, body = Problem)))]
pub async fn create(
    State(context): State<Context>,
    caller: Caller,
    Document(new): Document<NewToken>,
) -> Result<(StatusCode, Json<TokenView>), Problem> {
    caller.need(Role::Admin)?;
    let tenant = caller.scope(new.tenant.as_deref())?.unwrap_or_else(|| Event::DEFAULT_TENANT.into());
    let mut errors = Vec::new();
    if new.name.is_empty() || new.name.len() > MAX_NAME || new.name.chars().any(char::is_control) {
        errors.push(FieldError::new("name", format!("is required: 1 to {MAX_NAME} bytes without control characters")));
    }
    if tenant.is_empty() || tenant.len() > MAX_NAME || tenant.chars().any(char::is_control) {
        errors.push(FieldError::new("tenant", format!("is no name of a tenant: 1 to {MAX_NAME} bytes without control characters")));
    }
    if let Some(kind) = new.kind.as_deref().filter(|kind| *kind != "standard") {
        errors.push(FieldError::new("kind", format!("`{kind}` is not `standard`")));
    }
    let roles = [Role::Viewer, Role::Developer, Role::Admin];
    let role = new.role.as_deref().map_or(Some(Role::default()), |text| roles.into_iter().find(|role| name(*role) == text));
    let Some(role) = role.filter(|_| errors.is_empty()) else {
        if role.is_none() {
            errors.push(FieldError::new("role", "is none of `viewer`, `developer`, `admin`"));
        }
        return Err(Problem::invalid(errors));
    };
    let key = new_key();
    let token = Token {
        id: Text::from(format!("tok_{}", uuid::Uuid::now_v7().simple())),
        tenant,
        name: new.name,
        kind: TokenKind::Standard,
        role,
        key_sha256: hash_of_key(&key),
        created_at: context.clock.now(),
    };
    context.registry.create_token(token.clone()).await?;
    tracing::info!(token = %token.id, tenant = %token.tenant, role = name(token.role), "token created");
    Ok((StatusCode::CREATED, Json(TokenView { key: Some(SecretText(key.to_string())), ..TokenView::of(&token) })))
}

#[utoipa::path(get, path = "/v1/tokens/{id}", tag = "tokens", params(("id" = String, Path)),
    responses((status = 200, body = TokenView), (status = 404, body = Problem)))]
pub async fn get(State(context): State<Context>, caller: Caller, Id(id): Id) -> Result<Json<TokenView>, Problem> {
    caller.need(Role::Admin)?;
    let token = visible(&context, &caller, &id)?;
    Ok(Json(TokenView::of(&token)))
}

/// Revokes a token: refused from now on.
#[utoipa::path(delete, path = "/v1/tokens/{id}", tag = "tokens", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem)))]
pub async fn delete(State(context): State<Context>, caller: Caller, Id(id): Id) -> Result<StatusCode, Problem> {
    caller.need(Role::Admin)?;
    visible(&context, &caller, &id)?;
    context.registry.delete_token(&id).await?;
    tracing::info!(token = %id, "token revoked");
    Ok(StatusCode::NO_CONTENT)
}

fn visible(context: &Context, caller: &Caller, id: &str) -> Result<std::sync::Arc<Token>, Problem> {
    context.registry.token(id).filter(|token| caller.sees(&token.tenant)).ok_or_else(|| Problem::not_found("token", id))
}
