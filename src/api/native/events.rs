//! `/v1/events`: events in, answered after they are durable.

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    api::{
        Context,
        auth::Caller,
        error::Problem,
        input::{Params, read_body},
    },
    log::LogError,
    model::{Event, FieldError, token::Role},
    sources::ingest::{Rejection, Scope, id_of},
};

/// An event that is stored.
#[derive(Debug, Serialize, ToSchema)]
pub struct Accepted {
    /// Its own id, or the one that it got: `topic:partition:offset`.
    pub id: String,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Answer {
    /// In the order in which they came.
    accepted: Vec<Accepted>,
}

/// An event as producers write it.
#[derive(Serialize, Deserialize, ToSchema)]
struct EventDocument {
    /// Stable over attempts; receivers de-duplicate on it. Made from the position when absent.
    #[schema(min_length = 1, max_length = 256)]
    id: Option<String>,
    #[schema(example = "lead.created", min_length = 1, max_length = 256)]
    r#type: String,
    #[schema(example = "whatsapp", min_length = 1, max_length = 256)]
    channel: String,
    /// `IN`, `OUT` or `INTERNAL`.
    direction: Option<String>,
    #[schema(value_type = Option<String>, format = DateTime)]
    time: Option<String>,
    #[schema(min_length = 1, max_length = 256)]
    tenant: Option<String>,
    #[schema(min_length = 1, max_length = 1024)]
    subject: Option<String>,
    /// `high`, `normal` or `low`: the order within the queue of an endpoint.
    priority: Option<String>,
    data: serde_json::Value,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct Query {
    /// Of events that name none.
    #[param(min_length = 1, max_length = 256)]
    tenant: Option<String>,
}

/// Takes one event, an array of them, or newline-delimited JSON. All are checked before one is stored. Members with names that are not known are
/// ignored, as in records of the log.
#[utoipa::path(post, path = "/v1/events", tag = "events", params(Query), 
    request_body(content = EventDocument, description = "One event, or several: as an array, or one after the other (newline-delimited JSON). \
            CloudEvents 1.0 are taken as well.",
        example = json!({"type": "lead.created", "channel": "whatsapp", "data": {"name": "Ana"}})),
    responses((status = 202, description = "All are durable.", body = Answer),
        (status = 400, description = "Nothing was stored: fields are wrong, of which the first 20 are named, or the body is no JSON.", body = Problem),
        (status = 413, description = "Larger than `ingest.body` or `ingest.event` allow.", body = Problem),
        (status = 429, description = "The tenant's rate is used up.", body = Problem),
        (status = 503, description = "Only those in `accepted` were stored.", body = Problem)))]
pub async fn post(
    State(context): State<Context>,
    caller: Caller,
    Params(query): Params<Query>,
    request: Request,
) -> Result<(StatusCode, Json<Answer>), Problem> {
    caller.need(Role::Developer)?;
    let named = caller.scope(query.tenant.as_deref())?;
    let scope = Scope { tenant: named.unwrap_or_else(|| Event::DEFAULT_TENANT.into()), only: matches!(caller, Caller::Token(_)) };
    let body = read_body(request, context.ingest.body_limit(), " (`ingest.body`)", &context.bodies).await?;
    let events = context.ingest.parse(&body.bytes, &scope).map_err(|rejection| match rejection {
        Rejection::Wrong(errors) => Problem::unreadable(errors),
        Rejection::TooLarge(FieldError { path, message }) => Problem::too_large(path, message),
        Rejection::Forbidden(errors) => Problem::forbidden(FieldError::joined(&errors)).with_errors(errors),
    })?;
    if let Caller::Token(token) = &caller {
        context.rates.take(&context.registry.tenant(&token.tenant), events.len()).map_err(|wait| {
            context.metrics.ingest_events_total.with("refused").increment(events.len() as u64);
            Problem::too_many(
                format!("the rate of the tenant `{}` is used up", token.tenant),
                u32::try_from(wait.as_secs() + 1).unwrap_or(u32::MAX),
            )
        })?;
    }
    let results = context.ingest.append(events.clone()).await;
    let (mut accepted, mut errors, mut all_too_large) = (Vec::with_capacity(results.len()), Vec::new(), true);
    for (index, (event, result)) in events.iter().zip(results).enumerate() {
        match result {
            Ok(position) => accepted.push(Accepted {
                id: id_of(event, &position).to_string(),
                topic: position.topic.to_string(),
                partition: position.partition,
                offset: position.offset,
            }),
            Err(error) => {
                all_too_large &= matches!(error, LogError::TooLarge { .. });
                errors.push(FieldError::new(format!("[{index}]"), error.to_string()));
            }
        }
    }
    let Some(first) = errors.first() else { return Ok((StatusCode::ACCEPTED, Json(Answer { accepted }))) };
    let detail = format!("{} of {} events could not be stored: {}", errors.len(), events.len(), first.message);
    let problem =
        if all_too_large { Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail) } else { Problem::unavailable(detail) };
    Err(problem.with_errors(errors).with_accepted(accepted))
}
