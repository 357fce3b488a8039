//! The arrays of tables: `[[endpoint]]` and `[[tenant]]`.

use std::collections::HashSet;

use serde::Deserialize;

use super::document::Document;
use crate::{
    delivery::address::Policy,
    model::{Endpoint, Rate, Timestamp},
    registry::{Tenant, spec::EndpointSpec},
    routing::filter::Filter,
};

pub const ENDPOINT: &str = "endpoint";
pub const TENANT: &str = "tenant";

/// Reads and checks all declared endpoints; those with a problem are left out, and the problem is reported.
pub fn endpoints(document: &mut Document, policy: &Policy) -> Vec<Endpoint> {
    let now = Timestamp::now();
    let mut ids = HashSet::new();
    let mut endpoints = Vec::new();
    for element in document.elements::<EndpointSpec>(ENDPOINT) {
        match element.value.clone().check(now) {
            Ok(endpoint) if !ids.insert(endpoint.id.clone()) => {
                document.report_element(&element, "id", "this id is there twice: each endpoint needs one of its own".to_owned());
            }
            Ok(endpoint) => {
                let token_url = element.value.auth.as_ref().and_then(|auth| auth.url.as_deref());
                let mut refused = policy.check_urls(&element.value.url, token_url);
                let filter = endpoint.filter.as_deref().and_then(|filter| Filter::compile(filter).err());
                refused.extend(filter.map(|wrong| wrong.of_field("filter")));
                if refused.is_empty() {
                    endpoints.push(endpoint);
                }
                refused.into_iter().for_each(|refused| document.report_element(&element, &refused.path, refused.message));
            }
            Err(errors) => {
                for error in errors {
                    document.report_element(&element, &error.path, error.message);
                }
            }
        }
    }
    endpoints
}

/// `[[tenant]]` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TenantTable {
    id: String,
    #[serde(default)]
    account_roles: Vec<String>,
    #[serde(default = "one")]
    weight: u32,
    rate: Option<Rate>,
}

fn one() -> u32 {
    1
}

pub fn tenants(document: &mut Document) -> Vec<Tenant> {
    const HEAVIEST: u32 = 1_000;
    let mut ids = HashSet::new();
    let mut tenants = Vec::new();
    for element in document.elements::<TenantTable>(TENANT) {
        let table = &element.value;
        if table.id.is_empty() {
            document.report_element(&element, "id", "is empty: it is the tenant that events and endpoints name".to_owned());
        }
        if !ids.insert(table.id.clone()) {
            document.report_element(&element, "id", "this tenant is there twice".to_owned());
        }
        if !(1..=HEAVIEST).contains(&table.weight) {
            document.report_element(&element, "weight", format!("is {}: it must be 1 to {HEAVIEST}", table.weight));
        }
        tenants.push(Tenant {
            id: table.id.as_str().into(),
            account_roles: table.account_roles.clone(),
            weight: table.weight,
            rate: table.rate,
            declared: true,
        });
    }
    tenants
}
