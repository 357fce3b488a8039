//! `/v1/tokens`: who may call this API (WIRE.md 0.5, 0.6).

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{ListQuery, Page};
use crate::{
    api::{
        Context,
        auth::{Caller, name, new_key, new_signing_secret},
        error::Problem,
        input::{Document, Id, Params, limit},
    },
    model::{
        Event, FieldError, Secret, Text, Timestamp,
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
    /// `standard` (the default), or `signature`: every request has to be signed as well.
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
    /// When a request was made with it last; null: never. What other instances have seen is up to an hour old.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_used_at: Option<Timestamp>,
    /// What requests have to carry. Only in the answer to its creation: it is not shown again.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<SecretText>,
    /// What requests with a signature token are signed with. Only in the answer to its creation: it is not shown again.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<SecretText>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct CreateQuery {
    /// `json` (the default) or `csv`.
    format: Option<String>,
}

impl TokenView {
    fn of(context: &Context, token: &Token) -> TokenView {
        TokenView {
            id: token.id.to_string(),
            name: token.name.clone(),
            kind: token.kind.as_str(),
            role: name(token.role),
            tenant: token.tenant.to_string(),
            created_at: token.created_at,
            last_used_at: context.registry.last_used(&token.id),
            key: None,
            secret: None,
        }
    }

    /// A line of names and a line of values (RFC 4180).
    fn csv(&self) -> String {
        let text = |secret: &Option<SecretText>| secret.as_ref().map(|secret| secret.0.clone()).unwrap_or_default();
        let values = [
            self.id.clone(),
            self.name.clone(),
            self.kind.to_owned(),
            self.role.to_owned(),
            self.tenant.clone(),
            self.created_at.to_string(),
            text(&self.key),
            text(&self.secret),
        ];
        format!("id,name,kind,role,tenant,createdAt,key,secret\r\n{}\r\n", values.map(|value| cell(&value)).join(","))
    }
}

fn cell(value: &str) -> String {
    if value.contains(['"', ',', '\r', '\n']) { format!("\"{}\"", value.replace('"', "\"\"")) } else { value.to_owned() }
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
    Ok(Json(Page::of(tokens, limit, |token| token.id.to_string()).map(|token| TokenView::of(&context, &token))))
}

/// Makes a token. The answer is the only one with its key, and the secret of a signature token, in it.
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", params(CreateQuery),
    request_body(content = NewToken, example = json!({ "name": "ci", "kind": "signature", "role": "developer" })),
    responses((status = 201, description = "With `format=csv` a line of names and one of values.",
            content((TokenView = "application/json"), (String = "text/csv"))),
        (status = 400, body = Problem), (status = 403, body = Problem), (status = 422, body = Problem)))]
pub async fn create(
    State(context): State<Context>,
    caller: Caller,
    Params(query): Params<CreateQuery>,
    Document(new): Document<NewToken>,
) -> Result<Response, Problem> {
    caller.need(Role::Admin)?;
    let as_csv = match query.format.as_deref() {
        None | Some("json") => false,
        Some("csv") => true,
        Some(other) => return Err(Problem::malformed("format", format!("is `{other}`: write `json` or `csv`"))),
    };
    let tenant = caller.scope(new.tenant.as_deref())?.unwrap_or_else(|| Event::DEFAULT_TENANT.into());
    let mut errors = Vec::new();
    if new.name.is_empty() || new.name.len() > MAX_NAME || new.name.chars().any(char::is_control) {
        errors.push(FieldError::new("name", format!("is required: 1 to {MAX_NAME} bytes without control characters")));
    }
    if tenant.is_empty() || tenant.len() > MAX_NAME || tenant.chars().any(char::is_control) {
        errors.push(FieldError::new("tenant", format!("is no name of a tenant: 1 to {MAX_NAME} bytes without control characters")));
    }
    let kind = new
        .kind
        .as_deref()
        .map_or(Some(TokenKind::default()), |text| TokenKind::ALL.iter().find(|(name, _)| *name == text).map(|(_, kind)| *kind));
    if kind.is_none() {
        errors.push(FieldError::new("kind", "is none of `standard`, `signature`"));
    }
    let roles = [Role::Viewer, Role::Developer, Role::Admin];
    let role = new.role.as_deref().map_or(Some(Role::default()), |text| roles.into_iter().find(|role| name(*role) == text));
    let (Some(role), Some(kind), true) = (role, kind, errors.is_empty()) else {
        if role.is_none() {
            errors.push(FieldError::new("role", "is none of `viewer`, `developer`, `admin`"));
        }
        return Err(Problem::invalid(errors));
    };
    let key = new_key();
    let secret = (kind == TokenKind::Signature).then(new_signing_secret);
    let token = Token {
        id: Text::from(format!("tok_{}", uuid::Uuid::now_v7().simple())),
        tenant,
        name: new.name,
        kind,
        role,
        key_sha256: hash_of_key(&key),
        created_at: context.clock.now(),
        secret: secret.as_ref().map(|secret| Secret::new(secret.as_bytes())),
    };
    context.registry.create_token(token.clone()).await?;
    tracing::info!(token = %token.id, tenant = %token.tenant, role = name(token.role), "token created");
    let shown = |text: &zeroize::Zeroizing<String>| SecretText(text.to_string());
    let view = TokenView { key: Some(shown(&key)), secret: secret.as_ref().map(shown), ..TokenView::of(&context, &token) };
    if as_csv {
        let headers =
            [(header::CONTENT_TYPE, "text/csv; charset=utf-8"), (header::CONTENT_DISPOSITION, "attachment; filename=\"token.csv\"")];
        return Ok((StatusCode::CREATED, headers, view.csv()).into_response());
    }
    Ok((StatusCode::CREATED, Json(view)).into_response())
}

#[utoipa::path(get, path = "/v1/tokens/{id}", tag = "tokens", params(("id" = String, Path)),
    responses((status = 200, body = TokenView), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub async fn get(State(context): State<Context>, caller: Caller, Id(id): Id) -> Result<Json<TokenView>, Problem> {
    caller.need(Role::Admin)?;
    let token = visible(&context, &caller, &id)?;
    Ok(Json(TokenView::of(&context, &token)))
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
