//! `/v1/tenants`: what customers have booked. One that nobody declared exists without roles.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    api::{
        Context,
        auth::Caller,
        error::Problem,
        input::{Document, Id},
    },
    model::{FieldError, Rate},
    registry::Tenant,
};

const MAX_ROLES: usize = 32;
const MAX_NAME: usize = 256;
const MAX_WEIGHT: u32 = 1_000;

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NewTenant {
    /// Such as `ENTERPRISE`.
    #[schema(max_items = 32)]
    account_roles: Vec<String>,
    /// Its share of the turns beside other tenants, 1 to 1,000; 1 when absent.
    #[schema(minimum = 1, maximum = 1000)]
    weight: Option<u32>,
    /// Events that its tokens may hand in over HTTP on each instance, such as `500/s`; absent: unlimited.
    rate: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantView {
    id: String,
    account_roles: Vec<String>,
    weight: u32,
    rate: Option<String>,
    /// From the configuration file, and to be changed there.
    declared: bool,
}

impl TenantView {
    fn of(tenant: &Tenant) -> TenantView {
        TenantView {
            id: tenant.id.to_string(),
            account_roles: tenant.account_roles.clone(),
            weight: tenant.weight,
            rate: tenant.rate.map(|rate| rate.to_string()),
            declared: tenant.declared,
        }
    }
}

#[utoipa::path(get, path = "/v1/tenants/{id}", tag = "tenants", params(("id" = String, Path)),
    responses((status = 200, body = TenantView), (status = 404, body = Problem)))]
pub async fn get(State(context): State<Context>, caller: Caller, Id(id): Id) -> Result<Json<TenantView>, Problem> {
    if !caller.sees(&id) {
        return Err(Problem::not_found("tenant", &id));
    }
    Ok(Json(TenantView::of(&context.registry.tenant(&id))))
}

/// Sets what a tenant has booked; needs the admin token.
#[utoipa::path(put, path = "/v1/tenants/{id}", tag = "tenants", params(("id" = String, Path)), request_body(content = Option<NewTenant>, example = json!({"accountRoles": ["ENTERPRISE"], "weight": 2, "rate": "500/s"})),
    responses((status = 200, body = TenantView), (status = 403, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn put(
    State(context): State<Context>,
    caller: Caller,
    Id(id): Id,
    Document(new): Document<NewTenant>,
) -> Result<Json<TenantView>, Problem> {
    caller.need_admin_token()?;
    let mut errors = Vec::new();
    let is_name = |text: &str| !text.is_empty() && text.len() <= MAX_NAME && !text.chars().any(char::is_control);
    if !is_name(&id) {
        errors.push(FieldError::new("id", format!("is no name of a tenant: 1 to {MAX_NAME} bytes without control characters")));
    }
    if new.account_roles.len() > MAX_ROLES || !new.account_roles.iter().all(|role| is_name(role)) {
        errors.push(FieldError::new("accountRoles", format!("must be at most {MAX_ROLES} names")));
    }
    let weight = new.weight.unwrap_or(1);
    if !(1..=MAX_WEIGHT).contains(&weight) {
        errors.push(FieldError::new("weight", format!("is {weight}: write 1 to {MAX_WEIGHT}")));
    }
    let rate = new.rate.as_deref().map(str::parse::<Rate>).transpose().unwrap_or_else(|wrong| {
        errors.push(FieldError::new("rate", wrong));
        None
    });
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let tenant = Tenant { id: id.into(), account_roles: new.account_roles, weight, rate, declared: false };
    context.registry.put_tenant(tenant.clone()).await?;
    Ok(Json(TenantView::of(&tenant)))
}
