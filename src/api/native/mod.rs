//! posthaste's own paths: `/v1/…`.

pub mod endpoints;
pub mod events;
pub mod status;

mod agents;
mod attempts;
mod dead_letters;
mod filters;
mod replays;
mod tenants;
mod tokens;
mod view;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::routes::{Routes, routes};

/// A part of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Give it as `cursor` to get what comes next; null: this was the last.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// The page of what was asked for with one more than its `limit`, so that it is known whether there is more.
    fn of(mut items: Vec<T>, limit: usize, id: impl Fn(&T) -> String) -> Page<T> {
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(id) } else { None };
        Page { items, next }
    }

    fn map<U>(self, f: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(f).collect(), next: self.next }
    }
}

/// Which part of a list is asked for.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only the admin token sees more than one.
    #[param(min_length = 1, max_length = 256)]
    tenant: Option<String>,
    /// 1 to 1,000; 100 when absent.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    limit: Option<String>,
    /// `next` of the page before.
    cursor: Option<String>,
}

pub fn routes() -> Routes {
    routes![
        events::post,
        endpoints::list,
        endpoints::create,
        endpoints::get,
        endpoints::patch,
        endpoints::delete,
        status::enable,
        status::disable,
        endpoints::rotate_secret,
        endpoints::test,
        tokens::list,
        tokens::create,
        tokens::get,
        tokens::delete,
        tenants::get,
        tenants::put,
        dead_letters::list,
        dead_letters::get,
        dead_letters::redrive,
        dead_letters::progress,
        replays::list,
        replays::create,
        replays::get,
        replays::delete,
        attempts::list,
        filters::test,
        agents::list,
        agents::create,
        agents::get,
        agents::patch,
        agents::delete,
        agents::history,
    ]
}
