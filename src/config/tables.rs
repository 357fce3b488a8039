//! The arrays of tables: `[[endpoint]]` and `[[tenant]]`.

use std::collections::HashSet;

use serde::Deserialize;

use super::document::Document;
use crate::{
    api::check_endpoint,
    delivery::address::Policy,
    model::{Endpoint, Rate, Timestamp},
    registry::{Tenant, spec::EndpointSpec},
};

pub const ENDPOINT: &str = "endpoint";
pub const TENANT: &str = "tenant";

/// Reads and checks all declared endpoints; those with a problem are left out, and the problem is reported.
pub fn endpoints(document: &mut Document, policy: &Policy) -> Vec<Endpoint> {
    let now = Timestamp::now();
    let mut ids = HashSet::new();
    let mut endpoints = Vec::new();
    for element in document.elements::<EndpointSpec>(ENDPOINT) {
        if element.value.id.as_ref().is_some_and(|id| !ids.insert(id.clone())) {
            document.report_element(&element, "id", "this id is there twice: each endpoint needs one of its own".to_owned());
        }
        match check_endpoint(element.value.clone(), policy, now) {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(errors) => errors.into_iter().for_each(|error| document.report_element(&element, &error.path, error.message)),
        }
    }
    endpoints
}

/// `[[tenant]]` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TenantTable {
    #[serde(default)]
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
            document.report_element(&element, "id", "is required: it is what events and endpoints name as their tenant".to_owned());
        }
        if !table.id.is_empty() && !ids.insert(table.id.clone()) {
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
