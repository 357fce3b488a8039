//! Hub Message / Omni: webhooks of a channel (`/v1/channels/{channelId}/webhooks`) and of templates (`/v1/webhooks`), WIRE.md 4.1 to 4.4.
//!
//! A webhook is a view on an endpoint (WIRE.md section 0, row 1).
//!
//! - A channel shows every endpoint of the tenant that has one of the Hub's formats and this channel among its channels; the template routes those
//!   without channels that hear of template events. Whoever made it: this API, the native one, or the configuration file.
//! - A change touches what it names. Further channels, types of others, filters, limits and headers stay as they are; what cannot be said in this
//!   API without destroying them is refused. Taking a webhook out of one of several channels leaves the others.
//! - Every call needs the account role ENTERPRISE of its tenant, before anything else is looked at but who calls.
//! - The two families have error bodies of their own ([`error`]), also for what is refused before a handler is reached (`shape`).
//!
//! `translate` knows how the two documents go into each other, `events` the names of events; `work` does what the routes of both families share.

mod call;
mod channel;
mod error;
mod events;
mod template;
mod translate;
mod webhook;
mod work;

use axum::http::StatusCode;
use serde_json::Value;

use self::error::{Error, Family};
use super::{
    error::Problem,
    routes::{Routes, routes},
};

pub fn routes() -> Routes {
    routes![
        channel::list,
        channel::create,
        channel::get,
        channel::patch,
        channel::delete,
        template::list,
        template::create,
        template::get,
        template::patch,
        template::delete,
    ]
}

/// An error at a path of this product: its status and body there. None: the path is another's.
pub fn shaped(path: &str, problem: &Problem) -> Option<(StatusCode, Value)> {
    let error = Error::of(Family::of(path)?, problem);
    Some((error.status(), error.body()))
}
