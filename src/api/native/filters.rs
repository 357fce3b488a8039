//! `/v1/filters/test`: tries an expression before it is saved.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::{
    api::{Context, auth::Caller, error::Problem, input::Document},
    log::record::event_from_json,
    model::{Event, Text},
    routing::filter::{Data, Filter, Undecided},
};

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(example = json!({"filter": "event.data.total > 100", "event": {"type": "order.created", "channel": "shop", "data": {"total": 120}}}))]
pub struct FilterTrial {
    /// A CEL expression over `event`.
    filter: String,
    /// An event as producers write it; what is left out of id, type, channel, time, tenant and data is made up.
    event: Map<String, Value>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct FilterVerdict {
    /// Whether an endpoint with this filter would get this event.
    matches: bool,
    /// `matched`; `unmatched`; `failed` (it asks for what is not there: no match); `undecided` (too many steps, or data that is too large to be
    /// read: the delivery becomes a dead letter).
    result: &'static str,
    /// Why it failed or is undecided.
    detail: Option<String>,
}

/// Evaluates a filter (or the condition of an agent) for one event. Nothing is stored.
#[utoipa::path(post, path = "/v1/filters/test", tag = "endpoints", request_body = FilterTrial,
    responses((status = 200, body = FilterVerdict), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 422, description = "The filter is wrong, with the position; or the event is none.", body = Problem)))]
pub async fn test(
    State(context): State<Context>,
    caller: Caller,
    Document(trial): Document<FilterTrial>,
) -> Result<Json<FilterVerdict>, Problem> {
    let tenant = caller.scope(None)?.unwrap_or_else(|| Event::DEFAULT_TENANT.into());
    let filter = Filter::compile(&trial.filter).map_err(|wrong| Problem::invalid(vec![wrong.of_field("filter")]))?;
    let mut document = trial.event;
    for (field, value) in [("type", json!("test")), ("channel", json!("test")), ("data", json!({}))] {
        document.entry(field).or_insert(value);
    }
    let text = Text::from(Value::Object(document).to_string());
    let event = event_from_json(&text, context.clock.now(), &tenant)
        .map_err(|errors| Problem::invalid(errors.into_iter().map(|error| error.within("event")).collect()))?;
    let (matches, result, detail) = match filter.matches(&event, &Data::of(&event)) {
        Ok(true) => (true, "matched", None),
        Ok(false) => (false, "unmatched", None),
        Err(failed @ Undecided::Failed(_)) => (false, "failed", Some(failed.to_string())),
        Err(cannot @ (Undecided::TooSlow | Undecided::Unread(_))) => (false, "undecided", Some(cannot.to_string())),
    };
    Ok(Json(FilterVerdict { matches, result, detail }))
}
