//! Zenvia Customer Cloud: `/v2/subscriptions` (WIRE.md 1.1 and 1.3), a view on the endpoints whose format is `zenvia` or `zenvia_v1`.
//!
//! - A subscription is an endpoint with one event type and at most one channel; what the endpoint has beyond that is shown as closely as the
//!   fields allow, and a PATCH leaves it alone.
//! - What the fields say and the endpoint cannot hold (`direction: ALL`, the case of header names, `ticket`, `expertAgent`) is kept in its attributes.
//! - Status is what a person wants and what health has decided, in one word. Setting ACTIVE wakes an inactive one, from now on.
//! - Secrets are masked on read, and a mask that is sent back stands for the secret that is there.

mod document;
mod error;
mod oauth;
mod subscriptions;
mod view;

pub use error::ErrorBody;

use super::routes::{Routes, routes};

/// All below it answers errors in this product's shape.
pub const PREFIX: &str = "/v2";

pub fn routes() -> Routes {
    routes![subscriptions::list, subscriptions::create, subscriptions::get, subscriptions::patch, subscriptions::delete,]
}

#[cfg(test)]
mod tests;
