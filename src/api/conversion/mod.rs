//! Zenvia Conversion: subscriptions to topics (WIRE.md 2), a view on the endpoints whose format is `conversion`.
//!
//! Two public descriptions exist. Shape A ([`subscriptions`]) is that of the product's article: one topic for each subscription. Shape B
//! ([`notifications`]) is that of the older Notifications API: a list of topics under other names, a key in the query, and one active subscription for
//! each tenant. Both see all endpoints of the format, each as closely as its fields allow; there is nothing to change but by deleting.

mod error;
mod notifications;
mod subscriptions;
mod topics;

use serde_json::{Map, Value};

pub use error::ErrorBody;

use super::{
    Shared,
    auth::Caller,
    error::Problem,
    fields::Reader,
    native::endpoints::{self, checked},
    routes::{Routes, routes},
};
use crate::{
    model::{Endpoint, Format, Text},
    registry::{Entry, spec::EndpointSpec},
};

/// All below them answers errors in this product's shape.
pub const PREFIXES: &[&str] = &["/v1/subscriptions", NOTIFICATIONS];

const NOTIFICATIONS: &str = "/v1/notifications";

/// Whether the key may stand in the query of this path (`api-key`).
pub fn takes_key_in_query(path: &str) -> bool {
    path.strip_prefix(NOTIFICATIONS).is_some_and(|rest| rest.starts_with('/'))
}

pub fn routes() -> Routes {
    routes![
        subscriptions::list,
        subscriptions::create,
        subscriptions::get,
        subscriptions::delete,
        notifications::topics,
        notifications::list,
        notifications::create,
        notifications::delete_all,
        notifications::get,
        notifications::delete,
    ]
}

fn is_shown(entry: &Entry) -> bool {
    entry.endpoint.format == Format::Conversion
}

fn visible(shared: &Shared, caller: &Caller, id: &str) -> Result<Entry, Problem> {
    let entry = endpoints::visible(shared, caller, id).ok().filter(is_shown);
    entry.ok_or_else(|| Problem::not_found("subscription", id))
}

/// The endpoint of a new subscription; `read` holds what is wrong with its topics.
fn endpoint(
    shared: &Shared,
    tenant: Option<Text>,
    mut read: Reader,
    body: &Map<String, Value>,
    types: Vec<String>,
    attributes: Option<Map<String, Value>>,
) -> Result<Endpoint, Problem> {
    let url = read.required_text("callbackUrl", body.get("callbackUrl")).unwrap_or_default().to_owned();
    if !read.errors.is_empty() {
        return Err(Problem::invalid(read.errors));
    }
    let spec = EndpointSpec {
        id: Some(uuid::Uuid::now_v7().simple().to_string()),
        url,
        tenant: tenant.map(|tenant| tenant.to_string()),
        types,
        format: Some("conversion".into()),
        // WIRE.md 2.2: deliveries are unsigned.
        signing: Some("none".into()),
        attributes: attributes.map(Into::into),
        ..EndpointSpec::default()
    };
    let renamed = |field: &str| match field {
        "url" => "callbackUrl".to_owned(),
        field => field.to_owned(),
    };
    checked(spec, shared).map_err(|problem| problem.renamed(renamed))
}

#[cfg(test)]
mod tests;
