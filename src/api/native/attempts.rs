//! `/v1/attempts`: the latest requests, as this instance remembers them.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Page, dead_letters::ListQuery};
use crate::{
    api::{
        Context,
        auth::Caller,
        error::Problem,
        input::{Params, limit, time},
    },
    model::{Purpose, Text, Timestamp},
    settle::journal::{Entry, Filter},
};

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptView {
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    endpoint: String,
    tenant: String,
    /// Id of the event.
    event: String,
    #[serde(rename = "type")]
    kind: String,
    channel: String,
    /// 1 for the first attempt of the delivery.
    attempt: u32,
    /// `delivered`, or the class of the failure.
    outcome: String,
    /// Of the answer, if there was one.
    status: Option<u16>,
    elapsed_ms: f64,
    /// `event`, `test`, `replay`, `redrive` or `agent`.
    #[schema(value_type = String)]
    purpose: Purpose,
    detail: Option<String>,
}

impl AttemptView {
    fn of(entry: Entry) -> AttemptView {
        AttemptView {
            at: entry.at,
            endpoint: entry.endpoint.to_string(),
            tenant: entry.tenant.to_string(),
            event: entry.event.to_string(),
            kind: entry.kind.to_string(),
            channel: entry.channel.to_string(),
            attempt: entry.attempt,
            outcome: entry.outcome.to_string(),
            status: entry.status,
            elapsed_ms: entry.elapsed_ms,
            purpose: entry.purpose,
            detail: entry.detail,
        }
    }
}

/// The latest attempts, newest first. `cursor` is a time: what was attempted before it is listed.
#[utoipa::path(get, path = "/v1/attempts", tag = "attempts", params(ListQuery),
    responses((status = 200, body = Page<AttemptView>), (status = 400, body = Problem)))]
pub async fn list(
    State(context): State<Context>,
    caller: Caller,
    Params(query): Params<ListQuery>,
) -> Result<Json<Page<AttemptView>>, Problem> {
    if query.reason.is_some() {
        return Err(Problem::malformed("reason", "is a field of dead letters"));
    }
    let text = |field: &Option<String>| field.as_deref().map(Text::from);
    let until = time("until", query.until.as_deref())?;
    let before = time("cursor", query.cursor.as_deref())?;
    let filter = Filter {
        tenant: caller.scope(query.tenant.as_deref())?,
        endpoint: text(&query.endpoint),
        channel: text(&query.channel),
        kind: text(&query.kind),
        since: time("since", query.since.as_deref())?,
        until: until.into_iter().chain(before).min(),
    };
    let limit = limit(query.limit.as_deref())?;
    let page = Page::of(context.journal.recent(&filter, limit + 1), limit, |entry| entry.at.to_string());
    Ok(Json(page.map(AttemptView::of)))
}
